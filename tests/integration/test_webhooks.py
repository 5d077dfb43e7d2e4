"""Steps of alerts reach their webhooks at least once, in order, whatever fails in between."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from structlog.testing import capture_logs

from tests.support.alerts import AT_RISK, LEVEL, alert, commit_alerts, number
from tests.support.pipeline import Pipeline, make_settings, metric, wait_until
from tests.support.receiver import Receiver
from tests.support.traffic import traffic
from valuetide.streams.connections import redis_client
from valuetide.streams.guarded import free_port
from valuetide.streams.local import LocalWorker
from valuetide.streams.metrics import Metrics
from valuetide.streams.settings import Settings
from valuetide.streams.store import StoreUnavailableError
from valuetide.streams.store.redis import acks_key, alerts_key, open_alerts_key
from valuetide.streams.webhooks import courier
from valuetide.streams.webhooks.courier import Couriers, Lane
from valuetide.streams.webhooks.endpoint import Endpoint
from valuetide.streams.webhooks.hook import Webhook
from valuetide.streams.webhooks.outbox import AT_ONCE, Outbox, hooks_key

pytestmark = [pytest.mark.servers, pytest.mark.timeout(60)]

NOWHERE = "127.0.0.1:9"
SECRET = "hunter2-secret"
KEY = "whsec_" + "QUJD" * 8
OTHER = "a4d1000000000000"
DAY_MS = 86_400_000


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_SECONDS", "FIRST_RETRY_SECONDS", "STORE_RETRY_SECONDS"):
        monkeypatch.setattr(courier, name, 0.02)


@pytest.fixture
def settings(redis_url: str, fresh_prefix: str) -> Settings:
    return make_settings(NOWHERE, redis_url, fresh_prefix)


class Stage:
    """Couriers of a worker with some shards, and what they measure."""

    def __init__(self, settings: Settings, *hooks: Webhook) -> None:
        self.settings = settings.model_copy(update={"webhooks": hooks})
        self.metrics = Metrics()
        self.partitions = [0, 1, 2, 3]
        self.couriers = Couriers(self.settings, self.metrics, lambda: self.partitions)
        self.url = settings.redis_url.get_secret_value()

    async def commit(self, *steps: dict[str, Any], partition: int = 0) -> None:
        await commit_alerts(self.url, self.settings.key_prefix, steps, partition)

    async def __aenter__(self) -> "Stage":
        self.task = asyncio.create_task(self.couriers.run())
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def cursor(self, hook: str = "ops", partition: int = 0) -> bytes | None:
        with Redis.from_url(self.url) as redis:
            found = redis.hget(hooks_key(self.settings.key_prefix, partition), hook)
        assert found is None or isinstance(found, bytes)
        return found

    def last(self, partition: int = 0) -> bytes:
        with Redis.from_url(self.url) as redis:
            entries: Any = redis.xrevrange(alerts_key(self.settings.key_prefix, partition), count=1)
        found = entries[0][0]
        assert isinstance(found, bytes)
        return found

    def value(self, name: str, **labels: str) -> float:
        found = self.metrics.registry.get_sample_value(f"valuetide_webhook_{name}", labels)
        return found or 0.0

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        async with asyncio.timeout(seconds):
            for _ in iter(condition, True):
                await asyncio.sleep(0.02)

    async def until_done(self, hook: str = "ops", partition: int = 0) -> None:
        last = self.last(partition)
        await self.until(lambda: self.cursor(hook, partition) == last)


def hook(receiver: Receiver, name: str = "ops", **values: Any) -> Webhook:
    url = values.pop("url", receiver.url(f"/{SECRET}"))
    return Webhook(**({"name": name, "url": url, "timeout_seconds": 5} | values))


def run(scenario: Callable[[Receiver], Awaitable[None]], **receiver: Any) -> None:
    async def whole() -> None:
        async with Receiver(**receiver) as one:
            await scenario(one)

    asyncio.run(whole())


def test_steps_of_all_shards_are_delivered_in_their_order(settings: Settings) -> None:
    async def scenario(receiver: Receiver) -> None:
        async with Stage(settings, hook(receiver, secret=KEY)) as stage:
            await stage.commit(alert(1), alert(2, OTHER))
            await stage.commit(AT_RISK, partition=3)
            await stage.until(lambda: len(receiver.got) == 3)
            await stage.commit(alert(3, state="resolved", reason="resolved"))
            await stage.until_done()
            here = [found for found in receiver.ids if found != AT_RISK["id"]]
            assert here == [number(1), number(2), number(3)]
            assert len(receiver.got) == 4
            assert receiver.got[-1].json["type"] == "alert.resolved"
            assert stage.value("deliveries_total", hook="ops", outcome="delivered") == 4
            assert stage.value("oldest_seconds", hook="ops") == 0

    run(scenario)


def test_people_are_not_told_of_every_step(settings: Settings) -> None:
    """Nor of what is acknowledged at its time, but of its reminder; programs may have all."""

    async def scenario(receiver: Receiver) -> None:
        known = {"until_ms": 1_774_915_200_000, "by": "ann", "why": ""}  # 2026-03-31, midnight
        early, late = "2026-03-30T23:59:59Z", "2026-03-31T00:00:00Z"
        with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
            redis.hset(f"{settings.key_prefix}:{{0}}:acks", OTHER, json.dumps(known))
        people, programs = (
            hook(receiver),
            hook(receiver, "all", steps="all", url=receiver.url("/all")),
        )
        async with Stage(settings, people, programs) as stage:
            await stage.commit(
                alert(1),
                alert(2, state="recovering", reason="back", notify=False),
                alert(3, OTHER, at=early),
                alert(4, OTHER, at=late),
                alert(5, OTHER, at=early, reason="reminder"),
            )  # fmt: skip
            await stage.until_done()
            await stage.until_done("all")
            ids = {path: [one.id for one in receiver.got if one.path == path]
                   for path in (f"/{SECRET}", "/all")}  # fmt: skip
            assert ids[f"/{SECRET}"] == [number(1), number(4), number(5)]
            assert ids["/all"] == [number(n) for n in range(1, 6)]

    run(scenario)


def test_rules_and_stake_choose_alerts_and_not_steps(settings: Settings) -> None:
    """Whoever was told that it fires is told that it is over, when nothing is at stake any more."""

    async def scenario(receiver: Receiver) -> None:
        async with Stage(settings, hook(receiver, rules=("level",), least_stake=100)) as stage:
            over = {"state": "resolved", "reason": "resolved"}
            await stage.commit(
                alert(1, stake_per_day=100),
                alert(2, OTHER, stake_per_day=99),
                alert(3, rule="outage", stake_per_day=1_000),
                *(alert(n, number(n)) for n in range(100, 220)),
                alert(4, stake_per_day=0, **over),
                alert(5, OTHER, stake_per_day=500, **over),
            )
            await stage.until_done()
            assert receiver.ids == [number(n) for n in (1, *range(100, 220), 4)]

    run(scenario)


def test_what_fails_is_tried_again_and_what_comes_after_it_waits(settings: Settings) -> None:
    async def scenario(receiver: Receiver) -> None:
        async with Stage(settings, hook(receiver)) as stage:
            await stage.commit(alert(1), alert(2))
            await stage.until_done()
            assert receiver.ids == [number(1)] * 4 + [number(2)]
            assert stage.value("deliveries_total", hook="ops", outcome="failed") == 3
            assert stage.value("given_up_total", hook="ops") == 0

    run(scenario, statuses=[500, 429, 503])


def test_waits_double_up_to_a_limit_and_differ(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr(courier, "FIRST_RETRY_SECONDS", 1.0)

    async def scenario(receiver: Receiver) -> None:
        stage = Stage(settings)
        await stage.commit(alert(1))
        lane, close = await one_lane(stage, hook(receiver))
        monkeypatch.setattr("valuetide.streams.webhooks.courier.asyncio.sleep", note)
        await lane.deliver_after(await begin(stage))
        await close()

    run(scenario, statuses=[500] * 12)
    wanted = [min(2.0**n, 300.0) for n in range(12)]
    slept = [wait for wait in waits if wait > 0.1]
    assert len(slept) == 12
    assert all(most / 2 <= wait <= most for wait, most in zip(slept, wanted, strict=True))
    assert len({wait / most for wait, most in zip(slept, wanted, strict=True)}) > 10


async def one_lane(stage: Stage, one: Webhook, partition: int = 0) -> Any:
    client = redis_client(stage.settings)
    endpoint = Endpoint(one, stage.metrics)
    outbox = Outbox(client, stage.settings.key_prefix)

    async def close() -> None:
        await endpoint.close()
        await client.aclose()

    return Lane(endpoint, outbox, partition, stage.metrics), close


async def begin(stage: Stage) -> Any:
    async with redis_client(stage.settings) as client:
        return await Outbox(client, stage.settings.key_prefix).cursor("ops", 0)


def test_a_refusal_for_good_is_given_up_at_once(settings: Settings) -> None:
    async def scenario(receiver: Receiver) -> None:
        async with Stage(settings, hook(receiver)) as stage:
            await stage.commit(alert(1), alert(2))
            await stage.until_done()
            assert receiver.ids == [number(1), number(2)]
            assert stage.value("given_up_total", hook="ops") == 1
            assert stage.value("deliveries_total", hook="ops", outcome="refused") == 1

    with capture_logs() as logs:
        run(scenario, statuses=[410])
    (line,) = [line for line in logs if line["event"] == "webhook step given up"]
    assert (line["hook"], line["step"], line["why"]) == ("ops", number(1), "HTTP 410")


def test_a_step_that_is_too_old_gets_one_attempt_more(settings: Settings) -> None:
    async def scenario(receiver: Receiver) -> None:
        async with Stage(settings, hook(receiver, retry_seconds=0)) as stage:
            await stage.commit(alert(1), alert(2), alert(3))
            await stage.until_done()
            assert receiver.ids == [number(1), number(2), number(3)]
            assert stage.value("given_up_total", hook="ops") == 2

    run(scenario, statuses=[500, 500, 200])


def test_a_slow_or_failing_hook_holds_up_no_other(settings: Settings) -> None:
    async def scenario(receiver: Receiver) -> None:
        async with Receiver(silent=True) as silent:
            hooks = [
                hook(receiver, "good"),
                hook(silent, "silent"),
                hook(receiver, "away", url=f"http://127.0.0.1:{free_port()}/"),
            ]
            async with Stage(settings, *hooks) as stage:
                started = time.monotonic()
                for n in range(5):
                    await stage.commit(alert(n), partition=n % 2)
                await stage.until(lambda: len(receiver.got) == 5, 4.0)
                assert time.monotonic() - started < 5.0, "less than the silent one's limit"
                assert {bytes(stage.cursor(name) or b"") for name in ("silent", "away")}.isdisjoint(
                    {stage.last()}
                )
                assert stage.value("oldest_seconds", hook="silent") > 0
                assert stage.value("oldest_seconds", hook="away") > 0

    run(scenario)


def test_a_poisonous_step_of_one_shard_holds_up_no_other_shard(settings: Settings) -> None:
    async def scenario(receiver: Receiver) -> None:
        receiver.judge = lambda delivery: 500 if delivery.id == number(1) else 200
        async with Stage(settings, hook(receiver)) as stage:
            await stage.commit(alert(1), alert(2))
            await stage.commit(alert(3), partition=1)
            await stage.until_done(partition=1)
            assert number(3) in receiver.ids
            assert number(2) not in receiver.ids

    run(scenario)


class Crash(BaseException):
    """The process dies."""


def test_killed_between_delivery_and_its_note_a_step_is_delivered_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same id, so that the receiver knows it; none is lost or out of order."""
    deaths = [number(2), number(3), number(3)]
    done = Outbox.done

    async def scenario(receiver: Receiver) -> None:
        async def dies(self: Outbox, *where: Any) -> None:
            if receiver.ids and deaths and receiver.ids[-1] == deaths[0]:
                deaths.pop(0)
                raise Crash
            await done(self, *where)

        monkeypatch.setattr(Outbox, "done", dies)
        stage = Stage(settings)
        await stage.commit(*(alert(n) for n in range(1, 5)))
        for _ in range(4):
            lane, close = await one_lane(stage, hook(receiver))
            try:
                await lane.deliver_after(await begin(stage))
            except Crash:
                continue
            finally:
                await close()
        assert receiver.ids == [number(n) for n in (1, 2, 2, 3, 3, 3, 4)]
        assert stage.cursor() == stage.last()

    run(scenario)
    assert not deaths


