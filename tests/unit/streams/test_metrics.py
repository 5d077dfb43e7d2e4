"""What is measured is what Prometheus' own client would measure, under well-formed names."""

import json
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from tests.support.fakes import World, as_chunk, customers_of, run_quickly, settle
from tests.unit.streams.helpers import answer, order, visit
from valuetide.schemas.events import Feedback, Interaction, Order
from valuetide.streams.decode import Role
from valuetide.streams.metrics import DELAY_BOUNDS, ArrayHistogram, Metrics
from valuetide.streams.shard_memory import OUTCOMES

BOUNDS = (0.1, 1.0, 10.0)
UNITS = (
    *("_seconds", "_events", "_bytes", "_info", "_shards", "_memory", "_total"),
    *("_alerts", "_series", "_needed"),
)


def samples(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


@given(
    st.lists(
        st.lists(st.sampled_from([*BOUNDS, -1.0, 0.0, 1e9]) | st.floats(-1e6, 1e6), max_size=20),
        max_size=4,
    )
)
def test_an_array_histogram_equals_the_clients_own(batches: list[list[float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    array = ArrayHistogram("x_seconds", "Some time", BOUNDS)
    ours.register(array)
    single = Histogram("x_seconds", "Some time", buckets=BOUNDS, registry=theirs)
    for batch in batches:
        array.observe_many(np.array(batch, np.float64))
        for value in batch:
            single.observe(value)
    found, wanted = samples(ours), samples(theirs)
    total = ("x_seconds_sum", "")
    assert found.pop(total) == pytest.approx(wanted.pop(total))
    assert found == wanted


def test_every_bound_is_written_as_the_client_writes_it() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    ours.register(ArrayHistogram("x_seconds", "Some time", DELAY_BOUNDS))
    Histogram("x_seconds", "Some time", buckets=DELAY_BOUNDS, registry=theirs)
    assert samples(ours) == samples(theirs)


def test_names_carry_their_unit_and_no_label_a_customer() -> None:
    async def scenario() -> Metrics:
        world = World()
        here, (stranger,) = customers_of(0, 4, 20), customers_of(1, 4, 1)
        await world.shard.open()
        world.shard.submit(as_chunk([order(c, i) for i, c in enumerate(here)]))
        world.shard.submit(as_chunk([visit(stranger, 1), b"{}", None], role="interactions"))
        bad = {"needs": {here[0]: "much"}}
        world.shard.submit(as_chunk([visit(here[0], 2) | bad], role="interactions", at=3))
        await settle(60)
        await world.shard.close(1.0)
        return world.metrics

    metrics = run_quickly(scenario())
    ids = set(customers_of(0, 4, 20)) | set(customers_of(1, 4, 1))
    ours = [m for m in metrics.registry.collect() if m.name.startswith("valuetide_")]
    assert len(ours) >= 10
    for metric in ours:
        unit = "_total" if metric.type == "counter" else UNITS
        name = metric.name + ("_total" if metric.type == "counter" else "")
        assert name.endswith(unit), name
        assert metric.documentation
        for sample in metric.samples:
            assert not ids & set(sample.labels.values())
            assert all(len(value) < 40 for value in sample.labels.values())
    text = generate_latest(metrics.registry).decode()
    assert 'valuetide_events_total{outcome="folded",topic="orders"} 20.0' in text
    assert "process_cpu_seconds_total" in text


def test_a_lost_partition_is_measured_no_more() -> None:
    metrics = Metrics()
    metrics.watermark(3, 1.5)
    name, label = "valuetide_watermark_delay_seconds", {"partition": "3"}
    assert metrics.registry.get_sample_value(name, label) == 1.5
    metrics.lost(3)
    metrics.lost(4)
    assert metrics.registry.get_sample_value(name, label) is None


def test_workers_in_one_process_do_not_share_their_metrics() -> None:
    first, second = Metrics(), Metrics()
    first.recoveries.inc()
    assert second.registry.get_sample_value("valuetide_recoveries_total") == 0


def test_label_values_are_bounded_whatever_arrives() -> None:
    """Topics, outcomes, stages, fields and our partitions: no event can make another one."""

    async def scenario() -> Metrics:
        world = World()
        (ann,) = customers_of(0, 4, 1)
        await world.shard.open()
        makers = {"orders": order, "interactions": visit, "feedback": answer}
        for role, maker in makers.items():
            events: list[dict[str, Any] | bytes | None] = [None, b"", b"{}", b"[]", b"\xff"]
            names = [*maker(ann, 0), "items", "needs", "attributes", "cost", "channel"]
            events += [maker(ann, i) | {name: f"made up {i}"} for i, name in enumerate(names)]
            events += [maker(ann, i) | {f"field {i}": f"made up {i}"} for i in range(300)]
            for name in ("needs", "attributes", "items"):
                events += [maker(ann, i) | {name: {f"made up {i}": "x"}} for i in range(300)]
            events += [maker(f"customer {i}", i) for i in range(300)]
            events += [json.dumps(maker(ann, i))[: i % 90].encode() for i in range(300)]
            world.shard.submit(as_chunk(events, role=as_role(role)))
        await settle(300)
        assert world.shard.idle
        assert await world.shard.close(1.0)
        return world.metrics

    metrics = run_quickly(scenario())
    fields = {"value"}.union(*(event.__annotations__ for event in (Order, Interaction, Feedback)))
    allowed = {
        "topic": {"orders", "interactions", "feedback"},
        "outcome": {*OUTCOMES, "committed", "refused", "failed"},
        "reason": fields,
        "stage": {"decode", "load", "fold", "score", "encode", "publish"},
        "partition": {"0"},
    }
    found: dict[str, set[str]] = {}
    for metric in metrics.registry.collect():
        if metric.name.startswith("valuetide_"):
            for sample in metric.samples:
                for name, value in sample.labels.items():
                    found.setdefault(name, set()).add(value)
    found.pop("le")
    assert found.keys() == allowed.keys()
    for name, values in found.items():
        assert values <= allowed[name], name
    assert len(found["reason"]) >= 10


def as_role(name: str) -> Role:
    return cast("Role", name)
