"""Lists the endpoint that finds batches, uploads and rejected inputs."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from pydantic import Field

from service.http.schemas import AgeFilters, Call, Endpoint, PageRequest, ResponseModel, ShortText, Since, Until


class FindText(AgeFilters, PageRequest):
    text: ShortText = Field(
        exclude=True,  # from the log: it may be the name of a person
        description="the id of a batch, text, upload, essay, user, class or correlation, a part of a file's name, "
        "or at least the first 8 characters of an id",
    )
    since: Since | None = Field(None, description="only what waited or changed since this time, or date")
    until: Until | None = Field(None, description="only what was there by this time; a date includes that day, of UTC")


class FoundRow(ResponseModel):
    matched: str = Field(
        description="which id it is, `beginning of` one, `file name`, or `content` of a rejected input"
    )
    kind: str = Field(description="batch, slot, excess, failure, content (that waits), confirmation or rejected")
    state: str
    batch_id: str | None
    text_storage_id: str | None
    file_upload_id: str | None
    essay_id: str | None
    original_file_name: str | None = Field(description="its first 255 characters")
    at: datetime | None = Field(description="when it came into this state; null for an open slot")
    details: str | None
    correlation_id: UUID | None


class Found(ResponseModel):
    rows: list[FoundRow] = Field(description="the newest first")


async def _find(call: Call) -> object:
    request: FindText = call.request
    rows = await call.operations.search.find(
        request.text,
        page=request.limit,
        older_than=request.older_than,
        newer_than=request.newer_than,
        since=request.since,
        until=request.until,
    )
    return {"rows": rows}


def endpoints() -> Sequence[Endpoint]:
    """Return the endpoints of this group."""
    return (
        Endpoint(
            "GET",
            "/admin/find",
            "Find a batch, text, upload, essay, user or correlation id, or a part of a file's name, in every state",
            FindText,
            Found,
            _find,
        ),
    )
