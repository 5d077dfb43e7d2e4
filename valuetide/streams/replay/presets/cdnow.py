"""CDNOW: the purchases of 23,570 customers of a music shop, 1997 and 1998 (Fader and Hardie).

A line is a purchase: customer, date YYYYMMDD, number of CDs, dollars. It becomes one placed order
at midnight UTC of its day, with an id made from its number. Orders of zero dollars are orders.
"""

from collections.abc import Iterable, Iterator
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from pathlib import Path
from typing import Final

from valuetide.schemas.errors import InvalidEventError
from valuetide.streams.replay.event import Encoder, SourceEvent
from valuetide.streams.replay.ordering import in_event_time
from valuetide.streams.replay.rows import TextForm, read_table
from valuetide.streams.replay.tally import Tally
from valuetide.streams.replay.times import time_parser

CENT: Final = Decimal("0.01")
_MASTER: Final = TextForm(columns=("customer", "date", "cds", "dollars"))
_SAMPLE: Final = TextForm(columns=("customer", "sample", "date", "cds", "dollars"))


def cdnow(path: Path, tally: Tally | None = None, currency: str = "USD") -> Iterator[SourceEvent]:
    """Give the orders of ``CDNOW_master.txt``, which begins with a line of column names.

    Parameters
    ----------
    path
        The file, compressed with gzip or not.
    tally
        Counts the rows; ``None``: nobody asks.
    currency
        To write in the orders.

    Returns
    -------
    iterator of SourceEvent
        In event time, the orders of one day in the file's order. The customer's id is the text
        in the file, leading zeros and all.
    """
    return in_event_time(cdnow_rows(path, tally or Tally(), Encoder("orders"), currency))


def cdnow_sample(
    path: Path, tally: Tally | None = None, currency: str = "USD"
) -> Iterator[SourceEvent]:
    """Give the orders of ``CDNOW_sample.txt``; as :func:`cdnow`, with the master file's ids."""
    return in_event_time(sample_rows(path, tally or Tally(), Encoder("orders"), currency))


def cdnow_rows(path: Path, tally: Tally, encoder: Encoder, currency: str) -> Iterable[SourceEvent]:
    """Give the orders of the master file in the file's order."""
    return _orders(path, _MASTER, "cdnow", tally, encoder, currency)


def sample_rows(path: Path, tally: Tally, encoder: Encoder, currency: str) -> Iterable[SourceEvent]:
    """Give the orders of the sample file in the file's order."""
    return _orders(path, _SAMPLE, "cdnow-sample", tally, encoder, currency)


def _orders(
    path: Path, form: TextForm, prefix: str, tally: Tally, encoder: Encoder, currency: str
) -> Iterator[SourceEvent]:
    parse = time_parser("%Y%m%d")
    times: dict[str, float] = {}  # 545 days, 69,659 orders
    for row in read_table(path, tally, form).rows:
        cells = row.cells
        if row.line == 1 and not cells["customer"].isdecimal():
            tally.rows -= 1  # the names of the columns
            continue
        try:
            # Counted without the header's line, so that order n is the n-th purchase.
            order_id = f"{prefix}-{tally.rows}"
            date = cells.get("date", "")
            at = times.get(date)
            if at is None:
                at = times[date] = parse(date)
            fields = {
                "event_id": order_id,
                "customer_id": cells["customer"],
                "order_id": order_id,
                "kind": "placed",
                "amount": _cents(cells.get("dollars", "")),
                "currency": currency,
            }
            yield encoder.encode(fields, at)
        except InvalidEventError as error:
            tally.invalid(str(error), row.line)


def _cents(text: str) -> float:
    try:
        return float(Decimal(text).quantize(CENT, ROUND_HALF_UP))
    except InvalidOperation:
        raise InvalidEventError("amount: is not a number") from None
