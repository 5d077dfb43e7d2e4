"""What was foreseen at week 39, and what came in the 39 weeks after it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Final

from valuetide.schemas.score import Score
from valuetide.streams.demo.batch import Purchase
from valuetide.streams.reader import Learned
from valuetide.streams.replay.event import SourceEvent

FREEZE: Final = date(1997, 10, 1)
"""First day that is not known: CDNOW's 546 days are parted in two halves of 39 weeks."""

AHEAD_DAYS: Final = 273
HORIZONS_DAYS: Final = (90, AHEAD_DAYS)
DECILES: Final = 10


@dataclass(frozen=True, slots=True)
class Equity:
    """What all customers together were worth.

    Attributes
    ----------
    day
        First day that was not known.
    customers
        How many there were.
    clv
        By field, the sum over all of them as of the beginning of that day.
    """

    day: date
    customers: int
    clv: dict[str, float]


@dataclass(frozen=True, slots=True)
class Decile:
    """Some customers: sums of the orders predicted for them, and of those that came."""

    customers: int
    predicted: float
    realised: int


@dataclass(frozen=True, slots=True)
class Foresight:
    """Predictions of week 39 against what happened.

    Attributes
    ----------
    learned
        What was known then, with the grades that predictions had by then.
    deciles
        Of customers, those with the fewest predicted orders first.
    """

    learned: Learned
    deciles: list[Decile]


def by_quarter(events: Iterable[SourceEvent]) -> Iterator[tuple[date, Iterator[SourceEvent]]]:
    """Part events, in event time, into calendar quarters; gives the first day after each.

    Examples
    --------
    >>> may, june, july = (SourceEvent("ann", 86_400.0 * day, b"") for day in (120, 180, 181))
    >>> [(str(end), len(list(part))) for end, part in by_quarter([may, june, july])]
    [('1970-07-01', 2), ('1970-10-01', 1)]
    """
    yield from groupby(events, key=lambda event: _quarter_end(event.occurred_at))


def _quarter_end(at_seconds: float) -> date:
    day = datetime.fromtimestamp(at_seconds, UTC)
    months = day.year * 12 + (day.month - 1) // 3 * 3 + 3
    return date(months // 12, months % 12 + 1, 1)


def beginning_ms(day: date) -> int:
    """Give the first moment of a UTC day, ms since 1970."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000


def predicted_orders(scores: Iterable[Score]) -> dict[str, float]:
    """Give the orders that scores expect of their customers."""
    name = f"expected_orders_{AHEAD_DAYS}d"
    return {score["customer_id"]: dict(score)[name] or 0.0 for score in scores}  # type: ignore[misc]


def compared(predicted: dict[str, float], customers: dict[str, list[Purchase]]) -> list[Decile]:
    """Compare predictions with what the file says; two orders on a day count as one.

    Examples
    --------
    >>> from decimal import Decimal
    >>> came = Purchase(FREEZE, Decimal(9))
    >>> compared({"ann": 1.5, "bob": 0.25}, {"ann": [came, came]})[-1]
    Decile(customers=1, predicted=1.5, realised=1)
    """
    until = FREEZE + timedelta(days=AHEAD_DAYS)
    ranked = sorted(predicted, key=lambda customer: (predicted[customer], customer))
    deciles = []
    for nth in range(DECILES):
        part = ranked[nth * len(ranked) // DECILES : (nth + 1) * len(ranked) // DECILES]
        realised = sum(
            len({one.day for one in customers.get(customer, ()) if FREEZE <= one.day < until})
            for customer in part
        )
        deciles.append(Decile(len(part), sum(predicted[customer] for customer in part), realised))
    return deciles
