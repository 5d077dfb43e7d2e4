"""Online Retail: the invoices of a British gift shop, 2010 and 2011 (UCI, data set 352).

A row is a line of an invoice; an invoice becomes one order:

* A number of digits alone is an order placed. Its amount is the net sum of its lines: a line of
  negative quantity within it is a correction and lowers the sum.
* A number that begins with C is a cancellation: an order ``returned``, its amount the absolute
  sum, its order_id the C number, since the file does not say which invoice it cancels.
* Left out, and counted: lines without a customer, lines of other invoices (A: bad debt),
  invoices whose sum is zero once rounded (samples and gifts: no purchase), and invoices whose
  sum has the wrong sign.

Sums are made in decimals and rounded to pence once, half away from zero. The time is that of the
invoice's first line, taken as UTC.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from valuetide.schemas.errors import InvalidEventError
from valuetide.schemas.events import MAX_ITEMS
from valuetide.streams.replay.errors import ReplayUsageError
from valuetide.streams.replay.event import Encoder, SourceEvent
from valuetide.streams.replay.ordering import in_event_time
from valuetide.streams.replay.presets.cdnow import CENT
from valuetide.streams.replay.rows import Row, read_table
from valuetide.streams.replay.tally import Tally
from valuetide.streams.replay.times import time_parser

COLUMNS: Final = ("InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID")
NO_CUSTOMER: Final = "line without a customer"
OTHER_INVOICE: Final = "line of an invoice that is neither a sale nor a cancellation"
ZERO_SUM: Final = "invoice with a sum of zero"
WRONG_SIGN: Final = "invoice whose sum has the wrong sign"


@dataclass(slots=True)
class _Invoice:
    customer_id: str
    occurred_at: float
    line: int
    total: Decimal = Decimal(0)
    items: list[dict[str, Any]] = field(default_factory=list)


def online_retail(
    path: Path, tally: Tally | None = None, currency: str = "GBP", *, items: bool = True
) -> Iterator[SourceEvent]:
    """Give the orders of the Online Retail file.

    Parameters
    ----------
    path
        Parquet or CSV, with the columns' names as published.
    tally
        Counts the lines and what is left out; ``None``: nobody asks.
    currency
        To write in the orders.
    items
        Whether orders carry their lines. Without them a message is a fifth as long.

    Returns
    -------
    iterator of SourceEvent
        In event time. All invoices are in memory at once.
    """
    tally = tally or Tally()
    return in_event_time(_orders(path, tally, Encoder("orders"), currency, items))


def invoices(path: Path, tally: Tally, encoder: Encoder, currency: str) -> Iterable[SourceEvent]:
    """Give the orders, with their lines, in the order in which the file first names them."""
    return _orders(path, tally, encoder, currency, with_items=True)


def _orders(
    path: Path, tally: Tally, encoder: Encoder, currency: str, with_items: bool
) -> Iterator[SourceEvent]:
    # Lines of one invoice need not stand together in the file, so all of it is read first.
    for number, invoice in _collect(path, tally, with_items).items():
        returned = number.startswith("C")
        total = invoice.total.quantize(CENT, ROUND_HALF_UP)
        if not total:
            tally.leave_out(ZERO_SUM, invoice.line)
            continue
        if (total < 0) != returned:
            tally.leave_out(WRONG_SIGN, invoice.line)
            continue
        fields: dict[str, Any] = {
            "event_id": f"online-retail-{number}",
            "customer_id": invoice.customer_id,
            "order_id": number,
            "kind": "returned" if returned else "placed",
            "amount": float(abs(total)),
            "currency": currency,
        }
        if with_items:
            fields["items"] = invoice.items[:MAX_ITEMS]
        try:
            yield encoder.encode(fields, invoice.occurred_at)
        except InvalidEventError as error:
            tally.invalid(str(error), invoice.line)


def _collect(path: Path, tally: Tally, with_items: bool) -> dict[str, _Invoice]:
    table = read_table(path, tally)
    lacking = [name for name in COLUMNS if name not in table.columns]
    if lacking:
        raise ReplayUsageError(
            f"{path.name}: is not the Online Retail file, it lacks {', '.join(lacking)}.\n"
            f"Columns found: {', '.join(table.columns)}"
        )
    parse = time_parser()
    found: dict[str, _Invoice] = {}
    for row in table.rows:
        try:
            _add_line(row, parse, found, tally, with_items)
        except InvalidEventError as error:
            tally.invalid(str(error), row.line)
        except (ArithmeticError, KeyError, TypeError, ValueError):
            tally.invalid("amount: quantity or unit price is not a number", row.line)
    return found


def _add_line(
    row: Row,
    parse: Callable[[object], float],
    found: dict[str, _Invoice],
    tally: Tally,
    with_items: bool,
) -> None:
    cells = row.cells
    customer = _customer(cells["CustomerID"])
    number = str(cells["InvoiceNo"]).strip()
    if customer is None:
        tally.leave_out(NO_CUSTOMER, row.line)
        return
    if not number.removeprefix("C").isdecimal():
        tally.leave_out(OTHER_INVOICE, row.line)
        return
    quantity, price = int(cells["Quantity"]), _exact(cells["UnitPrice"])
    total = quantity * price
    if not total.is_finite():
        raise ValueError
    invoice = found.get(number)
    if invoice is None:
        invoice = found[number] = _Invoice(customer, parse(cells["InvoiceDate"]), row.line)
    invoice.total += total
    pieces = -quantity if number.startswith("C") else quantity
    sku = str(cells["StockCode"] or "").strip()
    if with_items and sku and pieces > 0 and price >= 0:
        item = {"sku": sku, "quantity": pieces, "unit_price": float(price)}
        invoice.items.append(item)


def _customer(value: object) -> str | None:
    text = str(value).strip() if value is not None else ""
    if text in ("", "nan"):
        return None
    return text.removesuffix(".0")  # the column is one of floats


@lru_cache(maxsize=4_096)
def _exact(price: float | str) -> Decimal:
    # The shortest text of a double is the price as it was typed.
    return Decimal(str(price))
