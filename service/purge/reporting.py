"""Counts and logs what a purge did, after the commit."""

from collections.abc import Mapping
from typing import Final

import structlog

from service.purge.policy import Chunk
from service.runtime.metrics import BATCHES_READY, BATCHES_TIMED_OUT, EXPIRED, PURGED

_log = structlog.get_logger(__name__)


def report(chunk: Chunk) -> None:
    """Count and log what a transaction of a purge did. Call it after the commit."""
    PURGED.labels(chunk.task).inc(len(chunk.done))
    match chunk.task:
        case "expired_content":
            EXPIRED.inc(len(chunk.done))
        case "timed_out_batches":
            BATCHES_TIMED_OUT.inc(len(chunk.done))
        case "settled_confirmations" | "ended_waits":
            BATCHES_READY.inc(chunk.published)
    event, names = _EVENT_OF.get(chunk.task, ("", ()))
    if not names:
        _log.info(chunk.task, rows=len(chunk.done))
        return
    log = _log.warning if event in _WARNINGS else _log.info
    for key in chunk.done:
        log(event, **{name: str(value) for name, value in zip(names, key, strict=True)})


_EVENT_OF: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "expired_content": ("content_expired", ("batch_id", "text_storage_id", "correlation_id")),
    "expired_failures": ("failure_expired", ("batch_id", "file_upload_id")),
    "timed_out_batches": ("batch_timed_out", ("batch_id",)),
    "settled_confirmations": ("confirmation_settled", ("batch_id", "class_id")),
    "deleted_confirmations": ("confirmation_deleted", ("batch_id", "class_id")),
    "ended_waits": ("batch_ready", ("batch_id",)),
}
"""The tasks of which each row is logged: the event, and the fields of the row's key."""

_WARNINGS: Final = ("content_expired", "batch_timed_out")
