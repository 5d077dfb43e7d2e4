"""Sums of events by event-time bucket, for everybody and for segments: what series are made of.

A cell is one bucket, one dimension and one of its elements; the whole is dimension "". Every number
in it is an integer that is only added to, so neither order of arrival nor the way a stream is cut
changes it, but for this: an order counts as the first event that placed it says, and a customer is
new with the order that arrives first; the value tier is as of the state in which a batch finds a
customer; and a bucket tells apart those elements of a dimension that each shard met first, when
there are more than it may have.

A cell is kept under a name with a value, both packed::

    name   <bucket since 1970><d or h>|<dimension>|<element>     20447d|channel|web   20447d||
    value  msgpack, an array of integers:
           of dimensions and the whole: sums in the order of ``Column``, trailing zeros left out
           of dimension "events", always of hours: the number of events of each role in ``ROLES``
           of dimension "equity": the sum of all customers' clv after the bucket's last commit
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

import msgpack
import numpy as np

from valuetide.scoring.arrays import DAY_MS, NO_TIME, BoolArray, IntArray, group_starts

HOUR_MS: Final = 3_600_000
ROLES: Final = ("orders", "interactions", "feedback")
EVENTS: Final = "events"
EQUITY: Final = "equity"
WHOLE: Final = ""
OTHER: Final = "other"
"""Element of what is not told apart: names beyond the bound, or outside a closed vocabulary."""
UNKNOWN: Final = "unknown"
"""Element of events that do not name one."""
SATISFIED: Final = 1_000_000
"""Sum of an answer at the top of its scale; one at the lowest end has 0."""

Unit = Literal["day", "hour"]
Role = Literal["orders", "interactions", "feedback"]


class Column(IntEnum):
    """Sums of a cell. Each role has some that lie side by side, its number of events first."""

    ORDER_EVENTS = 0
    ORDERS = 1
    REVENUE = 2
    RETURNS = 3
    REFUNDS = 4
    NEW_CUSTOMERS = 5
    INTERACTION_EVENTS = 6
    CONTACTS = 7
    FEEDBACK_EVENTS = 8
    ANSWERS = 9
    SATISFACTION = 10


COLUMNS: Final = len(Column)
OF_ROLE: Final[Mapping[Role, slice]] = {
    "orders": slice(Column.ORDER_EVENTS, Column.INTERACTION_EVENTS),
    "interactions": slice(Column.INTERACTION_EVENTS, Column.FEEDBACK_EVENTS),
    "feedback": slice(Column.FEEDBACK_EVENTS, COLUMNS),
}
EVENT_COLUMNS: Final = [columns.start for columns in OF_ROLE.values()]
"""Columns that are numbers of events."""

Key = tuple[int, str, str]
"""Bucket, dimension, element."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Which element of a dimension each event belongs to.

    Attributes
    ----------
    codes
        Position in ``names``, (n,).
    names
        Elements; several may have one name.
    """

    codes: IntArray
    names: Sequence[str]


class OpenCells:
    """Cells of the buckets of one shard that are not closed yet.

    Parameters
    ----------
    unit
        Length of a bucket; hours of events are kept whatever it is.
    most_elements
        Elements of a dimension in a bucket; further ones are added to ``OTHER``.
    kept
        Cells by name, as ``take`` gave them.
    late, gone
        As they were.

    Attributes
    ----------
    late
        Events that were not counted since they belong in buckets that are closed.
    gone
        Events of cells that were dropped since their bucket is closed.

    Raises
    ------
    ValueError
        When a cell cannot be read.

    Examples
    --------
    >>> cells = OpenCells("day", 10)
    >>> web = {"channel": Labels(np.zeros(2, np.int64), ["web"])}
    >>> cells.add("interactions", np.array([0, DAY_MS]), np.ones((2, 2), np.int64), web)
    >>> sorted(cells.take())
    ['0d|channel|web', '0d||', '0h|events|', '1d|channel|web', '1d||', '24h|events|']
    """

    def __init__(
        self,
        unit: Unit,
        most_elements: int,
        kept: Mapping[str, bytes] | None = None,
        *,
        late: int = 0,
        gone: int = 0,
    ) -> None:
        self._unit = unit[0]
        self._bucket_ms = bucket_ms(unit)
        self._most = most_elements
        self.late, self.gone = late, gone
        self._closed = self._closed_hour = NO_TIME
        self._cells: dict[Key, IntArray] = {}
        self._hours: dict[int, list[int]] = {}
        self._equity: dict[int, int] = {}
        self._elements: defaultdict[tuple[int, str], int] = defaultdict(int)
        self._changed: set[Key] = set()
        self._changed_hours: set[int] = set()
        self._changed_equity: set[int] = set()
        self._dropped: set[str] = set()
        self._pack = msgpack.Packer().pack
        for name, packed in (kept or {}).items():
            self._restore(name, packed)

    def add(self, role: Role, at: IntArray, sums: IntArray, labels: Mapping[str, Labels]) -> None:
        """Add events of one role.

        Parameters
        ----------
        role
            Which.
        at
            Event times, ms since 1970, (n,).
        sums
            What each event adds to the columns of its role, (columns, n).
        labels
            By dimension, those that these events have.
        """
        if not at.size:
            return
        self._add_hours(ROLES.index(role), at // HOUR_MS)
        bucket = at // self._bucket_ms
        if int(bucket.min()) <= self._closed:
            open_ = bucket > self._closed
            self.late += int(open_.size - np.count_nonzero(open_))
            bucket, sums = bucket[open_], sums[:, open_]
            labels = {name: Labels(of.codes[open_], of.names) for name, of in labels.items()}
            if not bucket.size:
                return
        columns = OF_ROLE[role]
        for key, total in _grouped(bucket, sums):
            self._put((key, WHOLE, WHOLE), columns, total)
        for dimension, of in labels.items():
            many = len(of.names)
            for key, total in _grouped(bucket * many + of.codes, sums):
                self._put((key // many, dimension, of.names[key % many]), columns, total)

    def note_equity(self, at_ms: int, equity: int) -> None:
        """Note what all customers are worth at a moment, minor units; a later one replaces it."""
        bucket = at_ms // self._bucket_ms
        if bucket > self._closed and self._equity.get(bucket) != equity:
            self._equity[bucket] = equity
            self._changed_equity.add(bucket)

    def close(self, closed: int, closed_hour: int, taken: int) -> None:
        """Drop what has been made points of; what comes for it from now on is late.

        Parameters
        ----------
        closed, closed_hour
            The last bucket, and the last hour of events.
        taken
            Events of this shard in all buckets that were closed so far. What was added to them
            afterwards was not counted, and so is late too. Fewer than were dropped are of a watch
            that has begun anew: then nothing is known of what was late.
        """
        if closed > self._closed:
            self._closed = closed
            began_anew = taken < self.gone
            for key in [key for key in self._cells if key[0] <= closed]:
                cell = self._cells.pop(key)
                if key[1] == WHOLE:
                    self.gone += int(cell[EVENT_COLUMNS].sum())
                self._elements.pop(key[:2], None)
                self._changed.discard(key)
                self._dropped.add(self._name(key))
            for bucket in [bucket for bucket in self._equity if bucket <= closed]:
                del self._equity[bucket]
                self._changed_equity.discard(bucket)
                self._dropped.add(f"{bucket}{self._unit}|{EQUITY}|")
            self.late += 0 if began_anew else max(self.gone - taken, 0)
            self.gone = taken
        if closed_hour > self._closed_hour:
            self._closed_hour = closed_hour
            for hour in [hour for hour in self._hours if hour <= closed_hour]:
                del self._hours[hour]
                self._changed_hours.discard(hour)
                self._dropped.add(f"{hour}h|{EVENTS}|")

    def take(self) -> dict[str, bytes | None]:
        """Give the cells that changed since the last call, ``None`` for those that are no more."""
        found: dict[str, bytes | None] = dict.fromkeys(self._dropped)
        for key in self._changed:
            values = self._cells[key].tolist()
            while not values[-1]:  # the number of events is never 0
                values.pop()
            found[self._name(key)] = self._pack(values)
        for hour in self._changed_hours:
            found[f"{hour}h|{EVENTS}|"] = self._pack(self._hours[hour])
        for bucket in self._changed_equity:
            found[f"{bucket}{self._unit}|{EQUITY}|"] = self._pack([self._equity[bucket]])
        for changed in (self._changed, self._changed_hours, self._changed_equity, self._dropped):
            changed.clear()
        return found

    def __len__(self) -> int:
        return len(self._cells) + len(self._hours) + len(self._equity)

    def _add_hours(self, role: int, hour: IntArray) -> None:
        hours, counts = np.unique(hour, return_counts=True)
        for one, count in zip(hours.tolist(), counts.tolist(), strict=True):
            if one > self._closed_hour:
                self._hours.setdefault(one, [0] * len(ROLES))[role] += count
                self._changed_hours.add(one)

    def _put(self, key: Key, columns: slice, total: IntArray) -> None:
        cell = self._cells.get(key)
        if cell is None:
            key = self._bounded(key)
            cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = np.zeros(COLUMNS, np.int64)
            self._elements[key[:2]] += 1
        cell[columns] += total
        self._changed.add(key)

    def _bounded(self, key: Key) -> Key:
        if self._elements.get(key[:2], 0) < self._most:
            return key
        return (key[0], key[1], OTHER)

    def _name(self, key: Key) -> str:
        return f"{key[0]}{self._unit}|{key[1]}|{key[2]}"

    def _restore(self, name: str, packed: bytes) -> None:
        key, unit = parse_name(name)
        values = parse_cell(name, packed)
        if key[1] == EVENTS:
            self._hours[key[0]] = values
        elif unit != self._unit:
            self._dropped.add(name)  # the length of a bucket was another one
        elif key[1] == EQUITY:
            self._equity[key[0]] = values[0]
        else:
            self._cells[key] = whole_cell(values)
            self._elements[key[:2]] += 1


def bucket_ms(unit: Unit) -> int:
    """Give the length of a bucket in milliseconds."""
    return DAY_MS if unit == "day" else HOUR_MS


def parse_name(name: str) -> tuple[Key, str]:
    """Give the key of a cell of this name, and the first letter of its bucket's unit.

    Raises
    ------
    ValueError
        When it is none.
    """
    bucket, dimension, element = name.split("|", 2)
    return (int(bucket[:-1]), dimension, element), bucket[-1]


def parse_cell(name: str, packed: bytes) -> list[int]:
    """Give the integers of a cell.

    Raises
    ------
    ValueError
        When the bytes are not those of one.
    """
    try:
        values = msgpack.unpackb(packed)
    except Exception as error:
        raise ValueError(f"cell {name}: {error}") from error
    if not isinstance(values, list) or len(values) > COLUMNS:
        raise ValueError(f"cell {name}: no array of at most {COLUMNS} numbers")
    return [int(value) for value in values]


def whole_cell(values: Sequence[int]) -> IntArray:
    """Give a cell with all its columns."""
    cell = np.zeros(COLUMNS, np.int64)
    cell[: len(values)] = values
    return cell


def order_sums(
    placed: BoolArray, returned: BoolArray, amount: IntArray, new: BoolArray
) -> IntArray:
    """Give what orders add to their columns, (6, n).

    Parameters
    ----------
    placed, returned
        Which are, (n,); the others are cancellations, or repeats of an order that was placed.
    amount
        Minor units, (n,).
    new
        Which are the first of a customer, (n,).
    """
    sums = np.empty((6, placed.size), np.int64)
    sums[0] = 1
    sums[1], sums[2] = placed, amount * placed
    sums[3], sums[4] = returned, amount * returned
    sums[5] = new
    return sums


def contact_sums(contact: BoolArray) -> IntArray:
    """Give what interactions add to their columns, (2, n): ``contact`` says which are one."""
    sums = np.ones((2, contact.size), np.int64)
    sums[1] = contact
    return sums


def answer_sums(satisfaction: IntArray) -> IntArray:
    """Give what feedback adds to its columns, (3, n).

    Parameters
    ----------
    satisfaction
        0 to ``SATISFIED``, or negative where it is not about us, (n,).
    """
    sums = np.ones((3, satisfaction.size), np.int64)
    sums[1] = satisfaction >= 0
    sums[2] = np.maximum(satisfaction, 0)
    return sums


def _grouped(key: IntArray, sums: IntArray) -> Iterator[tuple[int, IntArray]]:
    """Give each key with the sum of its events."""
    if key.min() == key.max():
        yield int(key[0]), sums.sum(axis=1)
        return
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    starts = group_starts(ordered)
    totals = np.add.reduceat(sums[:, order], starts, axis=1).T
    yield from zip(ordered[starts].tolist(), totals, strict=True)
