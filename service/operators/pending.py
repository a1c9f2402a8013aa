"""Implements the operator actions on content and validation failures that are pending or expired.

A change first locks the batch, then reads in a second statement that it is not registered. While the lock is held, the
batch cannot be registered. Each change writes a row into the log of operator actions in the same transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from psycopg import AsyncConnection

from service.operators import parameters
from service.operators.errors import Conflict, InvalidRequest, NotFound
from service.operators.transactions import Page, check_own, transaction
from service.postgres.pool import Database
from service.postgres.queries import NamedRow
from service.store import batches, operator_actions, pending_content, validation_failures
from service.store.operator_actions import Operator, Subject
from service.store.pending_content import PendingContentRow, PendingFilter

NAMED_UPLOADS: Final = 1_000
"""Maximum number of contents, and of failures, that a row of the log lists; a change of more has several rows. The
`closed_at` of what was removed equals their `at`."""

RESTORED_PAGE: Final = 500
"""Contents and failures that a restore by filter handles in one transaction; as many as the purge."""


class Removed(NamedTuple):
    """How many contents and validation failures are removed, or would be."""

    contents: int
    failures: int


@dataclass(slots=True)
class Restored:
    """What a restore made pending again, and the batches that it skipped."""

    contents: int = 0
    failures: int = 0
    busy: list[str] = field(default_factory=list)
    """Batches whose lock another transaction held."""
    registered: list[str] = field(default_factory=list)
    """Batches that were registered after their content was found: the registration has taken it."""

    @property
    def skipped(self) -> list[str]:
        """Returns the batches of which nothing was restored, although something matched."""
        return self.busy + self.registered


class PendingActions:
    """Performs the operator actions on what waits. Every method raises OperationError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(
        self,
        condition: PendingFilter,
        *,
        page: int,
        state: str = "pending",
        after: tuple[datetime, int] | None = None,
    ) -> Page[PendingContentRow]:
        """Returns a page of content in a state (pending, expired or removed), the longest waiting first."""
        async with transaction(self._database) as conn:
            rows = await pending_content.list_pending_content(conn, condition, page=page, state=state, after=after)
        more = parameters.pending_cursor_text(rows[-1].waiting_since, rows[-1].arrival) if len(rows) == page else None
        return Page(rows, more)

    async def list_failures(
        self, condition: PendingFilter, *, page: int, state: str = "pending", after: tuple[datetime, int] | None = None
    ) -> Page[NamedRow]:
        """Returns a page of validation failures in a state (pending, expired or removed), the longest waiting first."""
        async with transaction(self._database) as conn:
            rows = await validation_failures.list_waiting_failures(conn, condition, page=page, state=state, after=after)
        if len(rows) < page:
            return Page(rows, None)
        return Page(rows, parameters.pending_cursor_text(rows[-1]["waiting_since"], rows[-1]["arrival"]))

    async def show(self, batch_id: str, text_storage_id: str) -> NamedRow:
        """Returns a content that is pending, expired or removed, or else the failure with this upload id.

        All columns are returned.
        """
        check_own(self._database, batch_id, NotFound)
        async with transaction(self._database) as conn:
            row = await pending_content.show_pending_content(conn, batch_id, text_storage_id)
            row = row or await validation_failures.show_failure(conn, batch_id, text_storage_id)
            _, registered = await batches.read_batch_states(conn, [batch_id])
        if row is None and registered:
            raise NotFound(
                f"batch {batch_id} is registered: nothing waits for it, see ops.slots and ops.excess_content"
            )
        if row is None:
            raise NotFound(f"there is no content {text_storage_id} that waits for batch {batch_id}")
        return row

    async def count_removable(self, condition: PendingFilter) -> Removed:
        """Returns how much `remove` would remove."""
        check_own(self._database, condition.batch_id)
        async with transaction(self._database) as conn:
            return Removed(*await pending_content.count_removable(conn, condition))

    async def remove(self, by: Operator, action: str, condition: PendingFilter) -> Removed:
        """Remove content and failures of one batch that are pending or expired. Returns how many, at least 1."""
        check_own(self._database, condition.batch_id)
        async with transaction(self._database) as conn:
            removed = await remove_pending(conn, by, action, condition)
        if not any(removed):
            raise NotFound(f"no such content waits for batch {condition.batch_id}")
        return removed

    async def restore(
        self, by: Operator, condition: PendingFilter, *, everything: bool = False, dry_run: bool = False
    ) -> Restored:
        """Make expired content and failures pending again; a dry run only counts what matches.

        Without filters, the content of one batch (named contents: all or none) is restored in one transaction.
        Otherwise all that matches is restored in pages; batches that are locked or registered are skipped. A condition
        without a batch or a filter needs `everything`. If the database fails, pages that were committed stay.
        """
        one_batch = condition == PendingFilter(condition.batch_id, condition.ids)
        if condition == PendingFilter() and not everything:
            raise InvalidRequest(
                "give a batch, or filter by file or age, or ask for all expired content", parameter="all"
            )
        if condition.ids is not None and not (condition.batch_id and one_batch):
            raise InvalidRequest("texts need their batch, and cannot be combined with a filter")
        check_own(self._database, condition.batch_id)
        if dry_run:
            async with transaction(self._database) as conn:
                return Restored(*await pending_content.count_expired(conn, condition))
        if condition.batch_id is not None and one_batch:
            async with transaction(self._database) as conn:
                restored = await restore_pending(conn, by, condition.batch_id, condition.ids)
        else:
            restored = await self._restore_pages(by, condition)
        if not (restored.contents or restored.failures or restored.skipped):
            of_batch = f" of batch {condition.batch_id}" if condition.batch_id else ""
            raise NotFound(f"no such content{of_batch} is expired")
        return restored

    async def _restore_pages(self, by: Operator, condition: PendingFilter) -> Restored:
        """Restore all that matches and had expired when the first page began, so that the pages come to an end."""
        restored, began, more = Restored(), None, True
        while more:
            async with transaction(self._database) as conn:
                more, now = await restore_page(conn, by, condition, restored, began)
            began = began or now
        return restored


