"""What was predicted against what came, summed: bias, error, calibration, coverage.

    bytes, little endian
      0  <u2 layout version, 1    2  <u2 0    4  <u4 0    8  <u8 cohorts added
     16  recent sums, then 16 + 1,120 all sums: 10 deciles of 14 <f8 each,
         outcomes, inside, likely, likely inside; then of orders, and of revenue:
         predicted, realised, absolute error, predicted squared, predicted times realised

Sums add up over cohorts and shards, and everything that is reported follows from them. The recent
ones forget a fifth with each cohort. Deciles are those of the predicted revenue within a cohort,
the lowest first. Likely are those whose probability of nothing is below the level: the others'
interval is from nothing to nothing, which holds more often than it promises by its nature.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from valuetide.scoring.arrays import BoolArray, FloatArray

LAYOUT: Final = 1
DECILES: Final = 10
_COUNTS: Final = 4
_SUMS: Final = 5
_WIDTH: Final = _COUNTS + 2 * _SUMS
_HEAD: Final = struct.Struct("<HHIQ")
_BYTES: Final = _HEAD.size + 2 * DECILES * _WIDTH * 8
# Five cohorts are remembered on average: ten weeks of a horizon of 90 days, 30 of one of 365.
_KEPT: Final = 0.8


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Matured predictions, columns (n,).

    Attributes
    ----------
    orders, revenue
        Predicted: days with an order, and spend on them in currency units.
    real_orders, real_revenue
        What came.
    inside
        Whether the revenue was inside the interval that was given with the prediction.
    likely
        Whether the predicted probability of nothing was below the level of the interval.
    """

    orders: FloatArray
    revenue: FloatArray
    real_orders: FloatArray
    real_revenue: FloatArray
    inside: BoolArray
    likely: BoolArray


@dataclass(frozen=True, slots=True)
class Quality:
    """How good predictions of orders, or of revenue, were.

    Attributes
    ----------
    bias
        Predicted less realised, as a share of the realised; NaN if nothing came.
    mae
        Mean absolute error of a customer.
    slope
        Of the regression of realised on predicted, 1 when calibrated; NaN if all predictions were
        the same.
    predicted, realised
        Means of a customer in each decile, (10,); NaN in a decile with nobody.
    """

    bias: float
    mae: float
    slope: float
    predicted: FloatArray
    realised: FloatArray


@dataclass(frozen=True, slots=True)
class Report:
    """What the sums say.

    Attributes
    ----------
    outcomes
        Number of matured predictions; of forgotten ones a part.
    coverage, likely_coverage
        Share of them inside their interval, of all and of the likely ones; NaN of none.
    orders, revenue
        See :class:`Quality`.
    """

    outcomes: float
    coverage: float
    likely_coverage: float
    orders: Quality
    revenue: Quality


class Grade:
    """Sums of one horizon.

    Attributes
    ----------
    cohorts
        How many were added.
    recent, total
        Sums, (10, 14), see the top of the module.

    Examples
    --------
    >>> grade, yes = Grade(), np.ones(2, bool)
    >>> predicted, came = np.array([1.0, 3.0]), np.array([0.0, 2.0])
    >>> grade.add(Outcomes(predicted, 9 * predicted, came, 9 * came, yes, yes))
    >>> found = report(grade.total)
    >>> found.orders.bias, found.orders.mae, found.orders.slope, found.coverage
    (1.0, 1.0, 1.0, 1.0)
    """

    def __init__(self) -> None:
        self.cohorts = 0
        self.recent: FloatArray = np.zeros((DECILES, _WIDTH))
        self.total: FloatArray = np.zeros((DECILES, _WIDTH))

    def add(self, cohort: Outcomes) -> None:
        """Add the outcomes of a cohort."""
        count = cohort.revenue.size
        rank = np.empty(count, np.int64)
        rank[np.argsort(cohort.revenue, kind="stable")] = np.arange(count)
        rows = [np.ones(count), cohort.inside, cohort.likely, cohort.likely & cohort.inside]
        for predicted, real in (
            (cohort.orders, cohort.real_orders),
            (cohort.revenue, cohort.real_revenue),
        ):
            error = np.abs(predicted - real)
            rows += [predicted, real, error, predicted * predicted, predicted * real]
        decile = rank * DECILES // max(count, 1)
        sums = np.stack([np.bincount(decile, row, DECILES) for row in rows], axis=1)
        self.recent = _KEPT * self.recent + sums
        self.total = self.total + sums
        self.cohorts += 1

    def encode(self) -> bytes:
        """Bytes from which ``decode`` makes the same."""
        head = _HEAD.pack(LAYOUT, 0, 0, self.cohorts)
        return head + self.recent.astype("<f8").tobytes() + self.total.astype("<f8").tobytes()

    @classmethod
    def decode(cls, blob: bytes) -> "Grade":
        """State of which these are the bytes.

        Raises
        ------
        ValueError
            Of an unknown layout version or a wrong number of bytes.
        """
        if len(blob) != _BYTES:
            raise ValueError(f"grade: {len(blob)} bytes instead of {_BYTES}")
        layout, _, _, cohorts = _HEAD.unpack_from(blob)
        if layout != LAYOUT:
            raise ValueError(f"grade: layout {layout}, this release reads {LAYOUT}")
        sums = np.frombuffer(blob, "<f8", offset=_HEAD.size).reshape(2, DECILES, _WIDTH)
        grade = cls()
        grade.cohorts, grade.recent, grade.total = cohorts, sums[0].copy(), sums[1].copy()
        return grade


def pooled_grade(grades: Iterable[Grade]) -> Grade:
    """Grade of all shards together."""
    whole = Grade()
    for grade in grades:
        whole.cohorts += grade.cohorts
        whole.recent = whole.recent + grade.recent
        whole.total = whole.total + grade.total
    return whole


def report(sums: FloatArray) -> Report:
    """What sums, (10, 14), say."""
    whole = sums.sum(axis=0)
    outcomes, inside, likely, likely_inside = whole[:_COUNTS].tolist()
    return Report(
        outcomes,
        _share(inside, outcomes),
        _share(likely_inside, likely),
        *(_quality(sums[:, [0, *range(at, at + _SUMS)]]) for at in (_COUNTS, _COUNTS + _SUMS)),
    )


def _quality(sums: FloatArray) -> Quality:
    count, predicted, real, error, square, product = sums.sum(axis=0).tolist()
    with np.errstate(invalid="ignore"):
        means = sums[:, 1:3] / np.where(sums[:, :1] > 0.0, sums[:, :1], np.nan)
    # What rounding leaves of a variance of nothing is no variance.
    spread = count * square - predicted * predicted
    some = spread > 1e-12 * count * square
    slope = (count * product - predicted * real) / spread if some else float("nan")
    bias = _share(predicted - real, real)
    return Quality(bias, _share(error, count), slope, means[:, 0], means[:, 1])


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
