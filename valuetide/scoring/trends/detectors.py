"""Change detectors behind one interface: FOCuS, and River's ADWIN and Page-Hinkley.

A detector takes standardised residuals and says of each series how likely a change is, and since
when. How likely is said as a run length: a series in which nothing changes would show as much once
in so many points. A threshold is a run length too, the wanted one between false alarms; which
statistic or setting belongs to it stands in ``thresholds``, made by simulation.
"""

import struct
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, Self

import numpy as np

from valuetide.scoring.arrays import BoolArray, FloatArray, IntArray
from valuetide.scoring.trends import thresholds
from valuetide.scoring.trends.focus import Focus, Kind

# Run lengths beyond this are one: further out the tables are extrapolated too far.
LONGEST_RUN: Final = 1e12
MEAN_LEAST_POINTS: Final = 3
VARIANCE_LEAST_POINTS: Final = 7
PRIOR_POINTS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Signal:
    """What a detector says of each series, (n,) each.

    Attributes
    ----------
    run_length
        Points between two times that a series without change shows as much.
    since
        Point (bucket) at which the change began.
    points
        How many points it has lasted; 0 when there is no sign of one.
    before, after
        Mean of the residuals before and since, in standard deviations, or their variance.
    """

    run_length: FloatArray
    since: IntArray
    points: IntArray
    before: FloatArray
    after: FloatArray

    @property
    def direction(self) -> IntArray:
        """1 for a rise, -1 for a fall, (n,)."""
        return np.where(self.after >= self.before, 1, -1)


class Detector(Protocol):
    """Looks for changes in n series at once, with constant memory each."""

    def observe(
        self, point: int, residual: FloatArray, present: BoolArray, kurtosis: FloatArray
    ) -> Signal:
        """Take a point of every series; those that have none stay as they are."""

    def reset(self, rows: IntArray) -> None:
        """Begin anew with these series: their change is known, or was none."""

    def grow(self, series: int) -> None:
        """Add rows of series that begin now."""

    def encode(self) -> bytes:
        """Bytes of which ``decode`` of the same class makes the same."""


def run_length(kind: Kind, statistic: FloatArray) -> FloatArray:
    """Points between false alarms with the threshold at a statistic, interpolated in logarithms.

    Examples
    --------
    >>> bool(run_length("mean", np.array([3.0]))[0] < run_length("mean", np.array([4.0]))[0])
    True
    """
    knots = np.array(thresholds.STATISTIC[kind])
    logs = np.log(thresholds.RUN_LENGTHS)
    slope = (logs[-1] - logs[-3]) / (knots[-1] - knots[-3])
    beyond = np.maximum(statistic - knots[-1], 0.0) * slope
    below = np.minimum(statistic / knots[0], 1.0) * logs[0]
    inside = np.where(statistic < knots[0], below, np.interp(statistic, knots, logs))
    length: FloatArray = np.exp(np.minimum(inside + beyond, np.log(LONGEST_RUN)))
    return length


class FocusDetector:
    """FOCuS with its statistic told as a run length.

    Parameters
    ----------
    series
        Number of rows.
    kind
        "mean" or "variance".
    """

    def __init__(self, series: int, kind: Kind = "mean") -> None:
        least = MEAN_LEAST_POINTS if kind == "mean" else VARIANCE_LEAST_POINTS
        self.focus = Focus(series, kind, least, PRIOR_POINTS)

    def observe(
        self, point: int, residual: FloatArray, present: BoolArray, kurtosis: FloatArray
    ) -> Signal:
        """Take a point of every series."""
        wild = kurtosis if self.focus.kind == "variance" else None
        change = self.focus.observe(point, residual, present, wild)
        length = run_length(self.focus.kind, change.statistic)
        return Signal(length, change.since, change.points, change.before, change.after)

    def reset(self, rows: IntArray) -> None:
        """Begin anew with these series."""
        self.focus.reset(rows)

    def grow(self, series: int) -> None:
        """Add rows of series that begin now."""
        self.focus.grow(series)

    def encode(self) -> bytes:
        """Bytes of which ``decode`` makes the same; the layout is drawn in ``focus``."""
        return self.focus.encode()

    @classmethod
    def decode(cls, blob: bytes) -> Self:
        """State of which these are the bytes; refuses as ``Focus.decode`` does."""
        focus = Focus.decode(blob, PRIOR_POINTS)
        state = cls(0, focus.kind)
        state.focus = focus
        return state


# A River detector that has been fed so many points is made anew from the newer half of them, so
# what it was fed is its whole state.
RIVER_POINTS: Final = 512
_RIVER_HEAD: Final = struct.Struct("<HHIdI")
_RIVER_LAYOUT: Final = 1
_PAGE_HINKLEY_RECENT: Final = 5
_RIVER_NAMES: Final = ("adwin", "page_hinkley")

RiverName = Literal["adwin", "page_hinkley"]


