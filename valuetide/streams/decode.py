"""From the bytes of a chunk to columns of events, and reasons for what is not an event.

Each record is decoded by msgspec. What that does not take is looked at again by pydantic, whose
word counts: it takes what is unusual, and says what is wrong with the rest.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as attribute
from itertools import repeat
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema, from_json
from xxhash import xxh3_64_intdigest

from valuetide.schemas.events import (
    MAX_ENTRIES,
    MAX_ID_LENGTH,
    MAX_ITEMS,
    Feedback,
    Interaction,
    Item,
    Order,
)
from valuetide.schemas.vocabulary import Vocabulary
from valuetide.scoring.fold import KIND_CANCELLED, KIND_PLACED, KIND_RETURNED
from valuetide.scoring.series import OTHER, SATISFIED, UNKNOWN, Labels
from valuetide.scoring.signals import BLAME, KINDS, NO_SIGNAL, PRAISE
from valuetide.streams.structs import struct_of

Role = Literal["orders", "interactions", "feedback"]

ID_MASK = np.uint64((1 << 48) - 1)
"""Event and order ids are kept as 48 bits of XXH3: among the 16 kept of a customer two differing
ids are taken for one with a chance below 1e-13."""

DAY_MS = 86_400_000
DEEP = 200
"""Levels down to which JSON may be nested."""

BAD_SHARE, GOOD_SHARE = 0.5, 0.75
# Whole answers from 0 to 10, with room for rounding.
NPS_DETRACTOR, NPS_PROMOTER = 0.65, 0.85
ORDER_KINDS = {"placed": KIND_PLACED, "returned": KIND_RETURNED, "cancelled": KIND_CANCELLED}
_TYPES: dict[Role, Any] = {"orders": Order, "interactions": Interaction, "feedback": Feedback}
_SEEDS: dict[Role, int] = {"orders": 1, "interactions": 2, "feedback": 3}
_ORDER_ID_SEED = 4
_ID_NAMES = ("event_id", "customer_id", "order_id")
_HARD_LIMITS = {"items": MAX_ITEMS, "needs": MAX_ENTRIES, "attributes": MAX_ENTRIES}
_NAMES = frozenset(name for event in (*_TYPES.values(), Item) for name in event.__annotations__)


class _OrNone:
    """Makes ``None`` of what is not valid, without building what it is in Python."""

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_default_schema(handler(source), default=None, on_error="default")


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that is not accepted.

    Attributes
    ----------
    index
        Its place among the records.
    field
        The field at fault, or ``value`` where the record as a whole is: one of a bounded set of
        names, fit for a metric's label.
    reason
        What is wrong, naming the field; never the value, which may be personal.
    """

    index: int
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """The accepted events of a chunk as columns, ``n`` each, in the chunk's order.

    ``index`` is the place of the event among the records. ``at`` is in milliseconds, ``amount``
    and ``cost`` in minor units of the base currency; ``kind``, ``order`` and ``amount`` are empty
    for other roles than orders, ``cost`` for feedback, and ``signal`` for orders: a number of
    ``scoring.signals.KINDS`` or ``NO_SIGNAL``.
    """

    index: NDArray[np.intp]
    customer: list[str]
    event: NDArray[np.uint64]
    at: NDArray[np.int64]
    kind: NDArray[np.uint8]
    order: NDArray[np.uint64]
    amount: NDArray[np.int64]
    cost: NDArray[np.int64]
    signal: NDArray[np.uint8]
    rejections: list[Rejection]
    satisfaction: NDArray[np.int64] = attribute(default_factory=lambda: np.empty(0, np.int64))
    labels: Mapping[str, Labels] = attribute(default_factory=dict)

    def take(self, keep: NDArray[np.bool_]) -> "Decoded":
        """Give the events where ``keep``, ``(n,)``, is true; the rejections stay."""

        def part(column: NDArray[Any]) -> NDArray[Any]:
            return column[keep] if len(column) else column

        return Decoded(
            self.index[keep],
            [c for c, ok in zip(self.customer, keep.tolist(), strict=True) if ok],
            part(self.event),
            part(self.at),
            part(self.kind),
            part(self.order),
            part(self.amount),
            part(self.cost),
            part(self.signal),
            self.rejections,
            part(self.satisfaction),
            {name: Labels(of.codes[keep], of.names) for name, of in self.labels.items()},
        )


