"""What the scores must be: a plain batch program over the same file, for checking only.

It shares nothing with the engine but the definition of the fields: it reads the file itself, goes
through it customer by customer with dictionaries and decimals, and knows neither Kafka nor numpy.
"""

import gzip
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from valuetide.schemas.score import Score
from valuetide.schemas.vocabulary import RfmBands

EXACT = (
    "version",
    "orders",
    "revenue",
    "refunds",
    "margin",
    "cost_to_serve",
    "profit",
    "first_order_at",
    "last_order_at",
    "frequency",
    "rfm",
)
ROUNDED = {"decayed_value": 1e-4, "recency_days": 1e-5, "monetary_value": 1e-4}
"""Fields that are rounded when they are written, with the unit they are rounded to."""


@dataclass(frozen=True, slots=True)
class Purchase:
    """One line of the file."""

    day: date
    amount: Decimal


def read_cdnow(path: Path) -> dict[str, list[Purchase]]:
    """Read ``CDNOW_master.txt``, compressed or not: customer to purchases."""
    customers: dict[str, list[Purchase]] = defaultdict(list)
    for line in _lines(path):
        customer, day, _, dollars = line.split()
        when = date(int(day[:4]), int(day[4:6]), int(day[6:]))
        customers[customer].append(Purchase(when, Decimal(dollars)))
    return dict(customers)


def batch_score(
    customer: str,
    purchases: list[Purchase],
    as_of: datetime,
    bands: RfmBands,
    half_life_days: float,
) -> dict[str, Any]:
    """Compute one customer's current value from all its purchases."""
    by_day: dict[date, Decimal] = defaultdict(Decimal)
    for purchase in purchases:
        by_day[purchase.day] += purchase.amount
    days = sorted(by_day)
    revenue = sum(by_day.values(), Decimal())
    repeats = [by_day[day] for day in days[1:]]
    ages = [(as_of - _midnight(p.day)) / timedelta(days=1) for p in purchases]
    decayed = sum(
        float(p.amount) * 0.5 ** (age / half_life_days)
        for p, age in zip(purchases, ages, strict=True)
    )
    recency = (as_of - _midnight(days[-1])) / timedelta(days=1)
    digits = (
        5 - sum(recency > bound for bound in bands.recency_days),
        1 + sum(len(purchases) >= bound for bound in bands.orders),
        1 + sum(float(revenue) >= bound for bound in bands.revenue),
    )
    return {
        "customer_id": customer,
        "version": len(purchases),
        "orders": len(purchases),
        "revenue": float(revenue),
        "refunds": 0.0,
        "margin": float(revenue),
        "cost_to_serve": 0.0,
        "profit": float(revenue),
        "decayed_value": decayed,
        "first_order_at": _rfc3339(days[0]),
        "last_order_at": _rfc3339(days[-1]),
        "recency_days": recency,
        "frequency": len(days) - 1,
        "monetary_value": float(sum(repeats)) / len(repeats) if repeats else None,
        "rfm": "".join(map(str, digits)),
    }


def differences(score: Score, expected: dict[str, Any]) -> list[str]:
    """Name the fields in which a score is not what it must be."""
    found: dict[str, Any] = dict(score)
    wrong = [name for name in EXACT if found[name] != expected[name]]
    for name, unit in ROUNDED.items():
        got, wanted = found[name], expected[name]
        if got is None or wanted is None:
            if got is not wanted:
                wrong.append(name)
        elif abs(got - wanted) > unit * 0.5 + 1e-9 * abs(wanted):
            wrong.append(name)
    return wrong


def months(customers: dict[str, list[Purchase]]) -> dict[str, tuple[int, Decimal]]:
    """Sum purchases by calendar month: number and revenue."""
    sums: dict[str, tuple[int, Decimal]] = {}
    for purchases in customers.values():
        for purchase in purchases:
            month = purchase.day.strftime("%Y-%m")
            count, revenue = sums.get(month, (0, Decimal()))
            sums[month] = (count + 1, revenue + purchase.amount)
    return dict(sorted(sums.items()))


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _rfc3339(day: date) -> str:
    return f"{day.isoformat()}T00:00:00.000Z"


def _lines(path: Path) -> list[str]:
    raw = path.read_bytes()
    text = gzip.decompress(raw) if path.suffix == ".gz" else raw
    return text.decode("ascii").splitlines()[1:]  # without the column names
