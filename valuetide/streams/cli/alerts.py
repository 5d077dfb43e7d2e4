"""``valuetide alerts``: list, show, acknowledge and watch alerts."""

import contextlib
import getpass
import json
import re
from typing import TYPE_CHECKING, Any, Final

import click

from valuetide.streams.cli.common import json_option, print_json, run

if TYPE_CHECKING:
    from valuetide.schemas.alert import Alert
    from valuetide.streams.alerts import Acknowledgement, History, OpenAlert, Step

SECONDS: Final = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
MOST_DAYS: Final = 366
MOST_STEPS: Final = 10_000
MOST_WHY: Final = 500
SHORT: Final = 8
"""Characters of a fingerprint in a line; two of a thousand alerts begin alike once in 8,000."""


class Duration(click.ParamType):
    """A number and a unit, as 2h; gives seconds."""

    name = "2h|3d"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse it, or say what is allowed."""
        match = re.fullmatch(r"([1-9][0-9]{0,5})([mhdw])", str(value))
        seconds = int(match[1]) * SECONDS[match[2]] if match else 0
        if not 0 < seconds <= MOST_DAYS * SECONDS["d"]:
            self.fail(f"a number and m, h, d or w, as 2h; {MOST_DAYS} days at most", param, ctx)
        return seconds


def _one_line(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if len(value) > MOST_WHY or not value.isprintable():
        raise click.BadParameter(f"one line of at most {MOST_WHY} characters")
    return value


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return "somebody"


@click.group()
def alerts() -> None:
    """Look after alerts: shifts of value that are significant, endure and are worth money.

    \b
    valuetide alerts list                  those that go on, most money first
    valuetide alerts list --history 20     the last steps of all, newest first
    valuetide alerts list --about series   without those about single customers
    valuetide alerts show a4d1             one of them: what explains it, and its steps
    valuetide alerts ack a4d1 --for 3d --why "price test"
    valuetide alerts watch                 every new step, until Ctrl-C

    The beginning of a fingerprint is enough where no other alert that goes on begins so.
    """


@alerts.command("list")
@click.option(
    "--history",
    type=click.IntRange(1, MOST_STEPS),
    metavar="N",
    help="The last N steps of all alerts instead, newest first.",
)
@click.option(
    "--about",
    type=click.Choice(["all", "series", "customers"]),
    default="all",
    show_default=True,
    help="Alerts about series and producers, or about single customers.",
)
@json_option
def list_(history: int | None, about: str, as_json: bool) -> None:
    """List the alerts that go on, those with most money at stake first.

    The exit code is 0 whether there are alerts or not.
    """
    from valuetide.streams.alerts import alert_as_json
    from valuetide.streams.reader import Reader
    from valuetide.streams.settings import load_settings

    async def read() -> "tuple[list[OpenAlert], list[Step]]":
        async with Reader(load_settings()) as reader:
            if history is None:
                return await reader.alerts.open(), []
            many = history if about == "all" else MOST_STEPS
            return [], await reader.alerts.steps(many)

    def wanted(alert: "Alert") -> bool:
        kind = "series" if alert["customer_id"] is None else "customers"
        return about in ("all", kind)

    found, steps = run(read())
    found = [one for one in found if wanted(one.alert)]
    steps = [step for step in steps if wanted(step.alert)][:history]
    if as_json:
        print_json(
            [one.as_json() for one in found]
            if history is None
            else [alert_as_json(step.alert) for step in steps]
        )
        return
    for one in found:
        for line in open_lines(one):
            click.echo(line)
    for step in steps:
        click.echo(step_line(step.alert))
    if history is None:
        click.echo("no open alerts" if not found else f"{len(found)} open")
    elif not steps:
        click.echo("no alerts yet")


@alerts.command()
@click.argument("fingerprint")
@json_option
def show(fingerprint: str, as_json: bool) -> None:
    """Show one alert: its numbers, what explains it, and the steps of its life, oldest first.

    \b
    valuetide alerts show a4d1c09be2357f68
    """
    from valuetide.streams.reader import Reader
    from valuetide.streams.settings import load_settings

    async def read() -> "History":
        async with Reader(load_settings()) as reader:
            return await reader.alerts.history(fingerprint)

    found = run(read())
    if as_json:
        print_json(found.as_json())
        return
    for line in history_lines(found):
        click.echo(line)


@alerts.command()
@click.argument("fingerprint")
@click.option(
    "--for",
    "seconds",
    type=Duration(),
    required=True,
    help="How long: a number and m, h, d or w. In a replay it is event time.",
)
@click.option("--why", default="", callback=_one_line, help="For whoever looks at the alert.")
@click.option("--by", callback=_one_line, default=_user, help="Who; else the login name.")
@json_option
def ack(fingerprint: str, seconds: float, why: str, by: str, as_json: bool) -> None:
    """Acknowledge an alert that goes on: nobody is told of it until that has expired.

    An alert that then still fires reminds people of itself. One with the same fingerprint that
    begins anew in that time is acknowledged, too. Acknowledging again replaces the end.

    \b
    valuetide alerts ack a4d1 --for 2h
    valuetide alerts ack a4d1 --for 3d --why "price test in the web shop"
    """
    from valuetide.streams.reader import Reader
    from valuetide.streams.settings import load_settings

    async def write() -> "tuple[OpenAlert, Acknowledgement]":
        async with Reader(load_settings()) as reader:
            return await reader.alerts.acknowledge(fingerprint, seconds, by, why)

    found, known = run(write())
    if as_json:
        print_json({"fingerprint": found.alert["fingerprint"]} | known.as_json())
    else:
        click.echo(f"{found.alert['fingerprint']} acknowledged until {known.as_json()['until']}")


@alerts.command()
@json_option
def watch(as_json: bool) -> None:
    """Print every new step of every alert, one a line, until Ctrl-C.

    \b
    valuetide alerts watch --json | jq -r 'select(.notify) | .sentence'
    """
    from valuetide.streams.alerts import alert_as_json
    from valuetide.streams.reader import Reader
    from valuetide.streams.settings import load_settings

    async def follow() -> None:
        async with Reader(load_settings()) as reader:
            async for step in reader.alerts.follow():
                alert = step.alert
                text = json.dumps(alert_as_json(alert), ensure_ascii=False)
                click.echo(text if as_json else step_line(alert))

    with contextlib.suppress(KeyboardInterrupt):
        run(follow())


def open_lines(one: "OpenAlert") -> list[str]:
    """Give an alert that goes on as lines to read."""
    alert = one.alert
    stake = f"{alert['stake_per_day']:,.2f} {alert['currency']} a day"
    lines = [
        f"{alert['fingerprint']}  {alert['state']}  since {alert['since']:%Y-%m-%d %H:%M}  {stake}",
        f"  {plain(alert['sentence'])}",
    ]
    if one.acknowledged is not None:
        known = one.acknowledged.as_json()
        why = f": {plain(known['why'])}" if known["why"] else ""
        lines.append(f"  acknowledged until {known['until']} by {plain(known['by'])}{why}")
    return lines


def step_line(alert: "Alert") -> str:
    """Give a step as a line to read."""
    return (
        f"{alert['at']:%Y-%m-%d %H:%M}  {alert['fingerprint'][:SHORT]}  {alert['rule']:<8}  "
        f"{alert['reason']:<8}  {plain(alert['sentence'])}"
    )


def history_lines(found: "History") -> list[str]:
    """Give all that is known of one alert as lines to read."""
    last = found.steps[-1].alert if found.now is None else found.now.alert
    lines = [plain(last["sentence"]), ""]
    entries = {
        name: value
        for name, value in last.items()
        if value not in (None, "") and name not in {"id", "causes", "sentence", "notify", "reason"}
    }
    entries |= {name: f"{last[name]:%Y-%m-%d %H:%M} UTC" for name in ("at", "since")}
    entries["state"] = last["state"] if found.now is not None else "ended"
    if found.now is not None and found.now.acknowledged is not None:
        entries["acknowledged"] = ", ".join(filter(None, found.now.acknowledged.as_json().values()))
    width = max(map(len, entries))
    lines += [f"{name:<{width}}  {plain(_text(value))}" for name, value in entries.items()]
    if last["causes"]:
        lines += ["", "explained by"]
    for cause in last["causes"]:
        lines.append(
            f"  {plain(cause['dimension'])} {plain(cause['element'])}: {cause['power']:.0%} of the "
            f"change, {cause['actual']:,.2f} instead of {cause['expected']:,.2f}"
        )
    return [*lines, "", "steps", *(f"  {step_line(step.alert)}" for step in found.steps)]


def _text(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.2f}" if abs(value) >= 1.0 else f"{value:.3g}"


def plain(text: str) -> str:
    """Give text from events without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
