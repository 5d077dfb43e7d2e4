"""FOCuS is the maximum over all change times, found by looking at each of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from valuetide.scoring.trends.focus import Change, Focus, Kind

Floats = NDArray[np.float64]


def brute_force(x: Floats, kind: Kind, least: int, prior: float) -> tuple[float, int]:
    """Log-likelihood ratio of the likeliest change in all that came, and after how many points."""
    best, at = 0.0, -1
    for t in range(x.size - least + 1):
        after = x[t:]
        if kind == "variance" and np.isinf(prior):
            v = max(float(np.mean(after**2)), 1e-3)
            ratio = after.size / 2 * (v - 1 - np.log(v))
        elif kind == "variance":
            # Ones stand for what is known of the variance before.
            n0, squares = t + prior, (x[:t] ** 2).sum() + prior
            if n0 == 0:
                continue
            v0, v1 = squares / n0, max(float(np.mean(after**2)), 1e-3)
            v = (squares + v1 * after.size) / (n0 + after.size)
            ratio = (n0 * np.log(v / v0) + after.size * np.log(v / v1)) / 2
        elif np.isinf(prior):
            ratio = after.size * float(after.mean()) ** 2 / 2
        else:
            # Zeros stand for what is known of the mean before; squares around one and two means.
            n0 = t + prior
            if n0 == 0:
                continue
            m0, m1 = x[:t].sum() / n0, after.mean()
            m = x.sum() / (n0 + after.size)
            ratio = (n0 * (m0 - m) ** 2 + after.size * (m1 - m) ** 2) / 2
        if ratio > best + 1e-12:
            best, at = ratio, t
    return best, at


def feed(focus: Focus, x: Floats) -> list[Change]:
    rows = np.ones(1, np.bool_)
    return [focus.observe(100 + i, np.array([value]), rows) for i, value in enumerate(x)]


@pytest.mark.parametrize("least", [1, 3, 5])
@pytest.mark.parametrize(
    ("kind", "prior"),
    [("mean", 0.0), ("mean", 60.0), ("mean", np.inf), ("variance", 60.0), ("variance", np.inf)],
)
def test_it_is_the_maximum_over_all_change_times(kind: Kind, prior: float, least: int) -> None:
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(size=80), rng.normal(0.7, 1.0, 60), rng.normal(-0.2, 2.0, 60)])
    found = feed(Focus(1, kind, least, prior, capacity=64), x)
    for i, change in enumerate(found):
        best, at = brute_force(x[: i + 1], kind, least, prior)
        assert change.statistic[0] == pytest.approx(best, abs=1e-9)
        if best > 0:
            assert change.since[0] == 100 + at
            assert change.points[0] == i + 1 - at


@given(
    st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=40),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1.0, 60.0, np.inf]),
)
def test_ties_and_runs_of_equal_points(values: list[float], least: int, prior: float) -> None:
    x = np.array(values)
    change = feed(Focus(1, "mean", least, prior, capacity=40), x)[-1]
    assert change.statistic[0] == pytest.approx(brute_force(x, "mean", least, prior)[0], abs=1e-9)


def test_size_time_and_direction_of_a_change() -> None:
    rng = np.random.default_rng(1)
    for sign in (1, -1):
        x = rng.normal(size=300)
        x[200:] += 1.5 * sign
        last = feed(Focus(1), x)[-1]
        assert abs(int(last.since[0]) - 300) <= 4
        assert last.direction[0] == sign
        assert last.after[0] - last.before[0] == pytest.approx(1.5 * sign, abs=0.3)


@pytest.mark.parametrize(("sd", "direction"), [(2.0, 1), (0.4, -1)])
def test_a_change_of_variance(sd: float, direction: int) -> None:
    x = np.random.default_rng(2).normal(size=300)
    x[200:] *= sd
    last = feed(Focus(1, "variance", 7), x)[-1]
    assert abs(int(last.since[0]) - 300) <= 10
    assert last.direction[0] == direction
    assert last.before[0] == pytest.approx(1.0, abs=0.25)
    assert last.after[0] == pytest.approx(sd**2, rel=0.4)


def test_kurtosis_scales_the_likelihood_of_a_variance() -> None:
    x = np.random.default_rng(2).normal(0.0, 2.0, 30)
    one, two = Focus(1, "variance"), Focus(1, "variance")
    for i, value in enumerate(x):
        args = i, np.array([value]), np.ones(1, np.bool_)
        normal, heavy = one.observe(*args, np.array([3.0])), two.observe(*args, np.array([9.0]))
    assert normal.statistic[0] == pytest.approx(4.0 * heavy.statistic[0])


def test_missing_points_do_not_count() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(150, 3))
    present = rng.random((150, 3)) < 0.6
    x[100:] += 1.0
    focus = Focus(3, capacity=64)
    for i in range(150):
        change = focus.observe(i, x[i], present[i])
    for row in range(3):
        best, at = brute_force(x[present[:, row], row], "mean", 3, 60.0)
        assert change.statistic[row] == pytest.approx(best)
        assert change.since[row] == np.flatnonzero(present[:, row])[at]


def test_with_few_candidates_the_oldest_are_forgotten() -> None:
    # A parabola: every point is a vertex of the lower hull, and the best change lies far back.
    x = np.linspace(-1.0, 1.0, 60)
    few, many = feed(Focus(1, capacity=8), x), feed(Focus(1, capacity=64), x)
    assert few[5].statistic[0] == many[5].statistic[0]
    assert 0.0 < few[-1].statistic[0] < many[-1].statistic[0]
    assert few[-1].points[0] == 10


def test_sixteen_candidates_are_enough_for_two_years() -> None:
    rng = np.random.default_rng(7)
    few, many = Focus(300, capacity=16), Focus(300, capacity=40)
    rows = np.ones(300, np.bool_)
    for i in range(730):
        x = rng.normal(size=300)
        a, b = few.observe(i, x, rows), many.observe(i, x, rows)
    assert np.isclose(a.statistic, b.statistic).mean() >= 0.99


def test_reset_and_growth_begin_anew() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(50, 3))
    focus = Focus(2)
    for i in range(20):
        focus.observe(i, x[i, :2], np.ones(2, np.bool_))
    focus.reset(np.array([1]))
    focus.grow(1)
    for i in range(20, 50):
        change = focus.observe(i, x[i], np.ones(3, np.bool_))
    for row, start in ((0, 0), (1, 20), (2, 20)):
        best, _ = brute_force(x[start:, row], "mean", 3, 60.0)
        assert change.statistic[row] == pytest.approx(best)


@pytest.mark.parametrize("kind", ["mean", "variance"])
def test_bytes_continue_where_it_was(kind: Kind) -> None:
    rng = np.random.default_rng(6)
    straight, cut = Focus(4, kind), Focus(4, kind)
    for i in range(120):
        x, rows = rng.normal(size=4), rng.random(4) < 0.8
        straight.observe(i, x, rows)
        cut.observe(i, x, rows)
        if i % 25 == 0:
            cut = Focus.decode(cut.encode())
    assert cut.encode() == straight.encode()
    assert len(cut.encode()) == 16 + 4 * 8 * (2 + 6 + 2 + 96)


@pytest.mark.parametrize("spoil", [lambda b: b"", lambda b: b[:-1], lambda b: b"\x07" + b[1:]])
def test_strange_bytes_are_refused(spoil: object) -> None:
    assert callable(spoil)
    with pytest.raises(ValueError, match="focus"):
        Focus.decode(spoil(Focus(2).encode()))
