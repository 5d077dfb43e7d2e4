"""The job that every peer in Python does, as far as it has nothing to do with the peer.

Decode and validate an event, add it to its customer's sums, write them to Redis, publish a score;
bad events go to the dead letters. Addresses come from the environment: BROKER, REDIS.
"""

import json
import os
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, Strict, ValidationError

BROKER = os.environ["BROKER"]
REDIS = os.environ["REDIS"]
GROUP = "peer"
INPUTS = ["orders", "interactions", "feedback"]
SCORES = "scores"
DEAD_LETTERS = "dead-letters"

Identifier = Annotated[str, Field(min_length=1, max_length=128)]
Amount = Annotated[float, Strict(), Field(ge=0, le=1e12, allow_inf_nan=False)]
Number = Annotated[float, Strict(), Field(ge=-1e9, le=1e9, allow_inf_nan=False)]


class Event(BaseModel):
    """What all events have."""

    model_config = ConfigDict(val_temporal_unit="seconds")

    event_id: Identifier
    customer_id: Identifier
    occurred_at: AwareDatetime


class Order(Event):
    """An order was placed, returned or cancelled."""

    order_id: Identifier
    kind: Literal["placed", "returned", "cancelled"]
    amount: Amount
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    channel: str | None = None


class Interaction(Event):
    """A customer did something."""

    kind: Identifier
    channel: str | None = None
    cost: Amount | None = None


class Feedback(Event):
    """A customer said something."""

    kind: Literal["csat", "nps", "ces", "rating", "complaint"]
    score: Number
    scale: tuple[Number, Number]


MODELS: dict[str, type[Event]] = {
    "orders": Order,
    "interactions": Interaction,
    "feedback": Feedback,
}


def parse(topic: str, value: bytes) -> Event | None:
    """Give the event, ``None`` for a bad one."""
    try:
        return MODELS[topic].model_validate_json(value)
    except ValidationError:
        return None


@dataclass(slots=True)
class Sums:
    """What is kept of a customer: money in cents, time in ms since 1970."""

    version: int = 0
    orders: int = 0
    revenue: int = 0
    refunds: int = 0
    cost: int = 0
    last_order_at: int = 0

    def fold(self, event: Event) -> None:
        """Add an event."""
        self.version += 1
        if isinstance(event, Order):
            if event.kind == "placed":
                self.orders += 1
                self.revenue += round(event.amount * 100)
                at = round(event.occurred_at.timestamp() * 1000)
                self.last_order_at = max(self.last_order_at, at)
            elif event.kind == "returned":
                self.refunds += round(event.amount * 100)
        elif isinstance(event, Interaction):
            self.cost += round((event.cost or 0) * 100)

    def fields(self) -> dict[str, int]:
        """Give the fields of the customer's hash in Redis."""
        return asdict(self)

    def score(self, customer: str) -> bytes:
        """Give the message for the scores."""
        return json.dumps({"customer_id": customer, **asdict(self)}).encode()


def key(customer: str) -> str:
    """Give the key of the customer's hash in Redis."""
    return f"customer:{customer}"


def sums_from(fields: dict) -> Sums:
    """Give the sums of a customer's hash in Redis, as redis-py reads it."""
    return Sums(**{name.decode(): int(value) for name, value in fields.items()})
