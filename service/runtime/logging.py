"""Writes logs: one JSON object per line, or lines for people.

All lines have one spelling, whoever writes them: JSON without spaces, in UTF-8, its fields in the order of `FIRST`. So
a search for an id, or for `"batch_id":"b1"`, finds every line about it.
"""

import io
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO
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

FIRST: Final = (
    *("event", "level", "timestamp", "former_event"),
    *("batch_id", "text_storage_id", "file_upload_id", "correlation_id", "trace_id"),
    *("topic", "partition", "offset", "cell"),
)
"""The fields that come first in a line, those that it has, in this order."""

_FORM: Final = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS

_log = structlog.get_logger(__name__)


_LINES_TO: ContextVar[TextIO | None] = ContextVar("lines_to", default=None)


class _Output:
    stream: TextIO | None = None
    common: Mapping[str, Any] = {}
    """Fields of each line: the cell, where there are several."""
    is_json = False
    """Whether `log_many` writes JSON itself; else structlog renders each line. Set by `set_up_logging`."""


def set_up_logging(level: str, form: str, stream: TextIO | None = None) -> None:
    """Log messages of `level` and above to the stream, by default standard output.

    `form` is `json` (one object per line) or `console` (lines for people).
    """
    output = stream or sys.stdout
    _Output.is_json, _Output.stream = form == "json", stream
    if isinstance(output, io.TextIOWrapper):
        # JSON is UTF-8, whatever the locale is; a terminal without Unicode gets escapes.
        output.reconfigure(encoding="utf-8" if form == "json" else None, errors="backslashreplace")
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_timestamp,
        structlog.processors.format_exc_info,
    ]
    last: list[structlog.typing.Processor] = (
        [_render_json] if form == "json" else [_make_plain, structlog.dev.ConsoleRenderer(colors=output.isatty())]
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
    logging.captureWarnings(True)


@contextmanager
def lines_to(stream: TextIO) -> Iterator[None]:
    """Let `log_many` write JSON to this stream, without any other logging: for a command that is no pod."""
    token = _LINES_TO.set(stream)
    try:
        yield
    finally:
        _LINES_TO.reset(token)


def log_many(lines: Iterable[tuple[str, dict[str, Any]]], level: Literal["info", "warning"] = "info") -> None:
    """Log lines, each an event with its fields in the order of `FIRST`.

    JSON lines are written together, at a tenth of the cost of one call for each. Raises OSError if the output cannot be
    written to.
    """
    stream = _LINES_TO.get()
    if stream is None and not _log.is_enabled_for(getattr(logging, level.upper())):
        return
    if stream is None and not _Output.is_json:
        for event, fields in lines:
            getattr(_log, level)(event, **{name: _text(value) for name, value in fields.items()})
        return
    heads: dict[str, bytes] = {}
    encoded = []
    for event, fields in lines:
        head = heads.get(event) or heads.setdefault(event, _head(event, level))
        encoded.append(head + orjson.dumps(fields, option=_FORM)[1:])
    output = stream or _Output.stream or sys.stdout
    output.write(safe_json(b"\n".join([*encoded, b""]).decode()))
    output.flush()


def _head(event: str, level: str) -> bytes:
    """Return the beginning of a JSON line, to which at least one more field is added."""
    fields = _add_timestamp(None, level, {"event": event, "level": level})
    return orjson.dumps(_add_former_event(None, level, fields))[:-1] + b","


def _text(value: object) -> object:
    return str(value) if isinstance(value, UUID) else value


def set_cell(cell: int | None) -> None:
    """Add the number of the cell to each line from now on; None where there is only one."""
    _Output.common = {} if cell is None else {"cell": cell}


def _add_timestamp(_: object, __: str, fields: Any) -> Any:
    fields.update(_Output.common)
    fields["timestamp"] = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return fields


def _render_json(_: object, __: str, fields: Any) -> str:
    ordered = {name: fields.pop(name) for name in FIRST if name in fields} | fields
    try:
        return safe_json(orjson.dumps(ordered, default=repr, option=_FORM).decode())
    except TypeError:  # a number of more than 64 bits, or text that is not Unicode
        return json.dumps(ordered, default=repr, separators=(",", ":"))


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
