"""A uniform sample of the customers, with the history of each, kept up to date order by order.

Members are the R customers with the smallest keys, a key being a hash of the id mixed with a seed.
That is a uniform sample at every moment, as Vitter's reservoir is, but it needs no random numbers
and depends on nothing but who the customers are: not on the order in which they came, nor on how
the stream was cut, nor on restarts. Samples of shards can be merged.

Members are copies, not rows: what is read at a step of the learner is the history up to that very
order, not up to the end of the micro-batch.

References
----------
Cohen and Kaplan (2007), Summarizing data using bottom-k sketches.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from valuetide.scoring.arrays import (
    BoolArray,
    FloatArray,
    IdArray,
    IntArray,
    group_sizes,
    group_starts,
    true_at,
)

SIZE: Final = 4096
MEMBER: Final = np.dtype(
    [
        ("key", "<u8"), ("first_day", "<i4"), ("last_day", "<i4"), ("x", "<u4"), ("_", "<u4"),
        ("spent", "<f8"), ("first_spend", "<f8"),
    ]
)  # fmt: skip
"""One member: key, days of the first and last purchase, repeat purchases, spend on them, currency
units, spend on the first day."""

_BYTES: Final = np.dtype((np.void, MEMBER.itemsize))
# Of a batch's heavy buyers only few have a tenth order: one by one costs less than in columns.
_FEW: Final = 16
_ALL: Final = (1 << 64) - 1
# Of splitmix64 (Steele, Lea, Flood 2014).
_GOLDEN: Final = 0x9E3779B97F4A7C15
_MIXING: Final = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST_SHIFT: Final = np.uint64(31)


@dataclass(frozen=True, slots=True)
class Orders:
    """Accepted new orders in the order of the stream, columns (n,).

    Attributes
    ----------
    who
        64-bit hashes of the customers' ids, the same in every run.
    day
        UTC days since 1970.
    amount
        Currency units, 0 or more.
    """

    who: IdArray
    day: IntArray
    amount: FloatArray

    def __getitem__(self, part: "slice | BoolArray | IntArray") -> "Orders":
        return Orders(self.who[part], self.day[part], self.amount[part])


@dataclass(frozen=True, slots=True)
class Exact:
    """Histories as they are known from the customers' states, columns (n,).

    Attributes
    ----------
    who
        64-bit hashes of the customers' ids.
    first_day, last_day
        UTC days; those of a customer without orders are ignored.
    orders_days
        Distinct days with an order; 0 removes the customer from the sample.
    spent, first_spend
        Currency units: spend on the days after the first, and on the first.
    """

    who: IdArray
    first_day: IntArray
    last_day: IntArray
    order_days: IntArray
    spent: FloatArray
    first_spend: FloatArray

    def __getitem__(self, part: "BoolArray | IntArray") -> "Exact":
        return Exact(*(getattr(self, name)[part] for name in self.__slots__))


class Sample:
    """Members of the sample of one shard, sorted by key.

    Parameters
    ----------
    seed
        Which uniform sample; any whole number from 0.
    size
        Members at most.
    members
        Of ``MEMBER``, sorted by key.
    threshold
        Only keys below it may enter: the least key that ever had to leave.

    Examples
    --------
    >>> sample = Sample(seed=1)
    >>> sample.fold(Orders(np.array([7, 7], np.uint64), np.array([0, 14]), np.array([20.0, 30.0])))
    >>> sample.members[["first_day", "last_day", "x", "spent"]].tolist()
    [(0, 14, 1, 30.0)]
    """

    def __init__(
        self,
        seed: int = 0,
        size: int = SIZE,
        members: NDArray[np.void] | None = None,
        threshold: int = _ALL,
    ) -> None:
        self.seed, self.size, self.threshold = seed, size, threshold
        self.members = np.zeros(0, MEMBER) if members is None else members

    def keys(self, who: IdArray) -> IdArray:
        """Keys of customers: splitmix64 of the hash and the seed."""
        key: IdArray = who + np.uint64((_GOLDEN * (self.seed + 1)) & _ALL)
        for shift, factor in _MIXING:
            key ^= key >> shift
            key *= factor
        key ^= key >> _LAST_SHIFT
        return key

    def may_hold(self, who: IdArray) -> BoolArray:
        """Which customers are members or would become ones."""
        eligible: BoolArray = self.keys(who) < np.uint64(self.threshold)
        return eligible

    def fold(self, orders: Orders) -> None:
        """Take orders in; those of customers outside the sample are skipped.

        Notes
        -----
        An order on a day between the first and the last counts as a day of its own, for which days
        lie between is not remembered; ``correct`` puts it right.
        """
        keys = self.keys(orders.who)
        eligible = true_at(keys < np.uint64(self.threshold))
        if not eligible.size:
            return
        # By customer, each one's orders as they came.
        keys = keys[eligible]
        by_key = keys.argsort(kind="stable")
        eligible, keys = eligible[by_key], keys[by_key]
        day, amount = orders.day[eligible], orders.amount[eligible]
        starts = group_starts(keys)
        counts = group_sizes(starts, keys.size)
        keys = keys[starts]
        slots, held = self._find(keys)
        if not held.all():
            new = true_at(~held)
            self._admit(keys[new], day[starts[new]])
            slots, held = self._find(keys)
        left = true_at(held)
        for turn in range(int(counts.max())):
            # The next order of each of those who have one more.
            if turn:
                left = left[counts[left] > turn]
            now = starts[left] + turn
            if left.size > _FEW:
                self._apply(slots[left], day[now], amount[now])
            else:
                rows = zip(
                    slots[left].tolist(), day[now].tolist(), amount[now].tolist(), strict=True
                )
                for row in rows:
                    self._apply_one(*row)

    def correct(self, exact: Exact) -> None:
        """Replace histories by what the customers' states say.

        For customers with an order that came late, was cancelled, or changed, and to begin with
        a shard's customers where there is state but no sample yet.
        """
        keys = self.keys(exact.who)
        keep = keys < np.uint64(self.threshold)
        fresh = np.zeros(int(keep.sum()), MEMBER)
        fresh["key"] = keys[keep]
        for name in ("first_day", "last_day", "spent", "first_spend"):
            fresh[name] = getattr(exact, name)[keep]
        days = exact.order_days[keep]
        fresh["x"] = np.maximum(days - 1, 0)
        others = self.members[~np.isin(self.members["key"], fresh["key"])]
        self._keep_smallest(others, fresh[days > 0])

    def differs(self, exact: Exact) -> BoolArray:
        """Which customers' histories here are not what their states say, (n,).

        Notes
        -----
        Sums of cents in floating point are equal when they round to the same tenth of a cent or
        agree to nine digits.
        """
        keys = self.keys(exact.who)
        slots, held = self._find(keys)
        wrong: BoolArray = held != (exact.order_days > 0)
        members = true_at(held)
        if members.size:
            m, states = np.take(self.members, slots[members]), exact[members]
            same = m["x"] == np.maximum(states.order_days - 1, 0)
            for name in ("first_day", "last_day"):
                same &= m[name] == getattr(states, name)
            for name in ("spent", "first_spend"):
                known = getattr(states, name)
                same &= np.abs(m[name] - known) <= 5e-4 + 1e-9 * known
            wrong[members] |= ~same
        return wrong & (keys < np.uint64(self.threshold))

    def _find(self, keys: IdArray) -> tuple[IntArray, BoolArray]:
        """Slot of each key, and whether it is there."""
        known = self.members["key"]
        slots = np.searchsorted(known, keys)
        np.minimum(slots, max(known.size - 1, 0), out=slots)
        return slots, known[slots] == keys if known.size else np.zeros(keys.size, np.bool_)

    def _admit(self, keys: IdArray, day: IntArray) -> None:
        """Add customers who are not members, with a first purchase that is still to be folded."""
        fresh = np.zeros(keys.size, MEMBER)
        fresh["key"] = keys
        fresh["first_day"] = fresh["last_day"] = day
        self._keep_smallest(self.members, fresh)

    def _keep_smallest(self, members: NDArray[np.void], fresh: NDArray[np.void]) -> None:
        # As plain bytes: numpy puts records together field by field, 30 times as slowly.
        both = np.concatenate([members.view(_BYTES), fresh.view(_BYTES)]).view(MEMBER)
        by_key = np.argsort(both["key"], kind="stable")
        if by_key.size > self.size:
            self.threshold = int(both["key"][by_key[self.size]])
            by_key = by_key[: self.size]
        self.members = np.take(both, by_key)

    def _apply_one(self, slot: int, day: int, amount: float) -> None:
        """Fold one order into one member, as ``_apply`` does and to the same bit."""
        key, first_day, last_day, x, _, spent, first_spend = self.members[slot].item()
        if day == first_day:
            first_spend += amount
        else:
            x += day != last_day
            if day < first_day:
                spent, first_spend, first_day = spent + first_spend, amount, day
            else:
                spent += amount
        self.members[slot] = (key, first_day, max(last_day, day), x, 0, spent, first_spend)

    def _apply(self, slots: IntArray, day: IntArray, amount: FloatArray) -> None:
        """Fold one order each into some members, no member twice."""
        m: Any = np.take(self.members, slots)
        on_first, before, after = (
            day == m["first_day"],
            day < m["first_day"],
            day > m["last_day"],
        )
        same_last = (day == m["last_day"]) & ~on_first
        m["x"] += ~on_first & ~same_last
        m["spent"] += np.where(on_first, 0.0, np.where(before, m["first_spend"], amount))
        m["first_spend"] = np.where(
            on_first, m["first_spend"] + amount, np.where(before, amount, m["first_spend"])
        )
        m["first_day"] = np.where(before, day, m["first_day"])
        m["last_day"] = np.where(after, day, m["last_day"])
        self.members.view(_BYTES)[slots] = m.view(_BYTES)
