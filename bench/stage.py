"""Servers for one measurement, and what the operating system says of processes."""

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.servers import kind_of_servers, make_broker, make_redis
from valuetide.streams.local import LOCAL, NO_DOORS, prepare
from valuetide.streams.settings import Settings, load_settings

MIB = 1 << 20
SESSION_SECONDS = 120.0
"""A worker may be frozen for this long and keeps its partitions. The embedded broker would keep it
waiting as long at its first join."""

TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def fresh_servers(**overrides: Any) -> Iterator[Settings]:
    """Start an empty broker with the topics and an empty Redis; gives the settings for them.

    ``VALUETIDE_TEST_SERVERS`` says which; see :mod:`tests.support.servers`.
    """
    quick: dict[str, Any] = {**LOCAL, "log_level": "warning", "log_format": "json"}
    if kind_of_servers() == "apache":
        del quick["fetch_max_wait_ms"]  # Apache Kafka answers as soon as there is something.
        quick["session_timeout_seconds"] = SESSION_SECONDS
    with make_broker() as broker, make_redis() as redis:
        settings = load_settings(
            broker=broker.address, redis_url=redis.url, **{**quick, **NO_DOORS, **overrides}
        )
        prepare(settings)
        yield settings


@contextmanager
def frozen(pids: Iterable[int]) -> Iterator[None]:
    """Stop processes and their descendants for the length of the block.

    What is written meanwhile is there at once when they go on, and writing it took nothing of the
    time that is measured.
    """
    every = tree(pids)
    for pid in every:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in every:
            os.kill(pid, signal.SIGCONT)


def tree(pids: Iterable[int]) -> list[int]:
    """Give processes with their descendants."""
    found: list[int] = []
    left = list(pids)
    while left:
        pid = left.pop()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                left += [int(child) for child in (task / "children").read_text().split()]
            found.append(pid)
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Give the CPU time so far, user and system, of processes with their descendants.

    Includes children that have ended and were waited for.
    """
    total = 0
    for pid in tree(pids):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime: proc(5)
    return total / TICKS


def thread_cpu_seconds(pid: int) -> dict[int, float]:
    """Give the CPU time so far, user and system, of each thread of a process."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            found[int(task.name)] = (int(fields[11]) + int(fields[12])) / TICKS
    return found


def memory_mib(pid: int, name: str = "VmRSS") -> float:
    """Give a process's resident memory, ``VmHWM`` for the most it ever was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / MIB
    raise ValueError(f"no {name} of process {pid}")


def busy_share() -> tuple[float, float]:
    """Give the machine's busy and total CPU seconds so far, to tell how loaded it was."""
    fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS, sum(fields) / TICKS
