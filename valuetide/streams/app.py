"""The Faust application: three agents that share the shards of their worker.

Each agent (orders, interactions, feedback) reads chunks from its topic and gives them to the
engine, whose shards turn them into scores, dead letters and committed state.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import faust
import structlog
from aiokafka import AIOKafkaProducer
from faust.types import TP

from valuetide.schemas.score import ranked_fields
from valuetide.schemas.topics import INPUTS
from valuetide.streams.chunk import Chunk
from valuetide.streams.clock import Clock
from valuetide.streams.connections import broker_arguments, redis_client
from valuetide.streams.decode import Role
from valuetide.streams.engine import Engine
from valuetide.streams.metrics import Metrics
from valuetide.streams.publish import Publisher
from valuetide.streams.records import TEXTS, stored_columns
from valuetide.streams.settings import Settings
from valuetide.streams.store.redis import RedisStore
from valuetide.streams.transport import Consumer

log = structlog.get_logger(__name__)

RANKED_SLACK = 5
"""Customers kept per ranked field, as a multiple of those shown: one that falls out of the places
shown is replaced by the next, as long as not all of the slack falls."""

MAX_REQUEST_BYTES = 4 * 1_048_576
STREAM_BUFFER = 256
"""Chunks in an agent's queue, more than ever wait there: the agents only hand them on, and the
transport fetches nothing for a shard whose own queue is long."""

FAUST_PATIENCE_SECONDS = 3_600.0
"""Faust gives up a rebalance silently when setting the positions takes longer than its request
timeout. We give up loudly, after ``retry_seconds``."""

STOP_SECONDS = 5.0
"""A client whose broker is away may take this long to stop."""


class App(faust.App):
    """A Faust application with an engine of shards.

    Parameters
    ----------
    settings
        The settings.
    """

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        super().__init__(
            settings.group,
            broker=[f"valuetide://{address}" for address in settings.broker.split(",")],
            datadir="/nonexistent/valuetide-keeps-nothing-on-disk",
            store="memory://",
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            stream_buffer_maxsize=STREAM_BUFFER,
            stream_wait_empty=False,
            broker_session_timeout=settings.session_timeout_seconds,
            broker_heartbeat_interval=settings.heartbeat_seconds,
            broker_rebalance_timeout=settings.rebalance_timeout_seconds,
            broker_request_timeout=settings.retry_seconds + FAUST_PATIENCE_SECONDS,
            broker_commit_interval=2.0,
            consumer_max_fetch_size=4 * 1_048_576,
            producer_max_request_size=MAX_REQUEST_BYTES,
        )
        self.settings = settings
        self.metrics = Metrics()
        self.fault: BaseException | None = None
        self.assigned = asyncio.Event()
        """Set when the first assignment's shards are open and their state was found to be there."""
        self._fault_happened = asyncio.Event()
        self._clock = clock or Clock(settings.clock, settings.live_within_seconds)
        self._shard_producer: AIOKafkaProducer | None = None
        self._store: RedisStore | None = None
        self._engine: Engine | None = None
        for role in INPUTS:
            self._add_agent(role)
        cast("Any", self.on_partitions_revoked).connect(self._revoked)
        cast("Any", self.on_partitions_assigned).connect(self._assigned)

    @property
    def engine(self) -> Engine:
        """The engine, once the application has started."""
        if self._engine is None:
            raise RuntimeError("the application has not started")
        return self._engine

    @property
    def has_engine(self) -> bool:
        """Whether the engine is there yet."""
        return self._engine is not None

    def _add_agent(self, role: Role) -> None:
        topic = self.topic(
            getattr(self.settings.topics, role),
            key_serializer="raw",
            value_serializer="raw",
            acks=False,
        )

        async def agent(chunks: faust.StreamT[Any]) -> AsyncIterator[None]:
            async for chunk in chunks:
                self.engine.submit(cast("Chunk", chunk))
                yield

        self.agent(topic, name=f"valuetide.{role}")(agent)

    def _create_directories(self) -> None:
        """Create none: nothing is kept on disk."""

    async def on_start(self) -> None:
        """Connect to Redis and start the producer before Faust starts its own services."""
        settings = self.settings
        self._store = RedisStore(
            redis_client(settings),
            prefix=settings.key_prefix,
            columns=stored_columns(settings.horizons_days),
            texts=TEXTS,
            ranked=ranked_fields(settings.horizons_days),
            top_size=settings.top_size * RANKED_SLACK,
        )
        self._shard_producer = AIOKafkaProducer(
            **broker_arguments(settings),
            acks="all",
            max_batch_size=512 * 1024,
            max_request_size=MAX_REQUEST_BYTES,
            request_timeout_ms=20_000,
        )
        await self._shard_producer.start()
        self._engine = Engine(
            settings,
            self._store,
            Publisher(self._shard_producer),
            self.metrics,
            self._clock,
            _Flow(self),
            self.on_fault,
        )
        await super().on_start()

    async def on_stop(self) -> None:
        """Finish what is in hand, then close producer and store."""
        if self._engine is not None:
            await self._engine.drain()
        await super().on_stop()

    async def on_shutdown(self) -> None:
        """Close what :meth:`on_start` opened, when all services have stopped."""
        await super().on_shutdown()
        if self._shard_producer is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._shard_producer.stop(), STOP_SECONDS)
        if self._store is not None:
            await self._store.close()

    def _crash(self, reason: BaseException) -> None:
        """Note it when any of Faust's services crashes, for that alone ends nothing."""
        self.on_fault(reason)
        super()._crash(reason)

    def on_fault(self, error: BaseException) -> None:
        """Note that the worker cannot go on, and why; the first time counts."""
        if self.fault is None:
            self.fault = error
            log.error("worker stops", why=str(error))
            self._fault_happened.set()

    @property
    def connected(self) -> bool:
        """Whether there is a connection to a broker."""
        return cast("Consumer", self.consumer).connected

    async def wait_for_fault(self) -> None:
        """Wait until the worker cannot go on."""
        await self._fault_happened.wait()

    async def _revoked(self, app: Any, revoked: set[TP], **kwargs: Any) -> None:
        if self._engine is not None:
            await self._engine.close_shards({tp.partition for tp in revoked})

    async def _assigned(self, app: Any, assigned: set[TP], **kwargs: Any) -> None:
        log.info("group formed", partitions=sorted({tp.partition for tp in assigned}))
        if self._engine is not None:
            self._engine.assigned({tp.partition for tp in assigned})
            if not assigned:  # more workers than partitions: this one stands by
                self.assigned.set()


class _Flow:
    """What shards may ask of the transport."""

    def __init__(self, app: App) -> None:
        self._app = app

    @property
    def _consumer(self) -> Consumer:
        return cast("Consumer", self._app.consumer)

    def _partitions(self, partition: int) -> set[TP]:
        topics = self._app.settings.topics
        return {TP(getattr(topics, role), partition) for role in INPUTS}

    async def rewind(self, partition: int, positions: dict[Role, int], epoch: int) -> None:
        """Set the positions of the partition's three inputs; later chunks carry ``epoch``."""
        topics = self._app.settings.topics
        await self._consumer.set_positions(
            {
                TP(getattr(topics, role), partition): (offset, epoch)
                for role, offset in positions.items()
            }
        )

    def pause(self, partition: int) -> None:
        """Stop fetching for the partition."""
        self._consumer.held_back.update(self._partitions(partition))

    def resume(self, partition: int) -> None:
        """Fetch for it again."""
        self._consumer.held_back.difference_update(self._partitions(partition))
