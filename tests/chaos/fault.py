"""What a fault is: it injects itself, proves it, and says when it was over."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.chaos.stage import Stage

Family = Literal["worker", "broker", "Redis", "network"]


class NotInjectedError(Exception):
    """The fault did not happen, so it proves nothing."""


@dataclass(frozen=True)
class Injected:
    """A fault that has happened.

    Attributes
    ----------
    at, over
        When it began and when, as far as we have a hand in it, it was over: recovery counts from
        there.
    evidence
        What shows that it happened.
    by_standstill
        Recovery is the longest standstill of a partition since ``at`` rather than the time until
        all have gone on, for faults that stop nothing at once.
    noticed
        Whether recovery since the first JoinGroup is of interest.
    """

    at: float
    over: float
    evidence: str
    by_standstill: bool = False
    noticed: bool = False


@dataclass(frozen=True)
class Fault:
    """A class of faults."""

    name: str
    family: Family
    inject: Callable[[Stage], Injected]
    kinds: tuple[str, ...] = ("embedded", "apache")
