"""Writes logs: one JSON object per line, or lines for people."""

import io
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, TextIO
from uuid import UUID

import orjson
import structlog

from service.runtime.text import plain, plain_lines, safe_json

FORMER_EVENTS: Final[Mapping[str, str]] = {
    "background_task_failed": "trouble",
    "background_task_recovered": "trouble_over",
    "batches_deferred": "batches_set_aside",
    "gauges_unavailable": "gauges_unknown",
    "input_rejected": "input_refused",
    "registration_differs": "registration_differs_from_the_first",
    "rejection_repeated": "refusal_repeated",
    "relay_shutdown_incomplete": "relay_left_late",
    "topic_paused": "topic_stopped",
}
"""Log events that were renamed in 0.2.0. Their lines carry the old name as `former_event` until 0.3.0."""

_log = structlog.get_logger(__name__)


_LINES_TO: ContextVar[TextIO | None] = ContextVar("lines_to", default=None)


class _Output:
    stream: TextIO | None = None
    is_json = False
    """Whether `log_many` writes JSON itself; else structlog renders each line. Set by `set_up_logging`."""


def set_up_logging(level: str, form: str, stream: TextIO | None = None) -> None:
    """Log messages of `level` and above to the stream, by default standard output.

    `form` is `json` (one object per line) or `console` (lines for people).
    """
    output = stream or sys.stdout
    _Output.is_json, _Output.stream = form == "json", stream
    if isinstance(output, io.TextIOWrapper):
        output.reconfigure(errors="backslashreplace")  # for terminals without Unicode
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.JSONRenderer()]
        if form == "json"
        else [_make_plain, structlog.dev.ConsoleRenderer(colors=output.isatty())]
    )
    structlog.configure(
        processors=[_add_former_event, *shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard module; their lines get the same format. The levels below silence noise:
    # aiokafka logs a lost connection many times a second; psycopg warns of the statements that a pipeline skipped after
    # an error, and that error is raised anyway.
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("psycopg").setLevel(logging.ERROR)


@contextmanager
def lines_to(stream: TextIO) -> Iterator[None]:
    """Let `log_many` write JSON to this stream, without any other logging: for a command that is no pod."""
    token = _LINES_TO.set(stream)
    try:
        yield
    finally:
        _LINES_TO.reset(token)


def log_many(lines: Iterable[dict[str, Any]]) -> None:
    """Log lines at level info, each with its `event`. JSON lines are written together, at a tenth of the cost.

    Raises OSError if the output cannot be written to.
    """
    stream = _LINES_TO.get()
    if stream is None and not _log.is_enabled_for(logging.INFO):
        return
    if stream is not None or _Output.is_json:
        ends = {"level": "info", "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z")}
        encoded = [orjson.dumps(_add_former_event(None, "info", line) | ends) for line in lines]
        output = stream or _Output.stream or sys.stdout
        output.write(safe_json(b"\n".join([*encoded, b""]).decode()))
        output.flush()
    else:
        for line in lines:
            _log.info(**{name: str(value) if isinstance(value, UUID) else value for name, value in line.items()})


def _make_plain(_: object, __: str, fields: Any) -> Any:
    """Make text from outside harmless for a terminal. JSON escapes it by itself."""
    for name, value in fields.items():
        if isinstance(value, str):
            fields[name] = plain_lines(value) if name == "exception" else plain(value)
        elif isinstance(value, list | tuple | dict):
            fields[name] = plain(repr(value))
    return fields


def _add_former_event(_: object, __: str, fields: Any) -> Any:
    if former := FORMER_EVENTS.get(fields["event"]):
        fields["former_event"] = former
    return fields
