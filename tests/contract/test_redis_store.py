"""The store in Redis keeps the contract, equals the one in memory, and fails as it promises."""

import asyncio
import binascii
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import asyncio as aioredis

from tests.contract.store import (
    COLUMNS,
    RANKED,
    STRANGE_IDS,
    TEXTS,
    TOP_SIZE,
    Rows,
    StateStoreContract,
    Top,
    make_commit,
    stored_row,
)
from tests.contract.test_memory_store import memory_rows, memory_top
from tests.support.servers import make_redis
from valuetide.schemas.errors import FaultError
from valuetide.streams.embedded import EmbeddedRedis
from valuetide.streams.guarded import free_port
from valuetide.streams.store import (
    AlertStep,
    Commit,
    CommitRefusedError,
    StateStore,
    StoreUnavailableError,
)
from valuetide.streams.store.memory import MemoryStore
from valuetide.streams.store.redis import RedisStore, connect

SOON_SECONDS = 15.0
"""What "within seconds" means: the client tries again a few times before it gives up."""


def redis_store(url: str, prefix: str) -> RedisStore:
    return RedisStore(
        connect(url),
        prefix=prefix,
        columns=COLUMNS,
        texts=TEXTS,
        ranked=RANKED,
        top_size=TOP_SIZE,
    )


@asynccontextmanager
async def client(url: str) -> Any:
    found: aioredis.Redis = aioredis.Redis.from_url(url)
    try:
        yield found
    finally:
        await found.aclose()


async def redis_rows(url: str, prefix: str, partition: int, ids: Sequence[str]) -> Rows:
    async with client(url) as redis:
        hashes = [
            await redis.hgetall(f"{prefix}:{{{partition}}}:customer:{customer}") for customer in ids
        ]
    rows = [{name.decode(): value for name, value in found.items()} for found in hashes]
    for row in rows:
        if row:
            del row["s"]
            assert not row or set(row) == set(COLUMNS)
    texts = [[row[name].decode() or None for name in COLUMNS] if row else None for row in rows]
    for text in texts:  # whole numbers read as such: no exponent, no fraction
        assert text is None or text[0] is None or str(int(text[0])) == text[0]
    return [None if text is None else stored_row(text) for text in texts]


async def redis_top(url: str, prefix: str, partition: int, field: str) -> Top:
    async with client(url) as redis:
        key = f"{prefix}:{{{partition}}}:top:{field}"
        found = await redis.zrange(key, 0, -1, desc=True, withscores=True)
    return [(customer.decode(), value) for customer, value in found]