def test_redis_away_for_a_moment_delays_and_loses_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = iter([True, False, True, True])
    for name in ("steps", "done"):
        original = getattr(Outbox, name)

        async def sometimes(self: Outbox, *where: Any, original: Any = original) -> Any:
            if next(faults, False):
                raise StoreUnavailableError("Redis: gone")
            return await original(self, *where)

        monkeypatch.setattr(Outbox, name, sometimes)

    async def scenario(receiver: Receiver) -> None:
        stage = Stage(settings, hook(receiver))
        stage.partitions = [0]
        async with stage:
            await stage.commit(alert(1), alert(2))
            await stage.until_done()
        assert sorted(set(receiver.ids)) == [number(1), number(2)]
        assert receiver.ids == sorted(receiver.ids)

    run(scenario)
    assert next(faults, None) is None


def test_what_cannot_be_read_is_given_up_and_what_comes_after_it_goes_out(
    settings: Settings,
) -> None:
    """As while workers of two releases run: an old one meets a rule that it does not know."""

    async def scenario(receiver: Receiver) -> None:
        with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
            redis.hset(acks_key(settings.key_prefix, 0), OTHER, "yes")
        async with Stage(settings, hook(receiver, least_stake=1)) as stage:
            await stage.commit(alert(1), alert(2, rule="a_rule_to_come"))
            with Redis.from_url(stage.url) as redis:
                redis.xadd(alerts_key(settings.key_prefix, 0), {"other": "field"})
            await stage.commit(alert(3, OTHER), alert(4, state="resolved", reason="resolved"))
            await stage.commit(alert(5, rule="a_rule_to_come"))
            await stage.until_done()
            assert receiver.ids == [number(1), number(3), number(4)]
            assert stage.value("given_up_total", hook="ops") == 3
            assert stage.value("faults_total", hook="ops") == 0

    run(scenario)


