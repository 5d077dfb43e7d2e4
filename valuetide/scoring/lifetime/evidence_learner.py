"""The learner of what signals tell: from later purchases, with constant memory.

    bytes of the head, little endian
      0  <u2 layout version, 1    2  <u2 checks made                4  <u4 size of the panel
      8  <u8 seed                16  <u8 threshold of the panel
     24  <i8 day of the last check                                 32  <i8 day of the next
     40  <f8 gain                48  <f8 its square                56  <f8 buyers
     64  5 x 4 <f8 moments of lived-through time, by kind
    224  12 <f8 natural mean    320  12 x 12 <f8 information      1,472  <u4 number of members
  1,476  members, 80 bytes each, sorted by key, see MEMBER

A panel, the customers with the smallest keys as in sample.py, is kept up to date order by order and
signal by signal. At the first order four weeks or more after the last check, what was known of each
member at that check meets what they did since: whoever bought was there, and of the others the
model of purchases says how probable it was that they would not buy.

From time lived through by customers who bought again, their rates are known, and so the
gamma distribution of rates, by moments. The ratios c and levels h maximise the likelihood of the
outcomes given signals, so what is learned is what helps to predict purchases, whether or not rates
and purchases are tied in other ways. Beside them a level and two slopes, on what the model of
purchases says and on the length of silence, are fitted at each check and thrown away: a signal
gets no credit for what a mere recalibration would do. Of each check a normal approximation is kept,
information and information times mean, which sum over checks and over shards.

A kind of signals counts while its ratios are beyond doubt. What then is predicted
is compared, one check later, with what the model of purchases alone says, and used only while it
was better beyond doubt.

References
----------
Opper and Winther (1998), A Bayesian approach to on-line learning, for the sequence of normal
approximations; Dawid (1984), Statistical theory: the prequential approach, for the comparison.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from valuetide.scoring.arrays import BoolArray, FloatArray, IdArray, IntArray, group_starts
from valuetide.scoring.lifetime import purchases
from valuetide.scoring.lifetime.evidence import (
    NOTHING,
    PERIODS,
    Counts,
    Rates,
    gained_and_slope,
    log_odds_gained,
)
from valuetide.scoring.lifetime.learner import Learner
from valuetide.scoring.lifetime.parameters import Purchases
from valuetide.scoring.lifetime.sample import Orders, Sample
from valuetide.scoring.signals import KINDS, SIGNALS, note_orders, note_signals

LAYOUT: Final = 1
PANEL_SIZE: Final = 1024
EVERY_DAYS: Final = 28
MEMBER: Final = np.dtype(
    [
        ("key", "<u8"), ("first_day", "<i4"), ("last_day", "<i4"), ("x", "<u4"),
        ("last_then", "<i4"), ("x_then", "<u4"), ("signals", SIGNALS), ("signals_then", SIGNALS),
    ]
)  # fmt: skip
"""One member: key, first and last day with an order, repeat purchases; the last two and the signals
as of the last check. Who was not there at it has ``last_then`` ``_ABSENT``."""

_HEAD: Final = struct.Struct("<HHIQQqqddd20d12d144dI")
_ALL: Final = (1 << 64) - 1
_NO_DAY: Final = -(1 << 62)
_ABSENT: Final = -(1 << 31)
# Two ratios and a level.
_OF_KIND: Final = PERIODS + 1
_WIDTH: Final = _OF_KIND * len(KINDS)
# Of their logarithms: a ratio of 2.7 either way is nothing unusual, one of 20 would be. A higher
# precision of levels finds weak effects sooner, a lower one is safer where visits announce orders
# (bench.clv_evidence, with 4 and with 1).
_PRIOR_PRECISION: Final = np.diag(np.tile([1.0, 1.0, 2.0], len(KINDS)))
# The recalibration at each check: on the scale of log odds the model of purchases is wrong by 1.
_RECALIBRATION: Final = np.eye(3)
_BOUND: Final = 5.0
# What was learned is forgotten by 3 % a check, by half in two years.
_MEMORY: Final = 0.97
_STEPS: Final = 20
_LONGEST_STEP: Final = 1.0
# Whole steps of Fisher scoring overshoot by nearly as much again where ratio and level are tied.
_DAMPING: Final = 0.5
# As if there had been so much expected spread, with a coefficient of variation of 1.
_PRIOR_SPREAD: Final = 10.0
_SHAPES: Final = (0.05, 20.0)
# Twice the logarithm by which a kind's ratios are more likely than 1. Chance alone exceeds 18.4 of
# two ratios once in 10,000 kinds, if members' outcomes were independent from check to check.
_KIND_PROOF: Final = 18.4
_KIND_DAYS: Final = 20.0
# Standard deviations by which predictions must have been better, and buyers it must rest on.
_GATE_SD: Final = 3.0
_GATE_BUYERS: Final = 50.0


@dataclass(frozen=True, slots=True)
class _Matured:
    """Members as of the last check, and what became of them."""

    odds: FloatArray
    buys: FloatArray
    bought: BoolArray
    counts: Counts

    def log_score(self, gained: FloatArray) -> FloatArray:
        """Logarithm of the probability that was given to what happened, (n,)."""
        chance = np.clip(expit(-self.odds - gained) * self.buys, 1e-12, 1.0 - 1e-12)
        score: FloatArray = np.where(self.bought, np.log(chance), np.log1p(-chance))
        return score


class Evidence:
    """What one shard has learned of signals.

    Parameters
    ----------
    seed
        Which uniform sample of the customers.
    size
        Members of the panel at most.

    Attributes
    ----------
    members
        Of ``MEMBER``, sorted by key.
    next_check
        UTC day; at the first order of this day or later ``check`` is due.
    checks
        How often outcomes were compared.
    gain, square
        Sum over outcomes of by how much the logarithm of the probability given to each was higher
        with signals than without, and of the square of that.
    buyers
        Outcomes among these that were purchases.

    Examples
    --------
    >>> evidence = Evidence()
    >>> evidence.fold_orders(np.array([7], np.uint64), np.array([100]))
    >>> Evidence.decode(evidence.encode()).next_check
    128
    """

    def __init__(self, seed: int = 0, size: int = PANEL_SIZE) -> None:
        self.seed, self.size, self.threshold = seed, size, _ALL
        self.members: NDArray[np.void] = np.zeros(0, MEMBER)
        self.checks = 0
        self.last_check = self.next_check = _NO_DAY
        self.gain = self.square = self.buyers = 0.0
        self.moments: FloatArray = np.zeros((5, len(KINDS)))
        self.natural: FloatArray = np.zeros(_WIDTH)
        self.information: FloatArray = np.zeros((_WIDTH, _WIDTH))
        self._keys = Sample(seed).keys

    def until_check(self, day: IntArray) -> int:
        """How many of the next orders, by their days, (n,), come before a check is due."""
        due = day >= self.next_check if self.next_check != _NO_DAY else np.zeros(day.size, np.bool_)
        return int(np.argmax(due)) if due.any() else day.size

    def fold_orders(self, who: IdArray, day: IntArray) -> None:
        """Take orders in, none beyond the next check.

        Parameters
        ----------
        who, day
            64-bit hashes of the customers' ids and UTC days, (n,), in the order of the stream.
        """
        if not who.size:
            return
        if self.next_check == _NO_DAY:
            self.next_check = int(day[0]) + EVERY_DAYS
        keys = self._keys(who)
        eligible = keys < np.uint64(self.threshold)
        keys, day = keys[eligible], day[eligible]
        by_key = np.argsort(keys, kind="stable")
        keys, day = keys[by_key], day[by_key]
        starts = group_starts(keys)
        self._admit(keys[starts], day[starts])
        slots, held = self._find(keys)
        nth = np.arange(keys.size) - np.repeat(starts, np.diff(starts, append=keys.size))
        for turn in range(int(nth.max(initial=-1)) + 1):
            now = held & (nth == turn)
            self._apply(slots[now], day[now])
        note_orders(self.members["signals"], slots[held], day[held])

    def fold_signals(self, who: IdArray, kind: NDArray[np.uint8], day: IntArray) -> None:
        """Take signals in: hashes of the customers' ids, kinds, UTC days, (n,)."""
        slots, held = self._find(self._keys(who))
        note_signals(self.members["signals"], slots[held], kind[held], day[held])

    def check(self, model: Purchases, day: int) -> None:
        """Learn from what members did since the last check, and begin anew.

        Parameters
        ----------
        model
            Of purchases, as learned up to here.
        day
            UTC day of the order at which this is due; it is not folded yet.
        """
        members = self.members
        there = members["last_then"] != _ABSENT
        if there.any():
            self._learn(self._matured(model, members[there], day))
            self.checks += 1
        members["last_then"], members["x_then"] = members["last_day"], members["x"]
        members["signals_then"] = members["signals"]
        self.last_check, self.next_check = day, day + EVERY_DAYS

    def _matured(self, model: Purchases, members: NDArray[np.void], day: int) -> _Matured:
        then = self.last_check
        first = members["first_day"].astype(np.int64)
        recency = np.maximum(members["last_then"] - first, 0) / 7.0
        age = np.maximum((then - first) / 7.0, recency)
        seen = purchases.Histories(members["x_then"].astype(np.int64), recency, age)
        wait = np.log1p((day - then) / 7.0 / (model.alpha + age))
        return _Matured(
            np.clip(purchases.log_odds_of_leaving(model, seen), -30.0, 30.0),
            -np.expm1(-(model.r + seen.x) * wait),
            members["last_day"] >= then,
            Counts.of(members["signals_then"], first, float(then)),
        )

    def _learn(self, matured: _Matured) -> None:
        candidate = candidate_rates([self])
        if not candidate.silent:
            better = matured.log_score(log_odds_gained(candidate, matured.counts).sum(axis=0))
            better = better - matured.log_score(np.zeros(better.size))
            self.gain = _MEMORY * self.gain + float(better.sum())
            self.square = _MEMORY * self.square + float(better @ better)
            self.buyers = _MEMORY * self.buyers + float(matured.bought.sum())
        m = matured.counts.before
        lived = np.broadcast_to(matured.counts.lived, m.shape)
        self.moments = np.stack([m, lived, m * m, m * lived, lived * lived]).sum(axis=2)
        self.natural = _MEMORY * self.natural
        self.information = _MEMORY * self.information
        natural, information = _approximation(
            matured, _lived_through([self]), self.natural, self.information
        )
        self.natural += natural
        self.information += information

    def _find(self, keys: IdArray) -> tuple[IntArray, BoolArray]:
        known = self.members["key"]
        slots = np.searchsorted(known, keys)
        np.minimum(slots, max(known.size - 1, 0), out=slots)
        return slots, known[slots] == keys if known.size else np.zeros(keys.size, np.bool_)

    def _admit(self, keys: IdArray, day: IntArray) -> None:
        new = ~self._find(keys)[1]
        if not new.any():
            return
        fresh = np.zeros(int(new.sum()), MEMBER)
        fresh["key"], fresh["last_then"] = keys[new], _ABSENT
        fresh["first_day"] = fresh["last_day"] = day[new]
        members = np.concatenate([self.members, fresh])
        members = members[np.argsort(members["key"], kind="stable")]
        if members.size > self.size:
            self.threshold = int(members["key"][self.size])
        self.members = members[: self.size]

    def _apply(self, slots: IntArray, day: IntArray) -> None:
        """Fold one order each into some members, no member twice."""
        first, last = self.members["first_day"][slots], self.members["last_day"][slots]
        self.members["x"][slots] += (day != first) & (day != last)
        self.members["first_day"][slots] = np.minimum(first, day)
        self.members["last_day"][slots] = np.maximum(last, day)

    def encode(self) -> bytes:
        """Bytes from which ``decode`` makes the same."""
        return self.encode_head() + self.members.tobytes()

    def encode_head(self) -> bytes:
        """Everything but the members."""
        return _HEAD.pack(
            LAYOUT, self.checks, self.size, self.seed, self.threshold, self.last_check,
            self.next_check, self.gain, self.square, self.buyers, *self.moments.ravel(),
            *self.natural, *self.information.ravel(), self.members.size,
        )  # fmt: skip

    @classmethod
    def decode(cls, blob: bytes) -> "Evidence":
        """State of which these are the bytes.

        Raises
        ------
        ValueError
            Of an unknown layout version, or with too few or too many bytes.
        """
        evidence, count = cls.decode_head(blob)
        if len(blob) != _HEAD.size + count * MEMBER.itemsize:
            raise ValueError(f"evidence: {len(blob)} bytes do not fit {count} members")
        evidence.members = np.frombuffer(blob, MEMBER, count, _HEAD.size).copy()
        return evidence

    @classmethod
    def decode_head(cls, blob: bytes) -> tuple["Evidence", int]:
        """State without its members, and how many those are; enough to pool.

        Raises
        ------
        ValueError
            Of an unknown layout version, or with too few bytes.
        """
        if len(blob) < _HEAD.size:
            raise ValueError(f"evidence: {len(blob)} bytes, a header has {_HEAD.size}")
        layout, checks, size, seed, threshold, last, following, *rest = _HEAD.unpack_from(blob)
        if layout != LAYOUT:
            raise ValueError(f"evidence: layout {layout}, this release reads {LAYOUT}")
        evidence = cls(seed, size)
        evidence.threshold, evidence.checks = threshold, checks
        evidence.last_check, evidence.next_check = last, following
        evidence.gain, evidence.square, evidence.buyers = rest[:3]
        sums = np.array(rest[3:-1])
        evidence.moments = sums[:20].reshape(5, -1)
        evidence.natural = sums[20 : 20 + _WIDTH]
        evidence.information = sums[20 + _WIDTH :].reshape(_WIDTH, _WIDTH)
        return evidence, rest[-1]


