"""``valuetide demo``: the whole of it, on real data, with nothing to install beside it."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from valuetide.streams.cli.common import print_json, run
from valuetide.streams.cli.model import model_as_json, model_lines

if TYPE_CHECKING:
    from valuetide.streams.demo.foresight import Equity, Foresight
    from valuetide.streams.demo.run import Demo, Result

BAR = 30
SHOWN_DIFFERENCES = 10


@click.command()
@click.option("--live", is_flag=True, help="Stay up afterwards, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print what was measured as JSON.")
def demo(live: bool, as_json: bool) -> None:
    """See it work: CDNOW's 69,659 orders of 23,570 customers, through Kafka, worker and Redis.

    Starts an embedded broker, an embedded Redis and a worker; replays the file; waits until every
    event is accounted for; recomputes every customer with a separate batch program and compares;
    prints a summary. At the end of each quarter it stops to read what all customers are worth, and
    what was foreseen at week 39 is compared with what came. Exit code 1 where anything differs.
    Needs the extra `demo`.

    With --live everything stays up, and the lines to use it from another terminal are printed.

    \b
    valuetide demo --live
    valuetide demo --json | jq .events_per_second
    """
    from rich.console import Console

    from valuetide.streams.demo.run import Demo, cdnow_file
    from valuetide.streams.replay.progress import progress_on

    path = cdnow_file()
    stderr = Console(stderr=True, highlight=False)
    running = Demo(lambda line: stderr.print(line, style="dim"))
    running.start()
    try:
        with progress_on(stderr) as on_progress:
            result = run(running.run(path, on_progress))
        if as_json:
            print_json(_as_json(result))
        else:
            _print_summary(result, running.settings.vocabulary.base_currency)
        if live and not result.wrong:
            _stay(running)
    finally:
        running.close()
    if result.wrong:
        for place, fields in list(result.wrong.items())[:SHOWN_DIFFERENCES]:
            click.echo(f"differs: {place}: {', '.join(fields)}", err=True)
        raise click.ClickException(f"{len(result.wrong)} differences from the batch program")


def _as_json(result: "Result") -> dict[str, object]:
    return {
        "events": result.events,
        "customers": result.customers,
        "dead_letters": result.dead_letters,
        "duplicates": result.duplicates,
        "seconds": round(result.seconds, 3),
        "events_per_second": round(result.events / result.seconds),
        "worker_cpu_us_per_event": round(result.worker_cpu_us, 2),
        "redis_bytes_per_customer": round(result.redis_bytes, 1),
        "model": model_as_json(result.learned, result.equity[-1].clv),
        "equity": {str(one.day): one.clv for one in result.equity},
        "foreseen": _foreseen_as_json(result),
        "customers_checked": result.checked,
        "differences": len(result.wrong),
        "totals": result.totals,
        "months": result.months,
    }


def _foreseen_as_json(result: "Result") -> list[dict[str, object]]:
    return [] if result.foresight is None else [asdict(one) for one in result.foresight.deciles]


def _print_summary(result: "Result", currency: str) -> None:
    from rich.console import Console

    from valuetide.streams.cli.tables import customers_table

    console = Console(highlight=False, soft_wrap=True)
    rate = result.events / result.seconds
    console.print()
    console.print(
        f"[bold]{result.events:,} orders of {result.customers:,} customers[/bold] in "
        f"{result.seconds:.1f} s: {rate:,.0f} events/s, {result.worker_cpu_us:.1f} us of the "
        f"worker's CPU an event, {result.redis_bytes:,.0f} bytes of Redis a customer"
    )
    console.print(
        f"{result.dead_letters} dead letters, {result.duplicates} duplicates, revenue "
        f"{result.totals['revenue']:,.2f} {currency}"
    )
    console.print()
    console.print("[bold]Revenue by month[/bold]")
    most = max(sums["revenue"] for sums in result.months.values())
    for month, sums in result.months.items():
        bar = "█" * round(BAR * sums["revenue"] / most)
        console.print(
            f"{month}  {bar:<{BAR}} {sums['revenue']:>12,.2f} {currency}  "
            f"{sums['orders']:>6,.0f} orders"
        )
    console.print()
    console.print("[bold]Customer equity: the clv of all customers together[/bold]")
    for line in _equity_lines(result.equity, currency):
        console.print(line)
    if result.foresight is not None:
        console.print()
        console.print("[bold]Foreseen at week 39, and what came in the 39 weeks after it[/bold]")
        for line in _foresight_lines(result.foresight):
            console.print(line)
    console.print()
    console.print("[bold]What was learned by the end, and how good predictions were[/bold]")
    for line in model_lines(result.learned, result.equity[-1].clv):
        console.print(line)
    console.print()
    console.print("[bold]The ten customers with the greatest lifetime value[/bold]")
    console.print(customers_table(result.best, currency))
    console.print()
    if not result.wrong:
        console.print(
            "[bold green]All equal:[/bold green] every current value of "
            f"{result.checked:,} customers, every month and every event is what the batch program "
            "says; the scores topic has the newest version of each."
        )


def _equity_lines(equity: list["Equity"], currency: str) -> list[str]:
    names = list(equity[0].clv)
    most = max(one.clv[names[-1]] for one in equity)
    lines = []
    for one in equity:
        bar = "█" * round(BAR * one.clv[names[-1]] / most)
        sums = ", ".join(f"{value:>12,.2f} {currency} ({name})" for name, value in one.clv.items())
        lines.append(f"{one.day}  {bar:<{BAR}} {sums}  {one.customers:>6,} customers")
    return lines


def _foresight_lines(foresight: "Foresight") -> list[str]:
    from valuetide.scoring.lifetime.grade import report

    lines = [f"{'decile':>8}{'customers':>11}{'orders predicted':>18}{'realised':>10}"]
    lines += [
        f"{nth:>8}{one.customers:>11,}{one.predicted:>18,.1f}{one.realised:>10,}"
        for nth, one in enumerate(foresight.deciles, start=1)
    ]
    predicted = sum(one.predicted for one in foresight.deciles)
    realised = sum(one.realised for one in foresight.deciles)
    customers = sum(one.customers for one in foresight.deciles)
    lines.append(f"{'all':>8}{customers:>11,}{predicted:>18,.1f}{realised:>10,}")
    if realised:
        off = predicted / realised - 1.0
        lines.append(f"  predicted {abs(off):.1%} {'more' if off > 0 else 'fewer'} than came")
    for days, grade in foresight.learned.knowledge.grades.items():
        if grade.cohorts:
            found = report(grade.total)
            lines.append(
                f"  its grade of itself by then, {days} days ahead, {found.outcomes:,.0f} outcomes:"
                f" orders {found.orders.bias:+.1%}, calibration slope {found.orders.slope:.3f}"
            )
    return lines


def _stay(running: "Demo") -> None:
    import signal
    import threading

    click.echo()
    click.echo("Still running. In another terminal:")
    click.echo(
        f"  export VALUETIDE_BROKER={running.services.broker} "
        f"VALUETIDE_REDIS_URL={running.services.redis_url} "
        f"VALUETIDE_VOCABULARY__BASE_CURRENCY={running.settings.vocabulary.base_currency} "
        f"VALUETIDE_HORIZONS_DAYS={','.join(map(str, running.settings.horizons_days))}"
    )
    click.echo("  valuetide top; valuetide customer 00317; valuetide model; valuetide doctor")
    click.echo(f"  curl http://{running.worker.address}/top")
    click.echo("Ctrl-C ends it and leaves nothing behind.")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(1.0):
        if not running.worker.running:
            raise click.ClickException(f"the worker ended:\n{running.worker.log_tail()}")
