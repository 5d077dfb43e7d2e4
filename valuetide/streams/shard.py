"""A shard: the customers of one partition of the three input topics, and what is done to them.

    chunk -> decode -> resolve rows -> fold -> score -> publish -> commit

One task per shard takes chunks from a queue and does the steps up to ``score`` one chunk after the
other; publishing and committing follow in tasks of their own, so that the next chunk is worked on
while earlier ones wait for the network. Publishing keeps the order of the chunks, and so does
committing; a commit is made only when all that its chunk sends out has been acknowledged.

When anything fails, everything in memory is dropped: the shard reads its record from the store,
has the transport set its positions back to it, and goes on from there. Chunks that were fetched
before that carry an older epoch and are ignored.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from valuetide.schemas.errors import FaultError, TransientError
from valuetide.schemas.topics import INPUTS
from valuetide.scoring.current_value import CurrentValue, current_value
from valuetide.scoring.customers import Customers
from valuetide.scoring.fold import FeedbackBatch, Folded, InteractionBatch, OrderBatch, fold
from valuetide.streams.chunk import Chunk, Record
from valuetide.streams.clock import Clock
from valuetide.streams.decode import Decoded, Decoder, Rejection, Role
from valuetide.streams.metrics import Metrics
from valuetide.streams.partitioner import partition_of
from valuetide.streams.publish import Delivery, Outgoing
from valuetide.streams.records import (
    RANKED,
    TOTALS,
    month_sums,
    rank_values,
    score_messages,
    score_rows,
)
from valuetide.streams.settings import Settings
from valuetide.streams.store import Commit, CommitRefusedError, ShardRecord, StateStore

log = structlog.get_logger(__name__)

REROUTED_HEADER = "valuetide-rerouted"
OUTCOMES = ("folded", "duplicate", "dead_letter", "rerouted")
MONTH_WIDTH = 6
QUEUED_CHUNKS_HIGH = 8
"""Chunks that wait in a shard before the transport stops fetching for it."""


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
    """What shards share: settings, clock, store, sender, metrics, and the worker's name."""

    settings: Settings
    clock: Clock
    store: StateStore
    sender: Sender
    metrics: Metrics
    writer: str
    decoders: dict[Role, Decoder]


@dataclass(frozen=True, slots=True)
class _Step:
    """A chunk that is folded and scored, and waits to be published and committed."""

    role: Role
    commit: Commit
    keys: list[bytes]
    messages: list[bytes]
    others: list[Outgoing]
    produced_at_ms: NDArray[np.float64]


