"""Alerts out of Redis: those that go on, the steps of earlier ones, and who said "we know".

Two of the keys are written with the commits of a shard or of the watch, see
:mod:`valuetide.streams.store.redis`; the third is ours:

    cv:{p}:alerts   stream  steps in the lives of alerts, field alert
    cv:{p}:alert    hash    fingerprint -> last step of each alert that goes on
    cv:{p}:acks     hash    fingerprint -> JSON: until_ms, ms since 1970; by, who; why

An acknowledgement is of a fingerprint, not of one alert: one that ends and begins again before
``until_ms`` is known, too. Those that have expired go when the next one of their shard is written.

What cannot be read, such as a step that a newer release has made, is said in the log and passed
over: it must not keep anybody from the rest.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, cast

from pydantic import TypeAdapter, ValidationError
from redis import asyncio as aioredis

from valuetide.schemas.alert import Alert
from valuetide.schemas.errors import FaultError
from valuetide.streams.clock import Clock
from valuetide.streams.settings import Settings
from valuetide.streams.store.redis import (
    acks_key,
    alerts_key,
    commit_key,
    mapped_errors,
    open_alerts_key,
)

# Not structlog, which writes to stdout where nobody has set it up: that is for a command's answer.
log = logging.getLogger(__name__)

ALERT: Final = TypeAdapter(Alert)
PAGE_STEPS: Final = 1_000
PARTITIONS_AT_ONCE: Final = 100
"""Of a read over all partitions; an answer is a few MB at most."""

BLOCK_MS: Final = 5_000
"""A read waits this long for a new step; the client's own limit is longer."""

NAMED: Final = 5
"""Fingerprints that are named where a prefix fits several."""


class NoSuchAlertError(FaultError):
    """No alert has this fingerprint, or several begin with what was given."""


class StepId(NamedTuple):
    """Where a step is in a shard's stream; later ones compare greater."""

    ms: int
    number: int

    @classmethod
    def parse(cls, text: bytes) -> "StepId":
        """Take Redis's form.

        Examples
        --------
        >>> StepId.parse(b"1700000000000-3") < StepId.parse(b"1700000000000-12")
        True
        """
        ms, _, number = text.decode().partition("-")
        return cls(int(ms), int(number))

    def __str__(self) -> str:
        return f"{self.ms}-{self.number}"


@dataclass(frozen=True, slots=True)
class Step:
    """A step in the life of an alert, as it lies in its shard's stream.

    Attributes
    ----------
    at
        Place in the stream; ``at.ms`` is when it was committed, by Redis's clock.
    partition
        The shard.
    alert
        The message.
    """

    at: StepId
    partition: int
    alert: Alert


