"""Alerts about customers follow from their scores, once each, within the budget of a day."""

import asyncio
import json
import random
from collections import Counter
from datetime import datetime
from itertools import count
from typing import Any

import pytest
from pydantic import TypeAdapter

from tests.support.fakes import START_SECONDS, World, customers_of, run_quickly, shard_settings
from tests.unit.streams.helpers import DAY_SECONDS, example, order
from valuetide.schemas.alert import Alert
from valuetide.scoring.lifetime.parameters import PRIOR
from valuetide.streams.customer_alerts import TOLD, UNTOLD, CustomerWatch
from valuetide.streams.partitioner import partition_of
from valuetide.streams.pool import Knowledge, Pool
from valuetide.streams.store import Commit, StoreUnavailableError

ALERT = TypeAdapter(Alert)
EVERYBODY: dict[str, Any] = {"least_percentile": 0.0, "per_day": 10_000}
ODD = next(one for one in (f'"{{0}}\n%s \\ {n}' for n in count()) if partition_of(one, 4) == 0)


@pytest.fixture(autouse=True)
def _nothing_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores with the prior, so that the plain reference can make them too."""
    monkeypatch.setattr(Pool, "knowledge", Knowledge())


def alerting(**alerts: Any) -> World:
    return World(settings=shard_settings(customer_alerts=EVERYBODY | alerts, max_batch_events=50))


class Shop:
    """Orders of some days, in time order, in a world; each day ends with a sweep."""

    def __init__(self, world: World, ids: list[str]) -> None:
        self.world, self.ids = world, ids
        self.day, self.number = 0, 0

    async def spend(self, *who: str, days: int = 1, amount: float = 50.0) -> None:
        """Let days pass; on the last one these customers order."""
        self.day += days
        self.world.wall.seconds = START_SECONDS + (self.day + 1) * DAY_SECONDS
        chance = random.Random(self.day)
        for nth, one in enumerate(who):
            self.number += 1
            at = START_SECONDS + self.day * DAY_SECONDS + nth * 60
            cents = round(amount * chance.uniform(0.5, 1.5) * 100)
            self.world.flow.add(
                "orders", order(one, self.number, occurred_at=at, amount=cents / 100)
            )

    async def sweep(self, most: int = 50) -> None:
        """Commit what there is, and score everybody again."""
        await self.world.drain(most=most)
        while await self.world.shard.sweep(self.ids) is None:
            await asyncio.sleep(0.01)
            await self.world.drain(most=most)


def committed(world: World) -> list[dict[str, Any]]:
    return [json.loads(step.text) for step in world.store.shards[0].alerts]


def steps(world: World) -> list[tuple[str, str, str]]:
    return [(one["customer_id"], one["rule"], one["reason"]) for one in committed(world)]


# -- the life of an alert -------------------------------------------------------------------------


def test_silence_is_told_of_once_and_an_order_ends_it() -> None:
    async def scenario() -> None:
        world = alerting()
        heartbeat, *_ = customers_of(0, 4, 1)
        shop = Shop(world, [heartbeat, ODD])
        await world.shard.open()
        for _ in range(12):
            await shop.spend(heartbeat, ODD, days=10)
            await shop.sweep()
        before = len(committed(world))
        for _ in range(20):
            await shop.spend(heartbeat, days=10)
            await shop.sweep()
        fired, accepted = committed(world)[before:]
        assert (fired["customer_id"], fired["rule"], fired["reason"]) == (ODD, "at_risk", "fired")
        assert (accepted["fingerprint"], accepted["reason"]) == (fired["fingerprint"], "accepted")
        assert accepted["id"] != fired["id"]
        assert (fired["notify"], accepted["notify"]) == (True, False)
        assert fired["since"] == accepted["since"] == "2024-03-13T22:14:20.000Z"
        waited = datetime.fromisoformat(accepted["at"]) - datetime.fromisoformat(fired["at"])
        assert waited.days == 30  # the first sweep after 28 days
        assert fired["actual"] < 0.5 * fired["expected"]
        share = fired["actual"] / fired["expected"] - 1
        assert fired["change_share"] == pytest.approx(share)
        lost = fired["expected"] - fired["actual"]
        assert fired["stake_per_day"] == pytest.approx(lost / 365)
        assert fired["sentence"].startswith(f"Customer {ODD} is at risk: worth ")
        assert fired["sentence"].endswith(", by silence.")
        assert world.store.shards[0].record.fields[UNTOLD] == "0"

        await shop.spend(heartbeat, ODD)
        await shop.sweep()
        assert steps(world)[before + 2 :] == [(ODD, "won_back", "fired")]
        for one in committed(world):
            ALERT.validate_python(one)
            assert set(one) == set(example("alerts", "at_risk"))

    run_quickly(scenario())


def test_an_order_in_time_resolves_the_alert() -> None:
    async def scenario() -> None:
        world = alerting(rules=("at_risk",))
        heartbeat, ann = customers_of(0, 4, 2)
        shop = Shop(world, [heartbeat, ann])
        await world.shard.open()
        for _ in range(12):
            await shop.spend(heartbeat, ann, days=10)
            await shop.sweep()
        while not steps(world):
            await shop.spend(heartbeat, days=5)
            await shop.sweep()
        open_alerts = await world.store.read_open_alerts(0)
        assert [json.loads(text)["customer_id"] for text in open_alerts.values()] == [ann]
        await shop.spend(heartbeat, ann)
        await shop.sweep()
        assert steps(world) == [(ann, "at_risk", "fired"), (ann, "at_risk", "resolved")]
        assert committed(world)[1]["notify"]
        assert await world.store.read_open_alerts(0) == {}

    run_quickly(scenario())


def test_an_order_that_is_cancelled_leaves_no_alert_behind() -> None:
    async def scenario() -> None:
        world = alerting(rules=("growth",))
        heartbeat, ann = customers_of(0, 4, 2)
        shop = Shop(world, [heartbeat, ann])
        await world.shard.open()
        await shop.spend(heartbeat, ann)
        await shop.sweep()
        await shop.spend(ann, days=5, amount=50_000.0)
        await shop.sweep()
        assert steps(world) == [(ann, "growth", "fired")]
        gone = [order(ann, 100 + n, order_id=f"o{n}", kind="cancelled", amount=0.0,
                      occurred_at=START_SECONDS + 6 * DAY_SECONDS) for n in (2, 3)]  # fmt: skip
        for event in gone:
            world.flow.add("orders", event)
        await shop.sweep()
        assert steps(world)[1:] == [(ann, "growth", "accepted")]
        assert await world.store.read_open_alerts(0) == {}

    run_quickly(scenario())


# -- as the batch says ----------------------------------------------------------------------------


def alive(x: float, t_x: float, age: float) -> float:
    """P(alive) by Batislam et al. (2007), in its textbook form; weeks."""
    model = PRIOR.purchases
    gone = ((model.alpha + age) / (model.alpha + t_x)) ** (model.r + x)
    return float(1.0 / (1.0 + gone * model.a / (model.b + x)))


def weeks(later: str, earlier: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds() / (
        7 * DAY_SECONDS
    )


def batch(scores: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Give the steps of one customer's alerts from all of their scores, by the rules as written."""
    told: list[tuple[str, str, str]] = []
    open_since: dict[str, tuple[str, float]] = {}
    fallen, last, at_order = True, None, 0.0
    for score in scores:
        clv, who, now = score["clv_365d"], score["customer_id"], score["as_of"]
        for rule, (fired_at, middle) in list(open_since.items()):
            back = clv >= middle if rule == "at_risk" else clv <= middle
            if back or weeks(now, fired_at) >= 4:
                told.append((who, rule, "resolved" if back else "accepted"))
                del open_since[rule]
        ordered = last is not None and score["last_order_at"] > last["last_order_at"]
        fell = score["p_alive"] <= 0.5 * alive(score["frequency"], 0.0, 0.0)
        found: list[tuple[str, float]] = []
        if last is not None:
            fell |= clv <= 0.5 * last["clv_365d"]
            if fell and (ordered or not fallen):
                found.append(("at_risk", last["clv_365d"]))
            # An order counts at its day, the time until now to the moment.
            first_day = last["first_order_at"][:10] + "T00:00:00Z"
            since_first = weeks(last["last_order_at"][:10] + "T00:00:00Z", first_day)
            waited = weeks(score["last_order_at"], first_day)
            if ordered and alive(last["frequency"], since_first, waited) < 0.2:
                found.append(("won_back", 0.0))
            elif ordered and last["clv_365d_high"] < clv >= 3 * max(at_order, last["clv_365d"]):
                found.append(("growth", max(at_order, last["clv_365d"])))
        fallen = fell or (last is not None and fallen and not ordered)
        for rule, before in found:
            if rule not in open_since:
                told.append((who, rule, "fired"))
                open_since[rule] = (now, (before + clv) / 2)
        at_order = clv if ordered or last is None else at_order
        last = score
    return told


