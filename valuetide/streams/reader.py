"""Reads scores out of Redis, for the command line, for HTTP and for dashboards.

Where a customer stands among all is what the ranks say now, not what they said when the customer
was scored: they are read again when they are two seconds old. A customer of whom the hash has only
the packed state, or not all of the fields that the settings name, is scored from it: for now, by
what is known now, and without what moved the score.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from redis import asyncio as aioredis

from valuetide.schemas.score import Score, ranked_fields
from valuetide.schemas.topics import INPUTS
from valuetide.scoring.arrays import FloatArray
from valuetide.scoring.lifetime.parameters import Parameters
from valuetide.scoring.lifetime.ranks import Percentiles, Ranks
from valuetide.streams.alerts import AlertReader
from valuetide.streams.clock import Clock
from valuetide.streams.connections import redis_client
from valuetide.streams.partitioner import partition_of
from valuetide.streams.pool import Knowledge
from valuetide.streams.records import (
    MOVED_BY,
    PERCENTILE,
    TEXTS,
    TOTALS,
    moved_parts,
    score_columns,
    stored_columns,
)
from valuetide.streams.settings import Settings
from valuetide.streams.store.redis import (
    SCAN_COUNT,
    commit_key,
    customer_key,
    mapped_errors,
    months_key,
    scan_customers,
    top_key,
)
from valuetide.streams.view import Evaluated, View

INTEGERS = frozenset({"version", "orders", "frequency"})
VIEW_SECONDS = 2.0
"""What all shards have learned, and their ranks, are read again at this age; it takes 15 ms."""

STATE = "s"
MONTH_FIELDS = ("orders", "revenue", "returns", "refunds", "cancellations", "cancelled")


@dataclass(frozen=True, slots=True)
class Overview:
    """Sums over all shards.

    Attributes
    ----------
    totals
        Customers and, by name, sums over all of them; money in the base currency.
    events
        By input topic's role and outcome (folded, duplicate, dead_letter, rerouted) a count.
    positions
        By role and partition the offset up to which the state is committed.
    months
        By calendar month the sums of accepted order events, money in the base currency.
    """

    totals: dict[str, float]
    events: dict[str, dict[str, int]]
    positions: dict[tuple[str, int], int]
    months: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Outlook:
    """Sums over all customers, base currency, by horizon.

    Attributes
    ----------
    equity
        Of clv: margin, discounted.
    revenue
        Expected from the customers there are, before returns and costs, not discounted; with the
        ratio corrector whether it is proven or not, unless the settings turn it off.
    """

    equity: dict[str, float]
    revenue: dict[str, float]


@dataclass(frozen=True, slots=True)
class Learned:
    """What all shards have learned.

    Attributes
    ----------
    knowledge
        Pooled: what scores are made with, and the grades of earlier predictions.
    customers, orders
        Customers of the shards, and the orders that were learned from, of all.
    shards
        Parameters of each partition that has learned, by itself.
    corrected
        Whether the settings allow the ratio corrector.
    currency
        In which the workers count money.
    """

    knowledge: Knowledge
    customers: int
    orders: int
    shards: dict[int, Parameters]
    corrected: bool
    currency: str

    @property
    def parameters(self) -> Parameters:
        """The pooled parameters."""
        return self.knowledge.parameters


class Reader:
    """Reads the state of all shards.

    Parameters
    ----------
    settings
        Names the Redis, the key prefix and the number of partitions.

    Attributes
    ----------
    alerts
        Reads alerts.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: aioredis.Redis = redis_client(settings)
        self.alerts = AlertReader(settings, self._client)
        self._scale = 10**settings.vocabulary.minor_digits
        self._columns = stored_columns(settings.horizons_days)
        self._ranked = ranked_fields(settings.horizons_days)
        self._longest = f"clv_{settings.horizons_days[-1]}d"
        self._clock = Clock(settings.clock, settings.live_within_seconds)
        self._view: View | None = None
        self._view_read_at = 0.0
        self._view_lock = asyncio.Lock()

    async def __aenter__(self) -> "Reader":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()

    async def ping(self) -> None:
        """Make sure that Redis answers, or raise ``StoreUnavailableError``."""
        with mapped_errors():
            await self._client.ping()

    async def customer(self, customer_id: str) -> Score | None:
        """Give the score of a customer, ``None`` for one that is not known."""
        return (await self.customers([customer_id]))[0]

    async def customers(self, ids: list[str]) -> list[Score | None]:
        """Give the scores of customers, ``None`` for each that is not known."""
        prefix, partitions = self._settings.key_prefix, self._settings.partitions
        homes = [partition_of(customer, partitions) for customer in ids]
        with mapped_errors():
            async with self._client.pipeline(transaction=False) as pipeline:
                for customer, home in zip(ids, homes, strict=True):
                    pipeline.hmget(customer_key(prefix, home, customer), *self._columns, STATE)
                rows = await pipeline.execute()
        scores: list[Score | None] = [None] * len(ids)
        stored: list[Score] = []
        packed: dict[int, list[int]] = {}
        for at, (*fields, state) in enumerate(rows):
            if None not in fields:
                scores[at] = score = parse_score(ids[at], fields, self._columns)
                stored.append(score)
            elif state is not None:
                packed.setdefault(homes[at], []).append(at)
        if stored or packed:
            view = await self._recent_view()
            self._rank(stored, view.percentiles)
            for home, places in packed.items():
                states = [rows[at][-1] for at in places]
                now_ms = await self._now_ms(home)
                view = await self._recent_view(now_ms)
                found = view.evaluate(home, [ids[at] for at in places], states, now_ms)
                made = self._scores(found, view.percentiles.of(found.stored_clv))
                for at, score in zip(places, made, strict=True):
                    # What moved the last score is on the topic only.
                    scores[at] = cast("Score", {**score, **moved_parts(None)})
        return scores

    def _rank(self, scores: Sequence[Score], percentiles: Percentiles) -> None:
        """Put in where customers stand now, by the clv of their last score."""
        rows = cast("Sequence[dict[str, Any]]", scores)
        buyers = [score for score in rows if score[self._longest] is not None]
        clv = np.array([score[self._longest] for score in buyers]) * self._scale
        for score, percentile in zip(buyers, percentiles.of(clv).tolist(), strict=True):
            score[PERCENTILE] = round(percentile, 1)

    async def _recent_view(self, now_ms: int | None = None) -> View:
        """Give what all shards had committed a short time ago, to score with if for a moment."""
        async with self._view_lock:
            age = time.monotonic() - self._view_read_at
            if self._view is None or age > VIEW_SECONDS:
                self._view = await View.read(self._client, self._settings)
                self._view_read_at = time.monotonic()
            if now_ms is not None:
                self._view = await self._view.at(self._client, now_ms)
            return self._view

    async def _view_at(self, now_ms: int | None) -> tuple[View, int]:
        """Give what all shards have committed, and the moment; ``None``: now."""
        view = await View.read(self._client, self._settings)
        now_ms = view.now_ms(self._clock) if now_ms is None else now_ms
        return await view.at(self._client, now_ms), now_ms

    async def _now_ms(self, partition: int) -> int:
        """Give what is now for a shard; it is not before any event that has been committed."""
        key = commit_key(self._settings.key_prefix, partition)
        with mapped_errors():
            last, live = await self._client.hmget(key, "max_event_at", "live")
        return self._clock.now_ms(int(last or 0), was_live=live == b"1")

    def _scores(self, found: Evaluated, percentile: FloatArray) -> list[Score]:
        names = ("customer_id", *score_columns(self._settings.horizons_days))
        rows = found.rows(percentile, self._settings.vocabulary.minor_digits)
        return [
            cast("Score", dict(zip(names, (customer, *row), strict=True)))
            for customer, row in zip(found.ids, rows, strict=True)
        ]

    async def currency(self) -> str:
        """Give the currency in which the workers count money."""
        return (await self._recent_view()).currency

    async def top(self, field: str, count: int) -> list[Score]:
        """Give the best customers over all shards by one of the ranked fields, best first.

        Raises
        ------
        ValueError
            When customers are not ranked by that field, or the count is not in range.
        """
        if field not in self._ranked:
            raise ValueError(f"by: customers are ranked by {', '.join(self._ranked)}")
        if not 1 <= count <= self._settings.top_size:
            raise ValueError(f"count: 1 to {self._settings.top_size}, the setting top_size")
        prefix = self._settings.key_prefix
        with mapped_errors():
            async with self._client.pipeline(transaction=False) as pipeline:
                for partition in range(self._settings.partitions):
                    key = top_key(prefix, partition, field)
                    pipeline.zrange(key, 0, count - 1, desc=True, withscores=True)
                parts = await pipeline.execute()
        ranked = sorted(
            ((value, customer.decode()) for part in parts for customer, value in part),
            reverse=True,
        )
        best = [customer for _, customer in ranked[:count]]
        return [score for score in await self.customers(best) if score is not None]

    async def overview(self) -> Overview:
        """Give the sums over all shards."""
        prefix, partitions = self._settings.key_prefix, range(self._settings.partitions)
        with mapped_errors():
            async with self._client.pipeline(transaction=False) as pipeline:
                for partition in partitions:
                    pipeline.hgetall(commit_key(prefix, partition))
                    pipeline.hgetall(months_key(prefix, partition))
                answers = await pipeline.execute()
        totals = dict.fromkeys(("customers", *TOTALS, "equity"), 0)
        events: dict[str, dict[str, int]] = {role: {} for role in INPUTS}
        positions: dict[tuple[str, int], int] = {}
        months: dict[str, list[int]] = {}
        for partition in partitions:
            for name, value in answers[2 * partition].items():
                kind, _, rest = name.decode().partition(":")
                if kind == "total":
                    totals[rest] += int(value)
                elif kind == "count":
                    role, _, outcome = rest.partition(":")
                    events[role][outcome] = events[role].get(outcome, 0) + int(value)
                elif kind == "offset":
                    positions[rest, partition] = int(value)
            for month, sums in answers[2 * partition + 1].items():
                values = [int(value) for value in sums.split()]
                known = months.get(month.decode(), [0] * len(values))
                months[month.decode()] = [a + b for a, b in zip(known, values, strict=True)]
        scale = self._scale
        counts = ("customers", "orders")
        return Overview(
            {name: value if name in counts else value / scale for name, value in totals.items()},
            events,
            positions,
            {
                month: {
                    name: value / scale if i % 2 else value
                    for i, (name, value) in enumerate(zip(MONTH_FIELDS, sums, strict=True))
                }
                for month, sums in sorted(months.items())
            },
        )

    async def learned(self, now_ms: int | None = None) -> Learned:
        """Give what was learned, and how good predictions were.

        Parameters
        ----------
        now_ms
            The moment, ms since 1970: days before it are taken as over, so that all of their
            orders count. ``None``: what is now for the workers' clock.

        Raises
        ------
        FaultError
            When what is in Redis cannot be read.
        """
        return self._learned(*await self._view_at(now_ms))

    def _learned(self, view: View, now_ms: int) -> Learned:
        shares = view.shares
        return Learned(
            view.knowledge(now_ms),
            sum(share.customers for share in shares.values()),
            sum(share.learner.orders for share in shares.values()),
            {partition: share.learner.parameters for partition, share in shares.items()},
            self._settings.ratio_correction == "auto",
            view.currency,
        )

    async def equity(self, now_ms: int | None = None) -> dict[str, float]:
        """Give the sum of all customers' clv by horizon; see :meth:`evaluate`."""
        return (await self.outlook(now_ms)).equity

    async def outlook(self, now_ms: int | None = None) -> Outlook:
        """Give what all customers together are worth, and will spend; see :meth:`evaluate`."""
        view, now_ms = await self._view_at(now_ms)
        days = self._settings.horizons_days
        digits = self._settings.vocabulary.minor_digits
        clv: dict[int, list[float]] = {horizon: [] for horizon in days}
        spend: dict[int, list[float]] = {horizon: [] for horizon in days}
        async for found in self._walk(view, await self._everybody(), now_ms):
            ahead = found.ahead.potential
            for nth, horizon in enumerate(days):
                clv[horizon] += np.round(ahead.clv[nth], digits).tolist()
                orders, worth = ahead.expected_orders[nth], ahead.expected_order_value
                spend[horizon] += (orders * worth).tolist()
        learned = self._learned(view, now_ms)
        # Of the sum over all customers the corrector is a good guess before it is proven, too.
        in_scores = learned.knowledge.factor if learned.corrected else 1.0
        factor = learned.knowledge.learned_factor / in_scores if learned.corrected else 1.0
        return Outlook(
            {f"clv_{horizon}d": math.fsum(values) for horizon, values in clv.items()},
            {
                f"revenue_{horizon}d": factor * math.fsum(values)
                for horizon, values in spend.items()
            },
        )

    async def evaluate(self, now_ms: int | None = None) -> AsyncIterator[Score]:
        """Give the score that every customer has at a moment, computed from the stored states.

        A stored score is for the moment of the customer's last event or sweep; this brings the
        silence since then into account. Ranks are those among all customers at that moment. Costs
        a walk over all keys, and all states are read twice.

        Parameters
        ----------
        now_ms
            The moment, ms since 1970; ``None``: what is now for the workers' clock. Events after
            it count all the same.

        Raises
        ------
        FaultError
            When what is in Redis cannot be read.
        """
        view, now_ms = await self._view_at(now_ms)
        everybody, ranks = await self._everybody(), Ranks()
        async for found in self._walk(view, everybody, now_ms):
            clv = found.ahead.clv
            ranks.move(np.full(clv.size, np.nan), clv)
        percentiles = Percentiles([ranks])
        async for found in self._walk(view, everybody, now_ms):
            for score in self._scores(found, percentiles.of(found.ahead.clv)):
                yield score

    async def _everybody(self) -> dict[int, list[str]]:
        """Give all customers by partition."""
        # A scan may give a customer twice.
        found: dict[int, set[str]] = {p: set() for p in range(self._settings.partitions)}
        async for partition, ids in scan_customers(
            self._client, self._settings.key_prefix, list(found)
        ):
            found[partition].update(ids)
        return {partition: sorted(ids) for partition, ids in found.items()}

    async def _walk(
        self, view: View, everybody: dict[int, list[str]], now_ms: int
    ) -> AsyncIterator[Evaluated]:
        """Evaluate customers for a moment, some at a time."""
        prefix = self._settings.key_prefix
        for partition, customers in everybody.items():
            for at in range(0, len(customers), SCAN_COUNT):
                part = customers[at : at + SCAN_COUNT]
                with mapped_errors():
                    async with self._client.pipeline(transaction=False) as pipeline:
                        for customer in part:
                            pipeline.hget(customer_key(prefix, partition, customer), STATE)
                        states = await pipeline.execute()
                there = [one for one, state in zip(part, states, strict=True) if state]
                found = [state for state in states if state]
                yield view.evaluate(partition, there, found, now_ms)

    async def scan(self) -> AsyncIterator[Score]:
        """Give the score of every customer, in no order. Costs a walk over all keys."""
        partitions = range(self._settings.partitions)
        pages = scan_customers(self._client, self._settings.key_prefix, partitions)
        async for _, ids in pages:
            for score in await self.customers(ids):
                if score is not None:
                    yield score

    async def wait_for_positions(
        self, positions: dict[tuple[str, int], int], timeout_seconds: float
    ) -> bool:
        """Wait until the state is committed up to each of these offsets; whether it was in time."""
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while True:
            at = (await self.overview()).positions
            if all(at.get(place, 0) >= offset for place, offset in positions.items()):
                return True
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(0.1)


def parse_score(customer_id: str, row: Sequence[bytes], columns: Sequence[str]) -> Score:
    """Make a score, without a rank, of the fields of a hash in the order of ``columns``."""
    score: dict[str, Any] = {"customer_id": customer_id}
    for name, raw in zip(columns, row, strict=True):
        text = raw.decode()
        if name == MOVED_BY:
            score |= {PERCENTILE: None} | moved_parts(text)
        elif name in TEXTS:
            score[name] = text or None
        elif name in INTEGERS:
            score[name] = int(text)
        else:
            score[name] = float(text) if text else None
    return score  # type: ignore[return-value]