@dataclass(frozen=True, slots=True)
class UnreadableStep:
    """A step in a shard's stream that this release does not understand.

    Attributes
    ----------
    at, partition
        As of a :class:`Step`.
    why
        What is wrong with it.
    """

    at: StepId
    partition: int
    why: str


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Somebody knows of an alert, and nobody else need be told.

    Attributes
    ----------
    until_ms
        When it expires, ms since 1970, event time.
    by, why
        Who, and the reason given.
    """

    until_ms: int
    by: str
    why: str

    def as_json(self) -> dict[str, str]:
        """Give it as people and programs read it."""
        until = datetime.fromtimestamp(self.until_ms / 1000.0, UTC)
        return {"until": f"{until:%Y-%m-%dT%H:%M:%SZ}", "by": self.by, "why": self.why}


@dataclass(frozen=True, slots=True)
class OpenAlert:
    """An alert that goes on.

    Attributes
    ----------
    partition
        The shard that keeps it.
    alert
        Its last step.
    acknowledged
        By whom and until when; ``None`` where nobody has, or it has expired.
    """

    partition: int
    alert: Alert
    acknowledged: Acknowledgement | None

    def as_json(self) -> dict[str, Any]:
        """Give the message, and ``acknowledged`` beside its fields."""
        known = self.acknowledged
        return alert_as_json(self.alert) | {
            "acknowledged": None if known is None else known.as_json()
        }


@dataclass(frozen=True, slots=True)
class History:
    """All that is still known of one alert, or of several with one fingerprint.

    Attributes
    ----------
    fingerprint
        Whose.
    now
        It goes on; ``None`` when it has ended.
    steps
        In their order; the stream forgets the oldest.
    """

    fingerprint: str
    now: OpenAlert | None
    steps: list[Step]

    def as_json(self) -> dict[str, Any]:
        """Give ``fingerprint``, ``open``, ``acknowledged`` and ``steps``."""
        known = None if self.now is None else self.now.acknowledged
        return {
            "fingerprint": self.fingerprint,
            "open": self.now is not None,
            "acknowledged": None if known is None else known.as_json(),
            "steps": [alert_as_json(step.alert) for step in self.steps],
        }


def alert_as_json(alert: Alert) -> dict[str, Any]:
    """Give a message as JSON has it, times as text."""
    return cast("dict[str, Any]", ALERT.dump_python(alert, mode="json"))


class AlertReader:
    """Reads the alerts of all shards, and acknowledges them.

    Parameters
    ----------
    settings
        Key prefix, number of partitions and what now is.
    client
        Of Redis; whoever made it closes it.
    """

    def __init__(self, settings: Settings, client: "aioredis.Redis") -> None:
        self._prefix = settings.key_prefix
        self._partitions = range(settings.partitions)
        self._clock = Clock(settings.clock, settings.live_within_seconds)
        self._client = client

    async def open(self) -> list[OpenAlert]:
        """Give the alerts that go on, those with most money at stake first."""
        now_ms = await self.now_ms()
        found: list[OpenAlert] = []
        for part in self._parts():
            with mapped_errors():
                async with self._client.pipeline(transaction=False) as pipeline:
                    for partition in part:
                        pipeline.hgetall(open_alerts_key(self._prefix, partition))
                        pipeline.hgetall(acks_key(self._prefix, partition))
                    answers = await pipeline.execute()
            for partition, last, acks in zip(part, answers[::2], answers[1::2], strict=True):
                for alert in parse_open(partition, last):
                    name = alert["fingerprint"]
                    known = parse_acknowledgement(name, acks.get(name.encode()))
                    active = known if known is not None and known.until_ms > now_ms else None
                    found.append(OpenAlert(partition, alert, active))
        found.sort(key=lambda one: (-one.alert["stake_per_day"], one.alert["fingerprint"]))
        return found

    async def steps(self, count: int) -> list[Step]:
        """Give the last steps of all alerts, newest first, at most ``count``."""
        found: list[Step] = []
        for part in self._parts():
            with mapped_errors():
                async with self._client.pipeline(transaction=False) as pipeline:
                    for partition in part:
                        pipeline.xrevrange(alerts_key(self._prefix, partition), count=count)
                    answers = await pipeline.execute()
            for partition, entries in zip(part, answers, strict=True):
                found += parse_steps(partition, entries)
            found.sort(key=lambda step: (step.at, step.partition), reverse=True)
            del found[count:]
        return found

    async def history(self, prefix: str, *, ended: bool = True) -> History:
        """Give what is known of one alert.

        Parameters
        ----------
        prefix
            Its fingerprint, or the beginning of it. Alerts that go on come first: only where none
            fits, those that have ended are looked through.
        ended
            Whether to look through those, too: that reads the streams of all shards.

        Raises
        ------
        NoSuchAlertError
            When none fits, or more than one.
        """
        now = _the_one(prefix, {a.alert["fingerprint"]: a for a in await self.open()})
        if now is None and not ended:
            raise NoSuchAlertError(f"no alert {prefix} goes on; one that has ended is named whole")
        steps: dict[str, list[Step]] = {}
        wanted = prefix if now is None else now.alert["fingerprint"]
        for partition in self._partitions if now is None else [now.partition]:
            async for step in self._steps_with(wanted, partition):
                if step.alert["fingerprint"].startswith(wanted):
                    steps.setdefault(step.alert["fingerprint"], []).append(step)
        if now is not None:
            return History(wanted, now, steps.get(wanted, []))
        over = _the_one(prefix, steps)
        if over is None:
            raise NoSuchAlertError(
                f"no alert {prefix}; `valuetide alerts list` has those there are"
            )
        return History(over[0].alert["fingerprint"], None, over)

    async def follow(self) -> AsyncIterator[Step]:
        """Give every step that is made from now on, for ever."""
        keys = {alerts_key(self._prefix, p).encode(): p for p in self._partitions}
        # Redis's own "$" would begin anew with every read, and what comes in between is missed.
        after: dict[bytes, str] = dict.fromkeys(keys, "0-0")
        for part in self._parts():
            with mapped_errors():
                async with self._client.pipeline(transaction=False) as pipeline:
                    for partition in part:
                        pipeline.xrevrange(alerts_key(self._prefix, partition), count=1)
                    answers = await pipeline.execute()
            for partition, entries in zip(part, answers, strict=True):
                if entries:
                    after[alerts_key(self._prefix, partition).encode()] = entries[0][0].decode()
        task = asyncio.current_task()
        # Before Python 3.12 the client may swallow a cancellation, see streams.tasks.
        while task is None or not task.cancelling():
            with mapped_errors():
                answer = await self._client.xread(
                    cast("dict[Any, Any]", after), count=PAGE_STEPS, block=BLOCK_MS
                )
            for key, entries in _by_stream(answer):
                after[key] = entries[-1][0].decode()
                for step in parse_steps(keys[key], entries):
                    yield step
        raise asyncio.CancelledError

    async def acknowledge(
        self, prefix: str, seconds: float, by: str, why: str
    ) -> tuple[OpenAlert, Acknowledgement]:
        """Have nobody told of an alert for a while.

        Parameters
        ----------
        prefix
            Fingerprint of an alert that goes on, or the beginning of it.
        seconds
            For how long from what is now for the workers: event time in a replay.
        by, why
            For whoever looks at the alert.

        Raises
        ------
        NoSuchAlertError
            When none that goes on fits, or more than one.
        """
        found = _the_one(prefix, {a.alert["fingerprint"]: a for a in await self.open()})
        if found is None:
            raise NoSuchAlertError(
                f"no alert {prefix} that goes on; `valuetide alerts list` has those there are"
            )
        now_ms = await self.now_ms()
        known = Acknowledgement(now_ms + round(seconds * 1000.0), by, why)
        text = json.dumps({"until_ms": known.until_ms, "by": by, "why": why})
        key = acks_key(self._prefix, found.partition)
        with mapped_errors():
            acks = await cast("Awaitable[dict[bytes, bytes]]", self._client.hgetall(key))
        expired = [
            name
            for name, raw in acks.items()
            if (one := parse_acknowledgement(name.decode(), raw)) and one.until_ms <= now_ms
        ]
        with mapped_errors():
            async with self._client.pipeline(transaction=True) as pipeline:
                if expired:
                    pipeline.hdel(key, *cast("list[str]", expired))
                pipeline.hset(key, found.alert["fingerprint"], text)
                await pipeline.execute()
        return found, known

    async def now_ms(self) -> int:
        """Give what is now for the workers' clock, ms since 1970."""
        shards: list[tuple[int, bool]] = []
        for part in self._parts():
            with mapped_errors():
                async with self._client.pipeline(transaction=False) as pipeline:
                    for partition in part:
                        pipeline.hmget(commit_key(self._prefix, partition), "max_event_at", "live")
                    answers = await pipeline.execute()
            shards += ((int(at or 0), live == b"1") for at, live in answers)
        return self._clock.now_of(shards)

    def _parts(self) -> Iterator[Sequence[int]]:
        for start in range(0, len(self._partitions), PARTITIONS_AT_ONCE):
            yield self._partitions[start : start + PARTITIONS_AT_ONCE]

    async def _steps_with(self, text: str, partition: int) -> AsyncIterator[Step]:
        """Give what a shard's stream still has with some text in it, oldest first."""
        after, wanted = "-", text.encode()
        while True:
            with mapped_errors():
                entries: Any = await self._client.xrange(
                    alerts_key(self._prefix, partition), min=after, count=PAGE_STEPS
                )
            # Finding text costs a tenth of making a message.
            having = [entry for entry in entries if wanted in entry[1].get(b"alert", b"")]
            for step in parse_steps(partition, having):
                yield step
            if len(entries) < PAGE_STEPS:
                return
            after = f"({entries[-1][0].decode()}"