@pytest.mark.parametrize("most", [1, 50])
def test_what_is_told_is_what_a_batch_over_all_scores_finds(most: int) -> None:
    """However the stream is cut. Ends are left out, for a message does not say what is normal."""

    async def scenario() -> None:
        world = alerting(accept_days=28.0)
        ids = customers_of(0, 4, 30)
        chance = random.Random(3)
        shop = Shop(world, ids)
        await world.shard.open()
        for day in range(1, 300):
            # The further back in the list, the more often, and the longer of each 150 days.
            active = [
                one
                for n, one in enumerate(ids[1:])
                if chance.random() < 0.02 + n / 200 and day % 150 < 40 + n
            ]
            amount = chance.choice((20.0, 20.0, 400.0))
            await shop.spend(ids[0], *active, amount=amount)
            await shop.sweep(most)
        told = Counter(step for step in steps(world) if step[2] == "fired")
        wanted: Counter[tuple[str, str, str]] = Counter()
        for one in ids:
            own = [score for score in world.sender.scores if score["customer_id"] == one]
            wanted.update(step for step in batch(own) if step[2] == "fired")
        assert {rule for _, rule, _ in told} == {"at_risk", "growth", "won_back"}
        assert told == wanted
        assert len(told) > 25

    run_quickly(scenario())


