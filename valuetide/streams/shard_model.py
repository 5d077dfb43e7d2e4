"""What a shard learns from its orders, and what it expects of its customers."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from valuetide.scoring.arrays import DAY_MS, FloatArray, IntArray
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
from valuetide.scoring.lifetime.learner import Learner
from valuetide.scoring.lifetime.parameters import Parameters
from valuetide.scoring.lifetime.pieces import Changes, assemble
from valuetide.scoring.lifetime.sample import Exact, Orders
from valuetide.scoring.lifetime.value import Facts, Terms, histories, potential, yield_rate
from valuetide.streams.records import Ahead
from valuetide.streams.settings import Settings


class ShardModel:
    """The learner of one shard.

    Parameters
    ----------
    settings
        Horizons, discount, currency and number of partitions.
    pieces
        What was committed of it.

    Raises
    ------
    ValueError
        When that cannot be read.
    """

    def __init__(self, settings: Settings, pieces: Mapping[str, bytes]) -> None:
        self.learner = assemble(pieces) or Learner(shards=settings.partitions)
        self._changes = Changes(self.learner)
        self.evidence: Evidence | None = None
        if settings.evidence == "auto":
            self.evidence = assemble_evidence(pieces) or Evidence()
        self._evidence_pieces = EvidencePieces(pieces)
        self._horizons = settings.horizons_days
        self._scale = 10.0**settings.vocabulary.minor_digits
        self._terms = Terms(tuple(days / 7.0 for days in self._horizons), settings.yearly_discount)
        self._corrections = [Conformal() for _ in self._horizons]

    def learn(
        self,
        ids: Sequence[str],
        value: CurrentValue,
        whose: IntArray,
        at: IntArray,
        amount: IntArray,
        now_ms: int,
    ) -> int:
        """Learn from new orders, and put right what the sample has wrong of their customers.

        Parameters
        ----------
        ids, value
            Customers whom a batch of order events changed, ``m``, and their value after it.
        whose, at, amount
            The accepted ``placed`` events in the order of the stream: position among these
            customers, time, amount in minor units.
        now_ms
            The moment; an order of the future counts as one of today.

        Returns
        -------
        int
            Steps of the parameters.

        Notes
        -----
        An order that comes again, comes late or was cancelled is first learned from as if it were
        new, and what the sample then has wrong of its customer is replaced by what the state says.
        """
        who = np.array([xxh3_64_intdigest(one.encode()) for one in ids], np.uint64)
        today = now_ms // DAY_MS
        learner, before = self.learner, self.learner.sample.members
        days = np.minimum(at // DAY_MS, today)
        orders = Orders(who[whose], days, amount / self._scale)
        if self.evidence is None:
            steps = learner.learn(orders)
        else:
            steps = learn_orders(learner, self.evidence, orders)
        exact = self._exact(who, value, today)
        wrong = learner.sample.differs(exact)
        if wrong.any():
            learner.correct(exact[wrong])
        self._changes.note(before, who)
        return steps

    def changes(self, customers: int) -> dict[str, bytes]:
        """Give the pieces that changed since the last commit was made up."""
        return self._changes.take(customers) | self._evidence_pieces.changes(self.evidence)

    def note_signals(
        self, ids: Sequence[str], kind: NDArray[np.uint8], at: IntArray, now_ms: int
    ) -> None:
        """Learn what signals tell, if the settings say so.

        Parameters
        ----------
        ids, kind, at
            Customer, number among ``signals.KINDS`` or ``NO_SIGNAL``, and time of each accepted
            event, in the order of the stream.
        now_ms
            The moment; a signal of the future counts as one of today.
        """
        if self.evidence is not None:
            who = np.array([xxh3_64_intdigest(one.encode()) for one in ids], np.uint64)
            self.evidence.fold_signals(who, kind, np.minimum(at, now_ms) // DAY_MS)

    def expect(
        self,
        value: CurrentValue,
        totals: Mapping[str, int],
        parameters: Parameters,
        now_ms: int,
        signals: NDArray[np.void] | None = None,
        rates: Rates = NOTHING,
    ) -> Ahead:
        """Give what is to be expected of customers.

        Parameters
        ----------
        value
            Their value so far.
        totals
            Orders, revenue and margin of the shard, minor units; what is kept of a customer's
            spend is drawn towards what is kept of everybody's.
        parameters
            Of all shards.
        now_ms
            The moment.
        signals
            Of the same customers, of ``signals.SIGNALS``; needed unless ``rates`` is silent.
        rates
            Of all shards.
        """
        buyers = np.flatnonzero(value.orders > 0)
        revenue = value.revenue[buyers] / self._scale
        average = totals["margin"] / totals["revenue"] if totals["revenue"] > 0 else 1.0
        typical = self.learner.typical_spend
        if typical <= 0.0:
            mean = totals["revenue"] / max(totals["orders"], 1) / self._scale
            typical = mean if mean > 0.0 else 1.0
        facts = Facts(
            histories(
                value.frequency[buyers],
                value.first_order_at[buyers] // DAY_MS,
                value.last_order_at[buyers] // DAY_MS,
                now_ms,
            ),
            revenue - value.first_day_spend[buyers] / self._scale,
            yield_rate(value.margin[buyers] / self._scale, revenue, average, typical),
            _gained(rates, signals, value, buyers, now_ms),
        )
        found = potential(parameters, facts, self._terms, self._corrections)
        return Ahead(self._horizons, buyers, found)

    def _exact(self, who: NDArray[np.uint64], value: CurrentValue, today: int) -> Exact:
        bought = value.orders > 0
        first = value.first_day_spend / self._scale

        def day(at: IntArray) -> IntArray:
            found: IntArray = np.where(bought, np.minimum(at // DAY_MS, today), 0)
            return found

        return Exact(
            who,
            day(value.first_order_at),
            day(value.last_order_at),
            np.where(bought, value.frequency + 1, 0),
            value.revenue / self._scale - first,
            first,
        )


def _gained(
    rates: Rates,
    signals: NDArray[np.void] | None,
    value: CurrentValue,
    buyers: NDArray[np.intp],
    now_ms: int,
) -> FloatArray | None:
    """Give what interactions and feedback add to the log odds of having left, ``(2, n)``."""
    if signals is None or rates.silent:
        return None
    first_day = value.first_order_at[buyers] // DAY_MS
    by_kind = log_odds_gained(rates, Counts.of(signals[buyers], first_day, now_ms / DAY_MS))
    return np.stack([by_kind[part].sum(axis=0) for part in (INTERACTIONS, FEEDBACK)])
