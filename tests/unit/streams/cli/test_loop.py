"""A worker runs in libuv's event loop where there is one, and in asyncio's elsewhere."""

import asyncio
import sys

import pytest

from valuetide.streams.cli.common import run, worker_loop


async def kind_of_loop() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop has no wheels for Windows")
def test_a_worker_runs_in_uvloop() -> None:
    assert run(kind_of_loop(), worker_loop) == "uvloop"
    assert run(kind_of_loop()) == "asyncio"


def test_without_uvloop_it_is_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert run(kind_of_loop(), worker_loop) == "asyncio"
