"""What must be true after a run, from the seed alone: nothing lost, nothing counted twice."""

import re
import time
from collections import Counter
from typing import Any, cast

from aiokafka.structs import ConsumerRecord
from pydantic_core import from_json

from tests.chaos.load import bad_ids, cohort_events
from tests.chaos.stage import PARTITIONS, Stage
from tests.support.pipeline import Facts, check_state, run
from valuetide.schemas.score import Score
from valuetide.scoring.series import COLUMNS, EVENTS, ROLES, WHOLE, Column, parse_cell, parse_name
from valuetide.streams.deadletters import read_records
from valuetide.streams.store.redis import alerts_key, series_key

TIMELESS = (
    "version",
    "orders",
    "revenue",
    "refunds",
    "margin",
    "cost_to_serve",
    "profit",
    "first_order_at",
    "last_order_at",
    "frequency",
    "monetary_value",
)
"""Fields that a score of the same events has in common with any other, whenever it was made."""

HOUR_SECONDS = 3_600
CALM_SECONDS = 1.5
BAD_ID = re.compile(rb"bad-\d+-\d+\.")


def sent_events(seed: int, cohorts: int) -> list[Facts]:
    """Give all distinct events of a run."""
    return [facts for number in range(cohorts) for facts in cohort_events(seed, number)]


def wait_until_done(stage: Stage, distinct: int, limit_seconds: float) -> bool:
    """Wait until all that was acknowledged is committed, strays included; whether it is."""
    ends = stage.acknowledged_ends()
    deadline = time.monotonic() + limit_seconds
    calm_since, before = time.monotonic(), -1
    while time.monotonic() < deadline:
        overview = stage.pipeline.overview()
        total = sum(overview.positions.values())
        if total != before:
            calm_since, before = time.monotonic(), total
        folded = sum(counts.get("folded", 0) for counts in overview.events.values())
        there = all(overview.positions.get(place, 0) >= end for place, end in ends.items())
        if there and folded >= distinct and time.monotonic() - calm_since > CALM_SECONDS:
            return True
        time.sleep(0.2)
    return False


def verify(stage: Stage, events: list[Facts], cohorts: int) -> dict[str, Any]:
    """Compare state, scores and dead letters with a batch recomputation; raise where they differ.

    Gives the counts that were compared.
    """
    pipeline = stage.pipeline
    state = check_state(pipeline, events)
    folded = pipeline.count("folded")
    assert folded == len(events), f"{folded} events counted, {len(events)} were sent"
    compare_scores(stage, state)
    compare_series(stage, events)
    alerts = check_alerts(stage)
    bad = [bad for number in range(cohorts) for bad in bad_ids(number)]
    letters = check_dead_letters(stage, bad)
    counts = {
        outcome: pipeline.count(outcome)
        for outcome in ("folded", "duplicate", "dead_letter", "rerouted")
    }
    return {"customers": len(state), "letters": letters, "alerts": alerts, **counts}


def compare_scores(stage: Stage, state: dict[str, Score]) -> None:
    """The highest version of each customer on the topic is what Redis has."""
    newest: dict[str, Score] = {}
    for record in read_to_the_end(stage, stage.settings.topics.scores):
        score: Score = from_json(record.value or b"")
        known = newest.get(score["customer_id"])
        if known is None or _age(known) <= _age(score):
            newest[score["customer_id"]] = score
    missing, extra = state.keys() - newest.keys(), newest.keys() - state.keys()
    assert not missing and not extra, (
        f"of {len(state)} customers {len(missing)} have no score on the topic, "
        f"for example {sorted(missing)[:5]}; {len(extra)} on the topic are not in Redis"
    )
    wrong = {
        customer: (newest[customer][name], score[name])  # type: ignore[literal-required]
        for customer, score in state.items()
        for name in TIMELESS
        if newest[customer][name] != score[name]  # type: ignore[literal-required]
    }
    assert not wrong, f"{len(wrong)} scores differ between topic and Redis: {str(wrong)[:500]}"


def compare_series(stage: Stage, events: list[Facts]) -> None:
    """Open buckets have every event once: by hour and topic, and money as the months have it."""
    wanted: Counter[tuple[int, str]] = Counter(
        (int(event["occurred_at"] // HOUR_SECONDS), role) for role, event in events
    )
    hours: Counter[tuple[int, str]] = Counter()
    placed: Counter[str] = Counter()
    with stage.redis_client() as redis:
        for partition in range(PARTITIONS):
            cells = redis.hgetall(series_key(stage.settings.key_prefix, partition))
            for name, packed in cast("dict[bytes, bytes]", cells).items():
                (bucket, dimension, _), _ = parse_name(name.decode())
                values = parse_cell(name.decode(), packed)
                if dimension == EVENTS:
                    for role, count in zip(ROLES, values, strict=True):
                        hours[bucket, role] += count
                elif dimension == WHOLE:
                    values += [0] * (COLUMNS - len(values))
                    placed["orders"] += values[Column.ORDERS]
                    placed["cents"] += values[Column.REVENUE]
    assert +hours == wanted, f"hours differ: {str((hours - wanted) | (wanted - hours))[:500]}"
    months = stage.pipeline.overview().months.values()
    cents = sum(round(month["revenue"] * 100) for month in months)
    orders = int(sum(month["orders"] for month in months))
    assert placed == {"orders": orders, "cents": cents}, f"{placed} but {orders} and {cents}"


def check_alerts(stage: Stage) -> int:
    """Each step of an alert is in Redis once, and on the topic; how many there are."""
    on_topic = {
        str(from_json(record.value or b"")["id"])
        for record in read_to_the_end(stage, stage.settings.topics.alerts)
    }
    steps: list[str] = []
    with stage.redis_client() as redis:
        for partition in range(PARTITIONS):
            entries = redis.xrange(alerts_key(stage.settings.key_prefix, partition))
            for _, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", entries):
                steps.append(from_json(fields[b"alert"])["id"])
    twice = [step for step, count in Counter(steps).items() if count > 1]
    assert not twice, f"{len(twice)} steps of alerts are in Redis twice: {twice[:5]}"
    missing = set(steps) - on_topic
    assert not missing, f"{len(missing)} steps are in Redis and not on the topic"
    return len(steps)


def _age(score: Score) -> tuple[int, str]:
    return score["version"], str(score["as_of"])


def check_dead_letters(stage: Stage, bad: list[str]) -> int:
    """Dead letters are those of the bad events and of nothing else, each source once."""
    by_source: dict[tuple[bytes, ...], str] = {}
    for record in read_to_the_end(stage, stage.settings.topics.dead_letters):
        headers = dict(record.headers)
        source = tuple(headers[f"source_{part}"] for part in ("topic", "partition", "offset"))
        match = BAD_ID.search(record.value or b"")
        by_source[source] = match.group().decode() if match else f"not bad: {record.value!r}"
    found = set(by_source.values())
    assert found == set(bad), f"dead letters differ: {sorted(found ^ set(bad))[:5]}"
    count = stage.pipeline.count("dead_letter")
    assert len(by_source) == count, f"{len(by_source)} dead letters, Redis has counted {count}"
    return len(by_source)


def read_to_the_end(stage: Stage, topic: str) -> list[ConsumerRecord[bytes, bytes]]:
    """Read a whole topic, however slow the broker is; fail where that cannot be done."""

    async def read() -> list[ConsumerRecord[bytes, bytes]]:
        return [record async for record in read_records(stage.settings, topic)]

    return run(read())
