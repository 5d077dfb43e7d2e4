"""All series of a shop: which begin when, what they are worth, and what explains a change."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from valuetide.schemas.metrics import MetricName
from valuetide.scoring.arrays import IntArray
from valuetide.scoring.series import COLUMNS, OTHER, SATISFIED, Column
from valuetide.scoring.trends.decision import Policy, State, Transition
from valuetide.scoring.trends.metrics import METRICS
from valuetide.scoring.trends.panel import Finding, Panel, Plan, Segment
from valuetide.scoring.trends.watch import Step

START = 20_000
WHOLE: Segment = ("", "")
NAMES: tuple[MetricName, ...] = ("revenue", "orders", "mean_order_value", "satisfaction")
PLAN = Plan(NAMES, ("channel",), "day", {}, Policy(run_length=1_000.0), 10, 2)
CHANNELS = {"web": 100.0, "app": 60.0, "store": 40.0}


class Shop:
    """Sums of each day; numbers of orders and their values by channel can be scaled."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def day(
        self, orders: Mapping[str, float] | None = None, value: Mapping[str, float] | None = None
    ) -> dict[Segment, IntArray]:
        cells: dict[Segment, IntArray] = {WHOLE: np.zeros(COLUMNS, np.int64)}
        for name, daily in CHANNELS.items():
            cell = np.zeros(COLUMNS, np.int64)
            number = self.rng.poisson(daily * (orders or {}).get(name, 1.0))
            amounts = self.rng.lognormal(8.0, 0.4, number) * (value or {}).get(name, 1.0)
            cell[[Column.ORDER_EVENTS, Column.ORDERS]] = number
            cell[Column.REVENUE] = round(amounts.sum())
            cells["channel", name] = cell
            cells[WHOLE] += cell
        answers = self.rng.poisson(30)
        cells[WHOLE][[Column.FEEDBACK_EVENTS, Column.ANSWERS]] = answers
        happy = self.rng.normal(0.8, 0.1, answers).clip(0, 1).sum()
        cells[WHOLE][Column.SATISFACTION] = round(happy * SATISFIED)
        return cells


def run(panel: Panel, shop: Shop, days: range, **of: Any) -> list[tuple[int, Finding]]:
    return [
        (day, found) for day in days for found in panel.observe(START + day, shop.day(**of), None)
    ]


def of_level(found: list[tuple[int, Finding]], metric: str) -> list[Finding]:
    return [
        one for _, one in found
        if one.metric == metric and one.rule == "level" and one.transition.reason == "fired"
    ]  # fmt: skip


def test_a_fall_of_revenue_says_how_much_since_when_and_who() -> None:
    panel, shop = Panel(PLAN), Shop(1)
    run(panel, shop, range(90))
    found = run(panel, shop, range(90, 110), orders={"app": 0.3})
    (revenue,) = of_level(found, "revenue")
    assert revenue.segment == WHOLE
    assert abs(revenue.transition.since - START - 90) <= 2
    mean = np.exp(8.0 + 0.08) / 100
    assert revenue.expected == pytest.approx(200 * mean, rel=0.06)
    assert revenue.actual == pytest.approx(158 * mean, rel=0.08)
    assert revenue.stake == pytest.approx(42 * mean, rel=0.35)
    (cause,) = revenue.causes
    assert (cause.dimension, cause.element) == ("channel", "app")
    assert cause.power == pytest.approx(1.0, abs=0.25)
    # An order is worth the mean order value, so orders have the same at stake.
    (orders,) = of_level(found, "orders")
    assert orders.stake == pytest.approx(42 * mean, rel=0.35)


def test_what_happens_once_is_told_once_to_its_end() -> None:
    panel, shop = Panel(PLAN), Shop(1)
    run(panel, shop, range(90))
    found = [one for _, one in run(panel, shop, range(90, 105), orders={"app": 0.3})]
    panel = Panel(PLAN, panel.encode())
    found += [one for _, one in run(panel, shop, range(105, 150), orders={"app": 0.3})]
    whole = [one for one in found if one.segment == WHOLE and one.rule == "level"]
    steps = {(one.metric, one.transition.reason): one for one in whole}
    first, second = steps["revenue", "fired"], steps["orders", "fired"]
    assert (first.transition.notify, first.kin) == (True, None)
    assert (second.transition.notify, second.kin) == (False, "revenue")
    assert steps["revenue", "accepted"].transition.notify
    assert not steps["orders", "accepted"].transition.notify


