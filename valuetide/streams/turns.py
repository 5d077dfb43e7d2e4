"""Turns: between two batches, of whichever shards, the event loop has a moment for all else.

A batch is worked on for milliseconds in which nothing else of the loop happens. Were the next one
begun at once, each step of what brings events in and sends scores out would wait for a batch, and a
score takes a dozen of such steps, each in a round of the loop of its own. In the moment between,
they are all done, and what came in meanwhile makes the next batch larger rather than another one.

A shard that has more to do than one batch takes waits behind those that have less, for a turn of
each: how long live events wait depends on the length of one full batch, and not on how many shards
have fallen behind.
"""

import asyncio

BREATH_SECONDS = 0.005
"""More makes batches larger and fewer, at 1,000 events/s, and scores later; docs/decisions.md."""

EVENTS_IN_FLIGHT = 20_000
"""Beside live shards, events in full batches of a worker that may wait for the network, all shards
together. The store works on each for about as long as the worker did, and live ones stand behind
them there. With nobody live the worker is kept busy with more."""

LIVE_SECONDS = 5.0
SHARE_BESIDE_LIVE = 4
"""Beside shards that are up to date a batch is a quarter as large: they wait for less of it, in the
event loop, at the broker and in the store. An event costs more in a smaller batch."""


class Turns:
    """Lets shards begin a batch one after the other.

    Parameters
    ----------
    breath_seconds
        How long the loop is left alone after a batch. A shard that waits for the store in the
        middle of a batch holds nobody up.
    full_in_flight
        How many full batches may wait for the network.
    """

    def __init__(self, breath_seconds: float = 0.0, full_in_flight: int = 2) -> None:
        self._breath_seconds = breath_seconds
        self._free_at = 0.0
        self._line = asyncio.Lock()
        self._full_line = asyncio.Lock()
        self._live_at: dict[int, float] = {}
        self.full_in_flight = asyncio.Semaphore(full_in_flight)
        """Held by full batches beside live shards until they are committed."""

    async def mine(self, *, full: bool = False) -> None:
        """Wait for a turn; who waited longest has the next.

        Parameters
        ----------
        full
            Whether the batch is as large as a batch may be. Between two of those, everybody else
            who waits has a turn.
        """
        if not full:
            await self._wait_in_line()
            return
        async with self._full_line:
            # Not in the line yet: who comes in this moment goes first.
            await self._wait_until_free()
            await self._wait_in_line()

    def live(self, partition: int) -> None:
        """Note that a shard is up to date and had events."""
        self._live_at[partition] = asyncio.get_running_loop().time()

    def behind(self, partition: int) -> None:
        """Note that a shard has more to do than it has read, or has left."""
        self._live_at.pop(partition, None)

    @property
    def beside_live(self) -> bool:
        """Whether a shard was up to date lately, and had events."""
        now = asyncio.get_running_loop().time()
        return any(now - at <= LIVE_SECONDS for at in self._live_at.values())

    def room(self, most: int) -> int:
        """Give how many events a batch may have, of so many at most."""
        return max(1, most // SHARE_BESIDE_LIVE) if self.beside_live else most

    async def _wait_in_line(self) -> None:
        async with self._line:
            await self._wait_until_free()

    async def _wait_until_free(self) -> None:
        if (wait := self._free_at - asyncio.get_running_loop().time()) > 0.0:
            await asyncio.sleep(wait)

    def over(self) -> None:
        """Note that a batch was worked on until now."""
        self._free_at = asyncio.get_running_loop().time() + self._breath_seconds