def parse_alert(text: bytes | str) -> Alert:
    """Make a message of its JSON.

    Raises
    ------
    FaultError
        When it is none.
    """
    try:
        return ALERT.validate_json(text)
    except ValidationError as error:
        wrong = ", ".join(sorted({".".join(map(str, e["loc"])) for e in error.errors()}))
        raise FaultError(f"an alert in Redis cannot be read: {wrong or 'no JSON'}") from None


def parse_open(partition: int, found: Mapping[bytes, bytes]) -> Iterator[Alert]:
    """Make messages of a shard's alerts that go on; those that cannot be read are passed over."""
    for fingerprint, text in found.items():
        try:
            yield parse_alert(text)
        except FaultError as error:
            name = fingerprint.decode(errors="replace")
            log.warning("alert %s of partition %d is passed over: %s", name, partition, error)


def parse_entries(
    partition: int, entries: Iterable[tuple[bytes, dict[bytes, bytes]]]
) -> Iterator[Step | UnreadableStep]:
    """Make steps of a stream's entries."""
    for place, fields in entries:
        at = StepId.parse(place)
        try:
            yield Step(at, partition, parse_alert(fields.get(b"alert", b"")))
        except FaultError as error:
            yield UnreadableStep(at, partition, str(error))


def parse_steps(
    partition: int, entries: Iterable[tuple[bytes, dict[bytes, bytes]]]
) -> Iterator[Step]:
    """Make steps of a stream's entries; those that cannot be read are passed over."""
    for step in parse_entries(partition, entries):
        if isinstance(step, Step):
            yield step
        else:
            log.warning("step %s of partition %d is passed over: %s", step.at, partition, step.why)


