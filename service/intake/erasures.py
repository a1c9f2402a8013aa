"""Blanks what was erased where it arrives again, before anything of it is stored, published or logged.

Costs nothing where there are no tombstones: the reads of a poll say so. An erasure may come between a poll's reads and
its writes. It holds the locks of its batch, so the poll either is committed before it, and its rows are blanked with
the others, or it sees the erasure: of an unregistered batch in the read behind its lock, of a registered one in the
counter row (`check`). Registrations and rejected inputs take the lock of erasures as well.
"""

from collections.abc import Collection, Mapping

from psycopg.errors import SerializationFailure

from service.domain.decisions import BatchCount
from service.domain.delivery import Delivery
from service.domain.events import BatchRegistered, Rejection
from service.domain.personal_data import ErasedSubject, blanked, subjects_of
from service.intake.work import BatchWork, PollWork
from service.store import erasures
from service.store.erasures import ErasedUploads


class Erasures:
    """The phase that compares a poll with tombstones."""

    def __init__(self, work: PollWork) -> None:
        self._work = work

    async def blank(self) -> None:
        """Blank the events of batches, users and uploads that were erased."""
        work = self._work
        registrations = [
            (batch, each.event)
            for batch in work.batches.values()
            if batch.state is None
            for each in batch.registrations
            if isinstance(each.event, BatchRegistered)
        ]
        subjects = {ErasedSubject("batch", batch_id) for batch_id in work.batches}
        subjects |= {ErasedSubject("user", "", event.user_id) for _, event in registrations}
        found = await erasures.find_erased(work.conn, subjects)
        of_erased_users = {
            batch.batch_id for batch, event in registrations if ErasedSubject("user", "", event.user_id) in found
        }
        if of_erased_users:
            new = [ErasedSubject(kind, *id_) for each in of_erased_users for kind, id_ in _of_batch(each)]
            await erasures.insert_erasures(work.conn, new)
            work.effects.erased_batches += sorted(of_erased_users)
        in_part: list[BatchWork] = []
        for batch_id, batch in work.batches.items():
            kind = "batch" if batch_id in of_erased_users else found.get(ErasedSubject("batch", batch_id))
            if kind == "batch":
                batch.erased = True
                _blank(batch.deliveries())
            elif kind:
                in_part.append(batch)
        await self._blank_parts(in_part)

    async def _blank_parts(self, batches: Collection[BatchWork]) -> None:
        deliveries = [each for batch in batches for each in [*batch.contents.values(), *batch.failures.values()]]
        subjects = {id(each): subjects_of(each.event) for each in deliveries}  # type: ignore[arg-type]
        found = await erasures.find_erased(self._work.conn, {each for some in subjects.values() for each in some})
        _blank([each for each in deliveries if not found.keys().isdisjoint(subjects[id(each)])])

    async def blank_stored(self, batch_ids: Collection[str]) -> None:
        """Blank what has waited for the batches that are registered here, and their registrations."""
        for batch_id in batch_ids:
            if self._work.batches[batch_id].erased:
                await erasures.blank_batch(self._work.conn, batch_id, ErasedUploads(whole=True))

    def check(self, counts: Mapping[str, BatchCount]) -> None:
        """Begin again where an erasure came after the poll had read a batch. The counter rows are locked."""
        for batch_id, count in counts.items():
            batch = self._work.batches[batch_id]
            if not batch.created and batch.state and count.erased_at != batch.state.erased_at:
                raise SerializationFailure("personal data of a batch was erased meanwhile")


def _of_batch(batch_id: str) -> tuple[tuple[str, tuple[str, str]], ...]:
    return ("batch", (batch_id, "")), ("mention", ("", batch_id))


def _blank(deliveries: Collection[Delivery]) -> None:
    for each in deliveries:
        if not isinstance(each.event, Rejection):
            each.event = blanked(each.event)
