"""Lifetime values in Redis are what the formulas say of the facts and the parameters there."""

import asyncio
import json
import math
import random
from bisect import bisect_left, bisect_right
from collections import defaultdict
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from redis import Redis

from tests.support.lifetime_reference import Summary, mbg_expected_orders
from tests.support.pipeline import (
    Facts,
    Pipeline,
    cli,
    make_pipeline,
    metric,
    wait_until,
    without_ranks,
)
from tests.support.shared_data import lifetimes_data
from valuetide.schemas.score import Score
from valuetide.scoring.lifetime.grade import report
from valuetide.scoring.lifetime.pieces import assemble
from valuetide.streams.reader import Learned, Reader
from valuetide.streams.records import stored_columns
from valuetide.streams.replay import presets
from valuetide.streams.replay.send import send
from valuetide.streams.store.redis import model_key

HOUR_SECONDS = 3_600.0

pytestmark = pytest.mark.servers

START = 1_600_000_000 // 86_400 * 86_400
DAY = 86_400
DAYS = 400
CUSTOMERS = 150
HORIZONS = (90, 365)
DISCOUNT = 0.1


def shop(seed: int = 3) -> list[Facts]:
    """Orders with cost in time order, then a visit of everybody, from which nothing is learned."""
    chance = random.Random(seed)
    orders: list[tuple[float, str, int]] = []
    for number in range(CUSTOMERS):
        rate, leave = chance.gammavariate(0.8, 0.02), chance.betavariate(1, 3)
        at = chance.uniform(0, 200)
        while at < DAYS:
            orders.append((START + at * DAY, f"c{number}", chance.randrange(500, 9_000)))
            if chance.random() < leave:
                break
            at += chance.expovariate(rate + 1e-4)
    events: list[Facts] = []
    for number, (at, who, cents) in enumerate(sorted(orders)):
        event: dict[str, Any] = {
            "event_id": f"e{number}",
            "order_id": f"o{number}",
            "customer_id": who,
        }
        event |= {"occurred_at": round(at, 3), "kind": "placed", "currency": "EUR"}
        events.append(("orders", event | {"amount": cents / 100, "cost": (cents // 3) / 100}))
    return events


def visits(customers: set[str]) -> list[Facts]:
    return [
        ("interactions", {"event_id": f"v-{who}", "customer_id": who, "kind": "visit",
                          "occurred_at": START + (DAYS + 10) * DAY})
        for who in sorted(customers | {"nobody"})
    ]  # fmt: skip


def expected(
    learned: Learned, orders: list[dict[str, Any]], now: float, average: float, typical: float
) -> dict[str, float]:
    """The textbook's numbers of one customer."""
    model, money = learned.parameters.purchases, learned.parameters.spend
    days = sorted({int(order["occurred_at"] // DAY) for order in orders})
    spend_by_day: dict[int, float] = defaultdict(float)
    for order in orders:
        spend_by_day[int(order["occurred_at"] // DAY)] += order["amount"]
    revenue = sum(order["amount"] for order in orders)
    kept = revenue - sum(order["cost"] for order in orders)
    x, t_x, age = len(days) - 1, (days[-1] - days[0]) / 7, (now / DAY - days[0]) / 7
    spent = revenue - spend_by_day[days[0]]
    value = money.p * (money.gamma + spent) / (money.p * x + money.q - 1)
    rate = (kept + average * 3 * typical) / (revenue + 3 * typical)
    odds = ((model.alpha + age) / (model.alpha + t_x)) ** (model.r + x) * model.a / (model.b + x)
    found = {"p_alive": 1 / (1 + odds), "expected_order_value": value}
    one = Summary(*(np.array([float(number)]) for number in (x, t_x, age, spent)))
    parameters = np.array([model.r, model.alpha, model.a, model.b])

    def ahead(weeks: float) -> float:
        return float(mbg_expected_orders(parameters, one, weeks)[0]) if weeks else 0.0

    for horizon in HORIZONS:
        grid = np.linspace(0, horizon / 7, 400)
        total = np.array([ahead(week) for week in grid])
        force = math.log1p(DISCOUNT) * 7 / 365.25
        worth = np.exp(-force * (grid[1:] + grid[:-1]) / 2) @ np.diff(total)
        found[f"expected_orders_{horizon}d"] = total[-1]
        found[f"clv_{horizon}d"] = float(worth) * value * rate
    return found


def steady(scores: dict[str, Score]) -> dict[str, dict[str, Any]]:
    """Leave out ranks and changes, which depend on when others and oneself were scored."""
    return {
        one: {name: value for name, value in score.items() if not name.startswith("moved_by_")}
        for one, score in without_ranks(scores).items()
    }


def check_alike(found: dict[str, Score], wanted: dict[str, Score]) -> None:
    """The same but for ranks and changes, and for what the nodes of the quadrature make of it.

    Those are chosen for all customers that are scored together.
    """
    ours, theirs = steady(found), steady(wanted)
    assert ours.keys() == theirs.keys()
    for customer, row in theirs.items():
        assert ours[customer].keys() == row.keys(), customer
        for name, value in row.items():
            there, wanted_there = ours[customer][name], value
            if name == "next_order_at" and value is not None:
                there, wanted_there = (
                    datetime.fromisoformat(at).timestamp() for at in (there, value)
                )
                assert abs(there - wanted_there) < HOUR_SECONDS, (customer, name)
                continue
            if isinstance(value, float):
                cents = 0.011 if "clv" in name or "value" in name else 2e-4
                wanted_there = pytest.approx(value, rel=1e-4, abs=cents)
            assert there == wanted_there, (customer, name)


@pytest.fixture
def pipeline(broker: str, redis_url: str, fresh_prefix: str) -> Pipeline:
    return make_pipeline(broker, redis_url, fresh_prefix, clock="event")


def test_scores_are_what_the_formulas_say_across_a_restart(
    pipeline: Pipeline, redis_url: str
) -> None:
    events = shop()
    by_customer: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _, event in events:
        by_customer[event["customer_id"]].append(event)
    pipeline.send(events[: len(events) // 2])
    with pipeline.worker() as first:
        pipeline.finish(first)
    pipeline.send(events[len(events) // 2 :])
    with pipeline.worker() as second:
        pipeline.finish(second)
        pipeline.send(visits(set(by_customer)))
        pipeline.finish(second)

    async def read() -> tuple[Learned, dict[str, Score]]:
        async with Reader(pipeline.settings) as reader:
            scores = {score["customer_id"]: score async for score in reader.evaluate()}
            return await reader.learned(), scores

    learned, evaluated = asyncio.run(read())
    assert learned.orders == len(events)
    state = pipeline.state()
    # The visits were at one moment, the last. Only ranks and changes depend on who came when.
    check_alike(evaluated, state)
    values = sorted(row["clv_365d"] for row in evaluated.values() if row["clv_365d"] is not None)
    for row in evaluated.values():
        if row["clv_365d"] is not None and row["clv_percentile"] is not None:
            assert row["clv_percentile"] == pytest.approx(
                exact_rank(row, values), abs=beside(row, values)
            )
    nobody = state.pop("nobody")
    assert nobody["p_alive"] is None
    assert nobody["clv_365d"] is None

    totals: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for customer, orders in by_customer.items():
        for order in orders:
            totals[pipeline.home(customer)][0] += order["amount"]
            totals[pipeline.home(customer)][1] += order["amount"] - order["cost"]
    typical = {}
    with Redis.from_url(redis_url) as client:
        for partition in totals:
            pieces = client.hgetall(model_key(pipeline.settings.key_prefix, partition))
            learner = assemble({name.decode(): value for name, value in pieces.items()})
            assert learner is not None
            typical[partition] = learner.typical_spend
    for customer, score in state.items():
        home = pipeline.home(customer)
        now = datetime.fromisoformat(str(score["as_of"])).timestamp()
        average = totals[home][1] / totals[home][0]
        wanted = expected(learned, by_customer[customer], now, average, typical[home])
        for name, value in wanted.items():
            found: float = score[name]  # type: ignore[literal-required]
            slack = 1e-2 if "clv" in name or "value" in name else 1e-4
            assert found == pytest.approx(value, rel=1e-3, abs=slack), (customer, name)
        assert score["clv_90d_low"] is not None
        assert score["clv_90d_high"] is not None
        assert score["clv_90d_low"] <= score["clv_90d_high"]

    check_command_line(pipeline, learned, state)
    check_other_horizons(pipeline)


def check_other_horizons(pipeline: Pipeline) -> None:
    """Fields of horizons that are no longer set are not shown, and those that are set, at once."""
    other = pipeline.with_settings(horizons_days=(30, 90))

    async def read() -> dict[str, Score]:
        async with Reader(other.settings) as reader:
            return {score["customer_id"]: score async for score in reader.evaluate()}

    state = other.state()
    check_alike(state, asyncio.run(read()))
    for customer, score in pipeline.state().items():
        now: Any = state[customer]
        assert {"clv_30d", "clv_30d_low", "expected_orders_30d"} <= now.keys()
        assert not [name for name in now if "365d" in name]
        # There are no grades of 30 days, so only the middle is what it was, but for the nodes of
        # the quadrature, which are those of the longest horizon.
        was = score["clv_90d"]
        assert now["clv_90d"] == (was if was is None else pytest.approx(was, rel=1e-4, abs=0.011))


def check_command_line(pipeline: Pipeline, learned: Learned, state: dict[str, Score]) -> None:
    shown = cli(pipeline.environment, "model", "--json")
    assert shown.returncode == 0, shown.stderr
    found_model = json.loads(shown.stdout)
    assert found_model["orders"] == learned.orders
    assert found_model["purchases"]["r"] == pytest.approx(learned.parameters.purchases.r)
    total = sum(score["clv_365d"] or 0.0 for score in state.values())
    assert found_model["equity"]["clv_365d"] == pytest.approx(total, abs=0.01)
    graded = found_model["grades"]["90d"]["all"]
    assert graded["outcomes"] == report(learned.knowledge.grades[90].total).outcomes > 1_000
    assert 0.6 < graded["likely_coverage"] < 0.95
    spend = sum(
        (score["expected_orders_90d"] or 0.0) * (score["expected_order_value"] or 0.0)
        for score in state.values()
    )
    in_scores = learned.knowledge.factor
    assert found_model["forecast"]["revenue_90d"] == pytest.approx(
        spend / in_scores * found_model["ratio_correction"]["factor"], rel=1e-4
    )
    text = cli(pipeline.environment, "model", "--no-equity").stdout
    assert f"90 days ahead, {graded['outcomes']:,.0f} outcomes known" in text
    assert f"learned from {learned.orders:,} orders" in text
    assert "equity" not in text
    best = cli(pipeline.environment, "top", "--by", "clv_365d", "--count", "3", "--json")
    ranked = sorted(state.values(), key=lambda score: -(score["clv_365d"] or 0.0))
    assert [one["clv_365d"] for one in json.loads(best.stdout)] == [
        one["clv_365d"] for one in ranked[:3]
    ]
    refused = cli(pipeline.environment, "top", "--by", "clv_7d")
    assert refused.returncode == 2
    assert "ranked by profit, revenue, decayed_value, clv_365d" in refused.stderr


def test_packed_states_alone_are_scored_when_they_are_read(
    pipeline: Pipeline, redis_url: str
) -> None:
    """From the readable layout to the compact one and back, each meeting the other's customers."""
    events = [(topic, event) for topic, event in shop() if topic == "orders"]
    everybody = {event["customer_id"] for _, event in events}
    half = {who for who in everybody if int(who[1:]) % 2}
    compact = pipeline.with_settings(layout="compact")

    def fields() -> dict[str, int]:
        """How many fields the hash of each customer has."""
        with Redis.from_url(redis_url) as client:
            keys = client.scan_iter(match=f"{pipeline.settings.key_prefix}:*:customer:*")
            return {key.decode().rpartition(":")[2]: client.hlen(key) for key in keys}

    async def evaluate() -> dict[str, Score]:
        async with Reader(pipeline.settings) as reader:
            return {score["customer_id"]: score async for score in reader.evaluate()}

    pipeline.send(events)
    with pipeline.worker() as worker:
        pipeline.finish(worker)
    readable = pipeline.state()
    width = len(stored_columns(HORIZONS)) + 1
    assert set(fields().values()) == {width}

    pipeline.send(visits(half))
    with compact.worker() as worker:
        pipeline.finish(worker)
        assert {who for who, count in fields().items() if count == 1} == half | {"nobody"}
        status, text = worker.get("/customers/nobody")
        assert (status, json.loads(text)["clv_365d"]) == (200, None)
    mixed, evaluated = pipeline.state(), asyncio.run(evaluate())
    assert mixed == compact.state()
    assert mixed.keys() == everybody | {"nobody"}
    for who in everybody - half:
        assert without_ranks({who: mixed[who]}) == without_ranks({who: readable[who]})
    of_half = {who: mixed[who] for who in half}
    check_alike(of_half, {who: evaluated[who] for who in half})
    published = pipeline.newest_scores()
    for who, score in of_half.items():
        assert score["version"] == published[who]["version"] == readable[who]["version"] + 1
        assert score["moved_by_time"] is None
        assert published[who]["moved_by_time"] is not None
        assert score["as_of"] == max(one["as_of"] for one in evaluated.values())
    check_ranks_of_last_scores(published, mixed)
    best = cli(compact.environment, "top", "--by", "profit", "--count", "9", "--json")
    profits = sorted((score["profit"] for score in mixed.values()), reverse=True)
    assert [one["profit"] for one in json.loads(best.stdout)] == profits[:9]

    pipeline.send(
        [(topic, event | {"event_id": f"again-{event['customer_id']}"})
         for topic, event in visits(half)]
    )  # fmt: skip
    with pipeline.worker() as worker:
        pipeline.finish(worker)
    assert {count for who, count in fields().items()} == {width}
    assert all(pipeline.state()[who]["moved_by_time"] is not None for who in half)


def check_ranks_of_last_scores(published: dict[str, Score], state: dict[str, Score]) -> None:
    """Whatever the layout: of everybody's last scores, which are on the topic."""
    values = sorted(one["clv_365d"] for one in published.values() if one["clv_365d"] is not None)
    for who, score in state.items():
        if score["clv_365d"] is not None:
            wanted = exact_rank(published[who], values)
            assert score["clv_percentile"] == pytest.approx(
                wanted, abs=beside(published[who], values)
            )


def test_silent_customers_are_scored_again_in_redis_and_on_the_topic(pipeline: Pipeline) -> None:
    events: list[Facts] = [(topic, event) for topic, event in shop() if topic == "orders"]
    pipeline.send(events)
    last = max(event["occurred_at"] for _, event in events)
    later: list[Facts] = [
        ("orders", {**order_of(f"new-{number}"), "occurred_at": last + 200 * DAY})
        for number in range(40)
    ]
    with pipeline.worker(refresh_seconds=DAY) as worker:
        pipeline.finish(worker)
        before = pipeline.state()
        pipeline.send(later)
        pipeline.finish(worker)

        def all_swept() -> bool:
            state = pipeline.state()
            return all(state[one]["as_of"] != before[one]["as_of"] for one in before)

        wait_until(all_swept, "every customer is scored again")
        state = pipeline.state()
        assert metric(worker, "valuetide_swept_customers_total") >= len(before)
    for customer, old in before.items():
        new = state[customer]
        assert new["version"] == old["version"]
        assert (new["p_alive"] or 0) < (old["p_alive"] or 0)
        assert (new["recency_days"] or 0) > 199
        assert new["clv_365d"] is not None
        assert (new["moved_by_time"] or 0) <= 0
    assert without_ranks(pipeline.newest_scores()) == without_ranks(state)


def test_what_is_read_after_a_replay_and_its_sweep_is_the_rank_of_now(pipeline: Pipeline) -> None:
    """Years of orders in seconds: ranks at the moment of scoring are among scores that are no more.

    A visit in each partition brings all of them to one moment.
    """
    usd = pipeline.with_settings(
        vocabulary=pipeline.settings.vocabulary.model_copy(update={"base_currency": "USD"}),
        refresh_seconds=float(DAY),
    )
    events = list(presets.cdnow_sample(lifetimes_data("CDNOW_sample.txt")))
    last = max(event.occurred_at for event in events)
    visitors = {usd.home(f"visitor-{number}"): f"visitor-{number}" for number in range(40)}

    async def replay() -> None:
        sent = await send(events, usd.settings)
        for partition, part in sent.partitions.items():
            usd.sent["orders", partition] = part.next_offset or 0

    with usd.worker() as worker:
        asyncio.run(replay())
        usd.send(
            [
                (topic, event | {"occurred_at": last})
                for topic, event in visits({*visitors.values()})
            ]
        )
        usd.finish(worker)
        swept = "valuetide_swept_customers_total"
        wait_until(lambda: metric(worker, swept) >= 2_357, "every customer is scored again")
        wait_until(lambda: ranks_are_off(usd) <= 0.5, "ranks are those of now")
    state, sent = usd.state(), usd.newest_scores()
    off = [
        abs((sent[who]["clv_percentile"] or 0.0) - (score["clv_percentile"] or 0.0))
        for who, score in state.items()
    ]
    assert sum(one > 5 for one in off) > 500  # on the topic they are of the moment


def ranks_are_off(pipeline: Pipeline) -> float:
    """Give the greatest error of what is read, and of what is evaluated, in points.

    What they must be is counted among the values of all customers at one moment.
    """

    async def read() -> list[Score]:
        async with Reader(pipeline.settings) as reader:
            return [score async for score in reader.evaluate()]

    evaluated, state = asyncio.run(read()), pipeline.state()
    buyers = [one for one in evaluated if one["clv_365d"] is not None]
    values = sorted(one["clv_365d"] or 0.0 for one in buyers)
    return max(
        abs((score["clv_percentile"] or 0.0) - exact_rank(one, values))
        for one in buyers
        for score in (one, state[one["customer_id"]])
    )


def exact_rank(score: Score, values: list[float]) -> float:
    """Of a customer among all values, rising, in per cent."""
    clv = score["clv_365d"] or 0.0
    return 50.0 * (bisect_left(values, clv) + bisect_right(values, clv)) / len(values)


def beside(score: Score, values: list[float]) -> float:
    """How far off a rank may be: half of the customers of the same value to .1 % and a cent.

    In a shop as small as this one that can be more than half a point. And ranks have one decimal.
    """
    clv = score["clv_365d"] or 0.0
    reach = 0.0011 * abs(clv) + 0.0101
    count = bisect_right(values, clv + reach) - bisect_left(values, clv - reach)
    return max(0.5, 50.0 * count / len(values) + 0.051)


def order_of(customer: str) -> dict[str, Any]:
    return {
        "event_id": f"e-{customer}",
        "customer_id": customer,
        "order_id": f"o-{customer}",
        "kind": "placed",
        "amount": 10.0,
        "currency": "EUR",
    }
