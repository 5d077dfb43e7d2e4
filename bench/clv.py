"""Lifetime value through the real pipeline: events into Kafka, scores out of Redis.

    python -m bench.clv [--quick] [--json build/bench-clv.json]

Each data set is sent week by week to a worker of its own. At the freeze everybody's score as of
that moment is read from Redis and judged by the weeks that were held out. Beside it stand batch
fits by scipy of the same histories, made in the same run. After each week, once all is committed,
what was learned is read from Redis, for the forecast of that week. At the end the grades that the
worker kept of itself are read, and every message on the scores topic is looked at.

In process, without pipeline, are: the learner with 10 seeds (a worker has one); the sum of a week's
forecast, with the parameters and the corrector from Redis, which at the freeze is compared with the
equity that a reader gives (reading 23,570 customers each week takes minutes); and the line of the
plot by week, which is of horizons that no score has; and the cost, see ``bench.clv_cost``.

Prints tables and, one a line, the bounds that are missed; ends with status 1 if there are any.
Writes the figures as JSON, and the plots clv-weeks.png and clv-frequency.png beside it.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import from_json

from bench import clv_plots
from bench.clv_cost import cost
from bench.clv_offline import (
    DAY_MS,
    FORECAST_DAYS,
    Batch,
    Data,
    as_facts,
    batch_fits,
    by_lifetimes,
    cdnow,
    forecast_days,
    gaps_of_seeds,
    held_out,
    judged,
    online_forecast,
    online_retail,
    order_value,
    published,
    weekly_refits,
)
from bench.outcome import Outcome
from tests.support import lifetime_reference as reference
from tests.support.lifetime_reference import Floats, Summary
from tests.support.shared_data import lifetimes_data, shared_data
from valuetide.schemas.score import Score
from valuetide.scoring.lifetime.conformal import Conformal
from valuetide.scoring.lifetime.grade import Report, report
from valuetide.scoring.lifetime.moved import PARTS
from valuetide.scoring.lifetime.parameters import Parameters
from valuetide.scoring.lifetime.value import Terms, potential
from valuetide.streams.deadletters import read_records
from valuetide.streams.embedded import embedded_services
from valuetide.streams.local import LocalWorker, local_settings, prepare
from valuetide.streams.reader import Learned, Reader
from valuetide.streams.replay import presets
from valuetide.streams.replay.event import SourceEvent
from valuetide.streams.replay.send import send
from valuetide.streams.settings import Settings

WAIT_SECONDS = 300.0
WORSE_PERCENT = 1.0
GAP_PERCENT = 0.1
PERCENTILE_POINTS = 0.5
COVERAGE = (0.77, 0.83)
FORECASTS = ("realised", "batch refit each week", "valuetide", "valuetide, always corrected")
BY_FREQUENCY = 8
"""Customers with 0 to 6 repeat purchases, and with 7 or more."""


@dataclass(frozen=True)
class Shop:
    """A data set: the events that are sent, and the same as columns."""

    data: Data
    events: list[SourceEvent]
    currency: str


@dataclass
class Pipeline:
    """What came out of it."""

    scores: list[Score] = field(default_factory=list)
    percentile_points: float = float("nan")
    learned: dict[int, Learned] = field(default_factory=dict)
    """By the first day that is not known, at whose beginning."""
    equity: float = float("nan")
    """Of the 13 weeks after the freeze."""
    messages: int = 0
    unexplained: int = 0
    seconds: float = 0.0


def shop(name: str) -> Shop:
    """Read a data set; what is compared is what is sent."""
    if name == "Online Retail":
        data, currency = online_retail(), "GBP"
        invoices = shared_data("online_retail_uci_2010_2011.parquet")
        events = list(presets.online_retail(invoices, items=False))
    else:
        file = "CDNOW_master.txt" if name == "CDNOW all" else "CDNOW_sample.txt"
        data, currency = cdnow(name), "USD"
        read = presets.cdnow if name == "CDNOW all" else presets.cdnow_sample
        events = list(read(lifetimes_data(file)))
    orders = [json.loads(event.value) for event in events]
    # The batch programs know no returns.
    placed = [order["kind"] == "placed" for order in orders]
    events = [event for event, kept in zip(events, placed, strict=True) if kept]
    orders = [order for order, kept in zip(orders, placed, strict=True) if kept]
    columns = {
        "who": np.array([int(order["customer_id"]) for order in orders]),
        "day": np.array([int(order["occurred_at"]) * 1_000 // DAY_MS for order in orders]),
        "amount": np.array([order["amount"] for order in orders], np.float64),
    }
    return Shop(Data(**{**vars(data), **columns}), events, currency)


def last_day(data: Data) -> int:
    """First day after the last week."""
    start = int(data.day[0])
    return start + 7 * ((int(data.day[-1]) - start) // 7 + 1)


def in_weeks(of: Shop) -> Iterator[tuple[int, list[SourceEvent]]]:
    """Give the events of each week, with the first day after it."""
    start = int(of.data.day[0])
    weeks = (of.data.day - start) // 7
    for week, rows in groupby(range(weeks.size), key=lambda row: int(weeks[row])):
        yield start + 7 * (week + 1), [of.events[row] for row in rows]


async def through_pipeline(of: Shop, settings: Settings, worker: LocalWorker) -> Pipeline:
    """Send week by week, and read what is in Redis when all of a week is committed."""
    found, data = Pipeline(), of.data
    wanted = {*forecast_days(data), data.freeze, last_day(data)}
    started = time.monotonic()
    async with Reader(settings) as reader:
        for until, events in in_weeks(of):
            sent = await send(events, settings)
            positions = {
                ("orders", partition): part.next_offset
                for partition, part in sent.partitions.items()
                if part.next_offset is not None
            }
            if not await reader.wait_for_positions(positions, WAIT_SECONDS):
                raise AssertionError(f"not done in time; the worker says\n{worker.log_tail()}")
            if until in wanted:
                # The last day is over, and no order has come that would say so.
                found.learned[until] = await reader.learned(until * DAY_MS)
            if until == data.freeze:
                # The batch programs see histories at the beginning of the last day.
                now_ms = (until - 1) * DAY_MS
                found.scores, found.percentile_points = await ranked(reader, settings, now_ms)
                equity = await reader.equity(until * DAY_MS)
                found.equity = equity[f"clv_{FORECAST_DAYS}d"]
        found.messages, found.unexplained = await unexplained(settings)
    found.seconds = time.monotonic() - started
    return found


async def ranked(reader: Reader, settings: Settings, now_ms: int) -> tuple[list[Score], float]:
    """Give the scores of everybody at a moment, and how far their percentiles are off at most.

    What they must be is counted among these very scores.
    """
    scores = [score async for score in reader.evaluate(now_ms)]
    values = column_of(scores, f"clv_{settings.horizons_days[-1]}d")
    among = np.sort(values)
    below, upto = (np.searchsorted(among, values, side) for side in ("left", "right"))
    exact = 50.0 * (below + upto) / among.size
    return scores, float(np.abs(exact - column_of(scores, "clv_percentile")).max())


async def unexplained(settings: Settings) -> tuple[int, int]:
    """Count the messages on the scores topic, and those whose parts do not sum to the change."""
    name = f"clv_{settings.horizons_days[-1]}d"
    digits = settings.vocabulary.minor_digits
    seen: dict[str, list[tuple[int, str, int, int]]] = {}
    count = 0
    async for record in read_records(settings, settings.topics.scores):
        score: dict[str, Any] = from_json(record.value or b"{}")
        parts = sum(round(score[f"moved_by_{part}"] * 10**digits) for part in PARTS)
        clv = round(score[name] * 10**digits)
        seen.setdefault(score["customer_id"], []).append(
            (score["version"], score["as_of"], clv, parts)
        )
        count += 1
    wrong = 0
    for messages in seen.values():
        # A sweep may score for the moment of the order: such a pair stays as it was sent.
        messages.sort(key=itemgetter(0, 1))
        wrong += messages[0][2] != messages[0][3]
        wrong += sum(now[2] - before[2] != now[3] for before, now in pairwise(messages))
    return count, wrong


def run(of: Shop) -> Pipeline:
    """Run a data set through a broker, a Redis and a worker of its own."""
    with embedded_services() as services:
        settings = local_settings(
            services,
            vocabulary={"base_currency": of.currency},
            horizons_days=(FORECAST_DAYS, of.data.hold_days),
            yearly_discount=0.0,
            log_level="warning",
        )
        prepare(settings)
        with LocalWorker(settings) as worker:
            return asyncio.run(through_pipeline(of, settings, worker))


def column_of(scores: Sequence[Score], name: str) -> Floats:
    return np.array([dict(score)[name] for score in scores], np.float64)


@dataclass(frozen=True)
class Judged:
    """A data set beside its batch fits."""

    seen: Summary
    batch: Batch
    found: Pipeline
    rows: dict[str, dict[str, float]]
    expected: dict[str, Floats]
    real: Floats
    gap: float
    seeds: list[float]
    spend_seeds: list[float]
    revenues: dict[str, list[float]]
    scores_off: float

    @property
    def forecast(self) -> dict[str, tuple[float, float]]:
        """RMSE and bias of the forecasts of 13 weeks' revenue."""
        real = np.array(self.revenues["realised"])
        errors = {k: np.array(v) - real for k, v in self.revenues.items() if k != "realised"}
        return {
            name: (float(np.sqrt(np.mean(each**2))), float(each.mean()))
            for name, each in errors.items()
        }


