"""What customers do and say: returns, visits, mails, contacts, answers, exposures."""

from typing import Any, Final

import numpy as np
from scipy.special import ndtr

from valuetide.scoring.arrays import BoolArray, FloatArray, IntArray
from valuetide.streams.simulate.buying import DAY_SECONDS, Bought, Buying, Outlook
from valuetide.streams.simulate.chance import chance
from valuetide.streams.simulate.events import Writer
from valuetide.streams.simulate.outbox import Message
from valuetide.streams.simulate.people import DAYS_A_WEEK, People
from valuetide.streams.simulate.scenario import Feedback, Scenario, shares
from valuetide.streams.simulate.shifts import Campaign

HOUR: Final = 3_600.0
ONLINE: Final = ("web", "app")
"""Channels through which one looks around; customers of another one do so through the first."""

MORE_LINES, MOST_LINES = 0.6, 5  # mean beyond the first, and most in all
SKUS: Final = 200  # articles of a category
FAVOURITE: Final = 0.5
"""Share of lines from a customer's own category."""

CANCELLED_HOURS = (0.5, 24.0)
RETURNED_DAYS = (2.0, 16.0)
RETURNED_WHOLE = 0.7
CONTACT_DAYS = (0.1, 5.0)
ANSWER_DAYS = (1.0, 8.0)
COMPLAINTS = 0.25
"""Share of contacts."""

MOOD_OF_CONTACTS = 0.5
"""A customer whose mood is a standard deviation lower turns to the shop 1.65 times as often."""

ANSWERS: Final = ("csat", "rating", "nps")
ANSWER_SHARES: Final = (0.5, 0.3, 0.2)
USUAL_LEVEL, MOOD_OF_LEVEL, BASE_SATISFACTION = 3.2, 0.6, 3.1
"""Of attributes, on a scale from 1 to 5; what the mood adds; and overall without attributes."""

LOW, HIGH = 2, 4


def mean_satisfaction(feedback: Feedback, shift: float = 0.0) -> float:
    """Give the mean overall satisfaction, before it is cut to 1 to 5 and rounded.

    Parameters
    ----------
    feedback
        Attributes and their roles.
    shift
        Of the mood, in its standard deviations.

    Examples
    --------
    >>> delivery = {"delivery": {"role": "hygiene", "strength": 1.0}}
    >>> feedback = Feedback.model_validate({"attributes": delivery})
    >>> round(mean_satisfaction(feedback, 10.0), 3)  # never low
    3.1
    >>> round(mean_satisfaction(feedback, -10.0), 3)  # always low
    2.1
    """
    # A level is the mood and noise of its own, both normal, rounded.
    spread = np.sqrt(1 + MOOD_OF_LEVEL**2)
    mean = USUAL_LEVEL + MOOD_OF_LEVEL * shift
    low = float(ndtr((LOW + 0.5 - mean) / spread))
    high = float(ndtr((mean - (HIGH - 0.5)) / spread))
    roles = feedback.attributes.values()
    return BASE_SATISFACTION + sum(one.penalty * low + one.reward * high for one in roles)


