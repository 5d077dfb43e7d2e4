"""Turns: between two batches, of whichever shards, the event loop has a moment for all else.

A batch is worked on for milliseconds in which nothing else of the loop happens. Were the next one
begun at once, each step of what brings events in and sends scores out would wait for a batch, and a
score takes a dozen of such steps, each in a round of the loop of its own. In the moment between,
they are all done, and what came in meanwhile makes the next batch larger rather than another one.
"""

import asyncio

BREATH_SECONDS = 0.005
"""More makes batches larger and fewer, at 1,000 events/s, and scores later; docs/decisions.md."""


class Turns:
    """Lets shards begin a batch one after the other.

    Parameters
    ----------
    breath_seconds
        How long the loop is left alone after a batch. A shard that waits for the store in the
        middle of a batch holds nobody up.
    """

    def __init__(self, breath_seconds: float = 0.0) -> None:
        self._breath_seconds = breath_seconds
        self._free_at = 0.0
        self._line = asyncio.Lock()

    async def mine(self) -> None:
        """Wait for a turn; who waited longest has the next."""
        loop = asyncio.get_running_loop()
        async with self._line:
            if (wait := self._free_at - loop.time()) > 0.0:
                await asyncio.sleep(wait)

    def over(self) -> None:
        """Note that a batch was worked on until now."""
        self._free_at = asyncio.get_running_loop().time() + self._breath_seconds
