"""The three input events, as they stand on their topics.

Events are typed dictionaries rather than model instances: pydantic validates a whole chunk of
them in one call, at about a microsecond an event. Unknown fields are ignored. A time is RFC 3339
with an offset, or epoch seconds.

What depends on configuration (which kinds and currencies exist, how large an amount may be) is in
:mod:`valuetide.schemas.vocabulary` and is checked when events become columns.
"""

from typing import Annotated, Literal, NotRequired

from pydantic import AwareDatetime, ConfigDict, Field, Strict, StringConstraints, with_config
from typing_extensions import TypedDict

MAX_ID_LENGTH = 128
"""Characters in an identifier, at most. Keeps Redis keys and the state of a customer bounded."""

MAX_ITEMS = 1_000
"""Lines in one order, at most."""

MAX_ENTRIES = 100
"""Entries in one mapping of needs or attributes, at most."""

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_LENGTH)]
Text = Annotated[str, StringConstraints(max_length=MAX_ID_LENGTH)]
CurrencyCode = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
# Strict: a string or a boolean is not an amount. The bound is far above any real order and far
# below 2**53 minor units, so that no cent is lost between the JSON text and the integer.
Amount = Annotated[float, Strict(), Field(ge=0, le=1e12, allow_inf_nan=False)]
Number = Annotated[float, Strict(), Field(ge=-1e9, le=1e9, allow_inf_nan=False)]

EVENT_CONFIG = ConfigDict(val_temporal_unit="seconds", title=None)


class Item(TypedDict):
    """One line of an order."""

    sku: Annotated[Identifier, Field(description="Article number")]
    category: NotRequired[Annotated[Text | None, Field(description="Category of the article")]]
    quantity: NotRequired[Annotated[Amount | None, Field(description="Pieces")]]
    unit_price: NotRequired[
        Annotated[Amount | None, Field(description="Price of one piece, in the order's currency")]
    ]


@with_config(EVENT_CONFIG)
class Order(TypedDict):
    """An order was placed, (partly) returned, or cancelled."""

    event_id: Annotated[Identifier, Field(description="Unique per event; a retry repeats it")]
    customer_id: Annotated[Identifier, Field(description="Who; also the message's key")]
    occurred_at: Annotated[AwareDatetime, Field(description="When it happened")]
    order_id: Annotated[
        Identifier, Field(description="The order; returns and cancellations name it too")
    ]
    kind: Annotated[Literal["placed", "returned", "cancelled"], Field(description="What happened")]
    amount: Annotated[
        Amount, Field(description="placed: the order's total; returned: the sum refunded")
    ]
    currency: Annotated[CurrencyCode, Field(description="ISO 4217 code")]
    cost: NotRequired[
        Annotated[
            Amount | None,
            Field(description="placed: cost of the goods; returned: cost of the goods got back"),
        ]
    ]
    channel: NotRequired[Annotated[Text | None, Field(description="Where, for example web")]]
    source_code: NotRequired[Annotated[Text | None, Field(description="What brought the order")]]
    items: NotRequired[
        # Fails at the first bad line: a hundred thousand bad ones would be as many errors.
        Annotated[
            list[Item] | None,
            Field(max_length=MAX_ITEMS, fail_fast=True, description="Lines of the order"),
        ]
    ]


@with_config(EVENT_CONFIG)
class Interaction(TypedDict):
    """A customer visited, searched, clicked, complained, or was exposed to a campaign."""

    event_id: Annotated[Identifier, Field(description="Unique per event; a retry repeats it")]
    customer_id: Annotated[Identifier, Field(description="Who; also the message's key")]
    occurred_at: Annotated[AwareDatetime, Field(description="When it happened")]
    kind: Annotated[Identifier, Field(description="One of the vocabulary's interaction kinds")]
    channel: NotRequired[Annotated[Text | None, Field(description="Where, for example web")]]
    cost: NotRequired[
        Annotated[Amount | None, Field(description="What it cost us, in the base currency")]
    ]
    source_code: NotRequired[Annotated[Text | None, Field(description="What brought it about")]]
    campaign_id: NotRequired[Annotated[Text | None, Field(description="Campaign it belongs to")]]
    arm: NotRequired[
        Annotated[Literal["treatment", "control"] | None, Field(description="Arm of that campaign")]
    ]
    category: NotRequired[Annotated[Text | None, Field(description="Category looked at")]]
    needs: NotRequired[
        Annotated[
            dict[Text, Number] | None,
            Field(max_length=MAX_ENTRIES, description="Need to weight: what it tells of needs"),
        ]
    ]


@with_config(EVENT_CONFIG)
class Feedback(TypedDict):
    """A customer said what they think: a survey's answer, a rating, a review, a complaint."""

    event_id: Annotated[Identifier, Field(description="Unique per event; a retry repeats it")]
    customer_id: Annotated[Identifier, Field(description="Who; also the message's key")]
    occurred_at: Annotated[AwareDatetime, Field(description="When it happened")]
    kind: Annotated[
        Literal["csat", "nps", "ces", "rating", "complaint"], Field(description="What was asked")
    ]
    score: Annotated[Number, Field(description="The overall score, on the scale")]
    scale: Annotated[tuple[Number, Number], Field(description="Lowest and highest possible score")]
    attributes: NotRequired[
        Annotated[
            dict[Text, Number] | None,
            Field(max_length=MAX_ENTRIES, description="Attribute to score, on the same scale"),
        ]
    ]
    subject: NotRequired[Annotated[Text | None, Field(description="'us', or a competitor's name")]]
    source: NotRequired[
        Annotated[
            Literal["survey", "review", "forum", "social", "contact"] | None,
            Field(description="Where it was said"),
        ]
    ]
    text: NotRequired[Annotated[str | None, Field(description="Free text; never stored")]]
