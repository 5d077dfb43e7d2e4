"""The micro-batch transport: a Faust driver that hands an agent one message per fetched chunk.

Faust spends about 70 us on each message that passes through its tasks and queues. Here a message
is a whole :class:`~valuetide.streams.chunk.Chunk`, the records of one fetch from one partition,
so that cost is paid once for thousands of events. Three more things differ from Faust's driver:

* **Positions come from the state.** On assignment the consumer seeks to the offsets that are
  stored with the state, never to the group's. The group's offsets are written all the same, from
  what has been committed to the state, so that lag tools see the truth.
* **Equal partition numbers go to one worker**, by the range assignor. Faust 0.15 would take
  round robin unless there are changelog tables.
* **Faust's own bookkeeping of acknowledged offsets is off**, and its filter on read offsets too:
  shards know what they have read, and drop what is stale by its epoch.

Faust loads the driver by the name ``valuetide`` from the ``faust.transports`` entry points.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol, cast

import aiokafka
import mode.threads
import structlog
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError
from aiokafka.structs import OffsetAndMetadata
from aiokafka.structs import TopicPartition as AioTopicPartition
from faust.transport.drivers import aiokafka as faust_driver
from faust.types import TP, ConsumerMessage

from valuetide.schemas.errors import FaultError, TransientError
from valuetide.schemas.topics import INPUTS
from valuetide.streams.chunk import Chunk
from valuetide.streams.connections import broker_arguments
from valuetide.streams.fetched import take_whole_batches
from valuetide.streams.shard import lost_position, lost_state
from valuetide.streams.turns import SHARE_BESIDE_LIVE

log = structlog.get_logger(__name__)

BATCHES_PER_FETCH = 4
FETCH_MAX_BYTES = 16 * 1024 * 1024
REQUEST_TIMEOUT_MS = 30_000
HELD_BACK_SECONDS = 0.01
AT_ONCE_SECONDS = 0.0005
"""A fetch that takes less did not wait for the broker."""

FRESH_SECONDS = 0.003
PREFETCH_SECONDS = 0.1
"""While records lie there, the client asks their broker for no others for so long: its default."""

CHECK_SECONDS = 1.0
GONE_SECONDS = 10.0
BEYOND_SECONDS = 3.0
"""A broker that fails or has just come back may know of an earlier end for a moment."""

METADATA_AGE_MS = 10_000
"""What the client knows of topics is never older, so that a deleted one is noticed."""

FIRST_RETRY_SECONDS, MOST_RETRY_SECONDS = 0.1, 2.0
STOP_SECONDS = 5.0


class Positions(Protocol):
    """What the transport needs of the engine."""

    async def wait_until_assigned(self) -> None:
        """Wait while a rebalance is under way."""
        ...

    async def open_shards(self, assigned: set[TP]) -> dict[TP, tuple[int, int]]:
        """Give for each partition the offset to read from and the epoch of its chunks."""
        ...

    def committed_positions(self) -> dict[TP, int]:
        """Give for each partition the offset up to which the state has been committed."""
        ...

    async def drain(self) -> None:
        """Finish and commit what is in hand."""
        ...


class _NoReadOffsets(dict[Any, Any]):
    """Never knows a read offset, which turns off Faust's filter and its gap bookkeeping."""

    def __missing__(self, key: object) -> None:
        return None

    def __setitem__(self, key: object, value: object) -> None:
        return

    def update(self, *args: object, **kwargs: object) -> None:
        """Keep nothing."""


