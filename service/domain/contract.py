"""Defines the JSON of the events that this service publishes, as TypedDicts."""

from typing import Annotated, Any, Final, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import Field
from typing_extensions import TypedDict

from service.domain.topics import (
    BATCH_CANCELLED,
    BATCH_COMPLETED,
    BATCH_READY,
    EXCESS_CONTENT,
    PENDING_EXPIRED,
    READINESS_TIMEOUT,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
    CancelReason,
    CourseCode,
)

SOURCE_SERVICE: Final = "essay-lifecycle-service"

ExcessReason = Literal["BATCH_FULL", "NO_AVAILABLE_SLOT"]


Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]

Data = TypeVar("Data")


class Envelope(TypedDict, Generic[Data]):
    event_id: UUID
    event_type: str
    event_timestamp: Time
    source_service: Literal["essay-lifecycle-service"]
    schema_version: Literal[1]
    correlation_id: UUID
    data_schema_uri: None
    data: Data
    metadata: dict[str, str] | None


class BatchEntity(TypedDict):
    entity_id: str
    entity_type: Literal["batch"]
    parent_id: None


class BatchMetadata(BatchEntity):
    """The older generation of consumers reads `entity`, the newer one the same fields beside it."""

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


class ProvisioningCompleted(TypedDict):
    event: Literal["batch.content.provisioning.completed"]
    batch_id: str
    provisioned_count: int
    expected_count: int
    course_code: CourseCode
    user_id: str
    class_id: str | None
    essays_for_processing: list[ReadyEssay]
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
    student_prompt_ref: dict[str, Any] | None


ErrorCode = Literal[
    "EMPTY_CONTENT",
    "CONTENT_TOO_SHORT",
    "CONTENT_TOO_LONG",
    "RAW_STORAGE_FAILED",
    "TEXT_EXTRACTION_FAILED",
    "ENCRYPTED_FILE_UNSUPPORTED",
    "UNKNOWN_VALIDATION_ERROR",
]


class ErrorDetail(TypedDict):
    error_code: ErrorCode
    message: str
    correlation_id: UUID
    timestamp: Time
    service: str
    operation: str
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
    error_categories: dict[ErrorCode, int]
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


class Cancelled(TypedDict):
    event: Literal["batch.cancelled"]
    batch_id: str
    reason: CancelReason
    expected_count: int
    assigned_count: int
    failed_count: int
    correlation_id: UUID
    timestamp: Time


DATA_OF: dict[str, Any] = {
    SLOT_ASSIGNED: SlotAssigned,
    BATCH_COMPLETED: ProvisioningCompleted,
    BATCH_READY: BatchReady,
    EXCESS_CONTENT: ExcessContent,
    VALIDATION_ERRORS: ValidationErrors,
    PENDING_EXPIRED: PendingExpired,
    READINESS_TIMEOUT: ReadinessTimeout,
    BATCH_CANCELLED: Cancelled,
}
"""The type of `data` by topic, for tests and for the generated AsyncAPI document."""
