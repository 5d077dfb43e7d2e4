"""When customers buy, and what is to be expected of them: MBG/NBD by days.

A customer who is there orders on a day as a Poisson process of rate times demand, and after each
order leaves for good with a chance of their own. The first order opens the account; repeat orders
begin the day after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from valuetide.scoring.arrays import FloatArray, IntArray
from valuetide.streams.simulate.chance import chance
from valuetide.streams.simulate.people import People, mean_arrivals
from valuetide.streams.simulate.profile import Profile
from valuetide.streams.simulate.scenario import Scenario
from valuetide.streams.simulate.shifts import Shift

DAY_SECONDS = 86_400.0
MIN_CENTS, MAX_CENTS = 1.0, 1e8


class Bought(NamedTuple):
    """The orders of a day, (n,) each.

    Attributes
    ----------
    who
        Positions of customers.
    at
        Seconds since the beginning of the simulation.
    channel
        Positions of channels.
    cents
        Amounts, minor units.
    """

    who: IntArray
    at: FloatArray
    channel: IntArray
    cents: IntArray


class Expected(NamedTuple):
    """Means of a day, given who is there when it begins.

    Attributes
    ----------
    orders, revenue
        With those of new customers; revenue in currency units.
    new_customers, visits
        How many.
    by_customer
        Orders of each customer who is there, (m,).
    """

    orders: float
    revenue: float
    new_customers: float
    visits: float
    by_customer: FloatArray


@dataclass(frozen=True)
class Outlook:
    """What a profile makes of the customers, by day, source and own channel, (D, S, C) each."""

    profile: Profile
    demand: FloatArray
    value: FloatArray
    visits: FloatArray
    mood: FloatArray
    arrivals: FloatArray
    arrivals_value: FloatArray

    @classmethod
    def under(cls, scenario: Scenario, shifts: Sequence[Shift]) -> "Outlook":
        """Make the outlook under some of a scenario's shifts."""
        profile = Profile(scenario, shifts)
        demand = profile.by_customer(profile.demand)
        arrivals = mean_arrivals(scenario, profile)
        money = scenario.spend
        mean_amount = money.p * money.gamma / (money.q - 1)
        return cls(
            profile,
            demand,
            _ratio(profile.by_customer(profile.demand, profile.amount), demand),
            profile.visits,
            profile.mood,
            arrivals,
            mean_amount
            * arrivals
            * _ratio(
                profile.by_customer(profile.arrivals, profile.amount),
                profile.by_customer(profile.arrivals),
            ),
        )


