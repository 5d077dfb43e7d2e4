"""Drives the whole pipeline in a test: topics of its own, events in, state and messages out."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from aiokafka import AIOKafkaProducer
from click.testing import CliRunner
from kafka.admin import KafkaAdminClient
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from pydantic_core import from_json

from tests.support.reference import Event, Value, reference
from valuetide.schemas.score import Score
from valuetide.schemas.topics import INPUTS, TopicNames
from valuetide.schemas.vocabulary import Vocabulary
from valuetide.streams.cli import cli as command
from valuetide.streams.deadletters import read_records
from valuetide.streams.decode import Role
from valuetide.streams.local import LOCAL, LocalWorker, prepare
from valuetide.streams.partitioner import partition_of
from valuetide.streams.reader import Overview, Reader
from valuetide.streams.settings import Settings, load_settings
from valuetide.streams.webhooks.hook import REVEAL

PARTITIONS = 4
WAIT_SECONDS = 40.0
POLL_SECONDS = 0.01
MAX_REQUEST_BYTES = 8 * 1_048_576
T = TypeVar("T")

Facts = tuple[Role, dict[str, Any]]
"""An event as its producer writes it, and the topic it goes to."""


class Raw(NamedTuple):
    """A message as it is put on an input topic."""

    role: Role
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Found(NamedTuple):
    """A message as it is found on a topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, str]


@dataclass
class Pipeline:
    """Topics, group and keys of one test, and what was sent so far."""

    settings: Settings
    sent: Counter[tuple[str, int]] = field(default_factory=Counter)

    def with_settings(self, **overrides: Any) -> "Pipeline":
        """Give the same topics, group and keys under other settings."""
        return Pipeline(self.settings.model_copy(update=overrides), self.sent)

    def home(self, customer: str) -> int:
        return partition_of(customer, self.settings.partitions)

    def message(self, facts: Facts) -> Raw:
        """Give an event as a well-behaved producer sends it."""
        role, event = facts
        customer = event["customer_id"]
        value = json.dumps(event, ensure_ascii=False).encode()
        return Raw(role, self.home(customer), customer.encode(), value)

    def send(self, events: Iterable[Facts]) -> list[Raw]:
        return self.produce([self.message(facts) for facts in events])

    def produce(self, messages: Iterable[Raw]) -> list[Raw]:
        """Write messages to their partitions, in order, and remember the positions."""
        messages = list(messages)
        run(_produce(self.settings, messages))
        self.sent.update((message.role, message.partition) for message in messages)
        return messages

    def worker(self, **overrides: Any) -> LocalWorker:
        """Give a worker as a child process, not started."""
        return LocalWorker(self.settings.model_copy(update=overrides))

    def finish(
        self, *workers: LocalWorker, more: Mapping[tuple[str, int], int] | None = None
    ) -> None:
        """Wait until the state has all that was sent, and ``more`` messages by place."""
        wanted = dict(self.sent + Counter(more or {}))

        async def wait() -> bool:
            async with Reader(self.settings) as reader:
                return await reader.wait_for_positions(wanted, WAIT_SECONDS)

        if not run(wait()):
            logs = "\n".join(worker.log_tail() for worker in workers)
            raise AssertionError(f"positions are {self.overview().positions}, not {wanted}\n{logs}")

    def overview(self) -> Overview:
        async def read() -> Overview:
            async with Reader(self.settings) as reader:
                return await reader.overview()

        return run(read())

    def progress(self) -> int:
        """Count the events that the state has accounted for."""
        return sum(self.overview().positions.values())

    def count(self, outcome: str, role: Role | None = None) -> int:
        events = self.overview().events
        return sum(events[name].get(outcome, 0) for name in ([role] if role else INPUTS))

    def state(self) -> dict[str, Score]:
        """Read every customer out of Redis."""

        async def read() -> dict[str, Score]:
            async with Reader(self.settings) as reader:
                return {score["customer_id"]: score async for score in reader.scan()}

        return run(read())

    def messages(self, topic: str) -> list[Found]:
        """Read a topic from its beginning to its end."""

        async def read() -> list[Found]:
            return [
                Found(
                    record.partition,
                    record.offset,
                    record.key,
                    record.value,
                    {name: value.decode() for name, value in record.headers},
                )
                async for record in read_records(self.settings, topic)
            ]

        return run(read())

    def dead_letters(self) -> list[Found]:
        return self.messages(self.settings.topics.dead_letters)

    def newest_scores(self) -> dict[str, Score]:
        """Read the newest version of each customer from the ``scores`` topic."""
        newest: dict[str, Score] = {}
        for found in self.messages(self.settings.topics.scores):
            score: Score = from_json(found.value or b"")
            customer = score["customer_id"]
            assert found.key == customer.encode()
            assert found.partition == self.home(customer)
            if customer not in newest or _age(newest[customer]) <= _age(score):
                newest[customer] = score
        return newest

    def group_offsets(self) -> dict[tuple[str, int], int]:
        """Ask the broker for the consumer group's offsets."""
        roles = {getattr(self.settings.topics, role): role for role in INPUTS}
        client = KafkaAdminClient(bootstrap_servers=self.settings.broker)
        try:
            group = self.settings.group
            offsets = client.list_group_offsets(group)[group]
        finally:
            client.close()
        return {
            (roles[place.topic], place.partition): at.offset
            for place, at in offsets.items()
            if at.offset >= 0
        }

    @cached_property
    def environment(self) -> dict[str, str]:
        """Environment for a process of ours with these settings."""
        return environment_of(self.settings)


