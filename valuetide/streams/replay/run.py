"""A replay from beginning to end: read, send, keep the position, sum up."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from valuetide.streams.replay.event import SourceEvent
from valuetide.streams.replay.files import fingerprint
from valuetide.streams.replay.pace import Pace
from valuetide.streams.replay.resume import Position, load_position, send_on
from valuetide.streams.replay.send import Progress, Sent, send
from valuetide.streams.replay.source import Plan, read_events, shift_all, shift_to
from valuetide.streams.replay.tally import Tally
from valuetide.streams.settings import Settings


@dataclass(slots=True)
class Replay:
    """One replay of one file.

    Attributes
    ----------
    path, plan
        The file and how to read it.
    settings
        Broker and topics.
    pace
        When events are due.
    limit
        Events, at most; those of earlier runs count.
    to_now
        Move all times so that the last is now.
    state
        Where the position is kept; ``None``: nowhere.
    tally
        Counts the rows.
    resumed_from
        Events that earlier runs had sent; known once it runs.
    """

    path: Path
    plan: Plan
    settings: Settings
    pace: Pace = field(default_factory=Pace)
    limit: int | None = None
    to_now: bool = False
    state: Path | None = None
    tally: Tally = field(default_factory=Tally)
    resumed_from: int = 0

    def events(self, shift_seconds: float | None = None) -> Iterator[SourceEvent]:
        """Give all events, from the first.

        Parameters
        ----------
        shift_seconds
            Added to every time; ``None``: what ``to_now`` asks for, which costs one more pass
            over the file.
        """
        if shift_seconds is None:
            shift_seconds = shift_to(self._read(Tally()), time.time()) if self.to_now else 0.0
        return shift_all(self._read(self.tally), shift_seconds)

    def run(self, on_progress: Callable[[Progress], None] | None = None) -> Sent:
        """Send what is still to be sent. Signals to end make it stop in good order.

        Parameters
        ----------
        on_progress
            Told how far this run has come.

        Raises
        ------
        ReplayError, BrokerAwayError, FaultError
            The position is kept all the same.
        """
        position = self._begin()
        self.resumed_from = position.acknowledged
        sender = partial(send, settings=self.settings, topic=self.plan.topic, pace=self.pace)
        events = self.events(position.shift_seconds)
        return send_on(events, self.state, position, sender, on_progress)

    def _read(self, tally: Tally) -> Iterator[SourceEvent]:
        return read_events(
            self.path,
            self.plan,
            fingerprint(self.path),
            tally,
            limit=self.limit,
            max_event_bytes=self.settings.max_event_bytes,
        )

    def _begin(self) -> Position:
        here = Position(fingerprint(self.path), self._identity())
        if self.state is not None:
            kept = load_position(self.state, here.file, here.plan)
            if kept is not None:
                return kept
        if self.to_now:
            here = replace(here, shift_seconds=shift_to(self._read(Tally()), time.time()))
        return here

    def _identity(self) -> str:
        topic: str = getattr(self.settings.topics, self.plan.topic)
        return f"{self.plan.digest()} {'now' if self.to_now else 'as is'} {topic}"

    def summary(self, sent: Sent) -> dict[str, Any]:
        """Give what was read and sent, ready for JSON."""
        skipped = {
            reason: {"count": skip.count, "first_line": skip.first_line}
            for reason, skip in self.tally.skipped.items()
        }
        partitions = {
            str(number): {"events": part.events, "next_offset": part.next_offset}
            for number, part in sent.partitions.items()
        }
        return {
            "file": self.path.name,
            "topic": getattr(self.settings.topics, self.plan.topic),
            "rows": self.tally.rows,
            "events": sent.events,
            "resumed_from": self.resumed_from,
            "skipped": skipped,
            "seconds": round(sent.seconds, 3),
            "events_per_second": round(sent.events / max(sent.seconds, 1e-9)),
            "stopped": sent.stopped,
            "partitions": partitions,
        }
