"""Faults under load, then the reckoning.

    python -m tests.chaos [--servers embedded|apache] [--seconds 150] [--faults N] [--seed S]
                          [--short] [--only TEXT] [--report build/chaos.json]
    python -m tests.chaos --tables build/chaos-*.json

A producer in a process of its own sends events at a steady rate; faults of all classes come one
after the other, in an order that follows from the seed. Then everything is compared with a batch
recomputation from the same seed. The exit code is 0 only when all of it agrees.
"""

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

from tests.chaos.broker_faults import BROKER_FAULTS, LONG_FAULTS
from tests.chaos.fault import Fault, Injected, NotInjectedError
from tests.chaos.network_faults import NETWORK_FAULTS
from tests.chaos.redis_faults import REDIS_FAULTS
from tests.chaos.report import Entry, Report, read, runs, table
from tests.chaos.stage import CREW, Stage
from tests.chaos.verify import sent_events, verify, wait_until_done
from tests.chaos.worker_faults import ADDED, FENCING, REMOVED, WORKER_FAULTS
from valuetide.streams.guarded import ServerStartError

ALL = (*WORKER_FAULTS, *NETWORK_FAULTS, *REDIS_FAULTS, *BROKER_FAULTS)
RATE = 5_500.0
LONG_SECONDS = 300.0
"""A run of this length has a broker that is away for a minute, too."""

WARM_SECONDS = 4.0
"""Before the first fault: a state that is younger than what Redis may lose would be lost whole."""

RECOVERY_LIMIT_SECONDS = 90.0
SETTLE_LIMIT_SECONDS = 60.0
DONE_LIMIT_SECONDS = 180.0
ATTEMPTS = 3
"""For a fault that came too late or too early to be one."""

SHORT = (
    "killed at a random moment",
    "killed between publish and commit",
    "killed in a rebalance",
    "killed while it starts",
    FENCING,
    ADDED,
    REMOVED,
    "connections cut, broker",
    "connections truncated, Redis",
    "killed, last second lost",
    "out of memory",
    "fails over to its replica",
    "slow to write",
    "hangs for 2 to 8 s",
)
"""Something of every kind, in two minutes and the reckoning."""


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def named(fault: Fault, only: str) -> bool:
    return any(text in f"{fault.family}: {fault.name}" for text in only.split("|"))


def plan(kind: str, seed: int, *, short: bool, long: bool, only: str) -> list[Fault]:
    """Give faults in order: every class once, then again in another order, and so on."""
    chance = random.Random(f"{seed}/plan")
    classes = [fault for fault in ALL if kind in fault.kinds and named(fault, only)]
    if short:
        classes = [fault for fault in classes if fault.name in SHORT]
        chance.shuffle(classes)
        _remove_what_was_added(classes)
        return classes
    faults: list[Fault] = []
    for turn in range(100):
        turned = [*classes, *(LONG_FAULTS if turn == 0 and long else ())]
        chance.shuffle(turned)
        faults += turned
    return faults


def _remove_what_was_added(faults: list[Fault]) -> None:
    """Put the removal of workers behind their addition: it would have to add some itself."""
    places = [at for at, fault in enumerate(faults) if fault.name in (ADDED, REMOVED)]
    pair = sorted((faults[at] for at in places), key=lambda fault: fault.name != ADDED)
    for at, fault in zip(places, pair, strict=True):
        faults[at] = fault


