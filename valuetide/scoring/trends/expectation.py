"""What the next point of each series should be, learned from its own past, one point at a time.

A dynamic linear model (West and Harrison 1997) on a logarithmic or square-root scale: level, slope,
waves of the week and after a year of the year, and an effect for each name of a holiday. Noise
around it is an autoregression of order one, so what is left over, the innovations, is uncorrelated.
Outliers have bounded influence: an innovation counts for no more than ``CLIP`` standard deviations,
both for the state (Masreliez 1975) and for the scale, which is the one of Huber's "proposal 2".
Hence a standardised residual has variance 1 whatever the tails of the noise are.

    bytes of n series, little endian
      0  <u2 layout version, 1     2  <u2 d columns of the calendar     4  <u2 h names of holidays
      6  <u2 0                     8  <u4 n                            12  <u4 0
     16  <i8 point of the last call, the least int64 before the first
     24  then column by column, n rows each:
         <u4 points seen           <u4 points since the first          <f8 last deviation's value y
         <f8 1.0 when y is known   <f8 scale^2        <f8 points that told about the noise
         <f8 autoregression phi    <f8 fourth moment  <f8 offset
         d <f8 mean                d (d+1) / 2 <f8 covariance, lower triangle, in units of scale^2
         h <f8 holiday effect      h <f8 its variance, in units of scale^2

A series of days with a week, a year and ten holidays: 14 columns, 1,176 bytes.
"""

import struct
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from valuetide.scoring.arrays import NO_TIME, BoolArray, FloatArray, IntArray
from valuetide.scoring.trends.calendar import LEVEL, SLOPE, Calendar

LAYOUT: Final = 1
# An innovation counts for no more than this many standard deviations. Under the normal law that
# costs 2 % of efficiency (Huber 1981, table 4.1), with heavy tails it gains more than that.
CLIP: Final = 2.0
# E[min(|z|, CLIP)^2] of a standard normal z: what makes Huber's scale the standard deviation there.
CLIPPED_VARIANCE: Final = 0.9205369
# While a series is learning an innovation is cut only here: a week's pattern is no outlier.
_LEARNING_CLIP: Final = 6.0
_CARRIED: Final = 4.0
_OFFSET_RATE: Final = 1.0 / 7.0
# 95 % of a normal law lie within so many standard deviations.
_HALF_WIDTH: Final = 1.959964
_CLIPPED_SD: Final = CLIPPED_VARIANCE**0.5
# E[(min(|z|, CLIP) / _CLIPPED_SD)^4] of a standard normal z.
_NORMAL_FOURTH: Final = 2.4543
# What is known of a new series, as variances in units of the noise's: next to nothing of level and
# season; growth by a fifth of the noise a year, so that half a year of points is needed before a
# shift is taken for growth; a holiday may be a dozen noises high or low, and changes a little from
# one year to the next.
_LEVEL_VARIANCE: Final = 100.0
_SLOPE_VARIANCE: Final = 0.0005**2
_SEASON_VARIANCE: Final = 100.0
_SEASON_VARIANCE_LATER: Final = 4.0
_HOLIDAY_VARIANCE: Final = 50.0
_HOLIDAY_DRIFT: Final = 0.25
# The noise is forgotten within about 120 points, its shape within 250.
_NOISE_RATE: Final = 1.0 / 120.0
_SHAPE_RATE: Final = 1.0 / 250.0
_LEAST_PHI: Final = -0.3
_MOST_PHI: Final = 0.8
# What the noise is taken to be at first, normal and without autocorrelation, counts as much as so
# many points.
_SHAPE_START: Final = 20.0
_PHI_START: Final = 5.0
_HEAD: Final = struct.Struct("<HHHHIIq")

Scale = Literal["log", "sqrt", "identity"]


