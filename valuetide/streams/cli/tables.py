"""Tables that people read in a terminal."""

from collections.abc import Sequence

from rich.table import Table

from valuetide.schemas.score import Score


def customers_table(scores: Sequence[Score], currency: str) -> Table:
    """Give a table of customers, one a row, in the order given."""
    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    table.add_column("customer")
    for name in ("orders", "revenue", "refunds", "profit", "decayed", "last order", "RFM"):
        table.add_column(name, justify="right", no_wrap=True)
    table.caption = f"money in {currency}; decayed: each order halved every half-life"
    table.caption_justify = "left"
    for score in scores:
        table.add_row(
            score["customer_id"],
            str(score["orders"]),
            f"{score['revenue']:,.2f}",
            f"{score['refunds']:,.2f}",
            f"{score['profit']:,.2f}",
            f"{score['decayed_value']:,.2f}",
            str(score["last_order_at"] or "-")[:10],
            score["rfm"],
        )
    return table
