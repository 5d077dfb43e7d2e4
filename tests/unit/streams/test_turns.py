"""Shards begin their batches one after the other, with a moment between for the event loop."""

import asyncio
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from tests.support.fakes import run_quickly
from valuetide.streams.cli.common import run, worker_loop
from valuetide.streams.turns import Turns


def test_who_waits_has_a_turn_in_order_and_a_moment_after_the_one_before() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        turns = Turns(0.002)
        begun: list[tuple[str, float]] = []

        async def batch(name: str) -> None:
            await turns.mine()
            begun.append((name, loop.time()))
            turns.over()

        await asyncio.gather(*(batch(name) for name in "abc"))
        assert [name for name, _ in begun] == ["a", "b", "c"]
        assert [at for _, at in begun] == pytest.approx([0.0, 0.002, 0.004])
        await asyncio.sleep(1.0)
        await batch("d")
        assert begun[-1][1] == pytest.approx(1.004)

    run_quickly(scenario())


@pytest.mark.parametrize(("full", "order"), [(True, "AxyBxyCxyAxy"), (False, "ABCxyxyxyAxy")])
def test_between_two_full_batches_whoever_has_less_has_a_turn(full: bool, order: str) -> None:
    async def scenario() -> None:
        turns = Turns(0.002)
        begun: list[str] = []
        others: list[asyncio.Task[None]] = []

        async def batch(name: str, *, full: bool) -> None:
            await turns.mine(full=full)
            begun.append(name)
            if name.isupper():  # events of other shards come meanwhile
                others.extend(asyncio.create_task(batch(one, full=False)) for one in "xy")
            turns.over()

        await asyncio.gather(*(batch(name, full=full) for name in "ABC"))
        await asyncio.gather(batch("A", full=full), *others)
        await asyncio.gather(*others)
        assert "".join(begun) == order

    run_quickly(scenario())


def test_who_waits_for_the_store_in_a_batch_holds_nobody_up() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        turns = Turns(0.002)
        ended: list[tuple[str, float]] = []

        async def batch(name: str, waits: float) -> None:
            await turns.mine()
            await asyncio.sleep(waits)
            turns.over()
            ended.append((name, loop.time()))

        await asyncio.gather(batch("slow", 5.0), batch("quick", 0.0))
        assert [name for name, _ in ended] == ["quick", "slow"]
        assert [at for _, at in ended] == pytest.approx([0.0, 5.0])

    run_quickly(scenario())


@pytest.mark.parametrize("make_loop", [worker_loop, asyncio.new_event_loop])
def test_the_moment_begins_when_the_batch_ends(
    make_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """By a true clock and with a batch that keeps the loop busy, as they do."""
    spans: list[tuple[float, float]] = []

    async def scenario() -> None:
        turns = Turns(0.02)

        async def batch() -> None:
            await turns.mine()
            begin = time.monotonic()
            time.sleep(0.05)  # noqa: ASYNC251 - a batch lets nobody else in
            spans.append((begin, time.monotonic()))
            turns.over()

        await asyncio.gather(batch(), batch(), batch())

    run(scenario(), make_loop)
    gaps = [after[0] - before[1] for before, after in pairwise(spans)]
    assert len(gaps) == 2
    assert all(gap > 0.015 for gap in gaps)
