"""The packed state of a customer: the byte layout, and the way to it and back.

Layout 1, little endian, nothing aligned::

    offset  size
    0       1     layout version, 1
    1       1     n_open: number of open entries, 0 to 16
    2       1     n_ring: number of remembered event ids, min(version, 16)
    3       1     flags: bit 0 settled block present, 1 signals present, 2 their counters as well,
                  3 watched: a score was looked at for alerts, 4 fallen since the newest order
                  (customer_alerts.py); a state without bit 3 was scored without being watched
    4       4     version: events folded, all kinds, unsigned
    8       8     cost_to_serve, minor units, signed
    16      8     scored_at: the moment of the last score, ms, signed; the least int64 without one
    24      8     clv: what that score said for the longest horizon, double; NaN for nothing
    ------------- settled block, 72 bytes, only when something was settled
    32      4     orders, unsigned
    36      4     days: distinct UTC days with an order, unsigned
    40      8 x 5 revenue, cost, refunds, refund_cost, first_day_spend, minor units, signed
    80      8     decayed, forward weighted (decay.py), double
    88      8 x 2 first_at, last_at, ms, signed; the least int64 when there is no order
    ------------- signals, 2 bytes (since, of who has an order), or 26 where any was counted:
    +0      26    as drawn in signals.py
    ------------- n_open entries, 19 to 37 bytes each
    +0      1     flags: bit 0 placed, 1 cancelled, 2 has cost, 3 has refund
    +1      6 x 3 order id, at (ms), amount (minor units), unsigned
    +19     6     cost, if bit 2
    +..     6 x 2 refunded and refund_cost, if bit 3
    ------------- n_ring event ids, 6 bytes each, oldest first

An order without cost and refund takes 19 bytes; a customer of two orders 32 + 2 + 38 + 12 = 84.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from valuetide.scoring.arrays import ID_BITS, NO_TIME, BoolArray, IdArray, IntArray, true_at
from valuetide.scoring.ledger import (
    AMOUNT,
    AT,
    COLUMNS,
    COST,
    FLAGS,
    OPEN_ORDERS,
    ORDER,
    REFUND_COST,
    REFUNDED,
)
from valuetide.scoring.signals import SIGNALS

LAYOUT: Final = 1
RING: Final = 16
# No id has the upper 16 bits set, so an empty place never equals one.
NO_ID: Final = np.uint64(0xFFFF_FFFF_FFFF_FFFF)

# Header and settled block lie in memory as they lie in the bytes, one record per customer.
RECORD: Final = np.dtype(
    [("layout", "u1"), ("n_open", "u1"), ("n_ring", "u1"), ("flags", "u1")]
    + [("version", "<u4"), ("cost_to_serve", "<i8"), ("scored_at", "<i8"), ("clv", "<f8")]
    + [("orders", "<u4"), ("days", "<u4")]
    + [(name, "<i8") for name in ("revenue", "cost", "refunds", "refund_cost", "first_day_spend")]
    + [("decayed", "<f8"), ("first_at", "<i8"), ("last_at", "<i8")]
)
HEADER_BYTES: Final = 32
RECORD_BYTES: Final = RECORD.itemsize
SETTLED: Final = 1
_ORDERED: Final = 2
_COUNTED: Final = 4
WATCHED: Final = 8
FALLEN: Final = 16
_KEPT: Final = SETTLED | WATCHED | FALLEN
_SINCE_BYTES: Final = 2

_HAS_COST: Final = 4
_HAS_REFUND: Final = 8
_ID_BYTES: Final = ID_BITS // 8
_LOW_48: Final = (1 << 48) - 1
# Where the fields of an entry begin; cost and refund follow if they are there.
_ORDER_AT: Final = 1
_AT_AT: Final = 7
_AMOUNT_AT: Final = 13
_REST_AT: Final = 19
# Size of an entry by bits 2 and 3 of its flags.
_SIZES: Final = np.array([19, 25, 31, 37])
_SIZES.setflags(write=False)
MOST_BYTES: Final = RECORD_BYTES + SIGNALS.itemsize + OPEN_ORDERS * 37 + RING * _ID_BYTES
"""The longest state of a customer, whatever arrives: 818 bytes."""


@dataclass(frozen=True, slots=True)
class State:
    """States of some customers, in columns.

    Attributes
    ----------
    records
        (m,) of ``RECORD``.
    signals
        (m,) of ``signals.SIGNALS``.
    entries, lengths
        Open entries (7, k) as in the ledger, and how many belong to each customer, (m,).
    ring
        (m, 16) event ids, oldest first; ``NO_ID`` from n_ring on.
    """

    records: NDArray[np.void]
    signals: NDArray[np.void]
    entries: IntArray
    lengths: IntArray
    ring: IdArray


def encode(state: State) -> list[bytes]:
    """Bytes of each customer's state.

    Notes
    -----
    One buffer for all customers, one store a field. Fields of six bytes are stored as eight: the
    two bytes too many fall on what follows and are overwritten, since what follows is stored
    later. Hence the order below: within an entry from left to right, then the two bytes at
    which the next entry begins, then the ids, then the headers.
    """
    records, entries = state.records.copy(), state.entries
    n_ring = np.minimum(records["version"], RING).astype(np.int64)
    records["layout"] = LAYOUT
    records["n_open"] = state.lengths
    records["n_ring"] = n_ring
    settled = (records["flags"] & SETTLED) != 0
    signals = _raw(state.signals)
    ordered = state.signals["since"] != 0
    counted = signals[:, _SINCE_BYTES:].any(axis=1)
    records["flags"] |= (ordered * _ORDERED + counted * _COUNTED).astype(np.uint8)
    fixed_sizes = np.where(settled, RECORD_BYTES, HEADER_BYTES)
    head_sizes = fixed_sizes + np.where(counted, SIGNALS.itemsize, ordered * _SINCE_BYTES)

    has_cost = entries[COST] != 0
    has_refund = (entries[REFUNDED] | entries[REFUND_COST]) != 0
    layouts = has_cost + 2 * has_refund.astype(np.int64)
    # Ends of the entries in a row of all entries, from which sums over customers are differences.
    ends = np.concatenate([[0], np.cumsum(_SIZES[layouts])])
    bounds = ends[np.concatenate([[0], state.lengths.cumsum()])]
    body_sizes = bounds[1:] - bounds[:-1]
    stops = np.cumsum(head_sizes + body_sizes + n_ring * _ID_BYTES)
    ring_at = stops - n_ring * _ID_BYTES
    heads = ring_at - body_sizes - head_sizes
    at = ends[:-1] + np.repeat(heads + head_sizes - bounds[:-1], state.lengths)

    buffer = bytearray(int(stops[-1]) + 8 if stops.size else 8)
    words = _words(buffer)
    octets, signals_at = np.frombuffer(buffer, np.uint8), heads + fixed_sizes
    for which, size in ((counted, SIGNALS.itemsize), (ordered & ~counted, _SINCE_BYTES)):
        octets[signals_at[which, None] + np.arange(size)] = signals[which, :size]
    words[at + _ORDER_AT] = entries[ORDER]
    words[at + _AT_AT] = entries[AT]
    words[at + _AMOUNT_AT] = entries[AMOUNT]
    costs, refunds = true_at(has_cost), true_at(has_refund)
    words[at[costs] + _REST_AT] = entries[COST, costs]
    refund_at = at[refunds] + _REST_AT + _ID_BYTES * has_cost[refunds]
    words[refund_at] = entries[REFUNDED, refunds]
    words[refund_at + _ID_BYTES] = entries[REFUND_COST, refunds]
    flags = entries[FLAGS] | (layouts * _HAS_COST)
    _words(buffer, "<u2")[at] = flags | (entries[ORDER] & 0xFF) << 8
    # Ids of one customer overlap in the same store; numpy assigns in turn, so the later one wins.
    held = np.arange(RING) < n_ring[:, None]
    words[(ring_at[:, None] + np.arange(RING) * _ID_BYTES)[held]] = state.ring[held]
    raw = records.view("<i8").reshape(-1, RECORD_BYTES // 8)
    words[heads[:, None] + np.arange(0, HEADER_BYTES, 8)] = raw[:, : HEADER_BYTES // 8]
    blocks = heads[settled, None] + np.arange(HEADER_BYTES, RECORD_BYTES, 8)
    words[blocks] = raw[settled, HEADER_BYTES // 8 :]
    packed = bytes(buffer)
    return [packed[a:b] for a, b in zip(heads.tolist(), stops.tolist(), strict=True)]


def decode(blobs: Sequence[bytes]) -> State:
    """States of which these are the bytes.

    Raises
    ------
    ValueError
        Of an unknown layout version, counts that no state has, or too few or too many bytes; the
        message says which of the blobs.

    Notes
    -----
    Entries have no fixed size, so the n-th entries of all customers are found together, in at most
    16 steps.
    """
    sizes = np.fromiter(map(len, blobs), np.int64, len(blobs))
    _refuse(sizes < HEADER_BYTES, "truncated header")
    # The padding lets every field be read as eight bytes, and lets lengths be checked afterwards.
    buffer = b"".join(blobs) + bytes(RECORD_BYTES)
    ends = sizes.cumsum()
    at = ends - sizes
    records = _records(buffer, at, sizes)
    at += np.where(records["flags"] & SETTLED, RECORD_BYTES, HEADER_BYTES)
    signals, at = _signals(buffer, at, ends, records["flags"])
    records["flags"] &= _KEPT
    entries, at = _entries(buffer, at, ends, records["n_open"])
    n_ring = records["n_ring"].astype(np.int64)
    _refuse(at + n_ring * _ID_BYTES != ends, "truncated or with bytes left over")
    ring = np.full((len(blobs), RING), NO_ID)
    held = np.arange(RING) < n_ring[:, None]
    places = at[:, None] + np.arange(RING) * _ID_BYTES
    ring[held] = _words(buffer)[places[held]] & _LOW_48
    return State(records, signals, entries, records["n_open"].astype(np.int64), ring)


def _records(buffer: bytes, at: IntArray, sizes: IntArray) -> NDArray[np.void]:
    """Header and settled block at each position, checked; without the block it is zero."""
    raw = np.frombuffer(buffer, np.uint8)
    records = raw[at[:, None] + np.arange(RECORD_BYTES)].view(RECORD).reshape(-1)
    unknown = records["layout"] != LAYOUT
    _refuse(unknown, f"unknown layout version, this release reads {LAYOUT}; use a newer one")
    unknown = records["flags"] >= 2 * FALLEN
    unknown |= (records["flags"] & (_ORDERED | _COUNTED)) == _COUNTED
    unknown |= (records["flags"] & (WATCHED | FALLEN)) == FALLEN
    _refuse(unknown, "unknown header flags")
    _refuse(records["n_open"] > OPEN_ORDERS, "too many open entries")
    _refuse(records["n_ring"] != np.minimum(records["version"], RING), "wrong number of event ids")
    settled = (records["flags"] & SETTLED) != 0
    _refuse(settled & (sizes < RECORD_BYTES), "truncated settled block")
    fresh = new_records(len(records))
    for name in ("n_open", "n_ring", "flags", "version", "cost_to_serve", "scored_at", "clv"):
        fresh[name] = records[name]
    fresh[settled] = records[settled]
    return fresh


def _signals(
    buffer: bytes, at: IntArray, ends: IntArray, flags: NDArray[np.uint8]
) -> tuple[NDArray[np.void], IntArray]:
    """Signals that begin at each position, zero where there are none, and the positions after."""
    counted, ordered = (flags & _COUNTED) != 0, (flags & _ORDERED) != 0
    sizes = np.where(counted, SIGNALS.itemsize, ordered * _SINCE_BYTES)
    _refuse(at + sizes > ends, "truncated signals")
    signals = np.zeros(at.size, SIGNALS)
    raw, octets = _raw(signals), np.frombuffer(buffer, np.uint8)
    for which, size in ((counted, SIGNALS.itemsize), (ordered & ~counted, _SINCE_BYTES)):
        raw[which, :size] = octets[at[which, None] + np.arange(size)]
    return signals, at + sizes


def _raw(signals: NDArray[np.void]) -> NDArray[np.uint8]:
    """The bytes of each customer's signals, (m, 26)."""
    return signals.view(np.uint8).reshape(-1, SIGNALS.itemsize)


