"""What is to be delivered of a shard's alerts, and how far each hook has got.

    cv:{p}:hooks   hash    hook name -> id in the stream cv:{p}:alerts up to which it is done

An id is written after everything up to it was delivered, given up or not wanted. A worker that lost
its shard without knowing may write an older one after the new owner's: then steps go out twice,
and none is lost.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from redis import asyncio as aioredis

from valuetide.schemas.alert import Alert
from valuetide.streams.alerts import (
    Acknowledgement,
    Step,
    StepId,
    UnreadableStep,
    parse_acknowledgement,
    parse_entries,
    parse_open,
    parse_steps,
)
from valuetide.streams.store.redis import acks_key, alerts_key, mapped_errors, open_alerts_key

NEW_HOOK_SECONDS: Final = 3_600
"""A hook that is new is told what happened in the last hour: it shows that it works, and an alert
that fires while the first worker with it starts is not missed."""

PAGE_STEPS: Final = 100
AT_ONCE: Final = 4
"""Questions at the same time, and so connections; lanes may be many hundreds."""


def hooks_key(prefix: str, partition: int) -> str:
    """Give the key of how far hooks have got with a shard's alerts."""
    return f"{prefix}:{{{partition}}}:hooks"


class Outbox:
    """Steps of alerts in Redis.

    Every method raises ``StoreUnavailableError`` when Redis does not answer.

    Parameters
    ----------
    client
        Of Redis; whoever made it closes it.
    prefix
        First part of every key.
    """

    def __init__(self, client: "aioredis.Redis", prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._places = asyncio.Semaphore(AT_ONCE)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        async with self._places:
            with mapped_errors():
                yield

    async def cursor(self, hook: str, partition: int) -> StepId:
        """Give up to where a hook is done; a new one begins an hour ago."""
        key = hooks_key(self._prefix, partition)
        async with self._turn():
            known = await cast("Awaitable[bytes | None]", self._client.hget(key, hook))
        if known is not None:
            return StepId.parse(known)
        begin = StepId((int(time.time()) - NEW_HOOK_SECONDS) * 1_000, 0)
        await self.done(hook, partition, begin)
        return begin

    async def done(self, hook: str, partition: int, at: StepId) -> None:
        """Note that a hook is done up to and with a step."""
        async with self._turn():
            await self._client.hset(hooks_key(self._prefix, partition), hook, str(at))

    async def steps(self, partition: int, after: StepId) -> list[Step | UnreadableStep]:
        """Give the next steps, at most a page of them."""
        async with self._turn():
            entries: Any = await self._client.xrange(
                alerts_key(self._prefix, partition), min=f"({after}", count=PAGE_STEPS
            )
        return list(parse_entries(partition, entries))

    async def open(self, partition: int) -> list[Alert]:
        """Give the last steps of the alerts that go on."""
        async with self._turn():
            found = await cast(
                "Awaitable[dict[bytes, bytes]]",
                self._client.hgetall(open_alerts_key(self._prefix, partition)),
            )
        return list(parse_open(partition, found))

    async def acknowledgement(self, partition: int, fingerprint: str) -> Acknowledgement | None:
        """Give who has acknowledged an alert, expired or not."""
        async with self._turn():
            raw = await cast(
                "Awaitable[bytes | None]",
                self._client.hget(acks_key(self._prefix, partition), fingerprint),
            )
        return parse_acknowledgement(fingerprint, raw)

    async def fired(self, partition: int, alert: Alert) -> Alert:
        """Give the step at which an alert fired; what is given where the stream has it no more.

        Costs a walk back through the stream.
        """
        if alert["reason"] == "fired":
            return alert
        before = "+"
        while True:
            async with self._turn():
                entries: Any = await self._client.xrevrange(
                    alerts_key(self._prefix, partition), max=before, count=PAGE_STEPS
                )
            for step in parse_steps(partition, entries):
                found = step.alert
                if found["reason"] == "fired" and (found["fingerprint"], found["since"]) == (
                    alert["fingerprint"],
                    alert["since"],
                ):
                    return found
            if len(entries) < PAGE_STEPS:
                return alert
            before = f"({entries[-1][0].decode()}"