def judge(of: Shop) -> Judged:
    """Run a data set through the pipeline and through the batch programs."""
    data, found = of.data, run(of)
    real, real_revenue, seen = held_out(data)
    batch = batch_fits(data, seen)
    found.scores.sort(key=lambda score: int(score["customer_id"]))
    weeks = data.hold_days / 7
    value = order_value(batch.spend.parameters, seen)
    expected = {
        "batch MBG/NBD": reference.mbg_expected_orders(batch.mbg.parameters, seen, weeks),
        "batch Pareto/NBD": reference.pareto_expected_orders(batch.pareto.parameters, seen, weeks),
    }
    rows = {
        name: judged(orders, orders * value, real, real_revenue)
        for name, orders in expected.items()
    }
    expected["valuetide"] = column_of(found.scores, f"expected_orders_{data.hold_days}d")
    revenue = column_of(found.scores, f"clv_{data.hold_days}d")
    rows["valuetide"] = judged(expected["valuetide"], revenue, real, real_revenue)
    frozen = found.learned[data.freeze]
    total = float(reference.mbg_log_likelihood(purchases_of(frozen.parameters), seen).sum())
    seeds, spend_seeds = gaps_of_seeds(data, seen, batch)
    revenues: dict[str, list[float]] = {name: [] for name in FORECASTS}
    for week in weekly_refits(data):
        known = found.learned[week.until].knowledge
        plain = float(online_forecast(known.parameters, week.seen, FORECAST_DAYS / 7)[1].sum())
        forecasts = (week.real, week.batch, plain * known.factor, plain * known.learned_factor)
        for each, number in zip(revenues.values(), forecasts, strict=True):
            each.append(number)
    # At the beginning of the next day everybody is older by one than the batch programs see it.
    older = replace(seen, age=seen.age + 1 / 7)
    plain = float(online_forecast(frozen.parameters, older, FORECAST_DAYS / 7)[1].sum())
    return Judged(
        seen, batch, found, rows, expected, real,
        100 * (total / batch.mbg.log_likelihood - 1), seeds, spend_seeds, revenues,
        100 * abs(found.equity / (plain * frozen.knowledge.factor) - 1),
    )  # fmt: skip


