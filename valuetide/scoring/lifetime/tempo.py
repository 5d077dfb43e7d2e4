"""Whether customers buy more or less than the model says, just now, all together.

    bytes, little endian
     0  <u2 layout version, 1    2  <u2 0    4  <u4 number of open windows
     8  <f8 decayed actual      16  <f8 decayed predicted   24  <f8 actual   32  <u8 windows closed
    40  <f8 decayed squared error without the factor        48  <f8 with it
    56  open windows, 32 bytes each: <i8 day, <f8 predicted, <f8 factor then in force, <f8 actual

Models of customers know of no season and no trend. Once a week the revenue of the next eight weeks
is predicted for all customers there are, and eight weeks later compared with what they spent. The
ratio of both, recent weeks weighing more, tells by how much predictions are to be raised or
lowered. Half of it, on the scale of logarithms, is taken, since the season that is over is not the
season to come; whoever wants proof first asks ``helps``.

Measured by bench.clv_offline on forecasts of 13 weeks. Window, decay and power were chosen on the
CDNOW sample; that windows begin after six weeks was found on CDNOW as a whole.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from valuetide.scoring.arrays import FloatArray, IntArray

LAYOUT: Final = 1
WINDOW_DAYS: Final = 56
EVERY_DAYS: Final = 7
# Before that the parameters are hardly known, and what they predict tells nothing about tempo.
FIRST_DAYS: Final = 42
_HEAD: Final = struct.Struct("<HHIdddQdd")
_WINDOW: Final = struct.Struct("<qddd")
# Weight of a window relative to the one a week younger; as many windows of agreement are
# assumed before the first.
_DECAY: Final = 0.85
_PRIOR_WINDOWS: Final = 4.0
_POWER: Final = 0.5
# With fewer windows than this nothing can be said about whether the factor helps.
_PROOF_WINDOWS: Final = 4


@dataclass(frozen=True, slots=True)
class Window:
    """Eight weeks from the end of a day."""

    day: int
    predicted: float
    factor: float
    actual: float = 0.0


class Tempo:
    """What a shard knows about the tempo of its customers.

    Examples
    --------
    >>> import numpy as np
    >>> tempo = Tempo()
    >>> tempo.open(0, predicted=100.0)
    >>> tempo.credit(np.array([0, 5]), np.array([9, 9]), np.array([200.0, 7.0]))
    >>> tempo.close(56)
    >>> tempo.actual, tempo.factor
    (200.0, 1.0540925533894598)
    """

    def __init__(self) -> None:
        self.windows: list[Window] = []
        self.recent_actual = self.recent_predicted = self.actual = 0.0
        self.closed = 0
        self.error_without = self.error_with = 0.0

    @property
    def factor(self) -> float:
        """What predictions of revenue should be multiplied with, by the windows closed."""
        return _factor([self])

    @property
    def helps(self) -> bool:
        """Whether the factor would have made predictions better."""
        return _helps([self])

    def due(self, day: int, begun_day: int) -> bool:
        """Whether a window should be opened at the end of a day, by when the first order came."""
        if self.windows:
            return day >= self.windows[-1].day + EVERY_DAYS
        return day >= begun_day + FIRST_DAYS

    def open(self, day: int, predicted: float, factor: float | None = None) -> None:
        """Predict the eight weeks after a day.

        Parameters
        ----------
        day
            UTC day that has just ended.
        predicted
            Expected revenue of all customers with a first order until then, not discounted and
            without any factor.
        factor
            Of all shards; without it this shard's own.
        """
        self.windows.append(Window(day, predicted, self.factor if factor is None else factor))

    def credit(self, first_day: IntArray, day: IntArray, amount: FloatArray) -> None:
        """Count orders: day of the customer's first order, day and amount of the order, (n,)."""
        for nth, window in enumerate(self.windows):
            inside = (first_day <= window.day) & (day > window.day)
            inside &= day <= window.day + WINDOW_DAYS
            if inside.any():
                total = window.actual + float(amount[inside].sum())
                self.windows[nth] = replace(window, actual=total)

    def close(self, day: int) -> None:
        """Learn from the windows that are over at the end of a day."""
        while self.windows and self.windows[0].day + WINDOW_DAYS <= day:
            window = self.windows.pop(0)
            self.recent_actual = _DECAY * self.recent_actual + window.actual
            self.recent_predicted = _DECAY * self.recent_predicted + window.predicted
            self.actual += window.actual
            self.closed += 1
            without = (window.predicted - window.actual) ** 2
            corrected = (window.predicted * window.factor - window.actual) ** 2
            self.error_without = _DECAY * self.error_without + without
            self.error_with = _DECAY * self.error_with + corrected

    def encode(self) -> bytes:
        """Bytes from which ``decode`` makes the same."""
        head = _HEAD.pack(
            LAYOUT, 0, len(self.windows), self.recent_actual, self.recent_predicted, self.actual,
            self.closed, self.error_without, self.error_with,
        )  # fmt: skip
        return head + b"".join(
            _WINDOW.pack(w.day, w.predicted, w.factor, w.actual) for w in self.windows
        )

    @classmethod
    def decode(cls, blob: bytes) -> "Tempo":
        """State of which these are the bytes.

        Raises
        ------
        ValueError
            Of an unknown layout version or a wrong number of bytes.
        """
        if len(blob) < _HEAD.size:
            raise ValueError(f"tempo: {len(blob)} bytes, a header has {_HEAD.size}")
        layout, _, count, *sums = _HEAD.unpack_from(blob)
        if layout != LAYOUT:
            raise ValueError(f"tempo: layout {layout}, this release reads {LAYOUT}")
        if len(blob) != _HEAD.size + count * _WINDOW.size:
            raise ValueError(f"tempo: {len(blob)} bytes do not fit {count} windows")
        tempo = cls()
        tempo.recent_actual, tempo.recent_predicted, tempo.actual, tempo.closed = sums[:4]
        tempo.error_without, tempo.error_with = sums[4:]
        tempo.windows = [Window(*w) for w in _WINDOW.iter_unpack(blob[_HEAD.size :])]
        return tempo


def pooled_factor(tempos: Iterable[Tempo], *, proven: bool = False) -> float:
    """Factor of all shards together; with ``proven`` 1 unless it has helped."""
    shards = list(tempos)
    return 1.0 if proven and not _helps(shards) else _factor(shards)


def _factor(shards: list[Tempo]) -> float:
    closed = max((shard.closed for shard in shards), default=0)
    actual = sum(shard.actual for shard in shards)
    if not closed or actual <= 0.0:
        return 1.0
    prior = _PRIOR_WINDOWS * actual / closed
    recent = sum(shard.recent_actual for shard in shards) + prior
    return float((recent / (sum(shard.recent_predicted for shard in shards) + prior)) ** _POWER)


def _helps(shards: list[Tempo]) -> bool:
    proven = max((shard.closed for shard in shards), default=0) >= _PROOF_WINDOWS
    without = sum(shard.error_without for shard in shards)
    return proven and sum(shard.error_with for shard in shards) <= without
