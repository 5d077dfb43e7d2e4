"""Producers that have stopped: hours without an event where events are expected.

What to expect of an hour is what the same hour of the last four weeks had. An hour is silent where
there was no event at all, though by the second lowest of those four that would be a rare chance.
The second lowest, since the number of events of a real shop varies by more than chance, and a
holiday in one of the weeks must not hide an outage. In a shop with few events an hour, hours
without any are taken together: what was due since the first of them makes the chance rare. A smooth
season of waves was tried: it cannot follow opening hours, and took the hour after closing for an
outage.

    bytes, little endian
      0  <u2 layout version, 1    2  <u2 roles, 3    4  <u2 weeks, 4    6  <u2 hours kept, 48
      8  3 <i8 silent hours in a row
     32  3 <i8 hours without an event, in a row, from the first in which one was due
     56  3 <i8 events that were due in them
     80  3 x 48 <i8 the last silent hours, hour h at h mod 48, the least int64 for none
   1232  3 x 168 x 4 <i4 events of each hour of a week, by week mod 4, -1 for not known
   9296  decisions, in the layout that ``decision`` draws
"""

import struct
from typing import Final, Self

import numpy as np

from valuetide.scoring.arrays import NO_TIME, BoolArray, FloatArray, IntArray
from valuetide.scoring.series import ROLES
from valuetide.scoring.trends.decision import (
    NO_WHOLE,
    Case,
    Decider,
    Policy,
    State,
    Transition,
    outage,
    silent,
)

LAYOUT: Final = 2
_HEAD: Final = struct.Struct("<HHHH")
_KEPT: Final = 48
_WEEKS: Final = 4
_LEAST_WEEKS: Final = 2
HOURS_A_WEEK: Final = 168
# A producer that is gone for two weeks is taken for switched off.
_ACCEPT_HOURS: Final = 2 * HOURS_A_WEEK


class Producers:
    """Watches the number of events an hour of each input.

    Parameters
    ----------
    outage_hours
        Silent hours before it is an alert.

    Attributes
    ----------
    expected
        Events that were expected in the hour last observed, by role, (3,).
    """

    def __init__(self, outage_hours: int) -> None:
        policy = Policy(
            endure_points=outage_hours, recover_points=1, accept_points=_ACCEPT_HOURS, cool_points=1
        )
        self.decider = Decider(policy)
        self.decider.grow(len(ROLES))
        self.expected: FloatArray = np.zeros(len(ROLES))
        self._run: IntArray = np.zeros(len(ROLES), np.int64)
        self._empty: IntArray = np.zeros(len(ROLES), np.int64)
        self._due: IntArray = np.zeros(len(ROLES), np.int64)
        self._silent: IntArray = np.full((len(ROLES), _KEPT), NO_TIME)
        self._profile: IntArray = np.full((len(ROLES), HOURS_A_WEEK, _WEEKS), -1)

    def observe(self, hour: int, events: IntArray, *, judge: bool = True) -> list[Transition]:
        """Take the number of events of an hour and give the steps that alerts made.

        Parameters
        ----------
        hour
            Since 1970.
        events
            By role, (3,).
        judge
            Whether silence counts: not on a holiday.
        """
        week, of_week = divmod(hour, HOURS_A_WEEK)
        past = self._profile[:, of_week]
        known = np.count_nonzero(past >= 0, axis=1)
        self.expected = np.where(past >= 0, past, 0).sum(axis=1) / np.maximum(known, 1)
        # Of fewer than four weeks the lowest; one that is not known sorts first.
        low = np.sort(past, axis=1)[np.arange(len(ROLES)), np.clip(_WEEKS - known, 1, _WEEKS - 1)]
        judged: BoolArray = (known >= _LEAST_WEEKS) & judge
        quiet = events == 0
        self._due = np.where(quiet, self._due + np.where(judged, low, 0), 0)
        self._empty = np.where(self._due > 0, self._empty + 1, 0)
        # A night within an outage is no sign that events come again.
        waits = (self._run > 0) & quiet
        gone = waits | (judged & silent(events.astype(np.float64), self._due.astype(np.float64)))
        # It began with the first hour that had none.
        self._run = np.where(gone, self._empty, 0)
        for role in np.flatnonzero(gone).tolist():
            hours = np.arange(hour - min(int(self._run[role]), _KEPT) + 1, hour + 1)
            self._silent[role, hours % _KEPT] = hours
        # What is normal is not learned from an outage.
        self._profile[~gone, of_week, week % _WEEKS] = np.minimum(events, _MOST)[~gone]
        signal, residual = outage(hour, self._run)
        none = np.zeros(len(ROLES), np.bool_)
        case = Case(
            residual, ~none, np.zeros(len(ROLES)), ~none,
            np.full(len(ROLES), -1), np.full(len(ROLES), NO_WHOLE), none,
        )  # fmt: skip
        steps = self.decider.decide(hour, signal, case)
        off = [step.row for step in steps if step.reason == "accepted"]
        self._profile[off], self._run[off], self._empty[off], self._due[off] = -1, 0, 0, 0
        return steps

    def silent_hours(self, first: int, last: int) -> IntArray:
        """Silent hours from one to another, both counted, at most 48 ago, by role, (3,)."""
        there = (self._silent >= first) & (self._silent <= last)
        return np.asarray(np.count_nonzero(there, axis=1))

    @property
    def firing(self) -> list[int]:
        """Roles whose alert goes on, by number."""
        return [int(row) for row in np.flatnonzero(self.decider.state >= State.FIRING)]

    def encode(self) -> bytes:
        """Bytes of which ``decode`` makes the same."""
        head = _HEAD.pack(LAYOUT, len(ROLES), _WEEKS, _KEPT)
        numbers = [self._run, self._empty, self._due, self._silent]
        arrays = [*(one.astype("<i8") for one in numbers), self._profile.astype("<i4")]
        return b"".join([head, *(one.tobytes() for one in arrays), self.decider.encode()])

    @classmethod
    def decode(cls, blob: bytes, outage_hours: int) -> Self:
        """State of which these are the bytes.

        Raises
        ------
        ValueError
            Of an unknown layout version, a wrong number of bytes, or a part that cannot be read.
        """
        if len(blob) < _HEAD.size:
            raise ValueError(f"silence: {len(blob)} bytes are less than a head")
        if _HEAD.unpack_from(blob) != (LAYOUT, len(ROLES), _WEEKS, _KEPT):
            raise ValueError(f"silence: not the layout that this release reads, {LAYOUT}")
        state = cls(outage_hours)
        numbers = len(ROLES) * (3 + _KEPT)
        counts = len(ROLES) * HOURS_A_WEEK * _WEEKS
        at = _HEAD.size + 8 * numbers
        end = at + 4 * counts
        if len(blob) < end:
            raise ValueError("silence: truncated")
        read = np.frombuffer(blob, "<i8", numbers, _HEAD.size).astype(np.int64)
        state._run, state._empty, state._due = read[: 3 * len(ROLES)].reshape(3, -1)
        state._silent = read[3 * len(ROLES) :].reshape(-1, _KEPT)
        profile = np.frombuffer(blob, "<i4", counts, at).astype(np.int64)
        state._profile = profile.reshape(state._profile.shape)
        state.decider = Decider.decode(blob[end:], state.decider.policy)
        if state.decider.rows.size != len(ROLES):
            raise ValueError("silence: decisions about another number of roles")
        return state


_MOST: Final = 2**31 - 1
