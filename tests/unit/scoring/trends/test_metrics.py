"""Models of the metrics fit how such metrics move: without a change, alerts stay in the budget."""

from typing import cast

import numpy as np
import pytest

from valuetide.schemas.metrics import MetricName
from valuetide.scoring.arrays import FloatArray
from valuetide.scoring.trends.calendar import Calendar
from valuetide.scoring.trends.decision import NO_WHOLE, Policy
from valuetide.scoring.trends.metrics import LEAST_PER, METRICS
from valuetide.scoring.trends.watch import Roster, Watch

SERIES, DAYS = 60, 300


def shop(daily: float, seed: int) -> dict[str, FloatArray]:
    """Days of shops with so many orders a day, a week, and nothing that changes; (days, shops)."""
    rng = np.random.default_rng(seed)
    week = 1 + 0.3 * np.sin(2 * np.pi * np.arange(DAYS) / 7)
    expected = daily * week[:, None] * np.ones((DAYS, SERIES))
    orders = rng.poisson(expected * rng.gamma(100, 0.01, (DAYS, SERIES))).astype(float)
    some = np.maximum(orders, 1)
    mean = 40 * np.exp(rng.normal(0, 0.6 / np.sqrt(some)))
    answers = rng.poisson(0.2 * expected)
    return {
        "orders": orders,
        "new_customers": rng.poisson(0.3 * expected).astype(float),
        "revenue": orders * mean,
        "refunds": 0.1 * orders * 40 * np.exp(rng.normal(0, 1.2 / np.sqrt(some))),
        "mean_order_value": np.where(orders >= LEAST_PER, mean, np.nan),
        "contact_rate": np.where(orders >= LEAST_PER, rng.poisson(0.12 * expected) / some, np.nan),
        "satisfaction": np.where(
            answers >= LEAST_PER,
            0.8 + rng.normal(0, 0.2, answers.shape) / np.sqrt(np.maximum(answers, 1)),
            np.nan,
        ),
        "equity_growth": rng.normal(0.002, 0.003, (DAYS, SERIES)),
    }


@pytest.mark.parametrize("daily", [20.0, 300.0])
@pytest.mark.parametrize("name", METRICS)
def test_without_a_change_alerts_stay_in_the_budget(name: str, daily: float) -> None:
    values = shop(daily, 11)[name]
    watch = Watch(METRICS[cast("MetricName", name)].model, Calendar(), Policy(), SERIES)
    roster = Roster(np.ones(SERIES), np.full(SERIES, -1), np.full(SERIES, NO_WHOLE))
    fired = dict.fromkeys(("level", "variance"), 0)
    for day in range(DAYS):
        there = ~np.isnan(values[day])
        for step in watch.observe(20_000 + day, values[day], there, roster)[1]:
            fired[step.rule] += step.transition.reason == "fired"
    quarters = SERIES * (DAYS - 28) / 90
    # 180 series and quarters: of a budget of 1, or .14 for the noise, chance adds a fifth at most.
    assert fired["level"] / quarters < 1.0
    assert fired["variance"] / quarters < 0.15
