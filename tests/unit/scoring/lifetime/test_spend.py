"""Gamma-Gamma is what scipy and lifetimes say it is."""

import numpy as np
import pytest

from tests.support import lifetime_reference as reference
from valuetide.scoring.lifetime import spend
from valuetide.scoring.lifetime.parameters import Spend

MODEL = Spend(6.25, 3.74, 15.44)
X = np.array([1, 2, 5, 300, 1])
SPENT = np.array([0.01, 40.0, 500.0, 9e3, 1e6])


def test_likelihood_is_that_of_the_paper() -> None:
    of = reference.Summary(X.astype(float), X * 1.0, X * 2.0, SPENT)
    expected = reference.gamma_gamma_log_likelihood(np.array([6.25, 3.74, 15.44]), of)
    np.testing.assert_allclose(spend.log_likelihood(MODEL, X, SPENT), expected, rtol=1e-9)


def test_lifetimes_agrees() -> None:
    from lifetimes import GammaGammaFitter

    fitter = GammaGammaFitter()
    fitter.params_ = {"p": MODEL.p, "q": MODEL.q, "v": MODEL.gamma}
    expected = fitter.conditional_expected_average_profit(X, SPENT / X)
    found = spend.expected_order_value(MODEL, X, SPENT)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("x", [X, np.array([1, 1, 2, 2, 1])], ids=["direct", "by table"])
def test_derivatives_are_those_of_differences(x: np.ndarray) -> None:
    at = np.log([MODEL.p, MODEL.q, MODEL.gamma])
    slope, curvature = spend.slope_and_curvature(MODEL, x, SPENT)
    for nth, step in enumerate(np.eye(3) * 1e-5):
        above, below = (Spend(*np.exp(at + s).tolist()) for s in (step, -step))
        rise = spend.log_likelihood(above, x, SPENT) - spend.log_likelihood(below, x, SPENT)
        np.testing.assert_allclose(slope[nth], rise / 2e-5, rtol=1e-5, atol=1e-4)
        turn = [spend.slope_and_curvature(m, x, SPENT)[0].sum(axis=1) for m in (above, below)]
        np.testing.assert_allclose(curvature[nth], (turn[0] - turn[1]) / 2e-5, rtol=1e-5, atol=1e-4)


def test_second_moments_are_those_of_a_simulation() -> None:
    rng = np.random.default_rng(3)
    model, x, spent = Spend(3.0, 9.0, 40.0), np.array([2]), np.array([30.0])
    rate = rng.gamma(model.p * 2 + model.q, 1 / (model.gamma + 30.0), 400_000)
    one, two = rng.gamma(model.p, 1 / rate), rng.gamma(model.p, 1 / rate)
    mean = spend.expected_order_value(model, x, spent)[0]
    square, product = spend.relative_second_moments(model, x)
    assert mean == pytest.approx(one.mean(), rel=0.01)
    assert square[0] * mean**2 == pytest.approx((one * one).mean(), rel=0.02)
    assert product[0] * mean**2 == pytest.approx((one * two).mean(), rel=0.02)
