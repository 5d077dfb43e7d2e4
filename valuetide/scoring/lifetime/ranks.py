"""Where a customer stands among all: a histogram of their lifetime values that forgets exactly.

    pieces of 64 bins, <u4 customers each; "r" and the number of the piece in three hex digits

A customer is in the bin of their last score, and moves when they are scored again, so the histogram
is that of the scores as they are. Bins are .1 % wide on the scale of asinh, which is that of the
logarithm but goes through zero to losses. A rank is wrong by half of the customers in its bin at
most, those of equal value not counted, who share the middle of their ranks.

Histograms of several shards are added. Sketches that take less room (t-digest, KLL) cannot forget
the value that a customer no longer has.
"""

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from valuetide.scoring.arrays import BoolArray, FloatArray, IntArray, true_at

N = TypeVar("N", bound=np.number)

WIDTH: Final = 0.001
# asinh of 1e11 minor units; whoever is beyond is in the last bin.
REACH: Final = 26.0
PIECE: Final = 64
PIECES: Final = -(-int(2 * REACH / WIDTH) // PIECE)
BINS: Final = PIECES * PIECE
NAMES: Final = tuple(f"r{number:03x}" for number in range(PIECES))
# Percentiles are read from sums that are renewed when so large a share of the customers has moved.
_STALE: Final = 0.001


class Ranks:
    """How many customers of a shard there are in each bin.

    Attributes
    ----------
    counts
        Customers, ``(BINS,)``.
    low, high
        All customers were ever in bins from ``low`` to before ``high``.
    moves
        Customers added and taken away since the beginning.

    Examples
    --------
    >>> ranks = Ranks()
    >>> ranks.move(np.full(3, np.nan), np.array([10_00.0, 20_00.0, np.nan]))
    >>> Percentiles([ranks]).of(np.array([10_00.0, 15_00.0, 20_00.0])).tolist()
    [25.0, 50.0, 75.0]
    """

    def __init__(self, pieces: Mapping[str, bytes] | None = None) -> None:
        self.counts: IntArray = np.zeros(BINS, np.int64)
        self.low, self.high = BINS, 0
        self.moves = 0
        self._changed: BoolArray = np.zeros(PIECES, np.bool_)
        for number, name in enumerate(NAMES):
            piece = (pieces or {}).get(name)
            if piece is not None:
                if len(piece) != 4 * PIECE:
                    raise ValueError(f"ranks: a piece of {len(piece)} bytes, not {4 * PIECE}")
                self.counts[number * PIECE :][:PIECE] = np.frombuffer(piece, "<u4")
                self._reach(number * PIECE, (number + 1) * PIECE)

    def move(self, before: FloatArray, now: FloatArray) -> None:
        """Move customers from one value to another, minor units, (m,); NaN is not to be ranked."""
        left = before[~np.isnan(before)]
        bins = bin_of(np.concatenate([left, now[~np.isnan(now)]]))
        if bins.size:
            np.subtract.at(self.counts, bins[: left.size], 1)
            np.add.at(self.counts, bins[left.size :], 1)
            self._changed[bins // PIECE] = True
            self._reach(int(bins.min()), int(bins.max()) + 1)
            self.moves += bins.size

    def _reach(self, low: int, high: int) -> None:
        self.low, self.high = min(self.low, low), max(self.high, high)

    def take(self) -> dict[str, bytes]:
        """Give the pieces that changed since the last time."""
        changed = true_at(self._changed)
        self._changed[:] = False
        data = self.counts.reshape(PIECES, PIECE)[changed].astype("<u4").tobytes()
        size = 4 * PIECE
        return {
            NAMES[number]: data[nth * size : (nth + 1) * size]
            for nth, number in enumerate(changed.tolist())
        }


class Percentiles:
    """Percentile ranks among the customers of some shards.

    Parameters
    ----------
    shards
        Read again when enough of their customers have moved.
    """

    def __init__(self, shards: Iterable[Ranks]) -> None:
        self._shards = list(shards)
        self._read_at = -1
        self._low = self._total = 0
        self._below: FloatArray = np.zeros(1)

    def of(self, values: FloatArray) -> FloatArray:
        """Share of the customers below each value and half of those beside it, 0 to 100, (m,)."""
        moves = sum(shard.moves for shard in self._shards)
        if self._read_at < 0 or moves - self._read_at > _STALE * self._total:
            self._read(moves)
        places = _within(bin_of(values) - self._low, self._below.size - 1)
        share: FloatArray = self._below[places] * (100.0 / max(self._total, 1))
        return share

    def _read(self, moves: int) -> None:
        low = min((shard.low for shard in self._shards), default=BINS)
        high = max((shard.high for shard in self._shards), default=0)
        # A bin more on each side for values that nobody has.
        self._low = max(min(low, high) - 1, 0)
        window = slice(self._low, high + 1)
        counts = np.zeros(high + 1 - self._low, np.int64)
        for shard in self._shards:
            part = shard.counts[window]
            counts[: part.size] += part
        self._below = np.cumsum(counts) - counts / 2
        self._total = int(counts.sum())
        self._read_at = moves


def bin_of(values: FloatArray) -> IntArray:
    """Bin of each value, minor units."""
    place = (np.arcsinh(values) + REACH) * (1.0 / WIDTH)
    return _within(place, BINS - 1).astype(np.int64)


def _within(values: NDArray[N], most: int) -> NDArray[N]:
    """Values held within 0 and most; np.clip takes three times as long on few values."""
    held: NDArray[N] = np.minimum(np.maximum(values, 0), most)
    return held
