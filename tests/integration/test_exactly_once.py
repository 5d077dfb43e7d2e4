"""Each event counts exactly once, whatever happens to the workers."""

import asyncio
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from redis import Redis

from tests.support.alerts import commit_alerts
from tests.support.pipeline import (
    Facts,
    Pipeline,
    check_state,
    end,
    make_pipeline,
    metric,
    paused,
    start_cli,
    wait_until,
)
from tests.support.traffic import traffic, visits
from valuetide.streams.local import LocalWorker

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

SMALL = {"max_batch_events": 20}
"""Many small commits, so that there is a middle to be interrupted in."""

PARTS, PAUSE_SECONDS = 150, 0.2
"""Of a trickle: it lasts longer than three rebalances do."""


def twice(events: list[Facts], seed: int, share: float = 0.2) -> list[Facts]:
    """Give events of which some are followed, soon after, by their like."""
    chance = random.Random(seed)
    doubled: list[Facts] = []
    for facts in events:
        doubled.append(facts)
        if chance.random() < share:
            doubled.append(chance.choice(doubled[-8:]))
    return doubled


def check_once(pipeline: Pipeline, events: list[Facts]) -> None:
    """Compare the state with the batch, and the counters with the number of different events."""
    state = check_state(pipeline, events)
    different = {(role, event["event_id"]) for role, event in events}
    assert pipeline.count("folded") == len(different)
    assert pipeline.count("duplicate") == len(events) - len(different)
    published = {who: score["version"] for who, score in pipeline.newest_scores().items()}
    assert published == {who: score["version"] for who, score in state.items()}


@contextmanager
def trickle(pipeline: Pipeline, events: list[Facts]) -> Iterator[None]:
    """Send events from a thread, a few at a time; the rest of them when the block ends."""
    failed: list[BaseException] = []
    hurry = threading.Event()

    def feed() -> None:
        try:
            size = len(events) // PARTS + 1
            for at in range(0, len(events), size):
                pipeline.send(events[at : at + size])
                hurry.wait(PAUSE_SECONDS)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    try:
        yield
    finally:
        hurry.set()
        thread.join(60)
    assert not thread.is_alive()
    assert not failed


def test_a_repeated_event_counts_once_in_one_batch_and_across_restarts(pipeline: Pipeline) -> None:
    first = traffic(11, 100)
    events = twice(first, 11)
    pipeline.send(events)
    with pipeline.worker() as worker:
        pipeline.finish(worker)
    check_once(pipeline, events)
    before = pipeline.state()
    again = [facts for i, facts in enumerate(first) if i % 3 == 0]
    pipeline.send(again)
    with pipeline.worker() as worker:
        pipeline.finish(worker)
    events += again
    check_once(pipeline, events)
    assert pipeline.state() == before


def test_a_worker_killed_again_and_again_loses_and_repeats_nothing(pipeline: Pipeline) -> None:
    seed, kills = 12, 3
    chance = random.Random(seed)
    events = twice(traffic(seed, 1_200), seed)
    pipeline.send(events)
    with pipeline.worker(**SMALL) as worker:
        for kill in range(kills):
            moment = len(events) * (kill + chance.random()) / (kills + 1)
            wait_until(lambda: pipeline.progress() >= moment, f"{moment:.0f} events")  # noqa: B023
            time.sleep(chance.random() * 0.02)
            worker.kill()
            assert 0 < pipeline.progress() < len(events), "the kill came too late to matter"
            worker.start()
        pipeline.finish(worker)
    check_once(pipeline, events)


def test_another_worker_takes_over_and_a_new_one_joins_under_load(pipeline: Pipeline) -> None:
    """Two share the work; one is killed, the other goes on with all of it; a third joins."""
    events = twice(traffic(13, 1_200), 13)
    everything = pipeline.settings.partitions
    with pipeline.worker(**SMALL) as first, ExitStack() as stack:
        with trickle(pipeline, events):
            second = stack.enter_context(pipeline.worker(**SMALL))
            wait_until(lambda: shards(first) == shards(second) == everything / 2, "half each")
            first.kill()
            wait_until(lambda: shards(second) == everything, "the other one has taken over")
            third = stack.enter_context(pipeline.worker(**SMALL))
            wait_until(lambda: shards(second) == shards(third) == everything / 2, "half each")
            assert pipeline.progress() < len(events), "there was load all the time"
        pipeline.finish(second, third)
    check_once(pipeline, events)