def river_detector(name: RiverName, setting: float) -> Any:
    """One of River's own: ADWIN with this delta, or Page-Hinkley with this threshold."""
    from river import drift  # noqa: PLC0415 - it takes a second, which only those pay who use it

    if name == "adwin":
        # At every point, not at every 32nd, and in windows of three points and more.
        return drift.ADWIN(delta=setting, clock=1, min_window_length=3)  # type: ignore[no-untyped-call]
    # A change of twice delta, one standard deviation, is what it is best for.
    return drift.PageHinkley(threshold=setting, delta=0.5, min_instances=10)


class RiverDetector:
    """River's ADWIN or Page-Hinkley, one object a series.

        bytes of n series, little endian
          0  <u2 layout version, 1   2  <u2 1 ADWIN, 2 Page-Hinkley   4  <u4 n
          8  <f8 wanted run length  16  <u4 0
         20  n <u4 number of points fed
             then n rows of the <f8 points fed

    Parameters
    ----------
    series
        Number of rows.
    name
        Which.
    wanted
        Points between false alarms.

    Notes
    -----
    Their state is not open to the outside, so the residuals are kept of which it was made. They say
    yes or no: the run length of a signal is the wanted one or 1. ADWIN knows since when, by the
    width of its window; Page-Hinkley does not: it says since now, and of the last five points how
    far they are off.
    """

    def __init__(self, series: int, name: RiverName, wanted: float) -> None:
        self.name, self.wanted = name, wanted
        logs = np.log(thresholds.RUN_LENGTHS_RIVER)
        setting = np.array(thresholds.RIVER[name])
        self._setting = float(np.exp(np.interp(np.log(wanted), logs, np.log(setting))))
        self._fed: list[list[float]] = []
        self._detectors: list[Any] = []
        self.grow(series)

    def observe(
        self,
        point: int,
        residual: FloatArray,
        present: BoolArray,
        kurtosis: FloatArray,
    ) -> Signal:
        """Take a point of every series."""
        size = len(self._detectors)
        alarm = np.zeros(size, np.bool_)
        points = np.zeros(size, np.int64)
        after = np.zeros(size)
        values = residual.tolist()
        for row in np.flatnonzero(present).tolist():
            fed = self._fed[row]
            if len(fed) == RIVER_POINTS:
                self._feed(row, fed[RIVER_POINTS // 2 :])
                fed = self._fed[row]
            fed.append(values[row])
            detector = self._detectors[row]
            detector.update(values[row])
            if detector.drift_detected:
                adwin = self.name == "adwin"
                recent = fed[-int(detector.width) :] if adwin else fed[-_PAGE_HINKLEY_RECENT:]
                alarm[row], points[row] = True, len(recent) if adwin else 1
                after[row] = sum(recent) / len(recent)
                self._feed(row, [])
        length = np.where(alarm, self.wanted, 1.0)
        since = np.where(alarm, point - points + 1, 0)
        return Signal(length, since, points, np.zeros(size), after)

    def reset(self, rows: IntArray) -> None:
        """Begin anew with these series."""
        for row in rows.tolist():
            self._feed(row, [])

    def grow(self, series: int) -> None:
        """Add rows of series that begin now."""
        self._fed += [[] for _ in range(series)]
        self._detectors += [river_detector(self.name, self._setting) for _ in range(series)]

    def encode(self) -> bytes:
        """Bytes of which ``decode`` makes the same."""
        name = 1 + _RIVER_NAMES.index(self.name)
        head = _RIVER_HEAD.pack(_RIVER_LAYOUT, name, len(self._fed), self.wanted, 0)
        sizes = np.array([len(fed) for fed in self._fed], "<u4").tobytes()
        return head + sizes + b"".join(np.array(fed, "<f8").tobytes() for fed in self._fed)

    @classmethod
    def decode(cls, blob: bytes) -> Self:
        """State of which these are the bytes.

        Raises
        ------
        ValueError
            Of an unknown layout or a wrong number of bytes.
        """
        if len(blob) < _RIVER_HEAD.size:
            raise ValueError(f"river: {len(blob)} bytes are less than a head")
        layout, name, series, wanted, _ = _RIVER_HEAD.unpack_from(blob)
        if layout != _RIVER_LAYOUT or name not in (1, 2):
            raise ValueError(f"river: layout {layout}, this release reads {_RIVER_LAYOUT}")
        at = _RIVER_HEAD.size + 4 * series
        if len(blob) < at:
            raise ValueError("river: truncated")
        sizes = np.frombuffer(blob, "<u4", series, _RIVER_HEAD.size).tolist()
        if len(blob) != at + 8 * sum(sizes) or max(sizes, default=0) > RIVER_POINTS:
            raise ValueError(f"river: {len(blob)} bytes do not hold {sum(sizes)} points")
        state = cls(series, _RIVER_NAMES[name - 1], wanted)
        for row, size in enumerate(sizes):
            state._feed(row, np.frombuffer(blob, "<f8", size, at).tolist())
            at += 8 * size
        return state

    def _feed(self, row: int, values: list[float]) -> None:
        """Make a series' detector anew of these points."""
        detector = river_detector(self.name, self._setting)
        for value in values:
            detector.update(value)
        self._detectors[row], self._fed[row] = detector, values
