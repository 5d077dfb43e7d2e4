"""Tells when so many events of a shard are rejected that going on would only bury the topic."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from valuetide.streams.decode import Rejection, Role
from valuetide.streams.settings import Settings

ADVICE = "mend the producer or the settings, then restart, or raise"


class Flood:
    """Watches the rejections of one shard.

    Two limits, either of which may be turned off by 0: so many events of one topic in a row, and
    such a share of the last events of all topics.

    Parameters
    ----------
    partition
        The shard, for the words.
    settings
        ``dead_letter_run``, ``dead_letter_ratio`` and ``dead_letter_window``.

    Attributes
    ----------
    why
        What is wrong and what to do, once a limit is reached; until then empty. It repeats the
        last reason, which names a field and never a value.
    """

    def __init__(self, partition: int, settings: Settings) -> None:
        self.why = ""
        self._partition = partition
        self._most_in_a_row = settings.dead_letter_run
        self._ratio = settings.dead_letter_ratio
        self._window = settings.dead_letter_window if self._ratio else 0
        self.forget()

    def forget(self) -> None:
        """Count from nothing, as after a start; what was found stays."""
        self._in_a_row: dict[Role, int] = {}
        self._last: NDArray[np.bool_] = np.zeros(self._window, np.bool_)
        self._seen = 0
        self._rejected = 0

    def lift(self) -> None:
        """Take nothing for found any more, and count from nothing."""
        self.why = ""
        self.forget()

    def see(self, role: Role, events: int, rejections: Sequence[Rejection]) -> None:
        """Count the events of a chunk, in their order.

        Parameters
        ----------
        role
            Their topic.
        events
            How many there are, 1 or more.
        rejections
            Which of them were rejected.
        """
        if not rejections and not self._rejected:
            self._seen += events
            self._in_a_row[role] = 0
            return
        rejected = np.zeros(events, np.bool_)
        rejected[[one.index for one in rejections]] = True
        self._count_run(role, rejected)
        self._count_share(rejected)
        if rejections and not self.why:
            self.why = self._judge(role, rejections[-1].reason)

    def _count_run(self, role: Role, rejected: NDArray[np.bool_]) -> None:
        good = np.flatnonzero(~rejected)
        before = 0 if good.size else self._in_a_row.get(role, 0)
        first = int(good[-1]) + 1 if good.size else 0
        self._in_a_row[role] = before + rejected.size - first

    def _count_share(self, rejected: NDArray[np.bool_]) -> None:
        if not self._window:
            return
        newest = rejected[-self._window :]
        places = (self._seen + rejected.size - newest.size + np.arange(newest.size)) % self._window
        self._rejected += int(newest.sum()) - int(self._last[places].sum())
        self._last[places] = newest
        self._seen += rejected.size

    def _judge(self, role: Role, reason: str) -> str:
        run = self._in_a_row[role]
        if self._most_in_a_row and run >= self._most_in_a_row:
            what = f"{run:,} events of {role} in a row were rejected"
            setting = "VALUETIDE_DEAD_LETTER_RUN"
        elif self._window and self._seen >= self._window and self._over_ratio():
            share = self._rejected / self._window
            what = f"{share:.0%} of the last {self._window:,} events were rejected"
            setting = "VALUETIDE_DEAD_LETTER_RATIO"
        else:
            return ""
        return f"partition {self._partition}: {what}, last reason {reason!r}; {ADVICE} {setting}"

    def _over_ratio(self) -> bool:
        return self._rejected >= self._ratio * self._window
