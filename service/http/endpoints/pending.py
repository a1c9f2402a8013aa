"""Lists the endpoints on content that waits for a registration."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, WithJsonSchema

from service.http.schemas import (
    AgeFilters,
    Call,
    ChangeRequest,
    Endpoint,
    PageRequest,
    RequestModel,
    ResponseModel,
    ShortText,
    read_parameter,
)
from service.operators import parameters
from service.store.pending_content import PendingFilter

PendingCursor = Annotated[
    tuple[datetime, int],
    read_parameter(parameters.pending_cursor),
    WithJsonSchema({"type": "string", "example": "2026-11-22T08:00:00Z/17"}),
]


class _PendingFilters(AgeFilters):
    file: ShortText | None = Field(None, description="only if the file name contains this text, in any case")


class ListPending(_PendingFilters, PageRequest):
    batch: ShortText | None = Field(None, description="only of this batch")
    state: Literal["pending", "expired", "removed"] = Field("pending", description="only in this state")
    after: PendingCursor | None = Field(None, description="`next` of the previous page")


class ListFailures(_PendingFilters, PageRequest):
    batch: ShortText | None = Field(None, description="only of this batch")
    state: Literal["pending", "expired", "removed"] = Field("pending", description="only in this state")
    after: PendingCursor | None = Field(None, description="`next` of the previous page")


class ShowPending(RequestModel):
    batch: ShortText
    text: ShortText = Field(description="the text storage id, or the id of a failed upload")


class RemovePending(ChangeRequest):
    batch: ShortText
    texts: Annotated[list[ShortText], Field(min_length=1, max_length=parameters.MAX_ROWS)] = Field(
        description="text storage ids, or ids of failed uploads"
    )


class ClearPending(_PendingFilters, ChangeRequest):
    batch: ShortText


class RestorePending(_PendingFilters, ChangeRequest):
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


class WaitingFailureRow(ResponseModel):
    batch_id: str
    file_upload_id: str
    state: str
    original_file_name: str = Field(description="its first 255 characters")
    validation_error_code: str
    message: str | None
    correlation_id: UUID
    stored_at: datetime
    waiting_since: datetime
    closed_at: datetime | None = Field(description="when it expired or was removed")
    arrival: int = Field(description="its position in the order of arrival")


class WaitingFailurePage(ResponseModel):
    rows: list[WaitingFailureRow]
    next: str | None = Field(description="`after` of the next page; null if there is none")


class PendingDetail(ResponseModel):
    """A content, or a validation failure: that has no `text_storage_id`, and a code and a message instead."""

    batch_id: str
    text_storage_id: str | None = None
    state: str
    original_file_name: str
    file_upload_id: str
    raw_file_storage_id: str | None
    file_size_bytes: int | None
    content_md5_hash: str | None = None
    validation_error_code: str | None = None
    message: str | None = None
    failed_at: datetime | None = None
    correlation_id: UUID
    traceparent: str | None
    tracestate: str | None
    stored_at: datetime
    waiting_since: datetime
    closed_at: datetime | None = Field(description="when it expired or was removed")
    arrival: int = Field(description="its position in the order of arrival")


class RemovedPending(ResponseModel):
    contents: int = Field(description="number of contents that were removed")
    failures: int = Field(description="number of validation failures, likewise")


class RestoredPending(ResponseModel):
    contents: int = Field(description="number of contents that were restored, or in a dry run match")
    failures: int = Field(description="number of validation failures, likewise")
    busy: list[str] = Field(description="batches that were skipped since another transaction holds their lock")
    registered: list[str] = Field(description="batches that were skipped since they were registered meanwhile")


async def _list_pending(call: Call) -> object:
    request: ListPending = call.request
    condition = PendingFilter(request.batch, None, request.file, request.older_than, request.newer_than)
    return await call.operations.pending.list(condition, page=request.limit, state=request.state, after=request.after)


async def _list_failures(call: Call) -> object:
    request: ListFailures = call.request
    condition = PendingFilter(request.batch, None, request.file, request.older_than, request.newer_than)
    return await call.operations.pending.list_failures(
        condition, page=request.limit, state=request.state, after=request.after
    )


async def _show_pending(call: Call) -> object:
    return await call.operations.pending.show(call.request.batch, call.request.text)


async def _remove_pending(call: Call) -> object:
    condition = PendingFilter(call.request.batch, call.request.texts)
    return await call.operations.pending.remove(call.by, "pending remove", condition)


async def _clear_pending(call: Call) -> object:
    request: ClearPending = call.request
    condition = PendingFilter(request.batch, None, request.file, request.older_than, request.newer_than)
    return await call.operations.pending.remove(call.by, "pending clear", condition)


async def _restore_pending(call: Call) -> object:
    request: RestorePending = call.request
    condition = PendingFilter(request.batch, request.texts, request.file, request.older_than, request.newer_than)
    return await call.operations.pending.restore(call.by, condition, everything=request.all, dry_run=request.dry_run)


def endpoints() -> Sequence[Endpoint]:
    """Return the endpoints of this group."""
    return (
        Endpoint(
            "GET",
            "/admin/pending",
            "List pending content, the longest waiting first",
            ListPending,
            PendingPage,
            _list_pending,
        ),
        Endpoint(
            "GET",
            "/admin/pending/failures",
            "List validation failures that wait, expired or were removed, the longest waiting first",
            ListFailures,
            WaitingFailurePage,
            _list_failures,
        ),
        Endpoint(
            "GET",
            "/admin/pending/show",
            "Show one content or validation failure with all its fields",
            ShowPending,
            PendingDetail,
            _show_pending,
        ),
        Endpoint(
            "POST",
            "/admin/pending/remove",
            "Remove single contents or validation failures that are pending or expired",
            RemovePending,
            RemovedPending,
            _remove_pending,
        ),
        Endpoint(
            "POST",
            "/admin/pending/clear",
            "Remove all content and failures that wait for a batch, or what matches the filters",
            ClearPending,
            RemovedPending,
            _clear_pending,
        ),
        Endpoint(
            "POST",
            "/admin/pending/restore",
            "Make expired content and failures pending again: of a batch, what matches the filters, or all",
            RestorePending,
            RestoredPending,
            _restore_pending,
        ),
    )