async def remove_pending(conn: AsyncConnection[Any], by: Operator, action: str, condition: PendingFilter) -> Removed:
    """Remove content and failures in the caller's transaction. Returns how many.

    An id names both the content and the failure that have it. Raises Conflict if the batch is registered, NotFound if
    nothing that is named so waits, psycopg.Error (55P03) if another transaction holds the lock of the batch.
    """
    batch_id = await _lock_unregistered(conn, condition.batch_id)
    contents = await pending_content.remove_pending_content(conn, condition)
    failures = await validation_failures.remove_failures(conn, condition)
    _check_all(condition.ids, [*contents, *failures], f"waits for batch {batch_id}")
    if contents or failures:
        await operator_actions.insert_operator_actions(
            conn, by, action, _subjects(batch_id, contents, failures, _given(condition))
        )
    return Removed(len(contents), len(failures))


async def restore_pending(
    conn: AsyncConnection[Any], by: Operator, batch_id: str, ids: Sequence[str] | None
) -> Restored:
    """Restore content and failures of a batch, or (None) all, in the caller's transaction.

    An id names both the content and the failure that have it. Raises like `remove_pending`.
    """
    await _lock_unregistered(conn, batch_id)
    contents, failures = await _restore(conn, batch_id, ids, ids)
    _check_all(ids, [*contents, *failures], f"of batch {batch_id} is expired")
    if contents or failures:
        subjects = _subjects(batch_id, contents, failures)
        await operator_actions.insert_operator_actions(conn, by, "pending restore", subjects)
    return Restored(len(contents), len(failures))


