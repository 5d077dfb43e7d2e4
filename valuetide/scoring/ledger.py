"""The open orders of every customer: rows of unequal length in flat columns.

Entries of one customer lie side by side in a block with room for 4, 8, 12 or 16 of them. A row
that outgrows its block moves to a larger one at the end. When the arena is full, the blocks in use
are copied to one twice their size, and those left behind are gone. A customer whose ledger is full
stays where it is, so in the long run nothing moves::

    start   12 ----------------.        length 3, room 4
    columns  | . . . . . . . . e e e - | . . .          (7, capacity) int64
"""

from typing import Final

import numpy as np

from valuetide.scoring.arrays import IntArray, spans, true_at

# A customer's newest orders stay open this long in number: a return, a cancellation or a retry of
# one of them is joined with it, whatever the order they arrive in.
OPEN_ORDERS: Final = 16
BLOCK: Final = 4

# Rows of the (7, n) matrix that holds entries. From AMOUNT to REFUND_COST they are what is summed.
ORDER, AT, AMOUNT, COST, REFUNDED, REFUND_COST, FLAGS = range(7)
COLUMNS: Final = 7
MONEY: Final = slice(AMOUNT, REFUND_COST + 1)

# Bits of FLAGS. A return has none: it is seen in what was refunded.
PLACED: Final = 1
CANCELLED: Final = 2

# The largest money and time of an entry: what six bytes of the packed state hold. Money keeps one
# bit in hand. Amounts of single events are at most 1e13; a sum of refunds on one entry, and any
# value that a faulty caller lets through, stops here and goes no further.
MAX_MONEY: Final = (1 << 47) - 1
MAX_TIME: Final = (1 << 48) - 1

_SMALLEST: Final = 256


class Ledger:
    """Open entries, one ragged row per customer.

    Attributes
    ----------
    length
        (capacity,) number of open entries of each row, 0 to 16.
    used, garbage
        Positions of the arena that were given out, and how many of them lie in abandoned blocks.
    """

    def __init__(self) -> None:
        self.length: IntArray = np.zeros(0, np.int64)
        self.used = 0
        self.garbage = 0
        self._start: IntArray = np.zeros(0, np.int64)
        self._room: IntArray = np.zeros(0, np.int64)
        self._columns: IntArray = np.zeros((COLUMNS, _SMALLEST), np.int64)

    def grow(self, capacity: int) -> None:
        """Make place for so many rows; new ones are empty."""
        more = np.zeros(capacity - self.length.size, np.int64)
        self.length = np.concatenate([self.length, more])
        self._start = np.concatenate([self._start, more])
        self._room = np.concatenate([self._room, more])

    def gather(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """Entries of some rows, one row after the other.

        Returns
        -------
        entries (7, k), a copy, and how many of them belong to each row, (m,).
        """
        lengths = self.length[rows]
        return self._columns.take(spans(self._start[rows], lengths), axis=1), lengths

    def replace(self, rows: IntArray, entries: IntArray, lengths: IntArray) -> None:
        """Put entries (7, k), grouped as by ``gather``, in place of what the rows hold.

        Parameters
        ----------
        rows
            Distinct rows, (m,).
        entries, lengths
            Their entries, and how many belong to each row, (m,), at most 16.
        """
        outgrown = true_at(lengths > self._room[rows])
        if outgrown.size:
            self._move(rows[outgrown], -(-lengths[outgrown] // BLOCK) * BLOCK)
        self.length[rows] = lengths
        places = spans(self._start[rows], lengths)
        for column, values in zip(self._columns, entries, strict=True):
            column[places] = values

    def _move(self, rows: IntArray, rooms: IntArray) -> None:
        """Give rows new blocks at the end. What they hold is lost: it is about to be replaced."""
        self.garbage += int(self._room[rows].sum())
        self._room[rows] = 0
        self.length[rows] = 0
        needed = int(rooms.sum())
        if self.used + needed > self._columns.shape[1]:
            self._compact(needed)
        ends = rooms.cumsum() + self.used
        self._start[rows] = ends - rooms
        self._room[rows] = rooms
        self.used += needed

    def _compact(self, needed: int) -> None:
        """Copy the blocks in use to a new arena that has place for as much again."""
        # In the order they lie in, so that the reads run forward through memory.
        owners = true_at(self._room)
        owners = owners[np.argsort(self._start[owners])]
        rooms = self._room[owners]
        blocks = spans(self._start[owners], rooms)
        columns = np.zeros((COLUMNS, max(_SMALLEST, 2 * (blocks.size + needed))), np.int64)
        for column, old in zip(columns, self._columns, strict=True):
            column[: blocks.size] = old[blocks]
        self._start[owners] = rooms.cumsum() - rooms
        self._columns = columns
        self.used = blocks.size
        self.garbage = 0
