"""Signals that ask to end, taken for a wish to stop in good order."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stopping(stop: asyncio.Event) -> Iterator[None]:
    """Set ``stop`` on the first signal to end; a second one interrupts."""
    loop = asyncio.get_running_loop()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        loop.call_soon_threadsafe(stop.set)  # also wakes a loop that sleeps

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.signal(number, on_signal) for number in numbers}
    except ValueError:  # not in the main thread: whoever runs it there handles signals
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
