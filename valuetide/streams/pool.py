"""The parameters that all shards score with: what each has learned, pooled.

A shard scores with what it has learned itself, with what the other shards of its worker have
learned up to this moment, and with what shards of other workers had committed when they were last
looked at, every ``model_refresh_seconds``. So what a shard learns depends on its events alone,
while a score depends, by a little, on how far the other shards are.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from valuetide.schemas.errors import FaultError
from valuetide.scoring.lifetime.learner import Learner, pooled
from valuetide.scoring.lifetime.parameters import PRIOR, Parameters
from valuetide.scoring.lifetime.pieces import CUSTOMERS, HEAD
from valuetide.scoring.lifetime.ranks import NAMES, Percentiles, Ranks
from valuetide.streams.store import StateStore


class Pool:
    """What the shards know, by partition; one for a worker.

    Parameters
    ----------
    clock
        Gives seconds that only rise.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ours: dict[int, tuple[Learner, int]] = {}
        self._others: dict[int, tuple[Learner, int]] = {}
        self._ranks: dict[int, Ranks] = {}
        self._parameters: Parameters | None = PRIOR
        self._percentiles: Percentiles | None = None
        self._read_at: float | None = None

    @property
    def parameters(self) -> Parameters:
        """The pooled parameters, the prior while nobody has learned anything."""
        if self._parameters is None:
            self._parameters = pooled_parameters(self._others | self._ours)
        return self._parameters

    @property
    def percentiles(self) -> Percentiles:
        """Ranks among the customers of all shards."""
        if self._percentiles is None:
            self._percentiles = Percentiles(self._ranks.values())
        return self._percentiles

    def put(self, partition: int, learner: Learner, customers: int, ranks: Ranks) -> None:
        """Take in what a shard of this worker has learned, and how many customers it has."""
        self._ours[partition] = (learner, customers)
        self._parameters = None
        if self._ranks.get(partition) is not ranks:
            self._ranks[partition] = ranks
            self._percentiles = None

    def release(self, partition: int) -> None:
        """Note that the shard is no longer this worker's."""
        if partition in self._ours:
            self._others[partition] = self._ours.pop(partition)
        self._read_at = None

    async def refresh(self, store: StateStore, partitions: int, every_seconds: float) -> None:
        """Read what shards of other workers have committed, unless that was done lately.

        Raises
        ------
        StoreUnavailableError
            When the store does not answer.
        FaultError
            When what is there cannot be read.
        """
        now = self._clock()
        if self._read_at is not None and now < self._read_at + every_seconds:
            return
        self._read_at = now
        others = [partition for partition in range(partitions) if partition not in self._ours]
        if others:
            models = await store.read_models(others, (HEAD, CUSTOMERS, *NAMES))
            self._others |= decode_heads(others, models)
            self._ranks |= {
                partition: decode_ranks(partition, model)
                for partition, model in zip(others, models, strict=True)
            }
            self._parameters = self._percentiles = None


def decode_heads(
    partitions: Sequence[int], models: Sequence[Mapping[str, bytes]]
) -> dict[int, tuple[Learner, int]]:
    """Give learners without their members, and numbers of customers, of shards that have any.

    Raises
    ------
    FaultError
        When one cannot be read.
    """
    found = {}
    for partition, model in zip(partitions, models, strict=True):
        if HEAD in model:
            try:
                customers = int(model.get(CUSTOMERS, 0))
                found[partition] = Learner.decode_head(model[HEAD])[0], customers
            except ValueError as error:
                raise FaultError(
                    f"partition {partition}: its model in Redis cannot be read: {error}"
                ) from error
    return found


def decode_ranks(partition: int, model: Mapping[str, bytes]) -> Ranks:
    """Give the ranks of a shard's customers.

    Raises
    ------
    FaultError
        When they cannot be read.
    """
    try:
        return Ranks(model)
    except ValueError as error:
        raise FaultError(
            f"partition {partition}: its model in Redis cannot be read: {error}"
        ) from error


def pooled_parameters(shards: Mapping[int, tuple[Learner, int]]) -> Parameters:
    """Give the parameters of all shards, the prior while nobody has learned anything."""
    # Added up by partition, so that the sum does not depend on who came first.
    known = [one for _, one in sorted(shards.items())]
    return pooled(
        [learner for learner, _ in known],
        [customers if learner.orders else 0 for learner, customers in known],
    )
