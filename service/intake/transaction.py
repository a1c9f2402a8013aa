"""Applies one poll in one transaction: its records become slots, pending content, failures and outbox rows.

Locks are acquired in one order, so that two polls never deadlock: the advisory locks of unregistered batches, slots
(skipped where another transaction holds them), identities in the order of their keys, the batches' counter rows in the
order of their ids, the outbox. A poll does not wait for batches and slots that other transactions hold: it defers their
records, and the caller applies them when the rest is committed, each batch in an exclusive transaction, which waits.

Nothing is counted or logged here, since the transaction may be rolled back. `Outcome.effects` says what happened.
"""

from collections.abc import Container, Sequence
from typing import Any, Final

from psycopg import AsyncConnection

from service.domain.delivery import Delivery, IntakeLimits
from service.domain.events import Rejection
from service.intake.announcement import Announcement
from service.intake.confirmations import Confirmations
from service.intake.erasures import Erasures
from service.intake.outcome import Outcome
from service.intake.registrations import Registrations
from service.intake.rejections import Rejections
from service.intake.slots import Slots
from service.intake.work import BatchWork, PollWork
from service.postgres.pipeline import PendingResult
from service.store import batches, quarantine
from service.store.batches import BatchStates

MAX_LOCKS: Final = 500
"""Limit of unregistered batches in a transaction: each is an advisory lock, and the server has memory for thousands."""


async def apply(
    conn: AsyncConnection[Any],
    deliveries: Sequence[Delivery],
    limits: IntakeLimits,
    *,
    exclusive: bool = False,
    probing: bool = False,
    replaying: bool = False,
    deferred: Container[str] = frozenset(),
) -> Outcome:
    """Apply a poll in the caller's transaction.

    With `exclusive` the deliveries are of one batch, and the transaction waits for locks that others hold. With
    `probing` a valid delivery ends the pause of its topic. With `replaying` the deliveries come from quarantine: one
    that is rejected again is in the effects, and is not stored a second time. Deliveries of batches in `deferred`,
    which have deferred records already, are admitted and deferred behind those.

    Raises psycopg.Error, and Unpublishable where an event would be larger than its topic allows.
    """
    work = PollWork(conn, limits, exclusive=exclusive)
    rejections = Rejections(work)
    states = await _admit(work, rejections, deliveries, probing=probing)
    for batch_id in [batch_id for batch_id in work.batches if batch_id in deferred]:
        work.defer(batch_id)
    if work.batches:
        slots = Slots(work)
        await lock_unregistered(work, states)
        if work.has_erasures:
            await Erasures(work).blank()
        confirmations = Confirmations(work)
        await Registrations(work).register()
        await confirmations.find_waiting()
        await slots.take_slots()
        await slots.store_waiting()
        await confirmations.store_waiting()
        await Announcement(work, slots.events).announce()
        await work.outbox.flush()
        await slots.compare_repeats()
    if not replaying:
        await rejections.store()
    return work.outcome


async def _admit(
    work: PollWork, rejections: Rejections, deliveries: Sequence[Delivery], *, probing: bool
) -> PendingResult[BatchStates]:
    """Sort the admitted deliveries by batch. Returns the pending result of the read of the batches' states."""
    counters = await quarantine.send_read_topic_rejections(work.conn)
    # Also for deliveries that will not be admitted: that saves a round trip.
    batch_ids = {each.event.batch_id for each in deliveries if not isinstance(each.event, Rejection)}
    states = await batches.send_read_batch_states(work.conn, list(batch_ids))
    for delivery in rejections.admit(deliveries, await counters, probing=probing):
        event = delivery.event
        if isinstance(event, Rejection):
            work.effects.rejected.append((delivery, event))
        elif work.batch(event.batch_id).add(delivery):
            work.record_repeat(delivery)
    return states


async def lock_unregistered(work: PollWork, states: PendingResult[BatchStates]) -> None:
    """Read which batches are registered, lock the others, and read their states again.

    The second read is a statement of its own: the snapshot of a statement is older than the locks that it waits for. If
    one statement locked and read, content could be stored as pending for a batch that is registered.
    """
    work.now, known, work.has_erasures = await states
    for batch in work.batches.values():
        batch.state = known.get(batch.batch_id)
        if batch.state is None or not batch.state.full:
            for delivery in batch.contents.values():
                delivery.was_not_full = True
    unregistered = [batch for batch in work.batches.values() if batch.state is None]
    for batch in unregistered[MAX_LOCKS:]:
        work.postpone(batch.batch_id)
    if unregistered := unregistered[:MAX_LOCKS]:
        unregistered = await lock(work, unregistered)
    if unregistered:
        again = await batches.send_read_batch_states(work.conn, [batch.batch_id for batch in unregistered])
        _, known, has_erasures = await again
        work.has_erasures |= has_erasures
        for batch in unregistered:
            batch.state = known.get(batch.batch_id)


async def lock(work: PollWork, unregistered: Sequence[BatchWork]) -> list[BatchWork]:
    """Lock batches, exclusively if the poll has their registration, else shared. Defers those that are locked already.

    Returns the batches that are locked now.
    """
    if work.exclusive:
        (batch,) = unregistered
        await batches.lock_batch(work.conn, batch.batch_id, exclusive=bool(batch.registrations))
        return [batch]
    busy = await batches.try_lock_batches(
        work.conn,
        exclusive=[batch.batch_id for batch in unregistered if batch.registrations],
        shared=[batch.batch_id for batch in unregistered if not batch.registrations],
    )
    for batch_id in busy:
        work.defer(batch_id)
    return [batch for batch in unregistered if batch.batch_id not in busy]
