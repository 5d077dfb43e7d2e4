"""What is planted into a shop: shifts and campaigns, and how they are written on a command line.

A shift is written, with days counted from the start of the simulation::

    level:-20%@200                          from day 200 on a fifth fewer orders
    level:-30%@250+14,channel=web           two weeks, orders by the web alone
    slope:-40%@100+60,source=social         sinks for 60 days, then stays there
    variance:+100%@150                      demand varies twice as much from day to day
    level:-10%@200,metric=amount            orders are a tenth smaller
    outage:orders@300.5+6h                  from noon of day 300 on nothing on a topic, for 6 hours

A campaign is ``NAME:+15%@120+14``: exposed on day 120, the treated buy 15 % more for the 14 days
after it.
"""

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from valuetide.schemas.events import Identifier

Role = Literal["orders", "interactions", "feedback"]
Metric = Literal["orders", "amount", "arrivals", "visits", "contacts", "satisfaction"]

HOURS_A_DAY: Final = 24.0
_SIZE = r"(?P<size>[+-]?\d+(\.\d+)?)%"
_WHEN = r"@(?P<start>\d+(\.\d+)?)(\+(?P<lasts>\d+(\.\d+)?)(?P<unit>[dh]?))?"
_SHIFT: Final = re.compile(rf"(?P<kind>level|slope|variance):{_SIZE}{_WHEN}(?P<scope>(,.*)?)")
_OUTAGE: Final = re.compile(rf"(outage:)?(?P<topic>[a-z]+){_WHEN}")
_CAMPAIGN: Final = re.compile(rf"(?P<name>[^:]+):{_SIZE}{_WHEN}")


class Shift(BaseModel):
    """One thing that changes in the shop, or in what is sent of it.

    Attributes
    ----------
    kind
        ``level``: at once. ``slope``: evenly over ``lasts_days``, and then it stays. ``variance``:
        demand varies more from day to day, its mean stays. ``outage``: nothing is sent to a topic.
    size
        Relative change, -0.2 for a fifth less; of ``satisfaction``: in standard deviations of it;
        of ``variance``: of the standard deviation of a day's demand.
    start_day
        Days from the start of the simulation: whole ones, but for an outage.
    lasts_days
        How long; ``None``: to the end.
    metric
        What changes. ``orders``: how many, first ones included, and so revenue. ``amount``: how
        large they are. ``arrivals``: how many customers come for the first time. ``visits``,
        ``contacts``: how many. ``satisfaction``: what customers experience.
    channel, source
        Only what goes through this channel, only customers of this source. Visits and
        satisfaction go by the customer's own channel.
    topic
        Which falls silent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["level", "slope", "variance", "outage"]
    size: Annotated[float, Field(ge=-5, le=100)] = 0.0
    start_day: Annotated[float, Field(ge=0)]
    lasts_days: Annotated[float, Field(gt=0)] | None = None
    metric: Metric = "orders"
    channel: str | None = None
    source: str | None = None
    topic: Role | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, given: Any) -> Any:
        return _shift_fields(given) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.kind == "outage":
            if self.topic is None or self.lasts_days is None:
                raise ValueError("an outage has a topic and a length, as in orders@300+6h")
            if self.size or self.channel or self.source or self.metric != "orders":
                raise ValueError("an outage is of a whole topic: no size, metric, channel, source")
            return self
        if self.topic is not None:
            raise ValueError("topic: only of an outage")
        if self.size == 0:
            raise ValueError("size: must not be 0")
        if self.size < -1 and self.metric != "satisfaction":
            raise ValueError("size: nothing can fall by more than 100 %")
        if self.start_day % 1 or (self.lasts_days or 0) % 1:
            raise ValueError("start_day, lasts_days: whole days, but for an outage")
        if self.kind == "slope" and self.lasts_days is None:
            raise ValueError("a slope has a length, as in slope:-40%@100+60")
        if self.kind == "variance" and self.metric != "orders":
            raise ValueError("a variance is of the metric orders")
        return self

    @property
    def end_day(self) -> float | None:
        """Day on which it is over; ``None``: never."""
        if self.kind == "slope" or self.lasts_days is None:
            return None
        return self.start_day + self.lasts_days


class Campaign(BaseModel):
    """A campaign whose customers are divided into two arms by chance.

    Attributes
    ----------
    name
        Its ``campaign_id``.
    start_day
        Day on which everybody who has bought by then is exposed; control: noted, not addressed.
    days
        Days, from the next one on, on which the treated buy more.
    lift
        How much more, relative to what they would have bought.
    treated
        Share in the treatment arm.
    cost
        Of addressing one customer, in the shop's currency.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Identifier
    start_day: Annotated[int, Field(ge=0)]
    days: Annotated[int, Field(ge=1)] = 14
    lift: Annotated[float, Field(ge=-1, le=100)]
    treated: Annotated[float, Field(gt=0, lt=1)] = 0.5
    cost: Annotated[float, Field(ge=0, le=1e6)] = 0.4

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        match = _CAMPAIGN.fullmatch(given)
        if match is None:
            raise ValueError(f"{given!r} is not like spring:+15%@120+14")
        fields = {"name": match["name"], "start_day": float(match["start"])}
        fields["lift"] = float(match["size"]) / 100
        lasts = _days(match)
        return fields if lasts is None else fields | {"days": lasts}


def _shift_fields(text: str) -> dict[str, Any]:
    match = _SHIFT.fullmatch(text)
    if match is not None:
        scope = [part.partition("=") for part in match["scope"].split(",")[1:]]
        if any(name not in ("metric", "channel", "source") or not to for name, _, to in scope):
            raise ValueError(f"{text!r}: what follows a comma is metric=, channel= or source=")
        fields = {"kind": match["kind"], "size": float(match["size"]) / 100}
        fields |= {name: to for name, _, to in scope}
    else:
        match = _OUTAGE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not like level:-20%@200 or outage:orders@300+6h")
        fields = {"kind": "outage", "topic": match["topic"]}
    return fields | {"start_day": float(match["start"]), "lasts_days": _days(match)}


def _days(match: re.Match[str]) -> float | None:
    if match["lasts"] is None:
        return None
    return float(match["lasts"]) / (HOURS_A_DAY if match["unit"] == "h" else 1.0)
