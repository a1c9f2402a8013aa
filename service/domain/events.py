"""Defines the events of the input topics, and the reasons why a record is rejected."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from service.domain.topics import (
    CourseCode,
)

LONGEST_ERROR = 2_000

INT64 = 2**63 - 1


def trace_id_of(traceparent: str | None) -> str | None:
    """Return the trace id of a W3C trace context, 32 hex digits; None without one."""
    return traceparent[3:35] if traceparent else None


class BatchRegistered(NamedTuple):
    """A batch is registered with these essays. `essay_instructions` is "" where the registration has none."""

    batch_id: str
    essay_ids: tuple[str, ...]
    course_code: CourseCode
    user_id: str
    essay_instructions: str
    class_id: str | None
    org_id: str | None
    student_prompt_ref: dict[str, Any] | None
    correlation_id: UUID
    traceparent: str | None
    tracestate: str | None


class ContentProvisioned(NamedTuple):
    """A content was uploaded for a batch. `content_md5_hash` is None where the producer has not computed it."""

    batch_id: str
    text_storage_id: str
    file_upload_id: str
    original_file_name: str
    raw_file_storage_id: str
    file_size_bytes: int
    content_md5_hash: str | None
    correlation_id: UUID
    traceparent: str | None
    tracestate: str | None


class ValidationFailed(NamedTuple):
    """An upload yields no text. `error_detail` has all ten fields; a missing one is None, or {} for `details`."""

    batch_id: str
    file_upload_id: str
    original_file_name: str
    raw_file_storage_id: str
    validation_error_code: str
    error_detail: dict[str, Any]
    file_size_bytes: int
    failed_at: datetime
    correlation_id: UUID
    traceparent: str | None
    tracestate: str | None


class AssociationsConfirmed(NamedTuple):
    """The students of a batch are confirmed. `class_id` is "" where it names no class; `associations` are counted."""

    batch_id: str
    class_id: str
    associations: int
    correlation_id: UUID
    traceparent: str | None
    tracestate: str | None


Upload = ContentProvisioned | ValidationFailed
"""The events that can take a slot."""

Incoming = BatchRegistered | Upload | AssociationsConfirmed


class WaitingFailure(NamedTuple):
    """A validation failure that waits for the registration of its batch, with the fields that taking a slot needs."""

    batch_id: str
    file_upload_id: str
    original_file_name: str
    correlation_id: UUID
    traceparent: str | None


class Reason(StrEnum):
    """Why a record is in quarantine. A closed set, since it is the label of a metric."""

    NO_VALUE = "no_value"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    NOT_AN_ENVELOPE = "not_an_envelope"
    UNKNOWN_EVENT_TYPE = "unknown_event_type"
    WRONG_TOPIC = "wrong_topic"
    UNKNOWN_SCHEMA_VERSION = "unknown_schema_version"
    INVALID_FIELD = "invalid_field"
    BATCH_IDS_DIFFER = "batch_ids_differ"
    NO_ESSAYS = "no_essays"
    COUNT_OUT_OF_RANGE = "count_out_of_range"
    COUNT_MISMATCH = "count_mismatch"
    DUPLICATE_ESSAY_ID = "duplicate_essay_id"
    # Not found by decoding, but by the transaction, the encoder, the crash marks and the reader of record batches.
    CONFLICTING_REGISTRATION = "conflicting_registration"
    DATA_ERROR = "data_error"
    UNPUBLISHABLE = "unpublishable"
    KILLED_THE_PROCESS = "killed_the_process"
    UNREADABLE = "unreadable"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a record cannot be processed. `error` is a message of one line, of at most `LONGEST_ERROR` characters."""

    reason: Reason
    error: str
