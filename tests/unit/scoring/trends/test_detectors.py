"""Run lengths are what is measured, and every detector keeps the same contract."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from valuetide.scoring.trends import thresholds
from valuetide.scoring.trends.detectors import (
    RIVER_POINTS,
    Detector,
    FocusDetector,
    RiverDetector,
    Signal,
    run_length,
)
from valuetide.scoring.trends.expectation import CLIP, CLIPPED_VARIANCE
from valuetide.scoring.trends.focus import Kind

Make = Callable[[int], Detector]
MAKERS: dict[str, Make] = {
    "mean": FocusDetector,
    "variance": lambda series: FocusDetector(series, "variance"),
    "adwin": lambda series: RiverDetector(series, "adwin", 90.0),
    "page_hinkley": lambda series: RiverDetector(series, "page_hinkley", 90.0),
}
WANTED = 90.0


def residuals(shape: tuple[int, int], seed: int) -> NDArray[np.float64]:
    cut = np.clip(np.random.default_rng(seed).normal(size=shape), -CLIP, CLIP)
    return np.asarray(cut / CLIPPED_VARIANCE**0.5)


def observe(detector: Detector, point: int, x: NDArray[np.float64]) -> Signal:
    return detector.observe(point, x, np.ones(x.size, np.bool_), np.full(x.size, 2.4543))


def again(detector: Detector) -> Detector:
    assert isinstance(detector, FocusDetector | RiverDetector)
    return type(detector).decode(detector.encode())


@pytest.mark.parametrize("name", MAKERS)
def test_false_alarms_come_as_rarely_as_wanted(name: str) -> None:
    series, points = 80, 900
    detector = MAKERS[name](series)
    alarms = 0
    for point, x in enumerate(residuals((points, series), 11)):
        hit = np.flatnonzero(observe(detector, point, x).run_length >= WANTED)
        alarms += hit.size
        detector.reset(hit)
    # 800 alarms are expected, give or take 28; the tables themselves are good to some per cent.
    assert series * points / alarms == pytest.approx(WANTED, rel=0.15)


@pytest.mark.parametrize("name", ["mean", "adwin", "page_hinkley"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_shift_is_caught_with_its_direction(name: str, sign: int) -> None:
    x = residuals((150, 40), 12)
    x[100:] += 2.0 * sign
    detector = MAKERS[name](40)
    caught = np.zeros(40, np.bool_)
    for point, row in enumerate(x):
        signal = observe(detector, point, row)
        hit = signal.run_length >= WANTED
        if point < 100:
            detector.reset(np.flatnonzero(hit))
        else:
            caught |= hit & (signal.direction == sign)
    # River does not say the direction: it is read off the points that it looked at.
    assert caught.mean() > (0.95 if name == "mean" else 0.8)


@pytest.mark.parametrize("name", MAKERS)
def test_a_series_is_the_same_alone_as_among_others(name: str) -> None:
    x = residuals((200, 5), 13)
    x[150:] += 1.0
    together, alone = MAKERS[name](5), MAKERS[name](1)
    for point, row in enumerate(x):
        a, b = observe(together, point, row), observe(alone, point, row[3:4])
        assert a.run_length[3] == b.run_length[0]
        assert a.since[3] == b.since[0]


@pytest.mark.parametrize("name", MAKERS)
def test_bytes_continue_where_it_was(name: str) -> None:
    x = residuals((RIVER_POINTS + 300, 3), 14)
    straight, cut = MAKERS[name](3), MAKERS[name](3)
    for point, row in enumerate(x):
        a, b = observe(straight, point, row), observe(cut, point, row)
        np.testing.assert_array_equal(a.run_length, b.run_length)
        if point % 101 == 0:
            cut = again(cut)
    assert cut.encode() == straight.encode()


@pytest.mark.parametrize("name", MAKERS)
def test_growth_begins_new_rows_and_reset_old_ones(name: str) -> None:
    x = residuals((120, 2), 15)
    grown, fresh = MAKERS[name](1), MAKERS[name](2)
    for point in range(60):
        observe(grown, point, x[point, :1])
    grown.grow(1)
    grown.reset(np.array([0]))
    for point in range(60, 120):
        a, b = observe(grown, point, x[point]), observe(fresh, point, x[point])
        np.testing.assert_array_equal(a.run_length, b.run_length)


@pytest.mark.parametrize("kind", ["mean", "variance"])
def test_run_lengths_rise_and_hit_the_table(kind: Kind) -> None:
    statistic = np.array(thresholds.STATISTIC[kind])
    np.testing.assert_allclose(run_length(kind, statistic), thresholds.RUN_LENGTHS)
    grid = run_length(kind, np.linspace(0.0, 60.0, 4_000))
    assert grid[0] == 1.0
    assert (np.diff(grid) >= 0).all()
    assert grid[-1] == pytest.approx(1e12)


@pytest.mark.parametrize("spoil", [lambda b: b"", lambda b: b[:-1], lambda b: b"\x07" + b[1:]])
def test_strange_bytes_are_refused(spoil: Callable[[bytes], bytes]) -> None:
    detector = RiverDetector(2, "adwin", 90.0)
    observe(detector, 0, np.ones(2))
    with pytest.raises(ValueError, match="river"):
        RiverDetector.decode(spoil(detector.encode()))
