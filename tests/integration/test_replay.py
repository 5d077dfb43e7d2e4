"""Replays into a broker, read back from it."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.support.shared_data import lifetimes_data
from valuetide.schemas.errors import FaultError
from valuetide.schemas.topics import TopicNames
from valuetide.streams.partitioner import partition_of
from valuetide.streams.replay.event import SourceEvent
from valuetide.streams.replay.pace import Pace
from valuetide.streams.replay.presets import cdnow
from valuetide.streams.replay.send import Progress, Sent, send
from valuetide.streams.settings import Settings

pytestmark = pytest.mark.servers

PARTITIONS = 3
READ_SECONDS = 60.0
COMMAND = "from valuetide.streams.cli.replay import replay; replay()"

Log = dict[int, list[tuple[str, bytes]]]


@pytest.fixture(scope="module")
def orders() -> list[SourceEvent]:
    return list(cdnow(lifetimes_data("CDNOW_master.txt")))


@pytest.fixture
def settings(broker: str, fresh_prefix: str) -> Settings:
    """Give settings whose orders topic is new and exists."""
    name = f"{fresh_prefix}-orders"

    async def create() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=broker)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(name, PARTITIONS, 1)])
        finally:
            await admin.close()

    asyncio.run(create())
    return Settings(broker=broker, topics=TopicNames(orders=name))


async def read_back(settings: Settings, count: int) -> Log:
    """Read the orders topic until so many different messages are there; fails when they are not."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.broker, auto_offset_reset="earliest", fetch_max_wait_ms=5
    )
    await consumer.start()
    log: Log = {partition: [] for partition in range(PARTITIONS)}
    try:
        consumer.assign([TopicPartition(settings.topics.orders, p) for p in log])
        deadline = time.monotonic() + READ_SECONDS
        seen: set[bytes] = set()
        while len(seen) < count:
            assert time.monotonic() < deadline, f"only {len(seen)} of {count}"
            for tp, records in (await consumer.getmany(timeout_ms=100)).items():
                assert records[0].offset == len(log[tp.partition])
                log[tp.partition] += [(record.key.decode(), record.value) for record in records]
                seen.update(record.value for record in records)
    finally:
        await consumer.stop()
    return log


def send_and_read(settings: Settings, events: Sequence[SourceEvent]) -> tuple[Sent, Log]:
    async def both() -> tuple[Sent, Log]:
        sent = await send(events, settings)
        return sent, await read_back(settings, sent.events)

    return asyncio.run(both())


def test_cdnow_arrives_whole_in_order_and_by_key(
    settings: Settings, orders: list[SourceEvent]
) -> None:
    sent, log = send_and_read(settings, orders)
    assert sent.events == len(orders) == 69_659
    for partition, messages in log.items():
        want = [
            (event.customer_id, event.value)
            for event in orders
            if partition_of(event.customer_id, PARTITIONS) == partition
        ]
        assert messages == want
        assert sent.partitions[partition].events == len(want)
        assert sent.partitions[partition].next_offset == len(want)


def test_offsets_go_on_where_another_replay_ended(
    settings: Settings, orders: list[SourceEvent]
) -> None:
    first, _ = send_and_read(settings, orders[:1_000])
    second, _ = send_and_read(settings, orders[1_000:3_000])
    for partition, part in second.partitions.items():
        assert part.next_offset == (first.partitions[partition].events + part.events)


def test_a_slow_replay_delivers_each_event_when_it_is_due(
    settings: Settings, orders: list[SourceEvent]
) -> None:
    """At five events a second each has been acknowledged before the next one goes."""
    told: list[Progress] = []
    sent = asyncio.run(send(orders[:10], settings, pace=Pace(rate=5), on_progress=told.append))
    assert sent.seconds >= 1.6
    while_running = told[1:-1]
    assert len(while_running) >= 8
    # Told just before a wait ends or begins, so one event may still be on its way.
    assert all(progress.events - progress.acknowledged <= 1 for progress in while_running)


def test_a_topic_that_is_not_there_is_named_and_not_created(
    broker: str, fresh_prefix: str, orders: list[SourceEvent]
) -> None:
    settings = Settings(broker=broker, topics=TopicNames(orders=f"{fresh_prefix}-none"))
    for _ in range(2):
        with pytest.raises(FaultError, match="valuetide topics --create"):
            asyncio.run(send(orders[:1], settings))


def start(settings: Settings, state: Path, *arguments: str) -> "subprocess.Popen[str]":
    file = lifetimes_data("CDNOW_master.txt")
    return subprocess.Popen(
        [
            *(sys.executable, "-c", COMMAND, str(file), "--preset", "cdnow", "--json"),
            *("--broker", settings.broker, "--resume", str(state), *arguments),
        ],
        env={"VALUETIDE_TOPICS__ORDERS": settings.topics.orders, "PYTHONPATH": "."},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal_and_gone_on_with_each_event_arrives_once(
    settings: Settings, orders: list[SourceEvent], tmp_path: Path, number: signal.Signals
) -> None:
    state = tmp_path / "state.json"
    process = start(settings, state, "--rate", "2000")
    deadline = time.monotonic() + READ_SECONDS
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=READ_SECONDS)
    assert process.returncode == 130, err
    assert f"the position is in {state}: give the same command again" in err
    first = json.loads(out)
    assert first["stopped"]
    assert 0 < first["events"] < len(orders)
    assert json.loads(state.read_text())["acknowledged"] == first["events"]

    process = start(settings, state)
    out, err = process.communicate(timeout=READ_SECONDS)
    assert process.returncode == 0, err
    second = json.loads(out)
    assert second["resumed_from"] == first["events"]
    assert first["events"] + second["events"] == len(orders)
    log = asyncio.run(read_back(settings, len(orders)))
    for partition, messages in log.items():
        assert [value for _, value in messages] == [
            event.value
            for event in orders
            if partition_of(event.customer_id, PARTITIONS) == partition
        ]
        assert second["partitions"][str(partition)]["next_offset"] == len(messages)


def test_killed_and_gone_on_with_nothing_is_lost(
    settings: Settings, orders: list[SourceEvent], tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    process = start(settings, state, "--rate", "2000")
    deadline = time.monotonic() + READ_SECONDS
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=READ_SECONDS)
    kept = json.loads(state.read_text())["acknowledged"]
    assert kept > 0
    process = start(settings, state)
    out, err = process.communicate(timeout=READ_SECONDS)
    assert process.returncode == 0, err
    assert json.loads(out)["events"] == len(orders) - kept
    # What was sent and not yet kept is sent again: nothing is lost, and the ids tell the repeats.
    log = asyncio.run(read_back(settings, len(orders)))
    for partition, messages in log.items():
        values = [value for _, value in messages]
        want = [e.value for e in orders if partition_of(e.customer_id, PARTITIONS) == partition]
        assert list(dict.fromkeys(values)) == want
