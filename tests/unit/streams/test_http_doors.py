"""The HTTP interface lets in whom it should, and holds no more than it should."""

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from valuetide.schemas.score import Score
from valuetide.streams import http
from valuetide.streams.cli import cli
from valuetide.streams.http import MAX_BODY_BYTES, SECURITY_HEADERS, HttpServer
from valuetide.streams.ratelimit import MOST_CLIENTS, RateLimit, client_of, retry_after
from valuetide.streams.reader import Reader
from valuetide.streams.settings import Settings, SettingsError, load_settings

TOKEN = "a-right-token"
AUTHORIZED = f"Authorization: Bearer {TOKEN}"
PATHS = ("/customers/ada", "/top", "/metrics", "/readyz", "/nothing")


class FakeWorker:
    def readiness(self) -> dict[str, object]:
        return {"ready": True}

    def registry(self) -> CollectorRegistry:
        return CollectorRegistry()


class FakeReader:
    def __init__(self) -> None:
        self.error: Exception | None = None

    async def customer(self, customer_id: str) -> Score | None:
        if self.error is not None:
            raise self.error
        return cast("Score", {"customer_id": customer_id, "secret": "what ada is worth"})

    async def top(self, field: str, count: int) -> list[Score]:
        return [cast("Score", {"customer_id": "ada", "secret": "what ada is worth"})]


class Answer:
    """A response as it came over the wire; empty where the server hung up."""

    def __init__(self, raw: bytes) -> None:
        head, _, body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split()[1]) if first else 0
        self.headers = dict(line.split(": ", 1) for line in lines)
        self.text = body.decode()


class Client:
    """Speaks to the server byte by byte."""

    def __init__(self, server: HttpServer) -> None:
        self.host, _, port = server.address.removeprefix("http://").rpartition(":")
        self.port = int(port)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port)

    async def raw(self, request: bytes) -> Answer:
        reader, writer = await self.connect()
        writer.write(request)
        raw = b""
        try:
            async with asyncio.timeout(10):
                while part := await reader.read(65_536):
                    raw += part
        except ConnectionResetError:
            pass
        finally:
            writer.close()
        return Answer(raw)

    async def get(self, path: str, *headers: str, host: str = "127.0.0.1", method: str = "GET",
                  body: bytes = b"") -> Answer:  # fmt: skip
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
        return await self.raw("\r\n".join([*lines, "", ""]).encode() + body)


Scenario = Callable[[Client, FakeReader], Awaitable[None]]


def serve(scenario: Scenario, **settings: Any) -> None:
    async def whole() -> None:
        reader = FakeReader()
        server = HttpServer(Settings(http_port=0, **settings), FakeWorker(), cast("Reader", reader))
        await server.start()
        try:
            await scenario(Client(server), reader)
        finally:
            await server.stop()

    asyncio.run(whole())


def check_headers(answer: Answer) -> None:
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value
    assert "python" not in json.dumps(answer.headers).lower()
    assert "aiohttp" not in (json.dumps(answer.headers) + answer.text).lower()


# -- the address -----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "worker.example.com", ""])
@pytest.mark.parametrize("token", [None, ""])
def test_an_address_beyond_loopback_without_a_token_is_refused_at_the_start(
    host: str, token: str | None
) -> None:
    environment = {"VALUETIDE_HTTP_HOST": host, "VALUETIDE_HTTP_TOKEN": token}
    result = CliRunner().invoke(cli, ["worker"], env=environment)
    assert result.exit_code == 2
    assert "http_token: needed when http_host is not the loopback address" in result.output


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_on_loopback_none_is_needed(host: str) -> None:
    assert load_settings(http_host=host).http_token is None


# -- the token -------------------------------------------------------------------------------------


