"""Events in, scores out: everyone who is asked gives the same, and it is what a batch says."""

import http.client
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from redis import Redis

from tests.support.pipeline import (
    Facts,
    Pipeline,
    check_state,
    invoke,
    make_pipeline,
    metric,
    wait_until,
    without_ranks,
)
from tests.support.traffic import traffic
from valuetide.schemas.topics import INPUTS
from valuetide.schemas.vocabulary import Vocabulary
from valuetide.streams.local import LocalWorker
from valuetide.streams.store.redis import customer_key

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ODD_IDS = ("a b", "ü/ß", "50%", "{1}", "[x]*?", "q?a=b#c", "\\", '"', "😀" * 128, "a\nb", "..")


def examples() -> list[Facts]:
    return [
        (role, json.loads(file.read_text("utf-8")))
        for role in INPUTS
        for file in sorted((EXAMPLES / role).glob("*.json"))
    ]


def order(customer: str, number: int, **fields: object) -> Facts:
    event = {
        "event_id": f"{customer[:100]}-{number}",
        "customer_id": customer,
        "occurred_at": 1_700_000_000 + number,
        "order_id": f"o{number}",
        "kind": "placed",
        "amount": 10.01,
        "currency": "EUR",
    }
    return "orders", event | fields


def ask(worker: LocalWorker, path: str) -> object:
    status, body = worker.get(path)
    assert status == http.HTTPStatus.OK, body
    return json.loads(body)


def test_everyone_who_is_asked_agrees_with_the_batch_recomputation(
    broker: str, redis_url: str, fresh_prefix: str
) -> None:
    """Redis, the newest message on `scores`, HTTP and the command line give one and the same."""
    words = Vocabulary.model_validate({"exchange_rates": {"USD": "0.9137"}})
    pipeline = make_pipeline(broker, redis_url, fresh_prefix, vocabulary=words)
    events = examples() + traffic(1, 300)
    pipeline.send(events)
    with pipeline.worker() as worker:
        pipeline.finish(worker)
        state = check_state(pipeline, events)
        assert without_ranks(pipeline.newest_scores()) == without_ranks(state)
        for customer, score in state.items():
            assert ask(worker, f"/customers/{quote(customer, safe='')}") == score
        for customer in ("C-10482", "c-7"):
            shown = invoke(pipeline.environment, "customer", customer, "--json")
            assert (shown.returncode, shown.stderr) == (0, "")
            assert json.loads(shown.stdout) == state[customer]

        counts = pipeline.overview().events
        for role in INPUTS:
            topic = getattr(pipeline.settings.topics, role)
            sent = sum(role == name for name, _ in events)
            others = {"duplicate": 0, "dead_letter": 0, "rerouted": 0}
            assert counts[role] == others | {"folded": sent}
            folded = metric(worker, "valuetide_events_total", topic=topic, outcome="folded")
            assert folded == sent
        assert metric(worker, "valuetide_event_delay_seconds_count") == len(events)
        assert metric(worker, "valuetide_customers_in_memory") == len(state)
        assert metric(worker, "valuetide_shards") == pipeline.settings.partitions
        assert metric(worker, "valuetide_commits_total", outcome="committed") > 0
        assert metric(worker, "valuetide_commits_total", outcome="refused") == 0

        committed = pipeline.overview().positions
        assert {place: at for place, at in committed.items() if at} == dict(pipeline.sent)
        # Faust writes the group's offsets every two seconds.
        wait_until(
            lambda: pipeline.group_offsets().items() >= dict(pipeline.sent).items(),
            "the group's offsets are the committed positions",
            10,
        )
    assert pipeline.group_offsets().items() >= dict(pipeline.sent).items()
    assert not pipeline.dead_letters()


def test_a_worker_that_stops_at_once_leaves_the_groups_offsets_right(pipeline: Pipeline) -> None:
    """Lag tools see no lag that is not there, however short the worker lived."""
    pipeline.send(traffic(2, 50))
    with pipeline.worker() as worker:
        pipeline.finish(worker)
    assert {at: n for at, n in pipeline.group_offsets().items() if n} == dict(pipeline.sent)


