"""Defines the requests and responses of the JSON API as models, which also make the OpenAPI document.

Unknown parameters are rejected: a filter with a typing error must not match more than intended.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from service.operators import parameters


def _read(parameter: Callable[[str], Any]) -> PlainValidator:
    """Make a validator from a function of `service.operators.parameters`."""

    def read(value: object) -> Any:
        if not isinstance(value, str):
            raise ValueError("must be a string")  # noqa: TRY004  pydantic reports a ValueError, not a TypeError
        return parameter(value)

    return PlainValidator(read)


ShortText = Annotated[
    str, Field(min_length=1, max_length=parameters.MAX_ID_LENGTH), AfterValidator(parameters.short_text)
]
ReasonText = Annotated[str, Field(max_length=parameters.MAX_REASON_LENGTH), AfterValidator(parameters.reason)]
RowId = Annotated[int, Field(ge=1, le=2**63 - 1)]
RowLimit = Annotated[int, Field(ge=1, le=parameters.MAX_ROWS)]
Age = Annotated[
    float, _read(parameters.age), WithJsonSchema({"type": "string", "pattern": f"^{parameters.AGE}$", "example": "2h"})
]
PendingCursor = Annotated[
    tuple[datetime, int],
    _read(parameters.pending_cursor),
    WithJsonSchema({"type": "string", "example": "2026-11-22T08:00:00Z/17"}),
]


class RequestModel(BaseModel):
    """Is the base of all requests: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ResponseModel(BaseModel):
    """Is the base of all responses: reads the attributes of what an action returns."""

    model_config = ConfigDict(from_attributes=True)


# -- parameters that several requests share


class _AgeFilters(RequestModel):
    older_than: Age | None = Field(None, description="only what is older than this: 90s, 5m, 2h, 1d")
    newer_than: Age | None = Field(None, description="only what is newer than this")


class _PendingFilters(_AgeFilters):
    file: ShortText | None = Field(None, description="only if the file name contains this text, in any case")


class _PageRequest(RequestModel):
    limit: RowLimit = Field(50, description="maximum number of rows")


class _ChangeRequest(RequestModel):
    who: ShortText | None = Field(
        None, description="name for the log of operator actions; default: the client's address"
    )
    why: ReasonText = Field("", description="reason, for the log of operator actions")


class _QuarantineFilters(_AgeFilters):
    topic: ShortText | None = Field(None, description="only of this topic")
    reason: ShortText | None = Field(None, description="only with this reason")


class AcknowledgeNotices(_ChangeRequest):
    ids: list[RowId] | None = Field(None, description="lost inputs (ops.lost_inputs); default: all notices")


class Acknowledged(ResponseModel):
    notices: list[str] = Field(description="what was marked as seen, in words")


# -- pending


class ListPending(_PendingFilters, _PageRequest):
    batch: ShortText | None = Field(None, description="only of this batch")
    state: Literal["pending", "expired", "removed"] = Field("pending", description="only in this state")
    after: PendingCursor | None = Field(None, description="`next` of the previous page")


class ShowPending(RequestModel):
    batch: ShortText
    text: ShortText = Field(description="the text storage id")


class RemovePending(_ChangeRequest):
    batch: ShortText
    texts: Annotated[list[ShortText], Field(min_length=1, max_length=parameters.MAX_ROWS)] = Field(
        description="text storage ids"
    )


class ClearPending(_PendingFilters, _ChangeRequest):
    batch: ShortText


class RestorePending(_PendingFilters, _ChangeRequest):
    """Selects what expired by batch, by filters, or with `all`; at least one of these is required.

    Ages count from the expiry.
    """

    batch: ShortText | None = Field(None, description="only of this batch")
    texts: Annotated[list[ShortText], Field(min_length=1, max_length=parameters.MAX_ROWS)] | None = Field(
        None, description="text storage ids, of this batch, without a filter; default: all that matches"
    )
    all: bool = Field(False, description="all that expired, of all batches")
    dry_run: bool = Field(False, description="only count what matches; change nothing")


class PendingListRow(ResponseModel):
    batch_id: str
    text_storage_id: str
    state: str
    original_file_name: str = Field(description="in lists its first 255 characters")
    file_size_bytes: int
    correlation_id: UUID
    stored_at: datetime
    waiting_since: datetime
    closed_at: datetime | None = Field(description="when it expired or was removed")
    arrival: int = Field(description="its position in the order of arrival")


class PendingPage(ResponseModel):
    rows: list[PendingListRow]
    next: str | None = Field(description="`after` of the next page; null if there is none")


class PendingDetail(PendingListRow):
    file_upload_id: str
    raw_file_storage_id: str
    content_md5_hash: str | None
    traceparent: str | None
    tracestate: str | None


class Changed(ResponseModel):
    contents: int = Field(description="number of contents that were changed")


class RestoredPending(ResponseModel):
    contents: int = Field(description="number of contents that were restored, or in a dry run match")
    failures: int = Field(description="number of validation failures, likewise")
    busy: list[str] = Field(description="batches that were skipped since another transaction holds their lock")
    registered: list[str] = Field(description="batches that were skipped since they were registered meanwhile")


