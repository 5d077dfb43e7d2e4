"""A shard: the customers of one partition of the three input topics, and what is done to them.

    chunks -> decode -> resolve rows -> fold -> score -> publish -> commit

One task per shard takes what waits of all three topics from a queue as one batch, and does the
steps up to ``score`` one batch after the other: each topic's events are decoded and folded by
themselves, then all customers that any of them changed are scored once. Publishing and committing
follow in tasks of their own, so that the next batch is worked on while earlier ones wait for the
network. Publishing keeps the order of the batches, and so does committing; a commit is made only
when all that its batch sends out has been acknowledged.

When anything fails, everything in memory is dropped: the shard reads its record from the store,
has the transport set its positions back to it, and goes on from there. Chunks that were fetched
before that carry an older epoch and are ignored.
"""

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from valuetide.schemas.errors import FaultError, TransientError
from valuetide.schemas.topics import INPUTS
from valuetide.streams.chunk import Chunk, Record
from valuetide.streams.clock import Clock
from valuetide.streams.closings import Closings
from valuetide.streams.customer_alerts import UNTOLD
from valuetide.streams.decode import Decoded, Decoder, Rejection, Role
from valuetide.streams.flood import Flood
from valuetide.streams.metrics import Metrics
from valuetide.streams.partitioner import partition_of
from valuetide.streams.pool import Pool
from valuetide.streams.publish import Delivery, Outgoing, alert_messages
from valuetide.streams.records import score_columns, score_messages
from valuetide.streams.settings import Settings
from valuetide.streams.shard_memory import Part, Scored, ShardMemory
from valuetide.streams.sorting_out import dead_letters, strays
from valuetide.streams.store import (
    Commit,
    CommitRefusedError,
    ShardRecord,
    StateStore,
    StoreUnavailableError,
)
from valuetide.streams.tasks import end
from valuetide.streams.turns import Turns

log = structlog.get_logger(__name__)

SWEEP_WAITS_SECONDS = 1.0
"""Events come first, but not for longer."""

QUEUED_BATCHES_HIGH = 2
"""Full batches of events that wait in a shard before the transport stops fetching for it. Events
are counted, not chunks: many small chunks are soon worked on and take little memory."""

READ_SECONDS = 10.0
"""A shard's record is read within this time, or Redis counts as away."""

FOR_GOOD_MS = (1 << 48) - 1
"""When a pause ends that only a restart ends."""

FIRST_RETRY_SECONDS, MOST_RETRY_SECONDS = 0.05, 2.0
"""Wait before starting again; it doubles with every failure that no commit lies between."""


class Sender(Protocol):
    """What a shard needs of :class:`~valuetide.streams.publish.Publisher`."""

    async def send(
        self,
        topic: str,
        partition: int,
        keys: Sequence[bytes],
        values: Sequence[bytes],
        others: Sequence[Outgoing] = (),
    ) -> Delivery:
        """Hand messages to the producer."""
        ...


class Flow(Protocol):
    """What a shard needs of the transport."""

    async def rewind(self, partition: int, positions: dict[Role, int], epoch: int) -> None:
        """Set the positions of the partition's three inputs; later chunks carry ``epoch``."""
        ...

    def pause(self, partition: int) -> None:
        """Stop fetching for the partition."""
        ...

    def resume(self, partition: int) -> None:
        """Fetch for it again."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """What shards share, the worker's name and what all have learned among it."""

    settings: Settings
    clock: Clock
    store: StateStore
    sender: Sender
    metrics: Metrics
    writer: str
    decoders: dict[Role, Decoder]
    pool: Pool
    closings: Closings
    turns: Turns = field(default_factory=Turns)


@dataclass(slots=True)
class _Read:
    """What a batch has of one topic: new records, what they say, and what goes elsewhere.

    ``others`` are dead letters and re-published events, each with the offset that it came from.
    """

    role: Role
    chunk: Chunk
    decoded: Decoded
    others: list[tuple[int, Outgoing]] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Step:
    """Customers who are scored, and wait to be published and committed.

    By a batch of events, or by a sweep, which has read nothing. ``others`` are by role and offset
    of the event that they came from, ``counts`` by role and outcome.
    """

    commit: Commit
    keys: list[bytes]
    messages: list[bytes]
    others: dict[tuple[Role, int], Outgoing]
    counts: dict[Role, dict[str, int]]
    rejected: list[str]
    produced_at_ms: NDArray[np.float64]


