"""The HTTP interface answers what it should, to whom it should, and says nothing more."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, cast
from urllib.parse import quote

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter
from pydantic import SecretStr
from yarl import URL

from tests.support.fakes import World, as_chunk, customers_of, run_quickly, settle
from tests.unit.streams.helpers import order, stored_rows
from valuetide.schemas.errors import FaultError
from valuetide.schemas.score import Score
from valuetide.streams.http import SECURITY_HEADERS, HttpServer
from valuetide.streams.reader import Reader
from valuetide.streams.records import RANKED
from valuetide.streams.settings import Settings
from valuetide.streams.store import StoreUnavailableError

ANN, BOB = customers_of(0, 4, 2)
TOKEN = "right-tökén"
Answer = tuple[int, Any, dict[str, str]]
Get = Callable[..., Awaitable[Answer]]


class FakeWorker:
    def __init__(self) -> None:
        self.state: dict[str, object] = {"ready": True, "partitions": [0]}
        self.error: Exception | None = None
        self.metrics = CollectorRegistry()
        Counter("valuetide_things", "Some things", registry=self.metrics).inc(3)

    def readiness(self) -> dict[str, object]:
        return self.state

    def registry(self) -> CollectorRegistry:
        if self.error is not None:
            raise self.error
        return self.metrics


class FakeReader:
    """Reads the rows of a shard that has folded two orders, or fails."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: Exception | None = None
        world = World()

        async def scenario() -> None:
            await world.shard.open()
            world.shard.submit(as_chunk([order(ANN, 1), order(BOB, 2, amount=7.5)]))
            await settle()
            await world.shard.close(1.0)

        run_quickly(scenario())
        self.scores = [{"customer_id": c} | row for c, row in stored_rows(world).items()]

    async def customer(self, customer_id: str) -> Score | None:
        self.asked.append(customer_id)
        if self.error is not None:
            raise self.error
        return cast("Score | None", next(
            (score for score in self.scores if score["customer_id"] == customer_id), None
        ))  # fmt: skip

    async def top(self, field: str, count: int) -> list[Score]:
        if self.error is not None:
            raise self.error
        if field not in RANKED:
            raise ValueError("field: customers are ranked by profit")
        if not 1 <= count <= 100:
            raise ValueError("count: 1 to 100")
        ranked = sorted(self.scores, key=lambda score: -score[field])
        return cast("list[Score]", ranked[:count])


def serve(
    scenario: Callable[[Get, FakeWorker, FakeReader], Awaitable[None]], **settings: Any
) -> None:
    """Run a scenario against a server on a free port."""
    worker, reader = FakeWorker(), FakeReader()

    async def whole() -> None:
        server = HttpServer(Settings(http_port=0, **settings), worker, cast("Reader", reader))
        await server.start()
        try:
            async with aiohttp.ClientSession() as session:

                async def get(path: str, method: str = "GET", **more: Any) -> Answer:
                    url = URL(server.address + path, encoded=True)
                    async with session.request(method, url, **more) as response:
                        for name, value in SECURITY_HEADERS.items():
                            assert response.headers[name] == value, (path, name)
                        body: Any = await response.read()
                        if response.content_type == "application/json":
                            body = json.loads(body) if body else None
                        return response.status, body, dict(response.headers)

                await scenario(get, worker, reader)
        finally:
            await server.stop()

    asyncio.run(whole())


def test_health_says_that_the_process_answers() -> None:
    async def scenario(get: Get, worker: FakeWorker, reader: FakeReader) -> None:
        worker.state = {"ready": False, "why": "starting"}
        assert (await get("/healthz"))[:2] == (200, {"status": "ok"})

    serve(scenario)


def test_ready_says_whether_it_works_and_why_not() -> None:
    async def scenario(get: Get, worker: FakeWorker, reader: FakeReader) -> None:
        assert (await get("/readyz"))[:2] == (200, worker.state)
        worker.state = {"ready": False, "why": "rebalancing"}
        assert (await get("/readyz"))[:2] == (503, worker.state)

    serve(scenario)


def test_metrics_are_in_prometheus_form() -> None:
    async def scenario(get: Get, worker: FakeWorker, reader: FakeReader) -> None:
        status, body, headers = await get("/metrics")
        assert status == 200
        assert headers["Content-Type"].startswith("text/plain; version=")
        assert b"valuetide_things_total 3.0" in body

    serve(scenario)


def test_a_customer_is_found_or_not() -> None:
    async def scenario(get: Get, worker: FakeWorker, reader: FakeReader) -> None:
        status, body, _ = await get(f"/customers/{ANN}")
        assert (status, body["customer_id"], body["revenue"]) == (200, ANN, 10.0)
        status, body, _ = await get("/customers/nobody")
        assert (status, body) == (404, {"error": "no such customer"})

    serve(scenario)


