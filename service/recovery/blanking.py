"""Blanks what is stored of batches and rejected inputs that were erased: for an operator, and after a recovery."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import orjson
from psycopg import AsyncConnection

from service.domain.events import Reason
from service.domain.personal_data import ErasedSubject, Mentions, contains
from service.postgres.pool import Database
from service.recovery.erased import blank_announcement
from service.recovery.facts import Published
from service.runtime.errors import one_line
from service.store import batches, erasures, recovery, search
from service.store.erasures import ErasedUploads

DIGEST_BYTES: Final = 32

Transaction = Callable[[], AbstractAsyncContextManager[AsyncConnection[Any]]]

_UUID: Final = re.compile("[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
"""No name, although "Ada" may be a part of it."""

NAMES_SEARCHED: Final = 1_000
"""With more file names than this, operator actions that name no batch are not searched for the names."""


@dataclass(frozen=True, slots=True)
class BlankedBatch:
    """What was blanked of a batch: rows by table, and the uploads that it concerns."""

    rows: dict[str, int]
    texts: frozenset[str]
    uploads: frozenset[str]


async def lock_erased_batch(conn: AsyncConnection[Any], batch_id: str) -> None:
    """Lock a batch, so that a transaction that writes what is erased ends before, or begins again after this one."""
    await batches.lock_batch(conn, batch_id, exclusive=True)
    await erasures.hold_erased_batch(conn, batch_id)


async def blank(
    conn: AsyncConnection[Any], batch_id: str, uploads: ErasedUploads, names: Iterable[str] = ()
) -> BlankedBatch:
    """Blank a batch, or uploads of it, that are locked; also the texts of operator actions that contain `names`.

    Writes their tombstones.
    """
    with_ids, found = await find_erasable(conn, batch_id, uploads)
    await erasures.insert_erasures(conn, tombstones(batch_id, with_ids, found["name"]))
    rows = dict(await erasures.blank_batch(conn, batch_id, with_ids))
    await search.index_batches(conn, [batch_id])
    searched = found["name"] if len(found["name"]) <= NAMES_SEARCHED else set()
    rows["operator_actions"] = await erasures.blank_operator_actions(
        conn,
        batch_id if uploads.whole else None,
        [],
        [] if uploads.whole else with_ids.texts | with_ids.uploads,
        searched | set(names),
    )
    await search.index_batches(conn, [batch_id])
    rows["incomplete_batches"] = await _blank_announcements(conn, batch_id, with_ids)
    return BlankedBatch(rows, with_ids.texts, with_ids.uploads)


async def find_erasable(
    conn: AsyncConnection[Any], batch_id: str, uploads: ErasedUploads
) -> tuple[ErasedUploads, Mapping[str, set[str]]]:
    """Find what is erased with a batch, or with uploads of it, with all their ids; and what is read of it, by kind."""
    found = await erasures.read_erasable(conn, batch_id, uploads)
    if not uploads.whole:  # each text brings its upload, and each upload its texts
        uploads = _with(uploads, found)
        found = await erasures.read_erasable(conn, batch_id, uploads)
    return _with(uploads, found), found


def _with(uploads: ErasedUploads, found: Mapping[str, set[str]]) -> ErasedUploads:
    return ErasedUploads(uploads.whole, uploads.texts | found["text"], uploads.uploads | found["upload"])


async def _blank_announcements(conn: AsyncConnection[Any], batch_id: str, uploads: ErasedUploads) -> int:
    """Blank what is kept of a batch that was announced, and whose registration is in no topic."""
    for announcements in await recovery.read_incomplete_batch(conn, batch_id):
        kept = [tuple(blank_announcement(Published(*each), uploads)) for each in announcements]
        await recovery.write_incomplete_batches(conn, {batch_id: kept})
        return 1
    return 0


async def blank_stored(transaction: Transaction) -> int:
    """Blank all stored batches that tombstones are of, in a database that is older than these. Returns how many."""
    async with transaction() as conn:
        if not await erasures.has_erasures(conn):
            return 0
        await erasures.prepare_erasure(conn)
        found = await erasures.find_stored_erased(conn)
    for batch_id, kind in found.items():
        async with transaction() as conn:
            await lock_erased_batch(conn, batch_id)
            await blank(conn, batch_id, await _erased_of(conn, batch_id, kind))
    return len(found)


async def _erased_of(conn: AsyncConnection[Any], batch_id: str, kind: str) -> ErasedUploads:
    if kind != "part":
        return ErasedUploads(whole=True)
    stored = await erasures.read_erasable(conn, batch_id, ErasedUploads(whole=True))
    asked = [ErasedSubject(of, batch_id, id_) for of in ("text", "upload") for id_ in stored[of]]
    parts = await erasures.find_erased(conn, asked)
    texts, ids = (frozenset(each.name for each in parts if each.kind == of) for of in ("text", "upload"))
    return ErasedUploads(False, texts, ids)


class Tombstone(NamedTuple):
    """A tombstone of another database. `key` is what it is made with, None where only its id is known."""

    digest: str
    kind: str
    erased_at: datetime
    key: str | None
    key_id: str | None


def tombstone_of(line: bytes) -> Tombstone:
    """Read a line of `privacy export`, or a row of ops.erasures as JSON. Raises ValueError."""
    try:
        given = orjson.loads(line)
        at = datetime.fromisoformat(given["erased_at"])
        found = Tombstone(given["digest"], given["kind"], at, given.get("key"), given.get("key_id"))
        sizes = len(bytes.fromhex(found.digest)), len(bytes.fromhex(found.key or ""))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not a line of `els privacy export`: {one_line(error)}") from None
    if sizes != (DIGEST_BYTES, DIGEST_BYTES if found.key_id is None else 0):
        raise ValueError("not a line of `els privacy export`: its digest or its key has another length")
    return found


async def import_tombstones(conn: AsyncConnection[Any], given: Sequence[Tombstone]) -> set[str]:
    """Write tombstones of another database. Returns the ids of the keys that are missing. Raises psycopg.Error."""
    keys = {each.key for each in given if each.key}
    ids = {key: await erasures.add_erasure_key(conn, bytes.fromhex(key)) for key in sorted(keys)}
    rows = [
        (each.digest, ids[each.key] if each.key else each.key_id or "", each.kind, each.erased_at) for each in given
    ]
    return set(await erasures.import_erasures(conn, rows)) if rows else set()


def tombstones(batch_id: str, uploads: ErasedUploads, names: Iterable[str] = ()) -> list[ErasedSubject]:
    """Return the tombstones of a batch, or of uploads of it, and of what identifies it in rejected inputs."""
    subjects = [ErasedSubject("batch" if uploads.whole else "part", batch_id)]
    if uploads.whole:
        subjects.append(ErasedSubject("mention", "", batch_id))
    else:
        subjects += [ErasedSubject("text", batch_id, text) for text in sorted(uploads.texts)]
        subjects += [ErasedSubject("upload", batch_id, upload) for upload in sorted(uploads.uploads)]
    subjects += [ErasedSubject("mention", "", each) for each in sorted(uploads.texts | uploads.uploads)]
    return subjects + [ErasedSubject("name", "", name) for name in sorted(names)]


async def blank_rejected(database: Database, part: str | None = None) -> tuple[int, int]:
    """Blank all rejected inputs that contain an id that was erased, or this part of a file name, in pages.

    Returns how many, and how many cannot be searched: those are bytes of a record batch, which may be compressed.
    Raises psycopg.Error.
    """
    blanked = unsearchable = after = 0
    async with database.transaction() as conn:
        # Those that were not compared with the tombstones are committed when this lock is free.
        await erasures.lock_erasures(conn, exclusive=True)
    while True:
        async with database.transaction() as conn:
            page = await erasures.read_rejected(conn, after)
            if not page:
                return blanked, unsearchable
            mentions: dict[int, Mentions] = {each.id: each.mentions for each in page}
            named = _containing(mentions, part) if part else {}
            # The names as they are there are recognised, too.
            texts = {text for each in named.values() for text in each}
            await erasures.insert_erasures(conn, [ErasedSubject("mention", "", text) for text in sorted(texts)])
            found = await erasures.find_mentioned(conn, mentions) | named.keys()
            done = await erasures.blank_quarantine(conn, [each for each in page if each.id in found])
            if done:
                await erasures.blank_operator_actions(conn, None, done, [], [])
            blanked += len(done)
            unsearchable += sum(each.reason == Reason.UNREADABLE and each.id not in found for each in page)
            after = page[-1].id


async def count_rejected(database: Database, wanted: Iterable[ErasedSubject], part: str | None = None) -> int:
    """Count the rejected inputs that `blank_rejected` would blank with these tombstones. Raises psycopg.Error."""
    subjects = {(subject.kind, unicodedata.normalize("NFC", subject.name)) for subject in wanted}
    mentioned, names = ({name for kind, name in subjects if kind == of} for of in ("mention", "name"))
    count = after = 0
    while True:
        async with database.transaction() as conn:
            page = await erasures.read_rejected(conn, after)
            found = await erasures.find_mentioned(conn, {each.id: each.mentions for each in page})
        if not page:
            return count
        for each in page:
            texts = {unicodedata.normalize("NFC", text) for text in each.mentions.texts}
            if texts & mentioned or (each.mentions.batch_id is None and texts & names):
                found.add(each.id)
        named = _containing({each.id: each.mentions for each in page}, part) if part else {}
        count += len(found | named.keys())
        after = page[-1].id


def _containing(mentions: Mapping[int, Mentions], part: str) -> dict[int, list[str]]:
    """Return the rejected inputs that contain a part of a name, each with the texts that do."""
    found = {
        id_: [text for text in each.texts if contains(text, part) and not _UUID.fullmatch(text)]
        for id_, each in mentions.items()
    }
    return {id_: texts for id_, texts in found.items() if texts}
