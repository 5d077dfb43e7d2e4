"""Carries the alerts of a worker's shards to its webhooks, each step at least once.

For each hook and each shard of the worker there is a task of its own, so that what one receiver
does holds up neither others nor the stream. It takes steps in their order; a step whose attempts
fail is tried again, each time later, until it is delivered, refused for good or too old. One that
cannot be read is given up at once. Whatever else fails, the task begins again after a while: people
may hear of alerts late, but scoring never stops for that.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Final

import structlog
from redis import asyncio as aioredis

from valuetide.schemas.alert import Alert
from valuetide.schemas.errors import FaultError, TransientError
from valuetide.streams.alerts import Step, StepId, UnreadableStep
from valuetide.streams.connections import redis_client
from valuetide.streams.metrics import Metrics
from valuetide.streams.settings import Settings
from valuetide.streams.tasks import end, whole
from valuetide.streams.webhooks.endpoint import Endpoint
from valuetide.streams.webhooks.formats import alertmanager_body, body_of
from valuetide.streams.webhooks.outbox import Outbox

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 1.0
"""How often a lane looks for new steps."""

FIRST_RETRY_SECONDS: Final = 1.0
MOST_RETRY_SECONDS: Final = 300.0
"""Wait before another attempt; it doubles with every failure."""

STORE_RETRY_SECONDS: Final = 2.0
FAULT_RETRY_SECONDS: Final = 30.0
"""Wait after a fault that nothing here expects; each is logged and counted."""

RESENT_AT_ONCE: Final = 200
"""Alerts in one request to Alertmanager, about 0.2 MB."""


class Lane:
    """One hook and one shard.

    Parameters
    ----------
    endpoint
        The hook's.
    outbox
        What there is to deliver.
    partition
        The shard.
    metrics
        Counts steps that are given up, and faults.
    """

    def __init__(
        self, endpoint: Endpoint, outbox: Outbox, partition: int, metrics: Metrics
    ) -> None:
        self._endpoint = endpoint
        self._hook = endpoint.hook
        self._outbox = outbox
        self._partition = partition
        self._metrics = metrics
        self._resend_at = 0.0
        self.waiting: StepId | None = None
        """The step that is being delivered."""

    async def run(self) -> None:
        """Deliver what there is and what comes, until cancelled."""
        while True:
            try:
                at = await self._outbox.cursor(self._hook.name, self._partition)
                while True:
                    at = await self.deliver_after(at)
                    await self._resend()
                    await asyncio.sleep(LOOK_SECONDS)
            except TransientError as error:
                log.warning("webhook waits for Redis", hook=self._hook.name, why=str(error))
                await asyncio.sleep(STORE_RETRY_SECONDS)
            except Exception as error:
                self._metrics.webhook_faults.labels(self._hook.name).inc()
                # The text of an error that is not ours may have the address.
                why = str(error) if isinstance(error, FaultError) else type(error).__name__
                log.error(
                    "webhook begins again", hook=self._hook.name, partition=self._partition,
                    why=why, seconds=FAULT_RETRY_SECONDS,
                )  # fmt: skip
                log.debug("webhook begins again", exc_info=error)
                await asyncio.sleep(FAULT_RETRY_SECONDS)

    async def deliver_after(self, at: StepId) -> StepId:
        """Deliver all steps after one; give the last that is done with."""
        while steps := await self._outbox.steps(self._partition, at):
            for step in steps:
                if isinstance(step, UnreadableStep):
                    self._give_up(str(step.at), step.why)
                elif await self._wanted(step):
                    self.waiting = step.at
                    await self._deliver(step)
                    self.waiting = None
                elif step is not steps[-1]:
                    continue  # what is not wanted is noted with what comes after it
                await self._outbox.done(self._hook.name, self._partition, step.at)
            at = steps[-1].at
        return at

    async def _wanted(self, step: Step) -> bool:
        alert = step.alert
        if not await self._concerns(alert):
            return False
        if self._hook.format == "alertmanager" or self._hook.steps == "all":
            return True
        if not alert["notify"] or alert["reason"] == "reminder":
            return alert["notify"]
        known = await self._outbox.acknowledgement(self._partition, alert["fingerprint"])
        return known is None or known.until_ms <= alert["at"].timestamp() * 1000.0

    async def _concerns(self, alert: Alert) -> bool:
        if alert["rule"] not in self._hook.rules:
            return False
        if not self._hook.least_stake:
            return True
        # By what it was when it fired: whoever was told of an alert is told of its end.
        fired = await self._outbox.fired(self._partition, alert)
        return fired["stake_per_day"] >= self._hook.least_stake

    async def _deliver(self, step: Step) -> None:
        """Post a step until the receiver has it or there is no sense in trying."""
        name, alert = self._hook.name, step.alert
        # Alertmanager forgets open alerts while it waits.
        alertmanager = self._hook.format == "alertmanager"
        most = self._hook.resend_seconds if alertmanager else MOST_RETRY_SECONDS
        delay = FIRST_RETRY_SECONDS
        while True:
            body = body_of(self._hook, alert, datetime.now(UTC))
            answer = await self._endpoint.post(alert["id"], body)
            if answer.delivered:
                return
            age = time.time() - step.at.ms / 1000.0
            if not answer.again or age >= self._hook.retry_seconds:
                self._give_up(alert["id"], answer.why)
                return
            log.warning("webhook fails", hook=name, step=alert["id"], why=answer.why)
            wait = max(delay * random.uniform(0.5, 1.0), answer.wait_seconds)  # noqa: S311
            await asyncio.sleep(wait)
            delay = min(2.0 * delay, most)

    def _give_up(self, step: str, why: str) -> None:
        self._metrics.webhook_given_up.labels(self._hook.name).inc()
        log.error("webhook step given up", hook=self._hook.name, step=step, why=why)

    async def _resend(self) -> None:
        """Tell Alertmanager again what goes on, or it takes that for resolved."""
        now = time.monotonic()
        if self._hook.format != "alertmanager" or now < self._resend_at:
            return
        self._resend_at = now + self._hook.resend_seconds
        alerts = [
            alert
            for alert in await self._outbox.open(self._partition)
            if await self._concerns(alert)
        ]
        for start in range(0, len(alerts), RESENT_AT_ONCE):
            part = alerts[start : start + RESENT_AT_ONCE]
            body = alertmanager_body(self._hook, part, datetime.now(UTC))
            message = f"open-{self._partition}-{start}-{time.time_ns()}"
            answer = await self._endpoint.post(message, body)
            if not answer.delivered:
                log.warning("webhook fails", hook=self._hook.name, why=answer.why)
                return


class Couriers:
    """All lanes of a worker.

    Parameters
    ----------
    settings
        The hooks, and where Redis is.
    metrics
        The worker's.
    partitions
        Gives the worker's shards, as they are at the moment.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, partitions: Callable[[], Iterable[int]]
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._partitions = partitions
        self._lanes: dict[tuple[str, int], tuple[Lane, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Deliver until cancelled."""
        if not self._settings.webhooks:
            return
        client = redis_client(self._settings)
        outbox = Outbox(client, self._settings.key_prefix)
        endpoints = {hook.name: Endpoint(hook, self._metrics) for hook in self._settings.webhooks}
        for name in endpoints:
            self._metrics.watch_webhook(name, partial(self.oldest_seconds, name))
        try:
            while True:
                await self._follow_shards(endpoints, outbox)
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            await whole(self._close(endpoints.values(), client))

    async def _close(self, endpoints: Iterable[Endpoint], client: "aioredis.Redis") -> None:
        await self._end(list(self._lanes))
        for endpoint in endpoints:
            await endpoint.close()
        await client.aclose()

    def oldest_seconds(self, hook: str) -> float:
        """Give the age of the oldest step that a hook has not got, 0 where it has all."""
        waiting = [
            lane.waiting.ms
            for (name, _), (lane, _) in self._lanes.items()
            if name == hook and lane.waiting is not None
        ]
        return max(0.0, time.time() - min(waiting) / 1000.0) if waiting else 0.0

    async def _follow_shards(self, endpoints: dict[str, Endpoint], outbox: Outbox) -> None:
        """Have a lane for each hook and each shard of the worker, and no other."""
        wanted = {(name, partition) for partition in self._partitions() for name in endpoints}
        await self._end([place for place in self._lanes if place not in wanted])
        for name, partition in wanted - self._lanes.keys():
            lane = Lane(endpoints[name], outbox, partition, self._metrics)
            task = asyncio.create_task(lane.run(), name=f"webhook-{name}-{partition}")
            self._lanes[name, partition] = lane, task

    async def _end(self, places: list[tuple[str, int]]) -> None:
        await end([self._lanes[place][1] for place in places])
        for place in places:
            del self._lanes[place]
