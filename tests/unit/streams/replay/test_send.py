"""The loop that sends, on a producer that needs no broker."""

import asyncio
import itertools
import json
import time
from collections.abc import Iterable, Iterator

import pytest

from tests.unit.streams.replay.helpers import FakeProducer, event, event_id
from valuetide.streams.partitioner import partition_of
from valuetide.streams.replay import send as module
from valuetide.streams.replay.batches import Batches, Topic
from valuetide.streams.replay.errors import BrokerAwayError, ReplayError
from valuetide.streams.replay.event import Role, SourceEvent
from valuetide.streams.replay.pace import Pace
from valuetide.streams.replay.send import LINGER_SECONDS, Progress, Sent, send
from valuetide.streams.settings import Settings

PARTITIONS = 4


def run(
    producer: FakeProducer,
    events: Iterable[SourceEvent],
    pace: Pace | None = None,
    stop: asyncio.Event | None = None,
    told: list[Progress] | None = None,
) -> Sent:
    async def scenario() -> Sent:
        batches = Batches(producer, {"orders": Topic("orders", PARTITIONS)})
        on_progress = None if told is None else told.append
        return await module._Run(batches, pace, stop, on_progress).send(to_orders(events))

    return asyncio.run(scenario())


def to_orders(events: Iterable[SourceEvent]) -> Iterator[tuple[Role, SourceEvent]]:
    return (("orders", event) for event in events)


def ids(producer: FakeProducer) -> list[str]:
    return [event_id(value) for log in producer.log.values() for value in log]


def test_every_event_arrives_once_in_order_where_its_key_says() -> None:
    events = [event(number) for number in range(1_000)]
    sent = run(producer := FakeProducer(), events)
    assert sent.events == 1_000
    assert not sent.stopped
    assert sent.occurred_at == 999
    for partition in range(PARTITIONS):
        want = [e.value for e in events if partition_of(e.customer_id, PARTITIONS) == partition]
        assert producer.log.get(("orders", partition), []) == want
        assert sent.partitions[partition].events == len(want)
        assert sent.partitions[partition].next_offset == (len(want) or None)


def test_no_events_are_no_error() -> None:
    sent = run(FakeProducer(), [])
    assert (sent.events, sent.occurred_at) == (0, None)


@pytest.mark.parametrize("at", [0, 1, 137, 999])
def test_stopped_and_gone_on_with_each_event_arrives_once(at: int) -> None:
    events = [event(number) for number in range(1_000)]
    stop = asyncio.Event()

    def until_stopped() -> Iterator[SourceEvent]:
        for number, one in enumerate(events):
            if number == at:
                stop.set()
            yield one

    told: list[Progress] = []
    producer = FakeProducer()
    first = run(producer, until_stopped(), stop=stop, told=told)
    assert first.stopped
    assert first.events == at == told[-1].acknowledged
    second = run(producer, itertools.islice(events, told[-1].acknowledged, None))
    assert second.events == 1_000 - at
    assert sorted(ids(producer)) == sorted(event_id(e.value) for e in events)


def test_a_failure_while_reading_still_delivers_what_was_read() -> None:
    def broken() -> Iterator[SourceEvent]:
        yield from (event(number) for number in range(10))
        raise ReplayError("line 11")

    told: list[Progress] = []
    with pytest.raises(ReplayError):
        run(producer := FakeProducer(), broken(), told=told)
    assert len(ids(producer)) == told[-1].acknowledged == 10


def test_an_event_leaves_before_the_wait_for_the_next() -> None:
    """At one event a second the first is delivered at once, not with the second."""
    producer = FakeProducer(capacity=1_000)
    seen: list[int] = []
    sleeps = iter([0.05, 0.05, 0.05])

    class Slow(Pace):
        is_unbounded = False

        def wait(self, occurred_at: float) -> float:
            return next(sleeps) if occurred_at else 0.0

    def watched() -> Iterator[SourceEvent]:
        for number in range(4):
            yield event(number)
            seen.append(len(ids(producer)))

    sent = run(producer, watched(), Slow())
    assert sent.seconds >= 0.15
    assert seen == [0, 1, 2, 3]


def test_close_events_share_batches_but_do_not_wait_for_long() -> None:
    producer = FakeProducer(capacity=10_000)
    ages: list[float] = []

    def watched() -> Iterator[SourceEvent]:
        opened: float | None = None
        for number in range(300):
            before = len(producer.batches)
            yield event(number, "c")
            now = time.monotonic()
            if len(producer.batches) > before:
                ages.append(now - (opened or now))
                opened = None
            opened = opened or now

    sent = run(producer, watched(), Pace(rate=2_000))
    assert sent.seconds >= 0.13
    assert 5 < len(producer.batches) < 200
    assert sorted(ages)[len(ages) // 2] < 10 * LINGER_SECONDS  # a busy machine wakes late


def test_a_stop_ends_a_long_wait() -> None:
    async def scenario() -> tuple[Sent, float]:
        stop = asyncio.Event()
        batches = Batches(FakeProducer(), {"orders": Topic("orders", 1)})
        events = [event(0, at=0.0), event(1, at=3_600.0)]
        asyncio.get_running_loop().call_later(0.05, stop.set)
        started = time.monotonic()
        sent = await module._Run(batches, Pace(speed=1.0), stop, None).send(to_orders(events))
        return sent, time.monotonic() - started

    sent, seconds = asyncio.run(scenario())
    assert (sent.stopped, sent.events) == (True, 1)
    assert seconds < 5


def test_progress_is_told_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.0)
    told: list[Progress] = []
    run(FakeProducer(), (event(number) for number in range(2_000)), told=told)
    assert len(told) > 3
    assert [p.acknowledged for p in told] == sorted(p.acknowledged for p in told)
    assert told[-1] == Progress(2_000, 2_000, 1_999.0)


def test_a_broker_that_is_not_there_is_named() -> None:
    settings = Settings(broker="127.0.0.1:9")
    with pytest.raises(BrokerAwayError, match=r"127\.0\.0\.1:9 cannot be reached"):
        asyncio.run(send([event(0)], settings))


def test_the_helper_writes_what_it_says() -> None:
    assert json.loads(event(3).value) == {"occurred_at": 3, "event_id": "e3", "customer_id": "c3"}
