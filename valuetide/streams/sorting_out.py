"""Events that a shard does not keep: those of other shards, and those that are no events."""

from collections.abc import Sequence
from datetime import datetime

from valuetide.streams.chunk import Chunk
from valuetide.streams.decode import Decoded, Rejection
from valuetide.streams.publish import Outgoing

REROUTED_HEADER = "valuetide-rerouted"
"""Marks an event that was re-published to its right partition; its value is where it came from."""


def strays(
    chunk: Chunk, decoded: Decoded, elsewhere: dict[str, int]
) -> tuple[list[tuple[int, Outgoing]], list[Rejection]]:
    """Sort out events of customers that belong in other partitions.

    Parameters
    ----------
    chunk, decoded
        The chunk, and what its records say.
    elsewhere
        Customer to the partition that it belongs in.

    Returns
    -------
    outgoing
        Events to publish where they belong, each with the offset that it came from.
    rejections
        Those that have been re-published before, and would go round in circles.
    """
    outgoing: list[tuple[int, Outgoing]] = []
    rejections: list[Rejection] = []
    for customer, index in zip(decoded.customer, decoded.index.tolist(), strict=True):
        partition = elsewhere.get(customer)
        if partition is None:
            continue
        record = chunk.records[index]
        if any(name == REROUTED_HEADER for name, _ in record.headers):
            reason = (
                f"customer_id: belongs in partition {partition}, and was already re-published "
                "once; do all topics have the same number of partitions?"
            )
            rejections.append(Rejection(index, "customer_id", reason))
            continue
        source = f"{chunk.topic}/{chunk.partition}/{record.offset}"
        headers = (*record.headers, (REROUTED_HEADER, source.encode()))
        event = Outgoing(chunk.topic, partition, customer.encode(), record.value, headers)
        outgoing.append((record.offset, event))
    return outgoing, rejections


def dead_letters(
    topic: str,
    chunk: Chunk,
    rejections: Sequence[Rejection],
    rejected_at: datetime,
) -> list[tuple[int, Outgoing]]:
    """Give the dead letter of each rejection: the original bytes, with reason and source.

    Returns
    -------
    list
        Each with the offset that its event came from.
    """
    letters: list[tuple[int, Outgoing]] = []
    for rejection in rejections:
        record = chunk.records[rejection.index]
        headers = {
            "reason": rejection.reason,
            "source_topic": chunk.topic,
            "source_partition": str(chunk.partition),
            "source_offset": str(record.offset),
            "rejected_at": rejected_at.isoformat(),
        }
        encoded = tuple((name, text.encode()) for name, text in headers.items())
        letter = Outgoing(topic, chunk.partition, record.key, record.value, encoded)
        letters.append((record.offset, letter))
    return letters
