"""The learner: parameters of both models from the stream, with constant work an order.

    bytes of a learner, little endian
      0  <u2 layout version, 1    2  <u2 shards that learn beside it 4  <u4 size of the sample
      8  <u8 seed                16  <u8 threshold of the sample    24  <u8 orders seen
     32  <u8 orders at which they are                                 40  <i8 last day seen
     48  <i8 day at whose end steps are due                         56  4 <f8 log of r, alpha, a, b
     88  3 <f8 log of p, q, gamma                                  112  <f8 typical spend
    120  <u8 number of members
    128  members, 40 bytes each: key, first_day, last_day, x, 0, spent, first_spend

At the end of a day, once a number of orders or a week has passed since the last time, Newton's
method goes to the maximum of the posterior of all members at their present T. That is a place in
the stream that does not depend on how the stream is cut; in the middle of a day those whose
orders of the day are still to come would count as silent on it. Steps are made safe: curvature
is measured against the products of the members' gradients (Berndt, Hall, Hall, Hausman 1974), which
point uphill anywhere. A gradient step of fixed length, as Adam's, would wander around the maximum
and need averaging; this one lands on it and follows it as the sample changes. The products
alone would not do: on Online Retail they are a quarter of the curvature and the steps overshoot.
Members who are silent weigh as much as those who buy: the silent ones carry the news about
churn.
"""

import copy
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.linalg import LinAlgError, lapack

from valuetide.scoring.arrays import FloatArray, IntArray, group_sizes, group_starts, true_at
from valuetide.scoring.lifetime import purchases, spend
from valuetide.scoring.lifetime.expansion import Expansion, Quadratic, joint_maximum
from valuetide.scoring.lifetime.parameters import (
    PURCHASES_BOX,
    PURCHASES_MEAN,
    PURCHASES_SD,
    SPEND_BOX,
    SPEND_MEAN,
    SPEND_SD,
    Parameters,
    Spend,
    boxed,
    pool,
    pool_purchases,
)
from valuetide.scoring.lifetime.sample import MEMBER, SIZE, Exact, Orders, Sample

LAYOUT: Final = 1
_HEAD: Final = struct.Struct("<HHIQQQQqq7ddQ")
# From n orders on, the next steps come at the end of the day in which n/16 more have come, at least
# 8 and at most 1,024: often at the start, where each order matters, and then so rarely that the
# 0.4 ms of a step are 0.4 us an order.
_GROWTH: Final = 16
_LEAST_GAP: Final = 8
_FIRST_GAP: Final = 4
_MOST_GAP: Final = 1024
# In a quiet shard they are made a week after the last ones, or sooner if the sample is not full,
# for then they cost less: every day while it has a quarter of its size.
_GAP_DAYS: Final = 7
# In a day on which so many times as many orders come, steps do not wait for its end.
_CROWDED: Final = 2
# Steps go on until none of the parameters' logarithms moves by more than this.
_NEAR: Final = 0.25
_MOST_STEPS: Final = 4
# No parameter changes by more than e in one step, however wrong the quadratic picture is.
_LONGEST_STEP: Final = 1.0
# Longer steps of the spend model are looked at before they are made, and halved as often at most.
_HARMLESS_STEP: Final = 0.1
_MOST_HALVINGS: Final = 6
# So far from the middle of its prior, in a logarithm, the spend model is compared with it.
_FAR: Final = 2.0
# Curvature in any direction, as a share of what the products of gradients say it is, is taken to be
# no less than this: far from the maximum it may be nothing or point the wrong way.
_LEAST_BEND: Final = 0.3
_NO_DAY: Final = -(1 << 62)


@dataclass(frozen=True, slots=True)
class _Settled:
    """Histories with which a learner settled.

    Attributes
    ----------
    members
        Their number.
    seen, count
        Distinct histories, and how many customers have each.
    bought, spent
        Repeat purchases and spend on them of those who have paid for one.
    """

    members: int
    seen: purchases.Histories
    count: FloatArray
    bought: IntArray
    spent: FloatArray


