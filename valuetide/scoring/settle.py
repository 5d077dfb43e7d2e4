"""Settlement: what becomes of a customer's oldest orders when too many are open.

The contribution of an entry is added to the customer's settled sums, and the entry forgotten. Sums
stay exact; what can no longer be joined is a later event that names a forgotten order: a
return still counts as a refund, a cancellation is dropped, and a repeated order would count
again. The number of distinct days is exact as long as no order is settled that is older than the
newest settled one by a day or more, that is, as long as fewer than 16 newer orders of the customer
came in before a late one.
"""

import numpy as np
from numpy.typing import NDArray

from valuetide.scoring.arrays import (
    DAY_MS,
    ID_BITS,
    NO_DAY,
    BoolArray,
    IntArray,
    group_sizes,
    group_starts,
    true_at,
)
from valuetide.scoring.decay import forward_weight
from valuetide.scoring.ledger import (
    AMOUNT,
    AT,
    CANCELLED,
    FLAGS,
    MONEY,
    OPEN_ORDERS,
    ORDER,
    PLACED,
    REFUNDED,
)
from valuetide.scoring.packed import SETTLED


def alive_and_live(flags: IntArray) -> tuple[BoolArray, BoolArray]:
    """Which entries contribute at all, and which of them are orders.

    A cancelled entry contributes nothing, placed or not. One that was only returned contributes
    its refund and is no order.
    """
    alive = (flags & CANCELLED) == 0
    return alive, alive & ((flags & PLACED) != 0)


def overflow(entries: IntArray, owner: IntArray, lengths: IntArray) -> IntArray:
    """Positions of entries that are too many, ordered by owner, time and order id.

    Parameters
    ----------
    entries, owner
        Entries (7, k) and which customer each belongs to, rising, (k,).
    lengths
        Number of entries of each customer, (m,).
    """
    candidates = true_at((lengths > OPEN_ORDERS)[owner])
    if not candidates.size:
        return candidates
    at, whose = entries[AT, candidates], owner[candidates]
    # Most often a customer and a time fit into one number, and no two are equal.
    key = (whose << ID_BITS) | at
    order = key.argsort()
    key = key[order]
    if whose[-1] >= 1 << (63 - ID_BITS) or (key[1:] == key[:-1]).any():
        order = np.lexsort((entries[ORDER, candidates], at, whose))
    candidates, whose = candidates[order], whose[order]
    starts = group_starts(whose)
    sizes = lengths[whose[starts]]
    rank = np.arange(candidates.size) - starts.repeat(sizes)
    surplus: IntArray = candidates[rank < (sizes - OPEN_ORDERS).repeat(sizes)]
    return surplus


def settle(
    records: NDArray[np.void], rows: IntArray, entries: IntArray, half_life_ms: float
) -> int:
    """Add entries to the settled sums of their customers.

    Parameters
    ----------
    records
        The customers' records, changed in place.
    rows
        Row of each entry, rising, (k,).
    entries
        Entries (7, k), by time within a row.
    half_life_ms
        Of the decayed value.

    Returns
    -------
    Number of entries that were cancelled and never placed: their order is unknown.
    """
    alive, live = alive_and_live(entries[FLAGS])
    starts = group_starts(rows)
    who = rows[starts]
    money = np.add.reduceat(entries[MONEY] * alive, starts, axis=1)
    for name, sums in zip(("revenue", "cost", "refunds", "refund_cost"), money, strict=True):
        records[name][who] += sums
    records["orders"][who] += np.add.reduceat(live.astype(np.uint32), starts)
    worth = (entries[AMOUNT] - entries[REFUNDED]) * alive
    worth = worth * forward_weight(entries[AT], half_life_ms)
    records["decayed"][who] += np.add.reduceat(worth, starts)
    records["flags"][who] |= SETTLED
    if live.any():
        _settle_days(records, rows[live], entries[AT, live], entries[AMOUNT, live])
    return int(np.count_nonzero((entries[FLAGS] & (PLACED | CANCELLED)) == CANCELLED))


def _settle_days(records: NDArray[np.void], rows: IntArray, at: IntArray, amount: IntArray) -> None:
    """Bring first and last time, number of days and the first day's spend up to date."""
    starts = group_starts(rows)
    sizes = group_sizes(starts, rows.size)
    who = rows[starts]
    before = records[who]
    none = before["days"] == 0
    first_day = np.where(none, NO_DAY, before["first_at"] // DAY_MS)
    last_day = np.where(none, -NO_DAY, before["last_at"] // DAY_MS)

    day = at // DAY_MS
    another = np.ones(day.size, np.bool_)
    another[1:] = day[1:] != day[:-1]
    another[starts] = True
    first, last = first_day.repeat(sizes), last_day.repeat(sizes)
    another &= (day > last) | ((day < last) & (day != first))
    records["days"][who] += np.add.reduceat(another.astype(np.uint32), starts)

    opening = day[starts]
    spend = np.add.reduceat(amount * (day == opening.repeat(sizes)), starts)
    earlier = np.where(opening <= first_day, spend, 0)
    records["first_day_spend"][who] = earlier + np.where(
        opening < first_day, 0, before["first_day_spend"]
    )
    first_at, last_at = at[starts], at[starts + sizes - 1]
    records["first_at"][who] = np.where(none, first_at, np.minimum(first_at, before["first_at"]))
    records["last_at"][who] = np.maximum(last_at, before["last_at"])