def test_without_the_token_there_is_nothing_but_health() -> None:
    async def scenario(client: Client, reader: FakeReader) -> None:
        assert (await client.get("/healthz")).status == 200
        wrong = (
            (),
            ("Authorization: Bearer",),
            ("Authorization: Bearer a-right-toke",),
            (f"Authorization: Bearer {TOKEN}x",),
            (f"Authorization: Basic {TOKEN}",),
            (f"authorization: bearer {TOKEN}",),
            (f"X-Token: {TOKEN}",),
            ("Authorization: Bearer \xff\xfe",),
        )
        for path in PATHS:
            for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE"):
                for headers in wrong if method == "GET" else wrong[:1]:
                    answer = await client.get(path, *headers, method=method)
                    assert answer.status == 401, (path, headers)
                    assert answer.headers["WWW-Authenticate"] == "Bearer"
                    assert "ada is worth" not in answer.text
                    assert TOKEN not in answer.text
                    check_headers(answer)
        assert "ada is worth" in (await client.get("/customers/ada", AUTHORIZED)).text

    serve(scenario, http_token=SecretStr(TOKEN), http_burst=10_000)


def test_the_comparison_sees_digests_of_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bytes, bytes]] = []

    def compare(given: bytes, wanted: bytes) -> bool:
        seen.append((given, wanted))
        return given == wanted

    monkeypatch.setattr(hmac, "compare_digest", compare)

    async def scenario(client: Client, reader: FakeReader) -> None:
        for headers in ((), ("Authorization: B",), (f"Authorization: {'x' * 4_000}",)):
            await client.get("/top", *headers)

    serve(scenario, http_token=SecretStr(TOKEN))
    assert len(seen) == 3
    assert {len(part) for pair in seen for part in pair} == {32}


# -- the name of the host --------------------------------------------------------------------------


def test_a_page_with_a_name_of_its_own_for_loopback_gets_nothing() -> None:
    async def scenario(client: Client, reader: FakeReader) -> None:
        port = client.port
        for host in ("127.0.0.1", "localhost", f"localhost:{port}", "LocalHost", f"[::1]:{port}"):
            assert (await client.get("/customers/ada", host=host)).status == 200, host
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "",
                     "localhost.evil.example", "[::2]", "evil.example]", "@127.0.0.1"):  # fmt: skip
            for path in ("/customers/ada", "/healthz"):
                answer = await client.get(path, host=host)
                assert answer.status in {400, 403}, host
                assert "ada is worth" not in answer.text
                check_headers(answer)
        two = b"GET /top HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
        assert (await client.raw(two)).status in {400, 403}

    serve(scenario)


def test_with_a_token_a_proxy_may_pass_its_own_name_on() -> None:
    async def scenario(client: Client, reader: FakeReader) -> None:
        answer = await client.get("/customers/ada", AUTHORIZED, host="values.example.com")
        assert answer.status == 200

    serve(scenario, http_token=SecretStr(TOKEN))


# -- headers ---------------------------------------------------------------------------------------


def test_every_answer_has_the_security_headers() -> None:
    async def scenario(client: Client, reader: FakeReader) -> None:
        answers = [
            (await client.get("/healthz"), 200),
            (await client.get("/customers/ada"), 200),
            (await client.get("/metrics"), 200),
            (await client.get("/nothing"), 404),
            (await client.get("/top", method="POST"), 405),
            (await client.get("/top?count=x"), 400),
            (await client.raw(b"what is this?\r\n\r\n"), 400),
            (await client.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), 400),
            (await client.raw(b"GET /top HTTP/9.9\r\n\r\n"), 400),
        ]
        reader.error = RuntimeError("ada")
        answers.append((await client.get("/customers/ada"), 500))
        for answer, status in answers:
            assert answer.status == status, answer.text
            check_headers(answer)
        assert "ada" not in answers[-1][0].text

    serve(scenario)


# -- size ------------------------------------------------------------------------------------------


