"""What a simulated shop is like: one frozen model, from defaults, a TOML file and options.

A file has the fields of the models below; what it leaves out is as by default::

    customers = 20_000
    shifts = ["level:-20%@200", { kind = "variance", size = 1.0, start_day = 250 }]
    channels = { web = 3, store = 1 }

    [season]
    spread = 0.1
    [season.holidays.fair]
    dates = ["05-01"]
    factor = 2.0

    [feedback.attributes]
    delivery = { role = "hygiene", strength = 0.9 }
"""

import hashlib
import tomllib
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from valuetide.schemas.events import CurrencyCode, Identifier
from valuetide.scoring.arrays import FloatArray
from valuetide.scoring.lifetime.parameters import Purchases, Spend
from valuetide.scoring.trends.calendar import Calendar
from valuetide.streams.simulate.errors import ScenarioError
from valuetide.streams.simulate.shifts import Campaign, Shift

EPOCH: Final = date(1970, 1, 1)
SMALLEST, LARGEST = 1e-3, 1e6  # of the models' parameters
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Weights = Annotated[dict[Identifier, Weight], Field(min_length=1, max_length=64)]

# Few at night, most in the evening: the usual day of an online shop.
_HOURS = (2, 1, 1, 1, 1, 2, 4, 6, 8, 10, 12, 12, 12, 11, 10, 10, 11, 12, 14, 16, 16, 13, 9, 5)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Holiday(_Part):
    """Days on which demand is another: ``MM-DD`` of every year, or ``YYYY-MM-DD``."""

    dates: tuple[Annotated[str, Field(pattern=r"^(\d{4}-)?\d{2}-\d{2}$")], ...]
    factor: Weight


class Season(_Part):
    """How demand goes with the calendar.

    Attributes
    ----------
    weekdays
        Monday to Sunday; only their ratios count.
    yearly_amplitude, yearly_peak_day
        One wave a year: how high, relative to the mean, and on which day of the year it is highest.
    hours
        Weights of the 24 hours of a day, UTC.
    holidays
        By name, each with a factor of its own.
    spread
        Standard deviation of a day's demand beside all this, relative; it moves all customers
        together.
    """

    weekdays: tuple[Positive, Positive, Positive, Positive, Positive, Positive, Positive] = (
        (0.95, 0.9, 0.95, 1.0, 1.1, 1.15, 0.95)
    )  # fmt: skip
    yearly_amplitude: Annotated[float, Field(ge=0, lt=1)] = 0.1
    yearly_peak_day: Annotated[float, Field(ge=0, le=366)] = 340
    hours: Annotated[tuple[Weight, ...], Field(min_length=24, max_length=24)] = _HOURS
    holidays: dict[Identifier, Holiday] = {
        "christmas": Holiday(dates=("12-25", "12-26"), factor=0.4),
        "new-year": Holiday(dates=("01-01",), factor=0.5),
        "singles-day": Holiday(dates=("11-11",), factor=1.8),
    }
    spread: Annotated[float, Field(ge=0, le=1)] = 0.05

    @model_validator(mode="after")
    def _some_hour(self) -> Self:
        if sum(self.hours) <= 0:
            raise ValueError("hours: at least one weight is above 0")
        return self


class Category(_Part):
    """Articles of one kind: their weight among all lines of orders, and their margin."""

    weight: Weight
    margin: Share


class Orders(_Part):
    """What becomes of orders: shares that are cancelled within a day or returned within 16."""

    cancelled: Share = 0.02
    returned: Share = 0.08


class Interactions(_Part):
    """What customers do between orders.

    Attributes
    ----------
    visits_per_week
        Mean of customers who have not left; gamma distributed with shape 2. None after they left.
    tied_to_orders
        Share of a customer's rate of visits that is in proportion to their rate of orders.
    views, searches, carts
        Of a visit, on average.
    opens_per_week, opens_when_gone, clicks
        Mails opened; that rate of those who have left, relative; clicks of an opened mail.
    referrals_per_week
        Of customers who have not left.
    contacts, contact_cost
        Of an order of a customer with a usual mood, on average, and what one costs.
    """

    visits_per_week: Weight = 0.6
    tied_to_orders: Share = 0.5
    views: Weight = 1.2
    searches: Share = 0.2
    carts: Share = 0.1
    opens_per_week: Weight = 0.25
    opens_when_gone: Share = 0.25
    clicks: Share = 0.3
    referrals_per_week: Weight = 0.005
    contacts: Share = 0.06
    contact_cost: Weight = 4.5


