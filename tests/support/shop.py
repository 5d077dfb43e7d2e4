"""A simulated shop: purchases by MBG/NBD, spend by Gamma-Gamma, signals that tell or do not.

Each customer has a rate of orders, a chance to leave after each, a scale of spend, and a rate of
each kind of signal; what customers do is drawn from these, in continuous time, and put on days.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from valuetide.scoring.lifetime.parameters import Purchases, Spend

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
EARLY_WEEKS = 4.0


@dataclass(frozen=True)
class Planted:
    """One kind of signal: gamma distributed rates a week (shape, rate), and what they are times
    once the customer has left, in the first four weeks after their last order and later."""

    kind: int
    shape: float
    rate: float
    gone_early: float = 1.0
    gone_late: float = 1.0


@dataclass(frozen=True)
class Shop:
    """Orders and signals in time order; ``left_day`` of each customer, and who they are."""

    who: Ints
    day: Ints
    amount: Floats
    signal_who: Ints
    signal_kind: NDArray[np.uint8]
    signal_day: Ints
    left_day: Floats = field(repr=False)


MODEL = Purchases(r=0.9, alpha=5.0, a=0.8, b=2.5)
SPEND = Spend(p=6.0, q=4.0, gamma=15.0)


def simulate(
    seed: int,
    planted: Sequence[Planted],
    *,
    customers: int = 2_000,
    days: int = 546,
    joining_days: int = 182,
    model: Purchases = MODEL,
    spend: Spend = SPEND,
    first_day: int = 15_000,
    tied: bool = False,
) -> Shop:
    """Draw a shop whose customers come in evenly during the first ``joining_days``.

    With ``tied`` a customer's rates of signals are in proportion to their rate of orders.
    """
    rng = np.random.default_rng(seed)
    joined = rng.uniform(0, joining_days / 7, customers)
    end = days / 7
    rate = rng.gamma(model.r, 1 / model.alpha, customers)
    chance = rng.beta(model.a, model.b, customers)
    now, there = joined.copy(), np.arange(customers)
    who, at = [there], [joined]
    left = np.full(customers, np.inf)
    while there.size:
        gone = rng.random(there.size) < chance[there]
        left[there[gone]] = now[there[gone]]
        there = there[~gone]
        now[there] += rng.exponential(1 / np.maximum(rate[there], 1e-12))
        there = there[now[there] < end]
        who.append(there)
        at.append(now[there])
    who_all, at_all = np.concatenate(who), np.concatenate(at)
    scale = rng.gamma(spend.q, 1 / spend.gamma, customers)
    amount = rng.gamma(spend.p, 1 / scale[who_all])
    times = rate * (model.alpha / model.r) if tied else np.ones(customers)
    signals = [_signals(rng, one, joined, left, end, times) for one in planted]
    by_time = np.argsort(at_all, kind="stable")
    s_who = np.concatenate([part[0] for part in signals]) if signals else np.zeros(0, np.int64)
    s_at = np.concatenate([part[1] for part in signals]) if signals else np.zeros(0)
    kinds = [np.full(part[0].size, one.kind) for one, part in zip(planted, signals, strict=True)]
    s_kind = np.concatenate(kinds) if signals else np.zeros(0)
    s_by_time = np.argsort(s_at, kind="stable")
    return Shop(
        who_all[by_time], first_day + _days(at_all[by_time]), amount[by_time],
        s_who[s_by_time], s_kind[s_by_time].astype(np.uint8), first_day + _days(s_at[s_by_time]),
        first_day + left * 7,
    )  # fmt: skip


def noise(seed: int, who: Ints, day: Ints, planted: Sequence[Planted]) -> Shop:
    """Orders as they are, and signals that come from each customer's first order to the end."""
    rng = np.random.default_rng(seed)
    people, row = np.unique(who, return_inverse=True)
    first = np.full(people.size, 1 << 40)
    np.minimum.at(first, row, day)
    origin, end = int(day.min()), (int(day.max()) + 1 - int(day.min())) / 7
    never = np.full(people.size, np.inf)
    begin, times = (first - origin) / 7, np.ones(people.size)
    parts = [_signals(rng, one, begin, never, end, times) for one in planted]
    at = np.concatenate([part[1] for part in parts])
    kind = np.concatenate(
        [np.full(part[0].size, one.kind) for one, part in zip(planted, parts, strict=True)]
    )
    order = np.argsort(at, kind="stable")
    return Shop(
        who, day, np.ones(day.size), people[np.concatenate([part[0] for part in parts])][order],
        kind[order].astype(np.uint8), origin + _days(at[order]), never,
    )  # fmt: skip


def _signals(
    rng: np.random.Generator,
    planted: Planted,
    begin: Floats,
    left: Floats,
    end: float,
    times: Floats,
) -> tuple[Ints, Floats]:
    """Of each stretch of a customer's time as many as its length and rate say, anywhere in it."""
    own = rng.gamma(planted.shape, 1 / planted.rate, begin.size) * times
    gone, later = np.minimum(left, end), np.minimum(left + EARLY_WEEKS, end)
    who, at = [], []
    for ratio, start, stop in (
        (1.0, begin, gone),
        (planted.gone_early, gone, later),
        (planted.gone_late, later, np.full(begin.size, end)),
    ):
        count = rng.poisson(own * ratio * np.maximum(stop - start, 0.0))
        whose = np.repeat(np.arange(begin.size), count)
        who.append(whose)
        at.append(start[whose] + rng.random(whose.size) * (stop - start)[whose])
    return np.concatenate(who), np.concatenate(at)


def _days(weeks: Floats) -> Ints:
    days: Ints = np.floor(weeks * 7).astype(np.int64)
    return days
