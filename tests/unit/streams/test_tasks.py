"""Tasks end although they miss a cancellation."""

import asyncio

from valuetide.streams.tasks import end


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