def test_a_worker_that_was_away_without_knowing_is_refused_and_comes_back(
    broker: str, redis_url: str, fresh_prefix: str
) -> None:
    """Stopped in the middle of its work for longer than its session, it may write nothing."""
    many: dict[str, Any] = {"partitions": 2, "max_batches_in_flight": 16}
    pipeline = make_pipeline(broker, redis_url, fresh_prefix, **SMALL, **many)
    events = visits(14, 40, 12_000)
    pipeline.send(events)
    second = pipeline.worker()
    with pipeline.worker() as first, ExitStack() as stack:
        everyone = len({event["customer_id"] for _, event in events})
        wait_until(lambda: pipeline.overview().totals["customers"] == everyone, "it knows all")
        with no_writes(pipeline):
            wait_until(lambda: in_flight(first) >= 8, "batches wait to be committed")
            stack.enter_context(paused(first.pid))
        # What had been sent to Redis has been made by now; the batches behind it have not.
        at = pipeline.overview().positions
        assert sum(at.values()) < len(events) * 0.8
        with second:
            wait_until(
                lambda: all(
                    now > at.get(place, 0) or now == pipeline.sent[place]
                    for place, now in pipeline.overview().positions.items()
                    if place[0] == "interactions"
                ),
                "the other one has got on with all shards",
            )
            stack.close()
            wait_until(lambda: refused(first) > 0, "a commit is refused")
            pipeline.finish(first, second)
            wait_until(lambda: shards(first) > 0, "the refused one is part of the group again")
            more = visits(15, 200, 400, name="later")
            done = folded(first)
            pipeline.send(more)
            pipeline.finish(first, second)
            assert folded(first) > done, "the refused one does its share"
    check_once(pipeline, [*events, *more])


@contextmanager
def no_writes(pipeline: Pipeline) -> Iterator[None]:
    """Have Redis keep all who write waiting, for the length of the block."""
    with Redis.from_url(pipeline.settings.redis_url.get_secret_value()) as client:
        client.client_pause(30_000, all=False)
        try:
            yield
        finally:
            client.client_unpause()


def in_flight(worker: LocalWorker) -> float:
    """Count the batches that are published and not committed."""
    published = metric(worker, "valuetide_stage_seconds_count", stage="publish")
    return published - metric(worker, "valuetide_commits_total", outcome="committed")


def test_a_commit_of_another_writer_makes_a_worker_read_the_shard_again(
    pipeline: Pipeline,
) -> None:
    events, more = traffic(16, 60), traffic(17, 60, name="later")
    pipeline.send(events)
    with pipeline.worker() as worker:
        pipeline.finish(worker)
        for partition in range(pipeline.settings.partitions):
            asyncio.run(commit_as_another(pipeline, partition))
        pipeline.send(more)
        pipeline.finish(worker)
        assert refused(worker) == pipeline.settings.partitions
        assert metric(worker, "valuetide_recoveries_total") == pipeline.settings.partitions
        status, _ = worker.get("/readyz")
        assert status == 200
    check_once(pipeline, [*events, *more])


async def commit_as_another(pipeline: Pipeline, partition: int) -> None:
    """Make an empty commit in another writer's name."""
    settings = pipeline.settings
    url = settings.redis_url.get_secret_value()
    await commit_alerts(url, settings.key_prefix, [], partition)


def test_two_groups_on_the_same_state_fence_each_other_and_the_state_stays_right(
    broker: str, redis_url: str, fresh_prefix: str
) -> None:
    """A mistake of whoever set them up: both have all partitions, for good."""
    pipeline = make_pipeline(broker, redis_url, fresh_prefix)
    events = traffic(18, 1_500)
    pipeline.send(events)
    other = pipeline.worker(**SMALL, group=f"{fresh_prefix}-other")
    with pipeline.worker(**SMALL) as worker, other:
        pipeline.finish(worker, other)
    check_once(pipeline, events)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_commits_what_is_in_hand_and_exits_with_0(
    pipeline: Pipeline, number: signal.Signals
) -> None:
    """All that it has sent out is committed: nobody has to do anything twice."""
    events = traffic(19, 2_500)
    pipeline.send(events)
    process = start_cli(pipeline.with_settings(**SMALL).environment, "worker")
    try:
        wait_until(lambda: pipeline.progress() > 200, "it is at work")
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    finally:
        end(process)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert 200 < pipeline.progress() < len(events)
    committed = {place: at for place, at in pipeline.overview().positions.items() if at}
    assert {place: at for place, at in pipeline.group_offsets().items() if at} == committed
    published = {who: score["version"] for who, score in pipeline.newest_scores().items()}
    assert published == {who: score["version"] for who, score in pipeline.state().items()}
    if number is signal.SIGTERM:
        with pipeline.worker() as worker:
            pipeline.finish(worker)
        check_once(pipeline, events)


def shards(worker: LocalWorker) -> float:
    return metric(worker, "valuetide_shards")


def refused(worker: LocalWorker) -> float:
    return metric(worker, "valuetide_commits_total", outcome="refused")


def folded(worker: LocalWorker) -> float:
    return metric(worker, "valuetide_events_total", outcome="folded")
