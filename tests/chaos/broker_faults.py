"""An Apache Kafka that ends and comes back with its data."""

import resource
import signal
import time
from collections.abc import Callable

from tests.chaos.crew import signal_process
from tests.chaos.fault import Fault, Injected, NotInjectedError
from tests.chaos.network_faults import hanging, unreachable
from tests.chaos.stage import Stage


def _end_and_start(stage: Stage, number: signal.Signals, away_seconds: float) -> tuple[float, int]:
    """End the broker by a signal and start it again; gives when it was gone, and its old pid."""
    broker, pid = stage.broker, stage.broker.pid
    signal_process(broker, number)
    deadline = time.monotonic() + 60
    while broker.running and time.monotonic() < deadline:
        time.sleep(0.05)
    at = time.monotonic()
    if broker.running:
        raise NotInjectedError("it did not end")
    time.sleep(away_seconds)
    broker.start()
    return at, pid


def _broker_restart(number: signal.Signals) -> Callable[[Stage], Injected]:
    def inject(stage: Stage) -> Injected:
        at = time.monotonic()
        _, old = _end_and_start(stage, number, stage.chance.uniform(0, 3))
        over = time.monotonic()
        return Injected(
            at, over, f"pid {old} ended by {number.name}, answers as {stage.broker.pid}"
        )

    return inject


def broker_disk_full(stage: Stage) -> Injected:
    """No file may grow beyond what it is: the system's answer is an error, as on a full disk."""
    broker = stage.broker
    at = time.monotonic()
    resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (256 * 1024, resource.RLIM_INFINITY))
    while broker.running and time.monotonic() < at + 30:
        time.sleep(0.05)
    if broker.running:
        resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (-1, -1))
    said = broker.log_path.read_text(errors="replace").count("File too large")
    if not said:
        raise NotInjectedError("it could write")
    ended = "went on" if broker.running else "ended by itself"
    broker.start()
    return Injected(at, time.monotonic(), f"could not write {said} times, {ended}, started again")


BROKER_FAULTS = (
    Fault("hangs for 2 to 8 s", "broker", hanging("broker", 2, 8)),
    Fault("unreachable for 4 to 12 s", "broker", unreachable("broker", 4, 12)),
    Fault("killed and started", "broker", _broker_restart(signal.SIGKILL), ("apache",)),
    Fault("stopped and started", "broker", _broker_restart(signal.SIGTERM), ("apache",)),
    Fault("disk full, started with room", "broker", broker_disk_full, ("apache",)),
)

LONG_FAULTS = (Fault("unreachable for a minute", "broker", unreachable("broker", 60, 60)),)
"""For runs that have the time."""
