"""Lifetime value: discounting against fine integration, bounds, returns, and why it moved."""

from dataclasses import replace

import numpy as np
import pytest

from valuetide.scoring.arrays import FloatArray
from valuetide.scoring.lifetime import purchases
from valuetide.scoring.lifetime.conformal import Conformal
from valuetide.scoring.lifetime.moved import PARTS, Moved, between, moved_by
from valuetide.scoring.lifetime.parameters import Parameters, Purchases, Spend
from valuetide.scoring.lifetime.purchases import Histories
from valuetide.scoring.lifetime.value import (
    MOST_REPEATS,
    WEEKS_A_YEAR,
    Facts,
    Terms,
    clv,
    potential,
    potential_beside,
)

CDNOW = Parameters(Purchases(0.5248, 6.1831, 0.8914, 1.614), Spend(6.25, 3.744, 15.444))
TERMS = Terms()
BOTH = [Conformal(), Conformal()]


def facts(count: int = 400, seed: int = 1) -> Facts:
    rng = np.random.default_rng(seed)
    x = rng.geometric(0.3, count) - 1
    age = rng.uniform(0, 80, count)
    seen = Histories(x, age * rng.random(count) * (x > 0), age)
    return Facts(seen, x * rng.gamma(3, 10, count), rng.uniform(0.2, 1.0, count))


@pytest.mark.parametrize("horizons", [(4.0,), (90 / 7, 365 / 7), (4.0, 13.0, 52.0, 156.0)])
def test_discounted_value_is_that_of_a_fine_integration(horizons: tuple[float, ...]) -> None:
    of = facts()
    terms = Terms(horizons, 0.15)
    corrections = [Conformal() for _ in horizons]
    found = potential(CDNOW, of, terms, corrections)
    for nth, horizon in enumerate(horizons):
        times = np.linspace(0, 1, 300) ** 2 * horizon
        orders = np.diff(purchases.future(CDNOW.purchases, of.seen, times).mean, axis=0)
        middles = (times[1:] + times[:-1]) / 2
        weights = 1.15 ** -(middles / WEEKS_A_YEAR)
        worth = found.p_alive * found.expected_order_value * of.yield_rate
        np.testing.assert_allclose(found.clv[nth], weights @ orders * worth, rtol=1e-3)


def test_without_discount_it_is_orders_times_their_value() -> None:
    of = facts()
    found = potential(CDNOW, of, Terms(yearly_discount=0.0), BOTH)
    expected = found.expected_orders * found.expected_order_value * of.yield_rate
    np.testing.assert_allclose(found.clv, expected, rtol=1e-12)
    np.testing.assert_allclose(clv(CDNOW, of, TERMS), potential(CDNOW, of, TERMS, BOTH).clv)


def test_value_does_not_depend_on_who_is_scored_together() -> None:
    of = facts()
    apart = [
        clv(CDNOW, Facts(Histories(of.seen.x[n], of.seen.t_x[n], of.seen.age[n]),
                         of.spent[n], of.yield_rate[n]), TERMS)
        for n in np.array_split(np.arange(400), 57)
    ]  # fmt: skip
    np.testing.assert_allclose(np.concatenate(apart, axis=1), clv(CDNOW, of, TERMS), rtol=2e-6)


def test_scored_beside_others_value_is_what_it_is_apart() -> None:
    of, other = facts(), facts(300, seed=3)
    # Some buy more often than the weights that are kept go, and some of the others are alike.
    often = replace(of.seen, x=np.where(np.arange(400) % 7 == 0, of.seen.x + 70, of.seen.x))
    of = with_gained(replace(of, seen=often), 6)
    others = other.and_others(of[np.arange(0, 400, 3)])
    found, values = potential_beside(CDNOW, of, others, TERMS, BOTH)
    apart = potential(CDNOW, of, TERMS, BOTH)
    for name in ("p_alive", "expected_orders", "clv", "median_wait_weeks", "low", "high"):
        np.testing.assert_allclose(getattr(found, name), getattr(apart, name), rtol=1e-5)
    np.testing.assert_allclose(values, clv(CDNOW, others, TERMS), rtol=1e-5)
    np.testing.assert_allclose(values[:, 300:], found.clv[:, ::3], rtol=1e-12)


