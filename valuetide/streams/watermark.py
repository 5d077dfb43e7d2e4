"""Up to when events of all inputs have been seen, which decides when buckets close."""

from collections.abc import Mapping, Sequence

from valuetide.schemas.topics import INPUTS

Record = Mapping[str, str]


class Watermark:
    """Event time up to which no more events are expected, late ones aside.

    An input is one topic of one shard, since a replay may be far ahead in one topic and behind in
    another. The watermark is the least of the largest event times of all inputs that are not idle:
    one without news for a while holds nothing up. One that stands still is not idle: by its last
    commit there were events that it had not read (``behind``), or its shard takes none because of a
    flood of dead letters (``paused_until``, ms of the wall clock). When all are idle, a live shop's
    time goes on with the wall clock, while what was replayed stands at the largest event time of
    all.

    Parameters
    ----------
    idle_seconds
        After which an input without news is idle.
    """

    def __init__(self, idle_seconds: float) -> None:
        self._idle_seconds = idle_seconds
        self._offsets: dict[tuple[int, str], str] = {}
        self._changed_at: dict[tuple[int, str], float] = {}

    def of(self, records: Sequence[Record], wall_ms: int, now: float) -> int | None:
        """Give the watermark, ms since 1970, ``None`` before the first event.

        Parameters
        ----------
        records
            Of all shards.
        wall_ms
            Wall clock. Nothing is seen up to later than now, whatever an event says of its time.
        now
            Seconds that only rise.
        """
        seen: dict[tuple[int, str], int] = {}
        busy: list[int] = []
        for partition, record in enumerate(records):
            # After a pause there is a while to read what has come in it.
            pause_ends = int(record.get("paused_until", 0)) + int(self._idle_seconds * 1000.0)
            for role in INPUTS:
                key = partition, role
                seen[key] = int(record.get(f"max_event_at:{role}", 0))
                # One that had nothing but dead letters so far must not hold up the others for ever.
                offset = record.get(f"offset:{role}", "0") if seen[key] else "0"
                if self._offsets.get(key) != offset:
                    self._offsets[key], self._changed_at[key] = offset, now
                stands = wall_ms < pause_ends or record.get(f"behind:{role}") == "1"
                if (seen[key] and stands) or now - self._changed_at[key] < self._idle_seconds:
                    busy.append(seen[key])
        if busy:
            least = min(busy)
        elif any(record.get("live") == "1" for record in records):
            least = wall_ms
        else:
            least = max(seen.values(), default=0)
        return min(least, wall_ms) if least else None