def test_another_change_of_a_kindred_metric_is_told() -> None:
    panel, shop = Panel(PLAN), Shop(1)
    run(panel, shop, range(90))
    found = run(panel, shop, range(90, 105), orders={"app": 0.3})
    dear = dict.fromkeys(CHANNELS, 0.6)
    found += run(panel, shop, range(105, 115), orders={"app": 0.3}, value=dear)
    assert any(one.metric == "revenue" and one.transition.direction < 0 for _, one in found)
    (value,) = [one for one in of_level(found, "mean_order_value") if one.segment == WHOLE]
    assert abs(value.transition.since - START - 105) <= 2
    assert value.transition.notify


def test_a_fall_to_nothing_is_explained_by_numbers() -> None:
    panel, shop = Panel(PLAN), Shop(1)
    run(panel, shop, range(90))
    found = run(panel, shop, range(90, 95), orders=dict.fromkeys(CHANNELS, 0.0))
    (revenue,) = of_level(found, "revenue")
    assert {cause.element for cause in revenue.causes} == {"web", "app"}
    assert np.isfinite([(cause.power, cause.surprise) for cause in revenue.causes]).all()


def test_a_ratio_is_explained_by_the_segment_whose_orders_became_smaller() -> None:
    panel, shop = Panel(PLAN), Shop(2)
    run(panel, shop, range(90))
    found = run(panel, shop, range(90, 110), value={"store": 0.4})
    (mean,) = of_level(found, "mean_order_value")
    assert [cause.element for cause in mean.causes] == ["store"]
    assert mean.causes[0].actual == pytest.approx(0.4 * mean.causes[0].expected, rel=0.15)
    # One unit less of an order is worth as much a day as there are orders.
    assert mean.stake == pytest.approx((mean.expected - mean.actual) * 200, rel=0.1)


def test_a_segment_alone_is_told_when_the_whole_stands_still() -> None:
    panel, shop = Panel(PLAN), Shop(3)
    run(panel, shop, range(120))
    found = run(panel, shop, range(120, 150), orders={"app": 0.5, "web": 1.3})
    told = {one.segment[1]: one.transition.direction for one in of_level(found, "orders")}
    assert told == {"app": -1, "web": 1}
    assert all(not one.causes for one in of_level(found, "orders"))


def test_series_begin_with_what_there_is_and_learning_is_counted() -> None:
    panel, shop = Panel(PLAN), Shop(4)
    assert panel.points_needed == 28
    run(panel, shop, range(10))
    # Revenue, orders and mean order value of four, and satisfaction of the whole alone.
    assert (panel.series, panel.points_needed) == (13, 18)
    cells = shop.day()
    cells["channel", "kiosk"] = cells["channel", "app"]
    panel.observe(START + 10, cells, None)
    assert panel.series == 16
    run(panel, shop, range(11, 40))
    assert panel.points_needed == 0


def test_further_elements_are_one() -> None:
    panel = Panel(replace(PLAN, metrics=("orders",), most_elements=2))
    cell = np.ones(COLUMNS, np.int64)
    names = [("channel", name) for name in "abcde"]
    panel.observe(START, {WHOLE: 5 * cell, **dict.fromkeys(names, cell)}, None)
    assert panel.series == 4
    assert json_names(panel) == [["", ""], ["channel", "a"], ["channel", "b"], ["channel", OTHER]]


def json_names(panel: Panel) -> Any:
    return json.loads(panel.encode()["elements"])


def test_a_day_without_its_producer_is_not_judged() -> None:
    panel, shop = Panel(PLAN), Shop(5)
    run(panel, shop, range(60))
    found = []
    for day in range(60, 70):
        cells = shop.day(orders=dict.fromkeys(CHANNELS, 0.4))
        found += panel.observe(START + day, cells, None, stopped=["orders"])
    assert found == []
    assert of_level(run(panel, shop, range(70, 80)), "revenue") == []


def test_a_dimension_that_the_settings_drop_falls_silent_and_others_go_on() -> None:
    panel, shop = Panel(PLAN), Shop(6)
    run(panel, shop, range(60))
    again = Panel(replace(PLAN, dimensions=(), metrics=(*NAMES, "refunds")), panel.encode())
    found = []
    for day in range(60, 90):
        cells = {WHOLE: shop.day()[WHOLE]}
        found += again.observe(START + day, cells, None)
    assert not [one for one in found if one.segment != WHOLE]
    assert again.points == 90


