"""Why lifetime value moved: the change since the last score, split exactly.

From what the last score rested on to what this one rests on it is one step at a time: parameters
become those of today, time passes, then the customer orders, then returns come in. Each part is
the difference that its step made, so the parts sum to the whole change, but for rounding. Time
comes before orders because it did: a customer is silent until they order.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from valuetide.scoring.arrays import FloatArray
from valuetide.scoring.lifetime.parameters import Parameters
from valuetide.scoring.lifetime.purchases import Histories
from valuetide.scoring.lifetime.value import Facts, Terms, clv

# A yield below this is taken as none: value cannot be divided by it.
_NOTHING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Moved:
    """Parts of the change of lifetime value, currency units, each (h, n).

    Attributes
    ----------
    time
        Silence until now: doubt grows whether the customer is still there.
    orders
        New orders, and late or cancelled ones.
    returns
        Returns, costs, and what else changes what remains of a unit of spend.
    parameters
        What was learned from all customers.
    interactions, feedback
        Evidence from visits and ratings.
    """

    time: FloatArray
    orders: FloatArray
    returns: FloatArray
    parameters: FloatArray
    interactions: FloatArray
    feedback: FloatArray

    @property
    def total(self) -> FloatArray:
        """The whole change, (h, n)."""
        known = self.time + self.orders + self.returns + self.parameters
        return known + self.interactions + self.feedback


def moved_by(
    before: Facts,
    value_before: FloatArray,
    now: Facts,
    value_now: FloatArray,
    parameters: Parameters,
    terms: Terms,
) -> Moved:
    """Split the change between two scores of customers.

    Parameters
    ----------
    before, now
        What the two scores rest on. A first score has no before: leave such customers out.
    value_before, value_now
        ``clv`` of the two scores, (h, n), as they were published.
    parameters
        Of the later score. Those of the earlier need not be known, and may differ from
        customer to customer.
    terms
        Horizons and discount of the later score. If they changed, that is part of ``parameters``.

    Notes
    -----
    Two evaluations of ``clv`` for each customer, .6 us each.
    """
    learned = clv(parameters, before, terms)
    # How old the customer would be had they done nothing but wait. If a late order moved the first
    # purchase back, the waiting is overstated by that and the orders' part makes it good.
    age = np.maximum(now.seen.age, before.seen.age)
    waited = Facts(Histories(before.seen.x, before.seen.t_x, age), before.spent, before.yield_rate)
    after_time = clv(parameters, waited, terms)
    # Value is proportional to what remains of a unit of spend.
    known = np.abs(now.yield_rate) > _NOTHING
    ratio = np.where(known, before.yield_rate, 0.0) / np.where(known, now.yield_rate, 1.0)
    after_orders = value_now * ratio
    if not known.all():
        gone = np.flatnonzero(~known)
        seen = now.seen
        old_yield = Facts(
            Histories(seen.x[gone], seen.t_x[gone], seen.age[gone]),
            now.spent[gone],
            before.yield_rate[gone],
        )
        after_orders[:, gone] = clv(parameters, old_yield, terms)
    nothing = np.zeros_like(value_now)
    return Moved(
        time=after_time - learned,
        orders=after_orders - after_time,
        returns=value_now - after_orders,
        parameters=learned - value_before,
        interactions=nothing,
        feedback=nothing,
    )
