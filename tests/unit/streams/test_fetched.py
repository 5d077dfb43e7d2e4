"""Batch by batch the records are those that the client gives one by one, and so are positions."""

import asyncio
import gc
import struct
import weakref
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from valuetide.streams.fetched import take_whole_batches

PLACE = TopicPartition("orders", 0)
TRANSACTIONAL, CONTROL = 0x10, 0x20
CRC_AT, ATTRIBUTES_AT, PRODUCER_AT = 17, 21, 43
ABORT, COMMIT = struct.pack(">HH", 0, 0), struct.pack(">HH", 0, 1)
COMPRESSIONS = (0, 1)  # none and gzip, which is Python's own
READ_UNCOMMITTED, READ_COMMITTED = 0, 1


def batch(
    base: int,
    deltas: list[int],
    size: int,
    *,
    attributes: int = 0,
    producer: int = -1,
    key: bytes | None = b"ann",
    compression: int = 0,
) -> bytes:
    """Give a batch of ``size`` offsets of which those at ``deltas`` are left after compaction."""
    builder = DefaultRecordBatchBuilder(2, compression, 0, producer, -1, -1, 1 << 16)
    for delta in deltas:
        headers = [("trace", b"\xff"), ("empty", None)] if delta % 2 else []
        value = None if delta % 3 else b"x" * 30
        builder.append(delta, 1_700_000_000_000 + delta, key, value, headers)
    data = bytearray(builder.build())
    (has,) = struct.unpack_from(">h", data, ATTRIBUTES_AT)
    struct.pack_into(">q", data, 0, base)
    struct.pack_into(">hi", data, ATTRIBUTES_AT, has | attributes, size - 1)
    struct.pack_into(">q", data, PRODUCER_AT, producer)
    struct.pack_into(">I", data, CRC_AT, calc_crc32c(bytes(data[ATTRIBUTES_AT:])))
    return bytes(data)


class Partition:
    """A fetch result of one partition, and its position."""

    def __init__(
        self,
        data: bytes,
        position: int = 0,
        aborted: list[tuple[int, int]] | None = None,
        isolation: int = READ_COMMITTED,
    ) -> None:
        self.paused, self.position = False, position
        records = PartitionRecords(
            PLACE, MemoryRecords(data), aborted, position, None, None, True, isolation
        )
        assignment = SimpleNamespace(active=True, state_value=lambda place: self)
        self.result = FetchResult(
            PLACE, assignment=assignment, partition_records=records, backoff=0.1
        )

    def consumed_to(self, position: int) -> None:
        self.position = position

    def take(self, most: int | None) -> list[Any]:
        taken: list[Any] = self.result.getall(most)
        return taken

    def whole(self) -> "Partition":
        """Have it give whole batches."""
        fetcher = SimpleNamespace(_records=OrderedDict({PLACE: self.result}))
        take_whole_batches(cast("Any", SimpleNamespace(_fetcher=fetcher)))
        return self


def drained(partition: Partition, most: int | None) -> list[tuple[Any, ...]]:
    """Take all, so many at a time; positions must lie between what was and what will be taken."""
    found: list[Any] = []
    while partition.result.has_more():
        taken = partition.take(most)
        assert most is None or len(taken) <= most
        assert not found or not taken or taken[0].offset > found[-1].offset
        found += taken
        assert not found or partition.position > found[-1].offset
    return [(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in found]


@st.composite
def logs(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, int]], int]:
    """Give a log's bytes, its aborted transactions (producer, first offset), and the size of
    its first batch.

    Two producers take turns; a transaction of theirs is committed or aborted in the end.
    """
    data, offset, first = b"", 0, 0
    aborted: list[tuple[int, int]] = []
    began: dict[int, int] = {}
    for kind in draw(st.lists(st.sampled_from(["plain", "part", "end"]), min_size=1, max_size=9)):
        producer = draw(st.sampled_from([7, 8]))
        if kind == "end":
            if producer in began and draw(st.booleans()):
                aborted.append((producer, began.pop(producer)))
                key = ABORT
            else:
                began.pop(producer, None)
                key = COMMIT
            marks = TRANSACTIONAL | CONTROL
            data += batch(offset, [0], 1, attributes=marks, producer=producer, key=key)
            offset += 1
            first = first or offset
            continue
        size = draw(st.integers(1, 5))
        deltas = sorted(draw(st.sets(st.integers(0, size - 1))))
        compression = draw(st.sampled_from(COMPRESSIONS)) if deltas else 0
        if kind == "part":
            began.setdefault(producer, offset)
        data += batch(
            offset,
            deltas,
            size,
            attributes=TRANSACTIONAL if kind == "part" else 0,
            producer=producer if kind == "part" else -1,
            compression=compression,
        )
        offset += size
        first = first or offset
    # The broker hands out nothing beyond the first open transaction; here that part is plain data.
    return data, aborted, first


