"""What is expected is what a batch fit would expect, and outliers and gaps do no harm."""

import numpy as np
import pytest
from numpy.typing import NDArray

from valuetide.scoring.trends import expectation as module
from valuetide.scoring.trends.calendar import WEEK_OF_DAYS, YEAR_OF_DAYS, Calendar, Season
from valuetide.scoring.trends.expectation import Expectation, Model, Points, Scale

Floats = NDArray[np.float64]
START = 20_000
WEEK = np.array([0.2, 0.1, 0.0, -0.1, 0.3, 0.6, -0.5])


def shop(points: int, phi: float = 0.0, noise: float = 0.1, seed: int = 1) -> Floats:
    """Logarithms of daily revenue: a week, and autocorrelated noise of five degrees of freedom."""
    rng = np.random.default_rng(seed)
    steps = rng.standard_t(5, points) * np.sqrt(3 / 5 * (1 - phi**2)) * noise
    u = np.zeros(points)
    for i in range(1, points):
        u[i] = phi * u[i - 1] + steps[i]
    return 9.0 + WEEK[(START + np.arange(points)) % 7] + u


def run(state: Expectation, logs: Floats, start: int = START) -> list[Points]:
    rows = np.ones(state.seen.size, np.bool_)
    return [
        state.observe(start + i, np.full(rows.size, np.exp(y)), rows) for i, y in enumerate(logs)
    ]


def residuals(points: list[Points]) -> Floats:
    return np.array([point.residual[0] for point in points if point.judged[0]])


def test_it_expects_what_a_batch_fit_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without drift, cut and autocorrelation the model is a regression with a normal prior.
    for name, value in {
        "CLIP": 1e9,
        "_LEARNING_CLIP": 1e9,
        "_LEAST_PHI": 0,
        "_MOST_PHI": 0,
    }.items():
        monkeypatch.setattr(module, name, value)
    calendar = Calendar(seasons=(WEEK_OF_DAYS,))
    model = Model(pad=0.0, level_drift=0.0, slope_drift=0.0, season_drift=0.0)
    logs = shop(60)
    expected = run(Expectation(model, calendar, 1), logs)[-1].expected[0]

    variances = np.array([100.0, 0.0005**2] + [100.0] * 6)
    rows = np.array([calendar.row(START + i) for i in range(60)])
    rows[:, 1] = np.arange(60) + 1.0
    start = np.zeros(8)
    start[0] = logs[0]
    known, y = rows[:59], logs[:59]
    precision = known.T @ known + np.diag(1 / variances)
    fitted = np.linalg.solve(precision, known.T @ y + start / variances)
    assert np.log(expected) == pytest.approx(float(rows[59] @ fitted), abs=1e-8)


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.6])
def test_residuals_are_standard_and_uncorrelated(phi: float) -> None:
    series = [shop(900, phi, seed=seed) for seed in range(20)]
    state = Expectation(Model(), Calendar(), 20)
    rows = np.ones(20, np.bool_)
    found = [state.observe(START + i, np.exp([s[i] for s in series]), rows) for i in range(900)]
    r = np.array([point.residual for point in found])[100:]
    assert r.mean() == pytest.approx(0.0, abs=0.03)
    assert r.var() == pytest.approx(1.0, abs=0.08)
    for lag in (1, 2, 7):
        assert (r[lag:] * r[:-lag]).mean() == pytest.approx(0.0, abs=0.07)
    assert state.autocorrelation.mean() == pytest.approx(phi, abs=0.08)


def test_an_outlier_has_bounded_influence() -> None:
    logs = shop(120)
    wild = logs.copy()
    wild[90] += 6.0
    plain, hit = (run(Expectation(Model(), Calendar(), 1), y) for y in (logs, wild))
    moved = np.log(hit[91].expected / plain[91].expected)[0]
    assert hit[90].raw[0] > 30
    assert hit[90].residual[0] < 2.1
    # It counts for two standard deviations; the next day's sd is 0.1 or so.
    assert abs(moved) < 0.05


