"""Reads dead letters, and sends them again."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from aiokafka.structs import ConsumerRecord
from pydantic_core import from_json

from valuetide.schemas.errors import FaultError
from valuetide.schemas.topics import INPUTS
from valuetide.streams.connections import broker_arguments
from valuetide.streams.knock import BrokerAwayError, DoorShutError, knock_at_broker
from valuetide.streams.partitioner import partition_of
from valuetide.streams.publish import Outgoing, send_message
from valuetide.streams.settings import Settings

ROUND_MS = 100
"""A waiting look at the broker; what comes meanwhile is given at once."""

PATIENCE_SECONDS = 15.0
"""A broker that gives nothing for so long, before the end, is away. Its client would wait on."""

RESUBMITTED_HEADER = "valuetide-resubmitted"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One rejected event: where it lies, where it came from, why, and its original bytes."""

    place: str
    reason: str
    source_topic: str
    source_partition: int
    source_offset: int
    rejected_at: str
    key: bytes | None
    value: bytes | None

    @property
    def source(self) -> str:
        """Its original place, ``topic/partition/offset``: the same for a repeated dead letter."""
        return f"{self.source_topic}/{self.source_partition}/{self.source_offset}"

    def as_dict(self, *, with_value: bool) -> dict[str, Any]:
        """Give it for printing; bytes that are no UTF-8 are escaped."""
        entry = asdict(self) | {"key": _text(self.key)}
        entry["value"] = _text(self.value) if with_value else None
        entry["bytes"] = len(self.value or b"")
        return entry


async def read_records(
    settings: Settings, topic: str, limit_per_partition: int | None = None
) -> AsyncIterator[ConsumerRecord[bytes, bytes]]:
    """Give the records of a topic from the beginning to the end, partition by partition as read.

    The end is what the broker says with its first answer for each partition; what is written
    later may be left out.

    Raises
    ------
    BrokerAwayError
        When no broker answers, or it gives nothing for 15 s before the end.
    DoorShutError
        When TLS or the credentials do not fit.

    Notes
    -----
    A fetch is answered with the partition's high watermark, the offset after the last
    acknowledged record, on Apache Kafka as on the embedded broker. The other way to ask,
    ListOffsets, gets the beginning of the last batch from the embedded one.
    """
    await knock_at_broker(settings)
    consumer: AIOKafkaConsumer = AIOKafkaConsumer(
        **broker_arguments(settings),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
        max_partition_fetch_bytes=8 * 1_048_576,
    )
    try:
        await asyncio.wait_for(consumer.start(), 15)
    except (KafkaError, OSError, TimeoutError) as error:
        await consumer.stop()
        raise BrokerAwayError(
            f"no Kafka broker answers at {settings.broker}: start one, or set VALUETIDE_BROKER"
        ) from error
    try:
        partitions = consumer.partitions_for_topic(topic)
        if not partitions:
            await consumer._client.force_metadata_update()
            known = consumer.partitions_for_topic(topic)
            partitions = known or set(range(settings.partitions))
        places = [TopicPartition(topic, partition) for partition in sorted(partitions)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        given = dict.fromkeys(places, 0)
        ends: dict[TopicPartition, int] = {}
        silent_ms = 0
        while not await _finished(consumer, ends, given, limit_per_partition):
            batches = await consumer.getmany(timeout_ms=ROUND_MS, max_records=1_000)
            for place in given.keys() - ends.keys():
                if (end := consumer.highwater(place)) is not None:
                    ends[place] = end
            for place, records in batches.items():
                for record in records:
                    if limit_per_partition is None or given[place] < limit_per_partition:
                        given[place] += 1
                        yield record
            silent_ms = 0 if batches else silent_ms + ROUND_MS
            if silent_ms > PATIENCE_SECONDS * 1_000:
                raise BrokerAwayError(
                    f"Kafka at {settings.broker} gave nothing of {topic} for "
                    f"{PATIENCE_SECONDS:g} s, before its end: look at the broker, and whether the "
                    "topic is there with `valuetide doctor`"
                )
    except TopicAuthorizationFailedError as error:
        raise DoorShutError(
            f"Kafka does not let us read {topic}: give the user in broker_username Read on it, "
            "see docs/security.md"
        ) from error
    except KafkaError as error:
        raise BrokerAwayError(f"Kafka at {settings.broker}: {error}") from error
    finally:
        await consumer.stop()


async def _finished(
    consumer: AIOKafkaConsumer,
    ends: dict[TopicPartition, int],
    given: dict[TopicPartition, int],
    limit: int | None,
) -> bool:
    """Tell whether every partition was read to its end, or as far as it was wanted."""
    for place, count in given.items():
        if limit is not None and count >= limit:
            continue
        if place not in ends or await consumer.position(place) < ends[place]:
            return False
    return True


async def read_dead_letters(settings: Settings) -> AsyncIterator[DeadLetter]:
    """Give all dead letters, each source event once."""
    seen: set[str] = set()
    async for record in read_records(settings, settings.topics.dead_letters):
        headers = {name: value.decode(errors="replace") for name, value in record.headers}
        letter = DeadLetter(
            place=f"{record.partition}:{record.offset}",
            reason=headers.get("reason", "?"),
            source_topic=headers.get("source_topic", "?"),
            source_partition=int(headers.get("source_partition", -1)),
            source_offset=int(headers.get("source_offset", -1)),
            rejected_at=headers.get("rejected_at", "?"),
            key=record.key,
            value=record.value,
        )
        if letter.source not in seen:
            seen.add(letter.source)
            yield letter


async def resubmit(settings: Settings, letters: list[DeadLetter]) -> None:
    """Send dead letters to their source topics again, as they were.

    They go to their customer's partition where the customer can be read from them, else to the
    partition they came from.

    Raises
    ------
    FaultError
        When a dead letter names a topic that is not an input.
    BrokerAwayError
        When no broker answers.
    DoorShutError
        When TLS or the credentials do not fit.
    """
    inputs = {getattr(settings.topics, role) for role in INPUTS}
    for letter in letters:
        if letter.source_topic not in inputs:
            raise FaultError(f"dead letter {letter.place}: {letter.source_topic} is no input topic")
    await knock_at_broker(settings)
    producer: AIOKafkaProducer = AIOKafkaProducer(
        **broker_arguments(settings), acks="all", max_request_size=8 * 1_048_576
    )
    try:
        await asyncio.wait_for(producer.start(), 15)
        for letter in letters:
            customer = _customer(letter.value)
            message = Outgoing(
                letter.source_topic,
                letter.source_partition
                if customer is None
                else partition_of(customer, settings.partitions),
                letter.key if customer is None else customer.encode(),
                letter.value,
                ((RESUBMITTED_HEADER, letter.source.encode()),),
            )
            await (await send_message(producer, message))
    except (KafkaError, OSError, TimeoutError) as error:
        raise BrokerAwayError(f"Kafka at {settings.broker}: {error}") from error
    finally:
        await producer.stop()


def _customer(value: bytes | None) -> str | None:
    try:
        event = from_json(value or b"")
    except ValueError:
        return None
    customer = event.get("customer_id") if isinstance(event, dict) else None
    return customer if isinstance(customer, str) and customer else None


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode(errors="backslashreplace")
