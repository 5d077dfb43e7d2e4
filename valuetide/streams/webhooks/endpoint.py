"""Posts to one webhook, and says what became of it without a word about where it went."""

import asyncio
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import aiohttp

from valuetide import __version__
from valuetide.streams.metrics import Metrics
from valuetide.streams.webhooks.hook import Webhook
from valuetide.streams.webhooks.signature import delivery_headers

AT_ONCE: Final = 4
"""Deliveries to one address at the same time."""

TRY_AGAIN: Final = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.CONFLICT,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)
"""Refusals that may pass by themselves; so may all of 500 and above."""

MOST_WAIT_SECONDS: Final = 300.0
"""A receiver that asks for more patience than that does not get it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an attempt.

    Attributes
    ----------
    delivered
        The receiver has it.
    again
        If not, whether another attempt may help.
    why
        What was wrong, without address, secret or the receiver's words.
    wait_seconds
        How long the receiver asks to be left alone.
    """

    delivered: bool
    again: bool = False
    why: str = ""
    wait_seconds: float = 0.0


class Endpoint:
    """One webhook's address, and the connections to it.

    Parameters
    ----------
    hook
        Address, key and time limit.
    metrics
        Counts attempts and their time.
    """

    def __init__(self, hook: Webhook, metrics: Metrics) -> None:
        self.hook = hook
        self._metrics = metrics
        self._places = asyncio.Semaphore(AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    async def post(self, message_id: str, body: bytes) -> Answer:
        """Make one attempt.

        Parameters
        ----------
        message_id
            By which a receiver knows a repeated message.
        body
            JSON.
        """
        async with self._places:
            started = time.perf_counter()
            answer = await self._attempt(message_id, body)
        self._metrics.webhook_seconds.labels(self.hook.name).observe(time.perf_counter() - started)
        outcome = "delivered" if answer.delivered else "failed" if answer.again else "refused"
        self._metrics.webhook_deliveries.labels(self.hook.name, outcome).inc()
        return answer

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _attempt(self, message_id: str, body: bytes) -> Answer:
        hook = self.hook
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=hook.timeout_seconds),
                headers={"User-Agent": f"valuetide/{__version__}"},
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        headers = delivery_headers(message_id, int(time.time()), body, hook.signing_key)
        headers["Content-Type"] = "application/json"
        try:
            # A redirect could lead anywhere, into the network that we are in as well.
            async with self._session.post(
                hook.target, data=body, headers=headers, allow_redirects=False
            ) as response:
                status, wait = response.status, response.headers.get("Retry-After", "")
                response.close()  # what it says is not read: it could be endless
        except TimeoutError:
            return Answer(False, True, f"no answer within {hook.timeout_seconds:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # The text of these errors has the host, or all of the address.
            return Answer(False, True, type(error).__name__)
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return Answer(True)
        again = status in TRY_AGAIN or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        seconds = float(wait[:9]) if wait.isdecimal() else 0.0
        return Answer(False, again, f"HTTP {status}", min(seconds, MOST_WAIT_SECONDS))
