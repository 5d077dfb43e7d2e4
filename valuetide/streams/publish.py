"""What a shard sends out: scores, dead letters, and events that belong in another partition."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from valuetide.schemas.errors import FaultError, TransientError
from valuetide.streams.store import AlertStep

TRUNCATED_BYTES = 64 * 1024
"""What is kept of a key and of a value that are too large to be passed on whole."""


class BrokerUnavailableError(TransientError):
    """The broker did not take a message."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message for a topic; ``partition`` ``None`` lets the key decide."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


def alert_messages(topic: str, steps: Sequence[AlertStep]) -> list[Outgoing]:
    """Give the messages of steps in the lives of alerts; those of one alert keep their order."""
    return [Outgoing(topic, None, step.fingerprint.encode(), step.text.encode()) for step in steps]


@dataclass(frozen=True, slots=True)
class Delivery:
    """Messages on their way; :meth:`wait` ends when the broker has all of them."""

    futures: Sequence["asyncio.Future[object]"]

    async def wait(self) -> None:
        """Wait for the broker's acknowledgement of every message.

        Raises
        ------
        BrokerUnavailableError
            When the broker did not take one of them in time.
        """
        results = await asyncio.gather(*self.futures, return_exceptions=True)
        for result in results:
            if isinstance(result, KafkaError):
                raise BrokerUnavailableError(f"Kafka: {result}") from result
            if isinstance(result, BaseException):
                raise result


class Publisher:
    """Sends to the broker, many messages of one partition as one batch.

    Parameters
    ----------
    producer
        A started producer.
    """

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer

    async def send(
        self,
        topic: str,
        partition: int,
        keys: Sequence[bytes],
        values: Sequence[bytes],
        others: Sequence[Outgoing] = (),
    ) -> Delivery:
        """Hand messages to the producer.

        Parameters
        ----------
        topic, partition
            Where ``keys`` and ``values`` go, in order.
        keys, values
            One message each.
        others
            Messages for other places.

        Returns
        -------
        Delivery
            To wait for. Two calls one after the other keep their order in a partition.

        Raises
        ------
        BrokerUnavailableError
            When the producer cannot take them.
        """
        futures: list[asyncio.Future[object]] = []
        try:
            at = 0
            while at < len(keys):
                batch = self._producer.create_batch()
                while (
                    at < len(keys)
                    and batch.append(key=keys[at], value=values[at], timestamp=None) is not None
                ):
                    at += 1
                if not batch.record_count():
                    raise FaultError(f"a message for {topic} exceeds a batch")
                batch.close()
                futures.append(await self._producer.send_batch(batch, topic, partition=partition))
            futures += [await self._send_one(message) for message in others]
        except KafkaError as error:
            raise BrokerUnavailableError(f"Kafka: {error}") from error
        for future in futures:
            future.add_done_callback(_hear)
        return Delivery(futures)

    async def _send_one(self, message: Outgoing) -> "asyncio.Future[object]":
        try:
            return await send_message(self._producer, message)
        except MessageSizeTooLargeError:
            # Only an event whose key or value is near the largest request can get here:
            # keep the beginning, and say so.
            shorter = replace(
                message,
                key=(message.key or b"")[:TRUNCATED_BYTES],
                value=(message.value or b"")[:TRUNCATED_BYTES],
                headers=(*message.headers, ("truncated", b"true")),
            )
            return await send_message(self._producer, shorter)


def _hear(future: "asyncio.Future[object]") -> None:
    """Take note of an error that nobody waits for any more, or asyncio would print it at the end.

    A shard that starts again drops its deliveries; the last word of a worker's log is for what
    made it end.
    """
    if not future.cancelled():
        future.exception()


async def send_message(producer: AIOKafkaProducer, message: Outgoing) -> "asyncio.Future[object]":
    """Hand one message to a producer; the future is done when the broker has it.

    A message without key and value is a message, too: Kafka takes it, though the client's own
    ``send`` does not.
    """
    headers = list(message.headers)
    if message.key is None and message.value is None:
        batch = producer.create_batch()
        batch.append(key=None, value=None, timestamp=None, headers=headers)
        batch.close()
        future: asyncio.Future[object] = await producer.send_batch(
            batch, message.topic, partition=message.partition
        )
    else:
        future = await producer.send(
            message.topic,
            message.value,
            key=message.key,
            partition=message.partition,
            headers=headers,
        )
    return future
