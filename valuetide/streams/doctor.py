"""Checks broker, topics, Redis, versions, partitioners and clock, and says what to do."""

import asyncio
import platform
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

from redis import asyncio as aioredis

from valuetide.schemas.errors import ValuetideError
from valuetide.schemas.topics import INPUTS
from valuetide.streams.admin import admin_client, topic_states
from valuetide.streams.connections import redis_client
from valuetide.streams.deadletters import read_records
from valuetide.streams.knock import DoorShutError, knock_at_redis
from valuetide.streams.partitioner import partition_of
from valuetide.streams.settings import Settings, misspelt_variables
from valuetide.streams.shard_memory import settings_mark
from valuetide.streams.store.redis import commit_key, mapped_errors

LEAST_REDIS = 7
LEAST_PYTHON = (3, 11)
SAMPLED_RECORDS = 50
MOST_SKEW_SECONDS = 5.0
LEAST_LISTPACK_VALUE = 1_024
SHUT_ADVICE = "set what the server asks for; docs/security.md has each door with its settings"
PACKAGES = ("valuetide", "faust-streaming", "aiokafka", "kafka-python", "redis", "pydantic")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: ``ok``, ``warning`` or ``error``, the fact, and what to do."""

    check: str
    state: Literal["ok", "warning", "error"]
    found: str
    advice: str = ""


async def examine(settings: Settings) -> list[Finding]:
    """Make all checks; one that cannot be made is a finding, too.

    Parameters
    ----------
    settings
        What is to be checked against.

    Returns
    -------
    list of Finding
        In the order in which to mend them.
    """
    findings = [_versions(), *_variables()]
    topics = await asyncio.to_thread(_topics, settings)
    findings += topics
    client = redis_client(settings)
    try:
        findings += await _guarded("redis", _redis(settings, client))
        if findings[-1].state != "error":
            findings += await _guarded("state", _state(settings, client))
            findings += await _guarded("clock", _clock(client))
    finally:
        await client.aclose()
    if all(finding.state == "ok" for finding in topics):
        findings += await _guarded("partitioners", _partitioners(settings))
    return findings


async def _guarded(check: str, findings: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        return await findings
    except ValuetideError as error:
        return [Finding(check, "error", str(error), _advice(check, error))]


def _advice(check: str, error: ValuetideError) -> str:
    return SHUT_ADVICE if isinstance(error, DoorShutError) else _ADVICE.get(check, "")


_ADVICE = {
    "broker": "start Kafka, or set VALUETIDE_BROKER",
    "redis": "start Redis, or set VALUETIDE_REDIS_URL=redis://[user:password@]host:port/0",
}


def _versions() -> Finding:
    found = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    found = f"Python {platform.python_version()}, {found}"
    if tuple(map(int, platform.python_version_tuple()[:2])) < LEAST_PYTHON:
        return Finding("versions", "error", found, "use Python 3.11 or later")
    return Finding("versions", "ok", found)


def _variables() -> list[Finding]:
    return [
        Finding(
            "settings",
            "warning",
            f"{variable} is set, and is no setting",
            f"do you mean {setting}?",
        )
        for variable, setting in misspelt_variables().items()
    ]


def _topics(settings: Settings) -> list[Finding]:
    try:
        with admin_client(settings) as client:
            states = topic_states(client, settings)
    except ValuetideError as error:
        return [Finding("broker", "error", str(error), _advice("broker", error))]
    findings = [Finding("broker", "ok", f"answers at {settings.broker}")]
    missing = [state.name for state in states if state.found_partitions is None]
    wrong = [state for state in states if state.found_partitions is not None and not state.sound]
    if missing:
        found = f"absent: {', '.join(missing)}"
        findings.append(Finding("topics", "error", found, "run `valuetide topics --create`"))
    if wrong:
        found = ", ".join(
            f"{state.name} has {state.found_partitions} partitions" for state in wrong
        )
        findings.append(
            Finding(
                "topics",
                "error",
                f"{found}; the settings say {settings.partitions}",
                "give all topics the same number and set VALUETIDE_PARTITIONS to it; a number that "
                "changes moves customers to other shards, so change it only with an empty state",
            )
        )
    if not missing and not wrong:
        found = f"{len(states)} topics, {settings.partitions} partitions each"
        findings.append(Finding("topics", "ok", found))
    return findings


async def _redis(settings: Settings, client: "aioredis.Redis") -> list[Finding]:
    await knock_at_redis(settings)
    with mapped_errors():
        info = await client.info()
        can_script = await client.eval("return cmsgpack.unpack(cmsgpack.pack(7))", 0)
    name = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    number = str(info.get("valkey_version") or info.get("redis_version"))
    findings: list[Finding] = []
    if int(number.partition(".")[0]) < LEAST_REDIS or can_script != 7:  # noqa: PLR2004
        return [Finding("redis", "error", f"{name} {number}", "use Redis 7 or later, or Valkey")]
    policy = str(info.get("maxmemory_policy", "?"))
    if int(info.get("maxmemory", 0)) and policy != "noeviction":
        findings.append(
            Finding(
                "redis memory",
                "error",
                f"maxmemory-policy is {policy}: it throws customers away when memory is short",
                "set maxmemory-policy noeviction",
            )
        )
    limit = await _listpack_limit(client)
    if limit is not None and limit < LEAST_LISTPACK_VALUE:
        findings.append(
            Finding(
                "redis memory",
                "warning",
                f"hash-max-listpack-value is {limit}: a customer takes twice the memory it could",
                f"set hash-max-listpack-value {LEAST_LISTPACK_VALUE}",
            )
        )
    if not int(info.get("aof_enabled", 0)) and settings.redis_url.get_secret_value():
        findings.append(
            Finding(
                "redis durability",
                "warning",
                "no append-only file: a crash of Redis loses what came since its last snapshot",
                "set appendonly yes (fine as it is for a trial)",
            )
        )
    return [*findings, Finding("redis", "ok", f"{name} {number} answers")]


async def _listpack_limit(client: "aioredis.Redis") -> int | None:
    try:
        with mapped_errors():
            answer = await client.config_get("hash-max-listpack-value")
    except ValuetideError:  # managed services forbid CONFIG
        return None
    limit = answer.get("hash-max-listpack-value")
    return None if limit is None else int(limit)


async def _state(settings: Settings, client: "aioredis.Redis") -> list[Finding]:
    wanted = settings_mark(settings)
    with mapped_errors():
        async with client.pipeline(transaction=False) as pipeline:
            for partition in range(settings.partitions):
                pipeline.hget(commit_key(settings.key_prefix, partition), "settings")
            marks = await pipeline.execute()
    others = {mark.decode() for mark in marks if mark is not None and mark.decode() != wanted}
    if others:
        return [
            Finding(
                "state",
                "error",
                f"was made with {'; '.join(sorted(others))}",
                f"put the settings back, or start afresh with another key_prefix (now: {wanted})",
            )
        ]
    shards = sum(mark is not None for mark in marks)
    return [Finding("state", "ok", f"{shards} of {settings.partitions} shards have one")]


async def _clock(client: "aioredis.Redis") -> list[Finding]:
    before = time.time()
    with mapped_errors():
        seconds, microseconds = await client.time()
    after = time.time()
    skew = (before + after) / 2 - (seconds + microseconds / 1e6)
    found = f"{skew:+.3f} s against Redis"
    if abs(skew) > MOST_SKEW_SECONDS:
        return [Finding("clock", "error", found, "run a time service (NTP) on both machines")]
    return [Finding("clock", "ok", found)]


async def _partitioners(settings: Settings) -> list[Finding]:
    """Look at the first records of each partition, whether murmur2 puts their keys there."""
    findings: list[Finding] = []
    for role in INPUTS:
        topic = getattr(settings.topics, role)
        seen = strays = keyless = 0
        async for record in read_records(settings, topic, SAMPLED_RECORDS):
            seen += 1
            if record.key is None:
                keyless += 1
            else:
                key = record.key.decode(errors="replace")
                strays += partition_of(key, settings.partitions) != record.partition
        if not strays and not keyless:
            found = f"{topic}: {seen} records looked at, all where murmur2 puts their key"
            findings.append(Finding("partitioners", "ok", found if seen else f"{topic}: empty"))
            continue
        findings.append(
            Finding(
                "partitioners",
                "warning",
                f"{topic}: of {seen} records {strays} are in another partition than murmur2 puts "
                f"their key, {keyless} have no key; each costs a detour",
                "have producers send the customer_id as key and use murmur2 (librdkafka: "
                "partitioner=murmur2_random)",
            )
        )
    return findings