# -- quarantine


class ListQuarantine(_QuarantineFilters, _PageRequest):
    state: Literal["open", "replayed", "discarded"] | None = Field(None, description="only in this state")
    before: RowId | None = Field(None, description="`next` of the previous page")


class ShowQuarantined(RequestModel):
    id: RowId


class SelectQuarantined(_QuarantineFilters, _ChangeRequest):
    """Selects open inputs by ids, by filters, or with `all`; at least one of these is required."""

    ids: Annotated[list[RowId], Field(min_length=1, max_length=parameters.MAX_ROWS)] | None = Field(
        None, description="only inputs with these ids"
    )
    all: bool = Field(False, description="all open inputs")
    after: RowId | None = Field(None, description="only ids above this one: `next` of the previous response")
    limit: RowLimit = Field(
        parameters.MAX_ROWS, description="maximum number of inputs, the oldest first; `next` says where to continue"
    )

    @model_validator(mode="after")
    def _within_the_limit(self) -> "SelectQuarantined":
        if self.ids is not None and len(self.ids) > self.limit:
            raise ValueError("limit: is less than the number of ids")
        return self


class ResumeTopic(_ChangeRequest):
    topic: ShortText
    skip_refused: bool = Field(False, description="do not pause it again before the next valid record")


class QuarantineListRow(ResponseModel):
    id: int
    state: str
    topic: str
    partition: int = Field(description="partition of the first delivery; `offset` likewise")
    offset: int
    reason: str
    error: str
    first_seen_at: datetime
    deliveries: int


class QuarantinePage(ResponseModel):
    rows: list[QuarantineListRow]
    next: str | None = Field(description="`before` of the next page; null if there is none")


class QuarantinedDetail(QuarantineListRow):
    """Key and value are text if they are printable text, else Base64 in `key_base64` and `value_base64`."""

    last_seen_at: datetime
    closed_at: datetime | None
    headers: list[Any]
    key: str | None = None
    key_base64: str | None = None
    value: str | None = Field(None, description="at most the first MiB")
    value_base64: str | None = None
    value_bytes: int | None = Field(None, description="length of the whole value, if only its beginning is returned")


class ReplayedRow(ResponseModel):
    id: int
    topic: str
    outcome: str
    error: str = Field(description="empty if the input was replayed")


class ReplayedInputs(ResponseModel):
    outcomes: list[ReplayedRow]
    failed: int = Field(description="number of inputs that were not replayed: their outcomes have an error")
    next: int | None = Field(description="`after` of the next request; null if there is nothing left")


class Discarded(ResponseModel):
    discarded: int
    closed_meanwhile: int = Field(description="number of inputs that someone else closed in the meantime")
    next: int | None = Field(description="`after` of the next request; null if there is nothing left")


class Resumed(ResponseModel):
    topic: str


# -- batches


class ListBatches(_AgeFilters, _PageRequest):
    state: Literal["registered", "complete", "ready", "failed"] | None = Field(None, description="only in this state")
    user: ShortText | None = Field(None, description="only of this user")
    after: ShortText | None = Field(None, description="`next` of the previous page")


class ShowBatch(_PageRequest):
    batch: ShortText
    after: int = Field(0, ge=0, le=100_000, description="only slots after this position: `next` of the previous page")


class RepublishBatch(_ChangeRequest):
    batch: ShortText


class BatchListRow(ResponseModel):
    batch_id: str
    state: str
    expected: int
    assigned: int
    failed: int
    open: int
    registered_at: datetime
    completed_at: datetime | None
    timed_out_at: datetime | None
    course_code: str
    user_id: str = Field(description="in lists its first 255 characters")


class BatchPage(ResponseModel):
    rows: list[BatchListRow]
    next: str | None = Field(description="`after` of the next page; null if there is none")


class SlotRow(ResponseModel):
    position: int
    essay_id: str
    state: str
    text_storage_id: str | None
    original_file_name: str | None = Field(description="its first 255 characters")
    file_upload_id: str | None
    taken_at: datetime | None


class BatchDetail(BatchListRow):
    essay_instructions: str
    class_id: str | None
    org_id: str | None
    student_prompt_ref: dict[str, Any] | None
    correlation_id: UUID
    traceparent: str | None
    tracestate: str | None
    changed_at: datetime
    confirmed_at: datetime | None = Field(description="when the confirmation of its class was applied")
    ready_at: datetime | None = Field(description="when it was announced as ready")
    excess: int
    to_be_published: int
    slots: list[SlotRow]
    next: str | None = Field(description="`after` of the next page of slots; null if there is none")


class PublishedEvent(ResponseModel):
    topic: str
    event_id: UUID


class Republished(ResponseModel):
    events: list[PublishedEvent]


# -- errors


class ParameterError(ResponseModel):
    where: str
    what: str


class Problem(ResponseModel):
    """Describes why a request failed (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[ParameterError] | None = Field(None, description="what is wrong with each parameter")
