"""A flood of dead letters pauses its shard, says why, and loses nothing."""

import random
from collections import deque
from typing import Any

import pytest

from tests.support.fakes import World, as_chunk, customers_of, run_quickly, settle, shard_settings
from tests.unit.streams.helpers import order, stored_rows, visit
from valuetide.streams.decode import Rejection
from valuetide.streams.flood import Flood
from valuetide.streams.shard import FOR_GOOD_MS
from valuetide.streams.store import StoreUnavailableError

ANN, BOB = customers_of(0, 4, 2)
BAD = b"no json"
WHY = (
    "partition 0: 5 events of orders in a row were rejected, last reason 'value: Invalid JSON: "
    "expected ident at line 1 column 2'; mend the producer or the settings, then restart, or raise "
    "VALUETIDE_DEAD_LETTER_RUN"
)


def rejections(flags: list[bool], at: int = 0) -> list[Rejection]:
    return [Rejection(i + at, "kind", "kind: wrong") for i, bad in enumerate(flags) if bad]


def flood(**values: Any) -> Flood:
    return Flood(3, shard_settings(**values))


def world(**values: Any) -> World:
    # Chunks stay apart.
    given = {"dead_letter_run": 5, "max_batch_events": 1} | values
    return World(settings=shard_settings(**given))


# -- counting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_limits_are_reached_where_a_plain_count_reaches_them(seed: int) -> None:
    """However the events are cut into chunks; judged at the end of each one."""
    chance = random.Random(seed)
    run, window, ratio = chance.randint(0, 9), chance.randint(1, 40), chance.choice((0, 0.5, 0.8))
    watch = flood(dead_letter_run=run, dead_letter_window=window, dead_letter_ratio=ratio)
    last: deque[bool] = deque(maxlen=window)
    in_a_row = 0
    while not watch.why and chance.random() > 0.005:
        share = chance.choice((0, 0.3, 0.7))
        flags = [chance.random() < share for _ in range(chance.randint(1, 60))]
        watch.see("orders", len(flags), rejections(flags))
        for bad in flags:
            last.append(bad)
            in_a_row = in_a_row + 1 if bad else 0
        too_long = run > 0 and in_a_row >= run
        too_many = ratio > 0 and len(last) == window and sum(last) >= ratio * window
        assert bool(watch.why) == (any(flags) and (too_long or too_many))
        if watch.why:
            assert ("in a row" in watch.why) == too_long


def test_events_in_a_row_are_those_of_one_topic() -> None:
    watch = flood(dead_letter_run=4)
    for _ in range(2):
        watch.see("orders", 2, rejections([True, True]))
        watch.see("interactions", 50, [])
    assert watch.why.startswith("partition 3: 4 events of orders in a row were rejected")


def test_zero_turns_a_limit_off() -> None:
    watch = flood(dead_letter_run=0, dead_letter_ratio=0)
    for _ in range(30):
        watch.see("orders", 1_000, rejections([True] * 1_000))
    assert watch.why == ""


def test_the_share_counts_events_of_all_topics_and_only_a_full_window() -> None:
    watch = flood(dead_letter_run=0, dead_letter_window=100)
    watch.see("orders", 49, rejections([True] * 49))
    watch.see("interactions", 50, [])
    assert watch.why == ""
    watch.see("orders", 1, rejections([True]))
    assert watch.why.startswith("partition 3: 50% of the last 100 events were rejected")
    assert watch.why.endswith("or raise VALUETIDE_DEAD_LETTER_RATIO")


def test_defaults_bear_a_few_thousand_bad_events() -> None:
    watch = flood()
    watch.see("orders", 9_999, rejections([True] * 9_999))
    assert watch.why == ""
    watch.see("orders", 1, rejections([True]))
    assert "10,000 events of orders in a row" in watch.why


# -- the shard ------------------------------------------------------------------------------------