def without_ranks(scores: Mapping[str, Score]) -> dict[str, dict[str, Any]]:
    """Leave out percentiles: a message has that of its moment, a reader gives that of now."""
    return {
        who: {name: value for name, value in score.items() if name != "clv_percentile"}
        for who, score in scores.items()
    }


def make_pipeline(broker: str, redis_url: str, prefix: str, **overrides: Any) -> Pipeline:
    """Make names of its own for a test, and the topics."""
    settings = make_settings(broker, redis_url, prefix, **overrides)
    prepare(settings)
    return Pipeline(settings)


def make_settings(broker: str, redis_url: str, prefix: str, **overrides: Any) -> Settings:
    given: dict[str, Any] = {
        "topics": TopicNames(**{role: f"{prefix}-{role}" for role in TopicNames.model_fields}),
        "group": prefix,
        "key_prefix": prefix,
        "partitions": PARTITIONS,
        "log_format": "json",
        "http_port": 0,
        # The embedded broker makes a first member wait for half a session.
        "session_timeout_seconds": 2.0,
        "heartbeat_seconds": 0.4,
        # Nothing changes but by events, unless a test is about that.
        "refresh_seconds": 0,
        # Tests look at a worker's state many times a second.
        "http_rate_per_second": 10_000.0,
        "http_burst": 10_000,
    }
    return load_settings(broker=broker, redis_url=redis_url, **(LOCAL | given | overrides))


def environment_of(settings: Settings, **more: str) -> dict[str, str]:
    """Write settings as environment variables, beside what every process needs."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
    variables = {name: os.environ[name] for name in kept if name in os.environ}
    values = settings.model_dump(mode="json", exclude_none=True, context=REVEAL)
    for name in values:
        if isinstance(secret := getattr(settings, name), SecretStr):
            values[name] = secret.get_secret_value()
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        variables[f"VALUETIDE_{name.upper()}"] = text
    return variables | more


def start_cli(environment: Mapping[str, str], *arguments: str) -> "subprocess.Popen[str]":
    """Start ``valuetide`` with pipes for its output; the caller ends it."""
    return subprocess.Popen(
        [sys.executable, "-m", "valuetide", *arguments],
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def cli(
    environment: Mapping[str, str], *arguments: str, seconds: float = WAIT_SECONDS
) -> "subprocess.CompletedProcess[str]":
    """Run ``valuetide`` to its end."""
    process = start_cli(environment, *arguments)
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        end(process)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def invoke(environment: Mapping[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run ``valuetide`` to its end in this process, which saves the time of starting one."""
    result = CliRunner().invoke(command, arguments, env=dict(environment), prog_name="valuetide")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


def end(process: "subprocess.Popen[str]") -> None:
    """Make sure that a process of ours is gone."""
    if process.poll() is None:
        process.kill()
        process.wait()


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """Stop a process of ours for the length of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def metric(worker: LocalWorker, name: str, **labels: str) -> float:
    """Give one of a worker's metrics, 0 where it is not there yet."""
    status, text = worker.get("/metrics")
    assert status == 200, text
    return metric_in(text, name, **labels)