def test_an_open_alert_that_cannot_be_read_keeps_no_other_from_alertmanager(
    settings: Settings,
) -> None:
    async def scenario(receiver: Receiver) -> None:
        with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
            redis.hset(open_alerts_key(settings.key_prefix, 0), OTHER, "{}")
        async with Stage(settings, hook(receiver, format="alertmanager")) as stage:
            await stage.commit(alert(1))
            await receiver.until(2)
            assert [len(one.json) for one in receiver.got] == [1, 1]

    run(scenario)


def test_a_lane_that_fails_begins_again_and_holds_up_nothing_else(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "FAULT_RETRY_SECONDS", 0.02)

    async def scenario(receiver: Receiver) -> None:
        key = hooks_key(settings.key_prefix, 0)
        with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
            redis.hset(key, "ops", "where?")
            async with Stage(settings, hook(receiver)) as stage:
                await stage.commit(AT_RISK, partition=1)
                await stage.commit(alert(1))
                await stage.until_done(partition=1)
                await stage.until(lambda: stage.value("faults_total", hook="ops") >= 2)
                assert receiver.ids == [AT_RISK["id"]]
                redis.hset(key, "ops", "0-0")
                await stage.until_done()
                assert receiver.ids == [AT_RISK["id"], number(1)]

    run(scenario)


