"""The whole table: worker and peers in alternating rounds, latency, growth, start, memory.

    python -m bench.speed [--only worker,peers,latency,...] [--peers NAME,...] [--rounds 3]
    python -m bench.speed --quick       short runs of what needs nothing but Python; judges nothing

Prints the table, writes build/bench-speed.json, and ends with status 1 after naming the bounds
that are missed. bench/README.md says how the comparison is kept fair.
"""

import argparse
import asyncio
import json
import operator
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench import backlog, latency, stages
from bench.environments import NotInstalledError, environment
from bench.load import make_load, produce
from bench.peer import PARTITIONS, PEERS, PeerMeasured, one_peer_round, peer_load
from bench.pipeline import WARM, Measured, one_round
from bench.stage import fresh_servers
from valuetide.streams.local import LocalWorker
from valuetide.streams.reader import Reader

FRAMEWORKS = ("faststream", "bytewax", "quix", "pathway")
MATPLOTLIB = ("matplotlib==3.11.2",)
START_EVENTS = 1_000
START_LIMIT_SECONDS = 60.0
FEW_CUSTOMERS = 10_000


@dataclass(frozen=True)
class Bound:
    """What a figure must keep to."""

    key: str
    holds: Callable[[float, float], bool]
    limit: float
    title: str


BOUNDS = (
    Bound("worker.cpu_us_per_event", operator.le, 10, "CPU of the worker per event, us"),
    Bound("sustained.events_per_second", operator.ge, 60_000, "sustained events/s, one worker"),
    Bound("ratios.faust", operator.ge, 40, "CPU per event, idiomatic Faust / worker"),
    Bound("ratios.frameworks", operator.ge, 3, "the same, best other framework / worker"),
    Bound("ratios.confluent-pydantic", operator.ge, 2, "the same, by hand with pydantic / worker"),
    Bound("ratios.confluent-msgspec", operator.ge, 1, "the same, by hand and tuned / worker"),
    Bound("latency_1k.p50_ms", operator.le, 15, "latency at 1,000 events/s, p50, ms"),
    Bound("latency_1k.p99_ms", operator.le, 60, "latency at 1,000 events/s, p99, ms"),
    Bound("latency_20k.p99_ms", operator.le, 250, "latency at 20,000 events/s, p99, ms"),
    Bound("customers_ratio", operator.le, 1.5, "CPU per event, many customers / 10,000"),
    Bound("redis_bytes_per_customer", operator.le, 1_024, "Redis bytes per customer, readable"),
    Bound("compact.redis_bytes_per_customer", operator.le, 400, "the same, compact"),
    Bound("worker_memory_mib", operator.le, 1_024, "memory of a worker, many customers, MiB"),
    Bound("workers_ratio", operator.le, 1.1, "CPU per event, two workers / one"),
    Bound("cold_start.after_group_seconds", operator.le, 3, "from the group to the first score, s"),
    Bound("backlog.events_per_second", operator.ge, backlog.LEAST_SPEED, "catching up, events/s"),
    Bound("backlog.memory_most_mib", operator.le, 512, "memory while catching up, MiB"),
    Bound("backlog.memory_growth_mib", operator.le, 32, "its growth in the last third, MiB"),
    Bound("backlog.age_at_half", operator.le, 0.75, "oldest event at half time, of the outage"),
    Bound("backlog.during.p99_ms", operator.le, 250, "latency beside a backlog, p99, ms"),
)


