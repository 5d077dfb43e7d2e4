"""The workers, and who starts them again when they end, as a supervisor would."""

import contextlib
import http.client
import json
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from valuetide.streams.guarded import GuardedServer, ServerStartError
from valuetide.streams.local import LocalWorker
from valuetide.streams.settings import Settings

SUPERVISE_SECONDS = 0.1
RESTART_SECONDS = 1.0
"""Between the end of a worker that ended by itself and its next start."""


class Worker(LocalWorker):
    """A worker that is not waited for."""

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings)
        self.name = name
        self.lock = threading.RLock()
        self.wanted = True
        self.blamed = False
        """Whether the process's end is our doing."""
        self.start_after = 0.0
        self.started_at = 0.0

    def _answers(self, port: int) -> bool:
        return True

    def ready_partitions(self) -> int | None:
        """Give how many partitions it works on; ``None`` while it is not ready."""
        try:
            status, text = self.get("/readyz")
        except (OSError, http.client.HTTPException):
            return None
        return len(json.loads(text).get("partitions", [])) if status == 200 else None

    def process_state(self) -> str:
        """Give the operating system's letter for what it does: R, S, T, Z; X where it is gone."""
        return process_state(self.pid)


def process_state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


@dataclass(frozen=True)
class Exit:
    """A worker that ended by itself."""

    at: float
    worker: str
    last_words: str


class Crew:
    """The workers, and who starts them again when they end, as a supervisor would."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._names = iter(range(1, 10_000))
        self.workers: list[Worker] = []
        self.gone: list[Worker] = []
        self.exits: list[Exit] = []
        self.starts = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._supervise, daemon=True)

    def __enter__(self) -> "Crew":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join(20)
        for worker in (*self.workers, *self.gone):
            worker.grace_seconds = 0.0
            worker.stop()

    def add(self) -> Worker:
        worker = Worker(self._settings, f"w{next(self._names)}")
        self.workers.append(worker)
        self._start(worker)
        return worker

    def remove(self, worker: Worker, timeout_seconds: float = 40.0) -> int | None:
        """Tell a worker to end, wait, and give its exit code; ``None`` where it had to be killed.

        It stays in :attr:`gone`, for its log.
        """
        with worker.lock:
            worker.wanted = False
            self.workers.remove(worker)
            self.gone.append(worker)
            with contextlib.suppress(ProcessLookupError):
                signal_process(worker, signal.SIGTERM)
        deadline = time.monotonic() + timeout_seconds
        while worker.running and time.monotonic() < deadline:
            time.sleep(0.05)
        if worker.running:
            worker.kill()
            return None
        assert worker._guard is not None
        return worker._guard.code()

    def kill(self, worker: Worker, restart_after: float) -> str:
        """Kill a worker; gives the state that its process was in."""
        with worker.lock:
            state = worker.process_state()
            worker.blamed = True
            worker.start_after = time.monotonic() + restart_after
            worker.kill()
        return state

    def expect_death(self, worker: Worker, restart_after: float) -> None:
        """Note that somebody else is going to kill a worker for us."""
        with worker.lock:
            worker.blamed = True
            worker.start_after = time.monotonic() + restart_after

    def running(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.running]

    def settled(self, limit_seconds: float) -> bool:
        """Wait until all workers are ready and have all partitions; whether they have."""
        deadline = time.monotonic() + limit_seconds
        while time.monotonic() < deadline:
            parts = [worker.ready_partitions() for worker in self.workers]
            if None not in parts and sum(filter(None, parts)) == self._settings.partitions:
                return True
            time.sleep(0.1)
        return False

    def words(self, text: str) -> int:
        """Count lines with a text in all logs."""
        return sum(
            worker.log_path.read_text(errors="replace").count(text)
            for worker in (*self.workers, *self.gone)
        )

    def _start(self, worker: Worker) -> None:
        with worker.lock:
            worker.blamed = False
            self.starts += 1
            worker.started_at = time.monotonic()
            try:
                worker.start()
            except ServerStartError:
                worker.start_after = time.monotonic() + RESTART_SECONDS

    def _supervise(self) -> None:
        while not self._end.wait(SUPERVISE_SECONDS):
            for worker in list(self.workers):
                with worker.lock:
                    if not worker.wanted or worker.running:
                        continue
                    if not worker.blamed:
                        worker.blamed = True
                        worker.start_after = time.monotonic() + RESTART_SECONDS
                        words = worker.log_tail(1)
                        self.exits.append(Exit(time.monotonic(), worker.name, words))
                    if time.monotonic() >= worker.start_after:
                        self._start(worker)


def signal_process(server: GuardedServer, number: signal.Signals) -> None:
    """Send a signal to a server that runs."""
    if not server.running:
        raise ProcessLookupError(server.title)
    signal_pid(server.pid, number)


def signal_pid(pid: int, number: signal.Signals) -> None:
    os.kill(pid, number)
