"""What all shards score with: what each has learned, pooled.

A shard scores with what it has learned itself, with what the other shards of its worker have
learned up to this moment, and with what shards of other workers had committed when they were last
looked at, every ``model_refresh_seconds``. So what a shard learns depends on its events alone,
while a score depends, by a little, on how far the other shards are. So does the expansion of its
likelihood that a shard shares, for it is made near the parameters of all as the shard knows them.

A shard learns a day's orders when the next order tells it that the day is over. Whoever scores for
a later moment knows that without the order, and scores with what that order would make of it:
:func:`settled_knowledge`. Nothing of that is kept, so what is committed depends on events alone.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from valuetide.schemas.errors import FaultError
from valuetide.scoring.arrays import DAY_MS
from valuetide.scoring.lifetime.conformal import Conformal, pooled_conformal
from valuetide.scoring.lifetime.evidence import NOTHING, Rates
from valuetide.scoring.lifetime.evidence_learner import Evidence, Told, proven_rates, told
from valuetide.scoring.lifetime.evidence_pieces import HEAD as EVIDENCE
from valuetide.scoring.lifetime.expansion import PIECE as EXPANSION
from valuetide.scoring.lifetime.expansion import Expansion
from valuetide.scoring.lifetime.grade import Grade, pooled_grade
from valuetide.scoring.lifetime.grading import TEMPO, Grading, grade_piece
from valuetide.scoring.lifetime.learner import Learner, pooled_by_expansions
from valuetide.scoring.lifetime.parameters import PRIOR, Parameters
from valuetide.scoring.lifetime.pieces import CUSTOMERS, HEAD, MEMBERS, assemble
from valuetide.scoring.lifetime.ranks import NAMES, Percentiles, Ranks
from valuetide.scoring.lifetime.tempo import pooled_factor
from valuetide.streams.store import StateStore, StoreUnavailableError

MOST_DAYS = 16
"""Days of which it is kept what is known when they are over. Beside live shards, each that is
behind and not yet live scores for a day of its own."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What all shards have learned, which scores are made with.

    Attributes
    ----------
    parameters
        Pooled, the prior while nobody has learned anything.
    intervals
        By horizon in days how the ends of intervals are moved; none: as the model has them.
    factor
        The ratio corrector: 1 unless it has proven to help.
    learned_factor
        The same, proven or not.
    grades
        By horizon in days what was predicted against what came.
    rates
        What signals tell of survival; nothing unless that has helped.
    told
        What they were found to tell, in force or not; ``None`` where that is not learned.
    """

    parameters: Parameters = PRIOR
    intervals: Mapping[int, Conformal] = field(default_factory=dict)
    factor: float = 1.0
    learned_factor: float = 1.0
    grades: Mapping[int, Grade] = field(default_factory=dict)
    rates: Rates = NOTHING
    told: Told | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """What one shard brings.

    What it learned, its number of customers, its grades, its ranks, what it learned of signals, the
    likelihood of its sample near the parameters of all, ``None`` where it has made none, and
    whether orders wait that it has not read.
    """

    learner: Learner
    customers: int
    grading: Grading
    ranks: Ranks
    evidence: Evidence | None = None
    expansion: Expansion | None = None
    behind: bool = False


class Pool:
    """What the shards know, by partition; one for a worker.

    Parameters
    ----------
    clock
        Gives seconds that only rise.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ours: dict[int, Share] = {}
        self._others: dict[int, Share] = {}
        self._knowledge: Knowledge | None = Knowledge()
        self._settled: dict[int, Knowledge] = {}
        self._percentiles: Percentiles | None = None
        self._read_at: float | None = None

    @property
    def knowledge(self) -> Knowledge:
        """What all shards know."""
        if self._knowledge is None:
            self._knowledge = pooled_knowledge(self._others | self._ours)
        return self._knowledge

    def at(self, now_ms: int) -> Knowledge:
        """Give what all shards know at a moment, the days before it being over."""
        shares = self._others | self._ours
        day = over(shares, now_ms)
        if day not in self._settled:
            if len(self._settled) >= MOST_DAYS:
                self._settled = {}
            self._settled[day] = settled_knowledge(shares, day, self.knowledge)
        return self._settled[day]

    @property
    def percentiles(self) -> Percentiles:
        """Ranks among the customers of all shards."""
        if self._percentiles is None:
            shares = (self._others | self._ours).values()
            self._percentiles = Percentiles(share.ranks for share in shares)
        return self._percentiles

    def put(self, partition: int, share: Share) -> None:
        """Take in what a shard of this worker has learned."""
        known = self._ours.get(partition)
        if known is None or known.ranks is not share.ranks:
            self._percentiles = None
        self._ours[partition] = share
        self._knowledge, self._settled = None, {}

    def learned(self, partition: int, customers: int) -> None:
        """Note that a shard of this worker has taken orders in, whether it has settled or not.

        It has so many customers now: before it has settled for the first time it may have joined
        with none, and would have no weight when a day is taken for over.
        """
        share = self._ours[partition]
        if share.customers != customers:
            self._ours[partition] = replace(share, customers=customers)
        # Where their day is over already, they were of days that are taken for over.
        day = share.learner.day
        self._settled = {at: known for at, known in self._settled.items() if at < day}

    def release(self, partition: int) -> None:
        """Note that the shard is no longer this worker's."""
        if partition in self._ours:
            self._others[partition] = self._ours.pop(partition)
        self._read_at = None

    async def refresh(
        self,
        store: StateStore,
        partitions: int,
        every_seconds: float,
        horizons_days: tuple[int, ...],
        now_ms: int,
    ) -> None:
        """Read what shards of other workers have committed, unless that was done lately.

        The samples of those whose last day is over at a moment are read, too.

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
            names = share_pieces(horizons_days)
            try:
                models = await store.read_models(others, names)
                found = decode_shares(others, models, horizons_days)
                due = unsettled(found, over(found | self._ours, now_ms))
                if due:
                    records = await store.read_records(due)
                    models = await store.read_models(due, [*names, *MEMBERS])
                    found |= decode_shares(due, models, horizons_days, records)
            except StoreUnavailableError:
                self._read_at = None
                raise
            self._others |= found
            self._knowledge = self._percentiles = None
            self._settled = {}


def share_pieces(horizons_days: Sequence[int]) -> list[str]:
    """Give the names of the pieces of a shard's model that :func:`decode_shares` wants."""
    return [HEAD, CUSTOMERS, EXPANSION, TEMPO, EVIDENCE, *map(grade_piece, horizons_days), *NAMES]


