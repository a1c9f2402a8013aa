"""Applies confirmations of students: those that waited for a registration, and those of registered batches.

A confirmation and the completion of its batch exclude each other by the batch's counter row: whichever locks it second
sees the other, and announces that the batch is ready.
"""

from collections.abc import Sequence

from service.domain.decisions import Confirm, ConfirmableBatch, LeaveConfirmation, decide_confirmations
from service.domain.delivery import Delivery
from service.domain.events import AssociationsConfirmed, trace_id_of
from service.intake.outcome import EffectKind, EffectRecord
from service.intake.work import BatchWork, PollWork
from service.store import batches, confirmations


class Confirmations:
    """The phases that store confirmations, and apply them."""

    def __init__(self, work: PollWork) -> None:
        self._work = work

    async def find_waiting(self) -> None:
        """Find the confirmations that waited for the batches that this transaction has registered."""
        created = [batch.batch_id for batch in self._work.batches.values() if batch.created]
        if created:
            for confirmation in await confirmations.read_pending_confirmations(self._work.conn, created):
                self._work.batches[confirmation.batch_id].waiting_confirmations.append(confirmation)

    async def store_waiting(self) -> None:
        """Store the confirmations of unregistered batches, before the counter rows are locked, as other inputs are."""
        early = {
            (batch.batch_id, class_id): delivery
            for batch in self._work.batches.values()
            if batch.state is None
            for class_id, delivery in batch.confirmations.items()
        }
        if early:
            rows = [(delivery.event, "pending") for delivery in early.values()]
            new = await confirmations.store_confirmations(self._work.conn, rows)  # type: ignore[arg-type]
            for key, delivery in early.items():
                if key in new:
                    self._work.record("confirmation_pending", delivery)
                else:
                    self._work.record_repeat(delivery)

    async def confirm(self, changed: Sequence[BatchWork]) -> list[str]:
        """Decide about the confirmations of registered batches, whose counter rows are locked.

        Returns the batches that were complete, and are ready now.
        """
        asked = [batch for batch in changed if batch.to_confirm]
        if not asked:
            return []
        rows = await batches.read_batches(self._work.conn, [batch.batch_id for batch in asked])
        known = {
            id_: ConfirmableBatch(row.state, row.class_id, row.confirmed_at is not None) for id_, row in rows.items()
        }
        decided = decide_confirmations(
            (confirmation, known[batch.batch_id]) for batch in asked for confirmation in batch.to_confirm.values()
        )
        new = await confirmations.store_confirmations(
            self._work.conn, [(each.confirmation, each.state) for each in decided]
        )
        confirmed: list[str] = []
        for each in decided:
            event = each.confirmation
            delivery = self._work.batches[event.batch_id].confirmations.get(event.class_id)
            if (event.batch_id, event.class_id) not in new:
                if delivery:
                    self._work.record_repeat(delivery)
                continue
            match each:
                case Confirm():
                    confirmed.append(event.batch_id)
                    self._record("confirmation_applied", event, delivery)
                case LeaveConfirmation(_, why):
                    self._record("confirmation_unused", event, delivery, why)
        if confirmed:
            await confirmations.confirm_batches(self._work.conn, confirmed)
        return [batch_id for batch_id in confirmed if rows[batch_id].state == "complete"]

    def _record(
        self, kind: EffectKind, event: AssociationsConfirmed, delivery: Delivery | None, why: str | None = None
    ) -> None:
        trace_id = trace_id_of(event.traceparent)
        self._work.effects.records.append(
            EffectRecord(kind, event.batch_id, None, event.correlation_id, delivery, why, None, trace_id)
        )
