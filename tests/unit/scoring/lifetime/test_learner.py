"""The learner finds the maximum of the posterior, whatever the cuts, and continues where it was."""

import numpy as np
import pytest
from scipy.optimize import minimize
from xxhash import xxh3_64_intdigest

from tests.support import lifetime_reference as reference
from tests.support.shared_data import lifetimes_data
from valuetide.scoring.lifetime import sample as sample_module
from valuetide.scoring.lifetime.learner import Learner, pooled
from valuetide.scoring.lifetime.parameters import PRIOR, PURCHASES_MEAN, PURCHASES_SD
from valuetide.scoring.lifetime.sample import Orders, Sample


def shop(customers: int = 1_500, days: int = 280, seed: int = 5) -> Orders:
    """A shop that is as the models say."""
    rng = np.random.default_rng(seed)
    rate, leave = rng.gamma(0.6, 1 / 50.0, customers), rng.beta(0.9, 2.0, customers)
    scale = rng.gamma(3.7, 1 / 15.0, customers)
    who, day = [], []
    for nth in range(customers):
        at = rng.uniform(0, 90)
        while at < days:
            who.append(nth)
            day.append(int(at))
            if rng.random() < leave[nth]:
                break
            at += rng.exponential(1 / rate[nth])
    order = np.argsort(day, kind="stable")
    ids = np.array(who)[order]
    return Orders(ids.astype(np.uint64), np.array(day)[order], rng.gamma(6.0, 1 / scale[ids]))


SHOP = shop()


def learned(orders: Orders, batch: int, **of: int) -> Learner:
    learner = Learner(**of)
    for start in range(0, orders.day.size, batch):
        learner.learn(orders[start : start + batch])
    return learner


@pytest.mark.parametrize("size", [1, 3, 100, 999, 4_000])
def test_cuts_and_restarts_change_nothing(size: int) -> None:
    straight = learned(SHOP, 10**6, seed=4, size=500)
    cut = Learner(seed=4, size=500)
    for start in range(0, SHOP.day.size, size):
        cut.learn(SHOP[start : start + size])
        if size > 50:
            cut = Learner.decode(cut.encode())
    assert cut.encode() == straight.encode()


def test_it_stands_at_the_maximum() -> None:
    learner = learned(SHOP, 1_000)
    for _ in range(20):
        learner.settle(learner.day)
    seen = reference.summarise(SHOP.who.astype(int), SHOP.day, SHOP.amount, learner.day + 1)

    def loss(logs: np.ndarray) -> float:
        prior = (((logs - PURCHASES_MEAN) / PURCHASES_SD) ** 2).sum() / 2
        return float(prior - reference.mbg_log_likelihood(np.exp(logs), seen).sum())

    best = minimize(loss, learner.purchases, method="BFGS", options={"gtol": 1e-4})
    np.testing.assert_allclose(learner.purchases, best.x, atol=1e-3)


def test_it_knows_of_a_day_what_a_batch_fit_at_its_end_does() -> None:
    """Not half of its orders, which would make silent customers of those still to order."""
    prior = (PURCHASES_MEAN, PURCHASES_SD)
    for day in (90, 150, 220):
        before = int(np.searchsorted(SHOP.day, day))
        learner = learned(SHOP[:before], 100)
        learner.next_step = before
        learner.learn(SHOP[before : before + 1])
        who, days = SHOP.who[:before].astype(int), SHOP.day[:before]
        seen = reference.summarise(who, days, SHOP.amount[:before], day)
        fit = reference.fit(reference.mbg_log_likelihood, seen, np.exp(PURCHASES_MEAN), prior)
        np.testing.assert_allclose(learner.purchases, np.log(fit.parameters), atol=0.05)


@pytest.mark.parametrize("size", [80, 4_096])
def test_a_day_that_is_over_teaches_what_the_next_order_would(size: int) -> None:
    """To the bit, whether that makes a step or not; asking leaves no trace."""
    due = asked = 0
    for until in range(20, SHOP.day.size, 151):
        before = learned(SHOP[:until], 100, size=size).encode()
        for gap in (1, 2, 9):
            learner = Learner.decode(before)
            day = learner.day + gap - 1
            assert learner.after(learner.day - 1) is learner
            ahead = learner.after(day)
            settles, parameters = ahead is not learner, ahead.parameters
            assert learner.encode() == before
            nobody = Orders(np.array([10**6], np.uint64), np.array([day + 1]), np.ones(1))
            assert learner.learn(nobody) == settles
            assert learner.parameters == parameters
            due, asked = due + settles, asked + 1
    assert due > asked / 3
    if size == 80:  # A full sample settles weekly.
        assert due < asked


