"""What the transport hands to an agent: the records of one fetch from one partition."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Record(Protocol):
    """What is used of a consumed Kafka record."""

    @property
    def key(self) -> bytes | None:
        """Key bytes."""

    @property
    def value(self) -> bytes | None:
        """Value bytes."""

    @property
    def offset(self) -> int:
        """Position in the partition."""

    @property
    def timestamp(self) -> int:
        """Milliseconds since 1970, set by producer or broker."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """Headers, in order."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive records of one partition, in offset order, at least one.

    Attributes
    ----------
    topic, partition
        Where they come from.
    records
        The records.
    epoch
        Counts the times that the partition's position was set. A chunk that was fetched before
        the last time is stale and must not be processed.
    more
        Whether the partition was known to have further records when this was fetched.
    """

    topic: str
    partition: int
    records: Sequence[Record]
    epoch: int = 0
    more: bool = False
