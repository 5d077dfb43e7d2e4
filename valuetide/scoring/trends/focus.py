"""FOCuS: the generalised likelihood-ratio test for a change, over all times and sizes of change.

The likelihood ratio of a change after the t-th point depends on t and on the sum S(t) alone, and of
all the times since the start only the vertices of the lower convex hull of the points (t, S(t)) can
ever be the best one for a rise, those of the upper hull for a fall. There are about ln(n) of
them. So the exact maximum over all change times costs a few operations a point.

    bytes of n series, little endian
      0  <u2 layout version, 1     2  <u2 K candidates        4  <u2 m points a change must have
      6  <u2 1 mean, 2 variance    8  <u4 n                  12  <u4 0
     16  n <i8 points since the start, n <f8 their sum
         n m <f8 last sums, n m <i8 point (bucket) that followed each; a ring by points since start
         2n <i8 number of candidates; the first n rows are for rises, the others for falls
         2n K <f8 t, 2n K <f8 S(t) (negative for falls), 2n K <i8 point that followed

With 16 candidates and 3 points 848 bytes a series.

References
----------
Romano, G., Eckley, I. A., Fearnhead, P., Rigaill, G. (2023) Fast online changepoint detection via
functional pruning CUSUM statistics. Journal of Machine Learning Research 24(81).
Ward, K., Romano, G., Eckley, I., Fearnhead, P. (2024) A constant-per-iteration likelihood ratio
test for online changepoint detection for exponential family models. Statistics and Computing 34.
"""

import struct
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from valuetide.scoring.arrays import BoolArray, FloatArray, IntArray

LAYOUT: Final = 1
_HEAD: Final = struct.Struct("<HHHHII")
_KINDS: Final = ("mean", "variance")
# The variance of a segment is taken to be no less than this, so that a run of equal points has a
# finite likelihood.
_LEAST_VARIANCE: Final = 1e-3

Kind = Literal["mean", "variance"]


@dataclass(frozen=True, slots=True)
class Change:
    """The likeliest change of each series, (n,) each.

    Attributes
    ----------
    statistic
        Logarithm of the likelihood ratio; 0 where there is no candidate yet.
    since
        Point (bucket) at which it began.
    points
        How many points it has lasted.
    before, after
        Mean of the residuals before and after it, or their variance.
    """

    statistic: FloatArray
    since: IntArray
    points: IntArray
    before: FloatArray
    after: FloatArray

    @property
    def direction(self) -> IntArray:
        """1 for a rise, -1 for a fall, (n,)."""
        return np.where(self.after >= self.before, 1, -1)


