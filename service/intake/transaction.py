"""One poll in one transaction: what arrived, whatever mix it is, becomes slots, pending content and outbox rows.

All waits go one way, so that two polls never wait for each other in a ring: the batches' advisory locks, slots
(skipped where somebody holds them), identities in the order of their keys, the batches' counters in the order of
their ids, the outbox. What others hold is not waited for: it is set aside, and the caller applies it again, each
batch alone and waiting, when the rest is committed.

Nothing is counted or logged here: the transaction may yet be rolled back. `Outcome.effects` says what happened.
"""

from collections import defaultdict
from collections.abc import AsyncIterable, AsyncIterator, Container, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from psycopg import AsyncConnection
from psycopg.errors import SerializationFailure

from service.domain import decisions as rules
from service.domain import outgoing
from service.domain.contract import ExcessReason
from service.domain.decisions import BatchFacts, RefusalCount, Seat, Slot, Verdict
from service.domain.delivery import Delivery, Limits
from service.domain.enveloped import Origin, Outgoing
from service.domain.events import (
    BatchRegistered,
    ContentProvisioned,
    Incoming,
    Reason,
    Refusal,
    Upload,
    ValidationFailed,
)
from service.intake import announcement as completion
from service.intake.outcome import Batch, Decided, Decision, Effects, Outcome, Reconciled
from service.postgres import queries
from service.postgres.pipeline import Answer
from service.runtime.tracing import LINKS
from service.store import batches as store
from service.store import outbox, pending_content, quarantine, validation_failures
from service.store import slots as slots_
from service.store.quarantine import TopicRefusals

_T = TypeVar("_T")

_FailureState = Literal["pending", "slot", "surplus"]
_OF_FAILURES: dict[_FailureState, Decided] = {
    "pending": "failure_pending",
    "slot": "failure_slot",
    "surplus": "failure_surplus",
}

MAX_LOCKS = 500
"""Unregistered batches of one transaction: each is an advisory lock, and the server has room for some thousands."""

ANNOUNCED = 50
"""Batches, of a page of slots at most, whose events are written in one go."""

LARGE = 5_000
"""Slots and waiting content of a registration that is worth a transaction of its own."""


async def apply(
    conn: AsyncConnection[Any],
    deliveries: Sequence[Delivery],
    limits: Limits,
    *,
    alone: bool = False,
    probing: bool = False,
    replaying: bool = False,
    waiting: Container[str] = frozenset(),
) -> Outcome:
    """Apply a poll in the caller's transaction.

    With `alone` the deliveries are of one batch, and what others hold is waited for. With `probing` a good
    delivery sets its stopped topic going again. With `replaying` they come from quarantine: one that is refused
    again is told in the effects and not kept a second time. What is for batches that are `waiting` for others already
    is admitted, and set aside untouched. Raises psycopg.Error, and Unpublishable where an event would be larger than
    its topic takes.
    """
    poll = _Poll(conn, limits, alone)
    await poll.admit(deliveries, probing)
    poll.set_waiting_aside(waiting)
    if poll.batches:
        await poll.meet()
        await poll.register()
        await poll.take_slots()
        await poll.keep_waiting()
        await poll.decide()
    if not replaying:
        await poll.keep_refused()
    return poll.outcome


