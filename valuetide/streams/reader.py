"""Reads scores out of Redis, for the command line, for HTTP and for dashboards."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis import asyncio as aioredis

from valuetide.schemas.errors import FaultError
from valuetide.schemas.score import Score, ranked_fields
from valuetide.schemas.topics import INPUTS
from valuetide.scoring.current_value import current_value
from valuetide.scoring.customers import Customers
from valuetide.scoring.lifetime.parameters import Parameters
from valuetide.scoring.lifetime.ranks import Percentiles
from valuetide.streams.alerts import AlertReader
from valuetide.streams.clock import Clock
from valuetide.streams.connections import redis_client
from valuetide.streams.partitioner import partition_of
from valuetide.streams.pool import Knowledge, decode_shares, pooled_knowledge, share_pieces
from valuetide.streams.records import (
    MOVED_BY,
    TOTALS,
    moved_parts,
    score_columns,
    score_rows,
    stored_columns,
)
from valuetide.streams.settings import Settings
from valuetide.streams.shard_model import Past, ShardModel, basis_of
from valuetide.streams.store.redis import (
    SCAN_COUNT,
    commit_key,
    customer_key,
    mapped_errors,
    model_key,
    months_key,
    read_models,
    scan_customers,
    top_key,
)

INTEGERS = frozenset({"version", "orders", "frequency"})
TEXTS = frozenset({"as_of", "first_order_at", "last_order_at", "rfm", "next_order_at"})
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
    """

    knowledge: Knowledge
    customers: int
    orders: int
    shards: dict[int, Parameters]
    corrected: bool

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
        with mapped_errors():
            async with self._client.pipeline(transaction=False) as pipeline:
                for customer in ids:
                    key = customer_key(prefix, partition_of(customer, partitions), customer)
                    pipeline.hmget(key, self._columns)
                rows = await pipeline.execute()
        return [
            parse_score(customer, row, self._columns)
            for customer, row in zip(ids, rows, strict=True)
        ]

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

    async def learned(self) -> Learned:
        """Give what was learned, and how good predictions were.

        Raises
        ------
        FaultError
            When what is in Redis cannot be read.
        """
        partitions, horizons = range(self._settings.partitions), self._settings.horizons_days
        models = await read_models(
            self._client, self._settings.key_prefix, partitions, share_pieces(horizons)
        )
        shares = decode_shares(partitions, models, horizons)
        return Learned(
            pooled_knowledge(shares),
            sum(share.customers for share in shares.values()),
            sum(share.learner.orders for share in shares.values()),
            {partition: share.learner.parameters for partition, share in shares.items()},
            self._settings.ratio_correction == "auto",
        )

    async def equity(self, now_ms: int | None = None) -> dict[str, float]:
        """Give the sum of all customers' clv by horizon; see :meth:`evaluate`."""
        return (await self.outlook(now_ms)).equity

    async def outlook(self, now_ms: int | None = None) -> Outlook:
        """Give what all customers together are worth, and will spend; see :meth:`evaluate`."""
        days = self._settings.horizons_days
        clv: dict[int, list[float]] = {horizon: [] for horizon in days}
        spend: dict[int, list[float]] = {horizon: [] for horizon in days}
        async for one in self.evaluate(now_ms):
            score = cast("dict[str, float | None]", one)
            worth = score["expected_order_value"] or 0.0
            for horizon in days:
                clv[horizon].append(score[f"clv_{horizon}d"] or 0.0)
                spend[horizon].append((score[f"expected_orders_{horizon}d"] or 0.0) * worth)
        learned = await self.learned()
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

        A stored score is for the moment of the customer's last event; this brings the silence
        since then into account. Costs a walk over all keys.

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
        settings, prefix = self._settings, self._settings.key_prefix
        with mapped_errors():
            async with self._client.pipeline(transaction=False) as pipeline:
                for partition in range(settings.partitions):
                    pipeline.hgetall(commit_key(prefix, partition))
                    pipeline.hgetall(model_key(prefix, partition))
                answers = await pipeline.execute()
        fields = [{k.decode(): v for k, v in record.items()} for record in answers[::2]]
        if now_ms is None:
            last = max((int(record.get("max_event_at", 0)) for record in fields), default=0)
            live = any(record.get("live") == "1" for record in fields)
            clock = Clock(settings.clock, settings.live_within_seconds)
            now_ms = clock.now_ms(last, was_live=live)
        models = [{k.decode(): v for k, v in pieces.items()} for pieces in answers[1::2]]
        names = score_columns(settings.horizons_days)
        shares = decode_shares(range(len(models)), models, settings.horizons_days)
        knowledge = pooled_knowledge(shares)
        percentiles = Percentiles(share.ranks for share in shares.values())
        for partition, record in enumerate(fields):
            totals = {name: int(record.get(f"total:{name}", 0)) for name in TOTALS}
            try:
                model = ShardModel(settings, models[partition])
                async for ids, states in self._states(partition):
                    customers = Customers(settings.half_life_days)
                    words = settings.vocabulary
                    value = current_value(
                        customers,
                        customers.add(ids, states),
                        now_ms,
                        minor_digits=words.minor_digits,
                        bands=words.rfm,
                    )
                    records = customers.records[: len(ids)]
                    signals = customers.signals[: len(ids)]
                    past = Past(records["scored_at"], records["clv"], basis_of(value), signals)
                    ahead = model.expect(value, signals, past, totals, knowledge, now_ms)
                    percentile = percentiles.of(ahead.clv)
                    rows = score_rows(value, ahead, percentile, now_ms, words.minor_digits)
                    for customer, row in zip(ids, rows, strict=True):
                        score = dict(zip(names, row, strict=True))
                        yield cast("Score", {"customer_id": customer} | score)
            except ValueError as error:
                raise FaultError(
                    f"partition {partition}: what is in Redis cannot be read: {error}"
                ) from error

    async def _states(self, partition: int) -> AsyncIterator[tuple[list[str], list[bytes]]]:
        """Give the packed states of a partition, some customers at a time."""
        prefix = self._settings.key_prefix
        found: set[str] = set()  # a scan may give a customer twice
        async for _, ids in scan_customers(self._client, prefix, [partition]):
            found.update(ids)
        customers = sorted(found)
        for at in range(0, len(customers), SCAN_COUNT):
            part = customers[at : at + SCAN_COUNT]
            with mapped_errors():
                async with self._client.pipeline(transaction=False) as pipeline:
                    for customer in part:
                        pipeline.hget(customer_key(prefix, partition, customer), "s")
                    states = await pipeline.execute()
            there = [(one, state) for one, state in zip(part, states, strict=True) if state]
            yield [customer for customer, _ in there], [state for _, state in there]

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


def parse_score(
    customer_id: str, row: Sequence[bytes | None], columns: Sequence[str]
) -> Score | None:
    """Make a score of the fields of a customer's hash, in the order of ``columns``."""
    if row[0] is None:
        return None
    score: dict[str, Any] = {"customer_id": customer_id}
    for name, raw in zip(columns, row, strict=True):
        text = (raw or b"").decode()
        if name == MOVED_BY:
            score |= moved_parts(text)
        elif name in TEXTS:
            score[name] = text or None
        elif name in INTEGERS:
            score[name] = int(text)
        else:
            score[name] = float(text) if text else None
    return score  # type: ignore[return-value]
