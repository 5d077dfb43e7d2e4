"""What a shard learns is part of its state: the same after crashes, whatever the batches."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from xxhash import xxh3_64_intdigest

from tests.support.fakes import START_SECONDS, World, customers_of, run_quickly, shard_settings
from tests.unit.streams.helpers import DAY_SECONDS, History, order, stored_rows, visit
from valuetide.schemas.errors import FaultError
from valuetide.schemas.vocabulary import RfmBands
from valuetide.scoring.current_value import CurrentValue, current_value
from valuetide.scoring.customers import Customers
from valuetide.scoring.lifetime.conformal import Conformal
from valuetide.scoring.lifetime.expansion import PIECE as EXPANSION
from valuetide.scoring.lifetime.grade import Grade, Outcomes, report
from valuetide.scoring.lifetime.grading import Grading
from valuetide.scoring.lifetime.learner import Learner, pooled, pooled_by_expansions
from valuetide.scoring.lifetime.parameters import PRIOR
from valuetide.scoring.lifetime.pieces import Changes, assemble
from valuetide.scoring.lifetime.predictive import Predictive
from valuetide.scoring.lifetime.ranks import BINS, NAMES, Ranks, bin_of
from valuetide.scoring.lifetime.sample import Orders
from valuetide.scoring.lifetime.tempo import pooled_factor
from valuetide.scoring.signals import SIGNALS
from valuetide.streams.cli.model import model_as_json, model_lines
from valuetide.streams.metrics import ModelCollector
from valuetide.streams.pool import Knowledge, Pool, Share, decode_shares
from valuetide.streams.reader import Learned
from valuetide.streams.records import COLUMNS, TOTALS, score_rows
from valuetide.streams.shard_model import Past, ShardModel, basis_of
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


def learner_of(model: Mapping[str, bytes]) -> dict[str, bytes]:
    """Leave out what depends on when it was made.

    The ranks, which are those of scores, and the expansion, which is near the parameters of all.
    """
    return {name: piece for name, piece in model.items() if name not in {*NAMES, EXPANSION}}


def check_ranks(model: dict[str, bytes], rows: dict[str, dict[str, Any]]) -> None:
    """Every customer with a clv is in its bin, and nobody else is anywhere."""
    values = [row["clv_365d"] for row in rows.values() if row["clv_365d"] is not None]
    wanted = np.bincount(bin_of(100 * np.array(values, np.float64)), minlength=BINS)
    np.testing.assert_array_equal(Ranks(model).counts, wanted)


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
    assert learner_of(model) == learner_of(wanted)
    assert rows.keys() == wanted_rows.keys()
    check_ranks(model, rows)
    check_ranks(wanted, wanted_rows)


@settings(deadline=None, max_examples=4)
@given(seed=st.integers(0, 2**32), most=st.sampled_from([1, 7, 60]))
def test_cutting_a_stream_of_orders_elsewhere_changes_no_byte(seed: int, most: int) -> None:
    async def scenario(size: int) -> dict[str, bytes]:
        world = event_time()
        shop(world, seed, 200)
        model, rows = await finished(world, size)
        check_ranks(model, rows)
        # Counts prospects as well, and is written with orders alone.
        del model["customers"]
        return learner_of(model)

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


def test_what_was_predicted_is_graded_and_a_crash_changes_no_byte_of_it() -> None:
    """In the store are the grades, and no more cohorts than wait."""

    async def scenario(crash: bool) -> dict[str, bytes]:
        world = event_time()
        shop(world, 7, 1_200)
        calls = [0]

        async def fail(commit: Commit) -> None:
            calls[0] += 1
            if crash and calls[0] % 5 == 0:
                raise StoreUnavailableError("killed")

        world.store.before_commit = fail
        return learner_of((await finished(world, 50))[0])

    model = run_quickly(scenario(crash=False))
    assert run_quickly(scenario(crash=True)) == model
    grading = Grading((90, 365), model)
    graded = grading.horizons[90].grade
    # Of the shop's 600 days the second half lies in the future: those events are rejected.
    assert graded.cohorts == pytest.approx((300 - 90) / 14, abs=2)
    assert report(graded.total).outcomes > 12 * 50
    assert grading.horizons[90].conformal.outcomes == report(graded.total).outcomes
    # Those of the first six weeks do not count.
    assert graded.cohorts - grading.tempo.cohorts in (2, 3)
    waiting = [name for name, blob in model.items() if name.startswith("cohort:90:") and blob]
    assert len(waiting) == len(grading.horizons[90].waiting) == 7
    assert len([name for name in model if name.startswith("cohort:")]) <= 7 + 9


def test_scores_have_the_intervals_and_the_factor_that_were_learned() -> None:
    (ann,) = customers_of(0, 4, 1)
    now_ms = (START_SECONDS + 9 * DAY_SECONDS) * 1_000

    async def folded() -> CurrentValue:
        world = World()
        await world.shard.open()
        world.flow.add("orders", order(ann, 1, amount=5_000.0))
        await world.drain()
        customers = Customers(90.0)
        rows = customers.add([ann], [world.store.shards[0].states[ann]])
        return current_value(customers, rows, now_ms, minor_digits=2, bands=RfmBands())

    value = run_quickly(folded())
    totals = {name: int(getattr(value, name).sum()) for name in TOTALS}
    silence = np.zeros(1, SIGNALS)

    def row(
        knowledge: Knowledge, setting: str = "auto", last_clv: float = np.nan
    ) -> dict[str, Any]:
        model = ShardModel(shard_settings(ratio_correction=setting), {})
        known = replace(knowledge, parameters=learned(1, 30).parameters)
        past = Past(np.full(1, now_ms), np.full(1, 100 * last_clv), basis_of(value), silence)
        ahead = model.expect(value, silence, past, totals, known, now_ms)
        rows = score_rows(value, ahead, np.full(1, 50.0), now_ms, 2)
        return dict(zip(COLUMNS, rows[0], strict=True))

    plain = row(Knowledge())
    raised = row(Knowledge(factor=1.25, learned_factor=1.25))
    assert row(Knowledge(factor=1.25), "off") == plain
    assert row(Knowledge(learned_factor=1.25)) == plain
    changed = {"clv_90d", "clv_365d", "expected_orders_90d", "expected_orders_365d"}
    changed |= {"moved_by_orders"}
    assert {name for name, one in raised.items() if one != plain[name]} == changed
    shifted = row(Knowledge(factor=1.25), last_clv=plain["clv_365d"])
    change = raised["clv_365d"] - plain["clv_365d"]
    assert shifted["moved_by_parameters"] == pytest.approx(change, abs=1e-6)
    others = ("orders", "returns", "time")
    assert [shifted[f"moved_by_{other}"] for other in others] == [0.0] * 3
    for name in changed:
        assert raised[name] == pytest.approx(1.25 * plain[name], rel=1e-3, abs=0.01), name
    moved = Conformal()
    moved.upper = np.full(4, 1.0)
    wider = row(Knowledge(intervals={90: moved}))
    assert {name for name, one in wider.items() if one != plain[name]} == {"clv_90d_high"}
    assert wider["clv_90d_high"] > 1.5 * plain["clv_90d_high"]


def test_what_lies_ahead_is_there_with_the_first_order_and_falls_with_returns() -> None:
    (ann,) = customers_of(0, 4, 1)

    async def scenario() -> None:
        world = World()
        events = [
            visit(ann, 0),
            order(ann, 1, occurred_at=START_SECONDS - 30 * DAY_SECONDS, amount=100.0),
            order(ann, 2, amount=100.0),
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
        ahead = set(COLUMNS[COLUMNS.index("p_alive") :]) - {"clv_percentile"}
        assert len(ahead) == 17
        assert all(row[name] is None for row in (prospect, none) for name in ahead)
        assert all(row[name] is not None for row in (first, second) for name in ahead)
        assert 0 < first["p_alive"] < 1
        assert first["clv_90d_low"] <= first["clv_90d"] < first["clv_365d"]
        assert second["clv_365d"] > returned["clv_365d"]
        assert (first["moved_by_orders"], first["moved_by_time"]) == (first["clv_365d"], 0.0)
        assert returned["moved_by_returns"] < 0
        for before, now in ((first, second), (second, returned)):
            parts = [now[name] for name in now if name.startswith("moved_by_")]
            change = now["clv_365d"] - before["clv_365d"]
            assert round(sum(parts), 6) == round(change, 6)
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
        assert [len(learner_of(model)) for model in written] == [3, 0]
        assert sum(map(len, learner_of(written[0]).values())) == 128 + 40 + 1
        assert [len(piece) for name, piece in written[0].items() if name in NAMES] == [256]

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
    return Share(learner, customers, Grading((90,), {}), Ranks())


def graded(seed: int) -> Share:
    rng = np.random.default_rng(seed)
    one = share(learned(seed, 40), 100)
    horizon = one.grading.horizons[90]
    buyers = Predictive(rng.random(60) * 0.5, np.zeros(60), np.ones(60))
    horizon.conformal.update(buyers, rng.gamma(1, 9, 60))
    columns = rng.gamma(2, 1, (4, 60))
    horizon.grade.add(Outcomes(*columns, *(rng.random((2, 60)) < 0.5)))
    for _ in range(6):
        one.grading.tempo.learn(50.0, 1.2, 60.0 + seed)
    return one


def test_shards_share_intervals_grades_and_factor() -> None:
    async def scenario() -> None:
        one, two = graded(1), graded(2)
        store, pool = MemoryStore(), Pool(lambda: 0.0)
        pieces = {
            "head": two.learner.encode_head(),
            "customers": b"100",
            "tempo": two.grading.tempo.encode(),
            "grade:90": two.grading.horizons[90].encode(),
            "grade:30": b"of a horizon that is no longer set",
        }
        await store.commit(Commit(1, 1, "w", {}, {}, [], [], [], {}, pieces))
        pool.put(0, one)
        await pool.refresh(store, 2, 10.0, (90,), 0)
        both = pool.knowledge
        ends = [share.grading.horizons[90].conformal.upper for share in (one, two)]
        np.testing.assert_allclose(both.intervals[90].upper, (ends[0] + ends[1]) / 2)
        assert report(both.grades[90].total).outcomes == 120
        assert both.factor == pooled_factor([one.grading.tempo, two.grading.tempo]) > 1.0
        assert both.factor == both.learned_factor

        metrics = CollectorRegistry()
        metrics.register(ModelCollector(lambda: pool.knowledge))
        found = report(both.grades[90].recent)
        horizon = {"horizon": "90d"}
        for name, labels, value in (
            ("outcomes_total", horizon, 120),
            ("bias_ratio", horizon | {"quantity": "orders"}, found.orders.bias),
            ("calibration_slope", horizon | {"quantity": "revenue"}, found.revenue.slope),
            ("mae_orders", horizon, found.orders.mae),
            ("mae_currency", horizon, found.revenue.mae),
            ("coverage_ratio", horizon | {"customers": "likely"}, found.likely_coverage),
            ("correction_ratio", {}, both.factor),
        ):
            assert metrics.get_sample_value(f"valuetide_model_{name}", labels) == value, name

        check_lines(both)

    asyncio.run(scenario())


def check_lines(knowledge: Knowledge) -> None:
    """Of the command ``valuetide model``."""
    shown = Learned(knowledge, 200, 1_000, {}, corrected=True, currency="EUR")
    found = report(knowledge.grades[90].recent)
    text = "\n".join(model_lines(shown, None))
    assert (
        f"on, it has proven to help: what is expected is multiplied by {knowledge.factor:.3f}"
        in text
    )
    assert "90 days ahead, 120 outcomes known" in text
    assert "revenue, EUR: bias" in text
    assert "+ is too much" in text
    assert f"orders: bias {found.orders.bias:+.1%}" in text
    assert f"of likely buyers {found.likely_coverage:.1%}" in text
    assert f"{found.revenue.realised[9]:.2f}" in text
    as_json = model_as_json(shown, None)
    assert as_json["ratio_correction"] == {"in_force": True, "factor": knowledge.factor}
    assert as_json["grades"]["90d"]["recent"]["orders"]["mae"] == found.orders.mae
    assert json.loads(json.dumps(as_json, allow_nan=False)) == as_json
    off = model_as_json(Learned(knowledge, 200, 1_000, {}, corrected=False, currency="EUR"), None)
    assert not off["ratio_correction"]["in_force"]
    empty = Learned(Knowledge(grades={365: Grade()}), 0, 0, {}, corrected=True, currency="EUR")
    assert "365 days ahead: no outcome is known yet" in model_lines(empty, None)
    assert json.dumps(model_as_json(empty, None), allow_nan=False)


def test_what_shards_share_of_their_samples_reaches_the_others() -> None:
    """By a commit, and once for each settling; shards of before are averaged."""
    learners = [learned(1, 150), learned(2, 150)]

    async def scenario() -> None:
        config, now = shard_settings(partitions=2), [0.0]
        store, pool = MemoryStore(), Pool(lambda: now[0])
        models = [ShardModel(config, {}) for _ in range(2)]
        for partition, (model, learner) in enumerate(zip(models, learners, strict=True)):
            model.learner = learner
            model.expand(pooled(learners))
            piece = model.changes(150)["expansion"]
            assert "expansion" not in model.changes(150)
            head = {"head": model.learner.encode_head(), "customers": b"150"}
            if partition:
                await store.commit(Commit(1, 1, "w", {}, {}, [], [], [], {}, head))
            else:
                pool.put(0, model.share(150))
        await pool.refresh(store, 2, 10.0, (90,), 0)
        assert pool.knowledge.parameters == pooled(learners, [150, 150])
        await store.commit(Commit(1, 2, "w", {}, {}, [], [], [], {}, {"expansion": piece}))
        now[0] = 10.0
        await pool.refresh(store, 2, 10.0, (90,), 0)
        shares = [model.share(150).expansion for model in models]
        wanted = pooled_by_expansions(learners, [150, 150], shares)
        assert wanted != pooled(learners, [150, 150])
        assert pool.knowledge.parameters == wanted
        # Whoever takes the shard over goes on with what was committed.
        again = ShardModel(config, {"expansion": piece}).share(150).expansion
        assert again is not None
        assert again.encode() == piece
        with pytest.raises(FaultError, match=r"partition 1: .*expansion"):
            decode_shares([1], [head | {"expansion": b"short"}], (90,))

    asyncio.run(scenario())
    alone = ShardModel(shard_settings(partitions=1), {})
    alone.learner = learned(3, 150)
    alone.expand(PRIOR)
    assert alone.share(150).expansion is None


def test_shards_score_with_what_all_have_learned() -> None:
    async def scenario() -> None:
        now = [0.0]
        one, two = learned(1, 30), learned(2, 300)
        store, pool = MemoryStore(), Pool(lambda: now[0])
        assert pool.knowledge.parameters == PRIOR
        pool.put(0, share(one, 1_000))
        alone = pool.knowledge.parameters
        assert alone.purchases.r == pytest.approx(one.parameters.purchases.r)
        await pool.refresh(store, 2, 10.0, (90,), 0)
        assert pool.knowledge.parameters == alone
        pieces = {"head": two.encode_head(), "customers": b"3000"}
        await store.commit(Commit(1, 1, "w", {}, {}, [], [], [], {}, pieces))
        now[0] = 9.0
        await pool.refresh(store, 2, 10.0, (90,), 0)
        assert pool.knowledge.parameters == alone
        now[0] = 10.0
        await pool.refresh(store, 2, 10.0, (90,), 0)
        both = pool.knowledge.parameters
        first, second = one.parameters.purchases, two.parameters.purchases
        rates = (first.r / first.alpha + 3 * second.r / second.alpha) / 4
        assert both.purchases.r / both.purchases.alpha == pytest.approx(rates)

        other = Pool(lambda: now[0])
        other.put(1, share(two, 3_000))
        other.put(0, share(one, 1_000))
        assert other.knowledge.parameters == both
        other.put(0, share(Learner(shards=2), 500))  # prospects alone: nothing learned, no weight
        assert other.knowledge.parameters.purchases.r == pytest.approx(two.parameters.purchases.r)
        pool.release(0)
        assert pool.knowledge.parameters == both

    asyncio.run(scenario())