class Focus:
    """FOCuS on n series of standardised residuals.

    Parameters
    ----------
    series
        Number of rows.
    kind
        "mean": from about 0 to any other. "variance": from 1 to any other.
    least_points
        Points that a change must have lasted to be a candidate, so a single outlier is none.
    prior_points
        How well the mean before a change is known to be 0, or the variance to be 1, as a number of
        points. It is then learned from those that follow, so residuals that are a little off
        are no change. Romano et al. have 0 (nothing known) and infinity (known).
    capacity
        Candidates kept for each direction; with more, the oldest is forgotten. 16 are exceeded by
        fewer than one series in a hundred within two years of days.

    Examples
    --------
    >>> focus = Focus(1, least_points=1, prior_points=float("inf"))
    >>> for point, x in enumerate([0.0, 0.0, 3.0, 3.0]):
    ...     change = focus.observe(point, np.array([x]), np.array([True]))
    >>> float(change.statistic[0]), int(change.since[0])
    (9.0, 2)
    """

    def __init__(
        self,
        series: int,
        kind: Kind = "mean",
        least_points: int = 3,
        prior_points: float = 60.0,
        capacity: int = 16,
    ) -> None:
        self.kind, self.least_points = kind, least_points
        self.prior_points, self.capacity = prior_points, capacity
        self._count: IntArray = np.zeros(0, np.int64)
        self._sum: FloatArray = np.zeros(0)
        self._ring: FloatArray = np.zeros((0, least_points))
        self._ring_at: IntArray = np.zeros((0, least_points), np.int64)
        self._candidates: IntArray = np.zeros(0, np.int64)
        self._t: FloatArray = np.zeros((0, capacity))
        self._s: FloatArray = np.zeros((0, capacity))
        self._at: IntArray = np.zeros((0, capacity), np.int64)
        self.grow(series)

    def grow(self, series: int) -> None:
        """Add rows of series that begin now."""
        old = self._count.size

        self._count = np.append(self._count, np.zeros(series, np.int64))
        self._sum = np.append(self._sum, np.zeros(series))
        self._ring = np.concatenate([self._ring, np.zeros((series, self.least_points))])
        empty = np.zeros((series, self.least_points), np.int64)
        self._ring_at = np.concatenate([self._ring_at, empty])
        fresh = np.zeros(series, np.int64)
        parts = (self._candidates[:old], fresh, self._candidates[old:], fresh)
        self._candidates = np.concatenate(parts)
        wide = np.zeros((series, self.capacity))
        self._t = np.concatenate([self._t[:old], wide, self._t[old:], wide])
        self._s = np.concatenate([self._s[:old], wide, self._s[old:], wide])
        at = wide.astype(np.int64)
        self._at = np.concatenate([self._at[:old], at, self._at[old:], at])

    def observe(
        self,
        point: int,
        residual: FloatArray,
        present: BoolArray,
        kurtosis: FloatArray | None = None,
    ) -> Change:
        """Take a point of every series and give the likeliest change up to it.

        Parameters
        ----------
        point
            Number of the bucket.
        residual
            Standardised residuals, (n,).
        present
            Where there is one, (n,). A series without one stays as it is.
        kurtosis
            For the variance: fourth moment of the residuals, (n,). Squares of residuals with
            other tails than the normal law's vary more or less; the likelihood is scaled by how
            much.
        """
        value = residual if self.kind == "mean" else residual**2
        rows = np.flatnonzero(present)
        place = self._count[rows] % self.least_points
        self._ring[rows, place] = self._sum[rows]
        self._ring_at[rows, place] = point
        self._sum[rows] += value[rows]
        self._count[rows] += 1
        ready = rows[self._count[rows] >= self.least_points]
        if self.prior_points == 0.0:
            # Without anything before it there is no change after the zeroth point.
            ready = ready[self._count[ready] > self.least_points]
        if ready.size:
            t = self._count[ready] - self.least_points
            place = t % self.least_points
            s, at = self._ring[ready, place], self._ring_at[ready, place]
            both = np.concatenate([ready, ready + self._count.size])
            self._add(both, np.tile(t, 2).astype(np.float64), np.append(s, -s), np.tile(at, 2))
        return self._best(kurtosis)

    def reset(self, rows: IntArray) -> None:
        """Begin anew with these series."""
        self._count[rows] = 0
        self._sum[rows] = 0.0
        self._candidates[rows] = 0
        self._candidates[rows + self._count.size] = 0

    def encode(self) -> bytes:
        """Bytes of which ``decode`` makes the same."""
        head = _HEAD.pack(
            LAYOUT, self.capacity, self.least_points, 1 + _KINDS.index(self.kind),
            self._count.size, 0,
        )  # fmt: skip
        return head + b"".join(
            column.astype("<f8" if column.dtype.kind == "f" else "<i8").tobytes()
            for column in self._columns()
        )

    @classmethod
    def decode(cls, blob: bytes, prior_points: float = 60.0) -> "Focus":
        """State of which these are the bytes.

        Raises
        ------
        ValueError
            Of an unknown layout version or a wrong number of bytes.
        """
        if len(blob) < _HEAD.size:
            raise ValueError(f"focus: {len(blob)} bytes are less than a head")
        layout, capacity, least, kind, series, _ = _HEAD.unpack_from(blob)
        if layout != LAYOUT or kind not in (1, 2):
            raise ValueError(f"focus: layout {layout}, this release reads {LAYOUT}")
        size = _HEAD.size + 8 * series * (2 + 2 * least + 2 + 6 * capacity)
        if len(blob) != size:
            raise ValueError(f"focus: {len(blob)} bytes instead of {size}")
        state = cls(series, _KINDS[kind - 1], least, prior_points, capacity)
        offset = _HEAD.size
        for column in state._columns():
            of = "<f8" if column.dtype.kind == "f" else "<i8"
            column[...] = np.frombuffer(blob, of, column.size, offset).reshape(column.shape)
            offset += 8 * column.size
        return state

    def _columns(self) -> tuple[FloatArray | IntArray, ...]:
        return (
            self._count, self._sum, self._ring, self._ring_at, self._candidates, self._t, self._s,
            self._at,
        )  # fmt: skip

    def _add(self, rows: IntArray, t: FloatArray, s: FloatArray, at: IntArray) -> None:
        """Add a vertex on the right of each hull and drop those that no longer are vertices."""
        left = np.arange(rows.size)
        while left.size:
            left = left[self._candidates[rows[left]] > 1]
            row = rows[left]
            last = self._candidates[row] - 1
            run, rise = self._t[row, last], self._s[row, last]
            back, under = self._t[row, last - 1], self._s[row, last - 1]
            bent = (s[left] - rise) * (run - back) <= (rise - under) * (t[left] - run)
            left = left[bent]
            self._candidates[rows[left]] -= 1
        full = rows[self._candidates[rows] == self.capacity]
        if full.size:
            for column in (self._t, self._s, self._at):
                column[full, :-1] = column[full, 1:]
            self._candidates[full] -= 1
        place = self._candidates[rows]
        self._t[rows, place] = t
        self._s[rows, place] = s
        self._at[rows, place] = at
        self._candidates[rows] = place + 1

    def _best(self, kurtosis: FloatArray | None) -> Change:
        series = self._count.size
        width = max(int(self._candidates.max(initial=0)), 1)
        t, s = self._t[:, :width], self._s[:, :width]
        count = np.tile(self._count, 2).astype(np.float64)[:, None]
        sign = np.repeat([1.0, -1.0], series)[:, None]
        total = np.tile(self._sum, 2)[:, None] * sign
        held = np.arange(width) < self._candidates[:, None]
        points = np.where(held, count - t, 1.0)
        after = np.where(held, (total - s) / points, 0.0)
        before, statistic = self._likelihood(t, s, sign, points, after)
        statistic = np.where(held, statistic, 0.0)
        best = statistic.argmax(axis=1)
        rows = np.arange(2 * series)
        top = statistic[rows, best]
        falls = top[series:] > top[:series]
        row = np.where(falls, rows[series:], rows[:series])
        best = best[row]
        sign = sign[row, 0]
        factor = np.ones(series)
        if kurtosis is not None:
            factor = 2.0 / np.maximum(kurtosis - 1.0, 0.2)
        found = top[row] > 0.0
        return Change(
            top[row] * factor,
            np.where(found, self._at[row, best], 0),
            np.where(found, points[row, best], 0).astype(np.int64),
            np.where(found, before[row, best] * sign, 0.0),
            np.where(found, after[row, best] * sign, 0.0),
        )

    def _likelihood(
        self, t: FloatArray, s: FloatArray, sign: FloatArray, points: FloatArray, after: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Mean before each candidate, and the log-likelihood ratio of a change in the direction."""
        # Zeros before the first point, or ones for the variance, stand for what is known.
        known = np.isinf(self.prior_points)
        earlier = t + (0.0 if known else self.prior_points)
        if self.kind == "mean":
            before = np.zeros_like(after) if known else s / np.maximum(earlier, 1.0)
            weight = points if known else points * earlier / (points + earlier)
            return before, weight * np.maximum(after - before, 0.0) ** 2 / 2.0
        after = np.maximum(after * sign, _LEAST_VARIANCE)
        if known:
            before = np.ones_like(after)
            ratio = points / 2.0 * (after - 1.0 - np.log(after))
        else:
            prior = self.prior_points
            before = np.maximum((s * sign + prior) / np.maximum(earlier, 1.0), _LEAST_VARIANCE)
            whole = (before * earlier + after * points) / (earlier + points)
            # Each variance is its own maximum of the likelihood, so only logarithms are left.
            ratio = earlier * np.log(whole / before) + points * np.log(whole / after)
            ratio /= 2.0
        return before * sign, np.where((after - before) * sign > 0.0, ratio, 0.0)
