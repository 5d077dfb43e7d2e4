"""Streaming equals recomputation from all events, whatever the order, the cuts and the repeats."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.reference import DAY, Event, differences, reference
from tests.support.stream import NOW, fold_stream, repacked, rows_of, values
from valuetide.scoring.customers import Customers

WHO = ("ann", "bob", "cem")
START = NOW - 400 * DAY

quick = settings(deadline=None, max_examples=150)
money = st.integers(0, 1_000_00) | st.just(0) | st.just(10**13)
# Few distinct times, so that ties in time and days shared by orders are common.
times = st.integers(0, 12).map(lambda half_days: START + half_days * DAY // 2)
kinds = st.sampled_from(["placed", "placed", "placed", "returned", "cancelled"])


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[str, Event]]:
    """Events of three customers, about at most 12 orders of each."""
    parts = st.tuples(
        st.sampled_from(WHO),
        kinds | st.sampled_from(["interaction", "feedback"]),
        times,
        st.integers(0, 11),
        money,
        money,
    )
    return [
        (who, Event(n, kind, at, order, amount, cost))
        for n, (who, kind, at, order, amount, cost) in enumerate(draw(st.lists(parts, max_size=50)))
    ]


def cut(data: st.DataObject, stream: list[tuple[str, Event]]) -> list[list[tuple[str, Event]]]:
    """A stream in batches, some of them empty."""
    at = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    return [stream[a:b] for a, b in zip([0, *at], [*at, len(stream)], strict=True)]


def wrong(customers: Customers, stream: list[tuple[str, Event]], who: str) -> list[str]:
    own = [event for one, event in stream if one == who]
    gross = sum(event.amount for event in own) / 100
    return differences(values(customers, [who])[0], reference(own, NOW), gross)


@quick
@given(streams(), st.data())
def test_any_order_and_any_cuts_give_the_value_of_all_events(
    stream: list[tuple[str, Event]], data: st.DataObject
) -> None:
    customers = Customers()
    for batch in cut(data, data.draw(st.permutations(stream))):
        fold_stream(customers, batch)
    assert [wrong(customers, stream, who) for who in WHO] == [[], [], []]


@quick
@given(streams(), st.data())
def test_packing_in_the_middle_changes_nothing(
    stream: list[tuple[str, Event]], data: st.DataObject
) -> None:
    straight, packed = Customers(), Customers()
    for batch in cut(data, stream):
        fold_stream(straight, batch)
        fold_stream(packed, batch)
        packed = repacked(packed)
    assert values(packed, WHO) == values(straight, WHO)
    rows = [rows_of(customers, WHO) for customers in (packed, straight)]
    assert packed.signals[rows[0]].tobytes() == straight.signals[rows[1]].tobytes()
    everyone = values(straight, straight.ids)
    assert values(repacked(straight), straight.ids) == everyone


@quick
@given(streams(), st.data())
def test_a_repeat_within_sixteen_events_changes_nothing(
    stream: list[tuple[str, Event]], data: st.DataObject
) -> None:
    repeated = list(stream)
    for _ in range(data.draw(st.integers(1, 8)) if stream else 0):
        at = data.draw(st.integers(0, len(repeated) - 1))
        later = data.draw(st.integers(at + 1, min(len(repeated), at + 8)))
        repeated.insert(later, repeated[at])
    once, twice = Customers(), Customers()
    for one in cut(data, stream):
        fold_stream(once, one)
    accepted = 0
    for one in cut(data, repeated):
        accepted += sum(int(folded.accepted.sum()) for folded in fold_stream(twice, one))
    assert accepted == len(stream)
    assert values(twice, WHO) == values(once, WHO)


@st.composite
def long_histories(draw: st.DrawFn, returns: bool) -> list[tuple[str, Event]]:
    """14 to 50 orders in time order; some of the last eight are returned, rarely cancelled."""
    steps = st.tuples(st.sampled_from([0, 1, DAY // 3, DAY, 5 * DAY]), money, money, st.booleans())
    stream: list[tuple[str, Event]] = []
    at = START
    for order, (step, amount, cost, back) in enumerate(
        draw(st.lists(steps, min_size=14, max_size=50))
    ):
        at += step
        stream.append(("ann", Event(len(stream), "placed", at, order, amount, cost)))
        if returns and back:
            which = draw(st.integers(max(0, order - 8), order))
            kind = draw(st.sampled_from(["returned", "returned", "cancelled"]))
            event = Event(len(stream), kind, at, which, amount // 2, cost // 2)  # type: ignore[arg-type]
            stream.append(("ann", event))
    return stream


@quick
@given(long_histories(returns=True), st.data())
def test_settlement_in_time_order_loses_nothing(
    stream: list[tuple[str, Event]], data: st.DataObject
) -> None:
    customers = Customers()
    for batch in cut(data, stream):
        fold_stream(customers, batch)
        customers = repacked(customers)
    assert wrong(customers, stream, "ann") == []


@quick
@given(long_histories(returns=False), st.data())
def test_an_order_late_by_fewer_than_sixteen_loses_nothing(
    stream: list[tuple[str, Event]], data: st.DataObject
) -> None:
    delays = data.draw(st.lists(st.integers(0, 15), min_size=len(stream), max_size=len(stream)))
    late = [stream[n] for _, n in sorted((n + delay, n) for n, delay in enumerate(delays))]
    customers = Customers()
    for batch in cut(data, late):
        fold_stream(customers, batch)
    assert wrong(customers, stream, "ann") == []


@quick
@given(long_histories(returns=False), st.data())
def test_sums_of_pure_inserts_are_exact_in_any_order(
    stream: list[tuple[str, Event]], data: st.DataObject
) -> None:
    customers = Customers()
    for batch in cut(data, data.draw(st.permutations(stream))):
        fold_stream(customers, batch)
    allowed = ("frequency", "monetary_value")
    assert [one for one in wrong(customers, stream, "ann") if not one.startswith(allowed)] == []
