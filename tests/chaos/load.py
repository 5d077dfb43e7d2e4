"""The load of a chaos run: a made-up shop's events, as a bad network of producers sends them.

    python -m tests.chaos.load CONFIG.json

A process of its own, which sends at a steady rate until it gets SIGTERM, tries again whatever the
broker has not acknowledged, and writes a line for each batch that it has. What it sends follows
from the seed, cohort by cohort, so that whoever verifies the run can make the same again.

Of a cohort's events, all within an hour of event time, some are sent two or three times, and all
copies are shuffled. Most go to the partition that Java's partitioner chooses, some to that of
librdkafka's, some have no key, some are simply wrong, and some are no events.
"""

import asyncio
import json
import random
import signal
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from tests.support.pipeline import Facts, Raw
from tests.support.traffic import START, traffic
from valuetide.streams.partitioner import partition_of

COHORT_CUSTOMERS = 500
COHORT_BAD = 8
HOUR_SECONDS = 3_600
COHORT_SECONDS = 120
"""Event time goes on by so much from cohort to cohort."""

COPIES, COPIES_WEIGHTS = (1, 2, 3), (85, 10, 5)
ROUTES, ROUTES_WEIGHTS = ("java", "crc32", "no key", "wrong"), (950, 30, 10, 10)
TICK_SECONDS = 0.2
MOST_BEHIND_SECONDS = 3.0
"""What could not be sent within this is not made up for: the rate is steady, not the total."""

MOST_BATCHES_OPEN = 600
RETRY_SECONDS = 0.2


def cohort_events(seed: int, number: int) -> list[Facts]:
    """Give the distinct events of a cohort: 3 to 14 for each of its customers."""
    chance = random.Random(f"{seed}/{number}/events")
    events = traffic(chance.randrange(2**32), COHORT_CUSTOMERS, name=f"c{number}")
    for _, event in events:
        at = START + number * COHORT_SECONDS + chance.randrange(HOUR_SECONDS * 1_000) / 1_000
        event["occurred_at"] = at
    return events


def bad_ids(number: int) -> list[str]:
    """Give what the bad events of a cohort have in them somewhere."""
    return [f"bad-{number}-{i}." for i in range(COHORT_BAD)]


def cohort_messages(seed: int, number: int, partitions: int) -> list[Raw]:
    """Give all messages of a cohort in the order in which they are sent."""
    chance = random.Random(f"{seed}/{number}/messages")
    messages = []
    for role, event in cohort_events(seed, number):
        value = json.dumps(event).encode()
        customer = event["customer_id"]
        for _ in range(chance.choices(COPIES, COPIES_WEIGHTS)[0]):
            key, partition = _route(chance, customer, partitions)
            messages.append(Raw(role, partition, key, value))
    for i, bad in enumerate(bad_ids(number)):
        value = _bad_value(i, bad)
        messages.append(Raw("orders", chance.randrange(partitions), bad.encode(), value))
    chance.shuffle(messages)
    return messages


def _route(chance: random.Random, customer: str, partitions: int) -> tuple[bytes | None, int]:
    key = customer.encode()
    route = chance.choices(ROUTES, ROUTES_WEIGHTS)[0]
    if route == "java":
        return key, partition_of(customer, partitions)
    if route == "crc32":
        return key, zlib.crc32(key) % partitions
    return key if route == "wrong" else None, chance.randrange(partitions)


def _bad_value(kind: int, bad: str) -> bytes:
    order: dict[str, Any] = {
        "event_id": bad,
        "customer_id": f"customer-{bad}",
        "occurred_at": START,
        "order_id": bad,
        "kind": "placed",
        "amount": 1.0,
        "currency": "EUR",
    }
    wrong: list[dict[str, Any]] = [
        {"amount": -1},
        {"currency": "XYZ"},
        {"kind": "stolen"},
        {"occurred_at": "yesterday"},
        {"customer_id": ["nobody"]},
    ]
    if kind % 6 == 5:
        return f'{{"no": "JSON {bad}"'.encode()
    return json.dumps(order | wrong[kind % 6]).encode()


