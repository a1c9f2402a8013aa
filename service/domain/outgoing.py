"""The wire, outward: our six events, built as the bytes that are published.

The TypedDicts are the one description of what leaves: mypy holds the builders to them, tests validate
what was built by them (pydantic reads TypedDicts), and at run time they cost nothing. An event built
again for the same thing has its old id. What is longer than its topic takes is `Unpublishable`, found
out here, before the commit; lists come as pages, so that no more than the payload itself is in memory.
"""

import json
from collections import Counter
from collections.abc import AsyncIterable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from hashlib import sha1
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

import orjson
from pydantic import Field
from typing_extensions import TypedDict

from service.domain.incoming import (
    BATCH_READY,
    EXCESS_CONTENT,
    PENDING_EXPIRED,
    READINESS_TIMEOUT,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
    CourseCode,
    rfc3339,
)

SOURCE_SERVICE: Final = "essay-lifecycle-service"
LONGEST_MESSAGE = 1024
LEAST_CODE, LEAST_NAME = 26, 16
"""Bytes of a failure's code, whole where it is one that we know, and of its file's name, where every byte counts."""
LARGEST_WITH_DETAILS = 16 * 1024 * 1024
_NAMESPACE = UUID("2f1f3a5e-6c0d-4f0e-9d3b-8a54c1f7b6e2").bytes
_HASH = sha1(_NAMESPACE, usedforsecurity=False)
_VERSION_BITS, _VERSION_5 = 0xF000_C000_0000_0000_0000, 0x5000_8000_0000_0000_0000

ExcessReason = Literal["BATCH_FULL", "NO_AVAILABLE_SLOT"]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]
_Data = TypeVar("_Data")


class Outgoing(NamedTuple):
    """One record to publish, keyed by its batch. `payload` is JSON in UTF-8, and may weigh many megabytes."""

    topic: str
    batch_id: str
    event_id: UUID
    payload: bytes | bytearray
    correlation_id: UUID
    traceparent: str | None
    tracestate: str | None


class Origin(NamedTuple):
    """What an event takes over from the input that it answers."""

    correlation_id: UUID
    traceparent: str | None = None
    tracestate: str | None = None


class FailedSlot(NamedTuple):
    """A failed slot, with the failure that took it. `error_detail` is what `events` made of it."""

    file_upload_id: str
    original_file_name: str
    validation_error_code: str
    error_detail: dict[str, Any]
    failed_at: datetime


class Unpublishable(ValueError):
    """An event is longer than what its topic takes."""

    def __init__(self, topic: str, batch_id: str, max_bytes: int) -> None:
        super().__init__(f"{topic} of batch {batch_id} is longer than {max_bytes} bytes")
        self.topic, self.batch_id, self.max_bytes = topic, batch_id, max_bytes


class Envelope(TypedDict, Generic[_Data]):
    event_id: UUID
    event_type: str
    event_timestamp: Time
    source_service: Literal["essay-lifecycle-service"]
    schema_version: Literal[1]
    correlation_id: UUID
    data_schema_uri: None
    data: _Data
    metadata: dict[str, str] | None


class BatchEntity(TypedDict):
    entity_id: str
    entity_type: Literal["batch"]
    parent_id: None


class BatchMetadata(TypedDict):
    entity: BatchEntity
    timestamp: Time
    processing_stage: None
    started_at: None
    completed_at: None
    event: str
    error_info: dict[str, Any]


class ReadyEssay(TypedDict):
    essay_id: str
    text_storage_id: str


class SlotAssigned(TypedDict):
    event: Literal["essay.slot.assigned"]
    batch_id: str
    essay_id: str
    file_upload_id: str
    text_storage_id: str
    original_file_name: str
    correlation_id: UUID
    timestamp: Time


class ExcessContent(TypedDict):
    event: Literal["excess.content.provisioned"]
    batch_id: str
    original_file_name: str
    text_storage_id: str
    reason: ExcessReason
    correlation_id: UUID
    timestamp: Time


