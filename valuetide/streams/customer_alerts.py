"""Alerts about single customers: those that a shard finds while it scores, and their lives.

    fired -> resolved    lifetime value is back past the middle between before and then
    fired -> accepted    it has lasted so long that it is the new normal

Which alerts go on is known from the last step of each, which the store keeps; how many there were
today is a field of the shard's record:

    told       day (UTC, 1970-01-01 is 0), alerts of that day, money that it began with, and what
               the greatest found are worth, rising; minor units, with blanks between
    untold     how many were found beyond the budget, ever

All of it is part of the commit of the customers' states, so after a crash the same is found again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from valuetide.schemas.alert import Alert
from valuetide.scoring.arrays import DAY_MS, BoolArray, FloatArray, IntArray
from valuetide.scoring.customer_alerts import Budget, Limits, Moves, alive_at_order, judge
from valuetide.scoring.lifetime.moved import PARTS
from valuetide.scoring.packed import FALLEN, WATCHED
from valuetide.streams.customer_alert_steps import Rule, Steps, as_step
from valuetide.streams.pool import Knowledge, Pool
from valuetide.streams.records import Ahead
from valuetide.streams.settings import Settings
from valuetide.streams.shard_model import BASIS, Past, ShardModel
from valuetide.streams.store import AlertStep

TOLD: Final = "told"
UNTOLD: Final = "untold"
_LAST: Final = BASIS.index("last_order_at")
_FREQUENCY: Final = BASIS.index("frequency")


@dataclass(frozen=True, slots=True)
class Scores:
    """Two scores of ``m`` customers, the last one and the one that is being made.

    Attributes
    ----------
    ids
        Who.
    flags
        Header flags of their packed state, as the last score left them.
    past
        The last score.
    basis
        What the new one rests on, ``(6, m)``.
    ahead
        What it expects of the ``n`` buyers among them.
    percentile
        Rank of these by lifetime value, 0 to 100, ``(n,)``.
    totals
        Orders, revenue and margin of the shard, minor units.
    knowledge
        Of all shards at its moment.
    now_ms
        Its moment.
    """

    ids: Sequence[str]
    flags: NDArray[np.uint8]
    past: Past
    basis: IntArray
    ahead: Ahead
    percentile: FloatArray
    totals: Mapping[str, int]
    knowledge: Knowledge
    now_ms: int


@dataclass(frozen=True, slots=True)
class _Offer:
    """What a rule found: positions among the ``m``, and why value ``before`` is now another."""

    rule: Rule
    who: IntArray
    before: FloatArray
    now: FloatArray
    part: IntArray


class CustomerWatch:
    """The alerts about customers of one shard.

    Parameters
    ----------
    settings
        ``customer_alerts``, horizons, number of partitions and currency.
    fields
        Of the shard's record.
    alerts
        Last steps of the alerts that go on, by fingerprint; those about series are left out.

    Raises
    ------
    ValueError
        When either cannot be read.
    """

    def __init__(
        self, settings: Settings, fields: Mapping[str, str], alerts: Mapping[str, str]
    ) -> None:
        limits = settings.customer_alerts
        self._settings = limits
        self._limits = Limits(limits.fall_share, limits.growth_factor, limits.won_back_p_alive)
        self._steps = Steps(settings)
        self._days = settings.horizons_days[-1]
        self._scale = 10.0**settings.vocabulary.minor_digits
        size = -(-limits.per_day // settings.partitions)
        self._budget = Budget.decode(fields[TOLD], size) if TOLD in fields else Budget(size)
        self._open: dict[str, list[Alert]] = {}
        self._untold = int(fields.get(UNTOLD, 0))
        for text in alerts.values():
            alert = msgspec.json.decode(text)
            if alert["customer_id"] is not None:
                self._open.setdefault(alert["customer_id"], []).append(cast("Alert", alert))

    @property
    def fields(self) -> dict[str, str | int]:
        """Entries for the shard's record."""
        return {TOLD: self._budget.encode(), UNTOLD: self._untold}

    def look(
        self, scores: Scores, model: ShardModel, pool: Pool
    ) -> tuple[NDArray[np.uint8], list[AlertStep]]:
        """Give the flags for the packed states, and the steps that alerts made.

        Notes
        -----
        About forty operations on columns for a batch, and for each found customer an evaluation
        of what the last score should be compared with.
        """
        steps = self._go_on(scores)
        flags, offers = self._find(scores, model, pool)
        steps += self._fire(scores, offers)
        return flags, steps

    # -- new ones -----------------------------------------------------------------------------

    def _find(
        self, scores: Scores, model: ShardModel, pool: Pool
    ) -> tuple[NDArray[np.uint8], list[_Offer]]:
        """Give the new flags, and whom the rules find among those who are worth enough."""
        rules, flags = self._settings.rules, scores.flags.copy()
        if "at_risk" not in rules:
            flags &= ~np.uint8(WATCHED | FALLEN)
        if not rules:
            return flags, []
        ahead, totals, knowledge = scores.ahead, scores.totals, scores.knowledge
        buyers = ahead.buyers
        worthy = self._worthy(scores.percentile, ahead.clv)
        moves = self._moves(scores, worthy, model)
        found = judge(moves, self._limits)
        offers = []
        if "at_risk" in rules:
            flags[buyers] = found.flags
            who = np.flatnonzero(found.at_risk)
            if who.size:
                then = model.worth_at_order(scores.basis[:, buyers[who]], totals, knowledge)
                before = np.maximum(then, moves.clv_before[who])
                enough = self._worthy(pool.percentiles.of(before), before)
                offers.append(self._offer("at_risk", scores, who[enough], before[enough]))
        if "growth" in rules:
            who = np.flatnonzero(found.growth & worthy)
            if who.size:
                past = scores.past[buyers[who]]
                # Who comes back from silence has not grown.
                then = model.worth_at_order(past.basis, totals, knowledge)
                before = np.maximum(then, moves.clv_before[who])
                grown = ahead.clv[who] > model.foreseen(past, totals, knowledge)
                grown &= ahead.clv[who] >= self._limits.growth * before
                offers.append(self._offer("growth", scores, who[grown], before[grown]))
        if "won_back" in rules:
            who = np.flatnonzero(found.won_back & worthy)
            if who.size:
                before = moves.clv_before[who] + ahead.moved[PARTS.index("time"), who]
                offers.append(self._offer("won_back", scores, who, before))
        return flags, offers

    def _moves(self, scores: Scores, worthy: BoolArray, model: ShardModel) -> Moves:
        """Compare the two scores; P(alive) before an order only of those of whom it counts."""
        ahead, knowledge, buyers = scores.ahead, scores.knowledge, scores.ahead.buyers
        last, frequency = scores.basis[_LAST, buyers], scores.basis[_FREQUENCY, buyers]
        clv = scores.past.clv[buyers]
        known = ~np.isnan(clv)
        learned = clv + ahead.moved[PARTS.index("parameters")]
        ordered = known & (last > scores.past.basis[_LAST, buyers])
        waited = np.ones(known.size)
        came = np.flatnonzero(ordered & worthy)
        if came.size:
            # An order that lies in the future counts as one of now.
            at = np.minimum(last[came], scores.now_ms)
            waited[came] = model.alive_waiting(scores.past[buyers[came]], at, knowledge)
        return Moves(
            flags=scores.flags[buyers],
            known=known,
            ordered=ordered,
            clv_before=np.where(known, learned, 0.0),
            alive_waited=waited,
            clv=ahead.clv,
            p_alive=ahead.potential.p_alive,
            alive_at_order=alive_at_order(knowledge.parameters.purchases, frequency),
        )

    def _worthy(self, rank: FloatArray, clv: FloatArray) -> BoolArray:
        """Tell who is worth enough, by percentile and lifetime value in minor units, ``(n,)``."""
        least = self._settings
        found: BoolArray = rank >= least.least_percentile
        if least.least_clv:
            found &= clv >= least.least_clv * self._scale
        return found

    def _offer(self, rule: Rule, scores: Scores, which: IntArray, before: FloatArray) -> _Offer:
        """Leave out where too little is at stake, and who has such an alert already.

        Parameters
        ----------
        which
            Positions among the buyers.
        before
            Value instead of which there is now another, minor units.
        """
        now = scores.ahead.clv[which]
        # A share of nothing is no number, so before is a minor unit at least.
        before = np.maximum(np.round(before), 1.0)
        who = scores.ahead.buyers[which]
        stake = np.abs(now - before) / (self._scale * self._days)
        fits = (stake >= self._settings.least_stake) & ((now < before) == (rule == "at_risk"))
        for nth in np.flatnonzero(fits).tolist():
            alerts = self._open.get(scores.ids[who[nth]], ())
            fits[nth] = all(alert["rule"] != rule for alert in alerts)
        part = _greatest(scores.ahead.moved[:, which[fits]], rule)
        return _Offer(rule, who[fits], before[fits], now[fits], part)

    def _fire(self, scores: Scores, offers: list[_Offer]) -> list[AlertStep]:
        """Fire those that are within the budget, the greatest first."""
        if not any(offer.who.size for offer in offers):
            return []
        worth = np.concatenate([np.abs(offer.now - offer.before) for offer in offers])
        passed = self._budget.take(scores.now_ms // DAY_MS, worth)
        self._untold += int((~passed).sum())
        whose = [(offer, nth) for offer in offers for nth in range(offer.who.size)]
        greatest_first = np.flatnonzero(passed)
        greatest_first = greatest_first[np.argsort(-worth[greatest_first], kind="stable")]
        return [self._fired(scores, *whose[place]) for place in greatest_first.tolist()]

    def _fired(self, scores: Scores, offer: _Offer, nth: int) -> AlertStep:
        who = int(offer.who[nth])
        alert = self._steps.fire(
            offer.rule,
            scores.ids[who],
            since_ms=min(int(scores.basis[_LAST, who]), scores.now_ms),
            now_ms=scores.now_ms,
            before=float(offer.before[nth]),
            now=float(offer.now[nth]),
            part=int(offer.part[nth]),
        )
        self._open.setdefault(scores.ids[who], []).append(alert)
        return as_step(alert)

    # -- those that go on ---------------------------------------------------------------------

    def _go_on(self, scores: Scores) -> list[AlertStep]:
        """End the alerts of those whose value is back, or has been different for long."""
        if not self._open:
            return []
        clv = np.full(len(scores.ids), np.nan)
        clv[scores.ahead.buyers] = scores.ahead.clv
        steps = []
        for nth in [nth for nth, one in enumerate(scores.ids) if one in self._open]:
            kept = []
            for alert in self._open.pop(scores.ids[nth]):
                ended = self._steps.end(alert, float(clv[nth]), scores.now_ms)
                if ended is None:
                    kept.append(alert)
                else:
                    steps.append(as_step(ended))
            if kept:
                self._open[scores.ids[nth]] = kept
        return steps


def _greatest(moved: FloatArray, rule: Rule) -> IntArray:
    """Give the part, ``(n,)``, that did most of a change ``(6, n)`` since the last score.

    What was learned is none: rules compare with what is known today. Where nothing else did
    anything, a fall comes from the silence since the order, and a rise from the order.
    """
    did = -moved if rule == "at_risk" else moved.copy()
    did[PARTS.index("parameters")] = -np.inf
    did[PARTS.index("time" if rule == "at_risk" else "orders")] += 0.5
    most: IntArray = np.argmax(did, axis=0)
    return most
