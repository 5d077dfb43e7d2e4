"""What is reported of predictions is what a statistician's textbook says of the same numbers."""

import numpy as np
import pytest
from scipy.stats import linregress

from valuetide.scoring.lifetime.grade import Grade, Outcomes, pooled_grade, report


def cohort(seed: int, size: int = 250) -> Outcomes:
    rng = np.random.default_rng(seed)
    orders = rng.gamma(1, 1, size)
    real = rng.poisson(orders * 0.8).astype(np.float64)
    yes = rng.random((2, size)) < 0.7
    return Outcomes(orders, orders * rng.gamma(5, 4, size), real, real * 25.0, yes[0], yes[1])


def test_the_report_of_one_cohort_is_the_textbooks() -> None:
    one = cohort(1)
    grade = Grade()
    grade.add(one)
    found = report(grade.total)
    assert found.outcomes == 250
    assert found.coverage == one.inside.mean()
    assert found.likely_coverage == one.inside[one.likely].mean()
    by_revenue = np.argsort(one.revenue)
    for quality, predicted, real in (
        (found.orders, one.orders, one.real_orders),
        (found.revenue, one.revenue, one.real_revenue),
    ):
        assert quality.bias == pytest.approx(predicted.sum() / real.sum() - 1)
        assert quality.mae == pytest.approx(np.abs(predicted - real).mean())
        assert quality.slope == pytest.approx(linregress(predicted, real).slope)
        parts = by_revenue.reshape(10, 25)
        np.testing.assert_allclose(quality.predicted, predicted[parts].mean(axis=1))
        np.testing.assert_allclose(quality.realised, real[parts].mean(axis=1))


def test_all_sums_remember_and_recent_ones_forget() -> None:
    grade = Grade()
    for seed in range(5):
        grade.add(cohort(seed))
        grade = Grade.decode(grade.encode())
    weights = 0.8 ** np.arange(4, -1, -1)
    errors = [np.abs(one.orders - one.real_orders).mean() for one in map(cohort, range(5))]
    assert report(grade.total).orders.mae == pytest.approx(np.mean(errors))
    assert report(grade.recent).orders.mae == pytest.approx(np.average(errors, weights=weights))
    assert report(grade.recent).outcomes == pytest.approx(250 * weights.sum())
    assert grade.cohorts == 5


def test_shards_together_report_what_one_would() -> None:
    shards = [Grade() for _ in range(2)]
    for grade, seed in zip(shards, (7, 8), strict=True):
        grade.add(cohort(seed))
    both = [np.concatenate(pair) for pair in zip(
        *([getattr(one, name) for name in Outcomes.__slots__] for one in (cohort(7), cohort(8))),
        strict=True,
    )]  # fmt: skip
    found, whole = report(pooled_grade(shards).total), Outcomes(*both)
    assert found.revenue.mae == pytest.approx(np.abs(whole.revenue - whole.real_revenue).mean())
    assert found.orders.slope == pytest.approx(linregress(whole.orders, whole.real_orders).slope)
    assert found.coverage == whole.inside.mean()


def test_what_cannot_be_said_is_not_a_number() -> None:
    nothing = report(Grade().total)
    assert np.isnan([nothing.coverage, nothing.orders.bias, nothing.revenue.mae]).all()
    same, none, no = np.full(3, 0.7), np.zeros(3), np.zeros(3, np.bool_)
    grade = Grade()
    grade.add(Outcomes(same, same, none, none, no, no))
    found = report(grade.total)
    assert np.isnan([found.orders.slope, found.orders.bias, found.likely_coverage]).all()
    assert found.orders.mae == pytest.approx(0.7)
    assert np.isnan(found.orders.predicted).sum() == 7


@pytest.mark.parametrize("blob", [b"", Grade().encode() + b"x", b"\x09\x00" + Grade().encode()[2:]])
def test_strange_bytes_are_refused(blob: bytes) -> None:
    with pytest.raises(ValueError, match="grade"):
        Grade.decode(blob)
