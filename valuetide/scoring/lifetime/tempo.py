"""Whether customers buy more or less than the model says, just now, all together.

    bytes, little endian
     0  <u2 layout version, 2    2  <u2 0    4  <u4 0    8  <u8 cohorts
    16  <f8 decayed actual      24  <f8 decayed predicted      32  <f8 actual
    40  <f8 decayed squared error without the factor           48  <f8 with it

Models of customers know of no season and no trend. When the horizon of a cohort is over, what its
members spent is compared with what was predicted. The ratio of both, recent cohorts weighing more,
tells by how much predictions are to be raised or lowered. Half of it, on the scale of logarithms,
is taken, since the season that is over is not the season to come; whoever wants proof first asks
``helps``.

Decay, prior and power were chosen on forecasts of 13 weeks for the CDNOW sample; that cohorts of
the first six weeks do not count was found on CDNOW as a whole.
"""

import struct
from collections.abc import Iterable
from typing import Final

LAYOUT: Final = 2
# Before that the parameters are hardly known, and what they predict tells nothing about tempo.
FIRST_DAYS: Final = 42
_BYTES: Final = struct.Struct("<HHIQddddd")
# Weight of a cohort relative to the next one; as many cohorts of agreement are assumed before the
# first.
_DECAY: Final = 0.72
_PRIOR_COHORTS: Final = 2.0
_POWER: Final = 0.5
# With fewer cohorts than this nothing can be said about whether the factor helps.
_PROOF_COHORTS: Final = 4


class Tempo:
    """What a shard knows about the tempo of its customers.

    Examples
    --------
    >>> tempo = Tempo()
    >>> tempo.learn(predicted=100.0, factor=1.0, actual=200.0)
    >>> tempo.actual, tempo.factor
    (200.0, 1.0954451150103321)
    """

    def __init__(self) -> None:
        self.cohorts = 0
        self.recent_actual = self.recent_predicted = self.actual = 0.0
        self.error_without = self.error_with = 0.0

    @property
    def factor(self) -> float:
        """What predictions should be multiplied with, by the cohorts so far."""
        return _factor([self])

    @property
    def helps(self) -> bool:
        """Whether the factor would have made predictions better."""
        return _helps([self])

    def learn(self, predicted: float, factor: float, actual: float) -> None:
        """Take in a cohort whose horizon is over.

        Parameters
        ----------
        predicted
            Expected revenue of its members, not discounted and without any factor.
        factor
            The factor when that was predicted.
        actual
            Revenue of the same members.
        """
        self.recent_actual = _DECAY * self.recent_actual + actual
        self.recent_predicted = _DECAY * self.recent_predicted + predicted
        self.actual += actual
        self.cohorts += 1
        self.error_without = _DECAY * self.error_without + (predicted - actual) ** 2
        self.error_with = _DECAY * self.error_with + (predicted * factor - actual) ** 2

    def encode(self) -> bytes:
        """Bytes from which ``decode`` makes the same."""
        return _BYTES.pack(
            LAYOUT, 0, 0, self.cohorts, self.recent_actual, self.recent_predicted, self.actual,
            self.error_without, self.error_with,
        )  # fmt: skip

    @classmethod
    def decode(cls, blob: bytes) -> "Tempo":
        """State of which these are the bytes.

        Raises
        ------
        ValueError
            Of an unknown layout version or a wrong number of bytes.
        """
        if len(blob) != _BYTES.size:
            raise ValueError(f"tempo: {len(blob)} bytes instead of {_BYTES.size}")
        layout, _, _, cohorts, *sums = _BYTES.unpack(blob)
        if layout != LAYOUT:
            raise ValueError(f"tempo: layout {layout}, this release reads {LAYOUT}")
        tempo = cls()
        tempo.cohorts = cohorts
        tempo.recent_actual, tempo.recent_predicted, tempo.actual = sums[:3]
        tempo.error_without, tempo.error_with = sums[3:]
        return tempo


def pooled_factor(tempos: Iterable[Tempo], *, proven: bool = False) -> float:
    """Factor of all shards together; with ``proven`` 1 unless it has helped."""
    shards = list(tempos)
    return 1.0 if proven and not _helps(shards) else _factor(shards)


def _factor(shards: list[Tempo]) -> float:
    cohorts = max((shard.cohorts for shard in shards), default=0)
    actual = sum(shard.actual for shard in shards)
    if not cohorts or actual <= 0.0:
        return 1.0
    prior = _PRIOR_COHORTS * actual / cohorts
    recent = sum(shard.recent_actual for shard in shards) + prior
    return float((recent / (sum(shard.recent_predicted for shard in shards) + prior)) ** _POWER)


def _helps(shards: list[Tempo]) -> bool:
    proven = max((shard.cohorts for shard in shards), default=0) >= _PROOF_COHORTS
    without = sum(shard.error_without for shard in shards)
    return proven and sum(shard.error_with for shard in shards) < without
