"""Forward decay: a sum of halving amounts that never has to be touched as time passes.

An order at time t weighs 2^((t - L) / h) with a fixed landmark L, a number that grows with t and
does not depend on now. The sum S of amount times weight is worth S 2^(-(now - L) / h) at now. So
orders can arrive in any order, and a silent customer costs nothing.

References
----------
Cormode, Shkapenyuk, Srivastava, Xu (2009), Forward decay: a practical time decay model for
streaming systems, section 3.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from valuetide.scoring.arrays import DAY_MS, FloatArray, IntArray

# 2020-01-01 00:00 UTC, in ms. It is part of the persisted sums: never change it.
LANDMARK_MS: Final = 1_577_836_800_000
# Weights are held within 2^-480 and 2^480: times an amount below 2^63, and times another such
# weight when it is read, they stay finite. With the shortest half-life of 30 days that
# is 39 years on either side of the landmark.
MAX_HALVINGS: Final = 480.0
MIN_HALF_LIFE_DAYS: Final = 30.0


def half_life_in_ms(half_life_days: float) -> float:
    """Half-life in ms, of a number of days.

    Raises
    ------
    ValueError
        Below 30 days, where weights would leave the range of a double within a lifetime.
    """
    if not MIN_HALF_LIFE_DAYS <= half_life_days < np.inf:
        raise ValueError(f"half_life_days: {half_life_days} is not {MIN_HALF_LIFE_DAYS} or more")
    return half_life_days * DAY_MS


def forward_weight(at: IntArray, half_life_ms: float) -> FloatArray:
    """Weight of something that happened at a time, relative to the landmark.

    Parameters
    ----------
    at
        Event times, ms since 1970, any shape.
    half_life_ms
        After this long a thing is worth half.

    Examples
    --------
    >>> forward_weight(np.array([LANDMARK_MS, LANDMARK_MS + 180 * DAY_MS]), 90.0 * DAY_MS).tolist()
    [1.0, 4.0]
    """
    halvings: NDArray[np.float64] = (at - LANDMARK_MS) / half_life_ms
    np.minimum(np.maximum(halvings, -MAX_HALVINGS, out=halvings), MAX_HALVINGS, out=halvings)
    weights: FloatArray = np.exp2(halvings)
    return weights


def backward_weight(now_ms: int, half_life_ms: float) -> float:
    """What a forward weighted sum is multiplied with to be read at ``now_ms``."""
    halvings = (LANDMARK_MS - now_ms) / half_life_ms
    return float(2.0 ** min(max(halvings, -MAX_HALVINGS), MAX_HALVINGS))