async def restore_page(
    conn: AsyncConnection[Any], by: Operator, condition: PendingFilter, restored: Restored, began: datetime | None
) -> tuple[bool, datetime | None]:
    """Restore a page of what matches in the caller's transaction, waiting for no lock, and add it to `restored`.

    Returns whether there may be more, and the transaction's time: `began` of the next pages. Raises psycopg.Error.
    """
    found = await pending_content.find_expired(conn, condition, at=began, skipped=restored.skipped, page=RESTORED_PAGE)
    if not found:
        return False, None
    batch_ids = sorted({each.batch_id for each in found})
    busy = await batches.try_lock_batches(conn, exclusive=batch_ids, shared=[])
    # A statement after the locks, so that it sees a registration that committed meanwhile.
    now, registered = await batches.read_batch_states(conn, batch_ids)
    restored.busy += sorted(busy)
    restored.registered += sorted(registered.keys() - busy)
    subjects = []
    for batch_id in sorted(set(batch_ids) - busy - registered.keys()):
        texts = [each.upload for each in found if each.batch_id == batch_id and not each.is_failure]
        uploads = [each.upload for each in found if each.batch_id == batch_id and each.is_failure]
        contents, failures = await _restore(conn, batch_id, texts, uploads)
        restored.contents += len(contents)
        restored.failures += len(failures)
        if contents or failures:
            subjects += _subjects(batch_id, contents, failures, _given(condition))
    if subjects:
        await operator_actions.insert_operator_actions(conn, by, "pending restore", subjects)
    return len(found) == RESTORED_PAGE, now


async def _restore(
    conn: AsyncConnection[Any], batch_id: str, texts: Sequence[str] | None, uploads: Sequence[str] | None
) -> tuple[Sequence[str], Sequence[str]]:
    """Restore content and failures (None: all) of a batch that is locked and not registered. Returns their ids."""
    contents = await pending_content.restore_pending_content(conn, batch_id, texts)
    failures = await validation_failures.restore_failures(conn, batch_id, uploads)
    return contents, failures


async def _lock_unregistered(conn: AsyncConnection[Any], batch_id: str | None) -> str:
    """Lock the batch exclusively, then check that it is not registered. Raises Conflict if it is."""
    if batch_id is None:
        raise ValueError("a change is made to one batch")
    await batches.lock_batch(conn, batch_id, exclusive=True)
    _, registered = await batches.read_batch_states(conn, [batch_id])
    if registered:
        raise Conflict(f"batch {batch_id} is registered: nothing waits for it, its content has slots or is excess")
    return batch_id


def _check_all(named: Sequence[str] | None, changed: Sequence[str], such: str) -> None:
    """Raise NotFound, which rolls back, unless all that is named was changed: a typing error must not be skipped."""
    if missing := set(named or ()) - set(changed):
        raise NotFound(f"no such content {such}: {min(missing)}")


def _subjects(
    batch_id: str, contents: Sequence[str], failures: Sequence[str] = (), given: Mapping[str, Any] | None = None
) -> list[Subject]:
    """Returns what a change names in the log of operator actions, in rows of at most `NAMED_UPLOADS`."""
    subjects = []
    for begin in range(0, max(len(contents), len(failures)), NAMED_UPLOADS):
        texts, uploads = contents[begin : begin + NAMED_UPLOADS], failures[begin : begin + NAMED_UPLOADS]
        details: dict[str, Any] = {"contents": len(texts), "text_storage_ids": list(texts)}
        if uploads:
            details |= {"failures": len(uploads), "file_upload_ids": list(uploads)}
        subjects.append(Subject(batch_id, details=details | dict(given or {})))
    return subjects


def _given(condition: PendingFilter) -> dict[str, Any]:
    """Returns the conditions beyond batch and ids that were given, for the log of operator actions."""
    conditions = {name: getattr(condition, name) for name in ("contains", "older_than", "newer_than")}
    return {name: value for name, value in conditions.items() if value is not None}
