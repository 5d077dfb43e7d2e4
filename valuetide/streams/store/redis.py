"""The state store in Redis.

Layout; ``p`` is the shard, ``cv`` the key prefix, and braces make all keys of a shard lie in one
slot of a Redis Cluster:

    cv:{p}:customer:<id>   hash    the score fields, readable; s = packed state (scoring.packed).
                                   In the compact layout s alone: readers compute the score
    cv:{p}:commit          hash    sequence, writer, offsets, counters, totals, settings
    cv:{p}:series:month    hash    YYYY-MM -> sums of accepted order events
    cv:{p}:model           hash    what the shard has learned, the grades of what it predicted, and
                                   the ranks of its customers, in pieces (scoring.lifetime.pieces,
                                   scoring.lifetime.grading, scoring.lifetime.ranks)
    cv:{p}:top:<field>     zset    the shard's best customers by that field
    cv:{p}:series:open     hash    sums of event-time buckets that are not closed yet
    cv:{p}:alerts          stream  steps in the lives of alerts, field alert, the last ones
    cv:{p}:alert           hash    fingerprint -> last step of each alert that goes on
    cv:{p}:acks            hash    fingerprint -> who knows of it, see streams.alerts
    cv:{p}:hooks           hash    how far webhooks have got, see streams.webhooks.outbox
    cv:{0}:watch           hash    sequence, writer and numbers of the watch over all series
    cv:{0}:watch:state     hash    what its detectors know

A score field without a value is an empty string. The parts of a change are one field, moved_by, a
JSON array in the order of scoring.lifetime.moved.PARTS.

Redis keeps a small hash in a compact list while no value is longer than
``hash-max-listpack-value`` (64 bytes by default, less than a packed state): set it to 1024, which
saves more than half of the memory.

Alerts about series, which are of all shards, are kept with those about the customers of shard 0.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from importlib.resources import files
from itertools import chain
from operator import itemgetter
from typing import Any, cast

import msgpack
import msgspec
from redis import asyncio as aioredis
from redis import exceptions as redis_errors

from valuetide.schemas.errors import FaultError
from valuetide.streams.store.interface import (
    AlertStep,
    Commit,
    CommitRefusedError,
    Page,
    ShardRecord,
    StoreUnavailableError,
    WatchCommit,
    WatchRecord,
    type_of_value,
)

PIPELINE_COMMAND = re.compile(
    r"^Command # \d+ \(.*\) of pipeline caused error: (?:\(['\"](.*)['\"],\)|(.*))$", re.DOTALL
)
"""What redis-py puts before an error: the command with its keys, and so with customer ids."""

READ_STATES = """
local states = {}
for i = 1, #KEYS do states[i] = redis.call('HGET', KEYS[i], 's') end
return states
"""
SCAN_COUNT = 1_000
ALERTS_KEPT = 10_000
"""Steps of alerts that a shard's stream keeps, at least."""

WATCH_PARTITION = 0
"""The watch's keys lie with this shard's."""

MAX_KEYS_PER_READ = 5_000
"""A read of that many takes the server about 3 ms; it answers nobody else meanwhile."""


MANY_ARGUMENTS, LONG_ARGUMENT = 20, 16_384
"""From how many arguments on, and from how many bytes, a command is packed in another way."""


def customer_key(prefix: str, partition: int, customer_id: str) -> str:
    """Give the key of a customer's hash."""
    return f"{prefix}:{{{partition}}}:customer:{customer_id}"


def commit_key(prefix: str, partition: int) -> str:
    """Give the key of a shard's record."""
    return f"{prefix}:{{{partition}}}:commit"


def months_key(prefix: str, partition: int) -> str:
    """Give the key of a shard's monthly sums."""
    return f"{prefix}:{{{partition}}}:series:month"


def model_key(prefix: str, partition: int) -> str:
    """Give the key of what a shard has learned."""
    return f"{prefix}:{{{partition}}}:model"


def top_key(prefix: str, partition: int, field: str) -> str:
    """Give the key of a shard's best customers by a field."""
    return f"{prefix}:{{{partition}}}:top:{field}"


def series_key(prefix: str, partition: int) -> str:
    """Give the key of a shard's open buckets."""
    return f"{prefix}:{{{partition}}}:series:open"


def alerts_key(prefix: str, partition: int) -> str:
    """Give the key of a shard's stream of alerts."""
    return f"{prefix}:{{{partition}}}:alerts"


def open_alerts_key(prefix: str, partition: int) -> str:
    """Give the key of a shard's alerts that go on."""
    return f"{prefix}:{{{partition}}}:alert"


def acks_key(prefix: str, partition: int) -> str:
    """Give the key of a shard's acknowledgements."""
    return f"{prefix}:{{{partition}}}:acks"


