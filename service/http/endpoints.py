"""The endpoints of /admin/: what each takes, returns and calls."""

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
"""So much of a rejected input is shown; the command line shows all."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, read and checked."""

    operations: Operations
    request: Any
    address: str

    @property
    def by(self) -> Operator:
        """For the audit. The token is one for all, so who does not say who it is, is known by the address alone."""
        return Operator(self.request.who or f"token from {self.address}", self.request.why)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What can be request for, and by which function it is done."""

    method: str
    path: str
    summary: str
    request: type[BaseModel]
    response: type[BaseModel]
    do: Callable[[Call], Awaitable[object]]


async def _list_pending(call: Call) -> object:
    request: schemas.ListPending = call.request
    chosen = PendingFilter(request.batch, None, request.file, request.older_than, request.newer_than)
    return await call.operations.pending.list(chosen, page=request.limit, state=request.state, after=request.after)


async def _show_pending(call: Call) -> object:
    return await call.operations.pending.show(call.request.batch, call.request.text)


async def _remove_pending(call: Call) -> object:
    chosen = PendingFilter(call.request.batch, call.request.texts)
    return {"contents": await call.operations.pending.remove(call.by, "pending remove", chosen)}


async def _clear_pending(call: Call) -> object:
    request: schemas.ClearPending = call.request
    chosen = PendingFilter(request.batch, None, request.file, request.older_than, request.newer_than)
    return {"contents": await call.operations.pending.remove(call.by, "pending clear", chosen)}


async def _restore_pending(call: Call) -> object:
    return {"contents": await call.operations.pending.restore(call.by, call.request.batch, call.request.texts)}


async def _list_quarantine(call: Call) -> object:
    request: schemas.ListQuarantine = call.request
    chosen = QuarantineFilter(None, request.topic, request.reason, request.older_than, request.newer_than)
    return await call.operations.quarantine.list(chosen, page=request.limit, state=request.state, before=request.before)


async def _show_quarantined(call: Call) -> object:
    return await call.operations.quarantine.show(call.request.id, VALUE_BYTES)


async def _replay(call: Call) -> object:
    ids, more = await _open(call)
    outcomes = [outcome async for outcome in call.operations.quarantine.replay(call.by, ids)]
    return {"outcomes": outcomes, "failed": sum(each.failed for each in outcomes), "next": more}


async def _discard(call: Call) -> object:
    ids, more = await _open(call)
    discarded = await call.operations.quarantine.discard(call.by, ids)
    return {"discarded": discarded, "closed_meanwhile": len(ids) - discarded, "next": more}


async def _open(call: Call) -> tuple[Sequence[int], int | None]:
    """As many as one request takes of what is chosen, and where the next one goes on."""
    request: schemas.ChooseQuarantined = call.request
    chosen = QuarantineFilter(
        request.ids, request.topic, request.reason, request.older_than, request.newer_than, request.after
    )
    found = await call.operations.quarantine.find_open(chosen, everything=request.all, most=request.limit + 1)
    ids = found[: request.limit]
    return ids, ids[-1] if len(found) > len(ids) else None


async def _resume(call: Call) -> object:
    await call.operations.quarantine.resume(call.by, call.request.topic)
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
        "What waits for its registration, the longest waiting first",
        schemas.ListPending,
        schemas.PendingPage,
        _list_pending,
    ),
    Endpoint("GET", "/admin/pending/show", "One content, whole", schemas.ShowPending, schemas.Pending, _show_pending),
    Endpoint(
        "POST",
        "/admin/pending/remove",
        "Take back contents that wait or are expired",
        schemas.RemovePending,
        schemas.Changed,
        _remove_pending,
    ),
    Endpoint(
        "POST",
        "/admin/pending/clear",
        "Take back all that waits for a batch, or what the filters leave of it",
        schemas.ClearPending,
        schemas.Changed,
        _clear_pending,
    ),
    Endpoint(
        "POST",
        "/admin/pending/restore",
        "Let expired content wait again",
        schemas.RestorePending,
        schemas.Changed,
        _restore_pending,
    ),
    Endpoint(
        "GET",
        "/admin/quarantine",
        "The inputs that could not be processed, the newest first",
        schemas.ListQuarantine,
        schemas.QuarantinePage,
        _list_quarantine,
    ),
    Endpoint(
        "GET",
        "/admin/quarantine/show",
        "One of them, whole",
        schemas.ShowQuarantined,
        schemas.Quarantined,
        _show_quarantined,
    ),
    Endpoint(
        "POST",
        "/admin/quarantine/replay",
        "Run them through the same code as fresh ones, the oldest first, each in its own transaction",
        schemas.ChooseQuarantined,
        schemas.ReplayedAll,
        _replay,
    ),
    Endpoint(
        "POST",
        "/admin/quarantine/discard",
        "Close them for good",
        schemas.ChooseQuarantined,
        schemas.Discarded,
        _discard,
    ),
    Endpoint(
        "POST",
        "/admin/quarantine/resume",
        "Set a stopped topic going again",
        schemas.ResumeTopic,
        schemas.Resumed,
        _resume,
    ),
    Endpoint(
        "GET",
        "/admin/batches",
        "The batches that are registered, in the order of their ids",
        schemas.ListBatches,
        schemas.BatchPage,
        _list_batches,
    ),
    Endpoint("GET", "/admin/batches/show", "One batch and its slots", schemas.ShowBatch, schemas.Batch, _show_batch),
    Endpoint(
        "POST",
        "/admin/batches/republish",
        "Announce a complete batch again, with its old event ids",
        schemas.RepublishBatch,
        schemas.Republished,
        _republish,
    ),
)
