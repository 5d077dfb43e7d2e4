"""From signals to alerts: significant, enduring and worth money, and each alert's life.

A change becomes an alert when its run length is the wanted one (significant), it has lasted a
number of points (enduring), the money at stake is enough (material), it is believed among the
series it is watched with, and the whole of which it is a part has none of the same direction.
Its life:

    none -> pending     significant
    pending -> none     no longer
    pending -> firing   all of the above
    firing -> recovering -> firing    the last points lie on the other side of half the shift
    recovering -> none  they did for a number of points: resolved, back to normal
    firing -> none      it has lasted so long that it is the new normal: resolved, accepted;
                        counted in points of time, whether the series had some to judge or not

From firing on until it is resolved the series is compared with what was normal before: it
learns nothing (``learns``). After its end come points of cool-down without an alert of the same
direction. A producer that stopped is an alert about data (``outage``): series that it ``stopped``
are not judged, whatever they seem to be worth.

    bytes of n series, little endian
      0  <u2 layout version, 1     2  <u2 0     4  <u4 n
      8  n records of 48 bytes
         +0  <u1 state, 0 none, 1 pending, 2 firing, 3 recovering     +1  <i1 direction
         +2  <u2 points it has been recovering               +4  <i4 direction of the cool-down
         +8  <i8 point at which the change began                     +16 <i8 point of firing
         +24 <i8 first point after the cool-down     +32  <i8 acknowledged until, or HUSHED
         +40 <f4 shift, standard deviations                   +44  <f4 mean of the last points
"""

import hashlib
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from valuetide.scoring.arrays import NO_TIME, BoolArray, FloatArray, IntArray
from valuetide.scoring.trends.detectors import LONGEST_RUN, Signal

LAYOUT: Final = 1
NO_WHOLE: Final = -1
HUSHED: Final = int(np.iinfo(np.int64).max)
"""Until when an alert is acknowledged of which nobody is to hear, whatever people acknowledge."""
_HEAD: Final = struct.Struct("<HHI")
RECORD: Final = np.dtype(
    [("state", "u1"), ("direction", "i1"), ("back", "<u2"), ("cool_direction", "<i4")]
    + [(name, "<i8") for name in ("since", "fired_at", "cool_until", "acknowledged_until")]
    + [("shift", "<f4"), ("recent", "<f4")]
)
# The mean of the last points forgets within a week of days. With three, every third shift of one
# standard deviation that stays would seem to be back to normal once within four weeks.
_RECENT_RATE: Final = 1.0 / 7.0
_SHIFT_POINTS: Final = 28


class State(IntEnum):
    """Where an alert is in its life."""

    NONE = 0
    PENDING = 1
    FIRING = 2
    RECOVERING = 3


@dataclass(frozen=True, slots=True)
class Policy:
    """What is worth an alert.

    Parameters
    ----------
    run_length
        Points between false alarms of one series: the budget.
    endure_points
        Points a change must have lasted.
    least_stake
        Money a day at stake, at least.
    share
        Of the alerts of a family of series, the expected share that is false, at most.
    patience_points
        Time over which that holds.
    most_new
        Alerts of one family that may begin to fire at one point; those with most money go first and
        the others wait.
    recover_points
        Points back at what was normal before an alert is resolved.
    accept_points
        Points after which a shift that stays is the new normal.
    cool_points
        Points after the end of an alert in which the series raises none of the same direction.
    """

    run_length: float = 90.0
    endure_points: int = 3
    least_stake: float = 0.0
    share: float = 0.1
    patience_points: float = 365.0
    most_new: int = 5
    recover_points: int = 3
    accept_points: int = 28
    cool_points: int = 7


@dataclass(frozen=True, slots=True)
class Case:
    """What is known of every series at a point, beside the detector's signal, (n,) each.

    Attributes
    ----------
    residual
        What the signal's ``before`` and ``after`` are means of: standardised residuals, or their
        squares.
    judged
        Where there was a point to judge.
    stake
        Money a day that the change is worth, if it is one; 0 or more.
    believed
        What ``evidence.believed`` says.
    family
        Number of the family, negative for none.
    whole
        Row of the series of which this one is a part, ``NO_WHOLE`` for none.
    stopped
        Where the producer has stopped.
    """

    residual: FloatArray
    judged: BoolArray
    stake: FloatArray
    believed: BoolArray
    family: IntArray
    whole: IntArray
    stopped: BoolArray