# -- exactly once ---------------------------------------------------------------------------------


async def play(world: World, after_day: Any = None) -> None:
    """Some weeks of a shop in which all rules find somebody."""
    ids = customers_of(0, 4, 12)
    shop = Shop(world, ids)
    await world.shard.open()
    for day in range(1, 31):
        often = day <= 12
        amount = 50.0 if day < 25 else 2_000.0
        await shop.spend(ids[0], *(ids[1:6] if often else ()), days=7, amount=amount)
        if day in (2, 28):
            await shop.spend(*ids[4:8])
        if day == 20:
            await shop.spend(ids[5])
        if after_day:
            await after_day(day)
        await shop.sweep()
    await world.shard.close(1.0)


@pytest.mark.parametrize("answer_lost", [False, True])
@pytest.mark.parametrize("fail_at", [3, 17, 38, 45, 52, 58])
def test_after_a_failed_commit_there_is_each_step_once(fail_at: int, answer_lost: bool) -> None:
    """Steps are published before they are committed, and what is done again has the same ids."""

    async def scenario() -> None:
        straight, world = alerting(per_day=4), alerting(per_day=4)
        await play(straight)
        commits = count(1)

        async def fail(commit: Commit) -> None:
            if next(commits) == fail_at:
                raise StoreUnavailableError("gone for a moment")

        async def published_before(commit: Commit) -> None:
            out = {json.loads(one.value or b"")["id"] for one in world.sender.others("alerts")}
            assert {json.loads(step.text)["id"] for step in commit.alerts} <= out
            if not answer_lost:
                await fail(commit)

        world.store.before_commit = published_before
        if answer_lost:
            world.store.after_commit = fail
        await play(world)
        assert {rule for _, rule, _ in steps(straight)} == {"at_risk", "growth", "won_back"}
        assert committed(world) == committed(straight)
        assert len({one["id"] for one in committed(world)}) == len(committed(world))
        assert world.store.shards[0].states == straight.store.shards[0].states
        for name in (TOLD, UNTOLD):
            fields = world.store.shards[0].record.fields
            assert fields[name] == straight.store.shards[0].record.fields[name]
        sent = [json.loads(one.value or b"") for one in world.sender.others("alerts")]
        assert {one["id"]: one for one in sent} == {one["id"]: one for one in committed(world)}

    run_quickly(scenario())


