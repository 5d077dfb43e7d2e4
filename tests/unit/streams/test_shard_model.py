"""What a shard learns is part of its state: the same after crashes, whatever the batches."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from tests.support.fakes import START_SECONDS, World, customers_of, run_quickly, shard_settings
from tests.unit.streams.helpers import DAY_SECONDS, History, order, stored_rows, visit
from valuetide.schemas.errors import FaultError
from valuetide.scoring.lifetime.grading import Grading
from valuetide.scoring.lifetime.learner import Learner
from valuetide.scoring.lifetime.parameters import PRIOR
from valuetide.scoring.lifetime.pieces import Changes, assemble
from valuetide.scoring.lifetime.sample import Orders
from valuetide.streams.pool import Pool, Share
from valuetide.streams.store import Commit, StoreUnavailableError
from valuetide.streams.store.memory import MemoryStore

DAY_MS = 86_400_000


def shop(world: World, seed: int, events: int = 400, customers: int = 60) -> None:
    """Put orders in time order, and visits, into a world's logs."""
    chance = random.Random(seed)
    ids = customers_of(world.partition, world.settings.partitions, customers)
    at = float(START_SECONDS - 300 * DAY_SECONDS)
    for number in range(events):
        at += chance.expovariate(1 / DAY_SECONDS) * 0.5
        who = chance.choice(ids)
        cents = chance.randrange(100, 9_000)
        world.flow.add(
            "orders", order(who, number, occurred_at=at, amount=cents / 100, cost=cents / 250)
        )
        if chance.random() < 0.3:
            world.flow.add("interactions", visit(chance.choice(ids), number, occurred_at=at))


async def finished(world: World, most: int) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
    await world.shard.open()
    await world.drain(most=most)
    assert await world.shard.close(1.0)
    return (await world.record()).model, stored_rows(world)


def event_time() -> World:
    return World(settings=shard_settings(clock="event"))


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 2**32), fail_at=st.integers(1, 12), again=st.booleans())
def test_a_crash_in_the_middle_leaves_the_same_bytes(seed: int, fail_at: int, again: bool) -> None:
    """Whether the worker goes on by itself, or another takes over what was committed."""

    async def crashed() -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
        world = event_time()
        shop(world, seed)
        calls = [0]

        async def fail(commit: Commit) -> None:
            calls[0] += 1
            if calls[0] == fail_at:
                raise StoreUnavailableError("killed")

        world.store.before_commit = fail
        await world.shard.open()
        if again:
            for _ in range(5):
                for role in ("orders", "interactions"):
                    if chunk := world.flow.fetch(role, 25):
                        world.shard.submit(chunk)
                await asyncio.sleep(0.01)
            await world.shard.close(0.0)
            world.shard = world.make_shard("another")
            await world.shard.open()
            await world.flow.rewind(0, dict(world.shard.positions), world.shard.epoch)
        await world.drain(most=25)
        return (await world.record()).model, stored_rows(world)

    async def straight() -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
        world = event_time()
        shop(world, seed)
        return await finished(world, 25)

    model, rows = run_quickly(crashed())
    wanted, wanted_rows = run_quickly(straight())
    assert model == wanted
    assert rows.keys() == wanted_rows.keys()


@settings(deadline=None, max_examples=4)
@given(seed=st.integers(0, 2**32), most=st.sampled_from([1, 7, 60]))
def test_cutting_a_stream_of_orders_elsewhere_changes_no_byte(seed: int, most: int) -> None:
    async def scenario(size: int) -> dict[str, bytes]:
        world = event_time()
        shop(world, seed, 200)
        model = (await finished(world, size))[0]
        # Counts prospects as well, and is written with orders alone.
        del model["customers"]
        return model

    assert run_quickly(scenario(most)) == run_quickly(scenario(1_000))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32), size=st.sampled_from([1, 10, 1_000]))
def test_the_sample_says_what_the_states_say(seed: int, size: int) -> None:
    """With orders that come late, again, are returned or cancelled, before or after."""

    async def scenario() -> None:
        world, history = World(), History()
        history.fill(world, random.Random(seed), 150)
        await world.shard.open()
        await world.drain(most=size)
        learner = assemble((await world.record()).model)
        assert learner is not None
        found = {int(member["key"]): member for member in learner.sample.members}
        for customer in history.accepted:
            value = history.value(customer, START_SECONDS * 1_000)
            who = np.array([xxh3_64_intdigest(customer.encode())], np.uint64)
            member = found.pop(int(learner.sample.keys(who)[0]), None)
            assert (member is None) == (value.orders == 0), customer
            if member is None or value.first_order_at is None or value.last_order_at is None:
                continue
            assert member["first_day"] == value.first_order_at // DAY_MS
            assert member["last_day"] == value.last_order_at // DAY_MS
            assert member["x"] == value.frequency
            spent = member["spent"] + member["first_spend"]
            assert spent == pytest.approx(value.revenue / 100, abs=1e-3)
        assert not found

    run_quickly(scenario())