class Doing:
    """Draws and writes everything that happens on a day.

    Attributes
    ----------
    contacts
        Number by day of the simulation, also of days to come, (days,).
    """

    def __init__(
        self, scenario: Scenario, people: People, outlook: Outlook, buying: Buying
    ) -> None:
        self._scenario = scenario
        self._people = people
        self._outlook = outlook
        self._buying = buying
        self._write = Writer(scenario, people)
        self._orders = 0
        self._channels = list(scenario.channels)
        online = [name for name in self._channels if name in ONLINE] or self._channels[:1]
        self._online = [name if name in online else online[0] for name in self._channels]
        self._is_online = np.array([name in online for name in self._channels])
        self._categories = list(scenario.categories)
        self._weights = shares({name: of.weight for name, of in scenario.categories.items()})
        self._margins = np.array([of.margin for of in scenario.categories.values()])
        own = chance(scenario.seed, "favourite")
        self._favourite = own.choice(len(self._categories), len(people), p=self._weights)
        self._skus = [f"{name}-{sku:03d}" for name in self._categories for sku in range(SKUS)]
        self.contacts: IntArray = np.zeros(scenario.days, np.int64)

    def orders(self, day: int, bought: Bought) -> list[Message]:
        """Write the orders of a day, what becomes of them, and what led to them."""
        who, at, channel, cents = bought
        n = len(who)
        number = np.arange(self._orders, self._orders + n)
        self._orders += n
        items, cost = self._lines(day, who, cents)
        write, of = self._write.orders, self._scenario.orders
        messages = write("placed", who, at, number, cents, cost, channel, items)
        draw = chance(self._scenario.seed, "returns", day)
        fate = draw.random(n)
        cancelled = fate < of.cancelled
        later = at + draw.uniform(*CANCELLED_HOURS, n) * HOUR
        nothing = np.zeros(n, np.int64)
        messages += write(
            "cancelled", *_where(cancelled, who, later, number, cents, nothing, channel)
        )
        returned = ~cancelled & (fate < of.cancelled + (1 - of.cancelled) * of.returned)
        later = at + draw.uniform(*RETURNED_DAYS, n) * DAY_SECONDS
        part = np.where(draw.random(n) < RETURNED_WHOLE, 1.0, draw.uniform(0.3, 0.7, n))
        back, got = (np.floor(sums * part).astype(np.int64) for sums in (cents, cost))
        messages += write("returned", *_where(returned, who, later, number, back, got, channel))
        looked = self._is_online[channel]
        before = np.maximum(at - draw.uniform(2, 40, n) * 60, day * DAY_SECONDS)
        through = [self._channels[place] for place in channel[looked].tolist()]
        messages += self._interactions("view", who[looked], before[looked], through)
        cart = np.maximum(at - 60.0, day * DAY_SECONDS)
        messages += self._interactions("cart", who[looked], cart[looked], through)
        return messages + self._contacts(day, bought) + self._answers(day, bought)

    def visits(self, day: int, there: IntArray) -> tuple[int, list[Message]]:
        """Write the visits of a day of those who were there when it began, and what follows."""
        doing, people = self._scenario.interactions, self._people
        draw = chance(self._scenario.seed, "visits", day)
        table = self._outlook.visits[day + self._scenario.warm_up_days]
        mean = people.visit_rate[there] * table[people.source[there], people.home[there]]
        who = np.repeat(there, draw.poisson(mean))
        at = day * DAY_SECONDS + self._buying.times(draw, len(who))
        count = len(who)
        messages = self._interactions("visit", who, at, self._through(who))
        for kind, many in (
            ("view", draw.poisson(doing.views, count)),
            ("search", draw.binomial(1, doing.searches, count)),
            ("cart", draw.binomial(1, doing.carts, count)),
        ):
            again = np.repeat(who, many)
            then = np.repeat(at, many) + draw.uniform(5, 900, len(again))
            messages += self._interactions(kind, again, then, self._through(again))
        return count, messages

    def mails(self, day: int, there: IntArray, gone: IntArray) -> list[Message]:
        """Write opened mails, clicks and referrals of a day."""
        doing = self._scenario.interactions
        draw = chance(self._scenario.seed, "mails", day)
        a_day = doing.opens_per_week / DAYS_A_WEEK
        who = np.concatenate(
            [_some(draw, there, a_day), _some(draw, gone, a_day * doing.opens_when_gone)]
        )
        at = day * DAY_SECONDS + self._buying.times(draw, len(who))
        clicks = draw.random(len(who)) < doing.clicks
        then = at[clicks] + draw.uniform(2, 60, int(clicks.sum()))
        write = self._write.interactions
        messages = write("open", who, at, ["email"] * len(who))
        messages += write("click", who[clicks], then, ["email"] * len(then))
        who = _some(draw, there, doing.referrals_per_week / DAYS_A_WEEK)
        at = day * DAY_SECONDS + self._buying.times(draw, len(who))
        return messages + write("referral", who, at, ["social"] * len(who))

    def exposures(
        self, day: int, campaign: Campaign, who: IntArray, treated: BoolArray
    ) -> list[Message]:
        """Write the exposures of a campaign; those of the control arm cost nothing."""
        draw = chance(self._scenario.seed, f"exposures {campaign.name}", day)
        at = day * DAY_SECONDS + self._buying.times(draw, len(who))
        base = {"campaign_id": campaign.name}
        arms = (
            {**base, "arm": "control"},
            {**base, "arm": "treatment", "cost": campaign.cost},
        )
        more = [arms[arm] for arm in treated.astype(int).tolist()]
        return self._write.interactions("exposure", who, at, ["email"] * len(who), more)

    def _lines(
        self, day: int, who: IntArray, cents: IntArray
    ) -> tuple[list[list[dict[str, Any]]], IntArray]:
        """Draw the lines of orders, which sum to their amounts, and the cost of their goods."""
        draw = chance(self._scenario.seed, "lines", day)
        lines = np.minimum(1 + draw.poisson(MORE_LINES, len(who)), MOST_LINES)
        start = np.cumsum(lines) - lines
        order = np.repeat(np.arange(len(who)), lines)
        n = len(order)
        category = draw.choice(len(self._weights), n, p=self._weights)
        own = draw.random(n) < FAVOURITE
        category[own] = self._favourite[who[order[own]]]
        weight = draw.exponential(1.0, n)
        upto = np.cumsum(weight)
        before = np.repeat(upto[start] - weight[start], lines)
        total = np.add.reduceat(weight, start) if n else weight
        # Each line ends at its share of the amount: the last one at the whole of it.
        ends = np.rint((upto - before) / total[order] * cents[order]).astype(np.int64)
        ends[start + lines - 1] = cents
        price = np.diff(ends, prepend=0)
        price[start] = ends[start]
        spent = np.rint(price * (1 - self._margins[category])).astype(np.int64)
        cost: IntArray = np.add.reduceat(spent, start) if n else spent
        sku = category * SKUS + draw.integers(SKUS, size=n)
        names, skus = self._categories, self._skus
        flat = [
            {"sku": skus[article], "category": names[of], "quantity": 1, "unit_price": each}
            for article, of, each in zip(
                sku.tolist(), category.tolist(), (price / 100).tolist(), strict=True
            )
        ]
        return [flat[a : a + k] for a, k in zip(start.tolist(), lines.tolist(), strict=True)], cost

    def _contacts(self, day: int, bought: Bought) -> list[Message]:
        scenario, people = self._scenario, self._people
        draw = chance(scenario.seed, "contacts", day)
        who, n = bought.who, len(bought.who)
        at = bought.at + draw.uniform(*CONTACT_DAYS, n) * DAY_SECONDS
        # The day of the contact counts, not that of the order.
        then = np.minimum((at // DAY_SECONDS).astype(np.int64), scenario.days - 1)
        table = self._outlook.profile.contacts
        factor = table[then + scenario.warm_up_days, people.source[who], bought.channel]
        mood = self._buying.mood(self._outlook, day, who)
        # Divided by its mean over a standard normal mood.
        moody = np.exp(-MOOD_OF_CONTACTS * mood - MOOD_OF_CONTACTS**2 / 2)
        some = draw.random(n) < scenario.interactions.contacts * factor * moody
        complains = draw.random(n) < COMPLAINTS
        np.add.at(self.contacts, then[some & (at < scenario.days * DAY_SECONDS)], 1)
        cost = {"cost": scenario.interactions.contact_cost}
        messages = []
        for kind, chosen in (("contact", some & ~complains), ("complaint", some & complains)):
            rows = np.flatnonzero(chosen)
            messages += self._write.interactions(
                kind, who[rows], at[rows], ["phone"] * len(rows), [cost] * len(rows)
            )
        return messages

    def _answers(self, day: int, bought: Bought) -> list[Message]:
        of = self._scenario.feedback
        draw = chance(self._scenario.seed, "feedback", day)
        some = np.flatnonzero(draw.random(len(bought.who)) < of.share)
        who, n = bought.who[some], len(some)
        at = bought.at[some] + draw.uniform(*ANSWER_DAYS, n) * DAY_SECONDS
        about = np.zeros(n, np.int64)  # 0 is us
        if of.competitors:
            other = draw.integers(1, len(of.competitors) + 1, n)
            about = np.where(draw.random(n) < of.competitor_share, other, 0)
        mood = self._buying.mood(self._outlook, day, who)
        mood = np.where(about > 0, draw.standard_normal(n), mood)
        names, roles = list(of.attributes), list(of.attributes.values())
        level = USUAL_LEVEL + MOOD_OF_LEVEL * mood[:, None] + draw.standard_normal((n, len(names)))
        level = np.clip(np.rint(level), 1, 5)
        score = BASE_SATISFACTION + of.noise * draw.standard_normal(n)
        score += (level <= LOW) @ np.array([role.penalty for role in roles], np.float64)
        score += (level >= HIGH) @ np.array([role.reward for role in roles], np.float64)
        score = np.clip(score, 1, 5)
        kind = draw.choice(len(ANSWERS), n, p=ANSWER_SHARES)
        nps = ANSWERS.index("nps")
        score = np.rint(np.where(kind == nps, (score - 1) * 2.5, score))
        level = np.where((kind == nps)[:, None], (level - 1) * 2.5, level)
        subjects = ("us", *of.competitors)
        answers = [
            {
                "score": overall,
                "scale": (0, 10) if what == nps else (1, 5),
                "attributes": dict(zip(names, levels, strict=True)),
                "subject": subjects[whom],
                "source": "review" if ANSWERS[what] == "rating" else "survey",
            }
            for overall, what, levels, whom in zip(
                score.tolist(), kind.tolist(), level.tolist(), about.tolist(), strict=True
            )
        ]
        return self._write.feedback([ANSWERS[what] for what in kind.tolist()], who, at, answers)

    def _interactions(
        self, kind: str, who: IntArray, at: FloatArray, through: list[str]
    ) -> list[Message]:
        """Write what is about a category: in most cases the customer's own."""
        names = self._categories
        more = [{"category": names[of]} for of in self._favourite[who].tolist()]
        return self._write.interactions(kind, who, at, through, more)

    def _through(self, who: IntArray) -> list[str]:
        return [self._online[home] for home in self._people.home[who].tolist()]


def _where(chosen: BoolArray, *columns: Any) -> list[Any]:
    return [column[chosen] for column in columns]


def _some(draw: np.random.Generator, who: IntArray, rate: float) -> IntArray:
    """Draw whom a Poisson process with the same rate for each meets."""
    count = draw.poisson(len(who) * rate)
    return who[draw.integers(len(who), size=count)] if count else who[:0]
