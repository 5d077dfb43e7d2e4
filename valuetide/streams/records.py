"""From computed values to what goes out: rows for Redis and JSON for the ``scores`` topic."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from valuetide.schemas.score import DEFAULT_HORIZONS, Score
from valuetide.scoring.arrays import DAY_MS, NO_TIME
from valuetide.scoring.current_value import CurrentValue
from valuetide.scoring.lifetime.moved import PARTS
from valuetide.scoring.lifetime.value import Potential

CURRENT = tuple(Score.__annotations__)[1 : tuple(Score.__annotations__).index("p_alive")]
"""Score fields that look back, in the order of a row."""


MOVED_BY = "moved_by"


PERCENTILE = "clv_percentile"
NOT_STORED = -len(PARTS) - 1
"""Where the fields begin in a row that are not stored as they are: the percentile, the parts."""

_ENCODE_LINES = msgspec.json.Encoder().encode_lines
_NO_PARTS = f"[{','.join(['null'] * len(PARTS))}]"
TEXTS = frozenset({"as_of", "first_order_at", "last_order_at", "rfm", "next_order_at", MOVED_BY})
"""Stored fields that are text; the others are numbers."""


def score_columns(horizons_days: Sequence[int]) -> tuple[str, ...]:
    """Give the score fields in the order of a row; the customer's id is in the key."""
    return (*CURRENT, *ahead_columns(horizons_days))


def ahead_columns(horizons_days: Sequence[int]) -> tuple[str, ...]:
    """Give the score fields that look ahead, in the order of a row."""
    return (
        "p_alive",
        *(f"expected_orders_{days}d" for days in horizons_days),
        "expected_order_value",
        *(f"clv_{days}d{end}" for days in horizons_days for end in ("", "_low", "_high")),
        "next_order_at",
        PERCENTILE,
        *(f"moved_by_{part}" for part in PARTS),
    )


def stored_columns(horizons_days: Sequence[int]) -> tuple[str, ...]:
    """Give the names under which a row is stored: the parts of a change are one field there.

    The percentile is not: it would be a rank among scores that are no more. Readers put it in.
    """
    return (*score_columns(horizons_days)[:NOT_STORED], MOVED_BY)


