"""Where the worker's CPU time goes: a profile by stage that adds up to the whole.

    VALUETIDE_TEST_SERVERS=apache python -m bench.stages [--events 400000] [--rate 1000]

py-spy looks a few hundred times a second at which threads of the worker are on a processor, and
where in the program they are. Each look counts for the stage of the innermost frame that belongs to
one; each thread's shares are then those of its CPU time as the operating system has it.

With a rate the events come at that rate rather than all at once: micro-batches are small then, and
what each of them costs by itself shows.
"""

import argparse
import asyncio
import re
import signal
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.environments import environment
from bench.latency import settle, traffic
from bench.load import make_load
from bench.pipeline import WARM, one_round
from bench.stage import cpu_seconds, fresh_servers, thread_cpu_seconds
from valuetide.streams.local import LocalWorker

PY_SPY = ("py-spy==0.4.3",)
LOOKS_PER_SECOND = 250
RAW = Path("build/bench-stages.txt")

STAGES = (
    ("decode", r"streams/decode\.py"),
    ("load new customers", r"(add_customers|read_states|unknown|_resolve) \("),
    ("learn", r"\b_?learn \(|lifetime/(learner|sample|tempo|conformal|pieces)\.py"),
    ("lifetime value", r"\bexpect \(|lifetime/"),
    ("fold", r"scoring/(fold|settle|ledger|decay)\.py|\bfold \("),
    ("pack states", r"\bpack \(|scoring/packed\.py"),
    ("encode messages", r"score_messages"),
    ("encode rows", r"score_rows|format_times|columns \(.*records\.py"),
    ("current value, ranks, totals", r"\bscore \(|current_value|_rank|_total|records\.py"),
    ("encode commit", r"commit \(.*shard_memory|sum_months|dead_letters|strays"),
    ("publish", r"streams/publish\.py|aiokafka/producer"),
    ("commit to Redis", r"store/redis\.py|\(redis/"),
    ("fetch", r"aiokafka/(consumer|record)|streams/transport\.py|_fetch_records"),
    ("metrics", r"streams/metrics\.py|_measure|prometheus_client"),
)
"""Stage and how a frame of it looks, ``function (file:line)``; the first that fits counts."""

SURROUNDINGS = (
    ("shard, rest", r"streams/"),
    ("Kafka connection", r"aiokafka/"),
    ("Faust", r"\((faust|mode)/"),
    ("event loop", r"asyncio/|selectors\.py"),
)
"""What counts where no frame is of a stage."""

WAITING = r"EpollSelector\.select|concurrent/futures/thread\.py|wait \(threading\.py"
"""Innermost frames of a thread that waits, though it may look as if it ran."""


def stage_of(stack: str) -> str:
    """Give the stage of a stack: frames from the outermost to the innermost, with ``;`` between."""
    frames = stack.split(";")[::-1]
    for stages in (STAGES, SURROUNDINGS):
        for frame in frames:
            for name, pattern in stages:
                if re.search(pattern, frame):
                    return name
    return "rest"


def costs(profile: str, thread_seconds: dict[int, float], whole: float) -> dict[str, float]:
    """Give the CPU seconds of each stage, largest first.

    Parameters
    ----------
    profile
        Lines ``thread (id): name;frame;frame count``.
    thread_seconds
        By thread's id the CPU time that it took, as the operating system has it.
    whole
        The process's CPU time, seconds; what no thread of Python took is called other threads.
    """
    looks: dict[int, Counter[str]] = defaultdict(Counter)
    for line in profile.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, _, frames = stack.partition(";")
        number = re.match(r"thread \((\d+)\)", thread)
        if number and not re.search(WAITING, frames.rpartition(";")[2]):
            looks[int(number[1])][stage_of(frames)] += int(count)
    found: dict[str, float] = defaultdict(float)
    for thread_id, counts in looks.items():
        a_look = thread_seconds.get(thread_id, 0.0) / counts.total()
        for name, looked in counts.items():
            found[name] += looked * a_look
    found["other threads"] = whole - sum(found.values())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


class Profiler:
    """Looks at one process."""

    def __init__(self) -> None:
        self._program = environment("py-spy", PY_SPY).with_name("py-spy")
        self.profile = ""
        self.cpu_seconds = 0.0
        self.thread_seconds: dict[int, float] = {}

    @contextmanager
    def observe(self, pid: int) -> Iterator[None]:
        """Look at it for the length of the block."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "profile"
            command = [
                *(str(self._program), "record", "--pid", str(pid), "--format", "raw"),
                *("--rate", str(LOOKS_PER_SECOND), "--duration", "unlimited"),
                *("--threads", "--output", str(out)),
            ]
            spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
            before, threads = cpu_seconds([pid]), thread_cpu_seconds(pid)
            try:
                yield
                self.cpu_seconds = cpu_seconds([pid]) - before
                self.thread_seconds = {
                    thread: seconds - threads.get(thread, 0.0)
                    for thread, seconds in thread_cpu_seconds(pid).items()
                }
                spy.send_signal(signal.SIGINT)
                spy.wait(60)
                self.profile = out.read_text()
            finally:
                spy.kill()
                spy.wait()


def measure(events: int, customers: int, seed: int) -> dict[str, float]:
    """Give microseconds an event by stage, largest first; what py-spy saw goes to build/."""
    load = make_load(events, 4, seed, customers=customers, warm=WARM)
    profiler = Profiler()
    asyncio.run(one_round(load, observed=profiler.observe))
    RAW.parent.mkdir(parents=True, exist_ok=True)
    RAW.write_text(profiler.profile)
    found = costs(profiler.profile, profiler.thread_seconds, profiler.cpu_seconds)
    return {name: round(seconds / events * 1e6, 2) for name, seconds in found.items()}


async def measure_at(rate: float, events: int, seed: int) -> tuple[dict[str, float], int]:
    """Give microseconds an event by stage at a rate of events, and how many micro-batches."""
    load = make_load(events, 4, seed, customers=events)
    profiler = Profiler()
    with (
        fresh_servers() as settings,
        LocalWorker(settings) as worker,
        traffic(settings, [settings.topics.scores]) as both,
    ):
        with profiler.observe(worker.pid):
            await asyncio.to_thread(both.send, load, rate)
            await settle(settings, load)
        metrics = worker.get("/metrics")[1]
    made = re.search(r'^valuetide_commits_total\{outcome="committed"\} (\S+)$', metrics, re.M)
    assert made is not None
    found = costs(profiler.profile, profiler.thread_seconds, profiler.cpu_seconds)
    return {name: seconds / events * 1e6 for name, seconds in found.items()}, int(float(made[1]))


def main() -> None:
    """Print microseconds an event by stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--customers", type=int, default=20_000)
    parser.add_argument("--rate", type=float, help="events a second; else all at once")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if given.rate:
        found, batches = asyncio.run(measure_at(given.rate, given.events, given.seed))
        cost = sum(found.values()) * given.events / batches
        print(f"{given.events / batches:.1f} events a micro-batch, {cost:,.0f} us of CPU each")
    else:
        found = measure(given.events, given.customers, given.seed)
    whole = sum(found.values())
    for name, cost in found.items():
        print(f"{cost:7.2f} us  {cost / whole:4.0%}  {name}")
    print(f"{whole:7.2f} us  100%  the whole, of {given.events:,} events")


if __name__ == "__main__":
    main()