def test_a_flood_pauses_the_shard_and_commits_what_is_in_hand() -> None:
    async def scenario() -> None:
        here = world()
        await here.shard.open()
        here.shard.submit(as_chunk([order(ANN, 1), *[BAD] * 3]))
        here.shard.submit(as_chunk([BAD] * 2, at=4))
        for at in (6, 7, 8):
            here.shard.submit(as_chunk([order(BOB, at)], at=at))
        await settle(100)
        assert here.shard.why_paused == WHY
        assert here.flow.paused
        record = await here.record()
        assert record.fields["offset:orders"] == "6"
        assert record.fields["count:orders:dead_letter"] == "5"
        # The watch over the series must not take the silence for a fall in sales.
        assert int(record.fields["paused_until"]) == FOR_GOOD_MS
        assert record.fields["behind:orders"] == "1"
        assert len(here.sender.others("dead-letters")) == 5
        assert stored_rows(here).keys() == {ANN}
        assert await here.shard.close(1.0)
        assert not here.flow.paused

    run_quickly(scenario())


def test_a_paused_shard_stays_paused_through_a_rebalance() -> None:
    """It is opened again in the same process, with its memory; a new process counts anew."""

    async def scenario() -> None:
        here = world()
        await here.shard.open()
        here.shard.submit(as_chunk([BAD] * 6))
        await settle(100)
        assert await here.shard.close(1.0)
        await here.shard.open()
        here.shard.reposition()
        assert here.flow.paused
        assert here.shard.why_paused
        await here.shard.close(1.0)

        other = here.make_shard()
        await other.open()
        here.flow.logs["orders"] = []
        other.submit(as_chunk([order(ANN, 6), BAD], at=6, epoch=other.epoch))
        await settle(100)
        assert not other.why_paused
        assert stored_rows(here).keys() == {ANN}
        await other.close(1.0)

    run_quickly(scenario())


def test_a_shard_goes_on_by_itself_when_it_is_told_to() -> None:
    async def scenario() -> None:
        import asyncio

        here = world(dead_letter_pause_seconds=60.0)
        await here.shard.open()
        here.shard.submit(as_chunk([BAD] * 5))
        here.shard.submit(as_chunk([order(ANN, 5)], at=5))
        await settle(100)
        assert here.shard.why_paused
        assert not stored_rows(here)
        await asyncio.sleep(59)
        assert here.shard.why_paused
        await asyncio.sleep(2)
        await settle(100)
        assert not here.shard.why_paused
        assert not here.flow.paused
        assert stored_rows(here).keys() == {ANN}
        fields = (await here.record()).fields
        assert (fields["paused_until"], fields["behind:orders"]) == ("0", "0")
        await here.shard.close(1.0)

    run_quickly(scenario())


def test_what_is_read_again_after_a_failure_does_not_count_twice() -> None:
    async def scenario() -> None:
        here = world()
        failures = iter([True, True, False])

        async def fail(*_: object) -> None:
            if next(failures, False):
                raise StoreUnavailableError("away")

        here.store.before_commit = fail
        for _ in range(4):
            here.flow.add("orders", BAD)
        here.flow.add("interactions", visit(ANN, 1))
        await here.shard.open()
        await here.drain()
        assert not here.shard.why_paused
        await here.shard.close(1.0)

    run_quickly(scenario())


def test_a_shard_whose_last_commit_fails_stays_paused_where_it_was_committed() -> None:
    """Nothing is lost: whoever goes on reads the events in hand again."""

    async def scenario() -> None:
        here = world()
        await here.shard.open()
        failures = iter([True])

        async def fail(*_: object) -> None:
            if next(failures, False):
                raise StoreUnavailableError("away")

        here.store.before_commit = fail
        here.shard.submit(as_chunk([BAD] * 5))
        import asyncio

        await asyncio.sleep(5)
        await settle(100)
        assert here.shard.why_paused
        assert here.flow.paused
        assert here.flow.rewinds[-1][0]["orders"] == 0
        assert here.faults == []
        await here.shard.close(1.0)

    run_quickly(scenario())
