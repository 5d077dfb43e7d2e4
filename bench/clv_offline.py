"""Lifetime value against batch fits, without Kafka: the learner fed from files in time order.

    python -m bench.clv_offline [--quick] [--json build/bench-clv-offline.json]

Every data set is streamed in micro-batches through the learner, as a shard would do it. At the
freeze its parameters and predictions are compared with those of batch fits by scipy made in
the same run, which first have to reproduce the published parameters. Prints tables and, one a line,
the bounds that are missed; ends with status 1 if there are any.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.outcome import Outcome
from tests.support import lifetime_reference as reference
from tests.support.lifetime_reference import Fit, Floats, Summary, fit, summarise
from tests.support.shared_data import BESIDE, lifetimes_data
from valuetide.scoring.lifetime.conformal import Conformal
from valuetide.scoring.lifetime.grade import pooled_grade, report
from valuetide.scoring.lifetime.grading import Grading
from valuetide.scoring.lifetime.learner import Learner, pooled
from valuetide.scoring.lifetime.moved import moved_by
from valuetide.scoring.lifetime.parameters import Parameters
from valuetide.scoring.lifetime.predictive import Predictive
from valuetide.scoring.lifetime.purchases import Histories
from valuetide.scoring.lifetime.sample import Orders
from valuetide.scoring.lifetime.tempo import pooled_factor
from valuetide.scoring.lifetime.value import Facts, Terms, clv, histories, potential

DAY_MS = 86_400_000
SEEDS = 10
BATCH = 1_000
# The weak prior of DESIGN section 6, written down again.
PRIOR = (np.log([0.5, 10.0, 0.8, 2.5]), np.array([1.5, 2.0, 1.0, 1.5]))
SPEND_PRIOR_SD = np.array([1.5, 1.0, 1.5])
HORIZON_DAYS = 90
FORECAST_DAYS = 91
FIRST_FORECAST_WEEK = 13


@dataclass(frozen=True)
class Data:
    """Orders in time order, and how many days are learned from and held out."""

    name: str
    who: NDArray[np.int64]
    day: NDArray[np.int64]
    amount: Floats
    learn_days: int
    hold_days: int
    with_prior: bool
    worst_gap: float

    @property
    def freeze(self) -> int:
        return int(self.day[0]) + self.learn_days


def cdnow(name: str) -> Data:
    file, columns = {
        "CDNOW sample": ("CDNOW_sample.txt", ["_", "who", "date", "cds", "amount"]),
        "CDNOW all": ("CDNOW_master.txt", ["who", "date", "cds", "amount"]),
    }[name]
    skip = 1 if name == "CDNOW all" else 0
    table = pd.read_csv(lifetimes_data(file), sep=r"\s+", header=None, names=columns, skiprows=skip)
    date = pd.to_datetime(table["date"].astype(str), format="%Y%m%d").to_numpy()
    gap = 0.1 if name == "CDNOW all" else 0.2
    return in_time_order(name, table["who"], date, table["amount"], 273, 273, False, gap)


def online_retail() -> Data:
    table = pd.read_parquet(BESIDE / "online_retail_uci_2010_2011.parquet")
    table = table[table["CustomerID"].notna() & ~table["InvoiceNo"].str.startswith("C")]
    table = table.assign(amount=table["Quantity"] * table["UnitPrice"])
    by_invoice = table.groupby(["InvoiceNo", "CustomerID"], as_index=False)
    orders = by_invoice.agg(at=("InvoiceDate", "min"), amount=("amount", "sum"))
    orders = orders.sort_values("at", kind="stable")
    return in_time_order(
        "Online Retail", orders["CustomerID"], orders["at"].to_numpy(), orders["amount"],
        273, 100, True, 0.2,
    )  # fmt: skip


def in_time_order(
    name: str, who: Any, date: Any, amount: Any, learn: int, hold: int, prior: bool, gap: float
) -> Data:
    day = date.astype("datetime64[D]").astype(np.int64)
    order = np.argsort(day, kind="stable")
    return Data(
        name, who.to_numpy(np.int64)[order], day[order], amount.to_numpy(np.float64)[order],
        learn, hold, prior, gap,
    )  # fmt: skip


def batches(data: Data, size: int, until: int | None = None) -> Iterator[Orders]:
    count = data.day.size if until is None else int(np.searchsorted(data.day, until))
    who = data.who.astype(np.uint64)
    for start in range(0, count, size):
        part = slice(start, min(count, start + size))
        yield Orders(who[part], data.day[part], data.amount[part])


def learned(data: Data, seed: int = 0, size: int = BATCH) -> Learner:
    learner = Learner(seed)
    for orders in batches(data, size, data.freeze):
        learner.learn(orders)
    return learner


def published(outcome: Outcome) -> None:
    """The batch references are what was published."""
    data = cdnow("CDNOW sample")
    seen = summarise(data.who, data.day, data.amount, data.freeze)
    for name, function, start, known, total in (
        ("BG/NBD", reference.bg_log_likelihood, [0.5, 8, 0.8, 2.5], [0.243, 4.414, 0.793, 2.426],
         -9582.4),
        ("Pareto/NBD", reference.pareto_log_likelihood, [0.5, 8, 0.5, 8],
         [0.553, 10.578, 0.606, 11.669], -9595.0),
        ("Gamma-Gamma", reference.gamma_gamma_log_likelihood, [4, 4, 20], [6.25, 3.74, 15.44],
         None),
    ):  # fmt: skip
        found = fit(function, seen, np.array(start, np.float64))
        off = float(np.abs(found.parameters / np.array(known) - 1).max())
        outcome.bound(f"published {name}: parameters off by", off, 0, 0.002)
        if total is not None:
            off = abs(found.log_likelihood - total)
            outcome.bound(f"published {name}: log-likelihood off by", off, 0, 0.06)


def by_lifetimes(seen: Summary) -> dict[str, Any]:
    """The same fit by the package lifetimes, where it works with today's pandas and numpy."""
    try:
        from lifetimes import ModifiedBetaGeoFitter  # noqa: PLC0415

        fitter = ModifiedBetaGeoFitter().fit(seen.x, seen.t_x, seen.age)
        return {name: float(value) for name, value in fitter.params_.items()}
    except Exception as error:
        return {"failed": repr(error)}


