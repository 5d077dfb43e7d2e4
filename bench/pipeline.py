"""The whole job on this machine: events of all three kinds in, scores and committed state out.

    python -m bench.pipeline [--events 200000] [--rounds 3] [--json build/bench-pipeline.json]

Events are made once and written to the topics before the worker starts, so that only the worker
is measured, from the first commits seen to the last. A round counts only when the state was
verified: every event is accounted for, the sums equal those of a plain program over the same
events, every bad event is a dead letter, and `scores` holds the newest version of each customer.
CPU time is the operating system's, of the worker process alone.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from pydantic_core import from_json

from valuetide.schemas.topics import INPUTS
from valuetide.streams.deadletters import read_dead_letters, read_records
from valuetide.streams.embedded import embedded_services
from valuetide.streams.local import LocalWorker, local_settings, prepare
from valuetide.streams.partitioner import partition_of
from valuetide.streams.reader import Overview, Reader
from valuetide.streams.settings import Settings

CUSTOMERS_SHARE = 10  # events per customer, on average
ZIPF = 0.8
BAD_SHARE = 0.001
SHARES = {"orders": 0.5, "interactions": 0.4, "feedback": 0.1}
WAIT_SECONDS = 600.0
POLL_SECONDS = 0.05
START = 1_700_000_000
BAD = (b"not json", b'{"event_id": 1}', b'{"amount": NaN}', b"", b"[" * 1_000)


@dataclass(frozen=True)
class Sample:
    """Events accounted for, the moment, and the worker's CPU time until then."""

    events: int
    at: float
    cpu_seconds: float


@dataclass(frozen=True)
class Measured:
    """Outcome of one round."""

    events_per_second: float
    cpu_us_per_event: float


