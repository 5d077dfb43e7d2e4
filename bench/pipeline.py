"""The whole job on this machine: events of all three kinds in, scores and committed state out.

    python -m bench.pipeline [--events 200000] [--rounds 3] [--json build/bench-pipeline.json]

The worker starts and does some first events. It is frozen while the others are written to the
topics, and measured from the moment it goes on until all is committed, so that only its work is
measured, and all of it. A round counts only when the state was
verified: every event is accounted for, every customer's sums equal those of a plain program over
the same events, every bad event is a dead letter, and `scores` holds the newest version of each
customer. CPU time is the operating system's, of the worker process alone.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic_core import from_json
from redis import asyncio as aioredis

from bench.load import Load, Outcome, Sums, difference, make_load, produce
from bench.stage import busy_share, cpu_seconds, fresh_servers, frozen, memory_mib
from valuetide.schemas.topics import INPUTS
from valuetide.streams.deadletters import read_dead_letters, read_records
from valuetide.streams.local import LocalWorker
from valuetide.streams.reader import Overview, Reader
from valuetide.streams.settings import Settings

WAIT_SECONDS = 900.0
POLL_SECONDS = 0.05
USAGE_KEYS = 1_000
WARM = 2_000
"""First events, which are not measured."""

Observed = Callable[[int], AbstractContextManager[object]]


@dataclass(frozen=True)
class Measured:
    """Outcome of one verified round.

    Attributes
    ----------
    events_per_second, cpu_us_per_event
        Between the moment the worker goes on and the last commit.
    machine_busy
        Share of all cores' time that was used meanwhile, by whomever.
    memory_mib
        The most that one worker held.
    redis_bytes_per_customer
        MEMORY USAGE of all keys.
    """

    events_per_second: float
    cpu_us_per_event: float
    machine_busy: float
    memory_mib: float
    redis_bytes_per_customer: float


async def verify(settings: Settings, load: Outcome, overview: Overview) -> None:
    """Compare state, dead letters and scores with what must be; raise where they differ."""
    cents = {"revenue": "revenue", "refunds": "refunds", "cost_to_serve": "cost"}
    wanted: dict[str, float] = {
        "customers": len(load.customers),
        "orders": load.total("orders"),
        **{name: load.total(of) / 100 for name, of in cents.items()},
    }
    found = {name: overview.totals[name] for name in wanted}
    if found != wanted:
        raise AssertionError(f"totals are {found}, must be {wanted}")
    counts: Counter[str] = Counter()
    for role in INPUTS:
        counts.update(overview.events[role])
    expected = {"folded": load.events - load.bad, "dead_letter": load.bad}
    if {name: count for name, count in counts.items() if count} != expected:
        raise AssertionError(f"events are {dict(counts)}, must be {expected}")
    letters = [letter async for letter in read_dead_letters(settings)]
    if len(letters) != load.bad:
        raise AssertionError(f"{len(letters)} dead letters, must be {load.bad}")
    state: dict[str, Sums] = {}
    async with Reader(settings) as reader:
        async for score in reader.scan():
            last = score["last_order_at"]
            state[score["customer_id"]] = Sums(
                version=score["version"],
                orders=score["orders"],
                revenue=round(score["revenue"] * 100),
                refunds=round(score["refunds"] * 100),
                cost=round(score["cost_to_serve"] * 100),
                last_order_at=0 if last is None else ms_of(str(last)),
            )
    if state != load.customers:
        raise AssertionError(f"customers in Redis differ: {difference(state, load)}")
    published: dict[str, int] = {}
    async for record in read_records(settings, settings.topics.scores):
        message = from_json(record.value or b"{}")
        customer = message["customer_id"]
        published[customer] = max(published.get(customer, 0), message["version"])
    if published != {customer: sums.version for customer, sums in load.customers.items()}:
        raise AssertionError("the scores topic does not hold the newest versions")


def ms_of(text: str) -> int:
    """Give milliseconds since 1970 of ``YYYY-MM-DDTHH:MM:SS.mmmZ``."""
    return int(datetime.fromisoformat(text).timestamp() * 1_000 + 0.5)


def _nobody(pid: int) -> AbstractContextManager[object]:
    return nullcontext()


async def one_round(
    load: Load,
    *,
    workers: int = 1,
    observed: Observed = _nobody,
    **overrides: object,
) -> Measured:
    """Run the job once from the beginning, verify it, and give what was measured.

    Parameters
    ----------
    load
        The events.
    workers
        Processes that share the partitions.
    observed
        Makes a context that is entered with the first worker's process id while it works.
    overrides
        Settings.
    """
    with fresh_servers(**overrides) as settings, ExitStack() as stack:
        crew = [stack.enter_context(LocalWorker(settings)) for _ in range(workers)]
        pids = [worker.pid for worker in crew]
        await wait_until_shared(crew, settings.partitions)
        await produce(settings, load, 0, load.warm)
        async with Reader(settings) as reader:
            await finish(crew, reader, load.positions(load.warm))
            with frozen(pids):
                await produce(settings, load, load.warm, load.events)
            with observed(pids[0]):
                cpu, at, (busy, machine) = cpu_seconds(pids), time.monotonic(), busy_share()
                await finish(crew, reader, load.positions(load.events))
                cpu, seconds = cpu_seconds(pids) - cpu, time.monotonic() - at
            busy, machine = busy_share()[0] - busy, busy_share()[1] - machine
            overview = await reader.overview()
        memory = max(memory_mib(pid, "VmHWM") for pid in pids)
        await verify(settings, load, overview)
        redis_bytes = await memory_usage(settings)
    events = load.events - load.warm
    return Measured(
        events / seconds,
        cpu / events * 1e6,
        busy / machine,
        memory,
        redis_bytes / len(load.customers),
    )


async def wait_until_shared(crew: list[LocalWorker], partitions: int) -> None:
    """Wait until the workers share all partitions evenly."""
    give_up = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < give_up:
        shares = [json.loads(worker.get("/readyz")[1]).get("partitions", []) for worker in crew]
        if all(len(s) == partitions // len(crew) for s in shares):
            return
        await asyncio.sleep(POLL_SECONDS)
    raise AssertionError("the workers do not share the partitions")


async def finish(
    crew: list[LocalWorker], reader: Reader, positions: dict[tuple[str, int], int]
) -> None:
    """Wait until the state is committed up to these offsets."""
    give_up = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < give_up:
        at = (await reader.overview()).positions
        if all(at.get(place, 0) >= offset for place, offset in positions.items()):
            return
        await asyncio.sleep(POLL_SECONDS)
    raise AssertionError(f"not done in time; the worker says\n{crew[0].log_tail()}")


async def memory_usage(settings: Settings) -> int:
    """Give the bytes of all keys in Redis, by MEMORY USAGE."""
    async with aioredis.from_url(settings.redis_url.get_secret_value()) as client:
        keys = [key async for key in client.scan_iter(count=USAGE_KEYS)]
        total = 0
        for at in range(0, len(keys), USAGE_KEYS):
            async with client.pipeline(transaction=False) as pipeline:
                for key in keys[at : at + USAGE_KEYS]:
                    pipeline.memory_usage(key, samples=0)
                total += sum(await pipeline.execute())
        return total


def main() -> None:
    """Run the rounds and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("build/bench-pipeline.json"))
    given = parser.parse_args()
    rounds = []
    for number in range(given.rounds):
        started = time.monotonic()
        load = make_load(given.events, 4, given.seed + number, warm=WARM)
        measured = asyncio.run(one_round(load))
        rounds.append(measured)
        print(
            f"round {number + 1}: {measured.events_per_second:,.0f} events/s, "
            f"{measured.cpu_us_per_event:.1f} us of CPU an event, verified "
            f"({time.monotonic() - started:.0f} s in all, "
            f"machine {measured.machine_busy:.0%} busy while measuring)"
        )
    result = {
        "events": given.events,
        "worker": {
            "events_per_second": round(statistics.median(r.events_per_second for r in rounds)),
            "cpu_us_per_event": round(statistics.median(r.cpu_us_per_event for r in rounds), 2),
            "redis_bytes_per_customer": round(
                statistics.median(r.redis_bytes_per_customer for r in rounds)
            ),
            "verified": True,
        },
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["worker"]))


if __name__ == "__main__":
    main()
