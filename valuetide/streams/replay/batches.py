"""Batches on their way to the partitions of topics, and what has been acknowledged of them."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from valuetide.streams.partitioner import partition_of
from valuetide.streams.replay.event import Role, SourceEvent

MAX_KNOWN_CUSTOMERS: Final = 1_000_000
"""Keys whose partition is remembered; at 200 bytes each about 200 MB."""


class Batch(Protocol):
    """What is used of a producer's batch."""

    def append(self, *, timestamp: int | None, key: bytes, value: bytes) -> object:
        """Take a message; ``None`` when the batch is full."""

    def close(self) -> None:
        """Take no more."""


class Producer(Protocol):
    """What is used of a producer."""

    def create_batch(self) -> Any:
        """Give an empty batch."""

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> Any:
        """Take a batch and give a future, done with ``offset`` once the broker has it."""


class Topic(NamedTuple):
    """A topic to send to.

    Attributes
    ----------
    name
        As the broker knows it.
    partitions
        How many it has.
    """

    name: str
    partitions: int


@dataclass(frozen=True, slots=True)
class PartitionSent:
    """What one partition got.

    Attributes
    ----------
    events
        Acknowledged.
    next_offset
        Offset after the last of them; ``None`` when there was none.
    """

    events: int = 0
    next_offset: int | None = None


@dataclass(slots=True)
class _Open:
    """A batch that is being filled."""

    batch: Batch
    first: int  # number of its first event among all
    count: int = 0


class Places:
    """Remembers key and partition of each customer: the hash takes ten times as long as looking.

    Examples
    --------
    >>> Places(4).of("42")
    (b'42', 0)
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._known: dict[str, tuple[bytes, int]] = {}

    def of(self, customer_id: str) -> tuple[bytes, int]:
        """Give the message's key and its partition."""
        place = self._known.get(customer_id)
        if place is None:
            if len(self._known) >= MAX_KNOWN_CUSTOMERS:
                self._known.clear()
            place = customer_id.encode(), partition_of(customer_id, self._partitions)
            self._known[customer_id] = place
        return place


class Batches:
    """Gathers events by topic and partition and sends them.

    Parameters
    ----------
    producer
        Keeps the batches of a partition in order.
    topics
        Where the events of each role go.
    clock
        Gives seconds that never go back.
    """

    def __init__(
        self,
        producer: Producer,
        topics: Mapping[Role, Topic],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._producer = producer
        self._names = {role: topic.name for role, topic in topics.items()}
        self._clock = clock
        # Topics with as many partitions share what is known: they put a customer in the same one.
        places = {topic.partitions: Places(topic.partitions) for topic in topics.values()}
        self._place = {role: places[topic.partitions].of for role, topic in topics.items()}
        self._open: dict[tuple[Role, int], _Open] = {}
        self._opened_at = 0.0
        self._unacknowledged: dict[asyncio.Future[Any], int] = {}  # to number of first event
        self._sent = {
            role: {p: PartitionSent() for p in range(topic.partitions)}
            for role, topic in topics.items()
        }
        self._failure: BaseException | None = None
        self._lost_from: int | None = None
        self.events = 0

    def append(self, role: Role, event: SourceEvent) -> bool:
        """Take an event, unless the batch of its partition is full or not there."""
        key, partition = self._place[role](event.customer_id)
        batch = self._open.get((role, partition))
        # The message's own time is that of sending, not the event's: a broker's retention goes
        # by it and would delete the events of an old file as soon as they arrive.
        if batch is None or batch.batch.append(timestamp=None, key=key, value=event.value) is None:
            return False
        batch.count += 1
        self.events += 1
        return True

    async def append_to_next(self, role: Role, event: SourceEvent) -> None:
        """Take an event into a new batch; the one before goes out."""
        _, partition = self._place[role](event.customer_id)
        place = role, partition
        if place in self._open:
            await self._send(place)
        if not self._open:
            self._opened_at = self._clock()
        self._open[place] = _Open(self._producer.create_batch(), self.events)
        if not self.append(role, event):
            raise AssertionError("an empty batch takes any event")

    def age(self) -> float:
        """Give the seconds since the oldest event that is not on its way was taken."""
        return self._clock() - self._opened_at if self._open else 0.0

    async def flush(self) -> None:
        """Send all that is gathered; returns when the producer has it.

        Raises
        ------
        KafkaError
            Also when an earlier batch failed.
        """
        for place in list(self._open):
            await self._send(place)

    async def delivered(self) -> None:
        """Wait until everything sent is acknowledged; raises the first failure."""
        if self._unacknowledged:
            await asyncio.wait(list(self._unacknowledged))
            await asyncio.sleep(0)  # let the callbacks of the last ones run
        self.check()

    def check(self) -> None:
        """Raise what made the first failed batch fail, if any did."""
        if self._failure is not None:
            raise self._failure

    def acknowledged(self) -> int:
        """Give the number of events, from the first, acknowledged without a gap."""
        missing = [*self._unacknowledged.values(), *(b.first for b in self._open.values())]
        if self._lost_from is not None:
            missing.append(self._lost_from)
        return min(missing, default=self.events)

    def sent(self) -> dict[Role, dict[int, PartitionSent]]:
        """Give what each partition of each topic has acknowledged."""
        return {role: dict(partitions) for role, partitions in self._sent.items()}

    async def _send(self, place: tuple[Role, int]) -> None:
        self.check()
        role, partition = place
        batch = self._open[place]
        batch.batch.close()
        # While the producer is asked to take it, it still counts as open: nothing is forgotten
        # when this is cancelled.
        name = self._names[role]
        future = await self._producer.send_batch(batch.batch, name, partition=partition)
        del self._open[place]
        self._unacknowledged[future] = batch.first
        future.add_done_callback(lambda done: self._acknowledge(done, place, batch))

    def _acknowledge(
        self, done: "asyncio.Future[Any]", place: tuple[Role, int], batch: _Open
    ) -> None:
        del self._unacknowledged[done]
        failure = asyncio.CancelledError() if done.cancelled() else done.exception()
        if failure is None:
            role, partition = place
            count = self._sent[role][partition].events + batch.count
            self._sent[role][partition] = PartitionSent(count, done.result().offset + batch.count)
            return
        self._failure = self._failure or failure
        self._lost_from = min(
            batch.first, batch.first if self._lost_from is None else self._lost_from
        )
