"""The demo from beginning to end: start, replay, wait, check, sum up."""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date, datetime
from heapq import nlargest
from http import HTTPStatus
from importlib.resources import files
from math import fsum
from pathlib import Path
from typing import Any, cast

from prometheus_client.parser import text_string_to_metric_families
from redis import asyncio as aioredis

from valuetide.schemas.errors import FaultError
from valuetide.schemas.score import Score
from valuetide.streams.deadletters import read_records
from valuetide.streams.demo import batch
from valuetide.streams.demo.foresight import (
    FREEZE,
    HORIZONS_DAYS,
    Equity,
    Foresight,
    beginning_ms,
    by_quarter,
    compared,
    predicted_orders,
)
from valuetide.streams.embedded import EmbeddedServices, embedded_services
from valuetide.streams.local import LocalWorker, local_settings, prepare
from valuetide.streams.partitioner import partition_of
from valuetide.streams.reader import Learned, Overview, Reader
from valuetide.streams.replay.event import SourceEvent
from valuetide.streams.replay.presets.cdnow import cdnow
from valuetide.streams.replay.send import Progress, send
from valuetide.streams.settings import Settings
from valuetide.streams.store.redis import connect, customer_key

CURRENCY = "USD"
WAIT_SECONDS = 300.0
MEASURED_CUSTOMERS = 1_000
BEST = 10


@dataclass(frozen=True, slots=True)
class Result:
    """What the demo measured and found.

    Attributes
    ----------
    events, customers, dead_letters, duplicates
        Counts, from the state.
    seconds
        From the first event of a quarter sent to the last one committed, all quarters.
    worker_cpu_us
        CPU time of the worker process per event, microseconds.
    redis_bytes
        Redis memory per customer, by MEMORY USAGE over a sample.
    learned
        What was learned, and how good predictions were.
    equity
        What all customers together were worth at the end of each quarter.
    foresight
        What was foreseen at week 39, and what came.
    checked
        Customers whose current value was compared with the batch program's.
    best
        The customers with the greatest clv at the end.
    wrong
        What differs, by customer or month; empty in a sound run.
    """

    events: int
    customers: int
    dead_letters: int
    duplicates: int
    seconds: float
    worker_cpu_us: float
    redis_bytes: float
    learned: Learned
    equity: list[Equity]
    foresight: Foresight | None
    checked: int
    best: list[Score]
    months: dict[str, dict[str, float]]
    totals: dict[str, float]
    wrong: dict[str, list[str]] = field(default_factory=dict)


@dataclass(slots=True)
class Replayed:
    """What was sent so far, what it cost, and what was foreseen on the way."""

    events: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    equity: list[Equity] = field(default_factory=list)
    learned: Learned | None = None
    predicted: dict[str, float] = field(default_factory=dict)
    best: list[Score] = field(default_factory=list)


