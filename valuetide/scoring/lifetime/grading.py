"""A shard grades its predictions: cohorts are opened, and closed when their horizon is over.

    grade:<days>           80 bytes of conformal.py, then those of grade.py; <days> is the horizon
    cohort:<days>:<slot>   a cohort that waits, see cohort.py; empty once it is closed
    tempo                  the ratio corrector, see tempo.py

The learner's sample holds exact histories of customers drawn at random. At the end of every second
week, by event time, a quarter of a full sample is predicted for, another quarter each time. When
the horizon is over, what came of those customers is known: it moves the ends of the intervals, is
added to the grade, and, of the shortest horizon, teaches the ratio corrector.

Predictions are those of the shard's own parameters, intervals and corrector, which differ a little
from the pooled ones that scores are made with, but depend on nothing but the shard's events. They
are of revenue, not discounted. Intervals learned from them hold for clv as well: their ends move in
units of the spread of logarithms, which a factor of margin or discount leaves as it is.

All of it happens between two orders, at places that do not depend on how the stream is cut: before
the first order of a day after the one on which a cohort is due or its horizon over.

Horizons of more than 126 days are predicted for less often, so that no more than 9 cohorts wait.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from valuetide.scoring.arrays import IntArray
from valuetide.scoring.lifetime.cohort import Cohort
from valuetide.scoring.lifetime.conformal import Conformal
from valuetide.scoring.lifetime.grade import Grade
from valuetide.scoring.lifetime.learner import Learner
from valuetide.scoring.lifetime.sample import Orders
from valuetide.scoring.lifetime.tempo import FIRST_DAYS, Tempo

PERIOD_DAYS: Final = 14
_MOST_WAITING: Final = 9
_COHORT_SIZE: Final = 512
TOO_EARLY: Final = 0.0
"""Instead of a factor in a cohort from which the corrector is not to learn."""

TEMPO: Final = "tempo"
_GRADE: Final = "grade:"
_COHORT: Final = "cohort:"
_CONFORMAL_BYTES: Final = len(Conformal().encode())


def grade_piece(days: int) -> str:
    """Name of the piece with what was learned of a horizon."""
    return f"{_GRADE}{days}"


class Horizon:
    """What is graded of one horizon.

    Parameters
    ----------
    days
        The horizon, 1 or more.

    Attributes
    ----------
    every_days
        Days between two cohorts.
    conformal, grade
        Learned from the cohorts that are closed.
    waiting
        Cohorts whose outcome is not known yet, in their order; at most 9.
    """

    def __init__(self, days: int) -> None:
        self.days = days
        self.every_days = PERIOD_DAYS * -(-days // (PERIOD_DAYS * _MOST_WAITING))
        self.conformal = Conformal()
        self.grade = Grade()
        self.waiting: list[Cohort] = []

    def slot(self, cohort: Cohort) -> str:
        """Name of the piece that a cohort is kept in; no two that wait have the same."""
        slots = -(-self.days // self.every_days)
        return f"{_COHORT}{self.days}:{cohort.day // self.every_days % slots}"

    def due(self, since: int) -> int:
        """First day from one on at whose end there is something to do."""
        boundary = -(-since // self.every_days) * self.every_days
        return min(boundary, self.waiting[0].day + self.days) if self.waiting else boundary

    def encode(self) -> bytes:
        """Bytes of what was learned, without the cohorts."""
        return self.conformal.encode() + self.grade.encode()

    def decode(self, blob: bytes) -> None:
        """Take over what was learned; raises ``ValueError`` where it cannot be read."""
        self.conformal = Conformal.decode(blob[:_CONFORMAL_BYTES])
        self.grade = Grade.decode(blob[_CONFORMAL_BYTES:])


class Grading:
    """Grades of one shard.

    Parameters
    ----------
    horizons_days
        The horizons, rising.
    pieces
        What was committed. Pieces of horizons that are no longer graded are emptied.

    Raises
    ------
    ValueError
        When that cannot be read.
    """

    def __init__(self, horizons_days: tuple[int, ...], pieces: Mapping[str, bytes]) -> None:
        self.horizons = {days: Horizon(days) for days in horizons_days}
        self.tempo = Tempo.decode(pieces[TEMPO]) if pieces.get(TEMPO) else Tempo()
        self._changed: dict[str, bytes] = {}
        for name, blob in pieces.items():
            if not blob or not name.startswith((_GRADE, _COHORT)):
                continue
            horizon = self.horizons.get(int(name.split(":")[1]))
            if horizon is None:
                self._changed[name] = b""
            elif name.startswith(_GRADE):
                horizon.decode(blob)
            else:
                horizon.waiting.append(Cohort.decode(blob))
        for horizon in self.horizons.values():
            horizon.waiting.sort(key=lambda cohort: cohort.day)

    def learn(
        self, learner: Learner, orders: Orders, learn: Callable[[Orders], int] | None = None
    ) -> int:
        """Let a learner take orders in, and grade in between.

        Parameters
        ----------
        learner
            Whose predictions are graded.
        orders
            In the order of the stream.
        learn
            Has the learner, and others with it, take in some of them; without it just the learner.

        Returns
        -------
        int
            Steps of the parameters and turns of the grading; 0: all is what it was but the sample.

        Notes
        -----
        Cutting the stream elsewhere changes nothing, not even rounding.
        """
        done, changes, total = 0, 0, orders.day.size
        latest: IntArray = np.maximum.accumulate(np.maximum(orders.day, learner.day))
        since = learner.day if learner.orders or not total else int(latest[0])
        while done < total:
            due = min(horizon.due(since) for horizon in self.horizons.values())
            # Up to and without the first order of a later day.
            stop = int(np.searchsorted(latest, due, side="right"))
            if stop > done:
                changes += (learn or learner.learn)(orders[done:stop])
            if stop < total:
                until = int(latest[stop]) - 1
                self._turn(learner, since, until)
                changes += 1
                since = until + 1
            done = stop
        return changes

    def changes(self) -> dict[str, bytes]:
        """Give the pieces that changed since the last time."""
        changed, self._changed = self._changed, {}
        return changed

    def _turn(self, learner: Learner, since: int, until: int) -> None:
        """Do what is due at the ends of some days in which nothing was ordered after the first."""
        shortest = min(self.horizons)
        for horizon in self.horizons.values():
            # One cohort, even when no order came for weeks: after a gap of years, or a wrong
            # date, one for each week would take long and tell nothing.
            boundary = until // horizon.every_days * horizon.every_days
            if boundary >= since:
                self._close(learner, horizon, boundary, teach=horizon.days == shortest)
                self._open(learner, horizon, boundary)
            self._close(learner, horizon, until, teach=horizon.days == shortest)

    def _open(self, learner: Learner, horizon: Horizon, day: int) -> None:
        members = learner.sample.members
        if not members.size or learner.typical_spend <= 0.0:
            return
        shares = max(1, members.size // _COHORT_SIZE)
        turn = day // horizon.every_days % shares
        whose_turn = (members["key"] >> np.uint64(8)) % np.uint64(shares) == turn
        chosen = np.take(members, np.flatnonzero(whose_turn))
        settled = day >= int(members["first_day"].min()) + FIRST_DAYS
        factor = self.tempo.factor if settled else TOO_EARLY
        if not chosen.size:
            return
        cohort = Cohort.predict(
            learner.parameters, chosen, day, horizon.days, horizon.conformal, factor
        )
        horizon.waiting.append(cohort)
        self._changed[horizon.slot(cohort)] = cohort.encode()

    def _close(self, learner: Learner, horizon: Horizon, day: int, *, teach: bool) -> None:
        while horizon.waiting and horizon.waiting[0].day + horizon.days <= day:
            cohort = horizon.waiting.pop(0)
            predictive, outcomes = cohort.mature(learner.sample.members)
            horizon.conformal.update(predictive, outcomes.real_revenue)
            horizon.grade.add(outcomes)
            self._changed[horizon.slot(cohort)] = b""
            self._changed[grade_piece(horizon.days)] = horizon.encode()
            if teach and cohort.factor != TOO_EARLY:
                predicted, actual = outcomes.revenue.sum(), outcomes.real_revenue.sum()
                self.tempo.learn(float(predicted), cohort.factor, float(actual))
                self._changed[TEMPO] = self.tempo.encode()
