"""``valuetide up``: broker, Redis and a worker on this machine, to try one's own events."""

import click

from valuetide.streams.cli.common import run


@click.command()
@click.option("--broker-port", type=click.IntRange(1, 65_535), help="Default: a free one.")
@click.option("--redis-port", type=click.IntRange(1, 65_535), help="Default: a free one.")
@click.option("--http-port", type=click.IntRange(1, 65_535), help="Default: a free one.")
@click.option("--no-worker", is_flag=True, help="Only broker and Redis, with the topics.")
def up(
    broker_port: int | None, redis_port: int | None, http_port: int | None, no_worker: bool
) -> None:
    """Start an embedded broker, an embedded Redis and a worker, until Ctrl-C.

    It prints a line to paste into another terminal, where all other commands then work:

    \b
    export VALUETIDE_BROKER=127.0.0.1:40123 VALUETIDE_REDIS_URL=redis://127.0.0.1:40124/0
    valuetide replay orders.csv --map customer_id=who ...
    valuetide top

    Everything is kept in memory and gone afterwards. Needs the extra `embedded`.
    """
    from valuetide.streams.embedded import embedded_services
    from valuetide.streams.local import local_settings, prepare
    from valuetide.streams.logs import configure_logging
    from valuetide.streams.worker import Worker

    with embedded_services(broker_port=broker_port, redis_port=redis_port) as services:
        settings = local_settings(services, http_port=http_port or 0, log_level="warning")
        configure_logging(settings.log_level, settings.log_format)
        prepare(settings)
        line = f"export VALUETIDE_BROKER={services.broker} VALUETIDE_REDIS_URL={services.redis_url}"

        def announce(ready: Worker) -> None:
            click.echo(f"{line}\n# worker ready, {ready.http_address}")

        async def work() -> None:
            if no_worker:
                click.echo(line)
                await _until_signal()
                return
            worker = Worker(settings)
            worker.stop_on_signals()
            await worker.run(announce)

        run(work())


async def _until_signal() -> None:
    import asyncio
    import signal

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    click.echo("# ready")
    await stop.wait()
