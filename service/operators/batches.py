"""Implements the operator actions on registered batches."""

from collections.abc import Sequence

from service.domain.delivery import IntakeLimits
from service.domain.enveloped import Outgoing, Unpublishable
from service.domain.topics import CancelReason
from service.operators import parameters
from service.operators.advice import advise
from service.operators.endings import Ending, end_batch, preview_ending
from service.operators.errors import Conflict, NotFound
from service.operators.transactions import Page, transaction
from service.postgres.pool import Database
from service.postgres.queries import NamedRow
from service.store import batches, operator_actions, outbox, search, slots
from service.store.announcements import announcements_of
from service.store.batches import BatchFilter
from service.store.operator_actions import Operator, Subject

HISTORY = 50
"""How many things that happened to a batch, and how many rejected inputs, are shown: the newest."""


class BatchActions:
    """Performs the operator actions on batches. Every method raises OperationError."""

    def __init__(self, database: Database, limits: IntakeLimits) -> None:
        self._database = database
        self._limits = limits

    async def list(self, condition: BatchFilter, *, page: int) -> Page[NamedRow]:
        """Returns a page of registered batches, the newest first."""
        of_somebody = any(condition.of().values())
        async with transaction(self._database) as conn:
            rows = await (search.list_batches_of if of_somebody else batches.list_batches)(conn, condition, page)
        if len(rows) < page:
            return Page(rows, None)
        return Page(rows, parameters.batch_cursor_text(rows[-1]["registered_at"], rows[-1]["batch_id"]))

    async def show(self, batch_id: str, *, page: int, after: int) -> tuple[NamedRow, Page[NamedRow]]:
        """Returns all that is known of a batch, registered or not, with a page of its slots after the position `after`.

        The first fields say in words how it stands, and what to do next.
        """
        async with transaction(self._database) as conn:
            batch = await batches.show_batch(conn, batch_id)
            facts = await search.read_batch_facts(conn, batch_id, HISTORY)
            rows = await slots.list_slots(conn, batch_id, page=page, after=after)
        if batch is None and not (facts["history"] or facts["rejected"] or facts["incomplete"]):
            raise NotFound(f"nothing is known of batch {batch_id}: the id is wrong, or it was deleted long ago")
        summary, to_do = advise(batch_id, batch, facts)
        head = {"batch_id": batch_id, "summary": summary, "to_do": to_do}
        more = batch is not None and len(rows) == page and rows[-1]["position"] < batch["expected"]
        return head | (batch or {"state": "unknown"}) | facts, Page(rows, str(rows[-1]["position"]) if more else None)

    async def republish(self, by: Operator, batch_id: str) -> Sequence[Outgoing]:
        """Write the events of a complete batch into the outbox again, with their old event ids."""
        try:
            async with transaction(self._database) as conn:
                _, registered = await batches.read_batch_states(conn, [batch_id])
                if not registered:
                    raise Conflict(f"batch {batch_id} is not registered")
                # The counter row is locked before it is read: the events follow all that was committed before.
                count = (await (await batches.count_taken(conn, {batch_id: (0, 0)})))[batch_id]
                row = (await batches.read_batches(conn, [batch_id]))[batch_id]
                if row.completed_at is None:
                    taken = f"{count.assigned + count.failed} of its {count.expected} slots are taken"
                    raise Conflict(f"batch {batch_id} has announced nothing yet: {taken}")
                if row.erased_at:
                    raise Conflict(
                        f"personal data of batch {batch_id} was erased: its events can not be built again as they were"
                    )
                announced = announcements_of(conn, row, max_bytes=self._limits.large_event_bytes)
                events = [event async for event in announced]
                await outbox.insert_outbox(conn, events)
                details = {"events": [{"topic": event.topic, "event_id": event.event_id} for event in events]}
                await operator_actions.insert_operator_actions(
                    conn, by, "batches republish", [Subject(batch_id, details=details)]
                )
        except Unpublishable as error:
            raise Conflict(str(error)) from None
        return events

    async def close(self, by: Operator, batch_id: str, *, dry_run: bool = False) -> Ending:
        """End a registered batch with what is there: its open slots are withdrawn, and it is announced.

        A dry run returns what would be done.
        """
        return await self._end(by, batch_id, None, dry_run=dry_run)

    async def cancel(self, by: Operator, batch_id: str, reason: CancelReason, *, dry_run: bool = False) -> Ending:
        """Cancel a batch that is registered, or complete and not ready. A dry run returns what would be done."""
        return await self._end(by, batch_id, reason, dry_run=dry_run)

    async def _end(self, by: Operator, batch_id: str, reason: CancelReason | None, *, dry_run: bool) -> Ending:
        try:
            async with transaction(self._database) as conn:
                if dry_run:
                    return await preview_ending(conn, batch_id, self._limits, reason)
                return await end_batch(conn, by, batch_id, self._limits, reason)
        except Unpublishable as error:
            raise Conflict(str(error)) from None


def contents(number: int) -> str:
    """Returns "1 content", "2 contents", and so on."""
    return "1 content" if number == 1 else f"{number} contents"
