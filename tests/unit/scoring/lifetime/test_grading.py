"""Predictions are compared with what came, whatever the cuts, and restarts change nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import lifetime_reference as reference
from tests.unit.scoring.lifetime.test_learner import shop
from valuetide.scoring.lifetime.cohort import Cohort
from valuetide.scoring.lifetime.conformal import Conformal
from valuetide.scoring.lifetime.grade import report
from valuetide.scoring.lifetime.grading import TOO_EARLY, Grading
from valuetide.scoring.lifetime.learner import Learner
from valuetide.scoring.lifetime.sample import Orders

SHOP = shop(600, 250, seed=9)
HORIZONS = (3, 30, 120)


class Run:
    """A learner and its grading, committed and restarted after each part of a stream."""

    def __init__(self, horizons: tuple[int, ...] = HORIZONS, size: int = 2_048) -> None:
        self.horizons = horizons
        self.learner, self.grading = Learner(size=size), Grading(horizons, {})
        self.pieces: dict[str, bytes] = {}
        self.changes = 0

    def take(self, orders: Orders, *, restart: bool = False) -> "Run":
        self.changes += self.grading.learn(self.learner, orders)
        self.pieces |= self.grading.changes()
        if restart:
            self.learner = Learner.decode(self.learner.encode())
            self.grading = Grading(self.horizons, self.pieces)
        return self

    def bytes(self) -> tuple[bytes, dict[str, bytes]]:
        return self.learner.encode(), {name: blob for name, blob in self.pieces.items() if blob}


STRAIGHT = Run(size=300).take(SHOP)


@settings(deadline=None, max_examples=12)
@given(st.sets(st.integers(1, SHOP.day.size - 1), max_size=12), st.booleans())
def test_cuts_and_restarts_change_no_byte(cuts: set[int], restart: bool) -> None:
    run = Run(size=300)
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), None], strict=True):
        run.take(SHOP[start:stop], restart=restart)
    assert run.bytes() == STRAIGHT.bytes()
    assert run.changes == STRAIGHT.changes


def test_order_by_order_changes_no_byte() -> None:
    part = SHOP[:700]
    run = Run()
    for at in range(700):
        run.take(part[at : at + 1], restart=at % 50 == 0)
    assert run.bytes() == Run().take(part).bytes()
    assert run.grading.horizons[30].grade.cohorts > 3


def test_grades_are_what_orders_before_and_after_say() -> None:
    """Recomputed from the orders themselves, with the textbook's formula."""
    run, horizon = Run((60,)).take(SHOP[:400]), 60
    # From here on with parameters that stand still, and without the cohorts from before.
    run.learner.next_step = run.learner.due_day = 1 << 40
    run.grading.horizons[horizon].waiting.clear()
    first = run.learner.day
    run.take(SHOP[400:])

    model, spend = np.exp(run.learner.purchases), np.exp(run.learner.spend)
    who = SHOP.who.astype(np.int64)
    sums, outcomes = np.zeros(4), 0
    for day in range(-(-first // 14) * 14, int(SHOP.day[-1]) - horizon, 14):
        seen = reference.summarise(who, SHOP.day, SHOP.amount, day + 1)
        people = np.unique(who[SHOP.day <= day])
        shares = max(1, people.size // 512)
        keys = run.learner.sample.keys(people.astype(np.uint64))
        chosen = (keys >> np.uint64(8)) % np.uint64(shares) == day // 14 % shares
        orders = reference.mbg_expected_orders(model, seen, horizon / 7)[chosen]
        value = spend[0] * (spend[2] + seen.spent) / (spend[0] * seen.x + spend[1] - 1)
        later = (SHOP.day > day) & (SHOP.day <= day + horizon) & np.isin(who, people[chosen])
        days = set(zip(who[later].tolist(), SHOP.day[later].tolist(), strict=True))
        real = SHOP.amount[later].sum()
        sums += [orders.sum(), len(days), (orders * value[chosen]).sum(), real]
        outcomes += int(chosen.sum())
    found = run.grading.horizons[horizon].grade.total.sum(axis=0)
    assert outcomes > 1_000
    assert found[0] == outcomes
    np.testing.assert_allclose(found[[4, 5, 9, 10]], sums, rtol=1e-4)
    assert found[5] == sums[1]


def test_the_interval_that_counts_is_the_one_that_was_given() -> None:
    ends = Conformal()
    ends.outcomes, ends.upper = 10, np.full(4, -1.0)
    learner = Learner()
    learner.learn(SHOP[:900])
    members = learner.sample.members
    cohort = Cohort.predict(learner.parameters, members, learner.day, 90, ends, 1.0)
    ends.upper = np.full(4, 3.0)
    cohort = Cohort.decode(cohort.encode())
    after = members.copy()
    after["spent"] += np.arange(members.size)
    predictive, outcomes = cohort.mature(after[::2])
    given_then, given_now = Conformal(), ends
    given_then.upper = np.full(4, -1.0)
    _, high = given_then.interval(predictive)
    np.testing.assert_array_equal(outcomes.inside, outcomes.real_revenue <= high)
    assert (
        outcomes.inside.sum() < (outcomes.real_revenue <= given_now.interval(predictive)[1]).sum()
    )
    np.testing.assert_allclose(outcomes.real_revenue, np.arange(members.size)[::2], atol=1e-9)


def test_intervals_come_to_hold_as_often_as_they_say() -> None:
    """Of customers who may well buy, with a model that fits."""
    run = Run((60,)).take(shop(3_000, 500, seed=2))
    found = report(run.grading.horizons[60].grade.recent)
    assert found.likely_coverage == pytest.approx(0.8, abs=0.04)
    assert found.revenue.slope == pytest.approx(1.0, abs=0.25)
    assert abs(found.orders.bias) < 0.2


def test_cohorts_are_different_customers_in_turn() -> None:
    many = Orders(np.arange(4_000, dtype=np.uint64), np.arange(4_000) // 100, np.full(4_000, 9.0))
    run = Run((90,)).take(many)
    run.take(Orders(np.array([1], np.uint64), np.array([95]), np.array([9.0])))
    for day in range(102, 160, 7):
        run.take(Orders(np.array([1], np.uint64), np.array([day]), np.array([9.0])))
    full = [set(c.members["key"].tolist()) for c in run.grading.horizons[90].waiting if c.day > 90]
    assert len(full) == 5
    assert full[0] == full[4]
    assert sum(map(len, full[:4])) == len(set.union(*full[:4])) == 2_048


def test_after_a_gap_of_years_there_is_little_to_do() -> None:
    run = Run().take(SHOP)
    cohorts = [horizon.grade.cohorts for horizon in run.grading.horizons.values()]
    waiting = [len(horizon.waiting) for horizon in run.grading.horizons.values()]
    run.take(Orders(np.array([5], np.uint64), np.array([30_000]), np.array([9.0])))
    after = [horizon.grade.cohorts for horizon in run.grading.horizons.values()]
    closed = [b - a for a, b in zip(cohorts, after, strict=True)]
    assert [one - two for one, two in zip(closed, waiting, strict=True)] == [1, 0, 0]
    assert [len(horizon.waiting) for horizon in run.grading.horizons.values()] == [0, 1, 1]


@pytest.mark.parametrize("days", [1, 7, 8, 90, 91, 92, 365, 3_650])
def test_pieces_are_bounded(days: int) -> None:
    run = Run((days,), size=600)
    for day in range(0, 3 * days + 400, 5):
        run.take(Orders(np.arange(day % 40, 40, dtype=np.uint64), np.full(40 - day % 40, day),
                        np.full(40 - day % 40, 9.0)))  # fmt: skip
    horizon = run.grading.horizons[days]
    assert horizon.grade.cohorts >= 2
    assert 0 <= len(horizon.waiting) <= 9
    names = [name for name in run.pieces if name.startswith("cohort:")]
    assert len(names) <= 9
    assert sum(bool(run.pieces[name]) for name in names) == len(horizon.waiting)


def test_horizons_that_are_no_longer_set_are_dropped_and_new_ones_start() -> None:
    run = Run((30, 120)).take(SHOP[:1_000])
    kept = run.grading.horizons[120]
    other = Grading((120, 200), run.pieces)
    dropped = other.changes()
    assert dropped
    assert all(not blob and ":30" in name for name, blob in dropped.items())
    assert other.horizons[120].encode() == kept.encode()
    assert len(other.horizons[120].waiting) == len(kept.waiting)
    assert other.horizons[200].grade.cohorts == 0
    again = Grading((30, 120), run.pieces | dropped)
    assert again.horizons[30].grade.cohorts == 0
    assert again.horizons[30].waiting == []


def test_the_corrector_learns_from_the_shortest_horizon_when_parameters_have_settled() -> None:
    run = Run((30, 120)).take(SHOP)
    early = Run((30, 120)).take(SHOP[:60]).grading.horizons[30].waiting
    assert early
    assert all(cohort.factor == TOO_EARLY for cohort in early)
    graded = run.grading.horizons[30].grade.cohorts
    assert run.grading.tempo.cohorts == graded - 3
    assert 0.8 < run.grading.tempo.factor < 1.2


@pytest.mark.parametrize("blob", [b"x", Cohort.decode(
    next(blob for name, blob in STRAIGHT.pieces.items() if name.startswith("cohort:120") and blob)
).encode() + b"x"])  # fmt: skip
def test_strange_bytes_are_refused(blob: bytes) -> None:
    with pytest.raises(ValueError, match="cohort"):
        Grading(HORIZONS, {"cohort:30:0": blob})
    with pytest.raises(ValueError, match="bytes"):
        Grading(HORIZONS, {"grade:30": blob})
