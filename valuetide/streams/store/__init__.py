"""Where a shard's state is kept: one interface, in memory for tests and in Redis for use."""

from valuetide.streams.store.interface import (
    AlertStep,
    Commit,
    CommitRefusedError,
    Page,
    ShardRecord,
    StateStore,
    StoreUnavailableError,
    WatchCommit,
    WatchRecord,
)

__all__ = [
    "AlertStep",
    "Commit",
    "CommitRefusedError",
    "Page",
    "ShardRecord",
    "StateStore",
    "StoreUnavailableError",
    "WatchCommit",
    "WatchRecord",
]
