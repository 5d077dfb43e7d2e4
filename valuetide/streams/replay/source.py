"""From what was asked for to the events, in the order in which they are to be sent."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from valuetide.schemas.errors import InvalidEventError
from valuetide.streams.replay.catalog import DATA_SETS
from valuetide.streams.replay.errors import ReplayUsageError
from valuetide.streams.replay.event import MAX_EVENT_BYTES, Encoder, Role, SourceEvent, shifted
from valuetide.streams.replay.files import Fingerprint
from valuetide.streams.replay.mapping import MappingSpec, RowMapper
from valuetide.streams.replay.ordering import in_event_time
from valuetide.streams.replay.presets import READERS
from valuetide.streams.replay.rows import TextForm, read_table
from valuetide.streams.replay.tally import Tally


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides which events a file gives, and in which order.

    Attributes
    ----------
    topic
        Which of the input topics.
    preset
        Name of a known data set, or ``None``: by the mapping.
    mapping
        Columns to fields.
    form
        How a text file is to be read.
    currency
        To write in orders; ``None``: the preset's, or what the mapping says.
    order
        ``time``: by event time. ``file``: as they come, without reading to the end first.
    """

    topic: Role = "orders"
    preset: str | None = None
    mapping: MappingSpec = field(default_factory=MappingSpec)
    form: TextForm = field(default_factory=TextForm)
    currency: str | None = None
    order: Literal["time", "file"] = "time"

    def digest(self) -> str:
        """Give the same text for the same plan, another one for any other."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def check(self) -> None:
        """Refuse what does not go together.

        Raises
        ------
        ReplayUsageError
            With what to leave out.
        """
        if self.preset is not None and self.mapping != MappingSpec():
            raise ReplayUsageError("a preset has its own mapping: leave out one of the two")
        if self.preset is not None and self.form != TextForm():
            raise ReplayUsageError("a preset knows the form of its file: leave out one of the two")
        if self.topic != "orders" and self.preset is not None:
            raise ReplayUsageError(f"the preset {self.preset} holds orders, not {self.topic}")
        if self.topic != "orders" and self.currency is not None:
            raise ReplayUsageError("only orders have a currency")
        if self.currency and {"currency"} & {*self.mapping.columns, *self.mapping.constants}:
            raise ReplayUsageError("the currency is given twice: by --currency and by the mapping")

    @property
    def known_currency(self) -> str | None:
        """The currency of all orders, where it is known before the file is read."""
        if self.preset is not None:
            return self.currency or DATA_SETS[self.preset].currency
        return self.currency or self.mapping.constants.get("currency")


def read_events(
    path: Path,
    plan: Plan,
    print_of: Fingerprint,
    tally: Tally,
    *,
    limit: int | None = None,
    max_event_bytes: int = MAX_EVENT_BYTES,
) -> Iterator[SourceEvent]:
    """Give the events of a file; the same ones with the same ids whenever it is read.

    Parameters
    ----------
    path
        The file.
    plan
        How to read it.
    print_of
        Its fingerprint: ids that are made begin with it.
    tally
        Counts the rows.
    limit
        Give no more events than this, the first ones in the order of the plan.
    max_event_bytes
        Longer events are invalid.

    Raises
    ------
    ReplayError
        When the file or the plan cannot be used; while the events are read, too.
    """
    plan.check()
    encoder = Encoder(plan.topic, max_event_bytes)
    events: Iterable[SourceEvent]
    if plan.preset is not None:
        currency = plan.currency or DATA_SETS[plan.preset].currency
        events = READERS[plan.preset](path, tally, encoder, currency)
    else:
        events = _mapped(path, plan, f"row-{print_of.digest[:12]}", tally, encoder)
    ordered = in_event_time(events) if plan.order == "time" else iter(events)
    return islice(ordered, limit)


def shift_to(events: Iterable[SourceEvent], now: float) -> float:
    """Give what must be added to the times so that the last one is now, in whole seconds."""
    latest = max((event.occurred_at for event in events), default=now)
    return float(int(now - latest))


def shift_all(events: Iterable[SourceEvent], seconds: float) -> Iterator[SourceEvent]:
    """Give the events, moved in time."""
    return (shifted(event, seconds) for event in events) if seconds else iter(events)


def _mapped(
    path: Path, plan: Plan, id_prefix: str, tally: Tally, encoder: Encoder
) -> Iterator[SourceEvent]:
    table = read_table(path, tally, plan.form)
    mapping = plan.mapping
    if plan.currency is not None:
        mapping = MappingSpec(constants={"currency": plan.currency}).over(mapping)
    mapper = RowMapper(plan.topic, table.columns, mapping, id_prefix)
    for row in table.rows:
        try:
            event = encoder.encode(*mapper.fields(row))
        except InvalidEventError as error:
            tally.invalid(str(error), row.line)
        else:
            yield event
