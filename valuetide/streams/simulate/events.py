"""Columns of what happened, written as messages."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, repeat
from typing import Any, Final

import msgspec
import numpy as np

from valuetide.scoring.arrays import FloatArray, IntArray
from valuetide.streams.replay.event import Role, SourceEvent
from valuetide.streams.simulate.outbox import Message
from valuetide.streams.simulate.people import People
from valuetide.streams.simulate.scenario import Scenario

_LETTERS: Final[dict[Role, str]] = {"orders": "o", "interactions": "i", "feedback": "f"}


class Writer:
    """Writes messages; their ids are numbered.

    Times are seconds since the beginning of the simulation, money is in minor units (cents);
    ``who`` are positions of customers, channels are positions among the scenario's.
    """

    def __init__(self, scenario: Scenario, people: People) -> None:
        self._prefix = scenario.prefix
        self._start = scenario.start_seconds
        self._currency = scenario.currency
        self._channels = list(scenario.channels)
        self._sources = list(scenario.sources)
        self._people = people
        self._numbers = {role: count() for role in _LETTERS}
        self._encode = msgspec.json.Encoder().encode

    def orders(
        self,
        kind: str,
        who: IntArray,
        at: FloatArray,
        number: IntArray,
        cents: IntArray,
        cost: IntArray,
        channel: IntArray,
        items: Iterable[Sequence[Mapping[str, Any]] | None] = repeat(None),
    ) -> list[Message]:
        """Write orders of one kind, (n,) each; ``number`` is that of the order."""
        sources = self._people.source[who].tolist()
        rows = zip(
            number.tolist(),
            (cents / 100).tolist(),
            (cost / 100).tolist(),
            channel.tolist(),
            sources,
            items,
            strict=False,
        )
        fields = (
            {
                "order_id": f"{self._prefix}-{order}",
                "kind": kind,
                "amount": amount,
                "currency": self._currency,
                "cost": spent,
                "channel": self._channels[through],
                "source_code": self._sources[source],
                **({"items": lines} if lines else {}),
            }
            for order, amount, spent, through, source, lines in rows
        )
        return list(self._messages("orders", repeat(kind), who, at, fields))

    def interactions(
        self,
        kind: str,
        who: IntArray,
        at: FloatArray,
        channels: Iterable[str],
        more: Iterable[Mapping[str, Any]] = repeat({}),
    ) -> list[Message]:
        """Write interactions of one kind, (n,) each, with more fields of each."""
        fields = (
            {"kind": kind, "channel": channel, **others}
            for channel, others in zip(channels, more, strict=False)
        )
        return list(self._messages("interactions", repeat(kind), who, at, fields))

    def feedback(
        self,
        kinds: Sequence[str],
        who: IntArray,
        at: FloatArray,
        answers: Iterable[Mapping[str, Any]],
    ) -> list[Message]:
        """Write answers, (n,) each."""
        return list(self._messages("feedback", kinds, who, at, answers))

    def _messages(
        self,
        role: Role,
        kinds: Iterable[str],
        who: IntArray,
        at: FloatArray,
        fields: Iterable[Mapping[str, Any]],
    ) -> Iterator[Message]:
        encode, ids, letter = self._encode, self._people.ids, _LETTERS[role]
        prefix, numbers = self._prefix, self._numbers[role]
        # Milliseconds are what a worker keeps.
        times = np.floor((self._start + at) * 1_000) / 1_000
        for row, due, kind, own in zip(who.tolist(), times.tolist(), kinds, fields, strict=False):
            customer = ids[row]
            event_id = f"{prefix}-{letter}{next(numbers)}"
            head = {"occurred_at": due, "event_id": event_id, "customer_id": customer}
            if role == "feedback":
                head["kind"] = kind
            yield Message(due, role, kind, SourceEvent(customer, due, encode({**head, **own})))
