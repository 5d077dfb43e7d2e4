"""What a shard holds in memory: its customers, and the numbers of its record.

All of it is as of the last event that was folded, which is ahead of what has been committed by the
batches in flight. When one of those fails, the whole memory is dropped and read again.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from valuetide.schemas.errors import FaultError
from valuetide.schemas.score import ranked_fields
from valuetide.schemas.topics import INPUTS
from valuetide.scoring.arrays import grown, true_at
from valuetide.scoring.current_value import CurrentValue, current_value
from valuetide.scoring.customers import Customers
from valuetide.scoring.decay import LANDMARK_MS
from valuetide.scoring.fold import (
    KIND_PLACED,
    FeedbackBatch,
    Folded,
    InteractionBatch,
    OrderBatch,
    fold,
)
from valuetide.scoring.signals import NO_SIGNAL, SIGNALS
from valuetide.streams.customer_alerts import CustomerWatch, Scores
from valuetide.streams.decode import Decoded, Role
from valuetide.streams.pool import Pool
from valuetide.streams.records import TOTALS, month_sums, rank_values, score_rows, stored_rows
from valuetide.streams.settings import Settings
from valuetide.streams.shard_model import BASIS, Past, ShardModel, basis_of, hashes
from valuetide.streams.shard_series import ShardSeries
from valuetide.streams.store import AlertStep, Commit, ShardRecord

V = TypeVar("V", bound=np.generic)

OUTCOMES = ("folded", "duplicate", "dead_letter", "rerouted")
MONTH_WIDTH = 6


def settings_mark(settings: Settings) -> str:
    """Give the settings that a state depends on; a state is only good for one such text."""
    words = settings.vocabulary
    return (
        f"partitions={settings.partitions} half_life_days={settings.half_life_days:g} "
        f"base_currency={words.base_currency} minor_digits={words.minor_digits}"
    )


@dataclass(frozen=True, slots=True)
class Part:
    """The events of one topic in a batch, their customers' rows, and what folding them did."""

    role: Role
    decoded: Decoded
    rows: NDArray[np.intp]
    folded: Folded


@dataclass(frozen=True, slots=True)
class Scored:
    """The customers that a batch changed, ``m``, with their new score fields, ranks and alerts."""

    ids: list[str]
    rows: NDArray[np.intp]
    fields: list[tuple[Any, ...]]
    top: dict[str, list[tuple[float, str]]]
    alerts: list[AlertStep]


