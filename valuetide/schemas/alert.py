"""An alert: one step in its life, as it goes out on ``alerts`` and to webhooks."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field
from typing_extensions import TypedDict

Rule = Literal["level", "variance", "outage", "at_risk", "growth", "won_back"]
"""What is watched: a series' level, its noise, a producer that stopped, and single customers."""

State = Literal["firing", "recovering", "resolved"]
Reason = Literal["fired", "back", "again", "resolved", "accepted", "reminder"]


class Cause(TypedDict):
    """A segment that explains a part of the shift."""

    dimension: Annotated[str, Field(description="Such as channel")]
    element: Annotated[str, Field(description="Which of its segments")]
    power: Annotated[
        float, Field(description="Share of the whole change; below 0 where it went the other way")
    ]
    surprise: Annotated[
        float, Field(ge=0, description="How much its share of the whole changed, nats")
    ]
    expected: Annotated[float, Field(description="Of it, a point, since the change")]
    actual: Annotated[float, Field(description="Of it, a point, since the change")]


class Alert(TypedDict):
    """A step in the life of an alert. Money is in the base currency, times are RFC 3339 in UTC.

    The same step has the same ``id`` wherever and however often it appears. Steps of one alert
    share ``fingerprint`` and ``since``.
    """

    id: Annotated[
        str, Field(pattern="^[0-9a-f]{16}$", description="Of this step, made from its content")
    ]
    fingerprint: Annotated[
        str,
        Field(
            pattern="^[0-9a-f]{16}$",
            description="The same whenever this rule finds this series or customer going this way",
        ),
    ]
    rule: Annotated[Rule, Field(description="What is watched")]
    state: Annotated[State, Field(description="Of the alert after this step")]
    reason: Annotated[
        Reason,
        Field(
            description="fired; back: near normal; again: no, it still fires; resolved; "
            "accepted: it has lasted so long that it is the new normal; reminder: an "
            "acknowledgement has expired"
        ),
    ]
    notify: Annotated[bool, Field(description="Whether people should hear of this step")]
    at: Annotated[AwareDatetime, Field(description="Event time at which this step was made")]
    since: Annotated[AwareDatetime, Field(description="When the change began, by estimate")]
    metric: Annotated[
        str, Field(description="Such as revenue; of a customer clv; of outage events")
    ]
    dimension: Annotated[str, Field(description="Such as channel; empty for all customers")]
    element: Annotated[str, Field(description="Which segment of it; empty for all customers")]
    customer_id: Annotated[str | None, Field(description="Of rules about single customers")]
    direction: Annotated[Literal["up", "down"], Field(description="Of the change")]
    expected: Annotated[float, Field(description="A point, since the change")]
    actual: Annotated[float, Field(description="A point, since the change")]
    change_share: Annotated[float, Field(description="(actual - expected) / expected")]
    unit: Annotated[str, Field(description="Of the metric, such as EUR; empty for a plain number")]
    stake_per_day: Annotated[float, Field(ge=0, description="Money a day")]
    currency: Annotated[str, Field(description="The base currency")]
    run_length_days: Annotated[
        float | None,
        Field(ge=0, description="Once in so many days a series without change shows as much"),
    ]
    causes: Annotated[list[Cause], Field(description="What explains it, most surprising first")]
    sentence: Annotated[str, Field(description="All of it for people")]