def settings_mark(settings: Settings) -> str:
    """Give the settings that a state depends on; a state is only good for one such text."""
    words = settings.vocabulary
    return (
        f"partitions={settings.partitions} half_life_days={settings.half_life_days:g} "
        f"base_currency={words.base_currency} minor_digits={words.minor_digits}"
    )


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
    """

    def __init__(
        self,
        partition: int,
        services: Services,
        flow: Flow,
        on_fault: Callable[[BaseException], None],
        memory_limit: Callable[[], int],
    ) -> None:
        self.partition = partition
        self.epoch = 0
        self.committed: dict[Role, int] = dict.fromkeys(INPUTS, 0)
        self.positions: dict[Role, int] = dict.fromkeys(INPUTS, 0)
        self.max_event_at = 0
        self._services = services
        self._flow = flow
        self._on_fault = on_fault
        self._memory_limit = memory_limit
        self._queue: deque[Chunk] = deque()
        self._wake = asyncio.Event()
        self._paused = False
        self._steps: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(services.settings.max_batches_in_flight)
        self._last_sent: asyncio.Event | None = None
        self._last_made: asyncio.Event | None = None
        self._worker: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._busy = False
        self._quiet = asyncio.Event()
        self._roles: dict[str, Role] = {
            getattr(services.settings.topics, role): role for role in INPUTS
        }
        self._load(ShardRecord())

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
        record = await self._services.store.read_shard(self.partition)
        if (record.sequence, record.writer) != (self._sequence, self._services.writer):
            self._load(record)
        self._failure = None
        self._worker = asyncio.create_task(self._work(), name=f"shard-{self.partition}")

    async def close(self, timeout_seconds: float) -> bool:
        """Finish and commit the chunk in hand and those in flight; forget the queued ones.

        Returns
        -------
        bool
            Whether everything in hand was committed in time. If not it was dropped: whoever
            gets the shard next reads it again from the last commit.
        """
        self._queue.clear()
        self._resume()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wait_quiet(), timeout_seconds)
        clean = not self._busy and not self._steps and self._failure is None
        await self._abandon()
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
            self._worker = None
        if not clean:
            self._load(ShardRecord())
        return clean

    @property
    def sequence(self) -> int:
        """Number of the last commit that was started."""
        return self._sequence

    @property
    def in_memory(self) -> int:
        """Number of customers held in memory."""
        return len(self._customers)

    @property
    def idle(self) -> bool:
        """Whether nothing is queued, in hand or in flight."""
        return not (self._queue or self._busy or self._steps)

    def submit(self, chunk: Chunk) -> None:
        """Take a chunk to work on, unless it is stale."""
        if chunk.epoch != self.epoch or self._worker is None:
            return
        self._queue.append(chunk)
        self._wake.set()
        if len(self._queue) >= QUEUED_CHUNKS_HIGH and not self._paused:
            self._paused = True
            self._flow.pause(self.partition)

    async def _wait_quiet(self) -> None:
        """Wait until nothing is in hand or in flight, or something has failed."""
        while (self._busy or self._steps) and self._failure is None:
            self._quiet.clear()
            await self._quiet.wait()

    def _resume(self) -> None:
        if self._paused and len(self._queue) <= QUEUED_CHUNKS_HIGH // 2:
            self._paused = False
            self._flow.resume(self.partition)

    async def _work(self) -> None:
        while True:
            try:
                while self._failure is None:
                    await self._take_one()
            except TransientError as error:
                self._failure = error
            except Exception as error:
                self._on_fault(error)
                return
            finally:
                self._busy = False
                self._quiet.set()
            if not await self._recover():
                return

    async def _take_one(self) -> None:
        """Work on the next chunk, or wait until there is one or something has failed."""
        if not self._queue:
            self._wake.clear()
            await self._wake.wait()
            return
        # The slot is taken first, so that a chunk that has to wait stays in the queue.
        await self._slots.acquire()
        launched = False
        try:
            if self._failure is None and self._queue:
                self._busy = True
                chunk = self._queue.popleft()
                self._resume()
                step = await self._prepare(chunk)
                if step is not None:
                    self._launch(step)
                    launched = True
                self._busy = False
                self._quiet.set()
        finally:
            if not launched:
                self._slots.release()

    async def _recover(self) -> bool:
        """Go back to what the store has; whether that was possible."""
        failure = self._failure
        settings = self._services.settings
        metrics = self._services.metrics
        metrics.recoveries.inc()
        log.warning(
            "shard starts again from its last commit", partition=self.partition, why=str(failure)
        )
        give_up = time.monotonic() + settings.retry_seconds
        delay = 0.05
        if isinstance(failure, CommitRefusedError):
            # Someone else owns the shard, most likely: leave the group time to tell us.
            delay = 2 * settings.heartbeat_seconds
        elif failure is not None and not isinstance(failure, TransientError):
            self._on_fault(failure)
            return False
        await self._abandon()
        while True:
            await asyncio.sleep(delay)
            try:
                record = await self._services.store.read_shard(self.partition)
                self._load(record)
                self.epoch += 1
                await self._flow.rewind(self.partition, dict(self.positions), self.epoch)
            except TransientError as error:
                if time.monotonic() > give_up:
                    self._on_fault(error)
                    return False
                delay = min(delay * 2, 2.0)
            except FaultError as error:
                self._on_fault(error)
                return False
            else:
                self._failure = None
                log.info("shard goes on", partition=self.partition, sequence=self._sequence)
                return True

    async def _abandon(self) -> None:
        """Drop queued chunks and tasks in flight."""
        self._queue.clear()
        self._resume()
        for task in self._steps:
            task.cancel()
        await asyncio.gather(*self._steps, return_exceptions=True)
        self._last_sent = self._last_made = None

    def _load(self, record: ShardRecord) -> None:
        settings = self._services.settings
        mark = settings_mark(settings)
        if record.sequence and record.fields.get("settings") != mark:
            raise FaultError(
                f"partition {self.partition}: the state in Redis was made with "
                f"{record.fields.get('settings')}, the settings say {mark}. Put the settings back, "
                "or use another key_prefix and group to start afresh."
            )
        fields = record.fields
        self._sequence = record.sequence
        self.positions = {role: int(fields.get(f"offset:{role}", 0)) for role in INPUTS}
        self.committed = dict(self.positions)
        self.max_event_at = int(fields.get("max_event_at", 0))
        self._counters = {
            name: int(fields.get(name, 0))
            for name in (
                *(f"count:{role}:{outcome}" for role in INPUTS for outcome in OUTCOMES),
                *(f"total:{name}" for name in ("customers", *TOTALS)),
                "unmatched",
            )
        }
        self._months = {
            month: np.array(sums.split(), np.int64) for month, sums in record.months.items()
        }
        self._customers = Customers(settings.half_life_days)
        # Per row: the totals and rank values that the last score had.
        self._scored: NDArray[np.int64] = np.zeros((len(TOTALS), 0), np.int64)
        self._ranks: NDArray[np.float64] = np.zeros((len(RANKED), 0), np.float64)
        self._floors: dict[str, float] = {}

    # -- one chunk ----------------------------------------------------------------------------

    async def _prepare(self, chunk: Chunk) -> _Step | None:
        metrics, settings = self._services.metrics, self._services.settings
        role = self._roles[chunk.topic]
        records = self._unread(role, chunk)
        if not records:
            return None
        started = time.perf_counter()
        decoded = self._services.decoders[role].decode(
            [record.value for record in records], self._services.clock.wall_ms()
        )
        metrics.stage("decode", started)

        others: list[Outgoing] = []
        rejections = list(decoded.rejections)
        started = time.perf_counter()
        decoded = await self._resolve(chunk, records, decoded, others, rejections)
        metrics.stage("load", started)

        started = time.perf_counter()
        index = self._customers.index
        rows = np.fromiter((index[c] for c in decoded.customer), np.intp, len(decoded.customer))
        folded = fold(self._customers, _batch(role, decoded, rows))
        if len(decoded.at):
            self.max_event_at = max(self.max_event_at, int(decoded.at.max()))
        metrics.stage("fold", started)

        started = time.perf_counter()
        now = self._services.clock.now_ms(self.max_event_at)
        value = self._value(folded.rows, now)
        out = score_rows(value, now, settings.vocabulary.minor_digits)
        top = self._rank(folded.rows, value, now)
        self._total(folded.rows, value)
        metrics.stage("score", started)

        started = time.perf_counter()
        ids = [self._customers.ids[row] for row in folded.rows.tolist()]
        messages = score_messages(ids, out)
        states = self._customers.pack(folded.rows)
        metrics.stage("encode", started)

        rejected_at = datetime.fromtimestamp(self._services.clock.wall(), UTC).isoformat()
        for rejection in rejections:
            others.append(
                self._dead_letter(chunk, records[rejection.index], rejection, rejected_at)
            )
            metrics.dead_letters.labels(rejection.field).inc()
        rerouted = len(others) - len(rejections)
        counts = {
            "folded": int(folded.accepted.sum()),
            "duplicate": int((~folded.accepted).sum()),
            "dead_letter": len(rejections),
            "rerouted": rerouted,
        }
        for outcome, count in counts.items():
            self._counters[f"count:{role}:{outcome}"] += count
            metrics.events.labels(chunk.topic, outcome).inc(count)
        self._counters["unmatched"] += folded.unmatched
        metrics.batch_events.labels(chunk.topic).observe(len(records))
        months = self._sum_months(role, decoded, folded)
        self._sequence += 1
        commit = Commit(
            partition=self.partition,
            sequence=self._sequence,
            writer=self._services.writer,
            fields={
                **{f"offset:{name}": offset for name, offset in self.positions.items()},
                "max_event_at": self.max_event_at,
                "settings": settings_mark(settings),
                **self._counters,
            },
            months=months,
            ids=ids,
            states=states,
            rows=out,
            top=top,
        )
        return _Step(
            role=role,
            commit=commit,
            keys=[customer.encode() for customer in ids],
            messages=messages,
            others=others,
            produced_at_ms=np.fromiter((r.timestamp for r in records), np.float64, len(records)),
        )

    def _unread(self, role: Role, chunk: Chunk) -> Sequence[Record]:
        """Give the records that were not folded yet, and count them as read."""
        position = self.positions[role]
        records = chunk.records
        if records[0].offset < position:
            records = [record for record in records if record.offset >= position]
        if records:
            self.positions[role] = records[-1].offset + 1
        return records

    async def _resolve(
        self,
        chunk: Chunk,
        records: Sequence[Record],
        decoded: Decoded,
        others: list[Outgoing],
        rejections: list[Rejection],
    ) -> Decoded:
        """Make sure that every event's customer has a row; send away those of other shards."""
        index = self._customers.index
        unknown = [c for c in dict.fromkeys(decoded.customer) if c not in index]
        if not unknown:
            return decoded
        partitions = self._services.settings.partitions
        elsewhere = {c: p for c in unknown if (p := partition_of(c, partitions)) != self.partition}
        if elsewhere:
            keep = np.ones(len(decoded.customer), np.bool_)
            for i, customer in enumerate(decoded.customer):
                if customer not in elsewhere:
                    continue
                keep[i] = False
                at = int(decoded.index[i])
                headers = dict(records[at].headers)
                if REROUTED_HEADER in headers:
                    reason = (
                        f"customer_id: belongs in partition {elsewhere[customer]}, and was already "
                        "re-published once; do all topics have the same number of partitions?"
                    )
                    rejections.append(Rejection(at, "customer_id", reason))
                    continue
                source = f"{chunk.topic}/{chunk.partition}/{records[at].offset}"
                others.append(
                    Outgoing(
                        chunk.topic,
                        elsewhere[customer],
                        customer.encode(),
                        records[at].value,
                        (*records[at].headers, (REROUTED_HEADER, source.encode())),
                    )
                )
            decoded = decoded.take(keep)
            unknown = [customer for customer in unknown if customer not in elsewhere]
        if self.in_memory > self._memory_limit():
            await self._forget_customers()
            unknown = list(dict.fromkeys(decoded.customer))
        await self._read_customers(unknown)
        return decoded

    async def _forget_customers(self) -> None:
        """Drop all customers from memory once nothing of them is in flight."""
        if self._steps:
            await asyncio.wait(self._steps)
        if self._failure is not None:
            raise self._failure
        self._customers = Customers(self._services.settings.half_life_days)
        self._scored = np.zeros((len(TOTALS), 0), np.int64)
        self._ranks = np.zeros((len(RANKED), 0), np.float64)

    async def _read_customers(self, ids: list[str]) -> None:
        states = await self._services.store.read_states(self.partition, ids)
        try:
            rows = self._customers.add(ids, states)
        except ValueError as error:
            raise FaultError(
                f"partition {self.partition}: a customer's state in Redis cannot be read: {error}"
            ) from error
        self._counters["total:customers"] += states.count(None)
        value = self._value(rows, 0)
        self._scored = np.concatenate([self._scored, _totals(value)], axis=1)
        settings = self._services.settings
        ranks = rank_values(value, 0, settings.half_life_days, settings.vocabulary.minor_digits)
        self._ranks = np.concatenate([self._ranks, ranks], axis=1)

    def _value(self, rows: NDArray[np.intp], now_ms: int) -> CurrentValue:
        words = self._services.settings.vocabulary
        return current_value(
            self._customers, rows, now_ms, minor_digits=words.minor_digits, bands=words.rfm
        )

    def _rank(
        self, rows: NDArray[np.intp], value: CurrentValue, now_ms: int
    ) -> dict[str, list[tuple[float, str]]]:
        """Give the customers that may be among the best, and those that may have ceased to be."""
        settings = self._services.settings
        ranks = rank_values(
            value, now_ms, settings.half_life_days, settings.vocabulary.minor_digits
        )
        before = self._ranks[:, rows]
        self._ranks[:, rows] = ranks
        top: dict[str, list[tuple[float, str]]] = {}
        ids = self._customers.ids
        for i, name in enumerate(RANKED):
            # The floor is that of the last commit that has answered. It falls only when a ranked
            # customer does; what is missed then lies far below the places that are shown.
            floor = self._floors.get(name, -np.inf)
            offered = np.flatnonzero((ranks[i] > floor) | (before[i] >= floor))
            top[name] = [(float(ranks[i, k]), ids[rows[k]]) for k in offered.tolist()]
        return top

    def _total(self, rows: NDArray[np.intp], value: CurrentValue) -> None:
        now = _totals(value)
        change = (now - self._scored[:, rows]).sum(axis=1)
        self._scored[:, rows] = now
        for name, delta in zip(TOTALS, change.tolist(), strict=True):
            self._counters[f"total:{name}"] += delta

    def _sum_months(self, role: Role, decoded: Decoded, folded: Folded) -> dict[str, str]:
        if role != "orders" or not folded.accepted.any():
            return {}
        new = folded.accepted
        sums = month_sums(decoded.at[new], decoded.kind[new], decoded.amount[new])
        for month, values in sums.items():
            self._months[month] = self._months.get(month, np.zeros(MONTH_WIDTH, np.int64)) + values
        return {month: " ".join(map(str, self._months[month].tolist())) for month in sums}

    def _dead_letter(
        self, chunk: Chunk, record: Record, rejection: Rejection, rejected_at: str
    ) -> Outgoing:
        headers = {
            "reason": rejection.reason,
            "source_topic": chunk.topic,
            "source_partition": str(chunk.partition),
            "source_offset": str(record.offset),
            "rejected_at": rejected_at,
        }
        return Outgoing(
            self._services.settings.topics.dead_letters,
            self.partition,
            record.key,
            record.value,
            tuple((name, text.encode()) for name, text in headers.items()),
        )

    # -- publish and commit -------------------------------------------------------------------

    def _launch(self, step: _Step) -> None:
        sent, made = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(
            self._finish(step, self._last_sent, sent, self._last_made, made),
            name=f"shard-{self.partition}-commit-{step.commit.sequence}",
        )
        self._last_sent, self._last_made = sent, made
        self._steps.add(task)
        task.add_done_callback(self._finished)

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
        delivery = await self._services.sender.send(
            topic, self.partition, step.keys, step.messages, step.others
        )
        sent.set()
        await delivery.wait()
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
        metrics.commit_seconds.observe(time.perf_counter() - started)
        metrics.commits.labels("committed").inc()
        wall = self._services.clock.wall_ms()
        metrics.event_delay.observe_many((wall - step.produced_at_ms) / 1000.0)
        metrics.watermark(
            self.partition, wall / 1000.0 - int(step.commit.fields["max_event_at"]) / 1000.0
        )
        self.committed = {role: int(step.commit.fields[f"offset:{role}"]) for role in INPUTS}
        self._floors = floors

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._steps.discard(task)
        self._slots.release()
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


def _totals(value: CurrentValue) -> NDArray[np.int64]:
    return np.stack([getattr(value, name) for name in TOTALS])


def _batch(
    role: Role, decoded: Decoded, row: NDArray[np.intp]
) -> OrderBatch | InteractionBatch | FeedbackBatch:
    if role == "orders":
        return OrderBatch(
            row=row,
            event=decoded.event,
            kind=decoded.kind,
            order=decoded.order,
            at=decoded.at,
            amount=decoded.amount,
            cost=decoded.cost,
        )
    if role == "interactions":
        return InteractionBatch(row=row, event=decoded.event, at=decoded.at, cost=decoded.cost)
    return FeedbackBatch(row=row, event=decoded.event, at=decoded.at)
