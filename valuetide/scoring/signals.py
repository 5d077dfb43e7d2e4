"""Signals of life: on how many days customers were heard of since their newest order, and before.

Layout of one customer, 26 bytes, little endian; days are UTC days, 1970-01-01 being 1, 0 none::

     0  2      since: day of the newest order
     2  1 x 4  early: days with a signal of each kind in the four weeks after ``since``
     6  1 x 4  late: the same after those four weeks
    10  2 x 4  before: the same between the first order and ``since``
    18  2 x 4  last: the latest day counted

Days are counted rather than events: a visit, three views and a cart are one sign of life. Signals
of the day of an order do not count, for nearly every order is preceded by a visit; nor do those of
days before it that come late, or of people who never ordered. A newer order moves what was counted
to ``before``. If it comes late, so that signals of days after it were counted already, the latest
of these is kept and the others are taken for earlier ones. Counts stop at their greatest number.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from valuetide.scoring.arrays import IntArray, group_sizes, group_starts, true_at

KINDS: Final = ("engagement", "contact", "blame", "praise")
"""Kinds of signals: the customer came by; turned to us with a problem; rated us badly; well."""
ENGAGEMENT, CONTACT, BLAME, PRAISE = range(len(KINDS))
NO_SIGNAL: Final = 255
"""In place of a kind: an event that is no signal."""
EARLY_DAYS: Final = 28

SIGNALS: Final = np.dtype(
    [("since", "<u2")]
    + [(name, of, (len(KINDS),)) for name, of in (("early", "u1"), ("late", "u1"))]
    + [(name, "<u2", (len(KINDS),)) for name in ("before", "last")]
)
_MOST: Final = 255
_MOST_DAY: Final = (1 << 16) - 1


def note_signals(
    signals: NDArray[np.void], row: IntArray, kind: NDArray[np.uint8], day: IntArray
) -> None:
    """Count signals, in the order of arrival.

    Parameters
    ----------
    signals
        Of all customers, of ``SIGNALS``; changed in place.
    row, kind, day
        Customer, kind and UTC day (1970-01-01 is 0) of each signal, (n,). A kind beyond those
        there are is skipped.

    Notes
    -----
    A signal of a day before the latest one counted counts as a day of its own, for which days
    were counted is not remembered. Cutting the stream elsewhere changes nothing.

    Examples
    --------
    >>> signals = np.zeros(1, SIGNALS)
    >>> ann, kind = np.zeros(3, np.int64), np.zeros(3, np.uint8)
    >>> note_orders(signals, ann[:1], np.array([10]))
    >>> note_signals(signals, ann, kind, np.array([10, 11, 60]))
    >>> signals["early"][0, 0], signals["late"][0, 0]
    (np.uint8(1), np.uint8(1))
    """
    day = _day(day)
    since = signals["since"][row].astype(np.int64)
    use = true_at((since > 0) & (day > since) & (kind < len(KINDS)))
    if not use.size:
        return
    group = row[use] * len(KINDS) + kind[use]
    by_group = group.argsort(kind="stable")
    use, group = use[by_group], group[by_group]
    day, since = day[use], since[use]
    starts = group_starts(group)
    whose, which = np.divmod(group[starts], len(KINDS))
    seed = signals["last"][whose, which].astype(np.int64)
    latest = _running(day, starts, seed)
    fresh = day != latest
    early = day - since <= EARLY_DAYS
    for name, counted in (("early", fresh & early), ("late", fresh & ~early)):
        more = np.add.reduceat(counted.astype(np.int64), starts)
        signals[name][whose, which] = np.minimum(signals[name][whose, which] + more, _MOST)
    signals["last"][whose, which] = np.maximum(seed, np.maximum.reduceat(day, starts))


def note_orders(signals: NDArray[np.void], row: IntArray, day: IntArray) -> None:
    """Begin to count anew for customers with an order newer than all before.

    Parameters
    ----------
    signals
        Of all customers, of ``SIGNALS``; changed in place.
    row, day
        Customer and UTC day (1970-01-01 is 0) of each order, (n,), in the order of arrival.

    Examples
    --------
    >>> signals = np.zeros(1, SIGNALS)
    >>> note_orders(signals, np.zeros(2, np.int64), np.array([10, 9]))
    >>> int(signals["since"][0])
    11
    """
    day = _day(day)
    newer = true_at(day > signals["since"][row])
    if not newer.size:
        return
    newer = newer[row[newer].argsort(kind="stable")]
    row, day = row[newer], day[newer]
    starts = group_starts(row)
    newest = day > _running(day, starts, signals["since"][row[starts]].astype(np.int64))
    row, day = row[newest], day[newest]
    # Most customers were not heard of since; their days rise, and numpy assigns in turn.
    heard = signals["last"][row].any(axis=1)
    signals["since"][row[~heard]] = day[~heard]
    row, day = row[heard], day[heard]
    starts = group_starts(row)
    nth = np.arange(row.size) - starts.repeat(group_sizes(starts, row.size))
    for turn in range(int(nth.max(initial=-1)) + 1):
        now = nth == turn
        signals[row[now]] = _after_order(signals[row[now]], day[now])


def _after_order(known: NDArray[np.void], day: IntArray) -> NDArray[np.void]:
    last = known["last"].astype(np.int64)
    beyond = last > day[:, None]
    counted = known["early"].astype(np.int64) + known["late"]
    lived = np.maximum(counted - (last == day[:, None]) - beyond, 0)
    after = np.zeros(known.size, SIGNALS)
    after["since"] = day
    early = last - day[:, None] <= EARLY_DAYS
    after["early"], after["late"] = beyond & early, beyond & ~early
    after["before"] = np.minimum(known["before"] + lived, _MOST_DAY)
    after["last"] = np.where(beyond, last, 0)
    return after


def _day(day: IntArray) -> IntArray:
    clipped: IntArray = np.minimum(np.maximum(day, 0) + 1, _MOST_DAY)
    return clipped


def _running(values: IntArray, starts: IntArray, seed: IntArray) -> IntArray:
    """Greatest of the seed and of the values before each, within each group, (n,)."""
    before = np.empty_like(values)
    before[1:] = values[:-1]
    before[starts] = seed
    lift = np.repeat(np.arange(starts.size) << 20, group_sizes(starts, values.size))
    greatest: IntArray = np.maximum.accumulate(before + lift) - lift
    return greatest
