"""What an alert says: since when, from what to what, what is at stake, how sure, and why.

Adtributor (Bhagwan et al. 2014) finds the segments. Of each dimension (channel, tier, need) it
compares what each element brought with what it was expected to bring. An element's explanatory
power is its share of the change of the whole; its surprise is how much its share of the whole
changed (Jensen-Shannon). Within a dimension the elements with most surprise are taken until they
explain enough; of the dimensions, the one with most surprise is the answer. A ratio, such as the
mean order value, has two measures: its explanatory power comes from the partial differences of the
quotient, its surprise from both.

References
----------
Bhagwan, R. et al. (2014) Adtributor: revenue debugging in advertising systems. NSDI 14,
sections 4.2 (additive) and 4.3 (derived measures).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np

from valuetide.scoring.arrays import FloatArray
from valuetide.scoring.trends.expectation import Model

# An element that explains less than this share of a change is no part of the answer, and one set of
# elements is enough when it explains this much together (the paper's T_EEP and T_EP).
LEAST_POWER: Final = 0.1
ENOUGH_POWER: Final = 0.67
MOST_CAUSES: Final = 3
_DAYS_A_YEAR: Final = 365.25


@dataclass(frozen=True, slots=True)
class Measure:
    """What elements brought since the change, and were expected to, (m,) each."""

    expected: FloatArray
    actual: FloatArray


@dataclass(frozen=True, slots=True)
class Dimension:
    """A way to cut the whole into parts.

    Parameters
    ----------
    name
        Such as "channel".
    elements
        Names of the parts.
    value
        What they brought: the measure itself, or of a ratio what is above the line.
    per
        Of a ratio, what is below the line.
    """

    name: str
    elements: Sequence[str]
    value: Measure
    per: Measure | None = None


@dataclass(frozen=True, slots=True)
class Cause:
    """A segment that explains a change.

    Attributes
    ----------
    dimension, element
        Which.
    power
        Share of the change of the whole that it explains; shares of a dimension sum to 1, and one
        that went the other way has a negative one.
    surprise
        How much its share of the whole changed, nats.
    expected, actual
        What was expected of it and what came; of a ratio, the quotient.
    """

    dimension: str
    element: str
    power: float
    surprise: float
    expected: float
    actual: float


def powers(dimension: Dimension) -> FloatArray:
    """Explanatory power of each element, (m,); they sum to 1, or are all 0 without a change.

    Examples
    --------
    >>> value = Measure(np.array([60.0, 40.0]), np.array([50.0, 30.0]))
    >>> powers(Dimension("channel", ["web", "app"], value)).tolist()
    [0.5, 0.5]
    """
    value, per = dimension.value, dimension.per
    change = value.actual - value.expected
    if per is not None:
        # Each element alone takes its actual values (the paper's equation for derived measures).
        above, below = value.expected.sum(), per.expected.sum()
        moved = per.actual - per.expected
        under = below * (below + moved)
        safe = np.where(under == 0.0, 1.0, under)
        change = np.where(under == 0.0, 0.0, (change * below - moved * above) / safe)
    total = change.sum()
    if abs(total) <= _NOTHING * np.abs(change).sum():
        return np.zeros(change.size)
    return np.asarray(change / total)


_NOTHING: Final = 1e-12


def surprises(dimension: Dimension) -> FloatArray:
    """Surprise of each element, (m,), 0 and more, nats.

    Examples
    --------
    >>> value = Measure(np.array([60.0, 40.0]), np.array([30.0, 20.0]))
    >>> surprises(Dimension("channel", ["web", "app"], value)).tolist()
    [0.0, 0.0]
    """
    found = _surprises(dimension.value)
    return found if dimension.per is None else found + _surprises(dimension.per)


def _surprises(measure: Measure) -> FloatArray:
    # In single precision _TINY would be 0.
    p, q = (np.maximum(x, 0.0, dtype=np.float64) for x in (measure.expected, measure.actual))
    p, q = p / max(p.sum(), _TINY), q / max(q.sum(), _TINY)
    middle = np.maximum((p + q) / 2.0, _TINY)
    parts = [np.where(x > 0.0, x * np.log(np.maximum(x, _TINY) / middle), 0.0) for x in (p, q)]
    return np.asarray(np.maximum((parts[0] + parts[1]) / 2.0, 0.0))


_TINY: Final = 1e-300


def causes(dimensions: Sequence[Dimension]) -> list[Cause]:
    """Segments that explain a change, the dimension with most surprise first.

    Returns
    -------
    Up to three elements a dimension, those that explain most first; none where no set of them
    explains enough.

    Examples
    --------
    >>> value = Measure(np.array([50.0, 30.0, 20.0]), np.array([50.0, 10.0, 20.0]))
    >>> found = causes([Dimension("channel", ["web", "email", "app"], value)])
    >>> [(cause.element, cause.power) for cause in found]
    [('email', 1.0)]
    """
    answers = []
    for dimension in dimensions:
        power, surprise = powers(dimension), surprises(dimension)
        chosen: list[int] = []
        for one in np.argsort(-surprise, kind="stable").tolist():
            if power[one] > LEAST_POWER and len(chosen) < MOST_CAUSES:
                chosen.append(one)
            if power[chosen].sum() > ENOUGH_POWER:
                break
        if chosen and power[chosen].sum() > ENOUGH_POWER:
            chosen.sort(key=lambda one: -power[one])
            answers.append((surprise[chosen].sum(), [_cause(dimension, one) for one in chosen]))
    answers.sort(key=lambda answer: -answer[0])
    return [cause for _, found in answers for cause in found]


def _cause(dimension: Dimension, one: int) -> Cause:
    value, per = dimension.value, dimension.per
    expected, actual = float(value.expected[one]), float(value.actual[one])
    if per is not None:
        expected /= float(per.expected[one]) or 1.0
        actual /= float(per.actual[one]) or 1.0
    power, surprise = float(powers(dimension)[one]), float(surprises(dimension)[one])
    return Cause(dimension.name, dimension.elements[one], power, surprise, expected, actual)


def at_stake(
    model: Model, expected: FloatArray, shift: FloatArray, worth: FloatArray
) -> FloatArray:
    """Money a day that a shift is worth, (n,), 0 and more.

    Parameters
    ----------
    model
        Of the metric.
    expected
        The metric's expected value, (n,).
    shift
        Of its level, on the model's scale, (n,): ``Expectation.level_of`` of the signal.
    worth
        Money a day for one unit of the metric, (n,): 1 for daily revenue, the mean order value for
        daily orders, 24 times that for hourly ones.

    Examples
    --------
    >>> at_stake(Model(pad=0.0), np.array([1000.0]), np.log([0.8]), np.ones(1)).round(6).tolist()
    [200.0]
    """
    shifted = model.backward(model.forward(expected) + shift)
    return np.asarray(np.abs(shifted - expected) * worth)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What there is to say of an alert, and that in one sentence.

    Parameters
    ----------
    metric
        Its name, such as "revenue".
    segment
        Of whom, such as "channel email"; empty for all customers.
    since
        When the change began, by estimate.
    expected, actual
        Mean of the points since then: what was expected and what came.
    unit
        Of the metric, such as "EUR"; empty for a plain number.
    stake_per_day
        Money a day, 0 and more.
    currency
        Of it.
    run_length_days
        How rarely a series without change shows as much: once in so many days.
    causes
        What explains it, first things first.
    """

    metric: str
    segment: str
    since: datetime
    expected: float
    actual: float
    unit: str
    stake_per_day: float
    currency: str
    run_length_days: float
    causes: Sequence[Cause] = ()

    @property
    def change_share(self) -> float:
        """Change as a share of what was expected; 0 where nothing was."""
        return (self.actual - self.expected) / self.expected if self.expected else 0.0

    def ending(self) -> str:
        """What it was, in one sentence, when it is over."""
        whose = f" of {self.segment}" if self.segment else ""
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"{self.metric[:1].upper()}{self.metric[1:]}{whose} was {_number(self.actual)} instead "
            f"of {_number(self.expected)}{unit} on average since {self.since:%Y-%m-%d}."
        )

    def sentence(self) -> str:
        """All of it in one sentence."""
        way = "down" if self.actual < self.expected else "up"
        share = f" {abs(self.change_share) * 100:.0f} %" if self.expected else ""
        whose = f" of {self.segment}" if self.segment else ""
        unit = f" {self.unit}" if self.unit else ""
        text = (
            f"{self.metric[:1].upper()}{self.metric[1:]}{whose} is {way}{share} since "
            f"{self.since:%Y-%m-%d}: {_number(self.actual)} instead of "
            f"{_number(self.expected)}{unit}"
        )
        if self.stake_per_day:
            text += f", {_number(self.stake_per_day)} {self.currency} a day at stake"
        text += f"; by chance this happens once in {_span(self.run_length_days)}"
        if not self.causes:
            return text + ("." if self.segment else ", and no single segment explains it.")
        first = self.causes[0]
        others = [cause for cause in self.causes[1:] if cause.dimension == first.dimension]
        named = " and ".join(cause.element for cause in [first, *others])
        power = sum(cause.power for cause in [first, *others])
        explain = "explain" if others else "explains"
        part = f"{power * 100:.0f} % of it" if power < _ALL else "all of it"
        # More than all: the rest went the other way, and a share would mean nothing to anybody.
        against = ", against the others" if power > _MORE else ""
        return f"{text}, and {first.dimension} {named} {explain} {part}{against}."


def _number(value: float) -> str:
    """Three significant digits at least, thousands apart.

    Examples
    --------
    >>> _number(12345.6), _number(3.14159), _number(0.0)
    ('12,346', '3.14', '0')
    """
    return f"{value:,.0f}" if abs(value) >= _WHOLE or value == 0.0 else f"{value:.3g}"


_WHOLE: Final = 100.0
_ALL: Final = 0.995
_MORE: Final = 1.1


def _span(days: float) -> str:
    """A time that is easy to grasp.

    Examples
    --------
    >>> _span(95.0), _span(4000.0), _span(1e9)
    ('95 days', '11 years', 'more than 1,000 years')
    """
    years = days / _DAYS_A_YEAR
    if years < 2.0:  # noqa: PLR2004 - "1 years" reads badly
        return f"{days:.0f} days"
    return f"{years:.0f} years" if years < 1_000.0 else "more than 1,000 years"  # noqa: PLR2004
