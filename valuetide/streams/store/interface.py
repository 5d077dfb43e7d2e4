"""What a state store promises: a shard's state changes in one step, and only by its owner."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from valuetide.schemas.errors import TransientError

Page = tuple[int, list[str]]
"""A partition and some of its customers."""

type_of_value = str | int | float | None
"""A score field as it is stored; ``None`` is no value."""


class StoreUnavailableError(TransientError):
    """The store did not answer, or cannot take writes for now."""


class CommitRefusedError(TransientError):
    """Another writer has committed to this shard since we last read it: read it again."""


@dataclass(frozen=True, slots=True)
class AlertStep:
    """A step in the life of an alert.

    Attributes
    ----------
    fingerprint
        Of the alert.
    text
        The ``alerts`` message, JSON.
    is_open
        Whether the alert goes on.
    """

    fingerprint: str
    text: str
    is_open: bool


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """What is known of a shard besides its customers.

    Attributes
    ----------
    sequence
        Number of commits made so far; 0 for a shard that was never written.
    writer
        Who made the last one.
    fields
        Positions, counters and totals by name, all integers (see :mod:`..shard`), and settings.
    months
        Per calendar month (``YYYY-MM``, UTC) the sums of accepted order events.
    model
        What the shard has learned, in named pieces (see ``scoring.lifetime.pieces``).
    series
        Sums of event-time buckets that are not closed yet, by name.
    alerts
        Last step of each alert that goes on, by fingerprint.
    """

    sequence: int = 0
    writer: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    months: dict[str, str] = field(default_factory=dict)
    model: dict[str, bytes] = field(default_factory=dict)
    series: dict[str, bytes] = field(default_factory=dict)
    alerts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WatchRecord:
    """What is known of the watch over the series of all shards.

    Attributes
    ----------
    sequence
        Number of commits made so far.
    writer
        Who made the last one.
    fields
        Small numbers and texts by name.
    state
        What the detectors know, in named pieces.
    """

    sequence: int = 0
    writer: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    state: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WatchCommit:
    """One step of the watch: everything in it becomes true together, or nothing does.

    Attributes
    ----------
    sequence, writer
        As of a :class:`Commit`.
    fields
        Entries of :class:`WatchRecord` to set; others stay.
    state
        The same, ``None`` to delete.
    alerts
        In their order.
    """

    sequence: int
    writer: str
    fields: dict[str, str | int]
    state: Mapping[str, bytes | None]
    alerts: Sequence[AlertStep] = ()


@dataclass(frozen=True, slots=True)
class Commit:
    """One step of a shard: everything in it becomes true together, or nothing does.

    Attributes
    ----------
    partition
        The shard.
    sequence
        Number that this commit gets; the shard must be at ``sequence - 1``.
    writer
        Who commits, unique for each time that a worker has read the shard's record.
    fields, months, model
        Entries of :class:`ShardRecord` to set; others stay.
    ids
        Customers that changed, ``n`` of them.
    states
        Their packed states, ``n``.
    rows
        Their score fields, ``n`` rows in the order of the store's ``columns``; none at all: only
        the packed states are kept, and score fields that there were go.
    top
        By ranked field: customers that are, or may have been, among the best, with their value.
    series
        Entries of :class:`ShardRecord` to set, ``None`` to delete; others stay.
    alerts
        Steps in the lives of alerts, in their order.
    """

    partition: int
    sequence: int
    writer: str
    fields: dict[str, str | int]
    months: dict[str, str]
    ids: Sequence[str]
    states: Sequence[bytes]
    rows: Sequence[Sequence[type_of_value]]
    top: dict[str, list[tuple[float, str]]]
    model: dict[str, bytes] = field(default_factory=dict)
    series: dict[str, bytes | None] = field(default_factory=dict)
    alerts: Sequence[AlertStep] = ()


class StateStore(Protocol):
    """State of all shards.

    Every method raises :class:`StoreUnavailableError` when the store does not answer.
    """

    async def read_shard(self, partition: int) -> ShardRecord:
        """Give what is known of a shard; an empty record for one that was never written."""
        ...

    async def read_states(self, partition: int, ids: Sequence[str]) -> list[bytes | None]:
        """Give the packed state of each customer, ``None`` for one that is not known."""
        ...

    def scan_customers(self, partitions: Sequence[int]) -> AsyncIterator[Page]:
        """Give the customers of some shards, some at a time, some perhaps more than once."""
        ...

    async def read_models(
        self, partitions: Sequence[int], names: Sequence[str]
    ) -> list[dict[str, bytes]]:
        """Give some pieces of the model of each shard, those that there are."""
        ...

    async def commit(self, commit: Commit) -> dict[str, float]:
        """Make a commit true.

        A commit that was already made by the same writer, for example one whose answer got
        lost, is left as it is and counts as made.

        Returns
        -------
        dict
            By ranked field whose places are all taken, the least value that is ranked: a customer
            below it need not be offered.

        Raises
        ------
        CommitRefusedError
            When the shard is not at the sequence before the commit's. Nothing was changed.
        """
        ...

    async def read_buckets(self, partition: int) -> dict[str, bytes]:
        """Give what a shard has committed of its series: sums of open buckets, by name."""
        ...

    async def read_records(self, partitions: Sequence[int]) -> list[dict[str, str]]:
        """Give the record of each of some shards, an empty one where there is none."""
        ...

    async def read_watch_fields(self) -> dict[str, str]:
        """Give the watch's record, sequence and writer too, without what the detectors know."""
        ...

    async def read_acknowledgements(self, partition: int) -> dict[str, str]:
        """Give by fingerprint what people said of alerts that go on, JSON."""
        ...

    async def read_watch(self) -> WatchRecord:
        """Give what is known of the watch; an empty record before its first commit."""
        ...

    async def commit_watch(self, commit: WatchCommit) -> None:
        """Make a commit of the watch true; one that its writer has already made stays as it is.

        Raises
        ------
        CommitRefusedError
            When the watch is not at the sequence before the commit's. Nothing was changed.
        """
        ...

    async def read_open_alerts(self, partition: int) -> dict[str, str]:
        """Give the last step of each alert that goes on, by fingerprint."""
        ...

    async def close(self) -> None:
        """Close connections. The store cannot be used afterwards."""
        ...