class Demo:
    """A running demo: embedded services and one worker, until :meth:`close`.

    Parameters
    ----------
    say
        Told what is going on, a line at a time.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._stack = ExitStack()
        self.services: EmbeddedServices
        self.settings: Settings
        self.worker: LocalWorker

    def start(self) -> None:
        """Start broker, Redis and worker."""
        try:
            started = time.monotonic()
            self.services = self._stack.enter_context(embedded_services())
            self.settings = local_settings(
                self.services,
                vocabulary={"base_currency": CURRENCY},
                horizons_days=HORIZONS_DAYS,
                log_level="warning",
                webhooks=(),  # nobody is to be told of what happened in an example
            )
            prepare(self.settings)
            self._say(
                f"broker {self.services.broker}, Redis {self.services.redis_url}: "
                f"{time.monotonic() - started:.1f} s"
            )
            started = time.monotonic()
            self.worker = self._stack.enter_context(LocalWorker(self.settings))
            self._say(f"worker http://{self.worker.address}: {time.monotonic() - started:.1f} s")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop everything and leave nothing behind."""
        self._stack.close()

    async def run(self, path: Path, on_progress: Callable[[Progress], None] | None) -> Result:
        """Replay a CDNOW file, wait until every event is accounted for, and check everything.

        Raises
        ------
        FaultError
            When the worker does not get through all events.
        """
        replayed = Replayed()
        async with Reader(self.settings) as reader:
            for day, events in by_quarter(cdnow(path, currency=CURRENCY)):
                await self._replay(events, reader, replayed, on_progress)
                await self._look_ahead(day, reader, replayed)
            overview = await reader.overview()
            self._say("recomputing every customer with a separate batch program ...")
            scores = {score["customer_id"]: score async for score in reader.scan()}
            learned = await reader.learned()
        customers = await asyncio.to_thread(batch.read_cdnow, path)
        wrong = await self._check(customers, replayed.events, overview, scores)
        foresight = None
        if replayed.learned is not None:
            foresight = Foresight(replayed.learned, compared(replayed.predicted, customers))
        counts = overview.events["orders"]
        return Result(
            events=counts["folded"],
            customers=int(overview.totals["customers"]),
            dead_letters=counts["dead_letter"],
            duplicates=counts["duplicate"],
            seconds=replayed.seconds,
            worker_cpu_us=replayed.cpu_seconds / replayed.events * 1e6,
            redis_bytes=await self._redis_bytes(list(scores)[:MEASURED_CUSTOMERS]),
            learned=learned,
            equity=replayed.equity,
            foresight=foresight,
            checked=len(scores),
            best=replayed.best,
            months=overview.months,
            totals=overview.totals,
            wrong=wrong,
        )

    async def _replay(
        self,
        events: Iterable[SourceEvent],
        reader: Reader,
        replayed: Replayed,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        """Send events, and wait until they are committed."""
        before = replayed.events

        def show(progress: Progress) -> None:
            if on_progress is not None:
                done = before + progress.acknowledged
                on_progress(Progress(before + progress.events, done, progress.occurred_at))

        cpu, started = self._worker_cpu_seconds(), time.monotonic()
        sent = await send(events, self.settings, on_progress=show)
        positions = {
            ("orders", partition): part.next_offset
            for partition, part in sent.partitions.items()
            if part.next_offset is not None
        }
        if not await reader.wait_for_positions(positions, WAIT_SECONDS):
            raise FaultError(
                f"not all events were processed within {WAIT_SECONDS:.0f} s; the worker says:\n"
                f"{self.worker.log_tail()}"
            )
        replayed.events += sent.events
        replayed.seconds += time.monotonic() - started
        replayed.cpu_seconds += self._worker_cpu_seconds() - cpu

    async def _look_ahead(self, day: date, reader: Reader, replayed: Replayed) -> None:
        """Note what all customers are worth as a day begins, and at week 39 what each one is."""
        self._say(f"looking ahead from {day} ...")
        scores = [score async for score in reader.evaluate(beginning_ms(day))]
        clv = {f"clv_{days}d": 0.0 for days in HORIZONS_DAYS}
        for name in clv:
            clv[name] = fsum(cast("dict[str, float]", score)[name] for score in scores)
        replayed.equity.append(Equity(day, len(scores), clv))
        # Not as they were last scored, but as of now: some have been silent since.
        longest = f"clv_{HORIZONS_DAYS[-1]}d"
        replayed.best = nlargest(
            BEST, scores, key=lambda score: cast("dict[str, float]", score)[longest]
        )
        if day == FREEZE:
            replayed.learned = await reader.learned()
            replayed.predicted = predicted_orders(scores)

    async def _check(
        self,
        customers: dict[str, list[batch.Purchase]],
        sent: int,
        overview: Overview,
        scores: dict[str, Score],
    ) -> dict[str, list[str]]:
        wrong: dict[str, list[str]] = {}
        settings = self.settings
        for customer in customers.keys() | scores.keys():
            if customer not in scores or customer not in customers:
                wrong[customer] = ["missing" if customer in customers else "not in the file"]
                continue
            score = scores[customer]
            expected = batch.batch_score(
                customer,
                customers[customer],
                datetime.fromisoformat(str(score["as_of"])),
                settings.vocabulary.rfm,
                settings.half_life_days,
            )
            if fields := batch.differences(score, expected):
                wrong[customer] = fields
        for month, (count, revenue) in batch.months(customers).items():
            sums = overview.months.get(month, {})
            if (sums.get("orders"), sums.get("revenue")) != (count, float(revenue)):
                wrong[month] = ["monthly sums"]
        accounted = sum(overview.events["orders"].values())
        if accounted != sent:
            wrong["events"] = [f"{sent} sent, {accounted} accounted for"]
        published = await self._published()
        for customer, score in scores.items():
            if published.get(customer) != score["version"]:
                wrong.setdefault(customer, []).append("scores topic")
        return wrong

    async def _published(self) -> dict[str, int]:
        """Give the highest version of each customer on the ``scores`` topic."""
        from pydantic_core import from_json  # noqa: PLC0415

        versions: dict[str, int] = {}
        async for record in read_records(self.settings, self.settings.topics.scores):
            score: dict[str, Any] = from_json(record.value or b"{}")
            customer = score["customer_id"]
            versions[customer] = max(versions.get(customer, 0), score["version"])
        return versions

    def _worker_cpu_seconds(self) -> float:
        status, text = self.worker.get("/metrics")
        if status != HTTPStatus.OK:
            raise FaultError(f"the worker's /metrics answers {status}")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "process_cpu_seconds_total":
                    seconds: float = sample.value
                    return seconds
        return float("nan")  # only Linux tells

    async def _redis_bytes(self, ids: list[str]) -> float:
        client: aioredis.Redis = connect(self.settings.redis_url.get_secret_value())
        settings = self.settings
        try:
            async with client.pipeline(transaction=False) as pipeline:
                for customer in ids:
                    partition = partition_of(customer, settings.partitions)
                    pipeline.memory_usage(customer_key(settings.key_prefix, partition, customer))
                sizes = await pipeline.execute()
        finally:
            await client.aclose()
        total: float = sum(sizes)
        return total / len(sizes)


def cdnow_file() -> Path:
    """Give the CDNOW file of the ``lifetimes`` wheel.

    Raises
    ------
    FaultError
        When it is not installed.
    """
    try:
        path = Path(str(files("lifetimes"))) / "datasets" / "CDNOW_master.txt"
    except ModuleNotFoundError:
        path = Path()
    if not path.is_file():
        raise FaultError("the demo's data is not installed: pip install 'valuetide[demo]'")
    return path
