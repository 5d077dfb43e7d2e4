"""What the verbs share: errors as one line, JSON, and running coroutines."""

import asyncio
import gc
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

from valuetide.schemas.errors import ValuetideError
from valuetide.streams.settings import SettingsError, misspelt_variables

T = TypeVar("T")

YOUNG_OBJECTS = 10_000
"""New objects between two looks of the garbage collector, each of about 2 ms; Python has 700."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


class Cli(click.Group):
    """A group whose commands end with one clear line, and no traceback, on an error of ours."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn our errors into exit codes 1 and, for settings, 2."""
        for variable, setting in misspelt_variables().items():
            click.echo(f"warning: {variable} is no setting; do you mean {setting}?", err=True)
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            failure = click.ClickException(str(error))
            failure.exit_code = 2
            raise failure from None
        except ValuetideError as error:
            raise click.ClickException(str(error)) from None


def run(
    coroutine: Coroutine[Any, Any, T],
    make_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> T:
    """Run a coroutine to its end, in a loop of asyncio's or of another maker."""
    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(coroutine)


def worker_loop() -> asyncio.AbstractEventLoop:
    """Make the event loop of a worker: libuv's, which costs less, where there is one."""
    try:
        from uvloop import new_event_loop
    except ImportError:  # no wheels for Windows
        return asyncio.new_event_loop()
    return new_event_loop()


def spare_loaded_code() -> None:
    """Have the garbage collector leave alone what is there by now, and look less often.

    Each of its full looks would go through all that was imported, for some 50 ms in which nothing
    else happens, and find nothing. What a batch makes is gone with the batch, in most cases without
    the collector.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))