def _entries(
    buffer: bytes, at: IntArray, ends: IntArray, n_open: NDArray[np.uint8]
) -> tuple[IntArray, IntArray]:
    """Entries (7, k) that begin at each position, and the positions after them."""
    raw = np.frombuffer(buffer, np.uint8)
    words = _words(buffer)
    at = at.copy()
    found: list[IntArray] = []
    for nth in range(int(n_open.max(initial=0))):
        who = true_at(n_open > nth)
        here = at[who]
        short = np.zeros(at.size, np.bool_)
        short[who] = here >= ends[who]
        _refuse(short, "truncated entries")
        flags = raw[here].astype(np.int64)
        bad = np.zeros(at.size, np.bool_)
        bad[who] = flags >= 2 * _HAS_REFUND
        _refuse(bad, "unknown entry flags")
        layouts = flags >> 2
        at[who] += _SIZES[layouts]
        short[who] = at[who] > ends[who]
        _refuse(short, "truncated entries")
        has_cost, has_refund = layouts & 1, layouts >> 1
        refund = here + _REST_AT + has_cost * _ID_BYTES
        entry = np.zeros((COLUMNS + 1, who.size), np.int64)
        entry[ORDER] = words[here + _ORDER_AT] & _LOW_48
        entry[AT] = words[here + _AT_AT] & _LOW_48
        entry[AMOUNT] = words[here + _AMOUNT_AT] & _LOW_48
        entry[COST] = (words[here + _REST_AT] & _LOW_48) * has_cost
        entry[REFUNDED] = (words[refund] & _LOW_48) * has_refund
        entry[REFUND_COST] = (words[refund + _ID_BYTES] & _LOW_48) * has_refund
        entry[FLAGS] = flags & (_HAS_COST - 1)
        entry[COLUMNS] = who
        found.append(entry)
    if not found:
        return np.zeros((COLUMNS, 0), np.int64), at
    entries = np.concatenate(found, axis=1)
    by_customer = np.argsort(entries[COLUMNS], kind="stable")
    return entries[:COLUMNS, by_customer], at


def new_records(count: int) -> NDArray[np.void]:
    """Records of customers of whom nothing is known yet."""
    records = np.zeros(count, RECORD)
    records["layout"] = LAYOUT
    for name in ("scored_at", "first_at", "last_at"):
        records[name] = NO_TIME
    records["clv"] = np.nan
    return records


def _words(buffer: bytes | bytearray, of: str = "<i8") -> NDArray[Any]:
    """The integers that begin at each byte of a buffer, overlapping and unaligned."""
    dtype = np.dtype(of)
    return np.ndarray((len(buffer) - dtype.itemsize + 1,), dtype, buffer, strides=(1,))


def _refuse(bad: BoolArray, why: str) -> None:
    if bad.any():
        raise ValueError(f"packed state at position {int(np.argmax(bad))}: {why}")