@dataclass
class Load:
    """Events by topic and partition, and what must come of them."""

    messages: dict[tuple[str, int], list[tuple[bytes, bytes]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    versions: Counter[str] = field(default_factory=Counter)
    revenue: Decimal = Decimal()
    refunds: Decimal = Decimal()
    cost: Decimal = Decimal()
    orders: int = 0
    bad: int = 0
    events: int = 0


def make_load(events: int, partitions: int, seed: int) -> Load:
    """Make events with Zipf-distributed activity, a thousandth of them bad."""
    chance = random.Random(seed)
    customers = [f"customer-{i}" for i in range(max(1, events // CUSTOMERS_SHARE))]
    weights = [1.0 / (i + 1) ** ZIPF for i in range(len(customers))]
    who = chance.choices(customers, weights, k=events)
    roles = chance.choices(list(SHARES), list(SHARES.values()), k=events)
    home = {customer: partition_of(customer, partitions) for customer in customers}
    load = Load(events=events)
    for i, (customer, role) in enumerate(zip(who, roles, strict=True)):
        place = (role, home[customer])
        if chance.random() < BAD_SHARE:
            load.bad += 1
            load.messages[place].append((customer.encode(), chance.choice(BAD)))
            continue
        load.versions[customer] += 1
        event: dict[str, Any] = {
            "event_id": f"event-{i}",
            "customer_id": customer,
            "occurred_at": START + i / 100,
        }
        cents = chance.randrange(100, 20_000)
        if role == "orders":
            kind = "returned" if chance.random() < 0.05 else "placed"
            event |= {"order_id": f"order-{i}", "kind": kind, "amount": cents / 100}
            event |= {"currency": "EUR", "channel": "web"}
            if kind == "placed":
                load.orders += 1
                load.revenue += Decimal(cents) / 100
            else:
                load.refunds += Decimal(cents) / 100
        elif role == "interactions":
            event |= {"kind": "visit", "channel": "web", "cost": (cents % 10) / 100}
            load.cost += Decimal(cents % 10) / 100
        else:
            event |= {"kind": "rating", "score": cents % 5 + 1, "scale": [1, 5]}
        load.messages[place].append((customer.encode(), json.dumps(event).encode()))
    return load


async def produce(settings: Settings, load: Load) -> dict[tuple[str, int], int]:
    """Write all events to their topics; gives the offset after the last of each partition."""
    producer: AIOKafkaProducer = AIOKafkaProducer(
        bootstrap_servers=settings.broker, max_batch_size=256 * 1024
    )
    await producer.start()
    try:
        for (role, partition), messages in load.messages.items():
            topic = getattr(settings.topics, role)
            at = 0
            while at < len(messages):
                batch = producer.create_batch()
                while at < len(messages):
                    key, value = messages[at]
                    if batch.append(key=key, value=value, timestamp=None) is None:
                        break
                    at += 1
                batch.close()
                await producer.send_batch(batch, topic, partition=partition)
        await producer.flush()
    finally:
        await producer.stop()
    return {place: len(messages) for place, messages in load.messages.items()}


async def verify(settings: Settings, load: Load, overview: Overview) -> None:
    """Compare state, dead letters and scores with what must be; raise where they differ."""
    totals = overview.totals
    wanted = {
        "customers": len(load.versions),
        "orders": load.orders,
        "revenue": float(load.revenue),
        "refunds": float(load.refunds),
        "cost_to_serve": float(load.cost),
    }
    found = {name: totals[name] for name in wanted}
    if found != wanted:
        raise AssertionError(f"totals are {found}, must be {wanted}")
    counts: Counter[str] = Counter()
    for role in INPUTS:
        counts.update(overview.events[role])
    expected = {"folded": load.events - load.bad, "dead_letter": load.bad}
    if {name: count for name, count in counts.items() if count} != expected:
        raise AssertionError(f"events are {dict(counts)}, must be {expected}")
    letters = [letter async for letter in read_dead_letters(settings)]
    if len(letters) != load.bad:
        raise AssertionError(f"{len(letters)} dead letters, must be {load.bad}")
    async with Reader(settings) as reader:
        state = {score["customer_id"]: score["version"] async for score in reader.scan()}
    if state != dict(load.versions):
        raise AssertionError("versions in Redis are not the numbers of events")
    published: dict[str, int] = {}
    async for record in read_records(settings, settings.topics.scores):
        score = from_json(record.value or b"{}")
        customer = score["customer_id"]
        published[customer] = max(published.get(customer, 0), score["version"])
    if published != state:
        raise AssertionError("the scores topic does not hold the newest versions")


async def one_round(events: int, seed: int) -> Measured:
    """Run the job once from the beginning, verify it, and give what was measured."""
    with embedded_services() as services:
        settings = local_settings(services, log_level="warning", log_format="json")
        prepare(settings)
        load = make_load(events, settings.partitions, seed)
        positions = await produce(settings, load)
        with LocalWorker(settings) as worker:
            async with Reader(settings) as reader:
                first, last = await watch(worker, reader, load.events)
                if not await reader.wait_for_positions(positions, WAIT_SECONDS):
                    raise AssertionError(f"not done in time; the worker says\n{worker.log_tail()}")
                overview = await reader.overview()
        await verify(settings, load, overview)
    events = last.events - first.events
    return Measured(
        events / (last.at - first.at), (last.cpu_seconds - first.cpu_seconds) / events * 1e6
    )


async def watch(worker: LocalWorker, reader: Reader, events: int) -> tuple[Sample, Sample]:
    """Give the worker's state when its first commits are seen, and when it has done all."""
    first: Sample | None = None
    give_up = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < give_up:
        overview = await reader.overview()
        done = sum(sum(counts.values()) for counts in overview.events.values())
        now = Sample(done, time.monotonic(), cpu_seconds(worker.pid))
        if first is None and done:
            first = now
        if first is not None and done >= events:
            return first, now
        await asyncio.sleep(POLL_SECONDS)
    raise AssertionError(f"not done in time; the worker says\n{worker.log_tail()}")


def cpu_seconds(pid: int) -> float:
    """Give the CPU time of a process so far, user and system, from the operating system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run the rounds and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("build/bench-pipeline.json"))
    given = parser.parse_args()
    rounds = []
    for number in range(given.rounds):
        started = time.monotonic()
        measured = asyncio.run(one_round(given.events, given.seed + number))
        rounds.append(measured)
        print(
            f"round {number + 1}: {measured.events_per_second:,.0f} events/s, "
            f"{measured.cpu_us_per_event:.1f} us of CPU an event, verified "
            f"({time.monotonic() - started:.0f} s in all)"
        )
    result = {
        "events": given.events,
        "worker": {
            "events_per_second": round(statistics.median(r.events_per_second for r in rounds)),
            "cpu_us_per_event": round(statistics.median(r.cpu_us_per_event for r in rounds), 2),
            "verified": True,
        },
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["worker"]))


if __name__ == "__main__":
    main()