def test_what_lies_ahead_is_there_with_the_first_order_and_falls_with_returns() -> None:
    (ann,) = customers_of(0, 4, 1)

    async def scenario() -> None:
        world = World()
        events = [
            visit(ann, 0),
            order(ann, 1, amount=100.0),
            order(ann, 2, occurred_at=START_SECONDS + 30 * DAY_SECONDS, amount=100.0),
            order(ann, 3, kind="returned", order_id="o2", amount=100.0),
            order(ann, 4, kind="cancelled", order_id="o2"),
            order(ann, 5, kind="cancelled", order_id="o1"),
        ]
        found: list[dict[str, Any]] = []
        await world.shard.open()
        for event in events:
            world.flow.add("interactions" if event["kind"] == "visit" else "orders", event)
            await world.drain()
            found.append(stored_rows(world)[ann])
        prospect, first, second, returned, _, none = found
        ahead = [name for name in prospect if name.startswith(("clv", "expected", "p_", "next"))]
        assert len(ahead) == 11
        assert all(row[name] is None for row in (prospect, none) for name in ahead)
        assert all(row[name] is not None for row in (first, second) for name in ahead)
        assert 0 < first["p_alive"] < 1
        assert first["clv_90d_low"] <= first["clv_90d"] < first["clv_365d"]
        assert second["clv_365d"] > returned["clv_365d"]
        top = world.store.shards[0].top["clv_365d"]
        assert top == {ann: 0.0}
        assert (await world.record()).model["head"]

    run_quickly(scenario())


def test_a_commit_without_orders_writes_nothing_of_the_model_and_one_order_little() -> None:
    (ann, bob) = customers_of(0, 4, 2)
    written: list[Mapping[str, bytes]] = []

    async def scenario() -> None:
        world = World()

        async def note(commit: Commit) -> None:
            written.append(commit.model)

        world.store.before_commit = note
        await world.shard.open()
        world.flow.add("orders", order(ann, 1))
        await world.drain()
        world.flow.add("interactions", visit(bob, 2))
        await world.drain()
        assert [len(model) for model in written] == [3, 0]
        assert sum(map(len, written[0].values())) == 128 + 40 + 1

    run_quickly(scenario())


def test_a_model_that_cannot_be_read_is_a_fault() -> None:
    async def scenario() -> None:
        world = World()
        commit = Commit(0, 1, "x", {"settings": "x"}, {}, [], [], [], {}, {"head": b"short"})
        await MemoryStore.commit(world.store, commit)
        with pytest.raises(FaultError, match="settings"):
            await world.shard.open()

    run_quickly(scenario())


# -- pieces ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), size=st.sampled_from([3, 50, 4_000]))
def test_pieces_written_as_they_change_are_the_whole_learner(seed: int, size: int) -> None:
    """Also where members have to leave a full sample."""
    rng = np.random.default_rng(seed)
    learner, kept, rows = Learner(size=size), dict[str, bytes](), Counter[str]()
    changes = Changes(learner)
    for start in range(0, 300, 30):
        who = rng.integers(0, 2**63, 100, np.int64).astype(np.uint64)[rng.integers(0, 100, 30)]
        before = learner.sample.members
        learner.learn(Orders(who, np.full(30, start), rng.random(30)))
        changes.note(before, who)
        written = changes.take(customers=start)
        rows.update(written.keys())
        kept |= written
        assert changes.take(customers=start) == {}
        restored = assemble(kept)
        assert restored is not None
        assert restored.encode() == learner.encode()
    assert kept["customers"] == b"270"
    assert assemble({}) is None
    with pytest.raises(ValueError, match="without a head"):
        assemble({"00": b""})
    with pytest.raises(ValueError, match="do not fit"):
        assemble(kept | {"00": b"", "01": b"x" * 40 * 5_000})


# -- the pool -------------------------------------------------------------------------------------


def learned(seed: int, customers: int) -> Learner:
    rng = np.random.default_rng(seed)
    learner = Learner(shards=2)
    who = rng.integers(0, customers, 500).astype(np.uint64)
    learner.learn(Orders(who, np.sort(rng.integers(0, 300, 500)), rng.gamma(2, 9, 500)))
    return learner


def share(learner: Learner, customers: int) -> Share:
    return Share(learner, customers, Grading((90,), {}))


def test_shards_score_with_what_all_have_learned() -> None:
    async def scenario() -> None:
        now = [0.0]
        one, two = learned(1, 30), learned(2, 300)
        store, pool = MemoryStore(), Pool(lambda: now[0])
        assert pool.parameters == PRIOR
        pool.put(0, share(one, 1_000))
        alone = pool.parameters
        assert alone.purchases.r == pytest.approx(one.parameters.purchases.r)
        await pool.refresh(store, 2, 10.0, (90,))
        assert pool.parameters == alone
        pieces = {"head": two.encode_head(), "customers": b"3000"}
        await store.commit(Commit(1, 1, "w", {}, {}, [], [], [], {}, pieces))
        now[0] = 9.0
        await pool.refresh(store, 2, 10.0, (90,))
        assert pool.parameters == alone
        now[0] = 10.0
        await pool.refresh(store, 2, 10.0, (90,))
        both = pool.parameters
        wanted = np.exp((one.purchases[0] + 3 * two.purchases[0]) / 4)
        assert both.purchases.r == pytest.approx(wanted)

        other = Pool(lambda: now[0])
        other.put(1, share(two, 3_000))
        other.put(0, share(one, 1_000))
        assert other.parameters == both
        other.put(0, share(Learner(shards=2), 500))  # prospects alone: nothing learned, no weight
        assert other.parameters.purchases.r == pytest.approx(two.parameters.purchases.r)
        pool.release(0)
        assert pool.parameters == both

    asyncio.run(scenario())
