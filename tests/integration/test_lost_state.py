"""When what there was is gone, a worker stops and says so, and changes nothing."""

from collections.abc import Iterator

import pytest
from kafka.admin import KafkaAdminClient
from redis import Redis

from tests.support.pipeline import Pipeline, check_state, cli, wait_until
from tests.support.traffic import traffic

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]


@pytest.fixture
def redis(pipeline: Pipeline) -> Iterator["Redis"]:
    with Redis.from_url(pipeline.settings.redis_url.get_secret_value()) as client:
        yield client


def forget_state(pipeline: Pipeline, redis: "Redis") -> None:
    """Do what a restart without an append-only file does, to this test's keys alone."""
    for key in redis.scan_iter(match=f"{pipeline.settings.key_prefix}:*", count=1_000):
        redis.delete(key)


def test_a_worker_that_finds_no_state_where_its_group_has_been_stops(
    pipeline: Pipeline, redis: "Redis"
) -> None:
    events = traffic(31, 200)
    pipeline.send(events)
    with pipeline.worker() as worker:
        pipeline.finish(worker)
        wait_until(
            lambda: (
                {at: o for at, o in pipeline.group_offsets().items() if o}
                == {at: o for at, o in pipeline.sent.items() if o}
            ),
            "the group's offsets are written",
        )
    forget_state(pipeline, redis)
    result = cli(pipeline.environment, "worker")
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert "Redis has no state, but the consumer group's offset in" in last
    assert "VALUETIDE_LOST_POSITIONS=earliest" in last
    assert "worker ready" not in result.stderr
    assert not pipeline.overview().positions

    with pipeline.worker(lost_positions="earliest") as worker:
        pipeline.finish(worker)
    check_state(pipeline, events)


def test_a_worker_whose_state_goes_away_under_it_stops(pipeline: Pipeline, redis: "Redis") -> None:
    pipeline.send(traffic(32, 100))
    with pipeline.worker() as worker:
        pipeline.finish(worker)
        forget_state(pipeline, redis)
        pipeline.send(traffic(33, 100, name="later"))
        wait_until(lambda: not worker.running, "it has ended")
        assert "Redis has no state, but this worker saw commit" in worker.log_tail(1)
    assert not pipeline.overview().positions


def test_a_worker_whose_topic_is_deleted_stops_and_names_it(pipeline: Pipeline) -> None:
    pipeline.send(traffic(34, 100))
    topic = pipeline.settings.topics.orders
    with pipeline.worker() as worker:
        pipeline.finish(worker)
        before = pipeline.overview()
        client = KafkaAdminClient(bootstrap_servers=pipeline.settings.broker)
        try:
            client.delete_topics([topic])
        finally:
            client.close()
        wait_until(lambda: not worker.running, "it has ended", 60)
        assert topic in worker.log_tail(1)
    assert pipeline.overview() == before


def test_a_worker_ends_soon_when_the_broker_stays_away() -> None:
    """Kafka's client must not keep the process from ending."""
    from tests.support.pipeline import make_pipeline
    from tests.support.servers import make_broker, make_redis

    with make_broker() as broker, make_redis() as server:
        pipeline = make_pipeline(broker.address, server.url, "away", retry_seconds=2.0)
        pipeline.send(traffic(35, 50))
        with pipeline.worker() as worker:
            pipeline.finish(worker)
            broker.kill()
            wait_until(lambda: not worker.running, "it has ended", 20)
            assert f"no Kafka broker at {broker.address} for 2 s" in worker.log_tail(1)
