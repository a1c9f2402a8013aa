"""Counts and logs what a purge did, after the commit."""

import structlog

from service.purge.policy import Chunk
from service.runtime.metrics import BATCHES_TIMED_OUT, EXPIRED, PURGED

_log = structlog.get_logger(__name__)


def report(chunk: Chunk) -> None:
    """Count and log what a transaction of a purge did. Call it after the commit."""
    PURGED.labels(chunk.task).inc(len(chunk.done))
    match chunk.task:
        case "expired_content":
            EXPIRED.inc(len(chunk.done))
            for batch_id, text_storage_id, correlation_id in chunk.done:
                _log.warning(
                    "content_expired",
                    batch_id=batch_id,
                    text_storage_id=text_storage_id,
                    correlation_id=str(correlation_id),
                )
        case "expired_failures":
            for batch_id, file_upload_id in chunk.done:
                _log.info("failure_expired", batch_id=batch_id, file_upload_id=file_upload_id)
        case "timed_out_batches":
            BATCHES_TIMED_OUT.inc(len(chunk.done))
            for (batch_id,) in chunk.done:
                _log.warning("batch_timed_out", batch_id=batch_id)
        case deleted:
            _log.info(deleted, rows=len(chunk.done))