class Learner:
    """What one shard has learned.

    Parameters
    ----------
    seed
        Which uniform sample of the customers.
    size
        Customers in the sample.
    shards
        Shards that learn beside this one; each holds that share of the prior, so that pooled they
        hold it once.

    Attributes
    ----------
    orders
        Orders taken in.
    purchases, spend
        Logarithms of the parameters, (4,) and (3,).

    Examples
    --------
    >>> learner = Learner()
    >>> learner.learn(Orders(np.arange(4, dtype=np.uint64), np.zeros(4, int), np.ones(4)))
    0
    >>> Learner.decode(learner.encode()).encode() == learner.encode()
    True
    """

    def __init__(self, seed: int = 0, size: int = SIZE, shards: int = 1) -> None:
        self.sample = Sample(seed, size)
        self.shards = shards
        self.orders = 0
        self.next_step = _FIRST_GAP
        self.day = self.due_day = _NO_DAY
        self.typical_spend = 0.0
        self.purchases: FloatArray = PURCHASES_MEAN.copy()
        self.spend: FloatArray = SPEND_MEAN.copy()
        self._settled: _Settled | None = None

    @property
    def parameters(self) -> Parameters:
        """Parameters learned by this shard alone."""
        return Parameters.of(self.purchases, self.spend)

    def learn(self, orders: Orders) -> int:
        """Take orders in, in the order of the stream.

        Returns
        -------
        Number of steps made; 0 means that the parameters are what they were.

        Notes
        -----
        Cutting the stream elsewhere changes nothing, not even rounding.
        """
        done, steps, total = 0, 0, orders.day.size
        latest = np.maximum.accumulate(np.maximum(orders.day, self.day))
        while done < total:
            if self.due_day == _NO_DAY:
                self.due_day = int(latest[0])
            stop = self._next_stop(latest, done)
            if stop > done:
                self.sample.fold(orders[done:stop])
                self.day = int(latest[stop - 1])
                self.orders += stop - done
                done = stop
            crowded = self.orders >= _CROWDED * self.next_step
            if crowded or done < total:
                day = self.day if crowded else int(latest[done]) - 1
                self.settle(day)
                steps += 1
                share = self.sample.members.size / self.sample.size
                self.due_day = day + max(int(share * _GAP_DAYS), 1)
                gap = min(max(self.orders // _GROWTH, _LEAST_GAP), _MOST_GAP)
                self.next_step = self.orders + gap
        return steps

    def _next_stop(self, latest: IntArray, done: int) -> int:
        """How many of some orders come before the parameters are next due, or all of them.

        Parameters
        ----------
        latest
            The last day seen so far at each order, (n,).
        done
            How many have been taken in.
        """
        left = self.next_step - self.orders
        by_count = latest.size
        if left <= latest.size - done:
            # The day of the order that makes it due has to end first.
            day = self.day if left <= 0 else latest[done + left - 1]
            by_count = int(np.searchsorted(latest, day, side="right"))
        by_time = int(np.searchsorted(latest, self.due_day, side="right"))
        crowded = done + _CROWDED * self.next_step - self.orders
        return max(done, min(by_count, by_time, crowded))

    def due(self, day: int) -> bool:
        """Whether the next order would make it settle as of a day, coming after that day."""
        waited = self.orders >= self.next_step or day >= self.due_day
        return self.day <= day and self.orders > 0 and waited

    def after(self, day: int) -> "Learner":
        """Learner as an order after a day would find it: that day taken as over.

        Returns
        -------
        Learner
            One that has settled as of that day, or this one where that is not due. It is not to
            learn: the sample is this one's.

        Notes
        -----
        Nothing changes here, so what is asked leaves no trace in what is learned.
        """
        if not self.due(day):
            return self
        settled = copy.copy(self)
        settled.settle(day)
        return settled

    def correct(self, exact: Exact) -> None:
        """Replace histories by what the customers' states say; see ``Sample.correct``."""
        self.sample.correct(exact)

    def settle(self, day: int) -> None:
        """Go to the maximum of the posterior of the sample, as of the end of a day.

        Notes
        -----
        Most often one step is enough, since the last maximum is near. In the first months, when
        everything known doubles within weeks, it is not, and a learner that makes only one stays
        behind what it knows.
        """
        members = self.sample.members
        if not members.size:
            return
        x = members["x"].astype(np.int64)
        seen, count = _grouped(x, members["first_day"], members["last_day"], day)
        paid = true_at((x > 0) & (members["spent"] > 0.0))
        bought, spent = x[paid], members["spent"][paid]
        # Until somebody buys twice the first baskets say what an order is worth.
        first = members["first_spend"]
        self._settled = _Settled(x.size, seen, count, bought, spent)
        self._know_typical_spend(spent / bought if paid.size else first[first > 0.0])
        for _ in range(_MOST_STEPS):
            if self._step_purchases(seen, count) <= _NEAR:
                break
        for _ in range(_MOST_STEPS if paid.size else 0):
            if self._step_spend(bought, spent) <= _NEAR:
                break

    def expand(self, at: Parameters) -> Expansion | None:
        """Give the likelihood of the sample near some parameters, as of the last settling.

        Returns
        -------
        Expansion or None
            ``None`` unless there was one since this was last asked.

        Notes
        -----
        One evaluation of the sample. The learner's own parameters have no part in it.
        """
        settled, self._settled = self._settled, None
        if settled is None:
            return None
        logs, logs_of_spend = at.logs()
        slopes, curvature = purchases.slope_and_curvature(at.purchases, settled.seen, settled.count)
        slopes_of_spend, curvature_of_spend = spend.slope_and_curvature(
            at.spend, settled.bought, settled.spent
        )
        return Expansion(
            settled.members,
            Quadratic(logs, slopes @ settled.count, -curvature),
            Quadratic(logs_of_spend, slopes_of_spend.sum(axis=1), -curvature_of_spend),
        )

    def _step_purchases(self, seen: purchases.Histories, count: FloatArray) -> float:
        """Make a step, and give how far it was."""
        before = self.purchases
        model = Parameters.of(before, self.spend).purchases
        slopes, curvature = purchases.slope_and_curvature(model, seen, count)
        self.purchases = _ascend(
            self.purchases,
            slopes @ count,
            (slopes * count) @ slopes.T,
            curvature,
            PURCHASES_MEAN,
            PURCHASES_SD * np.sqrt(self.shards),
            PURCHASES_BOX,
        )
        return float(np.abs(self.purchases - before).max())

    def _know_typical_spend(self, means: FloatArray) -> None:
        """Take the typical spend of an order from what some customers spend on one."""
        if not means.size:
            return
        typical = float(np.exp(np.mean(np.log(means))))
        if self.typical_spend == 0.0:
            self.spend = self.spend + np.array([0.0, 0.0, np.log(typical)])
        self.typical_spend = typical

    def _step_spend(self, x: IntArray, spent: FloatArray) -> float:
        """Make a step, and give how far it was."""
        mean = SPEND_MEAN + np.array([0.0, 0.0, np.log(self.typical_spend)])
        sd = SPEND_SD * np.sqrt(self.shards)

        def posterior(at: FloatArray) -> float:
            likelihood = spend.log_likelihood(Spend(*np.exp(at).tolist()), x, spent)
            return float(likelihood.sum() - (((at - mean) / sd) ** 2).sum() / 2.0)

        before = self.spend
        # A few customers of like spend lead far away, from where the way back is slow or none.
        if np.abs(before - mean).max() > _FAR and posterior(mean) > posterior(before):
            before = mean
        slopes, curvature = spend.slope_and_curvature(Spend(*np.exp(before).tolist()), x, spent)
        self.spend = _not_downhill(
            posterior,
            before,
            _ascend(before, slopes.sum(axis=1), slopes @ slopes.T, curvature, mean, sd, SPEND_BOX),
        )
        return float(np.abs(self.spend - before).max())

    def encode(self) -> bytes:
        """Bytes from which ``decode`` makes the same learner."""
        return self.encode_head() + self.sample.members.tobytes()

    def encode_head(self) -> bytes:
        """The first 128 bytes: everything but the members."""
        sample = self.sample
        return _HEAD.pack(
            LAYOUT, self.shards, sample.size, sample.seed, sample.threshold, self.orders,
            self.next_step, self.day, self.due_day, *self.purchases, *self.spend,
            self.typical_spend, sample.members.size,
        )  # fmt: skip

    @classmethod
    def decode(cls, blob: bytes) -> "Learner":
        """Learner of which these are the bytes.

        Raises
        ------
        ValueError
            Of an unknown layout version, or with too few or too many bytes.
        """
        learner, count = cls.decode_head(blob)
        if len(blob) != _HEAD.size + count * MEMBER.itemsize:
            raise ValueError(f"learner: {len(blob)} bytes do not fit {count} members")
        learner.sample.members = np.frombuffer(blob, MEMBER, count, _HEAD.size).copy()
        return learner

    @classmethod
    def decode_head(cls, blob: bytes) -> tuple["Learner", int]:
        """Learner without its members, and how many those are; enough to pool parameters.

        Raises
        ------
        ValueError
            Of an unknown layout version, or with too few bytes.
        """
        if len(blob) < _HEAD.size:
            raise ValueError(f"learner: {len(blob)} bytes, a header has {_HEAD.size}")
        layout, shards, size, seed, threshold, orders, *rest = _HEAD.unpack_from(blob)
        if layout != LAYOUT:
            raise ValueError(f"learner: layout {layout}, this release reads {LAYOUT}")
        floats, typical, count = np.array(rest[3:10]), rest[10], rest[11]
        learner = cls(seed, size, shards)
        learner.sample = Sample(seed, size, threshold=threshold)
        learner.orders = orders
        learner.next_step, learner.day, learner.due_day = rest[:3]
        learner.purchases, learner.spend = floats[:4], floats[4:]
        learner.typical_spend = typical
        return learner, count


def pooled(learners: Iterable[Learner], customers: Sequence[int] | None = None) -> Parameters:
    """Parameters of all shards together, which every shard scores with.

    Parameters
    ----------
    learners
        One a shard, or what was decoded of them.
    customers
        Customers of each shard; without it as many as are in its sample.

    Notes
    -----
    A shard without customers has no weight, nor one that has seen no spend in the average of
    spend. If no shard has any, this is the prior.
    """
    shards = list(learners)
    weights = customers or [shard.sample.members.size for shard in shards]
    begun = [(s, w) for s, w in zip(shards, weights, strict=True) if w]
    paid = [(s, w) for s, w in begun if s.typical_spend > 0.0]
    return Parameters.of(
        pool_purchases([s.purchases for s, _ in begun], [w for _, w in begun])
        if begun
        else PURCHASES_MEAN,
        pool([s.spend for s, _ in paid], [w for _, w in paid]) if paid else SPEND_MEAN,
    )


def pooled_by_expansions(
    learners: Sequence[Learner],
    customers: Sequence[int],
    expansions: Sequence[Expansion | None],
) -> Parameters:
    """Parameters at which the posterior of all shards together is highest.

    Parameters
    ----------
    learners, customers
        See :func:`pooled`.
    expansions
        Of each shard, ``None`` of one that has made none, as before the release that made them.

    Notes
    -----
    That of :func:`pooled` while a shard with customers has no expansion, and where the maximum
    would be far from it.
    """
    average = pooled(learners, customers)
    shards = [each for each in zip(learners, customers, expansions, strict=True) if each[1]]
    known = [expansion for *_, expansion in shards if expansion is not None]
    if not known or len(known) < len(shards):
        return average
    # Customers of a sample that is not full stand for themselves.
    weights = [
        count / expansion.members if expansion.members >= learner.sample.size else 1.0
        for (learner, count, _), expansion in zip(shards, known, strict=True)
    ]
    logs, logs_of_spend = average.logs()
    logs = joint_maximum(
        [one.purchases for one in known], weights, PURCHASES_MEAN, PURCHASES_SD, logs
    )
    paid = [(count, np.log(one.typical_spend)) for one, count, _ in shards if one.typical_spend]
    if paid:
        counts, typical = np.array(paid).T
        mean = SPEND_MEAN + np.array([0.0, 0.0, counts @ typical / counts.sum()])
        logs_of_spend = joint_maximum(
            [one.spend for one in known], weights, mean, SPEND_SD, logs_of_spend
        )
    return Parameters.of(boxed(logs, PURCHASES_BOX), boxed(logs_of_spend, SPEND_BOX))


def _not_downhill(
    posterior: Callable[[FloatArray], float], before: FloatArray, now: FloatArray
) -> FloatArray:
    """Halve a long step until it does not lead down, or leave it.

    Where p and q are large the surface is so steep towards smaller ones, and so bent, that a
    shard that once stepped there did not come back: all shards then expected too little.
    """
    step = now - before
    if float(np.abs(step).max()) <= _HARMLESS_STEP:
        return now
    height = posterior(before)
    for _ in range(_MOST_HALVINGS):
        if posterior(before + step) >= height:
            return before + step
        step = step / 2.0
    return before


def _grouped(
    x: IntArray, first_day: IntArray, last_day: IntArray, day: int
) -> tuple[purchases.Histories, FloatArray]:
    """Histories as of a day, and how many customers have each: many bought once, on one day."""
    again, once = true_at(x > 0), true_at(x == 0)
    days = np.sort(first_day[once])
    starts = group_starts(days)
    days, count = days[starts], group_sizes(starts, days.size)
    first = np.concatenate([first_day[again], days])
    t_x = np.concatenate([(last_day[again] - first_day[again]) / 7.0, np.zeros(days.size)])
    seen = purchases.Histories(
        np.concatenate([x[again], np.zeros(days.size, np.int64)]),
        t_x,
        np.maximum((day - first) / 7.0, t_x),
    )
    return seen, np.concatenate([np.ones(again.size), count])


def _ascend(
    at: FloatArray,
    gradient: FloatArray,
    products: FloatArray,
    curvature: FloatArray,
    mean: FloatArray,
    sd: FloatArray,
    box: FloatArray,
) -> FloatArray:
    """One step from some parameters, (d,), uphill on the posterior.

    Parameters
    ----------
    gradient, products, curvature
        Of the log-likelihood: the sum of the customers' gradients, (d,), of their products with
        themselves, and of the second derivatives, (d, d).
    mean, sd, box
        Of the prior, and where the parameters have to stay.
    """
    precision = 1.0 / sd**2
    slope = gradient + (mean - at) * precision
    # In units in which the products of gradients are a unit matrix the second derivative would be
    # one as well if the model were right.
    prior = np.diag(precision)
    # What scipy.linalg.eigh calls; its checks and choices take longer than 4 by 4 numbers do.
    bends, to_here, failure = lapack.dsygvd(prior - curvature, products + prior)
    if failure:
        raise LinAlgError(f"dsygvd: {failure}, gradients {products}, curvature {curvature}")
    step: FloatArray = to_here @ (to_here.T @ slope / np.maximum(np.abs(bends), _LEAST_BEND))
    longest = float(np.abs(step).max())
    if longest > _LONGEST_STEP:
        step *= _LONGEST_STEP / longest
    return boxed(at + step, box)