def watch_key(prefix: str) -> str:
    """Give the key of the watch's record."""
    return f"{prefix}:{{{WATCH_PARTITION}}}:watch"


def watch_state_key(prefix: str) -> str:
    """Give the key of what the watch's detectors know."""
    return f"{prefix}:{{{WATCH_PARTITION}}}:watch:state"


def connect(url: str, **arguments: Any) -> "aioredis.Redis":
    """Make a client; it connects when it is first used.

    Parameters
    ----------
    url
        ``redis://[user:password@]host:port[/db]``, ``rediss://`` for TLS.
    arguments
        What ``streams.connections`` makes of the settings: credentials and TLS.

    Raises
    ------
    FaultError
        Where the address is malformed; the text does not repeat it, for it may hold a password.
    """
    try:
        client = aioredis.Redis.from_url(
            url,
            **{
                "socket_connect_timeout": 5,
                "socket_timeout": 30,
                "health_check_interval": 30,
                **arguments,
            },
        )
    except ValueError as error:
        raise FaultError(
            "redis_url: must be redis://[user:password@]host:port[/database] or rediss://…"
        ) from error
    pool = client.connection_pool
    pool.connection_class = type("Connection", (_PacksAtOnce, pool.connection_class), {})
    return client


class _PacksAtOnce:
    """Packs a command of many arguments by one join; redis-py does it in Python, one by one.

    A commit has a key for each customer, and some long arguments, which are not copied.
    """

    def pack_command(self, *args: Any) -> list[bytes]:
        connection = cast("Any", super())
        if len(args) < MANY_ARGUMENTS:
            return cast("list[bytes]", connection.pack_command(*args))
        encode = cast("Any", self).encoder.encode
        packed, parts = [], [b"*%d\r\n" % len(args)]
        for arg in map(encode, args):
            if len(arg) < LONG_ARGUMENT:
                parts.append(b"$%d\r\n%b\r\n" % (len(arg), arg))
            else:
                packed += [b"".join([*parts, b"$%d\r\n" % len(arg)]), arg]
                parts = [b"\r\n"]
        return [*packed, b"".join(parts)]


