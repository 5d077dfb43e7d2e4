import numpy as np
import pytest

from tests.support.reference import Event
from tests.support.stream import fold_events, value
from valuetide.scoring.customers import Customers


def test_rows_are_given_in_order_and_columns_grow() -> None:
    customers = Customers()
    assert customers.add([f"c{n}" for n in range(100)], [None] * 100).tolist() == list(range(100))
    assert customers.add(["x"], [None]).tolist() == [100]
    assert len(customers) == 101
    assert customers.ids[100] == "x"
    assert customers.index["x"] == 100


def test_nobody_is_fine() -> None:
    customers = Customers()
    assert customers.add([], []).tolist() == []
    assert customers.pack(np.empty(0, np.int64)) == []


def test_known_and_new_customers_may_come_together() -> None:
    before = Customers()
    fold_events(before, Event(1, "placed", 5, 9, 1000))
    packed = before.pack(np.array([0]))[0]
    after = Customers()
    assert after.add(["new", "ann", "other"], [None, packed, None]).tolist() == [0, 1, 2]
    assert value(after) == value(before)
    assert value(after, "new").orders == value(after, "other").version == 0
    assert after.pack(np.array([1, 1])) == [packed, packed]


def test_a_customer_is_added_once() -> None:
    customers = Customers()
    customers.add(["ann"], [None])
    for ids in (["ann"], ["bob", "bob"]):
        with pytest.raises(ValueError, match="twice"):
            customers.add(ids, [None] * len(ids))
    with pytest.raises(ValueError, match="1 ids and 0 states"):
        customers.add(["bob"], [])
    assert len(customers) == 1


def test_nothing_is_added_when_a_state_is_refused() -> None:
    customers = Customers()
    with pytest.raises(ValueError, match="position 0"):
        customers.add(["ann", "bob"], [None, b"\x01"])
    assert len(customers) == 0
    assert customers.index == {}
