import asyncio

import pytest

from tests.unit.streams.replay.helpers import FakeProducer, event
from valuetide.streams.partitioner import partition_of
from valuetide.streams.replay import batches as module
from valuetide.streams.replay.batches import Batches, PartitionSent, Places, Topic
from valuetide.streams.replay.event import Role


async def append(batches: Batches, *numbers: int) -> None:
    for number in numbers:
        if not batches.append("orders", event(number)):
            await batches.append_to_next("orders", event(number))


async def settle() -> None:
    """Let the callbacks of futures run."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_places_agree_with_the_partitioner_and_stay_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN_CUSTOMERS", 10)
    places = Places(5)
    for number in [*range(100), *range(100)]:
        assert places.of(f"ö{number}") == (f"ö{number}".encode(), partition_of(f"ö{number}", 5))


def test_the_position_waits_for_the_first_event_that_is_missing() -> None:
    async def scenario() -> None:
        producer = FakeProducer(capacity=2, at_once=False)
        batches = Batches(producer, {"orders": Topic("orders", 1)})
        await append(batches, *range(6))  # batches of 0 1, 2 3 sent and 4 5 open
        assert (batches.events, batches.acknowledged()) == (6, 0)
        producer.acknowledge(1)
        await settle()
        assert batches.acknowledged() == 0
        producer.acknowledge(0)
        await settle()
        assert batches.acknowledged() == 4
        await batches.flush()
        producer.acknowledge(2)
        await batches.delivered()
        assert batches.acknowledged() == 6
        assert batches.sent() == {"orders": {0: PartitionSent(6, 6)}}

    asyncio.run(scenario())


def test_a_batch_that_failed_holds_the_position_for_ever() -> None:
    async def scenario() -> None:
        producer = FakeProducer(capacity=2, at_once=False)
        batches = Batches(producer, {"orders": Topic("orders", 1)})
        await append(batches, *range(6))
        producer.acknowledge(0)
        producer.batches[1][2].set_exception(ConnectionError("gone"))
        await settle()
        assert batches.acknowledged() == 2
        with pytest.raises(ConnectionError):
            batches.check()
        with pytest.raises(ConnectionError):
            await batches.flush()
        assert batches.acknowledged() == 2

    asyncio.run(scenario())


def test_age_is_that_of_the_oldest_event_still_here() -> None:
    async def scenario() -> None:
        now = [10.0]
        batches = Batches(FakeProducer(), {"orders": Topic("orders", 3)}, clock=lambda: now[0])
        assert batches.age() == 0
        await append(batches, 0, 1)
        now[0] = 12.5
        await append(batches, 2)
        assert batches.age() == 2.5
        await batches.flush()
        assert batches.age() == 0

    asyncio.run(scenario())


def test_partitions_without_events_are_reported_too() -> None:
    assert Batches(FakeProducer(), {"orders": Topic("orders", 2)}).sent() == {
        "orders": {0: PartitionSent(0, None), 1: PartitionSent(0, None)}
    }


def test_topics_have_batches_of_their_own_and_one_position() -> None:
    async def scenario() -> None:
        producer = FakeProducer(capacity=2, at_once=False)
        batches = Batches(
            producer,
            {"orders": Topic("shop-orders", 1), "feedback": Topic("shop-feedback", 1)},
        )
        roles: tuple[Role, ...] = ("orders", "feedback", "orders", "feedback", "orders")
        for number, role in enumerate(roles):
            if not batches.append(role, event(number)):
                await batches.append_to_next(role, event(number))
        await batches.flush()
        assert [place for place, _, _ in producer.batches] == [
            ("shop-orders", 0),
            ("shop-feedback", 0),
            ("shop-orders", 0),
        ]
        producer.acknowledge(0)  # events 0 and 2
        await settle()
        assert batches.acknowledged() == 1
        producer.acknowledge(1)
        await settle()
        assert batches.acknowledged() == 4
        producer.acknowledge(2)
        await batches.delivered()
        assert batches.acknowledged() == 5
        assert batches.sent() == {
            "orders": {0: PartitionSent(3, 3)},
            "feedback": {0: PartitionSent(2, 2)},
        }

    asyncio.run(scenario())
