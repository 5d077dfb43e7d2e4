"""Takes records out of what the Kafka client has fetched, a whole batch at a time.

aiokafka hands records on one by one, through two generators, and makes a second object of each.
With much to read that is half of what reading costs. A producer writes records in batches, and what
aiokafka decides, it decides by batch: whether it is of a transaction that was aborted, whether it
is a mark rather than data, and where to read on. Here the same is decided in the same way, and the
records of a batch are taken as they were parsed, all at once.
"""

import weakref
from collections import OrderedDict
from typing import Any

import aiokafka
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult
from aiokafka.errors import CorruptRecordException

from valuetide.streams.chunk import Record


def take_whole_batches(consumer: aiokafka.AIOKafkaConsumer) -> None:
    """Have a started client give by the batch all that it has fetched and will fetch.

    Nothing may have been taken from it before.
    """
    fetcher = consumer._fetcher
    if not isinstance(fetcher._records, _Results):
        fetcher._records = _Results(fetcher._records)


class _Results(OrderedDict[Any, Any]):
    """What was fetched, by partition, or what went wrong.

    Each result is prepared before anybody can take a record from it: one that was begun the
    client's way has the rest of a batch that nobody else knows of.
    """

    def __setitem__(self, place: Any, result: Any) -> None:
        if isinstance(result, FetchResult):
            result.getall = _WholeBatches(result).take
        super().__setitem__(place, result)


class _WholeBatches:
    """Reads one fetch result in place of its own ``getall``.

    What was fetched is up to a megabyte, so it must be gone with its last use, and not lie in a
    circle of references until the garbage collector comes. The result has us, and we know it
    weakly; and the client's generator of single records, which would go at its end, never begins.
    """

    def __init__(self, result: FetchResult) -> None:
        self._result = weakref.ref(result)
        if result.has_more():
            result._partition_records._records_iterator = None
        self._rest: list[Record] = []
        self._next_offset = -1
        """Where to read on when the rest has been taken; -1 before the first batch."""

    def take(self, max_records: int | None = None) -> list[Record]:
        """Give the next records, at most so many, and move the position behind them.

        Raises
        ------
        CorruptRecordException
            When a batch is not what was written. The position stays where it was, and all of the
            result is fetched again.
        """
        result = self._result()
        assert result is not None  # it is what we were called by
        # In this order: the client's check looks into what a damaged batch has made an end of.
        if not result.has_more() or not result.check_assignment(result._topic_partition):
            self._rest = []
            return []
        fetched = result._partition_records
        offset = fetched.next_fetch_offset
        taken: list[Record] = []
        try:
            while max_records is None or len(taken) < max_records:
                if not self._rest and not self._read_batch(fetched, offset):
                    break
                room = len(self._rest) if max_records is None else max_records - len(taken)
                part, self._rest = self._rest[:room], self._rest[room:]
                taken += part
        except Exception:
            result._partition_records = None
            raise
        # Behind the last record may lie marks, and offsets of records that compaction removed.
        following = self._rest[0].offset if self._rest else self._next_offset
        fetched.next_fetch_offset = max(offset, following)
        result._update_position()
        if not self._rest and not fetched._records.has_next():
            result._partition_records = None
        return taken

    def _read_batch(self, fetched: Any, position: int) -> bool:
        """Read up to the next batch that has records from a position on; whether there is one."""
        batches = fetched._records
        while not self._rest and batches.has_next():
            batch = batches.next_batch()
            if fetched._check_crcs and not batch.validate_crc():
                raise CorruptRecordException(f"Invalid CRC - {fetched._tp}")
            self._next_offset = batch.next_offset
            if not _is_data(fetched, batch):
                continue
            records = list(batch)
            if records and records[0].offset < position:
                records = [record for record in records if record.offset >= position]
            self._rest = records
        return bool(self._rest)


def _is_data(fetched: Any, batch: Any) -> bool:
    """Whether a batch is neither a mark nor of a transaction that was aborted."""
    if fetched._isolation_level == READ_COMMITTED and batch.producer_id is not None:
        fetched._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and fetched._contains_abort_marker(batch):
            fetched._aborted_producers.discard(batch.producer_id)
        if batch.is_transactional and batch.producer_id in fetched._aborted_producers:
            return False
    return not batch.is_control_batch
