from collections import Counter
from typing import Any

import pytest

from tests.unit.streams.simulate.helpers import CLEAN, DAY
from valuetide.schemas.vocabulary import Vocabulary
from valuetide.streams.decode import Decoder
from valuetide.streams.replay.event import SourceEvent
from valuetide.streams.simulate.outbox import Message, Outbox, spoiled
from valuetide.streams.simulate.scenario import Scenario

VISIT = b'{"occurred_at":1704067200.5,"event_id":"e%d","customer_id":"c","kind":"visit"}'


def outbox(*shifts: str, **noise: float) -> Outbox:
    fields: dict[str, Any] = {"days": 4, "noise": {**CLEAN, **noise}, "shifts": shifts}
    return Outbox(Scenario.model_validate(fields))


def messages(*days: float) -> list[Message]:
    start = Scenario().start_seconds
    return [
        Message(
            start + day * DAY,
            "interactions",
            "visit",
            SourceEvent("c", start + day * DAY, VISIT % number),
        )
        for number, day in enumerate(days)
    ]


def sent(box: Outbox, day: int) -> list[bytes]:
    return [event.value for _, event in box.take(day)]


def test_what_happens_goes_out_on_its_day_in_order() -> None:
    box = outbox()
    box.put(0, messages(0.5, 0.25, 1.5, 0.75))
    assert sent(box, 0) == [VISIT % 1, VISIT % 0, VISIT % 3]
    assert sent(box, 1) == [VISIT % 2]
    assert list(box.rest()) == []


def test_what_would_happen_after_the_end_does_not() -> None:
    box = outbox()
    box.put(3, messages(3.5, 4.0, 9.0))
    assert sent(box, 3) == [VISIT % 0]
    assert list(box.rest()) == []


def test_late_events_come_later_none_is_lost() -> None:
    box = outbox(late=1.0)
    box.put(3, messages(*[3 + number / 200 for number in range(200)]))
    on_time = sent(box, 3)
    after = [event.value for _, event in box.rest()]
    assert 25 < len(after) < 75  # 49 on average, of a mean delay of 6 hours
    assert sorted(on_time + after) == sorted(VISIT % number for number in range(200))
    assert box.sent == {("interactions", "visit", "late"): 200}


def test_duplicates_follow_their_events_and_are_counted() -> None:
    box = outbox(duplicates=0.2)
    box.put(0, messages(*[number / 2_000 for number in range(1_000)]))
    values = sent(box, 0)
    twice = [value for value, count in Counter(values).items() if count == 2]
    assert len(twice) == box.sent["interactions", "visit", "duplicate"]
    assert 150 < len(twice) < 250
    assert len(values) == 1_000 + len(twice)


def test_an_outage_swallows_one_topic_for_its_hours() -> None:
    box = outbox("outage:interactions@1.5+12h", "outage:orders@0+4")
    box.put(1, messages(1.4999, 1.5, 1.75, 1.9999, 2.0))
    assert sent(box, 1) == [VISIT % 0]
    assert sent(box, 2) == [VISIT % 4]
    assert box.withheld == {("interactions", "visit", "event"): 3}


def test_nothing_is_repeated_of_what_an_outage_swallowed() -> None:
    """Else a message that is marked as a duplicate would be the first of its event."""
    box = outbox("outage:interactions@1+1h", duplicates=1.0)
    box.put(1, messages(*[1 + number / 2_400 for number in range(200)]))  # for two hours
    values = Counter(sent(box, 1))
    swallowed = box.withheld["interactions", "visit", "event"]
    assert swallowed == 100
    assert box.sent == {
        ("interactions", "visit", "event"): 100,
        ("interactions", "visit", "duplicate"): 100,
    }
    assert set(values.values()) == {2}


def test_bad_events_are_beside_the_good_ones() -> None:
    box = outbox(bad=0.5)
    box.put(0, messages(*[number / 200 for number in range(100)]))
    values = sent(box, 0)
    decoder = Decoder("interactions", Vocabulary(), 1_000)
    rejected = len(decoder.decode(values, 1_800_000_000_000).rejections)
    assert rejected == box.sent["interactions", "visit", "bad"] == len(values) - 100 > 20


@pytest.mark.parametrize("number", range(3))
def test_no_worker_takes_what_was_spoiled(number: int) -> None:
    decoder = Decoder("interactions", Vocabulary(), 1_000)
    assert not decoder.decode([VISIT % 1], 1_800_000_000_000).rejections
    assert decoder.decode([spoiled(VISIT % 1, number)], 1_800_000_000_000).rejections
