"""Where a shard's state is kept: one interface, in memory for tests and in Redis for use."""

from valuetide.streams.store.interface import (
    Commit,
    CommitRefusedError,
    Page,
    ShardRecord,
    StateStore,
    StoreUnavailableError,
)

__all__ = [
    "Commit",
    "CommitRefusedError",
    "Page",
    "ShardRecord",
    "StateStore",
    "StoreUnavailableError",
]
