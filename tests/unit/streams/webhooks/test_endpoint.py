"""An attempt ends as it should whatever the receiver does, and tells nothing secret."""

import asyncio
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.doors import Authority
from tests.support.receiver import Receiver
from valuetide.streams.guarded import LOOPBACK, free_port
from valuetide.streams.metrics import Metrics
from valuetide.streams.webhooks.endpoint import Answer, Endpoint
from valuetide.streams.webhooks.hook import Webhook

SECRET = "hunter2-secret"
KEY = "whsec_" + "QUJD" * 8
BODY = b'{"a": 1}'


def attempt(
    receiver: Receiver, scenario: Callable[[Endpoint], Awaitable[Any]] | None = None, **hook: Any
) -> tuple[Any, Metrics]:
    """Make one attempt, or what a scenario does, at a receiver."""
    metrics = Metrics()

    async def whole() -> Any:
        async with receiver:
            url = hook.pop("url", receiver.url(f"/{SECRET}", f"user:{SECRET}@"))
            endpoint = Endpoint(Webhook(name="ops", url=url, **hook), metrics)
            try:
                return await (scenario(endpoint) if scenario else endpoint.post("id-1", BODY))
            finally:
                await endpoint.close()

    return asyncio.run(whole()), metrics


def count(metrics: Metrics, outcome: str) -> float | None:
    labels = {"hook": "ops", "outcome": outcome}
    return metrics.registry.get_sample_value("valuetide_webhook_deliveries_total", labels)


def test_it_is_posted_with_id_and_signature_of_the_body() -> None:
    receiver = Receiver()
    answer, metrics = attempt(receiver, secret=KEY)
    assert answer == Answer(True)
    (got,) = receiver.got
    assert (got.path, got.body, got.id) == (f"/{SECRET}", BODY, "id-1")
    assert got.headers["content-type"] == "application/json"
    assert abs(int(got.headers["webhook-timestamp"]) - time.time()) < 30
    signed = f"id-1.{got.headers['webhook-timestamp']}.".encode() + BODY
    key = ("ABC" * 8).encode().hex()
    command = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{key}", "-binary"]
    digest = subprocess.run(command, input=signed, capture_output=True, check=True).stdout
    base64 = subprocess.run(["base64"], input=digest, capture_output=True, check=True).stdout
    assert got.headers["webhook-signature"] == f"v1,{base64.decode().strip()}"
    assert count(metrics, "delivered") == 1


def test_without_a_key_there_is_no_signature() -> None:
    receiver = Receiver()
    attempt(receiver)
    assert "webhook-signature" not in receiver.got[0].headers


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        *((status, Answer(True)) for status in (200, 201, 202, 204)),
        *((status, Answer(False, True, f"HTTP {status}"))
          for status in (408, 409, 425, 429, 500, 502, 503, 504)),
        *((status, Answer(False, False, f"HTTP {status}"))
          for status in (301, 302, 307, 400, 401, 403, 404, 410, 413, 422)),
    ],
)  # fmt: skip
def test_what_a_status_means(status: int, answer: Answer) -> None:
    elsewhere = f"http://{LOOPBACK}:{free_port()}/"
    receiver = Receiver([status], answer_headers={"Location": elsewhere})
    found, metrics = attempt(receiver)
    assert found == answer
    assert len(receiver.got) == 1
    outcome = "delivered" if answer.delivered else "failed" if answer.again else "refused"
    assert count(metrics, outcome) == 1


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("999999999999", 300.0), ("soon", 0.0), ("-1", 0.0)]
)
def test_a_receiver_may_ask_for_patience(header: str, seconds: float) -> None:
    found, _ = attempt(Receiver([429], answer_headers={"Retry-After": header}))
    assert found.wait_seconds == seconds


def test_silence_is_ended() -> None:
    found, metrics = attempt(Receiver(silent=True), timeout_seconds=0.2)
    assert found == Answer(False, True, "no answer within 0.2 s")
    seconds = metrics.registry.get_sample_value("valuetide_webhook_seconds_sum", {"hook": "ops"})
    assert seconds is not None
    assert 0.2 <= seconds < 5


@pytest.mark.parametrize(
    "url",
    [f"http://{LOOPBACK}:{{port}}/{SECRET}", f"http://{SECRET}.invalid/", f"https://{LOOPBACK}:{{own}}/{SECRET}"],
    ids=["refused", "no such host", "no TLS"],
)  # fmt: skip
def test_what_is_wrong_is_said_without_the_address(url: str) -> None:
    async def post(endpoint: Endpoint) -> Answer:
        return await endpoint.post("id-1", BODY)

    receiver = Receiver(port=free_port())
    url = url.format(port=free_port(), own=receiver.port)
    found, _ = attempt(receiver, post, url=url)
    assert not found.delivered
    assert found.again
    assert found.why.startswith("ClientConnector")
    assert receiver.got == []


def test_a_certificate_of_somebody_else_is_refused(tmp_path: Path) -> None:
    certificate = Authority(tmp_path / "ca").sign("stranger", f"IP:{LOOPBACK}")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.file, certificate.key)
    taken: list[bytes] = []

    async def whole() -> Answer:
        app = web.Application()
        app.router.add_post("/", lambda request: taken.append(b"x"))  # type: ignore[arg-type,return-value]
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, LOOPBACK, port := free_port(), ssl_context=context)
        await site.start()
        endpoint = Endpoint(Webhook(name="ops", url=f"https://{LOOPBACK}:{port}/"), Metrics())
        try:
            return await endpoint.post("id-1", BODY)
        finally:
            await endpoint.close()
            await runner.cleanup()

    assert asyncio.run(whole()).why == "ClientConnectorCertificateError"
    assert taken == []


def test_an_answer_without_end_is_not_read() -> None:
    """A receiver that sends for ever costs neither memory nor time."""

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"10000\r\n" + bytes(65_536) + b"\r\n")
                await writer.drain()
        except ConnectionError:
            writer.close()

    async def whole() -> Answer:
        server = await asyncio.start_server(endless, LOOPBACK, port := free_port())
        endpoint = Endpoint(Webhook(name="ops", url=f"http://{LOOPBACK}:{port}/"), Metrics())
        try:
            async with asyncio.timeout(5):
                return await endpoint.post("id-1", BODY)
        finally:
            await endpoint.close()
            server.close()

    assert asyncio.run(whole()) == Answer(True)


def test_what_is_no_http_is_a_failure() -> None:
    async def gibberish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"{SECRET}\r\n\r\n".encode())
        writer.close()

    async def whole() -> Answer:
        server = await asyncio.start_server(gibberish, LOOPBACK, port := free_port())
        endpoint = Endpoint(Webhook(name="ops", url=f"http://{LOOPBACK}:{port}/"), Metrics())
        try:
            return await endpoint.post("id-1", BODY)
        finally:
            await endpoint.close()
            server.close()

    found = asyncio.run(whole())
    assert (found.delivered, found.again) == (False, True)
    assert SECRET not in found.why


def test_at_most_a_few_at_once() -> None:
    receiver = Receiver(silent=True)

    async def many(endpoint: Endpoint) -> int:
        tasks = [asyncio.create_task(endpoint.post(f"id-{n}", BODY)) for n in range(9)]
        await receiver.until(4)
        await asyncio.sleep(0.1)
        waiting = len(receiver.got)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return waiting

    assert attempt(receiver, many)[0] == 4
