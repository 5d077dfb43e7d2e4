"""``valuetide worker``: one worker process."""

import click

from valuetide.streams.cli.common import run, spare_loaded_code, worker_loop


@click.command()
@click.option("--http-port", type=click.IntRange(0, 65_535), help="Instead of the setting.")
def worker(http_port: int | None) -> None:
    """Run one worker until it is told to stop (SIGINT, SIGTERM).

    Start as many as there are partitions at most; they share the partitions among themselves. A
    worker that ends, however it ends, loses nothing: its partitions go to the others, which go on
    from the last commit in Redis.

    \b
    It serves /healthz, /readyz, /metrics, /customers/{id} and /top on http_host:http_port.

    \b
    valuetide worker
    valuetide worker --http-port 8089      a second one on the same machine

    Exit codes: 0 stopped in good order, 1 a server was away for longer than retry_seconds or
    something is wrong that only a person can mend; the last line says what.
    """
    from valuetide.streams.logs import configure_logging
    from valuetide.streams.settings import load_settings
    from valuetide.streams.worker import Worker

    settings = load_settings(http_port=http_port)
    configure_logging(settings.log_level, settings.log_format)

    async def work() -> None:
        process = Worker(settings)
        process.stop_on_signals()
        await process.run()

    spare_loaded_code()
    run(work(), worker_loop)