@pytest.mark.parametrize(
    "customer",
    ["a b", "ü-漢字-🙂", "a/b", "a%2Fb", "{x}", "?", "#", "a+b", "line\nbreak", "%", "x" * 128,
     "🙂" * 128, "a;b=c", "'\"<>", "a:b", "..."],
)  # fmt: skip
def test_any_id_can_be_asked_for(customer: str) -> None:
    async def scenario(get: Get, worker: FakeWorker, reader: FakeReader) -> None:
        assert (await get(f"/customers/{quote(customer, safe='')}"))[0] == 404
        assert reader.asked == [customer]

    serve(scenario)


def test_an_id_that_is_too_long_is_not_looked_up() -> None:
    async def scenario(get: Get, worker: FakeWorker, reader: FakeReader) -> None:
        for customer in ("x" * 129, "🙂" * 129):
            status, body, _ = await get(f"/customers/{quote(customer)}")
            assert (status, body) == (400, {"error": "id: at most 128 characters"})
        assert reader.asked == []

    serve(scenario)


def test_the_best_customers_and_what_is_allowed() -> None:
    async def scenario(get: Get, worker: FakeWorker, reader: FakeReader) -> None:
        status, body, _ = await get("/top")
        assert (status, [score["customer_id"] for score in body]) == (200, [ANN, BOB])
        status, body, _ = await get("/top?by=revenue&count=1")
        assert [score["customer_id"] for score in body] == [ANN]
        for query in ("by=rfm", "by=", "field=revenue", "count=0", "count=101", "count=-1",
                      "count=x", "count=1.5", "count=" + "9" * 5_000, "count="):  # fmt: skip
            status, body, _ = await get(f"/top?{query}")
            assert status == 400, query
            assert set(body) == {"error"}

    serve(scenario)


def test_what_is_not_there_is_said_so_in_json() -> None:
    async def scenario(get: Get, worker: FakeWorker, reader: FakeReader) -> None:
        for path in ("/", "/nothing", "/customers/", "/healthz/", "/../etc/passwd", "/%ff"):
            status, body, _ = await get(path)
            assert (status, set(body)) == (404, {"error"}), path
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            status, body, _ = await get("/top", method, data=b"x")
            assert (status, set(body)) == (405, {"error"}), method
        assert (await get("/healthz", "HEAD"))[0] == 200

    serve(scenario)


@pytest.mark.parametrize("path", [f"/customers/{ANN}", "/top"])
def test_a_store_that_is_away_is_503(path: str) -> None:
    async def scenario(get: Get, worker: FakeWorker, reader: FakeReader) -> None:
        reader.error = StoreUnavailableError("Redis: gone")
        assert (await get(path))[:2] == (503, {"error": "Redis: gone"})

    serve(scenario)


@pytest.mark.parametrize("error", [FaultError("Redis refuses us"), ZeroDivisionError("details")])
def test_a_fault_of_ours_is_500_without_details(error: Exception) -> None:
    async def scenario(get: Get, worker: FakeWorker, reader: FakeReader) -> None:
        reader.error = worker.error = error
        for path in (f"/customers/{ANN}", "/metrics"):
            status, body, _ = await get(path)
            assert status == 500
            assert "details" not in json.dumps(body)
        assert (await get("/healthz"))[0] == 200

    serve(scenario)


PATHS = ("/readyz", "/metrics", f"/customers/{ANN}", "/top", "/nothing")


def test_with_a_token_everything_but_health_needs_it() -> None:
    async def scenario(get: Get, worker: FakeWorker, reader: FakeReader) -> None:
        wrong = [None, "", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN,
                 f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"]  # fmt: skip
        for path in PATHS:
            for given in wrong:
                headers = {} if given is None else {"Authorization": given}
                status, body, _ = await get(path, headers=headers)
                assert (status, body) == (401, {"error": "a bearer token is needed"}), given
            status, _, _ = await get(path, headers={"Authorization": f"Bearer {TOKEN}"})
            assert status == (404 if path == "/nothing" else 200)
        assert reader.asked == [ANN]
        assert (await get("/healthz"))[0] == 200

    serve(scenario, http_token=TOKEN, http_rate_per_second=10_000, http_burst=10_000)


def test_a_token_of_bytes_that_are_no_text_is_a_wrong_token() -> None:
    async def scenario() -> None:
        server = HttpServer(
            Settings(http_port=0, http_token=SecretStr(TOKEN)), FakeWorker(), cast("Reader", None)
        )
        await server.start()
        try:
            port = int(server.address.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /top HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n"
                         b"Connection: close\r\n\r\n")  # fmt: skip
            assert (await reader.read()).startswith(b"HTTP/1.1 401 ")
            writer.close()
        finally:
            await server.stop()

    asyncio.run(scenario())


def test_a_port_that_is_taken_is_a_fault_that_names_the_setting() -> None:
    async def scenario() -> None:
        first = HttpServer(Settings(http_port=0), FakeWorker(), cast("Reader", None))
        await first.start()
        try:
            port = int(first.address.rpartition(":")[2])
            second = HttpServer(Settings(http_port=port), FakeWorker(), cast("Reader", None))
            with pytest.raises(FaultError, match=f"http_port {port} .*VALUETIDE_HTTP_PORT"):
                await second.start()
        finally:
            await first.stop()

    asyncio.run(scenario())
