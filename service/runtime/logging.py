"""Logs: one JSON object per line."""

import io
import logging
import sys
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    pass


_plain_json = False
"""Whether lines are JSON on standard output, as `set_up_logging` has it; else structlog renders each."""


def set_up_logging(level: str, form: str) -> None:
    """One JSON object a line on standard output, or lines for people (`console`)."""
    global _plain_json  # noqa: PLW0603  as structlog's own configuration is
    _plain_json = form == "json"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that knows no Unicode
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.JSONRenderer()]
        if form == "json"
        else [structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())]
    )
    structlog.configure(
        processors=shared + last,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        logger_factory=structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=True,
    )
    # What the libraries say goes the same way. aiokafka tells of every lost connection, many times a second; psycopg of
    # what a pipeline left undone behind the statement that failed, whose error is raised.
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("psycopg").setLevel(logging.ERROR)
