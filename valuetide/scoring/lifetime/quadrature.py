"""A fixed rule for averages over the chance to leave, which is beta distributed.

With p = 1 / (1 + exp(-u)) the average of h(p) over Beta(a, B) is an integral over the whole line of
h p^a (1-p)^B, smooth and falling off on both sides, for which the trapezoid rule converges
exponentially (Trefethen and Weideman 2014, The exponentially convergent trapezoidal rule). The same
nodes serve every B = b + x + 1, since nodes in u are dense on every scale of p.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import betaln

from valuetide.scoring.arrays import FloatArray, IntArray

# exp(-_TAIL) of the mass may be cut off on each side.
_TAIL: Final = 15.0
# Step in u; the density of u is never narrower than about 1 / sqrt(a) + 1 / sqrt(B).
_STEP: Final = 0.65
# So far below p = 1 / orders expected of those who stay, h is constant and only p^a still falls,
# slowly for a small a: there nodes spread out doubly exponentially, in u.
_FLAT: Final = 3.0


@dataclass(frozen=True, slots=True)
class Rule:
    """Nodes p, (j,), and what the weights are made of."""

    p: FloatArray
    minus_inverse_p: FloatArray
    pairs_factor: FloatArray
    log_p_part: FloatArray
    log_q: FloatArray
    a: float
    b: float

    def weights(self, x: IntArray) -> FloatArray:
        """Weights of the nodes for customers with x repeat purchases, (n, j); rows sum to 1."""
        highest = int(x.max(initial=0))
        if highest < x.size:
            table = self._weights(np.arange(highest + 1))
            picked: FloatArray = np.take(table, x, axis=0)
            return picked
        return self._weights(x)

    def _weights(self, x: IntArray) -> FloatArray:
        stay = self.b + 1.0 + x
        log_weights = self.log_p_part + stay[:, None] * self.log_q
        weights: FloatArray = np.exp(log_weights - betaln(self.a, stay)[:, None])
        weights /= weights.sum(axis=1, keepdims=True)
        return weights


def chances_to_leave(a: float, b: float, highest_x: int, most_orders: float) -> Rule:
    """Rule for averages over Beta(a, b+x+1), x from 0 to the highest.

    Parameters
    ----------
    most_orders
        Expected of a customer who stays: what is averaged is constant for p far below its inverse.

    Examples
    --------
    >>> rule = chances_to_leave(0.8, 2.5, 10, 20.0)
    >>> mean = rule.weights(np.array([0, 10])) @ rule.p
    >>> np.allclose(mean, [0.8 / 4.3, 0.8 / 14.3], rtol=1e-6)
    True
    """
    # Bulk of the narrowest density: its variance is psi'(a) + psi'(B), at least 1/a + 1/B.
    width = np.sqrt(1.0 / a + 1.0 / (b + 1.0 + highest_x))
    step = min(_STEP, 0.8 * float(width))
    least, most = b + 1.0, b + 1.0 + highest_x
    top = np.log(a / least) + _reach(least, width)
    bottom = np.log(a / most) - _reach(a, width)
    # In whole steps, so that most batches of customers have the same nodes, and the last digits of
    # what is expected of one do not move with who else is asked for.
    flat = -_FLAT - 2.0 * float(np.ceil(np.log(max(most_orders, 1.0)) / 2.0))
    if bottom < flat:
        # u = s - (exp(flat - s) - 1): from which s on does it cover the tail?
        bottom = flat - np.log1p(flat - bottom)
    s = np.arange(bottom, top + step, step)
    stretch = np.exp(flat - s)
    u = s - stretch
    log_p, log_q = -np.logaddexp(0.0, -u), -np.logaddexp(0.0, u)
    p = np.maximum(np.exp(log_p), 1e-300)
    return Rule(
        p=p,
        minus_inverse_p=-1.0 / p,
        pairs_factor=2.0 * np.exp(log_q) / p,
        log_p_part=a * log_p + np.log1p(stretch),
        log_q=log_q,
        a=a,
        b=b,
    )


def _reach(shape: float, width: float) -> float:
    """How far from the middle the density of u has to be followed on the side of a shape.

    It falls like exp(-shape |u|) far out and like a normal density near by.
    """
    return float(_TAIL / shape + min(_TAIL, 5.0 * width))
