"""Implements the operator actions on registered batches."""

from service.domain.delivery import IntakeLimits
from service.domain.enveloped import Unpublishable
from service.domain.topics import CancelReason
from service.operators import parameters
from service.operators.advice import advise
from service.operators.endings import Ending, end_batch, preview_ending
from service.operators.errors import Conflict, NotFound
from service.operators.republishing import Republication, republish
from service.operators.transactions import Page, check_own, transaction
from service.postgres.pool import Database
from service.postgres.queries import NamedRow
from service.store import batches, search, slots
from service.store.batches import BatchFilter
from service.store.operator_actions import Operator

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
        check_own(self._database, batch_id, NotFound)
        async with transaction(self._database) as conn:
            batch = await batches.show_batch(conn, batch_id)
            facts = await search.read_batch_facts(conn, batch_id, HISTORY)
            rows = await slots.list_slots(conn, batch_id, page=page, after=after)
        if batch is None and not (facts["history"] or facts["rejected"] or facts["incomplete"]):
            raise NotFound(f"nothing is known of batch {batch_id}: the id is wrong, or it was deleted long ago")
        summary, steps = advise(batch_id, batch, facts)
        head = {"batch_id": batch_id, "summary": summary, "to_do": "".join(map(str, steps))}
        more = batch is not None and len(rows) == page and rows[-1]["position"] < batch["expected"]
        return head | (batch or {"state": "unknown"}) | facts, Page(rows, str(rows[-1]["position"]) if more else None)

    async def republish(
        self, by: Operator, batch_id: str, *, slots: bool = False, excess: bool = False, dry_run: bool = False
    ) -> Republication:
        """Publish the events of a batch's end again, with their old event ids, and those of its slots and its excess.

        A dry run returns what would be published.
        """
        check_own(self._database, batch_id)
        try:
            async with transaction(self._database) as conn:
                return await republish(conn, by, batch_id, self._limits, slots=slots, excess=excess, dry_run=dry_run)
        except Unpublishable as error:
            raise Conflict(str(error)) from None

    async def close(self, by: Operator, batch_id: str, *, dry_run: bool = False) -> Ending:
        """End a registered batch with what is there: its open slots are withdrawn, and it is announced.

        A dry run returns what would be done.
        """
        return await self._end(by, batch_id, None, dry_run=dry_run)

    async def cancel(self, by: Operator, batch_id: str, reason: CancelReason, *, dry_run: bool = False) -> Ending:
        """Cancel a batch that is registered, or complete and not ready. A dry run returns what would be done."""
        return await self._end(by, batch_id, reason, dry_run=dry_run)

    async def _end(self, by: Operator, batch_id: str, reason: CancelReason | None, *, dry_run: bool) -> Ending:
        check_own(self._database, batch_id)
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


def uploads(number: int, failures: int) -> str:
    """Returns "1 content", or "1 content and 2 validation failures", and so on."""
    if not failures:
        return contents(number)
    return f"{contents(number)} and {failures} validation failure{'' if failures == 1 else 's'}"
