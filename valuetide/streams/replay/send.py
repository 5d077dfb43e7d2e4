"""To the broker: by key, in order within each partition, knowing what has arrived.

Events are gathered in one batch per partition. A batch leaves when it is full, when the next
event is not due yet, or when its first event has waited long enough. The position is the number
of events, from the first, that the broker has acknowledged without a gap.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from valuetide.schemas.errors import FaultError
from valuetide.schemas.topics import INPUTS
from valuetide.streams import knock
from valuetide.streams.connections import broker_arguments
from valuetide.streams.replay.batches import Batches, PartitionSent, Topic
from valuetide.streams.replay.errors import BrokerAwayError
from valuetide.streams.replay.event import Role, SourceEvent
from valuetide.streams.replay.pace import Pace
from valuetide.streams.settings import Settings

BATCH_BYTES: Final = 131_072
"""A batch is full at this size; well under the megabyte that a broker takes by default."""

LINGER_SECONDS: Final = 0.005
"""An event of a slow replay waits this long for others, at most."""

SOONEST_SECONDS: Final = 0.001
"""What is due within this time is due now: timers are no more exact."""

TICK_SECONDS: Final = 0.1
"""Between two reports of progress, at least."""

AWAY_SECONDS: Final = 30.0
"""A broker that acknowledges nothing for so long is given up, or after ``retry_seconds``."""

_CHECK_EVERY: Final = 256  # events between two looks at the clock

__all__ = ["PartitionSent", "Progress", "Sent", "send", "send_to_all"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it has come.

    Attributes
    ----------
    events
        Handed to the producer.
    acknowledged
        The position: events, from the first, that the broker has without a gap.
    occurred_at
        Event time of the last event handed over, epoch seconds; ``None`` before the first.
    """

    events: int
    acknowledged: int
    occurred_at: float | None


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent, all of it acknowledged.

    Attributes
    ----------
    events
        Number of events.
    seconds
        Wall time from the first event to the last acknowledgement.
    occurred_at
        Latest event time sent, epoch seconds; ``None`` without events.
    topics
        Of every partition of each topic.
    stopped
        Whether it was told to stop before the end.
    """

    events: int
    seconds: float
    occurred_at: float | None
    topics: dict[Role, dict[int, PartitionSent]] = field(default_factory=dict)
    stopped: bool = False

    @property
    def partitions(self) -> dict[int, PartitionSent]:
        """Of every partition, where events of one topic were sent."""
        (partitions,) = self.topics.values()
        return partitions


async def send(
    events: Iterable[SourceEvent],
    settings: Settings,
    *,
    topic: Role = "orders",
    pace: Pace | None = None,
    stop: asyncio.Event | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Sent:
    """Send events to an input topic and wait until the broker has them.

    Parameters
    ----------
    events
        In the order in which they are to be sent. Read as needed, in the event loop.
    settings
        Names the broker and the topics.
    topic
        Which of the input topics.
    pace
        When each is due; ``None``: at once.
    stop
        When set, no further event is sent; those on their way still are.
    on_progress
        Called every 0.1 s or so, and once at the end however it ends: what it is told last as
        ``acknowledged`` is the position to go on from.

    Returns
    -------
    Sent
        The counts, and the next offset of each partition.

    Raises
    ------
    BrokerAwayError
        When the broker cannot be reached or stops acknowledging.
    FaultError
        When the topic does not exist, or the broker refuses us, or an event for good.
    """
    return await send_to_all(
        ((topic, event) for event in events),
        settings,
        topics=(topic,),
        pace=pace,
        stop=stop,
        on_progress=on_progress,
    )


async def send_to_all(
    events: Iterable[tuple[Role, SourceEvent]],
    settings: Settings,
    *,
    topics: Sequence[Role] = INPUTS,
    client_id: str = "valuetide-replay",
    pace: Pace | None = None,
    stop: asyncio.Event | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Sent:
    """Send events to several input topics, as :func:`send` does to one.

    Parameters
    ----------
    events
        Each with the topic it goes to.
    topics
        All that occur; they must exist.
    client_id
        What the broker knows this producer by.
    """
    away = max(1.0, min(AWAY_SECONDS, settings.retry_seconds))
    producer = AIOKafkaProducer(
        **broker_arguments(settings),
        client_id=client_id,
        acks="all",
        max_batch_size=BATCH_BYTES,
        request_timeout_ms=int(away * 1000),
    )
    try:
        try:
            await knock.knock_at_broker(settings)
            await producer.start()
            cluster = await producer.client.fetch_all_metadata()
        except knock.BrokerAwayError as error:
            raise BrokerAwayError(
                f"the broker {settings.broker} cannot be reached: {error}"
            ) from error
        except (KafkaError, OSError) as error:
            raise BrokerAwayError(
                f"the broker {settings.broker} cannot be reached; is it running,"
                " and is the address right?"
            ) from error
        found: dict[Role, Topic] = {}
        for topic in topics:
            name: str = getattr(settings.topics, topic)
            partitions = cluster.partitions_for_topic(name)
            if not partitions:
                raise FaultError(
                    f"there is no topic {name} on the broker {settings.broker};"
                    " create it with: valuetide topics --create"
                )
            found[topic] = Topic(name, len(partitions))
        run = _Run(Batches(producer, found), pace, stop, on_progress)
        try:
            return await run.send(events)
        except KafkaError as error:
            if error.retriable:
                raise BrokerAwayError(
                    f"the broker {settings.broker} has acknowledged nothing for {away:.0f} s"
                    f" ({type(error).__name__})"
                ) from error
            raise FaultError(f"the broker {settings.broker} refused events: {error!r}") from error
    finally:
        # After a failure the producer would wait for the broker again; what it still holds is
        # not acknowledged and will be sent again.
        with suppress(TimeoutError):
            await asyncio.wait_for(producer.stop(), 2.0)


class _Run:
    """One pass over the events."""

    def __init__(
        self,
        batches: Batches,
        pace: Pace | None,
        stop: asyncio.Event | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._batches = batches
        self._pace = pace or Pace()
        self._stop = stop or asyncio.Event()
        self._on_progress = on_progress
        self._occurred_at: float | None = None
        self._latest: float | None = None
        self._next_tick = 0.0

    async def send(self, events: Iterable[tuple[Role, SourceEvent]]) -> Sent:
        started = time.monotonic()
        try:
            try:
                stopped = await self._send_all(events)
            finally:
                # Also when reading the events failed: what is gathered is sound.
                await self._batches.flush()
                await self._batches.delivered()
        finally:
            self._report()
        return Sent(
            self._batches.events,
            time.monotonic() - started,
            self._latest,
            self._batches.sent(),
            stopped,
        )

    async def _send_all(self, events: Iterable[tuple[Role, SourceEvent]]) -> bool:
        batches, paced = self._batches, not self._pace.is_unbounded
        for number, (role, event) in enumerate(events):
            if self._stop.is_set():
                return True
            if paced and not await self._wait_for(event):
                return True
            if not batches.append(role, event):
                await batches.append_to_next(role, event)
            self._occurred_at = event.occurred_at
            if self._latest is None or event.occurred_at > self._latest:
                self._latest = event.occurred_at
            if paced or number % _CHECK_EVERY == 0:
                await self._tick()
        return False

    async def _wait_for(self, event: SourceEvent) -> bool:
        wait = self._pace.wait(event.occurred_at)
        if wait < SOONEST_SECONDS:
            return True
        if wait + self._batches.age() > LINGER_SECONDS:
            await self._batches.flush()
            await self._tick()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), wait)
        return not self._stop.is_set()

    async def _tick(self) -> None:
        now = time.monotonic()
        if self._batches.age() > LINGER_SECONDS and not self._pace.is_unbounded:
            await self._batches.flush()
        if now >= self._next_tick:
            self._next_tick = now + TICK_SECONDS
            await asyncio.sleep(0)
            self._batches.check()
            self._report()

    def _report(self) -> None:
        if self._on_progress is not None:
            acknowledged = self._batches.acknowledged()
            self._on_progress(Progress(self._batches.events, acknowledged, self._occurred_at))
