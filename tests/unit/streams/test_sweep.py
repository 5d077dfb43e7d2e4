"""Customers of whom nothing is heard are scored again in time, without harm to anything else."""

import asyncio
from typing import Any

import pytest

from tests.support.fakes import (
    START_SECONDS,
    World,
    as_chunk,
    customers_of,
    run_quickly,
    settle,
    shard_settings,
)
from tests.unit.streams.helpers import (
    DAY_SECONDS,
    as_ms,
    order,
    stored_rows,
    visit,
    without_rank,
)
from tests.unit.streams.test_shard_model import check_ranks
from valuetide.streams.store import Commit, StoreUnavailableError
from valuetide.streams.sweep import Sweeper

NEVER_PAUSING = 1e9


def shop(**settings: Any) -> World:
    """Give ten buyers and a prospect; the wall clock is the shard's."""
    world = World(settings=shard_settings(clock="wall", sweep_rate=NEVER_PAUSING, **settings))
    *buyers, prospect = customers_of(0, 4, 11)
    for number, buyer in enumerate(buyers):
        world.flow.add("orders", order(buyer, number, amount=50.0))
    world.flow.add("interactions", visit(prospect, 99))
    return world


def sweeper(world: World) -> Sweeper:
    return Sweeper(world.settings, world.store, {0: world.shard})


async def opened(world: World) -> dict[str, dict[str, Any]]:
    await world.shard.open()
    await world.drain()
    return stored_rows(world)


def test_silence_lowers_scores_that_a_sweep_makes_again() -> None:
    async def scenario() -> None:
        world = shop()
        before = await opened(world)
        sent = len(world.sender.scores)
        world.wall.seconds += 100 * DAY_SECONDS
        assert world.shard.sweep_due
        assert await sweeper(world).walk([0]) == 10
        after = stored_rows(world)
        assert after.keys() == before.keys()
        for customer, old in before.items():
            new = after[customer]
            assert new["version"] == old["version"]
            if old["clv_365d"] is None:
                assert new == old
                continue
            assert new["as_of"] > old["as_of"]
            assert new["p_alive"] < old["p_alive"]
            assert new["clv_365d"] < old["clv_365d"]
            assert new["recency_days"] == pytest.approx(100, abs=0.01)
            assert new["moved_by_orders"] == 0.0
            assert new["moved_by_time"] < 0.0
        check_ranks(dict((await world.record()).model), after)
        again = world.sender.scores[sent:]
        assert {one["customer_id"]: without_rank(one) for one in again} == {
            customer: {"customer_id": customer} | row
            for customer, row in after.items()
            if row["clv_365d"] is not None
        }
        assert world.metrics.registry.get_sample_value("valuetide_swept_customers_total") == 10

    run_quickly(scenario())


def test_no_score_gets_older_than_the_interval() -> None:
    async def scenario() -> None:
        world = shop(refresh_seconds=DAY_SECONDS)
        rows = await opened(world)
        buyers = [one for one, row in rows.items() if row["clv_365d"] is not None]
        walks = 0
        for hour in range(100):
            world.wall.seconds += 3_600
            if hour % 7 == 0:
                world.flow.add("orders", order(buyers[hour % 3], 1_000 + hour))
                await world.drain()
            if world.shard.sweep_due:
                walks += 1
                await sweeper(world).walk([0])
            now = world.wall.seconds * 1_000
            ages = [now - (as_ms(stored_rows(world)[one]["as_of"]) or 0) for one in buyers]
            assert max(ages) <= DAY_SECONDS * 1_000
        assert walks == 1 + 99 // 12  # one at once, then one every half interval

    run_quickly(scenario())


def test_a_fresh_score_stays_and_a_walk_just_made_is_not_due() -> None:
    async def scenario() -> None:
        world = shop()
        rows = await opened(world)
        assert await sweeper(world).walk([0]) == 0
        assert not world.shard.sweep_due
        assert stored_rows(world) == rows

    run_quickly(scenario())