class Table:
    """What was measured, under dotted keys."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def put(self, key: str, value: object) -> None:
        """Keep a figure under its dotted key, and print it."""
        at = self.found
        *above, last = key.split(".")
        for name in above:
            at = at.setdefault(name, {})
        at[last] = round(value, 3) if isinstance(value, float) else value
        print(f"  {key} = {at[last]}", flush=True)

    def get(self, key: str) -> float | None:
        """Give a figure, ``None`` where it was not measured."""
        at: Any = self.found
        for name in key.split("."):
            at = at.get(name) if isinstance(at, dict) else None
        return at if isinstance(at, (int, float)) else None


def missed(table: Table) -> list[str]:
    """Give a line for each bound that a measured figure does not keep to."""
    lines = []
    for bound in BOUNDS:
        value = table.get(bound.key)
        if value is not None and not bound.holds(value, bound.limit):
            sign = "<=" if bound.holds is operator.le else ">="
            lines.append(f"{bound.title}: {value:g}, must be {sign} {bound.limit:g} ({bound.key})")
    return lines


def measure_rounds(given: argparse.Namespace, table: Table) -> None:
    """Measure the worker, and with ``peers`` its peers, one after the other in each round."""
    names = given.peers if "peers" in given.only else []
    worker: list[Measured] = []
    peers: dict[str, list[PeerMeasured]] = defaultdict(list)
    failed: dict[str, str] = {}
    for number in range(given.rounds):
        seed = given.seed + number
        worker.append(asyncio.run(one_round(job(given.events, seed))))
        say(f"round {number + 1} worker", worker[-1])
        for name in names:
            if name in failed:
                continue
            try:
                load = peer_load(PEERS[name], given.events, seed)
                peers[name].append(asyncio.run(one_peer_round(PEERS[name], load)))
                say(f"round {number + 1} {name}", peers[name][-1])
            except (AssertionError, NotInstalledError) as error:
                failed[name] = str(error)
                print(f"round {number + 1} {name} does not count: {error}", flush=True)
    for field in ("cpu_us_per_event", "events_per_second", "machine_busy"):
        table.put(f"worker.{field}", median(worker, field))
    table.put("worker.verified", True)
    table.put("redis_bytes_per_customer", median(worker, "redis_bytes_per_customer"))
    cpu = median(worker, "cpu_us_per_event")
    for name, rounds in peers.items():
        if name in failed or not rounds:
            continue
        for field in ("cpu_us_per_event", "events_per_second", "machine_busy"):
            table.put(f"peers.{name}.{field}", median(rounds, field))
        table.put(f"peers.{name}.verified", True)
        table.put(f"peers.{name}.scores", f"one an {PEERS[name].scores}")
        table.put(f"peers.{name}.misses", PEERS[name].misses)
        table.put(f"ratios.{name}", median(rounds, "cpu_us_per_event") / cpu)
    for name, why in failed.items():  # one that fails in any round does not count
        table.put(f"peers.{name}.verified", False)
        table.put(f"peers.{name}.why", why[:500])
    frameworks = [
        median(rounds, "cpu_us_per_event") / cpu
        for name, rounds in peers.items()
        if name.partition("-")[0] in FRAMEWORKS and name not in failed
    ]
    if frameworks:
        table.put("ratios.frameworks", min(frameworks))


def measure_compact(given: argparse.Namespace, table: Table) -> None:
    """Measure the layout that keeps packed states alone."""
    measured = asyncio.run(one_round(job(given.events, given.seed), layout="compact"))
    say("compact layout", measured)
    for field in ("cpu_us_per_event", "events_per_second", "redis_bytes_per_customer"):
        table.put(f"compact.{field}", getattr(measured, field))


def measure_sustained(given: argparse.Namespace, table: Table) -> None:
    """Measure a long run."""
    load = make_load(given.sustained, PARTITIONS, given.seed, customers=20_000, warm=WARM)
    measured = asyncio.run(one_round(load))
    for field, value in asdict(measured).items():
        table.put(f"sustained.{field}", value)
    table.put("sustained.events", given.sustained)


def measure_customers(given: argparse.Namespace, table: Table) -> None:
    """Compare many customers with few; each has had an event before."""
    cpu = {}
    for count in (FEW_CUSTOMERS, given.customers):
        load = make_load(given.events, PARTITIONS, given.seed, customers=count, once=True)
        measured = asyncio.run(one_round(load))
        say(f"{count:,} customers", measured)
        for field, value in asdict(measured).items():
            table.put(f"customers.{count}.{field}", value)
        cpu[count] = measured.cpu_us_per_event
        table.put("worker_memory_mib", measured.memory_mib)
    table.put("customers_ratio", cpu[given.customers] / cpu[FEW_CUSTOMERS])


def measure_workers(given: argparse.Namespace, table: Table) -> None:
    """Compare two workers with one, in alternating rounds."""
    rounds: dict[int, list[Measured]] = defaultdict(list)
    for number in range(given.rounds):
        for workers in (1, 2):
            load = job(given.events, given.seed + number)
            rounds[workers].append(asyncio.run(one_round(load, workers=workers)))
            say(f"round {number + 1}, {workers} workers", rounds[workers][-1])
    for workers, results in rounds.items():
        for field in ("cpu_us_per_event", "events_per_second"):
            table.put(f"workers.{workers}.{field}", median(results, field))
    one, two = (median(rounds[workers], "cpu_us_per_event") for workers in (1, 2))
    table.put("workers_ratio", two / one)


def measure_start(given: argparse.Namespace, table: Table) -> None:
    """Measure the time from the command to the first committed score."""
    starts = [asyncio.run(cold_start(given.seed + number)) for number in range(given.rounds)]
    for field in ("seconds", "after_group_seconds"):
        table.put(f"cold_start.{field}", median(starts, field))


@dataclass(frozen=True)
class ColdStart:
    """Seconds until the first score is committed: from the command, and from the group's forming.

    The second by the wall's clock, as the worker's log has it.
    """

    seconds: float
    after_group_seconds: float


async def cold_start(seed: int) -> ColdStart:
    """Start a worker where events wait, and measure how long its first score takes."""
    load = make_load(START_EVENTS, PARTITIONS, seed)
    with fresh_servers(log_level="info") as settings:
        await produce(settings, load, 0, load.events)
        worker = LocalWorker(settings)
        async with Reader(settings) as reader:
            begun = time.monotonic()
            starting = asyncio.create_task(asyncio.to_thread(worker.start))
            try:
                while not any((await reader.overview()).positions.values()):
                    if time.monotonic() - begun > START_LIMIT_SECONDS:
                        raise AssertionError("no score")
                    await asyncio.sleep(0.01)
                seconds, scored_at = time.monotonic() - begun, time.time()
                await starting
                return ColdStart(seconds, scored_at - group_formed_at(worker.log_path.read_text()))
            finally:
                await starting
                worker.stop()


def group_formed_at(log: str) -> float:
    """Give the moment, in seconds since 1970, at which a worker first had its partitions."""
    for line in log.splitlines():
        entry = json.loads(line) if line.startswith("{") else {}
        if entry.get("event") == "group formed":
            return datetime.fromisoformat(entry["timestamp"]).timestamp()
    raise AssertionError("the worker's log does not say when its group was formed")


def measure_latency(given: argparse.Namespace, table: Table) -> None:
    """Measure latency at two rates, the broker alone first."""
    for rate, name in ((1_000, "latency_1k"), (20_000, "latency_20k")):
        found = latency.measure(rate, given.seconds, given.seed)
        for field, value in asdict(found["worker"]).items():
            table.put(f"{name}.{field}", value)
        for field, value in asdict(found["broker"]).items():
            table.put(f"{name}.broker.{field}", value)


def measure_backlog(given: argparse.Namespace, table: Table) -> None:
    """Measure how the backlog of an outage is caught up with, and what live events have of it."""
    found = asyncio.run(backlog.catch_up(given.outage_seconds, given.seed, timed=not given.quick))
    for field, value in asdict(found).items():
        if isinstance(value, dict):
            for name, figure in value.items():
                table.put(f"backlog.{field}.{name}", figure)
        else:
            table.put(f"backlog.{field}", value)
    table.put("backlog.outage_seconds", given.outage_seconds)
    table.put("backlog.verified", True)


def measure_stages(given: argparse.Namespace, table: Table) -> None:
    """Measure where the worker's CPU time goes."""
    for name, cost in stages.measure(2 * given.events, 20_000, given.seed).items():
        table.put(f"stages.{name}", cost)


