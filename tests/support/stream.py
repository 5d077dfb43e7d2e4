"""Events of the reference into batches of columns, and columns back into values."""

from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np

from tests.support.reference import Event, Value
from valuetide.schemas.vocabulary import RfmBands
from valuetide.scoring.arrays import NO_TIME, IntArray
from valuetide.scoring.current_value import current_value
from valuetide.scoring.customers import Customers
from valuetide.scoring.fold import FeedbackBatch, Folded, InteractionBatch, OrderBatch, fold

NOW = 1_700_000_000_000
KINDS = ("placed", "returned", "cancelled")

Stream = Sequence[tuple[str, Event]]


def rows_of(customers: Customers, ids: Iterable[str]) -> IntArray:
    """Rows of customers, who are added where they are new."""
    ids = list(ids)
    new = list(dict.fromkeys(one for one in ids if one not in customers.index))
    customers.add(new, [None] * len(new))
    return np.array([customers.index[one] for one in ids], np.int64)


def order_batch(customers: Customers, stream: Stream) -> OrderBatch:
    events = [event for _, event in stream]
    return OrderBatch(
        row=rows_of(customers, (who for who, _ in stream)),
        event=np.array([event.event for event in events], np.uint64),
        kind=np.array([KINDS.index(event.kind) for event in events], np.uint8),
        order=np.array([event.order for event in events], np.uint64),
        at=np.array([event.at for event in events], np.int64),
        amount=np.array([event.amount for event in events], np.int64),
        cost=np.array([event.cost for event in events], np.int64),
    )


def fold_stream(customers: Customers, stream: Stream) -> list[Folded]:
    """Fold what lies side by side of one topic as one batch."""
    folded = []
    topics = {"interaction": "interactions", "feedback": "feedback"}
    for topic, group in groupby(stream, lambda item: topics.get(item[1].kind, "orders")):
        part = list(group)
        if topic == "orders":
            folded.append(fold(customers, order_batch(customers, part)))
            continue
        row = rows_of(customers, (who for who, _ in part))
        event = np.array([event.event for _, event in part], np.uint64)
        at = np.array([event.at for _, event in part], np.int64)
        cost = np.array([event.cost for _, event in part], np.int64)
        # All kinds of signals, and some events that are none.
        signal = np.array([event.event % 6 for _, event in part], np.uint8)
        folded.append(
            fold(
                customers,
                InteractionBatch(row, event, at, cost, signal)
                if topic == "interactions"
                else FeedbackBatch(row, event, at, signal),
            )
        )
    return folded


def fold_events(customers: Customers, *events: Event, who: str = "ann") -> list[Folded]:
    return fold_stream(customers, [(who, event) for event in events])


def values(
    customers: Customers,
    ids: Iterable[str],
    now_ms: int = NOW,
    minor_digits: int = 2,
    bands: RfmBands | None = None,
) -> list[Value]:
    """Current values in the form of the reference."""
    rows = rows_of(customers, ids)
    found = current_value(
        customers, rows, now_ms, minor_digits=minor_digits, bands=bands or RfmBands()
    )
    return [
        Value(
            version=int(found.version[i]),
            orders=int(found.orders[i]),
            revenue=int(found.revenue[i]),
            refunds=int(found.refunds[i]),
            margin=int(found.margin[i]),
            cost_to_serve=int(found.cost_to_serve[i]),
            profit=int(found.profit[i]),
            decayed_value=float(found.decayed_value[i]),
            first_order_at=_time(found.first_order_at[i]),
            last_order_at=_time(found.last_order_at[i]),
            recency_days=_number(found.recency_days[i]),
            frequency=int(found.frequency[i]),
            monetary_value=_number(found.monetary_value[i]),
            rfm=str(found.rfm[i]),
        )
        for i in range(rows.size)
    ]


def value(customers: Customers, who: str = "ann", now_ms: int = NOW) -> Value:
    return values(customers, [who], now_ms)[0]


def repacked(customers: Customers, half_life_days: float = 90.0) -> Customers:
    """The same customers in fresh columns, by way of their packed states."""
    packed = customers.pack(np.arange(len(customers)))
    fresh = Customers(half_life_days)
    fresh.add(customers.ids, packed)
    return fresh


def _time(at: np.int64) -> int | None:
    return None if at == NO_TIME else int(at)


def _number(number: np.float64) -> float | None:
    return None if np.isnan(number) else float(number)
