"""Single customers worth telling somebody of: at risk, grown suddenly, won back.

Each rule looks at two scores of a customer, the last one and the one being made, both with what is
known today, so that nothing is told because parameters were learned:

    at_risk    P(alive) has fallen by a set share since the newest order, or lifetime value by that
               share since the last score. Once between two orders.
    growth     a new order has raised lifetime value by a set factor over that of the last score and
               over that just after the order before, and above the upper end of the last interval
    won_back   a new order of somebody whose P(alive) just before it was below a set value

What a score needs to know of earlier ones is two bits of the packed state: whether any was watched,
and whether the customer has fallen since the newest order. Who had fallen before anybody watched is
not told of: else a rule that is switched on would tell of everybody who ever left.

Who is told of is limited by ``Budget``.
"""

import bisect
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from valuetide.scoring.arrays import BoolArray, FloatArray, IntArray
from valuetide.scoring.lifetime.parameters import Purchases
from valuetide.scoring.packed import FALLEN, WATCHED

CAP: Final = 2
"""A day has at most so many times its budget of alerts, however many rise above it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is worth telling.

    Attributes
    ----------
    fall
        Share by which P(alive) or lifetime value falls, in (0, 1).
    growth
        Factor by which lifetime value rises, above 1.
    won_back
        P(alive) before the order, in [0, 1].
    """

    fall: float = 0.5
    growth: float = 3.0
    won_back: float = 0.2


@dataclass(frozen=True, slots=True)
class Moves:
    """What became of some buyers between two scores, (n,) each.

    Attributes
    ----------
    flags
        Header flags of the packed state, as the last score left them.
    known
        Who had a score of lifetime value before. The following three are of no meaning for others.
    ordered
        Whose newest order is newer than at the last score.
    clv_before
        Lifetime value at the last score with the parameters of today.
    alive_waited
        P(alive) just before the newest order; of meaning only for who ordered.
    clv, p_alive
        Of this score.
    alive_at_order
        P(alive) just after the newest order.
    """

    flags: NDArray[np.uint8]
    known: BoolArray
    ordered: BoolArray
    clv_before: FloatArray
    alive_waited: FloatArray
    clv: FloatArray
    p_alive: FloatArray
    alive_at_order: FloatArray


@dataclass(frozen=True, slots=True)
class Found:
    """Buyers whom a rule has found, (n,) each, and the flags that the packed state takes.

    Of ``growth`` the value after the order before and the interval are still to be looked at.
    """

    at_risk: BoolArray
    growth: BoolArray
    won_back: BoolArray
    flags: NDArray[np.uint8]


def judge(moves: Moves, limits: Limits) -> Found:
    """Customers whom the rules find.

    Examples
    --------
    Of two who have been silent one was told of before:

    >>> one, nobody = np.ones(2), np.zeros(2, np.bool_)
    >>> flags = np.array([WATCHED, WATCHED | FALLEN], np.uint8)
    >>> silent = Moves(flags, ~nobody, nobody, one, one, one, 0.4 * one, 0.9 * one)
    >>> judge(silent, Limits()).at_risk.tolist()
    [True, False]
    """
    known, ordered = moves.known, moves.known & moves.ordered
    sudden = known & (moves.clv_before > 0.0)
    sudden &= moves.clv <= (1.0 - limits.fall) * moves.clv_before
    fallen = sudden | (moves.p_alive <= (1.0 - limits.fall) * moves.alive_at_order)
    fell_before = ((moves.flags & FALLEN) != 0) & ~moves.ordered
    won_back = ordered & (moves.alive_waited < limits.won_back)
    growth = ordered & ~won_back & (moves.clv_before > 0.0)
    growth &= moves.clv >= limits.growth * moves.clv_before
    kept = moves.flags & ~np.uint8(WATCHED | FALLEN)
    marks = WATCHED + FALLEN * (fallen | fell_before).astype(np.uint8)
    return Found(
        at_risk=fallen & ~fell_before & ((moves.flags & WATCHED) != 0),
        growth=growth,
        won_back=won_back,
        flags=kept | marks.astype(np.uint8),
    )


def alive_at_order(model: Purchases, frequency: IntArray) -> FloatArray:
    """P(alive) just after an order, (n,), of customers with so many repeat purchases.

    References
    ----------
    Batislam et al. (2007), eq. 8, at T = t_x.

    Examples
    --------
    >>> alive_at_order(Purchases(0.5, 10.0, 0.8, 2.4), np.array([0, 5])).round(3).tolist()
    [0.75, 0.902]
    """
    stayed = model.b + frequency
    alive: FloatArray = stayed / (model.a + stayed)
    return alive


@dataclass(slots=True)
class Budget:
    """Limit of alerts a day that lets the greatest through.

    The first ``size`` of a day pass at once. From then on only who is worth more than the least of
    the ``size`` greatest found so far passes, until ``CAP`` times the budget is spent. A day after
    one with more than enough begins where that one ended: only who would have been among its
    ``size`` greatest passes. So none waits for the end of a day, the limit holds whatever comes,
    and where days are alike most of the greatest pass.

    Parameters
    ----------
    size
        Alerts of a day, 1 or more.
    day
        The day that the rest is about; an earlier day counts as this one.
    spent
        Alerts that passed.
    floor
        Money that the day began with: only who is worth more passes.
    greatest
        What the greatest of those found are worth, at most ``size``, rising.
    """

    size: int
    day: int = 0
    spent: int = 0
    floor: float = 0.0
    greatest: list[float] = field(default_factory=list)

    def take(self, day: int, worth: FloatArray) -> BoolArray:
        """Which of those found at once pass, (n,).

        Parameters
        ----------
        day
            Number of the day.
        worth
            Money, above 0, (n,); those with most go first.

        Examples
        --------
        >>> budget = Budget(2)
        >>> budget.take(1, np.array([5.0, 7.0, 6.0])).tolist()
        [False, True, True]
        >>> budget.take(1, np.array([6.5, 6.2])).tolist(), budget.spent
        ([True, False], 3)
        >>> budget.take(2, np.array([6.2, 6.8])).tolist()
        [False, True]
        """
        if day > self.day:
            enough = len(self.greatest) >= self.size and day == self.day + 1
            self.floor = self.greatest[0] if enough else 0.0
            self.day, self.spent, self.greatest = day, 0, []
        passed = np.zeros(worth.size, np.bool_)
        for nth in np.argsort(-worth, kind="stable").tolist():
            money = float(worth[nth])
            full = len(self.greatest) >= self.size
            if full and money <= self.greatest[0]:
                break
            bisect.insort(self.greatest, money)
            del self.greatest[: -self.size]
            if money > self.floor and self.spent < CAP * self.size:
                passed[nth] = True
                self.spent += 1
        return passed

    def encode(self) -> str:
        """Text of which ``decode`` makes the same: day, spent, floor, and the greatest."""
        return " ".join(map(repr, [self.day, self.spent, self.floor, *self.greatest]))

    @classmethod
    def decode(cls, text: str, size: int) -> Self:
        """Budget of which this is the text; of a smaller size the greatest are kept.

        Raises
        ------
        ValueError
            When it cannot be read.
        """
        day, spent, floor, *greatest = text.split(" ")
        return cls(size, int(day), int(spent), float(floor), [float(m) for m in greatest][-size:])
