"""A topic is read to its end, however slow the broker is, or not at all."""

import asyncio
import os
import signal

import pytest

from tests.support.pipeline import Pipeline, Raw, make_settings, paused, run
from tests.support.servers import make_broker
from valuetide.streams import deadletters
from valuetide.streams.deadletters import read_records
from valuetide.streams.knock import BrokerAwayError
from valuetide.streams.local import prepare

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

STOPPED_SECONDS = 1.5
"""Longer than the .7 s of silence that once counted as the end."""

FILLER = b"x" * 100_000
MORE_THAN_A_FETCH = 120
"""So many of them are more than the 8 MB that one fetch gets of a partition."""


def own_pipeline(broker: str) -> Pipeline:
    settings = make_settings(broker, "redis://127.0.0.1:1/0", "read")
    prepare(settings)
    return Pipeline(settings)


def test_every_record_of_every_batch_is_given_and_empty_partitions_do_not_matter(
    pipeline: Pipeline,
) -> None:
    sizes = (3, 4, 5)  # each a batch; the embedded broker calls the last one's beginning the end
    for size in sizes:
        pipeline.produce([Raw("orders", 1, None, b"%d" % size)] * size)
    pipeline.produce([Raw("orders", 2, None, b"alone")])
    found = pipeline.messages(pipeline.settings.topics.orders)
    places = sorted((one.partition, one.offset) for one in found)
    assert places == [(1, offset) for offset in range(sum(sizes))] + [(2, 0)]


def test_the_limit_counts_for_each_partition(pipeline: Pipeline) -> None:
    pipeline.produce([Raw("orders", p, None, b"%d" % i) for p in (0, 1) for i in range(5 - 3 * p)])

    async def read() -> list[tuple[int, int]]:
        records = read_records(pipeline.settings, pipeline.settings.topics.orders, 3)
        return [(record.partition, record.offset) async for record in records]

    assert sorted(run(read())) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def test_a_broker_that_hangs_for_a_while_does_not_end_the_topic() -> None:
    with make_broker() as broker:
        pipeline = own_pipeline(broker.address)
        pipeline.produce([Raw("orders", 0, None, FILLER)] * MORE_THAN_A_FETCH)

        async def read() -> int:
            count = 0
            async for _ in read_records(pipeline.settings, pipeline.settings.topics.orders):
                if not count:
                    os.kill(broker.pid, signal.SIGSTOP)
                    asyncio.get_running_loop().call_later(
                        STOPPED_SECONDS, os.kill, broker.pid, signal.SIGCONT
                    )
                count += 1
            return count

        assert run(read()) == MORE_THAN_A_FETCH


def test_a_broker_that_stays_silent_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadletters, "PATIENCE_SECONDS", 1.0)
    with make_broker() as broker:
        pipeline = own_pipeline(broker.address)
        pipeline.produce([Raw("orders", 0, None, FILLER)] * MORE_THAN_A_FETCH)

        async def read() -> None:
            records = read_records(pipeline.settings, pipeline.settings.topics.orders)
            await anext(records)
            with paused(broker.pid):
                async for _ in records:
                    pass

        with pytest.raises(BrokerAwayError, match="before its end"):
            run(read())
