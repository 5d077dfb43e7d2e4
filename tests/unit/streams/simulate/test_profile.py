"""Demand by the calendar and under shifts."""

from datetime import date, timedelta

import numpy as np
import pytest

from tests.unit.streams.simulate.helpers import FLAT
from valuetide.scoring.arrays import FloatArray
from valuetide.streams.simulate.profile import Profile, progress, season
from valuetide.streams.simulate.scenario import Scenario
from valuetide.streams.simulate.shifts import Shift


def moved(*shifts: str, metric: str = "demand", days: int = 10) -> FloatArray:
    scenario = Scenario.model_validate(
        {"days": days, "warm_up_days": 2, "season": FLAT, "shifts": shifts}
    )
    table: FloatArray = getattr(Profile(scenario, scenario.shifts), metric)
    return table


def test_a_week_has_its_weekdays_and_a_holiday_its_factor() -> None:
    week = (1, 1, 1, 1, 1, 2, 0.5)
    scenario = Scenario.model_validate(
        {
            "start": date(2024, 12, 23),  # a Monday
            "days": 21,
            "warm_up_days": 3,
            "season": {"weekdays": week, "yearly_amplitude": 0},
        }
    )
    demand = season(scenario)
    for number, value in enumerate(demand.tolist()):
        day = date(2024, 12, 20) + timedelta(days=number)
        factor = {(12, 25): 0.4, (12, 26): 0.4, (1, 1): 0.5}.get((day.month, day.day), 1.0)
        assert value == pytest.approx(week[day.weekday()] * 7 / 7.5 * factor)


def test_the_year_peaks_on_its_day_and_its_mean_is_one() -> None:
    flat = {**FLAT, "yearly_amplitude": 0.3, "yearly_peak_day": 100}
    scenario = Scenario.model_validate({"days": 1461, "warm_up_days": 0, "season": flat})
    demand = season(scenario)
    assert demand.mean() == pytest.approx(1.0, abs=1e-3)
    assert demand[:365].argmax() == 99  # the hundredth day
    assert demand[:365].max() == pytest.approx(1.3, abs=1e-4)


def test_a_level_is_there_at_once_and_a_slope_bit_by_bit() -> None:
    scenario = Scenario.model_validate({"days": 8, "warm_up_days": 1})
    found = {
        text: progress(Shift.model_validate(text), scenario).tolist()
        for text in ("level:1%@3", "level:1%@3+2", "slope:1%@3+4")
    }
    assert found == {
        "level:1%@3": [0, 0, 0, 0, 1, 1, 1, 1, 1],
        "level:1%@3+2": [0, 0, 0, 0, 1, 1, 0, 0, 0],
        "slope:1%@3+4": [0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1],
    }


def test_a_shift_reaches_its_channel_and_source_alone() -> None:
    table = moved("level:-50%@4,channel=app,source=social")
    assert table.shape == (12, 4, 4)
    assert table[6:, 1, 1].tolist() == [0.5] * 6
    table[6:, 1, 1] = 1.0
    assert (table == 1.0).all()


def test_shifts_multiply_and_each_metric_is_moved_by_its_own() -> None:
    both = ("level:-50%@4", "level:+100%@4,metric=amount", "level:-20%@4,metric=arrivals")
    assert moved(*both)[6:].max() == moved(*both)[6:].min() == 0.5
    assert (moved(*both, metric="amount")[6:] == 2.0).all()
    assert moved(*both, metric="arrivals")[6:].max() == pytest.approx(0.4)
    assert (moved(*both, metric="visits") == 1.0).all()
    assert (moved("level:-150%@4,metric=satisfaction", metric="mood")[6:] == -1.5).all()


def test_a_customer_goes_mostly_through_their_own_channel() -> None:
    scenario = Scenario(channels={"web": 3, "app": 1}, loyalty=0.6)
    routes = Profile(scenario, ()).routes
    np.testing.assert_allclose(routes, [[0.6 + 0.4 * 0.75, 0.1], [0.3, 0.6 + 0.1]])


def test_a_variance_moves_the_spread_and_not_the_mean() -> None:
    """Over 2,000 days a standard deviation is known to 1.6 %, a mean of .1 to .002."""
    scenario = Scenario.model_validate(
        {
            "days": 4_000,
            "warm_up_days": 0,
            "season": {**FLAT, "spread": 0.1},
            "shifts": ["variance:+100%@2000"],
        }
    )
    demand = Profile(scenario, scenario.shifts).demand[:, 0, 0]
    before, after = demand[:2_000], demand[2_000:]
    assert before.std() == pytest.approx(0.1, rel=0.08)
    assert after.std() == pytest.approx(0.2, rel=0.08)
    assert before.mean() == pytest.approx(1.0, abs=0.01)
    assert after.mean() == pytest.approx(1.0, abs=0.02)
