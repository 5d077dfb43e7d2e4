"""The state store in memory: for tests, and as the model that the one in Redis is checked by."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from valuetide.streams.store.interface import (
    AlertStep,
    Commit,
    CommitRefusedError,
    Page,
    ShardRecord,
    WatchCommit,
    WatchRecord,
    type_of_value,
)

PAGE_CUSTOMERS = 1_000


@dataclass(slots=True)
class _Shard:
    record: ShardRecord = field(default_factory=ShardRecord)
    states: dict[str, bytes] = field(default_factory=dict)
    rows: dict[str, Sequence[type_of_value]] = field(default_factory=dict)
    top: dict[str, dict[str, float]] = field(default_factory=dict)
    alerts: list[AlertStep] = field(default_factory=list)
    acknowledgements: dict[str, str] = field(default_factory=dict)


class MemoryStore:
    """State of all shards in dictionaries; lost when the process ends."""

    def __init__(self, top_size: int = 100) -> None:
        self.top_size = top_size
        self.shards: dict[int, _Shard] = {}
        self.watch = WatchRecord()

    def _shard(self, partition: int) -> _Shard:
        return self.shards.setdefault(partition, _Shard())

    async def read_shard(self, partition: int) -> ShardRecord:
        """Give what is known of a shard."""
        record = self._shard(partition).record
        return ShardRecord(
            record.sequence,
            record.writer,
            dict(record.fields),
            dict(record.months),
            dict(record.model),
            dict(record.series),
            await self.read_open_alerts(partition),
        )

    async def read_states(self, partition: int, ids: Sequence[str]) -> list[bytes | None]:
        """Give the packed state of each customer, ``None`` for one that is not known."""
        states = self._shard(partition).states
        return [states.get(customer) for customer in ids]

    async def scan_customers(self, partitions: Sequence[int]) -> AsyncIterator[Page]:
        """Give the customers of some shards, some at a time."""
        for partition in partitions:
            ids = list(self._shard(partition).states)
            for start in range(0, len(ids), PAGE_CUSTOMERS):
                yield partition, ids[start : start + PAGE_CUSTOMERS]

    async def read_models(
        self, partitions: Sequence[int], names: Sequence[str]
    ) -> list[dict[str, bytes]]:
        """Give some pieces of the model of each shard, those that there are."""
        models = [self._shard(partition).record.model for partition in partitions]
        return [{name: model[name] for name in names if name in model} for model in models]

    async def commit(self, commit: Commit) -> dict[str, float]:
        """Make a commit true, or raise :class:`CommitRefusedError`."""
        shard = self._shard(commit.partition)
        record = shard.record
        if record.sequence != commit.sequence - 1:
            if (record.sequence, record.writer) == (commit.sequence, commit.writer):
                return self._floors(shard)
            raise CommitRefusedError(
                f"partition {commit.partition} is at commit {record.sequence} by {record.writer}, "
                f"not {commit.sequence - 1}"
            )
        fields = record.fields | {name: str(value) for name, value in commit.fields.items()}
        shard.record = ShardRecord(
            commit.sequence,
            commit.writer,
            fields,
            record.months | commit.months,
            record.model | commit.model,
            {n: sums for n, sums in (record.series | commit.series).items() if sums is not None},
        )
        shard.alerts += commit.alerts
        shard.states.update(zip(commit.ids, commit.states, strict=True))
        for customer in commit.ids if not commit.rows else ():
            shard.rows.pop(customer, None)
        shard.rows.update(zip(commit.ids if commit.rows else (), commit.rows, strict=True))
        for name, ranked in commit.top.items():
            best = shard.top.get(name, {}) | {customer: value for value, customer in ranked}
            kept = sorted(best.items(), key=lambda entry: (entry[1], entry[0]), reverse=True)
            shard.top[name] = dict(kept[: self.top_size])
        return self._floors(shard)

    async def read_buckets(self, partition: int) -> dict[str, bytes]:
        """Give what a shard has committed of its series."""
        return dict(self._shard(partition).record.series)

    async def read_records(self, partitions: Sequence[int]) -> list[dict[str, str]]:
        """Give the record of each of some shards, an empty one where there is none."""
        return [_whole(self._shard(partition).record) for partition in partitions]

    async def read_watch_fields(self) -> dict[str, str]:
        """Give the watch's record, without what the detectors know."""
        return _whole(self.watch)

    async def read_acknowledgements(self, partition: int) -> dict[str, str]:
        """Give by fingerprint what people said of alerts that go on, JSON."""
        return dict(self._shard(partition).acknowledgements)

    async def read_watch(self) -> WatchRecord:
        """Give what is known of the watch; an empty record before its first commit."""
        watch = self.watch
        return WatchRecord(watch.sequence, watch.writer, dict(watch.fields), dict(watch.state))

    async def commit_watch(self, commit: WatchCommit) -> None:
        """Make a commit of the watch true, or raise :class:`CommitRefusedError`."""
        watch = self.watch
        if watch.sequence != commit.sequence - 1:
            if (watch.sequence, watch.writer) == (commit.sequence, commit.writer):
                return
            raise CommitRefusedError(
                f"the watch is at commit {watch.sequence} by {watch.writer}, "
                f"not {commit.sequence - 1}"
            )
        fields = watch.fields | {name: str(value) for name, value in commit.fields.items()}
        state = {n: part for n, part in {**watch.state, **commit.state}.items() if part is not None}
        self.watch = WatchRecord(commit.sequence, commit.writer, fields, state)
        self._shard(0).alerts += commit.alerts

    async def read_open_alerts(self, partition: int) -> dict[str, str]:
        """Give the last step of each alert that goes on, by fingerprint."""
        found: dict[str, str] = {}
        for step in self._shard(partition).alerts:
            found[step.fingerprint] = step.text
            if not step.is_open:
                del found[step.fingerprint]
        return found

    def _floors(self, shard: _Shard) -> dict[str, float]:
        return {
            name: min(best.values())
            for name, best in shard.top.items()
            if len(best) == self.top_size
        }

    async def close(self) -> None:
        """Do nothing: there is no connection."""


def _whole(record: ShardRecord | WatchRecord) -> dict[str, str]:
    """Give all that a record says, as it lies in one hash."""
    if not record.sequence:
        return {}
    return record.fields | {"sequence": str(record.sequence), "writer": record.writer}