class Run:
    """One run: a stage, a plan, a report."""

    def __init__(self, stage: Stage, report: Report) -> None:
        self.stage, self.report = stage, report
        self.began = time.monotonic()

    def start(self) -> None:
        """Start workers and load, and wait until events are being counted."""
        stage = self.stage
        for _ in range(CREW):
            stage.crew.add()
        if not stage.crew.settled(SETTLE_LIMIT_SECONDS):
            raise AssertionError("the workers do not get ready")
        stage.start_load()
        if stage.watch.wait_recovered(time.monotonic(), SETTLE_LIMIT_SECONDS) is None:
            raise AssertionError(f"no event is counted; the producer says: {stage.load_log()}")
        time.sleep(WARM_SECONDS)
        self.began = time.monotonic()

    def strike(self, fault: Fault) -> None:
        """Inject one fault, and wait until all goes on again."""
        stage, report = self.stage, self.report
        for _ in range(ATTEMPTS):
            stage.check_load()
            began = time.monotonic()
            try:
                injected = fault.inject(stage)
            except NotInjectedError as why:
                entry = Entry(self._clock(began), fault.family, fault.name, False, str(why))
                report.entries.append(entry)
                say(f"{entry.at:7.1f}  {fault.family}: {fault.name}: not injected, {why}")
                stage.crew.settled(SETTLE_LIMIT_SECONDS)
                continue
            self._await_recovery(fault, injected)
            return

    def _await_recovery(self, fault: Fault, injected: Injected) -> None:
        stage, report = self.stage, self.report
        at = stage.watch.wait_recovered(injected.over, RECOVERY_LIMIT_SECONDS)
        complaint = "" if at is not None else f"not within {RECOVERY_LIMIT_SECONDS:g} s"
        recovery = None if at is None else at - injected.over
        noticed = None
        if at is not None and injected.noticed:
            joins = [join for join in stage.broker_proxy.joins if injected.at < join < at]
            noticed = at - joins[0] if joins else None
        if not stage.crew.settled(SETTLE_LIMIT_SECONDS):
            complaint = f"{complaint} workers not all ready within {SETTLE_LIMIT_SECONDS:g} s"
        if injected.by_standstill and at is not None:
            recovery = stage.watch.standstill(injected.at, time.monotonic())
        entry = Entry(
            self._clock(injected.at),
            fault.family,
            fault.name,
            True,
            injected.evidence,
            recovery,
            noticed,
            complaint.strip(),
        )
        report.entries.append(entry)
        seconds = "never" if recovery is None else f"{recovery:.1f} s"
        say(f"{entry.at:7.1f}  {fault.family}: {fault.name}: {injected.evidence}; again: {seconds}")
        if complaint:
            report.failures.append(f"{fault.family}: {fault.name}: {complaint}")
            say(f"         {complaint}")
            for worker in stage.crew.workers:
                say(f"--- {worker.name}, {worker.process_state()}\n{worker.log_tail(12)}")
        time.sleep(stage.chance.uniform(0.3, 1.5))

    def _clock(self, at: float) -> float:
        return round(at - self.began, 1)

    def finish(self) -> None:
        """Stop the load, wait for the last event, and compare."""
        stage, report = self.stage, self.report
        say("the producer ends its cohort ...")
        sent = stage.stop_load()
        # While the broker is away the producer waits; the rate is that of the rest of the time.
        sent["events_per_second"] = round(
            sent["messages"] / (sent["seconds"] - sent["held_up_seconds"])
        )
        report.load = sent
        say(f"sent: {sent}")
        events = sent_events(stage.seed, sent["cohorts"])
        done = wait_until_done(stage, len(events), DONE_LIMIT_SECONDS)
        if not done:
            report.failures.append(f"not all was committed within {DONE_LIMIT_SECONDS:g} s")
        crew = stage.crew
        ended = crew.exits
        refused = crew.words("is at commit")
        fenced = sum(entry.fault == FENCING for entry in report.injected)
        planned = any(entry.fault == FENCING for entry in report.entries)
        if planned and not (fenced and refused):
            report.failures.append(
                f"{fenced} workers were stopped in a commit, their logs have {refused} refused: "
                "nothing shows that fencing holds"
            )
        report.workers = {
            "starts": crew.starts,
            "exits": len(ended),
            "refused": refused,
            "recoveries": crew.words("shard starts again"),
        }
        for words, count in Counter(end.last_words[-200:] for end in ended).items():
            say(f"workers ended by themselves {count} times, saying: {words}")
        say(f"workers: {report.workers}")
        began = time.monotonic()
        try:
            report.verified = verify(stage, events, sent["cohorts"])
        except AssertionError as error:
            report.failures.append(f"verification: {str(error)[:4_000]}")
        else:
            say(f"verified in {time.monotonic() - began:.0f} s: {report.verified}")


def main() -> int:
    """Run, and give the exit code."""
    given = _arguments()
    if given.tables:
        reports = [read(path) for path in given.tables]
        say(runs(reports) + "\n\n" + table(reports))
        return 0
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10_000)
    command = f"python -m tests.chaos --servers {given.servers} --seed {seed}"
    command += " --short" if given.short else f" --seconds {given.seconds:g}"
    command += f" --faults {given.faults}" if given.faults else ""
    say(f"seed {seed}: {command}")
    report = Report(given.servers, seed, command)
    with Stage(given.servers, seed, given.rate, brisk=given.short) as stage:
        run = Run(stage, report)
        run.start()
        end = run.began + given.seconds
        try:
            long = given.seconds >= LONG_SECONDS
            faults = plan(given.servers, seed, short=given.short, long=long, only=given.only)
            for fault in faults:
                if given.faults and len(report.injected) >= given.faults:
                    break
                if time.monotonic() > end:
                    break
                run.strike(fault)
            run.finish()
        except (AssertionError, ServerStartError) as error:
            report.failures.append(str(error)[:4_000])
        if given.keep:
            _keep_logs(stage, given.keep)
    report.write(given.report)
    say("\n" + table([report]))
    few = len(report.injected) < given.at_least
    if few:
        report.failures.append(f"{len(report.injected)} faults injected, not {given.at_least}")
    for failure in report.failures:
        say(f"FAILED: {failure}")
    say(f"{len(report.injected)} faults, {'all is as it must be' if report.sound else 'NOT SOUND'}")
    return 0 if report.sound else 1


def _keep_logs(stage: Stage, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for worker in (*stage.crew.workers, *stage.crew.gone):
        text = worker.log_path.read_text(errors="replace")
        (folder / f"{worker.name}.log").write_text(text)
    (folder / "broker.log").write_text(stage.broker.log_tail(2_000))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--servers", choices=("embedded", "apache"), default="embedded")
    parser.add_argument("--seconds", type=float, default=150.0, help="no fault begins after this")
    parser.add_argument("--faults", type=int, help="end after so many")
    parser.add_argument("--at-least", type=int, default=1, help="fewer is a failure")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--rate", type=float, default=RATE, help="events per second")
    parser.add_argument("--short", action="store_true", help="one fault of each kind")
    parser.add_argument(
        "--only", default="", help="only faults with one of these texts, a|b, in family: name"
    )
    parser.add_argument("--report", type=Path, default=Path("build/chaos.json"))
    parser.add_argument("--keep", type=Path, help="a folder for the logs of workers and broker")
    parser.add_argument("--tables", type=Path, nargs="+", help="print tables of earlier runs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
