"""``valuetide dlq``: list, show and send again what was not accepted."""

from collections import Counter
from typing import TYPE_CHECKING

import click

from valuetide.streams.cli.common import json_option, print_json, run

if TYPE_CHECKING:
    from valuetide.streams.deadletters import DeadLetter

SHOWN_VALUE = 2_000


@click.group()
def dlq() -> None:
    """Look after dead letters: events that were not accepted, with the reason.

    \b
    valuetide dlq list                     what was rejected, and why
    valuetide dlq show 2:17                one of them, with its original bytes
    valuetide dlq resubmit 2:17 2:18       once the cause is mended, for example a currency
    valuetide dlq resubmit --all --field currency

    An event that was in the meantime accepted by another way is dropped as a duplicate, by its
    event_id.
    """


@dlq.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--field", help="Only those with this field at fault; value: not JSON at all.")
@json_option
def list_(limit: int, field: str | None, as_json: bool) -> None:
    """List dead letters, oldest first, and count them by the field at fault."""
    letters = _read(field)
    if as_json:
        print_json([letter.as_dict(with_value=False) for letter in letters[:limit]])
        return
    for letter in letters[:limit]:
        click.echo(
            f"{letter.place:>8}  {letter.source:<24}  {letter.rejected_at[:19]}  {letter.reason}"
        )
    if len(letters) > limit:
        click.echo(f"... and {len(letters) - limit} more, see --limit")
    by_field = Counter(_field(letter) for letter in letters)
    counts = ", ".join(f"{name} {count}" for name, count in by_field.most_common())
    click.echo(f"{len(letters)} dead letters{': ' + counts if counts else ''}")


@dlq.command()
@click.argument("place", metavar="PARTITION:OFFSET")
@json_option
def show(place: str, as_json: bool) -> None:
    """Show one dead letter with its original key and value."""
    letter = _pick(_read(None), (place,))[0]
    entry = letter.as_dict(with_value=True)
    if as_json:
        print_json(entry)
        return
    for name, value in entry.items():
        text = str(value)
        more = f"... {len(text) - SHOWN_VALUE} more" if len(text) > SHOWN_VALUE else ""
        click.echo(f"{name:<16}  {text[:SHOWN_VALUE]}{more}")


@dlq.command()
@click.argument("places", nargs=-1, metavar="[PARTITION:OFFSET]...")
@click.option("--all", "everything", is_flag=True, help="All of them, or all with --field.")
@click.option("--field", help="With --all: only those with this field at fault.")
@json_option
def resubmit(places: tuple[str, ...], everything: bool, field: str | None, as_json: bool) -> None:
    """Send dead letters to their source topics again.

    They stay on the dead-letters topic until its retention ends; if they are rejected again, they
    appear there once more.
    """
    from valuetide.streams.deadletters import resubmit as send_again
    from valuetide.streams.settings import load_settings

    if bool(places) == everything:
        raise click.UsageError("give either places or --all")
    if field is not None and not everything:
        raise click.UsageError("--field: only with --all")
    letters = _read(field)
    chosen = letters if everything else _pick(letters, places)
    run(send_again(load_settings(), chosen))
    if as_json:
        print_json({"resubmitted": len(chosen)})
    else:
        click.echo(f"{len(chosen)} sent again")


def _read(field: str | None) -> "list[DeadLetter]":
    from valuetide.streams.deadletters import read_dead_letters
    from valuetide.streams.settings import load_settings

    settings = load_settings()

    async def read() -> "list[DeadLetter]":
        return [letter async for letter in read_dead_letters(settings)]

    letters = run(read())
    letters.sort(key=lambda letter: letter.rejected_at)
    return [letter for letter in letters if field is None or _field(letter) == field]


def _pick(letters: "list[DeadLetter]", places: tuple[str, ...]) -> "list[DeadLetter]":
    by_place = {letter.place: letter for letter in letters}
    missing = [place for place in places if place not in by_place]
    if missing:
        raise click.ClickException(f"no dead letter {', '.join(missing)}; see `valuetide dlq list`")
    return [by_place[place] for place in places]


def _field(letter: "DeadLetter") -> str:
    return letter.reason.partition(":")[0].partition(".")[0]
