"""Implements the erasure of personal data. What an erasure is, and why it is safe: docs/decisions/0016-erasure.md.

1. Tombstones are committed, with the operator action: from here on, what arrives again is blanked.
2. Each batch waits until it has no event in the outbox, and is blanked in one transaction.
3. Rejected inputs that contain an id of what was erased are blanked.

Each step can be repeated: an erasure that is killed is given again with the same arguments.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Final, Literal

import psycopg

from service.domain.personal_data import ErasedSubject, contains
from service.operators.errors import Contention, InvalidRequest, operation_error
from service.operators.transactions import transaction
from service.postgres.pool import Database
from service.postgres.queries import NamedRow
from service.recovery.blanking import (
    blank,
    blank_rejected,
    count_rejected,
    find_erasable,
    lock_erased_batch,
    tombstones,
)
from service.store import erasures, operator_actions, progress
from service.store.erasures import ErasedUploads
from service.store.operator_actions import Operator, Subject

WAIT_SECONDS: Final = 60.0
"""How long an erasure waits for the outbox and for locks, all in all."""

MOST_MATCHES: Final = 10_000
SHORTEST: Final = 3
"""Characters of a part of a file name."""

ACTION: Final = "privacy erase"

REMAINING: Final = (
    "topics: inputs and events keep what was erased until their retention has passed",
    "logs that were written before",
    "backups, standbys' archives and the write-ahead log; pages of tables until the next vacuum",
    "other services, which have received the events",
)


@dataclass(frozen=True, slots=True)
class ErasureRequest:
    """What to erase: all of a user (`name`), of a batch, a text or an upload of a batch, or files (`name`: a part)."""

    kind: Literal["user", "batch", "text", "upload", "file"]
    batch_id: str = ""
    name: str = ""


@dataclass(slots=True)
class ErasureReport:
    """What was erased, or would be. `batches` has a row for each, `blocked` those that could not be blanked in time."""

    kind: str
    dry_run: bool
    batches: list[dict[str, Any]] = field(default_factory=list)
    matches: list[NamedRow] = field(default_factory=list)
    """The uploads that a part of a file name matches."""
    rejected_inputs: int = 0
    unsearchable_inputs: int = 0
    """Bytes of record batches in quarantine, which may be compressed: look at them, and discard them."""
    operator_actions: int = 0
    blocked: list[dict[str, str]] = field(default_factory=list)
    remaining: Sequence[str] = REMAINING


class PrivacyActions:
    """Erases personal data. Every method raises OperationError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def erase(
        self,
        by: Operator,
        request: ErasureRequest,
        *,
        dry_run: bool = False,
        wait_seconds: float = WAIT_SECONDS,
        log: Callable[[str], None] = lambda _: None,
    ) -> ErasureReport:
        """Erase what is requested, or (dry run) only find it. `log` is called with what it waits for."""
        report = ErasureReport(request.kind, dry_run)
        if request.kind == "file" and len(request.name) < SHORTEST:
            raise InvalidRequest(f"a part of a file name needs {SHORTEST} characters")
        targets = await self._find(request, report)
        await self._check_reason(by, request, targets)
        part = request.name if request.kind == "file" else None
        if dry_run:
            wanted = await self._count(request, targets, report)
            try:
                report.rejected_inputs = await count_rejected(self._database, wanted, part)
            except psycopg.Error as error:
                raise operation_error(error) from None
            return report
        await self._begin(by, request, targets)
        if request.kind == "user":  # those that were registered before the tombstone
            targets |= await self._find(request, report)
        deadline = asyncio.get_running_loop().time() + wait_seconds
        for batch_id, uploads in sorted(targets.items()):
            if why := await self._blank(by, batch_id, uploads, request, report, deadline, log):
                report.blocked.append({"batch_id": batch_id, "why": why})
        log("searching the rejected inputs")
        try:
            report.rejected_inputs, report.unsearchable_inputs = await blank_rejected(self._database, part)
        except psycopg.Error as error:
            raise operation_error(error) from None
        if request.name and request.kind in ("user", "file"):
            async with transaction(self._database) as conn:
                await progress.check_server(conn)
                report.operator_actions += await erasures.blank_operator_actions(conn, None, [], [], [request.name])
        return report

    async def export(self) -> list[NamedRow]:
        """Returns all tombstones with their keys, for a recovery of another database."""
        async with transaction(self._database) as conn:
            return await erasures.read_erasures(conn)

    async def _find(self, request: ErasureRequest, report: ErasureReport) -> dict[str, ErasedUploads]:
        """Find what to erase, by batch id."""
        async with transaction(self._database) as conn:
            await erasures.prepare_erasure(conn)
            match request.kind:
                case "user":
                    found = await erasures.find_user_batches(conn, request.name)
                    return {batch_id: ErasedUploads(whole=True) for batch_id in found}
                case "file":
                    report.matches = await erasures.find_file_uploads(conn, request.name, MOST_MATCHES + 1)
                    if len(report.matches) > MOST_MATCHES:
                        raise InvalidRequest(f"more than {MOST_MATCHES} uploads match: give more of the name")
                    return _uploads_of(report.matches)
                case "batch":
                    return {request.batch_id: ErasedUploads(whole=True)}
                case "text":
                    return {request.batch_id: ErasedUploads(False, frozenset([request.name]))}
                case "upload":
                    return {request.batch_id: ErasedUploads(False, uploads=frozenset([request.name]))}

    async def _check_reason(self, by: Operator, request: ErasureRequest, targets: dict[str, ErasedUploads]) -> None:
        """Raise InvalidRequest where the reason contains what is to be erased: it is kept."""
        names = {request.name} if request.kind in ("user", "file") else set()
        async with transaction(self._database) as conn:
            for batch_id, uploads in targets.items():
                found = await erasures.read_erasable(conn, batch_id, uploads)
                names |= found["name"] | found["user"]
        words = [word for name in names for word in (name, PurePath(name).stem) if len(word) >= SHORTEST]
        if any(contains(by.why, word) for word in words):
            raise InvalidRequest("the reason must not contain what is erased, since it is kept: give a case number")

    async def _count(
        self, request: ErasureRequest, targets: dict[str, ErasedUploads], report: ErasureReport
    ) -> list[ErasedSubject]:
        """Count what would be erased of each batch. Returns the tombstones that would be written."""
        wanted = [ErasedSubject("mention", "", request.name)] if request.kind in ("user", "file") else []
        async with transaction(self._database) as conn:
            for batch_id, uploads in sorted(targets.items()):
                with_ids, found = await find_erasable(conn, batch_id, uploads)
                wanted += tombstones(batch_id, with_ids, found["name"])
                waiting, _ = await erasures.count_unpublished(conn, [batch_id])
                counts = {"texts": len(found["text"]), "uploads": len(found["upload"]), "names": len(found["name"])}
                report.batches.append(
                    {"batch_id": batch_id, "whole": uploads.whole, **counts, "unpublished_rows": waiting}
                )
        return wanted

    async def _begin(self, by: Operator, request: ErasureRequest, targets: dict[str, ErasedUploads]) -> None:
        """Commit the tombstones. Rejected inputs and registrations that were not compared with them are committed."""
        wanted = [each for batch_id, uploads in targets.items() for each in tombstones(batch_id, uploads)]
        if request.kind in ("user", "file"):
            kind = "user" if request.kind == "user" else "name"
            wanted = [ErasedSubject(kind, "", request.name), ErasedSubject("mention", "", request.name), *wanted]
        async with transaction(self._database) as conn:
            await erasures.lock_erasures(conn, exclusive=True)
            digests = await erasures.insert_erasures(conn, wanted)
            details: dict[str, Any] = {"kind": request.kind, "digest": digests[0], "batches": len(targets)}
            if request.kind in ("text", "upload"):
                details[f"{request.kind}_id"] = request.name
            subject = Subject(request.batch_id or None, details=details)
            await operator_actions.insert_operator_actions(conn, by, ACTION, [subject])

    async def _blank(
        self,
        by: Operator,
        batch_id: str,
        uploads: ErasedUploads,
        request: ErasureRequest,
        report: ErasureReport,
        deadline: float,
        log: Callable[[str], None],
    ) -> str | None:
        """Blank one batch, once it has no event in the outbox. Returns why it could not, None where it is done."""
        clock, is_said = asyncio.get_running_loop().time, False
        while True:
            try:
                why = await self._blank_now(by, batch_id, uploads, request, report)
            except Contention:
                why = "another transaction is working on it"
            if why is None or clock() > deadline:
                return why
            if not is_said:
                log(f"batch {batch_id}: waiting, {why}")
                is_said = True
            await asyncio.sleep(0.2)

    async def _blank_now(
        self, by: Operator, batch_id: str, uploads: ErasedUploads, request: ErasureRequest, report: ErasureReport
    ) -> str | None:
        async with transaction(self._database) as conn:
            await lock_erased_batch(conn, batch_id)
            # A statement after the locks: nobody can write an event of the batch from here on.
            waiting, is_blocked = await erasures.count_unpublished(conn, [batch_id])
            if waiting:
                blocked = ", and the batch is blocked: see ops.outbox_blocked" if is_blocked else ""
                return f"its events are not published yet{blocked}"
            names = [request.name] if request.kind in ("user", "file") else []
            done = await blank(conn, batch_id, uploads, names)
            ids = (
                {}
                if uploads.whole
                else {"text_storage_ids": sorted(done.texts), "file_upload_ids": sorted(done.uploads)}
            )
            details = {"kind": request.kind, "whole": uploads.whole, "rows": done.rows, **ids}
            await operator_actions.insert_operator_actions(conn, by, ACTION, [Subject(batch_id, details=details)])
        report.batches.append({"batch_id": batch_id, "whole": uploads.whole, **ids, "rows": done.rows})
        report.operator_actions += done.rows["operator_actions"]
        return None


def _uploads_of(matches: Iterable[NamedRow]) -> dict[str, ErasedUploads]:
    texts: dict[str, set[str]] = {}
    uploads: dict[str, set[str]] = {}
    for each in matches:
        texts.setdefault(each["batch_id"], set()).update({each["text_storage_id"]} - {None})
        uploads.setdefault(each["batch_id"], set()).update({each["file_upload_id"]} - {None})
    return {
        batch_id: ErasedUploads(False, frozenset(texts[batch_id]), frozenset(uploads[batch_id])) for batch_id in texts
    }
