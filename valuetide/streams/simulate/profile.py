"""How much is bought, visited and said on each day: the calendar, and what is planted.

All tables are by day, source and channel, (D, S, C); the first day is that of the warm-up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

import numpy as np

from valuetide.scoring.arrays import FloatArray
from valuetide.streams.simulate.chance import chance
from valuetide.streams.simulate.scenario import EPOCH, Scenario, shares
from valuetide.streams.simulate.shifts import Metric, Shift

DAYS_A_YEAR = 365.25


def season(scenario: Scenario) -> FloatArray:
    """Demand by weekday, time of the year and holiday, relative to the mean, (D,)."""
    of = scenario.season
    first = scenario.start - timedelta(days=scenario.warm_up_days)
    number = np.arange(scenario.warm_up_days + scenario.days)
    weekdays = np.array(of.weekdays)
    by_week = (weekdays / weekdays.mean())[(first.weekday() + number) % 7]
    of_year = first.timetuple().tm_yday + number - of.yearly_peak_day
    by_year = 1 + of.yearly_amplitude * np.cos(2 * np.pi * of_year / DAYS_A_YEAR)
    demand: FloatArray = by_week * by_year
    calendar = scenario.calendar()
    for day, name in calendar.holidays.items():
        demand[day - (first - EPOCH).days] *= of.holidays[name].factor
    return demand


def progress(shift: Shift, scenario: Scenario) -> FloatArray:
    """How much of a shift is there on each day, 0 to 1, (D,)."""
    day = np.arange(-scenario.warm_up_days, scenario.days, dtype=np.float64)
    if shift.kind == "slope":
        ramp: FloatArray = np.clip((day + 1 - shift.start_day) / (shift.lasts_days or 1.0), 0, 1)
        return ramp
    end = np.inf if shift.end_day is None else shift.end_day
    return ((day >= shift.start_day) & (day < end)).astype(np.float64)


@dataclass(frozen=True)
class Profile:
    """Tables of a scenario under some of its shifts.

    Parameters
    ----------
    scenario
        The shop.
    shifts
        Those that count; outages count when events are sent.
    """

    scenario: Scenario
    shifts: Sequence[Shift]

    @cached_property
    def demand(self) -> FloatArray:
        """Orders of a customer through a channel, relative to their rate, (D, S, C).

        The spread of a day is lognormal with mean 1; the same draw moves all customers, under a
        shift of the variance further.
        """
        days = len(self._season)
        spread = np.full(self._shape, self.scenario.season.spread)
        for shift in self.shifts:
            if shift.kind == "variance":
                spread *= 1 + shift.size * self._reach(shift)
        draw = chance(self.scenario.seed, "spread").standard_normal(days)[:, None, None]
        variance = np.log1p(spread**2)
        shock = np.exp(np.sqrt(variance) * draw - variance / 2)
        demand: FloatArray = self._season[:, None, None] * shock * self._moved("orders")
        return demand

    @cached_property
    def arrivals(self) -> FloatArray:
        """First orders through a channel, relative to the mean, (D, S, C)."""
        return self.demand * self._moved("arrivals")

    @cached_property
    def amount(self) -> FloatArray:
        """Factor of the amount of an order, (D, S, C)."""
        return self._moved("amount")

    @cached_property
    def visits(self) -> FloatArray:
        """Visits of a customer whose own channel it is, relative to their rate, (D, S, C)."""
        return self._season[:, None, None] * self._moved("visits")

    @cached_property
    def contacts(self) -> FloatArray:
        """Factor of the chance that an order through a channel is followed by one, (D, S, C)."""
        return self._moved("contacts")

    @cached_property
    def mood(self) -> FloatArray:
        """What is added to the mood of a customer whose own channel it is, (D, S, C)."""
        mood = np.zeros(self._shape)
        for shift in self.shifts:
            if shift.metric == "satisfaction":
                mood += shift.size * self._reach(shift)
        return mood

    @cached_property
    def routes(self) -> FloatArray:
        """Chance that a customer of a channel (row) orders through a channel (column), (C, C)."""
        scenario = self.scenario
        any_channel = shares(scenario.channels)
        own: FloatArray = np.eye(len(any_channel)) * scenario.loyalty
        return own + (1 - scenario.loyalty) * any_channel

    def by_customer(self, *factors: FloatArray) -> FloatArray:
        """Mean of a product of tables over the channels a customer goes through.

        Returns
        -------
        array
            By day, source and the customer's own channel, (D, S, C).
        """
        product = np.ones(self._shape)
        for factor in factors:
            product = product * factor
        mean: FloatArray = np.einsum("hc,dsc->dsh", self.routes, product)
        return mean

    @cached_property
    def _season(self) -> FloatArray:
        return season(self.scenario)

    @property
    def _shape(self) -> tuple[int, int, int]:
        scenario = self.scenario
        return len(self._season), len(scenario.sources), len(scenario.channels)

    def _reach(self, shift: Shift) -> FloatArray:
        """How much of a shift is there, by day, source and channel, (D, S, C)."""
        sources, channels = list(self.scenario.sources), list(self.scenario.channels)
        in_source = np.array([shift.source in (None, source) for source in sources], np.float64)
        in_channel = np.array(
            [shift.channel in (None, channel) for channel in channels], np.float64
        )
        reach: FloatArray = (
            progress(shift, self.scenario)[:, None, None] * in_source[:, None] * in_channel
        )
        return reach

    def _moved(self, metric: Metric) -> FloatArray:
        factor = np.ones(self._shape)
        for shift in self.shifts:
            if shift.metric == metric and shift.kind in ("level", "slope"):
                factor *= 1 + shift.size * self._reach(shift)
        return factor
