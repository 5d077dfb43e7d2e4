"""Latency from the moment an event happens to the moment its score is received.

    VALUETIDE_TEST_SERVERS=apache python -m bench.latency [--rates 1000,20000] [--seconds 20]

The load is open: every event has its time beforehand, and latency counts from that time whether or
not the sender kept it, so that a stall of anything counts for all events that fall into it. The
n-th event of a customer is scored when a score of that customer arrives with a version of n or
more. The broker alone, from producing to consuming the same events at the same rate, comes first.
"""

import argparse
import asyncio
import json
import pickle
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from bench.environments import environment
from bench.load import BAD, Load, make_load
from bench.peer import CONFLUENT, PARTITIONS
from bench.stage import cpu_seconds, fresh_servers
from valuetide.schemas.topics import INPUTS
from valuetide.streams.local import LocalWorker
from valuetide.streams.reader import Reader
from valuetide.streams.settings import Settings

TRAFFIC = Path(__file__).parent / "peers" / "traffic.py"
CUSTOMERS = 20_000
WARM_SECONDS = 3.0
"""The first events meet a worker that has just started; they are sent and not counted."""

SETTLE_SECONDS = 60.0


@dataclass(frozen=True)
class Latency:
    """Percentiles in milliseconds, and how late the sender was at the end."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    worst_ms: float
    events: int
    sender_late_ms: float
    cpu_us_per_event: float | None = None


def summary(
    seconds: NDArray[np.float64], late_seconds: float, cpu_us_per_event: float | None = None
) -> Latency:
    """Give the percentiles of latencies, ``(n,)`` in seconds."""
    p50, p90, p99 = np.percentile(seconds, (50, 90, 99)).tolist()
    worst = float(seconds.max())
    return Latency(
        p50_ms=round(p50 * 1e3, 2),
        p90_ms=round(p90 * 1e3, 2),
        p99_ms=round(p99 * 1e3, 2),
        worst_ms=round(worst * 1e3, 2),
        events=len(seconds),
        sender_late_ms=round(late_seconds * 1e3, 2),
        cpu_us_per_event=cpu_us_per_event,
    )


def arrivals_by_version(
    sent: dict[bytes, list[float]], received: dict[bytes, list[tuple[float, int]]]
) -> dict[bytes, NDArray[np.float64]]:
    """Give for each customer's events in order the moment of the first score that contains them.

    Parameters
    ----------
    sent
        By customer the times of its good events, in order.
    received
        By customer moment and version of its scores, in the order of arrival.
    """
    found: dict[bytes, NDArray[np.float64]] = {}
    for customer, times in sent.items():
        scores = received.get(customer, [])
        newest = np.maximum.accumulate(np.array([version for _, version in scores], np.int64))
        where = np.searchsorted(newest, np.arange(1, len(times) + 1), side="left")
        if len(where) and (not len(newest) or where[-1] >= len(newest)):
            raise AssertionError(f"{customer!r}: {len(times)} events, but no such version")
        found[customer] = np.array([at for at, _ in scores])[where]
    return found


class Traffic:
    """A listener and a sender, in processes of their own."""

    def __init__(
        self, settings: Settings, topics: list[str], partitions: Sequence[int], folder: Path
    ) -> None:
        self._python = str(environment("confluent", CONFLUENT))
        self._settings, self._folder = settings, folder
        self._listener = subprocess.Popen(
            [
                *(self._python, str(TRAFFIC), "listen", settings.broker),
                *(",".join(topics), ",".join(map(str, partitions)), str(folder / "received")),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._listener.stdout is not None
        if self._listener.stdout.readline() != b"ready\n":
            raise AssertionError("the listener did not start")

    def send(
        self, load: Load, rate: float, begin: int = 0, end: int | None = None
    ) -> dict[str, Any]:
        """Send the events from ``begin`` up to ``end`` at this rate; gives their intended times."""
        topics = self._settings.topics
        events = [
            (getattr(topics, role), partition, key, value)
            for role, partition, key, value in islice(load.in_order(), begin, end)
        ]
        (self._folder / "events").write_bytes(pickle.dumps(events))
        out = self._folder / "sent"
        subprocess.run(
            [
                *(self._python, str(TRAFFIC), "send", self._settings.broker),
                *(str(self._folder / "events"), str(rate), str(out)),
            ],
            check=True,
        )
        return dict(pickle.loads(out.read_bytes()))

    def received(self) -> list[tuple[float, bytes, bytes]]:
        """End the listener, and give moment, key and value of all it has received."""
        assert self._listener.stdin is not None
        self._listener.stdin.close()
        self._listener.wait()
        return list(pickle.loads((self._folder / "received").read_bytes()))

    def close(self) -> None:
        """End the listener, whatever it does."""
        if self._listener.poll() is None:
            self._listener.kill()
            self._listener.wait()


@contextmanager
def traffic(
    settings: Settings, topics: list[str], partitions: Sequence[int] = range(PARTITIONS)
) -> Iterator[Traffic]:
    """Listen to partitions of topics for the length of the block."""
    with tempfile.TemporaryDirectory() as folder:
        both = Traffic(settings, topics, partitions, Path(folder))
        try:
            yield both
        finally:
            both.close()


def broker_alone(load: Load, rate: float) -> tuple[Latency, NDArray[np.float64]]:
    """Measure the time from producing an event to consuming it."""
    with (
        fresh_servers() as settings,
        traffic(settings, [getattr(settings.topics, role) for role in INPUTS]) as both,
    ):
        sent = both.send(load, rate)
        time.sleep(1.0)
        received = both.received()
    # Within a partition of a topic the order is kept, so the n-th sent is the n-th received; the
    # values tell them apart, for all are different but the bad ones.
    at = {value: moment for moment, _, value in received}
    pairs = [
        (intended, at[value])
        for intended, (*_, value) in zip(sent["intended"], load.in_order(), strict=True)
        if value not in BAD
    ]
    times = np.array(pairs)
    counted = times[:, 0] >= times[0, 0] + WARM_SECONDS
    seconds = (times[:, 1] - times[:, 0])[counted]
    return summary(seconds, sent["late_seconds"]), seconds


async def scored(load: Load, rate: float) -> tuple[Latency, NDArray[np.float64]]:
    """Measure the time from producing an event to receiving its score."""
    with (
        fresh_servers() as settings,
        LocalWorker(settings) as worker,
        traffic(settings, [settings.topics.scores]) as both,
    ):
        before = cpu_seconds([worker.pid])
        sent = await asyncio.to_thread(both.send, load, rate)
        await settle(settings, load)
        cpu = (cpu_seconds([worker.pid]) - before) / load.events * 1e6
        received = both.received()
    return latencies(load, sent, received, round(cpu, 2))


def latencies(
    load: Load,
    sent: dict[str, Any],
    received: list[tuple[float, bytes, bytes]],
    cpu_us_per_event: float,
) -> tuple[Latency, NDArray[np.float64]]:
    """Match scores with events; those of the first seconds are left out."""
    begin, seconds = delays(load, sent["intended"], received)
    seconds = seconds[begin >= sent["intended"][0] + WARM_SECONDS]
    return summary(seconds, sent["late_seconds"], cpu_us_per_event), seconds


def delays(
    load: Load, intended: Sequence[float], received: list[tuple[float, bytes, bytes]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give intended time and latency in seconds of each good event, ``(n,)`` both."""
    scores: dict[bytes, list[tuple[float, int]]] = defaultdict(list)
    for moment, key, value in received:
        scores[key].append((moment, int(from_json(value)["version"])))
    times: dict[bytes, list[float]] = defaultdict(list)
    for moment, (*_, key, value) in zip(intended, load.in_order(), strict=True):
        if value not in BAD:
            times[key].append(moment)
    arrivals = arrivals_by_version(times, scores)
    begin = np.concatenate([np.array(times[customer]) for customer in arrivals])
    return begin, np.concatenate(list(arrivals.values())) - begin


async def settle(settings: Settings, load: Load) -> None:
    """Wait until everything is committed."""
    positions = load.positions(load.events)
    async with Reader(settings) as reader:
        if not await reader.wait_for_positions(positions, SETTLE_SECONDS):
            raise AssertionError("not done in time")


def measure(rate: int, seconds: float, seed: int) -> dict[str, Latency]:
    """Measure broker and worker at one rate, the broker first; raw latencies go to build/."""
    count = int(rate * (seconds + WARM_SECONDS))
    load = make_load(count, 4, seed, customers=min(CUSTOMERS, count))
    found: dict[str, Latency] = {}
    for name, (result, raw) in {
        "broker": broker_alone(load, rate),
        "worker": asyncio.run(scored(load, rate)),
    }.items():
        found[name] = result
        np.save(Path("build") / f"latency-{rate}-{name}.npy", raw)
    return found


def main() -> None:
    """Print latencies for each rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", default="1000,20000")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for rate in map(int, given.rates.split(",")):
        for name, result in measure(rate, given.seconds, given.seed).items():
            print(rate, name, json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    main()
