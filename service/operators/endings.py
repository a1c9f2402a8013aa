"""Ends batches: closes them with what is there, or cancels them.

All open slots are locked first, in slot order and waiting, and only then the counter row: a poll waits for the
counter row while it holds the slots that it has taken. So what is withdrawn was open, and what comes later finds no
slot.
"""

from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from psycopg import AsyncConnection

from service.domain.decisions import BatchCount
from service.domain.delivery import IntakeLimits
from service.domain.endings import EndBatch, KeepBatch, decide_cancel, decide_close
from service.domain.enveloped import event_id
from service.domain.topics import CancelReason
from service.operators.errors import Conflict, NotFound
from service.store import batches, operator_actions, relays, slots
from service.store.announcements import announcements_of
from service.store.batches import RegisteredBatch
from service.store.operator_actions import Operator, Subject
from service.store.outbox import OutboxWriter

MOST_WITHDRAWN: Final = 1_000
"""How many withdrawn essays a row of the log of operator actions lists. It always has their number."""


@dataclass(frozen=True, slots=True)
class EndingEvent:
    """An event that is published, or would be."""

    topic: str
    event_id: UUID


@dataclass(frozen=True, slots=True)
class Ending:
    """How a batch was ended, or would be. `before` is its state until then."""

    batch_id: str
    before: str
    state: str
    expected: int
    assigned: int
    failed: int
    withdrawn: int
    events: list[EndingEvent] = field(default_factory=list)


async def preview_ending(
    conn: AsyncConnection[Any], batch_id: str, limits: IntakeLimits, reason: CancelReason | None
) -> Ending:
    """Return how the batch would be ended at this moment. Locks and changes nothing. Raises as `end_batch`."""
    row = await _endable(conn, batch_id)
    return _ending(row, _decide(row, limits, reason))


async def end_batch(
    conn: AsyncConnection[Any], by: Operator, batch_id: str, limits: IntakeLimits, reason: CancelReason | None
) -> Ending:
    """Cancel a batch for this reason, or close it (None), in the caller's transaction.

    Raises NotFound, Conflict, Unpublishable, psycopg.Error (55P03 where another transaction holds a slot or the batch).
    """
    _decide(await _endable(conn, batch_id), limits, reason)  # so that nothing is waited for where the state forbids it
    await slots.lock_open_slots(conn, batch_id)
    await (await batches.count_taken(conn, {batch_id: (0, 0)}))
    row = await _read(conn, batch_id)
    decision = _decide(row, limits, reason)
    withdrawn = await slots.withdraw_slots(conn, batch_id, most=MOST_WITHDRAWN)
    await batches.end_batch(conn, batch_id, decision.state, reason)
    ended = await _read(conn, batch_id)
    writer = OutboxWriter(conn)
    async for event in announcements_of(
        conn, ended, max_bytes=limits.large_event_bytes, topics=frozenset(decision.topics)
    ):
        await writer.add([event])
    await writer.flush()
    ending = _ending(row, decision)
    action = "batches close" if reason is None else "batches cancel"
    details = _details(ending, withdrawn) | ({} if reason is None else {"reason": reason})
    await operator_actions.insert_operator_actions(conn, by, action, [Subject(batch_id, details=details)])
    return ending


async def _endable(conn: AsyncConnection[Any], batch_id: str) -> RegisteredBatch:
    """Read a batch. Raises NotFound where it is not registered, Conflict where no batch can be ended."""
    _, registered = await batches.read_batch_states(conn, [batch_id])
    if not registered:
        raise NotFound(f"batch {batch_id} is not registered")
    if await relays.serves_previous_release(conn):
        raise Conflict("pods of the previous release may be alive, which know no batch that is closed or cancelled")
    return await _read(conn, batch_id)


async def _read(conn: AsyncConnection[Any], batch_id: str) -> RegisteredBatch:
    return (await batches.read_batches(conn, [batch_id]))[batch_id]


def _decide(row: RegisteredBatch, limits: IntakeLimits, reason: CancelReason | None) -> EndBatch:
    """Decide by what is stored. Raises Conflict where the state of the batch forbids it."""
    count = BatchCount(row.expected, row.assigned, row.failed, row.withdrawn)
    waits = limits.ready_waits and bool(row.class_id) and row.confirmed_at is None
    match decide_close(row.state, count, waits=waits) if reason is None else decide_cancel(row.state):
        case KeepBatch(why):
            raise Conflict(f"batch {row.batch_id} {why}")
        case EndBatch() as decision:
            return decision


def _ending(row: RegisteredBatch, decision: EndBatch) -> Ending:
    return Ending(
        row.batch_id,
        row.state,
        decision.state,
        row.expected,
        row.assigned,
        row.failed,
        row.expected - row.assigned - row.failed,
        [EndingEvent(topic, event_id(topic, row.batch_id)) for topic in decision.topics],
    )


def _details(ending: Ending, withdrawn: list[str]) -> dict[str, Any]:
    counts = {
        name: getattr(ending, name) for name in ("before", "state", "expected", "assigned", "failed", "withdrawn")
    }
    events = [{"topic": event.topic, "event_id": event.event_id} for event in ending.events]
    return {**counts, "essay_ids": withdrawn, "events": events}
