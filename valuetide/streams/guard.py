"""The guard: a small process between us and a server that we start, so that nothing outlives us.

It owns one temporary folder and one server at a time. Our side alone holds the write end of its
standard input. When that pipe closes, or the guard's parent is another process than before, we are
gone, ``kill -9`` included: the guard kills the server, removes the folder and ends.

It is run by path as ``python -I -S guard.py FOLDER PARENT``, in about 30 ms, and therefore imports
the standard library only. One request a line, JSON, each answered with one line::

    {"run": [program, ...], "log": name}   {"pid": 4711}
    {"code": true}                         {"code": null} while it runs, else its exit code
    {"kill": true}                         {"code": -9}: SIGKILL, and it is gone
    {"end": seconds}                       no answer: SIGTERM, wait that long, SIGKILL, remove, end

A request that fails is answered ``{"error": text}``. A pipe that closes is ``{"end": 0}``.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

LOOK_SECONDS = 0.5
"""How often the guard looks whether its parent is still the same, and buries a dead server."""

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Guard:
    """The folder, and the server that runs in it.

    Parameters
    ----------
    folder
        Made by the guard, mode 0700, and removed by it.
    parent
        Id of the process that started the guard.
    """

    def __init__(self, folder: Path, parent: int) -> None:
        self.folder = folder
        self.parent = parent
        self.server: subprocess.Popen[bytes] | None = None

    def serve(self) -> None:
        """Answer requests until we are gone or end it; leave nothing behind."""
        grace = 0.0
        try:
            self.folder.mkdir(mode=0o700)
            _reply({"folder": str(self.folder)})
            for request in self._requests():
                if "end" in request:
                    grace = request["end"]
                    break
                _reply(self._answer(request))
        except BrokenPipeError:
            pass  # Nobody is left to answer to, which is what ends a guard.
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            try:
                self._stop(grace)
            finally:
                shutil.rmtree(self.folder, ignore_errors=True)

    def _requests(self) -> Iterator[dict[str, Any]]:
        waiting = b""
        while os.getppid() == self.parent:
            if not select.select([0], [], [], LOOK_SECONDS)[0]:
                self._code()
                continue
            chunk = os.read(0, 65_536)
            if not chunk:
                return
            *lines, waiting = (waiting + chunk).split(b"\n")
            yield from map(json.loads, lines)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "run" in request:
            try:
                return {"pid": self._run(request["run"], request["log"])}
            except OSError as error:
                return {"error": str(error)}
        if "kill" in request:
            self._stop(0.0)
        return {"code": self._code()}

    def _run(self, command: list[str], log: str) -> int:
        with (self.folder / log).open("ab") as output:
            self.server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                process_group=0,  # so that what the server forks is killed with it
                preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 - there is one thread
            )
        return self.server.pid

    def _code(self) -> int | None:
        return None if self.server is None else self.server.poll()

    def _stop(self, grace: float) -> None:
        server = self.server
        if server is None or server.poll() is not None:
            return  # Once it is buried, its id may be another's.
        if grace > 0:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(grace)
                return
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _die_with(guard: int) -> Callable[[], None] | None:
    """Give what makes the server die with the guard, where the system can do that (Linux)."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # It died in between.
            os._exit(1)

    return ask


def _reply(answer: dict[str, Any]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    Guard(Path(sys.argv[1]), int(sys.argv[2])).serve()
