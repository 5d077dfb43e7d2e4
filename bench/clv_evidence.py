"""What interactions and feedback add to lifetime value, where they tell something and where not.

    python -m bench.clv_evidence [--seeds 4] [--json build/bench-clv-evidence.json]

Orders and signals are streamed day by day through the learners as a shard would do it. At the
freeze every customer is scored from purchases alone (base), with what was learned of signals
(evidence), and, on the simulated shop, with the rates of signals that it was drawn from (true
rates) and with all parameters it was drawn from (oracle). What customers did afterwards is the
judge. Prints tables and, one a line, the bounds that are missed;
ends with status 1 if there are any.

Of strong effects most of the gain must be there; of a weak one, which is beyond doubt only after
most of the year, some. Shops with nothing to find are the simulated one with signals that go on
after a customer left, one in which customers who buy often also come by often, and CDNOW and Online
Retail with signals of pure chance.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.clv_offline import Data, cdnow, online_retail
from bench.outcome import Outcome
from tests.support.shop import MODEL, SPEND, Floats, Planted, Shop, noise, simulate
from valuetide.scoring.lifetime import purchases
from valuetide.scoring.lifetime.conformal import Conformal
from valuetide.scoring.lifetime.evidence import (
    FEEDBACK,
    INTERACTIONS,
    Counts,
    Rates,
    log_odds_gained,
)
from valuetide.scoring.lifetime.evidence_learner import Evidence, candidate_rates, proven_rates
from valuetide.scoring.lifetime.learner import Learner
from valuetide.scoring.lifetime.parameters import Parameters
from valuetide.scoring.lifetime.sample import Orders
from valuetide.scoring.lifetime.value import Facts, Terms, histories, potential
from valuetide.scoring.signals import KINDS, SIGNALS, note_orders, note_signals

DAY_MS = 86_400_000
LEARN_DAYS, HOLD_DAYS = 364, 182
TELLING = (
    Planted(0, 1.0, 2.0, 0.25, 0.25),
    Planted(1, 0.5, 10.0, 4.0, 0.5),
    Planted(2, 0.5, 20.0, 8.0, 1.0),
    Planted(3, 0.5, 20.0, 0.5, 0.5),
)
ONLY_VISITS = (Planted(0, 1.0, 4.0, 0.5, 0.5),)
SILENT = tuple(replace(one, gone_early=1.0, gone_late=1.0) for one in TELLING)


class Streamed:
    """Learners and counters after a shop's orders and signals up to the freeze."""

    def __init__(self, shop: Shop, freeze: int, seed: int) -> None:
        self.learner, self.evidence = Learner(seed), Evidence(seed)
        self.people, row = np.unique(shop.who, return_inverse=True)
        signal_row = np.searchsorted(self.people, shop.signal_who)
        self.signals = np.zeros(self.people.size, SIGNALS)
        for day in range(int(shop.day[0]), freeze):
            of = slice(*np.searchsorted(shop.day, [day, day + 1]))
            said = slice(*np.searchsorted(shop.signal_day, [day, day + 1]))
            days, kinds = shop.day[of], shop.signal_kind[said]
            who = shop.who[of].astype(np.uint64)
            if self.evidence.until_check(days) < days.size:
                self.evidence.check(self.learner.parameters.purchases, day)
            self.learner.learn(Orders(who, days, shop.amount[of]))
            self.evidence.fold_orders(who, days)
            note_orders(self.signals, row[of], days)
            whose = shop.signal_who[said].astype(np.uint64)
            self.evidence.fold_signals(whose, kinds, shop.signal_day[said])
            note_signals(self.signals, signal_row[said], kinds, shop.signal_day[said])
        self.freeze = freeze
        self._histories(shop, row)

    def _histories(self, shop: Shop, row: np.ndarray) -> None:
        known = shop.day < self.freeze
        first = np.full(self.people.size, 1 << 40)
        np.minimum.at(first, row, shop.day)
        last = np.full(self.people.size, -1)
        np.maximum.at(last, row[known], shop.day[known])
        days = np.unique(np.stack([row[known], shop.day[known]]), axis=1)
        x = np.bincount(days[0], minlength=self.people.size) - 1
        repeat = known & (shop.day > first[row])
        spent = np.bincount(row[repeat], shop.amount[repeat], self.people.size)
        self.here = np.flatnonzero(first < self.freeze)
        self.first = first[self.here]
        seen = histories(x[self.here], self.first, last[self.here], self.freeze * DAY_MS)
        self.facts = Facts(seen, spent[self.here].astype(np.float64), np.ones(self.here.size))
        later = ~known & (shop.day < self.freeze + HOLD_DAYS)
        occasions = np.unique(np.stack([row[later], shop.day[later]]), axis=1)[0]
        self.orders = np.bincount(occasions, minlength=self.people.size)[self.here]
        self.revenue = np.bincount(row[later], shop.amount[later], self.people.size)[self.here]

    def with_signals(self, rates: Rates) -> Facts:
        counts = Counts.of(self.signals[self.here], self.first, float(self.freeze))
        gained = log_odds_gained(rates, counts)
        both = np.stack([gained[INTERACTIONS].sum(axis=0), gained[FEEDBACK].sum(axis=0)])
        return replace(self.facts, gained=both)

    def judged(self, parameters: Parameters, facts: Facts) -> dict[str, float]:
        weeks = HOLD_DAYS / 7
        found = potential(parameters, facts, Terms((weeks,), 0.0), [Conformal()])
        ahead = purchases.future(parameters.purchases, facts.seen, np.array([weeks]))
        bought = self.orders > 0
        chance = np.clip(found.p_alive * (1.0 - ahead.none[0]), 1e-12, 1 - 1e-12)
        errors = found.expected_orders[0] - self.orders
        return {
            "log score": float(np.where(bought, np.log(chance), np.log1p(-chance)).mean()),
            "AUC": area(found.p_alive, bought),
            "MAE": float(np.abs(errors).mean()),
            "RMSE": float(np.sqrt((errors**2).mean())),
            "RMSE revenue": float(np.sqrt(((found.clv[0] - self.revenue) ** 2).mean())),
        }