def test_intervals_that_are_not_asked_for_are_not_made() -> None:
    without, apart = potential(CDNOW, facts(), TERMS, []), potential(CDNOW, facts(), TERMS, BOTH)
    assert without.low.shape == without.high.shape == (0, 400)
    np.testing.assert_array_equal(without.clv, apart.clv)


def test_a_customer_who_only_costs_has_a_negative_interval() -> None:
    of = facts()
    loss = Facts(of.seen, of.spent, -of.yield_rate)
    gain, cost = (potential(CDNOW, some, TERMS, BOTH) for some in (of, loss))
    np.testing.assert_array_equal(cost.clv, -gain.clv)
    np.testing.assert_array_equal(cost.low, -gain.high)


def test_more_repeats_than_tested_count_as_the_most_tested() -> None:
    def one(x: int) -> Facts:
        return Facts(Histories(np.array([x]), np.ones(1), np.ones(1)), np.ones(1), np.ones(1))

    most = clv(CDNOW, one(MOST_REPEATS), TERMS)
    np.testing.assert_array_equal(clv(CDNOW, one(10 * MOST_REPEATS), TERMS), most)


@pytest.mark.parametrize("horizons", [(), (0.0,), (5.0, 5.0), (9.0, 3.0), (float("nan"),)])
def test_strange_horizons_are_refused(horizons: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="horizons"):
        Terms(horizons)


def total(parts: Moved) -> FloatArray:
    found: FloatArray = np.sum([getattr(parts, name) for name in PARTS], axis=0)
    return found


def test_parts_in_units_sum_exactly_and_are_off_by_little() -> None:
    before = facts()
    now = facts(seed=2)
    old = np.round(100 * clv(CDNOW, before, TERMS)[-1])
    value = np.round(100 * clv(CDNOW, now, TERMS)[-1])
    # Money in cents on both sides, so that the parts are in cents, too.
    cents = [Facts(f.seen, f.spent, 100 * f.yield_rate) for f in (before, now)]
    parts = moved_by(cents[0], old, cents[1], value, CDNOW, TERMS)
    whole = parts.in_units(value - old)
    np.testing.assert_array_equal(whole.sum(axis=0), value - old)
    np.testing.assert_array_equal(whole, np.round(whole))
    exact = np.stack([getattr(parts, name) for name in PARTS])
    assert np.abs(whole - exact).max() <= 3.0


def test_parts_sum_to_the_change_and_land_where_they_belong() -> None:
    before = facts()
    seen = before.seen
    other = Parameters(Purchases(0.6, 7.0, 0.8, 1.2), Spend(5.0, 4.0, 20.0))
    old = clv(other, before, TERMS)[-1]
    later = Histories(seen.x + 1, seen.age + 1.0, seen.age + 1.0)
    now = Facts(later, before.spent + 20.0, before.yield_rate * 0.9)
    value = clv(CDNOW, now, TERMS)[-1]
    parts = moved_by(before, old, now, value, CDNOW, TERMS)
    np.testing.assert_allclose(total(parts), value - old, rtol=1e-12, atol=1e-10)
    assert (parts.orders > 0).all()
    assert (parts.returns < 0).all()

    waited = Facts(Histories(seen.x, seen.t_x, seen.age + 1.0), before.spent, before.yield_rate)
    start, end = clv(CDNOW, before, TERMS)[-1], clv(CDNOW, waited, TERMS)[-1]
    parts = moved_by(before, start, waited, end, CDNOW, TERMS)
    np.testing.assert_allclose(parts.time, end - start, atol=1e-10)
    np.testing.assert_allclose(parts.orders, 0.0, atol=1e-10)
    np.testing.assert_allclose(parts.parameters, 0.0, atol=1e-10)


def test_parts_sum_where_nothing_remains_of_the_spend() -> None:
    before = facts()
    old = clv(CDNOW, before, TERMS)[-1]
    now = Facts(before.seen, before.spent, np.zeros(400))
    value = clv(CDNOW, now, TERMS)[-1]
    parts = moved_by(before, old, now, value, CDNOW, TERMS)
    np.testing.assert_allclose(total(parts), -old, atol=1e-10)
    np.testing.assert_allclose(parts.returns, -old, atol=1e-10)


