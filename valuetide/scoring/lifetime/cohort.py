"""Predictions for some customers that wait for their outcome.

bytes of a cohort, little endian
  0  <u2 layout version, 1    2  <u2 0    4  <u4 members     8  <i8 day
 16  <f8 ratio corrector then in force   24  80 bytes: intervals then in force, see conformal.py
104  members sorted by key, 40 bytes each: <u8 key, <f8 spend so far, <u4 repeat purchases,
     <f4 predicted orders, revenue, probability of nothing, log median, log spread

Predictions are kept in single precision; outcomes are known to cents, and sums begin after that.
"""

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from valuetide.scoring.arrays import FloatArray
from valuetide.scoring.lifetime.conformal import Conformal
from valuetide.scoring.lifetime.grade import Outcomes
from valuetide.scoring.lifetime.parameters import Parameters
from valuetide.scoring.lifetime.predictive import Predictive
from valuetide.scoring.lifetime.purchases import Histories
from valuetide.scoring.lifetime.value import Facts, Terms, potential

LAYOUT: Final = 1
PREDICTED: Final = np.dtype(
    [
        ("key", "<u8"), ("spent", "<f8"), ("x", "<u4"), ("orders", "<f4"), ("revenue", "<f4"),
        ("none", "<f4"), ("log_median", "<f4"), ("log_sd", "<f4"),
    ]
)  # fmt: skip
_HEAD: Final = struct.Struct("<HHIqd")
_CONFORMAL: Final = len(Conformal().encode())
_MEMBERS_AT: Final = _HEAD.size + _CONFORMAL
# The largest single-precision number below 1: who buys for sure never does so with none at all.
_SURE: Final = np.nextafter(np.float32(1.0), np.float32(0.0))
# Currency units; less than the smallest unit of any currency.
_LEAST_AMOUNT: Final = 5e-4


@dataclass(frozen=True, slots=True)
class Cohort:
    """What was predicted for some customers at the end of a day.

    Attributes
    ----------
    day
        UTC day.
    factor
        The ratio corrector then in force; the predictions are without it.
    ends
        The intervals then in force.
    members
        Of ``PREDICTED``, sorted by key.
    """

    day: int
    factor: float
    ends: Conformal
    members: NDArray[np.void]

    @classmethod
    def predict(
        cls,
        parameters: Parameters,
        members: NDArray[np.void],
        day: int,
        horizon_days: int,
        ends: Conformal,
        factor: float,
    ) -> "Cohort":
        """Predict orders and spend of members of a sample until a horizon, not discounted."""
        x, first = members["x"].astype(np.int64), members["first_day"].astype(np.int64)
        t_x = (members["last_day"] - first) / 7.0
        seen = Histories(x, t_x, np.maximum((day - first) / 7.0, t_x))
        facts = Facts(seen, members["spent"], np.ones(x.size))
        found = potential(parameters, facts, Terms((horizon_days / 7.0,), 0.0), [])
        rows = np.zeros(x.size, PREDICTED)
        rows["key"], rows["x"], rows["spent"] = members["key"], x, spend_so_far(members)
        rows["orders"], rows["revenue"] = found.expected_orders[0], found.clv[0]
        predictive = found.predictive
        rows["none"] = np.minimum(predictive.none[0].astype(np.float32), _SURE)
        rows["log_median"], rows["log_sd"] = predictive.log_median[0], predictive.log_sd[0]
        return cls(day, factor, Conformal.decode(ends.encode()), rows)

    def mature(self, members: NDArray[np.void]) -> tuple[Predictive, Outcomes]:
        """Compare with what became of those who are still in the sample.

        Parameters
        ----------
        members
            Of the sample when the horizon is over, sorted by key.

        Returns
        -------
        Predictions and outcomes, in the order of the keys.

        Notes
        -----
        Who left the sample left it for the value of a hash, so those who remain are like all. An
        order from before the cohort that was cancelled since makes no negative outcome.
        """
        at = np.searchsorted(members["key"], self.members["key"])
        np.minimum(at, max(members.size - 1, 0), out=at)
        held = np.flatnonzero(members["key"][at] == self.members["key"]) if members.size else at[:0]
        then, now = np.take(self.members, held), np.take(members, at[held])
        predictive = Predictive(
            *(then[name].astype(np.float64) for name in ("none", "log_median", "log_sd"))
        )
        revenue = np.maximum(spend_so_far(now) - then["spent"], 0.0)
        # The sample adds amounts up in another order than the states do.
        revenue[revenue < _LEAST_AMOUNT] = 0.0
        low, high = self.ends.interval(predictive)
        return predictive, Outcomes(
            then["orders"].astype(np.float64),
            then["revenue"].astype(np.float64),
            np.maximum(now["x"].astype(np.float64) - then["x"], 0.0),
            revenue,
            (revenue >= low) & (revenue <= high),
            predictive.none < self.ends.level,
        )

    def encode(self) -> bytes:
        """Bytes from which ``decode`` makes the same."""
        head = _HEAD.pack(LAYOUT, 0, self.members.size, self.day, self.factor)
        return head + self.ends.encode() + self.members.tobytes()

    @classmethod
    def decode(cls, blob: bytes) -> "Cohort":
        """Cohort of which these are the bytes.

        Raises
        ------
        ValueError
            Of an unknown layout version or a wrong number of bytes.
        """
        if len(blob) < _MEMBERS_AT:
            raise ValueError(f"cohort: {len(blob)} bytes, a header has {_MEMBERS_AT}")
        layout, _, count, day, factor = _HEAD.unpack_from(blob)
        if layout != LAYOUT:
            raise ValueError(f"cohort: layout {layout}, this release reads {LAYOUT}")
        if len(blob) != _MEMBERS_AT + count * PREDICTED.itemsize:
            raise ValueError(f"cohort: {len(blob)} bytes do not fit {count} members")
        ends = Conformal.decode(blob[_HEAD.size : _MEMBERS_AT])
        return cls(day, factor, ends, np.frombuffer(blob, PREDICTED, count, _MEMBERS_AT))


def spend_so_far(members: NDArray[np.void]) -> FloatArray:
    """Spend of members of a sample until now, currency units, (n,)."""
    total: FloatArray = members["spent"] + members["first_spend"]
    return total
