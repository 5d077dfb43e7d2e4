"""What the tests of the simulated shop share."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import msgspec

from valuetide.streams.decode import Role
from valuetide.streams.replay.event import SourceEvent
from valuetide.streams.simulate.scenario import Scenario
from valuetide.streams.simulate.shop import Shop

DAY = 86_400
QUIET: dict[str, Any] = {
    "visits_per_week": 0,
    "opens_per_week": 0,
    "referrals_per_week": 0,
    "contacts": 0,
}
"""No interactions, where a test is about orders."""
FLAT: dict[str, Any] = {
    "weekdays": (1,) * 7,
    "yearly_amplitude": 0,
    "holidays": {},
    "spread": 0,
}
"""Every day is like every other."""
CLEAN: dict[str, Any] = {"duplicates": 0, "late": 0, "bad": 0}


@dataclass(frozen=True)
class Lived:
    """A shop that was lived through: its messages as they were sent, and its truth."""

    scenario: Scenario
    sent: list[tuple[Role, SourceEvent]]
    truth: dict[str, Any]

    @cached_property
    def parsed(self) -> list[tuple[Role, dict[str, Any]]]:
        return [(role, msgspec.json.decode(event.value)) for role, event in self.sent]

    def of(self, role: Role, *kinds: str) -> list[dict[str, Any]]:
        """Events of a topic, of these kinds or of all."""
        return [
            event
            for of, event in self.parsed
            if of == role and (not kinds or event["kind"] in kinds)
        ]

    def day(self, event: dict[str, Any]) -> int:
        return int((event["occurred_at"] - self.scenario.start_seconds) // DAY)

    def by_day(self, events: Iterable[dict[str, Any]]) -> list[int]:
        counts = [0] * self.scenario.days
        for event in events:
            counts[self.day(event)] += 1
        return counts


def live(**fields: Any) -> Lived:
    shop = Shop(Scenario.model_validate(fields))
    sent = list(shop.events())
    return Lived(shop.scenario, sent, shop.truth())


@cache
def usual() -> Lived:
    """A shop with a bit of everything."""
    return live(
        name="s",
        seed=3,
        customers=600,
        days=120,
        warm_up_days=90,
        noise={"duplicates": 0.01, "late": 0.02, "bad": 0.1},
        shifts=["level:-20%@60", "outage:feedback@70+48h"],
        campaigns=["spring:+50%@40+14"],
    )


def values(lived: Lived) -> Iterator[bytes]:
    return (event.value for _, event in lived.sent)
