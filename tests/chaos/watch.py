"""Looks at the committed state twenty times a second, past all proxies, and remembers it."""

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import redis

from valuetide.schemas.topics import INPUTS
from valuetide.streams.store.redis import commit_key

LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Look:
    """What was seen at a moment: by partition its commit's sequence, and events accounted for."""

    at: float
    sequence: tuple[int, ...]
    events: tuple[int, ...]
    file_sizes: dict[Path, int] = field(default_factory=dict)


class Watch:
    """The history of the state.

    Parameters
    ----------
    port
        Gives the port of the Redis that counts now.
    folder
        Gives the folder of its append-only file.
    prefix, partitions
        Of the state.
    """

    def __init__(
        self, port: Callable[[], int], folder: Callable[[], Path], prefix: str, partitions: int
    ) -> None:
        self._port, self._folder = port, folder
        self._prefix, self._partitions = prefix, partitions
        self.history: list[Look] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join(5)

    def _run(self) -> None:
        client: redis.Redis | None = None
        port = 0
        while not self._end.wait(LOOK_SECONDS):
            try:
                if client is None or port != self._port():
                    port = self._port()
                    client = redis.Redis("127.0.0.1", port, socket_timeout=0.5)
                self.history.append(self._look(client))
            except (redis.RedisError, OSError, ValueError):
                client = None

    def _look(self, client: redis.Redis) -> Look:
        names = ["sequence", *(f"offset:{role}" for role in INPUTS)]
        with client.pipeline(transaction=False) as pipeline:
            for partition in range(self._partitions):
                pipeline.hmget(commit_key(self._prefix, partition), names)
            rows = [[int(value or 0) for value in row] for row in pipeline.execute()]
        sizes = {path: path.stat().st_size for path in self._folder().rglob("*.incr.aof")}
        return Look(
            time.monotonic(),
            tuple(row[0] for row in rows),
            tuple(sum(row[1:]) for row in rows),
            sizes,
        )

    def between(self, start: float, end: float) -> list[Look]:
        return [look for look in self.history if start <= look.at <= end]

    def last(self) -> Look | None:
        return self.history[-1] if self.history else None

    def recovered(self, after: float) -> float | None:
        """Tell when every partition had gone on, after a moment; ``None`` while it has not.

        Where the state was seen to go back, it counts from there.
        """
        base: Look | None = None
        for look in self.history:
            if look.at < after:
                continue
            if base is None or any(
                now < then for now, then in zip(look.sequence, base.sequence, strict=True)
            ):
                base = look
            elif all(now > then for now, then in zip(look.sequence, base.sequence, strict=True)):
                return look.at
        return None

    def wait_recovered(self, after: float, limit_seconds: float) -> float | None:
        """Wait until every partition has gone on; ``None`` where it has not within the limit."""
        deadline = time.monotonic() + limit_seconds
        while (at := self.recovered(after)) is None and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        return at

    def standstill(self, start: float, end: float) -> float:
        """Give the longest time between two commits of any partition, within a period."""
        looks = self.between(start, end)
        longest = 0.0
        for partition in range(self._partitions):
            changes = [start]
            for before, now in itertools.pairwise(looks):
                if before.sequence[partition] != now.sequence[partition]:
                    changes.append(now.at)
            changes.append(end)
            longest = max(longest, *(b - a for a, b in itertools.pairwise(changes)))
        return longest

    def commits(self, start: float, end: float) -> int:
        """Count commits within a period."""
        looks = self.between(start, end)
        return sum(looks[-1].sequence) - sum(looks[0].sequence) if looks else 0
