"""Lists the endpoints on registered batches."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from service.domain.topics import CancelReason
from service.http.schemas import AgeFilters, Call, ChangeRequest, Endpoint, PageRequest, ResponseModel, ShortText


class ListBatches(AgeFilters, PageRequest):
    state: Literal["registered", "complete", "ready", "failed", "cancelled"] | None = Field(
        None, description="only in this state"
    )
    user: ShortText | None = Field(None, description="only of this user")
    after: ShortText | None = Field(None, description="`next` of the previous page")


class ShowBatch(PageRequest):
    batch: ShortText
    after: int = Field(0, ge=0, le=100_000, description="only slots after this position: `next` of the previous page")


class RepublishBatch(ChangeRequest):
    batch: ShortText


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
    cancel_reason: CancelReason | None
    excess: int
    to_be_published: int
    slots: list[SlotRow]
    next: str | None = Field(description="`after` of the next page of slots; null if there is none")


class PublishedEvent(ResponseModel):
    topic: str
    event_id: UUID


class Republished(ResponseModel):
    events: list[PublishedEvent]


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
    return await call.operations.batches.list(
        page=request.limit,
        state=request.state,
        user_id=request.user,
        older_than=request.older_than,
        newer_than=request.newer_than,
        after=request.after,
    )


async def _show_batch(call: Call) -> object:
    batch, slots = await call.operations.batches.show(
        call.request.batch, page=call.request.limit, after=call.request.after
    )
    return batch | {"slots": slots.rows, "next": slots.next}


async def _republish(call: Call) -> object:
    return {"events": await call.operations.batches.republish(call.by, call.request.batch)}


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
            "List registered batches in the order of their ids",
            ListBatches,
            BatchPage,
            _list_batches,
        ),
        Endpoint(
            "GET",
            "/admin/batches/show",
            "Show one batch and its slots",
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
            "Publish the events of a complete batch again, with their old event ids",
            RepublishBatch,
            Republished,
            _republish,
        ),
    )
