"""Trend alerts: false alarms, delays, causes and cost, beside River's detectors.

    python -m bench.alerts [--quick] [--seed 1] [--json build/bench-alerts.json]

Nothing is sent through Kafka: what is measured is the mathematics of valuetide/scoring/trends, from
the points of the series on. Prints tables and, one a line, the bounds that are missed; ends with
status 1 if there are any. A whole run draws alerts-false.png and
alerts-delay.png beside the figures.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import alert_worlds as worlds
from bench.alert_plots import draw
from bench.alert_worlds import CORRELATED, POINTS, START, Bools, Floats, Noise
from bench.outcome import Outcome
from valuetide.schemas.metrics import DEFAULT_METRICS
from valuetide.scoring.arrays import IntArray
from valuetide.scoring.trends.calendar import Calendar
from valuetide.scoring.trends.decision import NO_WHOLE, Policy, Transition
from valuetide.scoring.trends.detectors import PRIOR_POINTS, RiverName, river_detector
from valuetide.scoring.trends.expectation import Expectation, Model
from valuetide.scoring.trends.explanation import Dimension, Measure, causes
from valuetide.scoring.trends.focus import Focus
from valuetide.scoring.trends.panel import Panel, Plan, Segment
from valuetide.scoring.trends.watch import Roster, Watch

BUDGET = 90.0
SHIFT_AT = 250
AFTER = 60
SIZES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
NEVER = 10_000.0
_SOON = 14


class Shown(Outcome):
    """An outcome that is printed as it comes."""

    def note(self, name: str, value: Any) -> None:
        self.values[name] = value

    def bound(self, name: str, value: float, low: float, high: float) -> None:
        print(f"  {'ok' if low <= value <= high else 'MISSED':7}{name}: {value:.4g}")
        super().bound(name, value, low, high)


def calendar() -> Calendar:
    return Calendar(holidays=worlds.holidays())


def alone(series: int) -> Roster:
    """Give series that are watched each for itself."""
    return Roster(np.ones(series), np.full(series, -1), np.full(series, NO_WHOLE))


@dataclass
class Fired:
    """Alerts that fired: when, which series, which way, by which rule; and points judged."""

    at: IntArray
    row: IntArray
    direction: IntArray
    level: Bools
    judged: IntArray


def fired(
    logs: Floats,
    open_: Bools | None = None,
    roster: Roster | None = None,
    policy: Policy | None = None,
) -> Fired:
    """Give what the whole way, from points to alerts, fires on series of logarithms."""
    points, series = logs.shape
    watch = Watch(Model(), calendar(), policy or Policy(run_length=BUDGET), series)
    roster = roster or alone(series)
    found, judged = [], np.zeros(series, np.int64)
    for i in range(points):
        present = np.full(series, True if open_ is None else bool(open_[i]))
        point, steps = watch.observe(START + i, np.exp(logs[i]), present, roster)
        judged += point.judged
        found += [
            (i, step.transition.row, step.transition.direction, int(step.rule == "level"))
            for step in steps
            if step.transition.reason == "fired"
        ]
    table = np.array(found, np.int64).reshape(-1, 4)
    return Fired(table[:, 0], table[:, 1], table[:, 2], table[:, 3] == 1, judged)


def per_budget(alerts: Fired, series: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Give alerts in each 90 points of a series, with a 95 % interval by resampling series."""
    counts = np.bincount(alerts.row, minlength=series)
    draws = rng.integers(0, series, (1_000, series))
    rates = BUDGET * counts[draws].sum(axis=1) / alerts.judged[draws].sum(axis=1)
    low, high = np.quantile(rates, [0.025, 0.975])
    return float(BUDGET * counts.sum() / alerts.judged.sum()), float(low), float(high)