class PendingExpired(TypedDict):
    event: Literal["pending.content.expired"]
    batch_id: str
    text_storage_id: str
    original_file_name: str
    file_upload_id: str
    stored_at: Time
    expired_at: Time
    correlation_id: UUID
    timestamp: Time


class BatchReady(TypedDict):
    event: Literal["batch.essays.ready"]
    batch_id: str
    ready_essays: list[ReadyEssay]
    batch_entity: BatchEntity
    metadata: BatchMetadata
    course_code: CourseCode
    course_language: Literal["en", "sv"]
    essay_instructions: str
    class_type: Literal["REGULAR", "GUEST"]
    teacher_first_name: None
    teacher_last_name: None


class ErrorDetail(TypedDict):
    error_code: str | None
    message: str
    correlation_id: str | None
    timestamp: Time | None
    service: str | None
    operation: str | None
    details: dict[str, Any]
    stack_trace: str | None
    trace_id: str | None
    span_id: str | None


class FailedEssay(TypedDict):
    essay_id: str
    file_name: str
    error_detail: ErrorDetail
    failed_at: Time


class ErrorSummary(TypedDict):
    total_errors: int
    error_categories: dict[str, int]
    critical_failure: bool


class ValidationErrors(TypedDict):
    event: Literal["batch.validation.errors.v1"]
    batch_id: str
    failed_essays: list[FailedEssay]
    error_summary: ErrorSummary
    correlation_id: UUID
    metadata: BatchMetadata


class ReadinessTimeout(TypedDict):
    event: Literal["batch.readiness.timeout"]
    batch_id: str
    ready_essays: list[ReadyEssay]
    missing_essay_ids: list[str]
    expected_count: int
    actual_count: int
    timeout_duration_seconds: int
    metadata: BatchMetadata


# What each topic's `data` is: for tests and for whoever documents the wire.
DATA_OF: dict[str, Any] = {
    SLOT_ASSIGNED: SlotAssigned,
    BATCH_READY: BatchReady,
    EXCESS_CONTENT: ExcessContent,
    VALIDATION_ERRORS: ValidationErrors,
    PENDING_EXPIRED: PendingExpired,
    READINESS_TIMEOUT: ReadinessTimeout,
}


def slot_assigned(
    batch_id: str,
    essay_id: str,
    text_storage_id: str,
    file_upload_id: str,
    original_file_name: str,
    origin: Origin,
    now: datetime,
    *,
    max_bytes: int,
) -> Outgoing:
    """A content got its slot. Raises Unpublishable, as all that follow do."""
    time = rfc3339(now)
    data: SlotAssigned = {
        "event": "essay.slot.assigned",
        "batch_id": batch_id,
        "essay_id": essay_id,
        "file_upload_id": file_upload_id,
        "text_storage_id": text_storage_id,
        "original_file_name": original_file_name,
        "correlation_id": origin.correlation_id,
        "timestamp": time,
    }
    return _small(SLOT_ASSIGNED, batch_id, text_storage_id, data, origin, time, max_bytes)


def excess_content(
    batch_id: str,
    text_storage_id: str,
    original_file_name: str,
    reason: ExcessReason,
    origin: Origin,
    now: datetime,
    *,
    max_bytes: int,
) -> Outgoing:
    """A content found no open slot."""
    time = rfc3339(now)
    data: ExcessContent = {
        "event": "excess.content.provisioned",
        "batch_id": batch_id,
        "original_file_name": original_file_name,
        "text_storage_id": text_storage_id,
        "reason": reason,
        "correlation_id": origin.correlation_id,
        "timestamp": time,
    }
    return _small(EXCESS_CONTENT, batch_id, text_storage_id, data, origin, time, max_bytes)


