"""The rules are those of a plain loop over customers; the budget holds, and the greatest pass."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from valuetide.scoring.customer_alerts import CAP, Budget, Limits, Moves, alive_at_order, judge
from valuetide.scoring.lifetime.parameters import Purchases
from valuetide.scoring.lifetime.purchases import Histories, p_alive
from valuetide.scoring.packed import FALLEN, SETTLED, WATCHED

LIMITS = Limits(fall=0.5, growth=3.0, won_back=0.2)
MONEY = st.sampled_from([-50.0, 0.0, 1.0, 10.0, 19.0, 20.0, 21.0, 30.0, 60.0, 61.0])
CHANCE = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.4, 0.41, 0.8, 1.0])
CUSTOMER = st.tuples(
    st.sampled_from([0, SETTLED, WATCHED, WATCHED | FALLEN, SETTLED | WATCHED | FALLEN]),
    st.booleans(), st.booleans(), MONEY, CHANCE, MONEY, CHANCE, st.sampled_from([0.8, 0.9]),
)  # fmt: skip


def found_plainly(
    flags: int,
    known: bool,
    ordered: bool,
    before: float,
    waited: float,
    clv: float,
    alive: float,
    at_order: float,
) -> tuple[str | None, bool, int]:
    """Give growth or won_back, whether at risk, and the flags, by the rules as they are written."""
    silent_fall = alive <= 0.5 * at_order
    sudden_fall = known and before > 0 and clv <= 0.5 * before
    told = bool(flags & FALLEN) and not ordered
    at_risk = (silent_fall or sudden_fall) and not told and bool(flags & WATCHED)
    fallen = silent_fall or sudden_fall or told
    rise = None
    if known and ordered and waited < 0.2:
        rise = "won_back"
    elif known and ordered and before > 0 and clv >= 3 * before:
        rise = "growth"
    return rise, at_risk, (flags & SETTLED) | WATCHED | (FALLEN if fallen else 0)


@given(st.lists(CUSTOMER, max_size=30))
def test_rules_over_columns_are_those_over_each_customer(
    customers: list[tuple[int, bool, bool, float, float, float, float, float]],
) -> None:
    kinds = (np.uint8, np.bool_, np.bool_, *[np.float64] * 5)
    columns: list[Any] = [
        np.array([customer[nth] for customer in customers], kind) for nth, kind in enumerate(kinds)
    ]
    found = judge(Moves(*columns), LIMITS)
    wanted = [found_plainly(*customer) for customer in customers]
    rises = ["growth" if g else "won_back" if w else None
             for g, w in zip(found.growth, found.won_back, strict=True)]  # fmt: skip
    assert not (found.growth & found.won_back).any()
    assert list(zip(rises, found.at_risk.tolist(), found.flags.tolist(), strict=True)) == wanted


def test_alive_at_order_is_p_alive_without_silence() -> None:
    model = Purchases(r=0.6, alpha=7.0, a=0.9, b=2.2)
    x, t_x = np.arange(40), np.linspace(0.0, 90.0, 40)
    wanted = p_alive(model, Histories(x, t_x, t_x))
    np.testing.assert_allclose(alive_at_order(model, x), wanted, rtol=1e-12)


# Days as they follow each other, each with what is found at once.
DAYS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.lists(st.floats(0.01, 1e9), min_size=0, max_size=12),
    ),
    max_size=25,
)


@given(size=st.integers(1, 4), days=DAYS)
def test_no_day_has_more_than_the_cap_and_the_text_gives_the_same(
    size: int, days: list[tuple[int, list[float]]]
) -> None:
    budget, day, passed = Budget(size), 20_000, dict[int, int]()
    for step, found in days:
        day += step
        budget = Budget.decode(budget.encode(), size)
        taken = budget.take(day, np.array(found))
        passed[day] = passed.get(day, 0) + int(taken.sum())
        assert budget.spent == passed[day]
    assert all(count <= CAP * size for count in passed.values())


@given(size=st.integers(1, 4), found=st.lists(st.floats(0.01, 1e9), unique=True, max_size=12))
def test_of_those_found_at_once_the_greatest_pass(size: int, found: list[float]) -> None:
    taken = Budget(size).take(5, np.array(found))
    assert {money for money, one in zip(found, taken, strict=True) if one} == set(
        sorted(found)[-size:]
    )


def test_a_quiet_day_passes_whole_and_lowers_what_the_next_begins_with() -> None:
    budget = Budget(2)
    assert budget.take(1, np.array([9.0, 8.0, 7.0])).sum() == 2
    assert budget.take(2, np.array([7.0])).tolist() == [False]
    assert budget.take(3, np.array([1.0])).tolist() == [True]
    assert budget.take(2, np.array([2.0, 3.0])).sum() == 2  # an earlier day counts as this one
    assert budget.day == 3


@pytest.mark.parametrize("found_a_day", [3, 20, 200])
def test_most_of_the_money_of_the_greatest_passes_one_by_one(found_a_day: int) -> None:
    """In no order; a budget spent on whoever comes first would pass 5 % of 200 a day."""
    chance, size = np.random.default_rng(7), 10
    budget, told, greatest = Budget(size), 0.0, 0.0
    for day in range(1, 100):
        worth = chance.lognormal(0.0, 1.0, found_a_day)
        taken = np.concatenate([budget.take(day, np.array([one])) for one in worth])
        best = worth >= np.sort(worth)[-size:][0]
        told, greatest = told + worth[taken & best].sum(), greatest + worth[best].sum()
    assert told / greatest > (0.99 if found_a_day < size else 0.8)


@pytest.mark.parametrize("text", ["", "1", "1 2", "1 2 x", "a 2 3.0"])
def test_a_budget_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Budget.decode(text, 3)
