"""Servers for one measurement, and what the operating system says of processes."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.servers import kind_of_servers, make_broker, make_redis
from valuetide.streams.local import LOCAL, NO_DOORS, prepare
from valuetide.streams.settings import Settings, load_settings

MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def fresh_servers(**overrides: Any) -> Iterator[Settings]:
    """Start an empty broker with the topics and an empty Redis; gives the settings for them.

    ``VALUETIDE_TEST_SERVERS`` says which; see :mod:`tests.support.servers`.
    """
    quick: dict[str, Any] = {**LOCAL, "log_level": "warning", "log_format": "json"}
    if kind_of_servers() == "apache":
        del quick["fetch_max_wait_ms"]  # Apache Kafka answers as soon as there is something.
    with make_broker() as broker, make_redis() as redis:
        settings = load_settings(
            broker=broker.address, redis_url=redis.url, **{**quick, **NO_DOORS, **overrides}
        )
        prepare(settings)
        yield settings


def cpu_seconds(pids: Iterable[int]) -> float:
    """Give the CPU time so far, user and system, of processes with their descendants.

    Includes children that have ended and were waited for.
    """
    found, left = set[int](), list(pids)
    total = 0
    while left:
        pid = left.pop()
        if pid in found:
            continue
        found.add(pid)
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
            left += [int(p) for t in tasks for p in (t / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
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