def false_alarms(outcome: Shown, rng: np.random.Generator, quick: bool) -> None:
    series = 200 if quick else 1_000
    print(f"\nNo shift: alerts per series and 90 points, {series} series of {POINTS} days")
    for of in worlds.KINDS:
        rate, low, high = per_budget(fired(worlds.shop(of, series, rng)), series, rng)
        print(f"  {of.name:24}{rate:6.2f}  ({low:.2f} to {high:.2f})")
        outcome.note(f"no shift, {of.name}", (rate, low, high))
        outcome.bound(f"no shift, {of.name}: upper end of the rate, of a budget of 1", high, 0, 1)
    each = 50 if quick else 200
    print(f"Real noise, {each} series a country")
    for country, (effects, rest) in worlds.countries().items():
        logs, open_ = worlds.resampled(effects, rest, each, rng)
        rate, low, high = per_budget(fired(logs, open_), each, rng)
        print(f"  {country:24}{rate:6.2f}  ({low:.2f} to {high:.2f})  sd {rest.std():.2f}")
        outcome.note(f"no shift, {country}", (rate, low, high))
        outcome.bound(f"no shift, {country}: upper end of the rate", high, 0, 1)


def whole_shops(outcome: Shown, rng: np.random.Generator, quick: bool) -> None:
    """All series of a shop together, as settings have them by default, without segments."""
    shops, quarters = 4 if quick else 24, (POINTS - Model().learning_points) / BUDGET
    plan = Plan(DEFAULT_METRICS, (), "day", {}, Policy(run_length=BUDGET), 10, 2)
    print(f"\n{shops} shops, {len(DEFAULT_METRICS)} metrics: fired, and told once where kindred")
    fired = told = 0
    for _ in range(shops):
        panel = Panel(plan)
        for day, cells in enumerate(worlds.shop_days(rng)):
            steps = begun(panel, day, cells)
            fired += len(steps)
            told += sum(step.notify for step in steps)
    print(f"  no shift, in 90 days {fired / shops / quarters:8.2f} {told / shops / quarters:8.2f}")
    outcome.note("whole shop, no shift: fired in 90 days", fired / shops / quarters)
    outcome.bound("whole shop, no shift: told in 90 days", told / shops / quarters, 0, 6)
    fired = told = none = calm = 0
    for _ in range(shops):
        panel, here = Panel(plan), []
        days = enumerate(worlds.shop_days(rng, SHIFT_AT, 0.7))
        for day, cells in islice(days, SHIFT_AT):
            panel.observe(START + day, cells, None)
        if panel.open_alerts():
            continue  # somebody has been told already
        for day, cells in islice(days, _SOON):
            here += begun(panel, day, cells)
        calm += 1
        fired += len(here)
        told += sum(step.notify for step in here)
        none += not any(step.notify and step.direction < 0 for step in here)
    print(f"  30 % fewer orders, in 14 days {fired / calm:8.2f} {told / calm:8.2f}, {calm} shops")
    outcome.note("whole shop, orders fall by 30 %: fired in 14 days", fired / calm)
    outcome.note("whole shop, orders fall by 30 %: told in 14 days", told / calm)
    outcome.bound("whole shop, orders fall by 30 %: shops not told", none, 0, 0)


def begun(panel: Panel, day: int, cells: Mapping[Segment, IntArray]) -> list[Transition]:
    """Give the alerts that a day makes fire."""
    steps = (found.transition for found in panel.observe(START + day, cells, None))
    return [step for step in steps if step.reason == "fired"]