class Buying:
    """Draws the orders of each day, in turn from the first of the warm-up.

    Attributes
    ----------
    there
        Customers who have bought and not left, in no order, (m,).
    left_at
        When each of all customers left, seconds since the beginning of the simulation; infinite
        while they are there, (n,).
    """

    def __init__(self, scenario: Scenario, people: People, outlook: Outlook) -> None:
        self._scenario = scenario
        self._people = people
        self._outlook = outlook
        self.there: IntArray = np.empty(0, np.int64)
        self.left_at: FloatArray = np.full(len(people), np.inf)
        hours = np.array(scenario.season.hours, np.float64)
        self._hours = np.cumsum(hours / hours.sum())
        profile = outlook.profile
        routes = profile.routes[None, None]
        self._repeat_routes = _cumulative(routes * profile.demand[:, :, None, :])
        self._first_routes = _cumulative(routes * profile.arrivals[:, :, None, :])

    def day(self, day: int, lift: FloatArray) -> Bought:
        """Draw the orders of a day.

        Parameters
        ----------
        day
            From the beginning of the simulation; negative: in the warm-up.
        lift
            Factor of each customer's orders, (n,).
        """
        people, there = self._people, self.there
        draw = chance(self._scenario.seed, "orders", day)
        wanted = draw.poisson(self.means(self._outlook, day, there, lift))
        until_left = draw.geometric(self.leaving(self._outlook, day, there))
        leaves = until_left <= wanted
        made = np.minimum(until_left, wanted)
        new = np.arange(*np.searchsorted(people.joined, [day, day + 1]))
        leaves_at_once = draw.random(len(new)) < self.leaving(self._outlook, day, new)
        who = np.concatenate([np.repeat(there, made), new])
        at = day * DAY_SECONDS + self.times(draw, len(who))
        channel = self._channels(draw, day, who, len(who) - len(new))
        gone = np.concatenate([there[leaves], new[leaves_at_once]])
        self.left_at[gone] = -np.inf
        last = self.left_at[who] < 0
        np.maximum.at(self.left_at, who[last], at[last])
        self.there = np.concatenate([there[~leaves], new[~leaves_at_once]])
        factor = self._outlook.profile.amount[day + self._scenario.warm_up_days]
        spend = draw.gamma(self._scenario.spend.p, 1 / people.scale[who])
        spend *= factor[people.source[who], channel]
        cents = np.rint(np.clip(spend * 100, MIN_CENTS, MAX_CENTS)).astype(np.int64)
        return Bought(who, at, channel, cents)

    def expected(self, outlook: Outlook, day: int, lift: FloatArray) -> Expected:
        """Give what is to be expected of a day under an outlook, before it is drawn."""
        people, there = self._people, self.there
        row = day + self._scenario.warm_up_days
        place = people.source[there], people.home[there]
        leave = self.leaving(outlook, day, there)
        # Orders stop when the customer leaves: the mean number of a day is below its rate.
        orders = -np.expm1(-self.means(outlook, day, there, lift) * leave) / leave
        revenue = orders * self._scenario.spend.p / people.scale[there] * outlook.value[row][place]
        arrivals = float(outlook.arrivals[row].sum())
        return Expected(
            float(orders.sum()) + arrivals,
            float(revenue.sum()) + float(outlook.arrivals_value[row].sum()),
            arrivals,
            float((people.visit_rate[there] * outlook.visits[row][place]).sum()),
            orders,
        )

    def means(self, outlook: Outlook, day: int, who: IntArray, lift: FloatArray) -> FloatArray:
        """Give the mean orders of a day of customers who would not leave, (m,)."""
        people = self._people
        demand = outlook.demand[day + self._scenario.warm_up_days]
        mean: FloatArray = people.rate[who] * demand[people.source[who], people.home[who]]
        return mean * lift[who]

    def leaving(self, outlook: Outlook, day: int, who: IntArray) -> FloatArray:
        """Give the chance to leave after an order of that day, (m,)."""
        drives = self._scenario.feedback.drives_dropout
        leave = self._people.leave[who]
        if not drives:
            return leave
        odds = leave / (1 - leave) * np.exp(-drives * self.mood(outlook, day, who))
        moved: FloatArray = np.clip(odds / (1 + odds), 1e-12, 1.0)
        return moved

    def mood(self, outlook: Outlook, day: int, who: IntArray) -> FloatArray:
        """Give how customers experience the shop on a day, standard normal but for shifts, (m,)."""
        people = self._people
        shifted = outlook.mood[day + self._scenario.warm_up_days]
        mood: FloatArray = people.mood[who] + shifted[people.source[who], people.home[who]]
        return mood

    def times(self, draw: np.random.Generator, count: int) -> FloatArray:
        """Draw times of a day, seconds from 0 to below 86,400, (count,)."""
        hour = np.searchsorted(self._hours, draw.random(count), side="right").clip(max=23)
        seconds: FloatArray = (hour + draw.random(count)) * 3_600.0
        return np.minimum(seconds, DAY_SECONDS - 0.001)

    def _channels(
        self, draw: np.random.Generator, day: int, who: IntArray, repeats: int
    ) -> IntArray:
        row = day + self._scenario.warm_up_days
        source, home = self._people.source[who], self._people.home[who]
        routes = np.concatenate(
            [
                self._repeat_routes[row][source[:repeats], home[:repeats]],
                self._first_routes[row][source[repeats:], home[repeats:]],
            ]
        )
        chosen: IntArray = (draw.random(len(who))[:, None] >= routes[:, :-1]).sum(axis=1)
        return chosen


def _ratio(one: FloatArray, other: FloatArray) -> FloatArray:
    """The quotient, 0 where there is nothing to divide."""
    return np.divide(one, other, out=np.zeros_like(one), where=other > 0)


def _cumulative(weights: FloatArray) -> FloatArray:
    """Weights along the last axis as cumulative shares, the last one 1."""
    total = np.cumsum(weights, axis=-1)
    return _ratio(total, np.broadcast_to(total[..., -1:], total.shape))
