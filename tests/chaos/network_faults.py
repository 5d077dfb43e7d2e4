"""What the proxies do to connections; servers that hang."""

import time
from collections.abc import Callable

from tests.chaos.crew import process_state
from tests.chaos.fault import Fault, Injected, NotInjectedError
from tests.chaos.proxy import Proxy
from tests.chaos.stage import Stage

NOBODY_COMMITS_SECONDS = 0.3
"""What was on its way when a server was stopped may still be seen within this."""


def _proxy(stage: Stage, side: str) -> Proxy:
    return stage.broker_proxy if side == "broker" else stage.redis_proxy


def _cut(side: str) -> Callable[[Stage], Injected]:
    def inject(stage: Stage) -> Injected:
        at = time.monotonic()
        cut = 0
        for _ in range(stage.chance.randint(1, 4)):
            cut += _proxy(stage, side).cut()
            over = time.monotonic()
            time.sleep(stage.chance.uniform(0.1, 0.6))
        if not cut:
            raise NotInjectedError("there was no connection")
        return Injected(at, over, f"{cut} connections reset")

    return inject


def _truncate(side: str) -> Callable[[Stage], Injected]:
    def inject(stage: Stage) -> Injected:
        at = time.monotonic()
        wanted = stage.chance.randint(3, 10)
        cut = _proxy(stage, side).truncate(wanted, 5.0)
        if not cut:
            raise NotInjectedError("nothing went by")
        return Injected(at, time.monotonic(), f"{cut} messages ended in their middle by a reset")

    return inject


def _delay(side: str) -> Callable[[Stage], Injected]:
    def inject(stage: Stage) -> Injected:
        seconds = stage.chance.uniform(0.05, 0.25)
        at = time.monotonic()
        with _proxy(stage, side).delaying(seconds):
            time.sleep(5.0)
        over = time.monotonic()
        return Injected(at, over, f"each piece of data held for {seconds * 1000:.0f} ms")

    return inject


def unreachable(side: str, least: float, most: float) -> Callable[[Stage], Injected]:
    def inject(stage: Stage) -> Injected:
        seconds = stage.chance.uniform(least, most)
        at = time.monotonic()
        with _proxy(stage, side).refusing() as cut:
            time.sleep(seconds)
            commits = stage.watch.commits(at + NOBODY_COMMITS_SECONDS, time.monotonic())
        if side == "Redis" and commits:
            raise NotInjectedError(f"{commits} commits were made in between")
        over = time.monotonic()
        return Injected(at, over, f"{cut} connections reset, new ones refused for {seconds:.0f} s")

    return inject


def hanging(side: str, least: float, most: float) -> Callable[[Stage], Injected]:
    def inject(stage: Stage) -> Injected:
        server = stage.broker if side == "broker" else stage.redis
        seconds = stage.chance.uniform(least, most)
        at = time.monotonic()
        with stage.frozen(server):
            time.sleep(seconds)
            state = process_state(server.pid)
        over = time.monotonic()
        if state != "T":
            raise NotInjectedError(f"its state was {state}")
        return Injected(at, over, f"pid {server.pid} stopped for {seconds:.1f} s")

    return inject


NETWORK_FAULTS = (
    Fault("connections cut, broker", "network", _cut("broker")),
    Fault("connections cut, Redis", "network", _cut("Redis")),
    Fault("connections truncated, broker", "network", _truncate("broker")),
    Fault("connections truncated, Redis", "network", _truncate("Redis")),
    Fault("connections delayed, broker", "network", _delay("broker")),
    Fault("connections delayed, Redis", "network", _delay("Redis")),
)
