"""Gamma-Gamma: how much customers spend an order.

The spend of a customer's orders is gamma distributed with shape p and a rate of their own, which is
gamma distributed over customers with shape q and rate gamma. Of a customer it is enough to know x,
the number of repeat purchases, and S, what was spent on them. Those with S = 0 (zero-dollar orders)
tell nothing to the learner: their likelihood is zero under any parameters.
"""

import numpy as np
from scipy.special import gammaln, psi, zeta

from valuetide.scoring.arrays import FloatArray, IntArray
from valuetide.scoring.lifetime.parameters import Spend


def log_likelihood(model: Spend, x: IntArray, spent: FloatArray) -> FloatArray:
    """Log-likelihood of each customer's mean spend, (n,); x and spent are above 0.

    References
    ----------
    Fader, Hardie (2013), eq. 1a.
    """
    p, q, gamma = model.p, model.q, model.gamma
    px = p * x
    total: FloatArray = gammaln(px + q) - gammaln(px) - gammaln(q) + np.log(x)
    total += q * np.log(gamma) + (px - 1.0) * np.log(spent) - (px + q) * np.log(gamma + spent)
    return total


def slope_and_curvature(
    model: Spend, x: IntArray, spent: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """First and second derivatives of the log-likelihood by ln(p, q, gamma).

    Parameters
    ----------
    x, spent
        Repeat purchases and spend on them, (n,), above 0.

    Returns
    -------
    The gradient of each customer, (3, n), and the sum of the second derivatives, (3, 3).
    """
    p, q, gamma = model.p, model.q, model.gamma
    times = np.bincount(x)
    distinct = np.flatnonzero(times)
    customers = times[distinct]
    times[distinct] = np.arange(distinct.size)
    with_q, alone = p * distinct + q, p * distinct
    psi_with_q = psi(with_q)
    terms = np.stack([alone * (psi_with_q - psi(alone)), alone, q * (psi_with_q - psi(q)), with_q])
    by_x = np.take(terms, times[x], axis=1)
    total = gamma + spent
    share = gamma / total
    slope = np.empty((3, x.size))
    slope[0] = by_x[0] + by_x[1] * np.log(spent / total)
    slope[1] = by_x[2] + q * np.log(share)
    shape_share = by_x[3] * share
    slope[2] = q - shape_share

    # Of functions of x alone customers with the same x are added up at once.
    twice_with_q = zeta(2.0, with_q)
    weighted = twice_with_q * customers
    curve = np.empty((3, 3))
    curve[0, 0] = ((weighted - zeta(2.0, alone) * customers) * alone * alone).sum()
    curve[0, 1] = curve[1, 0] = q * float(weighted @ alone)
    curve[1, 1] = q * q * float(weighted.sum() - x.size * zeta(2.0, q))
    curve[0, 2] = curve[2, 0] = -float(by_x[1] @ share)
    curve[1, 2] = curve[2, 1] = q * float(x.size - share.sum())
    curve[2, 2] = float(shape_share @ share) - q * x.size
    curve.ravel()[::4] += slope.sum(axis=1)
    return slope, curve


def expected_order_value(model: Spend, x: IntArray, spent: FloatArray) -> FloatArray:
    """Expected spend of a customer's next order, (n,), currency units.

    References
    ----------
    Fader, Hardie (2013), eq. 5.

    Examples
    --------
    >>> model = Spend(6.0, 4.0, 15.0)
    >>> expected_order_value(model, np.array([0, 1]), np.array([0.0, 30.0])).tolist()
    [30.0, 30.0]
    """
    return model.p * (model.gamma + spent) / (model.p * x + model.q - 1.0)


def relative_second_moments(model: Spend, x: IntArray) -> tuple[FloatArray, FloatArray]:
    """E[z^2] and E[z z'] of one and of two orders, in units of the expected order value squared.

    Notes
    -----
    Both have a pole at p x + q = 2, below which they are infinite. The pole is kept half a unit
    away, so a very heavy tail is understated; the conformal correction of the intervals sees it.
    """
    after = model.p * x + model.q - 1.0
    two = after / np.maximum(after - 1.0, 0.5)
    return two * (1.0 + 1.0 / model.p), two