class ConsumerThread(faust_driver.AIOKafkaConsumerThread):
    """Runs the Kafka client in a thread of its own and cuts what it fetches into chunks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._epochs: dict[Any, int] = defaultdict(int)
        self._check_due = 0.0
        self._gone_since: float | None = None
        self._beyond: dict[Any, tuple[int, int, float]] = {}

    @property
    def _engine(self) -> Positions:
        return cast("Positions", cast("Any", self.app).engine)

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        conf = self.app.conf
        settings = cast("Any", self.app).settings
        self._assignor = RangePartitionAssignor
        return aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            partition_assignment_strategy=[RangePartitionAssignor],
            enable_auto_commit=False,
            # Every position comes from the state. One that the topic does not have is a fault,
            # unless the settings accept the loss.
            auto_offset_reset="earliest" if settings.lost_positions == "earliest" else "none",
            # Several batches at a time, so that with a backlog more than one shard gets some.
            max_poll_records=settings.max_batch_events * BATCHES_PER_FETCH,
            max_poll_interval_ms=int((conf.broker_max_poll_interval or 0) * 1000),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            fetch_max_bytes=FETCH_MAX_BYTES,
            fetch_max_wait_ms=settings.fetch_max_wait_ms,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            check_crcs=conf.broker_check_crcs,
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            metadata_max_age_ms=METADATA_AGE_MS,
            connections_max_idle_ms=conf.consumer_connections_max_idle_ms,
            isolation_level="read_committed",
            **broker_arguments(settings),
        )

    async def _fetch_records(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> Any:
        wanted = set(active_partitions) - cast("Consumer", self.consumer).held_back
        if not wanted:
            await asyncio.sleep(HELD_BACK_SECONDS)
            return {}
        clock = asyncio.get_running_loop()
        began = clock.time()
        chunks = await self._fetch_chunks(consumer, wanted, timeout, max_records)
        if chunks and clock.time() - began < AT_ONCE_SECONDS:
            # These were asked for when those before were taken, and have lain here while the
            # application was busy. The broker has what came since, and gives it at once.
            newer = await self._fetch_chunks(consumer, wanted, FRESH_SECONDS, max_records)
            for place, more in newer.items():
                chunks.setdefault(place, []).extend(more)
        self._check_positions(consumer)
        return chunks

    async def _fetch_chunks(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        wanted: set[TP],
        timeout: float | None,
        max_records: int | None,
    ) -> dict[Any, list[Chunk]]:
        take_whole_batches(consumer)
        try:
            records = await super()._fetch_records(
                consumer, wanted, timeout=timeout, max_records=max_records
            )
        except NoOffsetForPartitionError:
            return {}  # assigned, but not yet set to its position
        except OffsetOutOfRangeError as error:
            place, offset = next(iter(error.args[0].items()))
            self._fail(lost_position(place.topic, place.partition, offset))
            return {}
        # The client looks through what it has in this order, and stops when it has enough.
        waiting = consumer._fetcher._records
        for tp in records:
            if tp in waiting:
                waiting.move_to_end(tp)
        # Records of a partition that is behind lie there for long, and in their first tenth of a
        # second the client would ask the same broker for no others.
        consumer._fetcher._prefetch_backoff = 0.0 if waiting else PREFETCH_SECONDS
        # No other coroutine of this thread runs between the fetch and this line, so the epoch is
        # that of the position that the records were fetched from.
        most = max(1, cast("Any", self.app).settings.max_batch_events // SHARE_BESIDE_LIVE)
        return {
            tp: [
                Chunk(
                    tp.topic,
                    tp.partition,
                    fetched[at : at + most],
                    self._epochs[tp],
                    at + most < len(fetched) or has_more(consumer, tp),
                )
                for at in range(0, len(fetched), most)
            ]
            for tp, fetched in records.items()
        }

    def _check_positions(self, consumer: aiokafka.AIOKafkaConsumer) -> None:
        """Make sure that no position lies beyond the end of its partition.

        Apache Kafka answers such a fetch with an error; the embedded broker says nothing.
        """
        now = time.monotonic()
        if now < self._check_due:
            return
        self._check_due = now + CHECK_SECONDS
        self._check_topics(consumer, now)
        assignment = consumer._subscription.subscription.assignment
        beyond: dict[Any, tuple[int, int, float]] = {}
        for place in assignment.tps if assignment is not None else ():
            state = assignment.state_value(place)
            end = state.highwater  # 0 for a topic that is empty, None before the first answer
            if end is None or not state.has_valid_position or end >= state.position:
                continue
            # The end that comes with records may be older than they are. It counts when later
            # answers to a fetch from this very position repeat it, for a while.
            position, answered, since = self._beyond.get(place, (-1, 0, 0.0))
            if position != state.position:
                position, answered, since = state.position, state.timestamp, now
            beyond[place] = position, answered, since
            if state.timestamp > answered and now - since >= BEYOND_SECONDS:
                self._fail(lost_position(place.topic, place.partition, position))
        self._beyond = beyond

    def _check_topics(self, consumer: aiokafka.AIOKafkaConsumer, now: float) -> None:
        """Make sure that the topics are there; the client would wait for ever for one that is not.

        A broker that has just been started may not know all of them yet.
        """
        cluster = consumer._client.cluster
        gone = [topic for topic in self._topics() if not cluster.partitions_for_topic(topic)]
        if not gone:
            self._gone_since = None
        elif self._gone_since is None:
            self._gone_since = now
        elif now - self._gone_since > GONE_SECONDS:
            self._fail(
                FaultError(
                    f"no topic {', '.join(gone)} on the broker any more. The state in Redis is as "
                    "of the last event that was read. Put the topic back with its events, or start "
                    "afresh with another key_prefix and group."
                )
            )

    def _topics(self) -> list[str]:
        names = cast("Any", self.app).settings.topics
        return [getattr(names, role) for role in INPUTS]

    def _fail(self, error: Exception) -> None:
        """Tell the application, which lives in another thread, that we cannot go on."""
        self.app.loop.call_soon_threadsafe(cast("Any", self.app).on_fault, error)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek to the positions that are stored with the state."""
        positions = await self._open_shards()
        await self.call_thread(self._set_positions, positions)
        return {tp: offset for tp, (offset, _) in positions.items()}

    async def _open_shards(self) -> dict[TP, tuple[int, int]]:
        """Open the shards of the assignment; what goes wrong is the worker's fault, not Faust's.

        Faust would end its rebalance on an error, and the worker would go on without shards.
        """
        app = cast("Any", self.app)
        give_up = time.monotonic() + app.settings.retry_seconds
        delay = FIRST_RETRY_SECONDS
        while True:
            await self._engine.wait_until_assigned()
            try:
                positions = await self._engine.open_shards(self.assignment())
                await self._check_group(positions)
                app.assigned.set()
                return positions
            except TransientError as error:
                log.warning("shards cannot be opened yet", why=str(error))
                if time.monotonic() > give_up:
                    app.on_fault(error)
                    return {}
                await asyncio.sleep(delay)
                delay = min(2 * delay, MOST_RETRY_SECONDS)
            except Exception as error:
                app.on_fault(error)
                return {}

    async def _check_group(self, positions: dict[TP, tuple[int, int]]) -> None:
        """Make sure that the state is not gone: the group cannot be further than nowhere.

        Raises
        ------
        FaultError
            When the state begins with nothing where the group has already committed an offset.
        TransientError
            When the broker does not say.
        """
        if cast("Any", self.app).settings.lost_positions == "earliest":
            return
        begun = {tp.partition for tp, (offset, _) in positions.items() if offset}
        for tp in positions:
            if tp.partition not in begun and (
                known := await self.call_thread(self._group_offset, tp)
            ):
                raise lost_state(
                    tp.partition, f"the consumer group's offset in {tp.topic} is {known}"
                )

    async def _group_offset(self, tp: TP) -> int:
        try:
            return int(await asyncio.wait_for(self._ensure_consumer().committed(tp), 5) or 0)
        except (TimeoutError, KafkaError) as error:
            raise TransientError(f"Kafka does not give the group's offset: {error}") from error

    async def set_positions(self, positions: dict[TP, tuple[int, int]]) -> None:
        """Set offset and epoch of partitions, those that are still assigned."""
        await self.call_thread(self._set_positions, positions)

    @property
    def connected(self) -> bool:
        """Whether there is a connection to a broker."""
        if self._consumer is None:
            return False
        return any(c.connected() for c in list(self._consumer._client._conns.values()))

    async def on_thread_stop(self) -> None:
        """Stop the client; one whose broker is away would take a minute."""
        await mode.threads.QueueServiceThread.on_thread_stop(self)
        if self._consumer is not None:
            # With the broker away, the client cancels its own fetches in a way that ends the
            # one who waits for it, too: this thread, and with it every hope of an end.
            stopping = asyncio.ensure_future(self._consumer.stop())
            await asyncio.wait([stopping], timeout=STOP_SECONDS)
            if not stopping.done():
                stopping.cancel()
            elif not stopping.cancelled() and (error := stopping.exception()) is not None:
                log.debug("the Kafka client did not stop in good order", why=str(error))

    def close(self) -> None:
        """Do nothing: Faust would close the client in the wrong event loop; its thread does."""

    async def _set_positions(self, positions: dict[TP, tuple[int, int]]) -> None:
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        for tp, (offset, epoch) in positions.items():
            at = AioTopicPartition(tp.topic, tp.partition)
            if at in assigned:
                self._epochs[at] = epoch
                consumer.seek(at, offset)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        # Group offsets serve lag tools. Not being able to write them is no reason to stop.
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        wanted = {
            AioTopicPartition(tp.topic, tp.partition): OffsetAndMetadata(offset, "")
            for tp, offset in offsets.items()
            if AioTopicPartition(tp.topic, tp.partition) in assigned
        }
        try:
            if wanted:
                await asyncio.wait_for(consumer.commit(wanted), timeout=5)
        except (TimeoutError, KafkaError) as error:
            log.debug("group offsets not written", why=str(error))
            cast("Any", self.app).metrics.offset_commits_failed.inc()
            return False
        return True