class Decoder:
    """Decodes and validates the events of one topic.

    Parameters
    ----------
    role
        Which of the inputs.
    vocabulary
        Kinds, currencies and limits.
    max_event_bytes
        A longer value is rejected unread.
    labels
        Fields by which series are cut into segments.
    """

    def __init__(
        self,
        role: Role,
        vocabulary: Vocabulary,
        max_event_bytes: int,
        labels: Sequence[str] = (),
    ) -> None:
        event = _TYPES[role]
        self._one: TypeAdapter[Any] = TypeAdapter(event)
        or_none: Any = Annotated[event, _OrNone()]
        self._one_or_none: TypeAdapter[Any] = TypeAdapter(or_none)
        closed = {}
        if role == "orders":
            closed["currency"] = tuple(vocabulary.minor_per_unit)
        elif role == "interactions":
            closed["kind"] = vocabulary.interaction_kinds
        self._struct = struct_of(event, closed)
        self._quick = msgspec.json.Decoder(self._struct).decode
        self._role = role
        self._vocabulary = vocabulary
        self._max_event_bytes = max_event_bytes
        self._fields = frozenset(event.__annotations__)
        self._kinds = frozenset(vocabulary.interaction_kinds)
        self._signals = {kind: KINDS.index(of) for kind, of in vocabulary.signals.items()}
        self._limits = _limits(role, vocabulary)
        self._id_names = [name for name in _ID_NAMES if name in self._fields]
        self._labels = [name for name in labels if name in self._fields]

    def decode(self, values: Sequence[bytes | None], now_ms: int) -> Decoded:
        """Decode the values of a chunk.

        Parameters
        ----------
        values
            Message values, ``None`` for a null one.
        now_ms
            Wall clock, to reject times that are more than a day ahead.

        Returns
        -------
        Decoded
            Columns of what is accepted, and a rejection for each of the others.
        """
        limit = self._max_event_bytes
        rejections: list[Rejection] = []
        events: list[Any] = []
        kept: list[int] = []
        quick = self._quick
        event: msgspec.Struct | None
        for i, value in enumerate(values):
            if value is None:
                rejections.append(Rejection(i, "value", "value: is null"))
                continue
            size = len(value)
            if size > limit:
                reason = f"value: has {size} bytes, at most {limit} are taken"
                rejections.append(Rejection(i, "value", reason))
                continue
            try:
                plain = (size <= DEEP and value.isascii()) or is_plain(value)
                event = quick(value) if plain else self._slowly(value)
            except msgspec.MsgspecError:
                event = self._slowly(value)
            if event is None:
                rejections.append(self._explain(i, value))
            else:
                events.append(event)
                kept.append(i)
        return self._columns(events, np.array(kept, dtype=np.intp), rejections, now_ms)

    def _slowly(self, value: bytes) -> msgspec.Struct | None:
        """Give the event as pydantic sees it, ``None`` for what is none."""
        try:
            event = self._one_or_none.validate_json(value)
        except ValidationError:
            return None
        return None if event is None else self._struct(**event)

    def _explain(self, index: int, value: bytes) -> Rejection:
        # Each error keeps the input it is about, so that must be one object of Python's for all.
        try:
            event = from_json(value)
        except ValueError as error:
            return Rejection(index, "value", f"value: Invalid JSON: {str(error)[:200]}")
        if isinstance(event, dict):
            # A hundred thousand entries would be as many errors.
            for field, (most, what) in self._limits.items():
                entries = event.get(field)
                if isinstance(entries, list | dict) and len(entries) > most:
                    return Rejection(index, field, f"{field}: has {what}")
        try:
            self._one.validate_python(event)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            field = str(first["loc"][0]) if first["loc"] else "value"
            label = field if field in self._fields else "value"
            # Names within a mapping are what somebody wrote, so they are not repeated.
            path = ".".join(str(p) if type(p) is int or p in _NAMES else "…" for p in first["loc"])
            return Rejection(index, label, f"{path or 'value'}: {first['msg'][:200]}")
        return Rejection(index, "value", "value: is not exactly one JSON object")

    def _columns(
        self,
        events: list[Any],
        index: NDArray[np.intp],
        rejections: list[Rejection],
        now_ms: int,
    ) -> Decoded:
        n = len(events)
        at_ms = np.rint(_seconds(events) * 1000.0).astype(np.int64)
        faults: list[tuple[NDArray[np.bool_], str, str]] = [
            (at_ms < 0, "occurred_at", "is before 1970"),
            (at_ms > now_ms + DAY_MS, "occurred_at", "is more than a day ahead"),
            *self._too_long(events),
        ]
        none: NDArray[np.int64] = np.empty(0, np.int64)
        kind, order = np.empty(0, np.uint8), np.empty(0, np.uint64)
        amount, cost, signal, satisfaction = none, none, kind, none
        limit = self._vocabulary.max_amount * 10.0**self._vocabulary.minor_digits
        if self._role == "orders":
            rates = self._vocabulary.minor_per_unit
            currencies = map(attrgetter("currency"), events)
            rate = np.fromiter(map(rates.get, currencies, repeat(-1.0)), np.float64, n)
            faults.append((rate < 0, "currency", "is not in the vocabulary"))
            order_kinds = map(attrgetter("kind"), events)
            kind = np.fromiter(map(ORDER_KINDS.__getitem__, order_kinds), np.uint8, n)
            order = _hashes(map(attrgetter("order_id"), events), n, _ORDER_ID_SEED)
            gross = np.fromiter(map(attrgetter("amount"), events), np.float64, n) * rate
            spent = _costs(events) * rate
            faults.append((gross > limit, "amount", "is above the vocabulary's max_amount"))
            faults.append((spent > limit, "cost", "is above the vocabulary's max_amount"))
            amount, cost = _minor(gross, limit), _minor(spent, limit)
        elif self._role == "interactions":
            kinds = list(map(attrgetter("kind"), events))
            known = np.fromiter(map(self._kinds.__contains__, kinds), np.bool_, n)
            faults.append((~known, "kind", "is not in the vocabulary"))
            spent = _costs(events) * 10.0**self._vocabulary.minor_digits
            faults.append((spent > limit, "cost", "is above the vocabulary's max_amount"))
            cost = _minor(spent, limit)
            found = map(self._signals.get, kinds, repeat(NO_SIGNAL))
            signal = np.fromiter(found, np.uint8, n)
        else:
            low = np.fromiter((e.scale[0] for e in events), np.float64, n)
            high = np.fromiter((e.scale[1] for e in events), np.float64, n)
            score = np.fromiter((e.score for e in events), np.float64, n)
            faults.append((low >= high, "scale", "must be [lowest, highest]"))
            faults.append(((score < low) | (score > high), "score", "is not on the scale"))
            share = (score - low) / np.where(high > low, high - low, 1.0)
            ours = np.fromiter(((e.subject or "us") == "us" for e in events), np.bool_, n)
            signal = np.where(ours, _opinions(events, share), NO_SIGNAL).astype(np.uint8)
            worth = np.rint(np.clip(share, 0.0, 1.0) * SATISFIED).astype(np.int64)
            satisfaction = np.where(ours, worth, -1)
        good = np.ones(n, np.bool_)
        for wrong, field, text in faults:
            if wrong.any():
                rejections.extend(
                    Rejection(int(index[i]), field, f"{field}: {text}")
                    for i in np.flatnonzero(wrong & good)
                )
                good &= ~wrong
        customer = list(map(attrgetter("customer_id"), events))
        event = _hashes(map(attrgetter("event_id"), events), n, _SEEDS[self._role])
        labels = {name: self._labelled(name, events) for name in self._labels}
        decoded = Decoded(
            index, customer, event, at_ms, kind, order, amount, cost, signal, rejections,
            satisfaction, labels,
        )  # fmt: skip
        return decoded if good.all() else decoded.take(good)

    def _labelled(self, field: str, events: list[Any]) -> Labels:
        """Give which element of a dimension each event names."""
        codes: defaultdict[str | None, int] = defaultdict()
        codes.default_factory = codes.__len__
        column = np.fromiter(
            map(codes.__getitem__, map(attrgetter(field), events)), np.int64, len(events)
        )
        known = self._vocabulary.channels if field == "channel" else codes
        return Labels(column, [(n if n in known else OTHER) if n else UNKNOWN for n in codes])

    def _too_long(self, events: list[Any]) -> Iterator[tuple[NDArray[np.bool_], str, str]]:
        """Find what is longer than the vocabulary allows, where that is less than the schema's."""
        n = len(events)
        most = self._vocabulary.max_id_length
        if most < MAX_ID_LENGTH:
            for name in self._id_names:
                over = np.fromiter((len(getattr(e, name)) > most for e in events), np.bool_, n)
                yield over, name, f"has more than {most} characters"
        for name, (most, text) in self._limits.items():
            if most < _HARD_LIMITS[name]:
                over = np.fromiter(
                    (len(getattr(e, name) or ()) > most for e in events), np.bool_, n
                )
                yield over, name, f"has {text}"