@dataclass(frozen=True, slots=True)
class Model:
    """How a metric is expected to move.

    Parameters
    ----------
    scale
        Where its noise has the same size at every level: "log" for money and what has shares of
        change, "sqrt" for counts, "identity" for what may be negative or is bounded.
    noise
        Standard deviation to start from, on that scale; forgotten within the learning points.
    pad
        Added before the logarithm, in the metric's unit, so that nothing has one.
    learning_points
        Points before a residual is judged.
    level_drift, slope_drift, season_drift
        Standard deviation of a step of each from point to point, in units of the noise: how fast
        what is normal may move without being a change. The level's steady gain is about its drift.
    """

    scale: Scale = "log"
    noise: float = 0.2
    pad: float = 1.0
    learning_points: int = 28
    level_drift: float = 0.006
    slope_drift: float = 1e-5
    season_drift: float = 0.003

    def forward(self, value: FloatArray) -> FloatArray:
        """The metric on its scale."""
        if self.scale == "log":
            return np.log(np.maximum(value, 0.0) + self.pad)
        if self.scale == "sqrt":
            # Anscombe 1948: a Poisson count then has a standard deviation of one.
            return 2.0 * np.sqrt(np.maximum(value, 0.0) + 0.375)
        return np.asarray(value, np.float64)

    def backward(self, level: FloatArray) -> FloatArray:
        """The metric of a place on its scale: the median there, not the mean.

        Examples
        --------
        >>> Model("sqrt").backward(Model("sqrt").forward(np.array([9.0]))).round(9).tolist()
        [9.0]
        """
        if self.scale == "log":
            return np.maximum(np.exp(np.minimum(level, 700.0)) - self.pad, 0.0)
        if self.scale == "sqrt":
            return np.maximum((np.maximum(level, 0.0) / 2.0) ** 2 - 0.375, 0.0)
        return level


@dataclass(frozen=True, slots=True)
class Points:
    """One point of every series beside what was expected, (n,) each.

    Attributes
    ----------
    expected, low, high
        Median and the ends of a 95 % interval, in the metric's unit.
    residual
        Standardised and cut off: mean 0 and variance 1 when nothing changed, at most about 2.1 in
        size; 0 where the point is missing.
    raw
        The same before it was cut off, in standard deviations.
    judged
        Whether there was a point and the series is past learning.
    points_needed
        Points until it is; 0 afterwards.
    spread
        Standard deviation of a point, on the metric's scale.
    """

    expected: FloatArray
    low: FloatArray
    high: FloatArray
    residual: FloatArray
    raw: FloatArray
    judged: BoolArray
    points_needed: IntArray
    spread: FloatArray


