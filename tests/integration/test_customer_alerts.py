"""Alerts about customers on the topic and in Redis, each step once, though a worker is killed."""

import json
from collections import Counter
from typing import Any

import pytest
from pydantic import TypeAdapter
from redis import Redis

from tests.support.pipeline import Facts, Pipeline, make_pipeline
from valuetide.schemas.alert import Alert
from valuetide.streams.settings import CustomerAlerts
from valuetide.streams.store.redis import alerts_key, open_alerts_key

pytestmark = pytest.mark.servers

DAY = 86_400
START = 19_000 * DAY
BACK = [f"back{n}" for n in range(12)]
GROWN = [f"grown{n}" for n in range(12)]
STEADY = [f"steady{n}" for n in range(40)]


def ordered(day: int, who: list[str], amount: float) -> list[Facts]:
    return [
        ("orders", {"event_id": f"{one}-{day}", "order_id": f"{one}-{day}", "customer_id": one,
                    "occurred_at": START + day * DAY + nth, "kind": "placed",
                    "currency": "EUR", "amount": amount + nth % 7})
        for nth, one in enumerate(who)
    ]  # fmt: skip


def shop() -> tuple[list[Facts], list[Facts]]:
    """Some come back after half a year, and others order much more than before; two halves."""
    first = [event for day in range(0, 100, 10) for event in ordered(day, BACK + STEADY, 30.0)]
    first += [event for day in range(100, 280, 10) for event in ordered(day, STEADY, 30.0)]
    late = [event for day in range(250, 280, 10) for event in ordered(day, GROWN, 30.0)]
    then = ordered(281, BACK, 40.0) + ordered(282, GROWN, 4_000.0) + ordered(283, STEADY, 30.0)
    return first + late, then


@pytest.fixture
def pipeline(broker: str, redis_url: str, fresh_prefix: str) -> Pipeline:
    alerts = CustomerAlerts(least_percentile=0.0, per_day=10_000)
    return make_pipeline(broker, redis_url, fresh_prefix, clock="event", customer_alerts=alerts)


def test_who_comes_back_and_who_grows_is_told_of_once(pipeline: Pipeline, redis_url: str) -> None:
    before, after = shop()
    pipeline.send(before)
    with pipeline.worker() as worker:
        pipeline.finish(worker)
        pipeline.send(after[:9])
        worker.kill()
    pipeline.send(after[3:])  # what a producer's retry repeats does not count
    with pipeline.worker() as worker:
        pipeline.finish(worker)

    redis: Any = Redis.from_url(redis_url, decode_responses=True)
    prefix = pipeline.settings.key_prefix
    kept, still_open = [], dict[str, dict[str, Any]]()
    for partition in range(pipeline.settings.partitions):
        entries = redis.xrange(alerts_key(prefix, partition))
        kept += [json.loads(fields["alert"]) for _, fields in entries]
        for name, text in redis.hgetall(open_alerts_key(prefix, partition)).items():
            still_open[name] = json.loads(text)
    kept = [step for step in kept if step["customer_id"] is not None]
    sent = pipeline.messages(pipeline.settings.topics.alerts)
    on_topic = {step["id"]: step for step in (json.loads(one.value or b"") for one in sent)}
    assert max(Counter(step["id"] for step in kept).values()) == 1
    for step in kept:
        TypeAdapter(Alert).validate_python(step)
        # A repeat may be of another moment, since other customers' scores moved in between.
        assert on_topic[step["id"]]["fingerprint"] == step["fingerprint"]
    told = {(step["rule"], step["customer_id"]) for step in kept if step["reason"] == "fired"}
    assert {one for rule, one in told if rule == "won_back"} == set(BACK)
    assert {one for rule, one in told if rule == "growth"} >= set(GROWN)
    last = {step["fingerprint"]: step for step in kept}
    assert {name: step for name, step in still_open.items() if step["customer_id"]} == {
        name: step for name, step in last.items() if step["state"] == "firing"
    }