@dataclass(slots=True)
class _Sweep:
    """Customers whose old scores are to be made again; how many were, ``None`` if interrupted."""

    ids: list[str]
    fresh_too: bool
    asked_at: float
    made: "asyncio.Future[int | None]"
    taken: bool = False


class Shard:
    """The customers of one partition.

    Parameters
    ----------
    partition
        Number of the partition.
    services
        Store, sender and so on.
    flow
        The transport.
    on_fault
        Called once when the shard cannot go on; the worker then stops.
    memory_limit
        Gives how many customers the shard may hold in memory.
    next_epoch
        Gives an epoch that no chunk of this process has had yet.
    """

    def __init__(
        self,
        partition: int,
        services: Services,
        flow: Flow,
        on_fault: Callable[[BaseException], None],
        memory_limit: Callable[[], int],
        next_epoch: Callable[[], int],
    ) -> None:
        self.partition = partition
        self.epoch = next_epoch()
        self.committed: dict[Role, int] = dict.fromkeys(INPUTS, 0)
        self._services = services
        self._flow = flow
        self._on_fault = on_fault
        self._memory_limit = memory_limit
        self._next_epoch = next_epoch
        # Dead letters and re-published events that were acknowledged, by role and offset, while
        # their commit has failed: they need not be sent again.
        self._delivered: set[tuple[Role, int]] = set()
        self._queue: deque[Chunk] = deque()
        # Number of events in it: not counted anew, for it may be as many chunks.
        self._queued = 0
        self._sweep: _Sweep | None = None
        self._closing = False
        self._wake = asyncio.Event()
        self._paused = False
        self._flood = Flood(partition, services.settings)
        self._steps: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(services.settings.max_batches_in_flight)
        self._last_sent: asyncio.Event | None = None
        self._last_made: asyncio.Event | None = None
        self._worker: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._failing_since: float | None = None
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._busy = False
        self._quiet = asyncio.Event()
        self._roles: dict[str, Role] = {
            getattr(services.settings.topics, role): role for role in INPUTS
        }
        self._load(ShardRecord())
        self._made = 0

    # -- life ---------------------------------------------------------------------------------

    async def open(self) -> None:
        """Read the shard's record and start to work on chunks.

        Raises
        ------
        StoreUnavailableError
            When the store does not answer.
        FaultError
            When the state was made with other settings.
        """
        record = await self._read_record()
        if (record.sequence, record.writer) != (self._memory.sequence, self._memory.writer):
            self._load(record)
        self._memory.join_pool()
        await self._refresh_pool()
        self._failure = None
        self._closing = False
        self._made_progress(self._memory.sequence)
        if self._flood.why:
            self._pause()
        self._worker = asyncio.create_task(self._work(), name=f"shard-{self.partition}")

    async def _read_record(self) -> ShardRecord:
        settings = self._services.settings
        try:
            async with asyncio.timeout(READ_SECONDS):
                record = await self._services.store.read_shard(self.partition)
                # Read after the record, however lately: a store that has lost a moment may have
                # lost that buckets are closed, which then must not be dropped.
                await self._services.closings.refresh(self._services.store, 0.0)
        except TimeoutError:
            raise StoreUnavailableError(f"Redis: no answer within {READ_SECONDS:g} s") from None
        if self._made and not record.sequence and settings.lost_positions == "stop":
            raise lost_state(self.partition, f"this worker saw commit {self._made} there")
        return record

    async def _refresh_pool(self) -> None:
        services, settings = self._services, self._services.settings
        await services.pool.refresh(
            services.store,
            settings.partitions,
            settings.model_refresh_seconds,
            settings.horizons_days,
            self._now_ms(),
        )
        await services.closings.refresh(services.store, settings.model_refresh_seconds)
        self._memory.series.close(services.closings, self.partition)

    def reposition(self) -> None:
        """Forget the queued chunks; the transport is about to read on from :attr:`positions`."""
        self.epoch = self._next_epoch()
        self._forget_queue()
        self._resume()

    async def close(self, timeout_seconds: float) -> bool:
        """Finish and commit the chunk in hand and those in flight; forget the queued ones.

        Returns
        -------
        bool
            Whether everything in hand was committed in time. If not it was dropped: whoever
            gets the shard next reads it again from the last commit.
        """
        self._closing = True
        self._forget_queue()
        self._release()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wait_quiet(), timeout_seconds)
        clean = not self._busy and not self._steps and self._failure is None
        # The worker goes first: it might start another step while those in flight are dropped.
        if self._worker is not None:
            await end([self._worker])
            self._worker = None
        await self._abandon()
        if not clean:
            self._load(ShardRecord())
        self._services.pool.release(self.partition)
        self._services.turns.behind(self.partition)
        return clean

    @property
    def sequence(self) -> int:
        """Number of the last commit that was started."""
        return self._memory.sequence

    @property
    def positions(self) -> dict[Role, int]:
        """By role the offset of the next event to read."""
        return self._memory.positions

    @property
    def in_memory(self) -> int:
        """Number of customers held in memory."""
        return len(self._memory)

    @property
    def customers(self) -> int:
        """Number of customers, in memory or not."""
        return self._memory.counters["total:customers"]

    @property
    def why_paused(self) -> str:
        """Why the shard takes no more events; empty while it does."""
        return self._flood.why

    @property
    def idle(self) -> bool:
        """Whether nothing is queued, in hand or in flight."""
        return not (self._queue or self._busy or self._steps)

    def submit(self, chunk: Chunk) -> None:
        """Take a chunk to work on, unless it is stale."""
        if chunk.epoch != self.epoch or self._worker is None:
            return
        self._queue.append(chunk)
        self._queued += len(chunk.records)
        self._wake.set()
        if self._queued >= QUEUED_BATCHES_HIGH * self._services.settings.max_batch_events:
            self._pause()

    def _forget_queue(self) -> None:
        self._queue.clear()
        self._queued = 0

    @property
    def _behind(self) -> bool:
        """Whether more waits than one batch takes."""
        return self._queued >= self._services.settings.max_batch_events

    async def _wait_quiet(self) -> None:
        """Wait until nothing is in hand or in flight, or something has failed."""
        while (self._busy or self._steps) and self._failure is None:
            self._quiet.clear()
            await self._quiet.wait()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._flow.pause(self.partition)

    def _resume(self) -> None:
        if not self._flood.why and not self._behind:
            self._release()

    def _release(self) -> None:
        if self._paused:
            self._paused = False
            self._flow.resume(self.partition)

    def _watch_flood(self, role: Role, records: int, rejections: Sequence[Rejection]) -> None:
        """Take no more events when a limit of dead letters is reached."""
        if self._flood.why:
            return
        self._flood.see(role, records, rejections)
        if self._flood.why:
            log.error("shard takes no more events", why=self._flood.why)
            self._pause()
            seconds = self._services.settings.dead_letter_pause_seconds
            wall_ms = self._services.clock.wall_ms()
            self._memory.paused_until = wall_ms + int(seconds * 1000.0) if seconds else FOR_GOOD_MS
            if seconds:
                asyncio.get_running_loop().call_later(seconds, self._lift_pause)

    def _lift_pause(self) -> None:
        log.warning("shard takes events again", partition=self.partition)
        self._flood.lift()
        self._memory.paused_until = 0
        self._wake.set()
        self._resume()

    async def _work(self) -> None:
        while True:
            try:
                while self._failure is None:
                    await self._take_one()
            except TransientError as error:
                self._failure = error
            except Exception as error:
                # Memory may be ahead of what will ever be committed: close() must not keep it.
                self._failure = error
                self._on_fault(error)
                return
            finally:
                self._busy = False
                self._quiet.set()
            if not await self._recover():
                return

    async def _take_one(self) -> None:
        """Work on the next chunk, or wait until there is one or something has failed."""
        sweep = self._sweep if self._sweeps_now() else None
        if sweep is None and (not self._queue or self._flood.why):
            self._wake.clear()
            # What is asked for while there are chunks is looked for again with each of them.
            await self._wake.wait()
            return
        # The slots are taken first, so that a chunk that has to wait stays in the queue.
        turns = self._services.turns
        await self._slots.acquire()
        held = [self._slots]
        try:
            full = self._behind
            if full and turns.beside_live:
                await turns.full_in_flight.acquire()
                held.append(turns.full_in_flight)
            await turns.mine(full=full)
            if self._failure is None and (self._queue or sweep):
                self._busy = True
                if sweep is not None:
                    step = await self._prepare_sweep(sweep)
                else:
                    chunks = self._next_chunks()
                    self._resume()
                    step = await self._prepare(chunks)
                if step is not None:
                    self._launch(step, held)
                    held = []
                turns.over()
                self._busy = False
                self._quiet.set()
        finally:
            for slots in held:
                slots.release()

    def _next_chunks(self) -> list[Chunk]:
        """Take what waits as one batch, a chunk of each topic: one batch costs less than several.

        Of a topic the order is kept. A chunk below our position, or below what was taken, is a
        matter of its own: that there is something to judge must not be hidden.
        """
        taken: dict[str, list[Record]] = {}
        first: list[Chunk] = []
        more: dict[str, bool] = {}
        ended: set[str] = set()
        room = self._services.turns.room(self._services.settings.max_batch_events)
        rest: deque[Chunk] = deque()
        for chunk in self._queue:
            topic, begin = chunk.topic, chunk.records[0].offset
            before = taken.get(topic)
            fits = not first or len(chunk.records) <= room
            if topic in ended or not fits or (before and begin <= before[-1].offset):
                ended.add(topic)
                rest.append(chunk)
                continue
            room -= len(chunk.records)
            more[topic] = chunk.more
            if before is not None:
                before += chunk.records
            else:
                taken[topic] = list(chunk.records)
                first.append(chunk)
                if begin < self.positions[self._roles[topic]]:
                    ended.add(topic)
        self._queue = rest
        self._queued -= sum(map(len, taken.values()))
        return [
            replace(chunk, records=taken[chunk.topic], more=more[chunk.topic]) for chunk in first
        ]

    def _sweeps_now(self) -> bool:
        """Whether a sweep is asked for and events do not come first."""
        sweep = self._sweep
        if sweep is None or sweep.taken:
            return False
        waited = time.monotonic() - sweep.asked_at
        return not self._queue or bool(self._flood.why) or waited > SWEEP_WAITS_SECONDS

    async def _recover(self) -> bool:
        """Go back to what the store has; whether that was possible."""
        failure = self._failure
        settings = self._services.settings
        metrics = self._services.metrics
        metrics.recoveries.inc()
        log.warning(
            "shard starts again from its last commit", partition=self.partition, why=str(failure)
        )
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        give_up = self._failing_since + settings.retry_seconds
        delay = self._retry_seconds
        self._retry_seconds = min(delay * 2, MOST_RETRY_SECONDS)
        if isinstance(failure, CommitRefusedError):
            # Someone else owns the shard, most likely: leave the group time to tell us.
            delay = max(delay, 2 * settings.heartbeat_seconds)
        elif failure is not None and (not isinstance(failure, TransientError) or now > give_up):
            self._on_fault(failure)
            return False
        await self._abandon()
        while True:
            # Shards that failed together should not come back together.
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311
            try:
                record = await self._read_record()
                if record.sequence != self._made:
                    self._made_progress(record.sequence)
                self._load(record)
                self._memory.join_pool()
                # What came while we waited was fetched beyond the positions that we go back to.
                self.reposition()
                await self._flow.rewind(self.partition, dict(self.positions), self.epoch)
            except TransientError as error:
                if time.monotonic() > give_up:
                    self._on_fault(error)
                    return False
                delay = min(delay * 2, MOST_RETRY_SECONDS)
            except Exception as error:
                self._on_fault(error)
                return False
            else:
                self._failure = None
                log.info("shard goes on", partition=self.partition, sequence=self.sequence)
                return True

    def _made_progress(self, sequence: int) -> None:
        """Note that the store is at this commit, so that the next failure is a first one."""
        self._made = sequence
        self._failing_since = None
        self._retry_seconds = FIRST_RETRY_SECONDS

    async def _abandon(self) -> None:
        """Drop queued chunks and tasks in flight."""
        self._forget_queue()
        self._end_sweep(None)
        self._resume()
        await end(self._steps)
        self._last_sent = self._last_made = None

    def _load(self, record: ShardRecord) -> None:
        services = self._services
        self._flood.forget()  # what is read again must not count twice
        self._memory = ShardMemory(
            self.partition, services.settings, services.writer, record, services.pool
        )
        self.committed = dict(self._memory.positions)
        self._committed_event_at = self._memory.max_event_at
        self._untold = int(record.fields.get(UNTOLD, 0))

    # -- sweep --------------------------------------------------------------------------------

    @property
    def sweep_due(self) -> bool:
        """Whether customers should be looked at again: half a refresh interval has passed.

        Who is scored again then had a score of at least half an interval, so none gets older than
        a whole one.
        """
        if not self._working or not self._memory.max_event_at:
            return False
        # A clock may also have gone back: from the wall's to that of old events.
        return abs(self._now_ms() - self._memory.swept_at) >= self._half_interval_ms

    @property
    def _half_interval_ms(self) -> int:
        return int(self._services.settings.refresh_seconds * 500.0)

    def sweep_begins(self) -> int:
        """Give the moment up to which all is committed, for :meth:`sweep_ended`.

        A walk does not meet a new customer whose commit is still on its way.
        """
        live = self._memory.live
        return self._services.clock.now_ms(self._committed_event_at, was_live=live)

    def sweep_ended(self, moment: int) -> None:
        """Note that all customers were looked at since a moment; kept with the next commit."""
        self._memory.swept_at = moment

    async def sweep(self, ids: list[str], *, fresh_too: bool = False) -> int | None:
        """Score customers again whose score is old, or all of them, between events.

        Returns
        -------
        int or None
            How many were scored; ``None`` where the shard is not at work, or has to start again.
        """
        if not self._working:
            return None
        made = asyncio.get_running_loop().create_future()
        sweep = _Sweep(ids, fresh_too, time.monotonic(), made)
        self._sweep = sweep
        self._wake.set()
        return await sweep.made

    @property
    def _working(self) -> bool:
        at_work = self._worker is not None and not self._worker.done()
        return at_work and not self._closing and self._failure is None

    def _now_ms(self) -> int:
        clock, memory = self._services.clock, self._memory
        # Once live, a shard stays so: silence is no going back to old times.
        memory.live = memory.live or clock.is_live(memory.max_event_at)
        return clock.now_ms(memory.max_event_at, was_live=memory.live)

    def _end_sweep(self, made: int | None) -> None:
        if self._sweep is not None and not self._sweep.made.done():
            self._sweep.made.set_result(made)
        self._sweep = None

    async def _prepare_sweep(self, sweep: _Sweep) -> _Step | None:
        sweep.taken = True
        metrics, memory = self._services.metrics, self._memory
        await self._make_room()
        unknown = memory.unknown(sweep.ids)
        states = await self._services.store.read_states(self.partition, unknown)
        known = [one for one, state in zip(unknown, states, strict=True) if state is not None]
        memory.add_customers(known, [state for state in states if state is not None])
        await self._refresh_pool()
        gone = set(unknown) - set(known)
        started = time.perf_counter()
        now_ms = self._now_ms()
        scored = memory.score_again(
            [one for one in sweep.ids if one not in gone],
            now_ms,
            older_than_ms=now_ms - (0 if sweep.fresh_too else self._half_interval_ms),
        )
        metrics.stage("sweep", started)
        if scored is None:
            self._end_sweep(0)
            return None
        return _Step(
            commit=memory.commit(scored, {}),
            keys=[customer.encode() for customer in scored.ids],
            messages=self._messages(scored),
            others={},
            counts={},
            rejected=[],
            produced_at_ms=np.zeros(0),
        )

    # -- one batch ----------------------------------------------------------------------------

    async def _prepare(self, chunks: Sequence[Chunk]) -> _Step | None:
        metrics, memory = self._services.metrics, self._memory
        started = time.perf_counter()
        unread = [one for chunk in chunks if (one := self._unread(chunk)) is not None]
        if not unread:
            return None
        reads = [self._decode(chunk) for chunk in unread]
        metrics.stage("decode", started)

        started = time.perf_counter()
        await self._resolve(reads)
        await self._refresh_pool()
        metrics.stage("load", started)

        started = time.perf_counter()
        parts = [memory.fold(read.role, read.decoded) for read in reads]
        metrics.stage("fold", started)

        started = time.perf_counter()
        queued = {chunk.topic for chunk in self._queue}
        was_behind = any(memory.behind.values())
        memory.note_reading(
            {read.role: read.chunk.more or read.chunk.topic in queued for read in reads}
        )
        if any(memory.behind.values()):
            self._services.turns.behind(self.partition)
        elif not was_behind:
            self._services.turns.live(self.partition)
        scored = memory.score(parts, self._now_ms())
        metrics.stage("score", started)

        started = time.perf_counter()
        counts = {
            read.role: self._sort_out(read, part) for read, part in zip(reads, parts, strict=True)
        }
        records = [record for read in reads for record in read.chunk.records]
        step = _Step(
            commit=memory.commit(scored, memory.sum_months(parts)),
            keys=[customer.encode() for customer in scored.ids],
            messages=self._messages(scored),
            others={(read.role, offset): out for read in reads for offset, out in read.others},
            counts=counts,
            rejected=[rejection.field for read in reads for rejection in read.rejections],
            produced_at_ms=np.fromiter((r.timestamp for r in records), np.float64, len(records)),
        )
        metrics.stage("encode", started)
        return step

    def _decode(self, chunk: Chunk) -> _Read:
        role = self._roles[chunk.topic]
        values = [record.value for record in chunk.records]
        decoded = self._services.decoders[role].decode(values, self._services.clock.wall_ms())
        return _Read(role, chunk, decoded, rejections=list(decoded.rejections))

    def _sort_out(self, read: _Read, part: Part) -> dict[str, int]:
        """Make the dead letters of a topic's events; give how many events had which outcome."""
        rerouted = len(read.others)
        if read.rejections:
            topic = self._services.settings.topics.dead_letters
            rejected_at = datetime.fromtimestamp(self._services.clock.wall(), UTC)
            read.others += dead_letters(topic, read.chunk, read.rejections, rejected_at)
        folded = int(np.count_nonzero(part.folded.accepted))
        counts = {
            "folded": folded,
            "duplicate": part.folded.accepted.size - folded,
            "dead_letter": len(read.rejections),
            "rerouted": rerouted,
        }
        self._memory.count(read.role, counts)
        self._watch_flood(read.role, len(read.chunk.records), read.rejections)
        return counts

    def _unread(self, chunk: Chunk) -> Chunk | None:
        """Give the records that were not folded yet, and count them as read; ``None`` for none."""
        role = self._roles[chunk.topic]
        position = self.positions[role]
        records = chunk.records
        if records[0].offset < position and not self._reset(role, chunk):
            records = [record for record in records if record.offset >= position]
        if not records:
            return None
        self.positions[role] = records[-1].offset + 1
        return replace(chunk, records=records)

    def _reset(self, role: Role, chunk: Chunk) -> bool:
        """Tell whether the log was found to begin anew, or raise where that must not be.

        A chunk of the current epoch was fetched from our position, so it begins below it only
        where the position did not exist in the topic.
        """
        position, first = self.positions[role], chunk.records[0].offset
        if chunk.records[-1].offset >= position:
            return False  # a batch that reaches across the position
        if self._services.settings.lost_positions == "earliest":
            log.warning(
                "the topic was made anew: reading from its beginning",
                topic=chunk.topic,
                partition=self.partition,
                position=position,
                first=first,
            )
            return True
        raise lost_position(chunk.topic, self.partition, position)

    async def _resolve(self, reads: Sequence[_Read]) -> None:
        """Make sure that every event's customer has a row; send away those of other shards."""
        memory = self._memory
        unknown = memory.unknown([c for read in reads for c in read.decoded.customer])
        if not unknown:
            return
        partitions = self._services.settings.partitions
        elsewhere = {c: p for c in unknown if (p := partition_of(c, partitions)) != self.partition}
        if elsewhere:
            for read in reads:
                read.others, refused = strays(read.chunk, read.decoded, elsewhere)
                read.rejections += refused
                ours = [customer not in elsewhere for customer in read.decoded.customer]
                read.decoded = read.decoded.take(np.array(ours, bool))
            unknown = [customer for customer in unknown if customer not in elsewhere]
        if await self._make_room():
            unknown = memory.unknown([c for read in reads for c in read.decoded.customer])
        states = await self._services.store.read_states(self.partition, unknown)
        # Others may have had their turns meanwhile; what follows takes as long as a batch.
        await self._services.turns.mine()
        memory.add_customers(unknown, states)

    async def _make_room(self) -> bool:
        """Drop all customers from memory, where there are too many; whether that was so.

        Nothing of them may be in flight then.
        """
        if self.in_memory <= self._memory_limit():
            return False
        if self._steps:
            await asyncio.wait(self._steps)
        if self._failure is not None:
            raise self._failure
        self._memory.forget_customers()
        return True

    def _messages(self, scored: Scored) -> list[bytes]:
        columns = score_columns(self._services.settings.horizons_days)
        return score_messages(scored.ids, scored.fields, columns)

    # -- publish and commit -------------------------------------------------------------------

    def _launch(self, step: _Step, held: list[asyncio.Semaphore]) -> None:
        """Publish and commit a step in the background; what it holds is released in the end."""
        sent, made = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(
            self._finish(step, self._last_sent, sent, self._last_made, made),
            name=f"shard-{self.partition}-commit-{step.commit.sequence}",
        )
        self._last_sent, self._last_made = sent, made
        self._steps.add(task)
        task.add_done_callback(partial(self._finished, held))

    async def _finish(
        self,
        step: _Step,
        sent_before: asyncio.Event | None,
        sent: asyncio.Event,
        made_before: asyncio.Event | None,
        made: asyncio.Event,
    ) -> None:
        metrics = self._services.metrics
        topic = self._services.settings.topics.scores
        if sent_before is not None:
            await sent_before.wait()
        started = time.perf_counter()
        due = [out for source, out in step.others.items() if source not in self._delivered]
        due += alert_messages(self._services.settings.topics.alerts, step.commit.alerts)
        delivery = await self._services.sender.send(
            topic, self.partition, step.keys, step.messages, due
        )
        sent.set()
        await delivery.wait()
        self._delivered.update(step.others)
        metrics.stage("publish", started)
        if made_before is not None:
            await made_before.wait()
        started = time.perf_counter()
        try:
            floors = await self._services.store.commit(step.commit)
        except CommitRefusedError:
            metrics.commits.labels("refused").inc()
            raise
        except TransientError:
            metrics.commits.labels("failed").inc()
            raise
        made.set()
        self._delivered.difference_update(step.others)
        self._made_progress(step.commit.sequence)
        self._measure(step)
        metrics.commit_seconds.observe(time.perf_counter() - started)
        self.committed = {role: int(step.commit.fields[f"offset:{role}"]) for role in INPUTS}
        self._committed_event_at = int(step.commit.fields["max_event_at"])
        self._memory.floors = floors

    def _measure(self, step: _Step) -> None:
        """Count what is committed now; what is done again after a failure counts once."""
        metrics = self._services.metrics
        metrics.commits.labels("committed").inc()
        untold = int(step.commit.fields[UNTOLD])
        metrics.alerted(step.commit.alerts, untold - self._untold)
        self._untold = untold
        if not step.counts:
            metrics.swept_customers.inc(len(step.keys))
            self._end_sweep(len(step.keys))
            return
        for role, counts in step.counts.items():
            metrics.batch(getattr(self._services.settings.topics, role), counts)
        for name in step.rejected:
            metrics.dead_letters.labels(name).inc()
        wall = self._services.clock.wall_ms()
        metrics.event_delay.observe_many((wall - step.produced_at_ms) / 1000.0)
        metrics.watermark(
            self.partition, wall / 1000.0 - int(step.commit.fields["max_event_at"]) / 1000.0
        )

    def _finished(self, held: list[asyncio.Semaphore], task: "asyncio.Task[None]") -> None:
        self._steps.discard(task)
        for slots in held:
            slots.release()
        self._quiet.set()
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and self._failure is None:
            self._failure = error
            # Later steps wait for this one and would wait for ever.
            for other in self._steps:
                other.cancel()
            self._wake.set()


def lost_position(topic: str, partition: int, position: int) -> FaultError:
    """Give the error for a position that the topic does not have."""
    return FaultError(
        f"topic {topic}, partition {partition}: there is nothing at offset {position}, where the "
        "state in Redis goes on. Events were deleted by retention before they were read, or the "
        "topic was made anew. Put the topic back, or accept the loss and go on from the oldest "
        "event there with VALUETIDE_LOST_POSITIONS=earliest."
    )


def lost_state(partition: int, how_we_know: str) -> FaultError:
    """Give the error for a state that was there and is not any more."""
    return FaultError(
        f"partition {partition}: Redis has no state, but {how_we_know}. It was restarted empty, or "
        "redis_url or key_prefix is wrong. Put its data back (append-only file, snapshot or "
        "replica), or have the state built again from the oldest events that the topics still "
        "have with VALUETIDE_LOST_POSITIONS=earliest."
    )