def held_out(data: Data) -> tuple[Floats, Floats, Summary]:
    """Orders (days with one) and revenue of each customer in the holdout."""
    seen = summarise(data.who, data.day, data.amount, data.freeze)
    people = np.unique(data.who[data.day < data.freeze])
    later = (data.day >= data.freeze) & (data.day < data.freeze + data.hold_days)
    later &= np.isin(data.who, people)
    rank = np.searchsorted(people, data.who[later])
    occasions = np.unique(np.stack([rank, data.day[later]]), axis=1)[0]
    return (
        np.bincount(occasions, minlength=people.size).astype(np.float64),
        np.bincount(rank, data.amount[later], people.size).astype(np.float64),
        seen,
    )


def judged(orders: Floats, revenue: Floats, real: Floats, real_revenue: Floats) -> dict[str, float]:
    best = np.argsort(-orders, kind="stable")[: orders.size // 10]
    return {
        "MAE": float(np.abs(orders - real).mean()),
        "RMSE": float(np.sqrt(((orders - real) ** 2).mean())),
        "correlation": float(np.corrcoef(orders, real)[0, 1]),
        "capture": float(real[best].sum() / real.sum() * 100),
        "RMSE revenue": float(np.sqrt(((revenue - real_revenue) ** 2).mean())),
    }


def order_value(parameters: Floats, seen: Summary) -> Floats:
    p, q, gamma = parameters
    value: Floats = p * (gamma + seen.spent) / (p * seen.x + q - 1)
    return value


def as_facts(seen: Summary) -> Facts:
    return Facts(
        Histories(seen.x.astype(np.int64), seen.t_x, seen.age), seen.spent, np.ones(seen.x.size)
    )


def online_forecast(parameters: Parameters, seen: Summary, weeks: float) -> tuple[Floats, Floats]:
    found = potential(
        parameters, as_facts(seen), Terms((weeks,), yearly_discount=0.0), [Conformal()]
    )
    return found.expected_orders[0], found.clv[0]


@dataclass(frozen=True)
class Batch:
    """What a nightly job would have fitted."""

    mbg: Fit
    pareto: Fit
    spend: Fit


def batch_fits(data: Data, seen: Summary) -> Batch:
    """Fit the histories by maximum likelihood, or with the weak prior where the data says so."""
    prior = PRIOR if data.with_prior else None
    mbg = fit(reference.mbg_log_likelihood, seen, np.exp(PRIOR[0]), prior)
    pareto_prior = (np.log([0.5, 10.0, 0.6, 12.0]), np.array([1.5, 2.0, 1.5, 2.0]))
    pareto = fit(
        reference.pareto_log_likelihood, seen, np.exp(pareto_prior[0]),
        pareto_prior if data.with_prior else None,
    )  # fmt: skip
    typical = float(np.exp(np.log(seen.spent[seen.spent > 0] / seen.x[seen.spent > 0]).mean()))
    start = np.array([4.0, 4.0, 0.75 * typical])
    return Batch(mbg, pareto, fit(reference.gamma_gamma_log_likelihood, seen, start))


def gaps_of_seeds(data: Data, seen: Summary, batch: Batch) -> tuple[list[float], list[float]]:
    """Gaps of log-likelihood to the batch fit in %, of purchases and of spend, of 10 seeds."""
    gaps, spend_gaps = [], []
    for seed in range(SEEDS):
        one = learned(data, seed)
        total = float(reference.mbg_log_likelihood(np.exp(one.purchases), seen).sum())
        gaps.append(100 * (total / batch.mbg.log_likelihood - 1))
        total = float(reference.gamma_gamma_log_likelihood(np.exp(one.spend), seen).sum())
        spend_gaps.append(100 * (total / batch.spend.log_likelihood - 1))
    return gaps, spend_gaps


def accuracy(data: Data, outcome: Outcome) -> None:
    """Log-likelihood at the freeze and holdout metrics, online against batch."""
    real, real_revenue, seen = held_out(data)
    weeks = data.hold_days / 7
    batch = batch_fits(data, seen)
    mbg, pareto, spend = batch.mbg, batch.pareto, batch.spend
    value = order_value(spend.parameters, seen)
    rows: dict[str, dict[str, float]] = {}
    for name, orders in (
        ("batch MBG/NBD", reference.mbg_expected_orders(mbg.parameters, seen, weeks)),
        ("batch Pareto/NBD", reference.pareto_expected_orders(pareto.parameters, seen, weeks)),
    ):
        rows[name] = judged(orders, orders * value, real, real_revenue)
    learner = learned(data)
    orders, revenue = online_forecast(learner.parameters, seen, weeks)
    rows["online"] = judged(orders, revenue, real, real_revenue)

    base = mbg.log_likelihood / seen.x.size
    gaps, spend_gaps = gaps_of_seeds(data, seen, batch)
    shards = [Learner(0, shards=8) for _ in range(8)]
    for orders_of in batches(data, BATCH, data.freeze):
        for nth, shard in enumerate(shards):
            shard.learn(orders_of[orders_of.who % np.uint64(8) == nth])
    together = pooled(shards).logs()[0]
    total = reference.mbg_log_likelihood(np.exp(together), seen).sum()
    shard_gap = 100 * (total / seen.x.size / base - 1)

    print(f"\n{data.name}: {seen.x.size} customers, log-likelihood of batch MBG {base:.4f} each")
    print(f"  batch MBG {mbg.parameters.round(4)}  online {np.exp(learner.purchases).round(4)}")
    print(f"  batch spend {spend.parameters.round(3)}  online {np.exp(learner.spend).round(3)}")
    print(f"  lifetimes' MBG {by_lifetimes(seen)}")
    print(f"  gap %, 10 seeds {np.round(gaps, 4)}; eight shards pooled {shard_gap:.4f}")
    print(f"  gap % of spend, 10 seeds {np.round(spend_gaps, 4)}")
    print("  " + " " * 18 + "".join(f"{name:>14}" for name in rows["online"]))
    for name, row in rows.items():
        print(f"  {name:18}" + "".join(f"{number:14.4f}" for number in row.values()))
    outcome.values[data.name] = {"rows": rows, "gaps": gaps, "spend gaps": spend_gaps}
    at = data.name
    outcome.bound(f"{at}: log-likelihood gap %", gaps[0], -np.inf, 0.1)
    outcome.bound(f"{at}: worst gap % of 10 seeds", max(gaps), -np.inf, data.worst_gap)
    outcome.bound(f"{at}: gap % of eight shards pooled", shard_gap, -np.inf, data.worst_gap)
    best = rows["batch MBG/NBD"]
    for name in ("MAE", "RMSE", "RMSE revenue"):
        worse = 100 * (rows["online"][name] / best[name] - 1)
        outcome.bound(f"{at}: {name} worse by %", worse, -np.inf, 1.0)
    for name in ("correlation", "capture"):
        worse = 100 * (best[name] / rows["online"][name] - 1)
        outcome.bound(f"{at}: {name} worse by %", worse, -np.inf, 1.0)


def shards_for(data: Data) -> int:
    """As a deployment would: a shard for every few thousand customers."""
    return max(1, round(np.unique(data.who).size / 6_000))


@dataclass(frozen=True)
class Week:
    """A forecast of a batch program that is fitted anew each week, and what came.

    ``until`` is the first day that is not known, ``batch`` the forecast and ``real`` the revenue of
    the customers known, of the 13 weeks from it on.
    """

    until: int
    seen: Summary
    batch: float
    real: float


def forecast_days(data: Data) -> range:
    """First unknown days of the weeks in which a forecast is made, and its outcome is known."""
    start, end = int(data.day[0]), int(data.day[-1])
    return range(start + 7 * FIRST_FORECAST_WEEK, end - FORECAST_DAYS + 2, 7)


def weekly_refits(data: Data) -> Iterator[Week]:
    """Fit each week's histories anew, beginning with the parameters of the week before."""
    mbg_at, spend_at = np.exp(PRIOR[0]), np.array([4.0, 4.0, 20.0])
    for nth, until in enumerate(forecast_days(data)):
        seen = summarise(data.who, data.day, data.amount, until)
        people = np.unique(data.who[data.day < until])
        later = (data.day >= until) & (data.day < until + FORECAST_DAYS)
        real = float(data.amount[later & np.isin(data.who, people)].sum())
        refine = nth > 0
        mbg_at = fit(reference.mbg_log_likelihood, seen, mbg_at, PRIOR, refine=refine).parameters
        typical = float(np.exp(np.log(seen.spent[seen.spent > 0] / seen.x[seen.spent > 0]).mean()))
        spend_prior = (np.log([4.0, 4.0, 0.75 * typical]), SPEND_PRIOR_SD)
        spend_at = fit(
            reference.gamma_gamma_log_likelihood, seen, spend_at, spend_prior, refine=refine
        ).parameters
        orders = reference.mbg_expected_orders(mbg_at, seen, FORECAST_DAYS / 7)
        yield Week(until, seen, float((orders * order_value(spend_at, seen)).sum()), real)


def weekly(data: Data, outcome: Outcome) -> None:
    """Forecast of the next 13 weeks' revenue of the customers known, each week."""
    count = shards_for(data)
    shards, done = [Learner(0, shards=count) for _ in range(count)], 0
    gradings = [Grading((HORIZON_DAYS,), {}) for _ in range(count)]
    errors: dict[str, list[float]] = {"online": [], "no tempo": [], "proven tempo": [], "batch": []}
    weeks = {week.until: week for week in weekly_refits(data)}
    for until in range(int(data.day[0]) + 7, max(weeks) + 1, 7):
        upto = int(np.searchsorted(data.day, until))
        part = slice(done, upto)
        who = data.who[part].astype(np.uint64)
        fresh = Orders(who, data.day[part], data.amount[part])
        for nth, (shard, grading) in enumerate(zip(shards, gradings, strict=True)):
            grading.learn(shard, fresh[who % np.uint64(count) == nth])
        done = upto
        week = weeks.get(until)
        if week is None:
            continue
        tempos = [grading.tempo for grading in gradings]
        # The last day is over, though no order has said so.
        known = pooled([shard.after(until - 1) for shard in shards])
        _, revenue = online_forecast(known, week.seen, FORECAST_DAYS / 7)
        total = float(revenue.sum())
        errors["batch"].append(week.batch - week.real)
        errors["no tempo"].append(total - week.real)
        errors["online"].append(total * pooled_factor(tempos) - week.real)
        errors["proven tempo"].append(total * pooled_factor(tempos, proven=True) - week.real)
    rmse = {name: float(np.sqrt(np.mean(np.square(error)))) for name, error in errors.items()}
    print(f"  {data.name}: 13 weeks ahead, {len(errors['batch'])} weeks, RMSE of revenue: {rmse}")
    outcome.values[f"{data.name} weekly"] = rmse
    # What scores and ``valuetide model`` say: the corrector counts once it has proven to help.
    worse = 100 * (rmse["proven tempo"] / rmse["batch"] - 1)
    outcome.bound(f"{data.name}: weekly forecast worse by %", worse, -np.inf, 0.0)


@dataclass
class Issued:
    """Intervals that wait for their outcome."""

    due: int
    predicted: Predictive
    low: Floats
    high: Floats
    real: Floats
    kind: str


def coverage(data: Data, outcome: Outcome) -> None:
    """Intervals issued at every order and weekly for everybody, judged as they mature."""
    people, row = np.unique(data.who, return_inverse=True)
    keys = row * (1 << 20) + data.day
    order = np.argsort(keys, kind="stable")
    keys, sums = keys[order], np.concatenate([[0.0], np.cumsum(data.amount[order])])

    def real(rows: NDArray[np.int64], day: int) -> Floats:
        begin = np.searchsorted(keys, rows * (1 << 20) + day, side="right")
        end = np.searchsorted(keys, rows * (1 << 20) + day + HORIZON_DAYS, side="right")
        value: Floats = sums[end] - sums[begin]
        return value

    learner, correction = Learner(0), Conformal()
    terms = Terms((HORIZON_DAYS / 7,))
    waiting: list[Issued] = []
    verdicts: dict[str, list[NDArray[Any]]] = {"orders": [], "sweep": [], "likely buyers": []}
    start, end = int(data.day[0]), int(data.day[-1])
    x = np.full(people.size, -1)
    first, last, spent = np.zeros_like(x), np.zeros_like(x), np.zeros(people.size)
    for day in range(start, end + 1):
        today = slice(*np.searchsorted(data.day, [day, day + 1]))
        orders = Orders(data.who[today].astype(np.uint64), data.day[today], data.amount[today])
        if orders.day.size:
            learner.learn(orders)
        while waiting and waiting[0].due <= day:
            one = waiting.pop(0)
            correction.update(one.predicted, one.real)
            held = (one.real >= one.low) & (one.real <= one.high)
            verdicts[one.kind].append(held)
            if one.kind == "sweep":
                verdicts["likely buyers"].append(held[one.predicted.none < correction.level])
        buyers = np.unique(row[today])
        fresh = x[buyers] < 0
        first[buyers[fresh]] = day
        x[buyers] += 1
        last[buyers] = day
        np.add.at(spent, row[today], np.where(first[row[today]] == day, 0.0, data.amount[today]))
        scored = [("orders", buyers)]
        if (day - start) % 7 == 6:
            scored.append(("sweep", np.flatnonzero(x >= 0)))
        for kind, rows in scored:
            if day + HORIZON_DAYS > end or not rows.size:
                continue
            seen = histories(x[rows], first[rows], last[rows], day * DAY_MS)
            facts = Facts(seen, spent[rows], np.ones(rows.size))
            found = potential(learner.parameters, facts, terms, [correction])
            waiting.append(
                Issued(day + HORIZON_DAYS, found.predictive.of(0), found.low[0], found.high[0],
                       real(rows, day), kind)
            )  # fmt: skip
    shares = {kind: float(np.concatenate(held).mean()) for kind, held in verdicts.items()}
    counts = {kind: sum(h.size for h in held) for kind, held in verdicts.items()}
    print(f"  {data.name}: held by their 80 % interval {shares}, of {counts}")
    outcome.values[f"{data.name} coverage"] = shares
    outcome.bound(f"{data.name}: coverage of scores at orders", shares["orders"], 0.77, 0.83)
    outcome.bound(f"{data.name}: coverage of likely buyers", shares["likely buyers"], 0.77, 0.83)


def grading(data: Data, outcome: Outcome) -> None:
    """Grades that shards give themselves: intervals judged as they were given, and their cost."""
    horizons = Terms().horizons
    days = tuple(round(7 * weeks) for weeks in horizons)
    who = data.who.astype(np.uint64)
    for count in (1, 4):
        shards = [(Learner(0, shards=count), Grading(days, {})) for _ in range(count)]
        alone = [Learner(0, shards=count) for _ in range(count)]
        graded = learning = 0.0
        for start in range(0, data.day.size, BATCH):
            part = slice(start, start + BATCH)
            orders = Orders(who[part], data.day[part], data.amount[part])
            for nth in range(count):
                mine = orders[orders.who % np.uint64(count) == nth]
                begin = time.process_time()
                alone[nth].learn(mine)
                between = time.process_time()
                shards[nth][1].learn(shards[nth][0], mine)
                learning += between - begin
                graded += time.process_time() - between
        weeks = count * (int(data.day[-1]) - int(data.day[0])) / 7
        extra = {
            "us an order": round((graded - learning) / data.day.size * 1e6, 2),
            "ms a shard and week": round((graded - learning) / weeks * 1e3, 2),
        }
        waiting = sum(len(c.encode()) for h in shards[0][1].horizons.values() for c in h.waiting)
        print(f"  {data.name}, {count} shards grade themselves: CPU {extra}, {waiting} bytes wait")
        outcome.values[f"{data.name} grading, {count} shards"] = extra
        for horizon in days:
            whole = pooled_grade(shard.horizons[horizon].grade for _, shard in shards)
            found = report(whole.total)
            row = {
                "outcomes": found.outcomes, "coverage": found.coverage,
                "likely": found.likely_coverage, "bias of orders": found.orders.bias,
                "bias of revenue": found.revenue.bias, "MAE": found.orders.mae,
                "slope": found.orders.slope, "slope of revenue": found.revenue.slope,
            }  # fmt: skip
            print(f"    {horizon} days " + "  ".join(f"{k} {v:.4g}" for k, v in row.items()))
            outcome.values[f"{data.name} grade, {count} shards, {horizon} days"] = row
            # Of the longer horizon all there is was predicted before any outcome was known.
            if horizon == HORIZON_DAYS and count == shards_for(data):
                name = f"{data.name}: coverage of likely buyers graded by {count} shards"
                outcome.bound(name, found.likely_coverage, 0.77, 0.83)


def cutting(data: Data, outcome: Outcome) -> None:
    """Batch sizes and restarts make no difference at all."""
    straight = learned(data).encode()
    different = sum(learned(data, size=size).encode() != straight for size in (1, 7, 100, 4_000))
    restarted = Learner(0)
    for orders in batches(data, 333, data.freeze):
        restarted.learn(orders)
        restarted = Learner.decode(restarted.encode())
    different += restarted.encode() != straight
    print(
        f"  {data.name}: {len(straight)} bytes a shard; {different} of 5 other ways to cut differ"
    )
    outcome.bound(f"{data.name}: cuts that change the result", different, 0, 0)


def cost(data: Data, outcome: Outcome) -> None:
    """CPU of learning, scoring and explaining, us an order, in micro-batches of 1,000."""
    terms, corrections = Terms(), [Conformal(), Conformal()]
    learner = Learner(0)
    spent_on = dict.fromkeys(("learn", "score", "explain"), 0.0)
    count = 0
    for orders in batches(data, BATCH, data.freeze):
        begin = time.process_time()
        learner.learn(orders)
        spent_on["learn"] += time.process_time() - begin
        # Histories of as many customers as there were orders: a shard's most expensive case.
        members = learner.sample.members[: orders.day.size]
        seen = histories(
            members["x"].astype(np.int64), members["first_day"].astype(np.int64),
            members["last_day"].astype(np.int64), learner.day * DAY_MS,
        )  # fmt: skip
        facts = Facts(seen, members["spent"], np.ones(members.size))
        parameters = learner.parameters
        before = clv(parameters, facts, terms)
        begin = time.process_time()
        found = potential(parameters, facts, terms, corrections)
        spent_on["score"] += (time.process_time() - begin) * orders.day.size / members.size
        begin = time.process_time()
        moved_by(facts, before[-1], facts, found.clv[-1], parameters, terms)
        spent_on["explain"] += (time.process_time() - begin) * orders.day.size / members.size
        count += orders.day.size
    each = {name: seconds / count * 1e6 for name, seconds in spent_on.items()}
    print(f"  {data.name}: us of CPU an order { ({k: round(v, 2) for k, v in each.items()}) }")
    outcome.values[f"{data.name} cost"] = each
    if data.name == "CDNOW all":
        outcome.bound("us of CPU to learn and score an order", each["learn"] + each["score"], 0, 5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the CDNOW sample alone")
    parser.add_argument("--json", type=Path, default=Path("build/bench-clv-offline.json"))
    options = parser.parse_args()
    outcome = Outcome()
    published(outcome)
    sets = [cdnow("CDNOW sample")]
    if not options.quick:
        sets += [cdnow("CDNOW all"), online_retail()]
    for data in sets:
        accuracy(data, outcome)
        for measure in (cutting, cost, coverage, grading, weekly):
            measure(data, outcome)
    outcome.write(options.json)
    return outcome.judge()


if __name__ == "__main__":
    raise SystemExit(main())