def test_growth_of_equity_is_watched_and_worth_money() -> None:
    assert METRICS["equity_growth"].of_equity
    panel = Panel(replace(PLAN, metrics=("equity_growth",)))
    rng, equity = np.random.default_rng(7), 1e8
    found: list[Finding] = []
    for day in range(140):
        equity *= 1.0 + rng.normal(0.002 if day < 110 else -0.004, 0.002)
        found += panel.observe(START + day, {}, round(equity) if day % 50 else None)
    (fired,) = [one for one in found if one.transition.reason == "fired"]
    assert fired.transition.direction == -1
    assert fired.actual == pytest.approx(-0.004, abs=0.002)
    # Of more than a million, half a hundredth a day.
    assert fired.stake == pytest.approx(1.2e6 * 0.006, rel=0.4)


def test_more_noise_is_compared_with_the_noise_before_however_long_it_lasts() -> None:
    panel = Panel(replace(PLAN, metrics=("equity_growth",)))
    rng, equity = np.random.default_rng(2), 1e9

    def explained(since: int, before: State, after: State, reason: str) -> Finding:
        """What is said of a step, which chance does not make at a day that is known."""
        group = panel._groups["equity_growth"]
        step = Transition(0, 1, START + since, before, after, reason, notify=True)
        return panel._explain(group, Step("variance", step, 5_000.0, 1.0), 100.0)

    def go_on(days: int, noise: float) -> None:
        nonlocal equity
        for _ in range(days):
            equity *= 1.0 + rng.normal(0.001, noise)
            panel.observe(START + panel.points, {}, round(equity))

    go_on(100, 0.002)
    go_on(10, 0.008)
    fired = explained(100, State.PENDING, State.FIRING, "fired")
    go_on(60, 0.008)
    panel = Panel(panel.plan, panel.encode())
    ended = explained(100, State.FIRING, State.NONE, "accepted")
    usual = np.sqrt(2 / np.pi)
    assert fired.expected == ended.expected == pytest.approx(0.002 * usual, rel=0.3)
    assert ended.actual == pytest.approx(0.008 * usual, rel=0.4)
    assert ended.run_length == 5_000.0
    assert ended.stake == pytest.approx(100.0 * (ended.actual - ended.expected))


def test_a_restart_changes_nothing() -> None:
    whole, part = Panel(PLAN), Panel(PLAN)
    one, two = Shop(8), Shop(8)
    wanted, found = run(whole, one, range(70)), run(part, two, range(70))
    wanted += run(whole, one, range(70, 90), orders={"app": 0.2})
    for day in range(70, 90):
        part = Panel(PLAN, part.encode())
        found += run(part, two, range(day, day + 1), orders={"app": 0.2})
    assert found == wanted
    assert of_level(wanted, "revenue")
    assert part.encode() == whole.encode()
    assert part.open_alerts().keys() == whole.open_alerts().keys()


def test_bytes_that_are_none_are_refused() -> None:
    panel, shop = Panel(PLAN), Shop(9)
    run(panel, shop, range(3))
    good = panel.encode()
    for name in ("panel", "revenue"):
        for piece in (b"", good[name][:5], good[name][:-1], b"\xff" * len(good[name])):
            with pytest.raises(ValueError, match=r"panel|revenue|watch|bytes"):
                Panel(PLAN, good | {name: piece})
    with pytest.raises(ValueError, match="element"):
        Panel(PLAN, good | {"elements": b"[]"})
    with pytest.raises(ValueError, match="holidays"):
        Panel(replace(PLAN, holidays={20_100: "christmas"}), good)


def test_an_alert_of_a_mean_that_nobody_adds_to_any_more_ends_with_its_time() -> None:
    panel, shop = Panel(PLAN), Shop(5)
    reasons = []
    for day in range(150):
        cells = shop.day()
        if 100 <= day < 108:
            cells[WHOLE][Column.SATISFACTION] //= 2
        if day >= 108:
            cells[WHOLE][Column.FEEDBACK_EVENTS :] = 0
        reasons += [
            found.transition.reason
            for found in panel.observe(START + day, cells, None)
            if found.metric == "satisfaction" and found.rule == "level" and day >= 100
        ]
    assert reasons == ["fired", "accepted"]
    assert not panel.open_alerts()