def learn_orders(learner: Learner, evidence: Evidence, orders: Orders) -> int:
    """Let both learners take orders in, checks being made at the order at which they are due.

    Returns
    -------
    How often either learned something that scores depend on.
    """
    done, steps = 0, 0
    while True:
        until = done + evidence.until_check(orders.day[done:])
        part = orders[done:until]
        steps += learner.learn(part)
        evidence.fold_orders(part.who, part.day)
        if until == orders.day.size:
            return steps
        evidence.check(learner.parameters.purchases, int(orders.day[until]))
        done, steps = until, steps + 1


@dataclass(frozen=True, slots=True)
class Told:
    """What signals have been found to tell, whether it is in force or not.

    Attributes
    ----------
    estimate
        Rates as they are estimated.
    beyond_doubt
        Kinds whose ratios are, (k,); those of the others count as 1.
    days
        Days with a signal of each kind between orders, of the members at the last check, (k,).
    gain, gain_sd
        By how much the logarithm of the probability given to outcomes was higher with signals,
        summed, and the standard deviation of that sum if nothing were to be gained.
    buyers
        Purchases among these outcomes; old ones count in part.
    in_force
        Whether scores are made with it.
    """

    estimate: Rates
    beyond_doubt: BoolArray
    days: FloatArray
    gain: float
    gain_sd: float
    buyers: float
    in_force: bool


