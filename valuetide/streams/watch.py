"""The watch over the series of all shards: closes buckets, and tells of alerts.

    open buckets of all shards -> close -> points -> alerts -> publish -> commit

It runs in the worker that has shard 0, and keeps a commit sequence of its own, so that of two
workers that both believe to have that shard one is refused. Alerts go out before the commit is
made: a crash in between repeats them, with the same ids, and loses none. After any failure what is
in memory is dropped and read again.

    fields of its record   those of ``closings``, and
      settings             what the state was made with
      equity:<p>           what the customers of shard p were worth when that was last known
      points, learning     points so far, and points until the series of the whole are learned
      series, open         numbers of series, and of alerts that go on
      off                  1 while the settings want no series, else 0
      points_from          bucket whose start, ms, is the first of which all shards have everything
      hours_from           the same of hours of events
      pieces               JSON, name -> number of parts of each piece of state; parts are called
                           <name>/<i>, and what is not named here is deleted
"""

import asyncio
import hashlib
import json
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import structlog

from valuetide.schemas.alert import Alert
from valuetide.schemas.errors import FaultError, TransientError
from valuetide.scoring.arrays import DAY_MS, IntArray
from valuetide.scoring.series import (
    EQUITY,
    EVENT_COLUMNS,
    EVENTS,
    HOUR_MS,
    ROLES,
    WHOLE,
    bucket_ms,
    parse_cell,
    parse_name,
    whole_cell,
)
from valuetide.scoring.trends.panel import Panel, Plan, Segment
from valuetide.scoring.trends.silence import Producers
from valuetide.streams.alert_messages import (
    alert_step,
    outage_alert,
    outage_fingerprint,
    series_alert,
    withdrawn,
)
from valuetide.streams.alerts import parse_acknowledgement
from valuetide.streams.clock import Clock
from valuetide.streams.metrics import Metrics
from valuetide.streams.publish import alert_messages
from valuetide.streams.settings import Settings
from valuetide.streams.shard import Sender
from valuetide.streams.store import CommitRefusedError, StateStore, WatchCommit, WatchRecord
from valuetide.streams.store.redis import WATCH_PARTITION
from valuetide.streams.watermark import Watermark

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
MOST_BUCKETS = 64
"""Buckets that one commit closes: a replay closes many at once."""

LONGEST_GAP = 28
"""Empty buckets before the first ones that count: what is further back is a stray, no beginning."""

RULES = ("level", "variance", "outage")
"""The rules of the watch; alerts about the customers of shard 0 lie beside its own."""

PART_BYTES = 1 << 20
"""Parts of a piece of state: Redis answers nobody while it copies one."""


@dataclass(slots=True)
class _Memory:
    """What is known of the watch, as of its last commit and of what is being worked on."""

    sequence: int
    writer: str
    at: tuple[int, str]
    """Sequence and writer of the commit that this goes on from."""
    parts: dict[str, bytes]
    """Digest of each part of a piece of state, as of the last commit."""
    panel: Panel
    producers: Producers
    closed: int | None
    closed_hour: int | None
    taken: Counter[int]
    equity: dict[int, int]
    orphans: list[Alert]
    points_from: int
    hours_from: int
    counts_anew: bool
    """Whether shards count other buckets than before, and it is not committed since when."""
    counted: bool
    """Whether they counted at all."""


@dataclass(slots=True)
class _Open:
    """Sums over all shards of buckets to be closed."""

    cells: defaultdict[int, dict[Segment, IntArray]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    hours: defaultdict[int, IntArray] = field(
        default_factory=lambda: defaultdict(lambda: np.zeros(len(ROLES), np.int64))
    )
    equity: defaultdict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    events: defaultdict[int, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))


