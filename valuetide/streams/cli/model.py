"""``valuetide model``: what was learned, and what all customers together are worth."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from valuetide.streams.cli.common import json_option, print_json, run

if TYPE_CHECKING:
    from valuetide.streams.reader import Learned

SIGNIFICANT = 6


@click.command()
@click.option(
    "--equity/--no-equity",
    default=True,
    help="Sum the clv of all customers, which walks over all of them.",
)
@json_option
def model(equity: bool, as_json: bool) -> None:
    """Show what was learned from the orders, and the customer equity: the sum of all clv.

    Purchases are described by MBG/NBD (r, alpha in weeks, a, b), what is spent by Gamma-Gamma
    (p, q, gamma in the base currency).

    \b
    valuetide model
    valuetide model --json | jq .equity
    """
    from valuetide.streams.reader import Reader
    from valuetide.streams.settings import load_settings

    settings = load_settings()

    async def read() -> "tuple[Learned, dict[str, float] | None]":
        async with Reader(settings) as reader:
            return await reader.learned(), await reader.equity() if equity else None

    learned, sums = run(read())
    if as_json:
        print_json(model_as_json(learned, sums))
        return
    for line in model_lines(learned, sums, settings.vocabulary.base_currency):
        click.echo(line)


def model_as_json(learned: "Learned", equity: dict[str, float] | None) -> dict[str, Any]:
    """Give parameters, numbers and equity, ready for JSON."""
    return {
        **asdict(learned.parameters),
        "customers": learned.customers,
        "orders": learned.orders,
        "shards": {str(at): asdict(found) for at, found in learned.shards.items()},
        "equity": None
        if equity is None
        else {name: round(value, 2) for name, value in equity.items()},
    }


def model_lines(learned: "Learned", equity: dict[str, float] | None, currency: str) -> list[str]:
    """Give what was learned as lines to read."""
    found = learned.parameters
    lines = [
        f"learned from {learned.orders:,} orders of {learned.customers:,} customers "
        f"in {len(learned.shards)} partitions",
        f"purchases  {_named(asdict(found.purchases))}",
        f"spend      {_named(asdict(found.spend))}",
    ]
    if equity is not None:
        sums = ", ".join(f"{value:,.2f} {currency} ({name})" for name, value in equity.items())
        lines.append(f"equity     {sums}")
    return lines


def _named(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.{SIGNIFICANT}g}" for name, value in values.items())