@dataclass(frozen=True, slots=True)
class Transition:
    """A step in the life of an alert.

    Attributes
    ----------
    row, direction, since
        Series, 1 or -1, and the point at which the change began.
    before, after
        States.
    reason
        "fired", "back" (recovering), "again" (firing anew), "resolved", "accepted" (the new normal)
        or "reminder" (an acknowledgement has expired while it fires).
    notify
        Whether people should hear of it: not while it is acknowledged or hushed.
    """

    row: int
    direction: int
    since: int
    before: State
    after: State
    reason: str
    notify: bool


@dataclass(slots=True)
class Decider:
    """Alerts of one rule on n series.

    Parameters
    ----------
    policy
        What is worth an alert.
    rows
        (n,) of ``RECORD``.

    Attributes
    ----------
    settled
        Parts that were accepted with their whole at the last point. No state beyond that point.
    """

    policy: Policy
    rows: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, RECORD))
    settled: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))

    def grow(self, series: int) -> None:
        """Add rows of series that begin now."""
        fresh = np.zeros(series, RECORD)
        fresh["cool_until"] = fresh["acknowledged_until"] = NO_TIME
        self.rows = np.concatenate([self.rows, fresh])

    @property
    def state(self) -> IntArray:
        """State of each series' alert, (n,)."""
        return self.rows["state"].astype(np.int64)

    @property
    def learns(self) -> BoolArray:
        """Which series may learn what is normal, (n,): those that are not under alert."""
        return self.rows["state"] < State.FIRING

    def decide(self, point: int, signal: Signal, case: Case) -> list[Transition]:
        """Take a point of every series and give the steps that alerts made, in order of rows.

        Notes
        -----
        The caller resets its detectors for the rows of every transition to none, and takes an
        accepted shift into the expectation (``rebase``); the same for the rows in ``settled``.
        """
        found = self._live(point, signal, case)
        self._open(point, signal, case)
        self._settle_parts([step.row for step in found if step.reason == "accepted"], signal, case)
        found += self._fire(point, signal, case)
        # The end of one alert and the beginning of the next stay in this order: sorting is stable.
        return sorted(found, key=lambda step: step.row)

    def acknowledge(self, row: int, until: int) -> None:
        """Tell nobody about a series' alert until a point; one that is hushed stays so to its end.

        Raises
        ------
        ValueError
            When it has none.
        """
        if self.rows["state"][row] < State.FIRING:
            raise ValueError("there is no alert to acknowledge")
        if self.rows["acknowledged_until"][row] != HUSHED:
            self.rows["acknowledged_until"][row] = until

    def hush(self, row: int) -> None:
        """Tell nobody about a series' alert that fires, to the end of its life."""
        self.rows["acknowledged_until"][row] = HUSHED

    @property
    def told(self) -> BoolArray:
        """Which series have an alert that fires and was not hushed, (n,)."""
        hushed = self.rows["acknowledged_until"] == HUSHED
        return np.asarray((self.rows["state"] >= State.FIRING) & ~hushed)

    def encode(self) -> bytes:
        """Bytes of which ``decode`` makes the same."""
        return _HEAD.pack(LAYOUT, 0, self.rows.size) + self.rows.tobytes()

    @classmethod
    def decode(cls, blob: bytes, policy: Policy) -> Self:
        """State of which these are the bytes.

        Raises
        ------
        ValueError
            Of an unknown layout version, a wrong number of bytes, or a state that is none.
        """
        if len(blob) < _HEAD.size:
            raise ValueError(f"decision: {len(blob)} bytes are less than a head")
        layout, _, series = _HEAD.unpack_from(blob)
        if layout != LAYOUT:
            raise ValueError(f"decision: layout {layout}, this release reads {LAYOUT}")
        if len(blob) != _HEAD.size + RECORD.itemsize * series:
            raise ValueError(f"decision: {len(blob)} bytes do not hold {series} series")
        rows = np.frombuffer(blob, RECORD, series, _HEAD.size).copy()
        if (rows["state"] > State.RECOVERING).any():
            raise ValueError("decision: an alert is in a state that there is not")
        return cls(policy, rows)

    def _open(self, point: int, signal: Signal, case: Case) -> None:
        """Pending where it is significant, nothing where it no longer is."""
        rows = self.rows
        quiet = rows["state"] < State.FIRING
        significant = (signal.run_length >= self.policy.run_length) & case.judged & ~case.stopped
        cool = (point < rows["cool_until"]) & (signal.direction == rows["cool_direction"])
        significant &= ~cool
        # A missing point says nothing: what is pending stays so.
        judged = quiet & (case.judged | case.stopped)
        rows["state"][judged] = np.where(significant, State.PENDING, State.NONE)[judged]
        pending = quiet & significant
        rows["direction"][pending] = signal.direction[pending]
        rows["since"][pending] = signal.since[pending]

    def _settle_parts(self, wholes: list[int], signal: Signal, case: Case) -> None:
        """What moved with a whole that is accepted is normal as well, and no news of its own."""
        rows = self.rows
        settled = np.isin(case.whole, wholes) & (rows["state"] < State.FIRING)
        way = rows["cool_direction"][np.maximum(case.whole, 0)]
        settled &= signal.direction == way
        rows["state"][settled] = State.NONE
        self.settled = np.flatnonzero(settled)

    def _fire(self, point: int, signal: Signal, case: Case) -> list[Transition]:
        policy, rows = self.policy, self.rows
        worth = (rows["state"] == State.PENDING) & case.judged & case.believed
        worth &= (signal.points >= policy.endure_points) & (case.stake >= policy.least_stake)
        # Parts wait as long as the whole has a change of the same direction, be it only pending.
        whole = np.maximum(case.whole, 0)
        moved = (rows["state"][whole] > State.NONE) & (case.whole >= 0)
        worth &= ~(moved & (rows["direction"][whole] == rows["direction"]))
        fired = np.flatnonzero(worth)
        fired = fired[np.lexsort((fired, -case.stake[fired]))]
        taken: dict[int, int] = {}
        found = []
        for row in fired.tolist():
            family = int(case.family[row])
            if family >= 0:
                taken[family] = taken.get(family, 0) + 1
                if taken[family] > policy.most_new:
                    continue
            rows["shift"][row] = rows["recent"][row] = signal.after[row] - signal.before[row]
            rows["state"][row], rows["fired_at"][row] = State.FIRING, point
            rows["back"][row] = 0
            rows["acknowledged_until"][row] = NO_TIME
            found.append(self._step(row, State.PENDING, "fired", notify=True))
        return found

    def _live(self, point: int, signal: Signal, case: Case) -> list[Transition]:
        """What became of the alerts that fire."""
        rows, policy = self.rows, self.policy
        under_alert = rows["state"] >= State.FIRING
        seen = case.judged & ~case.stopped
        # One whose series has no points any more does not stay for ever.
        unseen = np.flatnonzero(under_alert & ~seen)
        old = unseen[point - rows["fired_at"][unseen] >= policy.accept_points]
        found = [self._end(row, point, "accepted") for row in old.tolist()]
        alive = np.flatnonzero(under_alert & seen)
        recent, shift = rows["recent"][alive], rows["shift"][alive]
        recent += _RECENT_RATE * (case.residual[alive] - recent)
        rows["recent"][alive] = recent
        # The size at firing is too large on average, for what seems large fires first; so it is
        # corrected, but slowly beside the recent points that are compared with it.
        lasted = np.maximum(point - rows["since"][alive] + 1, _SHIFT_POINTS)
        shift += (case.residual[alive] - shift) / lasted
        rows["shift"][alive] = shift
        way = np.sign(shift)
        back = recent * way < np.abs(shift) / 2.0
        # A change to the other side of normal is the end of this alert, and may begin another.
        turned = (signal.run_length[alive] >= policy.run_length) & (signal.after[alive] * way < 0.0)
        turned &= (signal.direction[alive] * way < 0.0) & back
        rows["back"][alive] = np.where(back, rows["back"][alive] + 1, 0)
        for row, returned, over in zip(alive.tolist(), back.tolist(), turned.tolist(), strict=True):
            before = State(int(rows["state"][row]))
            acknowledged = int(rows["acknowledged_until"][row])
            notify = point >= acknowledged
            if over or (returned and rows["back"][row] >= policy.recover_points):
                found.append(self._end(row, point, "resolved"))
            elif point - rows["fired_at"][row] >= policy.accept_points:
                found.append(self._end(row, point, "accepted"))
            elif returned and before == State.FIRING:
                rows["state"][row] = State.RECOVERING
                found.append(self._step(row, before, "back", notify=False))
            elif not returned and before == State.RECOVERING:
                rows["state"][row] = State.FIRING
                found.append(self._step(row, before, "again", notify=False))
            elif acknowledged != NO_TIME and notify:
                rows["acknowledged_until"][row] = NO_TIME
                found.append(self._step(row, before, "reminder", notify=True))
        return found

    def _end(self, row: int, point: int, reason: str) -> Transition:
        before = State(int(self.rows["state"][row]))
        notify = point >= int(self.rows["acknowledged_until"][row])
        self.rows["state"][row] = State.NONE
        self.rows["cool_until"][row] = point + self.policy.cool_points
        self.rows["cool_direction"][row] = self.rows["direction"][row]
        self.rows["acknowledged_until"][row] = NO_TIME
        return self._step(row, before, reason, notify=notify)

    def _step(self, row: int, before: State, reason: str, *, notify: bool) -> Transition:
        rows = self.rows
        return Transition(
            row, int(rows["direction"][row]), int(rows["since"][row]), before,
            State(int(rows["state"][row])), reason, notify,
        )  # fmt: skip


