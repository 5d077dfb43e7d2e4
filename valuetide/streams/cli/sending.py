"""What the verbs that send events share: options, errors, progress and how they end."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from valuetide.schemas.errors import TransientError, ValuetideError

if TYPE_CHECKING:
    from valuetide.streams.replay.send import Progress, Sent

DRY_RUN_EVENTS = 10
INTERRUPTED = 130
"""Exit code of a program that was told to stop, as shells write it for SIGINT."""

Option = Callable[[Any], Any]

SENDING_OPTIONS: tuple[Option, ...] = (
    click.option(
        "--rate",
        type=click.FloatRange(min=0, min_open=True),
        metavar="N",
        help="Events per second, at most.",
    ),
    click.option(
        "--resume",
        "state",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Keep the position in this file, and go on from there.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON."),
    click.option("--broker", metavar="HOST:PORT", help="Instead of the setting."),
)


def with_options(*options: Option) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command with options, shown in this order."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@contextmanager
def errors_told(
    ctx: click.Context, state: Path | None, *wrong_usage: type[ValuetideError]
) -> Iterator[None]:
    """Tell what goes wrong in one line, with the exit code that fits."""
    try:
        yield
    except wrong_usage as error:
        raise click.UsageError(str(error)) from None
    except TransientError as error:
        hint = how_to_go_on(state) if state else ""
        raise click.ClickException(f"{error}{hint}") from None
    except ValuetideError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
        ctx.exit(INTERRUPTED)


def run_and_sum_up(
    run: Callable[["Callable[[Progress], None] | None"], "Sent"],
    summary: Callable[["Sent"], dict[str, Any]],
    text: Callable[[dict[str, Any]], str],
    *,
    as_json: bool,
) -> tuple["Sent", dict[str, Any]]:
    """Send, showing progress, and print the summary as ``text`` or as JSON."""
    from rich.console import Console

    from valuetide.streams.replay.progress import progress_on

    # What goes wrong is told once, by us.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)
    with progress_on(Console(stderr=True)) as on_progress:
        sent = run(on_progress)
    found = summary(sent)
    click.echo(json.dumps(found) if as_json else text(found))
    return sent, found


def tell_how_it_ended(
    ctx: click.Context, sent: "Sent", state: Path | None, resumed_from: int
) -> None:
    """Say what was left undone, or that nothing was to be done."""
    if sent.stopped:
        click.echo(f"stopped{how_to_go_on(state)}", err=True)
        ctx.exit(INTERRUPTED)
    if not sent.events and resumed_from:
        click.echo(f"nothing was left to send; {state} says so", err=True)


def how_to_go_on(state: Path | None) -> str:
    """Say how what was stopped could go on."""
    if state is None:
        return "; with --resume FILE it could have gone on from here"
    return f"; the position is in {state}: give the same command again to go on"
