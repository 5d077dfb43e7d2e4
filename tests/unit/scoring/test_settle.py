"""Sixteen orders stay open; older ones become sums."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.reference import DAY, Event, differences, reference
from tests.support.stream import NOW, fold_events, fold_stream, value
from valuetide.scoring.customers import Customers
from valuetide.scoring.ledger import ORDER
from valuetide.scoring.packed import SETTLED


def history(count: int, step: int = DAY) -> list[Event]:
    return [Event(n, "placed", NOW - 90 * DAY + n * step, n, 100 + n, 1) for n in range(count)]


def settled(customers: Customers) -> bool:
    return bool(customers.records["flags"][0] & SETTLED)


def test_sixteen_stay_open_and_the_seventeenth_settles_the_oldest() -> None:
    customers = Customers()
    events = history(17)
    fold_events(customers, *events[:16])
    assert (int(customers.ledger.length[0]), settled(customers)) == (16, False)
    fold_events(customers, events[16])
    assert (int(customers.ledger.length[0]), settled(customers)) == (16, True)
    assert int(customers.records["revenue"][0]) == 100
    assert differences(value(customers), reference(events, NOW), 1) == []


def test_of_equal_times_the_least_order_id_settles() -> None:
    customers = Customers()
    fold_events(customers, *(Event(n, "placed", DAY, 20 - n, 20 - n) for n in range(18)))
    assert int(customers.records["revenue"][0]) == 3 + 4
    assert value(customers).frequency == 0


def test_ties_in_time_settle_by_order_id_in_large_batches_too() -> None:
    customers = Customers()
    rng = np.random.default_rng(8)
    stream = [
        (f"c{who}", Event(n, "placed", DAY + n % 2, int(order), int(order)))
        for who in range(20)
        for n, order in enumerate(rng.permutation(90))
    ]
    fold_stream(customers, stream)
    for who in range(20):
        # The later of the two times has 45 orders; the 16 largest ids of them stay open.
        late = sorted(event.order for one, event in stream if one == f"c{who}" and event.at > DAY)
        entries, _ = customers.ledger.gather(np.array([customers.index[f"c{who}"]]))
        assert entries[ORDER].tolist() == late[-16:]


@pytest.mark.parametrize("day", [-1, 0, 3])
def test_an_open_order_may_turn_out_older_than_settled_ones(day: int) -> None:
    """Its return came first and keeps the entry open; its own day may be a settled one."""
    customers = Customers()
    events = [
        *history(19),
        Event(60, "returned", NOW, 60, 10, 1),
        Event(61, "placed", NOW - (90 - day) * DAY, 60, 5000, 2),
    ]
    for event in events:
        fold_events(customers, event)
    assert int(customers.records["days"][0]) == 4
    assert differences(value(customers), reference(events, NOW), 100) == []
    more = [
        event._replace(event=event.event + 100, order=event.order + 100, at=NOW + event.order)
        for event in history(16)
    ]
    fold_events(customers, *more)
    assert differences(value(customers), reference([*events, *more], NOW), 100) == []


def test_days_that_are_settled_and_open_count_once() -> None:
    for step in (0, DAY // 5, DAY // 2, DAY, 3 * DAY):
        events = history(40, step)
        for size in (1, 7, 40):
            customers = Customers()
            for at in range(0, 40, size):
                fold_events(customers, *events[at : at + size])
            assert differences(value(customers), reference(events, NOW), 1) == []


def test_a_late_order_before_all_others_becomes_the_first() -> None:
    customers = Customers()
    late = Event(99, "placed", DAY, 99, 5000, 0)
    same_day = Event(98, "placed", DAY + 1, 98, 7, 0)
    events = [*history(30), late, same_day]
    fold_events(customers, *events[:30])
    fold_events(customers, late)
    fold_events(customers, same_day)
    assert differences(value(customers), reference(events, NOW), 100) == []


def test_a_return_of_a_settled_order_still_is_a_refund() -> None:
    customers = Customers()
    events = [*history(20), Event(50, "returned", NOW, 0, 40, 1)]
    fold_events(customers, *events)
    found, expected = value(customers), reference(events, NOW)
    assert found.refunds == 40
    assert (found.margin, found.orders) == (expected.margin, expected.orders)


def test_a_cancellation_whose_order_never_came_is_counted_when_it_settles() -> None:
    customers = Customers()
    fold_events(customers, Event(90, "cancelled", 1, 90), Event(91, "cancelled", 2, 91))
    assert [folded.unmatched for folded in fold_events(customers, *history(14))] == [0]
    assert [folded.unmatched for folded in fold_events(customers, *history(20)[14:])] == [2]
    assert differences(value(customers), replace(reference(history(20), NOW), version=22), 1) == []


def test_cancelled_and_returned_entries_settle_to_what_they_are_worth() -> None:
    customers = Customers()
    early = [
        Event(90, "placed", 1, 90, 1000, 100),
        Event(91, "cancelled", 2, 90),
        Event(92, "returned", 3, 91, 250, 50),
        Event(93, "returned", 4, 92, 70, 7),
        Event(94, "cancelled", 5, 92),
    ]
    events = [*early, *history(30)]
    folded = fold_events(customers, *events)
    assert folded[0].unmatched == 1
    assert differences(value(customers), reference(events, NOW), 1) == []
    assert int(customers.records["refunds"][0]) == 250


def test_several_customers_settle_together() -> None:
    customers = Customers()
    rng = np.random.default_rng(5)
    stream = [
        (who, event)
        for n in range(60)
        for who in ("ann", "bob", "cem", "dan")
        if rng.random() < {"ann": 1, "bob": 0.6, "cem": 0.1, "dan": 0.4}[who]
        for event in [Event(n, "placed", NOW - 90 * DAY + n * DAY // 3, n, n)]
    ]
    for at in range(0, len(stream), 90):
        fold_stream(customers, stream[at : at + 90])
    for who in ("ann", "bob", "cem", "dan"):
        own = [event for one, event in stream if one == who]
        assert differences(value(customers, who), reference(own, NOW), 1) == []