def told(shards: Iterable[Evidence]) -> Told:
    """What the signals of all shards tell."""
    known = list(shards)
    gain, square, buyers = (
        sum(getattr(shard, name) for shard in known) for name in ("gain", "square", "buyers")
    )
    information = sum((shard.information for shard in known), _PRIOR_PRECISION)
    natural = sum((shard.natural for shard in known), np.zeros(_WIDTH))
    estimate = np.clip(np.linalg.solve(information, natural), -_BOUND, _BOUND)
    candidate = candidate_rates(known)
    proven = buyers >= _GATE_BUYERS and gain > _GATE_SD * np.sqrt(square)
    return Told(
        _with_logs(_lived_through(known), estimate),
        np.any(candidate.log_ratio != 0.0, axis=1),
        sum((shard.moments[0] for shard in known), np.zeros(len(KINDS))),
        gain,
        float(np.sqrt(square)),
        buyers,
        bool(proven) and not candidate.silent,
    )


def proven_rates(shards: Iterable[Evidence]) -> Rates:
    """Rates to score with: ``candidate_rates`` while they have helped, else ``NOTHING``."""
    known = list(shards)
    return candidate_rates(known) if told(known).in_force else NOTHING


def candidate_rates(shards: Iterable[Evidence]) -> Rates:
    """Rates of all shards together; ratios of kinds that are not beyond doubt are exactly 1."""
    known = list(shards)
    rates = _lived_through(known)
    information = sum((shard.information for shard in known), _PRIOR_PRECISION)
    natural = sum((shard.natural for shard in known), np.zeros(_WIDTH))
    mean = np.linalg.solve(information, natural)
    days = sum(shard.moments[0] for shard in known)
    beyond_doubt = np.zeros(_WIDTH, np.bool_)
    for kind in range(len(KINDS)):
        # With ratios of 1 the level is without effect, so it is taken as it was estimated: its own
        # uncertainty says nothing about whether they are 1.
        level = _OF_KIND * kind + PERIODS
        others = np.delete(np.arange(_WIDTH), level)
        covariance = np.linalg.inv(information[np.ix_(others, others)])
        of = slice(_OF_KIND * kind, level)
        proof = mean[of] @ np.linalg.solve(covariance[of, of], mean[of])
        known_well = proof > _KIND_PROOF and days[kind] >= _KIND_DAYS
        beyond_doubt[_OF_KIND * kind : _OF_KIND * (kind + 1)] = known_well
    logs = np.zeros(_WIDTH)
    some = np.flatnonzero(beyond_doubt)
    logs[some] = np.linalg.solve(information[np.ix_(some, some)], natural[some])
    return _with_logs(rates, np.clip(logs, -_BOUND, _BOUND))


