"""Silence counts, too: scores of customers of whom nothing is heard are made again.

A worker walks over the customers of its shards, and has each shard score those again whose score
has become old. A shard does so between its events, a few customers at a time, and commits and
publishes what comes of it as it does after events. Nothing is kept but the moment of the last walk:
whatever interrupts one, the next begins with what is still old.
"""

import asyncio
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

    async def run(self) -> None:
        """Walk whenever a walk is due, until cancelled."""
        if not self._settings.refresh_seconds:
            return
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            due = [partition for partition, shard in self._shards.items() if shard.sweep_due]
            if due:
                try:
                    await self.walk(due)
                except TransientError as error:
                    log.warning("sweep interrupted", why=str(error))

    async def walk(self, partitions: list[int]) -> int:
        """Have the old scores of some shards made again; gives how many were.

        Raises
        ------
        StoreUnavailableError
            When the store does not answer.
        """
        begun = {p: (self._shards[p], self._shards[p].sweep_begins()) for p in partitions}
        made = 0
        async for partition, ids in self._store.scan_customers(partitions):
            for start in range(0, len(ids), BATCH_CUSTOMERS):
                part = ids[start : start + BATCH_CUSTOMERS]
                free_at = time.monotonic() + len(part) / self._settings.sweep_rate
                scored = await begun[partition][0].sweep(part) if partition in begun else None
                if scored is None:
                    begun.pop(partition, None)  # it is walked over again
                    break
                made += scored
                await asyncio.sleep(free_at - time.monotonic())
        for shard, moment in begun.values():
            shard.sweep_ended(moment)
        return made
