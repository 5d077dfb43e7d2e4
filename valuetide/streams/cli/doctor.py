"""``valuetide doctor``: checks that everything is as it should be."""

from dataclasses import asdict

import click

from valuetide.streams.cli.common import json_option, print_json, run

MARKS = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check broker, topics, Redis, versions, partitioners and clock, and say what to do.

    Exit code 1 where something is wrong that keeps a worker from working rightly; warnings are
    about what could be better.

    \b
    valuetide doctor
    valuetide doctor --json | jq '.[] | select(.state != "ok")'
    """
    from valuetide.streams.doctor import examine
    from valuetide.streams.settings import load_settings

    findings = run(examine(load_settings()))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{MARKS[finding.state]}  {finding.check}: {finding.found}")
            if finding.advice:
                click.echo(f"         -> {finding.advice}")
    errors = sum(finding.state == "error" for finding in findings)
    if errors:
        raise click.ClickException(f"{errors} thing{'s' * (errors > 1)} to mend, see above")
