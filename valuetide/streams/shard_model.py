"""What a shard learns from its orders and outcomes, and what it expects of its customers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from valuetide.scoring.arrays import DAY_MS, BoolArray, FloatArray, IntArray, true_at
from valuetide.scoring.current_value import CurrentValue
from valuetide.scoring.lifetime.conformal import Conformal
from valuetide.scoring.lifetime.evidence import (
    FEEDBACK,
    INTERACTIONS,
    NOTHING,
    Counts,
    Rates,
    log_odds_gained,
)
from valuetide.scoring.lifetime.evidence_learner import Evidence, learn_orders
from valuetide.scoring.lifetime.evidence_pieces import EvidencePieces, assemble_evidence
from valuetide.scoring.lifetime.expansion import PIECE as EXPANSION
from valuetide.scoring.lifetime.expansion import Expansion
from valuetide.scoring.lifetime.grading import Grading
from valuetide.scoring.lifetime.learner import Learner
from valuetide.scoring.lifetime.moved import PARTS, between, moved_by
from valuetide.scoring.lifetime.parameters import Parameters
from valuetide.scoring.lifetime.pieces import Changes, assemble
from valuetide.scoring.lifetime.purchases import p_alive
from valuetide.scoring.lifetime.ranks import Ranks
from valuetide.scoring.lifetime.sample import Exact, Orders
from valuetide.scoring.lifetime.value import (
    Facts,
    Terms,
    clv,
    histories,
    potential,
    potential_beside,
    yield_rate,
)
from valuetide.scoring.signals import SIGNALS
from valuetide.streams.pool import Knowledge, Share
from valuetide.streams.records import Ahead
from valuetide.streams.settings import Settings

BASIS = ("revenue", "margin", "frequency", "first_order_at", "last_order_at", "first_day_spend")
"""What expectations rest on, columns of ``CurrentValue``."""


@dataclass(frozen=True, slots=True)
class Past:
    """What the last score of ``m`` customers was, and what it rested on.

    Attributes
    ----------
    scored_at
        ms since 1970.
    clv
        Of the longest horizon, minor units, NaN where there was none.
    basis
        ``(6, m)``, rows in the order of ``BASIS``.
    signals
        What had been heard of them, ``(m,)`` of ``signals.SIGNALS``.
    """

    scored_at: IntArray
    clv: FloatArray
    basis: IntArray
    signals: NDArray[np.void]

    def __getitem__(self, part: IntArray | BoolArray) -> "Past":
        """Give the same of some of them."""
        return Past(self.scored_at[part], self.clv[part], self.basis[:, part], self.signals[part])


def basis_of(value: CurrentValue) -> IntArray:
    """Give what expectations of customers rest on, ``(6, m)``."""
    return np.array([getattr(value, name) for name in BASIS])


class ShardModel:
    """The learner of one shard, the grades of what it predicted, and its customers' ranks.

    Parameters
    ----------
    settings
        Horizons, discount, currency, number of partitions, and whether predictions are corrected.
    pieces
        What was committed of it.

    Raises
    ------
    ValueError
        When that cannot be read.
    """

    def __init__(self, settings: Settings, pieces: Mapping[str, bytes]) -> None:
        self.learner = assemble(pieces) or Learner(shards=settings.partitions)
        self.ranks = Ranks(pieces)
        self.grading = Grading(settings.horizons_days, pieces)
        self._changes = Changes(self.learner)
        packed = pieces.get(EXPANSION)
        self._expansion = Expansion.decode(packed) if packed else None
        self._expanded = False
        self._alone = settings.partitions == 1
        self.evidence: Evidence | None = None
        if settings.evidence == "auto":
            self.evidence = assemble_evidence(pieces) or Evidence()
        self._evidence_pieces = EvidencePieces(pieces)
        self._horizons = settings.horizons_days
        self._scale = 10.0**settings.vocabulary.minor_digits
        self._terms = Terms(tuple(days / 7.0 for days in self._horizons), settings.yearly_discount)
        self._corrected = settings.ratio_correction == "auto"

    @classmethod
    def of_share(cls, settings: Settings, share: Share) -> "ShardModel":
        """Give a model that expects as the one does that a share is of; it is not to learn."""
        model = cls(settings, {})
        model.learner = share.learner
        return model

    def learn(
        self,
        who: NDArray[np.uint64],
        value: CurrentValue,
        which: IntArray,
        whose: IntArray,
        at: IntArray,
        amount: IntArray,
        now_ms: int,
    ) -> int:
        """Learn from new orders, and put right what the sample has wrong of their customers.

        Parameters
        ----------
        who
            Customers whom a batch of order events changed, hashes of their ids, ``(m,)``.
        value, which
            Value after the batch of all whom it changed, and positions of these among them,
            ``(m,)``.
        whose, at, amount
            The accepted ``placed`` events in the order of the stream: position among these
            customers, time, amount in minor units.
        now_ms
            The moment; an order of the future counts as one of today.

        Returns
        -------
        int
            Steps of the parameters and turns of the grading.

        Notes
        -----
        An order that comes again, comes late or was cancelled is first learned from as if it were
        new, and what the sample then has wrong of its customer is replaced by what the state says.
        So with such orders, and only with them, a step or a cohort in the middle of a batch sees
        a history that it would not see if the batch ended there.
        """
        today = now_ms // DAY_MS
        learner, before = self.learner, self.learner.sample.members
        days = np.minimum(at // DAY_MS, today)
        orders = Orders(who[whose], days, amount / self._scale)
        learn = partial(learn_orders, learner, self.evidence) if self.evidence else learner.learn
        changes = self.grading.learn(learner, orders, learn)
        # Nothing is known, or can be wrong, of those outside the sample, and they are most.
        near = true_at(learner.sample.may_hold(who))
        exact = self._exact(who[near], value, which[near], today)
        wrong = learner.sample.differs(exact)
        if wrong.any():
            learner.correct(exact[wrong])
        self._changes.note(before, exact.who)
        return changes

    def expand(self, at: Parameters) -> None:
        """Prepare what is shared of the sample, near the parameters that all shards score with.

        Nothing is done unless the learner has settled since, nor in a shard that is the only one.
        """
        expansion = None if self._alone else self.learner.expand(at)
        if expansion is not None:
            self._expansion, self._expanded = expansion, True

    def share(self, customers: int, *, behind: bool = False) -> Share:
        """Give what the shard brings to the pool, of so many customers."""
        return Share(
            learner=self.learner,
            customers=customers,
            grading=self.grading,
            ranks=self.ranks,
            evidence=self.evidence,
            expansion=self._expansion,
            behind=behind,
        )

    def changes(self, customers: int) -> dict[str, bytes]:
        """Give the pieces that changed since the last commit was made up."""
        evidence = self._evidence_pieces.changes(self.evidence)
        graded = self.grading.changes()
        expansion = {}
        if self._expanded and self._expansion is not None:
            expansion[EXPANSION] = self._expansion.encode()
            self._expanded = False
        return self._changes.take(customers) | expansion | graded | evidence | self.ranks.take()

    def note_signals(
        self, who: NDArray[np.uint64], kind: NDArray[np.uint8], at: IntArray, now_ms: int
    ) -> None:
        """Learn what signals tell, if the settings say so.

        Parameters
        ----------
        who, kind, at
            Hash of the customer's id, number among ``signals.KINDS`` or ``NO_SIGNAL``, and time of
            each accepted event, in the order of the stream.
        now_ms
            The moment; a signal of the future counts as one of today.
        """
        if self.evidence is not None:
            self.evidence.fold_signals(who, kind, np.minimum(at, now_ms) // DAY_MS)

    def expect(
        self,
        value: CurrentValue,
        signals: NDArray[np.void],
        past: Past,
        totals: Mapping[str, int],
        knowledge: Knowledge,
        now_ms: int,
    ) -> Ahead:
        """Give what is to be expected of customers, and why that has changed.

        Parameters
        ----------
        value
            Their value so far.
        signals
            What was heard of them, ``(m,)`` of ``signals.SIGNALS``.
        past
            Their last score.
        totals
            Orders, revenue and margin of the shard, minor units; what is kept of a customer's
            spend is drawn towards what is kept of everybody's.
        knowledge
            Of all shards.
        now_ms
            The moment.

        Notes
        -----
        The ratio corrector moves what is expected, not the intervals: what came beyond them has
        moved their ends already.
        """
        buyers = np.flatnonzero(value.orders > 0)
        rates = knowledge.rates
        facts = self._facts(basis_of(value)[:, buyers], signals[buyers], rates, totals, now_ms)
        intervals = self._intervals(knowledge)
        factor = self._factor(knowledge)
        known = np.flatnonzero(~np.isnan(past.clv[buyers]))
        steps = None
        if known.size:
            who = buyers[known]
            then = self._facts(
                past.basis[:, who], past.signals[who], rates, totals, past.scored_at[who]
            )
            before, now = self._minor(then, factor), self._minor(facts[known], factor)
            steps = between(before, now)
        found, values = potential_beside(knowledge.parameters, facts, steps, self._terms, intervals)
        if factor != 1.0:
            orders, value_ahead = found.expected_orders * factor, found.clv * factor
            found = replace(found, expected_orders=orders, clv=value_ahead)
        # Nothing to be had is 0, never -0.
        worth = np.round(found.clv[-1] * self._scale) + 0.0
        # A first score moved by the order that it is for, and by nothing else.
        moved = np.zeros((len(PARTS), buyers.size))
        moved[PARTS.index("orders")] = worth
        if known.size:
            parts = moved_by(
                before, past.clv[who], now, worth[known], knowledge.parameters, self._terms,
                values[-1],
            )  # fmt: skip
            moved[:, known] = parts.in_units(worth[known] - past.clv[who])
        return Ahead(self._horizons, buyers, found, worth, moved)

    def worth_at_order(
        self, basis: IntArray, totals: Mapping[str, int], knowledge: Knowledge
    ) -> FloatArray:
        """Give what customers were worth just after their newest order, minor units, ``(n,)``.

        Parameters
        ----------
        basis
            ``(6, n)``, rows in the order of ``BASIS``.
        totals, knowledge
            As in :meth:`expect`: those of today.
        """
        silent = np.zeros(basis.shape[1], SIGNALS)
        then = self._facts(basis, silent, NOTHING, totals, basis[BASIS.index("last_order_at")])
        worth = self._minor(then, self._factor(knowledge))
        found: FloatArray = clv(knowledge.parameters, worth, self._terms)[-1]
        return found

    def foreseen(self, past: Past, totals: Mapping[str, int], knowledge: Knowledge) -> FloatArray:
        """Give the upper end of the interval at the last score, minor units, ``(n,)``.

        For the longest horizon, with ``totals`` and ``knowledge`` of today.
        """
        then = self._facts(past.basis, past.signals, knowledge.rates, totals, past.scored_at)
        found = potential(knowledge.parameters, then, self._terms, self._intervals(knowledge))
        high: FloatArray = found.high[-1] * self._scale
        return high

    def alive_waiting(self, past: Past, at: IntArray, knowledge: Knowledge) -> FloatArray:
        """Give P(alive) at later moments, ms, ``(n,)``, had nothing come since the last score."""
        _, _, frequency, first_at, last_at, _ = past.basis
        seen = histories(frequency, first_at // DAY_MS, last_at // DAY_MS, at)
        gained = _gained(knowledge.rates, past.signals, first_at // DAY_MS, at)
        total = None if gained is None else gained.sum(axis=0)
        return p_alive(knowledge.parameters.purchases, seen, total)

    def _intervals(self, knowledge: Knowledge) -> list[Conformal]:
        return [knowledge.intervals.get(days) or Conformal() for days in self._horizons]

    def _factor(self, knowledge: Knowledge) -> float:
        return knowledge.factor if self._corrected else 1.0

    def _facts(
        self,
        basis: IntArray,
        signals: NDArray[np.void],
        rates: Rates,
        totals: Mapping[str, int],
        now_ms: int | IntArray,
    ) -> Facts:
        revenue, margin, frequency, first_at, last_at, first_spend = basis
        average = totals["margin"] / totals["revenue"] if totals["revenue"] > 0 else 1.0
        typical = self.learner.typical_spend
        if typical <= 0.0:
            mean = totals["revenue"] / max(totals["orders"], 1) / self._scale
            typical = mean if mean > 0.0 else 1.0
        spent = revenue / self._scale
        return Facts(
            histories(frequency, first_at // DAY_MS, last_at // DAY_MS, now_ms),
            spent - first_spend / self._scale,
            yield_rate(margin / self._scale, spent, average, typical),
            _gained(rates, signals, first_at // DAY_MS, now_ms),
        )

    def _minor(self, facts: Facts, factor: float) -> Facts:
        """Facts by which value comes in minor units, corrected by a factor."""
        worth = facts.yield_rate * (self._scale * factor)
        return Facts(facts.seen, facts.spent, worth, facts.gained)

    def _exact(
        self, who: NDArray[np.uint64], value: CurrentValue, which: IntArray, today: int
    ) -> Exact:
        bought = value.orders[which] > 0
        first = value.first_day_spend[which] / self._scale

        def day(at: IntArray) -> IntArray:
            found: IntArray = np.where(bought, np.minimum(at // DAY_MS, today), 0)
            return found

        return Exact(
            who,
            day(value.first_order_at[which]),
            day(value.last_order_at[which]),
            np.where(bought, value.frequency[which] + 1, 0),
            value.revenue[which] / self._scale - first,
            first,
        )


def hashes(ids: Sequence[str]) -> NDArray[np.uint64]:
    """Give what a model knows customers by, ``(m,)``."""
    return np.fromiter(map(xxh3_64_intdigest, map(str.encode, ids)), np.uint64, len(ids))


def _gained(
    rates: Rates, signals: NDArray[np.void], first_day: IntArray, now_ms: int | IntArray
) -> FloatArray | None:
    """Give what interactions and feedback add to the log odds of having left, ``(2, n)``."""
    if rates.silent:
        return None
    by_kind = log_odds_gained(rates, Counts.of(signals, first_day, now_ms / DAY_MS))
    return np.stack([by_kind[part].sum(axis=0) for part in (INTERACTIONS, FEEDBACK)])
