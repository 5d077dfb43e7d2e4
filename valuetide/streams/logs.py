"""Structured logs on stderr: readable in a terminal, JSON elsewhere."""

import logging
import sys
from typing import Literal

import structlog

NOISY = ("aiokafka", "faust", "mode", "kafka", "asyncio")


def configure_logging(
    level: Literal["debug", "info", "warning", "error"],
    form: Literal["auto", "console", "json"],
) -> None:
    """Set up logging for the process.

    Parameters
    ----------
    level
        Least level that is written. The libraries beneath are written from warning on, at
        ``debug`` from info on.
    form
        ``auto``: ``console`` where stderr is a terminal, else ``json``.
    """
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    number = logging.getLevelName(level.upper())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(number),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ]
            if not console
            else [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in NOISY:
        beneath = logging.INFO if level == "debug" else logging.WARNING
        logging.getLogger(name).setLevel(max(number, beneath))