class ShardMemory:
    """Customers and numbers of one shard.

    Parameters
    ----------
    partition
        The shard.
    settings
        The settings.
    worker
        Name of the worker.
    record
        What the store knows of the shard.
    pool
        What all shards have learned; this one's share is put there.

    Raises
    ------
    FaultError
        When the state was made with other settings, or cannot be read.
    """

    def __init__(
        self, partition: int, settings: Settings, worker: str, record: ShardRecord, pool: Pool
    ) -> None:
        mark = settings_mark(settings)
        if record.sequence and record.fields.get("settings") != mark:
            raise FaultError(
                f"partition {partition}: the state in Redis was made with "
                f"{record.fields.get('settings')}, the settings say {mark}. Put the settings back, "
                "or use another key_prefix and group to start afresh."
            )
        self.partition = partition
        self.sequence = record.sequence
        self.floors: dict[str, float] = {}
        """By ranked field the least value that is ranked, from the last commit's answer."""
        # A commit of ours that was given up may still be on its way and be made after this: it must
        # not be taken for the next one, which has its sequence but other content. So our name is
        # new each time that we read.
        self.writer = f"{worker}-{uuid.uuid4().hex[:8]}"
        self._settings = settings
        self._mark = mark
        self._pool = pool
        self._ranked = ranked_fields(settings.horizons_days)
        try:
            self._load(record)
        except ValueError as error:
            raise FaultError(
                f"partition {partition}: its record in Redis cannot be read: {error}"
            ) from error
        self.forget_customers()
        self._blank = self._make_blank()

    def _load(self, record: ShardRecord) -> None:
        fields = record.fields
        self.positions = {role: int(fields.get(f"offset:{role}", 0)) for role in INPUTS}
        # What decides whether the shard has no news or only stands still: see ``watermark``.
        self.behind = {role: fields.get(f"behind:{role}") == "1" for role in INPUTS}
        self.paused_until = 0
        self.max_event_at = int(fields.get("max_event_at", 0))
        self.swept_at = int(fields.get("swept_at", 0))
        self.live = bool(int(fields.get("live", 0)))
        self.counters = {
            name: int(fields.get(name, 0))
            for name in (
                *(f"count:{role}:{outcome}" for role in INPUTS for outcome in OUTCOMES),
                *(f"total:{name}" for name in ("customers", *TOTALS, "equity")),
                "unmatched",
            )
        }
        self.months = {
            month: np.array(sums.split(), np.int64) for month, sums in record.months.items()
        }
        self._model = ShardModel(self._settings, record.model)
        self.series = ShardSeries(self._settings, record)
        self._alerts = CustomerWatch(self._settings, fields, record.alerts)

    def __len__(self) -> int:
        return len(self._customers)

    def join_pool(self) -> None:
        """Let all shards of the worker score with what this one has learned."""
        customers, behind = self.counters["total:customers"], self.behind["orders"]
        self._pool.put(self.partition, self._model.share(customers, behind=behind))

    def note_reading(self, behind: dict[Role, bool]) -> None:
        """Note of some inputs whether there is more of them that was not read."""
        was_behind = self.behind["orders"]
        self.behind |= behind
        if self.behind["orders"] != was_behind:
            self.join_pool()

    def forget_customers(self) -> None:
        """Drop all customers; they are added again when they are needed."""
        self._customers = Customers(self._settings.half_life_days)
        # Per row: the totals that the last score had, what it rested on, and its rank values.
        self._scored: NDArray[np.int64] = np.zeros((len(TOTALS), 0), np.int64)
        self._basis: NDArray[np.int64] = np.zeros((len(BASIS), 0), np.int64)
        self._signals: NDArray[np.void] = np.zeros(0, SIGNALS)
        # What the model knows them by.
        self._who: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._ranks: NDArray[np.float64] = np.zeros((len(self._ranked), 0), np.float64)

    def unknown(self, customers: Sequence[str]) -> list[str]:
        """Give those of the customers that have no row, each once."""
        index = self._customers.index
        return [customer for customer in dict.fromkeys(customers) if customer not in index]

    def add_customers(self, ids: list[str], states: list[bytes | None]) -> None:
        """Give customers a row, from their packed state or, for ``None``, as new ones.

        Raises
        ------
        FaultError
            When a state cannot be read.
        """
        try:
            rows = self._customers.add(ids, states)
        except ValueError as error:
            raise FaultError(
                f"partition {self.partition}: a customer's state in Redis cannot be read: {error}"
            ) from error
        self.counters["total:customers"] += states.count(None)
        self._reserve(len(self._customers))
        self._who[rows] = hashes(ids)
        for column, blank in zip(self._columns, self._blank, strict=True):
            column[..., rows] = blank
        known = rows[[state is not None for state in states]]
        if known.size:
            self._note(known)

    def _make_blank(self) -> tuple[NDArray[Any], ...]:
        """Give the columns of a customer of whom nothing is known yet; nobody may be in memory."""
        row = self._customers.add([""], [None])
        self._reserve(1)
        self._note(row)
        blank = tuple(column[..., row] for column in self._columns)
        self.forget_customers()
        return blank

    def _note(self, rows: NDArray[np.intp]) -> None:
        """Note what the last score of customers said and rested on, as their states have it."""
        # Any moment gives the same rank values, as long as its weight does not overflow.
        value = self._value(rows, LANDMARK_MS)
        self._scored[:, rows] = _totals(value)
        self._basis[:, rows] = basis_of(value)
        self._signals[rows] = self._customers.signals[rows]
        ranks = self._rank_values(value, self._customers.records["clv"][rows], LANDMARK_MS)
        self._ranks[:, rows] = ranks

    @property
    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self._scored, self._basis, self._signals, self._ranks

    def _reserve(self, count: int) -> None:
        """Make place for so many rows."""
        if count > self._signals.size:
            capacity = grown(self._signals.size, count)
            self._scored = _wider(self._scored, capacity)
            self._basis = _wider(self._basis, capacity)
            self._signals = _wider(self._signals, capacity)
            self._who = _wider(self._who, capacity)
            self._ranks = _wider(self._ranks, capacity)

    def fold(self, role: Role, decoded: Decoded) -> Part:
        """Fold events of a topic, all of whose customers have a row, and count them."""
        index = self._customers.index
        count = len(decoded.customer)
        rows = np.fromiter(map(index.__getitem__, decoded.customer), np.intp, count)
        folded = fold(self._customers, _batch(role, decoded, rows))
        if len(decoded.at):
            self.max_event_at = max(self.max_event_at, int(decoded.at.max()))
            self.series.note_time(role, int(decoded.at.max()))
        self.counters["unmatched"] += folded.unmatched
        scored = dict(zip(TOTALS, self._scored, strict=True))
        self.series.fold(role, decoded, folded, rows, scored)
        return Part(role, decoded, rows, folded)

    def score(self, parts: Sequence[Part], now_ms: int) -> Scored:
        """Score the customers whom the parts of a batch changed, for a moment.

        Totals and ranks are brought up to date, and what orders teach is learned before.

        Parameters
        ----------
        parts
            What was folded, one for a topic at most, at least one.
        now_ms
            The moment.
        """
        rows = parts[0].folded.rows
        if len(parts) > 1:
            rows = np.unique(np.concatenate([part.folded.rows for part in parts]))
        ids = list(map(self._customers.ids.__getitem__, rows.tolist()))
        value = self._value(rows, now_ms)
        self._total(rows, value)
        for part in parts:
            if part.role == "orders":
                # Of those alone who have new orders, so that what is learned is the same bytes
                # whoever else was in the batch.
                self._learn(part, value, rows.searchsorted(part.folded.rows), now_ms)
            else:
                self._note_signals(part, now_ms)
        return self._scored_as(ids, rows, value, now_ms)

    def score_again(self, ids: Sequence[str], now_ms: int, older_than_ms: int) -> Scored | None:
        """Score those customers, all with a row, who may order again and whose score is old.

        Parameters
        ----------
        ids
            Who.
        now_ms
            The moment to score for.
        older_than_ms
            Scores for this moment or an earlier one are old.

        Returns
        -------
        Scored or None
            ``None`` when no score is old.
        """
        index, records = self._customers.index, self._customers.records
        rows = np.array([index[one] for one in dict.fromkeys(ids)], np.intp)
        old = ~np.isnan(records["clv"][rows]) & (records["scored_at"][rows] <= older_than_ms)
        rows = rows[old]
        if not rows.size:
            return None
        named = [self._customers.ids[row] for row in rows.tolist()]
        return self._scored_as(named, rows, self._value(rows, now_ms), now_ms)

    def _scored_as(
        self, ids: list[str], rows: NDArray[np.intp], value: CurrentValue, now_ms: int
    ) -> Scored:
        """Give the score of customers, and note what it says and rests on."""
        model, pool, records = self._model, self._pool, self._customers.records
        totals = {name: self.counters[f"total:{name}"] for name in TOTALS}
        past = Past(
            records["scored_at"][rows],
            records["clv"][rows],
            self._basis[:, rows],
            self._signals[rows],
        )
        signals = self._customers.signals[rows]
        knowledge = pool.at(now_ms)
        ahead = model.expect(value, signals, past, totals, knowledge, now_ms)
        clv = np.full(len(ids), np.nan)
        clv[ahead.buyers] = ahead.clv
        model.ranks.move(past.clv, clv)
        self.counters["total:equity"] += _sum(clv) - _sum(past.clv)
        records["scored_at"][rows] = now_ms
        records["clv"][rows] = clv
        self._basis[:, rows] = basis_of(value)
        self._signals[rows] = signals
        top = self._rank(rows, self._rank_values(value, clv, now_ms))
        percentile = pool.percentiles.of(ahead.clv)
        scores = Scores(
            ids=ids,
            flags=records["flags"][rows],
            past=past,
            basis=self._basis[:, rows],
            ahead=ahead,
            percentile=percentile,
            totals=totals,
            knowledge=knowledge,
            now_ms=now_ms,
        )
        records["flags"][rows], alerts = self._alerts.look(scores, model, pool)
        digits = self._settings.vocabulary.minor_digits
        fields = score_rows(value, ahead, percentile, now_ms, digits)
        return Scored(ids, rows, fields, top, alerts)

    def _learn(self, part: Part, value: CurrentValue, which: NDArray[np.intp], now_ms: int) -> None:
        decoded, folded = part.decoded, part.folded
        placed = true_at(folded.accepted & (decoded.kind == KIND_PLACED))
        whose = folded.rows.searchsorted(part.rows[placed])
        at, amount = decoded.at[placed], decoded.amount[placed]
        who = self._who[folded.rows]
        if self._model.learn(who, value, which, whose, at, amount, now_ms):
            self._model.expand(self._pool.knowledge.parameters)
            self.join_pool()
        self._pool.learned(self.partition, self.counters["total:customers"])

    def _note_signals(self, part: Part, now_ms: int) -> None:
        if self._model.evidence is None:
            return
        decoded = part.decoded
        said = true_at(part.folded.accepted & (decoded.signal != NO_SIGNAL))
        who = self._who[part.rows[said]]
        self._model.note_signals(who, decoded.signal[said], decoded.at[said], now_ms)

    def count(self, role: Role, counts: dict[str, int]) -> None:
        """Add to the counters of a role, by outcome."""
        for outcome, count in counts.items():
            self.counters[f"count:{role}:{outcome}"] += count

    def commit(self, scored: Scored, months: dict[str, str]) -> Commit:
        """Give the commit that makes what was folded so far true."""
        self.sequence += 1
        return Commit(
            partition=self.partition,
            sequence=self.sequence,
            writer=self.writer,
            fields={
                **{f"offset:{name}": offset for name, offset in self.positions.items()},
                **{f"behind:{name}": int(behind) for name, behind in self.behind.items()},
                "paused_until": self.paused_until,
                "max_event_at": self.max_event_at,
                "swept_at": self.swept_at,
                "live": int(self.live),
                "settings": self._mark,
                **self.counters,
                **self.series.fields(),
                **self._alerts.fields,
            },
            months=months,
            ids=scored.ids,
            states=self._customers.pack(scored.rows),
            rows=stored_rows(scored.fields) if self._settings.layout == "readable" else (),
            top=scored.top,
            model=self._model.changes(self.counters["total:customers"]),
            series=self.series.changes(self.max_event_at, self.counters["total:equity"]),
            alerts=scored.alerts,
        )

    def _value(self, rows: NDArray[np.intp], now_ms: int) -> CurrentValue:
        words = self._settings.vocabulary
        return current_value(
            self._customers, rows, now_ms, minor_digits=words.minor_digits, bands=words.rfm
        )

    def _rank_values(
        self, value: CurrentValue, clv: NDArray[np.float64], now_ms: int
    ) -> NDArray[np.float64]:
        settings = self._settings
        digits = settings.vocabulary.minor_digits
        back = rank_values(value, now_ms, settings.half_life_days, digits)
        return np.concatenate([back, [np.where(np.isnan(clv), 0.0, clv) / 10.0**digits]])

    def _rank(
        self, rows: NDArray[np.intp], ranks: NDArray[np.float64]
    ) -> dict[str, list[tuple[float, str]]]:
        """Give the customers that may be among the best, and those that may have ceased to be."""
        before = self._ranks[:, rows]
        self._ranks[:, rows] = ranks
        top: dict[str, list[tuple[float, str]]] = {}
        ids = self._customers.ids
        for i, name in enumerate(self._ranked):
            # The floor is that of the last commit that has answered. It falls only when a ranked
            # customer does; what is missed then lies far below the places that are shown.
            floor = self.floors.get(name, -np.inf)
            offered = true_at((ranks[i] > floor) | (before[i] >= floor))
            names = [ids[row] for row in rows[offered].tolist()]
            top[name] = list(zip(ranks[i, offered].tolist(), names, strict=True))
        return top

    def _total(self, rows: NDArray[np.intp], value: CurrentValue) -> None:
        now = _totals(value)
        change = (now - self._scored[:, rows]).sum(axis=1)
        self._scored[:, rows] = now
        for name, delta in zip(TOTALS, change.tolist(), strict=True):
            self.counters[f"total:{name}"] += delta

    def sum_months(self, parts: Sequence[Part]) -> dict[str, str]:
        """Add accepted order events to their months; gives the months that changed."""
        changed: dict[str, str] = {}
        for part in parts:
            if part.role == "orders" and part.folded.accepted.any():
                changed |= self._sum_months(part.decoded, part.folded.accepted)
        return changed

    def _sum_months(self, decoded: Decoded, new: NDArray[np.bool_]) -> dict[str, str]:
        sums = month_sums(decoded.at[new], decoded.kind[new], decoded.amount[new])
        for month, values in sums.items():
            self.months[month] = self.months.get(month, np.zeros(MONTH_WIDTH, np.int64)) + values
        return {month: " ".join(map(str, self.months[month].tolist())) for month in sums}


def _wider(column: NDArray[V], capacity: int) -> NDArray[V]:
    """Give a column with place for so many rows; what is not used yet takes no memory."""
    wide = np.zeros((*column.shape[:-1], capacity), column.dtype)
    wide[..., : column.shape[-1]] = column
    return wide


def _sum(values: NDArray[np.float64]) -> int:
    """Sum of whole numbers, NaN left out; not of doubles, which do not hold every large one."""
    return int(values[~np.isnan(values)].astype(np.int64).sum())


def _totals(value: CurrentValue) -> NDArray[np.int64]:
    return np.array([getattr(value, name) for name in TOTALS])


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
        return InteractionBatch(
            row=row, event=decoded.event, at=decoded.at, cost=decoded.cost, signal=decoded.signal
        )
    return FeedbackBatch(row=row, event=decoded.event, at=decoded.at, signal=decoded.signal)
