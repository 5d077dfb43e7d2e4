"""Events that a producer put into the wrong partition, or sent without a key."""

import json

import pytest

from tests.support.pipeline import Pipeline, Raw, check_state, metric
from tests.support.traffic import traffic

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

REROUTED = "valuetide-rerouted"


def test_events_in_wrong_partitions_are_sent_on_once_and_count_in_the_right_shard(
    pipeline: Pipeline,
) -> None:
    """Every partitioner but ours, and keys that are absent or belong to somebody else."""
    partitions = pipeline.settings.partitions
    events = traffic(6, 120)
    messages, strays, more = [], 0, dict.fromkeys(pipeline.sent, 0)
    for i, message in enumerate(map(pipeline.message, events)):
        partition = i % partitions
        key = (message.key, None, b"", b"somebody else", b"\xff\xfe")[i % 5]
        messages.append(message._replace(partition=partition, key=key, headers=(("n", b"1"),)))
        if partition != message.partition:
            strays += 1
            place = (message.role, message.partition)
            more[place] = more.get(place, 0) + 1
    assert strays > len(events) / 2
    pipeline.produce(messages)
    with pipeline.worker() as worker:
        pipeline.finish(worker, more=more)
        assert metric(worker, "valuetide_events_total", outcome="rerouted") == strays
        assert metric(worker, "valuetide_recoveries_total") == 0
    check_state(pipeline, events)
    assert pipeline.count("rerouted") == strays
    assert pipeline.count("folded") == len(events)
    assert not pipeline.dead_letters()

    sent_on = [
        (role, found)
        for role in ("orders", "interactions", "feedback")
        for found in pipeline.messages(getattr(pipeline.settings.topics, role))
        if REROUTED in found.headers
    ]
    assert len(sent_on) == strays
    for _, found in sent_on:
        customer = json.loads(found.value or b"")["customer_id"]
        assert found.key == customer.encode()
        assert found.partition == pipeline.home(customer)
        assert found.headers["n"] == "1"
        topic, source, _ = found.headers[REROUTED].split("/")
        assert topic.startswith(pipeline.settings.key_prefix)
        assert int(source) != found.partition


def test_an_event_that_was_sent_on_and_is_still_wrong_is_a_dead_letter(pipeline: Pipeline) -> None:
    """Else it would go round for ever, for example where topics differ in their partitions."""
    events = traffic(7, 20)
    pipeline.send(events)
    lost = pipeline.message(traffic(8, 1, name="lost")[0])
    wrong = (lost.partition + 1) % pipeline.settings.partitions
    header = ((REROUTED, b"elsewhere/0/0"),)
    raw = Raw(lost.role, wrong, lost.key, lost.value, header)
    pipeline.produce([raw])
    with pipeline.worker() as worker:
        pipeline.finish(worker)
    check_state(pipeline, events)
    (letter,) = pipeline.dead_letters()
    assert (letter.key, letter.value) == (raw.key, raw.value)
    reason = letter.headers["reason"]
    assert reason.startswith(f"customer_id: belongs in partition {lost.partition}, ")
    assert "already re-published once" in reason
    assert pipeline.count("rerouted") == 0
