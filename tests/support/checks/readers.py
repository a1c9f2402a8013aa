"""Reads published events as strict consumers of both generations do.

The models are written from the samples of the contract, not from the service. A field that is missing, null where the
sample has a value, or of another type is an error; further fields are ignored, as by the real consumers.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict

Data = TypeVar("Data")
Course = Literal["ENG5", "ENG6", "ENG7", "SV1", "SV2", "SV3"]
Code = Literal[
    "EMPTY_CONTENT",
    "CONTENT_TOO_SHORT",
    "CONTENT_TOO_LONG",
    "RAW_STORAGE_FAILED",
    "TEXT_EXTRACTION_FAILED",
    "ENCRYPTED_FILE_UNSUPPORTED",
    "UNKNOWN_VALIDATION_ERROR",
]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _Envelope(_Strict, Generic[Data]):
    event_id: UUID
    event_type: str
    event_timestamp: datetime
    source_service: Literal["essay-lifecycle-service"]
    schema_version: Literal[1]
    correlation_id: UUID
    data_schema_uri: None
    data: Data
    metadata: dict[str, str] | None


class _Entity(_Strict):
    entity_id: str
    entity_type: Literal["batch"]
    parent_id: str | None


class _Stage(_Strict):
    timestamp: datetime
    processing_stage: str | None
    started_at: datetime | None
    completed_at: datetime | None
    event: str
    error_info: dict[str, Any]


class _OlderMetadata(_Stage):
    entity: _Entity


class _NewerMetadata(_Stage, _Entity):
    pass


Metadata = TypeVar("Metadata", _OlderMetadata, _NewerMetadata)


class _Essay(_Strict):
    essay_id: str
    text_storage_id: str


class _SlotAssigned(_Essay):
    event: Literal["essay.slot.assigned"]
    batch_id: str
    file_upload_id: str
    original_file_name: str
    correlation_id: UUID
    timestamp: datetime


class _Completed(_Strict):
    event: Literal["batch.content.provisioning.completed"]
    batch_id: str
    provisioned_count: int
    expected_count: int
    course_code: Course
    user_id: str
    class_id: str | None
    essays_for_processing: list[_Essay]
    correlation_id: UUID
    timestamp: datetime


class _Ready(_Strict, Generic[Metadata]):
    event: Literal["batch.essays.ready"]
    batch_id: str
    ready_essays: list[_Essay]
    batch_entity: _Entity
    metadata: Metadata
    course_code: Course
    course_language: Literal["en", "sv"]
    essay_instructions: str
    class_type: Literal["GUEST", "REGULAR"]
    teacher_first_name: str | None
    teacher_last_name: str | None
    student_prompt_ref: dict[str, Any] | None


class _Excess(_Strict):
    event: Literal["excess.content.provisioned"]
    batch_id: str
    original_file_name: str
    text_storage_id: str
    reason: Literal["BATCH_FULL", "NO_AVAILABLE_SLOT"]
    correlation_id: UUID
    timestamp: datetime


class _Detail(_Strict):
    error_code: Code
    message: str
    correlation_id: UUID
    timestamp: datetime
    service: str
    operation: str
    details: dict[str, Any]
    stack_trace: str | None
    trace_id: str | None
    span_id: str | None


class _Failed(_Strict):
    essay_id: str
    file_name: str
    error_detail: _Detail
    failed_at: datetime


class _Summary(_Strict):
    total_errors: int
    error_categories: dict[Code, int]
    critical_failure: bool


class _Errors(_Strict, Generic[Metadata]):
    event: Literal["batch.validation.errors.v1"]
    batch_id: str
    failed_essays: list[_Failed]
    error_summary: _Summary
    correlation_id: UUID
    metadata: Metadata


class _Expired(_Strict):
    event: Literal["pending.content.expired"]
    batch_id: str
    text_storage_id: str
    original_file_name: str
    file_upload_id: str
    stored_at: datetime
    expired_at: datetime
    correlation_id: UUID
    timestamp: datetime


class _Timeout(_Strict, Generic[Metadata]):
    event: Literal["batch.readiness.timeout"]
    batch_id: str
    ready_essays: list[_Essay]
    missing_essay_ids: list[str]
    expected_count: int
    actual_count: int
    timeout_duration_seconds: int
    metadata: Metadata


class _Cancelled(_Strict):
    event: Literal["batch.cancelled"]
    batch_id: str
    reason: Literal["WRONG_REGISTRATION", "WITHDRAWN", "DUPLICATE", "OTHER"]
    expected_count: int
    assigned_count: int
    failed_count: int
    correlation_id: UUID
    timestamp: datetime


_BOTH: Mapping[str, type[BaseModel]] = {
    "huleedu.els.essay.slot.assigned.v1": _Envelope[_SlotAssigned],
    "huleedu.els.excess.content.provisioned.v1": _Envelope[_Excess],
    "huleedu.els.pending.content.expired.v1": _Envelope[_Expired],
    "huleedu.els.batch.cancelled.v1": _Envelope[_Cancelled],
}
OLDER: Mapping[str, type[BaseModel]] = {
    **_BOTH,
    "huleedu.els.batch.essays.ready.v1": _Envelope[_Ready[_OlderMetadata]],
    "huleedu.els.batch.validation.errors.v1": _Envelope[_Errors[_OlderMetadata]],
    "huleedu.els.batch.readiness.timeout.v1": _Envelope[_Timeout[_OlderMetadata]],
}
NEWER: Mapping[str, type[BaseModel]] = {
    **_BOTH,
    "huleedu.batch.content.provisioning.completed.v1": _Envelope[_Completed],
    "huleedu.els.batch.essays.ready.v1": _Envelope[_Ready[_NewerMetadata]],
    "huleedu.els.batch.validation.errors.v1": _Envelope[_Errors[_NewerMetadata]],
    "huleedu.els.batch.readiness.timeout.v1": _Envelope[_Timeout[_NewerMetadata]],
}
"""The events that each generation reads."""


def read_strictly(topic: str, value: bytes | str) -> None:
    """Raises pydantic.ValidationError where a reader of one of the generations cannot read the event."""
    for generation in (OLDER, NEWER):
        if topic in generation:
            generation[topic].model_validate_json(value)