def slot(key: bytes) -> int:
    """Give the slot of a key, by the specification of Redis Cluster."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % 16_384


class TestRedisStore(StateStoreContract):
    @pytest.fixture(autouse=True)
    def _one_state(self, redis_url: str, fresh_prefix: str) -> None:
        self.url, self.prefix = redis_url, fresh_prefix

    def make_store(self) -> StateStore:
        return redis_store(self.url, self.prefix)

    async def rows(self, partition: int, ids: Sequence[str]) -> Rows:
        return await redis_rows(self.url, self.prefix, partition, ids)

    async def top(self, partition: int, field: str) -> Top:
        return await redis_top(self.url, self.prefix, partition, field)

    def test_the_keys_of_a_shard_are_as_drawn_and_lie_in_one_slot(self) -> None:
        passed: list[bytes] = []

        async def scenario(store: StateStore) -> None:
            redis = cast("RedisStore", store)
            script = redis._commit

            async def recorded(keys: Sequence[str], args: Sequence[Any]) -> Any:
                passed.extend(key.encode() for key in keys)
                return await script(keys=keys, args=args)

            redis._commit = recorded  # type: ignore[assignment]
            customers = dict.fromkeys(STRANGE_IDS, b"s")
            ranked = {"profit": [(1.0, "{x}")], "revenue": [(1.0, "}{")]}
            months = {"2026-01": "1"}
            await store.commit(
                make_commit(
                    partition=3,
                    customers=customers,
                    top=ranked,
                    months=months,
                    model={"head": b"\xff"},
                    series={"20440|": b"\xff"},
                    alerts=[AlertStep("fp", "{}", True)],
                )
            )
            async with client(self.url) as found:
                keys = await found.keys(f"{self.prefix}:*")
            assert {slot(key) for key in keys} == {slot(b"3")}
            shard = f"{self.prefix}:{{3}}"
            assert {key.decode() for key in keys} == {
                f"{shard}:commit",
                f"{shard}:series:month",
                f"{shard}:model",
                f"{shard}:series:open",
                f"{shard}:alerts",
                f"{shard}:alert",
                f"{shard}:top:profit",
                f"{shard}:top:revenue",
                *(f"{shard}:customer:{customer}" for customer in STRANGE_IDS),
            }
            assert set(passed) == set(keys)

        self.run(scenario)

    def test_a_number_takes_no_more_digits_than_it_has(self) -> None:
        """Lua would write .1 with 17 digits, in a release of Redis or another."""

        async def scenario(store: StateStore) -> None:
            values = {"0.1": 0.1, "-19.99": -19.99, "60": 60.0, "0": 0.0, "1234567890123.45": None}
            values["1234567890123.45"] = 1_234_567_890_123.45
            customers = dict.fromkeys(values, b"s")
            rows = [(7, value, "555", "1,null") for value in values.values()]
            await store.commit(make_commit(customers=customers, rows=rows))
            async with client(self.url) as redis:
                for text in values:
                    row = await redis.hgetall(f"{self.prefix}:{{0}}:customer:{text}")
                    assert row[b"profit"] == text.encode()
                    assert (row[b"version"], row[b"note"]) == (b"7", b"1,null")

        self.run(scenario)

    def test_a_client_that_lost_its_connection_fails_once_at_most_and_goes_on(self) -> None:
        async def scenario(store: StateStore) -> None:
            await store.commit(make_commit(1, customers={"ann": b"a"}))
            async with client(self.url) as redis:
                await redis.client_kill_filter(_type="normal", skipme=True)
            with contextlib.suppress(StoreUnavailableError):
                await store.commit(make_commit(2, customers={"ann": b"b"}))
            await store.commit(make_commit(2, customers={"ann": b"b"}))
            assert await store.read_states(0, ["ann"]) == [b"b"]

        self.run(scenario)

    def test_scripts_are_loaded_again_when_the_server_forgot_them(self) -> None:
        async def scenario(store: StateStore) -> None:
            await store.commit(make_commit(1, customers={"ann": b"a"}))
            async with client(self.url) as redis:
                await redis.script_flush()
            await store.commit(make_commit(2))
            assert await store.read_states(0, ["ann"]) == [b"a"]

        self.run(scenario)


# -- the same sequence of commits on both ---------------------------------------------------------

IDS = ("ann", "bob", "{x}", "ü🙂", "a:b\n", " ")
PARTITIONS = (0, 1)

customers = st.dictionaries(st.sampled_from(IDS), st.binary(max_size=40), max_size=len(IDS))
# A few values, so that ties are common, and any at all.
worth = st.sampled_from([-1.5, 0.0, 2.0, 2.5]) | st.floats(allow_nan=False, allow_infinity=False)
offers = st.lists(st.tuples(worth.map(lambda x: x + 0.0), st.sampled_from(IDS)), max_size=6)
texts = st.text(st.characters(codec="utf-8"), max_size=5)
rows_of = st.tuples(st.integers(0, 2**53), st.none() | worth, texts, st.none() | texts)


@st.composite
def commits(draw: st.DrawFn) -> tuple[int, Commit]:
    """A commit, and by how much its sequence number is to miss the right one."""
    changed = draw(customers)
    return draw(st.sampled_from([0, 0, 0, 0, -1, -1, 1])), make_commit(
        writer=draw(st.sampled_from(["one", "two"])),
        partition=draw(st.sampled_from(PARTITIONS)),
        fields=draw(st.dictionaries(st.sampled_from("abc"), st.integers() | texts, max_size=3)),
        months=draw(st.dictionaries(st.sampled_from(["2026-01", "2026-02"]), texts, max_size=2)),
        customers=changed,
        rows=[draw(rows_of) for _ in changed],
        top=draw(st.dictionaries(st.sampled_from(RANKED), offers, max_size=2)),
        model=draw(st.dictionaries(st.sampled_from(["head", "00"]), st.binary(max_size=9))),
    )


async def outcome(store: StateStore, commit: Commit) -> object:
    try:
        return await store.commit(commit)
    except CommitRefusedError as error:
        return str(error)


async def look(store: StateStore, partition: int, rows: Rows, tops: list[Top]) -> object:
    record = await store.read_shard(partition)
    return record, await store.read_states(partition, IDS), rows, tops


@settings(deadline=None, max_examples=60)
@given(sequence=st.lists(commits(), max_size=12))
def test_any_sequence_of_commits_reads_the_same_as_in_memory(
    redis_url: str, sequence: list[tuple[int, Commit]]
) -> None:
    prefix = f"t{secrets.token_hex(4)}"

    async def scenario() -> None:
        model, store = MemoryStore(TOP_SIZE), redis_store(redis_url, prefix)
        at = dict.fromkeys(PARTITIONS, 0)
        try:
            for off, drawn in sequence:
                p = drawn.partition
                number = at[p] + 1 + off
                commit = make_commit(
                    number,
                    writer=drawn.writer,
                    partition=p,
                    fields=drawn.fields,
                    months=drawn.months,
                    customers=dict(zip(drawn.ids, drawn.states, strict=True)),
                    rows=drawn.rows,
                    top=drawn.top,
                    model=drawn.model,
                )
                assert await outcome(store, commit) == await outcome(model, commit)
                at[p] = (await model.read_shard(p)).sequence
            for p in PARTITIONS:
                found = await look(
                    store,
                    p,
                    await redis_rows(redis_url, prefix, p, IDS),
                    [await redis_top(redis_url, prefix, p, field) for field in RANKED],
                )
                wanted = await look(
                    model,
                    p,
                    await memory_rows(model, p, IDS),
                    [await memory_top(model, p, field) for field in RANKED],
                )
                assert found == wanted
        finally:
            await store.close()

    asyncio.run(scenario())


# -- a server that does not serve -----------------------------------------------------------------


async def scan(store: StateStore) -> list[object]:
    return [page async for page in store.scan_customers([0])]


CALLS: dict[str, Callable[[StateStore], Awaitable[object]]] = {
    "scan_customers": scan,
    "read_shard": lambda store: store.read_shard(0),
    "read_states": lambda store: store.read_states(0, ["ann"]),
    "read_models": lambda store: store.read_models([0], ["head"]),
    "commit": lambda store: store.commit(make_commit(customers={"ann": b"a"})),
}
WRITES = make_commit(
    2,
    months={"2026-01": "2"},
    customers={"ann": b"after", "bob": b"new"},
    top={"profit": [(9.0, "bob")]},
)


@pytest.fixture
def own_redis() -> Iterator[EmbeddedRedis]:
    """A server of this test alone, to be spoiled."""
    with make_redis() as server:
        yield server


def expect(url: str, call: str, error: type[Exception]) -> str:
    """Make a call that has to fail soon, and give its text."""

    async def scenario() -> str:
        store = redis_store(url, "t")
        try:
            with pytest.raises(error) as raised:
                await CALLS[call](store)
            return str(raised.value)
        finally:
            await store.close()

    started = time.monotonic()
    text = asyncio.run(scenario())
    assert time.monotonic() - started < SOON_SECONDS
    return text


@pytest.mark.parametrize("call", CALLS)
def test_a_port_where_nobody_listens_is_an_unavailable_store(call: str) -> None:
    text = expect(f"redis://:secret-pass@127.0.0.1:{free_port()}/0", call, StoreUnavailableError)
    assert "secret-pass" not in text


@pytest.mark.parametrize("call", CALLS)
def test_a_host_that_is_not_known_is_an_unavailable_store(call: str) -> None:
    expect("redis://no-such-host.invalid:6379/0", call, StoreUnavailableError)


def test_a_server_that_dies_is_an_unavailable_store_and_may_come_back(
    own_redis: EmbeddedRedis,
) -> None:
    async def scenario() -> None:
        store = redis_store(own_redis.url, "t")
        try:
            await store.commit(make_commit(1, customers={"ann": b"a"}))
            await asyncio.to_thread(own_redis.kill)
            for call in CALLS.values():
                started = time.monotonic()
                with pytest.raises(StoreUnavailableError):
                    await call(store)
                assert time.monotonic() - started < SOON_SECONDS
            await asyncio.to_thread(own_redis.start)
            await store.read_shard(0)
        finally:
            await store.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_password_is_a_fault(call: str, own_redis: EmbeddedRedis) -> None:
    async def protect() -> None:
        async with client(own_redis.url) as redis:
            await redis.config_set("requirepass", "right-pass")

    asyncio.run(protect())
    address = own_redis.url.removeprefix("redis://")
    for url in (f"redis://:wrong-pass@{address}", own_redis.url):
        text = expect(url, call, FaultError)
        assert "wrong-pass" not in text
        assert "password" in text


def spoiled(server: EmbeddedRedis, spoil: Callable[[Any], Awaitable[object]], why: str) -> None:
    """Refuse writes in some way: nothing is half-done, states are read, and it can be mended."""

    async def scenario() -> None:
        store = redis_store(server.url, "t")
        try:
            await store.commit(
                make_commit(
                    months={"2026-01": "1"},
                    customers={"ann": b"before"},
                    top={"profit": [(1.0, "ann")]},
                )
            )
            before = await store.read_shard(0)
            async with client(server.url) as redis:
                await spoil(redis)
                with pytest.raises(StoreUnavailableError, match=why):
                    await store.commit(WRITES)
                # Redis 7 without memory takes no transaction either, not even one that reads.
                with contextlib.suppress(StoreUnavailableError):
                    assert await store.read_shard(0) == before
                assert await store.read_states(0, ["ann", "bob"]) == [b"before", None]
                await redis.config_set("maxmemory", "0")
                await redis.execute_command("REPLICAOF", "NO", "ONE")
            assert await store.read_shard(0) == before
            assert await store.read_states(0, ["ann", "bob"]) == [b"before", None]
            assert await redis_top(server.url, "t", 0, "profit") == [("ann", 1.0)]
            await store.commit(WRITES)
            assert await store.read_states(0, ["ann", "bob"]) == [b"after", b"new"]
        finally:
            await store.close()

    asyncio.run(scenario())


def test_a_server_without_memory_refuses_the_whole_commit(own_redis: EmbeddedRedis) -> None:
    async def fill(redis: Any) -> None:
        await redis.config_set("maxmemory-policy", "noeviction")
        await redis.config_set("maxmemory", "1")

    spoiled(own_redis, fill, "(?i)memory")


def test_a_server_that_is_a_replica_refuses_the_whole_commit(own_redis: EmbeddedRedis) -> None:
    async def demote(redis: Any) -> None:
        await redis.config_set("replica-serve-stale-data", "yes")
        await redis.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))

    spoiled(own_redis, demote, "(?i)read.?only|read only replica")


def test_a_commit_that_grows_beyond_the_memory_is_whole_or_not_at_all(
    own_redis: EmbeddedRedis,
) -> None:
    """The limit is crossed in the middle of a script: what began within it ends."""

    async def scenario() -> None:
        store = redis_store(own_redis.url, "t")
        try:
            async with client(own_redis.url) as redis:
                used = int((await redis.info("memory"))["used_memory"])
                await redis.config_set("maxmemory-policy", "noeviction")
                await redis.config_set("maxmemory", str(used + 3_000_000))
                made = 0
                for sequence in range(1, 40):
                    big = {f"{sequence}-{i}": b"x" * 900 for i in range(1_000)}
                    try:
                        await store.commit(make_commit(sequence, customers=big))
                    except StoreUnavailableError:
                        break
                    made = sequence
                assert 0 < made < 39
                assert (await store.read_shard(0)).sequence == made
                for sequence in range(1, made + 2):
                    ids = [f"{sequence}-{i}" for i in range(1_000)]
                    known = sum(one is not None for one in await store.read_states(0, ids))
                    assert known == (1_000 if sequence <= made else 0)
        finally:
            await store.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("url", ["http://x", "redis://:secret@host:port/0", "127.0.0.1:6379"])
def test_a_malformed_address_is_a_fault_that_does_not_repeat_it(url: str) -> None:
    with pytest.raises(FaultError, match="redis_url: must be") as raised:
        connect(url)
    assert "secret" not in str(raised.value)
