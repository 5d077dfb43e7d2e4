"""Lifetime value through the real pipeline: events into Kafka, scores out of Redis.

    python -m bench.clv [--quick] [--json build/bench-clv.json]

Each data set is replayed up to a freeze; then every customer's score at that moment, read from what
the worker left in Redis, is judged by the weeks that were held out, beside a batch fit by scipy of
the same histories, made in the same run. Prints a table and, one a line, the bounds that are
missed; ends with status 1 if there are any. ``bench.clv_offline`` has what needs no pipeline: more
seeds, intervals, weekly forecasts, Online Retail.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.clv_offline import DAY_MS, Data, Outcome, cdnow, held_out, judged, order_value, published
from tests.support import lifetime_reference as reference
from tests.support.lifetime_reference import Floats, fit
from tests.support.shared_data import lifetimes_data
from valuetide.schemas.score import Score
from valuetide.streams.embedded import embedded_services
from valuetide.streams.local import LocalWorker, local_settings, prepare
from valuetide.streams.reader import Learned, Reader
from valuetide.streams.replay import presets
from valuetide.streams.replay.event import SourceEvent
from valuetide.streams.replay.send import send
from valuetide.streams.settings import Settings

WAIT_SECONDS = 300.0
SETS = {
    "CDNOW sample": ("CDNOW_sample.txt", presets.cdnow_sample),
    "CDNOW all": ("CDNOW_master.txt", presets.cdnow),
}
WORSE_PERCENT = 1.0
GAP_PERCENT = 0.1


@dataclass(frozen=True)
class Pipeline:
    """What came out: scores at the freeze, what was learned, and how long it took."""

    scores: list[Score]
    learned: Learned
    seconds: float


def until_freeze(data: Data) -> Iterator[SourceEvent]:
    """Give the events that are learned from, in event time."""
    file, read = SETS[data.name]
    end = data.freeze * DAY_MS / 1000.0
    for event in read(lifetimes_data(file)):
        if event.occurred_at >= end:
            return
        yield event


def as_sent(data: Data) -> Data:
    """Give the same data with the customer ids of the events, which are the master file's."""
    file, read = SETS[data.name]
    events = [json.loads(event.value) for event in read(lifetimes_data(file))]
    return replace(
        data,
        who=np.array([int(event["customer_id"]) for event in events]),
        day=np.array([int(event["occurred_at"]) * 1_000 // DAY_MS for event in events]),
        amount=np.array([event["amount"] for event in events], np.float64),
    )


async def through_pipeline(data: Data, settings: Settings, worker: LocalWorker) -> Pipeline:
    """Send the events, wait until all are committed, and score everybody at the freeze."""
    started = time.monotonic()
    sent = await send(until_freeze(data), settings)
    async with Reader(settings) as reader:
        positions = {
            ("orders", partition): part.next_offset
            for partition, part in sent.partitions.items()
            if part.next_offset is not None
        }
        if not await reader.wait_for_positions(positions, WAIT_SECONDS):
            raise AssertionError(f"not done in time; the worker says\n{worker.log_tail()}")
        seconds = time.monotonic() - started
        # The reference sees histories at the beginning of the last day before the freeze.
        now_ms = (data.freeze - 1) * DAY_MS
        scores = [score async for score in reader.evaluate(now_ms)]
        return Pipeline(scores, await reader.learned(), seconds)


def run(data: Data) -> Pipeline:
    """Run a data set through a broker, a Redis and a worker of its own."""
    with embedded_services() as services:
        settings = local_settings(
            services,
            vocabulary={"base_currency": "USD"},
            horizons_days=(data.hold_days,),
            yearly_discount=0.0,
            log_level="warning",
        )
        prepare(settings)
        with LocalWorker(settings) as worker:
            return asyncio.run(through_pipeline(data, settings, worker))


def column(scores: list[Score], name: str) -> Floats:
    """Give a field of the customers in the order of their ids."""
    by_id = sorted(scores, key=lambda score: int(score["customer_id"]))
    return np.array([dict(score)[name] for score in by_id], np.float64)


def measure(data: Data, outcome: Outcome) -> None:
    """Judge a data set beside its batch fit."""
    data = as_sent(data)
    found = run(data)
    real, real_revenue, seen = held_out(data)
    weeks = data.hold_days / 7
    mbg = fit(reference.mbg_log_likelihood, seen, np.array([0.5, 10.0, 0.8, 2.5]))
    typical = float(np.exp(np.log(seen.spent[seen.spent > 0] / seen.x[seen.spent > 0]).mean()))
    spend = fit(reference.gamma_gamma_log_likelihood, seen, np.array([4.0, 4.0, 0.75 * typical]))
    batch_orders = reference.mbg_expected_orders(mbg.parameters, seen, weeks)
    batch_revenue = batch_orders * order_value(spend.parameters, seen)
    orders = column(found.scores, f"expected_orders_{data.hold_days}d")
    revenue = column(found.scores, f"clv_{data.hold_days}d")
    rows = {
        "batch MBG/NBD": judged(batch_orders, batch_revenue, real, real_revenue),
        "valuetide": judged(orders, revenue, real, real_revenue),
    }
    online = found.learned.parameters.purchases
    parameters = np.array([online.r, online.alpha, online.a, online.b])
    total = float(reference.mbg_log_likelihood(parameters, seen).sum())
    gap = 100 * (total / mbg.log_likelihood - 1)

    print(f"\n{data.name}: {seen.x.size} customers, {found.seconds:.1f} s through the pipeline")
    print(f"  batch {mbg.parameters.round(4)}  online {parameters.round(4)}  gap {gap:.4f} %")
    print("  " + " " * 14 + "".join(f"{name:>14}" for name in rows["valuetide"]))
    for name, row in rows.items():
        print(f"  {name:14}" + "".join(f"{number:14.4f}" for number in row.values()))
    outcome.values[data.name] = {"rows": rows, "parameters": parameters.tolist(), "gap": gap}
    at = data.name
    frequency = column(found.scores, "frequency")
    different = float(np.abs(frequency - seen.x).sum()) if frequency.size == seen.x.size else np.inf
    outcome.bound(f"{at}: repeat purchases that differ from the file's", different, 0, 0)
    outcome.bound(f"{at}: log-likelihood gap %", gap, -np.inf, GAP_PERCENT)
    batch, ours = rows["batch MBG/NBD"], rows["valuetide"]
    for name in ("MAE", "RMSE", "RMSE revenue"):
        worse = 100 * (ours[name] / batch[name] - 1)
        outcome.bound(f"{at}: {name} worse by %", worse, -np.inf, WORSE_PERCENT)
    for name in ("correlation", "capture"):
        worse = 100 * (batch[name] / ours[name] - 1)
        outcome.bound(f"{at}: {name} worse by %", worse, -np.inf, WORSE_PERCENT)


def main() -> int:
    """Run the benchmark; the exit status says whether all bounds hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the CDNOW sample alone")
    parser.add_argument("--json", type=Path, default=Path("build/bench-clv.json"))
    options = parser.parse_args()
    outcome = Outcome()
    published(outcome)
    for name in list(SETS)[: 1 if options.quick else None]:
        measure(cdnow(name), outcome)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"missed": outcome.missed, **outcome.values}, indent=1))
    print(f"\n{len(outcome.missed)} bounds missed")
    for line in outcome.missed:
        print("  " + line)
    return 1 if outcome.missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
