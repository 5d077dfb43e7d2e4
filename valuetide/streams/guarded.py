"""A server that we start for ourselves and that never outlives us: start, stop, kill, same port."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from valuetide.schemas.errors import FaultError

LOOPBACK = "127.0.0.1"
PORT_ATTEMPTS = 5
"""Ports to try when another program takes the chosen one before the server has it."""

PROBE_SECONDS = 0.01
LOG_LINES = 20
GUARD_SECONDS = 10.0
"""A guard that was told to end has this long beyond the server's own time to end."""

KEPT_ENVIRONMENT = ("PATH", "LANG", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "JAVA_HOME")
"""Nothing else reaches the server: a stray setting of ours must not change what it does."""


class ServerStartError(FaultError):
    """A server did not start; the text has the end of its log."""


class PortTakenError(ServerStartError):
    """The port is another program's."""


class GuardedServer(ABC):
    """A child process that listens on one loopback port, with a temporary folder of its own.

    A guard process stands between: when we end in whatever way, ``kill -9`` included, it kills the
    server and removes the folder. Not for use by several threads at once.

    Parameters
    ----------
    port
        The port to listen on; ``None`` for a free one, chosen at the first start and kept for
        later ones, so that clients find the server again.
    start_seconds
        It must answer within this time.

    Attributes
    ----------
    grace_seconds
        Time to end by itself at :meth:`stop`; 0 where there is nothing worth saving.
    """

    title: ClassVar[str]
    """What messages call it."""

    def __init__(self, port: int | None = None, *, start_seconds: float = 15.0) -> None:
        self.start_seconds = start_seconds
        self.grace_seconds = 0.0
        self._port = port
        self._pid = 0
        self._guard: _GuardHandle | None = None

    @abstractmethod
    def _command(self, folder: Path, port: int) -> Sequence[str]:
        """Give program and arguments; files that it needs are put into the folder."""

    @abstractmethod
    def _answers(self, port: int) -> bool:
        """Tell whether it is ready, and is ours rather than another program on that port."""

    def start(self) -> Self:
        """Start it and wait until it answers. Nothing happens where it runs already.

        After :meth:`kill` it comes back in the same folder, after :meth:`stop` in a new one.

        Raises
        ------
        PortTakenError
            Where the port that was asked for, or was used before, is taken.
        ServerStartError
            Where it ends at once or does not answer in time.
        """
        if self.running:
            return self
        if self._guard is not None and self._guard.gone:
            self.stop()
        try:
            if self._port is not None:
                self._start_on(self._port)
                return self
            for attempt in range(PORT_ATTEMPTS):
                port = free_port()
                try:
                    self._start_on(port)
                except PortTakenError:
                    if attempt == PORT_ATTEMPTS - 1:
                        raise
                else:
                    self._port = port
                    return self
        except BaseException:
            self.stop()
            raise
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """End it and remove its folder. Nothing happens where it is stopped already."""
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.end(self.grace_seconds)

    def kill(self) -> None:
        """Kill it with SIGKILL, and return when it is gone; its folder stays for its log."""
        if self._guard is not None:
            self._guard.ask(kill=True)

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._guard is not None and self._guard.code() is None

    @property
    def pid(self) -> int:
        """Id of the server's process, the last one where it was killed."""
        self._started()
        return self._pid

    @property
    def guard_pid(self) -> int:
        """Id of its guard's process."""
        return self._started().pid

    @property
    def port(self) -> int:
        """The port, known from the first start on."""
        if self._port is None:
            raise FaultError(f"{self.title}: has no port yet; call start() first")
        return self._port

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def folder(self) -> Path:
        """Its temporary folder, there until :meth:`stop`."""
        return self._started().folder

    @property
    def log_path(self) -> Path:
        """File with all that it wrote to standard output and error."""
        return self.folder / "server.log"

    def log_tail(self, lines: int = LOG_LINES) -> str:
        """Give the last lines of its log."""
        try:
            text = self.log_path.read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _started(self) -> "_GuardHandle":
        if self._guard is None:
            raise FaultError(f"{self.title}: is not started; call start() first")
        return self._guard

    def _start_on(self, port: int) -> None:
        if not port_is_free(port):
            raise PortTakenError(
                f"{self.title}: port {port} is in use; choose another, or stop what listens there"
            )
        deadline = time.monotonic() + self.start_seconds
        if self._guard is None:
            self._guard = _GuardHandle(self.title)
        self._run(self._command(self.folder, port))
        while True:
            # First whether it answers, then whether it runs: the other way round it could die
            # in between and another program answer.
            answers = self._answers(port)
            code = self._guard.code()
            if code is not None:
                raise self._ended(port, code)
            if answers:
                return
            if time.monotonic() > deadline:
                raise ServerStartError(
                    f"{self.title}: no answer on port {port} within {self.start_seconds:g} s"
                    f"{self._quoted_log()}"
                )
            time.sleep(PROBE_SECONDS)

    def _run(self, command: Sequence[str]) -> None:
        answer = self._started().ask(run=[*command], log=self.log_path.name)
        if "error" in answer:
            raise ServerStartError(f"{self.title}: cannot run {command[0]}: {answer['error']}")
        self._pid = answer["pid"]

    def _run_to_end(self, command: Sequence[str]) -> None:
        """Run a program that prepares the folder; its output goes to the same log."""
        deadline = time.monotonic() + self.start_seconds
        self._run(command)
        while (code := self._started().code()) is None:
            if time.monotonic() > deadline:
                raise ServerStartError(
                    f"{self.title}: {command[0]} took over {self.start_seconds:g} s"
                    f"{self._quoted_log()}"
                )
            time.sleep(PROBE_SECONDS)
        if code:
            raise ServerStartError(
                f"{self.title}: {command[0]} ended with code {code}{self._quoted_log()}"
            )

    def _ended(self, port: int, code: int) -> ServerStartError:
        log = self.log_tail(200).lower()
        # Each of the servers names errno 98 (48 on macOS) in one of these ways.
        taken = "address in use" in log or "address already in use" in log
        kind = PortTakenError if taken else ServerStartError
        return kind(
            f"{self.title}: ended at once with code {code}, wanted port {port}{self._quoted_log()}"
        )

    def _quoted_log(self) -> str:
        tail = self.log_tail()
        return f"; the end of its log:\n{tail}" if tail else "; it wrote nothing"


