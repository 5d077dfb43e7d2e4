import pytest

from bench.backlog import BEHIND, Look, Waiting, age, backlog, memory_growth, topics_apart
from bench.load import Load


def looks(*shares: float, memory_mib: tuple[float, ...] = ()) -> list[Look]:
    """One each ten seconds from 110 on; interactions are done from the beginning."""
    return [
        Look(
            110.0 + 10.0 * number,
            {("orders", 0): share, ("interactions", 0): 1.0, ("orders", 1): 1.0},
            memory_mib[number] if memory_mib else 0.0,
        )
        for number, share in enumerate(shares)
    ]


def test_the_backlog_is_written_in_the_order_of_its_events_and_only_where_shards_are_behind() -> (
    None
):
    pieces = list(backlog(0.2, 1))
    assert sum(piece.events for piece in pieces) == 1_000
    assert {partition for piece in pieces for _, partition in piece.messages} == set(BEHIND)


def orders(*amounts: float) -> Load:
    load = Load(events=len(amounts))
    for amount in amounts:
        load.sequence.append(("orders", 0))
        event = f'{{"kind": "placed", "amount": {amount}}}'
        load.messages["orders", 0].append((b"ann", event.encode()))
    return load


@pytest.mark.parametrize(
    ("count", "revenue", "right"),
    [(0, 0.0, True), (1, 1.1, True), (3, 7.75, True), (1, 2.25, False), (2, 5.5, False)],
)
def test_only_the_oldest_orders_are_in_order(count: int, revenue: float, right: bool) -> None:
    waiting = Waiting()
    waiting.add(orders(1.1, 2.25))
    waiting.add(orders(4.4))
    assert waiting.in_order("ann", count, revenue) == right
    assert not waiting.in_order("ann", 4, 7.75)


def test_the_oldest_event_is_that_of_the_topic_that_is_least_far() -> None:
    # From 100 on, an outage of 60 s: half of it is left at 115, three quarters of that at 120.
    found = looks(0.4, 0.6, 1.0)
    assert age(found, 100.0, 60.0, 115.0) == pytest.approx(0.5 * 60.0 + 15.0)
    assert age(found, 100.0, 60.0, 105.0) == pytest.approx(0.8 * 60.0 + 5.0)
    assert age(found, 100.0, 60.0, 130.0) == 0.0


def test_topics_of_a_partition_are_compared() -> None:
    assert topics_apart(looks(0.4, 0.6, 1.0)) == pytest.approx(0.6)


def test_growth_is_what_the_last_third_adds() -> None:
    assert memory_growth(looks(0.1, 0.5, 1.0, memory_mib=(200.0, 310.0, 330.0))) == 20.0
    assert memory_growth(looks(0.1, 0.5, 1.0, memory_mib=(200.0, 310.0, 290.0))) == 0.0