def parse_acknowledgement(fingerprint: str, raw: bytes | str | None) -> Acknowledgement | None:
    """Make an acknowledgement of its JSON; ``None`` where there is none, or none to be read."""
    if raw is None:
        return None
    try:
        entry = json.loads(raw)
        return Acknowledgement(int(entry["until_ms"]), str(entry["by"]), str(entry["why"]))
    except (ValueError, TypeError, KeyError, OverflowError):
        log.warning("the acknowledgement of %s is passed over: it cannot be read", fingerprint)
        return None


def _by_stream(answer: Any) -> Iterable[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]:
    """Give the streams of an XREAD's answer, whose form is the protocol version's.

    RESP2 has a list of pairs; RESP3 a mapping, whose values redis-py wraps into a list once more.
    """
    if isinstance(answer, dict):
        return [(key, pages[0]) for key, pages in answer.items()]
    return cast("list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]", answer or [])


def _the_one(prefix: str, found: dict[str, Any]) -> Any:
    """Give what belongs to the only fingerprint that begins so, ``None`` where none does."""
    fits = sorted(name for name in found if name.startswith(prefix))
    if len(fits) > 1:
        shown = ", ".join(fits[:NAMED]) + (" ..." if len(fits) > NAMED else "")
        raise NoSuchAlertError(f"{prefix} is the beginning of several alerts: {shown}")
    return found[fits[0]] if fits else None