def show(data: Data, it: Judged, grades: dict[str, Report]) -> None:
    """Print the tables of a data set."""
    found, batch = it.found, it.batch
    print(f"\n{data.name}: {it.seen.x.size} customers at the freeze, {data.day.size} orders,")
    print(f"  {found.messages} scores published in {found.seconds:.0f} s, waiting included")
    print(f"  batch MBG {batch.mbg.parameters.round(4)}, with prior: {data.with_prior}")
    print(f"  lifetimes {by_lifetimes(it.seen)}, no prior")
    online = purchases_of(found.learned[data.freeze].parameters)
    print(f"  valuetide {online.round(4)}, log-likelihood gap {it.gap:.4f} %")
    print(f"  gap %, 10 seeds, in process: {np.round(it.seeds, 4)}")
    print(f"  the same of spend: {np.round(it.spend_seeds, 4)}")
    print("  " + " " * 18 + "".join(f"{name:>14}" for name in it.rows["valuetide"]))
    for name, row in it.rows.items():
        print(f"  {name:18}" + "".join(f"{number:14.4f}" for number in row.values()))
    print(f"  revenue of the next 13 weeks, {len(it.revenues['realised'])} weeks, RMSE:")
    for name, (rmse, bias) in it.forecast.items():
        print(f"    {name:28}{rmse:14.2f}   bias {bias:+.2f}")
    for name, grade in grades.items():
        print(
            f"  inside the 80 % interval, {name}: {grade.likely_coverage:.4f} of likely buyers, "
            f"{grade.coverage:.4f} of all {grade.outcomes:.0f} outcomes"
        )
    print(f"  percentiles off by at most {found.percentile_points:.4f} points")


