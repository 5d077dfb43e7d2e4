"""How far the watch has closed buckets, as the shards of a worker see it.

The watch's record, fields that shards read::

    closed         the last bucket of which points were made, in the unit of the settings
    closed_hour    the last hour of which the numbers of events were looked at
    unit           "day" or "hour"
    taken:<p>      events of shard p in all buckets closed so far
"""

import time
from collections.abc import Callable

from valuetide.scoring.arrays import NO_TIME
from valuetide.streams.settings import Settings
from valuetide.streams.store import StateStore


class Closings:
    """What the watch's record says; one for a worker.

    Parameters
    ----------
    settings
        Which series there are.
    clock
        Gives seconds that only rise.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._series = settings.series
        self._clock = clock
        self._read_at: float | None = None
        self._fields: dict[str, str] = {}

    async def refresh(self, store: StateStore, every_seconds: float) -> None:
        """Read the record, unless that was done lately.

        Raises
        ------
        StoreUnavailableError
            When the store does not answer.
        """
        now = self._clock()
        if not self._series.enabled or (
            self._read_at is not None and now < self._read_at + every_seconds
        ):
            return
        self._read_at = now
        try:
            self._fields = await store.read_watch_fields()
        except BaseException:
            self._read_at = None
            raise

    @property
    def closed(self) -> int:
        """The last bucket that is closed, the least int64 before the first."""
        if self._fields.get("unit") != self._series.bucket:
            return NO_TIME
        return int(self._fields.get("closed", NO_TIME))

    @property
    def closed_hour(self) -> int:
        """The last hour that is closed, the least int64 before the first."""
        return int(self._fields.get("closed_hour", NO_TIME))

    def taken(self, partition: int) -> int:
        """Events of a shard in all buckets that were closed."""
        return int(self._fields.get(f"taken:{partition}", 0))