class RedisStore:
    """State of all shards in Redis 7 or later, or Valkey.

    Parameters
    ----------
    client
        A client from :func:`connect`.
    prefix
        First part of every key.
    columns
        Names of the score fields, in the order of a commit's rows.
    texts
        Which of them are text; the others are numbers.
    ranked
        The fields by which the best customers are kept.
    top_size
        How many of them, per shard.
    """

    def __init__(
        self,
        client: "aioredis.Redis",
        *,
        prefix: str,
        columns: Sequence[str],
        texts: Collection[str],
        ranked: Sequence[str],
        top_size: int,
    ) -> None:
        self._client = client
        self._prefix = prefix
        at_text = [nth for nth, name in enumerate(columns) if name in texts]
        at_number = [nth for nth, name in enumerate(columns) if name not in texts]
        self._texts = _getter(at_text)
        self._numbers = _getter(at_number)
        self._of_text = len(at_text)
        self._columns = [columns[nth] for nth in (*at_text, *at_number)]
        self._ranked = tuple(ranked)
        self._top_size = top_size
        source = files("valuetide.streams.store").joinpath("commit.lua").read_text("utf-8")
        self._commit = client.register_script(source)
        self._read_states = client.register_script(READ_STATES)

    async def read_shard(self, partition: int) -> ShardRecord:
        """Give what is known of a shard."""
        with mapped_errors():
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.hgetall(commit_key(self._prefix, partition))
                pipeline.hgetall(months_key(self._prefix, partition))
                pipeline.hgetall(model_key(self._prefix, partition))
                pipeline.hgetall(series_key(self._prefix, partition))
                pipeline.hgetall(open_alerts_key(self._prefix, partition))
                record, months, model, series, alerts = await pipeline.execute()
        fields = text_fields(record)
        return ShardRecord(
            int(fields.pop("sequence", 0)),
            fields.pop("writer", ""),
            fields,
            text_fields(months),
            _named(model),
            _named(series),
            text_fields(alerts),
        )

    async def read_states(self, partition: int, ids: Sequence[str]) -> list[bytes | None]:
        """Give the packed state of each customer, ``None`` for one that is not known."""
        states: list[bytes | None] = []
        for start in range(0, len(ids), MAX_KEYS_PER_READ):
            part = ids[start : start + MAX_KEYS_PER_READ]
            keys = [customer_key(self._prefix, partition, customer) for customer in part]
            with mapped_errors():
                states += cast("list[bytes | None]", await self._read_states(keys=keys))
        return states

    def scan_customers(self, partitions: Sequence[int]) -> AsyncIterator[Page]:
        """Give the customers of some shards, some at a time, some perhaps more than once."""
        return scan_customers(self._client, self._prefix, partitions)

    async def read_models(
        self, partitions: Sequence[int], names: Sequence[str]
    ) -> list[dict[str, bytes]]:
        """Give some pieces of the model of each shard, those that there are."""
        return await read_models(self._client, self._prefix, partitions, names)

    async def commit(self, commit: Commit) -> dict[str, float]:
        """Make a commit true, or raise :class:`CommitRefusedError`."""
        prefix, partition = self._prefix, commit.partition
        series, gone = _changes(commit.series)
        customers = customer_key(prefix, partition, "")
        floors = await self._run(
            commit,
            keys=[
                commit_key(prefix, partition),
                alerts_key(prefix, partition),
                open_alerts_key(prefix, partition),
                months_key(prefix, partition),
                model_key(prefix, partition),
                series_key(prefix, partition),
                *(top_key(prefix, partition, name) for name in self._ranked),
                *[customers + customer for customer in commit.ids],
            ],
            hashes=[
                commit.months,
                commit.model,
                series,
            ],
            gone=[[], [], gone],
            ranked=[
                [part for entry in commit.top.get(name, ()) for part in entry]
                for name in self._ranked
            ],
            rows=commit.rows,
            states=commit.states,
            whose=f"partition {partition}",
        )
        return {
            name: float(floor)
            for name, floor in zip(self._ranked, floors, strict=True)
            if floor != b""
        }

    async def read_buckets(self, partition: int) -> dict[str, bytes]:
        """Give what a shard has committed of its series."""
        key = series_key(self._prefix, partition)
        with mapped_errors():
            found = await cast("Awaitable[dict[bytes, bytes]]", self._client.hgetall(key))
        # Ten thousand names take milliseconds, in which shards should go on.
        return await asyncio.to_thread(_named, found)

    async def read_records(self, partitions: Sequence[int]) -> list[dict[str, str]]:
        """Give the record of each of some shards, an empty one where there is none."""
        with mapped_errors():
            async with self._client.pipeline(transaction=False) as pipeline:
                for partition in partitions:
                    pipeline.hgetall(commit_key(self._prefix, partition))
                records = await pipeline.execute()
        return [text_fields(record) for record in records]

    async def read_watch_fields(self) -> dict[str, str]:
        """Give the watch's record, without what the detectors know."""
        return await self._read_texts(watch_key(self._prefix))

    async def read_acknowledgements(self, partition: int) -> dict[str, str]:
        """Give by fingerprint what people said of alerts that go on, JSON."""
        return await self._read_texts(acks_key(self._prefix, partition))

    async def read_watch(self) -> WatchRecord:
        """Give what is known of the watch; an empty record before its first commit."""
        with mapped_errors():
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.hgetall(watch_key(self._prefix))
                pipeline.hgetall(watch_state_key(self._prefix))
                record, state = await pipeline.execute()
        fields = text_fields(record)
        return WatchRecord(
            int(fields.pop("sequence", 0)), fields.pop("writer", ""), fields, _named(state)
        )

    async def commit_watch(self, commit: WatchCommit) -> None:
        """Make a commit of the watch true, or raise :class:`CommitRefusedError`."""
        state, gone = _changes(commit.state)
        await self._run(
            commit,
            keys=[
                watch_key(self._prefix),
                alerts_key(self._prefix, WATCH_PARTITION),
                open_alerts_key(self._prefix, WATCH_PARTITION),
                watch_state_key(self._prefix),
            ],
            hashes=[state],
            gone=[gone],
            whose="the watch",
        )

    async def read_open_alerts(self, partition: int) -> dict[str, str]:
        """Give the last step of each alert that goes on, by fingerprint."""
        return await self._read_texts(open_alerts_key(self._prefix, partition))

    async def _read_texts(self, key: str) -> dict[str, str]:
        with mapped_errors():
            found = await cast("Awaitable[dict[bytes, bytes]]", self._client.hgetall(key))
        return text_fields(found)

    async def _run(
        self,
        commit: Commit | WatchCommit,
        *,
        keys: list[str],
        hashes: Sequence[Mapping[str, str | bytes]],
        gone: Sequence[Sequence[str]],
        ranked: Sequence[Sequence[float | str]] = (),
        rows: Sequence[Sequence[type_of_value]] = (),
        states: Sequence[bytes] = (),
        whose: str,
    ) -> list[bytes]:
        """Run the script; gives the least ranked values."""
        pack = msgpack.packb
        texts = list(chain.from_iterable(map(self._texts, rows)))
        numbers = msgspec.json.encode(list(chain.from_iterable(map(self._numbers, rows))))
        args: list[Any] = [
            commit.sequence,
            commit.writer,
            self._top_size,
            ALERTS_KEPT,
            pack(_flat(commit.fields)),
            pack([part for step in commit.alerts for part in _parts(step)]),
            pack([2 * len(entries) for entries in hashes]),
            pack(gone),
            pack(ranked),
            pack(self._columns if rows else []),
            pack(self._of_text if rows else 0),
            msgspec.msgpack.encode(texts),
            # A whole number is stored as one; the last has a comma, too.
            (numbers[1:-1] + b",").replace(b".0,", b","),
            b"".join(states),
            pack(list(map(len, states))),
            *(part for entries in hashes for entry in entries.items() for part in entry),
        ]
        with mapped_errors():
            made, sequence, writer, floors = await self._commit(keys=keys, args=args)
        if not made:
            raise CommitRefusedError(
                f"{whose} is at commit {sequence} by {writer.decode()}, not {commit.sequence - 1}"
            )
        return cast("list[bytes]", floors)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