def measure(of: Shop, outcome: Outcome) -> clv_plots.Curves:
    """Judge a data set and hold it to its bounds; gives what is to be drawn."""
    data, it = of.data, judge(of)
    found, seen = it.found, it.seen
    graded = found.learned[last_day(data)].knowledge.grades
    grades = {f"{days} d": report(grade.total) for days, grade in graded.items()}
    show(data, it, grades)
    outcome.values[data.name] = {
        "rows": it.rows, "parameters": asdict(found.learned[data.freeze].parameters),
        "gap": it.gap, "gaps of seeds": it.seeds, "spend gaps of seeds": it.spend_seeds,
        "forecast": it.forecast, "messages": found.messages, "seconds": found.seconds,
        "grades": {name: asdict(grade) for name, grade in grades.items()},
    }  # fmt: skip
    at = data.name
    frequency = column_of(found.scores, "frequency")
    different = float(np.abs(frequency - seen.x).sum()) if frequency.size == seen.x.size else np.inf
    outcome.right(f"{at}: repeat purchases that differ from the file's", different, 0)
    outcome.right(f"{at}: equity differs from the forecast by %", it.scores_off, 0.01)
    outcome.bound(f"{at}: log-likelihood gap %", it.gap, -np.inf, GAP_PERCENT)
    outcome.bound(f"{at}: worst gap % of 10 seeds", max(it.seeds), -np.inf, data.worst_gap)
    best, ours = it.rows["batch MBG/NBD"], it.rows["valuetide"]
    for name in ("MAE", "RMSE", "RMSE revenue"):
        worse = 100 * (ours[name] / best[name] - 1)
        outcome.bound(f"{at}: {name} worse by %", worse, -np.inf, WORSE_PERCENT)
    for name in ("correlation", "capture"):
        worse = 100 * (best[name] / ours[name] - 1)
        outcome.bound(f"{at}: {name} worse by %", worse, -np.inf, WORSE_PERCENT)
    worse = 100 * (it.forecast["valuetide"][0] / it.forecast["batch refit each week"][0] - 1)
    outcome.bound(f"{at}: weekly forecast worse by %", worse, -np.inf, 0.0)
    likely = grades[f"{FORECAST_DAYS} d"].likely_coverage
    outcome.bound(f"{at}: coverage of likely buyers", likely, *COVERAGE)
    off = found.percentile_points
    outcome.right(f"{at}: percentile off by points", off, PERCENTILE_POINTS)
    outcome.right(f"{at}: scores whose parts do not sum", found.unexplained, 0)
    by_week = cumulative(data, seen, it.batch, found.learned[data.freeze])
    by_frequency = {
        name: means_by(seen.x, orders)
        for name, orders in {"realised": it.real, **it.expected}.items()
    }
    drawn = {name: it.revenues[name] for name in FORECASTS[:3]}
    return clv_plots.Curves(data.name, of.currency, by_week, drawn, by_frequency)


def purchases_of(parameters: Parameters) -> Floats:
    of = parameters.purchases
    return np.array([of.r, of.alpha, of.a, of.b])


def cumulative(data: Data, seen: Summary, batch: Batch, frozen: Learned) -> dict[str, list[float]]:
    """Orders of the customers known at the freeze, summed up from then on, by week."""
    weeks = range(1, data.hold_days // 7 + 1)
    people = np.unique(data.who[data.day < data.freeze])
    later = (data.day >= data.freeze) & np.isin(data.who, people)
    days = np.unique(np.stack([data.who[later], data.day[later]]), axis=1)[1] - data.freeze
    terms = Terms(tuple(float(week) for week in weeks), 0.0)
    known = frozen.knowledge
    ours = potential(known.parameters, as_facts(seen), terms, [Conformal() for _ in weeks])
    mbg, pareto = batch.mbg.parameters, batch.pareto.parameters
    return {
        "realised": [float((days < 7 * week).sum()) for week in weeks],
        "batch MBG/NBD": [
            float(reference.mbg_expected_orders(mbg, seen, week).sum()) for week in weeks
        ],
        "batch Pareto/NBD": [
            float(reference.pareto_expected_orders(pareto, seen, week).sum()) for week in weeks
        ],
        "valuetide": (ours.expected_orders.sum(axis=1) * known.factor).tolist(),
    }


def means_by(x: Floats, orders: Floats) -> list[float]:
    """Mean orders of customers by repeat purchases before the freeze."""
    group = np.minimum(x.astype(np.int64), BY_FREQUENCY - 1)
    sums = np.bincount(group, orders, BY_FREQUENCY)
    means: list[float] = (sums / np.maximum(np.bincount(group, minlength=BY_FREQUENCY), 1)).tolist()
    return means


def main() -> int:
    """Run the benchmark; the exit status says whether all bounds hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    quick = "the CDNOW sample alone; judges whether results are right, not how accurate"
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, default=Path("build/bench-clv.json"))
    options = parser.parse_args()
    outcome = Outcome()
    published(outcome)
    names = ("CDNOW sample", "CDNOW all", "Online Retail")
    curves = [measure(shop(name), outcome) for name in names[: 1 if options.quick else None]]
    if not options.quick:
        cost(outcome)
    outcome.write(options.json)
    for path in clv_plots.draw(curves, options.json.parent):
        print(f"wrote {path}")
    missed = outcome.judge()
    return int(bool(outcome.wrong)) if options.quick else missed


if __name__ == "__main__":
    raise SystemExit(main())
