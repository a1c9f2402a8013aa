"""Publishes again what a batch has announced, as far as its rows state it byte for byte."""

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any

from psycopg import AsyncConnection

from service.domain.delivery import IntakeLimits
from service.domain.enveloped import Outgoing
from service.operators.endings import EndingEvent
from service.operators.errors import Conflict
from service.store import batches, operator_actions
from service.store.announcements import announcements_of, excess_announcements, slot_announcements
from service.store.batches import RegisteredBatch
from service.store.operator_actions import Operator, Subject
from service.store.outbox import OutboxWriter


@dataclass(slots=True)
class Republication:
    """What is published again, or would be."""

    events: list[EndingEvent] = field(default_factory=list)
    """Those of the batch's end."""
    slots: int = 0
    """EssaySlotAssigned events."""
    excess: int = 0
    """ExcessContentProvisioned events."""
    left_out: int = 0
    """Events of slots and excess content that cannot be built again, since a recovery knows them only in part."""


async def republish(
    conn: AsyncConnection[Any],
    by: Operator,
    batch_id: str,
    limits: IntakeLimits,
    *,
    slots: bool,
    excess: bool,
    dry_run: bool,
) -> Republication:
    """Write events of a batch into the outbox again, with their old event ids, in the caller's transaction.

    Those of its end, and on demand those of its slots and of its excess content. Memory holds what one insert writes,
    however many slots there are, or the largest event. A dry run builds them, and changes nothing. Raises Conflict,
    Unpublishable, psycopg.Error.
    """
    row = await _read(conn, batch_id, locked=not dry_run)
    if row.completed_at is None and not (slots or excess):
        taken = f"{row.assigned + row.failed} of its {row.expected} slots are taken"
        raise Conflict(f"batch {batch_id} has announced nothing of its end yet: {taken}")
    if row.erased_at:
        raise Conflict(f"personal data of batch {batch_id} was erased: its events can not be built again as they were")
    done = Republication()
    writer = None if dry_run else OutboxWriter(conn)
    if slots:
        done.slots = await _write(writer, done, slot_announcements(conn, batch_id, max_bytes=limits.event_bytes))
    if excess:
        done.excess = await _write(writer, done, excess_announcements(conn, batch_id, max_bytes=limits.event_bytes))
    async for event in announcements_of(conn, row, max_bytes=limits.large_event_bytes):
        done.events.append(EndingEvent(event.topic, event.event_id))
        if writer:
            await writer.add([event])
    if writer:
        await writer.flush()
        subject = Subject(batch_id, details=asdict(done))
        await operator_actions.insert_operator_actions(conn, by, "batches republish", [subject])
    return done


async def _read(conn: AsyncConnection[Any], batch_id: str, *, locked: bool) -> RegisteredBatch:
    """Read a batch; with `locked`, its events follow all that was committed before. Raises Conflict."""
    _, registered = await batches.read_batch_states(conn, [batch_id])
    if not registered:
        raise Conflict(f"batch {batch_id} is not registered")
    if locked:
        await (await batches.count_taken(conn, {batch_id: (0, 0)}))
    return (await batches.read_batches(conn, [batch_id]))[batch_id]


async def _write(
    writer: OutboxWriter | None, done: Republication, announcements: AsyncIterator[Outgoing | None]
) -> int:
    """Write the events that are known in full, and count the others. Returns how many are written, or would be."""
    written = 0
    async for event in announcements:
        if event is None:
            done.left_out += 1
            continue
        written += 1
        if writer:
            await writer.add([event])
    return written
