"""``valuetide top``: the best customers."""

import click

from valuetide.schemas.score import Score, ranked_fields
from valuetide.streams.cli.common import json_option, print_json, run


@click.command()
@click.option(
    "--by",
    metavar="FIELD",
    default="profit",
    show_default=True,
    help="profit, revenue, decayed_value, which favours those who bought lately, or clv_365d: "
    "what they will be worth, with the longest of the horizons set.",
)
@click.option("--count", type=click.IntRange(min=1), default=10, show_default=True)
@json_option
def top(by: str, count: int, as_json: bool) -> None:
    """Show the best customers.

    \b
    valuetide top --by clv_365d --count 20
    """
    from valuetide.streams.reader import Reader
    from valuetide.streams.settings import load_settings

    settings = load_settings()
    if count > settings.top_size:
        raise click.UsageError(f"--count: at most {settings.top_size}, the setting top_size")

    if by not in (ranked := ranked_fields(settings.horizons_days)):
        raise click.UsageError(f"--by: customers are ranked by {', '.join(ranked)}")

    async def read() -> tuple[list[Score], str]:
        async with Reader(settings) as reader:
            return await reader.top(by, count), await reader.currency()

    scores, currency = run(read())
    if as_json:
        print_json(scores)
        return
    from rich.console import Console

    from valuetide.streams.cli.tables import customers_table

    if not scores:
        click.echo("no customers yet")
        return
    Console().print(customers_table(scores, currency))