def test_a_new_hook_is_told_of_the_last_hour_and_an_old_one_of_all_it_has_missed(
    settings: Settings,
) -> None:
    async def scenario(receiver: Receiver) -> None:
        stage = Stage(settings, hook(receiver))
        with Redis.from_url(stage.url) as redis:
            now = int(time.time() * 1_000)
            for step, age_ms in ((1, 2 * DAY_MS), (2, 3_700_000), (3, 3_500_000), (4, 0)):
                redis.xadd(
                    alerts_key(settings.key_prefix, 0),
                    {"alert": json.dumps(alert(step))},
                    id=f"{now - age_ms}-0",
                )
        async with stage:
            await stage.until_done()
        assert receiver.ids == [number(3), number(4)]
        with Redis.from_url(stage.url) as redis:
            redis.hset(hooks_key(settings.key_prefix, 0), "ops", f"{now - 3 * DAY_MS}-0")
        async with Stage(settings, hook(receiver)) as stage:
            await stage.until_done()
        assert receiver.ids[2:] == [number(n) for n in (1, 2, 3, 4)]

    run(scenario)


def test_a_shard_that_goes_to_another_worker_is_left_to_it(settings: Settings) -> None:
    async def scenario(receiver: Receiver) -> None:
        async with Stage(settings, hook(receiver)) as stage:
            await stage.commit(alert(1))
            await stage.until_done()
            stage.partitions = [1, 2, 3]
            await stage.until(lambda: ("ops", 0) not in stage.couriers._lanes)
            await stage.commit(alert(2))
            await asyncio.sleep(0.3)
            assert receiver.ids == [number(1)]
            stage.partitions = [0]
            await stage.until_done()
            assert receiver.ids == [number(1), number(2)]

    run(scenario)