def test_gaps_and_missing_rows_change_nothing_that_was_learned() -> None:
    logs = shop(200, 0.4)
    state = Expectation(Model(), Calendar(), 2)
    for i, y in enumerate(logs[:100]):
        state.observe(START + i, np.full(2, np.exp(y)), np.array([True, True]))
    before = state.mean.copy()
    # The second series misses ten points one by one, then both miss seven at once.
    for i in range(100, 110):
        found = state.observe(START + i, np.exp(logs[[i, i]]), np.array([True, False]))
        assert not found.judged[1]
        assert found.residual[1] == 0.0
    np.testing.assert_allclose(state.mean[1, 1:], before[1, 1:])
    found = state.observe(START + 117, np.full(2, np.nan), np.array([True, True]))
    assert not found.judged.any()
    assert found.expected[1] == pytest.approx(np.exp(9 + WEEK[(START + 117) % 7]), rel=0.15)
    # What is not seen is known less well.
    assert state.covariance[1, 0, 0] > state.covariance[0, 0, 0]


def test_a_cold_start_is_said_aloud() -> None:
    found = run(Expectation(Model(learning_points=28), Calendar(), 1), shop(40))
    assert [point.points_needed[0] for point in found[:3]] == [27, 26, 25]
    assert [bool(point.judged[0]) for point in found] == [False] * 28 + [True] * 12
    assert found[27].points_needed[0] == 0


def test_holidays_of_one_name_share_an_effect() -> None:
    logs = shop(300)
    holidays = {START + 60: "sale", START + 160: "sale", START + 260: "sale", START + 261: "rest"}
    for day in holidays:
        logs[day - START] += 1.0
    found = run(Expectation(Model(), Calendar(holidays=holidays), 1), logs)
    assert abs(found[60].raw[0]) < 2.0, "the first one is not held against anybody"
    normal = np.exp(9.0 + WEEK[(START + 260) % 7])
    assert found[260].expected[0] / normal == pytest.approx(np.e, rel=0.15)
    assert found[61].expected[0] / np.exp(9.0 + WEEK[(START + 61) % 7]) == pytest.approx(1, rel=0.1)
    blind = run(Expectation(Model(), Calendar(), 1), logs)
    assert blind[160].raw[0] > 5.0


def test_the_year_counts_after_a_year() -> None:
    days = np.arange(1_000)
    logs = shop(1_000) + 0.4 * np.sin(2 * np.pi * days / 365.25)
    week, year = (
        run(Expectation(Model(), Calendar(seasons=seasons), 1), logs)
        for seasons in ((WEEK_OF_DAYS,), (WEEK_OF_DAYS, YEAR_OF_DAYS))
    )
    one, two = residuals(week), residuals(year)
    np.testing.assert_array_equal(one[:337], two[:337])
    size = [abs(np.mean(r[-250:].reshape(-1, 25), axis=1)).mean() for r in (one, two)]
    assert size[1] < 0.5 * size[0]


def test_a_day_and_a_week_of_hours() -> None:
    seasons = (Season(24.0, 6), Season(168.0, 3))
    hours = np.arange(24 * 60)
    logs = 5 + np.sin(2 * np.pi * hours / 24) + 0.3 * np.cos(2 * np.pi * hours / 168)
    calendar = Calendar(seasons, points_per_day=24)
    found = run(Expectation(Model(learning_points=336), calendar, 1), logs)
    np.testing.assert_allclose(
        np.log(found[-1].expected + 1.0), np.log(np.exp(logs[-1]) + 1), atol=0.01
    )


@pytest.mark.parametrize("scale", ["log", "sqrt", "identity"])
def test_scales_go_there_and_back(scale: Scale) -> None:
    model, values = Model(scale), np.array([0.0, 1.0, 17.0, 1e6])
    np.testing.assert_allclose(model.backward(model.forward(values)), values, atol=1e-7)


