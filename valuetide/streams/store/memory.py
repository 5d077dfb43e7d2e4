"""The state store in memory: for tests, and as the model that the one in Redis is checked by."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from valuetide.streams.store.interface import (
    Commit,
    CommitRefusedError,
    Page,
    ShardRecord,
    type_of_value,
)

PAGE_CUSTOMERS = 1_000


@dataclass(slots=True)
class _Shard:
    record: ShardRecord = field(default_factory=ShardRecord)
    states: dict[str, bytes] = field(default_factory=dict)
    rows: dict[str, Sequence[type_of_value]] = field(default_factory=dict)
    top: dict[str, dict[str, float]] = field(default_factory=dict)


class MemoryStore:
    """State of all shards in dictionaries; lost when the process ends."""

    def __init__(self, top_size: int = 100) -> None:
        self.top_size = top_size
        self.shards: dict[int, _Shard] = {}

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
        )
        shard.states.update(zip(commit.ids, commit.states, strict=True))
        shard.rows.update(zip(commit.ids, commit.rows, strict=True))
        for name, ranked in commit.top.items():
            best = shard.top.get(name, {}) | {customer: value for value, customer in ranked}
            kept = sorted(best.items(), key=lambda entry: (entry[1], entry[0]), reverse=True)
            shard.top[name] = dict(kept[: self.top_size])
        return self._floors(shard)

    def _floors(self, shard: _Shard) -> dict[str, float]:
        return {
            name: min(best.values())
            for name, best in shard.top.items()
            if len(best) == self.top_size
        }

    async def close(self) -> None:
        """Do nothing: there is no connection."""
