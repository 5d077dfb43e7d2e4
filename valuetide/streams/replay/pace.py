"""When an event is due: as fast as possible, at a multiple of event time, or at a rate."""

import time
from collections.abc import Callable
from typing import Final

BURST_SECONDS: Final = 0.01
"""What a rate may catch up after a late wake-up. Timers are about a millisecond late; without
this the rate would never be reached, with much more of it the rate would not be a limit."""


class Pace:
    """Says how long to wait before each event.

    Parameters
    ----------
    speed
        Seconds of event time for one second of wall time; None: no matter.
    rate
        Events per second, at most; None: no matter.
    max_gap
        Longest wait between two events that ``speed`` may cause, seconds of wall time; the time
        beyond it is left out. None: as long as it takes.
    clock
        Gives seconds that never go back.

    Examples
    --------
    >>> pace = Pace(speed=60.0, clock=lambda: 0.0)
    >>> pace.wait(0.0), pace.wait(120.0)
    (0.0, 2.0)
    """

    def __init__(
        self,
        *,
        speed: float | None = None,
        rate: float | None = None,
        max_gap: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._speed = speed
        self._interval = None if rate is None else 1.0 / rate
        self._max_gap = max_gap
        self._clock = clock
        self._start: tuple[float, float] | None = None  # wall clock, event time
        self._latest = 0.0
        self._left_out = 0.0  # wall seconds
        self._slot = float("-inf")

    @property
    def is_unbounded(self) -> bool:
        """Whether no event ever waits."""
        return self._speed is None and self._interval is None

    def wait(self, occurred_at: float) -> float:
        """Give the seconds until the next event is due, 0 when it is.

        Parameters
        ----------
        occurred_at
            Its event time, epoch seconds. An event older than the one before is due at once.

        Notes
        -----
        To be called once per event, in order. Due times are counted from the first event, not
        from the one before, so late wake-ups do not add up.
        """
        now = self._clock()
        due = now
        if self._speed is not None:
            due = max(due, self._due(occurred_at, now, self._speed))
        if self._interval is not None:
            self._slot = max(self._slot + self._interval, due - BURST_SECONDS)
            due = max(due, self._slot)
        return max(0.0, due - now)

    def _due(self, occurred_at: float, now: float, speed: float) -> float:
        if self._start is None:
            self._start, self._latest = (now, occurred_at), occurred_at
            return now
        if self._max_gap is not None:
            gap = (occurred_at - self._latest) / speed
            self._left_out += max(0.0, gap - self._max_gap)
        self._latest = max(self._latest, occurred_at)
        started, first = self._start
        return started + (occurred_at - first) / speed - self._left_out
