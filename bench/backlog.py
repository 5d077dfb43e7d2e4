"""After an outage half of the shards have all of its events to catch up with, the others none.

    VALUETIDE_TEST_SERVERS=apache python -m bench.backlog [--outage-seconds 600]

A worker scores live events in the live partitions: the latency before. It is stopped, and what
5,000 events/s of an outage come to is written to the other partitions. A worker is started and has
all of it before it, while live events go on at the same rate. Measured are speed, memory, how old
the oldest event is that is not committed, and the latency of live events until all is caught up.

A run counts only when it was verified: state, dead letters and newest scores as everywhere in these
measurements; and each score of the shards that were behind says of its customer's orders what the
first so many of them come to, and is newer than the one before: oldest first, none left out.
"""

import argparse
import asyncio
import json
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field

import numpy as np
from pydantic_core import from_json

from bench.latency import WARM_SECONDS, Latency, Traffic, delays, summary, traffic
from bench.load import BAD, Load, Outcome, make_load, produce
from bench.peer import PARTITIONS
from bench.pipeline import finish, verify
from bench.stage import busy_share, fresh_servers, memory_mib
from valuetide.streams.deadletters import read_records
from valuetide.streams.local import LocalWorker
from valuetide.streams.reader import Reader
from valuetide.streams.settings import Settings

BEHIND, LIVE = (0, 1), (2, 3)
CUSTOMERS = 20_000
RATE = 5_000
"""Events a second that nobody worked on in the outage."""

LIVE_RATE = 1_000
BEFORE_SECONDS = 20.0
LEAST_SPEED = 20_000
"""Live events go on for as long as catching up takes at so many events a second."""

PIECE = 200_000
"""Events that are made and written at a time."""

LOOK_SECONDS = 0.25
GIVE_UP_SPEED = 1_000
"""Events a second with which it would never catch up with 5,000."""


@dataclass(frozen=True)
class CaughtUp:
    """Outcome of a verified run.

    Attributes
    ----------
    events
        That had waited.
    seconds
        From the command that starts the worker until all of them are committed.
    memory_before_mib, memory_most_mib, memory_after_mib
        Resident memory of the worker: when it is ready, at its most, when all is caught up.
    memory_growth_mib
        Its most in the last third of the time, less its most in the first two.
    age_at_half
        Age of the oldest event that is not committed when half of the time is over, as a share of
        the outage.
    topics_apart_seconds
        The most by which a topic was further than another of its partition, in time of the outage.
    before, during, after
        Latency of live events: without a backlog, until it is caught up, and from then on.
    """

    events: int
    seconds: float
    events_per_second: float
    machine_busy: float
    memory_before_mib: float
    memory_most_mib: float
    memory_after_mib: float
    memory_growth_mib: float
    age_at_half: float
    topics_apart_seconds: float
    before: Latency | None = None
    during: Latency | None = None
    after: Latency | None = None


@dataclass
class Waiting:
    """What was written in the outage.

    Attributes
    ----------
    positions
        By role and partition the number of events.
    revenue
        By customer what the first order comes to, the first two, and so on, in cents.
    """

    positions: Counter[tuple[str, int]] = field(default_factory=Counter)
    revenue: dict[str, "array[int]"] = field(default_factory=lambda: defaultdict(_cents))

    def add(self, load: Load) -> None:
        """Note further events."""
        self.positions.update(load.positions(load.events))
        for (role, _), messages in load.messages.items():
            if role == "orders":
                for key, value in messages:
                    if value not in BAD and (event := from_json(value))["kind"] == "placed":
                        sums = self.revenue[key.decode()]
                        sums.append((sums[-1] if sums else 0) + round(event["amount"] * 100))

    def in_order(self, customer: str, orders: int, revenue: float) -> bool:
        """Tell whether so much revenue is that of the customer's first so many orders."""
        sums = self.revenue[customer]
        return orders <= len(sums) and round(revenue * 100) == (sums[orders - 1] if orders else 0)


def _cents() -> "array[int]":
    return array("q")


@dataclass(frozen=True)
class Look:
    """Where the worker was at a moment: shares of each topic's backlog, and its memory."""

    at: float
    shares: dict[tuple[str, int], float]
    memory_mib: float


def backlog(seconds: float, seed: int) -> Iterator[Load]:
    """Give the events of an outage, piece by piece, oldest first."""
    count = int(RATE * seconds)
    for first in range(0, count, PIECE):
        piece = min(PIECE, count - first)
        yield make_load(
            piece, PARTITIONS, seed + first, customers=CUSTOMERS, homes=BEHIND, first=first
        )


