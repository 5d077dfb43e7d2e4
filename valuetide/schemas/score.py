"""The score record and the dead letter: what goes out."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import AwareDatetime, Field
from typing_extensions import TypedDict

from valuetide.schemas.events import Identifier

DEFAULT_HORIZONS = (90, 365)
"""Days over which value is foreseen, if the settings do not say."""


def ranked_fields(horizons_days: Sequence[int]) -> tuple[str, ...]:
    """Give the fields by which the best customers are kept; the last is the longest clv."""
    return ("profit", "revenue", "decayed_value", f"clv_{horizons_days[-1]}d")


RANKED = ranked_fields(DEFAULT_HORIZONS)

Count = Annotated[int, Field(ge=0)]


class Score(TypedDict):
    """A customer's value after a commit: flat, the same names on ``scores`` and in Redis.

    Money is in the base currency, times are RFC 3339 in UTC. In the Redis hash an empty string
    stands for null. What looks ahead is null without an order. Its horizons are the setting
    ``horizons_days``, after which the fields are named; these are the default's.
    """

    customer_id: Annotated[Identifier, Field(description="Who; also the message's key")]
    version: Annotated[
        Count, Field(description="Events folded into this customer so far; the highest is newest")
    ]
    as_of: Annotated[
        AwareDatetime, Field(description="The moment the score is for; orders equal versions")
    ]
    orders: Annotated[Count, Field(description="Orders placed and not cancelled")]
    revenue: Annotated[float, Field(ge=0, description="Sum of those orders")]
    refunds: Annotated[float, Field(ge=0, description="Sum refunded for returns")]
    margin: Annotated[float, Field(description="Revenue less refunds less cost of goods kept")]
    cost_to_serve: Annotated[float, Field(ge=0, description="Cost of all interactions")]
    profit: Annotated[float, Field(description="Margin less cost to serve")]
    decayed_value: Annotated[
        float, Field(description="Revenue less refunds, each order halved every 90 days")
    ]
    first_order_at: Annotated[AwareDatetime | None, Field(description="Null without an order")]
    last_order_at: Annotated[AwareDatetime | None, Field(description="Null without an order")]
    recency_days: Annotated[
        float | None, Field(ge=0, description="Days from the last order to as_of")
    ]
    frequency: Annotated[
        Count, Field(description="Repeat purchases: UTC days with an order, less one")
    ]
    monetary_value: Annotated[
        float | None,
        Field(ge=0, description="Mean spend of a repeat purchase day; null without one"),
    ]
    rfm: Annotated[
        str,
        Field(
            pattern="^([1-5]{3}|000)$",
            description="Recency, frequency, monetary digits, 5 best; 000 without an order",
        ),
    ]
    p_alive: Annotated[
        float | None,
        Field(ge=0, le=1, description="Chance of another order, ever; null without an order"),
    ]
    expected_orders_90d: Annotated[
        float | None, Field(ge=0, description="Purchase days expected in the next 90 days")
    ]
    expected_orders_365d: Annotated[
        float | None, Field(ge=0, description="Purchase days expected in the next 365 days")
    ]
    expected_order_value: Annotated[
        float | None, Field(ge=0, description="Spend expected on such a day, before returns, costs")
    ]
    clv_90d: Annotated[
        float | None, Field(description="Margin expected in the next 90 days, discounted")
    ]
    clv_90d_low: Annotated[
        float | None, Field(description="The margin will be above this and below _high at 80 %")
    ]
    clv_90d_high: Annotated[float | None, Field(description="See clv_90d_low")]
    clv_365d: Annotated[
        float | None, Field(description="Margin expected in the next 365 days, discounted")
    ]
    clv_365d_low: Annotated[
        float | None, Field(description="The margin will be above this and below _high at 80 %")
    ]
    clv_365d_high: Annotated[float | None, Field(description="See clv_365d_low")]
    next_order_at: Annotated[
        AwareDatetime | None,
        Field(description="Even odds that the next order, if there is one, comes by then"),
    ]
    clv_percentile: Annotated[
        float | None,
        Field(ge=0, le=100, description="Customers with a lower clv, of the longest horizon, in %"),
    ]
    moved_by_orders: Annotated[
        float | None,
        Field(description="Change of that clv since the last score, part due to new orders"),
    ]
    moved_by_returns: Annotated[
        float | None, Field(description="Part due to returns, costs and cancellations")
    ]
    moved_by_time: Annotated[float | None, Field(description="Part due to silence")]
    moved_by_parameters: Annotated[
        float | None, Field(description="Part due to what was learned from all customers")
    ]
    moved_by_interactions: Annotated[float | None, Field(description="Part due to interactions")]
    moved_by_feedback: Annotated[
        float | None, Field(description="Part due to feedback; the parts sum to the change")
    ]


class DeadLetterHeaders(TypedDict):
    """Headers of a dead letter; its key and value are the original bytes, untouched."""

    reason: Annotated[str, Field(description="Why it was not accepted; names the field")]
    source_topic: Annotated[str, Field(description="Topic it came from")]
    source_partition: Annotated[Count, Field(description="Partition it came from")]
    source_offset: Annotated[
        Count,
        Field(
            description="Offset it had; with topic and partition "
            "it identifies the event, so a repeat can be told"
        ),
    ]
    rejected_at: Annotated[AwareDatetime, Field(description="When it was rejected")]
