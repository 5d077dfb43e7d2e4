"""A worker runs in libuv's event loop where there is one; the garbage collector rests more."""

import asyncio
import gc
import sys

import pytest

from valuetide.streams.cli.common import run, spare_loaded_code, worker_loop


async def kind_of_loop() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop has no wheels for Windows")
def test_a_worker_runs_in_uvloop() -> None:
    assert run(kind_of_loop(), worker_loop) == "uvloop"
    assert run(kind_of_loop()) == "asyncio"


def test_without_uvloop_it_is_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert run(kind_of_loop(), worker_loop) == "asyncio"


def test_the_garbage_collector_leaves_alone_what_is_loaded_and_no_more() -> None:
    thresholds = gc.get_threshold()
    loaded: list[object] = []
    try:
        spare_loaded_code()
        made: list[object] = []
        watched = {id(one) for one in gc.get_objects()}
        assert id(loaded) not in watched
        assert id(made) in watched
        assert gc.get_threshold()[0] > thresholds[0]
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