def _lived_through(shards: list[Evidence]) -> Rates:
    """Gamma distributions of customers' rates, by moments, with ratios and levels of 1."""
    m, lived, squares, cross, lived_squares = sum(
        (shard.moments for shard in shards), np.zeros((5, len(KINDS)))
    )
    mean = np.maximum(m, 0.5) / np.maximum(lived, 1.0)
    # Var m = mean E + (mean E)^2 / shape.
    spread = mean * mean * lived_squares
    excess = squares - 2.0 * mean * cross + spread - m
    shape = (spread + _PRIOR_SPREAD) / np.maximum(excess + _PRIOR_SPREAD, 1e-9)
    shape = np.clip(shape, *_SHAPES)
    return Rates(shape, shape / mean, NOTHING.log_ratio, NOTHING.log_level)


def _with_logs(rates: Rates, logs: FloatArray) -> Rates:
    """These rates with log ratios and levels, kind by kind, (3 k,)."""
    by_kind = logs.reshape(-1, _OF_KIND)
    return Rates(rates.shape, rates.rate, by_kind[:, :PERIODS], by_kind[:, PERIODS])


def _approximation(
    matured: _Matured, rates: Rates, natural: FloatArray, information: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Likelihood of ratios and levels near its maximum with the prior: natural mean, information.

    Parameters
    ----------
    natural, information
        Of what was learned before, which with the weak prior is the prior here.

    Notes
    -----
    Fisher scoring. Of log odds u of having left, P = P(buys) = q / (1 + e^u), its derivative is
    -P (1 - w), w being P(alive), and the information of one outcome q w (1-w)^2 / (1 - q w).
    """
    odds, buys, bought, counts = matured.odds, matured.buys, matured.bought, matured.counts
    extra = np.stack([np.ones(odds.size), odds, np.log1p(counts.weeks.sum(axis=0))])
    precision = np.zeros((_WIDTH + 3, _WIDTH + 3))
    precision[:_WIDTH, :_WIDTH] = information + _PRIOR_PRECISION
    precision[_WIDTH:, _WIDTH:] = _RECALIBRATION
    pull = np.concatenate([natural, np.zeros(3)])
    at = np.linalg.solve(precision, pull)
    slope, curve = np.zeros(_WIDTH + 3), precision
    for step in range(_STEPS + 1):
        gained, slopes = gained_and_slope(_with_logs(rates, at[:_WIDTH]), counts)
        alive = expit(-(odds + gained + at[_WIDTH:] @ extra))
        left, none = 1.0 - alive, np.maximum(1.0 - alive * buys, 1e-12)
        directions = np.concatenate([slopes, extra])
        slope = directions @ np.where(bought, -left, buys * alive * left / none)
        curve = (directions * (buys * alive * left**2 / none)) @ directions.T
        if step == _STEPS:
            break
        move = np.linalg.solve(curve + precision, slope + pull - precision @ at)
        move *= min(_DAMPING, _LONGEST_STEP / max(float(np.abs(move).max()), 1e-12))
        at = np.clip(at + move, -_BOUND, _BOUND)
    # The recalibration is integrated out.
    cross = curve[:_WIDTH, _WIDTH:]
    weight = np.linalg.solve(curve[_WIDTH:, _WIDTH:] + _RECALIBRATION, cross.T).T
    learned = curve[:_WIDTH, :_WIDTH] - weight @ cross.T
    rest = slope[_WIDTH:] - _RECALIBRATION @ at[_WIDTH:]
    return learned @ at[:_WIDTH] + slope[:_WIDTH] - weight @ rest, learned
