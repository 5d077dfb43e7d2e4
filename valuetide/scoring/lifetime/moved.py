"""Why lifetime value moved: the change since the last score, split exactly.

From what the last score rested on to what this one rests on it is one step at a time: parameters
become those of today, time passes, signals come or fail to come, then the customer orders, then
returns come in. Each part is the difference that its step made, so the parts sum to the whole
change, but for rounding. Time comes before orders because it did: a customer is silent until they
order. What signals said before an order is void after it, so of a customer who ordered that is part
of what the order did.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from valuetide.scoring.arrays import FloatArray, true_at
from valuetide.scoring.lifetime.parameters import Parameters
from valuetide.scoring.lifetime.purchases import Histories
from valuetide.scoring.lifetime.value import Facts, Terms, clv

# A yield below this is taken as none: value cannot be divided by it.
_NOTHING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Moved:
    """Parts of the change of lifetime value, currency units, each (n,).

    Attributes
    ----------
    orders
        New orders, and late or cancelled ones.
    returns
        Returns, costs, and what else changes what remains of a unit of spend.
    time
        Silence until now: doubt grows whether the customer is still there.
    parameters
        What was learned from all customers.
    interactions, feedback
        Evidence from visits and ratings, and from there being none; what was learned about how much
        they tell is part of it.
    """

    orders: FloatArray
    returns: FloatArray
    time: FloatArray
    parameters: FloatArray
    interactions: FloatArray
    feedback: FloatArray

    def in_units(self, change: FloatArray) -> FloatArray:
        """Parts as whole numbers that sum to a whole change exactly.

        Parameters
        ----------
        change
            The change as published, (n,), a whole number of the unit that the parts are in.

        Returns
        -------
        array
            (6, n) in the order of the attributes: each is rounded, and what rounding takes or
            adds is put right in the greatest.
        """
        parts = np.array([getattr(self, name) for name in PARTS])
        whole: FloatArray = parts.round()
        greatest = np.argmax(np.abs(parts), axis=0)
        whole[greatest, np.arange(greatest.size)] += change - whole.sum(axis=0)
        return whole + 0.0


PARTS: Final = tuple(Moved.__annotations__)


def moved_by(
    before: Facts,
    value_before: FloatArray,
    now: Facts,
    value_now: FloatArray,
    parameters: Parameters,
    terms: Terms,
    on_the_way: FloatArray | None = None,
) -> Moved:
    """Split the change between two scores of customers, for the longest horizon.

    Parameters
    ----------
    before, now
        What the two scores rest on. A first score has no before: leave such customers out.
    value_before, value_now
        ``clv`` of the two scores, (n,), as they were published.
    parameters
        Of the later score. Those of the earlier need not be known, and may differ from
        customer to customer.
    terms
        Horizons and discount of the later score. If they changed, that is part of ``parameters``.
    on_the_way
        ``clv`` for the longest horizon of what :func:`between` gives, (2n,), if that is known.

    Returns
    -------
    Moved
        Sums to the change but for rounding.

    Notes
    -----
    Two evaluations of ``clv`` for each customer.
    """
    count, waited = value_now.size, _waited(before, now)
    if on_the_way is None:
        on_the_way = clv(parameters, between(before, now), terms)[-1]
    learned, after_time = on_the_way[:count], on_the_way[count:]
    visited, rated = _after_signals(waited, now, after_time, parameters)
    # Value is proportional to what remains of a unit of spend.
    known = np.abs(now.yield_rate) > _NOTHING
    ratio = np.where(known, before.yield_rate, 0.0) / np.where(known, now.yield_rate, 1.0)
    after_orders = value_now * ratio
    if not known.all():
        gone = true_at(~known)
        of_now = now[gone]
        old_yield = Facts(of_now.seen, of_now.spent, before.yield_rate[gone], of_now.gained)
        after_orders[gone] = clv(parameters, old_yield, terms)[-1]
    return Moved(
        time=after_time - learned,
        orders=after_orders - rated,
        returns=value_now - after_orders,
        parameters=learned - value_before,
        interactions=visited - after_time,
        feedback=rated - visited,
    )


def between(before: Facts, now: Facts) -> Facts:
    """Give what value rests on after the first two steps from one score to the next, (2n,).

    What the first score rested on, and the same after the time that has passed; see
    :func:`moved_by`.
    """
    return before.and_others(_waited(before, now))


def _waited(before: Facts, now: Facts) -> Facts:
    """Customers as they would be had they done nothing but wait."""
    # If a late order moved the first purchase back, the waiting is overstated by that and the
    # orders' part makes it good.
    seen = before.seen
    age = np.maximum(now.seen.age, seen.age)
    return replace(before, seen=Histories(seen.x, seen.t_x, age))


def _after_signals(
    waited: Facts, now: Facts, value: FloatArray, parameters: Parameters
) -> tuple[FloatArray, FloatArray]:
    """Value once interactions are those of now, and once feedback is as well, (h, n)."""
    if waited.gained is None and now.gained is None:
        return value, value
    gained_before, gained_now = waited.all_gained, now.all_gained
    same = (waited.seen.x == now.seen.x) & (waited.seen.t_x == now.seen.t_x)
    visited = np.where(same, np.stack([gained_now[0], gained_before[1]]), gained_before)
    rated = np.where(same, gained_now, gained_before)
    # Value is proportional to P(alive).
    alive, after_visits, after_ratings = (
        replace(waited, gained=gained).p_alive(parameters.purchases)
        for gained in (gained_before, visited, rated)
    )
    return value * (after_visits / alive), value * (after_ratings / alive)
