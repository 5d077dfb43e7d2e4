"""A worker's HTTP interface: health, metrics, customers.

Bound to the loopback address unless told otherwise; then every path but ``/healthz`` demands the
bearer token of the settings.
"""

import hmac
from collections.abc import Awaitable, Callable
from typing import Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from valuetide.schemas.errors import FaultError, TransientError
from valuetide.schemas.events import MAX_ID_LENGTH
from valuetide.streams.reader import Reader
from valuetide.streams.settings import Settings

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
MAX_BODY_BYTES = 16_384
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Worker(Protocol):
    """What the HTTP interface asks of a worker."""

    def readiness(self) -> dict[str, object]:
        """Give ``ready`` and, where it is false, ``why``."""
        ...

    def registry(self) -> CollectorRegistry:
        """Give the metrics, up to date."""
        ...


class HttpServer:
    """Serves one worker.

    Parameters
    ----------
    settings
        Address, port and token.
    worker
        What is asked about.
    reader
        Reads scores.
    """

    def __init__(self, settings: Settings, worker: Worker, reader: Reader) -> None:
        self._settings = settings
        self._worker = worker
        self._reader = reader
        self._runner: web.AppRunner | None = None
        self.address = ""

    async def start(self) -> None:
        """Listen.

        Raises
        ------
        FaultError
            When the port is taken.
        """
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY_BYTES)
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/customers/{id}", self._customer),
                web.get("/top", self._top),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._settings.http_host, self._settings.http_port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise FaultError(
                f"http_port {self._settings.http_port} on {self._settings.http_host}: "
                f"{error.strerror or error}; set VALUETIDE_HTTP_PORT (0 takes any free port)"
            ) from error
        host, port = self._runner.addresses[0][:2]
        self.address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        token = self._settings.http_token
        if token is not None and request.path != "/healthz":
            given = request.headers.get("Authorization", "")
            wanted = f"Bearer {token.get_secret_value()}"
            if not hmac.compare_digest(given.encode(), wanted.encode()):
                return self._json({"error": "a bearer token is needed"}, 401)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            return self._json({"error": error.reason}, error.status)
        except TransientError as error:
            return self._json({"error": str(error)}, 503)
        response.headers.update(SECURITY_HEADERS)
        return response

    @staticmethod
    def _json(body: object, status: int = 200) -> web.Response:
        return web.json_response(body, status=status, headers=SECURITY_HEADERS)

    async def _healthz(self, request: web.Request) -> web.Response:
        return self._json({"status": "ok"})

    async def _readyz(self, request: web.Request) -> web.Response:
        state = self._worker.readiness()
        return self._json(state, 200 if state["ready"] else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        body = generate_latest(self._worker.registry())
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _customer(self, request: web.Request) -> web.Response:
        customer_id = request.match_info["id"]
        if len(customer_id) > MAX_ID_LENGTH:
            return self._json({"error": f"id: at most {MAX_ID_LENGTH} characters"}, 400)
        score = await self._reader.customer(customer_id)
        if score is None:
            return self._json({"error": "no such customer"}, 404)
        return self._json(score)

    async def _top(self, request: web.Request) -> web.Response:
        field = request.query.get("field", "profit")
        try:
            count = int(request.query.get("count", "10"))
            return self._json(await self._reader.top(field, count))
        except ValueError as error:
            return self._json({"error": str(error)}, 400)
