"""Workers killed at chosen moments, stopped, slowed, added and removed."""

import hashlib
import importlib.resources
import os
import re
import signal
import time
from collections.abc import Callable

from tests.chaos.crew import Worker
from tests.chaos.fault import Fault, Injected, NotInjectedError
from tests.chaos.proxy import JOIN_GROUP, SYNC_GROUP, Moment, Trap, is_request
from tests.chaos.stage import CREW, Stage

ADDED, REMOVED = "added, one or two at once", "removed, all but two at once"
FENCING = "stopped in a commit, fenced, continued"
"""A run in whose plan this is must have seen a commit refused."""

TRAP_SECONDS = 20.0
TAKE_OVER_SECONDS = 25.0
"""Session timeout, rebalance and the first commit of whoever takes over, with room to spare."""

ON_ITS_WAY_SECONDS = 0.3
"""What the watch sees within this may be a commit from before the worker was stopped."""

COMMIT_SHARD = re.compile(rb"\{(\d+)\}:commit\r")
REFUSED = b"*4\r\n:0\r\n"
"""How Redis's answer to a commit that is refused begins: the script's first value is 0."""

REPLACED_SECONDS = 1.5
"""A killed worker that the others are to replace is started again so long after they could have."""


def _script_name() -> bytes:
    script = importlib.resources.files("valuetide.streams.store") / "commit.lua"
    return hashlib.sha1(script.read_bytes(), usedforsecurity=False).hexdigest().encode()


COMMIT = _script_name()


def _victim(stage: Stage) -> Worker:
    """Choose a worker that works, and leave at least one other."""
    while len(stage.crew.workers) < CREW:
        stage.crew.add()
    busy = [worker for worker in stage.crew.running() if worker.ready_partitions()]
    if not busy:
        raise NotInjectedError("no worker works")
    return stage.chance.choice(busy)


def _restart_after(stage: Stage) -> float:
    return stage.chance.choice((0.0, 2 * stage.session_seconds + REPLACED_SECONDS))


def kill_worker(stage: Stage) -> Injected:
    victim = _victim(stage)
    time.sleep(stage.chance.random() * 0.3)
    after = _restart_after(stage)
    at = time.monotonic()
    state = stage.crew.kill(victim, after)
    if state not in "RSD":
        raise NotInjectedError(f"its state was {state}")
    return Injected(at, at, f"pid {victim.pid} was in state {state}", noticed=after > 0)


def _kill_at_commit(moment: Moment) -> Callable[[Stage], Injected]:
    def inject(stage: Stage) -> Injected:
        workers = {worker.pid: worker for worker in stage.crew.running()}
        after = _restart_after(stage)
        for worker in workers.values():
            worker.lock.acquire()
        try:
            trap = Trap(lambda data: COMMIT in data[:400], moment, frozenset(workers))
            if not stage.redis_proxy.set_trap(trap, TRAP_SECONDS):
                raise NotInjectedError("no commit went by")
            stage.crew.expect_death(workers[trap.pid], after)
        finally:
            for worker in workers.values():
                worker.lock.release()
        return Injected(
            trap.sprung_at,
            trap.sprung_at,
            f"pid {trap.pid}, {moment} its commit of {trap.seen_bytes} bytes or more",
            noticed=after > 0,
        )

    return inject


def kill_in_rebalance(stage: Stage) -> Injected:
    """A member's JoinGroup or SyncGroup kills it; another one that joins makes it send it."""
    old = {worker.pid: worker for worker in stage.crew.running()}
    number = stage.chance.choice((JOIN_GROUP, SYNC_GROUP))
    for worker in old.values():
        worker.lock.acquire()
    try:
        trap = Trap(
            lambda data: is_request(data, number),
            stage.chance.choice(("before", "after")),
            frozenset(old),
        )
        stage.broker_proxy.arm(trap)
        added = stage.crew.add()
        sprung = trap.sprung.wait(TRAP_SECONDS)
        stage.broker_proxy.arm(None)
        if sprung:
            stage.crew.expect_death(old[trap.pid], 0.0)
    finally:
        for worker in old.values():
            worker.lock.release()
    if not sprung:
        raise NotInjectedError("no rebalance went by")
    name = "JoinGroup" if number == JOIN_GROUP else "SyncGroup"
    evidence = f"pid {trap.pid}, {trap.moment} its {name} of {trap.seen_bytes} bytes"
    return Injected(trap.sprung_at, trap.sprung_at, f"{evidence}, when {added.name} joined")


def kill_at_start(stage: Stage) -> Injected:
    victim = _victim(stage)
    first = time.monotonic()
    stage.crew.kill(victim, 0.0)
    old = victim.pid
    while (victim.pid == old or not victim.running) and time.monotonic() < first + TRAP_SECONDS:
        time.sleep(0.02)
    time.sleep(stage.chance.uniform(0.2, 3.0))
    if victim.ready_partitions() is not None:
        raise NotInjectedError("it was ready already")
    at = time.monotonic()
    state = stage.crew.kill(victim, 0.0)
    if state not in "RSD":
        raise NotInjectedError(f"its state was {state}")
    return Injected(at, at, f"pid {victim.pid}, {at - victim.started_at:.1f} s after its start")


