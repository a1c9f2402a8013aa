"""Writes what was announced, batch by batch, and decides anew what the announcements contradict."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection

from service.domain.delivery import Delivery, IntakeLimits
from service.domain.events import ContentProvisioned, Incoming, ValidationFailed
from service.domain.topics import BATCH_CANCELLED, BATCH_READY
from service.intake.transaction import apply
from service.recovery.erased import blank_facts
from service.recovery.facts import Published, Received
from service.recovery.reconstruction import Reconstruction, reconstruct
from service.recovery.state import Recovering
from service.store import batches, confirmations, erasures, recovery
from service.store.announcements import ENDING, announcements_of
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
        page, erased = await blank_facts(conn, list(page))
        stored = await recovery.read_stored(conn, [batch_id for batch_id, _, _ in page])
        changed = [
            reconstruct(batch_id, announcements, received, stored[batch_id], known_since=known_since)
            for batch_id, announcements, received in page
        ]
        for each in changed:
            counts["batches"] += each.register is not None
            counts["slots"] += sum(slot.state != "open" for slot in each.slots)
            counts["slots withdrawn"] += sum(slot.state == "withdrawn" for slot in each.slots)
            counts["contents"] += len(each.contents)
            counts["decided again"] += len(each.decide)
        if not dry_run:
            counts["events deleted"] = await _write(conn, changed, limits)
            await _decide(conn, changed, replace(limits, consecutive_rejections=UNLIMITED))
            incomplete = {each.batch_id for each in changed if each.incomplete}
            kept = {batch_id: [tuple(each) for each in known] for batch_id, known, _ in page if batch_id in incomplete}
            if kept:
                await recovery.write_incomplete_batches(conn, kept)
            if registered := [each.batch_id for each in changed if each.register]:
                await recovery.complete_batches(conn, registered)
            for batch_id, uploads in erased.items():
                await erasures.blank_batch(conn, batch_id, uploads)
    return changed, counts


async def _write(conn: AsyncConnection[Any], changed: Sequence[Reconstruction], limits: IntakeLimits) -> int:
    events = [(each.batch_id, event_id) for each in changed for event_id in each.event_ids]
    deleted = await recovery.delete_announced_events(conn, events)
    cleared = [(each.batch_id, *what) for each in changed for what in each.cleared]
    # A batch that had failed, say, may not have failed now.
    cleared += [(each.batch_id, "confirmation", "") for each in changed if each.changes_slots]
    if cleared:
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
        counted = await recovery.count_recovered(conn, times, waits=limits.ready_waits)
        full = [each for each in changed if each.changes_slots and counted.get(each.batch_id)]
        await _announce(conn, full, limits.large_event_bytes)
    return deleted


async def _announce(conn: AsyncConnection[Any], changed: Sequence[Reconstruction], max_bytes: int) -> None:
    """Announce batches that are full, as far as that was not announced."""
    # One that is ready or cancelled has announced everything else before, unless an earlier release did not announce it
    # at all.
    last = {BATCH_READY, BATCH_CANCELLED}
    due = {each.batch_id: ENDING - each.announced for each in changed if not last & each.announced}
    writer = OutboxWriter(conn)
    for batch_id, row in (await batches.read_batches(conn, list(due))).items():
        async for event in announcements_of(conn, row, max_bytes=max_bytes, topics=due[batch_id]):
            await writer.add([event])
    await writer.flush()


async def _decide(conn: AsyncConnection[Any], changed: Sequence[Reconstruction], limits: IntakeLimits) -> None:
    """Decide anew what is not announced: within each batch content, failures, then confirmations."""
    changing = [each.batch_id for each in changed if each.changes_slots]
    waiting = await confirmations.read_pending_confirmations(conn, changing) if changing else []
    for kind in (ContentProvisioned, ValidationFailed):
        await _apply(conn, [input_ for each in changed for input_ in each.decide if isinstance(input_, kind)], limits)
    await _apply(conn, waiting, limits)


async def _apply(conn: AsyncConnection[Any], inputs: Sequence[Incoming], limits: IntakeLimits) -> None:
    for start in range(0, len(inputs), DECIDED):
        deliveries = [
            Delivery("recovery", 0, number, None, None, (), input_)
            for number, input_ in enumerate(inputs[start : start + DECIDED])
        ]
        # All are of registered batches, whose open slots nobody else can hold.
        await apply(conn, deliveries, limits, exclusive=True)