class Attribute(_Part):
    """An attribute of the offer, and what it does to overall satisfaction.

    ``hygiene`` lowers it by ``strength`` when the attribute is low, ``delighter`` raises it when
    it is high, ``performance`` does both, ``neutral`` neither. Strength is in points of a scale
    from 1 to 5, where 1 and 2 are low and 4 and 5 are high.
    """

    role: Literal["hygiene", "performance", "delighter", "neutral"]
    strength: Annotated[float, Field(ge=0, le=2)] = 0.5

    @property
    def penalty(self) -> float:
        """Change of satisfaction where the attribute is low, 0 or below."""
        return -self.strength if self.role in ("hygiene", "performance") else 0.0

    @property
    def reward(self) -> float:
        """Change of satisfaction where the attribute is high, 0 or above."""
        return self.strength if self.role in ("delighter", "performance") else 0.0


class Feedback(_Part):
    """What customers say.

    Attributes
    ----------
    share
        Of orders that are followed by an answer, one to eight days later.
    competitors, competitor_share
        Other shops, and the share of answers that are about one of them.
    attributes
        What is asked about; at most 100.
    noise
        Standard deviation of overall satisfaction beside the attributes, points of 1 to 5.
    drives_dropout
        How much a customer's mood moves the chance to leave after an order: change of its log
        odds for one standard deviation less. 0: not at all.
    """

    share: Share = 0.12
    competitors: tuple[Identifier, ...] = ("northwind", "bluebird")
    competitor_share: Share = 0.05
    attributes: Annotated[dict[Identifier, Attribute], Field(max_length=100)] = {
        "delivery": Attribute(role="hygiene", strength=0.9),
        "quality": Attribute(role="performance", strength=0.5),
        "service": Attribute(role="delighter", strength=0.7),
        "price": Attribute(role="performance", strength=0.3),
        "packaging": Attribute(role="neutral"),
    }
    noise: Annotated[float, Field(ge=0, le=2)] = 0.5
    drives_dropout: Annotated[float, Field(ge=0, le=5)] = 0.0


class Noise(_Part):
    """What goes wrong on the way.

    Attributes
    ----------
    duplicates
        Share of events that are sent twice, the second time within minutes.
    late, late_hours
        Share of events that come late, and their mean delay.
    bad
        Events that no worker can accept, sent beside the others, relative to their number.
    """

    duplicates: Share = 0.001
    late: Share = 0.01
    late_hours: Positive = 6.0
    bad: Share = 0.0