def decode_shares(
    partitions: Sequence[int],
    models: Sequence[Mapping[str, bytes]],
    horizons_days: tuple[int, ...],
    records: Sequence[Mapping[str, str]] = (),
) -> dict[int, Share]:
    """Give what shards have learned, with their samples where those were read, of those that have.

    Parameters
    ----------
    partitions
        The shards.
    models
        Of each at least those pieces, by name.
    horizons_days
        The horizons.
    records
        Fields of each shard's record; without them none counts as behind.

    Raises
    ------
    FaultError
        When one cannot be read.
    """
    found = {}
    for nth, (partition, pieces) in enumerate(zip(partitions, models, strict=True)):
        if HEAD in pieces:
            try:
                found[partition] = Share(
                    _learner(pieces),
                    int(pieces.get(CUSTOMERS, 0)),
                    Grading(horizons_days, pieces),
                    Ranks(pieces),
                    Evidence.decode_head(pieces[EVIDENCE])[0] if pieces.get(EVIDENCE) else None,
                    Expansion.decode(pieces[EXPANSION]) if pieces.get(EXPANSION) else None,
                    bool(records) and records[nth].get("behind:orders") == "1",
                )
            except ValueError as error:
                raise FaultError(
                    f"partition {partition}: its model in Redis cannot be read: {error}"
                ) from error
    return found


def pooled_knowledge(shards: Mapping[int, Share]) -> Knowledge:
    """Give what all shards know together."""
    # Added up by partition, so that the sums do not depend on who came first.
    known = [share for _, share in sorted(shards.items())]
    parameters = _pooled_parameters(known)
    tempos = [share.grading.tempo for share in known]
    horizons = sorted({days for share in known for days in share.grading.horizons})
    graded = {
        days: [share.grading.horizons[days] for share in known if days in share.grading.horizons]
        for days in horizons
    }
    evidence = [share.evidence for share in known if share.evidence is not None]
    return Knowledge(
        parameters,
        {days: pooled_conformal(one.conformal for one in all_) for days, all_ in graded.items()},
        pooled_factor(tempos, proven=True),
        pooled_factor(tempos),
        {days: pooled_grade(one.grade for one in all_) for days, all_ in graded.items()},
        proven_rates(evidence),
        told(evidence) if evidence else None,
    )


def _learner(pieces: Mapping[str, bytes]) -> Learner:
    sampled = None if pieces.keys().isdisjoint(MEMBERS) else assemble(pieces)
    return sampled or Learner.decode_head(pieces[HEAD])[0]


def _pooled_parameters(shares: Sequence[Share]) -> Parameters:
    return pooled_by_expansions(
        [share.learner for share in shares],
        [share.customers if share.learner.orders else 0 for share in shares],
        [share.expansion for share in shares],
    )


def over(shards: Mapping[int, Share], now_ms: int) -> int:
    """Give the last day that is over at a moment, as far as any shard has seen orders.

    What came after the last order that anyone has seen, nobody knows: the shop may have been
    quiet, or we may have been away.
    """
    last = max((share.learner.day for share in shards.values()), default=0)
    return min(now_ms // DAY_MS - 1, last)


def unsettled(shards: Mapping[int, Share], day: int) -> list[int]:
    """Give the shards that have yet to learn from days up to one that is over, by partition.

    In one that is behind, orders of these days may still be to come.
    """
    return [p for p, share in sorted(shards.items()) if not share.behind and share.learner.due(day)]


def settled_knowledge(shards: Mapping[int, Share], day: int, known: Knowledge) -> Knowledge:
    """Give what shards know together once those whose samples are here have settled as of a day.

    Parameters
    ----------
    shards
        All of them.
    day
        The last day that is over, see :func:`over`.
    known
        What they know without that. All but the parameters stays as it is.

    Notes
    -----
    For each shard that settles, two to five evaluations of its sample, of .3 ms when it is full.
    """
    due = [p for p in unsettled(shards, day) if shards[p].learner.sample.members.size]
    if not due:
        return known
    settled = dict(shards)
    for partition in due:
        share = shards[partition]
        learner = share.learner.after(day)
        # A shard that has shared none yet, or is the only one, does not begin to here.
        expansion = learner.expand(known.parameters) if share.expansion else None
        settled[partition] = replace(share, learner=learner, expansion=expansion)
    return replace(known, parameters=_pooled_parameters([s for _, s in sorted(settled.items())]))