def has_more(consumer: aiokafka.AIOKafkaConsumer, place: Any) -> bool:
    """Tell whether a partition is known to have records beyond those that were handed out.

    Positions are compared, not offsets of records: after the last record may lie the marks of
    transactions, which nobody is ever given.
    """
    assignment = consumer._subscription.subscription.assignment
    state = assignment.state_value(place) if assignment is not None else None
    if state is None or state.highwater is None or not state.has_valid_position:
        return False
    return bool(state.position < state.highwater)


class Consumer(faust_driver.Consumer):
    """Hands out chunks, and writes to the group what the state has."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _NoReadOffsets()
        self.held_back: set[TP] = set()
        """Partitions whose shard has enough to do; nothing is fetched for them."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection to a broker."""
        return cast("ConsumerThread", self._thread).connected

    def _new_consumer_thread(self) -> ConsumerThread:
        # A loop of the same kind as the application's; mode would always take asyncio's.
        thread_loop = type(self.loop)()
        thread = ConsumerThread(self, loop=self.loop, thread_loop=thread_loop, beacon=self.beacon)
        thread._close_thread_loop_on_stop = True
        return thread

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        """Hand what was fetched to the agents, all of it at once; gives nothing to the caller.

        Faust hands over one message a round of the event loop, and each round waits for whatever
        batches shards work on in it. Agents' queues are longer than ever needed, so nothing waits
        for a place in one.
        """
        nothing: tuple[tuple[TP, Any], ...] = ()
        async for _, message in super().getmany(timeout):
            await self.callback(message)
        for one in nothing:
            yield one

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        chunk: Chunk = record
        last = chunk.records[-1]
        return ConsumerMessage(
            chunk.topic,
            chunk.partition,
            last.offset,
            last.timestamp / 1000.0,
            0,
            [],
            None,
            cast("Any", chunk),
            None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def set_positions(self, positions: dict[TP, tuple[int, int]]) -> None:
        """Set offset and epoch of partitions, those that are still assigned."""
        await cast("ConsumerThread", self._thread).set_positions(positions)

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Write the state's positions as the group's offsets, where they have changed."""
        engine: Positions = cast("Any", self.app).engine
        offsets = {
            tp: offset
            for tp, offset in engine.committed_positions().items()
            if self._committed_offset[tp] != offset
        }
        if not offsets or not await self._commit(offsets):
            return False
        self._committed_offset.update(offsets)
        return True

    async def on_stop(self) -> None:
        """Finish and commit what is in hand, then write the group's offsets."""
        await cast("Any", self.app).engine.drain()
        await super().on_stop()

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: Faust's check relies on its own bookkeeping, which is off."""


class Producer(faust_driver.Producer):
    """Faust's own producer, let in by the same doors."""

    def _settings_auth(self) -> Mapping[str, Any]:
        return broker_arguments(cast("Any", self.app).settings)


class Transport(faust_driver.Transport):
    """Kafka by aiokafka, in chunks."""

    Consumer = Consumer
    Producer = Producer
    driver_version = f"aiokafka={aiokafka.__version__}, in chunks"
