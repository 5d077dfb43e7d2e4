"""From points to alerts: a shift fires once and is explained, and a restart changes nothing."""

import numpy as np
import pytest
from numpy.typing import NDArray

from valuetide.scoring.trends.calendar import Calendar
from valuetide.scoring.trends.decision import NO_WHOLE, Policy, State
from valuetide.scoring.trends.expectation import Model
from valuetide.scoring.trends.watch import Roster, Step, Watch

START = 20_000
POLICY = Policy(run_length=3_000.0)


def roster(series: int) -> Roster:
    return Roster(np.ones(series), np.full(series, -1), np.full(series, NO_WHOLE))


def revenue(points: int, series: int, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    week = 0.3 * np.sin(np.arange(points) * 2 * np.pi / 7)
    return np.asarray(1e4 * np.exp(week[:, None] + 0.1 * rng.normal(size=(points, series))))


def run(watch: Watch, values: NDArray[np.float64], start: int = 0) -> list[tuple[int, Step]]:
    everywhere = np.ones(values.shape[1], np.bool_)
    return [
        (i, step)
        for i in range(start, len(values))
        for step in watch.observe(START + i, values[i], everywhere, roster(everywhere.size))[1]
    ]


def test_a_fall_that_stays_fires_once_and_becomes_normal() -> None:
    values = revenue(400, 6, 3)
    values[200:, 2] *= 0.7
    steps = run(Watch(Model(), Calendar(), POLICY, 6), values)
    told = [(i, step) for i, step in steps if step.transition.notify and i >= 195]
    mine = [(i, step) for i, step in told if step.transition.row == 2]
    assert [step.transition.reason for _, step in mine] == ["fired", "accepted"]
    at, first = mine[0]
    assert at - 200 <= 4
    assert first.rule == "level"
    assert first.transition.direction == -1
    assert abs(first.transition.since - START - 200) <= 1
    assert first.stake == pytest.approx(3_000, rel=0.5)
    assert first.run_length >= 3_000


def test_an_outlier_wakes_nobody() -> None:
    values = revenue(300, 4, 4)
    values[200] *= 0.01
    steps = run(Watch(Model(), Calendar(), POLICY, 4), values)
    assert not [i for i, step in steps if 199 < i < 215 and step.transition.reason == "fired"]


def test_more_noise_is_told_by_either_rule() -> None:
    # Wild points look like a shift until there are seven of them, so the level is often the first.
    values = revenue(500, 8, 5)
    rng = np.random.default_rng(6)
    values[300:] = 1e4 * np.exp(0.4 * rng.normal(size=(200, 8)))
    steps = run(Watch(Model(), Calendar(), POLICY, 8), values)
    fired = {
        (step.transition.row, step.rule)
        for i, step in steps
        if step.transition.reason == "fired" and 300 <= i < 340
    }
    assert len({row for row, _ in fired}) >= 7
    assert {rule for _, rule in fired} == {"level", "variance"}


def test_a_family_is_not_watched_for_noise() -> None:
    values = revenue(400, 8, 5)
    values[300:] = 1e4 * np.exp(0.4 * np.random.default_rng(6).normal(size=(100, 8)))
    watch, everywhere = Watch(Model(), Calendar(), POLICY, 8), np.ones(8, np.bool_)
    family = Roster(np.ones(8), np.zeros(8, np.int64), np.full(8, NO_WHOLE))
    steps = [
        step
        for i in range(400)
        for step in watch.observe(START + i, values[i], everywhere, family)[1]
    ]
    assert not [step for step in steps if step.rule == "variance"]


def test_a_stopped_producer_is_no_fall() -> None:
    values = revenue(260, 3, 7)
    watch, everywhere = Watch(Model(), Calendar(), POLICY, 3), np.ones(3, np.bool_)
    for i in range(260):
        stopped = np.full(3, 200 <= i < 210)
        value = np.where(stopped, 0.0, values[i])
        _, steps = watch.observe(START + i, value, everywhere, roster(3), stopped)
        assert not [step for step in steps if 200 <= i < 230]


def test_a_restart_changes_nothing() -> None:
    values = revenue(260, 3, 8)
    values[200:, 1] *= 0.6
    policy = Policy(run_length=60.0)
    straight = Watch(Model(), Calendar(), policy, 3)
    cut = Watch(Model(), Calendar(), policy, 3)
    for i in range(260):
        assert run(straight, values[: i + 1], i) == run(cut, values[: i + 1], i)
        if i % 7 == 0:
            cut = Watch.decode(cut.encode(), Model(), Calendar(), policy)
    assert cut.encode() == straight.encode()


def test_learning_series_raise_nothing() -> None:
    watch = Watch(Model(), Calendar(), Policy(run_length=2.0), 2)
    wild = np.random.default_rng(9).lognormal(5.0, 3.0, (28, 2))
    assert run(watch, wild) == []
    assert (watch.level.state == State.NONE).all()


@pytest.mark.parametrize("spoil", [lambda b: b"", lambda b: b[:-1], lambda b: b"\x07" + b[1:]])
def test_strange_bytes_are_refused(spoil: object) -> None:
    assert callable(spoil)
    blob = Watch(Model(), Calendar(), POLICY, 2).encode()
    with pytest.raises(ValueError, match="watch"):
        Watch.decode(spoil(blob), Model(), Calendar(), POLICY)


def test_parts_that_moved_with_a_whole_are_accepted_with_it() -> None:
    values = revenue(260, 3, 7)
    values[150:, 1] *= 0.5
    values[:, 0] = values[:, 1:].sum(axis=1)
    family, whole = np.array([-1, 0, 0]), np.array([NO_WHOLE, 0, 0])
    watch = Watch(Model(), Calendar(), POLICY, 3)
    who = Roster(np.ones(3), family, whole)
    told = [
        (step.transition.row, step.transition.reason)
        for i, value in enumerate(values)
        for step in watch.observe(START + i, value, np.ones(3, np.bool_), who)[1]
    ]
    assert told == [(0, "fired"), (0, "accepted")]


def test_a_watch_without_series_is_read_as_well() -> None:
    empty = Watch(Model(), Calendar(), POLICY)
    again = Watch.decode(empty.encode(), Model(), Calendar(), POLICY)
    again.grow(2)
    assert again.encode() == Watch(Model(), Calendar(), POLICY, 2).encode()
