"""The long run: half of the cases chosen by coverage (atheris), half of them random bytes.

    python -m tests.fuzz.run --cases 1000000 --seed 7

It is cut into rounds, each a process of its own with a seed of its own; the last line is a JSON
object of counts. A case that fails ends the run; it is kept in ``build/fuzz``, and
``--target decoding --file build/fuzz/crash-…`` does it again. Where atheris is not installed, all
cases are random bytes.
"""

import argparse
import importlib
import importlib.util
import itertools
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FAILED = ROOT / "build" / "fuzz"
WATCHED = ["valuetide.streams.decode", "valuetide.scoring"]
ROUND = 20_000
ROUNDS = (("decoding", True), ("decoding", False)) * 4 + (("folding", True), ("folding", False))
"""Target of each round in turn, and whether coverage guides it."""

LENGTHS = (4, 16, 40, 100, 300, 1_000)
CASE_SECONDS = 10
MOST_GROWTH_BYTES = 32 << 20
"""The process may grow by this much from a round's first tenth to its end. Of rounds of random
bytes only: the fuzzer itself keeps some 10 KB a case, while Python has no object more."""

PAGE = 4_096


def resident_bytes() -> int:
    """Memory that the process has now; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * PAGE if statm.exists() else 0


class Round:
    """Counts cases and what became of them."""

    def __init__(self, target: str, cases: int, seed: int, guided: bool) -> None:
        self.facts: dict[str, Any] = {
            "target": target,
            "by": "atheris" if guided else "random",
            "seed": seed,
        }
        self.cases = cases
        self.guided = guided
        self.check: Callable[[bytes], tuple[int, int]] = lambda data: (0, 0)
        self._done = self._accepted = self._rejected = 0
        self._slowest = 0.0
        self._early_bytes = 0
        self._started = time.monotonic()

    def one(self, data: bytes) -> None:
        started = time.perf_counter()
        accepted, rejected = self.check(data)
        self._slowest = max(self._slowest, time.perf_counter() - started)
        self._accepted += accepted
        self._rejected += rejected
        self._done += 1
        if self._done == self.cases // 10 + 1:
            self._early_bytes = resident_bytes()
        if self._done == self.cases:
            self._report()

    def _report(self) -> None:
        # The fuzzer's clock would go on ticking while Python ends, and end it with SIGALRM.
        signal.setitimer(signal.ITIMER_REAL, 0)
        grown = resident_bytes() - self._early_bytes
        facts = self.facts | {
            "cases": self._done,
            "accepted": self._accepted,
            "rejected": self._rejected,
            "seconds": round(time.monotonic() - self._started, 1),
            "slowest_case_ms": round(self._slowest * 1e3, 1),
            "grown_mb": round(grown / 2**20, 1),
        }
        print(json.dumps(facts), flush=True)  # noqa: T201 - what the run is for
        assert self.guided or grown <= MOST_GROWTH_BYTES, "memory grows without bound"

    def run(self) -> None:
        FAILED.mkdir(parents=True, exist_ok=True)
        (self._run_guided if self.guided else self._run_random)()

    def _run_guided(self) -> None:
        """Let atheris choose the cases; does not return."""
        import atheris

        with atheris.instrument_imports(include=WATCHED):
            self.check = importlib.import_module(f"tests.fuzz.{self.facts['target']}").check
        options = {
            "atheris_runs": self.cases,
            "seed": self.facts["seed"],
            "max_len": LENGTHS[-1],
            "len_control": 20,
            "timeout": CASE_SECONDS,
            "rss_limit_mb": 2_048,
            "artifact_prefix": f"{FAILED}/",
            "verbosity": 0,
        }
        atheris.Setup([sys.argv[0], *(f"-{k}={v}" for k, v in options.items())], self.one)
        atheris.Fuzz()

    def _run_random(self) -> None:
        target = self.facts["target"]
        self.check = importlib.import_module(f"tests.fuzz.{target}").check
        chance = random.Random(self.facts["seed"])
        for _ in range(self.cases):
            data = chance.randbytes(chance.choice(LENGTHS))
            try:
                self.one(data)
            except BaseException:
                (FAILED / f"crash-{target}-{self.facts['seed']}").write_bytes(data)
                raise


def run_all(cases: int, seed: int, jobs: int) -> int:
    """Run all rounds, some at a time; gives the exit code."""
    print(f"seed {seed}", flush=True)  # noqa: T201
    with_atheris = importlib.util.find_spec("atheris") is not None
    totals: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    started = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        rounds = []
        for i, (target, guided) in enumerate(itertools.cycle(ROUNDS)):
            left = cases - i * ROUND
            if left <= 0:
                break
            rounds.append(
                pool.submit(
                    run_round, target, min(ROUND, left), seed + i + 1, guided and with_atheris
                )
            )
        for future in as_completed(rounds):
            done = future.result()
            print(done.stdout.splitlines()[-1] if done.stdout else "", flush=True)  # noqa: T201
            if done.returncode:
                pool.shutdown(cancel_futures=True)
                print(done.stdout + done.stderr, file=sys.stderr)  # noqa: T201
                return 1
            facts = json.loads(done.stdout.splitlines()[-1])
            total = totals[f"{facts['target']} by {facts['by']}"]
            for name in ("cases", "accepted", "rejected"):
                total[name] += facts[name]
            for name in ("slowest_case_ms", "grown_mb"):
                total[name] = max(total[name], facts[name])
    took = round(time.monotonic() - started)
    print(json.dumps({"seed": seed, "cases": cases, "seconds": took, **totals}))  # noqa: T201
    return 0


def run_round(
    target: str, cases: int, seed: int, guided: bool
) -> "subprocess.CompletedProcess[str]":
    """Run one round in a process of its own."""
    command = [sys.executable, "-m", "tests.fuzz.run", "--target", target, "--cases", str(cases)]
    command += ["--seed", str(seed), *([] if guided else ["--random"])]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**30))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--target", choices=("decoding", "folding"), help="one round of it")
    parser.add_argument("--random", action="store_true", help="without atheris")
    parser.add_argument("--file", type=Path, help="this case alone")
    arguments = parser.parse_args()
    if arguments.target is None:
        return run_all(arguments.cases, arguments.seed, arguments.jobs)
    if arguments.file:
        check = importlib.import_module(f"tests.fuzz.{arguments.target}").check
        print(check(arguments.file.read_bytes()))  # noqa: T201
        return 0
    Round(arguments.target, arguments.cases, arguments.seed, not arguments.random).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
