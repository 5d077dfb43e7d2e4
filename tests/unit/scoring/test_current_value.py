"""Numbers that can be checked by hand."""

import math

import numpy as np
import pytest

from tests.support.reference import DAY, Event
from tests.support.stream import NOW, fold_events, value, values
from valuetide.schemas.vocabulary import RfmBands
from valuetide.scoring.arrays import NO_TIME
from valuetide.scoring.current_value import current_value
from valuetide.scoring.customers import Customers

MIDNIGHT = NOW // DAY * DAY


def test_a_customer_of_whom_nothing_is_known() -> None:
    customers = Customers()
    rows = customers.add(["ann"], [None])
    found = current_value(customers, rows, NOW, minor_digits=2, bands=RfmBands())
    for name in ("version", "orders", "revenue", "refunds", "margin", "profit", "frequency"):
        assert getattr(found, name).tolist() == [0]
        assert getattr(found, name).dtype == np.int64
    assert found.first_order_at.tolist() == found.last_order_at.tolist() == [NO_TIME]
    assert np.isnan(found.recency_days).all()
    assert np.isnan(found.monetary_value).all()
    assert found.decayed_value.tolist() == [0.0]
    assert found.rfm.dtype == np.dtype("U3")
    assert found.rfm.tolist() == ["000"]


def test_no_rows_give_no_values() -> None:
    none = np.empty(0, np.int64)
    found = current_value(Customers(), none, NOW, minor_digits=2, bands=RfmBands())
    assert found.rfm.tolist() == found.orders.tolist() == found.decayed_value.tolist() == []


def test_margin_and_profit() -> None:
    customers = Customers()
    fold_events(
        customers,
        Event(1, "placed", NOW - 90 * DAY, 1, 100_00, 40_00),
        Event(2, "returned", NOW, 1, 30_00, 12_00),
        Event(3, "interaction", NOW, cost=2_50),
        Event(4, "interaction", NOW, cost=1_00),
    )
    found = value(customers)
    assert (found.revenue, found.refunds) == (100_00, 30_00)
    assert found.margin == 100_00 - 40_00 - 30_00 + 12_00
    assert (found.cost_to_serve, found.profit) == (3_50, 42_00 - 3_50)
    # The refund halves with its order, whenever it was made: 70 / 2.
    assert math.isclose(found.decayed_value, 35.0)
    assert found.recency_days == 90


def test_repeat_days() -> None:
    """Days 0 (10 + 20), 1 (30) and 3 (5 + 6): two repeats, mean (30 + 11) / 2."""
    customers = Customers()
    day0 = MIDNIGHT - 10 * DAY
    amounts = [(0, 10_00), (DAY - 1, 20_00), (DAY, 30_00), (3 * DAY, 5_00), (3 * DAY + 9, 6_00)]
    fold_events(
        customers, *(Event(n, "placed", day0 + at, n, a) for n, (at, a) in enumerate(amounts))
    )
    found = value(customers)
    assert (found.orders, found.frequency, found.monetary_value) == (5, 2, 20.5)


def test_orders_of_one_day_are_no_repeat() -> None:
    customers = Customers()
    fold_events(customers, *(Event(n, "placed", MIDNIGHT + n, n, 10_00) for n in range(5)))
    found = value(customers)
    assert (found.orders, found.frequency, found.monetary_value) == (5, 0, None)


def test_an_order_of_nothing_is_an_order() -> None:
    customers = Customers()
    fold_events(customers, Event(1, "placed", NOW, 1), Event(2, "placed", NOW - DAY, 2))
    found = value(customers)
    assert (found.orders, found.revenue, found.monetary_value) == (2, 0, 0.0)
    assert found.decayed_value == 0
    assert found.rfm == "521"


def test_a_cancelled_order_is_no_order() -> None:
    customers = Customers()
    fold_events(
        customers, Event(1, "placed", 7 * DAY, 1, 500, 5), Event(2, "cancelled", 8 * DAY, 1)
    )
    found = value(customers)
    assert (found.orders, found.margin, found.first_order_at, found.rfm) == (0, 0, None, "000")


@pytest.mark.parametrize("digits", [0, 2, 4])
def test_currency_units_follow_the_minor_digits(digits: int) -> None:
    customers = Customers()
    unit = 10**digits
    fold_events(
        customers,
        Event(1, "placed", NOW - 90 * DAY, 1, 8 * unit),
        Event(2, "placed", NOW, 2, 6 * unit),
    )
    found = values(customers, ["ann"], minor_digits=digits)[0]
    assert (found.monetary_value, found.revenue) == (6.0, 14 * unit)
    assert math.isclose(found.decayed_value, 10.0)


@pytest.mark.parametrize(
    ("age_days", "digit"),
    [(0, 5), (30, 5), (31, 4), (90, 4), (180, 3), (365, 2), (366, 1), (-3, 5)],
)
def test_recency_digit(age_days: int, digit: int) -> None:
    customers = Customers()
    fold_events(customers, Event(1, "placed", NOW - age_days * DAY, 1, 1))
    found = value(customers)
    assert found.rfm == f"{digit}11"
    assert found.recency_days == max(0, age_days)


@pytest.mark.parametrize(
    ("orders", "amount", "digits"),
    [(1, 49_99, "11"), (1, 50_00, "12"), (2, 25_00, "22"), (5, 50_00, "44"), (10, 50_00, "55")],
)
def test_order_and_revenue_digits(orders: int, amount: int, digits: str) -> None:
    customers = Customers()
    fold_events(customers, *(Event(n, "placed", NOW, n, amount) for n in range(orders)))
    assert value(customers).rfm == f"5{digits}"


def test_time_passes_for_the_silent() -> None:
    customers = Customers(half_life_days=30)
    fold_events(customers, Event(1, "placed", NOW, 1, 16_00))
    for halvings in range(4):
        found = value(customers, now_ms=NOW + halvings * 30 * DAY)
        assert math.isclose(found.decayed_value, 16 / 2**halvings)
        assert found.recency_days == 30 * halvings


def test_the_largest_amounts_are_summed_to_the_cent() -> None:
    customers = Customers()
    fold_events(customers, *(Event(n, "placed", NOW + n, n, 10**13 - 1) for n in range(500)))
    assert value(customers).revenue == 500 * (10**13 - 1)