@given(logs(), st.integers(0, 4), st.none() | st.integers(1, 7), st.integers(0, 1))
def test_records_and_positions_are_the_clients(
    log: tuple[bytes, list[tuple[int, int]], int], start: int, most: int | None, isolation: int
) -> None:
    data, aborted, first = log
    start = min(start, first - 1)  # a broker begins with the batch that has the position
    theirs = Partition(data, start, aborted, isolation)
    ours = Partition(data, start, aborted, isolation).whole()
    assert drained(ours, most) == drained(theirs, None)
    assert ours.position == theirs.position


def test_an_aborted_transaction_is_left_out_and_a_committed_one_is_not() -> None:
    log = (
        batch(0, [0, 1], 2, attributes=TRANSACTIONAL, producer=7)
        + batch(2, [0], 1, attributes=TRANSACTIONAL, producer=8)
        + batch(3, [0], 1)
        + batch(4, [0], 1, attributes=TRANSACTIONAL | CONTROL, producer=7, key=ABORT)
        + batch(5, [0], 1, attributes=TRANSACTIONAL | CONTROL, producer=8, key=COMMIT)
        + batch(6, [0], 1, attributes=TRANSACTIONAL, producer=7)
    )
    committed = Partition(log, aborted=[(7, 0)]).whole()
    assert [r.offset for r in committed.take(None)] == [2, 3, 6]
    assert committed.position == 7
    every = Partition(log, aborted=[(7, 0)], isolation=READ_UNCOMMITTED).whole()
    assert [r.offset for r in every.take(None)] == [0, 1, 2, 3, 6]


def test_what_comes_while_the_client_waits_is_given_by_the_batch_from_the_beginning() -> None:
    """A result of which the client gives a part itself would lose the rest of that batch."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        fetcher = cast("Any", object.__new__(Fetcher))
        fetcher._loop, fetcher._closed = loop, False
        fetcher._fetch_waiters, fetcher._wait_consume_future = set(), None
        fetcher._subscriptions = SimpleNamespace(reassignment_in_progress=False)
        fetcher._records = OrderedDict()
        consumer = cast("Any", SimpleNamespace(_fetcher=fetcher))

        def answer() -> None:
            fetcher._records[PLACE] = Partition(batch(0, [0, 1, 2, 3, 4], 5)).result
            for waiter in fetcher._fetch_waiters:
                waiter.set_result(None)

        loop.call_soon(answer)
        offsets: list[int] = []
        for _ in range(3):
            take_whole_batches(consumer)
            taken = await fetcher.fetched_records({PLACE}, timeout=1.0, max_records=2)
            offsets += [record.offset for record in taken[PLACE]]
        assert offsets == [0, 1, 2, 3, 4]

    asyncio.run(scenario())


def test_a_position_that_was_set_meanwhile_ends_the_result() -> None:
    partition = Partition(batch(0, [0, 1, 2], 3)).whole()
    assert [r.offset for r in partition.take(1)] == [0]
    assert partition.position == 1
    partition.position = 0
    assert partition.take(None) == []
    assert not partition.result.has_more()
    assert partition.position == 0


def test_a_damaged_batch_moves_nothing_and_what_lay_before_it_is_not_lost() -> None:
    damaged = bytearray(batch(2, [0, 1], 2))
    damaged[-1] ^= 1
    partition = Partition(batch(0, [0, 1], 2) + bytes(damaged)).whole()
    with pytest.raises(CorruptRecordException):
        partition.take(None)
    # All of it will be fetched again: the client drops a result that gives nothing and has no more.
    assert partition.take(None) == []
    assert partition.position == 0
    assert not partition.result.has_more()


@pytest.mark.parametrize("most", [None, 1])
def test_what_was_fetched_is_gone_with_its_last_use(most: int | None) -> None:
    """The garbage collector looks rarely, and a fetch has up to a megabyte a partition."""
    gc.disable()
    try:
        partition = Partition(batch(0, [0, 1, 2], 3)).whole()
        fetched = weakref.ref(partition.result._partition_records)
        assert partition.take(most)
        # Either all of it was taken, or the position is set elsewhere and the result dropped.
        del partition.result
        assert fetched() is None
    finally:
        gc.enable()