class Expectation:
    """Expectations of n series that share a model and a calendar.

    Parameters
    ----------
    model, calendar
        How the series move, and what their points' places in time say.
    series
        Number of rows.

    Notes
    -----
    Constant memory, and work of d^2 a point, d the columns of the calendar. Gains depend on which
    points there were, not on their values, so an outlier does not make a series look well known.

    References
    ----------
    West, M., Harrison, J. (1997) Bayesian Forecasting and Dynamic Models, chapters 4 and 11.
    Masreliez, C. J. (1975) Approximate non-Gaussian filtering, IEEE Trans. Autom. Control 20.
    Huber, P. J. (1981) Robust Statistics, section 6.4, proposal 2.
    """

    def __init__(self, model: Model, calendar: Calendar, series: int = 0) -> None:
        self.model, self.calendar = model, calendar
        width, names = calendar.width, len(calendar.names)
        self.point = NO_TIME
        self.seen: IntArray = np.zeros(0, np.int64)
        self.age: IntArray = np.zeros(0, np.int64)
        self._last: FloatArray = np.zeros(0)
        self._known: FloatArray = np.zeros(0)
        self._scale2: FloatArray = np.zeros(0)
        self._noise_points: FloatArray = np.zeros(0)
        self._phi: FloatArray = np.zeros(0)
        self._fourth: FloatArray = np.zeros(0)
        self.offset: FloatArray = np.zeros(0)
        self.mean: FloatArray = np.zeros((0, width))
        self.covariance: FloatArray = np.zeros((0, width, width))
        self.holiday: FloatArray = np.zeros((0, names))
        self.holiday_variance: FloatArray = np.zeros((0, names))
        self._opens = calendar.opens_at()
        drift = np.full(width, model.season_drift**2)
        drift[LEVEL], drift[SLOPE] = model.level_drift**2, model.slope_drift**2
        self._drift = drift
        self.grow(series)

    def grow(self, series: int) -> None:
        """Add rows of series of which nothing is known yet."""
        width = self.calendar.width

        def longer(column: FloatArray, value: float) -> FloatArray:
            return np.concatenate([column, np.full((series, *column.shape[1:]), value)])

        zero = np.zeros(series, np.int64)
        self.seen, self.age = np.append(self.seen, zero), np.append(self.age, zero)
        self._last, self._known = longer(self._last, 0.0), longer(self._known, 0.0)
        self._scale2 = longer(self._scale2, self.model.noise**2)
        self._noise_points, self._phi = longer(self._noise_points, 0.0), longer(self._phi, 0.0)
        self._fourth = longer(self._fourth, _NORMAL_FOURTH)
        self.offset = longer(self.offset, 0.0)
        self.mean = longer(self.mean, 0.0)
        start = np.broadcast_to(np.diag(self._start_variance(0)), (series, width, width))
        self.covariance = np.concatenate([self.covariance, start])
        self.holiday = longer(self.holiday, 0.0)
        self.holiday_variance = longer(self.holiday_variance, _HOLIDAY_VARIANCE)

    def observe(
        self, point: int, value: FloatArray, present: BoolArray, learn: BoolArray | None = None
    ) -> Points:
        """Compare a point of every series with what was expected, then learn from it.

        Parameters
        ----------
        point
            Number of the bucket since 1970, greater than at the last call; those between are gaps.
        value
            The metric, (n,); ignored where there is none.
        present
            Where there is a point, (n,). A bucket in which nothing happened is a point of 0 for a
            sum and a missing one for a mean.
        learn
            Where to learn from it, (n,), all unless told otherwise. A series under alert does not
            learn: what it is compared with stays what was normal before.

        Raises
        ------
        ValueError
            When the point is not after the last one.
        """
        if point <= self.point:
            raise ValueError(f"point {point} is not after the last one, {self.point}")
        steps = 1 if self.point == NO_TIME else point - self.point
        row, before = self.calendar.row(point), self.calendar.row(point - 1)
        before[SLOPE] = -1.0
        name = self.calendar.holiday(point)
        present = present & np.isfinite(value)
        y = self.model.forward(np.where(present, value, 0.0))
        self._advance(steps)
        if steps > 1:
            self._known[:] = 0.0
        first = present & (self.seen == 0)
        self.mean[first, LEVEL] = y[first]

        phi = self._phi * self._known
        earlier = self._last - np.einsum("ni,i->n", self.mean, before)
        h = row - phi[:, None] * before
        ph = np.einsum("nij,nj->ni", self.covariance, h)
        expected = np.einsum("ni,i->n", self.mean, row) + phi * earlier
        relative = 1.0 + np.einsum("ni,ni->n", ph, h)
        if name >= 0:
            expected += self.holiday[:, name]
            relative += self.holiday_variance[:, name]
        sd = np.sqrt(self._scale2 * relative)
        raw = np.where(present, (y - expected) / sd, 0.0)
        learning = self.seen < self.model.learning_points
        cut = np.clip(raw, -CLIP, CLIP)
        points = Points(
            self.model.backward(expected),
            self.model.backward(expected - _HALF_WIDTH * sd),
            self.model.backward(expected + _HALF_WIDTH * sd),
            cut / _CLIPPED_SD,
            raw,
            present & ~learning,
            np.maximum(self.model.learning_points - self.seen - present, 0),
            sd,
        )
        taught = present if learn is None else present & learn
        step = np.where(learning, np.clip(raw, -_LEARNING_CLIP, _LEARNING_CLIP), cut) * sd
        self._learn(taught, step, ph, relative, name)
        self._learn_noise(taught, earlier, relative, cut)
        # Where the last points lie beside the expected ones; an outlier moves it by half an sd.
        beside = y - self._holiday_at(name) - np.einsum("ni,i->n", self.mean, row) - self.offset
        far = _CARRIED * sd
        self.offset += present * _OFFSET_RATE * np.clip(beside, -far, far)
        # An outlier says little about the day after: it is carried on cut off, further out.
        carried = expected + np.clip(raw, -_CARRIED, _CARRIED) * sd - self._holiday_at(name)
        self._last = np.where(present, carried, self._last)
        self._known = present.astype(np.float64)
        self.seen += present
        self.age += self.seen > 0
        self.point = point
        return points

    def rebase(self, rows: IntArray) -> None:
        """Take the level of the last points (``offset``) of these series for the new normal."""
        self.mean[rows, LEVEL] += self.offset[rows]
        self.covariance[rows, LEVEL, LEVEL] += _OFFSET_RATE
        self.offset[rows] = 0.0

    def rescale(self, rows: IntArray, factor: FloatArray) -> None:
        """Take a change of the noise's variance by a factor for the new normal, (m,)."""
        self._scale2[rows] *= factor

    @property
    def autocorrelation(self) -> FloatArray:
        """Correlation of neighbouring points around what is expected, (n,)."""
        return self._phi

    @property
    def kurtosis(self) -> FloatArray:
        """Fourth moment of the residuals, (n,); 2.5 for normal ones, cut off as they are."""
        return self._fourth

    def level_of(self, shift: FloatArray) -> FloatArray:
        """Shift of the level that moves every residual by so much, on the model's scale, (n,).

        Innovations of an autoregression show 1 - phi of a shift of the level, all but the first.
        """
        return shift * _CLIPPED_SD * np.sqrt(self._scale2) / (1.0 - self._phi)

    def encode(self) -> bytes:
        """Bytes of which ``decode`` makes the same."""
        width, names = self.calendar.width, len(self.calendar.names)
        head = _HEAD.pack(LAYOUT, width, names, 0, self.seen.size, 0, self.point)
        low = np.tril_indices(width)
        floats = (
            self._last, self._known, self._scale2, self._noise_points, self._phi, self._fourth,
            self.offset, self.mean, self.covariance[:, low[0], low[1]], self.holiday,
            self.holiday_variance,
        )  # fmt: skip
        counts = [column.astype("<u4").tobytes() for column in (self.seen, self.age)]
        return b"".join([head, *counts, *(column.astype("<f8").tobytes() for column in floats)])

    @classmethod
    def decode(cls, blob: bytes, model: Model, calendar: Calendar) -> "Expectation":
        """State of which these are the bytes.

        Raises
        ------
        ValueError
            Of an unknown layout, of another calendar, or of a wrong number of bytes.
        """
        if len(blob) < _HEAD.size:
            raise ValueError(f"expectation: {len(blob)} bytes are less than a head")
        layout, width, names, _, series, _, point = _HEAD.unpack_from(blob)
        if layout != LAYOUT:
            raise ValueError(f"expectation: layout {layout}, this release reads {LAYOUT}")
        if (width, names) != (calendar.width, len(calendar.names)):
            raise ValueError("expectation: made with other seasons or holidays; learn it anew")
        low = np.tril_indices(width)
        size = _HEAD.size + series * (8 + 8 * (7 + width + low[0].size + 2 * names))
        if len(blob) != size:
            raise ValueError(f"expectation: {len(blob)} bytes instead of {size}")
        state = cls(model, calendar, series)
        counts = np.frombuffer(blob, "<u4", 2 * series, _HEAD.size).astype(np.int64)
        state.seen, state.age = counts[:series], counts[series:]
        rest = np.frombuffer(blob, "<f8", -1, _HEAD.size + 8 * series).astype(np.float64)
        sizes = np.array([1] * 7 + [width, low[0].size, names, names]) * series
        parts = np.split(rest, np.cumsum(sizes)[:-1])
        state._last, state._known, state._scale2, state._noise_points = parts[:4]
        state._phi, state._fourth, state.offset = parts[4:7]
        state.mean = parts[7].reshape(series, width)
        triangle = parts[8].reshape(series, low[0].size)
        state.covariance[:, low[0], low[1]] = triangle
        state.covariance[:, low[1], low[0]] = triangle
        state.holiday = parts[9].reshape(series, names)
        state.holiday_variance = parts[10].reshape(series, names)
        state.point = point
        return state

    def _advance(self, steps: int) -> None:
        """Move every state on in time: the level by the slope, and all a little at random."""
        self.mean[:, LEVEL] += steps * self.mean[:, SLOPE]
        p = self.covariance
        p[:, LEVEL, :] += steps * p[:, SLOPE, :]
        p[:, :, LEVEL] += steps * p[:, :, SLOPE]
        # A season that has not opened has no variance, and must not get any by drifting.
        opened = self.age[:, None] >= self._opens
        diagonal = np.einsum("nii->ni", p)
        diagonal += np.where(opened, steps * self._drift, 0.0)
        opening = opened & (self.age[:, None] - steps < self._opens) & (self._opens > 0)
        if opening.any():
            diagonal[opening] = _SEASON_VARIANCE_LATER

    def _start_variance(self, age: int) -> FloatArray:
        start = np.where(self._opens <= age, _SEASON_VARIANCE, 0.0)
        start[LEVEL], start[SLOPE] = _LEVEL_VARIANCE, _SLOPE_VARIANCE
        return start

    def _learn(
        self, taught: BoolArray, step: FloatArray, ph: FloatArray, relative: FloatArray, name: int
    ) -> None:
        """Kalman's update of mean and covariance with innovations that are cut off."""
        gain = np.where(taught, 1.0 / relative, 0.0)
        self.mean += (gain * step)[:, None] * ph
        # Both factors alike, so that rounding keeps it symmetric: its lower triangle says all.
        half = np.sqrt(gain)[:, None] * ph
        self.covariance -= half[:, :, None] * half[:, None, :]
        if name >= 0:
            # The effects of holidays are kept apart from the rest: they come too rarely for their
            # covariance with the level to matter.
            variance = self.holiday_variance[:, name]
            self.holiday[:, name] += gain * step * variance
            self.holiday_variance[:, name] = variance - gain * variance**2 + taught * _HOLIDAY_DRIFT

    def _learn_noise(
        self, taught: BoolArray, earlier: FloatArray, relative: FloatArray, cut: FloatArray
    ) -> None:
        """Scale, autocorrelation and fourth moment, all of what is cut off.

        The scale moves by ratios and stands where the mean square of the cut innovations is what
        the normal law says, which is Huber's equation solved online.
        """
        # Where little is known of what to expect, a point says little about the noise.
        weight = taught / relative
        self._noise_points += weight
        rate = weight * np.maximum(1.0 / (2.0 + self._noise_points), _NOISE_RATE)
        self._scale2 *= 1.0 + rate * (cut**2 / CLIPPED_VARIANCE - 1.0)
        rate = weight * np.maximum(1.0 / (_SHAPE_START + self._noise_points), _SHAPE_RATE)
        self._fourth += rate * ((cut / _CLIPPED_SD) ** 4 - self._fourth)
        # Least squares, step by step: it stands where no innovation can be told from the
        # deviation before it.
        shape = np.sqrt(1.0 - self._phi**2)
        earlier = np.clip(earlier * shape / np.sqrt(self._scale2), -CLIP, CLIP)
        rate = weight * np.maximum(1.0 / (_PHI_START + self._noise_points), _SHAPE_RATE)
        phi = self._phi + rate * self._known * cut * earlier * shape
        self._phi = np.clip(phi, _LEAST_PHI, _MOST_PHI)

    def _holiday_at(self, name: int) -> FloatArray:
        return self.holiday[:, name] if name >= 0 else np.zeros(self.seen.size)
