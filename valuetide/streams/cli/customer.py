"""``valuetide customer``: the score of one customer."""

import click

from valuetide.schemas.score import Score
from valuetide.streams.cli.common import json_option, print_json, run


@click.command()
@click.argument("customer_id")
@json_option
def customer(customer_id: str, as_json: bool) -> None:
    """Show the current score of CUSTOMER_ID.

    \b
    valuetide customer 00317
    valuetide customer 00317 --json | jq .profit
    """
    from valuetide.streams.reader import Reader
    from valuetide.streams.settings import load_settings

    async def read() -> Score | None:
        async with Reader(load_settings()) as reader:
            return await reader.customer(customer_id)

    score = run(read())
    if score is None:
        raise click.ClickException(f"no customer {customer_id}")
    if as_json:
        print_json(score)
        return
    width = max(map(len, score))
    for name, value in score.items():
        click.echo(f"{name:<{width}}  {'-' if value is None else value}")