def area(score: Floats, positive: np.ndarray) -> float:
    """Area under the curve, ties counting half."""
    values, rank = np.unique(score, return_inverse=True)
    of = np.bincount(rank[positive], minlength=values.size)
    other = np.bincount(rank[~positive], minlength=values.size)
    below = np.cumsum(other) - other / 2
    return float(of @ below / (of.sum() * other.sum()))


def true_rates(planted: tuple[Planted, ...]) -> Rates:
    shape, rate = np.ones(len(KINDS)), np.ones(len(KINDS))
    ratio = np.zeros((len(KINDS), 2))
    for one in planted:
        shape[one.kind], rate[one.kind] = one.shape, one.rate
        ratio[one.kind] = np.log([one.gone_early, one.gone_late])
    return Rates(shape, rate, ratio, np.zeros(len(KINDS)))


def telling(
    name: str, planted: tuple[Planted, ...], seeds: int, least: float, outcome: Outcome
) -> None:
    """Signals that stop or come when a customer leaves are found, and help."""
    truth = true_rates(planted)
    rows = []
    for seed in range(seeds):
        shop = simulate(seed, planted)
        done = Streamed(shop, int(shop.day[0]) + LEARN_DAYS, seed)
        proven, learned = proven_rates([done.evidence]), done.learner.parameters
        rows.append(
            {
                "base": done.judged(learned, done.facts),
                "evidence": done.judged(learned, done.with_signals(proven)),
                "true rates": done.judged(learned, done.with_signals(truth)),
                "oracle": done.judged(Parameters(MODEL, SPEND), done.with_signals(truth)),
            }
        )
    share = show(name, rows, outcome)
    for metric in ("log score", "AUC", "MAE", "RMSE", "RMSE revenue"):
        what = f"{name}: share of the gain of {metric} that true rates bring"
        outcome.bound(what, share[metric], least, np.inf)


def show(name: str, rows: list[dict[str, dict[str, float]]], outcome: Outcome) -> dict[str, float]:
    """Print means over seeds; gives which share of the gain of true rates was reached."""
    mean = {
        who: {metric: float(np.mean([row[who][metric] for row in rows])) for metric in of}
        for who, of in rows[0].items()
    }
    print(f"\n{name}, {len(rows)} seeds")
    print("  " + " " * 10 + "".join(f"{metric:>14}" for metric in mean["base"]))
    for who, of in mean.items():
        print(f"  {who:10}" + "".join(f"{number:14.4f}" for number in of.values()))
    outcome.values[name] = mean
    base, ours, best = mean["base"], mean["evidence"], mean["true rates"]
    return {
        metric: (ours[metric] - base[metric]) / (best[metric] - base[metric]) for metric in base
    }


def harmless(name: str, done: Streamed, outcome: Outcome) -> bool:
    """Where signals tell nothing the scores are those of the base model. Gives if it was so."""
    learned, evidence = done.learner.parameters, done.evidence
    base = done.judged(learned, done.facts)
    ours = done.judged(learned, done.with_signals(proven_rates([evidence])))
    for metric, number in base.items():
        change = 100 * abs(ours[metric] / number - 1)
        outcome.bound(f"{name}: {metric} changed by %", change, 0, 0.1)
    return candidate_rates([evidence]).silent


def no_harm(data: Data, seed: int) -> Streamed:
    signals = noise(seed, data.who, data.day, SILENT)
    shop = replace(signals, amount=data.amount)
    return Streamed(shop, data.freeze, seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--json", type=Path, default=Path("build/bench-clv-evidence.json"))
    options = parser.parse_args()
    outcome = Outcome()
    seeds = range(options.seeds)
    telling("all four kinds tell", TELLING, options.seeds, 0.8, outcome)
    telling("visits halve, others none", ONLY_VISITS, options.seeds, 0.2, outcome)

    start = LEARN_DAYS + 15_000
    quiet: dict[str, Callable[[int], Streamed]] = {
        "simulated, no effect": lambda seed: Streamed(simulate(seed, SILENT), start, seed),
        "simulated, who buys often comes often": lambda seed: Streamed(
            simulate(seed, SILENT, tied=True), start, seed
        ),
        "CDNOW sample, chance": lambda seed: no_harm(cdnow("CDNOW sample"), seed),
        "CDNOW all, chance": lambda seed: no_harm(cdnow("CDNOW all"), seed),
        "Online Retail, chance": lambda seed: no_harm(online_retail(), seed),
    }
    print("\nNothing to find: seeds in which no kind of signal was taken to tell anything")
    for name, make in quiet.items():
        silent = sum(harmless(f"{name}, seed {seed}", make(seed), outcome) for seed in seeds)
        print(f"  {name:40}{silent} of {options.seeds}")
        outcome.values[f"{name}: silent"] = silent
    outcome.write(options.json)
    return outcome.judge()


if __name__ == "__main__":
    raise SystemExit(main())
