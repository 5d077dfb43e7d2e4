"""The customers of a shard: columns, one row per customer."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from valuetide.scoring.arrays import IdArray, IntArray, grown
from valuetide.scoring.decay import half_life_in_ms
from valuetide.scoring.ledger import Ledger
from valuetide.scoring.packed import NO_ID, RING, State, decode, encode, new_records
from valuetide.scoring.signals import SIGNALS

_SMALLEST = 64


class Customers:
    """What is known of each customer, in columns that grow by doubling.

    Parameters
    ----------
    half_life_days
        Half-life of the decayed value, 30 or more. It is part of the settled sums, so states
        packed with one half-life must be added with the same.

    Attributes
    ----------
    index, ids
        Row of each customer id, and the id of each row.
    records
        (capacity,) counters and settled sums, laid out as in ``packed.RECORD``.
    signals
        (capacity,) days with signals of life, laid out as in ``signals.SIGNALS``.
    ring
        (capacity, 16) ids of the last events; the n-th event's is at n mod 16.
    ledger
        Open orders.

    Raises
    ------
    ValueError
        On a half-life below 30 days.

    Examples
    --------
    >>> customers = Customers()
    >>> customers.add(["ann", "bob"], [None, None]).tolist()
    [0, 1]
    >>> len(customers.pack(np.array([1]))[0])
    32
    """

    def __init__(self, half_life_days: float = 90.0) -> None:
        self.half_life_ms = half_life_in_ms(half_life_days)
        self.index: dict[str, int] = {}
        self.ids: list[str] = []
        self.records: NDArray[np.void] = new_records(0)
        self.signals: NDArray[np.void] = np.zeros(0, SIGNALS)
        self.ring: IdArray = np.zeros((0, RING), np.uint64)
        self.ledger = Ledger()

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: Sequence[str], packed: Sequence[bytes | None]) -> IntArray:
        """Add customers that are not there yet.

        Parameters
        ----------
        ids
            Who.
        packed
            Their packed states, None for a customer without one.

        Returns
        -------
        (m,) their rows.

        Raises
        ------
        ValueError
            When bytes are truncated or of an unknown layout, an id is there already, or the
            two sequences differ in length. Nothing was added then.
        """
        if len(ids) != len(packed):
            raise ValueError(f"{len(ids)} ids and {len(packed)} states")
        if len(set(ids)) != len(ids) or not self.index.keys().isdisjoint(ids):
            raise ValueError("a customer was added twice")
        blobs = [blob for blob in packed if blob is not None]
        state = decode(blobs) if blobs else None
        rows = np.arange(len(self.ids), len(self.ids) + len(ids))
        self._reserve(len(self.ids) + len(ids))
        self.ids.extend(ids)
        self.index.update(zip(ids, rows.tolist(), strict=True))
        if state is None:
            return rows
        restored = rows[[blob is not None for blob in packed]]
        self.records[restored] = state.records
        self.signals[restored] = state.signals
        self.ring[restored[:, None], self._ring_slots(restored)] = state.ring
        self.ledger.replace(restored, state.entries, state.lengths)
        return rows

    def pack(self, rows: IntArray) -> list[bytes]:
        """Packed state of each row, as drawn in ``packed``; ``add`` takes it back exactly."""
        entries, lengths = self.ledger.gather(rows)
        ring = self.ring[rows[:, None], self._ring_slots(rows)]
        return encode(State(self.records[rows], self.signals[rows], entries, lengths, ring))

    def _ring_slots(self, rows: IntArray) -> IntArray:
        """(m, 16) places in the ring from the oldest id on."""
        version = self.records["version"][rows].astype(np.int64)
        oldest = np.where(version > RING, version, 0)
        slots: IntArray = (oldest[:, None] + np.arange(RING)) % RING
        return slots

    def _reserve(self, count: int) -> None:
        have = self.records.size
        if count <= have:
            return
        capacity = max(_SMALLEST, grown(have, count))
        self.records = np.concatenate([self.records, new_records(capacity - have)])
        self.signals = np.concatenate([self.signals, np.zeros(capacity - have, SIGNALS)])
        self.ring = np.concatenate([self.ring, np.full((capacity - have, RING), NO_ID)])
        self.ledger.grow(capacity)
