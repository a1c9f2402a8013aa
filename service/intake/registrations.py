"""Applies registrations: creates batches, reconciles the uploads that waited, and compares repeats with the first."""

from collections.abc import Sequence
from typing import Final

from service.domain.contract import ExcessReason
from service.domain.decisions import (
    Assign,
    BatchState,
    DeclareExcess,
    Defer,
    Postpone,
    Register,
    RejectConflict,
    RepeatRegistration,
    Slot,
    decide_new_batches,
    decide_registration,
    reconcile,
)
from service.domain.delivery import Delivery
from service.domain.events import BatchRegistered, ContentProvisioned
from service.domain.repeats import (
    conflict,
    differences,
)
from service.intake.erasures import Erasures
from service.intake.outcome import ReconciledEffects
from service.intake.work import PollWork
from service.store import batches, pending_content, slots

LARGE_REGISTRATION: Final = 5_000
"""Limit of the slots and waiting uploads of all registrations in a transaction. A larger registration has a transaction
of its own, so that the rest of its poll does not wait for it."""


class Registrations:
    """The phase that registers batches, while their advisory locks are held."""

    def __init__(self, work: PollWork) -> None:
        self._work = work

    async def register(self) -> None:
        """Decide about the registrations, create new batches, and reconcile the uploads that wait for them."""
        await self._defer_large()
        new: list[Register] = []
        repeats: list[Delivery] = []
        conflicts: list[Delivery] = []
        for batch in self._work.batches.values():
            known = batch.state.essay_set if batch.state else None
            for delivery in batch.registrations:
                match decision := decide_registration(known, delivery.event):  # type: ignore[arg-type]
                    case Register():
                        known = decision.essay_set
                        new.append(decision)
                        self._work.record("batch_registered", delivery)
                    case RepeatRegistration():
                        repeats.append(delivery)
                    case RejectConflict():
                        conflicts.append(delivery)
        if new:
            await self._create(new)
        if conflicts:
            await self._reject(conflicts)
        if repeats:
            await self._compare(repeats)

    async def _defer_large(self) -> None:
        work = self._work
        unregistered = {
            batch.batch_id: batch.registrations[0].event
            for batch in work.batches.values()
            if batch.state is None and batch.registrations
        }
        if work.exclusive or not unregistered:
            return
        waiting = await pending_content.count_waiting(work.conn, list(unregistered), LARGE_REGISTRATION)
        weights = {
            batch_id: len(registration.essay_ids) + waiting[batch_id]  # type: ignore[union-attr]
            for batch_id, registration in unregistered.items()
        }
        for decision in decide_new_batches(weights, LARGE_REGISTRATION):
            match decision:
                case Defer(batch_id):
                    work.defer(batch_id)
                case Postpone(batch_id):
                    work.postpone(batch_id)

    async def _create(self, new: Sequence[Register]) -> None:
        await batches.insert_batches(self._work.conn, new)
        for registration, essay_set in new:
            batch = self._work.batches[registration.batch_id]
            batch.state = BatchState(len(registration.essay_ids), 0, 0, essay_set)
            batch.created = True
        if self._work.has_erasures:
            await Erasures(self._work).blank_stored([registration.batch_id for registration, _ in new])
        await self._reconcile({registration.batch_id: registration.essay_ids for registration, _ in new})

    async def _reconcile(self, essay_ids: dict[str, tuple[str, ...]]) -> None:
        """Assign slots, in slot order, to pending content in the order in which it was stored. The rest is excess."""
        conn, batch_ids = self._work.conn, list(essay_ids)
        async for page in pending_content.read_pending_content(conn, batch_ids):
            filled: list[tuple[Slot, ContentProvisioned]] = []
            left_over: list[tuple[ContentProvisioned, ExcessReason]] = []
            assigned, excess = ReconciledEffects("content_assigned"), ReconciledEffects("content_excess")
            for content, stored_at in page:
                batch = self._work.batches[content.batch_id]
                waited = (self._work.now - stored_at).total_seconds()
                match reconcile(content, essay_ids[content.batch_id], batch.assigned):
                    case Assign(slot):
                        batch.assigned += 1
                        filled.append((slot, content))
                        assigned.add(batch.batch_id, content, slot.essay_id, waited)
                    case DeclareExcess(_, reason):
                        left_over.append((content, reason))
                        excess.add(batch.batch_id, content, reason, waited)
                self._work.effects.join(content.batch_id, content)
            self._work.effects.records.extend(assigned)
            self._work.effects.records.extend(excess)
            await self._publish_reconciled(filled, left_over)
        await pending_content.delete_pending_content(conn, batch_ids)
        await slots.insert_open_slots(
            conn,
            (
                Slot(batch_id, essay_id, position)
                for batch_id, essays in essay_ids.items()
                for position, essay_id in enumerate(essays, start=1)
                if position > self._work.batches[batch_id].assigned
            ),
        )

    async def _publish_reconciled(
        self,
        filled: Sequence[tuple[Slot, ContentProvisioned]],
        left_over: Sequence[tuple[ContentProvisioned, ExcessReason]],
    ) -> None:
        work = self._work
        if filled:
            await slots.insert_reconciled_slots(work.conn, filled)
            await work.publish([work.slot_assigned(slot, content) for slot, content in filled])
        if left_over:
            await slots.insert_reconciled_excess(work.conn, left_over)
            await work.publish([work.excess(content, reason) for content, reason in left_over])

    async def _reject(self, conflicts: Sequence[Delivery]) -> None:
        registrations: list[BatchRegistered] = [delivery.event for delivery in conflicts]  # type: ignore[misc]
        essay_ids = await batches.read_essay_ids(self._work.conn, list({each.batch_id for each in registrations}))
        self._work.effects.rejected += [
            (delivery, conflict(essay_ids[registration.batch_id], registration))
            for delivery, registration in zip(conflicts, registrations, strict=True)
        ]

    async def _compare(self, repeats: Sequence[Delivery]) -> None:
        """Note, for the log, in which fields a repeated registration differs from the first one, which stays valid."""
        registrations: list[BatchRegistered] = [delivery.event for delivery in repeats]  # type: ignore[misc]
        batch_ids = list({registration.batch_id for registration in registrations})
        rows = await batches.read_batches(self._work.conn, batch_ids)
        essay_ids = await batches.read_essay_ids(self._work.conn, batch_ids)
        for delivery, registration in zip(repeats, registrations, strict=True):
            self._work.record_repeat(delivery)
            row = rows[registration.batch_id]
            first: dict[str, object] = {
                name: getattr(row, name)
                for name in ("course_code", "user_id", "essay_instructions", "class_id", "org_id", "student_prompt_ref")
            }
            first["essay_ids"] = essay_ids[registration.batch_id]
            if different := differences(first, registration):
                self._work.effects.differences.append((delivery, different))
