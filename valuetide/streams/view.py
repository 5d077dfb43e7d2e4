"""What a reader knows of all shards at a moment: how customers rank, and how to score them.

    records and models of the shards -> ranks; what was learned -> scores from packed states

Made of what the shards have committed, some pieces of each; what is not asked for is not decoded,
so that a model which this release cannot read does not keep anyone from reading scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from redis import asyncio as aioredis

from valuetide.schemas.errors import FaultError
from valuetide.scoring.arrays import FloatArray
from valuetide.scoring.current_value import CurrentValue, current_value
from valuetide.scoring.customers import Customers
from valuetide.scoring.lifetime.pieces import MEMBERS
from valuetide.scoring.lifetime.ranks import Percentiles, Ranks
from valuetide.streams.clock import Clock
from valuetide.streams.pool import (
    Knowledge,
    Share,
    decode_shares,
    over,
    pooled_knowledge,
    settled_knowledge,
    share_pieces,
    unsettled,
)
from valuetide.streams.records import TOTALS, Ahead, score_rows
from valuetide.streams.settings import Settings
from valuetide.streams.shard_memory import settings_mark
from valuetide.streams.shard_model import Past, ShardModel, basis_of
from valuetide.streams.store.redis import (
    commit_key,
    mapped_errors,
    model_key,
    present,
    read_models,
    text_fields,
)

CURRENCY = "base_currency"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Customers as they are at a moment.

    Attributes
    ----------
    ids
        Who, ``m``.
    value
        What they have been worth so far, ``m``.
    ahead
        What is to be expected of those with an order, ``n``.
    stored_clv
        What the last score of these said, minor units, ``(n,)``: their place in the ranks.
    now_ms
        The moment.
    """

    ids: Sequence[str]
    value: CurrentValue
    ahead: Ahead
    stored_clv: FloatArray
    now_ms: int

    def rows(self, percentile: FloatArray, minor_digits: int) -> list[tuple[Any, ...]]:
        """Give the score fields, ``m`` rows, with the ranks of the ``n``, 0 to 100."""
        return score_rows(self.value, self.ahead, percentile, self.now_ms, minor_digits)


class View:
    """What all shards had committed when it was read.

    Parameters
    ----------
    settings
        Those of the reader; horizons and discount are taken from them.
    records, models
        Fields of each shard's record, and pieces of its model, by partition from 0 on.

    Raises
    ------
    FaultError
        When the state was made with other settings than the reader's, so that what it says of
        money or time would be wrong. Another base currency is taken over.
    """

    def __init__(
        self,
        settings: Settings,
        records: Sequence[Mapping[str, str]],
        models: Sequence[Mapping[str, bytes]],
    ) -> None:
        self._settings = settings
        self._records = records
        self._models = models
        self._known: dict[int, Knowledge] = {}
        self.currency = settings.vocabulary.base_currency
        for record in records:
            if mark := record.get("settings"):
                self.currency = _currency(settings, mark)

    @classmethod
    async def read(cls, client: "aioredis.Redis", settings: Settings) -> "View":
        """Read what is there.

        Raises
        ------
        StoreUnavailableError
            When Redis does not answer.
        FaultError
            See the class.
        """
        prefix, names = settings.key_prefix, share_pieces(settings.horizons_days)
        with mapped_errors():
            async with client.pipeline(transaction=False) as pipeline:
                for partition in range(settings.partitions):
                    pipeline.hgetall(commit_key(prefix, partition))
                    pipeline.hmget(model_key(prefix, partition), names)
                answers = await pipeline.execute()
        return cls(
            settings,
            [text_fields(record) for record in answers[::2]],
            [present(names, row) for row in answers[1::2]],
        )

    async def at(self, client: "aioredis.Redis", now_ms: int) -> "View":
        """Give a view that knows what there is to know at a moment.

        Of shards whose last day is over then, and which have not settled since, the samples are
        read, up to 164 kB each; without such shards this is the view itself.

        Raises
        ------
        StoreUnavailableError, FaultError
            See :meth:`read` and the class.
        """
        due = unsettled(self.shares, over(self.shares, now_ms))
        missing = [p for p in due if self._models[p].keys().isdisjoint(MEMBERS)]
        if not missing:
            return self
        names = [*share_pieces(self._settings.horizons_days), *MEMBERS]
        found = await read_models(client, self._settings.key_prefix, missing, names)
        models = list(self._models)
        for partition, model in zip(missing, found, strict=True):
            models[partition] = model
        return View(self._settings, self._records, models)

    @cached_property
    def shares(self) -> dict[int, Share]:
        """What each shard has learned, of those that have."""
        partitions, days = range(len(self._models)), self._settings.horizons_days
        return decode_shares(partitions, self._models, days, self._records)

    @cached_property
    def _pooled(self) -> Knowledge:
        return pooled_knowledge(self.shares)

    def knowledge(self, now_ms: int) -> Knowledge:
        """Give what all shards know together at a moment, see :meth:`at`."""
        day = over(self.shares, now_ms)
        if day not in self._known:
            self._known[day] = settled_knowledge(self.shares, day, self._pooled)
        return self._known[day]

    @cached_property
    def percentiles(self) -> Percentiles:
        """Ranks among the last scores of all customers."""
        try:
            return Percentiles(map(Ranks, self._models))
        except ValueError as error:
            raise FaultError(f"the ranks in Redis cannot be read: {error}") from error

    @cached_property
    def _expecting(self) -> dict[int, ShardModel]:
        return {p: ShardModel.of_share(self._settings, share) for p, share in self.shares.items()}

    def now_ms(self, clock: Clock) -> int:
        """Give what is now for the workers' clock."""
        return clock.now_of(
            (int(record.get("max_event_at", 0)), record.get("live") == "1")
            for record in self._records
        )

    def evaluate(
        self, partition: int, ids: Sequence[str], states: Sequence[bytes], now_ms: int
    ) -> Evaluated:
        """Compute what customers of a shard are worth at a moment from their packed states.

        Raises
        ------
        FaultError
            When a state cannot be read.
        """
        words, record = self._settings.vocabulary, self._records[partition]
        totals = {name: int(record.get(f"total:{name}", 0)) for name in TOTALS}
        customers = Customers(self._settings.half_life_days)
        try:
            added = customers.add(ids, states)
        except ValueError as error:
            raise FaultError(
                f"partition {partition}: what is in Redis cannot be read: {error}"
            ) from error
        value = current_value(
            customers, added, now_ms, minor_digits=words.minor_digits, bands=words.rfm
        )
        records, signals = customers.records[: len(ids)], customers.signals[: len(ids)]
        past = Past(records["scored_at"], records["clv"], basis_of(value), signals)
        model = self._expecting.get(partition) or ShardModel(self._settings, {})
        ahead = model.expect(value, signals, past, totals, self.knowledge(now_ms), now_ms)
        clv = past.clv[ahead.buyers]
        return Evaluated(ids, value, ahead, np.where(np.isnan(clv), ahead.clv, clv), now_ms)


def _currency(settings: Settings, mark: str) -> str:
    """Give the base currency that a state was made with, and make sure of the other settings."""
    made = dict(part.partition("=")[::2] for part in mark.split())
    ours = dict(part.partition("=")[::2] for part in settings_mark(settings).split())
    currency = made.get(CURRENCY, ours[CURRENCY])
    if made | {CURRENCY: ""} != ours | {CURRENCY: ""}:
        raise FaultError(
            f"the state in Redis was made with {mark}, the settings here say "
            f"{settings_mark(settings)}: use the workers' settings to read it"
        )
    return currency