def test_requests_are_limited_in_size() -> None:
    async def scenario(client: Client, reader: FakeReader) -> None:
        assert (await client.get("/customers/" + "%F0%9F%99%82" * 250)).status in {200, 400}
        too_much = [
            (await client.get("/customers/" + "x" * 5_000), 400),
            (await client.get("/top", f"X-A: {'x' * 9_000}"), 400),
            (await client.get("/top", *(f"X-{n}: x" for n in range(100))), 400),
            (await client.get("/top", f"Content-Length: {MAX_BODY_BYTES + 1}"), 413),
        ]
        for answer, status in too_much:
            assert answer.status == status, answer.text
            check_headers(answer)

    serve(scenario)


def test_an_endless_body_is_hung_up_on() -> None:
    async def scenario(client: Client, reader: FakeReader) -> None:
        _, writer = await client.connect()
        writer.write(b"GET /top HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        began = time.monotonic()
        with pytest.raises((ConnectionError, TimeoutError)) as ended:
            async with asyncio.timeout(10):
                while True:
                    writer.write(b"400\r\n" + b"x" * 0x400 + b"\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.01)
        assert isinstance(ended.value, ConnectionError)
        assert time.monotonic() - began < 5

    serve(scenario)


# -- rate ------------------------------------------------------------------------------------------


def test_beyond_the_burst_an_address_must_wait_and_health_is_never_refused() -> None:
    async def scenario(client: Client, reader: FakeReader) -> None:
        assert [(await client.get("/top")).status for _ in range(3)] == [200, 200, 200]
        answer = await client.get("/top")
        assert answer.status == 429
        assert int(answer.headers["Retry-After"]) >= 1
        check_headers(answer)
        assert (await client.get("/healthz")).status == 200

    serve(scenario, http_burst=3, http_rate_per_second=0.01)


def test_guesses_at_the_token_are_limited_too() -> None:
    async def scenario(client: Client, reader: FakeReader) -> None:
        statuses = [(await client.get("/top", "Authorization: Bearer no")).status for _ in "1234"]
        assert statuses == [401, 401, 401, 429]

    serve(scenario, http_burst=3, http_rate_per_second=0.01, http_token=SecretStr(TOKEN))


def test_tokens_come_back_at_the_rate_and_never_beyond_the_burst() -> None:
    now = 0.0
    limit = RateLimit(10.0, 5, lambda: now)
    assert [limit.wait_seconds("a") > 0 for _ in range(6)] == [False] * 5 + [True]
    now = 0.1
    assert limit.wait_seconds("a") == 0.0
    assert limit.wait_seconds("a") == pytest.approx(0.1)
    now = 1_000.0
    assert [limit.wait_seconds("a") > 0 for _ in range(6)] == [False] * 5 + [True]
    assert limit.wait_seconds("b") == 0.0


@given(
    st.floats(0.1, 1_000),
    st.integers(1, 50),
    st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_whatever_the_times_no_more_pass_than_burst_and_rate_allow(
    rate: float, burst: int, gaps: list[float]
) -> None:
    now = 0.0
    limit = RateLimit(rate, burst, lambda: now)
    passed = 0
    for gap in gaps:
        now += gap
        passed += limit.wait_seconds("a") == 0.0
    assert passed <= burst + rate * sum(gaps) + 1e-6


def test_addresses_without_end_take_no_memory_without_end() -> None:
    limit = RateLimit(1.0, 1, lambda: 0.0)
    for number in range(3 * MOST_CLIENTS):
        limit.wait_seconds(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(limit) == MOST_CLIENTS


def test_a_client_has_one_bucket_for_all_its_addresses() -> None:
    assert client_of("2001:db8:1:2::1") == client_of("2001:db8:1:2:ffff::9%eth0")
    assert client_of("2001:db8:1:2::1") != client_of("2001:db8:1:3::1")
    assert client_of("::ffff:10.0.0.1") == client_of("10.0.0.1")
    assert client_of("") == ""
    assert retry_after(0.2) == "1"
    assert retry_after(1.2) == "2"


# -- slow clients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_a_client_that_sends_byte_by_byte_is_hung_up_on(first: bytes) -> None:
    async def scenario(client: Client, reader: FakeReader) -> None:
        _, writer = await client.connect()
        writer.write(first)
        began = time.monotonic()
        with pytest.raises((ConnectionError, TimeoutError)) as ended:
            async with asyncio.timeout(10):
                writer.write(b"GET /top HTTP/1.1\r\nX-Slow: ")
                while True:
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0.05)
        assert isinstance(ended.value, ConnectionError)
        assert time.monotonic() - began < 5

    serve(scenario, http_timeout_seconds=0.5)


def test_a_client_that_says_nothing_is_hung_up_on() -> None:
    async def scenario(client: Client, reader: FakeReader) -> None:
        answers, writer = await client.connect()
        async with asyncio.timeout(5):
            assert await answers.read() == b""
        writer.close()

    serve(scenario, http_timeout_seconds=0.5)


def test_no_more_connections_than_the_limit_and_health_again_when_they_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 3)

    async def scenario(client: Client, reader: FakeReader) -> None:
        idle = [await client.connect() for _ in range(3)]
        await asyncio.sleep(0.05)
        assert (await client.get("/healthz")).status == 0
        for _, writer in idle:
            writer.close()
        await asyncio.sleep(0.2)
        assert (await client.get("/healthz")).status == 200

    serve(scenario)


# -- settings --------------------------------------------------------------------------------------

FILES = ("ca", "cert", "key")
UNFIT: list[tuple[dict[str, Any], str]] = [
    ({"broker_security": "sasl_tls"}, "broker_username: needed"),
    ({"broker_security": "sasl_tls", "broker_username": "u"}, "broker_password: needed"),
    ({"broker_username": "u"}, "broker_username: of no use"),
    ({"broker_password": "hidden-1"}, "broker_password: of no use"),
    ({"broker_security": "tls", "broker_password": "hidden-1"}, "broker_password: of no use"),
    *(({f"broker_{kind}_file": "/x"}, f"broker_{kind}_file: of no use") for kind in FILES),
    *(({f"redis_{kind}_file": "/x"}, f"redis_{kind}_file: of no use") for kind in FILES),
    ({"broker_security": "tls", "broker_key_file": "/x"}, "broker_cert_file: needed"),
    ({"redis_url": "rediss://h:1", "redis_key_file": "/x"}, "redis_cert_file: needed"),
    ({"redis_username": "u"}, "redis_password: needed"),
    (
        {"redis_url": "redis://u:hidden-1@h:1", "redis_password": "hidden-1"},
        "redis_password: given twice",
    ),
    ({"redis_url": "http://u:hidden-1@h:1"}, "redis_url: must be"),
    ({"redis_url": "redis://u:hidden-1@h:hidden-2"}, "redis_url: must be"),
    ({"redis_url": "rediss://h:1?ssl_cert_reqs=none"}, "redis_url: no options about TLS"),
    ({"redis_url": "rediss://h:1?ssl_check_hostname=false"}, "redis_url: no options about TLS"),
    ({"redis_url": "redis://h:1?password=hidden-1"}, "redis_url: no options about TLS"),
    ({"broker_security": "ssl"}, "broker_security: "),
    ({"broker_sasl_mechanism": "GSSAPI"}, "broker_sasl_mechanism: "),
]


@pytest.mark.parametrize(("given_", "wanted"), UNFIT)
def test_settings_that_do_not_fit_together_are_refused_by_name(
    given_: dict[str, Any], wanted: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(**given_)
    assert wanted in str(refused.value)
    assert "hidden" not in str(refused.value)
    assert "hidden" not in repr(refused.value)


def test_empty_text_is_not_set() -> None:
    settings = load_settings(broker_username="", broker_password="", redis_ca_file="")
    assert (settings.broker_username, settings.broker_password) == (None, None)
    assert settings.redis_ca_file is None


def test_secrets_are_not_in_the_settings_text() -> None:
    settings = load_settings(
        broker_security="sasl_tls",
        broker_username="u",
        broker_password="hidden-1",
        redis_url="redis://u:hidden-2@h:1",
        http_token="hidden-3",
    )
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert "hidden" not in text
