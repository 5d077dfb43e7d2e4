"""From computed values to what goes out: rows for Redis and JSON for the ``scores`` topic."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from valuetide.schemas.score import Score
from valuetide.scoring.arrays import NO_TIME
from valuetide.scoring.current_value import CurrentValue

COLUMNS = tuple(name for name in Score.__annotations__ if name != "customer_id")
"""Score fields in the order of a row; the customer's id is in the key."""

TOTALS = ("orders", "revenue", "refunds", "margin", "cost_to_serve", "profit")
"""Fields whose sum over all customers is kept, money in minor units."""


def format_times(at_ms: NDArray[np.int64]) -> list[str | None]:
    """Write times as RFC 3339 in UTC with milliseconds; no time becomes ``None``."""
    texts = np.datetime_as_string(at_ms.astype("datetime64[ms]"), unit="ms").tolist()
    return [
        None if at == NO_TIME else text + "Z"
        for at, text in zip(at_ms.tolist(), texts, strict=True)
    ]


def score_rows(value: CurrentValue, as_of_ms: int, minor_digits: int) -> list[tuple[Any, ...]]:
    """Give the score fields of each customer.

    Parameters
    ----------
    value
        Columns, ``m`` customers.
    as_of_ms
        The moment they are for.
    minor_digits
        Decimal digits of the base currency.

    Returns
    -------
    list of tuple
        ``m`` rows in the order of :data:`COLUMNS`; ``None`` for no value.
    """
    scale = 10.0**minor_digits
    as_of = format_times(np.array([as_of_ms], np.int64))[0]
    columns: dict[str, list[Any]] = {
        "version": value.version.tolist(),
        "as_of": [as_of] * len(value.version),
        "orders": value.orders.tolist(),
        "decayed_value": np.round(value.decayed_value, 4).tolist(),
        "first_order_at": format_times(value.first_order_at),
        "last_order_at": format_times(value.last_order_at),
        "recency_days": _known(np.round(value.recency_days, 5)),
        "frequency": value.frequency.tolist(),
        "monetary_value": _known(np.round(value.monetary_value, 4)),
        "rfm": value.rfm.tolist(),
    }
    for name in ("revenue", "refunds", "margin", "cost_to_serve", "profit"):
        # The quotient is the double nearest to the decimal, so it prints as that decimal.
        columns[name] = (getattr(value, name) / scale).tolist()
    return list(zip(*(columns[name] for name in COLUMNS), strict=True))


def score_messages(ids: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> list[bytes]:
    """Give the ``scores`` message of each customer."""
    names = ("customer_id", *COLUMNS)
    return [
        to_json(dict(zip(names, (customer, *row), strict=True)))
        for customer, row in zip(ids, rows, strict=True)
    ]


def rank_values(
    value: CurrentValue, as_of_ms: int, half_life_days: float, minor_digits: int
) -> NDArray[np.float64]:
    """Give what customers are ranked by, one row for each of :data:`RANKED`.

    Profit and revenue are in currency units. A decayed value falls with time, for all customers
    by the same factor; its rank value is log2 of it plus the half-lives passed since 1970, which
    stays what it is while no event comes.

    Returns
    -------
    array
        ``(3, m)``.
    """
    scale = 10.0**minor_digits
    half_lives = as_of_ms / (half_life_days * 86_400_000.0)
    positive = np.maximum(value.decayed_value, np.finfo(np.float64).tiny)
    return np.stack([value.profit / scale, value.revenue / scale, np.log2(positive) + half_lives])


def month_sums(
    at: NDArray[np.int64], kind: NDArray[np.uint8], amount: NDArray[np.int64]
) -> dict[str, NDArray[np.int64]]:
    """Sum order events by calendar month in UTC.

    Parameters
    ----------
    at, kind, amount
        Time in milliseconds, kind and amount in minor units of each event, ``(n,)``.

    Returns
    -------
    dict
        ``YYYY-MM`` to six sums: number and amount placed, returned, cancelled.
    """
    months, where = np.unique(
        at.astype("datetime64[ms]").astype("datetime64[M]"), return_inverse=True
    )
    sums = np.zeros((len(months), 6), np.int64)
    np.add.at(sums, (where, 2 * kind.astype(np.intp)), 1)
    np.add.at(sums, (where, 2 * kind.astype(np.intp) + 1), amount)
    return dict(zip(months.astype(str).tolist(), sums, strict=True))


def _known(column: NDArray[np.float64]) -> list[float | None]:
    return [None if v != v else v for v in column.tolist()]  # noqa: PLR0124 - NaN differs from itself