def test_many_shards_and_hooks_need_few_connections(settings: Settings) -> None:
    async def scenario(receiver: Receiver) -> None:
        hooks = [hook(receiver, name) for name in ("ops", "more", "most")]
        stage = Stage(settings.model_copy(update={"partitions": 64}), *hooks)
        stage.partitions = list(range(64))
        with Redis.from_url(stage.url) as redis:
            before = len(redis.client_list())
            async with stage:
                await stage.commit(alert(1), partition=63)
                await receiver.until(3)
                assert len(redis.client_list()) <= before + AT_ONCE

    with capture_logs() as logs:
        run(scenario)
    assert logs == []


def test_alertmanager_is_told_again_until_it_is_over(settings: Settings) -> None:
    async def scenario(receiver: Receiver) -> None:
        told = hook(receiver, format="alertmanager", resend_seconds=1, url=receiver.url(""))
        async with Stage(settings, told) as stage:
            await stage.commit(alert(1))
            await receiver.until(3)
            await stage.commit(
                alert(2, state="recovering", reason="back", notify=False),
                alert(3, state="resolved", reason="resolved"),
            )
            await stage.until_done()
            await asyncio.sleep(1.3)
        bodies = [one.json for one in receiver.got]
        assert {one.path for one in receiver.got} == {"/api/v2/alerts"}
        assert {found["labels"]["fingerprint"] for body in bodies for found in body} == {
            LEVEL["fingerprint"]
        }
        assert receiver.ids[-2:] == [number(2), number(3)], "and nothing after its end"
        resent = [found for found in receiver.ids if found.startswith("open-0-")]
        assert len(set(resent)) == len(resent) >= 2
        ends = [body[0]["endsAt"] for body in bodies]
        assert ends[:-1] == sorted(ends[:-1])
        assert ends[-1] == "2026-03-31T00:00:00.000Z"

    run(scenario)


@pytest.mark.timeout(120)
def test_a_worker_that_is_killed_loses_no_step_and_tells_no_secret(pipeline: Pipeline) -> None:
    """Committed alerts reach a receiver that was away, from the next worker; others still fail."""
    port = free_port()
    away, user = f"127.0.0.1:{free_port()}", f"user:{SECRET}@"
    urls = {
        "ops": f"http://{user}127.0.0.1:{port}/{SECRET}",
        "away": f"http://{user}{away}/{SECRET}",
        "unknown": f"http://{SECRET}.invalid/",
        "tls": f"https://127.0.0.1:{port}/{SECRET}",
    }
    hooks = tuple(Webhook(name=name, url=url, secret=KEY) for name, url in urls.items())
    told = pipeline.with_settings(webhooks=hooks, log_level="debug")
    redis_url, prefix = pipeline.settings.redis_url.get_secret_value(), pipeline.settings.key_prefix
    written = ""

    def failed(worker: LocalWorker, name: str) -> bool:
        labels = {"hook": name, "outcome": "failed"}
        return metric(worker, "valuetide_webhook_deliveries_total", **labels) > 0

    with told.worker() as worker:
        told.send(traffic(41, 20))
        told.finish(worker)  # now the shard has a record to commit after
        asyncio.run(commit_alerts(redis_url, prefix, [alert(1), AT_RISK]))
        wait_until(lambda: failed(worker, "ops"), "it was tried")
        assert metric(worker, "valuetide_webhook_oldest_seconds", hook="ops") > 0
        worker.kill()
        written += worker.log_tail(10_000)

    ours = [number(1), AT_RISK["id"]]  # the traffic may have raised others

    async def receive() -> list[str]:
        async with Receiver(port=port) as receiver, asyncio.timeout(60):
            while not set(ours) <= set(receiver.ids):
                await receiver.until(len(receiver.got) + 1, 60.0)
            return [found for found in receiver.ids if found in ours]

    with told.worker() as worker:
        assert asyncio.run(receive()) == ours
        for name in ("away", "unknown", "tls"):
            wait_until(lambda: failed(worker, name), f"{name} was tried")  # noqa: B023
        written += worker.get("/metrics")[1] + worker.get("/readyz")[1]
        written += Path(f"/proc/{worker.pid}/cmdline").read_text()
        written += worker.log_tail(10_000)
    assert written.count("webhook fails") >= 4
    for secret in (SECRET, KEY, KEY.removeprefix("whsec_"), away, AT_RISK["customer_id"]):
        assert secret not in written
