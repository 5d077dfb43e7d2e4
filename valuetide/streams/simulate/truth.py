"""What was true of a simulated shop, gathered as it happens and written as one JSON object.

::

    {"version": 1, "name": ..., "numpy": ..., "scenario": {...}, "start": ..., "end": ...,
     "complete": true,          whether all days were made
     "shifts":    [{"kind": ..., "start": ..., "end": ..., "effect": {"orders": -.2, ...}, ...}],
     "campaigns": [{"name": ..., "lift": .15, "treatment": {...}, "control": {...}}],
     "attributes": {"delivery": {"role": "hygiene", "penalty": -.9, "reward": 0}, ...},
     "days":      {"date": [...], "orders": [...], "expected_orders": [...], ...},
     "customers": {"customer_id": [...], "orders_per_week": [...], ...},
     "messages":  {"orders": {"sent": ..., "placed": ..., "duplicates": ..., ...}, ...}}

Days and customers are columns. Of a day ``expected_`` is the mean given who had not left when it
began, ``..._without_shifts`` what it would have been of the same customers. A shift's effects are
on the whole shop, relative, over the days on which it was there; beside it the others are as they
are. That on ``satisfaction`` is in points of 1 to 5, of customers in its scope, once it is there.
Customers include those of the warm-up; their orders and revenue are of the days that are sent,
``orders_in_next_`` is the mean after the end at usual demand. Of messages ``events`` are different
and sound, ``withheld`` were lost to an outage. Times are RFC 3339; money is in the shop's currency.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from valuetide.schemas.topics import INPUTS
from valuetide.scoring.arrays import BoolArray, FloatArray, IntArray
from valuetide.streams.simulate.buying import Bought, Expected
from valuetide.streams.simulate.doing import mean_satisfaction
from valuetide.streams.simulate.outbox import DAY_SECONDS, Outbox
from valuetide.streams.simulate.people import DAYS_A_WEEK, People
from valuetide.streams.simulate.scenario import Scenario
from valuetide.streams.simulate.shifts import Campaign

VERSION: Final = 1
HORIZONS_DAYS: Final = (90, 365)
DIGITS: Final = 6

_MEANS = ("orders", "revenue", "new_customers", "visits")
_ARMS = ("control", "treatment")


class Truth:
    """Gathers what was true.

    Parameters
    ----------
    scenario, people
        Of the shop.
    """

    def __init__(self, scenario: Scenario, people: People) -> None:
        self._scenario = scenario
        self._people = people
        days, shifts = scenario.days, len(scenario.shifts)
        self._happened = {name: np.zeros(days) for name in (*_MEANS, "customers_there")}
        # With all shifts, with none, and without each of them.
        self._expected = np.zeros((2 + shifts, len(_MEANS), days))
        self._orders = np.zeros(len(people), np.int64)
        self._cents = np.zeros(len(people), np.int64)
        self._campaigns: dict[str, Counter[str]] = {}

    def note_day(
        self, day: int, there: IntArray, bought: Bought, visits: int, expected: list[Expected]
    ) -> None:
        """Note what happened on a day and what was to be expected of it."""
        np.add.at(self._orders, bought.who, 1)
        np.add.at(self._cents, bought.who, bought.cents)
        new = np.searchsorted(self._people.joined, [day, day + 1])
        for name, number in (
            ("orders", len(bought.who)),
            ("revenue", bought.cents.sum() / 100),
            ("new_customers", new[1] - new[0]),
            ("visits", visits),
            ("customers_there", len(there)),
        ):
            self._happened[name][day] = number
        for row, one in enumerate(expected):
            self._expected[row, :, day] = [getattr(one, name) for name in _MEANS]

    def note_campaign(
        self,
        campaign: Campaign,
        who: IntArray,
        treated: BoolArray,
        there: IntArray,
        bought: Bought,
        expected: Expected,
    ) -> None:
        """Note a day of a campaign, arm by arm."""
        # 0 is nobody's arm, 1 control, 2 treatment.
        arm = np.zeros(len(self._people), np.int64)
        arm[who] = 1 + treated
        sums = {
            "orders": np.bincount(arm[bought.who], minlength=3),
            "revenue": np.bincount(arm[bought.who], bought.cents / 100, minlength=3),
            "expected_orders": np.bincount(arm[there], expected.by_customer, minlength=3),
        }
        found = self._campaigns.setdefault(campaign.name, Counter())
        for place, name in enumerate(_ARMS, 1):
            found.update({f"{name} {what}": of[place] for what, of in sums.items()})

    def report(
        self,
        days: int,
        left_at: FloatArray,
        contacts: IntArray,
        outbox: Outbox,
        arms: Mapping[str, tuple[IntArray, BoolArray]],
    ) -> dict[str, Any]:
        """Give it all, ready for JSON.

        Parameters
        ----------
        days
            That were made.
        left_at
            When each customer left, seconds since the beginning; infinite for those who have not.
        contacts
            By day.
        outbox
            Which counts messages.
        arms
            Who was exposed to each campaign that has begun, and whether in treatment.
        """
        scenario = self._scenario
        return {
            "version": VERSION,
            "name": scenario.prefix,
            "numpy": np.__version__,
            "scenario": scenario.model_dump(mode="json"),
            "start": self._time(0.0),
            "end": self._time(scenario.days * DAY_SECONDS),
            "complete": days == scenario.days,
            "shifts": [self._shift(number, days) for number in range(len(scenario.shifts))],
            "campaigns": [
                self._campaign(campaign, *arms[campaign.name])
                for campaign in scenario.campaigns
                if campaign.name in arms
            ],
            "attributes": {
                name: {"role": one.role, "penalty": one.penalty, "reward": one.reward}
                for name, one in scenario.feedback.attributes.items()
            },
            "days": self._days(days, contacts),
            "customers": self._customers(days, left_at),
            "messages": {role: _counts(role, outbox) for role in INPUTS},
        }

    def _shift(self, number: int, days: int) -> dict[str, Any]:
        shift = self._scenario.shifts[number]
        times = {
            "start": self._time(shift.start_day * DAY_SECONDS),
            "end": None if shift.end_day is None else self._time(shift.end_day * DAY_SECONDS),
        }
        if shift.topic is not None:
            return {"kind": shift.kind, "topic": shift.topic, **times}
        end = self._scenario.days if shift.end_day is None else shift.end_day
        there = slice(int(shift.start_day), min(days, int(np.ceil(end))))
        as_it_is, without = (self._expected[row, :, there] for row in (0, 2 + number))
        change = (as_it_is - without).sum(axis=1)
        base = without.sum(axis=1)
        length = max(1, as_it_is.shape[1])
        effects = {
            name: None if whole == 0 else round(moved / whole, DIGITS)
            for name, moved, whole in zip(_MEANS, change.tolist(), base.tolist(), strict=True)
        }
        if shift.metric == "satisfaction":
            answers = self._scenario.feedback
            moved = mean_satisfaction(answers, shift.size) - mean_satisfaction(answers)
            effects["satisfaction"] = round(moved, DIGITS)
        return {
            **shift.model_dump(mode="json", exclude_none=True),
            **times,
            "effect": effects,
            "revenue_per_day": round(float(change[_MEANS.index("revenue")]) / length, 2),
        }

    def _campaign(self, campaign: Campaign, who: IntArray, treated: BoolArray) -> dict[str, Any]:
        found = self._campaigns.get(campaign.name, Counter())
        arms = {
            name: {
                "customers": int((treated == bool(place)).sum()),
                "orders": int(found[f"{name} orders"]),
                "revenue": round(float(found[f"{name} revenue"]), 2),
                "expected_orders": round(float(found[f"{name} expected_orders"]), DIGITS),
            }
            for place, name in enumerate(_ARMS)
        }
        return {
            **campaign.model_dump(mode="json"),
            "exposed": self._time(campaign.start_day * DAY_SECONDS),
            "start": self._time((campaign.start_day + 1) * DAY_SECONDS),
            "end": self._time((campaign.start_day + 1 + campaign.days) * DAY_SECONDS),
            "treatment_ids": [self._people.ids[row] for row in who[treated].tolist()],
            **arms,
        }

    def _days(self, days: int, contacts: IntArray) -> dict[str, list[Any]]:
        start = np.datetime64(self._scenario.start)
        columns: dict[str, list[Any]] = {"date": (start + np.arange(days)).astype(str).tolist()}
        for name, happened in self._happened.items():
            columns[name] = _rounded(happened[:days], 2)
        columns["contacts"] = contacts[:days].tolist()
        for place, name in enumerate(_MEANS):
            columns[f"expected_{name}"] = _rounded(self._expected[0, place, :days])
            columns[f"expected_{name}_without_shifts"] = _rounded(self._expected[1, place, :days])
        holidays = self._scenario.calendar().holidays
        first = int(start.astype(int))
        columns["holiday"] = [holidays.get(first + day) for day in range(days)]
        return columns

    def _customers(self, days: int, left_at: FloatArray) -> dict[str, list[Any]]:
        people, scenario = self._people, self._scenario
        # Those who came by then; customers are in that order.
        n = int(np.searchsorted(people.joined, days))
        rate, leave = people.rate[:n], people.leave[:n]
        left = left_at[:n]
        columns: dict[str, list[Any]] = {
            "customer_id": people.ids[:n],
            "first_order_day": people.joined[:n].tolist(),
            "left_at": [None if at == np.inf else self._time(at) for at in left.tolist()],
            "orders_per_week": _rounded(rate * DAYS_A_WEEK),
            "leave_chance": _rounded(leave),
            "mean_order_value": _rounded(scenario.spend.p / people.scale[:n]),
            "visits_per_week": _rounded(people.visit_rate[:n] * DAYS_A_WEEK),
            "mood": _rounded(people.mood[:n]),
            "source": [list(scenario.sources)[place] for place in people.source[:n].tolist()],
            "channel": [list(scenario.channels)[place] for place in people.home[:n].tolist()],
            "orders": self._orders[:n].tolist(),
            "revenue": _rounded(self._cents[:n] / 100, 2),
        }
        for horizon in HORIZONS_DAYS:
            ahead = -np.expm1(-rate * horizon * leave) / leave
            columns[f"orders_in_next_{horizon}d"] = _rounded(np.where(left == np.inf, ahead, 0.0))
        return columns

    def _time(self, seconds: float) -> str:
        at = datetime.fromtimestamp(self._scenario.start_seconds + seconds, UTC)
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _counts(role: str, outbox: Outbox) -> dict[str, Any]:
    """Count the messages of a topic: ``events`` are different and sound ones."""
    sent = {(kind, mark): n for (of, kind, mark), n in outbox.sent.items() if of == role}

    def marked(*marks: str) -> int:
        return sum(n for (_, mark), n in sent.items() if mark in marks)

    kinds: Counter[str] = Counter()
    for (kind, mark), n in sent.items():
        if mark in ("event", "late"):
            kinds[kind] += n
    return {
        "sent": sum(sent.values()),
        "events": marked("event", "late"),
        "late": marked("late"),
        "duplicates": marked("duplicate"),
        "bad": marked("bad"),
        "withheld": sum(n for (of, _, _), n in outbox.withheld.items() if of == role),
        "kinds": dict(sorted(kinds.items())),
    }


def _rounded(values: FloatArray, digits: int = DIGITS) -> list[Any]:
    rounded: list[Any] = np.round(values, digits).tolist()
    return rounded
