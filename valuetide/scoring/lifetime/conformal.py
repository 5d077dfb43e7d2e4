"""Ends of intervals that hold as often as they promise, learned from outcomes.

    bytes, little endian
     0  <u2 layout version, 1    2  <u2 0    4  <u4 0    8  <f8 level
    16  <u8 outcomes            24  <u8 of them inside the interval in force at their turn
    32  4 <f8 shifts of the upper end, at the knots of P(nothing)
    64  2 <f8 shifts of the lower end, at its knots

The model's interval has a lower and an upper end, each with a nominal chance to be missed. Each is
moved, in units of the predicted logarithmic spread, at each matured outcome: outwards when the
outcome was beyond it, inwards when not, in proportions at which it is missed as often as it says.
That share then converges whatever the outcomes are, also when they drift. A shift is a
piecewise linear function of the predicted probability of nothing, so that rare and frequent buyers
are right each for themselves.

Three things depart from the paper. Ends are moved, not the level: where the model is far off no
level is high enough. Of each outcome it counts whether the ends in force now would have held it,
not those issued back then: with horizons of months a controller on old errors swings. And who is
predicted to buy nothing with more than the level has the interval from nothing to nothing; it holds
too often by its nature, and takes no part, or all others would be made to hold too rarely.

References
----------
Gibbs and Candes (2021), Adaptive conformal inference under distribution shift, eq. 2.
Gibbs, Cherian, Candes (2023), Conformal prediction with conditional guarantees, for the function.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from scipy.special import ndtri

from valuetide.scoring.arrays import BoolArray, FloatArray, IntArray, true_at
from valuetide.scoring.lifetime.predictive import Predictive

LAYOUT: Final = 1
_BYTES: Final = struct.Struct("<HHIdQQ6d")
# Probabilities of nothing at which the shifts are kept, as shares of the level and of the tail.
_UPPER_KNOTS: Final = (0.0, 0.2, 0.55, 1.0)
_LOWER_KNOTS: Final = (0.0, 1.0)
# How far one miss moves an end: 0.3 spreads at first, falling as 1/n, never below 0.05, with which
# the ends wander by .1 spreads when nothing changes and follow a change within 100 outcomes.
_FIRST_STEP: Final = 0.3
_STEP_HALVES_AT: Final = 200.0
_LEAST_STEP: Final = 0.05
# No end is moved further, in spreads.
_FARTHEST: Final = 8.0


class Conformal:
    """Shifts of the ends of the intervals of one horizon.

    Parameters
    ----------
    level
        Share of outcomes that an interval should hold.

    Attributes
    ----------
    outcomes, inside
        Matured outcomes learned from, and how many of them the ends in force at their turn held.
    upper, lower
        Shifts at the knots, in spreads, outwards.
    upper_knots, lower_knots
        Probabilities of nothing at which they are kept.

    Examples
    --------
    >>> conformal = Conformal(0.8)
    >>> buyers = Predictive(np.full(300, 0.2), np.zeros(300), np.ones(300))
    >>> conformal.update(buyers, np.full(300, 20.0))
    >>> bool(conformal.interval(buyers)[1][0] > 15.0)
    True
    """

    def __init__(self, level: float = 0.8) -> None:
        self.level = level
        self.outcomes = self.inside = 0
        self.upper: FloatArray = np.zeros(len(_UPPER_KNOTS))
        self.lower: FloatArray = np.zeros(len(_LOWER_KNOTS))
        self.upper_knots: FloatArray = level * np.array(_UPPER_KNOTS)
        self.lower_knots: FloatArray = (1.0 - level) / 2.0 * np.array(_LOWER_KNOTS)

    def interval(self, predicted: Predictive) -> tuple[FloatArray, FloatArray]:
        """Lower and upper ends, currency units, (n,)."""
        one = Predictive(predicted.none[None], predicted.log_median[None], predicted.log_sd[None])
        low, high = intervals([self], one)
        return low[0], high[0]

    def update(self, predicted: Predictive, outcome: FloatArray) -> None:
        """Learn from matured outcomes, in their order; cutting them differently changes nothing.

        Parameters
        ----------
        predicted
            What was predicted, (n,).
        outcome
            What the customers turned out to be worth, (n,); 0 or less is nothing.
        """
        shut, open_below, low, high, miss = _model_ends(self.level, predicted)
        paid = outcome > 0.0
        spreads = (np.log(np.where(paid, outcome, 1.0)) - predicted.log_median) / predicted.log_sd
        spreads = np.where(paid, spreads, -np.inf)
        up_at, up_weight = _hat(predicted.none, self.upper_knots)
        low_at, low_weight = _hat(predicted.none, self.lower_knots)
        tail = (1.0 - self.level) / 2.0
        # Who is predicted to buy nothing takes its turn, but moves nothing.
        moving = true_at(~shut)
        rows = zip(
            moving.tolist(), *(
                column[moving].tolist()
                for column in (
                    open_below, spreads, low, high, miss, up_at, up_weight, low_at, low_weight
                )
            ), strict=True,
        )  # fmt: skip
        upper, lower = self.upper.tolist(), self.lower.tolist()
        inside, before = int((shut & ~paid).sum()), self.outcomes + 1
        for nth, from_zero, at, bottom, top, chance, u, uw, k, kw in rows:
            step = _FIRST_STEP / (1.0 + (before + nth) / _STEP_HALVES_AT)
            step = step if step > _LEAST_STEP else _LEAST_STEP
            above = at > top + upper[u] * (1.0 - uw) + upper[u + 1] * uw
            below = False
            _shift(upper, u, uw, step * (above - chance))
            if not from_zero:
                below = at < bottom - lower[k] * (1.0 - kw) - lower[k + 1] * kw
                _shift(lower, k, kw, step * (below - tail))
            inside += not (above or below)
        self.upper, self.lower = np.array(upper), np.array(lower)
        self.outcomes += shut.size
        self.inside += inside

    def encode(self) -> bytes:
        """Bytes from which ``decode`` makes the same."""
        return _BYTES.pack(
            LAYOUT, 0, 0, self.level, self.outcomes, self.inside, *self.upper, *self.lower
        )

    @classmethod
    def decode(cls, blob: bytes) -> "Conformal":
        """State of which these are the bytes.

        Raises
        ------
        ValueError
            Of an unknown layout version or a wrong number of bytes.
        """
        if len(blob) != _BYTES.size:
            raise ValueError(f"conformal: {len(blob)} bytes instead of {_BYTES.size}")
        layout, _, _, level, outcomes, inside, *shifts = _BYTES.unpack(blob)
        if layout != LAYOUT:
            raise ValueError(f"conformal: layout {layout}, this release reads {LAYOUT}")
        state = cls(level)
        state.outcomes, state.inside = outcomes, inside
        state.upper, state.lower = np.array(shifts[:4]), np.array(shifts[4:])
        return state


def intervals(
    horizons: Sequence[Conformal], predicted: Predictive
) -> tuple[FloatArray, FloatArray]:
    """Lower and upper ends, currency units, (h, n), of predictions for some horizons, (h, n)."""
    levels = np.array([[one.level] for one in horizons])
    shut, open_below, low, high, _ = _model_ends(levels, predicted)
    for nth, one in enumerate(horizons):
        low[nth] -= np.interp(predicted.none[nth], one.lower_knots, one.lower)
        high[nth] += np.interp(predicted.none[nth], one.upper_knots, one.upper)
    # Ends may be moved inwards, but not past each other.
    high = np.where(open_below, high, np.maximum(low, high))
    bottom, top = (np.exp(predicted.log_median + predicted.log_sd * end) for end in (low, high))
    bottom[open_below] = 0.0
    top[shut] = 0.0
    return bottom, top


def _model_ends(
    level: float | FloatArray, predicted: Predictive
) -> tuple[BoolArray, BoolArray, FloatArray, FloatArray, FloatArray]:
    """The model's own interval, ends in spreads around the median of those who buy.

    Returns
    -------
    Whether it is [0, 0], whether it begins at 0, its ends, and the chance to lie above it.
    """
    none, some = predicted.none, 1.0 - predicted.none
    tail = (1.0 - level) / 2.0
    # The middle while the tail below is more than nothing; from nothing upwards otherwise, with
    # a top that goes from one rule to the other without a jump.
    top = np.minimum(1.0 - tail, np.maximum(level, 1.0 - none))
    shut, open_below = none >= level, none >= tail
    low = ndtri(np.where(open_below, 0.5, (tail - none) / some))
    high = ndtri(np.where(shut, 0.5, (top - none) / some))
    return shut, open_below, low, high, 1.0 - top


def pooled_conformal(shards: Iterable[Conformal]) -> Conformal:
    """Ends of all shards together, each weighing by its outcomes; those of the model without any.

    Examples
    --------
    >>> one, two = Conformal(), Conformal()
    >>> one.outcomes, two.outcomes = 100, 300
    >>> one.upper[:], two.upper[:] = 1.0, 2.0
    >>> pooled_conformal([one, two]).upper.tolist()
    [1.75, 1.75, 1.75, 1.75]
    """
    known = [shard for shard in shards if shard.outcomes]
    if not known:
        return Conformal()
    whole = Conformal(known[0].level)
    whole.outcomes = sum(shard.outcomes for shard in known)
    whole.inside = sum(shard.inside for shard in known)
    weights = [shard.outcomes for shard in known]
    whole.upper = np.average([shard.upper for shard in known], axis=0, weights=weights)
    whole.lower = np.average([shard.lower for shard in known], axis=0, weights=weights)
    return whole


def _hat(at: FloatArray, knots: FloatArray) -> tuple[IntArray, FloatArray]:
    """Position of the knot to the left, and the weight of the one to the right."""
    # The knots between the outer ones part the intervals between knots.
    left = knots[1:-1].searchsorted(at, side="right")
    weight = (at - knots[left]) / np.diff(knots)[left]
    return left, np.minimum(np.maximum(weight, 0.0), 1.0)


def _shift(shifts: list[float], left: int, weight: float, by: float) -> None:
    """Move both knots around a place, each by its weight there."""
    # Written out, for it is done for each outcome.
    low = shifts[left] + by * (1.0 - weight)
    high = shifts[left + 1] + by * weight
    shifts[left] = low if -_FARTHEST < low < _FARTHEST else math.copysign(_FARTHEST, low)
    shifts[left + 1] = high if -_FARTHEST < high < _FARTHEST else math.copysign(_FARTHEST, high)
