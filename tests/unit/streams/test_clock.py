"""Now is the wall clock for what is live and event time for a replay, and never goes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valuetide.streams.clock import Clock

WALL = 1_700_000_000.0
WALL_MS = 1_700_000_000_000
HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("mode", "max_event_at", "now"),
    [
        ("wall", 0, WALL_MS),
        ("wall", 5, WALL_MS),
        ("wall", WALL_MS + 5, WALL_MS),
        ("event", 0, WALL_MS),  # no event yet: there is no other time
        ("event", 5, 5),
        ("event", WALL_MS + 5, WALL_MS + 5),
        ("auto", 0, WALL_MS),
        ("auto", 5, 5),
        ("auto", WALL_MS - HOUR_MS - 1, WALL_MS - HOUR_MS - 1),
        ("auto", WALL_MS - HOUR_MS, WALL_MS),
        ("auto", WALL_MS, WALL_MS),
        ("auto", WALL_MS + HOUR_MS, WALL_MS + HOUR_MS),
    ],
)
def test_now_by_mode(mode: str, max_event_at: int, now: int) -> None:
    clock = Clock(mode, 3_600.0, lambda: WALL)  # type: ignore[arg-type]
    assert clock.now_ms(max_event_at) == now


def test_the_wall_clock_is_read_each_time() -> None:
    times = iter([1.5, 2.5])
    clock = Clock(wall=lambda: next(times))
    assert (clock.wall_ms(), clock.wall_ms()) == (1_500, 2_500)


@given(
    mode=st.sampled_from(["auto", "wall", "event"]),
    walls=st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)),
    events=st.tuples(st.integers(1, 10**10), st.integers(1, 10**10)),
)
def test_now_never_goes_back_while_wall_and_event_time_do_not(
    mode: str, walls: tuple[int, int], events: tuple[int, int]
) -> None:
    """Once a shard has caught up it is live; a live shard that falls silent stays where it was."""

    def now(wall: float, event: int) -> int:
        return Clock(mode, 3_600.0, lambda: wall).now_ms(event)  # type: ignore[arg-type]

    wall, later = sorted(walls)
    event, newer = sorted(events)
    assert now(wall, event) <= now(wall, newer)
    if mode != "auto":
        assert now(wall, event) <= now(later, event)
