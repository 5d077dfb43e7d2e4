"""The simulated shop: its events, in the order in which they are sent, and what was true."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from valuetide.scoring.arrays import BoolArray, FloatArray, IntArray
from valuetide.streams.replay.event import Role, SourceEvent
from valuetide.streams.simulate.buying import Bought, Buying, Expected, Outlook
from valuetide.streams.simulate.chance import chance
from valuetide.streams.simulate.doing import Doing
from valuetide.streams.simulate.outbox import Outbox
from valuetide.streams.simulate.people import draw_people
from valuetide.streams.simulate.profile import progress
from valuetide.streams.simulate.scenario import Scenario
from valuetide.streams.simulate.shifts import Campaign
from valuetide.streams.simulate.truth import Truth


class Shop:
    """A shop that is lived through once.

    Parameters
    ----------
    scenario
        What it is like; the same one gives the same bytes.

    Examples
    --------
    >>> shop = Shop(Scenario(customers=100, days=60, warm_up_days=0, name="s"))
    >>> sorted({role for role, _ in shop.events()})
    ['feedback', 'interactions', 'orders']
    >>> shop.truth()["customers"]["customer_id"][:2]
    ['s-000000', 's-000001']
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._outlook = Outlook.under(scenario, scenario.shifts)
        self.people = draw_people(scenario, self._outlook.profile)
        self._buying = Buying(scenario, self.people, self._outlook)
        self._doing = Doing(scenario, self.people, self._outlook, self._buying)
        self._outbox = Outbox(scenario)
        self._truth = Truth(scenario, self.people)
        self._plain = Outlook.under(scenario, ())
        # What each shift does is told by the others alone: together they may do more or less.
        self._without = [
            Outlook.under(scenario, [other for other in scenario.shifts if other is not shift])
            for shift in scenario.shifts
        ]
        self._reach = [progress(shift, scenario) for shift in scenario.shifts]
        self._arms: dict[str, tuple[IntArray, BoolArray]] = {}
        self._next_day = -scenario.warm_up_days

    def events(self) -> Iterator[tuple[Role, SourceEvent]]:
        """Give the events with the topic each goes to; what was given is not given again."""
        while self._next_day < self.scenario.days:
            day = self._next_day
            self._next_day += 1
            if day < 0:
                self._buying.day(day, np.ones(len(self.people)))
            else:
                self._live(day)
                yield from self._outbox.take(day)
        yield from self._outbox.rest()

    def truth(self) -> dict[str, Any]:
        """Give what was true of the days so far, ready for JSON."""
        return self._truth.report(
            max(0, self._next_day),
            self._buying.left_at,
            self._doing.contacts,
            self._outbox,
            self._arms,
        )

    def _live(self, day: int) -> None:
        doing, buying = self._doing, self._buying
        there = buying.there
        lift = self._lift(day)
        expected = self._expected(day, lift)
        # Who is known and not there has left.
        known = np.arange(np.searchsorted(self.people.joined, day))
        gone = known[np.isfinite(buying.left_at[known])]
        messages = []
        for campaign in self.scenario.campaigns:
            if campaign.start_day == day:
                treated = self._draw_arms(campaign, known)
                messages += doing.exposures(day, campaign, known, treated)
        visits, some = doing.visits(day, there)
        messages += some
        messages += doing.mails(day, there, gone)
        bought = buying.day(day, lift)
        messages += doing.orders(day, bought)
        self._outbox.put(day, messages)
        self._note(day, there, bought, visits, expected)

    def _lift(self, day: int) -> FloatArray:
        """Factor of each customer's orders by campaigns, (n,)."""
        lift = np.ones(len(self.people))
        for campaign in self.scenario.campaigns:
            if _runs(campaign, day):
                who, treated = self._arms[campaign.name]
                lift[who[treated]] *= 1 + campaign.lift
        return lift

    def _draw_arms(self, campaign: Campaign, known: IntArray) -> BoolArray:
        draw = chance(self.scenario.seed, f"arms {campaign.name}")
        treated: BoolArray = draw.random(len(known)) < campaign.treated
        self._arms[campaign.name] = known, treated
        return treated

    def _expected(self, day: int, lift: FloatArray) -> list[Expected]:
        """Give what is to be expected: as it is, without shifts, and without each of them."""
        buying, row = self._buying, day + self.scenario.warm_up_days
        as_it_is = buying.expected(self._outlook, day, lift)
        moved = [bool(reach[row]) for reach in self._reach]
        plain = buying.expected(self._plain, day, lift) if any(moved) else as_it_is
        return [
            as_it_is,
            plain,
            *(
                buying.expected(without, day, lift) if now else as_it_is
                for without, now in zip(self._without, moved, strict=True)
            ),
        ]

    def _note(
        self, day: int, there: IntArray, bought: Bought, visits: int, expected: list[Expected]
    ) -> None:
        self._truth.note_day(day, there, bought, visits, expected)
        for campaign in self.scenario.campaigns:
            if _runs(campaign, day):
                who, treated = self._arms[campaign.name]
                self._truth.note_campaign(campaign, who, treated, there, bought, expected[0])


def _runs(campaign: Campaign, day: int) -> bool:
    return campaign.start_day < day <= campaign.start_day + campaign.days
