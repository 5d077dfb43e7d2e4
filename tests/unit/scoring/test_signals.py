"""Counters of signals against a plain recount of one customer's events in the order of arrival."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from valuetide.scoring.signals import (
    EARLY_DAYS,
    ENGAGEMENT,
    KINDS,
    NO_SIGNAL,
    SIGNALS,
    note_orders,
    note_signals,
)

ORDER = -1
EVENTS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([ORDER, 0, 1, 3, NO_SIGNAL]), st.integers(0, 90)),
    max_size=60,
)


def recount(events: list[tuple[int, int]]) -> list[object]:
    """The counters of one customer, by the words of the module's head."""
    since, early, late = None, [0] * 4, [0] * 4
    before, last = [0] * 4, [-1] * 4
    for kind, day in events:
        if kind == ORDER:
            if since is not None and day <= since:
                continue
            for k in range(4):
                kept = last[k] > day
                before[k] += max(early[k] + late[k] - (last[k] >= day), 0)
                early[k] = int(kept and last[k] - day <= EARLY_DAYS)
                late[k] = int(kept and last[k] - day > EARLY_DAYS)
                last[k] = last[k] if kept else -1
            since = day
        elif kind < 4 and since is not None and day > since:
            if day != last[kind]:
                if day - since <= EARLY_DAYS:
                    early[kind] += 1
                else:
                    late[kind] += 1
            last[kind] = max(last[kind], day)
    return [0 if since is None else since + 1, early, late, before, [day + 1 for day in last]]


def noted(signals: np.ndarray, events: list[tuple[int, int, int]]) -> None:
    """Note events in the order of arrival, what lies side by side of one sort as one batch."""
    start = 0
    for end in range(1, len(events) + 1):
        if end < len(events) and (events[end][1] == ORDER) == (events[start][1] == ORDER):
            continue
        part = events[start:end]
        row, day = np.array([e[0] for e in part]), np.array([e[2] for e in part])
        if part[0][1] == ORDER:
            note_orders(signals, row, day)
        else:
            note_signals(signals, row, np.array([e[1] for e in part], np.uint8), day)
        start = end


@given(EVENTS, st.integers(1, 5))
def test_counters_are_those_of_a_recount_however_the_stream_is_cut(
    events: list[tuple[int, int, int]], size: int
) -> None:
    whole, pieces = np.zeros(3, SIGNALS), np.zeros(3, SIGNALS)
    noted(whole, events)
    for start in range(0, len(events), size):
        noted(pieces, events[start : start + size])
    assert whole.tobytes() == pieces.tobytes()
    for who in range(3):
        found = [column.tolist() for column in whole[who]]
        assert found == recount([(kind, day) for one, kind, day in events if one == who])


def test_signals_of_people_without_an_order_do_not_count() -> None:
    signals = np.zeros(1, SIGNALS)
    note_signals(signals, np.zeros(1, np.int64), np.zeros(1, np.uint8), np.array([5]))
    assert signals.tobytes() == bytes(SIGNALS.itemsize)


def test_a_day_with_many_signals_is_one_day() -> None:
    signals = np.zeros(1, SIGNALS)
    ann = np.zeros(9, np.int64)
    note_orders(signals, ann[:1], np.array([3]))
    note_signals(signals, ann, np.zeros(9, np.uint8), np.array([4] * 5 + [5] * 4))
    assert signals["early"].tolist() == [[2, 0, 0, 0]]


def test_counters_stop_at_their_greatest_number() -> None:
    signals = np.zeros(1, SIGNALS)
    many = np.arange(300)
    ann, visits = np.zeros(300, np.int64), np.full(300, ENGAGEMENT, np.uint8)
    for turn in range(300):
        note_orders(signals, ann[:1], np.array([turn * 200]))
        note_signals(signals, ann, visits, turn * 200 + 30 + many)
    assert signals["late"].tolist() == [[255, 0, 0, 0]]
    assert signals["before"][0, ENGAGEMENT] > 50_000
    note_orders(signals, ann[:1], np.array([1 << 50]))
    assert signals["since"].tolist() == [(1 << 16) - 1]


def test_the_layout_is_as_drawn() -> None:
    assert (SIGNALS.itemsize, len(KINDS)) == (26, 4)
    assert [SIGNALS.fields[name][1] for name in SIGNALS.names] == [0, 2, 6, 10, 18]  # type: ignore[index,union-attr]
