import itertools

import numpy as np
import pytest

from tests.support.reference import DAY, Event, Kind
from tests.support.stream import fold_events, fold_stream, order_batch, value
from valuetide.scoring import fold as fold_module
from valuetide.scoring.customers import Customers
from valuetide.scoring.fold import FeedbackBatch, InteractionBatch, OrderBatch, fold

NONE = np.empty(0, np.int64)
NO_IDS = np.empty(0, np.uint64)


@pytest.mark.parametrize(
    "batch",
    [
        OrderBatch(NONE, NO_IDS, np.empty(0, np.uint8), NO_IDS, NONE, NONE, NONE),
        InteractionBatch(NONE, NO_IDS, NONE, NONE, np.empty(0, np.uint8)),
        FeedbackBatch(NONE, NO_IDS, NONE, np.empty(0, np.uint8)),
    ],
)
def test_an_empty_batch_does_nothing(
    batch: OrderBatch | InteractionBatch | FeedbackBatch,
) -> None:
    for customers in (Customers(), Customers()):
        folded = fold(customers, batch)
        assert folded.rows.tolist() == folded.accepted.tolist() == []
        assert folded.unmatched == 0


def test_rows_are_those_that_changed_and_rise() -> None:
    customers = Customers()
    customers.add(list("abcd"), [None] * 4)
    stream = [("d", Event(1, "placed")), ("b", Event(2, "placed")), ("d", Event(3, "placed"))]
    assert fold_stream(customers, stream)[0].rows.tolist() == [1, 3]
    again = fold_stream(customers, [*stream, ("a", Event(4, "placed"))])[0]
    assert again.rows.tolist() == [0]
    assert again.accepted.tolist() == [False, False, False, True]


def test_the_same_event_id_of_two_customers_is_two_events() -> None:
    customers = Customers()
    folded = fold_stream(customers, [("a", Event(1, "placed")), ("b", Event(1, "placed"))])
    assert folded[0].accepted.all()


def test_of_a_repeat_in_one_batch_the_first_to_arrive_counts() -> None:
    customers = Customers()
    events = [Event(7, "interaction", 0, cost=c) for c in (5, 6)]
    assert fold_events(customers, *events)[0].accepted.tolist() == [True, False]
    assert value(customers).cost_to_serve == 5


def test_event_id_zero_is_an_id() -> None:
    customers = Customers()
    assert fold_events(customers, Event(0, "feedback"))[0].accepted.tolist() == [True]
    assert fold_events(customers, Event(0, "feedback"))[0].accepted.tolist() == [False]


@pytest.mark.parametrize("kind", ["feedback", "interaction", "placed"])
def test_the_ring_holds_the_last_sixteen_of_a_larger_batch(kind: str) -> None:
    customers = Customers()
    events = [Event(n, kind, n, n) for n in range(40)]  # type: ignore[arg-type]
    fold_events(customers, *events)
    accepted = fold_events(customers, *events)[0].accepted
    assert accepted.tolist() == [True] * 24 + [False] * 16
    assert value(customers).version == 64


def test_the_three_kinds_of_topic_share_version_and_ring() -> None:
    customers = Customers()
    fold_events(customers, Event(1, "placed"), Event(2, "interaction"), Event(3, "feedback"))
    assert value(customers).version == 3
    assert not fold_events(customers, Event(2, "feedback"))[0].accepted.any()


def test_an_order_id_counts_once_by_its_least_placed_event() -> None:
    events = (
        Event(1, "placed", 5 * DAY, 1, 900, 9),
        Event(2, "placed", 4 * DAY, 1, 700, 8),
        Event(3, "placed", 4 * DAY, 1, 800, 3),
        Event(4, "placed", 4 * DAY, 1, 800, 5),
    )
    for order in itertools.permutations(events):
        customers = Customers()
        fold_events(customers, *order[:2])
        fold_events(customers, *order[2:])
        found = value(customers)
        assert (found.orders, found.revenue, found.margin) == (1, 800, 795)
        assert found.first_order_at == 4 * DAY


