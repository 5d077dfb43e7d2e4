"""What "now" is for a score: the wall clock for a live shard, event time in a replay."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Clock:
    """Tells the moment that a shard's scores are for.

    Attributes
    ----------
    mode
        ``wall``: always the wall clock. ``event``: always the shard's largest event time.
        ``auto``: the wall clock for a shard whose largest event time is close to it, since such
        a shard is live, and stays so; else event time, since the shard is replaying the past.
    live_within_seconds
        How close that is.
    wall
        Gives epoch seconds.
    """

    mode: Literal["auto", "wall", "event"] = "auto"
    live_within_seconds: float = 3_600.0
    wall: Callable[[], float] = time.time

    def wall_ms(self) -> int:
        """Give the wall clock in milliseconds."""
        return int(self.wall() * 1000.0)

    def is_live(self, max_event_at: int) -> bool:
        """Whether a shard whose largest event time this is, in milliseconds, is close to now."""
        behind = self.wall_ms() - max_event_at
        return max_event_at > 0 and behind <= self.live_within_seconds * 1000.0

    def now_ms(self, max_event_at: int, *, was_live: bool = False) -> int:
        """Give the moment to score for.

        Parameters
        ----------
        max_event_at
            Largest event time of the shard, milliseconds; 0 before its first event.
        was_live
            Whether it has been live before: one that has fallen silent since stays so.

        Returns
        -------
        int
            Milliseconds. Never decreases with either argument.
        """
        wall = self.wall_ms()
        if self.mode == "wall" or max_event_at == 0:
            return wall
        if self.mode == "event":
            return max_event_at
        live = was_live or self.is_live(max_event_at)
        return max(wall, max_event_at) if live else max_event_at

    def now_of(self, shards: Iterable[tuple[int, bool]]) -> int:
        """Give the moment for several shards together, by what each has committed.

        Parameters
        ----------
        shards
            Of each the largest event time, and whether it has been live.
        """
        last, live = 0, False
        for at, was_live in shards:
            last, live = max(last, at), live or was_live
        return self.now_ms(last, was_live=live)
