"""The whole way from points to alerts, for series that share a model, a calendar and a policy.

Two rules watch each series: its level, and how much it varies. They share the budget of false
alarms, seven parts to one, since a shift of the level is what people ask for; two parts are kept
for what no model of the noise knows. A shift looks like more variance too, and noise like a shift,
so an alert is of the rule with the stronger signal. Only series that are watched for themselves,
not as one of a family, are watched for noise.

    bytes, little endian
      0  <u2 layout version, 1     2  <u2 0     4  6 <u4 lengths of the parts
     28  expectation, FOCuS of the mean, FOCuS of the variance, evidence, decisions about the level,
         decisions about the variance; each in the layout that its module draws
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, Literal, Self

import numpy as np

from valuetide.scoring.arrays import BoolArray, FloatArray, IntArray
from valuetide.scoring.trends.calendar import Calendar
from valuetide.scoring.trends.decision import Case, Decider, Policy, State, Transition
from valuetide.scoring.trends.detectors import VARIANCE_LEAST_POINTS, FocusDetector, Signal
from valuetide.scoring.trends.evidence import Evidence, believed
from valuetide.scoring.trends.expectation import Expectation, Model, Points
from valuetide.scoring.trends.explanation import at_stake

LAYOUT: Final = 1
_HEAD: Final = struct.Struct("<HH6I")
# Shares of the budget of false alarms. They do not add up to one: over real noise, resampled,
# alerts come more often than over simulated noise (docs/alerts.md).
LEVEL_SHARE: Final = 0.7
VARIANCE_SHARE: Final = 0.1

Rule = Literal["level", "variance"]


@dataclass(frozen=True, slots=True)
class Roster:
    """Who the series are, (n,) each.

    Attributes
    ----------
    worth
        Money a day for one unit of the metric.
    family
        Number of the family that shares a budget of false alerts, negative for none.
    whole
        Row of the series of which it is a part, ``decision.NO_WHOLE`` for none.
    """

    worth: FloatArray
    family: IntArray
    whole: IntArray


@dataclass(frozen=True, slots=True)
class Step:
    """A transition of an alert with what is needed to explain it.

    Attributes
    ----------
    rule
        Which rule made it.
    transition
        The step itself.
    run_length
        Points between two times that a series without change shows as much.
    stake
        Money a day.
    """

    rule: Rule
    transition: Transition
    run_length: float
    stake: float


class Watch:
    """Points of n series in, steps of alerts out.

    Parameters
    ----------
    model, calendar, policy
        How the series move, what the calendar says, what is worth an alert.
    series
        Number of rows.
    """

    def __init__(self, model: Model, calendar: Calendar, policy: Policy, series: int = 0) -> None:
        self.expectation = Expectation(model, calendar)
        self.mean, self.variance = FocusDetector(0, "mean"), FocusDetector(0, "variance")
        self.evidence = Evidence()
        self.level, self.spread = _deciders(policy)
        self.policy = policy
        self.grow(series)

    def grow(self, series: int) -> None:
        """Add rows of series that begin now."""
        for part in (
            self.expectation, self.mean, self.variance, self.evidence, self.level, self.spread,
        ):  # fmt: skip
            part.grow(series)

    def observe(
        self,
        point: int,
        value: FloatArray,
        present: BoolArray,
        roster: Roster,
        stopped: BoolArray | None = None,
    ) -> tuple[Points, list[Step]]:
        """Take a closed bucket of every series.

        Parameters
        ----------
        point
            Number of the bucket since 1970.
        value
            The metric, (n,).
        present
            Where there is a point, (n,).
        roster
            Who the series are.
        stopped
            Where the producer has stopped, (n,): what comes then is no point.

        Returns
        -------
        Each point beside what was expected, and the steps that alerts made.
        """
        if stopped is None:
            stopped = np.zeros(value.size, np.bool_)
        learns = self.level.learns & self.spread.learns
        points = self.expectation.observe(point, value, present & ~stopped, learns)
        kurtosis = self.expectation.kurtosis
        mean = self.mean.observe(point, points.residual, points.judged, kurtosis)
        variance = self.variance.observe(point, points.residual, points.judged, kurtosis)
        evidence = self.evidence.observe(points.residual, points.judged)
        chosen = believed(evidence, roster.family, self.policy.share, self.policy.patience_points)
        chosen &= mean.run_length >= variance.run_length
        shift = self.expectation.level_of(mean.after - mean.before)
        stake = at_stake(self.expectation.model, points.expected, shift, roster.worth)
        case = Case(
            points.residual, points.judged, stake, chosen, roster.family, roster.whole, stopped
        )
        steps = self._steps("level", self.level, point, mean, case)
        swing = points.spread * (np.sqrt(np.maximum(variance.after, 0.0)) - 1.0)
        stake = at_stake(self.expectation.model, points.expected, swing, roster.worth)
        # More noise is news, less is not; nor is it while the level has an alert, or had one before
        # this point, whose residuals are still in the variance.
        news = learns & (self.level.state == State.NONE) & (variance.direction > 0)
        # The evidence that a family is judged by is of the level.
        news &= roster.family < 0
        case = replace(case, residual=points.residual**2, stake=stake, believed=news)
        steps += self._steps("variance", self.spread, point, variance, case)
        return points, steps

    def encode(self) -> bytes:
        """Bytes of which ``decode`` makes the same."""
        parts = [
            part.encode()
            for part in (
                self.expectation, self.mean, self.variance, self.evidence, self.level, self.spread,
            )
        ]  # fmt: skip
        return _HEAD.pack(LAYOUT, 0, *map(len, parts)) + b"".join(parts)

    @classmethod
    def decode(cls, blob: bytes, model: Model, calendar: Calendar, policy: Policy) -> Self:
        """State of which these are the bytes.

        Raises
        ------
        ValueError
            Of an unknown layout version, a wrong number of bytes, or a part that cannot be read.
        """
        if len(blob) < _HEAD.size:
            raise ValueError(f"watch: {len(blob)} bytes are less than a head")
        layout, _, *sizes = _HEAD.unpack_from(blob)
        if layout != LAYOUT:
            raise ValueError(f"watch: layout {layout}, this release reads {LAYOUT}")
        if len(blob) != _HEAD.size + sum(sizes):
            raise ValueError(f"watch: {len(blob)} bytes do not hold its parts")
        ends = np.cumsum([_HEAD.size, *sizes]).tolist()
        parts = [blob[a:b] for a, b in pairwise(ends)]
        state = cls(model, calendar, policy)
        state.expectation = Expectation.decode(parts[0], model, calendar)
        state.mean, state.variance = map(FocusDetector.decode, parts[1:3])
        state.evidence = Evidence.decode(parts[3])
        state.level = Decider.decode(parts[4], state.level.policy)
        state.spread = Decider.decode(parts[5], state.spread.policy)
        return state

    def _steps(
        self, rule: Rule, decider: Decider, point: int, signal: Signal, case: Case
    ) -> list[Step]:
        found = decider.decide(point, signal, case)
        # Parts of a family are not watched for their noise.
        settled = decider.settled.tolist() if rule == "level" else []
        accepted = [step.row for step in found if step.reason == "accepted"]
        self._accept(rule, decider, [*accepted, *settled])
        over = [step.row for step in found if step.after == State.NONE]
        ended = np.array([*over, *settled], np.int64)
        if ended.size:
            for part in (self.mean, self.variance, self.evidence):
                part.reset(ended)
        return [
            Step(rule, step, float(signal.run_length[step.row]), float(case.stake[step.row]))
            for step in found
        ]

    def _accept(self, rule: Rule, decider: Decider, who: Sequence[int]) -> None:
        rows = np.array(who, np.int64)
        if not rows.size:
            return
        if rule == "variance":
            factor = np.maximum(1.0 + decider.rows["shift"][rows], _LEAST_FACTOR)
            self.expectation.rescale(rows, factor)
        else:
            self.expectation.rebase(rows)


# No variance is taken to have fallen further than to this share.
_LEAST_FACTOR: Final = 0.05


def _deciders(policy: Policy) -> tuple[Decider, Decider]:
    level = replace(policy, run_length=policy.run_length / LEVEL_SHARE)
    # Squares vary more than what they are of, so it takes longer to see that they are back.
    spread = replace(
        policy,
        run_length=policy.run_length / VARIANCE_SHARE,
        recover_points=max(policy.recover_points, VARIANCE_LEAST_POINTS),
    )
    return Decider(level), Decider(spread)