async def catch_up(outage_seconds: float, seed: int, *, timed: bool = True) -> CaughtUp:
    """Run the scenario once, verify it, and give what was measured.

    Parameters
    ----------
    outage_seconds
        Length of the outage.
    seed
        Of all chance.
    timed
        Whether live events are sent on a timetable, and waited for; else all at once, with no
        latencies, and what is measured tells nothing but that it was right.
    """
    before = int(LIVE_RATE * (WARM_SECONDS + BEFORE_SECONDS)) if timed else LIVE_RATE
    during = int(LIVE_RATE * (WARM_SECONDS + RATE * outage_seconds / LEAST_SPEED))
    live = make_load(before + during, PARTITIONS, seed, customers=CUSTOMERS, homes=LIVE)
    expected, waiting = Outcome(), Waiting()
    expected.include(live)
    async with AsyncExitStack() as stack:
        settings = stack.enter_context(fresh_servers())
        reader = await stack.enter_async_context(Reader(settings))
        scores = settings.topics.scores
        both = stack.enter_context(traffic(settings, [scores], LIVE)) if timed else None
        with LocalWorker(settings) as worker:
            intended = await send(settings, both, live, 0, before)
            await finish([worker], reader, live.positions(before))
        for piece in backlog(outage_seconds, seed):
            await produce(settings, piece, 0, piece.events)
            waiting.add(piece)
            expected.include(piece)
        begun, (busy, machine) = time.monotonic(), busy_share()
        with LocalWorker(settings) as worker:
            memory = memory_mib(worker.pid)
            sending = asyncio.create_task(send(settings, both, live, before, live.events))
            looks = await watch(worker, reader, waiting.positions)
            busy, machine = busy_share()[0] - busy, busy_share()[1] - machine
            memory_after = memory_mib(worker.pid)
            intended += await sending
            await finish([worker], reader, live.positions(live.events))
            memory_most = memory_mib(worker.pid, "VmHWM")
            overview = await reader.overview()
        received = both.received() if both is not None else []
        await verify(settings, expected, overview)
        await verify_order(settings, waiting)
    seconds = looks[-1].at - begun
    events = waiting.positions.total()
    return CaughtUp(
        events=events,
        seconds=seconds,
        events_per_second=events / seconds,
        machine_busy=busy / machine,
        memory_before_mib=memory,
        memory_most_mib=memory_most,
        memory_after_mib=memory_after,
        memory_growth_mib=memory_growth(looks),
        age_at_half=age(looks, begun, outage_seconds, begun + seconds / 2) / outage_seconds,
        topics_apart_seconds=topics_apart(looks) * outage_seconds,
        **(latencies(live, intended, received, begun, looks[-1].at) if timed else {}),
    )


async def send(
    settings: Settings, both: Traffic | None, live: Load, begin: int, end: int
) -> list[float]:
    """Send live events, and give their intended times; all at once, and none, without traffic."""
    if both is None:
        await produce(settings, live, begin, end)
        return []
    sent = await asyncio.to_thread(both.send, live, LIVE_RATE, begin, end)
    return list(sent["intended"])


async def watch(
    worker: LocalWorker, reader: Reader, waiting: Counter[tuple[str, int]]
) -> list[Look]:
    """Look at the worker until it has caught up."""
    looks: list[Look] = []
    give_up = time.monotonic() + WARM_SECONDS + waiting.total() / GIVE_UP_SPEED
    while not looks or min(looks[-1].shares.values()) < 1.0:
        if time.monotonic() > give_up:
            raise AssertionError(f"not caught up in time; the worker says\n{worker.log_tail()}")
        await asyncio.sleep(LOOK_SECONDS)
        positions = (await reader.overview()).positions
        shares = {place: positions.get(place, 0) / count for place, count in waiting.items()}
        looks.append(Look(time.monotonic(), shares, memory_mib(worker.pid)))
    return looks


def memory_growth(looks: list[Look]) -> float:
    """Give the most memory in the last third of the looks, less the most in those before, MiB."""
    late = len(looks) - len(looks) // 3
    most = [
        max((look.memory_mib for look in part), default=0.0)
        for part in (looks[:late], looks[late:])
    ]
    return max(0.0, most[1] - most[0])


def age(looks: list[Look], begun: float, outage_seconds: float, moment: float) -> float:
    """Give the age in seconds, at a moment, of the oldest event that is not committed.

    The first event happened ``outage_seconds`` before the worker was started, the last just then.
    """
    at = [begun, *(look.at for look in looks)]
    least = [0.0, *(min(look.shares.values()) for look in looks)]
    left = 1.0 - float(np.interp(moment, at, least))
    return left * outage_seconds + moment - begun if left else 0.0


def topics_apart(looks: list[Look]) -> float:
    """Give the most by which a topic was further than another of its partition, as a share."""
    apart = [0.0]
    for look in looks:
        for partition in BEHIND:
            shares = [share for (_, home), share in look.shares.items() if home == partition]
            apart.append(max(shares) - min(shares))
    return max(apart)


def latencies(
    live: Load,
    intended: list[float],
    received: list[tuple[float, bytes, bytes]],
    begun: float,
    ended: float,
) -> dict[str, Latency]:
    """Give latencies before, during and after catching up, without the first of each worker."""
    due, seconds = delays(live, intended, received)
    again = min(moment for moment in intended if moment > begun) + WARM_SECONDS
    parts = {
        "before": (due >= intended[0] + WARM_SECONDS) & (due < begun),
        "during": (due >= again) & (due < ended),
        "after": due >= ended + WARM_SECONDS,
    }
    return {name: summary(seconds[part], 0.0) for name, part in parts.items() if part.any()}


async def verify_order(settings: Settings, waiting: Waiting) -> None:
    """Make sure that scores of the shards that were behind came in the order of their events."""
    versions: dict[str, int] = {}
    async for record in read_records(settings, settings.topics.scores):
        if record.partition not in BEHIND:
            continue
        score = from_json(record.value or b"{}")
        customer, version = score["customer_id"], score["version"]
        if version < versions.get(customer, 0):
            raise AssertionError(f"{customer}: version {version} after {versions[customer]}")
        versions[customer] = version
        if not waiting.in_order(customer, score["orders"], score["revenue"]):
            raise AssertionError(f"{customer}, version {version}: not its oldest orders")


def main() -> None:
    """Run the scenario once and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outage-seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(json.dumps(asdict(asyncio.run(catch_up(given.outage_seconds, given.seed))), indent=2))


if __name__ == "__main__":
    main()
