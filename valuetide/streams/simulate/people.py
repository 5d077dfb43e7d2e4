"""Who the customers are: everything about them that does not change, drawn at the beginning."""

from dataclasses import dataclass

import numpy as np

from valuetide.scoring.arrays import FloatArray, IntArray
from valuetide.streams.simulate.chance import chance
from valuetide.streams.simulate.profile import Profile
from valuetide.streams.simulate.scenario import Scenario, shares

VISIT_SHAPE = 2.0
"""Shape of the gamma distributed rates of visits: some come by often, few never."""

DAYS_A_WEEK = 7.0


@dataclass(frozen=True, slots=True)
class People:
    """Columns of ``n`` customers, by the day of their first order.

    Attributes
    ----------
    ids
        Their ``customer_id``.
    joined
        Day of the first order; negative: in the warm-up, (n,).
    source, home
        Positions of what brought them and of their own channel, (n,).
    rate
        Orders a day while they are there, (n,).
    leave
        Chance to leave after an order, (n,).
    scale
        Rate of the gamma distribution of their amounts, 1 / currency units, (n,).
    mood
        How they experience the shop, standard normal, (n,).
    visit_rate
        Visits a day while they are there, (n,).
    """

    ids: list[str]
    joined: IntArray
    source: IntArray
    home: IntArray
    rate: FloatArray
    leave: FloatArray
    scale: FloatArray
    mood: FloatArray
    visit_rate: FloatArray

    def __len__(self) -> int:
        return len(self.ids)


def mean_arrivals(scenario: Scenario, profile: Profile) -> FloatArray:
    """First orders to be expected, by day, source and own channel, (D, S, C)."""
    a_day = scenario.customers / (scenario.warm_up_days + scenario.days)
    by_source, by_channel = shares(scenario.sources), shares(scenario.channels)
    mean: FloatArray = (
        a_day * by_source[:, None] * by_channel * profile.by_customer(profile.arrivals)
    )
    return mean


def draw_people(scenario: Scenario, profile: Profile) -> People:
    """Draw all customers who will ever come."""
    seed = scenario.seed
    mean = mean_arrivals(scenario, profile)
    # By day, so that a shift leaves those who came before it what they are.
    count = np.stack(
        [
            chance(seed, "arrivals", day).poisson(mean[day + scenario.warm_up_days])
            for day in range(-scenario.warm_up_days, scenario.days)
        ]
    )
    place = np.repeat(np.arange(count.size), count.ravel())
    day, source, home = np.unravel_index(place, count.shape)
    n = len(place)
    model, money, doing = scenario.purchases, scenario.spend, scenario.interactions
    rate = chance(seed, "rate").gamma(model.r, 1 / model.alpha, n)
    own = chance(seed, "visit rate").gamma(VISIT_SHAPE, 1 / VISIT_SHAPE, n)
    tie = doing.tied_to_orders * rate * model.alpha / model.r + 1 - doing.tied_to_orders
    return People(
        ids=[f"{scenario.prefix}-{number:06d}" for number in range(n)],
        joined=day.astype(np.int64) - scenario.warm_up_days,
        source=source.astype(np.int64),
        home=home.astype(np.int64),
        rate=rate / DAYS_A_WEEK,
        leave=np.clip(chance(seed, "leave").beta(model.a, model.b, n), 1e-12, 1 - 1e-12),
        scale=chance(seed, "scale").gamma(money.q, 1 / money.gamma, n),
        mood=chance(seed, "mood").standard_normal(n),
        visit_rate=doing.visits_per_week / DAYS_A_WEEK * own * tie,
    )
