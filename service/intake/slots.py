"""Assigns slots to uploads, and stores the uploads that wait for the registration of their batch."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from psycopg.errors import SerializationFailure

from service.domain.decisions import (
    Assign,
    CheckCounter,
    DeferUpload,
    NoSlotLeft,
    assign_slots,
    decide_unassigned,
)
from service.domain.enveloped import Outgoing
from service.domain.events import ContentProvisioned, Upload, ValidationFailed, WaitingFailure, trace_id_of
from service.intake.outcome import EffectKind, EffectRecord
from service.intake.work import BatchWork, PollWork, all_uploads, uploads_of
from service.store import pending_content, slots, validation_failures

_FailureState = Literal["pending", "slot", "surplus"]
_KIND_OF: Final[Mapping[_FailureState, EffectKind]] = {
    "pending": "failure_pending",
    "slot": "failure_slot",
    "surplus": "failure_surplus",
}


class Slots:
    """The phases that claim slots for uploads, and store the uploads without one."""

    def __init__(self, work: PollWork) -> None:
        self._work = work
        self.events: list[Outgoing] = []
        """EssaySlotAssigned of each content that took a slot here, in slot order within a batch. Published later."""

    async def take_slots(self) -> None:
        """Claim slots for the new contents and failures of registered batches."""
        await self._drop_known([batch for batch in self._work.batches.values() if batch.state])
        registered = [batch for batch in self._work.batches.values() if batch.state]
        created = [batch for batch in registered if batch.created]
        # Content before failures, and failures that waited for a registration before those of its own poll.
        await self._claim({batch.batch_id: batch.uploads() for batch in registered if batch.open and not batch.created})
        await self._claim({batch.batch_id: uploads_of(batch.contents) for batch in created})
        await self._assign_waiting_failures(created)
        await self._claim({batch.batch_id: uploads_of(batch.failures) for batch in created})
        for batch in registered:
            if not batch.open:
                self._execute(batch, [NoSlotLeft(upload) for upload in batch.uploads()])

    async def store_waiting(self) -> None:
        """Store content and failures of unregistered batches, in order of arrival, and failures that found no slot.

        This precedes the locks of the counter rows, since it may wait for a transaction that stores the same identity.
        """
        unregistered = [batch for batch in self._work.batches.values() if batch.state is None]
        contents = all_uploads(unregistered, lambda batch: batch.contents)
        if contents:
            new = await pending_content.store_pending_content(self._work.conn, contents)
            for content in contents:
                delivery = self._work.batches[content.batch_id].delivery_of(content)
                if (content.batch_id, content.text_storage_id) in new:
                    self._work.record("content_pending", delivery)
                else:
                    self._work.record_repeat(delivery)
        failures: list[tuple[ValidationFailed, _FailureState]] = [
            (failure, "pending") for failure in all_uploads(unregistered, lambda batch: batch.failures)
        ]
        failures += [(failure, "surplus") for batch in self._work.batches.values() for failure in batch.surplus]
        if failures:
            await self._store_failures(failures)

    async def compare_repeats(self) -> None:
        """Compare repeated contents with the file that is recorded, where it has not been read yet."""
        repeated = self._work.repeated
        if repeated:
            contents: list[ContentProvisioned] = [delivery.event for delivery in repeated]  # type: ignore[misc]
            known = await slots.find_known_content(self._work.conn, contents)
            for delivery, content in zip(repeated, contents, strict=True):
                if file := known.get((content.batch_id, content.text_storage_id)):
                    self._work.compare(file, delivery)

    async def _drop_known(self, registered: Sequence[BatchWork]) -> None:
        work = self._work
        contents = all_uploads(registered, lambda batch: batch.contents)
        if contents:
            for (batch_id, identity), file in (await slots.find_known_content(work.conn, contents)).items():
                work.record_repeat(work.batches[batch_id].contents.pop(identity), file)
        failures = all_uploads(registered, lambda batch: batch.failures)
        if failures:
            for batch_id, identity in await validation_failures.find_known_failures(work.conn, failures):
                work.record_repeat(work.batches[batch_id].failures.pop(identity))

    async def _claim(self, uploads: Mapping[str, Sequence[Upload]]) -> None:
        wanted = {batch_id: len(waiting) for batch_id, waiting in uploads.items() if waiting}
        if not wanted:
            return
        if self._work.exclusive:
            for batch_id, count in wanted.items():
                await slots.await_slots(self._work.conn, batch_id, count)
        assigned, unassigned = assign_slots(uploads, await slots.claim_slots(self._work.conn, wanted))
        for batch_id, without in unassigned.items():
            batch = self._work.batches[batch_id]
            certain = self._work.exclusive or batch.created
            self._execute(batch, [decide_unassigned(upload, certain=certain) for upload in without])
        await self._fill(assigned)

    def _execute(self, batch: BatchWork, decisions: Iterable[NoSlotLeft | CheckCounter | DeferUpload]) -> None:
        for decision in decisions:
            match decision:
                case NoSlotLeft(ContentProvisioned() as content):
                    batch.excess.append(content)
                case NoSlotLeft(ValidationFailed() as failure):
                    batch.surplus.append(failure)
                case CheckCounter(content):
                    batch.unchecked.append(content)
                case DeferUpload(upload):
                    self._work.defer_upload(upload)

    async def _fill(self, assigned: Sequence[Assign]) -> None:
        if not assigned:
            return
        work = self._work
        await slots.fill_slots(work.conn, assigned)
        failures: list[tuple[ValidationFailed, _FailureState]] = []
        for slot, upload in assigned:
            batch = work.batches[slot.batch_id]
            if isinstance(upload, ContentProvisioned):
                batch.assigned += 1
                self.events.append(work.slot_assigned(slot, upload))
                work.record("content_assigned", batch.delivery_of(upload), slot.essay_id)
            elif isinstance(upload, ValidationFailed):
                batch.failed += 1
                failures.append((upload, "slot"))
        if failures:
            await self._store_failures(failures)

    async def _store_failures(self, failures: Sequence[tuple[ValidationFailed, _FailureState]]) -> None:
        new = await validation_failures.store_failures(self._work.conn, failures)
        for failure, state in failures:
            delivery = self._work.batches[failure.batch_id].delivery_of(failure)
            if (failure.batch_id, failure.file_upload_id) in new:
                self._work.record(_KIND_OF[state], delivery)
            elif state == "slot":
                # A transaction that ended since the read has recorded it, so it must not take a second slot.
                raise SerializationFailure("a validation failure was recorded by another transaction meanwhile")
            else:
                self._work.record_repeat(delivery)

    async def _assign_waiting_failures(self, created: Sequence[BatchWork]) -> None:
        """Assign slots to the failures that waited for new batches, after all content, including that of the poll."""
        work, batch_ids = self._work, [batch.batch_id for batch in created]
        while batch_ids and (page := await validation_failures.read_waiting_failures(work.conn, batch_ids)):
            uploads: dict[str, list[WaitingFailure]] = defaultdict(list)
            for failure in page:
                uploads[failure.batch_id].append(failure)
            wanted = {batch_id: len(waiting) for batch_id, waiting in uploads.items()}
            assigned, unassigned = assign_slots(uploads, await slots.claim_slots(work.conn, wanted))
            if assigned:
                await slots.fill_slots(work.conn, assigned)
            settled: list[tuple[WaitingFailure, _FailureState]] = [
                (upload, "slot") for _, upload in assigned if isinstance(upload, WaitingFailure)
            ]
            settled += [(failure, "surplus") for without in unassigned.values() for failure in without]
            await validation_failures.settle_failures(work.conn, settled)
            for failure, state in settled:
                work.batches[failure.batch_id].failed += state == "slot"
                work.effects.records.append(
                    EffectRecord(
                        _KIND_OF[state],
                        failure.batch_id,
                        failure.file_upload_id,
                        failure.correlation_id,
                        trace_id=trace_id_of(failure.traceparent),
                    )
                )
