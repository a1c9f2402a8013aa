"""Writes and finds tombstones of what was erased, and blanks personal data.

Each function runs in the caller's transaction, and raises psycopg.Error. To erase something in more places, extend
`blank_batch` (rows of a batch), `blank_quarantine` or the function of the owner (`blank_operator_actions`).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from service.domain.delivery import Delivery
from service.domain.personal_data import EXAMINED_BYTES, ErasedSubject, Mentions, blanked_value, mentions_in
from service.postgres.arrays import Blobs, Integers, Texts, Times
from service.postgres.queries import NamedRow, fetch_named_rows, fetch_rows
from service.postgres.statements import STATEMENTS
from service.store.batches import ERASURES

SEARCH_PAGE_BYTES = 4 * 1024 * 1024
"""How many bytes of rejected values are read at a time."""


class ErasedUploads(NamedTuple):
    """Which uploads of a batch are erased: all, with its registration (`whole`), or these texts and uploads."""

    whole: bool
    texts: frozenset[str] = frozenset()
    uploads: frozenset[str] = frozenset()

    def columns(self) -> dict[str, object]:
        """Return the parameters of statements."""
        return {"whole": self.whole, "texts": Texts(sorted(self.texts)), "uploads": Texts(sorted(self.uploads))}


class RejectedInput(NamedTuple):
    """A rejected input that is compared with tombstones. `size` is that of its value in bytes; None: it has none."""

    id: int
    key: bytes | None
    headers: Sequence[str | None]
    first: bytes | None
    last: bytes | None
    size: int | None
    edited_value: bytes | None
    reason: str

    @property
    def mentions(self) -> Mentions:
        """The ids and names in it."""
        is_whole = self.size is None or self.size <= EXAMINED_BYTES
        headers = (value.encode("latin-1", "replace") for value in self.headers if value)  # as they are stored
        return mentions_in(self.key, self.first, None if is_whole else self.last, self.edited_value, headers=headers)


async def lock_erasures(conn: AsyncConnection[Any], *, exclusive: bool) -> None:
    """Lock out rejected inputs and registrations that are not compared with tombstones yet, or (shared) an erasure."""
    await conn.execute(STATEMENTS["lock_erasures"], {"exclusive": exclusive, "erasures": ERASURES})


async def has_erasures(conn: AsyncConnection[Any]) -> bool:
    """Say whether there are tombstones."""
    ((found,),) = await fetch_rows(conn, "has_erasures")
    return bool(found)


async def has_erasure(conn: AsyncConnection[Any], digest: str) -> bool:
    """Say whether there is a tombstone with this digest, in hexadecimal."""
    ((found,),) = await fetch_rows(conn, "has_erasure", digest=digest)
    return bool(found)


async def find_erased(conn: AsyncConnection[Any], subjects: Collection[ErasedSubject]) -> dict[ErasedSubject, str]:
    """Find which of these were erased, with the kind of the tombstone: of a batch, batch or part."""
    asked = list(subjects)
    rows = await fetch_rows(conn, "find_erased", **_columns(asked)) if asked else []
    found: dict[ErasedSubject, str] = {}
    for ordinal, kind in rows:
        subject = asked[ordinal - 1]
        found[subject] = min(kind, found.get(subject, kind))
    return found


async def find_mentioned(conn: AsyncConnection[Any], given: Mapping[int, Mentions]) -> set[int]:
    """Find which rejected inputs, by their keys, contain an id that was erased.

    The name of a file counts only where an input names no batch: many files have the same name.
    """
    subjects = {
        ErasedSubject(kind, "", text)
        for each in given.values()
        for text in each.texts
        for kind in (("mention", "name") if each.batch_id is None else ("mention",))
    }
    erased = await find_erased(conn, subjects)
    texts = {kind: {subject.name for subject in erased if subject.kind == kind} for kind in ("mention", "name")}
    return {
        key
        for key, each in given.items()
        if each.texts & texts["mention"] or (each.batch_id is None and each.texts & texts["name"])
    }


async def find_rejected(conn: AsyncConnection[Any], rejected: Iterable[Delivery]) -> set[int]:
    """Find which of these rejected records contain an id that was erased, by the ids of their objects.

    Takes the lock of erasures, shared: call it in the transaction that stores the records.
    """
    await lock_erasures(conn, exclusive=False)
    if not await has_erasures(conn):
        return set()
    mentions = {
        id(each): mentions_in(each.key, *_searched(each.value), headers=(value for _, value in each.headers if value))
        for each in rejected
    }
    return await find_mentioned(conn, mentions)


def _searched(value: bytes | None) -> tuple[bytes, ...]:
    if value is None:
        return ()
    if len(value) <= EXAMINED_BYTES:
        return (value,)
    return value[:EXAMINED_BYTES], value[-EXAMINED_BYTES:]


async def insert_erasures(conn: AsyncConnection[Any], subjects: Sequence[ErasedSubject]) -> list[str]:
    """Write tombstones. Returns their digests, in hexadecimal, in the order given."""
    return [digest for (digest,) in await fetch_rows(conn, "insert_erasures", **_columns(subjects))] if subjects else []


def _columns(subjects: Sequence[ErasedSubject]) -> dict[str, object]:
    return {
        "kinds": Texts([each.kind for each in subjects]),
        "batch_ids": Texts([each.batch_id for each in subjects]),
        "names": Texts([each.name for each in subjects]),
    }


async def hold_erased_batch(conn: AsyncConnection[Any], batch_id: str) -> bool:
    """Lock the counter row of a batch. Returns False where it is not registered."""
    return bool(await fetch_rows(conn, "hold_erased_batch", batch_id=batch_id))


async def count_unpublished(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> tuple[int, bool]:
    """Count the rows of the outbox of these batches, and say whether one of the batches is blocked."""
    (row,) = await fetch_rows(conn, "count_unpublished", batch_ids=Texts(batch_ids))
    return row  # type: ignore[no-any-return]


async def read_erasable(conn: AsyncConnection[Any], batch_id: str, uploads: ErasedUploads) -> dict[str, set[str]]:
    """Read the file names, texts, uploads and user of what is erased: by name, text, upload and user."""
    found: dict[str, set[str]] = {"name": set(), "text": set(), "upload": set(), "user": set()}
    for kind, value in await fetch_rows(conn, "read_erasable", batch_id=batch_id, **uploads.columns()):
        found[kind].add(value)
    return found


async def blank_batch(conn: AsyncConnection[Any], batch_id: str, uploads: ErasedUploads) -> dict[str, int]:
    """Blank the personal data of a batch. Returns how many rows of each table changed."""
    (counts,) = await fetch_named_rows(conn, "blank_batch", batch_id=batch_id, **uploads.columns())
    return counts


async def blank_operator_actions(
    conn: AsyncConnection[Any], batch_id: str | None, inputs: Iterable[int], ids: Iterable[str], names: Iterable[str]
) -> int:
    """Blank the texts of operator actions: of a batch, on these rejected inputs, with these ids or names. Returns how
    many.
    """
    ((count,),) = await fetch_rows(
        conn,
        "blank_operator_actions",
        batch_id=batch_id,
        inputs=Texts([str(each) for each in inputs]),
        ids=Texts(sorted(ids)),
        names=Texts(sorted(names)),
    )
    return int(count)


async def read_rejected(conn: AsyncConnection[Any], after: int) -> list[RejectedInput]:
    """Read a page of rejected inputs that are not erased, above an id."""
    rows = await fetch_rows(conn, "read_rejected", after=after, most=EXAMINED_BYTES, bytes=SEARCH_PAGE_BYTES)
    return [RejectedInput(*row) for row in rows]


async def blank_quarantine(conn: AsyncConnection[Any], rejected: Sequence[RejectedInput]) -> list[int]:
    """Blank rejected inputs. Returns the ids of those that were not blank."""
    edited = [each.edited_value and blanked_value(each.edited_value) for each in rejected]
    parameters = {"ids": Integers([each.id for each in rejected]), "edited_values": Blobs(edited)}
    return [id_ for (id_,) in await fetch_rows(conn, "blank_quarantine", **parameters)] if rejected else []


async def prepare_erasure(conn: AsyncConnection[Any]) -> None:
    """Let statements of this transaction read whole tables."""
    await conn.execute(STATEMENTS["prepare_erasure"])


async def find_user_batches(conn: AsyncConnection[Any], user_id: str) -> list[str]:
    """Find the batches of a user."""
    return [batch_id for (batch_id,) in await fetch_rows(conn, "find_user_batches", user_id=user_id)]


async def find_file_uploads(conn: AsyncConnection[Any], name: str, most: int) -> list[NamedRow]:
    """Find the uploads whose file names contain a text, at most so many."""
    return await fetch_named_rows(conn, "find_file_uploads", part=name, most=most)


async def find_stored_erased(conn: AsyncConnection[Any]) -> dict[str, str]:
    """Find the stored batches that a tombstone is of: by batch id, its kind (batch, part, user)."""
    found: dict[str, str] = {}
    for batch_id, kind in await fetch_rows(conn, "find_stored_erased"):
        found[batch_id] = kind if found.get(batch_id, "part") == "part" else found[batch_id]
    return found


async def read_erasures(conn: AsyncConnection[Any]) -> list[NamedRow]:
    """Read all tombstones, with their keys: digest, kind, erased_at, key."""
    return await fetch_named_rows(conn, "read_erasures")


async def add_erasure_key(conn: AsyncConnection[Any], key: bytes) -> str:
    """Add a key of another database. Returns its id."""
    ((key_id,),) = await fetch_rows(conn, "add_erasure_key", key=key)
    return str(key_id)


async def import_erasures(conn: AsyncConnection[Any], rows: Sequence[tuple[str, str, str, datetime]]) -> list[str]:
    """Write tombstones: (digest in hexadecimal, id of its key, kind, time). Returns the ids of missing keys."""
    digests, key_ids, kinds, times = zip(*rows, strict=True)
    parameters = {"digests": Texts(digests), "key_ids": Texts(key_ids), "kinds": Texts(kinds), "times": Times(times)}
    return [key_id for (key_id,) in await fetch_rows(conn, "import_erasures", **parameters)]
