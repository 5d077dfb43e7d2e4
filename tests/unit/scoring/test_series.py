"""Cells: the sums of events by bucket, however they arrive, and what happens when buckets close."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from valuetide.scoring.arrays import DAY_MS
from valuetide.scoring.series import (
    COLUMNS,
    HOUR_MS,
    OTHER,
    ROLES,
    Labels,
    OpenCells,
    Role,
    Unit,
    answer_sums,
    bucket_ms,
    contact_sums,
    order_sums,
    parse_cell,
    parse_name,
)

START = 20_000 * DAY_MS
CHANNELS = ("web", "app", "a|b")


class Event(NamedTuple):
    role: Role
    at: int
    channel: int
    kind: int
    amount: int


def sums_of(events: Sequence[Event]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Of one role."""
    kind = np.array([event.kind for event in events])
    amount = np.array([event.amount for event in events])
    if events[0].role == "orders":
        return order_sums(kind == 0, kind == 1, amount, kind == 0)
    return contact_sums(kind == 0) if events[0].role == "interactions" else answer_sums(amount - 50)


def add(cells: OpenCells, events: Sequence[Event]) -> None:
    for role in ROLES:
        part = [event for event in events if event.role == role]
        if part:
            codes = np.array([event.channel for event in part])
            labels = {} if role == "feedback" else {"channel": Labels(codes, CHANNELS)}
            cells.add(role, np.array([event.at for event in part]), sums_of(part), labels)


def by_hand(events: Sequence[Event], unit: Unit = "day") -> dict[str, list[int]]:
    """What cells must hold, by the definition and one event at a time."""
    found: dict[str, list[int]] = defaultdict(lambda: [0] * COLUMNS)
    hours: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for role, at, channel, kind, amount in events:
        bucket = at // bucket_ms(unit)
        names = [f"{bucket}{unit[0]}||"]
        if role != "feedback":
            names.append(f"{bucket}{unit[0]}|channel|{CHANNELS[channel]}")
        for cell in (found[name] for name in names):
            if role == "orders":
                cell[0] += 1
                cell[1] += kind == 0
                cell[2] += amount if kind == 0 else 0
                cell[3] += kind == 1
                cell[4] += amount if kind == 1 else 0
                cell[5] += kind == 0
            elif role == "interactions":
                cell[6] += 1
                cell[7] += kind == 0
            else:
                cell[8] += 1
                cell[9] += amount >= 50
                cell[10] += max(amount - 50, 0)
        hours[f"{at // HOUR_MS}h|events|"][ROLES.index(role)] += 1
    return {**found, **hours}


def unpacked(kept: dict[str, bytes]) -> dict[str, list[int]]:
    """Cells by name, all their columns; the order of numbers is the one that the module draws."""
    found = {}
    for name, packed in kept.items():
        values = parse_cell(name, packed)
        whole = 3 if parse_name(name)[0][1] == "events" else COLUMNS
        found[name] = values + [0] * (whole - len(values))
    return found


def apply(kept: dict[str, bytes], changes: dict[str, bytes | None]) -> None:
    for name, packed in changes.items():
        if packed is None:
            kept.pop(name, None)
        else:
            kept[name] = packed


EVENTS = st.lists(
    st.builds(
        Event,
        st.sampled_from(ROLES),
        st.integers(0, 3 * DAY_MS).map(lambda ms: START + ms),
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(0, 10**9),
    ),
    max_size=40,
)


@given(EVENTS, st.randoms(use_true_random=False), st.sampled_from(["day", "hour"]))
def test_any_order_and_any_cut_and_restarts_give_what_a_count_by_hand_gives(
    events: list[Event], chance: "np.random.RandomState", unit: Unit
) -> None:
    wanted = by_hand(events, unit)
    chance.shuffle(events)
    kept: dict[str, bytes] = {}
    cells = OpenCells(unit, 10)
    at = 0
    while at < len(events):
        size = chance.randint(1, 12)
        add(cells, events[at : at + size])
        apply(kept, cells.take())
        if chance.randint(0, 3) == 0:
            cells = OpenCells(unit, 10, kept)
        at += size
    assert unpacked(kept) == wanted


