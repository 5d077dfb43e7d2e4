"""Producers that stop are told, those that are merely quiet are not."""

import numpy as np
import pytest

from valuetide.scoring.arrays import IntArray
from valuetide.scoring.trends.silence import HOURS_A_WEEK, Producers

START = 2_800 * HOURS_A_WEEK
WEEK = HOURS_A_WEEK


def counts(weeks: int, seed: int, *, closed: bool = False) -> IntArray:
    """Events an hour of three roles, with nights and weekends, busier or not by the hour."""
    rng = np.random.default_rng(seed)
    hour = np.arange(weeks * WEEK)
    open_ = (hour % 24 >= 9) & (hour % 24 <= 19)
    if closed:
        open_ &= hour // 24 % 7 < 5
    base = np.array([60.0, 300.0, 3.0]) * np.where(open_, 1.0, 0.0 if closed else 0.2)[:, None]
    return rng.poisson(base * rng.gamma(10, 0.1, (hour.size, 1)))


def run(producers: Producers, events: IntArray, start: int = 0) -> list[tuple[int, int, str]]:
    return [
        (start + i, step.row, step.reason)
        for i, now in enumerate(events)
        for step in producers.observe(START + start + i, now)
    ]


def test_a_shop_that_closes_at_night_and_at_weekends_has_no_outage() -> None:
    assert run(Producers(1), counts(12, 1, closed=True)) == []


def test_an_outage_is_told_after_two_hours_and_ends_with_the_first_event() -> None:
    events = counts(8, 2)
    begin = 6 * WEEK + 10
    events[begin : begin + 30, 1] = 0
    producers = Producers(2)
    assert run(producers, events[: begin + 2]) == [(begin + 1, 1, "fired")]
    assert producers.firing == [1]
    first = START + begin
    assert producers.silent_hours(first, first + 23).tolist() == [0, 2, 0]
    assert producers.silent_hours(first - 24, first - 1).tolist() == [0, 0, 0]
    assert run(producers, events[begin + 2 :], begin + 2) == [(begin + 30, 1, "resolved")]


def small(weeks: int, seed: int) -> IntArray:
    """Events an hour of a shop with 130 orders a day, few at night."""
    rng = np.random.default_rng(seed)
    base = np.array([9.0, 5.0, 0.5])
    open_ = np.where(np.arange(weeks * WEEK) % 24 >= 9, 1.0, 0.1)[:, None]
    return rng.poisson(base * open_ * rng.gamma(10, 0.1, (weeks * WEEK, 1)))


def test_in_a_small_shop_empty_hours_are_taken_together() -> None:
    events = small(8, 6)
    begin = 6 * WEEK + 11
    events[begin : begin + 48, 0] = 0
    events[begin + 48, 0] = 1
    producers = Producers(2)
    (told, row, reason), *_ = found = run(producers, events[: begin + 8])
    assert (row, reason, len(found)) == (0, "fired", 1)
    assert begin + 1 <= told < begin + 6
    first = START + begin
    assert producers.silent_hours(first, first + 7).tolist() == [8, 0, 0]
    ends = run(producers, events[begin + 8 :], begin + 8)
    assert ends == [(begin + 48, 0, "resolved")]


@pytest.mark.parametrize("seed", range(3))
def test_a_small_shop_that_goes_on_has_no_outage(seed: int) -> None:
    assert run(Producers(1), small(60, seed)) == []


def test_nothing_is_judged_before_two_weeks_nor_on_holidays() -> None:
    events = counts(5, 3)
    events[WEEK + 9 : WEEK + 30] = 0
    events[4 * WEEK + 9 : 4 * WEEK + 30] = 0
    producers = Producers(1)
    assert run(producers, events[: 4 * WEEK]) == []
    silent = [
        producers.observe(START + 4 * WEEK + i, events[4 * WEEK + i], judge=False)
        for i in range(40)
    ]
    assert not any(silent)


def test_who_stays_away_is_taken_for_switched_off_and_learned_anew() -> None:
    events = counts(14, 4)
    begin, again = 5 * WEEK + 10, 9 * WEEK
    events[begin:again, 0] = 0
    events[13 * WEEK + 10 : 13 * WEEK + 14, 0] = 0
    found = run(Producers(2), events)
    assert [(row, reason) for _, row, reason in found] == [
        (0, "fired"), (0, "accepted"), (0, "fired"), (0, "resolved"),
    ]  # fmt: skip
    assert [at for at, _, _ in found][2] == 13 * WEEK + 11


def test_a_restart_changes_nothing() -> None:
    events = counts(6, 5)
    events[5 * WEEK + 10 : 5 * WEEK + 20, 0] = 0
    whole, part = Producers(2), Producers(2)
    wanted = run(whole, events)
    cut = 5 * WEEK + 12
    found = run(part, events[:cut])
    found += run(Producers.decode(part.encode(), 2), events[cut:], cut)
    assert found == wanted
    assert [reason for _, _, reason in wanted] == ["fired", "resolved"]


@pytest.mark.parametrize("cut", [0, 4, 40, 9_000, -1])
def test_bytes_that_are_none_are_refused(cut: int) -> None:
    with pytest.raises(ValueError, match=r"silence|decision"):
        Producers.decode(Producers(2).encode()[:cut], 2)
    with pytest.raises(ValueError, match="layout"):
        Producers.decode(b"\x01" + Producers(2).encode()[1:], 2)
