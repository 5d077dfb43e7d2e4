"""Messages reach the producer in order, in batches; what does not fit is cut; errors are ours."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, MessageSizeTooLargeError

from valuetide.schemas.errors import FaultError
from valuetide.streams.publish import (
    TRUNCATED_BYTES,
    BrokerUnavailableError,
    Delivery,
    Outgoing,
    Publisher,
)


@dataclass
class FakeBatch:
    capacity: int
    messages: list[tuple[bytes | None, bytes | None, tuple[Any, ...]]] = field(default_factory=list)
    closed: bool = False

    def append(
        self, *, key: bytes | None, value: bytes | None, timestamp: None, headers: Any = ()
    ) -> object | None:
        size = len(key or b"") + len(value or b"")
        if self.closed or sum(len(k or b"") + len(v or b"") for k, v, _ in self.messages) + size > (
            self.capacity
        ):
            return None
        self.messages.append((key, value, tuple(headers)))
        return object()

    def record_count(self) -> int:
        return len(self.messages)

    def close(self) -> None:
        self.closed = True


class FakeProducer:
    """Keeps what it is given, and acknowledges when the test says so."""

    def __init__(self, capacity: int = 100) -> None:
        self.capacity = capacity
        self.largest = 10**9
        self.batches: list[tuple[str, int, FakeBatch]] = []
        self.single: list[dict[str, Any]] = []
        self.futures: list[asyncio.Future[object]] = []
        self.error: Exception | None = None

    def create_batch(self) -> FakeBatch:
        return FakeBatch(self.capacity)

    def _future(self) -> "asyncio.Future[object]":
        if self.error is not None:
            raise self.error
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]

    async def send_batch(self, batch: FakeBatch, topic: str, *, partition: int) -> Any:
        assert batch.closed
        self.batches.append((topic, partition, batch))
        return self._future()

    async def send(self, topic: str, value: bytes | None, **more: Any) -> Any:
        if len(value or b"") + len(more["key"] or b"") > self.largest:
            raise MessageSizeTooLargeError
        self.single.append({"topic": topic, "value": value, **more})
        return self._future()


def publisher(producer: FakeProducer) -> Publisher:
    return Publisher(cast("Any", producer))


async def acknowledged(producer: FakeProducer, delivery: Delivery) -> None:
    for future in producer.futures:
        assert not future.done()
        future.set_result(None)
    await delivery.wait()


def test_messages_are_split_into_batches_in_their_order() -> None:
    async def scenario() -> None:
        producer = FakeProducer(capacity=10)
        keys = [f"{n:02}".encode() for n in range(10)]
        values = [b"v" * (n % 4) for n in range(10)]
        delivery = await publisher(producer).send("scores", 3, keys, values)
        assert {(topic, partition) for topic, partition, _ in producer.batches} == {("scores", 3)}
        sent = [(k, v) for _, _, batch in producer.batches for k, v, _ in batch.messages]
        assert sent == list(zip(keys, values, strict=True))
        assert len(producer.batches) > 2
        await acknowledged(producer, delivery)

    asyncio.run(scenario())


def test_a_delivery_waits_for_every_acknowledgement() -> None:
    async def scenario() -> None:
        producer = FakeProducer(capacity=2)
        others = [Outgoing("orders", 1, b"k", b"v", (("h", b"1"),)), Outgoing("x", None, None, b"")]
        delivery = await publisher(producer).send("scores", 0, [b"a", b"b"], [b"1", b"2"], others)
        assert producer.single == [
            {"topic": "orders", "value": b"v", "key": b"k", "partition": 1,
             "headers": [("h", b"1")]},
            {"topic": "x", "value": b"", "key": None, "partition": None, "headers": []},
        ]  # fmt: skip
        waiting = asyncio.create_task(delivery.wait())
        for future in producer.futures:
            await asyncio.sleep(0)
            assert not waiting.done()
            future.set_result(None)
        await waiting

    asyncio.run(scenario())


def test_nothing_to_send_is_delivered_at_once() -> None:
    async def scenario() -> None:
        producer = FakeProducer()
        await (await publisher(producer).send("scores", 0, [], [])).wait()
        assert not producer.batches

    asyncio.run(scenario())


def test_a_score_that_exceeds_a_batch_is_an_error_and_not_a_loop() -> None:
    async def scenario() -> None:
        with pytest.raises(FaultError, match="a message for scores exceeds a batch"):
            await publisher(FakeProducer(capacity=3)).send("scores", 0, [b"k"], [b"long"])

    asyncio.run(scenario())


def test_what_is_too_large_for_a_request_is_cut_and_says_so() -> None:
    async def scenario() -> None:
        producer = FakeProducer()
        producer.largest = 3 * TRUNCATED_BYTES
        letter = Outgoing("dead-letters", 2, b"k" * 200_000, b"v" * 300_000, (("reason", b"x"),))
        await publisher(producer).send("scores", 0, [], [], [letter])
        (sent,) = producer.single
        assert sent["key"] == b"k" * TRUNCATED_BYTES
        assert sent["value"] == b"v" * TRUNCATED_BYTES
        assert sent["headers"] == [("reason", b"x"), ("truncated", b"true")]
        assert (sent["topic"], sent["partition"]) == ("dead-letters", 2)
        producer.largest = 10
        with pytest.raises(BrokerUnavailableError):
            await publisher(producer).send("scores", 0, [], [], [letter])

    asyncio.run(scenario())


def test_a_message_without_key_and_value_is_sent_all_the_same() -> None:
    async def scenario() -> None:
        producer = FakeProducer()
        letter = Outgoing("dead-letters", 2, None, None, (("reason", b"value: is null"),))
        delivery = await publisher(producer).send("scores", 0, [], [], [letter])
        ((topic, partition, batch),) = producer.batches
        assert (topic, partition) == ("dead-letters", 2)
        assert batch.messages == [(None, None, letter.headers)]
        await acknowledged(producer, delivery)

    asyncio.run(scenario())


def test_errors_of_the_client_are_those_of_an_unavailable_broker() -> None:
    async def scenario() -> None:
        producer = FakeProducer()
        producer.error = KafkaConnectionError("gone")
        with pytest.raises(BrokerUnavailableError, match=r"Kafka: .*gone"):
            await publisher(producer).send("scores", 0, [b"k"], [b"v"])
        with pytest.raises(BrokerUnavailableError, match=r"Kafka: .*gone"):
            await publisher(producer).send("x", 0, [], [], [Outgoing("x", 0, b"k", b"v")])

        producer = FakeProducer(capacity=2)
        delivery = await publisher(producer).send("scores", 0, [b"a", b"b"], [b"1", b"2"])
        producer.futures[1].set_exception(KafkaTimeoutError("late"))
        producer.futures[0].set_result(None)
        with pytest.raises(BrokerUnavailableError, match="late"):
            await delivery.wait()

        producer = FakeProducer()
        delivery = await publisher(producer).send("scores", 0, [b"a"], [b"1"])
        producer.futures[0].set_exception(ZeroDivisionError("a bug"))
        with pytest.raises(ZeroDivisionError):
            await delivery.wait()

    asyncio.run(scenario())
