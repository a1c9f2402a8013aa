"""What /admin/ is asked with and what it answers, as models: they check, they serialise, and the OpenAPI document is
made of them.

A name that is not known is rejected, never passed over: a filter with a slip in it must not choose more.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from service.operators import parameters


def _read(parameter: Callable[[str], Any]) -> PlainValidator:
    def read(value: object) -> Any:
        if not isinstance(value, str):
            raise ValueError("must be a string")  # noqa: TRY004  pydantic makes an answer of this one alone
        return parameter(value)

    return PlainValidator(read)


Words = Annotated[str, Field(min_length=1, max_length=parameters.MAX_ID_LENGTH), AfterValidator(parameters.short_text)]
Reason = Annotated[str, Field(max_length=parameters.MAX_REASON_LENGTH), AfterValidator(parameters.reason)]
RowId = Annotated[int, Field(ge=1, le=2**63 - 1)]
Limit = Annotated[int, Field(ge=1, le=parameters.MAX_ROWS)]
Age = Annotated[
    float, _read(parameters.age), WithJsonSchema({"type": "string", "pattern": f"^{parameters.AGE}$", "example": "2h"})
]
Place = Annotated[
    tuple[datetime, int],
    _read(parameters.pending_cursor),
    WithJsonSchema({"type": "string", "example": "2026-11-22T08:00:00Z/17"}),
]


class RequestModel(BaseModel):
    """What a request says."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ResponseModel(BaseModel):
    """What an answer says."""

    model_config = ConfigDict(from_attributes=True)


# -- what many requests take


class _Aged(RequestModel):
    older_than: Age | None = Field(None, description="only what came longer ago: 90s, 5m, 2h, 1d")
    newer_than: Age | None = Field(None, description="only what came since then")


class _Filed(_Aged):
    file: Words | None = Field(None, description="only where the file's name has this in it, in either case")


class _Paged(RequestModel):
    limit: Limit = Field(50, description="so many rows")


class _Changing(RequestModel):
    who: Words | None = Field(None, description="who does it, for the audit; else the address that asks")
    why: Reason = Field("", description="the reason, for the audit")


class _Refused(_Aged):
    topic: Words | None = Field(None, description="only of this topic")
    reason: Words | None = Field(None, description="only for this reason")


# -- pending


class ListPending(_Filed, _Paged):
    batch: Words | None = Field(None, description="only of this batch")
    state: Literal["pending", "expired", "removed"] = Field("pending", description="in this state")
    after: Place | None = Field(None, description="`next` of the page before")


class ShowPending(RequestModel):
    batch: Words
    text: Words = Field(description="the text storage id")


class RemovePending(_Changing):
    batch: Words
    texts: Annotated[list[Words], Field(min_length=1, max_length=parameters.MAX_ROWS)] = Field(
        description="text storage ids"
    )


class ClearPending(_Filed, _Changing):
    batch: Words


class RestorePending(_Changing):
    batch: Words
    texts: Annotated[list[Words], Field(min_length=1, max_length=parameters.MAX_ROWS)] | None = Field(
        None, description="text storage ids; all that is expired of the batch where there are none"
    )


class PendingRow(ResponseModel):
    batch_id: str
    text_storage_id: str
    state: str
    original_file_name: str = Field(description="in lists its first 255 characters")
    file_size_bytes: int
    correlation_id: UUID
    stored_at: datetime
    waiting_since: datetime
    closed_at: datetime | None = Field(description="when it expired or was removed")
    arrival: int = Field(description="its place in the order")


class PendingPage(ResponseModel):
    rows: list[PendingRow]
    next: str | None = Field(description="`after` of the next page, if there may be one")


class Pending(PendingRow):
    file_upload_id: str
    raw_file_storage_id: str
    content_md5_hash: str | None
    traceparent: str | None
    tracestate: str | None


class Changed(ResponseModel):
    contents: int = Field(description="how many were changed")


# -- quarantine