def is_plain(value: bytes) -> bool:
    """Whether msgspec's word can be relied on: it does not look into fields that it ignores."""
    if not value.isascii():
        try:
            value.decode()
        except UnicodeDecodeError:
            return False
    return len(value) <= DEEP or value.count(b"[") + value.count(b"{") <= DEEP


def _limits(role: Role, vocabulary: Vocabulary) -> dict[str, tuple[int, str]]:
    """Give for each list or mapping of a role how long it may be, and what is said otherwise."""
    every = {
        "items": vocabulary.max_items,
        "needs": vocabulary.max_needs,
        "attributes": vocabulary.max_attributes,
    }
    fields = _TYPES[role].__annotations__
    return {
        name: (most, f"more than {most} entries") for name, most in every.items() if name in fields
    }


def _seconds(events: list[Any]) -> NDArray[np.float64]:
    """Give the times of events as seconds since 1970."""
    times = map(attrgetter("occurred_at"), events)
    try:
        return np.fromiter(times, np.float64, len(events))
    except TypeError:  # there are some that were written as text
        times = map(attrgetter("occurred_at"), events)
        seconds = (t if type(t) is float else t.timestamp() for t in times)
        return np.fromiter(seconds, np.float64, len(events))


def _costs(events: list[Any]) -> NDArray[np.float64]:
    return np.fromiter((e.cost or 0.0 for e in events), np.float64, len(events))