def test_customers_out_of_memory_are_swept_and_those_who_vanished_are_not_made_anew() -> None:
    async def scenario() -> None:
        world = shop()
        rows = await opened(world)
        assert await world.shard.close(1.0)
        world.shard = world.make_shard()
        world.memory_limit = 3
        await world.shard.open()
        world.wall.seconds += 10 * DAY_SECONDS
        gone = next(one for one, row in rows.items() if row["clv_365d"] is not None)
        del world.store.shards[0].states[gone]
        assert await world.shard.sweep(list(rows)) == 9
        assert stored_rows(world)[gone] == rows[gone]
        assert int((await world.record()).fields["total:customers"]) == 11

    run_quickly(scenario())


def test_events_go_on_while_a_sweep_waits_and_both_count() -> None:
    async def scenario() -> None:
        world = shop()
        rows = await opened(world)
        world.wall.seconds += 10 * DAY_SECONDS
        buyers = [one for one, row in rows.items() if row["clv_365d"] is not None]
        for number in range(200, 240):
            world.flow.add("orders", order(buyers[number % 10], number, amount=50.0))
        swept = asyncio.create_task(world.shard.sweep(buyers))
        await world.drain(most=5)
        await swept
        after = stored_rows(world)
        assert sum(row["orders"] for row in after.values()) == 50
        check_ranks(dict((await world.record()).model), after)

    run_quickly(scenario())


def test_an_interrupted_sweep_says_so_and_is_due_again() -> None:
    async def scenario() -> None:
        world = shop()
        await opened(world)
        world.wall.seconds += 10 * DAY_SECONDS

        async def fail(commit: Commit) -> None:
            world.store.before_commit = None
            raise StoreUnavailableError("away")

        world.store.before_commit = fail
        assert await sweeper(world).walk([0]) == 0
        await asyncio.sleep(1.0)
        assert world.shard.sweep_due
        assert await sweeper(world).walk([0]) == 10
        assert not world.shard.sweep_due

    run_quickly(scenario())


def test_a_closed_shard_is_not_swept() -> None:
    async def scenario() -> None:
        world = shop()
        await opened(world)
        await world.shard.close(1.0)
        world.wall.seconds += 10 * DAY_SECONDS
        assert not world.shard.sweep_due
        assert await world.shard.sweep(["ann"]) is None

    run_quickly(scenario())


def test_the_moment_of_the_last_walk_outlives_the_worker() -> None:
    async def scenario() -> None:
        world = shop()
        await opened(world)
        world.wall.seconds += 10 * DAY_SECONDS
        await sweeper(world).walk([0])
        world.flow.add("interactions", visit(customers_of(0, 4, 1)[0], 500))
        await world.drain()
        await world.shard.close(1.0)
        world.shard = world.make_shard("another")
        await world.shard.open()
        assert not world.shard.sweep_due
        world.wall.seconds += DAY_SECONDS
        assert world.shard.sweep_due

    run_quickly(scenario())


def test_a_walk_is_no_faster_than_its_rate() -> None:
    async def scenario() -> float:
        world = shop()
        world.settings = world.settings.model_copy(update={"sweep_rate": 10.0})
        await opened(world)
        started = asyncio.get_running_loop().time()
        await Sweeper(world.settings, world.store, {0: world.shard}).walk([0])
        return asyncio.get_running_loop().time() - started

    assert run_quickly(scenario()) >= 1.0


def test_no_walk_while_event_time_flies_and_then_one_over_fresh_scores_as_well() -> None:
    """Eleven customers take 1.1 s, in which half an interval must not pass."""

    async def scenario() -> None:
        world = World(settings=shard_settings(clock="event", sweep_rate=10.0))
        buyers, clock = customers_of(0, 4, 11), START_SECONDS - 1_000.0 * DAY_SECONDS
        for number, buyer in enumerate(buyers):
            world.flow.add("orders", order(buyer, number, occurred_at=clock))
        await opened(world)
        sweeps = sweeper(world)

        async def a_second_later(hours: float) -> bool:
            nonlocal clock
            clock += hours * 3_600
            world.flow.add("orders", order(buyers[0], int(clock), occurred_at=clock))
            await world.drain()
            await asyncio.sleep(1.0)
            return sweeps.flying()

        assert not sweeps.flying()
        assert await sweeps.walk([0]) == 11  # never looked at before: all of them
        assert not await a_second_later(10)
        assert await sweeps.walk([0]) == 0
        assert await a_second_later(48)
        assert world.shard.sweep_due
        assert await sweeps.walk([0]) == 0
        assert world.shard.sweep_due
        await asyncio.sleep(1.0)
        assert not sweeps.flying()
        assert await sweeps.walk([0]) == 11
        assert not world.shard.sweep_due
        assert {row["as_of"] for row in stored_rows(world).values()} == {"2021-02-20T08:13:20.000Z"}
        assert not await a_second_later(11)
        assert not await a_second_later(2)
        assert await sweeps.walk([0]) == 10  # not who has just bought

    run_quickly(scenario())