def pending_expired(
    batch_id: str,
    text_storage_id: str,
    file_upload_id: str,
    original_file_name: str,
    stored_at: datetime,
    expired_at: datetime,
    origin: Origin,
    *,
    max_bytes: int,
) -> Outgoing:
    """A registration did not come in time.

    Restored content can expire again, which is another event: the moment is part of what it is about.
    """
    time = rfc3339(expired_at)
    data: PendingExpired = {
        "event": "pending.content.expired",
        "batch_id": batch_id,
        "text_storage_id": text_storage_id,
        "original_file_name": original_file_name,
        "file_upload_id": file_upload_id,
        "stored_at": rfc3339(stored_at),
        "expired_at": time,
        "correlation_id": origin.correlation_id,
        "timestamp": time,
    }
    return _small(PENDING_EXPIRED, batch_id, time + text_storage_id, data, origin, time, max_bytes)


async def batch_ready(
    batch_id: str,
    course_code: CourseCode,
    essay_instructions: str,
    class_id: str | None,
    essays: AsyncIterable[Sequence[tuple[str, str]]],
    origin: Origin,
    now: datetime,
    *,
    max_bytes: int,
) -> Outgoing:
    """Every slot is taken. `essays` are pages of (essay_id, text_storage_id) in slot order."""
    time = rfc3339(now)
    data: BatchReady = {
        "event": "batch.essays.ready",
        "batch_id": batch_id,
        "ready_essays": [],
        "batch_entity": _entity(batch_id),
        "metadata": _metadata(batch_id, "batch.essays.ready", time),
        "course_code": course_code,
        "course_language": "en" if course_code.startswith("ENG") else "sv",
        "essay_instructions": essay_instructions,
        "class_type": "REGULAR" if class_id else "GUEST",
        "teacher_first_name": None,
        "teacher_last_name": None,
    }
    return await _paged(BATCH_READY, batch_id, data, origin, time, max_bytes, ("ready_essays", essays, _ready_essay))


async def readiness_timeout(
    batch_id: str,
    essays: AsyncIterable[Sequence[tuple[str, str]]],
    missing_essay_ids: AsyncIterable[Sequence[str]],
    expected: int,
    assigned: int,
    timeout_seconds: int,
    origin: Origin,
    now: datetime,
    *,
    max_bytes: int,
) -> Outgoing:
    """A batch is still not complete. `essays` are pages as in `batch_ready`, the missing are open slots."""
    time = rfc3339(now)
    data: ReadinessTimeout = {
        "event": "batch.readiness.timeout",
        "batch_id": batch_id,
        "ready_essays": [],
        "missing_essay_ids": [],
        "expected_count": expected,
        "actual_count": assigned,
        "timeout_duration_seconds": timeout_seconds,
        "metadata": _metadata(batch_id, "batch.readiness.timeout", time),
    }
    return await _paged(
        READINESS_TIMEOUT,
        batch_id,
        data,
        origin,
        time,
        max_bytes,
        ("ready_essays", essays, _ready_essay),
        ("missing_essay_ids", missing_essay_ids, str),
    )