def test_series_do_not_see_each_other_and_grow() -> None:
    a, b = shop(80, seed=1), shop(80, seed=2)
    together = Expectation(Model(), Calendar(), 1)
    for i in range(20):
        together.observe(START + i, np.exp(a[[i]]), np.array([True]))
    together.grow(1)
    for i in range(20, 80):
        point = together.observe(START + i, np.exp([a[i], b[i]]), np.array([True, True]))
    alone = run(Expectation(Model(), Calendar(), 1), a)
    np.testing.assert_array_equal(point.expected[0], alone[-1].expected[0])
    late = Expectation(Model(), Calendar(), 1)
    found = run(late, b[20:], START + 20)
    np.testing.assert_allclose(point.expected[1], found[-1].expected[0], rtol=1e-12)


def test_a_frozen_series_keeps_what_was_normal_and_a_rebased_one_takes_the_new() -> None:
    logs = shop(150)
    logs[100:] -= 0.5
    frozen, taught = (Expectation(Model(), Calendar(), 1) for _ in range(2))
    for i, y in enumerate(logs):
        value, row = np.exp([y]), np.array([True])
        point = frozen.observe(START + i, value, row, np.array([i < 100]))
        other = taught.observe(START + i, value, row)
    normal = np.exp(9.0 + WEEK[(START + 149) % 7])
    assert point.expected[0] == pytest.approx(normal, rel=0.1)
    assert normal * np.exp(-0.5) < other.expected[0] < 0.97 * normal
    assert frozen.level_of(np.array([-1.0]))[0] == pytest.approx(-0.1, rel=0.3)
    assert frozen.offset[0] == pytest.approx(-0.5, abs=0.1)
    frozen.rebase(np.array([0]))
    after = frozen.observe(START + 150, np.exp(logs[[149]]), np.array([True]))
    expected = np.exp(8.5 + WEEK[(START + 150) % 7])
    assert after.expected[0] == pytest.approx(expected, rel=0.15)


def test_bytes_continue_where_it_was() -> None:
    holidays = {START + 30: "sale", START + 90: "fast"}
    logs = shop(400, 0.3)
    straight = Expectation(Model(), Calendar(holidays=holidays), 3)
    cut = Expectation(Model(), Calendar(holidays=holidays), 3)
    for i, y in enumerate(logs):
        value, rows = np.exp(y + np.arange(3)), np.array([True, i > 50, i % 3 > 0])
        straight.observe(START + i, value, rows)
        cut.observe(START + i, value, rows)
        if i % 97 == 0:
            blob = cut.encode()
            cut = Expectation.decode(blob, cut.model, cut.calendar)
            assert cut.encode() == blob
    assert cut.encode() == straight.encode()
    # 10 columns more than a week's eight would have; the size is the one that is drawn.
    assert len(straight.encode()) == 24 + 3 * (8 + 8 * (7 + 14 + 105 + 4))


@pytest.mark.parametrize("spoil", ["", "short", "long", "layout", "calendar"])
def test_strange_bytes_are_refused(spoil: str) -> None:
    blob = Expectation(Model(), Calendar(), 2).encode()
    calendar = Calendar(seasons=(WEEK_OF_DAYS,)) if spoil == "calendar" else Calendar()
    bad = {"": b"", "short": blob[:-1], "long": blob + b"x", "layout": b"\x09" + blob[1:]}
    with pytest.raises(ValueError, match="expectation"):
        Expectation.decode(bad.get(spoil, blob), Model(), calendar)


def test_time_does_not_go_back() -> None:
    state = Expectation(Model(), Calendar(), 1)
    run(state, shop(3))
    with pytest.raises(ValueError, match="not after"):
        state.observe(START + 2, np.ones(1), np.ones(1, np.bool_))


@pytest.mark.parametrize("value", [0.0, 5.0, 1e300])
def test_a_series_that_never_moves_stays_finite(value: float) -> None:
    state = Expectation(Model(), Calendar(), 1)
    for i in range(1_500):
        point = state.observe(START + i, np.array([value]), np.ones(1, np.bool_))
        assert np.isfinite(point.residual).all()
    assert np.isfinite(state.mean).all()
    jumped = state.observe(START + 1_500, np.array([value / 2 + 9.0]), np.ones(1, np.bool_))
    assert np.isfinite(jumped.raw).all()
