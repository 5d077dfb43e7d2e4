"""Series with known truth for ``bench.alerts``: simulated ones, and real noise in a new order."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tests.support.shared_data import BESIDE
from valuetide.scoring.arrays import IntArray
from valuetide.scoring.series import COLUMNS, SATISFIED, Column
from valuetide.scoring.trends.panel import Segment

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
# 2024-10-04, a Friday.
START = 20_000
YEARS = 2
POINTS = 365 * YEARS
# Day of the year of each holiday; it moves revenue by so much on average.
HOLIDAYS = {0: "new year", 110: "easter", 121: "may day", 328: "friday", 359: "christmas"}
HOLIDAY_SD = 0.5
BLOCK = 10
LEAST_DAYS = 100


@dataclass(frozen=True)
class Noise:
    """A kind of daily series: noise of this size, autocorrelation and degrees of freedom."""

    name: str
    sd: float = 0.15
    phi: float = 0.0
    freedom: float = np.inf
    # Standard deviations of the yearly growth and of the amplitude of the year.
    growth: float = 0.0
    year: float = 0.0


NORMAL = Noise("independent, normal")
HEAVY = Noise("independent, t with 5", freedom=5.0)
CORRELATED = Noise("AR(1) .3, t with 5", phi=0.3, freedom=5.0)
MOVING = Noise("the same, growing", phi=0.3, freedom=5.0, growth=0.15, year=0.05)
KINDS = (NORMAL, HEAVY, CORRELATED, MOVING)


def holidays() -> Mapping[int, str]:
    return {
        START + 365 * year + day: name for year in range(YEARS) for day, name in HOLIDAYS.items()
    }


def noise(of: Noise, points: int, series: int, rng: np.random.Generator) -> Floats:
    """Give stationary noise, (points, series)."""
    if np.isinf(of.freedom):
        steps = rng.normal(size=(points + 50, series))
    else:
        steps = rng.standard_t(of.freedom, (points + 50, series))
        steps *= np.sqrt((of.freedom - 2) / of.freedom)
    steps *= of.sd * np.sqrt(1 - of.phi**2)
    for i in range(1, points + 50):
        steps[i] += of.phi * steps[i - 1]
    return steps[50:]


def shop(of: Noise, series: int, rng: np.random.Generator, points: int = POINTS) -> Floats:
    """Give logarithms of daily revenue: week, year, growth, holidays and noise, but no shift."""
    days = np.arange(points)[:, None]
    week = rng.normal(0.0, 0.3, (7, series))[np.arange(points) % 7]
    year = rng.normal(0.0, of.year, series) * np.sin(
        2 * np.pi * days / 365.25 + rng.uniform(0, 2 * np.pi, series)
    )
    growth = rng.normal(0.0, of.growth, series) / 365 * days
    logs = rng.normal(9.0, 1.0, series) + week + year + growth + noise(of, points, series, rng)
    effect = {name: rng.normal(0.0, HOLIDAY_SD, series) for name in HOLIDAYS.values()}
    for day, name in holidays().items():
        if day < START + points:
            logs[day - START] += effect[name]
    return np.asarray(logs)


def shop_days(
    rng: np.random.Generator, shift_at: int = POINTS, factor: float = 1.0
) -> Iterator[dict[Segment, IntArray]]:
    """Give a shop's sums of each day; demand is multiplied by ``factor`` from a day on.

    A hundred orders a day by Poisson, about a week, a slow year and days on which more or fewer
    people come (8 %, autocorrelation .3); three of ten are somebody's first, one of ten is followed
    by an answer, one of twenty by a contact.
    """
    at = np.arange(POINTS)
    week, year = rng.normal(0.0, 0.2, 7)[at % 7], 0.1 * np.sin(2 * np.pi * at / 365.25)
    demand = week + year + noise(Noise("demand", 0.08, 0.3, 5.0), POINTS, 1, rng)[:, 0]
    for day, number in enumerate((100.0 * np.exp(demand)).tolist()):
        cell = np.zeros(COLUMNS, np.int64)
        orders = rng.poisson(number * (factor if day >= shift_at else 1.0))
        cell[[Column.ORDER_EVENTS, Column.ORDERS]] = orders
        cell[Column.REVENUE] = round(rng.lognormal(8.0, 0.5, orders).sum())
        cell[Column.NEW_CUSTOMERS] = rng.binomial(orders, 0.3)
        answers = rng.poisson(0.1 * orders)
        cell[[Column.FEEDBACK_EVENTS, Column.ANSWERS]] = answers
        cell[Column.SATISFACTION] = round(rng.beta(8, 2, answers).sum() * SATISFIED)
        cell[[Column.INTERACTION_EVENTS, Column.CONTACTS]] = rng.poisson(0.05 * orders)
        yield {("", ""): cell}


def countries() -> dict[str, tuple[Floats, Floats]]:
    """Give of each country of Online Retail its weekday effects and what is left of its days.

    Logarithms of daily revenue, less a running median of 29 trading days and the median of each
    weekday. Days without a sale are no points; countries need ``LEAST_DAYS`` of them.
    """
    table = pd.read_parquet(BESIDE / "online_retail_uci_2010_2011.parquet")
    table = table[~table["InvoiceNo"].str.startswith("C")]
    table = table.assign(
        amount=table["Quantity"] * table["UnitPrice"], day=table["InvoiceDate"].dt.floor("D")
    )
    daily = table.groupby(["Country", "day"])["amount"].sum()
    daily = daily[daily > 0.0]
    found = {}
    for country, of in daily.groupby(level=0):
        if len(of) < LEAST_DAYS:
            continue
        logs = np.log(of.droplevel(0))
        rest = logs - logs.rolling(29, center=True, min_periods=10).median()
        weekday = rest.index.dayofweek
        effects = rest.groupby(weekday).median()
        rest = rest - effects.loc[weekday].to_numpy()
        found[str(country)] = (effects.reindex(range(7)).to_numpy(), rest.to_numpy())
    return found


def resampled(
    effects: Floats, rest: Floats, series: int, rng: np.random.Generator
) -> tuple[Floats, Bools]:
    """Give series of real noise in blocks drawn at random, and which of their days are points.

    Blocks of ten trading days keep the noise's tails and its short-range correlation; weekdays on
    which the country never sells are missing.
    """
    days = START + np.arange(POINTS)
    # 1970-01-01 was a Thursday.
    weekday = (days + 3) % 7
    open_ = np.isfinite(effects[weekday])
    count = int(open_.sum())
    blocks = rng.integers(0, rest.size, (count // BLOCK + 1, series))
    at = (blocks[:, None, :] + np.arange(BLOCK)[None, :, None]) % rest.size
    noise_ = rest[at.reshape(-1, series)[:count]]
    logs = np.full((POINTS, series), 7.0)
    logs[open_] += effects[weekday[open_], None] + noise_
    return logs, open_