class TrendWatch:
    """Watches the series of all shards.

    Parameters
    ----------
    settings
        Which series there are, and what is worth an alert.
    store, sender, metrics, clock
        What it uses.
    worker
        Name of the worker.
    shards
        The worker's shards by partition, as they are at the moment.
    """

    def __init__(
        self,
        settings: Settings,
        store: StateStore,
        sender: Sender,
        metrics: Metrics,
        clock: Clock,
        worker: str,
        shards: Mapping[int, object],
    ) -> None:
        self._settings = settings
        self._store = store
        self._sender = sender
        self._metrics = metrics
        self._clock = clock
        self._worker = worker
        self._shards = shards
        self._bucket_ms = bucket_ms(settings.series.bucket)
        self._memory: _Memory | None = None
        self._watermark = Watermark(settings.series.idle_seconds)

    async def run(self) -> None:
        """Close what is due while shard 0 is ours, until cancelled."""
        off = False
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if WATCH_PARTITION not in self._shards:
                off = False
                self._let_go()
                continue
            try:
                if not self._settings.series.enabled:
                    off = off or await self.note_off()
                    continue
                while await self.look() == MOST_BUCKETS:
                    pass
            except TransientError as error:
                log.warning("watch starts again from its last commit", why=str(error))

    async def look(self) -> int:
        """Close the buckets that are due; gives how many were.

        Raises
        ------
        TransientError
            When store or broker do not answer, or somebody else has committed.
        FaultError
            When what the store has cannot be read.
        """
        try:
            return await self._look()
        except BaseException:
            self._memory = None
            raise

    async def note_off(self) -> bool:
        """Note that there are no series, so that this time is not taken for one without sales.

        Raises
        ------
        TransientError
            When the store does not answer, or somebody else has committed.
        """
        record = await self._store.read_watch_fields()
        if record.get("off", "1") == "0":
            sequence, writer = int(record["sequence"]) + 1, self._writer()
            await self._store.commit_watch(WatchCommit(sequence, writer, {"off": 1}, {}))
        return True

    def _let_go(self) -> None:
        """Forget what the watch knew, for another worker has it."""
        self._memory = None
        self._watermark = Watermark(self._settings.series.idle_seconds)
        metrics = self._metrics
        for gauge in (
            metrics.series, metrics.open_alerts, metrics.learning_points, metrics.late_events,
            metrics.watch_lag,
        ):  # fmt: skip
            gauge.set(0)

    def _writer(self) -> str:
        # A commit that was given up may still be made: see shard_memory.
        return f"{self._worker}-{uuid.uuid4().hex[:8]}"

    async def _look(self) -> int:
        partitions = range(self._settings.partitions)
        records = await self._store.read_records(partitions)
        now = time.monotonic()
        mark = self._watermark.of(records, self._clock.wall_ms(), now)
        late = sum(int(record.get("series:late", 0)) for record in records)
        self._metrics.late_events.set(late)
        if mark is None:
            return 0
        memory = self._memory or await self._read()
        self._memory = memory
        due = mark - int(self._settings.series.lateness_seconds * 1000.0)
        last, last_hour = due // self._bucket_ms - 1, due // HOUR_MS - 1
        if memory.closed is not None:
            self._metrics.watch_lag.set((mark - (memory.closed + 1) * self._bucket_ms) / 1000.0)
            if memory.counts_anew:
                self._count_from(memory, records)
            elif last <= memory.closed and last_hour <= (memory.closed_hour or 0):
                return 0
        # One shard at a time: the client reads an answer in one go.
        buckets = [await self._store.read_buckets(shard) for shard in partitions]
        await self._check(memory)
        if memory.closed is None:
            first = await asyncio.to_thread(first_bucket, buckets, self._settings.series.bucket)
            if first is None or first > last:
                return 0
            memory.closed, memory.closed_hour = first - 1, first * self._hours_a_bucket - 1
        before = memory.closed
        acks = await self._store.read_acknowledgements(WATCH_PARTITION)
        # Ten thousand series take a tenth of a second, in which shards should go on.
        alerts = await asyncio.to_thread(self._close, memory, buckets, last, last_hour, acks)
        commit, parts = await asyncio.to_thread(self._commit, memory, alerts)
        await self._publish(commit)
        await self._store.commit_watch(commit)
        memory.sequence = commit.sequence
        memory.at = commit.sequence, commit.writer
        memory.counts_anew = False
        memory.parts = parts
        closed = memory.closed - before
        self._measure(memory, commit, alerts, closed)
        return closed

    @property
    def _hours_a_bucket(self) -> int:
        return self._bucket_ms // HOUR_MS

    def _count_from(self, memory: _Memory, records: Sequence[Mapping[str, str]]) -> None:
        """Make points of what begins after all that shards had seen when settings changed."""
        seen = max(int(r.get(f"max_event_at:{role}", 0)) for r in records for role in ROLES)
        bucket = min(seen, self._clock.wall_ms()) // self._bucket_ms
        memory.points_from = (bucket + 1) * self._bucket_ms
        if not memory.counted:
            memory.hours_from = memory.points_from

    async def _check(self, memory: _Memory) -> None:
        """Refuse to go on where another worker has.

        Shards drop what it has closed. That would look like no sales at all, and alerts go out
        before a commit is refused. Buckets are read first, so what was dropped from them before
        is of a commit that is seen here.
        """
        record = await self._store.read_watch_fields()
        at = int(record.get("sequence", 0)), record.get("writer", "")
        if at != memory.at:
            raise CommitRefusedError(f"the watch is at commit {at[0]} by {at[1]}, not {memory.at}")

    # -- memory -------------------------------------------------------------------------------

    async def _read(self) -> _Memory:
        record = await self._store.read_watch()
        alerts = await self._store.read_open_alerts(WATCH_PARTITION)
        return await asyncio.to_thread(self._load, record, alerts)

    def _load(self, record: WatchRecord, alerts: Mapping[str, str]) -> _Memory:
        settings, fields = self._settings, record.fields
        plan = plan_of(settings)
        try:
            pieces = _joined(record)
            closed = int(fields["closed"]) if "closed" in fields else None
            if record.sequence and fields.get("settings") != _mark(plan):
                log.warning(
                    "series are learned anew: settings have changed",
                    before=fields.get("settings"),
                    now=_mark(plan),
                )
                pieces = {name: piece for name, piece in pieces.items() if name == "producers"}
            closed_hour = int(fields["closed_hour"]) if closed is not None else None
            changed = closed_hour is not None and fields["unit"] != plan.unit
            if closed_hour is not None and changed:
                # Shards have dropped hours up to there, and cells of the other length.
                closed = (closed_hour + 1) // self._hours_a_bucket - 1
            counted = fields.get("off") != "1"
            producers = (
                Producers.decode(pieces["producers"], settings.alerts.outage_hours)
                if "producers" in pieces
                else Producers(settings.alerts.outage_hours)
            )
            panel = Panel(plan, pieces if "panel" in pieces else None)
            going_on = {*panel.open_alerts(), *map(outage_fingerprint, producers.firing)}
            orphans = [json.loads(text) for name, text in alerts.items() if name not in going_on]
        except ValueError as error:
            raise FaultError(f"the watch's state in Redis cannot be read: {error}") from error
        return _Memory(
            record.sequence,
            self._writer(),
            (record.sequence, record.writer),
            {name: _digest(part) for name, part in record.state.items()},
            panel,
            producers,
            closed,
            closed_hour,
            Counter({int(p): n for p, n in _numbered(fields, "taken:")}),
            dict(_numbered(fields, "equity:")),
            [withdrawn(alert) for alert in orphans if alert["rule"] in RULES],
            int(fields.get("points_from", 0)),
            int(fields.get("hours_from", 0)),
            changed or not counted,
            counted,
        )

    # -- closing ------------------------------------------------------------------------------

    def _close(
        self,
        memory: _Memory,
        buckets: Sequence[Mapping[str, bytes]],
        last: int,
        last_hour: int,
        acks: Mapping[str, str],
    ) -> list[Alert]:
        """Make points of what is due, at most ``MOST_BUCKETS`` at once; gives steps of alerts."""
        assert memory.closed is not None
        assert memory.closed_hour is not None
        if last - memory.closed > MOST_BUCKETS:
            last = memory.closed + MOST_BUCKETS
            last_hour = (last + 1) * self._hours_a_bucket - 1
        self._acknowledge(memory, acks)
        series = self._settings.series
        found = sums_of(buckets, series.bucket, (memory.closed, last), memory.closed_hour)
        alerts, memory.orphans = memory.orphans, []
        for bucket in range(memory.closed + 1, last + 1):
            first, end = bucket * self._hours_a_bucket, (bucket + 1) * self._hours_a_bucket
            alerts += self._close_hours(memory, found, end - 1)
            silent = memory.producers.silent_hours(first, end - 1)
            stopped = [role for role, hours in zip(ROLES, silent.tolist(), strict=True) if hours]
            memory.equity.update(found.equity.get(bucket, {}))
            equity = sum(memory.equity.values()) if memory.equity else None
            cells = found.cells.get(bucket, {})
            if bucket * self._bucket_ms < memory.points_from:
                # Nobody knows what happened: a point that is missing, no 0.
                cells, equity, stopped = {}, None, list(ROLES)
            alerts += [
                series_alert(
                    finding,
                    bucket,
                    self._bucket_ms,
                    self._settings.vocabulary.base_currency,
                    memory.panel.plan.points_per_day,
                )
                for finding in memory.panel.observe(bucket, cells, equity, stopped)
            ]
            memory.taken.update(found.events.get(bucket, {}))
            memory.closed = bucket
        return alerts + self._close_hours(memory, found, last_hour)

    def _close_hours(self, memory: _Memory, found: _Open, last: int) -> list[Alert]:
        alerts: list[Alert] = []
        names = [getattr(self._settings.topics, role) for role in ROLES]
        holidays = self._settings.series.holiday_names
        assert memory.closed_hour is not None
        first = max(memory.closed_hour + 1, memory.hours_from // HOUR_MS)
        for hour in range(first, last + 1):
            events = found.hours[hour]
            judge = hour * HOUR_MS // DAY_MS not in holidays
            for step in memory.producers.observe(hour, events, judge=judge):
                who = step.row
                alerts.append(
                    outage_alert(
                        step,
                        names[who],
                        hour,
                        float(memory.producers.expected[who]),
                        int(events[who]),
                        self._settings.vocabulary.base_currency,
                    )
                )
        memory.closed_hour = max(last, memory.closed_hour)
        return alerts

    def _acknowledge(self, memory: _Memory, acks: Mapping[str, str]) -> None:
        """Note who knows of which alerts, until the bucket in which that ends."""
        assert memory.closed is not None
        assert memory.closed_hour is not None
        going_on = {
            name: (*of, self._bucket_ms, memory.closed)
            for name, of in memory.panel.open_alerts().items()
        } | {
            outage_fingerprint(row): (memory.producers.decider, row, HOUR_MS, memory.closed_hour)
            for row in memory.producers.firing
        }
        for name in acks.keys() & going_on.keys():
            decider, row, unit_ms, closed = going_on[name]
            known = parse_acknowledgement(name, acks[name])
            until = known.until_ms // unit_ms if known else closed
            if until > closed:
                decider.acknowledge(row, until)

    # -- out ----------------------------------------------------------------------------------

    def _commit(
        self, memory: _Memory, alerts: Sequence[Alert]
    ) -> tuple[WatchCommit, dict[str, bytes]]:
        """Give the commit, and digests of the parts of state that there are after it."""
        pieces = memory.panel.encode() | {"producers": memory.producers.encode()}
        counts: dict[str, int] = {}
        # Most hours change the producers only: what is as it was is not sent.
        state: dict[str, bytes | None] = {}
        parts: dict[str, bytes] = {}
        for piece, content in pieces.items():
            starts = range(0, max(len(content), 1), PART_BYTES)
            counts[piece] = len(starts)
            for i, start in enumerate(starts):
                name, part = f"{piece}/{i}", content[start : start + PART_BYTES]
                parts[name] = _digest(part)
                if memory.parts.get(name) != parts[name]:
                    state[name] = part
        state |= dict.fromkeys(memory.parts.keys() - parts.keys())
        assert memory.closed is not None
        assert memory.closed_hour is not None
        commit = WatchCommit(
            memory.sequence + 1,
            memory.writer,
            {
                "closed": memory.closed,
                "closed_hour": memory.closed_hour,
                "unit": memory.panel.plan.unit,
                "settings": _mark(memory.panel.plan),
                "points": memory.panel.points,
                "learning": memory.panel.points_needed,
                "series": memory.panel.series,
                "open": len(memory.panel.open_alerts()) + len(memory.producers.firing),
                "off": 0,
                "points_from": memory.points_from,
                "hours_from": memory.hours_from,
                **{f"taken:{p}": count for p, count in memory.taken.items()},
                **{f"equity:{p}": equity for p, equity in memory.equity.items()},
                "pieces": json.dumps(counts),
            },
            state,
            [alert_step(alert) for alert in alerts],
        )
        return commit, parts

    async def _publish(self, commit: WatchCommit) -> None:
        topic = self._settings.topics.alerts
        if messages := alert_messages(topic, commit.alerts):
            delivery = await self._sender.send(topic, WATCH_PARTITION, [], [], messages)
            await delivery.wait()

    def _measure(
        self, memory: _Memory, commit: WatchCommit, alerts: Sequence[Alert], closed: int
    ) -> None:
        """Count and say what is committed now."""
        metrics = self._metrics
        metrics.closed_buckets.inc(closed)
        metrics.series.set(memory.panel.series)
        metrics.open_alerts.set(int(commit.fields["open"]))
        metrics.learning_points.set(memory.panel.points_needed)
        for alert in alerts:
            metrics.alerts.labels(alert["rule"], alert["state"]).inc()
            if alert["notify"]:
                log.warning("alert", reason=alert["reason"], what=alert["sentence"])
        if closed and memory.panel.points_needed:
            needed = memory.panel.points_needed
            log.info(
                "series are learning", points=memory.panel.points, points_needed=needed,
                series=memory.panel.series,
            )  # fmt: skip


def plan_of(settings: Settings) -> Plan:
    """Give the series that the settings want."""
    series = settings.series
    return Plan(
        series.metrics,
        series.dimensions,
        series.bucket,
        series.holiday_names,
        settings.alerts.policy(DAY_MS // bucket_ms(series.bucket)),
        series.most_elements,
        settings.vocabulary.minor_digits,
    )


def first_bucket(buckets: Sequence[Mapping[str, bytes]], unit: str) -> int | None:
    """Give the bucket that series begin with, ``None`` where there is none.

    Few events from long before the others are strays, and no beginning.
    """
    there = set()
    for shard in buckets:
        for name in shard:
            (bucket, dimension, _), letter = parse_name(name)
            if dimension == WHOLE and letter == unit[0]:
                there.add(bucket)
    first: int | None = None
    for bucket in sorted(there, reverse=True):
        if first is not None and first - bucket > LONGEST_GAP:
            break
        first = bucket
    return first


def sums_of(
    buckets: Sequence[Mapping[str, bytes]],
    unit: str,
    closing: tuple[int, int],
    closed_hour: int,
) -> _Open:
    """Add up what all shards have of the buckets after one and up to another, and of open hours.

    Raises
    ------
    FaultError
        When a cell cannot be read.
    """
    found = _Open()
    closed, last = closing
    for partition, shard in enumerate(buckets):
        for name, packed in shard.items():
            try:
                (bucket, dimension, element), letter = parse_name(name)
                if dimension == EVENTS:
                    if bucket > closed_hour:
                        found.hours[bucket] += parse_cell(name, packed)
                    continue
                if letter != unit[0] or not closed < bucket <= last:
                    continue
                values = parse_cell(name, packed)
            except ValueError as error:
                raise FaultError(f"partition {partition}: its series: {error}") from error
            if dimension == EQUITY:
                found.equity[bucket][partition] = values[0]
                continue
            cells, cell = found.cells[bucket], whole_cell(values)
            known = cells.get((dimension, element))
            cells[dimension, element] = cell if known is None else known + cell
            if dimension == WHOLE:
                found.events[bucket][partition] += int(cell[EVENT_COLUMNS].sum())
    return found


def _joined(record: WatchRecord) -> dict[str, bytes]:
    counts: dict[str, int] = json.loads(record.fields.get("pieces", "{}"))
    return {
        piece: b"".join(record.state.get(f"{piece}/{i}", b"") for i in range(count))
        for piece, count in counts.items()
    }


def _digest(part: bytes) -> bytes:
    return hashlib.blake2b(part, digest_size=16).digest()


def _numbered(fields: Mapping[str, str], prefix: str) -> list[tuple[int, int]]:
    return [
        (int(name.removeprefix(prefix)), int(value))
        for name, value in fields.items()
        if name.startswith(prefix)
    ]


def _mark(plan: Plan) -> str:
    """What a panel's state is only good for."""
    return json.dumps(
        {"bucket": plan.unit, "holidays": sorted(set(plan.holidays.values()))}, ensure_ascii=False
    )
