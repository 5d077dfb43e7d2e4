"""The planted segment is found, powers sum to one, and the sentence reads."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from valuetide.scoring.trends.expectation import Model
from valuetide.scoring.trends.explanation import (
    Cause,
    Dimension,
    Explanation,
    Measure,
    at_stake,
    causes,
    powers,
    surprises,
)

AMOUNTS = st.lists(st.tuples(st.floats(0.0, 1e6), st.floats(0.0, 1e6)), min_size=1, max_size=12)


def dimension(pairs: list[tuple[float, float]], name: str = "channel") -> Dimension:
    table = np.array(pairs, np.float64)
    names = [f"{name}{i}" for i in range(len(pairs))]
    return Dimension(name, names, Measure(table[:, 0], table[:, 1]))


@given(AMOUNTS)
def test_powers_sum_to_one_and_surprise_is_the_jensen_shannon_divergence(
    pairs: list[tuple[float, float]],
) -> None:
    cut = dimension(pairs)
    power, surprise = powers(cut), surprises(cut)
    assert (surprise >= 0.0).all()
    assert np.isfinite(power).all()
    if power.any():
        assert power.sum() == pytest.approx(1.0, abs=1e-3)
    before, after = cut.value.expected, cut.value.actual
    if before.sum() > 1e-6 and after.sum() > 1e-6:
        # scipy takes the root of what rounding may leave just below 0.
        with np.errstate(invalid="ignore"):
            distance = np.nan_to_num(jensenshannon(before / before.sum(), after / after.sum()))
        assert surprise.sum() == pytest.approx(distance**2, abs=1e-9)


def test_single_precision_surprises_as_double_does_though_nothing_came() -> None:
    cut = dimension([(60.0, 0.0), (40.0, 0.0)])
    expected, actual = (x.astype(np.float32) for x in (cut.value.expected, cut.value.actual))
    single = Measure(expected, actual)  # type: ignore[arg-type]
    np.testing.assert_allclose(surprises(replace(cut, value=single)), surprises(cut), rtol=1e-6)


def test_powers_of_a_ratio_are_the_paper_s() -> None:
    above = Measure(np.array([600.0, 400.0]), np.array([600.0, 300.0]))
    below = Measure(np.array([6.0, 4.0]), np.array([6.0, 5.0]))
    power = powers(Dimension("channel", ["a", "b"], above, below))
    # One element after the other takes its actual values, the other keeps what was expected.
    alone = [(600 + 400) / 10 - 100, (600 + 300) / (6 + 5) - 100]
    np.testing.assert_allclose(power, np.array(alone) / sum(alone))
    found = causes([Dimension("channel", ["a", "b"], above, below)])
    assert [(cause.element, cause.expected, cause.actual) for cause in found] == [
        ("b", 100.0, 60.0)
    ]


def test_the_dimension_that_was_hit_comes_first() -> None:
    # The whole falls from 100 to 85, all of it by email; tiers fall alike.
    channel = dimension([(50, 50), (30, 15), (20, 20)])
    tier = dimension([(60, 51), (40, 34)], "tier")
    found = causes([tier, channel])
    assert (found[0].dimension, found[0].element) == ("channel", "channel1")
    assert found[0].power == pytest.approx(1.0)
    assert [cause.element for cause in found[1:]] == ["tier0", "tier1"]


def test_two_segments_that_share_a_change_are_both_named() -> None:
    found = causes([dimension([(50, 50), (30, 20), (20, 12), (10, 10)])])
    assert [cause.element for cause in found] == ["channel1", "channel2"]


def test_a_change_spread_over_many_has_no_cause() -> None:
    assert causes([dimension([(10.0 + i, 8.0 + i) for i in range(12)])]) == []
    assert causes([dimension([(10.0, 10.0), (5.0, 5.0)])]) == []
    assert causes([dimension([(0.0, 0.0)])]) == []


def test_what_went_the_other_way_has_a_negative_power() -> None:
    power = powers(dimension([(50, 20), (50, 60)]))
    np.testing.assert_allclose(power, [1.5, -0.5])


def test_money_at_stake_of_counts() -> None:
    model = Model("sqrt")
    shift = model.forward(np.array([80.0])) - model.forward(np.array([100.0]))
    found = at_stake(model, np.array([100.0]), shift, np.array([25.0]))
    assert found[0] == pytest.approx(500.0)


def explanation(**of: object) -> Explanation:
    cause = Cause("channel", "email", 0.934, 0.02, 3_000.0, 900.0)
    base: dict[str, object] = {
        "metric": "revenue", "segment": "", "since": datetime(2026, 11, 2, tzinfo=UTC),
        "expected": 10_000.0, "actual": 7_900.0, "unit": "EUR", "stake_per_day": 2_100.0,
        "currency": "EUR", "run_length_days": 3_200.0, "causes": [cause],
    }  # fmt: skip
    return Explanation(**{**base, **of})  # type: ignore[arg-type]


def test_the_sentence() -> None:
    assert explanation().sentence() == (
        "Revenue is down 21 % since 2026-11-02: 7,900 instead of 10,000 EUR, 2,100 EUR a day at "
        "stake; by chance this happens once in 9 years, and channel email explains 93 % of it."
    )
    spread = explanation(causes=[], segment="tier gold", expected=0.0, actual=3.0)
    assert spread.sentence() == (
        "Revenue of tier gold is up since 2026-11-02: 3 instead of 0 EUR, 2,100 EUR a day at "
        "stake; by chance this happens once in 9 years."
    )
    assert explanation(causes=[]).sentence().endswith(", and no single segment explains it.")
    web = Cause("channel", "web", 0.05, 0.01, 500.0, 400.0)
    both = explanation(causes=[explanation().causes[0], web]).sentence()
    assert both.endswith("and channel email and web explain 98 % of it.")
    whole = Cause("channel", "web", 1.01, 0.01, 500.0, 400.0)
    assert explanation(causes=[whole]).sentence().endswith(", and channel web explains all of it.")
    more = explanation(causes=[replace(whole, power=9.38)]).sentence()
    assert more.endswith(", and channel web explains all of it, against the others.")
    assert "at stake" not in explanation(stake_per_day=0.0).sentence()
    assert explanation().ending() == (
        "Revenue was 7,900 instead of 10,000 EUR on average since 2026-11-02."
    )
