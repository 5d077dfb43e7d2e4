"""What signals say about whether customers are still there.

In MBG/NBD whoever left did so at the last order. Days with a signal of one kind came at a
customer's own rate L, gamma distributed over customers, in the time lived through between their
first and last order. Since then they come at h L if the customer is there and at c h L if not. c
may differ between the four weeks after the order, when parcels arrive and complaints are made, and
later. h is below 1 where signals announce orders: time lived through ended with an order each time,
and the time since has not yet. With m such days in the E weeks lived through, n_p days and e_p
weeks of each of the two periods p since then, L integrated out, the log odds of having left gain

    sum_p n_p ln c_p + (s + m + n) ln[(b + E + h sum_p e_p) / (b + E + h sum_p c_p e_p)]

s and b being shape and rate of the gamma distribution, n = sum_p n_p: the ratio of two negative
binomial probabilities (multinomial ones, of two periods). So the silence of a frequent visitor says
much and that of a rare one little, whatever the direction: c < 1 makes a signal one of life, c > 1
one of having left. With c = 1 nothing is gained, exactly. Kinds of signals add up, taken to be
independent given whether the customer is there.

Being gone or not is all that signals are taken to tell: the rate of orders of who is there is
estimated from orders alone, so expected orders given survival stay as they are, and what is
expected changes in proportion to P(alive).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from valuetide.scoring.arrays import FloatArray, IntArray
from valuetide.scoring.signals import EARLY_DAYS, KINDS

PERIODS: Final = 2
INTERACTIONS: Final = slice(0, 2)
FEEDBACK: Final = slice(2, 4)
"""Which kinds of signals come from which topic."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Signals of some customers.

    Attributes
    ----------
    since
        Days with a signal since the newest order, by kind and period, (k, 2, n).
    weeks
        Length of the two periods so far, (2, n).
    before
        Days with a signal between the first and the newest order, (k, n).
    lived
        Weeks between those two, (n,).
    """

    since: FloatArray
    weeks: FloatArray
    before: FloatArray
    lived: FloatArray

    @classmethod
    def of(
        cls, signals: NDArray[np.void], first_day: IntArray, now_day: FloatArray | float
    ) -> "Counts":
        """Counts at a moment.

        Parameters
        ----------
        signals
            (n,) of ``signals.SIGNALS``. Who has no order there has no weeks, and no odds.
        first_day, now_day
            Of the first order and now, (n,) or scalar, days since 1970-01-01, which is 0.
        """
        ordered = signals["since"] > 0
        newest = signals["since"].astype(np.float64) - 1.0
        silent = np.where(ordered, np.maximum(now_day - newest, 0.0), 0.0)
        early = np.minimum(silent, EARLY_DAYS)
        since = np.stack([signals["early"].T, signals["late"].T], axis=1)
        return cls(
            since.astype(np.float64),
            np.stack([early, silent - early]) / 7.0,
            signals["before"].T.astype(np.float64),
            np.where(ordered, np.maximum(newest - first_day, 0.0), 0.0) / 7.0,
        )


@dataclass(frozen=True, slots=True)
class Rates:
    """How often signals come.

    Attributes
    ----------
    shape, rate
        Of customers' own rates of each kind while they are there, (k,); rate in weeks.
    log_ratio
        Logarithm of c, by kind and period, (k, 2). 0: the kind tells nothing.
    log_level
        Logarithm of h, by kind, (k,).
    """

    shape: FloatArray
    rate: FloatArray
    log_ratio: FloatArray
    log_level: FloatArray

    @property
    def silent(self) -> bool:
        """Whether no signal tells anything."""
        return not self.log_ratio.any()


_ONES: Final = np.ones(len(KINDS))
NOTHING: Final = Rates(_ONES, _ONES, np.zeros((len(KINDS), PERIODS)), np.zeros(len(KINDS)))


def log_odds_gained(rates: Rates, counts: Counts) -> FloatArray:
    """What each kind of signal adds to the log odds of having left, (k, n).

    Examples
    --------
    Two weeks without a visit, of someone who used to come weekly and would come never again:

    >>> silence = Counts(np.zeros((1, 2, 1)), np.array([[2.0], [0.0]]), np.ones((1, 1)), np.ones(1))
    >>> never = Rates(np.ones(1), np.ones(1), np.full((1, 2), -50.0), np.zeros(1))
    >>> log_odds_gained(never, silence).round(4).tolist()  # 2 ln(4 / 2)
    [[1.3863]]
    """
    said, total, base, gone = _parts(rates, counts)
    gained: FloatArray = said - total * np.log1p(gone / base)
    return gained


def gained_and_slope(rates: Rates, counts: Counts) -> tuple[FloatArray, FloatArray]:
    """The gain of all kinds together, (n,), and its derivatives, (3 k, n).

    These are by the log ratios of both periods and by the log level, kind by kind.
    """
    said, total, base, gone = _parts(rates, counts)
    gained = (said - total * np.log1p(gone / base)).sum(axis=0)
    times = np.exp(rates.log_ratio + rates.log_level[:, None])
    # What is expected, given the rate of each, of those who left, and of those who did not.
    share = total / (base + gone)
    by_ratio = counts.since - share[:, None] * times[:, :, None] * counts.weeks
    there = np.exp(rates.log_level)[:, None] * counts.weeks.sum(axis=0)
    by_level = total * there / base - share * (there + gone)
    slope = np.concatenate([by_ratio, by_level[:, None]], axis=1)
    return gained, slope.reshape(-1, gained.size)


def _parts(rates: Rates, counts: Counts) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Of the formula sum n ln c, s + m + n, b + E + h sum e, and h sum (c - 1) e, each (k, n)."""
    said = np.einsum("kp,kpn->kn", rates.log_ratio, counts.since)
    total = rates.shape[:, None] + counts.before + counts.since.sum(axis=1)
    level = np.exp(rates.log_level)[:, None]
    base = rates.rate[:, None] + counts.lived + level * counts.weeks.sum(axis=0)
    # c - 1 rather than c: what is 0 for c = 1 is then 0 exactly.
    return said, total, base, level * (np.expm1(rates.log_ratio) @ counts.weeks)
