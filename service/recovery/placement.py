"""Writes what was announced, batch by batch, and decides anew what the announcements contradict."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection

from service.domain.delivery import Delivery, IntakeLimits
from service.domain.events import ContentProvisioned, ValidationFailed
from service.domain.topics import BATCH_READY, VALIDATION_ERRORS
from service.intake.announcement import announcements_of
from service.intake.transaction import apply
from service.recovery.facts import Published, Received
from service.recovery.reconstruction import Reconstruction, reconstruct
from service.recovery.state import Recovering
from service.store import batches, recovery, slots
from service.store.outbox import OutboxWriter

PAGE_FACTS: Final = 8_000
"""How many announcements and inputs are written in one transaction; a larger batch has one of its own."""

DECIDED: Final = 5_000
"""How many uploads are decided anew at a time."""

UNLIMITED: Final = 1_000_000_000

Facts = tuple[str, list[Published], list[Received]]


def pages(facts: Iterator[tuple[str, Iterator[Any]]]) -> Iterator[list[Facts]]:
    """Yield the facts of announced batches, in pages."""
    page: list[Facts] = []
    size = 0
    for batch_id, some in facts:
        announcements: dict[tuple[str, int, int], Published] = {}
        received: list[Received] = []
        for fact in some:
            if isinstance(fact, Published):
                announcements[fact.topic, fact.partition, fact.offset] = fact
            else:
                received.append(fact)
        if not announcements:
            continue
        page.append((batch_id, list(announcements.values()), received))
        size += len(announcements) + len(received)
        if size >= PAGE_FACTS:
            yield page
            page, size = [], 0
    if page:
        yield page


async def place(
    recovering: Recovering, page: Sequence[Facts], limits: IntakeLimits, known_since: datetime, *, dry_run: bool
) -> tuple[list[Reconstruction], Counter[str]]:
    """Write a page of batches in one transaction. Returns what was changed, and the counts of it.

    Raises NotRecoverable, psycopg.Error.
    """
    counts: Counter[str] = Counter()
    async with recovering.database.transaction() if dry_run else recovering.transaction(pipelined=True) as conn:
        stored = await recovery.read_stored(conn, [batch_id for batch_id, _, _ in page])
        changed = [
            reconstruct(batch_id, announcements, received, stored[batch_id], known_since=known_since)
            for batch_id, announcements, received in page
        ]
        for each in changed:
            counts["batches"] += each.register is not None
            counts["slots"] += sum(slot.state != "open" for slot in each.slots)
            counts["contents"] += len(each.contents)
            counts["decided again"] += len(each.decide)
        if not dry_run:
            counts["events deleted"] = await _write(conn, changed, limits.large_event_bytes)
            await _decide(conn, changed, replace(limits, consecutive_rejections=UNLIMITED))
            incomplete = {each.batch_id for each in changed if each.incomplete}
            kept = {batch_id: [tuple(each) for each in known] for batch_id, known, _ in page if batch_id in incomplete}
            if kept:
                await recovery.write_incomplete_batches(conn, kept)
            if registered := [each.batch_id for each in changed if each.register]:
                await recovery.complete_batches(conn, registered)
    return changed, counts


async def _write(conn: AsyncConnection[Any], changed: Sequence[Reconstruction], max_bytes: int) -> int:
    events = [(each.batch_id, event_id) for each in changed for event_id in each.event_ids]
    deleted = await recovery.delete_announced_events(conn, events)
    if cleared := [(each.batch_id, *what) for each in changed for what in each.cleared]:
        await recovery.clear_batches(conn, cleared)
    if registered := [each.register for each in changed if each.register]:
        await recovery.insert_recovered_batches(conn, registered)
    await recovery.write_slots(conn, ((each.batch_id, slot) for each in changed for slot in each.slots))
    contents = [(each.batch_id, content) for each in changed for content in each.contents]
    if excess := [row for row in contents if row[1].state == "excess"]:
        await recovery.write_excess(conn, excess)
    if expired := [row for row in contents if row[1].state == "expired"]:
        await recovery.write_expired(conn, expired)
    if failures := [failure for each in changed for failure in each.failures]:
        await recovery.write_failures(conn, failures)
    if times := {each.batch_id: each.times for each in changed if each.times}:
        complete = {id_: time for id_, time in (await recovery.count_recovered(conn, times)).items() if time}
        full = [each for each in changed if each.changes_slots and each.batch_id in complete]
        await _announce(conn, full, complete, max_bytes)
    return deleted


async def _announce(
    conn: AsyncConnection[Any], changed: Sequence[Reconstruction], complete: Mapping[str, datetime], max_bytes: int
) -> None:
    """Announce batches that are complete, as far as that was not announced."""
    due = [each for each in changed if not each.announced >= {BATCH_READY, VALIDATION_ERRORS}]
    rows = await batches.read_batches(conn, [each.batch_id for each in due])
    writer = OutboxWriter(conn)
    for each in due:
        row, completed_at = rows[each.batch_id], complete[each.batch_id]
        # A failed batch is never ready, and one that is ready has announced its failures before.
        if BATCH_READY in each.announced or (VALIDATION_ERRORS in each.announced and not row.assigned):
            continue
        essays = slots.stream_assigned_slots(conn, each.batch_id)
        async for event in announcements_of(conn, row, essays, completed_at, max_bytes=max_bytes):
            if event.topic not in each.announced:
                await writer.add([event])
    await writer.flush()


async def _decide(conn: AsyncConnection[Any], changed: Sequence[Reconstruction], limits: IntakeLimits) -> None:
    """Decide anew what is not announced: content before failures, within each batch."""
    for kind in (ContentProvisioned, ValidationFailed):
        uploads = [upload for each in changed for upload in each.decide if isinstance(upload, kind)]
        for start in range(0, len(uploads), DECIDED):
            deliveries = [
                Delivery("recovery", 0, number, None, None, (), upload)
                for number, upload in enumerate(uploads[start : start + DECIDED])
            ]
            # All are of registered batches, whose open slots nobody else can hold.
            await apply(conn, deliveries, limits, exclusive=True)