@dataclass
class Sent:
    """What the producer has to say at its end."""

    cohorts: int = 0
    messages: int = 0
    acknowledged: int = 0
    tries_again: int = 0
    seconds: float = 0.0
    held_up_seconds: float = 0.0


class Load:
    """The producer."""

    def __init__(self, config: dict[str, Any], log: IO[str]) -> None:
        self._seed: int = config["seed"]
        self._rate: float = config["events_per_second"]
        self._topics: dict[str, str] = config["topics"]
        self._partitions: int = config["partitions"]
        self._log = log
        self._stop = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()
        self._producer: AIOKafkaProducer = AIOKafkaProducer(
            bootstrap_servers=config["broker"],
            acks="all",
            max_batch_size=256 * 1024,
            request_timeout_ms=8_000,
            retry_backoff_ms=100,
        )
        self.sent = Sent()

    async def run(self) -> Sent:
        """Send until told to stop, then to the end of the cohort and until all is acknowledged."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        await self._producer.start()
        try:
            await self._send_all()
            if self._open:
                await asyncio.wait(self._open)
        finally:
            await self._producer.stop()
        return self.sent

    async def _send_all(self) -> None:
        sent = self.sent
        started = due = time.monotonic()
        tick: list[Raw] = []
        for message in self._messages():
            tick.append(message)
            if len(tick) < self._rate * TICK_SECONDS:
                continue
            self._dispatch(tick)
            tick = []
            due += TICK_SECONDS
            while len(self._open) > MOST_BATCHES_OPEN:
                await asyncio.wait(self._open, return_when=asyncio.FIRST_COMPLETED)
            now = time.monotonic()
            if now - due > MOST_BEHIND_SECONDS:
                sent.held_up_seconds += now - due
                due = now
            await asyncio.sleep(max(0.0, due - now))
        self._dispatch(tick)
        sent.seconds = time.monotonic() - started

    def _messages(self) -> Iterator[Raw]:
        while not self._stop.is_set():
            yield from cohort_messages(self._seed, self.sent.cohorts, self._partitions)
            self.sent.cohorts += 1

    def _dispatch(self, messages: list[Raw]) -> None:
        self.sent.messages += len(messages)
        groups: dict[tuple[str, int], list[Raw]] = defaultdict(list)
        for message in messages:
            groups[message.role, message.partition].append(message)
        for (role, partition), group in groups.items():
            task = asyncio.create_task(self._send(role, partition, group))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def _send(self, role: str, partition: int, group: list[Raw]) -> None:
        """Send until acknowledged: what was written and not acknowledged is there twice then."""
        tries = 0
        while True:
            tries += 1
            batch = self._producer.create_batch()
            for one in group:
                added = batch.append(key=one.key, value=one.value, timestamp=None)
                assert added is not None, "a tick exceeds a batch"
            batch.close()
            try:
                future = await self._producer.send_batch(
                    batch, self._topics[role], partition=partition
                )
                place = await future
            except KafkaError:
                self.sent.tries_again += 1
                await asyncio.sleep(RETRY_SECONDS)
                continue
            break
        self.sent.acknowledged += len(group)
        line = [round(time.time(), 3), role, partition, place.offset, len(group), tries]
        self._log.write(json.dumps(line) + "\n")


def main() -> None:
    """Run the producer that a file describes."""
    config = json.loads(Path(sys.argv[1]).read_text())
    with Path(config["log"]).open("w", buffering=1) as log:
        sent = asyncio.run(_run(config, log))
    Path(config["summary"]).write_text(json.dumps(vars(sent)))


async def _run(config: dict[str, Any], log: IO[str]) -> Sent:
    return await Load(config, log).run()


if __name__ == "__main__":
    main()