def metric_in(text: str, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def wait_until(condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait until a condition holds, or fail with what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(POLL_SECONDS)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


def check_state(pipeline: Pipeline, events: Iterable[Facts]) -> dict[str, Score]:
    """Compare every customer, the totals and the counters with a batch recomputation.

    ``events`` are all that were accepted or repeated, in the order of arrival.
    """
    events = list(events)
    vocabulary = pipeline.settings.vocabulary
    by_customer = in_reference_terms(events, vocabulary)
    state = pipeline.state()
    assert state.keys() == by_customer.keys()
    wrong = {
        customer: fields
        for customer, score in state.items()
        if (fields := differences(score, by_customer[customer], vocabulary))
    }
    assert not wrong
    overview = pipeline.overview()
    assert overview.totals["customers"] == len(state)
    for name in ("orders", "revenue", "refunds", "margin", "cost_to_serve", "profit"):
        parts = (Decimal(str(score[name])) for score in state.values())
        assert Decimal(str(overview.totals[name])) == sum(parts), name
    folded = sum(counts.get("folded", 0) for counts in overview.events.values())
    assert folded == sum(score["version"] for score in state.values())
    accounted = sum(sum(counts.values()) for counts in overview.events.values())
    assert accounted == sum(overview.positions.values())
    return state


def in_reference_terms(
    events: Iterable[Facts], vocabulary: Vocabulary | None = None
) -> dict[str, list[Event]]:
    """Give events by customer in the terms of the reference."""
    words = vocabulary or Vocabulary()
    numbers: dict[tuple[str, str], int] = defaultdict(lambda: len(numbers))
    by_customer: dict[str, list[Event]] = defaultdict(list)
    for role, event in events:
        rate = Decimal(1)
        if role == "orders" and event["currency"] != words.base_currency:
            rate = words.exchange_rates[event["currency"]]
        kind: Any = event["kind"] if role == "orders" else role.removesuffix("s")
        by_customer[event["customer_id"]].append(
            Event(
                numbers[role, event["event_id"]],
                kind,
                _ms(event["occurred_at"]),
                numbers["order", event.get("order_id", "")],
                _minor(event.get("amount"), rate, words),
                _minor(event.get("cost"), rate, words),
            )
        )
    return dict(by_customer)


def differences(score: Score, events: list[Event], vocabulary: Vocabulary) -> list[str]:
    """Name the fields of a score that are not what a batch recomputation says."""
    now = _ms(score["as_of"])
    value = reference(events, now, minor_digits=vocabulary.minor_digits, bands=vocabulary.rfm)
    gross = sum(event.amount for event in events)
    wrong = []
    for name, expected in _written(value, vocabulary).items():
        found: Any = score[name]  # type: ignore[literal-required]
        if isinstance(found, float) and isinstance(expected, float):
            slack = {"recency_days": 1e-5, "decayed_value": 1e-4, "monetary_value": 1e-4}
            if abs(found - expected) > slack.get(name, 0.0) * 0.51 + 1e-11 * gross:
                wrong.append(f"{name}: {found}, not {expected}")
        elif found != expected:
            wrong.append(f"{name}: {found}, not {expected}")
    return wrong


def _written(value: Value, vocabulary: Vocabulary) -> dict[str, Any]:
    """Give a value as it is written: money in units, times as text."""
    unit = 10**vocabulary.minor_digits
    written = {name: getattr(value, name) for name in Value.__dataclass_fields__}
    for name in ("revenue", "refunds", "margin", "cost_to_serve", "profit"):
        written[name] = written[name] / unit
    for name in ("first_order_at", "last_order_at"):
        written[name] = None if written[name] is None else rfc3339(written[name])
    return written


def rfc3339(at_ms: int) -> str:
    seconds, ms = divmod(at_ms, 1_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{ms:03d}Z"


def _ms(at: object) -> int:
    if isinstance(at, str):
        at = datetime.fromisoformat(at).timestamp()
    assert isinstance(at, int | float)
    return round(at * 1_000)


def _minor(amount: float | None, rate: Decimal, vocabulary: Vocabulary) -> int:
    return round(Decimal(str(amount or 0)) * rate * Decimal(10) ** vocabulary.minor_digits)


def _age(score: Score) -> tuple[int, str]:
    return score["version"], str(score["as_of"])


async def _produce(settings: Settings, messages: list[Raw]) -> None:
    by_place: dict[tuple[str, int], list[Raw]] = defaultdict(list)
    for message in messages:
        by_place[getattr(settings.topics, message.role), message.partition].append(message)
    producer: AIOKafkaProducer = AIOKafkaProducer(
        bootstrap_servers=settings.broker,
        max_batch_size=128 * 1024,
        max_request_size=MAX_REQUEST_BYTES,
    )
    await producer.start()
    try:
        futures = []
        for (topic, partition), group in by_place.items():
            at = 0
            while at < len(group):
                batch = producer.create_batch()
                while at < len(group):
                    one = group[at]
                    if (
                        batch.append(
                            key=one.key, value=one.value, timestamp=None, headers=list(one.headers)
                        )
                        is None
                    ):
                        break
                    at += 1
                batch.close()
                futures.append(await producer.send_batch(batch, topic, partition=partition))
        await asyncio.gather(*futures)
    finally:
        await producer.stop()
