"""Whoever scores for a moment past a day knows its orders, though no other has come since."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support import lifetime_reference as reference
from tests.support.fakes import (
    START_SECONDS,
    World,
    as_chunk,
    as_record,
    run_quickly,
    shard_settings,
)
from tests.support.fakes import settle as settled
from tests.unit.streams.helpers import DAY_SECONDS, order, stored_rows, visit
from valuetide.scoring.lifetime.expansion import Expansion
from valuetide.scoring.lifetime.grading import Grading
from valuetide.scoring.lifetime.learner import Learner, pooled_by_expansions
from valuetide.scoring.lifetime.parameters import (
    PURCHASES_MEAN,
    PURCHASES_SD,
    Parameters,
)
from valuetide.scoring.lifetime.pieces import Changes, assemble
from valuetide.scoring.lifetime.ranks import Ranks
from valuetide.scoring.lifetime.sample import Orders
from valuetide.streams.chunk import Chunk
from valuetide.streams.pool import Pool, Share, over
from valuetide.streams.store import Commit
from valuetide.streams.store.memory import MemoryStore
from valuetide.streams.view import View

DAY_MS = 86_400_000
SHARDS = 3
LAST = 120


def shop(seed: int = 4) -> Orders:
    """A shop in which every thirtieth customer orders on the last day."""
    rng = np.random.default_rng(seed)
    customers = 600
    rate, leave = rng.gamma(0.6, 1 / 30.0, customers), rng.beta(0.9, 2.0, customers)
    who, day = [], []
    for nth in range(customers):
        at = LAST * np.sqrt(rng.random())
        while at < LAST + 1:
            who.append(nth)
            day.append(int(at))
            if rng.random() < leave[nth]:
                break
            at += rng.exponential(1 / rate[nth])
        if nth % 30 == 0:
            who.append(nth)
            day.append(LAST)
    order = np.argsort(day, kind="stable")
    ids = np.array(who)[order]
    return Orders(ids.astype(np.uint64), np.array(day)[order], rng.gamma(6.0, 4.0, ids.size))


SHOP = shop()
MINE = SHOP.who % np.uint64(SHARDS)


def shards() -> dict[int, Share]:
    """What three shards share that were given the days of the shop one after the other."""
    learners = [Learner(shards=SHARDS) for _ in range(SHARDS)]
    expansions: list[Expansion | None] = [None] * SHARDS
    customers = [int(np.unique(SHOP.who[nth == MINE]).size) for nth in range(SHARDS)]
    for day in range(LAST + 1):
        for nth, learner in enumerate(learners):
            learner.learn(SHOP[(SHOP.day == day) & (nth == MINE)])
            at = pooled_by_expansions(learners, customers, expansions)
            expansions[nth] = learner.expand(at) or expansions[nth]
    return {
        nth: Share(learner, customers[nth], Grading((90,), {}), Ranks(), None, expansions[nth])
        for nth, learner in enumerate(learners)
    }


def pieces(share: Share) -> dict[str, bytes]:
    changes = Changes(share.learner)
    changes.note(share.learner.sample.members, SHOP.who)
    assert share.expansion is not None
    return changes.take(share.customers) | {"expansion": share.expansion.encode()}


def height(logs: np.ndarray) -> float:
    """Posterior of all customers at the end of the last day, by the reference."""
    seen = reference.summarise(SHOP.who.astype(int), SHOP.day, SHOP.amount, LAST + 1)
    prior = (((logs - PURCHASES_MEAN) / PURCHASES_SD) ** 2).sum() / 2
    return float(reference.mbg_log_likelihood(np.exp(logs), seen).sum() - prior)


def refit() -> np.ndarray:
    """Logarithms at which that is highest, by scipy."""
    seen = reference.summarise(SHOP.who.astype(int), SHOP.day, SHOP.amount, LAST + 1)
    prior = PURCHASES_MEAN, PURCHASES_SD
    fit = reference.fit(reference.mbg_log_likelihood, seen, np.exp(PURCHASES_MEAN), prior)
    return np.log(fit.parameters)


def test_at_a_moment_past_the_day_the_parameters_are_those_of_a_refit_with_its_orders() -> None:
    pool, known = Pool(), shards()
    for partition, share in known.items():
        pool.put(partition, share)
    before = {partition: share.learner.encode() for partition, share in known.items()}
    during, past = pool.at((LAST + 1) * DAY_MS - 1), pool.at((LAST + 1) * DAY_MS)
    assert during == pool.knowledge
    best = height(refit())
    missed = [best - height(known.parameters.logs()[0]) for known in (during, past)]
    assert missed[0] > 0.1
    assert missed[1] < missed[0] / 5
    # Silence that nobody can tell from our having been away is not learned from.
    assert pool.at((LAST + 30) * DAY_MS).parameters == past.parameters
    assert {partition: share.learner.encode() for partition, share in known.items()} == before


def test_what_was_asked_before_makes_no_difference() -> None:
    """Orders come late, of a day that was over; and another shard settles."""
    pool, known, now_ms = Pool(), shards(), (LAST + 1) * DAY_MS
    for partition, share in known.items():
        pool.put(partition, share)

    def asked_first() -> Parameters:
        other = Pool()
        for partition, share in known.items():
            other.put(partition, share)
        return other.at(now_ms).parameters

    first = pool.at(now_ms).parameters
    late = np.arange(10_000, 10_030, dtype=np.uint64)
    assert known[1].learner.learn(Orders(late, np.full(30, LAST), np.full(30, 20.0))) == 0
    pool.learned(1, known[1].customers)
    second = pool.at(now_ms).parameters
    assert second == asked_first() != first

    learner = known[0].learner
    assert learner.learn(Orders(late[:1], np.array([LAST + 1]), np.ones(1))) == 1
    known[0] = replace(known[0], expansion=learner.expand(pool.knowledge.parameters))
    pool.put(0, known[0])
    assert pool.at(now_ms).parameters == asked_first() != second


def test_shards_that_score_for_different_days_do_not_settle_the_others_again_and_again() -> None:
    """A live shard beside one whose events are of last week, batch after batch."""
    pool, now_ms = Pool(), (LAST + 1) * DAY_MS
    for partition, share in shards().items():
        pool.put(partition, share)
    live, old = pool.at(now_ms), pool.at(now_ms - 7 * DAY_MS)
    assert live != old
    assert pool.at(now_ms) is live
    assert pool.at(now_ms - 7 * DAY_MS) is old
    # There is an end to how many are kept.
    assert pool.at(now_ms) == live
    for day in range(LAST):
        assert pool.at(day * DAY_MS) == old
    assert pool.at(now_ms) == live


def test_of_a_shard_that_is_behind_no_day_is_over() -> None:
    pool, known, now_ms = Pool(), shards(), (LAST + 1) * DAY_MS
    for partition, share in known.items():
        pool.put(partition, replace(share, behind=True))
    assert pool.at(now_ms) == pool.knowledge
    pool.put(0, known[0])
    some = pool.at(now_ms).parameters
    for partition, share in known.items():
        pool.put(partition, share)
    assert len({pool.knowledge.parameters, some, pool.at(now_ms).parameters}) == 3


@pytest.mark.parametrize("behind", [False, True])
def test_other_workers_and_readers_know_it_from_what_was_committed(behind: bool) -> None:
    known, now_ms = shards(), (LAST + 1) * DAY_MS
    records = [{"behind:orders": str(int(behind and nth == 2))} for nth in known]
    models = [pieces(share) for share in known.values()]
    ours = Pool()
    for partition, share in known.items():
        if not (behind and partition == 2):
            ours.put(partition, share)

    async def other_worker() -> Parameters:
        store, pool = MemoryStore(), Pool()
        for partition in (1, 2):
            fields, model = dict[str, str | int](records[partition]), models[partition]
            await store.commit(Commit(partition, 1, "w", fields, {}, [], [], [], {}, model))
        pool.put(0, known[0])
        await pool.refresh(store, SHARDS, 10.0, (90,), now_ms)
        return pool.at(now_ms).parameters

    view = View(shard_settings(partitions=SHARDS), records, models)
    found = view.knowledge(now_ms).parameters
    assert run_quickly(other_worker()) == found
    assert found != view.knowledge(now_ms - 1).parameters
    if not behind:
        # Bytes hold one half of a curvature that is symmetric but for rounding.
        for one, ours_has in zip(found.logs(), ours.at(now_ms).parameters.logs(), strict=True):
            np.testing.assert_allclose(one, ours_has, rtol=1e-9)


def test_no_day_is_over_that_no_shard_has_seen() -> None:
    assert over({}, 5 * DAY_MS) == 0
    known = {0: Share(Learner(), 0, Grading((90,), {}), Ranks())}
    known[0].learner.learn(Orders(np.arange(3, dtype=np.uint64), np.full(3, 7), np.ones(3)))
    assert [over(known, day * DAY_MS) for day in (7, 8, 9, 40)] == [6, 7, 7, 7]


@pytest.mark.parametrize("more", [True, False])
def test_a_visit_after_the_last_order_is_scored_with_that_days_orders(more: bool) -> None:
    """Unless there are orders that have not been read."""

    async def scenario() -> None:
        world = World(settings=shard_settings(partitions=1))
        await world.shard.open()
        start = START_SECONDS // DAY_SECONDS * DAY_SECONDS - 100 * DAY_SECONDS
        events = [
            order(f"c{number % 40}", number, occurred_at=start + number * DAY_SECONDS // 9)
            for number in range(300)
        ]
        records = [as_record(event, offset) for offset, event in enumerate(events)]
        world.shard.submit(Chunk("orders", 0, records, 0, more))
        await settled()
        at = start + 60 * DAY_SECONDS
        world.shard.submit(as_chunk([visit("c0", 1, occurred_at=at)], role="interactions"))
        await settled()
        learner = assemble((await world.record()).model)
        assert learner is not None
        day = int(learner.day)
        found = stored_rows(world)["c0"]["p_alive"]
        bought = sorted(
            {e["occurred_at"] // DAY_SECONDS for e in events if e["customer_id"] == "c0"}
        )
        x, first, last = len(bought) - 1, bought[0], bought[-1]
        known = {False: learner.parameters, True: learner.after(day).parameters}
        wanted = {}
        for settles, parameters in known.items():
            of = parameters.purchases
            age, t_x = (at / DAY_SECONDS - first) / 7, (last - first) / 7
            odds = of.a / (of.b + x) * ((of.alpha + age) / (of.alpha + t_x)) ** (of.r + x)
            wanted[settles] = 1 / (1 + odds)
        assert abs(wanted[True] - wanted[False]) > 1e-3
        assert found == pytest.approx(wanted[not more], abs=1e-4)
        assert await world.shard.close(1.0)

    run_quickly(scenario())


@pytest.mark.parametrize("restarted", [False, True])
def test_the_first_day_of_a_shop_is_known_when_it_is_over(restarted: bool) -> None:
    """No shard has settled yet, so none has joined the pool since it had customers."""

    async def scenario() -> None:
        world = World(settings=shard_settings(partitions=1))
        shard = world.shard
        await shard.open()
        start = START_SECONDS // DAY_SECONDS * DAY_SECONDS - 100 * DAY_SECONDS
        events = [order(f"c{number}", number, occurred_at=start + number) for number in range(7)]
        shard.submit(as_chunk(events))
        await settled()
        if restarted:
            assert await shard.close(1.0)
            shard = world.make_shard()
            await shard.open()
        at = start + 8 * DAY_SECONDS
        shard.submit(as_chunk([visit("c0", 1, occurred_at=at)], role="interactions"))
        await settled()
        # All seven baskets are of 10.00, which is not what is expected of a shop unknown.
        assert stored_rows(world)["c0"]["expected_order_value"] == pytest.approx(10.0, rel=0.1)
        assert await shard.close(1.0)

    run_quickly(scenario())
