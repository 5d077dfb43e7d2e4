"""The life of an alert, and who is woken when."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from valuetide.scoring.trends.decision import (
    NO_WHOLE,
    Case,
    Decider,
    Policy,
    State,
    Transition,
    fingerprint,
    outage,
)
from valuetide.scoring.trends.detectors import Signal

POLICY = Policy(run_length=90.0, endure_points=3, recover_points=3, accept_points=28, cool_points=7)


def decider(series: int = 1, policy: Policy = POLICY) -> Decider:
    made = Decider(policy)
    made.grow(series)
    return made


def signal(run: list[float], *, points: int = 5, after: float = -2.0, since: int = 0) -> Signal:
    size = len(run)
    return Signal(
        np.array(run), np.full(size, since), np.full(size, points), np.zeros(size),
        np.full(size, after),
    )  # fmt: skip


def case(size: int, *, residual: float = -2.0, stake: list[float] | None = None) -> Case:
    yes = np.ones(size, np.bool_)
    return Case(
        residual=np.full(size, residual), judged=yes, stake=np.array(stake or [100.0] * size),
        believed=yes, family=np.full(size, -1), whole=np.full(size, NO_WHOLE), stopped=~yes,
    )  # fmt: skip


def fired(made: Decider, point: int = 0) -> list[Transition]:
    size = made.rows.size
    return made.decide(point, signal([1e4] * size, since=point), case(size))


def calm(made: Decider, point: int, residual: float = 0.0) -> list[Transition]:
    size = made.rows.size
    return made.decide(point, signal([1.0] * size), case(size, residual=residual))


def reasons(steps: list[Transition]) -> list[str]:
    return [step.reason for step in steps]


def test_an_alert_fires_when_it_is_significant_enduring_material_and_believed() -> None:
    made = decider()
    assert made.decide(0, signal([89.0]), case(1)) == []
    assert made.state[0] == State.NONE
    assert made.decide(1, signal([91.0], points=2), case(1)) == []
    assert made.state[0] == State.PENDING
    poor = decider(policy=replace(POLICY, least_stake=500.0))
    assert fired(poor) == []
    doubted = made.decide(2, signal([91.0]), replace(case(1), believed=np.array([False])))
    assert doubted == []
    step = made.decide(3, signal([91.0], since=1), case(1))[0]
    assert step == Transition(0, -1, 1, State.PENDING, State.FIRING, "fired", notify=True)
    assert not made.learns[0]


def test_what_is_no_longer_significant_is_forgotten() -> None:
    made = decider()
    made.decide(0, signal([91.0], points=1), case(1))
    made.decide(1, signal([50.0]), case(1))
    assert made.state[0] == State.NONE


def test_it_recovers_resolves_and_cools_down() -> None:
    made = decider()
    fired(made)
    told = [(point, step.reason) for point in range(1, 15) for step in calm(made, point)]
    assert [reason for _, reason in told] == ["back", "resolved"]
    assert told[1][0] - told[0][0] == 2
    end = told[1][0]
    assert made.learns[0]
    for point in range(end + 1, end + 7):
        assert fired(made, point) == []
    assert reasons(fired(made, end + 7)) == ["fired"]


def test_a_turn_to_the_other_side_ends_one_alert_and_begins_another() -> None:
    made = decider()
    fired(made)
    up = replace(case(1), residual=np.array([2.0]))
    seen: list[Transition] = []
    for point in range(1, 4):
        seen += made.decide(point, signal([1e4], after=2.0, since=1), up)
    assert reasons(seen) == ["resolved", "fired"]
    assert [step.direction for step in seen] == [-1, 1]
    # The cool-down is of falls alone.
    assert made.state[0] == State.FIRING


def test_a_short_return_is_no_recovery() -> None:
    made = decider()
    fired(made)
    seen: list[str] = []
    for point, residual in enumerate([-2.0] * 3 + [1.5] * 3 + [-2.0] * 15, start=1):
        seen += reasons(calm(made, point, residual))
    assert seen == ["back", "again"]
    assert made.state[0] == State.FIRING


def test_a_shift_that_stays_becomes_the_new_normal() -> None:
    made = decider()
    fired(made)
    for point in range(1, 28):
        assert calm(made, point, -2.0) == []
    assert reasons(calm(made, 28, -2.0)) == ["accepted"]
    assert made.learns[0]


@pytest.mark.parametrize("gone", ["no point", "producer stopped"])
def test_an_alert_of_a_series_that_has_no_points_any_more_ends_as_well(gone: str) -> None:
    made, yes = decider(), np.ones(1, np.bool_)
    fired(made)
    silence = replace(case(1), judged=~yes) if gone == "no point" else replace(case(1), stopped=yes)
    made.acknowledge(0, 40)
    for point in range(1, 28):
        assert made.decide(point, signal([1.0]), silence) == []
    (step,) = made.decide(28, signal([1.0]), silence)
    assert (step.reason, step.before, step.after) == ("accepted", State.FIRING, State.NONE)
    assert not step.notify
    assert made.learns[0]


def test_an_acknowledged_alert_is_silent_until_it_expires() -> None:
    made = decider()
    with pytest.raises(ValueError, match="no alert"):
        made.acknowledge(0, 10)
    fired(made)
    made.acknowledge(0, 10)
    for point in range(1, 10):
        assert calm(made, point, -2.0) == []
    step = calm(made, 10, -2.0)[0]
    assert (step.reason, step.notify) == ("reminder", True)
    assert calm(made, 11, -2.0) == []
    made.acknowledge(0, 1_000)
    end = [step for point in range(12, 29) for step in calm(made, point, -2.0)]
    assert [(step.reason, step.notify) for step in end] == [("accepted", False)]


@pytest.mark.parametrize("later", [0, 1, 20])
def test_of_a_hushed_alert_nobody_hears_not_even_its_end_after_missing_points(later: int) -> None:
    made = decider()
    fired(made)
    made.hush(0)
    steps = calm(made, POLICY.accept_points + later, residual=-2.0)
    assert [(step.reason, step.notify) for step in steps] == [("accepted", False)]


def test_a_hushed_alert_is_on_record_only_whatever_is_acknowledged() -> None:
    """An acknowledgement of the same name may be left from an alert before, and end before."""
    made = decider()
    fired(made)
    made.hush(0)
    made.acknowledge(0, 10)
    end = [step for point in range(1, 29) for step in calm(made, point, -2.0)]
    assert [(step.reason, step.notify) for step in end] == [("accepted", False)]


@pytest.mark.parametrize("until", [28, 29, 30])
def test_an_acknowledged_alert_was_told_however_long_that_lasts(until: int) -> None:
    made = decider()
    fired(made)
    made.acknowledge(0, until)
    assert made.told.tolist() == [True]
    end = [step for point in range(1, 29) for step in calm(made, point, -2.0)]
    assert [(step.reason, step.notify) for step in end] == [("accepted", until == 28)]


def test_the_whole_inhibits_its_parts_of_the_same_direction() -> None:
    made = decider(4)
    whole = replace(case(4), whole=np.array([NO_WHOLE, 0, 0, 0]))
    down = signal([1e4] * 4)
    mixed = replace(down, after=np.array([-2.0, -2.0, 2.0, -2.0]))
    assert [step.row for step in made.decide(0, mixed, whole)] == [0, 2]
    assert made.state[[1, 3]].tolist() == [State.PENDING] * 2
    # Also while the whole is only pending.
    young = replace(down, points=np.array([1, 5, 5, 5]))
    assert decider(4).decide(0, young, whole) == []


def test_no_storm_when_everything_moves() -> None:
    made = decider(50)
    stake = [float(i) for i in range(50)]
    everything = replace(case(50, stake=stake), family=np.zeros(50, np.int64))
    first = made.decide(0, signal([1e4] * 50), everything)
    assert [step.row for step in first] == [45, 46, 47, 48, 49]
    second = made.decide(1, signal([1e4] * 50), everything)
    assert [step.row for step in second] == [40, 41, 42, 43, 44]


def test_a_stopped_producer_is_an_alert_about_data_and_not_about_value() -> None:
    value, data = decider(2), decider(2, replace(POLICY, endure_points=2))
    gone = replace(case(2), stopped=np.array([True, False]))
    assert [step.row for step in value.decide(0, signal([1e4] * 2), gone)] == [1]
    found: list[str] = []
    for point in range(20):
        silence = max(min(point, 6) - 2, 0) if point < 7 else 0
        now, residual = outage(point, np.array([silence, 0]))
        steps = data.decide(point, now, replace(case(2), residual=residual))
        assert all(step.row == 0 for step in steps)
        found += reasons(steps)
    assert found == ["fired", "back", "resolved"]


def test_missing_points_leave_everything_as_it_is() -> None:
    made = decider(2)
    made.decide(0, signal([1e4, 95.0], points=3), replace(case(2), stake=np.array([1e3, 1e3]),
                believed=np.array([True, False])))  # fmt: skip
    before = made.encode()
    missing = replace(case(2), judged=np.zeros(2, np.bool_))
    assert made.decide(1, signal([1.0, 1.0]), missing) == []
    assert made.encode() == before


def test_fingerprints_are_of_rule_series_and_direction() -> None:
    names = [("level", "a"), ("level", "b"), ("variance", "a"), ("levela", "")]
    made = {fingerprint(*name, way) for name in names for way in (-1, 1)}
    assert len(made) == 8


ALLOWED = {
    ("fired", State.PENDING, State.FIRING),
    ("back", State.FIRING, State.RECOVERING),
    ("again", State.RECOVERING, State.FIRING),
    ("resolved", State.RECOVERING, State.NONE),
    ("resolved", State.FIRING, State.NONE),
    ("accepted", State.FIRING, State.NONE),
    ("accepted", State.FIRING, State.NONE),
    ("reminder", State.FIRING, State.FIRING),
    ("reminder", State.RECOVERING, State.RECOVERING),
}


@given(st.lists(st.tuples(st.floats(1, 1e4), st.floats(-2, 2), st.booleans()), max_size=80))
def test_steps_follow_one_another_and_bytes_continue(
    points: list[tuple[float, float, bool]],
) -> None:
    made, cut, state = decider(), decider(), State.NONE
    for point, (run, residual, judged) in enumerate(points):
        now = replace(case(1, residual=residual), judged=np.array([judged]))
        args = point, signal([run], after=residual, since=max(point - 4, 0)), now
        steps = made.decide(*args)
        assert cut.decide(*args) == steps
        cut = Decider.decode(cut.encode(), POLICY)
        for step in steps:
            assert (step.reason, step.before, step.after) in ALLOWED
            if step.before >= State.FIRING:
                assert step.before == state
            state = step.after
        assert state < State.FIRING or made.state[0] == state
    assert cut.encode() == made.encode()


@pytest.mark.parametrize(
    "spoil",
    [lambda b: b"", lambda b: b[:-1], lambda b: b"\x07" + b[1:], lambda b: b[:8] + b"\x04" + b[9:]],
)
def test_strange_bytes_are_refused(spoil: object) -> None:
    assert callable(spoil)
    with pytest.raises(ValueError, match="decision"):
        Decider.decode(spoil(decider(2).encode()), POLICY)