def test_a_repeated_order_is_made_once_in_any_cut_and_a_cancelled_one_was_there() -> None:
    """Against a loop over the events that remembers the orders and the customers it has met."""
    rng = np.random.default_rng(11)
    kinds: tuple[Kind, ...] = ("placed", "placed", "returned", "cancelled")
    stream = [
        (f"c{rng.integers(9)}", Event(n, kinds[rng.integers(4)], n, int(rng.integers(6)), n))
        for n in range(300)
    ]
    wanted: list[tuple[bool, bool]] = []
    orders: set[tuple[str, int]] = set()
    for who, event in stream:
        made = event.kind == "placed" and (who, event.order) not in orders
        wanted.append((made, made and all(one != who for one, _ in orders)))
        if made:
            orders.add((who, event.order))
    for most in (1, 3, 50, 300):
        customers = Customers()
        parts = [stream[i : i + most] for i in range(0, 300, most)]
        folded = [one for part in parts for one in fold_stream(customers, part)]
        found = [pair for one in folded for pair in zip(one.made, one.first, strict=True)]
        assert found == wanted


def test_who_has_settled_orders_is_no_new_customer() -> None:
    customers = Customers()
    fold_events(customers, *(Event(n, "placed", n, n) for n in range(40)))
    (folded,) = fold_events(customers, Event(99, "placed", 99, 99))
    assert (folded.made.tolist(), folded.first.tolist()) == ([True], [False])


def test_a_return_before_its_order_ends_right() -> None:
    customers = Customers()
    fold_events(customers, Event(1, "returned", 3 * DAY, 1, 300, 120))
    early = value(customers)
    assert (early.orders, early.refunds, early.margin) == (0, 300, -180)
    assert early.rfm == "000"
    assert early.first_order_at is None
    fold_events(customers, Event(2, "placed", 2 * DAY, 1, 1000, 400))
    late = value(customers)
    assert (late.orders, late.revenue, late.refunds, late.margin) == (1, 1000, 300, 420)
    assert late.first_order_at == 2 * DAY


def test_a_cancellation_before_its_order_ends_right() -> None:
    customers = Customers()
    fold_events(customers, Event(1, "cancelled", 3 * DAY, 1), Event(2, "returned", 0, 1, 50, 50))
    assert value(customers).refunds == 0
    fold_events(customers, Event(3, "placed", 2 * DAY, 1, 1000, 400))
    found = value(customers)
    assert (found.orders, found.revenue, found.refunds, found.margin) == (0, 0, 0, 0)


def test_sorting_by_two_keys_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of very many customers do not fit into one sort key."""
    rng = np.random.default_rng(3)
    stream = [
        (f"c{rng.integers(30)}", Event(n, "placed", n, int(rng.integers(5)), n)) for n in range(300)
    ]
    one, two = Customers(), Customers()
    fold_stream(one, stream)
    monkeypatch.setattr(fold_module, "_ONE_KEY", 0)
    fold_stream(two, stream)
    assert one.pack(np.arange(len(one))) == two.pack(np.arange(len(two)))


def test_very_many_customers_in_one_batch() -> None:
    customers, many = Customers(), 40_000
    rows = customers.add([str(n) for n in range(many)], [None] * many)
    ids = np.arange(many, dtype=np.uint64)
    kinds = np.zeros(many, np.uint8)
    fold(customers, OrderBatch(rows, ids, kinds, ids, rows, rows, rows * 0))
    assert [value(customers, str(n)).revenue for n in (0, 32_768, 39_999)] == [0, 32_768, 39_999]


def test_an_unknown_kind_is_a_fault_of_the_caller() -> None:
    customers = Customers()
    batch = order_batch(customers, [("ann", Event(1, "placed"))])
    batch.kind[0] = 9
    with pytest.raises(IndexError):
        fold(customers, batch)