def test_only_what_changed_is_given() -> None:
    cells = OpenCells("day", 10)
    add(cells, [Event("orders", START, 0, 0, 5), Event("orders", START + DAY_MS, 1, 0, 5)])
    assert len(cells.take()) == 6
    assert cells.take() == {}
    add(cells, [Event("orders", START + 5, 0, 0, 7)])
    assert cells.take().keys() == {"20000d||", "20000d|channel|web", "480000h|events|"}


def test_further_elements_of_a_bucket_are_added_to_the_rest() -> None:
    cells = OpenCells("day", 2)
    names = [f"code{i}" for i in range(5)]
    labels = {"source_code": Labels(np.arange(5), names)}
    cells.add("interactions", np.full(5, START), np.ones((2, 5), np.int64), labels)
    found = {parse_name(name)[0][2] for name in cells.take() if "source_code" in name}
    assert found == {"code0", "code1", OTHER}


def test_events_for_closed_buckets_are_late_and_their_cells_are_dropped() -> None:
    kept: dict[str, bytes] = {}
    cells = OpenCells("day", 10)
    add(cells, [Event("orders", START, 0, 0, 5), Event("orders", START + DAY_MS, 1, 0, 5)])
    apply(kept, cells.take())
    # The watch took one event; a second one came for the same bucket before the shard knew.
    add(cells, [Event("orders", START + 1, 0, 0, 5)])
    cells.close(20_000, 20_000 * 24 + 23, taken=1)
    apply(kept, cells.take())
    assert cells.late == 1
    assert {parse_name(name)[0][0] for name in kept} == {20_001, 20_001 * 24}
    add(cells, [Event("orders", START + 2, 0, 0, 5), Event("orders", START + DAY_MS, 0, 0, 5)])
    apply(kept, cells.take())
    assert cells.late == 2
    assert unpacked(kept)["20001d||"][:3] == [2, 2, 10]
    # What it says is the same after a restart, and being told again changes nothing.
    again = OpenCells("day", 10, kept, late=cells.late, gone=cells.gone)
    again.close(20_000, 20_000 * 24 + 23, taken=1)
    assert (again.late, again.take()) == (2, {})


def test_events_that_were_taken_by_a_watch_that_began_anew_are_not_late() -> None:
    cells = OpenCells("day", 10, gone=100_000)
    add(cells, [Event("orders", START, 0, 0, 5)])
    cells.close(20_000, 20_000 * 24 + 23, taken=1)
    assert (cells.late, cells.gone) == (0, 1)
    add(cells, [Event("orders", START + DAY_MS, 0, 0, 5)] * 3)
    cells.close(20_001, 20_001 * 24 + 23, taken=3)
    assert (cells.late, cells.gone) == (1, 3)


def test_cells_of_another_bucket_length_are_dropped() -> None:
    cells = OpenCells("day", 10)
    add(cells, [Event("orders", START, 0, 0, 5)])
    kept = {name: packed for name, packed in cells.take().items() if packed}
    changes = OpenCells("hour", 10, kept).take()
    assert changes == {"20000d||": None, "20000d|channel|web": None}


def test_equity_is_the_last_that_was_noted_in_a_bucket() -> None:
    cells = OpenCells("day", 10)
    cells.note_equity(START, 700)
    cells.note_equity(START + 1, 900)
    changes = cells.take()
    assert parse_cell("", changes["20000d|equity|"] or b"") == [900]
    cells.note_equity(START + 2, 900)
    assert cells.take() == {}


@pytest.mark.parametrize("packed", [b"", b"\xc1", b"\x01", b"\x91\xa1x", bytes([0x9C] + [0] * 12)])
def test_a_cell_that_is_none_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"x|array|cell"):
        OpenCells("day", 10, {"20000d||": packed})
