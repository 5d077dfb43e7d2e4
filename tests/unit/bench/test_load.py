import json

from bench.load import BAD, Outcome, make_load
from valuetide.streams.partitioner import partition_of


def test_what_must_come_of_the_events_is_what_a_plain_program_makes_of_them() -> None:
    load = make_load(5_000, 4, 7)
    orders, cents = 0, 0
    for role, partition, key, value in load.in_order():
        assert partition_of(key.decode(), 4) == partition
        if value in BAD:
            continue
        event = json.loads(value)
        if role == "orders" and event["kind"] == "placed":
            orders += 1
            cents += round(event["amount"] * 100)
    assert (load.total("orders"), load.total("revenue")) == (orders, cents)
    assert load.total("version") + load.bad == load.events == 5_000


def test_events_come_in_the_order_in_which_they_happen() -> None:
    at = [
        json.loads(value)["occurred_at"]
        for *_, value in make_load(2_000, 4, 1).in_order()
        if value not in BAD
    ]
    assert at == sorted(at)


def test_every_customer_has_an_event_before_the_others_follow() -> None:
    load = make_load(100, 4, 1, customers=500, once=True)
    first = [key for *_, key, _ in load.in_order()][:500]
    assert len(set(first)) == 500
    assert (load.events, load.warm) == (600, 500)


def test_positions_are_those_after_the_first_events() -> None:
    load = make_load(1_000, 4, 1, warm=100)
    assert load.events == 1_100
    assert load.positions(100).total() == 100
    assert load.positions(1_100) == {p: len(found) for p, found in load.messages.items()}


def test_only_customers_at_home_in_these_partitions_have_events() -> None:
    load = make_load(1_000, 4, 1, homes=(0, 3))
    assert {partition for _, partition in load.messages} == {0, 3}


def test_what_must_come_of_two_loads_is_what_must_come_of_both() -> None:
    first, second = make_load(700, 4, 1), make_load(300, 4, 2, customers=70, first=700)
    both = Outcome()
    both.include(first)
    both.include(second)
    events = [
        json.loads(value)
        for load in (first, second)
        for *_, value in load.in_order()
        if value not in BAD
    ]
    assert (both.events, both.bad) == (1_000, 1_000 - len(events))
    assert len({event["event_id"] for event in events}) == len(events)
    placed = [event for event in events if event.get("kind") == "placed"]
    assert both.total("orders") == len(placed)
    assert both.total("revenue") == sum(round(event["amount"] * 100) for event in placed)
    last = {event["customer_id"]: round(event["occurred_at"] * 1_000) for event in placed}
    assert {c: sums.last_order_at for c, sums in both.customers.items() if sums.orders} == last
