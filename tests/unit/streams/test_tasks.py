"""Tasks end although they miss a cancellation."""

import asyncio

import pytest

from valuetide.streams.tasks import end, whole


def test_who_misses_the_first_time_is_told_again() -> None:
    missed = 0

    async def deaf() -> None:
        nonlocal missed
        while missed < 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                missed += 1
        await asyncio.sleep(60)

    async def scenario() -> tuple[bool, bool]:
        tasks = [asyncio.create_task(deaf()), asyncio.create_task(asyncio.sleep(60))]
        await asyncio.sleep(0)
        await asyncio.wait_for(end(tasks), 10)
        return tasks[0].cancelled(), tasks[1].cancelled()

    assert asyncio.run(scenario()) == (True, True)
    assert missed == 2


def test_one_that_ended_by_an_error_is_left_at_that() -> None:
    async def fails() -> None:
        raise ValueError

    async def scenario() -> None:
        task = asyncio.create_task(fails())
        await asyncio.sleep(0)
        await end([task])
        await end([])

    asyncio.run(scenario())


def test_a_cleanup_goes_on_to_its_end_however_often_its_owner_is_cancelled() -> None:
    """Even where it has to end a task that misses a cancellation itself."""
    cancelled, cleaned = 0, False

    async def deaf() -> None:
        nonlocal cancelled
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled += 1
                if cancelled > 1:
                    raise

    async def clean(task: "asyncio.Task[None]") -> None:
        nonlocal cleaned
        await end([task])
        await asyncio.sleep(0.3)
        cleaned = True

    async def owner() -> None:
        task = asyncio.create_task(deaf())
        try:
            await asyncio.sleep(60)
        finally:
            await whole(clean(task))

    async def scenario() -> tuple[bool, int]:
        task = asyncio.create_task(owner())
        await asyncio.sleep(0.01)
        await asyncio.wait_for(end([task]), 10)
        return task.cancelled(), len(asyncio.all_tasks())

    assert asyncio.run(scenario()) == (True, 1)
    assert cleaned


def test_what_fails_in_a_cleanup_is_raised() -> None:
    async def fails() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        asyncio.run(whole(fails()))
