"""Lists the endpoints on inputs that cannot be read."""

from collections.abc import Sequence

from pydantic import Field

from service.http.schemas import Call, ChangeRequest, Endpoint, ResponseModel, ShortText


class SkipInput(ChangeRequest):
    topic: ShortText
    partition: int = Field(ge=0, le=2**31 - 1)
    offset: int = Field(ge=0, le=2**63 - 1)
    batch: bool = Field(False, description="skip its whole record batch")
    dry_run: bool = Field(False, description="only return what would be skipped")


class SkippedOffsets(ResponseModel):
    topic: str
    partition: int
    first_offset: int
    next_offset: int = Field(description="the offset after the last one that is skipped")
    why: str = Field(description="why it is a whole record batch, or no record; empty for a record")
    key_base64: str | None
    value_base64: str | None = Field(description="what is kept in quarantine; null where nothing could be fetched")


async def _skip(call: Call) -> object:
    request: SkipInput = call.request
    return await call.operations.inputs.skip(
        call.by, request.topic, request.partition, request.offset, whole_batch=request.batch, dry_run=request.dry_run
    )


def endpoints() -> Sequence[Endpoint]:
    """Return the endpoints of this group."""
    return (
        Endpoint(
            "POST",
            "/admin/inputs/skip",
            "Let pods skip a record of an input topic that they cannot read; it is kept in quarantine",
            SkipInput,
            SkippedOffsets,
            _skip,
        ),
    )
