"""From fuzz bytes to batches and packed states, and what must hold of every customer after them."""

import struct

import numpy as np
from numpy.typing import NDArray

from tests.fuzz.reading import Source
from valuetide.schemas.vocabulary import RfmBands
from valuetide.scoring.current_value import current_value
from valuetide.scoring.customers import Customers
from valuetide.scoring.fold import FeedbackBatch, InteractionBatch, OrderBatch, fold
from valuetide.scoring.ledger import MAX_TIME
from valuetide.scoring.packed import MOST_BYTES, RING

CUSTOMERS = 4
NOW_MS = 1_800_000_000_000
BANDS = RfmBands()

EDGES = (
    0, 1, 2, 999, 86_399_999, 86_400_000, 2**31, 2**32, MAX_TIME - 1, MAX_TIME, 2**47 - 1, 2**47,
    1_700_000_000_000, 1_800_000_000_000,
)  # fmt: skip
MONEY_EDGES = (*EDGES, 10**13, 2**62, 2**63 - 1)


def check(data: bytes) -> tuple[int, int]:
    """Do what the bytes say; gives how many packed states were taken and how many refused."""
    source = Source(data)
    customers = Customers(30.0 + source.word())
    customers.add([f"c{i}" for i in range(CUSTOMERS)], [None] * CUSTOMERS)
    taken = refused = steps = 0
    while source.left and steps < 5:
        steps += 1
        what = source.byte() % 5
        if what < 3:
            _fold(customers, source, what)
        else:
            blob = _mutated(source, customers) if what == 3 else source.take(source.word() % 900)
            count = len(customers)
            try:
                customers.add([f"new{steps}"], [blob])
            except ValueError:
                refused += 1
                assert len(customers) == len(customers.index) == count
            else:
                taken += 1
    check_state(customers)
    return taken, refused


def check_state(customers: Customers) -> None:
    """Check bounds, that packing comes back, and that the state can be scored."""
    blobs = _packed(customers)
    assert max(map(len, blobs)) <= MOST_BYTES
    again = Customers(customers.half_life_ms / 86_400_000)
    again.add(customers.ids, blobs)
    assert _packed(again) == blobs
    count = len(customers)
    assert customers.records.size <= max(64, 2 * count)
    assert customers.ring.shape == (customers.records.size, RING)
    assert customers.ledger._columns.shape[1] <= max(256, 8 * (count + 1) * 16)
    with np.errstate(all="ignore"):
        current_value(customers, np.arange(count), NOW_MS, minor_digits=2, bands=BANDS)


def _packed(customers: Customers) -> list[bytes]:
    return customers.pack(np.arange(len(customers)))


def _fold(customers: Customers, source: Source, what: int) -> None:
    n = source.byte() % 40
    few = source.byte() % 2
    row = _column(source, n, tuple(range(len(customers)))) % len(customers)
    event = _column(source, n, EDGES if few else ()).astype(np.uint64)
    at = _column(source, n, EDGES)
    cost = _money(source, n)
    signal = event.astype(np.uint8)
    before = customers.records["version"].astype(np.int64).sum()
    if what == 0:
        order = _column(source, n, (1, 2, 3) if few else ()).astype(np.uint64)
        kind = (_column(source, n, (0, 0, 1, 2)) % 3).astype(np.uint8)
        amount = _money(source, n)
        folded = fold(customers, OrderBatch(row, event, kind, order, at, amount, cost))
    elif what == 1:
        folded = fold(customers, InteractionBatch(row, event, at, cost % 10**13, signal))
    else:
        folded = fold(customers, FeedbackBatch(row, event, at, signal))
    gained = customers.records["version"].astype(np.int64).sum() - before
    assert gained % 2**32 == int(folded.accepted.sum())
    assert folded.accepted.shape == (n,)
    assert set(folded.rows.tolist()) == set(row[folded.accepted].tolist())


def _column(source: Source, n: int, edges: tuple[int, ...]) -> NDArray[np.int64]:
    """Give 48-bit numbers, of the edges where there are some and the bytes say so."""
    if edges and source.byte() % 4:
        return np.array([source.pick(edges) & MAX_TIME for _ in range(n)], np.int64)
    return np.array([source.number(6) for _ in range(n)], np.int64)


def _money(source: Source, n: int) -> NDArray[np.int64]:
    """Give amounts as a faulty caller may let them through: any 64-bit number."""
    if source.byte() % 2:
        return np.array([source.pick(MONEY_EDGES) for _ in range(n)], np.int64)
    return np.array([source.number(8) - 2**63 for _ in range(n)], np.int64)


def _mutated(source: Source, customers: Customers) -> bytes:
    """Give a customer's bytes with some of them changed, cut out, or put in."""
    blob = bytearray(source.pick(_packed(customers)))
    for _ in range(source.byte() % 4):
        at = source.word() % (len(blob) + 1)
        how = source.byte() % 4
        if how == 0:
            blob[at : at + 1] = source.take(1)
        elif how == 1:
            del blob[at : at + source.byte()]
        elif how == 2:
            blob[at:at] = source.take(source.byte() % 40)
        else:
            edge = source.pick((0, -1, 2**63 - 1, -(2**63), 0x7FF0 << 48, 0x7FF8 << 48))
            blob[at : at + 8] = struct.pack("<q", edge)
    return bytes(blob)
