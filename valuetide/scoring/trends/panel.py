"""All series of a shop: sums of a bucket in, steps of alerts with their explanations out.

Each metric has a watch of its own, since series of one watch share a model. Its first row is the
whole, all others are parts of it: together they are the family whose false alerts are budgeted.
A series begins with the first bucket in which there is something of it.

What happens once shows in several metrics: with fewer orders there is less revenue. Whichever fires
first is told of, and its kin, which began about when it did, in the same direction and segment (or
in a part of it), only goes on record.

    pieces of state by name; numbers little endian, m = 42 points that are kept
      elements   JSON, [[dimension, element], ...] in the order in which they were first seen
      panel      <u2 layout version, 1   <u2 0   <u4 points so far   <f8 mean revenue a point, minor
                 units   <f8 mean orders a point   <i8 equity after the last bucket, least int64 for
                 none, then m <i8 numbers of the last points, the i-th ever at i mod m
      <metric>   <u4 n, then n <u4 positions among the elements, n <f8 mean of what is below the
                 line, 2n <f8 run length with which the level's and the noise's alert fired, n <f8
                 noise that was expected when it did, m x n x 3 <f4 actual, expected and what is
                 below the line at the last points (NaN for none), then the watch in the layout that
                 ``watch`` draws
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from valuetide.schemas.metrics import MetricName
from valuetide.scoring.arrays import NO_TIME, BoolArray, FloatArray, IntArray
from valuetide.scoring.series import COLUMNS, OTHER, WHOLE, Column, Unit
from valuetide.scoring.trends.calendar import WEEK_OF_DAYS, YEAR_OF_DAYS, Calendar, Season
from valuetide.scoring.trends.decision import (
    NO_WHOLE,
    Decider,
    Policy,
    State,
    Transition,
    fingerprint,
)
from valuetide.scoring.trends.explanation import Cause, Dimension, Measure, causes
from valuetide.scoring.trends.metrics import LEAST_PER, METRICS, Metric
from valuetide.scoring.trends.watch import Roster, Rule, Step, Watch

LAYOUT: Final = 1
_HEAD: Final = struct.Struct("<HHIddq")
_COUNT: Final = struct.Struct("<I")
KEPT: Final = 42
"""Points kept for explanations: longer than it takes until a shift is the new normal."""
_ACTUAL, _EXPECTED, _PER = range(3)
_MEAN_RATE: Final = 1.0 / 28.0
_RULES: Final[tuple[Rule, ...]] = ("level", "variance")
# An hour of the week comes too rarely to be known after the 28 points that do for days.
_LEARNING_HOURS: Final = 2 * 168
KIN_POINTS: Final = 7
"""Points between the beginnings of two changes that may be one: both are estimates."""

Segment = tuple[str, str]
"""Dimension and element, both empty for the whole."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which series there are, and what is worth an alert.

    Attributes
    ----------
    metrics, dimensions
        Names.
    unit
        Length of a bucket.
    holidays
        Name of the holiday by day number.
    policy
        Of all metrics; those that are no money have no least stake.
    most_elements
        Of a dimension; further ones are ``OTHER``.
    minor_digits
        Of money.
    """

    metrics: Sequence[MetricName]
    dimensions: Sequence[str]
    unit: Unit
    holidays: Mapping[int, str]
    policy: Policy
    most_elements: int
    minor_digits: int

    @property
    def calendar(self) -> Calendar:
        """Of the points."""
        if self.unit == "day":
            return Calendar((WEEK_OF_DAYS, YEAR_OF_DAYS), self.holidays)
        return Calendar((Season(24.0, 6), Season(168.0, 6)), self.holidays, points_per_day=24)

    @property
    def points_per_day(self) -> int:
        """Points of a series a day."""
        return 1 if self.unit == "day" else 24


@dataclass(frozen=True, slots=True)
class Finding:
    """A step of an alert about a series, explained.

    Attributes
    ----------
    metric, segment, rule
        What it is about.
    transition
        The step.
    expected, actual
        Mean of the points since the change, in the metric's unit; of the rule about noise the mean
        distance from what was expected, before the change and since.
    stake
        Money a day, in minor units over 10^digits.
    run_length
        Points between two times that a series without change shows as much as this one did when
        it fired.
    causes
        Segments that explain it, of an alert about the whole that is not near its end.
    kin
        Metric by which people have heard of the same change; only of the step that fires.
    """

    metric: MetricName
    segment: Segment
    rule: Rule
    transition: Transition
    expected: float
    actual: float
    stake: float
    run_length: float
    causes: Sequence[Cause]
    kin: MetricName | None = None

    @property
    def fingerprint(self) -> str:
        """Of the alert."""
        return fingerprint(self.rule, _series(self.metric, self.segment), self.transition.direction)


class _Group:
    """The series of one metric."""

    def __init__(self, name: MetricName, plan: Plan) -> None:
        self.name, self.metric = name, METRICS[name]
        model, policy = self.metric.model, plan.policy
        if plan.unit == "hour":
            model = replace(model, learning_points=_LEARNING_HOURS)
        if self.metric.worth == "none":
            policy = replace(policy, least_stake=0.0)
        self.setup = (model, plan.calendar, policy)
        self.watch = Watch(*self.setup)
        self.scale = 10.0**plan.minor_digits if self.metric.money else self.metric.above_unit
        self.at: IntArray = np.zeros(0, np.int64)
        self.volume: FloatArray = np.zeros(0)
        self.run_length: FloatArray = np.zeros((len(_RULES), 0))
        self.noise: FloatArray = np.zeros(0)
        self.history: NDArray[np.float32] = np.zeros((KEPT, 0, 3), np.float32)

    def grow(self, at: IntArray) -> None:
        """Begin series of these elements."""
        self.watch.grow(at.size)
        self.at = np.concatenate([self.at, at])
        self.volume = np.concatenate([self.volume, np.zeros(at.size)])
        self.run_length = np.pad(self.run_length, ((0, 0), (0, at.size)))
        self.noise = np.pad(self.noise, (0, at.size))
        self.history = np.pad(self.history, ((0, 0), (0, at.size), (0, 0)), constant_values=np.nan)

    @property
    def roster_of(self) -> tuple[IntArray, IntArray]:
        """Family and whole of each row."""
        part = np.arange(self.at.size) > 0
        return np.where(part, 0, -1), np.where(part, 0, NO_WHOLE)

    def encode(self) -> bytes:
        parts = (
            self.at.astype("<u4"), self.volume.astype("<f8"), self.run_length.astype("<f8"),
            self.noise.astype("<f8"), self.history.astype("<f4"),
        )  # fmt: skip
        return b"".join(
            [_COUNT.pack(self.at.size), *(part.tobytes() for part in parts), self.watch.encode()]
        )

    def decode(self, blob: bytes) -> None:
        if len(blob) < _COUNT.size:
            raise ValueError(f"{self.name}: {len(blob)} bytes are less than a head")
        (n,) = _COUNT.unpack_from(blob)
        sizes = np.cumsum([_COUNT.size, 4 * n, 8 * n, 16 * n, 8 * n, 12 * KEPT * n]).tolist()
        if len(blob) < sizes[-1]:
            raise ValueError(f"{self.name}: {len(blob)} bytes do not hold {n} series")
        self.at = np.frombuffer(blob, "<u4", n, sizes[0]).astype(np.int64)
        self.volume = np.frombuffer(blob, "<f8", n, sizes[1]).astype(np.float64)
        told = np.frombuffer(blob, "<f8", 2 * n, sizes[2]).astype(np.float64)
        self.run_length = told.reshape(len(_RULES), n)
        self.noise = np.frombuffer(blob, "<f8", n, sizes[3]).astype(np.float64)
        history = np.frombuffer(blob, "<f4", 3 * KEPT * n, sizes[4]).astype(np.float32)
        self.history = history.reshape(KEPT, n, 3)
        self.watch = Watch.decode(blob[sizes[5] :], *self.setup)

    def deciders(self) -> Iterator[tuple[Rule, Decider]]:
        yield "level", self.watch.level
        yield "variance", self.watch.spread


class Panel:
    """The series of a plan.

    Parameters
    ----------
    plan
        Which.
    pieces
        What ``encode`` gave, or nothing to begin anew.

    Raises
    ------
    ValueError
        When that cannot be read, or was made with other seasons or names of holidays.
    """

    def __init__(self, plan: Plan, pieces: Mapping[str, bytes] | None = None) -> None:
        self.plan = plan
        self.points = 0
        self._revenue = self._orders = 0.0
        self._equity = NO_TIME
        self._when: IntArray = np.full(KEPT, NO_TIME)
        self._elements: dict[Segment, int] = {(WHOLE, WHOLE): 0}
        self._groups = {name: _Group(name, plan) for name in plan.metrics}
        if pieces:
            self._decode(pieces)

    def observe(
        self,
        point: int,
        cells: Mapping[Segment, IntArray],
        equity: int | None,
        stopped: Sequence[str] = (),
    ) -> list[Finding]:
        """Take a bucket that is closed.

        Parameters
        ----------
        point
            Its number since 1970.
        cells
            By segment the sums over all shards, in the columns of ``series.Column``; none for a
            segment of which nothing happened.
        equity
            What all customers are worth at its end, minor units; ``None`` where nobody knows.
        stopped
            Roles whose producer was silent for a part of it.

        Returns
        -------
        Steps that alerts made.
        """
        sums = self._sums(cells)
        slot = self.points % KEPT
        self._when[slot] = point
        self.points += 1
        whole = sums[0]
        rate = max(_MEAN_RATE, 1.0 / self.points)
        if "orders" not in stopped:
            self._revenue += rate * (whole[Column.REVENUE] - self._revenue)
            self._orders += rate * (whole[Column.ORDERS] - self._orders)
        found: list[Finding] = []
        for group in self._groups.values():
            value, per, present = self._values(group, sums, equity)
            if not group.at.size:
                continue
            out = np.full(group.at.size, any(role in stopped for role in group.metric.roles))
            family, whole_row = group.roster_of
            worth = self._worth(group)
            points, steps = group.watch.observe(
                point, value, present, Roster(worth, family, whole_row), out
            )
            group.history[slot, :, _ACTUAL] = np.where(present & ~out, value, np.nan)
            group.history[slot, :, _EXPECTED] = points.expected
            group.history[slot, :, _PER] = per
            found += [
                self._hushed(group, self._explain(group, step, float(worth[step.transition.row])))
                for step in steps
            ]
        if equity is not None:
            self._equity = equity
        return found

    @property
    def series(self) -> int:
        """Number of series."""
        return sum(group.at.size for group in self._groups.values())

    @property
    def points_needed(self) -> int:
        """Points until all series of the whole that have begun are past learning."""
        needed = [0 if self.points else self._learning_points]
        for group in self._groups.values():
            if group.at.size:
                expectation = group.watch.expectation
                needed.append(expectation.model.learning_points - int(expectation.seen[0]))
        return max(needed)

    @property
    def _learning_points(self) -> int:
        return max((group.setup[0].learning_points for group in self._groups.values()), default=0)

    def open_alerts(self) -> dict[str, tuple[Decider, int]]:
        """Give decider and row of each alert that goes on, by fingerprint.

        One about a dimension that the settings have dropped does not.
        """
        segments = list(self._elements)
        watched = {WHOLE, *self.plan.dimensions}
        return {
            fingerprint(
                rule,
                _series(group.name, segments[group.at[row]]),
                int(decider.rows["direction"][row]),
            ): (decider, row)
            for group in self._groups.values()
            for rule, decider in group.deciders()
            for row in np.flatnonzero(decider.state >= State.FIRING).tolist()
            if segments[group.at[row]][0] in watched
        }

    def encode(self) -> dict[str, bytes]:
        """Pieces of which a new panel makes the same."""
        head = _HEAD.pack(LAYOUT, 0, self.points, self._revenue, self._orders, self._equity)
        return {
            "elements": json.dumps(list(self._elements), ensure_ascii=False).encode(),
            "panel": head + self._when.astype("<i8").tobytes(),
            **{name: group.encode() for name, group in self._groups.items()},
        }

    def _decode(self, pieces: Mapping[str, bytes]) -> None:
        head = pieces.get("panel", b"")
        if len(head) != _HEAD.size + 8 * KEPT:
            raise ValueError(f"panel: {len(head)} bytes instead of {_HEAD.size + 8 * KEPT}")
        layout, _, self.points, self._revenue, self._orders, self._equity = _HEAD.unpack_from(head)
        if layout != LAYOUT:
            raise ValueError(f"panel: layout {layout}, this release reads {LAYOUT}")
        self._when = np.frombuffer(head, "<i8", KEPT, _HEAD.size).astype(np.int64)
        names = json.loads(pieces.get("elements", b"[]"))
        self._elements = {(dimension, element): i for i, (dimension, element) in enumerate(names)}
        for name, group in self._groups.items():
            if name in pieces:  # one that the settings have added begins now
                group.decode(pieces[name])
                if group.at.size and int(group.at.max()) >= len(names):
                    raise ValueError(f"{name}: a series of an element that is not there")

    def _sums(self, cells: Mapping[Segment, IntArray]) -> IntArray:
        """Sums of all elements, known ones and new ones, (e, columns)."""
        rows: list[int] = []
        for segment in cells:
            at = self._elements.get(segment)
            if at is None:
                segment = self._bounded(segment)  # noqa: PLW2901 - it goes by that name
                at = self._elements.setdefault(segment, len(self._elements))
            rows.append(at)
        sums = np.zeros((len(self._elements), COLUMNS), np.int64)
        if rows:
            np.add.at(sums, rows, np.stack(list(cells.values())))
        return sums

    def _bounded(self, segment: Segment) -> Segment:
        siblings = sum(dimension == segment[0] for dimension, _ in self._elements)
        return segment if siblings < self.plan.most_elements else (segment[0], OTHER)

    def _values(
        self, group: _Group, sums: IntArray, equity: int | None
    ) -> tuple[FloatArray, FloatArray, BoolArray]:
        """The metric, what is below its line, and where there is a point; begins series."""
        metric = group.metric
        if metric.above is None:
            known = equity is not None and self._equity > 0
            if known and not group.at.size:
                group.grow(np.zeros(1, np.int64))
            growth = (equity or 0) / self._equity - 1.0 if known else 0.0
            size = group.at.size
            return np.full(size, growth), np.ones(size), np.full(size, known)
        column = metric.above if metric.per is None else metric.per
        begun = np.zeros(len(sums), np.bool_)
        begun[group.at] = True
        # The whole begins first, and a contact rate with the first contact.
        used = {WHOLE, *self._dimensions(metric)}
        active = np.array([dimension in used for dimension, _ in self._elements])
        there = (sums[:, column] > 0) & (sums[0, metric.above] > 0) & active & ~begun
        if there.any():
            group.grow(np.flatnonzero(there))
        above = sums[group.at, metric.above] / group.scale
        # A dimension that the settings have dropped has no points any more.
        active = active[group.at]
        if metric.per is None:
            return above, np.ones(above.size), active
        per = sums[group.at, metric.per].astype(np.float64)
        fresh = group.volume == 0.0
        group.volume += np.where(fresh, 1.0, _MEAN_RATE) * (per - group.volume)
        return above / np.maximum(per, 1.0), per, active & (per >= LEAST_PER)

    def _dimensions(self, metric: Metric) -> tuple[str, ...]:
        return tuple(name for name in metric.dimensions if name in self.plan.dimensions)

    def _worth(self, group: _Group) -> FloatArray:
        """Money a day for one unit of the metric, by series."""
        digits, a_day = 10.0**self.plan.minor_digits, self.plan.points_per_day
        if group.metric.worth == "orders":
            return group.volume * a_day
        one = {
            "money": 1.0,
            "order": self._revenue / self._orders / digits if self._orders else 0.0,
            "equity": max(self._equity, 0) / digits,
            "none": 0.0,
        }[group.metric.worth]
        return np.full(group.at.size, one * a_day)

    def _hushed(self, group: _Group, found: Finding) -> Finding:
        """The same, not to be told of where people have heard of it by another metric."""
        step = found.transition
        if found.rule != "level" or step.reason != "fired":
            return found
        for name in group.metric.kin:
            other = self._groups.get(name)
            if other is not None and self._tells(other, found.segment, step):
                group.watch.level.hush(step.row)
                return replace(found, transition=replace(step, notify=False), kin=name)
        return found

    def _tells(self, group: _Group, segment: Segment, step: Transition) -> bool:
        """Whether a metric has told of a like change of a segment or of the whole."""
        level = group.watch.level
        same = np.isin(group.at, [self._elements[segment], self._elements[WHOLE, WHOLE]])
        same &= level.told & (level.rows["direction"] == step.direction)
        same &= np.abs(level.rows["since"] - step.since) <= KIN_POINTS
        return bool(same.any())

    def _explain(self, group: _Group, step: Step, worth: float) -> Finding:
        row, since = step.transition.row, step.transition.since
        told = group.run_length[_RULES.index(step.rule)]
        if step.transition.reason == "fired":
            told[row] = step.run_length
        segment = list(self._elements)[group.at[row]]
        after = self._when >= since
        history = group.history[:, row].astype(np.float64)
        if step.rule == "variance":
            distance = np.abs(history[:, _ACTUAL] - history[:, _EXPECTED])
            if step.transition.reason == "fired":
                # Later on the points before the change may be kept no more.
                group.noise[row] = _mean(distance[(self._when != NO_TIME) & ~after])
            expected = float(group.noise[row])
            actual = _mean(distance[after])
        else:
            there = after & ~np.isnan(history[:, _ACTUAL])
            expected, actual = _mean(history[there, _EXPECTED]), _mean(history[there, _ACTUAL])
        whole = segment[0] == WHOLE and step.rule == "level"
        whole &= step.transition.after == State.FIRING
        return Finding(
            group.name, segment, step.rule, step.transition, expected, actual,
            abs(actual - expected) * worth, float(told[row]),
            causes(self._cuts(group, after)) if whole else (),
        )  # fmt: skip

    def _cuts(self, group: _Group, after: BoolArray) -> list[Dimension]:
        """The whole of a metric in parts, one way for each dimension."""
        segments = list(self._elements)
        found = []
        for dimension in self._dimensions(group.metric):
            rows = np.array(
                [i for i, at in enumerate(group.at.tolist()) if segments[at][0] == dimension],
                np.int64,
            )
            names = [segments[at][1] for at in group.at[rows].tolist()]
            history = group.history[:, rows].astype(np.float64)
            since, before = history[after], history[~after]
            found.append(_cut(dimension, names, since, before, ratio=group.metric.per is not None))
        return found


def _cut(
    name: str,
    elements: Sequence[str],
    since: FloatArray,
    before: FloatArray,
    *,
    ratio: bool,
) -> Dimension:
    """Compare what parts brought since a change with what was expected, (points, parts, 3)."""
    if not ratio:
        there = ~np.isnan(since[:, :, _ACTUAL])
        actual = np.where(there, since[:, :, _ACTUAL], 0.0).sum(axis=0)
        expected = np.where(there, np.nan_to_num(since[:, :, _EXPECTED]), 0.0).sum(axis=0)
        points = max(int(there.any(axis=1).sum()), 1)
        return Dimension(name, elements, Measure(expected / points, actual / points))
    # What is below the line is expected to go on as before; the ratio is what was expected of it.
    per, expected_per = _means(since[:, :, _PER]), _means(before[:, :, _PER])
    above = _means(np.nan_to_num(since[:, :, _ACTUAL]) * np.nan_to_num(since[:, :, _PER]))
    expected_above = _means(since[:, :, _EXPECTED]) * expected_per
    return Dimension(name, elements, Measure(expected_above, above), Measure(expected_per, per))


def _means(values: FloatArray) -> FloatArray:
    """Mean of each column over the rows where it is known, 0 for none."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.asarray(total / np.maximum(known.sum(axis=0), 1))


def _mean(values: FloatArray) -> float:
    return float(_means(values[:, None])[0])


def _series(metric: str, segment: Segment) -> str:
    return "|".join((metric, *segment))
