"""Current value: what customers have been worth so far, read from their state at a moment."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from valuetide.schemas.vocabulary import RfmBands
from valuetide.scoring.arrays import (
    DAY_MS,
    NO_DAY,
    NO_TIME,
    BoolArray,
    FloatArray,
    IntArray,
    Segments,
    group_starts,
)
from valuetide.scoring.customers import Customers
from valuetide.scoring.decay import backward_weight, forward_weight
from valuetide.scoring.ledger import AMOUNT, AT, FLAGS, MONEY, REFUNDED
from valuetide.scoring.settle import alive_and_live

# Day numbers of 48-bit times in ms are below 2^22, so a row number fits above them.
_DAY_BITS: Final = 22
_RFM: Final = np.array([f"{code:03d}" for code in range(556)])
_RFM.setflags(write=False)


@dataclass(frozen=True, slots=True)
class CurrentValue:
    """Current value of some customers, all columns (m,).

    Attributes
    ----------
    version
        Events folded so far.
    orders
        Orders placed and not cancelled.
    revenue, refunds, margin, cost_to_serve, profit
        Minor units: margin = revenue - cost - refunds + cost of goods got back, profit = margin -
        cost_to_serve.
    decayed_value
        Currency units: revenue less refunds, halved every half-life since each order.
    first_order_at, last_order_at
        ms since 1970, ``NO_TIME`` without an order.
    recency_days
        Days since the last order, 0 or more; NaN without an order.
    frequency
        Repeat purchases: UTC days with an order, less one; 0 without an order.
    monetary_value
        Currency units: mean gross spend of the days after the first; NaN without one.
    first_day_spend
        Minor units: gross spend of the first day with an order; 0 without one.
    rfm
        Three digits 1 to 5, "000" without an order.
    """

    version: IntArray
    orders: IntArray
    revenue: IntArray
    refunds: IntArray
    margin: IntArray
    cost_to_serve: IntArray
    profit: IntArray
    decayed_value: FloatArray
    first_order_at: IntArray
    last_order_at: IntArray
    recency_days: FloatArray
    frequency: IntArray
    monetary_value: FloatArray
    first_day_spend: IntArray
    rfm: NDArray[np.str_]


def current_value(
    customers: Customers, rows: IntArray, now_ms: int, *, minor_digits: int, bands: RfmBands
) -> CurrentValue:
    """Current value of the customers in some rows, as of a moment.

    Parameters
    ----------
    customers
        Read only.
    rows
        Whose value, (m,).
    now_ms
        The moment, ms since 1970.
    minor_digits
        Decimal digits of the currency: 2 when a minor unit is a cent.
    bands
        Where the digits of the RFM code change.

    Notes
    -----
    Constant work for an open order, at most 16 of them a customer. A state does not remember what
    came after ``now_ms``: orders from the future count in full, and more, in decayed_value.

    Examples
    --------
    >>> from valuetide.scoring.fold import OrderBatch, fold
    >>> customers, ids = Customers(half_life_days=90), np.array([1], np.uint64)
    >>> ann = customers.add(["ann"], [None])
    >>> order = OrderBatch(ann, ids, np.zeros(1, np.uint8), ids, ids.astype(int),
    ...                    np.array([10_00]), np.array([4_00]))
    >>> _ = fold(customers, order)
    >>> value = current_value(customers, ann, 90 * DAY_MS, minor_digits=2, bands=RfmBands())
    >>> value.margin.tolist(), value.decayed_value.round(6).tolist(), value.rfm.tolist()
    ([600], [5.0], ['411'])
    """
    settled = customers.records[rows]
    entries, lengths = customers.ledger.gather(rows)
    segments = Segments.of(lengths)
    at = entries[AT]
    alive, live = alive_and_live(entries[FLAGS])
    money = segments.reduce(np.add, entries[MONEY] * alive)
    revenue, cost, refunds, refund_cost = (
        total + settled[name]
        for total, name in zip(money, ("revenue", "cost", "refunds", "refund_cost"), strict=True)
    )
    orders = segments.reduce(np.add, live.astype(np.int64)) + settled["orders"]
    margin = revenue - cost - refunds + refund_cost
    cost_to_serve = settled["cost_to_serve"].astype(np.int64)

    worth = (entries[AMOUNT] - entries[REFUNDED]) * alive
    worth = worth * forward_weight(at, customers.half_life_ms)
    decayed = segments.reduce(np.add, worth) + settled["decayed"]
    scale = 10.0**minor_digits

    # Without an order NO_TIME, the least number, comes out as the least and as the greatest.
    last_at = segments.reduce(np.maximum, np.where(live, at, NO_TIME), NO_TIME)
    last_at = np.maximum(last_at, settled["last_at"])
    late = np.iinfo(np.int64).max
    first_at = segments.reduce(np.minimum, np.where(live, at, late), late)
    settled_first = np.where(settled["days"] == 0, late, settled["first_at"])
    first_at = np.where(orders == 0, NO_TIME, np.minimum(first_at, settled_first))

    days, first_spend = _days(settled, segments, lengths, live, entries)
    monetary = np.full(rows.size, np.nan)
    np.divide(revenue - first_spend, (days - 1) * scale, out=monetary, where=days > 1)
    recency = np.where(orders == 0, np.nan, np.maximum(0.0, (now_ms - last_at) / DAY_MS))
    return CurrentValue(
        version=settled["version"].astype(np.int64),
        orders=orders,
        revenue=revenue,
        refunds=refunds,
        margin=margin,
        cost_to_serve=cost_to_serve,
        profit=margin - cost_to_serve,
        decayed_value=decayed * (backward_weight(now_ms, customers.half_life_ms) / scale),
        first_order_at=first_at,
        last_order_at=last_at,
        recency_days=recency,
        frequency=np.maximum(days - 1, 0),
        monetary_value=monetary,
        first_day_spend=first_spend,
        rfm=_rfm(recency, orders, revenue / scale, bands),
    )


def _days(
    settled: NDArray[np.void],
    segments: Segments,
    lengths: IntArray,
    live: BoolArray,
    entries: IntArray,
) -> tuple[IntArray, IntArray]:
    """Number of distinct days with an order, and the spend of the first, minor units.

    Open orders are newer than settled ones unless they came very late, so an open day that
    was settled before is the last settled one, or the first.
    """
    none = settled["days"] == 0
    settled_first = np.where(none, NO_DAY, settled["first_at"] // DAY_MS)
    settled_last = np.where(none, NO_DAY, settled["last_at"] // DAY_MS)
    day = entries[AT] // DAY_MS
    open_first = segments.reduce(np.minimum, np.where(live, day, NO_DAY), NO_DAY)
    opening = live & (day == open_first.repeat(lengths))
    open_spend = segments.reduce(np.add, entries[AMOUNT] * opening)
    first = np.minimum(settled_first, open_first)
    spend = np.where(open_first == first, open_spend, 0)
    spend += np.where(settled_first == first, settled["first_day_spend"], 0)

    another = live
    if not none.all():
        another = live & (day != settled_first.repeat(lengths))
        another &= day != settled_last.repeat(lengths)
    owner = np.repeat(np.arange(lengths.size), lengths)
    keys = np.sort(((owner << _DAY_BITS) | day)[another])
    distinct = keys[group_starts(keys)] >> _DAY_BITS
    return np.bincount(distinct, minlength=lengths.size) + settled["days"], spend


def _rfm(
    recency: FloatArray, orders: IntArray, revenue: FloatArray, bands: RfmBands
) -> NDArray[np.str_]:
    """Digits of recency, orders and revenue, 5 best."""
    code = 100 * (5 - np.searchsorted(bands.recency_days, recency, side="left"))
    code += 10 * (1 + np.searchsorted(bands.orders, orders, side="right"))
    code += 1 + np.searchsorted(bands.revenue, revenue, side="right")
    return _RFM[np.where(orders == 0, 0, code)]
