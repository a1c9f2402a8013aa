"""Lists the endpoints on the state of the service."""

from collections.abc import Sequence

from pydantic import Field

from service.http.schemas import Call, ChangeRequest, Endpoint, ResponseModel, RowId


class AcknowledgeNotices(ChangeRequest):
    ids: list[RowId] | None = Field(None, description="lost inputs (ops.lost_inputs); default: all notices")


class Acknowledged(ResponseModel):
    notices: list[str] = Field(description="what was marked as seen, in words")


async def _acknowledge(call: Call) -> object:
    return {"notices": await call.operations.notices.acknowledge(call.by, call.request.ids)}


def endpoints() -> Sequence[Endpoint]:
    """Return the endpoints of this group."""
    return (
        Endpoint(
            "POST",
            "/admin/health/acknowledge",
            "Mark losses of inputs as seen, and clocks that do not agree",
            AcknowledgeNotices,
            Acknowledged,
            _acknowledge,
        ),
    )