class _GuardHandle:
    """Our side of the guard: the process, and the pipe whose closing ends it."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.folder = Path(tempfile.gettempdir()) / f"valuetide-{secrets.token_hex(6)}"
        self._lock = threading.Lock()
        # The guard makes the folder, so that there is never one without a guard. Python opens
        # the pipes close-on-exec, so that no other child of ours holds the end that matters.
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                str(Path(__file__).with_name("guard.py")),
                str(self.folder),
                str(os.getpid()),
            ],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(self.folder),
            start_new_session=True,  # Ctrl-C in a terminal is for us; we decide when servers end.
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        try:
            self._answer()
        except BaseException:
            self.end(0.0)
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def gone(self) -> bool:
        return self._process.poll() is not None

    def ask(self, **request: Any) -> dict[str, Any]:
        with self._lock:
            try:
                self._send(request)
            except BrokenPipeError:
                raise FaultError(f"{self.title}: its guard process is gone; start again") from None
            return self._answer()

    def code(self) -> int | None:
        """Give the server's exit code, ``None`` while it runs."""
        if self.gone:  # And the server with it.
            return -1
        code = self.ask(code=True)["code"]
        return None if code is None else int(code)

    def end(self, grace_seconds: float) -> None:
        """End the server, then the guard, and remove the folder."""
        with self._lock, contextlib.suppress(BrokenPipeError):
            # A process that we forked may hold the pipe too, so that closing is not enough.
            self._send({"end": grace_seconds})
        self._requests.close()
        try:
            self._process.wait(grace_seconds + GUARD_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        shutil.rmtree(self.folder, ignore_errors=True)  # where the guard itself was killed

    def _send(self, request: dict[str, Any]) -> None:
        self._requests.write(json.dumps(request).encode() + b"\n")

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            rest = (line + self._answers.read()).decode(errors="replace").strip()
            raise FaultError(f"{self.title}: its guard process failed: {rest}") from None
        return answer


def free_port() -> int:
    """Give a loopback port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


def port_is_free(port: int) -> bool:
    """Tell whether a server could listen on a loopback port at this moment."""
    with socket.socket() as probe:
        # As servers do, so that connections which linger after a stop are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen()  # Binding alone succeeds beside another that has not yet listened.
        except OSError:
            return False
    return True


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    return kept | {"HOME": str(folder), "TMPDIR": str(folder)}
