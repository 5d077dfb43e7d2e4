"""Independent references for lifetime value: plain batch fits by scipy, formulas by mpmath.

Nothing here is shared with valuetide/scoring/lifetime: the formulas are written down again from the
papers, in their textbook form.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import betaln, gammaln, hyp2f1

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """Histories at a freeze: x, t_x, T in weeks, S spend on repeat days; one row per customer."""

    x: Floats
    t_x: Floats
    age: Floats
    spent: Floats

    def __post_init__(self) -> None:
        assert (self.t_x <= self.age).all()


@dataclass(frozen=True)
class Fit:
    """A batch fit: parameters in the order of the paper, log-likelihood without the prior."""

    parameters: Floats
    log_likelihood: float


def summarise(who: NDArray[Any], day: NDArray[Any], amount: Floats, until: int) -> Summary:
    """Histories of all customers with an order before day ``until``, as seen on the day before.

    Orders of one day are one. Sorted by who.
    """
    seen = day < until
    order = np.lexsort((day[seen], who[seen]))
    who, day, amount = who[seen][order], day[seen][order], amount[seen][order]
    people, start = np.unique(who, return_index=True)
    rank = np.searchsorted(people, who)
    first = day[start]
    last = np.zeros(people.size, day.dtype)
    np.maximum.at(last, rank, day)
    occasions = np.unique(np.stack([rank, day]), axis=1)[0]
    x = np.bincount(occasions, minlength=people.size) - 1.0
    spent = np.bincount(rank, amount * (day != first[rank]), people.size)
    return Summary(
        x.astype(np.float64),
        (last - first) / 7.0,
        (until - 1 - first) / 7.0,
        spent.astype(np.float64),
    )


def mbg_log_likelihood(parameters: Floats, of: Summary) -> Floats:
    r, alpha, a, b = parameters
    x, t_x, age = of.x, of.t_x, of.age
    common = gammaln(r + x) - gammaln(r) + r * np.log(alpha)
    one = betaln(a, b + x + 1) - betaln(a, b) - (r + x) * np.log(alpha + age)
    two = betaln(a + 1, b + x) - betaln(a, b) - (r + x) * np.log(alpha + t_x)
    total: Floats = common + np.logaddexp(one, two)
    # B(a, b+x+1) is the chance to stay x+1 times, B(a+1, b+x) to leave at the last of them.
    return total


def bg_log_likelihood(parameters: Floats, of: Summary) -> Floats:
    r, alpha, a, b = parameters
    x, t_x, age = of.x, of.t_x, of.age
    common = gammaln(r + x) - gammaln(r) + r * np.log(alpha)
    one = betaln(a, b + x) - betaln(a, b) - (r + x) * np.log(alpha + age)
    two = betaln(a + 1, b + np.maximum(x, 1) - 1) - betaln(a, b) - (r + x) * np.log(alpha + t_x)
    total: Floats = common + np.where(x > 0, np.logaddexp(one, two), one)
    return total


def pareto_log_likelihood(parameters: Floats, of: Summary) -> Floats:
    """Fader and Hardie (2005), A note on deriving the Pareto/NBD model, eq. 20 and 21."""
    r, alpha, s, beta = parameters
    x, t_x, age = of.x, of.t_x, of.age
    high, shape = (max(alpha, beta), s + 1) if alpha >= beta else (beta, r + x)
    gap, total = abs(alpha - beta), r + s + x

    def log_part(time: Floats) -> Floats:
        value = hyp2f1(total, shape, total + 1, gap / (high + time))
        part: Floats = np.log(value) - total * np.log(high + time)
        return part

    near, far = log_part(t_x), log_part(age)
    log_a0 = near + np.log(-np.expm1(np.minimum(far - near, -1e-300)))
    log_a0 = np.where(far >= near, -np.inf, log_a0)
    common = gammaln(r + x) - gammaln(r) + r * np.log(alpha) + s * np.log(beta)
    alive = -(r + x) * np.log(alpha + age) - s * np.log(beta + age)
    both: Floats = common + np.logaddexp(alive, np.log(s / total) + log_a0)
    return both


def gamma_gamma_log_likelihood(parameters: Floats, of: Summary) -> Floats:
    """Per customer with repeat spend, in the order of ``of`` without the others."""
    p, q, gamma = parameters
    paid = (of.x > 0) & (of.spent > 0)
    x, spent = of.x[paid], of.spent[paid]
    one = gammaln(p * x + q) - gammaln(p * x) - gammaln(q) + q * np.log(gamma)
    two: Floats = (p * x - 1) * np.log(spent / x) + p * x * np.log(x)
    total: Floats = one + two - (p * x + q) * np.log(gamma + spent)
    return total


def fit(
    log_likelihood: Callable[[Floats, Summary], Floats],
    of: Summary,
    start: Floats,
    prior: tuple[Floats, Floats] | None = None,
    refine: bool = False,
) -> Fit:
    """Maximum likelihood, or with (mean, sd) of the logarithms the maximum of the posterior.

    Customers with equal histories are evaluated once. ``refine`` is for a start close by.
    """
    stacked = np.stack([of.x, of.t_x, of.age, of.spent], axis=1)
    if log_likelihood is not gamma_gamma_log_likelihood:
        stacked[:, 3] = 0
    rows, counts = np.unique(stacked, axis=0, return_counts=True)
    distinct = Summary(*rows.T)
    if log_likelihood is gamma_gamma_log_likelihood:
        counts = counts[(distinct.x > 0) & (distinct.spent > 0)]

    def loss(logs: Floats) -> float:
        value = -float(counts @ log_likelihood(np.exp(logs), distinct))
        if prior is not None:
            value += float((((logs - prior[0]) / prior[1]) ** 2).sum() / 2)
        return value / counts.sum() if np.isfinite(value) else 1e10

    best = np.log(start)
    for _ in range(0 if refine else 3):
        best = minimize(loss, best, method="Nelder-Mead", options={
            "xatol": 1e-6, "fatol": 1e-10, "maxiter": 4000, "maxfev": 4000}).x  # fmt: skip
    best = minimize(loss, best, method="BFGS").x
    parameters = np.exp(best)
    return Fit(parameters, float(counts @ log_likelihood(parameters, distinct)))


def mbg_expected_orders(parameters: Floats, of: Summary, weeks: float) -> Floats:
    """Textbook form, by Euler's transform; scipy's hypergeometric function."""
    r, alpha, a, b = parameters
    if abs(a - 1) < 1e-6:
        a = 1 + 1e-6
    x, t_x, age = of.x, of.t_x, of.age
    z = weeks / (alpha + age + weeks)
    inner = (1 - z) ** (a - 1) * hyp2f1(a + b - r, a - 1, a + b + x, z)
    odds = np.exp((r + x) * np.log((alpha + age) / (alpha + t_x))) * a / (b + x)
    expected: Floats = (a + b + x) / (a - 1) * (1 - inner) / (1 + odds)
    return expected


def pareto_expected_orders(parameters: Floats, of: Summary, weeks: float) -> Floats:
    r, alpha, s, beta = parameters
    x, age = of.x, of.age
    common = gammaln(r + x) - gammaln(r) + r * np.log(alpha) + s * np.log(beta)
    alive = common - (r + x) * np.log(alpha + age) - s * np.log(beta + age)
    p_alive = np.exp(alive - pareto_log_likelihood(parameters, of))
    rate = (r + x) * (beta + age) / ((alpha + age) * (s - 1))
    expected: Floats = rate * (1 - ((beta + age) / (beta + age + weeks)) ** (s - 1)) * p_alive
    return expected


def mbg_expected_orders_exactly(
    parameters: tuple[float, float, float, float], x: int, age: float, weeks: float
) -> mpmath.mpf:
    """Expected orders of a customer who is alive, with 60 digits."""
    with mpmath.workdps(60):
        r, alpha, a, b = (mpmath.mpf(value) for value in parameters)
        if a == 1:
            a += mpmath.mpf(10) ** -25
        z = mpmath.mpf(weeks) / (alpha + age + weeks)
        inner = (1 - z) ** (a - 1) * mpmath.hyp2f1(a + b - r, a - 1, a + b + x, z)
        return (a + b + x) / (a - 1) * (1 - inner)
