"""Folding: events into the state of their customers, a batch at a time.

Merging events into an order's entry is commutative, so neither the order of arrival nor the way
a stream is cut into batches changes the outcome: an entry keeps the least of its ``placed`` events
by (at, -amount, -cost), sums what was returned, and remembers a cancellation.

That is said of money. How signals of life, which remember less, depend on the order of arrival is
said in ``signals``.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from valuetide.scoring.arrays import (
    DAY_MS,
    ID_BITS,
    BoolArray,
    IdArray,
    IntArray,
    group_sizes,
    group_starts,
    sorting,
    true_at,
)
from valuetide.scoring.customers import Customers
from valuetide.scoring.ledger import (
    AMOUNT,
    AT,
    CANCELLED,
    COLUMNS,
    COST,
    FLAGS,
    MAX_MONEY,
    MAX_TIME,
    ORDER,
    PLACED,
    REFUND_COST,
    REFUNDED,
)
from valuetide.scoring.packed import RING, SETTLED
from valuetide.scoring.settle import overflow, settle
from valuetide.scoring.signals import note_orders, note_signals

KIND_PLACED: Final = 0
KIND_RETURNED: Final = 1
KIND_CANCELLED: Final = 2

_FLAGS_OF_KIND: Final = np.array([PLACED, 0, CANCELLED])
_FLAGS_OF_KIND.setflags(write=False)
# Below this many customers, a number for the customer fits above an order id in a positive int64.
_ONE_KEY: Final = 1 << (63 - ID_BITS)


@dataclass(frozen=True, slots=True)
class OrderBatch:
    """Order events in the order of arrival, all columns (n,).

    Attributes
    ----------
    row
        Row of the customer.
    event, order
        Hashes of event_id and order_id, of 48 bits.
    kind
        0 placed, 1 returned, 2 cancelled.
    at
        occurred_at, ms since 1970.
    amount, cost
        Minor units, 0 to 2^47-1; larger ones are taken as that. Ignored of a cancellation.
    """

    row: NDArray[np.intp]
    event: IdArray
    kind: NDArray[np.uint8]
    order: IdArray
    at: IntArray
    amount: IntArray
    cost: IntArray


@dataclass(frozen=True, slots=True)
class InteractionBatch:
    """Interactions in the order of arrival, all columns (n,); cost in minor units.

    ``signal`` is one of ``signals.KINDS`` by number, or ``NO_SIGNAL``.
    """

    row: NDArray[np.intp]
    event: IdArray
    at: IntArray
    cost: IntArray
    signal: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class FeedbackBatch:
    """Feedback in the order of arrival, all columns (n,); ``signal`` as of interactions."""

    row: NDArray[np.intp]
    event: IdArray
    at: IntArray
    signal: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Folded:
    """What a batch did.

    Attributes
    ----------
    rows
        The rows that changed, rising.
    accepted
        (n,) False where the event is a duplicate.
    unmatched
        Number of cancellations that were given up because their order never came.
    made, first
        (n,) The events that placed an order which nothing placed before, the first to arrive of
        each, and those of them that did so for a customer who never had one, be it cancelled since.
    """

    rows: IntArray
    accepted: BoolArray
    unmatched: int
    made: BoolArray
    first: BoolArray


@dataclass(frozen=True, slots=True)
class _Accepted:
    """Accepted events grouped by row: their positions, and row and size of each group."""

    mask: BoolArray
    picked: IntArray
    rows: IntArray
    starts: IntArray
    sizes: IntArray


def fold(customers: Customers, batch: OrderBatch | InteractionBatch | FeedbackBatch) -> Folded:
    """Fold a batch into the customers' state.

    Parameters
    ----------
    customers
        Changed in place.
    batch
        Events in the order of arrival. One whose id is among the last 16 of its customer, or
        came before in the batch, is a duplicate and changes nothing.

    Examples
    --------
    >>> customers = Customers()
    >>> row = customers.add(["ann"], [None])
    >>> visit = InteractionBatch(row, np.array([7], np.uint64), np.array([0]), np.array([5]),
    ...                          np.zeros(1, np.uint8))
    >>> fold(customers, visit).accepted.tolist(), fold(customers, visit).accepted.tolist()
    ([True], [False])
    """
    accepted = _accept(customers, batch.row, batch.event)
    made, first = np.zeros((2, batch.row.size), np.bool_)
    unmatched = 0
    if accepted.picked.size:
        if isinstance(batch, OrderBatch):
            unmatched, places, had_none = _fold_orders(customers, batch, accepted)
            made[places] = True
            new = places[had_none[accepted.rows.searchsorted(batch.row[places])]]
            if new.size:
                first[new[np.unique(batch.row[new], return_index=True)[1]]] = True
            placed = accepted.picked[batch.kind[accepted.picked] == KIND_PLACED]
            note_orders(customers.signals, batch.row[placed], batch.at[placed] // DAY_MS)
        else:
            if isinstance(batch, InteractionBatch):
                _fold_interactions(customers, batch, accepted)
            picked = accepted.picked
            day = batch.at[picked] // DAY_MS
            note_signals(customers.signals, batch.row[picked], batch.signal[picked], day)
    return Folded(accepted.rows, accepted.mask, unmatched, made, first)


def _accept(customers: Customers, row: NDArray[np.intp], event: IdArray) -> _Accepted:
    """Tell duplicates, count and remember the others."""
    mask: BoolArray = ~(customers.ring[row] == event[:, None]).any(axis=1)
    by_id = np.sort(event)
    if (by_id[1:] == by_id[:-1]).any():
        # Both sorts are stable, so it is the first to arrive that is kept.
        order = np.lexsort((event, row))
        same = (event[order[1:]] == event[order[:-1]]) & (row[order[1:]] == row[order[:-1]])
        mask[order[1:][same]] = False
    picked = true_at(mask)
    picked = picked[sorting(row[picked], len(customers).bit_length())]
    owner = row[picked]
    starts = group_starts(owner)
    sizes = group_sizes(starts, owner.size)
    rows = owner[starts]
    versions = customers.records["version"][rows].astype(np.int64)
    # The n-th event goes to place n mod 16. Of more than 16 in a batch the last ones stay, since
    # numpy assigns repeated places in turn.
    slots = np.repeat(versions - starts, sizes) + np.arange(owner.size)
    customers.ring[owner, slots % RING] = event[picked]
    customers.records["version"][rows] = versions + sizes
    return _Accepted(mask, picked, rows, starts, sizes)


def _fold_interactions(customers: Customers, batch: InteractionBatch, accepted: _Accepted) -> None:
    costs = np.add.reduceat(batch.cost[accepted.picked], accepted.starts)
    customers.records["cost_to_serve"][accepted.rows] += costs


def _fold_orders(
    customers: Customers, batch: OrderBatch, accepted: _Accepted
) -> tuple[int, IntArray, BoolArray]:
    """Merge order events into the ledger; settle what no longer fits.

    Returns
    -------
    The number of the unmatched; which events placed an order that nothing placed before, in the
    order of rows and arrival; which of the accepted rows never had an order before, (m,).
    """
    rows = accepted.rows
    entries, lengths = customers.ledger.gather(rows)
    known = entries.shape[1]
    local = np.arange(rows.size)
    # Whoever has something settled had more than 16 entries, and is taken for a customer.
    had_none = np.asarray((customers.records["flags"][rows] & SETTLED) == 0)
    had_none[local.repeat(lengths)[(entries[FLAGS] & PLACED) != 0]] = False
    owner = np.concatenate([local.repeat(lengths), local.repeat(accepted.sizes)])
    entries = np.concatenate([entries, _as_entries(batch, accepted.picked)], axis=1)
    entries, owner, placed = _merge(entries, owner, rows.size)
    made = accepted.picked[placed[placed >= known] - known]
    lengths = np.bincount(owner, minlength=rows.size)
    surplus = overflow(entries, owner, lengths)
    unmatched = 0
    if surplus.size:
        unmatched = settle(
            customers.records,
            rows[owner[surplus]],
            entries[:, surplus],
            customers.half_life_ms,
        )
        keep = np.ones(owner.size, np.bool_)
        keep[surplus] = False
        entries = entries[:, keep]
        lengths -= np.bincount(owner[surplus], minlength=rows.size)
    customers.ledger.replace(rows, entries, lengths)
    return unmatched, made, had_none


def _as_entries(batch: OrderBatch, picked: IntArray) -> IntArray:
    """Each event as an entry of its own, (7, n)."""
    kind = batch.kind[picked]
    placed, returned = kind == KIND_PLACED, kind == KIND_RETURNED
    amount = _within(batch.amount[picked], MAX_MONEY)
    cost = _within(batch.cost[picked], MAX_MONEY)
    entries = np.empty((COLUMNS, picked.size), np.int64)
    entries[ORDER] = batch.order[picked]
    entries[AT] = _within(batch.at[picked], MAX_TIME)
    entries[AMOUNT] = amount * placed
    entries[COST] = cost * placed
    entries[REFUNDED] = amount * returned
    entries[REFUND_COST] = cost * returned
    entries[FLAGS] = _FLAGS_OF_KIND[kind]
    return entries


def _within(values: IntArray, most: int) -> IntArray:
    """Values held within 0 and most; np.clip takes three times as long on few values."""
    return np.minimum(np.maximum(values, 0), most)


def _merge(entries: IntArray, owner: IntArray, owners: int) -> tuple[IntArray, IntArray, IntArray]:
    """Make one entry of all those with the same owner and order id; sort by both.

    Returns
    -------
    Entries and owners, and the position in ``entries`` of what first placed each order, rising.
    """
    if owners < _ONE_KEY:
        key = (owner << ID_BITS) | entries[ORDER]
        by_key = key.argsort()
        key = key[by_key]
        starts = group_starts(key)
    else:
        by_key = np.lexsort((entries[ORDER], owner))
        changed = np.diff(owner[by_key], prepend=-1) != 0
        changed |= np.diff(entries[ORDER, by_key], prepend=-1) != 0
        starts = true_at(changed)
    placed = (entries[FLAGS] & PLACED) != 0
    if starts.size == owner.size:
        return entries.take(by_key, axis=1), owner[by_key], true_at(placed)
    earliest = np.minimum.reduceat(
        np.where(placed, np.arange(owner.size), owner.size)[by_key], starts
    )
    earliest = np.sort(earliest[earliest < owner.size])
    firsts = by_key[starts]
    merged = entries.take(firsts, axis=1)
    sizes = group_sizes(starts, owner.size)
    several = true_at(sizes > 1)
    group = entries.take(by_key[np.repeat(sizes > 1, sizes)], axis=1)
    merged[:, several] = _join(group, merged[ORDER, several], sizes[several])
    return merged, owner[firsts], earliest


def _join(group: IntArray, orders: IntArray, sizes: IntArray) -> IntArray:
    """One entry of each group of entries that lie side by side."""
    starts = sizes.cumsum() - sizes
    joined = np.empty((COLUMNS, sizes.size), np.int64)
    joined[ORDER] = orders
    joined[FLAGS] = np.bitwise_or.reduceat(group[FLAGS], starts)
    refunds = np.add.reduceat(group[REFUNDED : REFUND_COST + 1], starts, axis=1)
    joined[REFUNDED : REFUND_COST + 1] = np.minimum(refunds, MAX_MONEY)
    # The placed event that counts is the least by (at, -amount, -cost). What was not placed gets
    # a bit above all times, so its time counts only where nothing was placed; it has no amount.
    when = group[AT] + ((group[FLAGS] & PLACED == 0).astype(np.int64) << ID_BITS)
    first = np.minimum.reduceat(when, starts)
    joined[AT] = first & MAX_TIME
    ties = when == first.repeat(sizes)
    joined[AMOUNT] = np.maximum.reduceat(np.where(ties, group[AMOUNT], 0), starts)
    ties &= group[AMOUNT] == joined[AMOUNT].repeat(sizes)
    joined[COST] = np.maximum.reduceat(np.where(ties, group[COST], 0), starts)
    return joined
