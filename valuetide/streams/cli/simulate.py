"""``valuetide simulate``: send the events of a shop whose truth is known."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
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

if TYPE_CHECKING:
    from valuetide.streams.settings import Settings
    from valuetide.streams.simulate.run import Simulation

_A_FILE = click.Path(dir_okay=False, path_type=Path)
_HELP = """Send the orders, interactions and feedback of a simulated shop, whose truth is known.

Customers come, buy and leave by MBG/NBD and Gamma-Gamma, by weekday, season and holiday; they
visit, turn to the shop and say what they think. What is to be found is planted, with days counted
from the start:

\b
  valuetide simulate --customers 20000 --days 365 --seed 7 \\
    --shift level:-20%@200 --shift level:-30%@250+14,channel=web \\
    --outage orders@300+6h --campaign spring:+15%@120+14 --truth truth.json

\b
A shift is KIND:SIZE@DAY[+DAYS][,metric=...][,channel=...][,source=...]
  level      at once, for good or for so many days
  slope      evenly over so many days, and then it stays
  variance   demand varies more from day to day
metric is orders (the default: how many, and so revenue), amount (how large), arrivals, visits,
contacts, or satisfaction, whose size is in hundredths of a standard deviation.

The same options give the same bytes, ids included. Everything else about the shop is in
--scenario FILE, whose fields are those of valuetide/streams/simulate/scenario.py.

Exit codes: 0 sent, 1 an error, 2 wrong usage, 130 stopped by a signal.
"""


class _Share(click.ParamType):
    """A share between 0 and 1, also in per cent."""

    name = "share"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Give the share."""
        text = str(value)
        try:
            share = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            self.fail(f"{text} is no share, such as 0.1%", param, ctx)
        return share


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--scenario", type=_A_FILE, metavar="FILE", help="TOML file; options win."),
    click.option("--seed", type=click.IntRange(min=0), help="Default: 0."),
    click.option("--customers", type=click.IntRange(min=1), help="On average. Default: 2,000."),
    click.option("--days", type=click.IntRange(min=1), help="Default: 365."),
    click.option("--start", type=click.DateTime(["%Y-%m-%d"]), help="Default: 2024-01-01."),
    click.option("--until-today", is_flag=True, help="Start so that yesterday is the last day."),
    click.option("--name", help="Begins every id. Default: made from all that is given."),
    click.option("--shift", "shifts", multiple=True, metavar="SHIFT", help="Repeatable."),
    click.option(
        "--outage",
        "outages",
        multiple=True,
        metavar="TOPIC@DAY+HOURSh",
        help="Nothing is sent to a topic. Repeatable.",
    ),
    click.option(
        "--campaign",
        "campaigns",
        multiple=True,
        metavar="NAME:LIFT@DAY+DAYS",
        help="With a control arm; the treated buy so much more. Repeatable.",
    ),
    click.option("--duplicates", type=_Share(), help="Events sent twice. Default: 0.1%."),
    click.option("--late", type=_Share(), help="Events that come hours late. Default: 1%."),
    click.option("--bad", type=_Share(), help="Events that no worker accepts. Default: 0%."),
    click.option(
        "--speed",
        type=click.FloatRange(min=0, min_open=True),
        metavar="DAYS",
        help="Days of the shop per second. Default: as fast as possible.",
    ),
    click.option("--truth", type=_A_FILE, metavar="FILE", help="Write what was true, as JSON."),
    click.option(
        "--dry-run", is_flag=True, help="Send nothing: print the first events, write the truth."
    ),
)


@click.command(help=_HELP)
@with_options(*_OPTIONS, *SENDING_OPTIONS)
@click.pass_context
def simulate(ctx: click.Context, /, **given: Any) -> None:
    """Send the events of a simulated shop."""
    from valuetide.streams.settings import SettingsError, load_settings
    from valuetide.streams.simulate.errors import ScenarioError

    with errors_told(ctx, given["state"], ScenarioError, SettingsError):
        job = _job(load_settings(broker=given["broker"]), given)
        if given["dry_run"]:
            for role, event in job.dry_run(DRY_RUN_EVENTS):
                click.echo(f"{role:<12}  {event.value.decode()}")
        else:
            _send(ctx, job, as_json=given["as_json"])


def _job(settings: "Settings", given: dict[str, Any]) -> "Simulation":
    from valuetide.streams.replay.pace import Pace
    from valuetide.streams.simulate.outbox import DAY_SECONDS
    from valuetide.streams.simulate.run import Simulation
    from valuetide.streams.simulate.scenario import make_scenario

    today = datetime.now(UTC).date()
    fields = {name: given[name] for name in ("seed", "customers", "days", "name")}
    fields["start"] = given["start"].date() if given["start"] else None
    fields = {name: value for name, value in fields.items() if value is not None}
    noise = {name: given[name] for name in ("duplicates", "late", "bad")}
    fields["noise"] = {name: value for name, value in noise.items() if value is not None}
    fields["shifts"] = [*given["shifts"], *given["outages"]]
    fields["campaigns"] = given["campaigns"]
    scenario = make_scenario(given["scenario"], fields)
    if given["until_today"]:
        if given["start"] is not None:
            raise click.UsageError("--until-today: not with --start")
        scenario = scenario.model_copy(update={"start": today - timedelta(days=scenario.days)})
    if "currency" not in scenario.model_fields_set:
        scenario = scenario.model_copy(update={"currency": settings.vocabulary.base_currency})
    _check(scenario.end, today)
    _warn(settings, scenario.currency)
    speed = None if given["speed"] is None else given["speed"] * DAY_SECONDS
    pace = Pace(speed=speed, rate=given["rate"])
    return Simulation(scenario, settings, pace, given["state"], given["truth"])


def _check(end: date, today: date) -> None:
    if end > today + timedelta(days=1):
        raise click.UsageError(
            f"the last day would be {end - timedelta(days=1)}, and workers take no event from the"
            " future: give an earlier --start, fewer --days, or --until-today"
        )


def _warn(settings: "Settings", currency: str) -> None:
    from valuetide.schemas.vocabulary import DEFAULT_INTERACTION_KINDS

    missing = [
        f"the kind {kind}"
        for kind in DEFAULT_INTERACTION_KINDS
        if kind not in settings.vocabulary.interaction_kinds
    ]
    if currency not in settings.vocabulary.minor_per_unit:
        missing.append(f"an exchange rate for {currency}")
    if missing:
        click.echo(
            f"warning: these settings lack {', '.join(missing)}; a worker with the same settings"
            " sends such events to the dead letters",
            err=True,
        )


def _send(ctx: click.Context, job: "Simulation", *, as_json: bool) -> None:
    from valuetide.streams.simulate.run import summary_text

    sent, _ = run_and_sum_up(job.run, job.summary, summary_text, as_json=as_json)
    tell_how_it_ended(ctx, sent, job.state, job.resumed_from)
