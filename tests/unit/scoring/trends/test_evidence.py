"""Evidence is never more than the time it ran, on average, and few of those believed are false."""

import numpy as np
import pytest
from numpy.typing import NDArray

from valuetide.scoring.trends.evidence import BOUND, Evidence, believed

Floats = NDArray[np.float64]
WORST = 1.0 / (1.0 + BOUND**2)


def worst_case(rng: np.random.Generator, size: int) -> Floats:
    """Bounded by b, mean 0, variance 1, as lopsided as can be: Bennett's bound is tight there."""
    return np.asarray(np.where(rng.random(size) < WORST, BOUND, -1.0 / BOUND))


def normal(rng: np.random.Generator, size: int) -> Floats:
    x = np.clip(rng.normal(size=size), -2.0, 2.0)
    return np.asarray(x / 2.0 * BOUND)


@pytest.mark.parametrize("draw", [worst_case, normal])
def test_its_mean_is_at_most_the_time(draw: object) -> None:
    assert callable(draw)
    rng = np.random.default_rng(1)
    evidence = Evidence(200_000)
    rows = np.ones(200_000, np.bool_)
    for time in range(1, 7):
        found = evidence.observe(draw(rng, 200_000), rows)
        # Within four standard errors.
        assert found.mean() <= time + 4 * found.std() / 447


def test_it_is_the_shiryaev_roberts_recursion() -> None:
    x = np.array([0.5, -1.0, 2.0, 1.5])
    evidence = Evidence(1)
    for value in x:
        found = evidence.observe(np.array([value]), np.array([True]))
    total = 0.0
    for size in (0.2, 0.5, 0.9, -0.2, -0.5, -0.9):
        psi = (np.exp(abs(size) * BOUND) - 1 - abs(size) * BOUND) / BOUND**2
        # Sum over all times of the change of the likelihood ratio since.
        total += sum(np.exp((size * x[t:] - psi).sum()) for t in range(4))
    assert found[0] == pytest.approx(total / 6)


def test_few_of_those_believed_are_false() -> None:
    rng = np.random.default_rng(2)
    shares, caught = [], []
    for _ in range(20):
        evidence, family = Evidence(500), np.zeros(500, np.int64)
        ever = np.zeros(500, np.bool_)
        for point in range(90):
            x = normal(rng, 500)
            if point >= 50:
                x[:25] = np.minimum(x[:25] + 1.5, BOUND)
            ever |= believed(evidence.observe(x, np.ones(500, np.bool_)), family, 0.1, 90.0)
        shares.append(ever[25:].sum() / max(ever.sum(), 1))
        caught.append(ever[:25].mean())
    assert np.mean(shares) < 0.1
    assert np.mean(caught) > 0.95


def test_families_are_judged_apart_and_single_series_not_at_all() -> None:
    evidence = np.array([1.0, 950.0, 1.0, 450.0, 460.0, 0.0])
    family = np.array([-1, 3, 3, 0, 0, -2])
    chosen = believed(evidence, family, 0.1, 45.0)
    assert chosen.tolist() == [True, True, False, True, True, True]


def test_it_is_e_bh() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        evidence = rng.pareto(0.5, 40) * 20
        chosen = believed(evidence, np.zeros(40, np.int64), 0.2, 1.0)
        ranked = np.sort(evidence)[::-1]
        most = max((k for k in range(1, 41) if ranked[k - 1] >= 40 / (0.2 * k)), default=0)
        assert chosen.sum() == most
        assert set(np.flatnonzero(chosen)) == set(np.argsort(-evidence)[:most])


def test_bytes_missing_points_growth_and_reset() -> None:
    rng = np.random.default_rng(4)
    evidence = Evidence(2)
    for _ in range(9):
        last = evidence.observe(rng.normal(size=2), np.array([True, True]))
    again = Evidence.decode(evidence.encode())
    assert again.encode() == evidence.encode()
    held = again.observe(np.ones(2), np.array([False, True]))
    assert held[0] == last[0]
    again.grow(1)
    again.reset(np.array([0, 1]))
    assert again.encode() == Evidence(3).encode()


def test_it_does_not_overflow() -> None:
    evidence = Evidence(1)
    for _ in range(5_000):
        found = evidence.observe(np.array([BOUND]), np.array([True]))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("spoil", [lambda b: b"", lambda b: b[:-1], lambda b: b"\x07" + b[1:]])
def test_strange_bytes_are_refused(spoil: object) -> None:
    assert callable(spoil)
    with pytest.raises(ValueError, match="evidence"):
        Evidence.decode(spoil(Evidence(2).encode()))
