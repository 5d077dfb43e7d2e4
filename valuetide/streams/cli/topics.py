"""``valuetide topics``: the topics as declared and as found."""

import click

from valuetide.streams.cli.common import json_option, print_json


@click.command()
@click.option("--create", is_flag=True, help="Create the topics that are absent.")
@json_option
def topics(create: bool, as_json: bool) -> None:
    """Show the topics, what flows on them, and whether the broker has them.

    With --create those that are absent are created, with the settings' partitions and replication;
    doing so again changes nothing. Exit code 1 where a topic is absent or has another number of
    partitions than the settings say.

    \b
    VALUETIDE_PARTITIONS=12 VALUETIDE_REPLICATION=3 valuetide topics --create
    """
    from valuetide.streams.admin import admin_client, check_topics, create_topics, topic_states
    from valuetide.streams.settings import load_settings

    settings = load_settings()
    with admin_client(settings) as client:
        created = create_topics(client, settings) if create else []
        states = topic_states(client, settings)
    if as_json:
        print_json(
            [
                {
                    "topic": state.name,
                    "direction": state.declaration.direction,
                    "partitions": state.found_partitions,
                    "wanted_partitions": state.partitions,
                    "config": state.declaration.config(),
                    "created": state.name in created,
                }
                for state in states
            ]
        )
    else:
        width = max(len(state.name) for state in states)
        for state in states:
            found = state.found_partitions
            there = "absent" if found is None else f"{found} partitions"
            note = " (created)" if state.name in created else "" if state.sound else " <- wrong"
            click.echo(
                f"{state.name:<{width}}  {state.declaration.direction:<3}  {there}{note}  "
                f"{state.declaration.title}"
            )
    check_topics(states)
