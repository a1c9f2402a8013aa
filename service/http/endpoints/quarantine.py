"""Lists the endpoints on rejected inputs."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, model_validator

from service.http.schemas import (
    AgeFilters,
    Call,
    ChangeRequest,
    Endpoint,
    PageRequest,
    RequestModel,
    ResponseModel,
    RowId,
    RowLimit,
    ShortText,
)
from service.operators import parameters
from service.store.quarantine import QuarantineFilter

VALUE_BYTES = 1024 * 1024
"""Maximum size of the value in a response about a rejected input. The command line shows the whole value."""


class _QuarantineFilters(AgeFilters):
    topic: ShortText | None = Field(None, description="only of this topic")
    reason: ShortText | None = Field(None, description="only with this reason")
    batch: ShortText | None = Field(None, description="only of this batch, as far as that could be read")
    file: ShortText | None = Field(None, description="only if the file name contains this text, in any case")
    contains: ShortText | None = Field(
        None, description="only if key, value or error contain this text, in any case, escaped or not"
    )
    release: ShortText | None = Field(
        None, description="only what this release of the service rejected (`unknown`: a release before 0.2.0)"
    )

    def condition(self, ids: Sequence[int] | None = None, after: int | None = None) -> QuarantineFilter:
        """Return the filter of the rejected inputs."""
        return QuarantineFilter(
            ids,
            self.topic,
            self.reason,
            self.older_than,
            self.newer_than,
            self.batch,
            self.file,
            self.contains,
            self.release,
            after,
        )


class ListQuarantine(_QuarantineFilters, PageRequest):
    state: Literal["open", "replayed", "discarded"] | None = Field(None, description="only in this state")
    before: RowId | None = Field(None, description="`next` of the previous page")


class ShowQuarantined(RequestModel):
    id: RowId


class SelectQuarantined(_QuarantineFilters, ChangeRequest):
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


class ResumeTopic(ChangeRequest):
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
    batch_id: str | None = Field(description="null where it could not be read; the next two likewise")
    original_file_name: str | None = Field(description="in lists its first 255 characters")
    correlation_id: UUID | None
    release: str | None = Field(description="release of the service that rejected it; null of releases before 0.2.0")


class QuarantinePage(ResponseModel):
    rows: list[QuarantineListRow]
    next: str | None = Field(description="`before` of the next page; null if there is none")


class QuarantinedDetail(QuarantineListRow):
    """Key and value are text if they are printable text, else Base64 in `key_base64` and `value_base64`."""

    last_seen_at: datetime
    closed_at: datetime | None
    erased_at: datetime | None = Field(description="when its contents were erased: it cannot be replayed")
    headers: list[Any]
    key: str | None = None
    key_base64: str | None = None
    value: str | None = Field(None, description="at most the first MiB")
    value_base64: str | None = None
    decoded: str | None = Field(
        None, description="the value with the escapes of JSON decoded, if it is text and has any"
    )
    edited_value: str | None = Field(None, description="what an operator sent in its place; at most the first MiB")
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


class EditQuarantined(ChangeRequest):
    id: RowId
    value: Annotated[str, Field(min_length=1)] = Field(description="the corrected value: the JSON of an event, as text")
    dry_run: bool = Field(False, description="only validate it, and return how it differs")


class EditedInput(ReplayedRow):
    difference: str = Field(description="how the value differs from the original one, as a unified diff")


class Discarded(ResponseModel):
    discarded: int
    closed_meanwhile: int = Field(description="number of inputs that someone else closed in the meantime")
    next: int | None = Field(description="`after` of the next request; null if there is nothing left")


class Resumed(ResponseModel):
    topic: str


async def _list_quarantine(call: Call) -> object:
    request: ListQuarantine = call.request
    return await call.operations.quarantine.list(
        request.condition(), page=request.limit, state=request.state, before=request.before
    )


async def _show_quarantined(call: Call) -> object:
    return await call.operations.quarantine.show(call.request.id, VALUE_BYTES)


async def _replay(call: Call) -> object:
    ids, more = await _select(call)
    outcomes = [outcome async for outcome in call.operations.quarantine.replay(call.by, ids)]
    return {"outcomes": outcomes, "failed": sum(each.failed for each in outcomes), "next": more}


async def _edit(call: Call) -> object:
    request: EditQuarantined = call.request
    value = request.value.encode("utf-8", "surrogatepass")
    return await call.operations.quarantine.edit(call.by, request.id, value, dry_run=request.dry_run)


async def _discard(call: Call) -> object:
    ids, more = await _select(call)
    discarded = await call.operations.quarantine.discard(call.by, ids)
    return {"discarded": discarded, "closed_meanwhile": len(ids) - discarded, "next": more}


async def _select(call: Call) -> tuple[Sequence[int], int | None]:
    """Returns the ids of the selected inputs, at most as many as the limit, and the cursor of the next request."""
    request: SelectQuarantined = call.request
    condition = request.condition(request.ids, request.after)
    found = await call.operations.quarantine.find_open(condition, everything=request.all, most=request.limit + 1)
    ids = found[: request.limit]
    return ids, ids[-1] if len(found) > len(ids) else None


async def _resume(call: Call) -> object:
    await call.operations.quarantine.resume(call.by, call.request.topic, skip_refused=call.request.skip_refused)
    return {"topic": call.request.topic}


def endpoints() -> Sequence[Endpoint]:
    """Return the endpoints of this group."""
    return (
        Endpoint(
            "GET",
            "/admin/quarantine",
            "List rejected inputs (dead letters), the newest first",
            ListQuarantine,
            QuarantinePage,
            _list_quarantine,
        ),
        Endpoint(
            "GET",
            "/admin/quarantine/show",
            "Show one rejected input with all its fields",
            ShowQuarantined,
            QuarantinedDetail,
            _show_quarantined,
        ),
        Endpoint(
            "POST",
            "/admin/quarantine/replay",
            "Process rejected inputs again like new ones, the oldest first, each in its own transaction",
            SelectQuarantined,
            ReplayedInputs,
            _replay,
        ),
        Endpoint(
            "POST",
            "/admin/quarantine/edit",
            "Process a corrected value in place of an open rejected input, and close that with it",
            EditQuarantined,
            EditedInput,
            _edit,
        ),
        Endpoint(
            "POST",
            "/admin/quarantine/discard",
            "Discard rejected inputs permanently",
            SelectQuarantined,
            Discarded,
            _discard,
        ),
        Endpoint(
            "POST",
            "/admin/quarantine/resume",
            "Resume a paused topic",
            ResumeTopic,
            Resumed,
            _resume,
        ),
    )