def fingerprint(rule: str, series: str, direction: int) -> str:
    """Name of an alert, the same whenever this rule finds this series going this way.

    Examples
    --------
    >>> fingerprint("level", "revenue", -1) == fingerprint("level", "revenue", 1)
    False
    >>> len(fingerprint("level", "revenue", -1))
    16
    """
    text = "\x1f".join((rule, series, "down" if direction < 0 else "up"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def silent(events: FloatArray, expected: FloatArray, chance: float = 1e-6) -> BoolArray:
    """Where a producer has stopped: no event at all, where so few would come by chance.

    Parameters
    ----------
    events
        Events in the bucket, (n,).
    expected
        How many were expected, (n,).
    chance
        Of none at all, at most, if they come independently (Poisson).

    Examples
    --------
    >>> silent(np.array([0.0, 0.0, 1.0]), np.array([5.0, 50.0, 50.0])).tolist()
    [False, True, False]
    """
    return np.asarray((events == 0.0) & (expected >= -np.log(chance)))


def outage(point: int, stopped_points: IntArray) -> tuple[Signal, FloatArray]:
    """Signals and residuals of the rule about data, of which shift is -1 while nothing comes.

    Parameters
    ----------
    point
        Number of the bucket.
    stopped_points
        For how many points each producer has been silent, (n,); 0 when it is not.

    Notes
    -----
    One point with events ends an outage, whereas a series must come back for longer than noise
    might: the residual then is so large that the mean of the last points is past half the shift.

    Examples
    --------
    >>> signal, residual = outage(100, np.array([0, 2]))
    >>> signal.since.tolist(), signal.direction.tolist(), residual.tolist()
    ([101, 99], [1, -1], [4.0, -1.0])
    """
    stopped = stopped_points > 0
    length = np.where(stopped, LONGEST_RUN, 1.0)
    since = point - stopped_points + 1
    after = np.where(stopped, -1.0, 0.0)
    signal = Signal(length, since, stopped_points, np.zeros(after.size), after)
    return signal, np.where(stopped, -1.0, _COMES_AGAIN)


_COMES_AGAIN: Final = 4.0