class ListQuarantine(_Refused, _Paged):
    state: Literal["open", "replayed", "discarded"] | None = Field(None, description="only in this state")
    before: RowId | None = Field(None, description="`next` of the page before")


class ShowQuarantined(RequestModel):
    id: RowId


class ChooseQuarantined(_Refused, _Changing):
    """Ids, filters, or `all`: one of these must be said."""

    ids: Annotated[list[RowId], Field(min_length=1, max_length=parameters.MAX_ROWS)] | None = Field(
        None, description="only these"
    )
    all: bool = Field(False, description="all that are open")
    after: RowId | None = Field(None, description="only above this id: `next` of the answer before")
    limit: Limit = Field(parameters.MAX_ROWS, description="so many, the oldest first; the answer says what is left")

    @model_validator(mode="after")
    def _within_the_limit(self) -> "ChooseQuarantined":
        if self.ids is not None and len(self.ids) > self.limit:
            raise ValueError("limit: is less than the number of ids")
        return self


class ResumeTopic(_Changing):
    topic: Words


class QuarantineRow(ResponseModel):
    id: int
    state: str
    topic: str
    partition: int = Field(description="of the first delivery, like `offset`")
    offset: int
    reason: str
    error: str
    first_seen_at: datetime
    deliveries: int


class QuarantinePage(ResponseModel):
    rows: list[QuarantineRow]
    next: str | None = Field(description="`before` of the next page, if there may be one")


class Quarantined(QuarantineRow):
    """Key and value are text where they are text, else in Base64 under the other name."""

    last_seen_at: datetime
    closed_at: datetime | None
    headers: list[Any]
    key: str | None = None
    key_base64: str | None = None
    value: str | None = Field(None, description="the first MiB of it")
    value_base64: str | None = None
    value_bytes: int | None = Field(None, description="its whole length, where only the beginning is shown")


class ReplayedRow(ResponseModel):
    id: int
    topic: str
    outcome: str
    error: str = Field(description="empty unless it was rejected again")


class ReplayedAll(ResponseModel):
    outcomes: list[ReplayedRow]
    failed: int = Field(description="how many were not replayed: their outcomes have an error")
    next: int | None = Field(description="`after` of the next request, where more are chosen than one takes")


class Discarded(ResponseModel):
    discarded: int
    closed_meanwhile: int = Field(description="how many somebody else had closed by then")
    next: int | None = Field(description="`after` of the next request, where more are chosen than one takes")


class Resumed(ResponseModel):
    topic: str


# -- batches


class ListBatches(_Aged, _Paged):
    state: Literal["registered", "ready", "failed"] | None = Field(None, description="only in this state")
    user: Words | None = Field(None, description="only of this user")
    after: Words | None = Field(None, description="`next` of the page before")


class ShowBatch(_Paged):
    batch: Words
    after: int = Field(0, ge=0, le=100_000, description="only slots behind this position: `next` of the page before")


class RepublishBatch(_Changing):
    batch: Words


class BatchRow(ResponseModel):
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
    rows: list[BatchRow]
    next: str | None = Field(description="`after` of the next page, if there may be one")


class SlotRow(ResponseModel):
    position: int
    essay_id: str
    state: str
    text_storage_id: str | None
    original_file_name: str | None = Field(description="its first 255 characters")
    file_upload_id: str | None
    taken_at: datetime | None


class Batch(BatchRow):
    essay_instructions: str
    class_id: str | None
    org_id: str | None
    correlation_id: UUID
    traceparent: str | None
    tracestate: str | None
    changed_at: datetime
    excess: int
    to_be_published: int
    slots: list[SlotRow]
    next: str | None = Field(description="`after` of the next page of slots, if there may be one")


class PublishedEvent(ResponseModel):
    topic: str
    event_id: UUID


class Republished(ResponseModel):
    events: list[PublishedEvent]


# -- trouble


class Fault(ResponseModel):
    where: str
    what: str


class Problem(ResponseModel):
    """RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[Fault] | None = Field(None, description="what is wrong with the parameters, one by one")
