"""What signals tell, against probabilities by scipy and integrals by mpmath."""

import mpmath
import numpy as np
import pytest
from scipy.stats import nbinom

from valuetide.scoring.lifetime.evidence import (
    NOTHING,
    Counts,
    Rates,
    gained_and_slope,
    log_odds_gained,
)
from valuetide.scoring.signals import KINDS, SIGNALS, note_orders, note_signals


def some(count: int, seed: int, periods: int = 2) -> tuple[Rates, Counts]:
    rng = np.random.default_rng(seed)
    kinds = len(KINDS)
    weeks = rng.uniform(0, 30, (2, count))
    weeks[periods:] = 0.0
    since = rng.poisson(3.0, (kinds, 2, count)).astype(np.float64)
    since[:, periods:] = 0.0
    before = rng.poisson(5.0, (kinds, count)).astype(np.float64)
    counts = Counts(since, weeks, before, rng.uniform(0, 50, count))
    shape, rate = rng.gamma(2.0, 0.5, kinds), rng.gamma(2.0, 3.0, kinds)
    return Rates(shape, rate, rng.normal(0.0, 1.5, (kinds, 2))), counts


def test_one_period_is_the_ratio_of_two_negative_binomial_probabilities() -> None:
    rates, counts = some(50, 1, periods=1)
    found = log_odds_gained(rates, counts)
    for kind in range(len(KINDS)):
        shape = rates.shape[kind] + counts.before[kind]
        rate = rates.rate[kind] + counts.lived
        n, weeks = counts.since[kind, 0], counts.weeks[0]
        ratio = np.exp(rates.log_ratio[kind, 0])
        gone = nbinom.logpmf(n, shape, rate / (rate + ratio * weeks))
        there = nbinom.logpmf(n, shape, rate / (rate + weeks))
        np.testing.assert_allclose(found[kind], gone - there, rtol=1e-9, atol=1e-9)


def test_two_periods_are_an_integral_over_the_customers_own_rate() -> None:
    rates, counts = some(6, 2)
    found = log_odds_gained(rates, counts)
    with mpmath.workdps(30):
        for kind, who in ((0, 0), (1, 2), (3, 5)):
            weeks, n = counts.weeks[:, who], counts.since[kind, :, who]

            def density(rate: mpmath.mpf, ratio: np.ndarray) -> mpmath.mpf:
                shape = rates.shape[kind] + counts.before[kind, who]  # noqa: B023
                value = rate ** (shape - 1)
                value *= mpmath.exp(-rate * (rates.rate[kind] + counts.lived[who]))  # noqa: B023
                for times, length, days in zip(ratio, weeks, n, strict=True):  # noqa: B023
                    value *= (rate * times) ** days * mpmath.exp(-rate * times * length)
                return value

            ratio = np.exp(rates.log_ratio[kind])
            gone, there = (
                mpmath.quad(lambda rate, c=c: density(rate, c), [0, 0.5, 2, mpmath.inf])
                for c in (ratio, np.ones(2))
            )
            assert float(mpmath.log(gone / there)) == pytest.approx(found[kind, who], rel=1e-9)


def test_derivatives_are_those_of_small_steps() -> None:
    rates, counts = some(20, 3)
    gained, slope = gained_and_slope(rates, counts)
    np.testing.assert_allclose(gained, log_odds_gained(rates, counts).sum(axis=0))
    for nth in range(slope.shape[0]):
        step = np.zeros(slope.shape[0])
        step[nth] = 1e-6
        up, down = (
            log_odds_gained(
                Rates(rates.shape, rates.rate, rates.log_ratio + sign * step.reshape(-1, 2)),
                counts,
            ).sum(axis=0)
            for sign in (1, -1)
        )
        np.testing.assert_allclose(slope[nth], (up - down) / 2e-6, rtol=1e-5, atol=1e-6)


def test_ratios_of_one_tell_nothing_at_all() -> None:
    _, counts = some(100, 4)
    assert not log_odds_gained(NOTHING, counts).any()
    assert NOTHING.silent


def test_silence_of_a_frequent_visitor_tells_more_than_that_of_a_rare_one() -> None:
    rates = Rates(np.ones(1), np.ones(1), np.full((1, 2), -1.0))
    weeks = np.full((2, 2), 4.0)
    counts = Counts(np.zeros((1, 2, 2)), weeks, np.array([[0.0, 30.0]]), np.full(2, 30.0))
    rare, frequent = log_odds_gained(rates, counts)[0].tolist()
    assert 0 < rare < 0.2 < frequent


def test_a_visit_tells_of_life_and_a_complaint_of_the_opposite() -> None:
    shape, rate = np.ones(2), np.full(2, 4.0)
    rates = Rates(shape, rate, np.array([[-1.0, -1.0], [1.0, 1.0]]))
    nothing = Counts(np.zeros((2, 2, 1)), np.ones((2, 1)), np.zeros((2, 1)), np.zeros(1))
    once = Counts(np.eye(2)[:1, :, None].repeat(2, 0), nothing.weeks, nothing.before, nothing.lived)
    change = (log_odds_gained(rates, once) - log_odds_gained(rates, nothing))[:, 0]
    assert change[0] < 0 < change[1]


def test_counts_come_from_counters() -> None:
    signals = np.zeros(2, SIGNALS)
    ann, visits = np.zeros(3, np.int64), np.zeros(3, np.uint8)
    for day in (100, 170):
        note_orders(signals, ann[:1], np.array([day]))
        note_signals(signals, ann, visits, day + np.array([1, 28, 29]))
    counts = Counts.of(signals, np.array([100, 0]), 170 + 38.5)
    assert counts.since[0, :, 0].tolist() == [2, 1]
    assert counts.weeks[:, 0].tolist() == [4.0, 1.5]
    assert (counts.before[0, 0], counts.lived[0]) == (3.0, 10.0)
    assert not counts.weeks[:, 1].any()
    rates, _ = some(1, 5)
    assert not log_odds_gained(rates, counts)[:, 1].any()
