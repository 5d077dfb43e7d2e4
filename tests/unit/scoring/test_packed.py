"""The bytes are as drawn, come back exactly, and are refused when they are not whole."""

import struct

import numpy as np
import pytest

from tests.support.reference import DAY, Event
from tests.support.stream import fold_events, repacked, value
from valuetide.scoring.arrays import NO_TIME
from valuetide.scoring.customers import Customers
from valuetide.scoring.ledger import MAX_MONEY, MAX_TIME
from valuetide.scoring.packed import FALLEN, RECORD_BYTES, WATCHED


def packed(*events: Event) -> bytes:
    customers = Customers()
    customers.add(["ann"], [None])
    fold_events(customers, *events)
    return customers.pack(np.array([0]))[0]


def six(number: int) -> bytes:
    return number.to_bytes(6, "little")


NEVER_SCORED = struct.pack("<qd", NO_TIME, float("nan"))
ORDERS = tuple(Event(n, "placed", n * DAY, n, 100 + n, n % 3) for n in range(1, 20))


def test_a_new_customer_is_a_header() -> None:
    assert packed() == struct.pack("<BBBBIq", 1, 0, 0, 0, 0, 0) + NEVER_SCORED


def test_every_field_stands_where_it_is_drawn() -> None:
    top = (1 << 48) - 1
    blob = packed(
        Event(top, "placed", 7, 3, 500),
        Event(2, "placed", MAX_TIME, top, 600, MAX_MONEY),
        Event(3, "returned", 9, top, 0, 4),
        Event(4, "cancelled", 8, 3),
        Event(5, "interaction", 8, cost=77),
    )
    assert blob == (
        struct.pack("<BBBBIq", 1, 2, 5, 2, 5, 77)
        + NEVER_SCORED
        + b"\xff\xff"
        + (b"\x03" + six(3) + six(7) + six(500))
        + (b"\x0d" + six(top) + six(MAX_TIME) + six(600) + six(MAX_MONEY) + six(0) + six(4))
        + (six(top) + six(2) + six(3) + six(4) + six(5))
    )


def test_the_settled_block_stands_behind_the_header() -> None:
    blob = packed(*ORDERS)
    assert RECORD_BYTES == 104
    assert struct.unpack("<BBBBIq", blob[:16]) == (1, 16, 16, 3, 19, 0)
    orders, days, revenue, cost, refunds, back, first_spend, decayed, first, last = struct.unpack(
        "<IIqqqqqdqq", blob[32:104]
    )
    assert (orders, days, revenue, cost, refunds, back) == (3, 3, 306, 3, 0, 0)
    assert (first_spend, first, last) == (101, DAY, 3 * DAY)
    assert 0 < decayed < 1
    assert blob[-96:] == b"".join(six(n) for n in range(4, 20))


def test_signals_stand_behind_both() -> None:
    visits = (Event(6, "interaction", 9 * DAY), Event(12, "interaction", 50 * DAY))
    blob = packed(Event(1, "placed", 7 * DAY, 1, 5), *visits, Event(8, "feedback", 8 * DAY))
    assert blob[3] == 6
    assert blob[32:58] == (
        struct.pack("<H", 8)
        + bytes([1, 0, 1, 0])
        + bytes([1, 0, 0, 0])
        + bytes(8)
        + struct.pack("<4H", 51, 0, 9, 0)
    )
    later = Event(24, "interaction", 30 * DAY)
    assert packed(*ORDERS, later)[104:130] == struct.pack("<H", 20) + b"\1" + bytes(15) + (
        struct.pack("<4H", 31, 0, 0, 0)
    )


def test_an_order_takes_nineteen_bytes_and_an_id_six() -> None:
    assert len(packed(Event(1, "placed", 1, 1, 5), Event(2, "placed", 2, 2, 5))) == 84


def test_the_last_score_stands_in_the_header() -> None:
    customers = Customers()
    row = customers.add(["ann"], [None])
    customers.records["scored_at"][row] = 12_345
    customers.records["clv"][row] = 67.89
    blob = customers.pack(row)[0]
    assert struct.unpack("<qd", blob[16:32]) == (12_345, 67.89)
    again = Customers()
    again.add(["ann"], [blob])
    assert again.pack(row) == [blob]


def test_marks_of_alerts_stand_among_the_flags() -> None:
    customers = Customers()
    row = customers.add(["ann"], [packed(*ORDERS[:2])])
    customers.records["flags"][row] |= WATCHED | FALLEN
    blob = customers.pack(row)[0]
    assert blob[3] == 2 + WATCHED + FALLEN
    again = Customers()
    again.add(["ann"], [blob])
    assert again.records["flags"][0] == WATCHED | FALLEN
    assert again.pack(row) == [blob]


@pytest.mark.parametrize("count", [0, 1, 3, 19])
def test_every_truncation_and_every_byte_too_many_is_refused(count: int) -> None:
    visit = Event(96, "interaction", 40 * DAY)
    blob = packed(*ORDERS[:count], visit, Event(99, "returned", 1, 18, 5, 5))
    for end in range(len(blob)):
        with pytest.raises(ValueError, match=r"position 1: .*(truncated|wrong number)"):
            Customers().add(["bob", "ann"], [packed(), blob[:end]])
    with pytest.raises(ValueError, match="left over"):
        Customers().add(["ann"], [blob + b"\0"])


@pytest.mark.parametrize(
    ("at", "byte", "why"),
    [
        (0, 0, "unknown layout version"),
        (0, 2, "unknown layout version"),
        (1, 17, "too many open entries"),
        (2, 3, "wrong number of event ids"),
        (3, 16, "unknown header flags"),
        (3, 32, "unknown header flags"),
        (3, 4, "unknown header flags"),
        (34, 0x10, "unknown entry flags"),
    ],
)
def test_what_no_state_has_is_refused(at: int, byte: int, why: str) -> None:
    blob = bytearray(packed(*ORDERS[:2]))
    blob[at] = byte
    with pytest.raises(ValueError, match=why):
        Customers().add(["ann"], [bytes(blob)])


def test_a_state_that_comes_back_still_knows_its_duplicates() -> None:
    customers = Customers()
    fold_events(customers, *ORDERS)
    again = repacked(customers)
    folded = fold_events(again, *ORDERS)
    assert folded[0].accepted.tolist() == [True] * 3 + [False] * 16
    assert again.pack(np.array([0])) != customers.pack(np.array([0]))


def test_saturated_values_come_back() -> None:
    customers = Customers()
    huge = 1 << 60
    fold_events(
        customers,
        Event(1, "placed", huge, 1, huge, huge),
        Event(2, "returned", 0, 1, huge, huge),
        Event(3, "returned", 0, 1, huge, huge),
    )
    found = value(customers)
    assert (found.revenue, found.refunds, found.margin) == (MAX_MONEY, MAX_MONEY, 0)
    assert found.last_order_at == MAX_TIME
    assert value(repacked(customers)) == found