def with_gained(of: Facts, seed: int) -> Facts:
    return replace(of, gained=np.random.default_rng(seed).normal(0, 1.5, (2, of.spent.size)))


def test_signals_change_value_by_what_they_change_of_survival() -> None:
    of = facts()
    told = with_gained(of, 4)
    base, found = potential(CDNOW, of, TERMS, BOTH), potential(CDNOW, told, TERMS, BOTH)
    odds = (1 - base.p_alive) / base.p_alive * np.exp(told.gained.sum(axis=0))  # type: ignore[union-attr]
    np.testing.assert_allclose(found.p_alive, 1 / (1 + odds), rtol=1e-9)
    ratio = found.p_alive / base.p_alive
    np.testing.assert_allclose(found.expected_orders, base.expected_orders * ratio)
    np.testing.assert_allclose(found.clv, base.clv * ratio)
    np.testing.assert_allclose(clv(CDNOW, told, TERMS), found.clv)
    np.testing.assert_array_equal(found.median_wait_weeks, base.median_wait_weeks)


def test_gaining_nothing_is_the_same_to_the_last_bit() -> None:
    of = facts()
    nothing = potential(CDNOW, replace(of, gained=np.zeros((2, 400))), TERMS, BOTH)
    assert nothing.clv.tobytes() == potential(CDNOW, of, TERMS, BOTH).clv.tobytes()


def test_signals_have_their_part_of_the_change_and_parts_sum_to_it() -> None:
    before = with_gained(facts(), 4)
    seen = before.seen
    age, ordered = seen.age + 1.0, np.arange(400) % 2 == 0
    now = Facts(
        Histories(seen.x + ordered, np.where(ordered, age, seen.t_x), age),
        before.spent + 20.0 * ordered,
        before.yield_rate * 0.9,
        with_gained(before, 5).gained,
    )
    value_before, value_now = clv(CDNOW, before, TERMS)[-1], clv(CDNOW, now, TERMS)[-1]
    moved = moved_by(before, value_before, now, value_now, CDNOW, TERMS)
    np.testing.assert_allclose(total(moved), value_now - value_before, atol=1e-9)
    on_the_way = clv(CDNOW, between(before, now), TERMS)[-1]
    known = moved_by(before, value_before, now, value_now, CDNOW, TERMS, on_the_way)
    np.testing.assert_array_equal(total(known), total(moved))
    for part, row in ((moved.interactions, 0), (moved.feedback, 1)):
        assert not part[ordered].any()
        fell = now.gained[row, ~ordered] > before.gained[row, ~ordered]  # type: ignore[index]
        np.testing.assert_array_equal(part[~ordered] < 0, fell)
    quiet = replace(now, gained=before.gained)
    value_quiet = clv(CDNOW, quiet, TERMS)[-1]
    moved = moved_by(before, value_before, quiet, value_quiet, CDNOW, TERMS)
    assert not moved.interactions.any()
    assert not moved.feedback.any()


def test_customers_alike_are_worth_what_each_is_alone() -> None:
    rng = np.random.default_rng(8)
    x = rng.integers(0, 3, 60)
    age = 10.0 * rng.integers(1, 4, 60).astype(np.float64)
    facts = Facts(
        Histories(x, np.where(x > 0, 5.0, 0.0), age),
        30.0 * x.astype(np.float64),
        rng.uniform(0.2, 1, 60),
    )
    together = clv(CDNOW, facts, TERMS)
    alone = [clv(CDNOW, facts[np.array([nth])], TERMS)[:, 0] for nth in range(60)]
    np.testing.assert_allclose(together, np.transpose(alone), rtol=1e-4)
    corrections = [Conformal(), Conformal()]
    found = potential(CDNOW, facts, TERMS, corrections)
    np.testing.assert_allclose(found.clv, together, rtol=1e-9)
    one = potential(CDNOW, facts[np.array([7])], TERMS, corrections)
    for name in ("expected_orders", "low", "high"):
        np.testing.assert_allclose(getattr(found, name)[:, 7], getattr(one, name)[:, 0], rtol=1e-4)
