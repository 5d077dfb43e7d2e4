"""MBG/NBD is what mpmath, scipy and lifetimes say it is."""

from itertools import product

import numpy as np
import pytest
from scipy.special import betaln

from tests.support import lifetime_reference as reference
from valuetide.scoring.lifetime import purchases
from valuetide.scoring.lifetime.parameters import (
    PURCHASES_BOX,
    PURCHASES_MEAN,
    PURCHASES_SD,
    Purchases,
)
from valuetide.scoring.lifetime.purchases import Histories

REPEATS = np.array([0, 1, 7, 100, 10_000, 0, 3])
AGES = np.array([0.0, 3.0, 50.0, 500.0, 1_565.0, 1_565.0, 20.0])
SEEN = Histories(REPEATS, AGES * np.array([0, 0.5, 0.9, 1.0, 0.99, 0, 0.2]), AGES)
CDNOW = Purchases(0.5248, 6.1831, 0.8914, 1.6140)
WEEKS = np.array([90 / 7, 365 / 7])


def models() -> list[Purchases]:
    rng = np.random.default_rng(20_050_401)
    corners = [np.array(corner) for corner in product(*PURCHASES_BOX.T)]
    near = [PURCHASES_MEAN + PURCHASES_SD * rng.normal(size=4) for _ in range(24)]
    inside = [np.asarray(rng.uniform(*PURCHASES_BOX)) for _ in range(24)]
    special = [np.log(np.array([0.5, 10.0, a, 2.5])) for a in (1.0, 1 + 1e-9, 2.0)]
    every: list[np.ndarray] = [*corners, *near, *inside, *special]
    return [Purchases(*np.exp(np.clip(logs, *PURCHASES_BOX)).tolist()) for logs in every]


@pytest.mark.parametrize("model", models(), ids=repr)
def test_expected_orders_are_those_of_mpmath(model: Purchases) -> None:
    # mpmath needs half a minute for some of those with a large b.
    horizons = WEEKS[1:] if model.b > 1e3 else WEEKS
    found = purchases.future(model, SEEN, horizons).mean
    parameters = (model.r, model.alpha, model.a, model.b)
    exact = [
        [
            float(reference.mbg_expected_orders_exactly(parameters, int(x), float(age), weeks))
            for x, age in zip(REPEATS, AGES, strict=True)
        ]
        for weeks in horizons.tolist()
    ]
    np.testing.assert_allclose(found, exact, rtol=1e-5)


@pytest.mark.parametrize("model", models(), ids=repr)
def test_nothing_overflows(model: Purchases) -> None:
    found = purchases.future(model, SEEN, WEEKS)
    slope, curvature = purchases.slope_and_curvature(model, SEEN)
    for values in (found.none, found.mean, found.pairs, slope, curvature,
                   purchases.p_alive(model, SEEN), purchases.median_wait(model, SEEN),
                   purchases.log_likelihood(model, SEEN)):  # fmt: skip
        assert np.isfinite(values).all()
    assert (found.none >= 0).all()
    assert (found.none <= 1).all()
    assert (found.pairs >= -1e-9).all()


@pytest.mark.parametrize("a", [0.02, 0.1, 0.15, 0.4, 0.8])
def test_pairs_of_orders_are_right_where_nearly_nobody_leaves(a: float) -> None:
    model, weeks = Purchases(0.5, 6.0, a, 1.5), 143.0
    seen = Histories(np.array([0, 3, 40]), np.zeros(3), np.array([90.0, 40.0, 90.0]))
    found = purchases.future(model, seen, np.array([weeks])).pairs[0]
    exact = [
        pairs_densely(model, int(x), float(age), weeks)
        for x, age in zip(seen.x, seen.age, strict=True)
    ]
    np.testing.assert_allclose(found, exact, rtol=2e-4)
    alone = Histories(seen.x[:1], seen.t_x[:1], seen.age[:1])
    np.testing.assert_allclose(
        purchases.future(model, alone, np.array([weeks])).pairs[0], exact[:1], rtol=2e-4
    )


