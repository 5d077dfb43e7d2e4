"""Customers go where the Java client puts them."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2

from valuetide.streams.partitioner import partition_of

# hash of org.apache.kafka.common.utils.UtilsTest.testMurmur2, as signed 32-bit integers
JAVA = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


@pytest.mark.parametrize(("text", "java"), JAVA.items())
@pytest.mark.parametrize("partitions", [1, 2, 4, 12, 10_000])
def test_known_values_of_the_java_client(text: str, java: int, partitions: int) -> None:
    assert partition_of(text, partitions) == (java & 0x7FFFFFFF) % partitions


@given(
    customer=st.text(st.characters(codec="utf-8"), min_size=1, max_size=128),
    partitions=st.integers(1, 10_000),
)
def test_any_id_goes_where_kafka_python_puts_it(customer: str, partitions: int) -> None:
    assert (
        partition_of(customer, partitions) == (murmur2(customer.encode()) & 0x7FFFFFFF) % partitions
    )


def test_customers_are_spread_evenly() -> None:
    count = Counter(partition_of(f"customer-{i}", 4) for i in range(20_000))
    assert all(4_700 < number < 5_300 for number in count.values())