def test_who_is_not_committed_yet_when_a_walk_passes_is_not_forgotten() -> None:
    async def scenario() -> None:
        world = auto()
        gate = asyncio.Event()

        async def wait(commit: Commit) -> None:
            await gate.wait()

        world.store.before_commit = wait
        start = START_SECONDS - 1_000 * DAY_SECONDS
        await world.shard.open()
        for number, day in enumerate((0, 400)):
            event = order(f"c{9 + number}", number, occurred_at=start + day * DAY_SECONDS)
            world.shard.submit(as_chunk([event], at=number))
            await settle()
        assert world.shard.sweep_due
        assert await sweeper(world).walk([0]) == 0
        gate.set()
        await settle()
        assert world.shard.sweep_due
        assert await sweeper(world).walk([0]) == 1
        assert not world.shard.sweep_due
        assert stored_rows(world)["c9"]["recency_days"] == pytest.approx(400, abs=0.01)

    run_quickly(scenario())


def test_it_can_be_turned_off() -> None:
    async def scenario() -> None:
        world = shop(refresh_seconds=0.0)
        await asyncio.wait_for(sweeper(world).run(), 0.1)

    run_quickly(scenario())


def auto(**settings: Any) -> World:
    return World(settings=shard_settings(clock="auto", sweep_rate=NEVER_PAUSING, **settings))


def test_a_live_shard_that_falls_silent_altogether_is_swept_as_well() -> None:
    async def scenario() -> None:
        world = auto()
        world.flow.add("orders", order("c9", 1, amount=50.0))
        first = (await opened(world))["c9"]
        for days in (1, 1, 30):
            world.wall.seconds += days * DAY_SECONDS
            assert world.shard.sweep_due
            assert await sweeper(world).walk([0]) == 1
        last = stored_rows(world)["c9"]
        assert last["recency_days"] == pytest.approx(32, abs=0.01)
        assert last["p_alive"] < first["p_alive"]
        assert await world.shard.close(1.0)
        world.shard = world.make_shard("another")
        await world.shard.open()
        world.wall.seconds += DAY_SECONDS
        assert await sweeper(world).walk([0]) == 1

    run_quickly(scenario())


def test_a_replay_is_swept_by_its_own_time_though_the_empty_shard_was_looked_at() -> None:
    async def scenario() -> None:
        world = auto()
        await world.shard.open()
        assert not world.shard.sweep_due
        await sweeper(world).walk([0])
        start = START_SECONDS - 1_000 * DAY_SECONDS
        world.flow.add("orders", order("c9", 1, occurred_at=start, amount=50.0))
        await world.drain()
        if world.shard.sweep_due:
            await sweeper(world).walk([0])
        world.flow.add("orders", order("c10", 2, occurred_at=start + 351 * DAY_SECONDS))
        await world.drain()
        assert world.shard.sweep_due
        assert await sweeper(world).walk([0]) == 1
        assert stored_rows(world)["c9"]["recency_days"] == pytest.approx(351, abs=0.01)
        assert not world.shard.sweep_due

    run_quickly(scenario())


def test_a_shard_that_closes_takes_no_more_of_a_sweep() -> None:
    async def scenario() -> None:
        world = shop()
        await opened(world)
        world.wall.seconds += 10 * DAY_SECONDS
        walk = asyncio.create_task(sweeper(world).walk([0]))
        await asyncio.sleep(0)
        assert await world.shard.close(5.0)
        await walk

    run_quickly(scenario())
