"""The parameters that all shards score with: what each has learned, pooled.

A shard scores with what it has learned itself, with what the other shards of its worker have
learned up to this moment, and with what shards of other workers had committed when they were last
looked at, every ``model_refresh_seconds``. So what a shard learns depends on its events alone,
while a score depends, by a little, on how far the other shards are.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from valuetide.schemas.errors import FaultError
from valuetide.scoring.lifetime.evidence import NOTHING, Rates
from valuetide.scoring.lifetime.evidence_learner import Evidence, proven_rates
from valuetide.scoring.lifetime.evidence_pieces import HEAD as EVIDENCE_HEAD
from valuetide.scoring.lifetime.learner import Learner, pooled
from valuetide.scoring.lifetime.parameters import PRIOR, Parameters
from valuetide.scoring.lifetime.pieces import CUSTOMERS, HEAD
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
        self._our_evidence: dict[int, Evidence] = {}
        self._others_evidence: dict[int, Evidence] = {}
        self._parameters: Parameters | None = PRIOR
        self._rates: Rates | None = NOTHING
        self._read_at: float | None = None

    @property
    def parameters(self) -> Parameters:
        """The pooled parameters, the prior while nobody has learned anything."""
        if self._parameters is None:
            self._parameters = pooled_parameters(self._others | self._ours)
        return self._parameters

    @property
    def rates(self) -> Rates:
        """What signals tell, by all shards; nothing unless that has helped."""
        if self._rates is None:
            self._rates = pooled_rates(self._others_evidence | self._our_evidence)
        return self._rates

    def put(
        self, partition: int, learner: Learner, customers: int, evidence: Evidence | None = None
    ) -> None:
        """Take in what a shard of this worker has learned, and how many customers it has."""
        self._ours[partition] = (learner, customers)
        self._parameters = None
        if evidence is not None:
            self._our_evidence[partition] = evidence
            self._rates = None

    def release(self, partition: int) -> None:
        """Note that the shard is no longer this worker's."""
        if partition in self._ours:
            self._others[partition] = self._ours.pop(partition)
        if partition in self._our_evidence:
            self._others_evidence[partition] = self._our_evidence.pop(partition)
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
            heads = await store.read_models(others, HEAD)
            customers = await store.read_models(others, CUSTOMERS)
            self._others |= decode_heads(others, heads, customers)
            self._parameters = None
            if self._our_evidence:
                evidence = await store.read_models(others, EVIDENCE_HEAD)
                self._others_evidence |= decode_evidence(others, evidence)
                self._rates = None


def decode_evidence(
    partitions: Sequence[int], heads: Sequence[bytes | None]
) -> dict[int, Evidence]:
    """Give what shards have learned of signals, without their panels.

    Raises
    ------
    FaultError
        When one cannot be read.
    """
    found = {}
    for partition, head in zip(partitions, heads, strict=True):
        if head:
            try:
                found[partition] = Evidence.decode_head(head)[0]
            except ValueError as error:
                raise FaultError(
                    f"partition {partition}: its model in Redis cannot be read: {error}"
                ) from error
    return found


def pooled_rates(shards: Mapping[int, Evidence]) -> Rates:
    """Give what signals tell by all shards, added up by partition."""
    return proven_rates([evidence for _, evidence in sorted(shards.items())])


def decode_heads(
    partitions: Sequence[int],
    heads: Sequence[bytes | None],
    customers: Sequence[bytes | None],
) -> dict[int, tuple[Learner, int]]:
    """Give learners without their members, and numbers of customers, of shards that have any.

    Raises
    ------
    FaultError
        When one cannot be read.
    """
    found = {}
    for partition, head, count in zip(partitions, heads, customers, strict=True):
        if head is not None:
            try:
                found[partition] = Learner.decode_head(head)[0], int(count or 0)
            except ValueError as error:
                raise FaultError(
                    f"partition {partition}: its model in Redis cannot be read: {error}"
                ) from error
    return found


def pooled_parameters(shards: Mapping[int, tuple[Learner, int]]) -> Parameters:
    """Give the parameters of all shards, the prior while nobody has learned anything."""
    # Added up by partition, so that the sum does not depend on who came first.
    known = [one for _, one in sorted(shards.items())]
    return pooled(
        [learner for learner, _ in known],
        [customers if learner.orders else 0 for learner, customers in known],
    )
