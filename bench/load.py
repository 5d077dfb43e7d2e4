"""The events of every measurement, and what must come of them.

All three kinds, Zipf-distributed activity, a thousandth of them bad. The same seed gives the same
events, for the worker and for each of its peers.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaProducer

from valuetide.streams.partitioner import partition_of
from valuetide.streams.settings import Settings

CUSTOMERS_SHARE = 10  # events per customer, on average
ZIPF = 0.8
BAD_SHARE = 0.001
RETURNED_SHARE = 0.05
SHARES = {"orders": 0.5, "interactions": 0.4, "feedback": 0.1}
START = 1_700_000_000
BAD = (b"not json", b'{"event_id": 1}', b'{"amount": NaN}', b"", b"[" * 1_000)


@dataclass(slots=True)
class Sums:
    """What must be known of a customer in the end; money in cents, time in ms since 1970."""

    version: int = 0
    orders: int = 0
    revenue: int = 0
    refunds: int = 0
    cost: int = 0
    last_order_at: int = 0


@dataclass
class Outcome:
    """What must come of events.

    Attributes
    ----------
    customers
        Sums of each.
    events
        How many there are, all told.
    bad
        How many of them are bad.
    """

    customers: dict[str, Sums] = field(default_factory=lambda: defaultdict(Sums))
    events: int = 0
    bad: int = 0

    def total(self, name: str) -> int:
        """Give the sum of one of the customers' sums."""
        return sum(getattr(sums, name) for sums in self.customers.values())

    def include(self, more: "Outcome") -> None:
        """Add what must come of other events, which happen in addition."""
        self.events += more.events
        self.bad += more.bad
        for customer, other in more.customers.items():
            mine = self.customers[customer]
            for name in ("version", "orders", "revenue", "refunds", "cost"):
                setattr(mine, name, getattr(mine, name) + getattr(other, name))
            mine.last_order_at = max(mine.last_order_at, other.last_order_at)


@dataclass
class Load(Outcome):
    """Events by topic's role and partition, and what must come of them.

    Attributes
    ----------
    messages
        Key and value of each event by its place.
    sequence
        The place of each event in the order in which they happen.
    warm, warm_bad
        Number of events at the beginning that are not measured, and of the bad ones among them.
    """

    messages: dict[tuple[str, int], list[tuple[bytes, bytes]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    sequence: list[tuple[str, int]] = field(default_factory=list)
    warm: int = 0
    warm_bad: int = 0

    def positions(self, count: int) -> Counter[tuple[str, int]]:
        """Give by place the offset after the last of the first ``count`` events."""
        return Counter(self.sequence[:count])

    def in_order(self) -> Iterator[tuple[str, int, bytes, bytes]]:
        """Give role, partition, key and value of each event as they happen."""
        at = {place: iter(messages) for place, messages in self.messages.items()}
        for place in self.sequence:
            yield (*place, *next(at[place]))


def make_load(
    events: int,
    partitions: int,
    seed: int,
    *,
    customers: int | None = None,
    warm: int = 0,
    once: bool = False,
    homes: Collection[int] | None = None,
    first: int = 0,
) -> Load:
    """Make events.

    Parameters
    ----------
    events
        How many.
    partitions
        Of each topic.
    seed
        Of all chance.
    customers
        How many there are; a tenth of the events unless told otherwise.
    warm
        Events that come before them and are not measured, of the same kind.
    once
        Whether these are one event of each customer instead.
    homes
        The partitions whose customers have events; all of them unless told otherwise.
    first
        Number of the first event, where others go before: ids and times go on from it.
    """
    chance = random.Random(seed)
    names = [f"customer-{i}" for i in range(customers or max(1, events // CUSTOMERS_SHARE))]
    home = {customer: partition_of(customer, partitions) for customer in names}
    if homes is not None:
        names = [customer for customer in names if home[customer] in homes]
    weights = [1.0 / (i + 1) ** ZIPF for i in range(len(names))]
    warm = len(names) if once else warm
    who = (names if once else []) + chance.choices(
        names, weights, k=events if once else warm + events
    )
    roles = chance.choices(list(SHARES), list(SHARES.values()), k=len(who))
    load = Load(events=len(who), warm=warm)
    for i, (customer, role) in enumerate(zip(who, roles, strict=True), first):
        place = (role, home[customer])
        load.sequence.append(place)
        messages = load.messages[place]
        if chance.random() < BAD_SHARE:
            load.bad += 1
            load.warm_bad += i - first < warm
            messages.append((customer.encode(), chance.choice(BAD)))
        else:
            event = _event(chance, i, customer, role, load.customers[customer])
            messages.append((customer.encode(), json.dumps(event).encode()))
    return load


def _event(
    chance: random.Random, i: int, customer: str, role: str, sums: Sums
) -> dict[str, object]:
    """Make one good event, and add it to what must come of its customer."""
    cents = chance.randrange(100, 20_000)
    event: dict[str, object] = {
        "event_id": f"event-{i}",
        "customer_id": customer,
        "occurred_at": START + i / 100,
    }
    sums.version += 1
    if role == "orders":
        kind = "returned" if chance.random() < RETURNED_SHARE else "placed"
        event |= {"order_id": f"order-{i}", "kind": kind, "amount": cents / 100}
        event |= {"currency": "EUR", "channel": "web"}
        if kind == "placed":
            sums.orders += 1
            sums.revenue += cents
            sums.last_order_at = START * 1_000 + i * 10
        else:
            sums.refunds += cents
    elif role == "interactions":
        event |= {"kind": "visit", "channel": "web", "cost": (cents % 10) / 100}
        sums.cost += cents % 10
    else:
        event |= {"kind": "rating", "score": cents % 5 + 1, "scale": [1, 5]}
    return event


def difference(state: dict[str, Sums], load: Outcome) -> str:
    """Show the first customers whose sums are not what they must be."""
    names = sorted(state.keys() | load.customers.keys())
    wrong = [n for n in names if state.get(n) != load.customers.get(n)]
    shown = [f"{n} is {state.get(n)}, must be {load.customers.get(n)}" for n in wrong[:3]]
    return f"{len(wrong)}, " + "; ".join(shown)


async def produce(settings: Settings, load: Load, begin: int, end: int) -> None:
    """Write the events from ``begin`` up to ``end`` in sequence to their topics."""
    producer: AIOKafkaProducer = AIOKafkaProducer(
        bootstrap_servers=settings.broker, max_batch_size=256 * 1024
    )
    start, stop = load.positions(begin), load.positions(end)
    await producer.start()
    try:
        for place, messages in load.messages.items():
            for batch in _batches(producer, messages[start[place] : stop[place]]):
                await producer.send_batch(
                    batch, getattr(settings.topics, place[0]), partition=place[1]
                )
        await producer.flush()
    finally:
        await producer.stop()


def _batches(producer: AIOKafkaProducer, messages: list[tuple[bytes, bytes]]) -> Iterator[Any]:
    at = 0
    while at < len(messages):
        batch = producer.create_batch()
        while at < len(messages):
            key, value = messages[at]
            if batch.append(key=key, value=value, timestamp=None) is None:
                break
            at += 1
        batch.close()
        yield batch
