"""Builds BatchValidationErrors within the size that its topic allows."""

from collections import Counter
from collections.abc import AsyncIterable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from service.domain.contract import (
    ErrorDetail,
    ErrorSummary,
    FailedEssay,
    ValidationErrors,
)
from service.domain.enveloped import Origin, Outgoing, Unpublishable, batch_metadata, paged_event
from service.domain.topics import (
    VALIDATION_ERRORS,
    rfc3339,
)

LONGEST_MESSAGE = 1024

LEAST_CODE, LEAST_NAME = 26, 16
"""Bytes of the error code (enough for every known code) and of the file name in the smallest form of a failure."""

LARGEST_WITH_DETAILS = 16 * 1024 * 1024


class FailedSlot(NamedTuple):
    """A failed slot with the failure that took it. `error_detail` is that of `ValidationFailed`."""

    file_upload_id: str
    original_file_name: str
    validation_error_code: str
    error_detail: dict[str, Any]
    failed_at: datetime


async def validation_errors(
    batch_id: str,
    failures: Callable[[], AsyncIterable[Sequence[FailedSlot]]],
    critical_failure: bool,
    origin: Origin,
    now: datetime,
    *,
    max_bytes: int,
) -> Outgoing:
    """Build the event of a complete batch with failed slots. Each call of `failures` reads their pages anew.

    Where the event would be larger than `LARGEST_WITH_DETAILS`, it is built again without details and stack traces.
    Where it would still be larger than its topic allows, each failure is reduced to its identity, its time and the
    beginnings of its file name and its code: 100,000 failures with UUIDs as upload ids fit then, so that a batch does
    not remain unannounced because of long error texts. Raises Unpublishable where even that is too large.
    """
    enough = min(max_bytes, LARGEST_WITH_DETAILS)
    for essay, most in ((_failed_essay, enough), (_bare_failure, max_bytes)):
        with suppress(Unpublishable):
            return await _errors(batch_id, failures(), essay, critical_failure, origin, now, most)
    return await _errors(batch_id, failures(), _least_failure, critical_failure, origin, now, max_bytes)


async def _errors(
    batch_id: str,
    failures: AsyncIterable[Sequence[FailedSlot]],
    essay: Callable[[FailedSlot], FailedEssay],
    critical_failure: bool,
    origin: Origin,
    now: datetime,
    max_bytes: int,
) -> Outgoing:
    time = rfc3339(now)
    categories = Counter[str]()
    summary: ErrorSummary = {
        "total_errors": 0,
        "error_categories": categories,
        "critical_failure": critical_failure,
    }
    data: ValidationErrors = {
        "event": "batch.validation.errors.v1",
        "batch_id": batch_id,
        "failed_essays": [],
        "error_summary": summary,
        "correlation_id": origin.correlation_id,
        "metadata": batch_metadata(batch_id, "batch.validation.errors", time),
    }

    code_bytes = 0

    def counted(failure: FailedSlot) -> FailedEssay:
        nonlocal code_bytes
        if failure.validation_error_code not in categories:
            # Unknown codes are kept unchanged, however many and long they are.
            code_bytes += len(failure.validation_error_code)
            if code_bytes > max_bytes:
                raise Unpublishable(VALIDATION_ERRORS, batch_id, max_bytes)
        categories[failure.validation_error_code] += 1
        summary["total_errors"] += 1
        return essay(failure)

    return await paged_event(
        VALIDATION_ERRORS, batch_id, data, origin, time, max_bytes, ("failed_essays", failures, counted)
    )


def _failed_essay(failure: FailedSlot) -> FailedEssay:
    kept = failure.error_detail
    message: str = kept["message"]
    # In the order of the contract: jsonb does not preserve the order of fields.
    detail: ErrorDetail = {
        "error_code": kept.get("error_code"),
        "message": _beginning(message, LONGEST_MESSAGE),
        "correlation_id": kept.get("correlation_id"),
        "timestamp": kept.get("timestamp"),
        "service": kept.get("service"),
        "operation": kept.get("operation"),
        "details": kept.get("details") or {},
        "stack_trace": kept.get("stack_trace"),
        "trace_id": kept.get("trace_id"),
        "span_id": kept.get("span_id"),
    }
    return {
        "essay_id": failure.file_upload_id,
        "file_name": failure.original_file_name,
        "error_detail": detail,
        "failed_at": rfc3339(failure.failed_at),
    }


def _bare_failure(failure: FailedSlot) -> FailedEssay:
    return _failed_essay(failure._replace(error_detail={**failure.error_detail, "details": {}, "stack_trace": None}))


def _least_failure(failure: FailedSlot) -> FailedEssay:
    name = _beginning(failure.original_file_name, LEAST_NAME)
    code = _beginning(failure.validation_error_code, LEAST_CODE)
    return _failed_essay(failure._replace(original_file_name=name, error_detail={"message": code}))


def _beginning(text: str, size: int) -> str:
    """Return the beginning of a text, of at most `size` bytes of UTF-8."""
    return text.encode()[:size].decode(errors="ignore")