def pairs_densely(model: Purchases, x: int, age: float, weeks: float) -> float:
    """E[n (n-1)] of the orders n of who is alive, by 250,000 points of u = logit p."""
    shape, stay, relative = model.r + x, model.b + x + 1.0, weeks / (model.alpha + age)
    u = np.arange(-2500.0, 40.0, 0.01)
    log_p, log_q = -np.logaddexp(0.0, -u), -np.logaddexp(0.0, u)
    spread = np.exp(log_p) * relative
    there = np.exp(-shape * np.log1p(spread))
    whole = 1.0 - there * (1.0 + shape * spread / (1.0 + spread))
    # Two terms of its series where the difference has too few digits.
    few = shape * (shape + 1.0) * (0.5 - (shape + 2.0) * spread / 3.0)
    small = spread * (shape + 2.0) < 1e-4
    square = np.where(small, few, whole / np.where(small, 1.0, spread) ** 2)
    mass = np.exp(model.a * log_p + stay * log_q - betaln(model.a, stay)) * 0.01
    return float(2.0 * relative**2 * (square * np.exp(log_q) * mass).sum())


def test_moments_are_those_of_a_simulation() -> None:
    rng = np.random.default_rng(7)
    model, seen = (
        Purchases(2.0, 6.0, 1.5, 4.0),
        Histories(np.array([2]), np.array([5.0]), np.array([9.0])),
    )
    weeks, many = 20.0, 200_000
    rate = rng.gamma(model.r + 2, 1 / (model.alpha + 9.0), many)
    leave = rng.beta(model.a, model.b + 3, many)
    orders = np.minimum(rng.poisson(rate * weeks), rng.geometric(leave))
    found = purchases.future(model, seen, np.array([weeks]))
    assert found.mean[0, 0] == pytest.approx(orders.mean(), rel=0.01)
    assert found.pairs[0, 0] == pytest.approx((orders * (orders - 1.0)).mean(), rel=0.02)
    assert found.none[0, 0] == pytest.approx((orders == 0).mean(), rel=0.02)


def test_lifetimes_agrees() -> None:
    from lifetimes import ModifiedBetaGeoFitter

    fitter = ModifiedBetaGeoFitter()
    fitter.params_ = {"r": CDNOW.r, "alpha": CDNOW.alpha, "a": CDNOW.a, "b": CDNOW.b}
    some = Histories(REPEATS[:3], SEEN.t_x[:3], AGES[:3])
    alive = fitter.conditional_probability_alive(some.x, some.t_x, some.age)
    np.testing.assert_allclose(purchases.p_alive(CDNOW, some), alive, rtol=1e-9)
    expected = fitter.conditional_expected_number_of_purchases_up_to_time(
        39.0, some.x, some.t_x, some.age
    )
    found = purchases.future(CDNOW, some, np.array([39.0])).mean[0] * alive
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_likelihood_is_that_of_the_paper() -> None:
    of = reference.Summary(REPEATS.astype(float), SEEN.t_x, AGES, AGES)
    parameters = np.array([CDNOW.r, CDNOW.alpha, CDNOW.a, CDNOW.b])
    found = purchases.log_likelihood(CDNOW, SEEN)
    np.testing.assert_allclose(found, reference.mbg_log_likelihood(parameters, of), atol=1e-12)


@pytest.mark.parametrize("model", models()[16:40], ids=repr)
def test_derivatives_are_those_of_differences(model: Purchases) -> None:
    # Without the extreme histories, of which differences have no digits left.
    seen = Histories(REPEATS[[0, 1, 2, 5, 6]], SEEN.t_x[[0, 1, 2, 5, 6]], AGES[[0, 1, 2, 5, 6]])
    at = np.log([model.r, model.alpha, model.a, model.b])
    slope, curvature = purchases.slope_and_curvature(model, seen)
    for nth, step in enumerate(np.eye(4) * 1e-5):
        above, below = (Purchases(*np.exp(at + s).tolist()) for s in (step, -step))
        difference = purchases.log_likelihood(above, seen) - purchases.log_likelihood(below, seen)
        np.testing.assert_allclose(slope[nth], difference / 2e-5, rtol=1e-4, atol=1e-5)
        turn = [purchases.slope_and_curvature(m, seen)[0].sum(axis=1) for m in (above, below)]
        expected = (turn[0] - turn[1]) / 2e-5
        np.testing.assert_allclose(curvature[nth], expected, rtol=1e-4, atol=1e-5)


def test_half_of_those_alive_have_bought_at_the_median_wait() -> None:
    wait = purchases.median_wait(CDNOW, SEEN)[:4]
    for nth, weeks in enumerate(wait.tolist()):
        none = purchases.future(CDNOW, SEEN, np.array([weeks])).none[0, nth]
        assert none == pytest.approx(0.5)
