"""A worker's HTTP interface: health, metrics, customers, alerts.

Bound to the loopback address unless told otherwise; then every path but ``/healthz`` demands the
bearer token of the settings. Without a token, a request must name a loopback host: else a page in a
browser on this machine could ask by way of a host name of its own that resolves to 127.0.0.1.
"""

import asyncio
import hashlib
import hmac
import re
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from valuetide.schemas.errors import FaultError, TransientError
from valuetide.schemas.events import MAX_ID_LENGTH
from valuetide.streams.alerts import NoSuchAlertError, alert_as_json
from valuetide.streams.ratelimit import RateLimit, retry_after
from valuetide.streams.reader import Reader
from valuetide.streams.settings import LOOPBACK, Settings

log = structlog.get_logger(__name__)

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Server": "valuetide",
}
OPEN_PATH = "/healthz"
MAX_BODY_BYTES = 16_384
"""No path takes a body; some clients send one all the same."""

MAX_LINE_BYTES = 4_096
"""A customer id of 256 characters takes up to 3,072 in an address, percent-encoded."""

MAX_HEADER_BYTES = 8_192
MAX_HEADERS = 64
MAX_CONNECTIONS = 256
"""More would be somebody who wants to use up this process's file descriptors."""

MOST_STEPS = 1_000
"""Of alerts, in one answer."""

FINGERPRINT = re.compile(r"[0-9a-f]{1,16}")
FINGERPRINT_DIGITS = 16

LINGER_SECONDS = 1.0
"""For a body that was not asked for to arrive, so that the client reads the answer to it."""

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
        self._limit = RateLimit(settings.http_rate_per_second, settings.http_burst, time.monotonic)
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self.address = ""

    async def start(self) -> None:
        """Listen.

        Raises
        ------
        FaultError
            When the port is taken.
        """
        app = web.Application(middlewares=[self._guard])
        app.add_routes(
            [
                web.get(OPEN_PATH, self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/customers/{id:(?s:.+)}", self._customer),
                web.get("/top", self._top),
                web.get("/alerts", self._alerts),
                web.get("/alerts/{fingerprint}", self._alert),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._protocol, self._settings.http_host, self._settings.http_port
            )
        except OSError as error:
            await self._runner.cleanup()
            raise FaultError(
                f"http_port {self._settings.http_port} on {self._settings.http_host}: "
                f"{error.strerror or error}; set VALUETIDE_HTTP_PORT (0 takes any free port)"
            ) from error
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def _protocol(self) -> asyncio.Protocol:
        assert self._runner is not None and self._runner.server is not None
        manager = self._runner.server
        if len(manager.connections) >= MAX_CONNECTIONS:
            return _HangUp()
        return _Connection(
            manager,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # none is what turns it off
            keepalive_timeout=self._settings.http_timeout_seconds,
            lingering_time=LINGER_SECONDS,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
        )

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        refused = self._refusal(request)
        if refused is not None:
            return refused
        try:
            response = await handler(request)
        except web.HTTPException as error:
            return self._json({"error": error.reason}, error.status)
        except TransientError as error:
            return self._json({"error": str(error)}, 503)
        except Exception as error:
            # The path and the text of an error may hold a customer's id.
            log.error("http request failed", error=type(error).__name__)
            log.debug("http request failed", path=request.path, exc_info=error)
            return self._json({"error": "internal error; the worker's log has it"}, 500)
        response.headers.update(SECURITY_HEADERS)
        return response

    def _refusal(self, request: web.Request) -> web.Response | None:
        token = self._settings.http_token
        if token is None and not all(map(self._is_own, request.headers.getall("Host", []))):
            return self._json({"error": "Host: not a name of this worker"}, 403)
        if request.path == OPEN_PATH:
            return None
        wait = self._limit.wait_seconds(request.remote or "")
        if wait:
            response = self._json({"error": "too many requests"}, 429)
            response.headers["Retry-After"] = retry_after(wait)
            return response
        if token is not None and not _same(
            request.headers.get("Authorization", ""), f"Bearer {token.get_secret_value()}"
        ):
            response = self._json({"error": "a bearer token is needed"}, 401)
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        if (request.content_length or 0) > MAX_BODY_BYTES:
            response = self._json({"error": f"body: at most {MAX_BODY_BYTES} bytes"}, 413)
            response.force_close()
            return response
        return None

    def _is_own(self, host: str) -> bool:
        name = host.rpartition("]")[0].lstrip("[") or host.partition(":")[0]
        return name.lower() in {*LOOPBACK, self._settings.http_host.lower()}

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
        unknown = sorted(set(request.query) - {"by", "count"})
        count = request.query.get("count", "10")
        if unknown or not count.isdecimal():
            wrong = f"no parameter {unknown[0][:40]}" if unknown else "count: must be a number"
            return self._json({"error": f"{wrong}; /top takes by and count"}, 400)
        try:
            return self._json(await self._reader.top(request.query.get("by", "profit"), int(count)))
        except ValueError as error:
            return self._json({"error": str(error)}, 400)

    async def _alerts(self, request: web.Request) -> web.Response:
        alerts = self._reader.alerts
        if not request.query:
            return self._json([one.as_json() for one in await alerts.open()])
        history = request.query.get("history", "")
        if set(request.query) != {"history"} or not (
            history.isdecimal() and len(history) <= len(str(MOST_STEPS))
            and 1 <= int(history) <= MOST_STEPS
        ):  # fmt: skip
            return self._json({"error": f"/alerts takes history, 1 to {MOST_STEPS} steps"}, 400)
        return self._json([alert_as_json(step.alert) for step in await alerts.steps(int(history))])

    async def _alert(self, request: web.Request) -> web.Response:
        fingerprint = request.match_info["fingerprint"]
        if not FINGERPRINT.fullmatch(fingerprint):
            return self._json({"error": "fingerprint: 1 to 16 of 0-9a-f"}, 400)
        try:
            # Beginnings that fit nothing would have all streams read in the loop that scores.
            whole = len(fingerprint) == FINGERPRINT_DIGITS
            found = await self._reader.alerts.history(fingerprint, ended=whole)
        except NoSuchAlertError as error:
            return self._json({"error": str(error)}, 404)
        return self._json(found.as_json())


class _Connection(web.RequestHandler):
    """A client's connection; answers what is no HTTP in our way, and does not log it as a fault."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        log.debug("bad http request", status=status, error=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is on its way already")
        response = web.json_response(
            {"error": "no acceptable HTTP request"}, status=status, headers=SECURITY_HEADERS
        )
        response.force_close()
        return response


class _HangUp(asyncio.Protocol):
    """Ends a connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _same(given: str, wanted: str) -> bool:
    """Compare in a time that tells nothing of either, their lengths included."""
    # Bytes that are no UTF-8 come as surrogates, which a plain encode() refuses.
    digests = (
        hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (given, wanted)
    )
    return hmac.compare_digest(*digests)
