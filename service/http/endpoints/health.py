"""Lists the endpoints on the state of the service."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from service.http.schemas import Call, ChangeRequest, Endpoint, RequestModel, ResponseModel, RowId, ShortText


class ShowHealth(RequestModel):
    pass


class HealthCondition(ResponseModel):
    level: Literal["action needed", "notice"]
    kind: str = Field(description="what POST /admin/health/acknowledge takes, where the level is notice")
    line: str = Field(description="what is wrong or has happened, with a view and the section of the runbook")


class HealthVerdict(ResponseModel):
    level: Literal["action needed", "notice", "fine"]
    conditions: list[HealthCondition] = Field(description="what needs an action comes first")


class AcknowledgeNotices(ChangeRequest):
    kinds: list[ShortText] = Field(
        [], description="only notices of these kinds; default, without ids: all. `clocks` also lets a held purge go on"
    )
    ids: list[RowId] = Field([], description="only these losses of inputs (ops.lost_inputs)")
    dry_run: bool = Field(False, description="only show what would be marked; change nothing")


class Acknowledged(ResponseModel):
    notices: list[str] = Field(description="what was marked as seen, in words")


async def _show(call: Call) -> object:
    return await call.operations.notices.verdict()


async def _acknowledge(call: Call) -> object:
    request: AcknowledgeNotices = call.request
    notices = call.operations.notices
    return {"notices": await notices.acknowledge(call.by, request.kinds, request.ids, dry_run=request.dry_run)}


def endpoints() -> Sequence[Endpoint]:
    """Return the endpoints of this group."""
    return (
        Endpoint(
            "GET",
            "/admin/health",
            "Show what needs an action, and notices to be seen",
            ShowHealth,
            HealthVerdict,
            _show,
        ),
        Endpoint(
            "POST",
            "/admin/health/acknowledge",
            "Mark notices as seen",
            AcknowledgeNotices,
            Acknowledged,
            _acknowledge,
        ),
    )
