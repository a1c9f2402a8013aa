"""Counts and logs what a purge did, after the commit."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog

from service.domain.events import trace_id_of
from service.purge.policy import Chunk
from service.runtime.logging import log_many
from service.runtime.metrics import BATCHES_READY, BATCHES_TIMED_OUT, EXPIRED, PURGED

_log = structlog.get_logger(__name__)

_ORIGIN: Final = ("correlation_id", "traceparent")

_CONTENT: Final = ("batch_id", "text_storage_id", *_ORIGIN)
_FAILURE: Final = ("batch_id", "file_upload_id", *_ORIGIN)
_CONFIRMATION: Final = ("batch_id", "class_id", *_ORIGIN)
_BATCH: Final = ("batch_id", *_ORIGIN)

_EVENT_OF: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "expired_content": ("content_expired", _CONTENT),
    "expired_failures": ("failure_expired", _FAILURE),
    "timed_out_batches": ("batch_timed_out", _BATCH),
    "settled_confirmations": ("confirmation_settled", _CONFIRMATION),
    "deleted_content": ("content_deleted", _CONTENT),
    "deleted_failures": ("failure_deleted", _FAILURE),
    "deleted_batches": ("batch_deleted", _BATCH),
    "deleted_confirmations": ("confirmation_deleted", _CONFIRMATION),
    "deleted_removed": ("content_deleted", _CONTENT),
    "deleted_removed_failures": ("failure_deleted", _FAILURE),
    "deleted_quarantine": ("quarantine_deleted", ("topic", "id")),
}
"""The tasks of which each row is logged: the event, and what a row of `Chunk.done` has."""

_WARNINGS: Final = ("content_expired", "batch_timed_out")

_COUNTED: Final = (
    *("deleted_content", "deleted_failures", "deleted_batches", "deleted_removed", "deleted_removed_failures"),
    *("deleted_quarantine", "deleted_actions", "deleted_erasures", "trimmed_batches"),
)
"""The tasks of which each chunk is logged, with the number of its rows."""


def report(chunk: Chunk) -> None:
    """Count and log what a transaction of a purge did. Call it after the commit."""
    PURGED.labels(chunk.task).inc(len(chunk.done))
    match chunk.task:
        case "indexed_batches":
            return  # nothing has changed for anybody
        case "expired_content":
            EXPIRED.inc(len(chunk.done))
        case "timed_out_batches":
            BATCHES_TIMED_OUT.inc(len(chunk.done))
    BATCHES_READY.inc(len(chunk.ready))
    if chunk.task in _COUNTED:
        _log.info(chunk.task, rows=len(chunk.done))
    if event_of := _EVENT_OF.get(chunk.task):
        _log_rows(*event_of, chunk.done)
    _log_rows("batch_ready", _BATCH, chunk.ready)


def _log_rows(event: str, names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    lines = ((event, _fields(dict(zip(names, row, strict=True)))) for row in rows)
    log_many(lines, "warning" if event in _WARNINGS else "info")


def _fields(row: dict[str, Any]) -> dict[str, Any]:
    """Return the known fields of a line. A row of a previous release, or of a recovery, may lack its origin."""
    traceparent = row.pop("traceparent", None)
    return {name: value for name, value in row.items() if value is not None} | (
        {"trace_id": trace_id} if (trace_id := trace_id_of(traceparent)) else {}
    )
