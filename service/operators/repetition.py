"""Performs operator actions again, after the database was set back to a time before them, in the order of their times.

An action that the log of the database has is left out, and so is what its effect is there already: then only its row is
written. Each repeated action is a row for who performed it first, with `first_at` and `repeated_by` in its details.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, get_args

from service.domain.topics import CancelReason
from service.operators.errors import Conflict, OperationError, Unavailable
from service.operators.operations import Operations
from service.operators.privacy import ErasureRequest
from service.operators.transactions import transaction
from service.postgres.pool import Database
from service.recovery.acts import Act
from service.store import batches, erasures, operator_actions, pending_content, quarantine, validation_failures
from service.store.operator_actions import Operator, Subject
from service.store.pending_content import PendingFilter

_IDENTITY: Final = ("fingerprint", "text_storage_ids", "file_upload_ids", "first_offset")
"""The details that distinguish actions of the same moment."""

HARMLESS: Final = ("health acknowledge", "batches republish", "recover", "recover abandon")
"""Actions that change no state that is lost: they are not repeated."""

_FAILED: Final = ("rejected", "killed_the_process")
"""Outcomes of replays that changed nothing."""

TOMBSTONE_NEEDED: Final = "recover with --erasures FILE, or erase it again"

_INCOMPLETE: Final = "its details do not say what it did: they were erased, or are no longer as they were written"

_BY_HAND: Final = "a recovery does not repeat such an action: do it by hand"


class Repetition:
    """Repeats actions on one database, for the person who runs a recovery."""

    def __init__(self, database: Database, operations: Operations, by: str) -> None:
        self._database = database
        self._operations = operations
        self._by = by
        self._repeat: Mapping[str, Callable[[Act, Operator], Awaitable[str | None]]] = {
            "pending remove": self._remove,
            "pending clear": self._remove,
            "pending restore": self._restore,
            "quarantine discard": self._discard,
            "quarantine replay": self._replay,
            "quarantine edit": self._edit,
            "quarantine resume": self._resume,
            "inputs skip": self._skip,
            "batches close": self._end,
            "batches cancel": self._end,
            "privacy erase": self._erase,
        }

    async def repeat(self, acts: Sequence[Act]) -> list[tuple[Act, str]]:
        """Perform the actions again. Returns those that cannot be, each with the reason.

        Raises Unavailable; run it again then.
        """
        left = []
        for act in acts:
            if act.action in HARMLESS or await self._is_known(act):
                continue
            repeat = self._repeat.get(act.action)
            try:
                why = await repeat(act, self._operator(act)) if repeat else _BY_HAND
            except Unavailable:
                raise
            except OperationError as error:
                why = str(error)
            except (KeyError, ValueError):
                why = _INCOMPLETE
            if why:
                left.append((act, why))
        return left

    def _operator(self, act: Act) -> Operator:
        return Operator(act.who, act.why, act.at, self._by)

    async def _is_known(self, act: Act) -> bool:
        identity = {name: act.details[name] for name in _IDENTITY if name in act.details}
        subject = Subject(act.batch_id, act.topic, identity)
        async with transaction(self._database) as conn:
            return await operator_actions.has_operator_action(conn, self._operator(act), act.action, act.at, subject)

    async def _record(self, conn: Any, act: Act, by: Operator) -> None:
        """Write the row of an action as it was performed first."""
        subject = Subject(act.batch_id, act.topic, act.details)
        await operator_actions.insert_operator_actions(conn, by, act.action, [subject])

    # -- pending content

    async def _remove(self, act: Act, by: Operator) -> str | None:
        texts, uploads = act.details.get("text_storage_ids", []), act.details.get("file_upload_ids", [])
        batch_id = str(act.batch_id)
        async with transaction(self._database) as conn:
            await batches.lock_batch(conn, batch_id, exclusive=True)
            contents = await pending_content.remove_pending_content(conn, PendingFilter(batch_id, texts))
            failures = await validation_failures.remove_failures(conn, PendingFilter(batch_id, uploads))
            rows = [
                (text, await pending_content.show_pending_content(conn, batch_id, text))
                for text in texts
                if text not in contents
            ] + [
                (upload, await validation_failures.show_failure(conn, batch_id, upload))
                for upload in uploads
                if upload not in failures
            ]
            await self._record(conn, act, by)
        kept = [upload for upload, row in rows if row is None or row["state"] != "removed"]
        if kept:
            return f"{len(kept)} of its uploads were announced, or are in no topic: {kept[0]}"
        named, removed = len(texts) + len(uploads), act.details.get("contents", 0) + act.details.get("failures", 0)
        return f"it names {named} of its {removed} uploads" if named < removed else None

    async def _restore(self, act: Act, by: Operator) -> str | None:
        """Restore what is expired now. What is not needs no restore: it waits, or a registration has taken it."""
        batch_id = str(act.batch_id)
        async with transaction(self._database) as conn:
            await batches.lock_batch(conn, batch_id, exclusive=True)
            texts, uploads = act.details.get("text_storage_ids", []), act.details.get("file_upload_ids", [])
            await pending_content.restore_pending_content(conn, batch_id, texts)
            await validation_failures.restore_failures(conn, batch_id, uploads)
            await self._record(conn, act, by)
        return None

    # -- quarantine

    async def _discard(self, act: Act, by: Operator) -> str | None:
        id_, state, _ = await self._quarantined(act)
        if state == "open":
            await self._operations.quarantine.discard(by, [id_])
            return None
        return await self._settled(act, by, is_done=state == "discarded", state=f"the input is {state}")

    async def _replay(self, act: Act, by: Operator) -> str | None:
        if act.details.get("outcome") in _FAILED:
            return None
        id_, state, _ = await self._quarantined(act)
        if state == "open":
            (replayed,) = [each async for each in self._operations.quarantine.replay(by, [id_])]
            return replayed.error or None
        return await self._settled(act, by, is_done=state == "replayed", state=f"the input is {state}")

    async def _edit(self, act: Act, by: Operator) -> str | None:
        id_, state, edited = await self._quarantined(act)
        value = str(act.details.get("value", "")).encode("utf-8", "surrogatepass")
        if state == "open":
            return (await self._operations.quarantine.edit(by, id_, value)).error or None
        return await self._settled(act, by, is_done=edited == value, state=f"the input is {state}")

    async def _quarantined(self, act: Act) -> tuple[int, str, bytes | None]:
        """Find the input. Raises Conflict."""
        fingerprint = act.details.get("fingerprint")
        if fingerprint is None:
            raise Conflict("its row is of an earlier release, and does not identify the input")
        async with transaction(self._database) as conn:
            found = await quarantine.find_quarantined(conn, str(act.topic), bytes.fromhex(fingerprint))
        if found is None:
            raise Conflict("the input is not in quarantine: it was accepted this time, or no topic has it any more")
        return found

    async def _settled(self, act: Act, by: Operator, *, is_done: bool, state: str) -> str | None:
        if not is_done:
            return state
        async with transaction(self._database) as conn:
            await self._record(conn, act, by)
        return None

    async def _resume(self, act: Act, by: Operator) -> str | None:
        try:
            await self._operations.quarantine.resume(
                by, str(act.topic), skip_refused=bool(act.details.get("skip_refused"))
            )
        except Conflict:  # the recovery has resumed it
            return await self._settled(act, by, is_done=True, state="")
        return None

    async def _skip(self, act: Act, by: Operator) -> str | None:
        try:
            place = (str(act.topic), act.details["partition"], act.details["offset"])
            await self._operations.inputs.skip(by, *place, whole_batch=bool(act.details.get("batch")))
        except Conflict:  # it is skipped already
            return await self._settled(act, by, is_done=True, state="")
        return None

    # -- personal data

    async def _erase(self, act: Act, by: Operator) -> str | None:
        """Erase again what the action names. A user and the name of a file are in no row: only their digest is."""
        batch_id, details = act.batch_id, act.details
        if batch_id is None:
            async with transaction(self._database) as conn:
                is_known = await erasures.has_erasure(conn, str(details.get("digest", "")))
            return await self._settled(act, by, is_done=is_known, state=TOMBSTONE_NEEDED)
        requests = [ErasureRequest("text", batch_id, each) for each in details.get("text_storage_ids", ())]
        requests += [ErasureRequest("upload", batch_id, each) for each in details.get("file_upload_ids", ())]
        for kind in ("text", "upload"):
            requests += [ErasureRequest(kind, batch_id, details[name]) for name in (f"{kind}_id",) if name in details]
        for request in requests or [ErasureRequest("batch", batch_id)]:
            report = await self._operations.privacy.erase(by, request)
            if report.blocked:
                return report.blocked[0]["why"]
        return None

    # -- batches

    async def _end(self, act: Act, by: Operator) -> str | None:
        """Close or cancel a batch. What was announced of that is there already."""
        batch_id, is_close = str(act.batch_id), act.action == "batches close"
        try:
            if is_close:
                await self._operations.batches.close(by, batch_id)
            elif act.details["reason"] in get_args(CancelReason):
                await self._operations.batches.cancel(by, batch_id, act.details["reason"])
            else:
                return _INCOMPLETE
        except Conflict as error:
            batch, _ = await self._operations.batches.show(batch_id, page=1, after=0)
            states = {act.details.get("state"), "ready" if is_close else "cancelled"}
            return await self._settled(act, by, is_done=batch["state"] in states, state=str(error))
        return None
