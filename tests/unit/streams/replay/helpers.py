"""What the tests of the replay share: events, settings, and a producer without a broker."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from valuetide.streams.replay.event import SourceEvent


def event(number: int, customer: str | None = None, at: float | None = None) -> SourceEvent:
    """Give the event with this number, one second apart unless told otherwise."""
    customer = f"c{number % 7}" if customer is None else customer
    at = float(number) if at is None else at
    value = {"occurred_at": int(at), "event_id": f"e{number}", "customer_id": customer}
    return SourceEvent(customer, at, json.dumps(value, separators=(",", ":")).encode())


def event_id(value: bytes) -> str:
    return str(json.loads(value)["event_id"])


@dataclass
class FakeBatch:
    capacity: int
    values: list[bytes] = field(default_factory=list)
    closed: bool = False

    def append(self, *, timestamp: int | None, key: bytes, value: bytes) -> object:
        assert timestamp is None
        assert json.loads(value)["customer_id"] == key.decode()
        if self.closed or len(self.values) >= self.capacity:
            return None
        self.values.append(value)
        return object()

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeOffset:
    offset: int


class FakeProducer:
    """Keeps batches; acknowledges them at once, or when the test says so."""

    def __init__(self, capacity: int = 3, *, at_once: bool = True) -> None:
        self.capacity = capacity
        self.at_once = at_once
        self.log: dict[tuple[str, int], list[bytes]] = {}
        self.batches: list[tuple[tuple[str, int], FakeBatch, asyncio.Future[FakeOffset]]] = []

    def create_batch(self) -> FakeBatch:
        return FakeBatch(self.capacity)

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> Any:
        future: asyncio.Future[FakeOffset] = asyncio.get_running_loop().create_future()
        self.batches.append(((topic, partition), batch, future))
        if self.at_once:
            self.acknowledge(len(self.batches) - 1)
        return future

    def acknowledge(self, number: int) -> None:
        place, batch, future = self.batches[number]
        log = self.log.setdefault(place, [])
        future.set_result(FakeOffset(len(log)))
        log.extend(batch.values)