def draw(given: argparse.Namespace, table: Table) -> None:
    """Draw plots of what is in build/."""
    write(given, table)
    python = environment("plots", MATPLOTLIB)
    subprocess.run([str(python), "-m", "bench.plots"], check=True)


def write(given: argparse.Namespace, table: Table) -> None:
    """Write the figures; those of an earlier run stay where this one has only some parts."""
    given.json.parent.mkdir(parents=True, exist_ok=True)
    before: dict[str, Any] = {}
    if set(given.only) != set(PARTS) and given.json.exists():
        before = json.loads(given.json.read_text())
    given.json.write_text(json.dumps(before | table.found, indent=2) + "\n")


PARTS: dict[str, Callable[[argparse.Namespace, Table], None]] = {
    "worker": measure_rounds,
    "peers": measure_rounds,
    "compact": measure_compact,
    "latency": measure_latency,
    "sustained": measure_sustained,
    "customers": measure_customers,
    "workers": measure_workers,
    "start": measure_start,
    "backlog": measure_backlog,
    "stages": measure_stages,
    "plots": draw,
}
QUICK = ("worker", "compact", "sustained", "customers", "workers", "start", "backlog")
"""Parts that need nothing but Python and run on embedded servers too. Latency, stages, peers and
plots have environments of their own, fetched when they run."""


def job(events: int, seed: int) -> Any:
    """Give the events of a round."""
    return make_load(events, PARTITIONS, seed, warm=WARM)


def median(rounds: list[Any], field: str) -> float:
    """Give the median of a field."""
    return float(statistics.median(getattr(measured, field) for measured in rounds))


def say(what: str, measured: Measured | PeerMeasured) -> None:
    """Print a round."""
    print(
        f"{what}: {measured.cpu_us_per_event:.1f} us of CPU an event, "
        f"{measured.events_per_second:,.0f} events/s, verified, "
        f"machine {measured.machine_busy:.0%} busy",
        flush=True,
    )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"of {', '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--sustained", type=int, default=2_000_000)
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each latency run")
    parser.add_argument("--outage-seconds", type=float, default=600.0, help="of the backlog")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("build/bench-speed.json"))
    parser.add_argument("--quick", action="store_true", help="small, and verified, no more")
    given = parser.parse_args()
    given.only, given.peers = given.only.split(","), given.peers.split(",")
    for names, known in ((given.only, PARTS), (given.peers, PEERS)):
        if unknown := [name for name in names if name not in known]:
            parser.error(f"{', '.join(unknown)}: must be of {', '.join(known)}")
    if given.quick:
        given.only, given.rounds, given.events = list(QUICK), 1, 10_000
        given.sustained, given.customers, given.outage_seconds = 30_000, 20_000, 4.0
    return given


def main() -> None:
    """Measure, print, write, judge."""
    given = arguments()
    table = Table()
    table.put("load_average_before", os.getloadavg()[0])
    done = set()
    for name in given.only:
        if PARTS[name] not in done:
            done.add(PARTS[name])
            print(name, flush=True)
            PARTS[name](given, table)
    table.put("load_average_after", os.getloadavg()[0])
    lines = [] if given.quick else missed(table)
    table.found["missed"] = lines
    write(given, table)
    print("\n".join(["missed:", *lines] if lines else ["verified" if given.quick else "all kept"]))
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
