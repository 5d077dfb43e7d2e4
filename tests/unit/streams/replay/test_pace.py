from dataclasses import dataclass

import pytest

from valuetide.streams.replay.pace import BURST_SECONDS, Pace


@dataclass
class Clock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


def sent_at(pace: Pace, clock: Clock, times: list[float], late: float = 0.0) -> list[float]:
    """Give when each event goes out if every wake-up is late by so much."""
    started, out = clock.now, []
    for at in times:
        wait = pace.wait(at)
        if wait:
            clock.now += wait + late
        out.append(clock.now - started)
    return out


def test_without_a_pace_nothing_waits() -> None:
    pace = Pace(clock=lambda: 0.0)
    assert pace.is_unbounded
    assert [pace.wait(at) for at in (0.0, 1e9)] == [0.0, 0.0]


def test_speed_divides_event_time_also_over_gaps() -> None:
    clock = Clock()
    pace = Pace(speed=10.0, clock=clock)
    assert sent_at(pace, clock, [0, 5, 5, 100_000, 100_010]) == pytest.approx(
        [0, 0.5, 0.5, 10_000, 10_001]
    )


def test_late_wake_ups_do_not_add_up() -> None:
    clock = Clock()
    pace = Pace(speed=1.0, clock=clock)
    out = sent_at(pace, clock, [float(i) for i in range(1_001)], late=0.01)
    assert out[-1] == pytest.approx(1_000.01)


def test_an_older_event_goes_at_once_and_moves_nothing() -> None:
    clock = Clock()
    assert sent_at(Pace(speed=1.0, clock=clock), clock, [10, 12, 3, 13]) == [0, 2, 2, 3]


def test_a_long_gap_is_cut_and_what_follows_keeps_its_distance() -> None:
    clock = Clock()
    pace = Pace(speed=1.0, max_gap=5.0, clock=clock)
    assert sent_at(pace, clock, [0, 3, 1_003, 1_004, 1_000, 2_000]) == [0, 3, 8, 9, 9, 14]


def test_what_was_missed_is_caught_up_at_once() -> None:
    clock = Clock()
    pace = Pace(speed=1.0, clock=clock)
    pace.wait(0)
    clock.now += 100
    assert [pace.wait(at) for at in (50, 99, 101)] == [0, 0, 1]


@pytest.mark.parametrize("late", [0.0, 0.0015, 0.009])
def test_a_rate_is_a_limit_and_is_reached(late: float) -> None:
    clock = Clock()
    pace = Pace(rate=100.0, clock=clock)
    out = sent_at(pace, clock, [0.0] * 1_001, late)
    assert out[-1] == pytest.approx(10.0, abs=2 * BURST_SECONDS)
    for start in range(0, 900, 50):
        assert out[start + 100] - out[start] >= 1.0 - 2 * BURST_SECONDS


def test_a_pause_gives_no_right_to_a_burst() -> None:
    clock = Clock()
    pace = Pace(rate=10.0, clock=clock)
    pace.wait(0)
    clock.now += 60
    waits = [pace.wait(0) for _ in range(3)]
    assert waits == pytest.approx([0.0, 0.09, 0.19])


def test_the_slower_of_speed_and_rate_decides() -> None:
    clock = Clock()
    pace = Pace(speed=1.0, rate=2.0, clock=clock)
    out = sent_at(pace, clock, [0, 0, 0, 10, 10])
    assert out == pytest.approx([0, 0.49, 0.99, 10, 10.49], abs=0.011)
