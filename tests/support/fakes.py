"""Stand-ins for the world around a shard: clock, store, producer, transport and time itself.

A :class:`Trace` collects what happened in which order; each stand-in can be made to wait or fail.
"""

import asyncio
import json
import selectors
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, TypeVar

from valuetide.schemas.topics import INPUTS
from valuetide.streams.chunk import Chunk
from valuetide.streams.clock import Clock
from valuetide.streams.closings import Closings
from valuetide.streams.decode import Decoder, Role
from valuetide.streams.metrics import Metrics
from valuetide.streams.partitioner import partition_of
from valuetide.streams.pool import Pool
from valuetide.streams.publish import Delivery, Outgoing
from valuetide.streams.settings import Settings
from valuetide.streams.shard import Services, Shard
from valuetide.streams.store import Commit, ShardRecord
from valuetide.streams.store.memory import MemoryStore
from valuetide.streams.turns import Turns

T = TypeVar("T")
Trace = list[tuple[Any, ...]]
Hook = Callable[..., Awaitable[None]]
START_SECONDS = 1_700_000_000


# -- time -----------------------------------------------------------------------------------------


class _NoWaiting(selectors.DefaultSelector):
    ahead = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everything waits for something that will never happen")
        if not ready and timeout is not None:
            self.ahead += max(0.0, timeout)
        return ready


class QuickLoop(asyncio.SelectorEventLoop):
    """A loop whose time is made up: sleeping takes none, and waiting for ever is an error."""

    def __init__(self) -> None:
        self._no_waiting = _NoWaiting()
        super().__init__(self._no_waiting)

    def time(self) -> float:
        return self._no_waiting.ahead