def test_another_worker_goes_on_with_the_alerts_and_the_budget() -> None:
    async def scenario() -> None:
        straight, world = alerting(per_day=4), alerting(per_day=4)
        await play(straight)

        async def hand_over(day: int) -> None:
            await world.drain(most=50)
            await world.shard.close(1.0)
            world.shard = world.make_shard(f"worker of day {day}")
            await world.shard.open()
            await world.flow.rewind(0, dict(world.shard.positions), world.shard.epoch)

        await play(world, hand_over)
        assert committed(world) == committed(straight)
        assert {reason for _, _, reason in steps(world)} == {"fired", "resolved", "accepted"}

    run_quickly(scenario())


# -- limits ---------------------------------------------------------------------------------------


async def all_fall_silent(world: World) -> list[str]:
    """Customers order for a while, each more than the one before, and then only every second."""
    ids = customers_of(0, 4, 40)
    shop = Shop(world, ids)
    await world.shard.open()
    for ten_days in range(19):
        for nth, one in enumerate(ids):
            if ten_days < 10 or nth % 2:
                await shop.spend(one, days=0, amount=10.0 + 5.0 * nth)
        shop.day += 10
        if ten_days < 10 or ten_days == 18:
            await shop.sweep()
    return ids[::2]


@pytest.mark.parametrize(("per_day", "most"), [(4, 1), (12, 3), (40, 10)])
def test_only_the_greatest_are_told_when_many_fall_at_once(per_day: int, most: int) -> None:
    """The day's budget is shared among the four shards."""

    async def scenario() -> None:
        world = alerting(per_day=per_day, rules=("at_risk",))
        ids = await all_fall_silent(world)
        told = [one["customer_id"] for one in committed(world)]
        assert len(told) == most
        assert set(told) <= set(ids[-most - 3 :])  # amounts are drawn
        stakes = [one["stake_per_day"] for one in committed(world)]
        assert stakes == sorted(stakes, reverse=True)
        untold = int(world.store.shards[0].record.fields[UNTOLD])
        assert untold == len(ids) - most
        value = world.metrics.registry.get_sample_value
        assert value("valuetide_customer_alerts_untold_total") == untold
        labels = {"rule": "at_risk", "reason": "fired"}
        assert value("valuetide_customer_alerts_total", labels) == most

    run_quickly(scenario())


@pytest.mark.parametrize(
    "limit", [{"least_percentile": 80.0}, {"least_clv": 1_500.0}, {"least_stake": 2.0}]
)
def test_only_those_worth_enough_are_told_of(limit: dict[str, float]) -> None:
    async def scenario() -> None:
        world = alerting(rules=("at_risk",), **limit)
        ids = await all_fall_silent(world)
        found = committed(world)
        assert 0 < len(found) < 15
        assert {one["customer_id"] for one in found} <= set(ids[-15:])
        assert world.store.shards[0].record.fields[UNTOLD] == "0"
        if "least_clv" in limit:
            assert min(one["expected"] for one in found) >= 1_500.0
        if "least_stake" in limit:
            assert min(one["stake_per_day"] for one in found) >= 2.0

    run_quickly(scenario())


def test_a_rule_that_is_switched_on_does_not_tell_of_those_who_left_before() -> None:
    async def scenario() -> None:
        off = alerting(rules=())
        ids = await all_fall_silent(off)
        await off.shard.close(1.0)
        assert steps(off) == []
        on = alerting()
        on.store, on.flow.logs, on.sender = off.store, off.flow.logs, off.sender
        on.wall.seconds = off.wall.seconds
        on.shard = on.make_shard()
        await on.shard.open()
        await on.flow.rewind(0, dict(on.shard.positions), on.shard.epoch)
        shop = Shop(on, [customers_of(0, 4, 2)[1], *ids])
        shop.day, shop.number = 190, 10_000
        for _ in range(3):
            await shop.spend(shop.ids[0], ids[0], days=10)
            await shop.sweep()
        assert {rule for _, rule, _ in steps(on)} <= {"won_back", "growth"}
        for _ in range(20):
            await shop.spend(shop.ids[0], days=10)
            await shop.sweep()
        assert (ids[0], "at_risk", "fired") in steps(on)
        assert {one for one, rule, _ in steps(on) if rule == "at_risk"} == {ids[0]}

    run_quickly(scenario())


def test_alerts_about_series_are_left_to_others() -> None:
    """Those of shard 0 lie beside them."""
    series = json.dumps(example("alerts", "level"))
    watch = CustomerWatch(shard_settings(), {}, {"0" * 16: series})
    assert watch._open == {}
