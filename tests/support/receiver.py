"""A webhook's receiver: keeps what it gets, and answers as the test says."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from valuetide.streams.guarded import LOOPBACK


@dataclass(frozen=True)
class Delivery:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """Answers with the first of ``statuses`` that is left, then with 200.

    ``judge`` decides by the request instead; ``silent`` takes requests and never answers.
    """

    statuses: list[int] = field(default_factory=list)
    judge: Callable[[Delivery], int] | None = None
    silent: bool = False
    answer_headers: dict[str, str] = field(default_factory=dict)
    got: list[Delivery] = field(default_factory=list)
    port: int = 0
    _came: asyncio.Condition = field(default_factory=asyncio.Condition)
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> "Receiver":
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._take)
        # Those that wait for an answer for ever are not waited for.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, LOOPBACK, self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def url(self, path: str = "/hook", user: str = "") -> str:
        return f"http://{user}{LOOPBACK}:{self.port}{path}"

    @property
    def ids(self) -> list[str]:
        return [delivery.id for delivery in self.got]

    async def until(self, count: int, seconds: float = 20.0) -> list[Delivery]:
        """Wait until so many requests have come; give them."""
        async with asyncio.timeout(seconds), self._came:
            await self._came.wait_for(lambda: len(self.got) >= count)
        return self.got[:count]

    async def _take(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        delivery = Delivery(request.path_qs, headers, await request.read())
        async with self._came:
            self.got.append(delivery)
            self._came.notify_all()
        if self.silent:
            await asyncio.Event().wait()
        status = self.statuses.pop(0) if self.statuses else 200
        if self.judge is not None:
            status = self.judge(delivery)
        return web.Response(status=status, headers=self.answer_headers)


@contextmanager
def receiving(receiver: Receiver) -> Iterator[None]:
    """Have a receiver work in a thread of its own, for tests that are no coroutines."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(receiver.__aenter__(), loop).result(10)
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(receiver.__aexit__(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