def run_quickly(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in a :class:`QuickLoop`."""
    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        return runner.run(main)


async def settle(rounds: int = 30) -> None:
    """Let everything happen that can happen without time passing."""
    for _ in range(rounds):
        await asyncio.sleep(0)


@dataclass
class Wall:
    """A wall clock that stands still until it is set."""

    seconds: float = START_SECONDS

    def __call__(self) -> float:
        return self.seconds


# -- events ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FakeRecord:
    """A consumed Kafka record."""

    key: bytes | None
    value: bytes | None
    offset: int
    timestamp: int = START_SECONDS * 1000
    headers: Sequence[tuple[str, bytes]] = ()


def customers_of(partition: int, partitions: int, number: int) -> list[str]:
    """Give ids of customers that belong in a partition."""
    ids = (f"c{i}" for i in count())
    return list(islice((c for c in ids if partition_of(c, partitions) == partition), number))


def as_bytes(event: dict[str, Any] | bytes | None) -> bytes | None:
    return json.dumps(event).encode() if isinstance(event, dict) else event


def as_record(
    event: dict[str, Any] | bytes | None,
    offset: int,
    headers: Sequence[tuple[str, bytes]] = (),
    *,
    keyed: bool = True,
) -> FakeRecord:
    """Give the record of an event, its customer as the key."""
    customer = event.get("customer_id") if isinstance(event, dict) and keyed else None
    key = str(customer).encode() if customer is not None else None
    return FakeRecord(key, as_bytes(event), offset, headers=headers)


def as_chunk(
    events: Sequence[dict[str, Any] | bytes | None],
    *,
    role: Role = "orders",
    partition: int = 0,
    at: int = 0,
    epoch: int = 0,
) -> Chunk:
    """Give a chunk of events with offsets from ``at`` on."""
    records = [as_record(event, offset) for offset, event in enumerate(events, at)]
    return Chunk(role, partition, records, epoch)


# -- store, producer, transport -------------------------------------------------------------------


FULL_IN_FLIGHT = 2
"""Full batches of a world that may wait for the network."""


class FakeStore(MemoryStore):
    """The store in memory; hooks run before a call, and after a commit was made."""

    def __init__(self, trace: Trace, top_size: int = 100) -> None:
        super().__init__(top_size)
        self.trace = trace
        self.before_commit: Hook | None = None
        self.after_commit: Hook | None = None
        self.before_read_shard: Hook | None = None
        self.before_read_states: Hook | None = None

    async def read_shard(self, partition: int) -> ShardRecord:
        self.trace.append(("read_shard", partition))
        if self.before_read_shard:
            await self.before_read_shard(partition)
        return await super().read_shard(partition)

    async def read_states(self, partition: int, ids: Sequence[str]) -> list[bytes | None]:
        self.trace.append(("read_states", tuple(ids)))
        if self.before_read_states:
            await self.before_read_states(ids)
        return await super().read_states(partition, ids)

    async def commit(self, commit: Commit) -> dict[str, float]:
        self.trace.append(("commit", commit.sequence))
        if self.before_commit:
            await self.before_commit(commit)
        floors = await super().commit(commit)
        self.trace.append(("committed", commit.sequence))
        if self.after_commit:
            await self.after_commit(commit)
        return floors


@dataclass
class Sent:
    """One call of the sender, and the future of its delivery."""

    topic: str
    partition: int
    keys: list[bytes]
    values: list[bytes]
    others: list[Outgoing]
    future: "asyncio.Future[object]"


class FakeSender:
    """Takes messages; acknowledges them at once, or when the test says so."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.calls: list[Sent] = []
        self.at_once = True
        self.before_send: Hook | None = None
        self.on_delivery: Callable[[Sent], BaseException | None] = lambda sent: None

    async def send(
        self,
        topic: str,
        partition: int,
        keys: Sequence[bytes],
        values: Sequence[bytes],
        others: Sequence[Outgoing] = (),
    ) -> Delivery:
        self.trace.append(("send", tuple(keys)))
        if self.before_send:
            await self.before_send()
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        sent = Sent(topic, partition, list(keys), list(values), list(others), future)
        self.calls.append(sent)
        if self.at_once:
            self.deliver(len(self.calls) - 1)
        return Delivery([future])

    def deliver(self, number: int, error: BaseException | None = None) -> None:
        """Acknowledge a call's messages, or fail them."""
        sent = self.calls[number]
        error = error or self.on_delivery(sent)
        if sent.future.done():
            return
        if error is None:
            self.trace.append(("delivered", number))
            sent.future.set_result(None)
        else:
            sent.future.set_exception(error)

    @property
    def scores(self) -> list[dict[str, Any]]:
        """Every score message, in order."""
        return [json.loads(value) for sent in self.calls for value in sent.values]

    def others(self, topic: str) -> list[Outgoing]:
        """Every other message for a topic, in order."""
        return [out for sent in self.calls for out in sent.others if out.topic == topic]


class FakeFlow:
    """The transport of one partition: three logs, where it stands in each, and its epoch."""

    def __init__(self, trace: Trace, partition: int = 0) -> None:
        self.trace = trace
        self.partition = partition
        self.logs: dict[Role, list[FakeRecord]] = {role: [] for role in INPUTS}
        self.at: dict[Role, int] = dict.fromkeys(INPUTS, 0)
        self.epoch = 0
        self.paused = False
        self.before_rewind: Hook | None = None

    @property
    def rewinds(self) -> list[tuple[dict[Role, int], int]]:
        """Positions and epoch of every rewind."""
        return [(entry[1], entry[2]) for entry in self.trace if entry[0] == "rewind"]

    async def rewind(self, partition: int, positions: dict[Role, int], epoch: int) -> None:
        assert partition == self.partition
        if self.before_rewind:
            await self.before_rewind()
        self.trace.append(("rewind", dict(positions), epoch))
        self.at, self.epoch = dict(positions), epoch

    def pause(self, partition: int) -> None:
        assert not self.paused
        self.trace.append(("pause", partition))
        self.paused = True

    def resume(self, partition: int) -> None:
        assert self.paused
        self.trace.append(("resume", partition))
        self.paused = False

    def add(
        self,
        role: Role,
        event: dict[str, Any] | bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        *,
        gap: int = 0,
        keyed: bool = True,
    ) -> FakeRecord:
        """Append an event to a log; ``gap`` offsets before it hold nothing, as after compaction."""
        log = self.logs[role]
        offset = (log[-1].offset + 1 if log else 0) + gap
        log.append(as_record(event, offset, headers, keyed=keyed))
        return log[-1]

    def fetch(self, role: Role, most: int) -> Chunk | None:
        """Give the next chunk of a topic, with at most so many records."""
        log = self.logs[role]
        start = bisect_left(log, self.at[role], key=lambda record: record.offset)
        records = log[start : start + most]
        if not records or self.paused:
            return None
        self.at[role] = records[-1].offset + 1
        return Chunk(role, self.partition, records, self.epoch)


def shard_settings(**values: Any) -> Settings:
    """Give settings that suit a test: four partitions, event time, short waits."""
    given: dict[str, Any] = {"partitions": 4, "clock": "event", "heartbeat_seconds": 0.01}
    return Settings(**(given | values))


@dataclass
class World:
    """A shard and everything around it."""

    settings: Settings = field(default_factory=shard_settings)
    partition: int = 0
    writer: str = "worker"
    memory_limit: int = 1_000_000
    trace: Trace = field(default_factory=list)
    wall: Wall = field(default_factory=Wall)
    faults: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = FakeStore(self.trace)
        self.sender = FakeSender(self.trace)
        self.flow = FakeFlow(self.trace, self.partition)
        self.metrics = Metrics()
        self.turns = Turns(full_in_flight=FULL_IN_FLIGHT)
        self.shard = self.make_shard()

    def make_shard(self, writer: str | None = None) -> Shard:
        """Give a shard in this world, by default of the same worker."""
        settings = self.settings
        services = Services(
            settings=settings,
            clock=Clock(settings.clock, settings.live_within_seconds, self.wall),
            store=self.store,
            sender=self.sender,
            metrics=self.metrics,
            writer=writer or self.writer,
            decoders={
                role: Decoder(
                    role, settings.vocabulary, settings.max_event_bytes, settings.series.labels
                )
                for role in INPUTS
            },
            pool=Pool(),
            closings=Closings(settings),
            turns=self.turns,
        )
        return Shard(
            self.partition,
            services,
            self.flow,
            self.faults.append,
            lambda: self.memory_limit,
            count().__next__,
        )

    async def drain(
        self, shard: Shard | None = None, most: int = 1_000, rounds: int = 2_000
    ) -> None:
        """Feed the logs to the shard, all topics in turn, until everything is committed."""
        shard = shard or self.shard
        for _ in range(rounds):
            for role in INPUTS:
                if chunk := self.flow.fetch(role, most):
                    shard.submit(chunk)
            await settle(3)
            await asyncio.sleep(0.01)
            if self.faults:
                raise self.faults[0]
            ends = {role: log[-1].offset + 1 for role, log in self.flow.logs.items() if log}
            if shard.idle and all(shard.committed[role] >= end for role, end in ends.items()):
                return
        raise AssertionError(f"not all was committed: {shard.committed}, {self.flow.at}")

    async def record(self) -> ShardRecord:
        """Give the shard's record, past all hooks and unseen by the trace."""
        return await MemoryStore.read_shard(self.store, self.partition)
