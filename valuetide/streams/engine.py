"""The engine of a worker: its shards, and what they share, from assignment to revocation."""

import asyncio
import itertools
import os
import socket
import uuid
from collections.abc import Callable

import structlog
from faust.types import TP

from valuetide.schemas.errors import FaultError
from valuetide.schemas.topics import INPUTS
from valuetide.streams.chunk import Chunk
from valuetide.streams.clock import Clock
from valuetide.streams.closings import Closings
from valuetide.streams.decode import Decoder, Role
from valuetide.streams.metrics import Metrics, ModelCollector
from valuetide.streams.pool import Pool
from valuetide.streams.settings import Settings
from valuetide.streams.shard import Flow, Sender, Services, Shard
from valuetide.streams.store import StateStore
from valuetide.streams.sweep import Sweeper
from valuetide.streams.turns import BREATH_SECONDS, EVENTS_IN_FLIGHT, Turns
from valuetide.streams.watch import TrendWatch

log = structlog.get_logger(__name__)

DRAIN_SHARE = 0.5
"""Part of the rebalance timeout that may pass before work in hand is abandoned."""


class Engine:
    """Shards by partition number.

    Parameters
    ----------
    settings
        The settings.
    store, sender, metrics, clock
        What the shards use.
    flow
        The transport, to set positions and to pause.
    on_fault
        Called when the worker cannot go on.
    """

    def __init__(
        self,
        settings: Settings,
        store: StateStore,
        sender: Sender,
        metrics: Metrics,
        clock: Clock,
        flow: Flow,
        on_fault: Callable[[BaseException], None],
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.writer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        pool = Pool()
        metrics.registry.register(ModelCollector(lambda: pool.knowledge))
        self._services = Services(
            settings=settings,
            clock=clock,
            store=store,
            sender=sender,
            metrics=metrics,
            writer=self.writer,
            decoders={
                role: Decoder(
                    role, settings.vocabulary, settings.max_event_bytes, settings.series.labels
                )
                for role in INPUTS
            },
            pool=pool,
            closings=Closings(settings),
            turns=Turns(BREATH_SECONDS, max(1, EVENTS_IN_FLIGHT // settings.max_batch_events)),
        )
        self._flow = flow
        self._on_fault = on_fault
        self._roles: dict[str, Role] = {getattr(settings.topics, role): role for role in INPUTS}
        self._open: dict[int, Shard] = {}
        self._parked: dict[int, Shard] = {}
        self._lock = asyncio.Lock()
        self._epochs = itertools.count(1)
        self._assigned = asyncio.Event()
        self.sweeper = Sweeper(settings, store, self._open)
        self.watch = TrendWatch(settings, store, sender, metrics, clock, self.writer, self._open)

    async def wait_until_assigned(self) -> None:
        """Wait while a rebalance is under way, in which an assignment is not yet the new one."""
        await self._assigned.wait()

    async def open_shards(self, assigned: set[TP]) -> dict[TP, tuple[int, int]]:
        """Open the shards of the assigned partitions, and those alone; give where inputs stand.

        Parameters
        ----------
        assigned
            Partitions of the three inputs.

        Returns
        -------
        dict
            For each of them the offset to read from, and the epoch of chunks from there.

        Raises
        ------
        StoreUnavailableError
            When the store does not answer.
        FaultError
            When a partition is not assigned for all three inputs, or the state does not fit.
        """
        async with self._lock:
            by_partition: dict[int, set[str]] = {}
            for tp in assigned:
                if tp.topic in self._roles:
                    by_partition.setdefault(tp.partition, set()).add(tp.topic)
            for partition, topics in by_partition.items():
                if topics != set(self._roles):
                    missing = ", ".join(sorted(set(self._roles) - topics))
                    raise FaultError(
                        f"partition {partition} of {missing} is not there: the topic was deleted, "
                        "or has fewer partitions than the other inputs, see `valuetide doctor`"
                    )
            await self._close(self._open.keys() - by_partition.keys())
            opened = [p for p in by_partition if p not in self._open]
            for known in self._open.values():
                known.reposition()
            results = await asyncio.gather(
                *(self._open_shard(p) for p in opened), return_exceptions=True
            )
            for result in results:
                if result is not None:
                    raise result
            self.metrics.shards.set(len(self._open))
            if opened:
                log.info("shards opened", partitions=sorted(opened))
            return {
                tp: (shard.positions[self._roles[tp.topic]], shard.epoch)
                for tp in assigned
                if tp.topic in self._roles and (shard := self._open.get(tp.partition))
            }

    async def _open_shard(self, partition: int) -> None:
        shard = self._parked.pop(partition, None) or Shard(
            partition,
            self._services,
            self._flow,
            self._on_fault,
            self._memory_limit,
            self._epochs.__next__,
        )
        await shard.open()
        shard.reposition()
        self._open[partition] = shard

    def _memory_limit(self) -> int:
        return self.settings.max_customers_in_memory // max(1, len(self._open))

    async def close_shards(self, partitions: set[int]) -> None:
        """Finish what is in hand of these shards and let go of them.

        A shard that ended cleanly stays in memory for the case that it comes back at once, as
        in most rebalances; it is then used only if nobody has written to it in between.
        """
        self._assigned.clear()
        async with self._lock:
            await self._close(partitions)

    async def _close(self, partitions: set[int]) -> None:
        closing = [self._open.pop(p) for p in partitions if p in self._open]
        limit = self.settings.rebalance_timeout_seconds * DRAIN_SHARE
        await asyncio.gather(*(shard.close(limit) for shard in closing))
        self._parked.update({shard.partition: shard for shard in closing})
        for shard in closing:
            self.metrics.lost(shard.partition)
        self.metrics.shards.set(len(self._open))

    async def drain(self) -> None:
        """Finish and commit what is in hand of all shards, and close them."""
        await self.close_shards(set(self._open))

    def assigned(self, partitions: set[int]) -> None:
        """Note a new assignment; free the memory of parked shards that went to another worker."""
        self._assigned.set()
        for partition in [p for p in self._parked if p not in partitions]:
            del self._parked[partition]

    def submit(self, chunk: Chunk) -> None:
        """Give a chunk to its shard; one for a shard that is not ours is dropped."""
        shard = self._open.get(chunk.partition)
        if shard is not None:
            shard.submit(chunk)

    def committed_positions(self) -> dict[TP, int]:
        """Give for each partition the offset up to which the state has been committed.

        Shards that were closed in good order count, too: the group's offsets are written once
        more when the worker has let go of its shards.
        """
        closed = [shard for shard in self._parked.values() if shard.sequence]
        return {
            TP(topic, shard.partition): shard.committed[role]
            for shard in (*self._open.values(), *closed)
            for topic, role in self._roles.items()
        }

    @property
    def shards(self) -> dict[int, Shard]:
        """The open shards."""
        return self._open

    @property
    def why_paused(self) -> dict[int, str]:
        """Why shards take no more events, by partition, for each one that does not."""
        return {p: shard.why_paused for p, shard in sorted(self._open.items()) if shard.why_paused}

    def measure(self) -> None:
        """Bring the gauges up to date."""
        self.metrics.paused_shards.set(len(self.why_paused))
        held = (*self._open.values(), *self._parked.values())
        self.metrics.customers.set(sum(shard.in_memory for shard in held))
