"""Settings of series and of alerts about them."""

from datetime import date
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from valuetide.schemas.events import Identifier
from valuetide.schemas.metrics import DEFAULT_METRICS, MetricName
from valuetide.scoring.trends.decision import Policy

Dimension = Literal["channel", "value_tier", "source_code"]
LABELS = ("channel", "source_code")
"""Dimensions that events name themselves, in a field of that name."""

_EPOCH = date(1970, 1, 1)


class SeriesSettings(BaseModel):
    """Which series there are, and when their buckets close."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metrics: Annotated[
        tuple[MetricName, ...], Field(description="Which series; none: nothing is watched")
    ] = DEFAULT_METRICS
    dimensions: Annotated[
        tuple[Dimension, ...], Field(description="Segments that have series of their own")
    ] = ("channel",)
    bucket: Annotated[Literal["day", "hour"], Field(description="Length of a point, UTC")] = "day"
    lateness_seconds: Annotated[
        float, Field(ge=0, le=30 * 86_400, description="A bucket waits so long for late events")
    ] = 3_600.0
    idle_seconds: Annotated[
        float, Field(gt=0, description="Without news for so long, an input holds no bucket open")
    ] = 60.0
    most_elements: Annotated[
        int, Field(ge=1, le=10_000, description="Segments of a dimension; the rest is `other`")
    ] = 100
    holidays: Annotated[
        dict[date, Identifier], Field(max_length=4_000, description="Date -> name of the holiday")
    ] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """Fields of events that name an element of a dimension in use."""
        return tuple(name for name in LABELS if name in self.dimensions)

    @property
    def segmented(self) -> bool:
        """Whether value tiers are a dimension."""
        return "value_tier" in self.dimensions

    @cached_property
    def holiday_names(self) -> dict[int, str]:
        """Name of each holiday by its day since 1970."""
        return {(day - _EPOCH).days: name for day, name in self.holidays.items()}

    @property
    def enabled(self) -> bool:
        """Whether anything is watched."""
        return bool(self.metrics)

    @property
    def equity(self) -> bool:
        """Whether the sum of all customers' clv is a series."""
        return "equity_growth" in self.metrics


_IN_DAYS = ("run_length", "patience_points", "accept_points", "cool_points")
"""Alert settings whose defaults are meant as days, whatever the length of a bucket."""


class AlertSettings(BaseModel):
    """What is worth an alert; points are buckets. See ``scoring.trends.decision.Policy``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_length: Annotated[
        float, Field(ge=10, le=1e6, description="Points between false alerts of one series")
    ] = 90.0
    endure_points: Annotated[int, Field(ge=1, description="A shift must have lasted")] = 3
    least_stake: Annotated[
        float, Field(ge=0, description="Money a day, base currency; not of satisfaction, contacts")
    ] = 0.0
    share: Annotated[
        float, Field(gt=0, lt=1, description="Of the alerts about segments that may be false")
    ] = 0.1
    patience_points: Annotated[float, Field(ge=1, description="Time over which that holds")] = 365.0
    most_new: Annotated[int, Field(ge=1, description="Alerts about segments at one point")] = 5
    recover_points: Annotated[int, Field(ge=1, description="Back to normal before it ends")] = 3
    accept_points: Annotated[int, Field(ge=2, description="After so many it is normal")] = 28
    cool_points: Annotated[int, Field(ge=0, description="Quiet after the end of an alert")] = 7
    outage_hours: Annotated[
        int, Field(ge=1, le=48, description="Silent hours before a producer is said to be out")
    ] = 2

    def policy(self, points_per_day: int) -> Policy:
        """Give what the series are judged by: what is set counts points, defaults last as days."""
        values = self.model_dump(exclude={"outage_hours"})
        for name in _IN_DAYS:
            if name not in self.model_fields_set:
                values[name] *= points_per_day
        return Policy(**values)