class _Poll:
    """The steps of one poll, in the order in which `apply` takes them."""

    def __init__(self, conn: AsyncConnection[Any], limits: Limits, alone: bool) -> None:
        self.conn = conn
        self.limits = limits
        self.alone = alone
        self.outcome = Outcome(Effects())
        self.effects = self.outcome.effects
        self.batches: dict[str, Batch] = {}
        self.refusals: Mapping[str, TopicRefusals] = {}
        self.admitted: dict[str, Sequence[Delivery]] = {}
        self.looked: Answer[store.Look]
        self.now = datetime.min.replace(tzinfo=UTC)
        self.slot_events: list[Outgoing] = []

    # -- what arrived

    async def admit(self, deliveries: Sequence[Delivery], probing: bool) -> None:
        """Take what no stop keeps out, and sort it by batch."""
        asked = await quarantine.ask_topic_refusals(self.conn)
        # Of what a stop keeps out as well: one answer less to wait for.
        batch_ids = {each.event.batch_id for each in deliveries if not isinstance(each.event, Refusal)}
        self.looked = await store.ask_about_batches(self.conn, list(batch_ids))
        self.refusals = await asked
        for topic, arrived in _by_topic(deliveries).items():
            taken = self._taken(arrived, self.refusals.get(topic, TopicRefusals(0, False)), probing)
            self.admitted[topic] = arrived[:taken]
            self.outcome.left += arrived[taken:]
            for delivery in arrived[:taken]:
                self._sort(delivery)
        self.outcome.stopped = {topic for topic, refusals in self.refusals.items() if refusals.stopped}

    def _taken(self, arrived: Sequence[Delivery], before: TopicRefusals, probing: bool) -> int:
        refused = [isinstance(delivery.event, Refusal) for delivery in arrived]
        if self.alone:
            return len(arrived)  # these were admitted with their poll
        if before.stopped:
            return 1 if probing and not refused[0] else 0
        return rules.admit(refused, before.in_a_row, self.limits.refusals_in_a_row)

    def set_waiting_aside(self, waiting: Container[str]) -> None:
        """These come after what waits already."""
        for batch in [batch for batch in self.batches.values() if batch.batch_id in waiting]:
            self._set_aside(batch, self.outcome.aside)

    def _sort(self, delivery: Delivery) -> None:
        event = delivery.event
        if isinstance(event, Refusal):
            self.effects.refused.append((delivery, event))
            return
        batch = self.batches.get(event.batch_id)
        if batch is None:
            batch = self.batches[event.batch_id] = Batch(event.batch_id)
        if batch.add(delivery):
            self._repeated(delivery)

    def _decided(self, what: Decided, delivery: Delivery, detail: str | None = None) -> None:
        event: Incoming = delivery.event  # type: ignore[assignment]  # of a refusal nothing is decided here
        upload = getattr(event, "text_storage_id", None) or getattr(event, "file_upload_id", None)
        self.effects.decisions.append(Decision(what, event.batch_id, upload, event.correlation_id, delivery, detail))

    def _repeated(self, delivery: Delivery) -> None:
        match delivery.event:
            case ContentProvisioned():
                self._decided("content_repeated", delivery)
            case ValidationFailed():
                self._decided("failure_repeated", delivery)
            case _:
                self._decided("registration_repeated", delivery)

    # -- early content and its registration meet

    async def meet(self) -> None:
        """Find out which batches are registered; for the others, behind their lock, once more."""
        self.now, facts = await self.looked
        for batch in self.batches.values():
            batch.facts = facts.get(batch.batch_id)
            if batch.facts is None or not batch.facts.full:
                batch.mark_not_full()
        unknown = [batch for batch in self.batches.values() if batch.facts is None]
        for batch in unknown[MAX_LOCKS:]:
            self._set_aside(batch, self.outcome.again)
        if unknown := unknown[:MAX_LOCKS]:
            unknown = await self._lock(unknown)
        if unknown:
            _, facts = await store.look_at_batches(self.conn, [batch.batch_id for batch in unknown])
            for batch in unknown:
                batch.facts = facts.get(batch.batch_id)

    async def _lock(self, unknown: Sequence[Batch]) -> list[Batch]:
        """The batches whose lock is ours: alone where the poll holds the registration, else shared."""
        if self.alone:
            (batch,) = unknown
            await store.lock_batch(self.conn, batch.batch_id, alone=bool(batch.registrations))
            return [batch]
        busy = await store.try_lock_batches(
            self.conn,
            alone=[batch.batch_id for batch in unknown if batch.registrations],
            shared=[batch.batch_id for batch in unknown if not batch.registrations],
        )
        for batch_id in busy:
            self._set_aside(self.batches[batch_id], self.outcome.aside)
        return [batch for batch in unknown if batch.batch_id not in busy]

    def _set_aside(self, batch: Batch, where: list[Delivery]) -> None:
        where += batch.deliveries()
        del self.batches[batch.batch_id]

    # -- registrations

    async def register(self) -> None:
        """Judge the registrations; create the new batches, and give what waited for them its slots."""
        await self._set_large_aside()
        first: dict[str, tuple[BatchRegistered, bytes]] = {}
        repeats: list[Delivery] = []
        for batch in self.batches.values():
            known = batch.facts.essay_set if batch.facts else None
            for delivery in batch.registrations:
                registration: BatchRegistered = delivery.event  # type: ignore[assignment]
                announced = rules.essay_set(registration.essay_ids)
                match rules.judge_registration(known, announced):
                    case Verdict.FIRST:
                        known = announced
                        first[batch.batch_id] = registration, announced
                        self._decided("batch_registered", delivery)
                    case Verdict.REPEAT:
                        repeats.append(delivery)
                    case Verdict.CONFLICT:
                        self.effects.refused.append((delivery, _conflict(registration)))
        if first:
            await self._create(first)
        if repeats:
            await self._compare(repeats)

    async def _set_large_aside(self) -> None:
        """Leave to a transaction of its own what would make the rest of the poll wait for it."""
        new = [batch for batch in self.batches.values() if batch.facts is None and batch.registrations]
        if self.alone or not new:
            return
        waiting = await pending_content.count_waiting(self.conn, [batch.batch_id for batch in new], LARGE)
        room = LARGE
        for batch in new:
            registration: BatchRegistered = batch.registrations[0].event  # type: ignore[assignment]
            weight = len(registration.essay_ids) + waiting[batch.batch_id]
            if weight > LARGE:
                self._set_aside(batch, self.outcome.aside)
            elif weight > room:
                self._set_aside(batch, self.outcome.again)
            else:
                room -= weight

    async def _create(self, first: dict[str, tuple[BatchRegistered, bytes]]) -> None:
        await store.insert_batches(self.conn, list(first.values()))
        for batch_id, (registration, announced) in first.items():
            batch = self.batches[batch_id]
            batch.facts = BatchFacts(len(registration.essay_ids), 0, 0, announced)
            batch.fresh = True
        await self._reconcile({batch_id: registration.essay_ids for batch_id, (registration, _) in first.items()})

    async def _reconcile(self, essay_ids: dict[str, tuple[str, ...]]) -> None:
        """Slots in slot order for pending content in the order in which it was stored; the rest is excess."""
        batch_ids = list(essay_ids)
        async for page in pending_content.pending_pages(self.conn, batch_ids):
            filled: list[tuple[Slot, ContentProvisioned]] = []
            left_over: list[tuple[ContentProvisioned, ExcessReason]] = []
            assigned, excess = Reconciled("content_assigned"), Reconciled("content_excess")
            for content, stored_at in page:
                batch, essays = self.batches[content.batch_id], essay_ids[content.batch_id]
                waited = (self.now - stored_at).total_seconds()
                if batch.assigned < len(essays):
                    slot = Slot(batch.batch_id, essays[batch.assigned], batch.assigned + 1)
                    batch.assigned += 1
                    filled.append((slot, content))
                    assigned.add(batch.batch_id, content, slot.essay_id, waited)
                else:
                    left_over.append((content, "NO_AVAILABLE_SLOT"))
                    excess.add(batch.batch_id, content, "NO_AVAILABLE_SLOT", waited)
                if content.traceparent and len(self.effects.waited) < LINKS:
                    self.effects.waited.append((content.traceparent, content.tracestate))
            self.effects.decisions.extend(assigned)
            self.effects.decisions.extend(excess)
            await self._publish_reconciled(filled, left_over)
        await pending_content.delete_pending_content(self.conn, batch_ids)
        await slots_.insert_slots(
            self.conn,
            (
                (Slot(batch_id, essay_id, position), None)
                for batch_id, essays in essay_ids.items()
                for position, essay_id in enumerate(essays, start=1)
                if position > self.batches[batch_id].assigned
            ),
        )

    async def _publish_reconciled(
        self,
        filled: list[tuple[Slot, ContentProvisioned]],
        left_over: list[tuple[ContentProvisioned, ExcessReason]],
    ) -> None:
        if filled:
            await slots_.insert_slots(self.conn, filled)
            await self._publish([self._slot_assigned(slot, content) for slot, content in filled])
        if left_over:
            await slots_.insert_excess_content(self.conn, left_over)
            await self._publish([self._excess(content, reason) for content, reason in left_over])

    async def _compare(self, repeats: Sequence[Delivery]) -> None:
        """The first registration stands; where a repeat says otherwise, that is told."""
        registrations: list[BatchRegistered] = [delivery.event for delivery in repeats]  # type: ignore[misc]
        batch_ids = list({registration.batch_id for registration in registrations})
        rows = await store.read_batches(self.conn, batch_ids)
        essay_ids = await store.read_essay_ids(self.conn, batch_ids)
        for delivery, registration in zip(repeats, registrations, strict=True):
            self._repeated(delivery)
            row = rows[registration.batch_id]
            first: dict[str, object] = {
                name: getattr(row, name)
                for name in ("course_code", "user_id", "essay_instructions", "class_id", "org_id")
            }
            first["essay_ids"] = essay_ids[registration.batch_id]
            if different := rules.differences(first, registration):
                self.effects.differences.append((registration.batch_id, different))

    # -- slots

    async def take_slots(self) -> None:
        """Slots for what is new among the content and failures of registered batches."""
        await self._forget_known([batch for batch in self.batches.values() if batch.facts])
        registered = [batch for batch in self.batches.values() if batch.facts]
        fresh = [batch for batch in registered if batch.fresh]
        # Content before failures; and those that waited for a registration before those that came with it.
        await self._seat({batch.batch_id: batch.uploads() for batch in registered if batch.open and not batch.fresh})
        await self._seat({batch.batch_id: batch.arrived(batch.contents) for batch in fresh})
        await self._seat_waiting_failures(fresh)
        await self._seat({batch.batch_id: batch.arrived(batch.failures) for batch in fresh})
        for batch in registered:
            if not batch.open:
                self._found_none(batch, batch.uploads())

    async def _forget_known(self, registered: Sequence[Batch]) -> None:
        contents = _events(batch.contents for batch in registered)
        if contents:
            for batch_id, identity in await slots_.find_known_content(self.conn, contents):
                self._repeated(self.batches[batch_id].contents.pop(identity))
        failures = _events(batch.failures for batch in registered)
        if failures:
            for batch_id, identity in await validation_failures.find_known_failures(self.conn, failures):
                self._repeated(self.batches[batch_id].failures.pop(identity))

    async def _seat(self, uploads: dict[str, list[Upload]]) -> None:
        wanted = {batch_id: len(waiting) for batch_id, waiting in uploads.items() if waiting}
        if not wanted:
            return
        if self.alone:
            for batch_id, count in wanted.items():
                await slots_.await_slots(self.conn, batch_id, count)
        seating = rules.seat(uploads, await slots_.claim_slots(self.conn, wanted))
        unserved = defaultdict(list)
        for upload in seating.unserved:
            unserved[upload.batch_id].append(upload)
        for batch_id, without in unserved.items():
            self._unserved(self.batches[batch_id], without)
        await self._take(seating.seats)

    async def _take(self, seats: list[Seat]) -> None:
        if not seats:
            return
        await slots_.fill_slots(self.conn, seats)
        recorded: list[tuple[ValidationFailed, _FailureState]] = []
        for each in seats:
            batch = self.batches[each.slot.batch_id]
            if isinstance(each.upload, ContentProvisioned):
                batch.assigned += 1
                self.slot_events.append(self._slot_assigned(each.slot, each.upload))
                self._decided("content_assigned", _delivery_of(batch, each.upload), each.slot.essay_id)
            else:
                batch.failed += 1
                recorded.append((each.upload, "slot"))
        if recorded:
            await self._record(recorded)

    async def _record(self, failures: Sequence[tuple[ValidationFailed, _FailureState]]) -> None:
        new = await validation_failures.store_failures(self.conn, failures)
        for failure, state in failures:
            delivery = _delivery_of(self.batches[failure.batch_id], failure)
            if (failure.batch_id, failure.file_upload_id) in new:
                self._decided(_OF_FAILURES[state], delivery)
            elif state == "slot":
                # Recorded by a transaction that ended since we looked: it must not have a slot of ours as well.
                raise SerializationFailure("a validation failure was recorded by another transaction meanwhile")
            else:
                self._repeated(delivery)

    def _unserved(self, batch: Batch, without: list[Upload]) -> None:
        """Skipped slots may be open again: only who has waited for them, or counts them all, may say there is none."""
        if self.alone or batch.fresh:
            self._found_none(batch, without)
            return
        for upload in without:
            if isinstance(upload, ContentProvisioned):
                batch.unserved.append(upload)
            else:
                self.outcome.aside.append(_delivery_of(batch, upload))

    def _found_none(self, batch: Batch, without: Iterable[Upload]) -> None:
        for upload in without:
            if isinstance(upload, ContentProvisioned):
                batch.excess.append(upload)
            else:
                batch.surplus.append(upload)

    async def _seat_waiting_failures(self, fresh: Sequence[Batch]) -> None:
        """Failures that waited for their batch come after all content, the poll's own included."""
        while fresh:
            page = await validation_failures.read_waiting_failures(self.conn, [batch.batch_id for batch in fresh])
            if not page:
                return
            uploads: dict[str, list[Any]] = defaultdict(list)
            for failure in page:
                uploads[failure.batch_id].append(failure)
            wanted = {batch_id: len(waiting) for batch_id, waiting in uploads.items()}
            seating = rules.seat(uploads, await slots_.claim_slots(self.conn, wanted))
            if seating.seats:
                await slots_.fill_slots(self.conn, seating.seats)
            settled: list[tuple[Any, _FailureState]] = [(each.upload, "slot") for each in seating.seats]
            settled += [(failure, "surplus") for failure in seating.unserved]
            await validation_failures.settle_failures(self.conn, settled)
            for failure, state in settled:
                self.batches[failure.batch_id].failed += state == "slot"
                self.effects.decisions.append(
                    Decision(_OF_FAILURES[state], failure.batch_id, failure.file_upload_id, failure.correlation_id)
                )

    # -- what waits for a registration

    async def keep_waiting(self) -> None:
        """Content and failures of batches that are not registered, kept in order of arrival; and the failures
        that found no slot: an identity may be waited for, and nobody waits for one who holds the deciding row.
        """
        unknown = [batch for batch in self.batches.values() if batch.facts is None]
        contents = _events(batch.contents for batch in unknown)
        if contents:
            new = await pending_content.store_pending_content(self.conn, contents)
            for content in contents:
                delivery = _delivery_of(self.batches[content.batch_id], content)
                if (content.batch_id, content.text_storage_id) in new:
                    self._decided("content_pending", delivery)
                else:
                    self._repeated(delivery)
        failures: list[tuple[ValidationFailed, _FailureState]] = [
            (failure, "pending") for failure in _events(batch.failures for batch in unknown)
        ]
        failures += [(failure, "surplus") for batch in self.batches.values() for failure in batch.surplus]
        if failures:
            await self._record(failures)

    # -- the row that decides

    async def decide(self) -> None:
        """Count what was taken, say what is excess, and announce the batches that this made complete."""
        # A failure that found no slot changes nothing, but a batch that was deleted meanwhile must not own it.
        changed = [
            batch
            for batch in self.batches.values()
            if batch.assigned or batch.failed or batch.excess or batch.unserved or batch.surplus
        ]
        if changed:
            counted = await store.count_taken(
                self.conn, {batch.batch_id: (batch.assigned, batch.failed) for batch in changed}
            )
            # Behind the deciding rows; what they say need not be known for it.
            await self._publish(self.slot_events)
            counts = await counted
            self._judge_unserved(changed, counts)
            await self._declare_excess(changed, counts)
            complete = [
                batch.batch_id for batch in changed if counts[batch.batch_id].full and (batch.assigned or batch.failed)
            ]
            if complete:
                await self._announce(complete)

    def _judge_unserved(self, changed: Sequence[Batch], counts: dict[str, store.Count]) -> None:
        """Behind the deciding row, full is a fact: no slot is in anybody's hands. Else they wait for those hands."""
        for batch in changed:
            if counts[batch.batch_id].full:
                batch.excess += batch.unserved
            else:
                self.outcome.aside += [_delivery_of(batch, content) for content in batch.unserved]

    async def _declare_excess(self, changed: Sequence[Batch], counts: dict[str, store.Count]) -> None:
        """Behind the deciding row: the batch is full, and the content is nowhere else, by a look made now."""
        candidates = [content for batch in changed for content in batch.excess]
        if not candidates:
            return
        known = await slots_.find_known_content(self.conn, candidates)
        excess: list[tuple[ContentProvisioned, ExcessReason]] = []
        for content in candidates:
            delivery = _delivery_of(self.batches[content.batch_id], content)
            if (content.batch_id, content.text_storage_id) in known:
                self._repeated(delivery)
                continue
            if not counts[content.batch_id].full:
                raise SerializationFailure("a slot is open again: nothing is excess")
            reason: ExcessReason = "NO_AVAILABLE_SLOT" if delivery.was_not_full else "BATCH_FULL"
            excess.append((content, reason))
            self._decided("content_excess", delivery, reason)
        if excess:
            await slots_.insert_excess_content(self.conn, excess)
            await self._publish([self._excess(content, reason) for content, reason in excess])

    async def _announce(self, complete: Sequence[str]) -> None:
        """BatchValidationErrors where a slot failed, BatchEssaysReady where one is assigned, in this order."""
        rows = await store.read_batches(self.conn, complete)
        small = [batch_id for batch_id in complete if rows[batch_id].expected <= queries.PAGE]
        for some in _groups(small, ANNOUNCED):
            slots = await slots_.read_assigned_slots(self.conn, some)
            await self._publish([each for id_ in some async for each in self._complete(rows[id_], _page(slots[id_]))])
        for batch_id in complete:
            if rows[batch_id].expected > queries.PAGE:
                pages = slots_.assigned_pages(self.conn, batch_id)
                await self._publish([each async for each in self._complete(rows[batch_id], pages)])

    async def _complete(
        self, row: store.BatchRow, essays: AsyncIterable[Sequence[tuple[str, str]]]
    ) -> AsyncIterator[Outgoing]:
        limit = self.limits.large_event_bytes
        async for event in completion.announce(self.conn, row, essays, self.now, max_bytes=limit):
            yield event
        what: Decided = "batch_ready" if row.assigned else "batch_failed"
        seconds = (self.now - row.registered_at).total_seconds()
        self.effects.decisions.append(Decision(what, row.batch_id, None, row.correlation_id, None, None, seconds))

    # -- the outbox and the quarantine

    async def _publish(self, written: Sequence[Outgoing]) -> None:
        for some in _groups(written, queries.PAGE):
            await outbox.insert_outbox(self.conn, some)
        self.effects.published += len(written)

    def _slot_assigned(self, slot: Slot, content: ContentProvisioned) -> Outgoing:
        return outgoing.slot_assigned(
            content.batch_id,
            slot.essay_id,
            content.text_storage_id,
            content.file_upload_id,
            content.original_file_name,
            Origin(content.correlation_id, content.traceparent, content.tracestate),
            self.now,
            max_bytes=self.limits.event_bytes,
        )

    def _excess(self, content: ContentProvisioned, reason: ExcessReason) -> Outgoing:
        return outgoing.excess_content(
            content.batch_id,
            content.text_storage_id,
            content.original_file_name,
            reason,
            Origin(content.correlation_id, content.traceparent, content.tracestate),
            self.now,
            max_bytes=self.limits.event_bytes,
        )

    async def keep_refused(self) -> None:
        """Quarantine what was refused, and count the refusals in a row of its topics."""
        counts = self._refusals_in_a_row()
        if refused := self.effects.refused:
            self.effects.refused = await quarantine.keep(self.conn, refused)
            new = {id(delivery) for delivery, _ in self.effects.refused}
            for delivery, _ in refused:
                if id(delivery) not in new:
                    self.effects.decisions.append(Decision("refusal_repeated", None, None, None, delivery))
        if counts:
            counted = await quarantine.count_refusals(self.conn, counts, self.limits.refusals_in_a_row)
            self.outcome.stopped = (self.outcome.stopped - counted.keys()) | {
                topic for topic, stopped in counted.items() if stopped
            }

    def _refusals_in_a_row(self) -> dict[str, RefusalCount]:
        """Where they change: what is set aside is as good as applied, a contradicting registration is refused."""
        if self.alone:
            return {}  # counted with their poll
        refused = {id(delivery) for delivery, _ in self.effects.refused}
        counts = {}
        for topic, taken in self.admitted.items():
            count = rules.count_refusals([id(delivery) in refused for delivery in taken])
            if count.in_a_row or (count.restarted and topic in self.refusals):
                counts[topic] = count
        return counts


def _groups(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


async def _page(rows: Sequence[_T]) -> AsyncIterator[Sequence[_T]]:
    yield rows


def _by_topic(deliveries: Iterable[Delivery]) -> dict[str, list[Delivery]]:
    topics: dict[str, list[Delivery]] = defaultdict(list)
    for delivery in deliveries:
        topics[delivery.topic].append(delivery)
    return topics


def _events(batches: Iterable[dict[str, Delivery]]) -> list[Any]:
    return [delivery.event for deliveries in batches for delivery in deliveries.values()]


def _delivery_of(batch: Batch, upload: Upload) -> Delivery:
    if isinstance(upload, ContentProvisioned):
        return batch.contents[upload.text_storage_id]
    return batch.failures[upload.file_upload_id]


def _conflict(registration: BatchRegistered) -> Refusal:
    return Refusal(
        Reason.CONFLICTING_REGISTRATION,
        f"batch {registration.batch_id} is registered with another set of essays; the first registration stands",
    )
