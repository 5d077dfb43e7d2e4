"""A simulation from beginning to end: make the events, send them, keep position and truth."""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from valuetide.schemas.topics import INPUTS
from valuetide.streams.replay.event import Role, SourceEvent
from valuetide.streams.replay.files import replace_file
from valuetide.streams.replay.pace import Pace
from valuetide.streams.replay.resume import Position, load_position, send_on
from valuetide.streams.replay.send import Progress, Sent, send_to_all
from valuetide.streams.settings import Settings
from valuetide.streams.simulate.scenario import Scenario
from valuetide.streams.simulate.shop import Shop


@dataclass(slots=True)
class Simulation:
    """One simulation that is sent.

    Attributes
    ----------
    scenario
        The shop.
    settings
        Broker and topics.
    pace
        When events are due.
    state
        Where the position is kept; ``None``: nowhere.
    truth
        File for the truth, written at the end however it ends; ``None``: none.
    resumed_from
        Events that earlier runs had sent; known once it runs.
    """

    scenario: Scenario
    settings: Settings
    pace: Pace = field(default_factory=Pace)
    state: Path | None = None
    truth: Path | None = None
    resumed_from: int = 0

    def run(self, on_progress: Callable[[Progress], None] | None = None) -> Sent:
        """Send what is still to be sent. Signals to end make it stop in good order.

        A simulation that goes on is made from its beginning again, which costs a few microseconds
        an event, and sends from its position on.

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
        shop = Shop(self.scenario)
        self._write_truth(shop)  # a file that cannot be written is no news for the end
        sender = partial(
            send_to_all, settings=self.settings, client_id="valuetide-simulate", pace=self.pace
        )
        try:
            return send_on(shop.events(), self.state, position, sender, on_progress)
        finally:
            self._write_truth(shop)

    def dry_run(self, count: int) -> list[tuple[Role, SourceEvent]]:
        """Make the events, send none, and give the first ones.

        Parameters
        ----------
        count
            How many are given; all are made where the truth is to be written.
        """
        shop = Shop(self.scenario)
        events = shop.events()
        first = list(itertools.islice(events, count))
        if self.truth is not None:
            for _ in events:
                pass
            self._write_truth(shop)
        return first

    def summary(self, sent: Sent) -> dict[str, Any]:
        """Give what was sent, ready for JSON."""
        return {
            "name": self.scenario.prefix,
            "events": sent.events,
            "topics": {
                getattr(self.settings.topics, role): sum(part.events for part in parts.values())
                for role, parts in sent.topics.items()
            },
            "resumed_from": self.resumed_from,
            "seconds": round(sent.seconds, 3),
            "events_per_second": round(sent.events / max(sent.seconds, 1e-9)),
            "stopped": sent.stopped,
        }

    def _begin(self) -> Position:
        topics = ", ".join(getattr(self.settings.topics, role) for role in INPUTS)
        # Another version of numpy may draw other numbers from the same seed.
        here = Position(None, f"{self.scenario.digest} numpy {np.__version__} {topics}")
        if self.state is None:
            return here
        return load_position(self.state, here.file, here.plan) or here

    def _write_truth(self, shop: Shop) -> None:
        if self.truth is not None:
            replace_file(self.truth, json.dumps(shop.truth(), ensure_ascii=False))


def summary_text(summary: dict[str, Any]) -> str:
    """Write a summary, as :meth:`Simulation.summary` gives it.

    Examples
    --------
    >>> print(summary_text({"name": "sim-1", "events": 3, "topics": {"orders": 1, "feedback": 2},
    ...     "resumed_from": 0, "seconds": 0.5, "events_per_second": 6}))
    simulated shop sim-1
      orders       1
      feedback     2
      events sent  3 in 0.5 s, 6 a second
    """
    rows = {topic: f"{count:,}" for topic, count in summary["topics"].items()}
    if summary["resumed_from"]:
        rows["sent before"] = f"{summary['resumed_from']:,}"
    speed = f"{summary['seconds']:,.1f} s, {summary['events_per_second']:,} a second"
    rows["events sent"] = f"{summary['events']:,} in {speed}"
    width = max(map(len, rows))
    lines = [f"  {name:<{width}}  {text}" for name, text in rows.items()]
    return "\n".join([f"simulated shop {summary['name']}", *lines])
