"""Events in the order in which they happened, however many there are.

Up to ``run_length`` events are sorted in memory. More are sorted in runs of that length, which
wait in unnamed temporary files and are merged. Events of the same time keep the file's order.
"""

import heapq
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from operator import attrgetter
from tempfile import TemporaryFile
from typing import IO, Final

from valuetide.streams.replay.event import SourceEvent

RUN_LENGTH: Final = 1_000_000
"""Events sorted in memory at once: about 500 MB at 250 bytes a message."""

_RECORD: Final = struct.Struct("<dII")  # event time, bytes of customer_id, bytes of value
_by_time = attrgetter("occurred_at")


def in_event_time(
    events: Iterable[SourceEvent], run_length: int = RUN_LENGTH
) -> Iterator[SourceEvent]:
    """Give the events sorted by event time; all are read before the first is given.

    Examples
    --------
    >>> late, soon = SourceEvent("a", 2.0, b""), SourceEvent("b", 1.0, b"")
    >>> [event.customer_id for event in in_event_time([late, soon])]
    ['b', 'a']
    """
    source = iter(events)
    with ExitStack() as stack:
        runs: list[Iterable[SourceEvent]] = []
        while run := sorted(islice(source, run_length), key=_by_time):
            if len(run) < run_length:
                runs.append(run)  # the last one stays where it is
                break
            file = stack.enter_context(TemporaryFile())
            _write(run, file)
            runs.append(_read(file))
        # merge() prefers the earlier run where times are equal, which is the file's order.
        yield from heapq.merge(*runs, key=_by_time)


def _write(run: list[SourceEvent], file: IO[bytes]) -> None:
    for event in run:
        customer = event.customer_id.encode()
        file.write(_RECORD.pack(event.occurred_at, len(customer), len(event.value)))
        file.write(customer)
        file.write(event.value)
    file.seek(0)


def _read(file: IO[bytes]) -> Iterator[SourceEvent]:
    while head := file.read(_RECORD.size):
        at, customer_bytes, value_bytes = _RECORD.unpack(head)
        yield SourceEvent(file.read(customer_bytes).decode(), at, file.read(value_bytes))