async def validation_errors(
    batch_id: str,
    failures: Callable[[], AsyncIterable[Sequence[FailedSlot]]],
    critical_failure: bool,
    origin: Origin,
    now: datetime,
    *,
    max_bytes: int,
) -> Outgoing:
    """Every slot is taken, some by failures. `failures()` gives their pages, afresh at each call.

    They are asked for a second time, without details and stack traces, where with them the event would be longer
    than `LARGEST_WITH_DETAILS`; and a third time where without them it would be longer than its topic takes: then a
    failure is its identity, its time and the beginnings of its file's name and its code. So 100,000 failures can be
    told whose upload ids are UUIDs: no batch waits for ever since its uploads failed in too many words.
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
        "metadata": _metadata(batch_id, "batch.validation.errors", time),
    }

    code_bytes = 0

    def counted(failure: FailedSlot) -> FailedEssay:
        nonlocal code_bytes
        if failure.validation_error_code not in categories:
            # Codes that nobody listed are kept as they came, however many and long they are.
            code_bytes += len(failure.validation_error_code)
            if code_bytes > max_bytes:
                raise Unpublishable(VALIDATION_ERRORS, batch_id, max_bytes)
        categories[failure.validation_error_code] += 1
        summary["total_errors"] += 1
        return essay(failure)

    return await _paged(
        VALIDATION_ERRORS, batch_id, data, origin, time, max_bytes, ("failed_essays", failures, counted)
    )


def _ready_essay(essay: tuple[str, str]) -> ReadyEssay:
    return {"essay_id": essay[0], "text_storage_id": essay[1]}


def _failed_essay(failure: FailedSlot) -> FailedEssay:
    kept = failure.error_detail
    message: str = kept["message"]
    # In the order of the contract: what comes from jsonb has lost its own.
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
    """As many bytes of UTF-8 as that, at most."""
    return text.encode()[:size].decode(errors="ignore")


def event_id(topic: str, batch_id: str, subject: str = "") -> UUID:
    """The UUIDv5 of an event's type and what it is about.

    The batch id's length keeps ("ab", "c") and ("a", "bc") apart. Made here, since `uuid5` takes twice as long.
    """
    name = f"{topic} {len(batch_id)} {batch_id}{subject}".encode()
    digest = _HASH.copy()
    digest.update(name)
    return UUID(int=int.from_bytes(digest.digest()[:16]) & ~_VERSION_BITS | _VERSION_5)


def _entity(batch_id: str) -> BatchEntity:
    return {"entity_id": batch_id, "entity_type": "batch", "parent_id": None}


def _metadata(batch_id: str, event: str, time: str) -> BatchMetadata:
    return {
        "entity": _entity(batch_id),
        "timestamp": time,
        "processing_stage": None,
        "started_at": None,
        "completed_at": None,
        "event": event,
        "error_info": {},
    }


def _enveloped(topic: str, identity: UUID, data: _Data, origin: Origin, time: str) -> Envelope[_Data]:
    trace = {}
    if origin.traceparent:
        trace["traceparent"] = origin.traceparent
    if origin.tracestate:
        trace["tracestate"] = origin.tracestate
    return {
        "event_id": identity,
        "event_type": topic,
        "event_timestamp": time,
        "source_service": SOURCE_SERVICE,
        "schema_version": 1,
        "correlation_id": origin.correlation_id,
        "data_schema_uri": None,
        "data": data,
        "metadata": trace or None,
    }


def _small(
    topic: str, batch_id: str, subject: str, data: object, origin: Origin, time: str, max_bytes: int
) -> Outgoing:
    identity = event_id(topic, batch_id, subject)
    payload = orjson.dumps(_enveloped(topic, identity, data, origin, time))
    if len(payload) > max_bytes:
        raise Unpublishable(topic, batch_id, max_bytes)
    return Outgoing(topic, batch_id, identity, payload, *origin)


async def _paged(
    topic: str,
    batch_id: str,
    data: object,
    origin: Origin,
    time: str,
    max_bytes: int,
    *lists: tuple[str, AsyncIterable[Sequence[Any]], Callable[[Any], object]],
) -> Outgoing:
    """An event whose `lists` (name, pages, what an element becomes), empty in `data`, are filled by pages.

    The text up to a list is written before its pages, what follows is written after them: `data` may
    change there meanwhile. A list's quoted name cannot occur within a string, where quotes are escaped.
    """
    identity = event_id(topic, batch_id)
    event = _enveloped(topic, identity, data, origin, time)
    payload, rest = bytearray(), orjson.dumps(event)
    for name, pages, element in lists:
        opening = f'"{name}":['.encode()
        payload += rest.partition(opening)[0] + opening
        async for page in pages:
            payload += b"".join(_json(element(row)) + b"," for row in page)
            if len(payload) > max_bytes:
                raise Unpublishable(topic, batch_id, max_bytes)
        if payload.endswith(b","):
            del payload[-1:]
        rest = orjson.dumps(event).partition(opening)[2]
    payload += rest
    if len(payload) > max_bytes:
        raise Unpublishable(topic, batch_id, max_bytes)
    return Outgoing(topic, batch_id, identity, payload, *origin)


def _json(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        # jsonb writes 1e300 as an integer of 301 digits, which orjson does not take.
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
