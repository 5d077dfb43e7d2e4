"""Ending tasks for certain."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable
from typing import Any, Final

CANCEL_AGAIN_SECONDS: Final = 0.1


async def end(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel tasks until all of them have ended, however they end.

    Once may not be enough: before Python 3.12 ``asyncio.wait_for``, by which the client of Redis
    sends, swallows a cancellation that comes as it is done (CPython issue 86296).
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_SECONDS)
        for task in done:
            if not task.cancelled():
                task.exception()  # heard, or asyncio would print it at the end


async def whole(cleanup: "Coroutine[Any, Any, None]") -> None:
    """Do a cleanup to its end, however often its task is cancelled meanwhile.

    For what a task that :func:`end` cancels does in its ``finally``: it would be cancelled there
    once more, and again. A cancellation that comes in between is not passed on, as the task is
    ending anyhow.
    """
    task = asyncio.ensure_future(cleanup)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()
