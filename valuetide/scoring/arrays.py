"""Small tools for rows of unequal length kept in flat arrays, and the units everything shares."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IdArray = NDArray[np.uint64]

# Ids are hashes cut to 48 bits, so that one fits into six bytes of the packed state and a row
# number fits above it in one 64-bit sort key.
ID_BITS: Final = 48
DAY_MS: Final = 86_400_000
# The least int64: below every time, so maximum() needs no special case, and numpy's own NaT when
# the column is viewed as datetime64[ms].
NO_TIME: Final = int(np.iinfo(np.int64).min)
# A day number beyond every real one, in place of a first day where there is none.
NO_DAY: Final = 1 << 40


# Up to this many rows a table doubles; beyond it half of it unused would be too much memory.
_DOUBLING: Final = 1 << 16


def grown(have: int, needed: int) -> int:
    """Rows to make place for in a table that has place for some and needs more.

    Examples
    --------
    >>> grown(1_000, 1_001), grown(1_000_000, 1_000_001), grown(0, 5)
    (2000, 1250000, 5)
    """
    return max(needed, have + (have if have < _DOUBLING else have // 4))


def spans(start: IntArray, length: IntArray) -> IntArray:
    """Positions of several ranges, one after the other.

    Parameters
    ----------
    start, length
        First position and number of positions of each range, (m,).

    Returns
    -------
    (sum of length,) positions.

    Examples
    --------
    >>> spans(np.array([10, 50, 20]), np.array([2, 0, 3])).tolist()
    [10, 11, 20, 21, 22]
    """
    ends = length.cumsum()
    shift = np.repeat(start - ends + length, length)
    shift += np.arange(shift.size)
    return shift


def true_at(mask: NDArray[Any]) -> IntArray:
    """Where a mask, (n,), holds.

    Notes
    -----
    ``np.flatnonzero`` takes three times as long on few values, and a small batch asks forty times.

    Examples
    --------
    >>> true_at(np.array([False, True, True])).tolist()
    [1, 2]
    """
    return mask.nonzero()[0]


def group_starts(keys: NDArray[Any]) -> IntArray:
    """Where each run of equal keys begins.

    Examples
    --------
    >>> group_starts(np.array([4, 4, 7, 9, 9])).tolist()
    [0, 2, 3]
    """
    if not keys.size:
        return np.empty(0, np.int64)
    changed = np.empty(keys.size, np.bool_)
    changed[0] = True
    np.not_equal(keys[1:], keys[:-1], out=changed[1:])
    return true_at(changed)


def group_sizes(starts: IntArray, total: int) -> IntArray:
    """Number of elements of each run, of where the runs begin and how many elements there are.

    Examples
    --------
    >>> group_sizes(np.array([0, 2, 3]), 5).tolist()
    [2, 1, 2]
    """
    sizes = np.empty(starts.size, np.int64)
    np.subtract(starts[1:], starts[:-1], out=sizes[:-1])
    if starts.size:
        sizes[-1] = total - starts[-1]
    return sizes


def sorting(keys: IntArray, bits: int) -> IntArray:
    """Positions that sort the keys, equal ones in the order they stand in.

    Parameters
    ----------
    keys
        0 or more.
    bits
        No key needs more bits than this.

    Notes
    -----
    Where key and position fit into 63 bits together, they are sorted as one number: numpy sorts
    numbers several times faster than it finds the stable order of others.

    Examples
    --------
    >>> sorting(np.array([5, 3, 5, 1]), 3).tolist()
    [3, 1, 0, 2]
    """
    low = int(keys.size).bit_length()
    if bits + low > 63:  # noqa: PLR2004 - bits of a positive int64
        return keys.argsort(kind="stable")
    return np.sort((keys << low) | np.arange(keys.size)) & ((1 << low) - 1)


@dataclass(frozen=True, slots=True)
class Segments:
    """Reductions over consecutive segments of a flat array, where a segment may be empty.

    ``ufunc.reduceat`` gives an element, not the neutral one, for an empty segment; here the empty
    segments are left out and get a stated value.
    """

    filled: BoolArray
    starts: IntArray

    @classmethod
    def of(cls, lengths: IntArray) -> "Segments":
        """Segments of these lengths, (m,), one after the other."""
        filled = lengths > 0
        return cls(filled, (lengths.cumsum() - lengths)[filled])

    def reduce(self, ufunc: np.ufunc, values: NDArray[Any], empty: int = 0) -> NDArray[Any]:
        """Reduce the last axis of values, (..., k), to one number a segment, (..., m).

        Examples
        --------
        >>> Segments.of(np.array([2, 0, 1])).reduce(np.add, np.array([1, 2, 5])).tolist()
        [3, 0, 5]
        """
        if self.starts.size == self.filled.size and self.starts.size:
            reduced: NDArray[Any] = ufunc.reduceat(values, self.starts, axis=-1)
            return reduced
        out = np.full((*values.shape[:-1], self.filled.size), empty, values.dtype)
        if self.starts.size:
            out[..., self.filled] = ufunc.reduceat(values, self.starts, axis=-1)
        return out
