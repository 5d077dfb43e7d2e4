"""``valuetide replay``: send the rows of a file as events."""

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from valuetide.streams.cli.sending import (
    DRY_RUN_EVENTS,
    SENDING_OPTIONS,
    errors_told,
    run_and_sum_up,
    tell_how_it_ended,
    with_options,
)
from valuetide.streams.replay.catalog import DATA_SETS

if TYPE_CHECKING:
    from valuetide.streams.replay.run import Replay
    from valuetide.streams.settings import Settings

_A_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_PRESET_HELP = "\n".join(
    f"  {name:<14} {known.about}:\n    valuetide replay --preset {name} {known.example}"
    for name, known in DATA_SETS.items()
)
_HELP = f"""Send the rows of FILE as events, in the order in which they happened.

FILE is CSV (.csv, .tsv), text with columns between blanks (.txt), JSON lines (.jsonl) or
Parquet (.parquet); all but Parquet may be compressed (.gz). A column with the name of a field
needs no mapping:

\b
  valuetide replay shop.csv --map customer_id=who --map occurred_at=day \\
    --map amount=total --map order_id=@id --set kind=placed --currency EUR

The column @id is an id made of the file's content and the row's number: the same file counts once
however often it is sent, but a file that was edited is another file, and its orders count anew.
Map a column with real order numbers where there is one. Known data sets need no mapping at all:

\b
{_PRESET_HELP}

Exit codes: 0 sent, with a count of what was skipped; 1 an error or nothing to send,
2 wrong usage, 130 stopped by a signal.
"""

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--topic",
        type=click.Choice(["orders", "interactions", "feedback"]),
        default="orders",
        show_default=True,
        help="Which input topic.",
    ),
    click.option(
        "--preset", type=click.Choice(list(DATA_SETS)), help="A known data set, see above."
    ),
    click.option("--map", "columns", multiple=True, metavar="FIELD=COLUMN", help="Repeatable."),
    click.option("--set", "constants", multiple=True, metavar="FIELD=VALUE", help="Repeatable."),
    click.option("--mapping", type=_A_FILE, help="The same in a TOML file: [map] and [set]."),
    click.option(
        "--time-format",
        help="Of strptime, or epoch-ms. Not needed for RFC 3339, dates and epoch seconds.",
    ),
    click.option("--currency", metavar="CODE", help="Of all orders, for example EUR."),
    click.option("--columns", "header", metavar="A,B,C", help="Names, where no line has them."),
    click.option("--delimiter", metavar="CHAR", help="Of a CSV file. Default: the likeliest."),
    click.option("--encoding", default="utf-8-sig", show_default=True, help="Of a text file."),
    click.option(
        "--order",
        type=click.Choice(["time", "file"]),
        default="time",
        show_default=True,
        help="time: the file is read to its end first. file: as the rows stand.",
    ),
    click.option(
        "--speed",
        type=click.FloatRange(min=0, min_open=True),
        metavar="X",
        help="Seconds of event time per second. Default: as fast as possible.",
    ),
    click.option(
        "--max-gap",
        type=click.FloatRange(min=0),
        metavar="SECONDS",
        help="With --speed: wait no longer than this for the next event.",
    ),
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Send the first N."),
    click.option("--shift-to-now", is_flag=True, help="Move all times: the last event is now."),
    click.option("--strict", is_flag=True, help="Stop at the first invalid row."),
    click.option("--dry-run", is_flag=True, help="Print the first events instead, 10 or --limit."),
)


@click.command(help=_HELP)
@click.argument("file", type=_A_FILE)
@with_options(*_OPTIONS, *SENDING_OPTIONS)
@click.pass_context
def replay(ctx: click.Context, /, **given: Any) -> None:
    """Send the rows of a file as events."""
    from valuetide.streams.replay.errors import ReplayUsageError
    from valuetide.streams.settings import SettingsError, load_settings

    with errors_told(ctx, given["state"], ReplayUsageError, SettingsError):
        job = _job(load_settings(broker=given["broker"]), given)
        if given["dry_run"]:
            _print_first(job, given["limit"] or DRY_RUN_EVENTS)
        else:
            _warn_of_currency(job)
            _send(ctx, job, as_json=given["as_json"])


def _job(settings: "Settings", given: dict[str, Any]) -> "Replay":
    from valuetide.streams.replay.mapping import MappingSpec, load_mapping
    from valuetide.streams.replay.pace import Pace
    from valuetide.streams.replay.rows import TextForm
    from valuetide.streams.replay.run import Replay
    from valuetide.streams.replay.source import Plan

    if given["max_gap"] is not None and given["speed"] is None:
        raise click.UsageError("--max-gap: only with --speed")
    spec = MappingSpec(_pairs("--map", given["columns"]), _pairs("--set", given["constants"]))
    spec = MappingSpec(spec.columns, spec.constants, given["time_format"])
    if given["mapping"] is not None:
        spec = spec.over(load_mapping(given["mapping"]))
    header = tuple(name.strip() for name in (given["header"] or "").split(",") if name.strip())
    plan = Plan(
        topic=given["topic"],
        preset=given["preset"],
        mapping=spec,
        form=TextForm(header, given["delimiter"], given["encoding"]),
        currency=given["currency"],
        order=given["order"],
    )
    plan.check()
    job = Replay(given["file"], plan, settings)
    job.pace = Pace(speed=given["speed"], rate=given["rate"], max_gap=given["max_gap"])
    job.limit, job.to_now, job.state = given["limit"], given["shift_to_now"], given["state"]
    job.tally.strict = given["strict"]
    return job


def _pairs(option: str, texts: Iterable[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise click.UsageError(f"{option} {text}: must be FIELD=...")
        if name in pairs:
            raise click.UsageError(f"{option} {name}: given twice")
        pairs[name] = value
    return pairs


def _print_first(job: "Replay", count: int) -> None:
    for event in islice(job.events(), count):
        click.echo(event.value)
    for reason, skip in job.tally.skipped.items():
        click.echo(f"skipped {skip.count} from line {skip.first_line} on: {reason}", err=True)


def _warn_of_currency(job: "Replay") -> None:
    currency = job.plan.known_currency
    vocabulary = job.settings.vocabulary
    if job.plan.topic == "orders" and currency and currency not in vocabulary.minor_per_unit:
        click.echo(
            f"warning: these settings have no exchange rate for {currency}; a worker with the"
            f" same settings sends such orders to the dead letters. Either replay with --currency"
            f" {vocabulary.base_currency} or set VALUETIDE_VOCABULARY__BASE_CURRENCY={currency}",
            err=True,
        )


def _send(ctx: click.Context, job: "Replay", *, as_json: bool) -> None:
    from valuetide.streams.replay.progress import summary_text

    sent, summary = run_and_sum_up(job.run, job.summary, summary_text, as_json=as_json)
    if not (sent.stopped or sent.events) and summary["skipped"]:
        raise click.ClickException("nothing was sent: every row was skipped, see above")
    tell_how_it_ended(ctx, sent, job.state, job.resumed_from)
