"""Lists the endpoints on registered batches."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, WithJsonSchema

from service.domain.topics import CancelReason
from service.http.schemas import (
    AgeFilters,
    Call,
    ChangeRequest,
    Endpoint,
    PageRequest,
    ResponseModel,
    ShortText,
    read_parameter,
)
from service.operators import parameters
from service.store.batches import BatchFilter

BatchCursor = Annotated[
    tuple[datetime, str],
    read_parameter(parameters.batch_cursor),
    WithJsonSchema({"type": "string", "example": "2026-11-22T08:00:00Z/batch-17"}),
]


class ListBatches(AgeFilters, PageRequest):
    state: Literal["registered", "complete", "ready", "failed", "cancelled"] | None = Field(
        None, description="only in this state"
    )
    late: bool = Field(False, description="only what was reported late and still waits for uploads")
    unconfirmed: bool = Field(False, description="only what is complete, and whose class was not confirmed in time")
    user: ShortText | None = Field(None, description="only of this user; `class_id` and `org` likewise")
    class_id: ShortText | None = None
    org: ShortText | None = None
    after: BatchCursor | None = Field(None, description="`next` of the previous page")


class ShowBatch(PageRequest):
    batch: ShortText
    after: int = Field(0, ge=0, le=100_000, description="only slots after this position: `next` of the previous page")


class RepublishBatch(ChangeRequest):
    batch: ShortText
    slots: bool = Field(False, description="also EssaySlotAssigned of each assigned slot")
    excess: bool = Field(False, description="also ExcessContentProvisioned of its excess content")
    dry_run: bool = Field(False, description="publish nothing")


class CloseBatch(ChangeRequest):
    batch: ShortText
    dry_run: bool = Field(False, description="change nothing")


class CancelBatch(CloseBatch):
    reason: CancelReason = Field(description="published with the event")


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
    withdrawn: int = Field(description="slots that were open when an operator closed or cancelled it")
    cancelled_at: datetime | None
    class_id: str | None = Field(description="in lists its first 255 characters; `org_id` likewise")
    org_id: str | None


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
    validation_error_code: str | None = Field(description="of a failed slot; `message` likewise")
    message: str | None
    pending_at: datetime | None = Field(description="when its content was stored as pending; null where it was not")


class RejectedRow(ResponseModel):
    id: int = Field(description="of the row in quarantine")
    state: str
    topic: str
    reason: str
    error: str
    first_seen_at: datetime
    original_file_name: str | None
    correlation_id: UUID | None


class ConfirmationRow(ResponseModel):
    class_id: str
    state: str
    associations: int
    stored_at: datetime


class BlockedEvents(ResponseModel):
    topic: str
    error: str
    since: datetime
    retry_at: datetime
    seq: int = Field(description="number of the row in the outbox")


class TimelineRow(ResponseModel):
    at: datetime
    step: int = Field(description="order of what has the same time")
    what: str
    text_storage_id: str | None
    file_upload_id: str | None
    essay_id: str | None
    original_file_name: str | None
    details: str | None
    who: str | None = Field(description="the operator who did it")
    correlation_id: UUID | None
    trace_id: str | None
    source: str = Field(description="table that it was read from")


class BatchDetail(ResponseModel):
    """All that is known of a batch. The fields of its registration are null where it is not registered."""

    batch_id: str
    summary: str = Field(description="how it stands, in words")
    to_do: str = Field(description="what an operator can do next: a command, where there is one")
    state: str = Field(description="`unknown` where it is not registered")
    expected: int | None = None
    assigned: int | None = None
    failed: int | None = None
    open: int | None = None
    withdrawn: int | None = Field(None, description="slots that were open when an operator closed or cancelled it")
    registered_at: datetime | None = None
    changed_at: datetime | None = None
    completed_at: datetime | None = None
    confirmed_at: datetime | None = Field(None, description="when the confirmation of its class was applied")
    ready_at: datetime | None = Field(None, description="when it was announced as ready")
    timed_out_at: datetime | None = None
    cancelled_at: datetime | None = None
    cancel_reason: CancelReason | None = None
    erased_at: datetime | None = Field(None, description="when personal data of it was erased last")
    course_code: str | None = None
    user_id: str | None = None
    essay_instructions: str | None = None
    class_id: str | None = None
    org_id: str | None = None
    student_prompt_ref: dict[str, Any] | None = None
    correlation_id: UUID | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    waiting_contents: int
    waiting_failures: int
    expired_contents: int
    expired_failures: int
    removed_contents: int
    removed_failures: int
    surplus_failures: int = Field(description="failures that found no open slot")
    excess: int
    to_be_published: int
    incomplete: bool = Field(description="whether it was announced, and its registration is in no topic")
    blocked: BlockedEvents | None = Field(description="why its events cannot be published, if they cannot")
    confirmations: list[ConfirmationRow]
    rejected: list[RejectedRow] = Field(description="rejected inputs of it, the open ones first; at most 50")
    history: list[TimelineRow] = Field(description="the last 50 things that happened to it, in order")
    slots: list[SlotRow]
    next: str | None = Field(description="`after` of the next page of slots; null if there is none")


class PublishedEvent(ResponseModel):
    topic: str
    event_id: UUID


class Republished(ResponseModel):
    events: list[PublishedEvent] = Field(description="those of the batch's end")
    slots: int = Field(description="EssaySlotAssigned events")
    excess: int = Field(description="ExcessContentProvisioned events")
    left_out: int = Field(description="events of texts that a recovery knows only in part")


class EndedBatch(ResponseModel):
    batch_id: str
    before: str = Field(description="its state until then")
    state: str
    expected: int
    assigned: int
    failed: int
    withdrawn: int
    events: list[PublishedEvent]


async def _list_batches(call: Call) -> object:
    request: ListBatches = call.request
    condition = BatchFilter(
        request.state,
        request.late,
        request.unconfirmed,
        request.user,
        request.class_id,
        request.org,
        request.older_than,
        request.newer_than,
        request.after,
    )
    return await call.operations.batches.list(condition, page=request.limit)


async def _show_batch(call: Call) -> object:
    batch, slots = await call.operations.batches.show(
        call.request.batch, page=call.request.limit, after=call.request.after
    )
    return batch | {"slots": slots.rows, "next": slots.next}


async def _republish(call: Call) -> object:
    request: RepublishBatch = call.request
    return await call.operations.batches.republish(
        call.by, request.batch, slots=request.slots, excess=request.excess, dry_run=request.dry_run
    )


async def _close(call: Call) -> object:
    request: CloseBatch = call.request
    return await call.operations.batches.close(call.by, request.batch, dry_run=request.dry_run)


async def _cancel(call: Call) -> object:
    request: CancelBatch = call.request
    return await call.operations.batches.cancel(call.by, request.batch, request.reason, dry_run=request.dry_run)


def endpoints() -> Sequence[Endpoint]:
    """Return the endpoints of this group."""
    return (
        Endpoint(
            "GET",
            "/admin/batches",
            "List registered batches, the newest first",
            ListBatches,
            BatchPage,
            _list_batches,
        ),
        Endpoint(
            "GET",
            "/admin/batches/show",
            "Show all that is known of a batch, registered or not, and what to do next",
            ShowBatch,
            BatchDetail,
            _show_batch,
        ),
        Endpoint(
            "POST",
            "/admin/batches/close",
            "End a registered batch with what is there: its open slots are withdrawn, and it is announced",
            CloseBatch,
            EndedBatch,
            _close,
        ),
        Endpoint(
            "POST",
            "/admin/batches/cancel",
            "Cancel a batch that is registered, or complete and not ready",
            CancelBatch,
            EndedBatch,
            _cancel,
        ),
        Endpoint(
            "POST",
            "/admin/batches/republish",
            "Publish the events of a batch's end again, with their old event ids, and on demand those of its texts",
            RepublishBatch,
            Republished,
            _republish,
        ),
    )