def freeze_worker(stage: Stage) -> Injected:
    victim = _victim(stage)
    seconds = stage.session_seconds + stage.chance.uniform(1.5, 4.0)
    at = time.monotonic()
    with stage.frozen(victim):
        time.sleep(seconds)
        state = victim.process_state()
        others = stage.watch.recovered(at)
    if state != "T":
        raise NotInjectedError(f"its state was {state}")
    taken = "its shards were taken over" if others else "nobody had taken over its shards"
    return Injected(at, at, f"pid {victim.pid} stopped for {seconds:.1f} s; {taken}")


def fence_worker(stage: Stage) -> Injected:
    """Stopped with a commit on its way, which reaches Redis when another has the shard."""
    workers = {worker.pid: worker for worker in stage.crew.running()}
    if len(workers) < CREW:
        raise NotInjectedError("there is nobody to take over")
    trap = Trap(lambda data: COMMIT in data[:400], "held", frozenset(workers))
    try:
        if not stage.redis_proxy.set_trap(trap, TRAP_SECONDS):
            raise NotInjectedError("no commit went by")
        shard = COMMIT_SHARD.search(trap.request)
        assert shard is not None, trap.request[:400]
        partition = int(shard.group(1))
        taken_over = _wait_for_others(stage, partition, trap.sprung_at)
        state = workers[trap.pid].process_state()
        trap.released.set()
        answered = trap.answered.wait(TRAP_SECONDS)
    finally:
        trap.released.set()
        if trap.pid:
            os.kill(trap.pid, signal.SIGCONT)
    over = time.monotonic()
    if state != "T" or not taken_over:
        raise NotInjectedError(f"its state was {state}, shard taken over: {taken_over}")
    if not answered or not trap.answer.startswith(REFUSED):
        raise AssertionError(
            f"a stopped worker's commit to partition {partition}, which another has taken over, "
            f"was not refused; Redis said {trap.answer[:100]!r}"
        )
    seconds = over - trap.sprung_at
    what = f"pid {trap.pid} stopped for {seconds:.1f} s, its commit to partition {partition} held"
    return Injected(trap.sprung_at, over, f"{what} until another had made one, then refused")


def _wait_for_others(stage: Stage, partition: int, stopped_at: float) -> bool:
    """Wait until a shard whose owner is stopped goes on; whether it does."""
    base: int | None = None
    while time.monotonic() < stopped_at + TAKE_OVER_SECONDS:
        look = stage.watch.last()
        if look is not None and look.at > stopped_at + ON_ITS_WAY_SECONDS:
            base = look.sequence[partition] if base is None else base
            if look.sequence[partition] > base:
                return True
        time.sleep(0.05)
    return False


def slow_worker(stage: Stage) -> Injected:
    """One that gets a fifth of the processor's time, in slices of a tenth of a second."""
    victim = _victim(stage)
    at = time.monotonic()
    slices = 0
    while time.monotonic() < at + 5.0:
        with stage.frozen(victim):
            time.sleep(0.16)
            slices += victim.process_state() == "T"
        time.sleep(0.04)
    if slices < 15:
        raise NotInjectedError(f"stopped {slices} times only")
    over = time.monotonic()
    return Injected(at, over, f"pid {victim.pid} stopped {slices} times", by_standstill=True)


def add_workers(stage: Stage) -> Injected:
    count = stage.chance.choice((1, 2))
    at = time.monotonic()
    added = [stage.crew.add() for _ in range(count)]
    limit = at + 40
    while any(worker.ready_partitions() is None for worker in added) and time.monotonic() < limit:
        time.sleep(0.1)
    if any(worker.ready_partitions() is None for worker in added):
        raise NotInjectedError("they were not ready in time")
    names = ", ".join(worker.name for worker in added)
    return Injected(at, time.monotonic(), f"{names} joined", by_standstill=True)


def remove_workers(stage: Stage) -> Injected:
    while len(stage.crew.workers) <= CREW:
        stage.crew.add()
    if not stage.crew.settled(40):
        raise NotInjectedError("the workers are not all ready")
    leaving = stage.chance.sample(stage.crew.workers, len(stage.crew.workers) - CREW)
    at = time.monotonic()
    codes = [stage.crew.remove(worker) for worker in leaving]
    if any(code != 0 for code in codes):
        raise AssertionError(f"workers that were told to end did so with {codes}")
    names = ", ".join(worker.name for worker in leaving)
    return Injected(at, time.monotonic(), f"{names} left with code 0", by_standstill=True)


WORKER_FAULTS = (
    Fault("killed at a random moment", "worker", kill_worker),
    Fault("killed between publish and commit", "worker", _kill_at_commit("before")),
    Fault("killed inside a commit, half of it sent", "worker", _kill_at_commit("inside")),
    Fault("killed after a commit, unanswered", "worker", _kill_at_commit("after")),
    Fault("killed in a rebalance", "worker", kill_in_rebalance),
    Fault("killed while it starts", "worker", kill_at_start),
    Fault("stopped beyond its session, continued", "worker", freeze_worker),
    Fault(FENCING, "worker", fence_worker),
    Fault("slow: a fifth of the time", "worker", slow_worker),
    Fault(ADDED, "worker", add_workers),
    Fault(REMOVED, "worker", remove_workers),
)
