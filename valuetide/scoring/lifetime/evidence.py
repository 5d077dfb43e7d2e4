"""What signals say about whether customers are still there.

In MBG/NBD whoever left did so at the last order. Days with a signal of one kind then come at a
customer's own rate L, gamma distributed over customers, while they are there, and at c L once they
are gone; c may differ between the four weeks after the order, when parcels arrive and complaints
are made, and later. With m such days in the E weeks lived through between first and last order, n_p
days since then and e_p weeks of each of the two periods p, L integrated out, the log odds of having
left gain

    sum_p n_p ln c_p + (s + m + n) ln[(b + E + sum_p e_p) / (b + E + sum_p c_p e_p)]

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
    """

    shape: FloatArray
    rate: FloatArray
    log_ratio: FloatArray

    @property
    def silent(self) -> bool:
        """Whether no signal tells anything."""
        return not self.log_ratio.any()


NOTHING: Final = Rates(np.ones(len(KINDS)), np.ones(len(KINDS)), np.zeros((len(KINDS), PERIODS)))


def log_odds_gained(rates: Rates, counts: Counts) -> FloatArray:
    """What each kind of signal adds to the log odds of having left, (k, n).

    Examples
    --------
    Two weeks without a visit, of someone who used to come weekly and would come never again:

    >>> silence = Counts(np.zeros((1, 2, 1)), np.array([[2.0], [0.0]]), np.ones((1, 1)), np.ones(1))
    >>> never = Rates(np.ones(1), np.ones(1), np.full((1, 2), -50.0))
    >>> log_odds_gained(never, silence).round(4).tolist()  # 2 ln(4 / 2)
    [[1.3863]]
    """
    _, said, total, fewer, base = _parts(rates, counts)
    gained: FloatArray = said - total * np.log1p(fewer / base)
    return gained


def gained_and_slope(rates: Rates, counts: Counts) -> tuple[FloatArray, FloatArray]:
    """The gain of all kinds together, (n,), and its derivatives by the log ratios, (2 k, n)."""
    ratio, said, total, fewer, base = _parts(rates, counts)
    gained = (said - total * np.log1p(fewer / base)).sum(axis=0)
    share = total / (base + fewer)
    slope = counts.since - share[:, None] * ratio[:, :, None] * counts.weeks
    return gained, slope.reshape(-1, gained.size)


def _parts(
    rates: Rates, counts: Counts
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    said = np.einsum("kp,kpn->kn", rates.log_ratio, counts.since)
    total = rates.shape[:, None] + counts.before + counts.since.sum(axis=1)
    # c - 1 rather than c: what is 0 for c = 1 is then 0 exactly.
    fewer = np.expm1(rates.log_ratio) @ counts.weeks
    base = rates.rate[:, None] + counts.lived + counts.weeks.sum(axis=0)
    return np.exp(rates.log_ratio), said, total, fewer, base
