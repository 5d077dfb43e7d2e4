"""Evidence for a change in each of many series, and which of them to believe together.

With ten thousand series, one false alarm a series and ninety days is a hundred a day. So series
that are watched together as the parts of something must pass a second gate, which keeps the share
of false alerts among all of them in budget. It works on e-detectors (Shin, Ramdas, Rinaldo 2024): a
process M whose mean, as long as nothing changes, is never more than the time it has run, whatever
the moment one looks at it. Here it is of the Shiryaev-Roberts form,

    M_t = sum over w of weight(w) R_t(w),   R_t(w) = (R_(t-1)(w) + 1) exp(w x_t - psi(w))

over changes of several sizes and both directions. Residuals x are bounded by b with mean 0 and
variance at most 1, so by Bennett's inequality psi(w) = (exp(|w| b) - 1 - |w| b) / b^2 makes each
factor's mean at most 1. Nothing else is assumed: not the normal law, and nothing about how series
hang together.

The gate is e-BH at every point (Wang and Ramdas 2022; for changes in many streams Dandapanthula and
Ramdas 2025): of K series, believe the k with the most evidence, for the largest k such that all of
them have M >= K W / (q k). Then the expected share of false ones, at any time that is at most W
points after the start, is at most q.

    bytes of n series, little endian
      0  <u2 layout version, 1     2  <u2 number of sizes, 6     4  <u4 n
      8  6n <f8 logarithm of R + 1

References
----------
Shin, J., Ramdas, A., Rinaldo, A. (2024) E-detectors: a nonparametric framework for sequential
change detection. New England Journal of Statistics in Data Science 2(2).
Wang, R., Ramdas, A. (2022) False discovery rate control with e-values. J. R. Stat. Soc. B 84(3).
Dandapanthula, S., Ramdas, A. (2025) Multiple testing in multi-stream sequential change detection.
"""

import struct
from typing import Final, Self

import numpy as np

from valuetide.scoring.arrays import BoolArray, FloatArray, IntArray
from valuetide.scoring.trends.expectation import CLIP, CLIPPED_VARIANCE

LAYOUT: Final = 1
_HEAD: Final = struct.Struct("<HHI")
# The most that a residual can be.
BOUND: Final = CLIP / CLIPPED_VARIANCE**0.5
# Best for shifts of about a quarter, two thirds and one and a third of a standard deviation.
_SIZES: Final = np.array([0.2, 0.5, 0.9, -0.2, -0.5, -0.9])
_SIZES.setflags(write=False)
_PSI: Final = (np.expm1(np.abs(_SIZES) * BOUND) - np.abs(_SIZES) * BOUND) / BOUND**2
_PSI.setflags(write=False)


class Evidence:
    """E-detectors of n series.

    Examples
    --------
    >>> evidence = Evidence(1)
    >>> for _ in range(30):
    ...     found = evidence.observe(np.array([1.5]), np.array([True]))
    >>> bool(found[0] > 1e6)
    True
    """

    def __init__(self, series: int = 0) -> None:
        self._log: FloatArray = np.zeros((0, _SIZES.size))
        self.grow(series)

    def grow(self, series: int) -> None:
        """Add rows of series that begin now."""
        self._log = np.concatenate([self._log, np.zeros((series, _SIZES.size))])

    def observe(self, residual: FloatArray, present: BoolArray) -> FloatArray:
        """Take a point of every series and give the e-detectors, (n,), 0 and more.

        Parameters
        ----------
        residual
            Standardised residuals, cut off as the expectation does, (n,).
        present
            Where there is one, (n,).
        """
        moved = self._log + np.multiply.outer(residual, _SIZES) - _PSI
        # Of what is kept, R + 1, the logarithm is 0 at least.
        self._log = np.where(present[:, None], np.logaddexp(moved, 0.0), self._log)
        return np.asarray(np.expm1(np.minimum(self._log, _MOST_LOG)).mean(axis=1))

    def reset(self, rows: IntArray) -> None:
        """Begin anew with these series."""
        self._log[rows] = 0.0

    def encode(self) -> bytes:
        """Bytes of which ``decode`` makes the same."""
        head = _HEAD.pack(LAYOUT, _SIZES.size, self._log.shape[0])
        return head + self._log.astype("<f8").tobytes()

    @classmethod
    def decode(cls, blob: bytes) -> Self:
        """State of which these are the bytes.

        Raises
        ------
        ValueError
            Of an unknown layout version or a wrong number of bytes.
        """
        if len(blob) < _HEAD.size:
            raise ValueError(f"evidence: {len(blob)} bytes are less than a head")
        layout, sizes, series = _HEAD.unpack_from(blob)
        if layout != LAYOUT or sizes != _SIZES.size:
            raise ValueError(f"evidence: layout {layout}, this release reads {LAYOUT}")
        if len(blob) != _HEAD.size + 8 * sizes * series:
            raise ValueError(f"evidence: {len(blob)} bytes do not hold {series} series")
        state = cls(series)
        rows = np.frombuffer(blob, "<f8", -1, _HEAD.size).reshape(series, sizes)
        state._log = rows.astype(np.float64)
        return state


_MOST_LOG: Final = 600.0


def believed(
    evidence: FloatArray, family: IntArray, share: float, patience_points: float
) -> BoolArray:
    """Which series to believe, such that few of them are false.

    Parameters
    ----------
    evidence
        E-detectors, (n,).
    family
        Number of the family of each series, (n,). A negative one is none: such a series is watched
        for itself and always believed here.
    share
        Expected share of false ones among those believed, at most.
    patience_points
        Time over which that is promised.

    Returns
    -------
    (n,).

    Examples
    --------
    Of two series one is believed when its evidence is 2 / share * patience, both with half of it:

    >>> family = np.array([0, 0])
    >>> believed(np.array([1_999.0, 5.0]), family, 0.1, 100.0).tolist()
    [False, False]
    >>> believed(np.array([1_001.0, 1_000.0]), family, 0.1, 100.0).tolist()
    [True, True]
    """
    chosen = family < 0
    order = np.lexsort((-evidence, family))
    sorted_family = family[order]
    starts = np.searchsorted(sorted_family, sorted_family)
    sizes = np.searchsorted(sorted_family, sorted_family, side="right") - starts
    rank = np.arange(family.size) - starts + 1
    enough = evidence[order] * rank >= sizes * patience_points / share
    # Everybody up to the last rank of the family that has enough.
    last = np.zeros(family.size, np.int64)
    np.maximum.at(last, starts, np.where(enough, rank, 0))
    chosen[order] |= rank <= last[starts]
    return chosen