def test_steps_wait_for_the_end_of_the_day_unless_it_is_crowded() -> None:
    start = int(np.searchsorted(SHOP.day, 100))
    learner = learned(SHOP[:start], 100)
    due = learner.next_step - learner.orders
    same_day = np.full(4 * learner.next_step, learner.day)
    more = Orders(np.arange(same_day.size, dtype=np.uint64), same_day, np.ones(same_day.size))
    assert learner.learn(more[: due + 5]) == 0
    assert learner.learn(more[due + 5 :]) > 0


def test_histories_in_the_sample_are_those_of_all_orders() -> None:
    sample = learned(SHOP, 77).sample
    people = np.unique(SHOP.who)
    until = int(SHOP.day.max()) + 1
    seen = reference.summarise(SHOP.who.astype(int), SHOP.day, SHOP.amount, until)
    order = np.argsort(sample.keys(people))
    assert sample.members.size == people.size
    np.testing.assert_array_equal(sample.members["x"], seen.x[order])
    np.testing.assert_allclose(sample.members["spent"], seen.spent[order])
    t_x = (sample.members["last_day"] - sample.members["first_day"]) / 7
    np.testing.assert_allclose(t_x, seen.t_x[order])


def test_a_cold_start_is_the_prior() -> None:
    assert pooled([Learner(), Learner()]) == PRIOR
    assert pooled([]) == PRIOR


def test_orders_worth_nothing_break_nothing() -> None:
    free = Orders(SHOP.who, SHOP.day, np.zeros(SHOP.day.size))
    learner = learned(free, 500)
    assert np.isfinite(learner.purchases).all()
    assert np.isfinite(learner.spend).all()
    paid = learned(Orders(SHOP.who, SHOP.day, np.where(SHOP.day % 3, SHOP.amount, 0.0)), 500)
    assert np.isfinite(paid.spend).all()


def test_everybody_buying_once_on_one_day_breaks_nothing() -> None:
    many = np.arange(5_000, dtype=np.uint64)
    learner = learned(Orders(many, np.zeros(5_000, int), np.full(5_000, 10.0)), 500)
    assert np.isfinite(learner.purchases).all()
    assert learner.sample.members.size == 4_096


def test_shards_together_know_as_much_as_one() -> None:
    shards = [Learner(shards=3) for _ in range(3)]
    for nth, shard in enumerate(shards):
        shard.learn(SHOP[SHOP.who % np.uint64(3) == nth])
    seen = reference.summarise(SHOP.who.astype(int), SHOP.day, SHOP.amount, int(SHOP.day.max()) + 1)
    together, alone = pooled(shards).logs()[0], learned(SHOP, 1_000).purchases
    totals = [reference.mbg_log_likelihood(np.exp(p), seen).sum() for p in (together, alone)]
    assert totals[0] == pytest.approx(totals[1], rel=1e-3)


@pytest.mark.parametrize("blob", [b"", b"\x09\x00" + bytes(126), Learner().encode() + b"x"])
def test_strange_bytes_are_refused(blob: bytes) -> None:
    with pytest.raises(ValueError, match="learner"):
        Learner.decode(blob)


@pytest.mark.parametrize("seed", range(3))
def test_orders_folded_one_by_one_and_in_columns_are_the_same_to_the_bit(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    orders = Orders(
        rng.integers(0, 30, 400).astype(np.uint64), rng.integers(0, 50, 400), rng.gamma(2, 9, 400)
    )
    found = []
    for few in (0, 1_000):
        monkeypatch.setattr(sample_module, "_FEW", few)
        sample = Sample()
        sample.fold(orders)
        found.append(sample.members.tobytes())
    assert found[0] == found[1]


def test_a_shard_that_begins_with_the_wrong_customers_finds_back_to_the_maximum() -> None:
    """One in twelve of CDNOW's customers: a step early on led so far off that none led back."""
    text = lifetimes_data("CDNOW_master.txt").read_text().splitlines()[1:]
    rows = [line.split() for line in text]
    who = np.array([int(row[0]) for row in rows])
    dates = [f"{row[1][:4]}-{row[1][4:6]}-{row[1][6:]}" for row in rows]
    day = np.array(dates, "datetime64[D]").astype(np.int64)
    amount = np.array([float(row[3]) for row in rows])
    hashed = np.array([xxh3_64_intdigest(f"{one:05d}".encode()) for one in who.tolist()], np.uint64)
    ours = (hashed >> np.uint64(40)) % np.uint64(12) == 10
    first = int(day.min())
    ours &= day < first + 273
    learner = Learner(shards=12)
    for week in range(39):
        now = ours & (day >= first + 7 * week) & (day < first + 7 * week + 7)
        learner.learn(Orders(hashed[now], day[now], amount[now]))
    seen = reference.summarise(hashed[ours], day[ours], amount[ours], first + 273)
    best = reference.fit(
        reference.gamma_gamma_log_likelihood, seen, np.array([4.0, 4.0, 20.0])
    ).log_likelihood
    found = float(reference.gamma_gamma_log_likelihood(np.exp(learner.spend), seen).sum())
    assert found > 1.005 * best  # both are negative
