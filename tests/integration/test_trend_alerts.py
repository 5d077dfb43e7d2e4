"""A shift that is planted in a stream of events comes out as an alert, once, with its cause."""

import json
import random
from datetime import datetime
from typing import Any, cast

import pytest
from pydantic import TypeAdapter
from redis import Redis

from tests.support.pipeline import Facts, Pipeline, make_pipeline, metric, wait_until
from tests.support.receiver import Receiver, receiving
from valuetide.schemas.alert import Alert
from valuetide.scoring.trends.metrics import METRICS
from valuetide.streams.settings import CustomerAlerts
from valuetide.streams.store.redis import alerts_key, open_alerts_key, watch_key
from valuetide.streams.trend_settings import SeriesSettings
from valuetide.streams.webhooks.hook import Webhook

pytestmark = pytest.mark.servers

DAY = 86_400
FIRST_DAY = 19_000
DAYS, SHIFT = 115, 90
CHANNELS = {"web": 40, "app": 40, "store": 20}


def shop(days: int = DAYS, *, shift: int = SHIFT, seed: int = 5) -> list[Facts]:
    """Orders in time order; from a day on four in ten of those by app are missing."""
    chance = random.Random(seed)
    events: list[Facts] = []
    for day in range(days):
        week = 1.3 if (FIRST_DAY + day) % 7 < 2 else 1.0
        orders = [
            (chance.random(), channel)
            for channel, daily in CHANNELS.items()
            for _ in range(round(chance.gauss(daily * week, (daily * week) ** 0.5)))
            if channel != "app" or day < shift or chance.random() > 0.4
        ]
        for at, channel in sorted(orders):
            number = len(events)
            event: dict[str, Any] = {
                "event_id": f"e{number}",
                "order_id": f"o{number}",
                "customer_id": f"c{chance.randrange(2_000)}",
                "occurred_at": round((FIRST_DAY + day + at) * DAY, 3),
                "kind": "placed",
                "currency": "EUR",
                "amount": round(chance.lognormvariate(3.5, 0.4), 2),
                "channel": channel,
            }
            events.append(("orders", event))
    return events


@pytest.fixture
def pipeline(broker: str, redis_url: str, fresh_prefix: str) -> Pipeline:
    series = SeriesSettings(idle_seconds=1.0, metrics=("revenue", "orders"))
    return make_pipeline(
        broker,
        redis_url,
        fresh_prefix,
        clock="event",
        series=series,
        customer_alerts=CustomerAlerts(rules=()),
    )


class Kept:
    """What Redis has of alerts and of the watch."""

    def __init__(self, pipeline: Pipeline, url: str) -> None:
        self.prefix = pipeline.settings.key_prefix
        self.redis = Redis.from_url(url, decode_responses=True)

    @property
    def watch(self) -> dict[str, str]:
        return cast("dict[str, str]", self.redis.hgetall(watch_key(self.prefix)))

    @property
    def steps(self) -> list[dict[str, Any]]:
        entries = cast("list[Any]", self.redis.xrange(alerts_key(self.prefix, 0)))
        return [json.loads(fields["alert"]) for _, fields in entries]

    @property
    def open(self) -> dict[str, str]:
        return cast("dict[str, str]", self.redis.hgetall(open_alerts_key(self.prefix, 0)))

    def closed(self, day: int) -> bool:
        return int(self.watch.get("closed", 0)) >= FIRST_DAY + day


def team(receiver: Receiver) -> Webhook:
    return Webhook(name="team", url=receiver.url(), timeout_seconds=5)


def messages(pipeline: Pipeline) -> list[dict[str, Any]]:
    found = pipeline.messages(pipeline.settings.topics.alerts)
    for message in found:
        assert message.key == json.loads(message.value or b"")["fingerprint"].encode()
    return [json.loads(message.value or b"") for message in found]


def test_a_fall_of_one_channel_is_told_once_and_names_it(
    pipeline: Pipeline, redis_url: str
) -> None:
    kept = Kept(pipeline, redis_url)
    events = shop()
    # The worker is killed in the middle, and what a producer's retry repeats does not count.
    half = len(events) // 2
    pipeline.send(events[:half])
    with pipeline.worker() as worker:
        pipeline.finish(worker)
        wait_until(lambda: kept.closed(40), "the first half's buckets are closed")
        worker.kill()
    pipeline.send(events[half - 500 :])
    receiver = Receiver(judge=lambda delivery: 500)
    with receiving(receiver), pipeline.worker(webhooks=(team(receiver),)) as worker:
        pipeline.finish(worker)
        wait_until(lambda: kept.closed(DAYS - 2), "all buckets but the last are closed")
        wait_until(lambda: bool(receiver.got), "the webhook is tried")
        assert metric(worker, "valuetide_open_alerts") == len(kept.open) == 2
        assert metric(worker, "valuetide_series") == int(kept.watch["series"]) == 8
        assert metric(worker, "valuetide_late_events") == 0
        worker.kill()
        receiver.judge = None
        receiver.got.clear()
        with pipeline.worker(webhooks=(team(receiver),)):
            wait_until(lambda: bool(receiver.got), "the webhook has the alert")

    sent = {message["id"]: message for message in messages(pipeline)}
    assert {step["id"] for step in kept.steps} == sent.keys()
    assert sorted(step["metric"] for step in kept.steps) == ["orders", "revenue"]
    # The second is the same change, and only goes on record.
    told, kin = kept.steps
    assert (told["notify"], kin["notify"]) == (True, False)
    assert kin["sentence"].endswith(f" as a change of {METRICS[told['metric']].label}.")
    assert [delivery.json["data"] for delivery in receiver.got] == [told]
    assert receiver.ids == [told["id"]]
    for step in kept.steps:
        TypeAdapter(Alert).validate_python(step)
        assert step == sent[step["id"]] == json.loads(kept.open[step["fingerprint"]])
        assert (step["reason"], step["rule"], step["dimension"]) == ("fired", "level", "")
        assert (step["direction"], step["causes"][0]["element"]) == ("down", "app")
        assert "and channel app " in step["sentence"]
        at = datetime.fromisoformat(step["at"]).timestamp() / DAY - FIRST_DAY
        assert SHIFT < at <= SHIFT + 14
        since = datetime.fromisoformat(step["since"]).timestamp() / DAY - FIRST_DAY
        assert abs(since - SHIFT) <= 4
        # Sixteen orders a day are missing, at about 36 each.
        assert step["stake_per_day"] == pytest.approx(16 * 36, rel=0.5)
