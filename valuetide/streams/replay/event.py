"""An event that is ready to be sent.

Its value is one JSON object whose first member is the event time, so that the time can be moved
without parsing the rest::

    {"occurred_at":852076800,"event_id":"cdnow-1","customer_id":"00001", ...}
    |--- _HEAD ---|         |------------- kept when the time moves -------------|
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from valuetide.schemas.errors import InvalidEventError
from valuetide.schemas.events import Feedback, Interaction, Order

Role = Literal["orders", "interactions", "feedback"]

EVENT_TYPES: Final[dict[Role, Any]] = {
    "orders": Order,
    "interactions": Interaction,
    "feedback": Feedback,
}

MAX_EVENT_BYTES: Final = 262_144
"""Default of the setting ``max_event_bytes``: a worker rejects a longer value unread."""

_HEAD: Final = b'{"occurred_at":'


class SourceEvent(NamedTuple):
    """One event to send.

    Attributes
    ----------
    customer_id
        Who; becomes the message's key.
    occurred_at
        Event time, epoch seconds.
    value
        The message: JSON, UTF-8.
    """

    customer_id: str
    occurred_at: float
    value: bytes


class Encoder:
    """Makes events of one topic from their fields.

    Parameters
    ----------
    role
        Which topic; decides the fields.
    max_bytes
        Longest value that is let through.

    Examples
    --------
    >>> order = {"event_id": "e1", "customer_id": "c1", "order_id": "o1", "kind": "placed",
    ...          "amount": 9.5, "currency": "EUR"}
    >>> Encoder("orders").encode(order, 60.0).value[:34]
    b'{"occurred_at":60,"event_id":"e1",'
    """

    def __init__(self, role: Role, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(EVENT_TYPES[role])
        self._max_bytes = max_bytes

    def encode(self, fields: Mapping[str, Any], occurred_at: float) -> SourceEvent:
        """Validate the fields and write them as JSON; fields the topic does not know are dropped.

        Parameters
        ----------
        fields
            All fields but ``occurred_at``.
        occurred_at
            Event time, epoch seconds, 0 or later.

        Raises
        ------
        InvalidEventError
            When the topic's schema does not allow them. The text names the field, not its value.
        """
        if occurred_at < 0:
            raise InvalidEventError("occurred_at: is before 1970")
        try:
            event = self._adapter.validate_python({**fields, "occurred_at": occurred_at})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            raise InvalidEventError(f"{first['loc'][0]}: {first['msg']}") from None
        del event["occurred_at"]
        value = _HEAD + _number(occurred_at) + b"," + to_json(event)[1:]
        if len(value) > self._max_bytes:
            raise InvalidEventError(f"the event has more than {self._max_bytes} bytes")
        return SourceEvent(event["customer_id"], occurred_at, value)


def shifted(event: SourceEvent, seconds: float) -> SourceEvent:
    """Give the same event, moved in time.

    Examples
    --------
    >>> shifted(SourceEvent("c1", 60.0, b'{"occurred_at":60,"event_id":"e1"}'), 5.0)
    SourceEvent(customer_id='c1', occurred_at=65.0, value=b'{"occurred_at":65,"event_id":"e1"}')
    """
    at = event.occurred_at + seconds
    rest = event.value[event.value.index(b",", len(_HEAD)) :]
    return event._replace(occurred_at=at, value=_HEAD + _number(at) + rest)


def _number(seconds: float) -> bytes:
    # Whole seconds without a point; else microseconds, which is what a datetime can hold.
    whole = int(seconds)
    return b"%d" % whole if whole == seconds else b"%.6f" % seconds
