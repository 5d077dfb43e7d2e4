"""Silence counts, too: scores of customers of whom nothing is heard are made again.

A worker walks over the customers of its shards, and has each shard score those again whose score
has become old. A shard does so between its events, a few customers at a time, and commits and
publishes what comes of it as it does after events. Nothing is kept but the moment of the last walk:
whatever interrupts one, the next begins with what is still old.

While a replay drives event time so fast that who is scored is old again before a walk is over,
there is none. When it slows down all are scored again, the fresh ones too: theirs were made with
what shards had learned that were ahead of others or behind.
"""

import asyncio
import math
import time
from collections.abc import Mapping

import structlog

from valuetide.schemas.errors import TransientError
from valuetide.streams.settings import Settings
from valuetide.streams.shard import Shard
from valuetide.streams.store import StateStore

log = structlog.get_logger(__name__)

BATCH_CUSTOMERS = 200
"""A shard is busy with so many for a few milliseconds, for which an event may have to wait."""

LOOK_SECONDS = 1.0
FLYING = 10.0
"""Event time runs by so many times faster than the wall clock in a replay, and never otherwise."""


class Sweeper:
    """Walks over the customers of a worker's shards.

    Parameters
    ----------
    settings
        ``refresh_seconds`` and ``sweep_rate``.
    store
        Knows who there is.
    shards
        The worker's shards by partition, as they are at the moment.
    """

    def __init__(self, settings: Settings, store: StateStore, shards: Mapping[int, Shard]) -> None:
        self._settings = settings
        self._store = store
        self._shards = shards
        self._moments: dict[int, int] = {}
        self._looked_at = -math.inf
        self._flying = False
        self._flown: set[int] = set()

    async def run(self) -> None:
        """Walk whenever a walk is due, until cancelled."""
        if not self._settings.refresh_seconds:
            return
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.flying():
                continue
            due = [partition for partition, shard in self._shards.items() if shard.sweep_due]
            if due:
                try:
                    await self.walk(due)
                except TransientError as error:
                    log.warning("sweep interrupted", why=str(error))

    def flying(self) -> bool:
        """Whether event time runs too fast for a walk, by what it did since the last look."""
        at = asyncio.get_running_loop().time()
        passed = at - self._looked_at
        if passed >= LOOK_SECONDS:
            now = {partition: shard.sweep_begins() for partition, shard in self._shards.items()}
            moved_ms = max((abs(now[p] - self._moments.get(p, now[p])) for p in now), default=0)
            speed = moved_ms / 1_000.0 / passed
            customers = sum(shard.customers for shard in self._shards.values())
            walk_seconds = customers / self._settings.sweep_rate
            moves_on = speed * walk_seconds > self._settings.refresh_seconds / 2.0
            self._flying = speed > FLYING and moves_on
            if self._flying:
                self._flown.update(now)
            # Of what a new shard did before there is only that no walk has been made since.
            new = now.keys() - self._moments.keys()
            self._flown.update(partition for partition in new if self._shards[partition].sweep_due)
            self._moments, self._looked_at = now, at
        return self._flying

    async def walk(self, partitions: list[int]) -> int:
        """Have the old scores of some shards made again; gives how many were.

        Raises
        ------
        StoreUnavailableError
            When the store does not answer.
        """
        begun = {p: (self._shards[p], self._shards[p].sweep_begins()) for p in partitions}
        flown = self._flown & begun.keys()
        made = 0
        async for partition, ids in self._store.scan_customers(partitions):
            for start in range(0, len(ids), BATCH_CUSTOMERS):
                if self.flying():
                    return made
                part = ids[start : start + BATCH_CUSTOMERS]
                free_at = time.monotonic() + len(part) / self._settings.sweep_rate
                scored = None
                if partition in begun:
                    shard, fresh_too = begun[partition][0], partition in flown
                    scored = await shard.sweep(part, fresh_too=fresh_too)
                if scored is None:
                    begun.pop(partition, None)  # it is walked over again
                    break
                made += scored
                await asyncio.sleep(free_at - time.monotonic())
        for partition, (shard, moment) in begun.items():
            shard.sweep_ended(moment)
            self._flown.discard(partition)
        return made
