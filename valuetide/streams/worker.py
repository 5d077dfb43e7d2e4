"""Runs one worker: checks, HTTP, the Faust application, and an orderly end."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable

import structlog
from aiokafka.errors import KafkaError
from prometheus_client import CollectorRegistry

from valuetide.schemas.errors import FaultError
from valuetide.streams.admin import (
    BrokerAwayError,
    admin_client,
    check_group,
    check_topics,
    topic_states,
)
from valuetide.streams.app import App
from valuetide.streams.http import HttpServer
from valuetide.streams.knock import knock_at_redis
from valuetide.streams.reader import Reader
from valuetide.streams.settings import Settings
from valuetide.streams.tasks import end
from valuetide.streams.webhooks.courier import Couriers

WATCH_SECONDS = 0.5
PAUSED_SHOWN = 3
"""Paused partitions that /readyz explains; of more it gives the number."""

log = structlog.get_logger(__name__)


class Worker:
    """One worker process.

    Parameters
    ----------
    settings
        The settings.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._app: App | None = None
        self._stopping = False
        self._stop = asyncio.Event()
        self._connected = True
        self.http_address = ""

    async def run(self, on_ready: Callable[["Worker"], None] | None = None) -> None:
        """Work until told to stop.

        Parameters
        ----------
        on_ready
            Called once when the first partitions are assigned and their state is there.

        Raises
        ------
        BrokerAwayError, StoreUnavailableError
            When a server is away at the start, or for longer than ``retry_seconds``.
        DoorShutError
            When a server refuses us at the start.
        FaultError
            When topics, settings or state do not fit.
        """
        settings = self.settings
        await asyncio.to_thread(self._check_topics)
        async with Reader(settings) as reader:
            await knock_at_redis(settings)
            self._app = app = App(settings)
            http = HttpServer(settings, self, reader)
            await http.start()
            self.http_address = http.address
            log.info("http interface", address=http.address)
            app.finalize()
            try:
                await self._run_app(app, on_ready)
            finally:
                await http.stop()
        if app.fault is not None:
            raise app.fault
        log.info("worker stopped")

    async def _run_app(self, app: App, on_ready: Callable[["Worker"], None] | None) -> None:
        """Run the application until it is told to stop or cannot go on; then stop it."""
        start = asyncio.create_task(app.start())
        ends = [
            asyncio.create_task(app.wait_for_fault()),
            asyncio.create_task(self._stop.wait()),
        ]
        others = [
            asyncio.create_task(self._announce(app, on_ready)),
            asyncio.create_task(self._watch_broker(app)),
            asyncio.create_task(self._sweep(app)),
            asyncio.create_task(self._watch_series(app)),
            asyncio.create_task(self._deliver(app)),
        ]
        try:
            await asyncio.wait([start, *ends], return_when=asyncio.FIRST_COMPLETED)
            if start.done():
                _started(start, self.settings)
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stopping = True
            log.info("worker finishes what is in hand")
            await end([start, *ends, *others])
            with contextlib.suppress(asyncio.CancelledError):
                await app.stop()

    async def _sweep(self, app: App) -> None:
        """Keep scores from getting old."""
        await app.assigned.wait()
        try:
            await app.engine.sweeper.run()
        except Exception as error:
            app.on_fault(error)

    async def _watch_series(self, app: App) -> None:
        """Look for shifts."""
        await app.assigned.wait()
        try:
            await app.engine.watch.run()
        except Exception as error:
            app.on_fault(error)

    async def _deliver(self, app: App) -> None:
        """Tell webhooks of alerts."""
        await app.assigned.wait()
        try:
            await Couriers(self.settings, app.metrics, self._engine_shards).run()
        except Exception as error:
            app.on_fault(error)

    async def _watch_broker(self, app: App) -> None:
        """Stop the worker when no broker has been there for ``retry_seconds``."""
        limit = self.settings.retry_seconds
        await app.assigned.wait()
        since = time.monotonic()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self._connected = app.connected
            if self._connected:
                since = time.monotonic()
            elif time.monotonic() - since > limit:
                broker = self.settings.broker
                app.on_fault(BrokerAwayError(f"no Kafka broker at {broker} for {limit:g} s"))
                return

    def stop(self) -> None:
        """Ask the worker to finish what is in hand and to end."""
        self._stop.set()

    def stop_on_signals(self) -> None:
        """End in an orderly way on SIGINT and SIGTERM."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)

    def _check_topics(self) -> None:
        with admin_client(self.settings) as client:
            check_topics(topic_states(client, self.settings))
            check_group(client, self.settings)

    async def _announce(self, app: App, on_ready: Callable[["Worker"], None] | None) -> None:
        await app.assigned.wait()
        log.info("worker ready", partitions=sorted(self._engine_shards()))
        if on_ready is not None:
            on_ready(self)

    def _engine_shards(self) -> list[int]:
        return (
            list(self._app.engine.shards) if self._app is not None and self._app.has_engine else []
        )

    def readiness(self) -> dict[str, object]:
        """Give ``ready`` and, where it is false, ``why``.

        A worker that has its partitions names them in ``partitions``, and in ``paused`` those
        that take no more events: while there is one it is not ready, though it works on the rest.
        """
        app = self._app
        why = ""
        if self._stopping:
            why = "stopping"
        elif app is None or not app.has_engine:
            why = "starting"
        elif app.fault is not None:
            why = str(app.fault)
        elif not app.assigned.is_set():
            why = "waiting for partitions"
        elif app.rebalancing:
            why = "rebalancing"
        elif not self._connected:
            why = "no connection to a broker"
        if why:
            return {"ready": False, "why": why}
        state: dict[str, object] = {"ready": True, "partitions": sorted(self._engine_shards())}
        if app is not None and (paused := app.engine.why_paused):
            why = "; ".join(list(paused.values())[:PAUSED_SHOWN])
            if len(paused) > PAUSED_SHOWN:
                why += f"; and {len(paused) - PAUSED_SHOWN} more partitions"
            state |= {"ready": False, "paused": list(paused), "why": why}
        return state

    def registry(self) -> CollectorRegistry:
        """Give the metrics, up to date."""
        if self._app is None:
            raise FaultError("the worker has not started")
        if self._app.has_engine:
            self._app.engine.measure()
        return self._app.metrics.registry


def _started(start: "asyncio.Task[object]", settings: Settings) -> None:
    """Raise what kept the application from starting, in our words."""
    error = start.exception()
    if isinstance(error, KafkaError):
        raise BrokerAwayError(f"Kafka at {settings.broker}: {error}") from error
    if error is not None:
        raise error
