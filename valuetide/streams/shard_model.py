"""What a shard learns from its orders and outcomes, and what it expects of its customers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from valuetide.scoring.arrays import DAY_MS, IntArray
from valuetide.scoring.current_value import CurrentValue
from valuetide.scoring.lifetime.conformal import Conformal
from valuetide.scoring.lifetime.grading import Grading
from valuetide.scoring.lifetime.learner import Learner
from valuetide.scoring.lifetime.pieces import Changes, assemble
from valuetide.scoring.lifetime.sample import Exact, Orders
from valuetide.scoring.lifetime.value import Facts, Terms, histories, potential, yield_rate
from valuetide.streams.pool import Knowledge, Share
from valuetide.streams.records import Ahead
from valuetide.streams.settings import Settings


class ShardModel:
    """The learner of one shard, and the grades of what it predicted.

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
        self.grading = Grading(settings.horizons_days, pieces)
        self._changes = Changes(self.learner)
        self._horizons = settings.horizons_days
        self._scale = 10.0**settings.vocabulary.minor_digits
        self._terms = Terms(tuple(days / 7.0 for days in self._horizons), settings.yearly_discount)
        self._corrected = settings.ratio_correction == "auto"

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
            Steps of the parameters and turns of the grading.

        Notes
        -----
        An order that comes again, comes late or was cancelled is first learned from as if it were
        new, and what the sample then has wrong of its customer is replaced by what the state says.
        So with such orders, and only with them, a step or a cohort in the middle of a batch sees
        a history that it would not see if the batch ended there.
        """
        who = np.array([xxh3_64_intdigest(one.encode()) for one in ids], np.uint64)
        today = now_ms // DAY_MS
        learner, before = self.learner, self.learner.sample.members
        days = np.minimum(at // DAY_MS, today)
        changes = self.grading.learn(learner, Orders(who[whose], days, amount / self._scale))
        exact = self._exact(who, value, today)
        wrong = learner.sample.differs(exact)
        if wrong.any():
            learner.correct(exact[wrong])
        self._changes.note(before, who)
        return changes

    def share(self, customers: int) -> Share:
        """Give what the shard brings to the pool."""
        return Share(self.learner, customers, self.grading)

    def changes(self, customers: int) -> dict[str, bytes]:
        """Give the pieces that changed since the last commit was made up."""
        return self._changes.take(customers) | self.grading.changes()

    def expect(
        self, value: CurrentValue, totals: Mapping[str, int], knowledge: Knowledge, now_ms: int
    ) -> Ahead:
        """Give what is to be expected of customers.

        Parameters
        ----------
        value
            Their value so far.
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
        )
        intervals = [knowledge.intervals.get(days) or Conformal() for days in self._horizons]
        found = potential(knowledge.parameters, facts, self._terms, intervals)
        if self._corrected and knowledge.factor != 1.0:
            found = replace(
                found,
                expected_orders=found.expected_orders * knowledge.factor,
                clv=found.clv * knowledge.factor,
            )
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