def shifted(of: Noise, size: float, series: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Give series that shift by a share at ``SHIFT_AT``, half of them up, and their directions."""
    logs = worlds.shop(of, series, rng, SHIFT_AT + AFTER)
    way = np.where(np.arange(series) % 2, 1.0, -1.0)
    logs[SHIFT_AT:] += np.log1p(way * size)
    return logs, way


def delays(alerts: Fired, way: Floats) -> Floats:
    """Give points from the shift to the first alert of its direction; 1 is at once."""
    found = np.full(way.size, NEVER)
    right = (alerts.at >= SHIFT_AT) & alerts.level & (alerts.direction == way[alerts.row])
    np.minimum.at(found, alerts.row[right], alerts.at[right] - SHIFT_AT + 1.0)
    return found


def alive(alerts: Fired, way: Floats) -> Bools:
    """Give the series that have, by a false alarm, an alert of the shift's direction already."""
    lasts = 28
    before = (alerts.at < SHIFT_AT) & (alerts.at > SHIFT_AT - lasts)
    held = np.zeros(way.size, np.bool_)
    held[alerts.row[before & alerts.level & (alerts.direction == way[alerts.row])]] = True
    return held


def shifts(outcome: Shown, rng: np.random.Generator, quick: bool) -> None:
    series = 300 if quick else 1_000
    print(f"\nA shift that stays, from points to alerts, {series} series, half up and half down")
    print(
        "  noise of 15 %             shift  caught in 30  in 60  median delay  under alert before"
    )
    for of in worlds.KINDS:
        for size in SIZES:
            logs, way = shifted(of, size, series, rng)
            alerts = fired(logs)
            held = alive(alerts, way)
            delay = delays(alerts, way)[~held]
            in_30, in_60, median = (delay <= 30).mean(), (delay <= 60).mean(), np.median(delay)
            row = f"{size:5.0%}{in_30:14.1%}{in_60:7.1%}{median:14.0f}{held.mean():15.1%}"
            print(f"  {of.name:26}{row}")
            outcome.note(f"shift {size:.0%}, {of.name}", (in_30, in_60, median, held.mean()))
            # "Noise of 15 %" is independent from day to day; with autocorrelation the same size of
            # noise hides more, so those rows are shown and not judged.
            if of.phi > 0.0:
                continue
            if size == 0.2:
                outcome.bound(f"shift 20 %, {of.name}: caught in 60", in_60, 0.99, 1)
                outcome.bound(f"shift 20 %, {of.name}: median delay", median, 0, 6)
            if size == 0.1:
                outcome.bound(f"shift 10 %, {of.name}: caught in 30", in_30, 0.9, 1)


def standardised(logs: Floats) -> Floats:
    """Give the residuals that detectors see; the expectation learns all the while."""
    points, series = logs.shape
    expectation = Expectation(Model(), calendar(), series)
    everywhere = np.ones(series, np.bool_)
    found = [expectation.observe(START + i, np.exp(logs[i]), everywhere) for i in range(points)]
    return np.array([point.residual * point.judged for point in found])


Alarms = NDArray[np.bool_]


def focus_alarms(residuals: Floats, threshold: float) -> Alarms:
    points, series = residuals.shape
    # As River's it may fire at the first point; that a change endures is for the decision.
    focus = Focus(series, "mean", 1, PRIOR_POINTS)
    everywhere = np.ones(series, np.bool_)
    found = np.zeros(residuals.shape, np.bool_)
    for i in range(points):
        found[i] = focus.observe(i, residuals[i], everywhere).statistic >= threshold
        focus.reset(np.flatnonzero(found[i]))
    return found


def river_alarms(name: RiverName, residuals: Floats, setting: float) -> Alarms:
    found = np.zeros(residuals.shape, np.bool_)
    for row in range(residuals.shape[1]):
        detector = river_detector(name, setting)
        for i, value in enumerate(residuals[:, row].tolist()):
            detector.update(value)
            if detector.drift_detected:
                found[i, row] = True
                detector = river_detector(name, setting)
    return found


def cusum_alarms(residuals: Floats, size: float, threshold: float) -> Alarms:
    """Give the alarms of Page's CUSUM, both ways, that is told the size of a shift of the level.

    Of all rules it has the least worst delay for that size (Moustakides 1986), so what it needs no
    detector without that knowledge can be asked to beat at all sizes.
    """
    of = CORRELATED
    # In standard deviations of the innovations, which show 1 - phi of it; the mean of both ways.
    step = (np.log1p(size) - np.log1p(-size)) / 2.0
    step *= (1.0 - of.phi) / (of.sd * np.sqrt(1.0 - of.phi**2))
    way = np.array([1.0, -1.0])[:, None]
    sums = np.zeros((2, residuals.shape[1]))
    found = np.zeros(residuals.shape, np.bool_)
    for i, residual in enumerate(residuals):
        sums = np.maximum(sums + step * (way * residual - step / 2.0), 0.0)
        found[i] = (sums >= threshold).any(axis=0)
        sums[:, found[i]] = 0.0
    return found


def tuned(alarms: Callable[[float], Alarms], low: float, high: float) -> tuple[float, float]:
    """Give the setting at which there is one alarm in 90 points, and how many there are."""
    for _ in range(9):
        middle = float(np.sqrt(low * high))
        if BUDGET * alarms(middle).mean() > 1.0:
            low = middle
        else:
            high = middle
    return high, BUDGET * float(alarms(high).mean())


def median_delay(alarms: Alarms) -> float:
    """Give the median of the points from the shift to the first alarm after it."""
    after = alarms[SHIFT_AT - 60 :]
    first = np.where(after.any(axis=0), after.argmax(axis=0) + 1.0, NEVER)
    return float(np.median(first))


def versus_river(outcome: Shown, rng: np.random.Generator, quick: bool) -> None:
    series = 60 if quick else 200
    many = 150 if quick else 400
    print("\nDetectors alone, same residuals (AR(1) .3, t with 5), tuned to one alarm in 90 points")
    calm = standardised(worlds.shop(CORRELATED, series, rng, 460))[60:]
    kinds: dict[str, tuple[Callable[[Floats, float], Alarms], float, float]] = {
        "FOCuS": (focus_alarms, 2.0, 8.0),
        "ADWIN": (lambda r, x: river_alarms("adwin", r, 1.0 / x), 0.15, 30.0),
        "Page-Hinkley": (lambda r, x: river_alarms("page_hinkley", r, x), 1.0, 12.0),
    }
    settings = {}
    for name, (alarms, low, high) in kinds.items():
        settings[name], rate = tuned(lambda x, of=alarms: of(calm, x), low, high)  # type: ignore[misc]
        print(f"  {name:14} setting {settings[name]:8.3f}  alarms in 90 points {rate:.2f}")
    print("  median delay" + "".join(f"{size:>8.0%}" for size in SIZES))
    table: dict[str, list[float]] = {name: [] for name in kinds}
    told = []
    for size in SIZES:
        residuals = standardised(shifted(CORRELATED, size, many, rng)[0])[60:]
        knowing, _ = tuned(lambda x, size=size: cusum_alarms(calm, size, x), 0.2, 8.0)  # type: ignore[misc]
        told.append(median_delay(cusum_alarms(residuals, size, knowing)))
        for name, (alarms, _, _) in kinds.items():
            table[name].append(median_delay(alarms(residuals, settings[name])))
    for name, row in table.items():
        print(f"  {name:14}" + "".join(f"{x:8.0f}" for x in row))
    print("  told the size " + "".join(f"{x:8.0f}" for x in told) + "   CUSUM, a setting a size")
    print("  do nothing    " + "   never" * len(SIZES) + "   0 alarms in 90 points")
    print("  always fire   " + "       1" * len(SIZES) + "  90 alarms in 90 points")
    outcome.note("median delay of detectors alone", table)
    outcome.note("median delay of CUSUM that is told the size", told)
    for i, size in enumerate(SIZES):
        ours = table["FOCuS"][i]
        best = min(table["ADWIN"][i], table["Page-Hinkley"][i])
        outcome.bound(f"shift {size:.0%}: median delay over the best of River's", ours / best, 0, 1)
        outcome.bound(
            f"shift {size:.0%}: median delay over ADWIN's", ours / table["ADWIN"][i], 0, 2 / 3
        )


def many_series(outcome: Shown, rng: np.random.Generator, quick: bool) -> None:
    """Judge a family in which a twentieth of the series shifts by 30 %: which alerts are false."""
    series, rounds = (200, 2) if quick else (1_000, 6)
    moved = series // 20
    print(f"\nA family of {series} series of which {moved} shift by 30 %, budget: 10 % false")
    shares: list[float] = []
    found: list[float] = []
    plain: list[float] = []
    for _ in range(rounds):
        logs = worlds.shop(CORRELATED, series, rng, SHIFT_AT + AFTER)
        logs[SHIFT_AT:, :moved] += np.log1p(-0.3)
        roster = Roster(np.ones(series), np.zeros(series, np.int64), np.full(series, NO_WHOLE))
        policy = Policy(run_length=BUDGET, most_new=series)
        gated, free = fired(logs, None, roster, policy), fired(logs)
        for alerts, to in ((gated, shares), (free, plain)):
            rows = alerts.row
            to.append(float((rows >= moved).sum() + (alerts.at[rows < moved] < SHIFT_AT).sum())
                      / max(rows.size, 1))  # fmt: skip
        caught = np.isin(np.arange(moved), gated.row[gated.at >= SHIFT_AT])
        found.append(float(caught.mean()))
    print(f"  gated: {np.mean(shares):.1%} false, {np.mean(found):.1%} of the shifts caught in 60")
    print(f"  each series by its own budget: {np.mean(plain):.1%} false")
    outcome.note("family", {"false": shares, "caught": found, "false without the gate": plain})
    outcome.bound("family: share of false alerts", float(np.mean(shares)), 0, 0.1)


def explanation(outcome: Shown, rng: np.random.Generator, quick: bool) -> None:
    """Plant a change in one element of three dimensions and explain the mean of seven days."""
    cases = 400 if quick else 2_000
    print(f"\nThe planted segment, {cases} cases each: 3 dimensions of 4 to 8 elements")
    for ratio in (False, True):
        for change in (0.3, 0.5):
            hits = sum(named(rng, change, ratio) for _ in range(cases))
            kind = "ratio" if ratio else "additive"
            outcome.bound(f"explanation, {kind}, {change:.0%}: named first", hits / cases, 0.95, 1)


def named(rng: np.random.Generator, change: float, ratio: bool) -> bool:
    """Say whether the planted element of a random cube is the first cause."""
    sizes = rng.integers(4, 9, 3)
    shares = [rng.dirichlet(np.full(size, 3.0)) for size in sizes]
    dimension = int(rng.integers(3))
    # One of the larger ones: what is a fiftieth of the whole moves no alert of the whole.
    element = int(rng.choice(np.argsort(shares[dimension])[-2:]))
    expected = np.einsum("i,j,k->ijk", *shares) * 10_000.0
    factor = np.ones(sizes)
    where: list[Any] = [slice(None)] * 3
    where[dimension] = element
    factor[tuple(where)] *= 1.0 + change * rng.choice([-1.0, 1.0])
    # Means of seven days whose cells have noise of 15 %.
    actual = expected * factor * np.exp(rng.normal(0.0, 0.15 / np.sqrt(7), sizes))
    orders = expected / 50.0
    orders_now = orders * np.exp(rng.normal(0.0, 0.15 / np.sqrt(7), sizes))
    if ratio:
        actual = expected * factor * orders_now / orders
        actual *= np.exp(rng.normal(0.0, 0.05 / np.sqrt(7), sizes))
    cut = []
    for i in range(3):
        other = tuple(j for j in range(3) if j != i)
        per = Measure(orders.sum(other), orders_now.sum(other)) if ratio else None
        names = [f"{i}.{j}" for j in range(sizes[i])]
        cut.append(Dimension(str(i), names, Measure(expected.sum(other), actual.sum(other)), per))
    found = causes(cut)
    return bool(found) and found[0].element == f"{dimension}.{element}"


def cost(outcome: Shown, rng: np.random.Generator, quick: bool) -> None:
    series, points = (2_000, 40) if quick else (10_000, 60)
    logs = worlds.shop(CORRELATED, series, rng, points)
    watch, roster = Watch(Model(), calendar(), Policy(), series), alone(series)
    present = np.ones(series, np.bool_)
    for i in range(30):
        watch.observe(START + i, np.exp(logs[i]), present, roster)
    began = time.process_time()
    for i in range(30, points):
        watch.observe(START + i, np.exp(logs[i]), present, roster)
    each = (time.process_time() - began) / (points - 30) / series * 1e6
    size = len(watch.encode()) / series
    print(
        f"\n{series} series in one process: {each:.1f} us a point and series, {size:.0f} bytes each"
    )
    outcome.note("bytes a series", size)
    outcome.bound("cost: us a point and series", each, 0, 20)


def main() -> int:
    """Run the benchmark; the exit status says whether all bounds hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer series, for CI")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="one part by its name")
    parser.add_argument("--json", type=Path, default=Path("build/bench-alerts.json"))
    options = parser.parse_args()
    outcome = Shown()
    parts = (false_alarms, whole_shops, shifts, versus_river, many_series, explanation, cost)
    for part in parts:
        if options.only in (None, part.__name__):
            part(outcome, np.random.default_rng(options.seed), options.quick)
    outcome.write(options.json)
    if options.only is None:
        draw(options.json)
    return outcome.judge()


if __name__ == "__main__":
    raise SystemExit(main())
