"""Builds BatchValidationErrors within the size that its topic allows."""

from collections import Counter
from collections.abc import AsyncIterable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, NamedTuple, get_args
from uuid import UUID

from service.domain.contract import (
    ErrorCode,
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

SHORT_CODE, SHORT_NAME = 26, 16
"""Bytes of the error code (enough for every known code) and of the file name in the smallest form of a failure."""

_CODES: Final = frozenset(get_args(ErrorCode))
_UNKNOWN: Final = "UNKNOWN_VALIDATION_ERROR"
ORIGINAL_CODE: Final = "original_error_code"
"""The field of `details` that has the code of the producer, where that is not on the contract's list."""

LARGEST_WITH_DETAILS = 16 * 1024 * 1024


class FailedSlot(NamedTuple):
    """A failed slot with the failure that took it. `error_detail` and its correlation id are of `ValidationFailed`."""

    file_upload_id: str
    original_file_name: str
    validation_error_code: str
    error_detail: dict[str, Any]
    failed_at: datetime
    correlation_id: UUID


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
    Where it would still be larger than its topic allows, the file name and the message are cut to their beginnings,
    and then to nothing. These two forms may be a quarter larger than `max_bytes`, since the relay compresses what its
    topic does not take otherwise: strict readers require so many fields that 100,000 failures need 37 MB. So these fit
    with upload ids of up to 80 bytes, and a batch does not remain unannounced because of long error texts. Raises
    Unpublishable where even that is too large.
    """
    compressed = max_bytes + max_bytes // 4
    forms = (
        (_failed_essay, min(max_bytes, LARGEST_WITH_DETAILS)),
        (_bare, max_bytes),
        (_short, compressed),
    )
    for essay, most in forms:
        with suppress(Unpublishable):
            return await _errors(batch_id, failures(), essay, critical_failure, origin, now, most)
    return await _errors(batch_id, failures(), _shortest, critical_failure, origin, now, compressed)


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
    categories = Counter[ErrorCode]()
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

    def counted(failure: FailedSlot) -> FailedEssay:
        listed = essay(failure)
        categories[listed["error_detail"]["error_code"]] += 1
        summary["total_errors"] += 1
        return listed

    return await paged_event(
        VALIDATION_ERRORS, batch_id, data, origin, time, max_bytes, ("failed_essays", failures, counted)
    )


def _failed_essay(failure: FailedSlot, *, bare: bool = False) -> FailedEssay:
    kept = failure.error_detail
    message: str = kept["message"]
    code, original = _codes(kept.get("error_code"), failure.validation_error_code)
    details = {} if bare else kept.get("details") or {}
    if original is not None:
        details = {**details, ORIGINAL_CODE: original}
    # What the producer left out is filled in: strict readers require these fields.
    detail: ErrorDetail = {
        "error_code": code,
        "message": _beginning(message, LONGEST_MESSAGE),
        "correlation_id": kept.get("correlation_id") or failure.correlation_id,
        "timestamp": kept.get("timestamp") or rfc3339(failure.failed_at),
        "service": _value(kept.get("service"), "file_service"),
        "operation": _value(kept.get("operation"), "validate_content"),
        "details": details,
        "stack_trace": None if bare else kept.get("stack_trace"),
        "trace_id": kept.get("trace_id"),
        "span_id": kept.get("span_id"),
    }
    return {
        "essay_id": failure.file_upload_id,
        "file_name": failure.original_file_name,
        "error_detail": detail,
        "failed_at": rfc3339(failure.failed_at),
    }


def _codes(stated: str | None, code: str) -> tuple[ErrorCode, str | None]:
    """Return the first code that is on the contract's list, and the first one that is not, where there is one.

    The detail's own code, `stated`, comes before that of the failure.
    """
    given = [each for each in (stated, code) if each is not None]
    known: Any = next((each for each in given if each in _CODES), _UNKNOWN)
    return known, next((each for each in given if each not in _CODES), None)


def _value(given: str | None, otherwise: str) -> str:
    return otherwise if given is None else given


def _bare(failure: FailedSlot) -> FailedEssay:
    return _failed_essay(failure, bare=True)


def _short(failure: FailedSlot) -> FailedEssay:
    name = _beginning(failure.original_file_name, SHORT_NAME)
    code, original = _codes(failure.error_detail.get("error_code"), failure.validation_error_code)
    detail = {"message": _beginning(original or "", SHORT_CODE), "error_code": code}
    return _failed_essay(failure._replace(original_file_name=name, validation_error_code=code, error_detail=detail))


def _shortest(failure: FailedSlot) -> FailedEssay:
    listed = _short(failure)
    listed["file_name"] = ""
    listed["error_detail"] |= {"message": "", "service": "", "operation": ""}
    return listed


def _beginning(text: str, size: int) -> str:
    """Return the beginning of a text, of at most `size` bytes of UTF-8."""
    return text.encode()[:size].decode(errors="ignore")