class Scenario(_Part):
    """A shop, and what is planted in it.

    Attributes
    ----------
    seed
        The same scenario with the same seed gives the same bytes.
    name
        Begins every id. By default made from the scenario, so that no two are taken for one.
    start, days
        First day (UTC) and number of days.
    customers
        Who buy for the first time on these days or on the ``warm_up_days`` before, on average.
    warm_up_days
        Days of which nothing is sent, so that the shop has customers when it begins. To a worker
        they are new at the first order that it sees, so there new customers fall at first.
    purchases, spend
        MBG/NBD with weeks as unit, and Gamma-Gamma.
    channels, loyalty
        Weights; a customer has one of their own, and goes through it with chance ``loyalty`` and
        else through any.
    sources
        Weights of what brought customers; orders carry it as ``source_code``.
    """

    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    name: Annotated[str, Field(min_length=1, max_length=40)] | None = None
    start: date = date(2024, 1, 1)
    days: Annotated[int, Field(ge=1, le=36_525)] = 365
    customers: Annotated[int, Field(ge=1, le=20_000_000)] = 2_000
    warm_up_days: Annotated[int, Field(ge=0, le=36_525)] = 365
    currency: CurrencyCode = "EUR"
    purchases: Purchases = Purchases(r=0.9, alpha=5.0, a=0.8, b=2.5)
    spend: Spend = Spend(p=6.0, q=4.0, gamma=15.0)
    channels: Weights = {"web": 0.5, "app": 0.2, "store": 0.2, "marketplace": 0.1}
    loyalty: Share = 0.8
    sources: Weights = {"search": 0.4, "social": 0.25, "referral": 0.2, "affiliate": 0.15}
    categories: Annotated[dict[Identifier, Category], Field(min_length=1, max_length=64)] = {
        "garden": Category(weight=0.2, margin=0.45),
        "home": Category(weight=0.3, margin=0.5),
        "kitchen": Category(weight=0.3, margin=0.35),
        "toys": Category(weight=0.2, margin=0.3),
    }
    season: Season = Season()
    orders: Orders = Orders()
    interactions: Interactions = Interactions()
    feedback: Feedback = Feedback()
    campaigns: tuple[Campaign, ...] = ()
    noise: Noise = Noise()
    shifts: tuple[Shift, ...] = ()

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        model, money = self.purchases, self.spend
        numbers = (model.r, model.alpha, model.a, model.b, money.p, money.q, money.gamma)
        if not all(SMALLEST <= number <= LARGEST for number in numbers):
            raise ValueError(f"purchases, spend: parameters are {SMALLEST:g} to {LARGEST:,.0f}")
        if money.q <= 1:
            raise ValueError("spend.q: is above 1, or there is no mean")
        for name in ("channels", "sources"):
            if sum(getattr(self, name).values()) <= 0:
                raise ValueError(f"{name}: at least one weight is above 0")
        if sum(category.weight for category in self.categories.values()) <= 0:
            raise ValueError("categories: at least one weight is above 0")
        for shift in self.shifts:
            if shift.start_day >= self.days:
                raise ValueError(f"shifts: day {shift.start_day:g} is after the last day")
            if shift.channel not in (None, *self.channels):
                raise ValueError(f"shifts: {shift.channel} is none of {', '.join(self.channels)}")
            if shift.source not in (None, *self.sources):
                raise ValueError(f"shifts: {shift.source} is none of {', '.join(self.sources)}")
        names = [campaign.name for campaign in self.campaigns]
        if len(set(names)) < len(names):
            raise ValueError("campaigns: each has a name of its own")
        for campaign in self.campaigns:
            if campaign.start_day >= self.days:
                raise ValueError(f"campaigns: {campaign.name} starts after the last day")
        return self

    @property
    def digest(self) -> str:
        """The same text for the same scenario, another one for any other."""
        return hashlib.blake2b(self.model_dump_json().encode(), digest_size=16).hexdigest()

    @property
    def prefix(self) -> str:
        """What ids begin with: the name, or one made from the scenario."""
        return self.name or f"sim-{self.digest[:8]}"

    @property
    def start_seconds(self) -> float:
        """Beginning of the first day, epoch seconds."""
        return datetime(self.start.year, self.start.month, self.start.day, tzinfo=UTC).timestamp()

    @property
    def end(self) -> date:
        """First day after the simulation."""
        return self.start + timedelta(days=self.days)

    def calendar(self) -> Calendar:
        """Give the calendar of the simulated days, warm-up included, with its holidays."""
        named = {day: name for name, one in self.season.holidays.items() for day in one.dates}
        holidays = {}
        for number in range(-self.warm_up_days, self.days):
            day = self.start + timedelta(days=number)
            name = named.get(f"{day:%m-%d}") or named.get(day.isoformat())
            if name is not None:
                holidays[(day - EPOCH).days] = name
        return Calendar(holidays=holidays)


def shares(weights: Mapping[str, float]) -> FloatArray:
    """Weights as shares of their sum, in their order.

    Examples
    --------
    >>> shares({"web": 3.0, "app": 1.0}).tolist()
    [0.75, 0.25]
    """
    values = np.array(list(weights.values()), np.float64)
    total: float = values.sum()
    return values / total


def make_scenario(file: Path | None = None, given: Mapping[str, Any] | None = None) -> Scenario:
    """Make a scenario of a TOML file and of options, which win field by field.

    Parameters
    ----------
    file
        Fields as the models of this module name them; ``None``: all as by default.
    given
        Fields, nested ones as mappings; shifts and campaigns are added to those of the file.

    Raises
    ------
    ScenarioError
        When the file cannot be read, or a field is wrong or unknown.
    """
    fields: dict[str, Any] = {}
    if file is not None:
        try:
            fields = tomllib.loads(file.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ScenarioError(f"{file}: {error}") from None
    for name, value in (given or {}).items():
        if name in ("shifts", "campaigns"):
            fields[name] = [*fields.get(name, ()), *value]
        elif isinstance(value, Mapping) and isinstance(fields.get(name, {}), Mapping):
            fields[name] = {**fields.get(name, {}), **value}
        else:
            fields[name] = value
    try:
        return Scenario.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ScenarioError(
            f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
        ) from None
