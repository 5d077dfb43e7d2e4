"""The command line: one file a verb."""

import click

from valuetide import __version__
from valuetide.streams.cli.alerts import alerts
from valuetide.streams.cli.common import Cli
from valuetide.streams.cli.customer import customer
from valuetide.streams.cli.demo import demo
from valuetide.streams.cli.dlq import dlq
from valuetide.streams.cli.doctor import doctor
from valuetide.streams.cli.model import model
from valuetide.streams.cli.replay import replay
from valuetide.streams.cli.simulate import simulate
from valuetide.streams.cli.top import top
from valuetide.streams.cli.topics import topics
from valuetide.streams.cli.up import up
from valuetide.streams.cli.worker import worker

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 96}


@click.group(cls=Cli, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="valuetide")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    help="TOML file with settings; the same as VALUETIDE_CONFIG.",
)
def cli(config: str | None) -> None:
    """Keep the value of every customer current while things happen.

    Orders, interactions and feedback arrive on Kafka topics; workers fold each event into its
    customer's state in Redis and publish the new score at once.

    \b
    To see it work, with nothing to install beside it:   valuetide demo
    To try it with your own events on this machine:      valuetide up
    To run it beside your Kafka and Redis:
      export VALUETIDE_BROKER=kafka:9092 VALUETIDE_REDIS_URL=redis://redis:6379/0
      valuetide doctor; valuetide topics --create; valuetide worker

    Every setting is an environment variable VALUETIDE_<NAME>, or a line in a TOML file.

    Exit codes: 0 done, 1 an error (one line on stderr says what to do), 2 wrong usage or settings.
    """
    if config is not None:
        import os

        os.environ["VALUETIDE_CONFIG"] = config


for _command in (
    demo, up, worker, replay, simulate, topics, customer, top, model, alerts, dlq, doctor,
):  # fmt: skip
    cli.add_command(_command)


def main() -> None:
    """Run the command line."""
    cli(prog_name="valuetide")