async def scan_customers(
    client: "aioredis.Redis", prefix: str, partitions: Sequence[int]
) -> AsyncIterator[Page]:
    """Walk over all keys once and give the customers of some shards.

    Some at a time, some perhaps more than once.
    """
    pattern = f"{prefix}:{{*}}:customer:*"
    cursor = 0
    while True:
        with mapped_errors():
            cursor, keys = await client.scan(cursor, match=pattern, count=SCAN_COUNT)
        pages: dict[int, list[str]] = {partition: [] for partition in partitions}
        for key in keys:
            name = cast("bytes", key).decode()[len(prefix) + 2 :]
            shard, _, customer = name.partition("}:customer:")
            if int(shard) in pages:
                pages[int(shard)].append(customer)
        for page in pages.items():
            if page[1]:
                yield page
        if not cursor:
            return


async def read_models(
    client: "aioredis.Redis", prefix: str, partitions: Sequence[int], names: Sequence[str]
) -> list[dict[str, bytes]]:
    """Give some pieces of the model of each shard, those that there are."""
    with mapped_errors():
        async with client.pipeline(transaction=False) as pipeline:
            for partition in partitions:
                pipeline.hmget(model_key(prefix, partition), names)
            rows = await pipeline.execute()
    return [present(names, row) for row in rows]


def present(names: Sequence[str], row: Sequence[bytes | None]) -> dict[str, bytes]:
    """Give what a read of some fields found, by name."""
    return {name: value for name, value in zip(names, row, strict=True) if value is not None}


def text_fields(entries: Mapping[bytes, bytes]) -> dict[str, str]:
    """Give a hash whose values are text."""
    return {name.decode(): value.decode() for name, value in entries.items()}


def _parts(step: AlertStep) -> tuple[str, str, int]:
    return step.fingerprint, step.text, int(step.is_open)


def _changes(entries: Mapping[str, bytes | None]) -> tuple[dict[str, bytes], list[str]]:
    """What of a hash is to be set, and what to be deleted."""
    kept = {name: value for name, value in entries.items() if value is not None}
    return kept, [name for name in entries if name not in kept]


def _named(entries: Mapping[bytes, bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in entries.items()}


def _getter(
    places: Sequence[int],
) -> Callable[[Sequence[type_of_value]], Sequence[type_of_value]]:
    """Give a function that takes the entries at some places out of a row."""
    if len(places) > 1:
        return cast("Callable[..., Sequence[type_of_value]]", itemgetter(*places))
    return lambda row: [row[nth] for nth in places]


def _flat(mapping: dict[str, Any]) -> list[str]:
    return [str(part) for entry in mapping.items() for part in entry]


class mapped_errors:  # noqa: N801 - reads as a statement
    """Turn the client's errors into ours: what may pass by itself, and what will not."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, redis_errors.RedisError):
            error.args = (PIPELINE_COMMAND.sub(r"\1\2", str(error)), *error.args[1:])
        if isinstance(error, (redis_errors.AuthenticationError, redis_errors.NoPermissionError)):
            raise FaultError(
                f"Redis refuses us: {error}. Check user, password and rights; docs/security.md "
                "has the rights that are needed."
            ) from error
        if isinstance(error, redis_errors.ResponseError) and "ACL failure" in str(error):
            raise FaultError(
                f"Redis refuses us: {error}. Check the user's rights, see docs/security.md."
            ) from error
        if isinstance(error, (redis_errors.RedisError, OSError)):
            raise StoreUnavailableError(f"Redis: {str(error) or type(error).__name__}") from error
