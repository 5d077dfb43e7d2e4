import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valuetide.schemas.errors import InvalidEventError
from valuetide.streams.replay.event import Encoder, shifted

ORDER = {
    "event_id": "e1",
    "customer_id": 'c", "1',
    "order_id": "ö1",
    "kind": "placed",
    "amount": 0.1,
    "currency": "EUR",
}


@given(st.integers(0, 4_000_000_000_000_000), st.integers(0, 4_000_000_000_000_000))
def test_shifting_is_encoding_at_another_time(at_us: int, shift_us: int) -> None:
    encoder = Encoder("orders")
    at, shift = at_us / 1e6, shift_us / 1e6
    moved = shifted(encoder.encode(ORDER, at), shift)
    assert moved == encoder.encode(ORDER, at + shift)
    assert json.loads(moved.value) == ORDER | {"occurred_at": moved_at(at + shift)}


def moved_at(seconds: float) -> float:
    return int(seconds) if seconds == int(seconds) else float(f"{seconds:.6f}")


def test_a_value_that_a_worker_would_not_read_is_not_sent() -> None:
    with pytest.raises(InvalidEventError, match="more than 100 bytes"):
        Encoder("orders", max_bytes=100).encode(ORDER, 0.0)
