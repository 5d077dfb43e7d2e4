"""A fixed rule for averages over the chance to leave, which is beta distributed.

With p = 1 / (1 + exp(-u)) the average of h(p) over Beta(a, B) is an integral over the whole line of
h p^a (1-p)^B, smooth and falling off on both sides, for which the trapezoid rule converges
exponentially (Trefethen and Weideman 2014, The exponentially convergent trapezoidal rule). The same
nodes serve every B = b + x + 1, since nodes in u are dense on every scale of p.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from scipy.special import betaln

from valuetide.scoring.arrays import FloatArray, IntArray, true_at

# exp(-_TAIL) of the mass may be cut off on each side.
_TAIL: Final = 15.0
# Step in u; the density of u is never narrower than about 1 / sqrt(a) + 1 / sqrt(B).
_STEP: Final = 0.65
# So far below p = 1 / orders expected of those who stay, h is constant and only p^a still falls,
# slowly for a small a: there nodes spread out doubly exponentially, in u.
_FLAT: Final = 3.0
# Rules are made for x up to one less than a power of two, this one at least; weights of x below
# the second number are kept with them, some 20 kB.
_LEAST_X: Final = 16
_COMMON: Final = 64
# Where p is below this share of 1 / orders, what pairs of orders are made of cancels down to the
# rounding of doubles, while their number no longer depends on p.
_CANCELS: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Rule:
    """Nodes p, (j,), and what the weights are made of; not to be changed, it is kept for others.

    ``table`` are the weights of x = 0, 1, .. up to what is common, ``small`` the first nodes, on
    which pairs of orders are not to be evaluated, (k,), in units of the next one.
    """

    p: FloatArray
    minus_inverse_p: FloatArray
    pairs_factor: FloatArray
    log_p_part: FloatArray
    log_q: FloatArray
    a: float
    b: float
    table: FloatArray
    small: FloatArray

    def weights(self, x: IntArray) -> FloatArray:
        """Weights of the nodes for customers with x repeat purchases, (n, j); rows sum to 1."""
        return _weights(self.log_p_part, self.log_q, self.a, self.b, x)

    def rows(self, x: IntArray) -> tuple[FloatArray, IntArray]:
        """Weights that all of some customers need, (m, j), and which of the rows is whose, (n,)."""
        rare = true_at(x >= len(self.table))
        if not rare.size:
            return self.table, x
        rows = x.copy()
        distinct, which = np.unique(x[rare], return_inverse=True)
        rows[rare] = len(self.table) + which
        return np.concatenate([self.table, self.weights(distinct)]), rows


def _weights(
    log_p_part: FloatArray, log_q: FloatArray, a: float, b: float, x: IntArray
) -> FloatArray:
    stay = b + 1.0 + x
    weights: FloatArray = np.exp(log_p_part + stay[:, None] * log_q - betaln(a, stay)[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def chances_to_leave(a: float, b: float, highest_x: int, most_orders: float) -> Rule:
    """Rule for averages over Beta(a, b+x+1), x from 0 to the highest.

    Parameters
    ----------
    most_orders
        Expected of a customer who stays: what is averaged is constant for p far below its inverse.

    Notes
    -----
    Both bounds are raised to the next of a few, so that most batches of customers have the same
    nodes: the last digits of what is expected of one do not move with who else is asked for, and
    a rule is made once for a set of parameters.

    Examples
    --------
    >>> rule = chances_to_leave(0.8, 2.5, 10, 20.0)
    >>> mean = rule.weights(np.array([0, 10])) @ rule.p
    >>> np.allclose(mean, [0.8 / 4.3, 0.8 / 14.3], rtol=1e-6)
    True
    """
    highest = max(_LEAST_X, 1 << int(highest_x).bit_length()) - 1
    return _rule(a, b, highest, math.ceil(math.log(max(most_orders, 1.0)) / 2.0))


@lru_cache(maxsize=16)
def _rule(a: float, b: float, highest_x: int, log_orders: int) -> Rule:
    """Rule for so many orders at most: the logarithm of their number, halved."""
    # Bulk of the narrowest density: its variance is psi'(a) + psi'(B), at least 1/a + 1/B.
    width = np.sqrt(1.0 / a + 1.0 / (b + 1.0 + highest_x))
    step = min(_STEP, 0.8 * float(width))
    least, most = b + 1.0, b + 1.0 + highest_x
    top = np.log(a / least) + _reach(least, width)
    bottom = np.log(a / most) - _reach(a, width)
    flat = -_FLAT - 2.0 * log_orders
    if bottom < flat:
        # u = s - (exp(flat - s) - 1): from which s on does it cover the tail?
        bottom = flat - np.log1p(flat - bottom)
    s = np.arange(bottom, top + step, step)
    stretch = np.exp(flat - s)
    u = s - stretch
    log_p, log_q = -np.logaddexp(0.0, -u), -np.logaddexp(0.0, u)
    p = np.maximum(np.exp(log_p), 1e-300)
    log_p_part = a * log_p + np.log1p(stretch)
    first = int(p.searchsorted(_CANCELS * math.exp(-2.0 * log_orders)))
    rule = Rule(
        p=p,
        minus_inverse_p=-1.0 / p,
        pairs_factor=2.0 * np.exp(log_q) / p,
        log_p_part=log_p_part,
        log_q=log_q,
        a=a,
        b=b,
        table=_weights(log_p_part, log_q, a, b, np.arange(min(highest_x + 1, _COMMON))),
        small=p[:first] / p[first],
    )
    for array in (rule.p, rule.minus_inverse_p, rule.pairs_factor, log_p_part, log_q, rule.table):
        array.setflags(write=False)
    return rule


def _reach(shape: float, width: float) -> float:
    """How far from the middle the density of u has to be followed on the side of a shape.

    It falls like exp(-shape |u|) far out and like a normal density near by.
    """
    return float(_TAIL / shape + min(_TAIL, 5.0 * width))
