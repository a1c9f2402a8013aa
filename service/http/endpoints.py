"""Lists the endpoints of /admin/, with the request, the response and the function of each."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from service.http import schemas
from service.operators.operations import Operations
from service.store.operator_actions import Operator
from service.store.pending_content import PendingFilter
from service.store.quarantine import QuarantineFilter

VALUE_BYTES = 1024 * 1024
"""Maximum size of the value in a response about a rejected input. The command line shows the whole value."""


@dataclass(frozen=True, slots=True)
class Call:
    """Holds one request after validation. `request` is an instance of the endpoint's request model."""

    operations: Operations
    request: Any
    address: str

    @property
    def by(self) -> Operator:
        """Returns who acts, for the log of operator actions: by default the address, since all share one token."""
        return Operator(self.request.who or f"token from {self.address}", self.request.why)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Describes one endpoint. `do` performs the action."""

    method: str
    path: str
    summary: str
    request: type[BaseModel]
    response: type[BaseModel]
    do: Callable[[Call], Awaitable[object]]


async def _list_pending(call: Call) -> object:
    request: schemas.ListPending = call.request
    condition = PendingFilter(request.batch, None, request.file, request.older_than, request.newer_than)
    return await call.operations.pending.list(condition, page=request.limit, state=request.state, after=request.after)


async def _show_pending(call: Call) -> object:
    return await call.operations.pending.show(call.request.batch, call.request.text)


async def _remove_pending(call: Call) -> object:
    condition = PendingFilter(call.request.batch, call.request.texts)
    return {"contents": await call.operations.pending.remove(call.by, "pending remove", condition)}


async def _clear_pending(call: Call) -> object:
    request: schemas.ClearPending = call.request
    condition = PendingFilter(request.batch, None, request.file, request.older_than, request.newer_than)
    return {"contents": await call.operations.pending.remove(call.by, "pending clear", condition)}


async def _restore_pending(call: Call) -> object:
    request: schemas.RestorePending = call.request
    condition = PendingFilter(request.batch, request.texts, request.file, request.older_than, request.newer_than)
    return await call.operations.pending.restore(call.by, condition, everything=request.all, dry_run=request.dry_run)


async def _acknowledge(call: Call) -> object:
    return {"notices": await call.operations.notices.acknowledge(call.by, call.request.ids)}


async def _list_quarantine(call: Call) -> object:
    request: schemas.ListQuarantine = call.request
    condition = QuarantineFilter(None, request.topic, request.reason, request.older_than, request.newer_than)
    return await call.operations.quarantine.list(
        condition, page=request.limit, state=request.state, before=request.before
    )


async def _show_quarantined(call: Call) -> object:
    return await call.operations.quarantine.show(call.request.id, VALUE_BYTES)


async def _replay(call: Call) -> object:
    ids, more = await _select(call)
    outcomes = [outcome async for outcome in call.operations.quarantine.replay(call.by, ids)]
    return {"outcomes": outcomes, "failed": sum(each.failed for each in outcomes), "next": more}


async def _discard(call: Call) -> object:
    ids, more = await _select(call)
    discarded = await call.operations.quarantine.discard(call.by, ids)
    return {"discarded": discarded, "closed_meanwhile": len(ids) - discarded, "next": more}


async def _select(call: Call) -> tuple[Sequence[int], int | None]:
    """Returns the ids of the selected inputs, at most as many as the limit, and the cursor of the next request."""
    request: schemas.SelectQuarantined = call.request
    condition = QuarantineFilter(
        request.ids, request.topic, request.reason, request.older_than, request.newer_than, request.after
    )
    found = await call.operations.quarantine.find_open(condition, everything=request.all, most=request.limit + 1)
    ids = found[: request.limit]
    return ids, ids[-1] if len(found) > len(ids) else None


async def _resume(call: Call) -> object:
    await call.operations.quarantine.resume(call.by, call.request.topic, skip_refused=call.request.skip_refused)
    return {"topic": call.request.topic}


async def _list_batches(call: Call) -> object:
    request: schemas.ListBatches = call.request
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


ENDPOINTS: Sequence[Endpoint] = (
    Endpoint(
        "GET",
        "/admin/pending",
        "List pending content, the longest waiting first",
        schemas.ListPending,
        schemas.PendingPage,
        _list_pending,
    ),
    Endpoint(
        "GET",
        "/admin/pending/show",
        "Show one content with all its fields",
        schemas.ShowPending,
        schemas.PendingDetail,
        _show_pending,
    ),
    Endpoint(
        "POST",
        "/admin/pending/remove",
        "Remove single contents that are pending or expired",
        schemas.RemovePending,
        schemas.Changed,
        _remove_pending,
    ),
    Endpoint(
        "POST",
        "/admin/pending/clear",
        "Remove all content that waits for a batch, or that which matches the filters",
        schemas.ClearPending,
        schemas.Changed,
        _clear_pending,
    ),
    Endpoint(
        "POST",
        "/admin/pending/restore",
        "Make expired content and failures pending again: of a batch, what matches the filters, or all",
        schemas.RestorePending,
        schemas.RestoredPending,
        _restore_pending,
    ),
    Endpoint(
        "GET",
        "/admin/quarantine",
        "List rejected inputs (dead letters), the newest first",
        schemas.ListQuarantine,
        schemas.QuarantinePage,
        _list_quarantine,
    ),
    Endpoint(
        "GET",
        "/admin/quarantine/show",
        "Show one rejected input with all its fields",
        schemas.ShowQuarantined,
        schemas.QuarantinedDetail,
        _show_quarantined,
    ),
    Endpoint(
        "POST",
        "/admin/quarantine/replay",
        "Process rejected inputs again like new ones, the oldest first, each in its own transaction",
        schemas.SelectQuarantined,
        schemas.ReplayedInputs,
        _replay,
    ),
    Endpoint(
        "POST",
        "/admin/quarantine/discard",
        "Discard rejected inputs permanently",
        schemas.SelectQuarantined,
        schemas.Discarded,
        _discard,
    ),
    Endpoint(
        "POST",
        "/admin/quarantine/resume",
        "Resume a paused topic",
        schemas.ResumeTopic,
        schemas.Resumed,
        _resume,
    ),
    Endpoint(
        "POST",
        "/admin/health/acknowledge",
        "Mark losses of inputs as seen, and clocks that do not agree",
        schemas.AcknowledgeNotices,
        schemas.Acknowledged,
        _acknowledge,
    ),
    Endpoint(
        "GET",
        "/admin/batches",
        "List registered batches in the order of their ids",
        schemas.ListBatches,
        schemas.BatchPage,
        _list_batches,
    ),
    Endpoint(
        "GET",
        "/admin/batches/show",
        "Show one batch and its slots",
        schemas.ShowBatch,
        schemas.BatchDetail,
        _show_batch,
    ),
    Endpoint(
        "POST",
        "/admin/batches/republish",
        "Publish the events of a complete batch again, with their old event ids",
        schemas.RepublishBatch,
        schemas.Republished,
        _republish,
    ),
)
