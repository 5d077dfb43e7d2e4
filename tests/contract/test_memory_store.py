"""The store in memory keeps the contract."""

from collections.abc import Sequence

import pytest

from tests.contract.store import TOP_SIZE, Rows, StateStoreContract, Top, stored_row
from valuetide.streams.store import StateStore
from valuetide.streams.store.memory import MemoryStore


async def memory_rows(store: MemoryStore, partition: int, ids: Sequence[str]) -> Rows:
    shard = store.shards.get(partition)
    found = [shard.rows.get(customer) if shard else None for customer in ids]
    return [None if row is None else stored_row(row) for row in found]


async def memory_top(store: MemoryStore, partition: int, field: str) -> Top:
    shard = store.shards.get(partition)
    return list(shard.top.get(field, {}).items()) if shard else []


class TestMemoryStore(StateStoreContract):
    @pytest.fixture(autouse=True)
    def _one_state(self) -> None:
        self.store = MemoryStore(TOP_SIZE)

    def make_store(self) -> StateStore:
        return self.store

    async def rows(self, partition: int, ids: Sequence[str]) -> Rows:
        return await memory_rows(self.store, partition, ids)

    async def top(self, partition: int, field: str) -> Top:
        return await memory_top(self.store, partition, field)
