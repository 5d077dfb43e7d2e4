"""Which partition a customer belongs in: murmur2 of the id, as the Java client does."""

from aiokafka.partitioner import murmur2


def partition_of(customer_id: str, partitions: int) -> int:
    """Give the partition of a customer.

    Parameters
    ----------
    customer_id
        The id; hashed as UTF-8.
    partitions
        Number of partitions of each topic, at least 1.

    Returns
    -------
    int
        0 to ``partitions - 1``.

    Examples
    --------
    >>> partition_of("42", 4)
    0
    """
    return int((murmur2(customer_id.encode()) & 0x7FFFFFFF) % partitions)
