"""Tables that people read in a terminal."""

from collections.abc import Sequence
from typing import cast

from rich.table import Table

from valuetide.schemas.score import Score


def customers_table(scores: Sequence[Score], currency: str) -> Table:
    """Give a table of customers, one a row, in the order given."""
    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    table.add_column("customer", min_width=8, overflow="fold")  # an id is of no use in part
    for name in ("orders", "revenue", "profit", "decayed", "clv", "last order", "RFM"):
        table.add_column(name, justify="right", no_wrap=True)
    table.caption = (
        f"money in {currency}; decayed: each order halved every half-life; "
        "clv: expected within the longest horizon"
    )
    table.caption_justify = "left"
    for score in scores:
        table.add_row(
            score["customer_id"],
            str(score["orders"]),
            f"{score['revenue']:,.2f}",
            f"{score['profit']:,.2f}",
            f"{score['decayed_value']:,.2f}",
            _longest_clv(score),
            str(score["last_order_at"] or "-")[:10],
            score["rfm"],
        )
    return table


def _longest_clv(score: Score) -> str:
    """Give the clv of the longest horizon; its name is a setting's."""
    names = [name for name in score if name.startswith("clv_") and name.endswith("d")]
    value = cast("dict[str, float | None]", score)[names[-1]] if names else None
    return "-" if value is None else f"{value:,.2f}"