def _opinions(events: list[Any], share: NDArray[np.float64]) -> NDArray[np.int64]:
    """Give which answers are a bad and which a good word, of their places on a scale from 0 to 1.

    Below .5 is bad and .75 or more is good, of 1 to 5 these are 1, 2 and 4, 5; of nps as ever 0 to
    6 and 9, 10 of ten. A complaint is a bad word.
    """
    n = len(events)
    nps = np.fromiter((e.kind == "nps" for e in events), np.bool_, n)
    bad = np.where(nps, share <= NPS_DETRACTOR, share < BAD_SHARE)
    bad |= np.fromiter((e.kind == "complaint" for e in events), np.bool_, n)
    good = share >= np.where(nps, NPS_PROMOTER, GOOD_SHARE)
    return np.where(bad, BLAME, np.where(good, PRAISE, NO_SIGNAL))


def _minor(value: NDArray[np.float64], limit: float) -> NDArray[np.int64]:
    # np.clip takes three times as long on few values.
    return np.rint(np.minimum(np.maximum(value, 0.0), limit)).astype(np.int64)


def _hashes(texts: Iterable[str], count: int, seed: int) -> NDArray[np.uint64]:
    full = np.fromiter((xxh3_64_intdigest(t.encode(), seed) for t in texts), np.uint64, count)
    return full & ID_MASK