def stored_rows(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Give rows as they are stored; the names of six fields would take 120 bytes a customer."""
    texts = _as_texts([row[-len(PARTS) :] for row in rows])
    return [(*row[:NOT_STORED], text) for row, text in zip(rows, texts, strict=True)]


def _as_texts(parts: list[tuple[float | None, ...]]) -> list[str | None]:
    """Write the parts of changes, whole numbers without a fraction; one encoding for all."""
    lines = _ENCODE_LINES(parts).replace(b".0,", b",").replace(b".0]", b"]").decode().splitlines()
    return [None if line == _NO_PARTS else line for line in lines]


def moved_parts(stored: bytes | str | None) -> dict[str, float | None]:
    """Give the fields that are one in the store, ``None`` each for none.

    Raises
    ------
    ValueError
        When it cannot be read.
    """
    values: Sequence[float | None] = (None,) * len(PARTS)
    if stored:
        values = msgspec.json.decode(stored, type=tuple[(float,) * len(PARTS)])  # type: ignore[misc]
    return {f"moved_by_{part}": value for part, value in zip(PARTS, values, strict=True)}


COLUMNS = score_columns(DEFAULT_HORIZONS)
"""The fields with the default horizons, those of the schema."""

TOTALS = ("orders", "revenue", "refunds", "margin", "cost_to_serve", "profit")
"""Fields whose sum over all customers is kept, money in minor units."""


WEEK_MS = 7 * DAY_MS

_MINUTES = [f"T{minute // 60:02d}:{minute % 60:02d}:" for minute in range(1_440)]
_SECONDS = [f"{second:02d}." for second in range(60)]
_MILLISECONDS = [f"{ms:03d}Z" for ms in range(1_000)]


def format_times(at_ms: NDArray[np.int64]) -> list[str | None]:
    """Write times as RFC 3339 in UTC with milliseconds; no time becomes ``None``."""
    none = at_ms == NO_TIME
    day, ms = np.divmod(np.where(none, 0, at_ms), DAY_MS)
    minute, ms = np.divmod(ms, 60_000)
    second, ms = np.divmod(ms, 1_000)
    parts = zip(day.tolist(), minute.tolist(), second.tolist(), ms.tolist(), strict=True)
    texts: list[str | None] = [
        f"{_day(day)}{_MINUTES[minute]}{_SECONDS[second]}{_MILLISECONDS[ms]}"
        for day, minute, second, ms in parts
    ]
    for place in np.flatnonzero(none).tolist():
        texts[place] = None
    return texts


@lru_cache(maxsize=1 << 15)
def _day(day: int) -> str:
    """Write a day, counted from 1970; scores name few, and most of them again and again."""
    return str(np.datetime64(day, "D"))


@dataclass(frozen=True, slots=True)
class Ahead:
    """What is to be expected of those customers who have an order.

    Attributes
    ----------
    horizons_days
        The horizons, ``h`` of them.
    buyers
        Positions of these ``n`` among the ``m`` customers of a batch, rising.
    potential
        Columns, ``(n,)`` or ``(h, n)``.
    clv
        Of the longest horizon, whole minor units, ``(n,)``.
    moved
        Its change since the last score in parts, whole minor units, ``(6, n)``.
    """

    horizons_days: Sequence[int]
    buyers: NDArray[np.intp]
    potential: Potential
    clv: NDArray[np.float64]
    moved: NDArray[np.float64]

    def rows(
        self, percentile: NDArray[np.float64], as_of_ms: int, minor_digits: int
    ) -> list[tuple[Any, ...]]:
        """Give the fields of these customers that look ahead, ``n`` rows."""
        found = self.potential
        numbers = {"p_alive": np.round(found.p_alive, 4)}
        numbers["expected_order_value"] = np.round(found.expected_order_value, minor_digits)
        for days, orders in zip(self.horizons_days, found.expected_orders, strict=True):
            numbers[f"expected_orders_{days}d"] = np.round(orders, 4)
        for end, values in (("", found.clv), ("_low", found.low), ("_high", found.high)):
            # Nothing to be had is 0, never -0.
            rounded = np.round(values, minor_digits) + 0.0
            for days, row in zip(self.horizons_days, rounded, strict=True):
                numbers[f"clv_{days}d{end}"] = row
        scale = 10.0**minor_digits
        numbers[PERCENTILE] = np.round(percentile, 1)
        for part, row in zip(PARTS, self.moved, strict=True):
            numbers[f"moved_by_{part}"] = row / scale
        wait_ms = np.round(found.median_wait_weeks * WEEK_MS).astype(np.int64)
        columns: dict[str, list[Any]] = {name: row.tolist() for name, row in numbers.items()}
        columns["next_order_at"] = format_times(as_of_ms + wait_ms)
        names = ahead_columns(self.horizons_days)
        return list(zip(*(columns[name] for name in names), strict=True))


def score_rows(
    value: CurrentValue,
    ahead: Ahead,
    percentile: NDArray[np.float64],
    as_of_ms: int,
    minor_digits: int,
) -> list[tuple[Any, ...]]:
    """Give the score fields of each customer.

    Parameters
    ----------
    value
        Columns, ``m`` customers.
    ahead
        What is to be expected of them.
    percentile
        Rank of its ``clv`` among all customers, 0 to 100, ``(n,)``.
    as_of_ms
        The moment they are for.
    minor_digits
        Decimal digits of the base currency.

    Returns
    -------
    list of tuple
        ``m`` rows in the order of :func:`score_columns`; ``None`` for no value.
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
    back = zip(*(columns[name] for name in CURRENT), strict=True)
    found = ahead.rows(percentile, as_of_ms, minor_digits)
    nothing = (None,) * len(ahead_columns(ahead.horizons_days))
    places = np.full(len(value.version), -1)
    places[ahead.buyers] = np.arange(len(found))
    found.append(nothing)  # which stands at -1
    return [row + found[place] for row, place in zip(back, places.tolist(), strict=True)]


def score_messages(
    ids: Sequence[str], rows: Sequence[tuple[Any, ...]], columns: Sequence[str] = COLUMNS
) -> list[bytes]:
    """Give the ``scores`` message of each customer."""
    message, encode = _message(tuple(columns)), msgspec.json.Encoder().encode
    return [encode(message(customer, *row)) for customer, row in zip(ids, rows, strict=True)]


@cache
def _message(columns: tuple[str, ...]) -> type[msgspec.Struct]:
    """Make the struct of a message: a third of the cost of a dictionary."""
    fields = [(name, object) for name in ("customer_id", *columns)]
    return msgspec.defstruct("Score", fields, gc=False)


def rank_values(
    value: CurrentValue, as_of_ms: int, half_life_days: float, minor_digits: int
) -> NDArray[np.float64]:
    """Give what customers are ranked by, one row for each ranked field that looks back.

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