def test_ids_may_be_any_text(pipeline: Pipeline) -> None:
    events = [order(customer, i) for i, customer in enumerate(ODD_IDS)]
    pipeline.send(events)
    with pipeline.worker() as worker:
        pipeline.finish(worker)
        state = check_state(pipeline, events)
        for customer in ODD_IDS:
            if customer != "..":  # in a URL that is a step up
                assert ask(worker, f"/customers/{quote(customer, safe='')}") == state[customer]
        for customer in ("a\nb", "😀" * 128, ".."):
            shown = invoke(pipeline.environment, "customer", customer, "--json")
            assert json.loads(shown.stdout) == state[customer]
    assert without_ranks(pipeline.newest_scores()) == without_ranks(state)


def test_a_hash_holds_the_score_readable_and_the_packed_state(pipeline: Pipeline) -> None:
    """What the layout says, read with nothing but a Redis client."""
    pipeline.send([order("ann", 1), ("feedback", _rating("ann")), ("feedback", _rating("bea"))])
    with pipeline.worker() as worker:
        pipeline.finish(worker)
    with Redis.from_url(pipeline.settings.redis_url.get_secret_value()) as client:
        keys = {
            name: customer_key(pipeline.settings.key_prefix, pipeline.home(name), name)
            for name in ("ann", "bea")
        }
        ann, bea = client.hgetall(keys["ann"]), client.hgetall(keys["bea"])
    assert (ann[b"revenue"], ann[b"version"], ann[b"orders"]) == (b"10.01", b"2", b"1")
    assert ann[b"first_order_at"] == b"2023-11-14T22:13:21.000Z"
    assert ann[b"s"]
    assert (bea[b"last_order_at"], bea[b"recency_days"], bea[b"rfm"]) == (b"", b"", b"000")
    score = pipeline.newest_scores()["bea"]
    assert (score["last_order_at"], score["recency_days"]) == (None, None)


def _rating(customer: str) -> dict[str, object]:
    return {
        "event_id": f"rating-{customer}",
        "customer_id": customer,
        "occurred_at": 1_700_000_005,
        "kind": "rating",
        "score": 5,
        "scale": [1, 5],
    }


def test_other_currencies_are_converted_and_no_cent_is_lost(
    broker: str, redis_url: str, fresh_prefix: str
) -> None:
    words = Vocabulary.model_validate({"exchange_rates": {"USD": "0.9137", "JPY": "0.0061"}})
    pipeline = make_pipeline(broker, redis_url, fresh_prefix, vocabulary=words)
    events = [
        order("ann", i, currency=currency, amount=amount)
        for i, (currency, amount) in enumerate(
            [("USD", 19.99), ("JPY", 1_251), ("EUR", 0.01), ("EUR", 9_999_999.99)]
        )
    ]
    pipeline.send(events)
    with pipeline.worker() as worker:
        pipeline.finish(worker)
    state = check_state(pipeline, events)
    assert state["ann"]["revenue"] == 18.26 + 7.63 + 0.01 + 9_999_999.99


def test_top_and_months_are_those_of_all_shards(pipeline: Pipeline) -> None:
    events = traffic(3, 200)
    pipeline.send(events)
    with pipeline.worker() as worker:
        pipeline.finish(worker)
        state = check_state(pipeline, events)
        for field in ("profit", "revenue"):
            best = sorted(score[field] for score in state.values())[:-21:-1]
            listed = ask(worker, f"/top?by={field}&count=20")
            assert isinstance(listed, list)
            assert [score[field] for score in listed] == best
            assert all(state[score["customer_id"]] == score for score in listed)
    months = pipeline.overview().months
    placed = [e for role, e in events if role == "orders" and e["kind"] == "placed"]
    assert sum(sums["orders"] for sums in months.values()) == len(placed)
    cents = sum(round(sums["revenue"] * 100) for sums in months.values())
    assert cents == sum(round(event["amount"] * 100) for event in placed)
