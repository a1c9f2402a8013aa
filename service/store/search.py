"""Finds batches and what happened to them, by any id or part of a file's name, and keeps what such a search reads.

Each function runs in the caller's transaction. Each raises psycopg.Error.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from service.postgres.arrays import Texts
from service.postgres.queries import NamedRow, fetch_named_rows, fetch_rows
from service.postgres.statements import STATEMENTS
from service.store.batches import BatchFilter

PASS_BATCHES: Final = 500
PASS_SLOTS: Final = 20_000
"""Batches, and their slots, whose rows of the search are written in one transaction: a fraction of a second."""

SEARCHED_REJECTIONS: Final = 2_000
SEARCHED_BYTES: Final = 64 * 1024
"""How many of the newest rejected inputs are searched in all their bytes, where each has no more than so many."""


NOT_IDS: Final = ("file name", "content")
"""What a text matches where it is no id."""

LEAST_PREFIX: Final = 8
"""Characters of the beginning of an id that are needed to find it: the first group of a UUID."""

FILE_ENDINGS: Final = (".docx", ".doc", ".odt", ".pdf", ".rtf", ".txt")
"""How names of files end, and no beginning of an id does."""


@dataclass(frozen=True, slots=True)
class SearchCondition:
    """What to find: an id, or a part of a file's name; at most `page` rows of each kind, within times.

    What waited is found from the time when it was stored until it reached its present state.
    """

    text: str
    page: int
    since: datetime | None = None
    until: datetime | None = None


async def find(conn: AsyncConnection[Any], condition: SearchCondition) -> list[NamedRow]:
    """Find what an id names, or a file whose name contains the text, in every state; the newest first.

    Where no id is the text, find also what has an id that begins with it.
    """
    known_until = await _prepare(conn)
    ((name,),) = await fetch_rows(conn, "fold_text", text=condition.text)
    rows = await _find(conn, condition, known_until, name)
    if may_begin(condition.text) and all(row["matched"] in NOT_IDS for row in rows):
        begin = await _find(conn, condition, known_until, None)
        same = {_found(row) for row in begin}
        rows = [row for row in rows if _found(row) not in same]
        rows += [row | {"matched": f"beginning of {row['matched']}"} for row in begin]
    dated = sorted((row for row in rows if row["at"] is not None), key=lambda row: row["at"], reverse=True)
    return (dated + [row for row in rows if row["at"] is None])[: condition.page]


def may_begin(text: str) -> bool:
    """Return whether a text may be the beginning of an id. If it rather is a name, these are not read."""
    is_name = " " in text or text.lower().endswith(FILE_ENDINGS)
    return len(text) >= LEAST_PREFIX and not is_name


def _found(row: NamedRow) -> tuple[Any, ...]:
    """Return what was found, whatever of it has matched."""
    return tuple(value for name, value in row.items() if name != "matched")


async def _find(
    conn: AsyncConnection[Any], condition: SearchCondition, known_until: datetime, name: str | None
) -> list[NamedRow]:
    """Find by the whole id or a part of a name; without a name, by the beginning of an id. In no order."""
    is_prefix = name is None
    parameters = {
        "text": condition.text,
        "correlation_id": None if is_prefix else _uuid(condition.text),
        "name": name,
        "is_prefix": is_prefix,
        "since": condition.since,
        "until": condition.until,
        "page": condition.page,
    }
    rows = await _fetch(conn, "find_waiting", **parameters)
    rows += await _fetch(conn, "find_rejected", **parameters, searched=SEARCHED_REJECTIONS, bytes=SEARCHED_BYTES)
    in_batches = {"known_until": known_until, **parameters}
    if parameters["correlation_id"] is not None:
        # It looks like an id. Where it is one, nobody looks for files of that name, and names are most of what is read.
        rows += await _fetch(conn, "find_in_batches", **in_batches | {"name": None})
    if parameters["correlation_id"] is None or all(row["matched"] in NOT_IDS for row in rows):
        rows += await _fetch(conn, "find_in_batches", **in_batches)
    return rows


async def _prepare(conn: AsyncConnection[Any]) -> datetime:
    """Prepare the transaction for a search. Returns the time up to which the rows of the search have all changes."""
    ((known_until, *_),) = await fetch_rows(conn, "prepare_search")
    return known_until  # type: ignore[no-any-return]


async def _fetch(conn: AsyncConnection[Any], statement: str, **parameters: object) -> list[NamedRow]:
    """Run a statement whose plan depends on the values of its parameters: it is planned anew each time."""
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(STATEMENTS[statement], parameters, prepare=False)
    return await cursor.fetchall()


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


async def list_batches_of(conn: AsyncConnection[Any], condition: BatchFilter, page: int) -> list[NamedRow]:
    """Read a page of the batches of a user, class or organisation, the newest first."""
    parameters = condition.conditions() | condition.of() | {"page": page, "known_until": await _prepare(conn)}
    return await _fetch(conn, "list_batches_of", **parameters)


async def read_timeline(conn: AsyncConnection[Any], batch_id: str, page: int) -> list[NamedRow]:
    """Read the newest `page` things that happened to a batch, in their order."""
    return await fetch_named_rows(conn, "read_timeline", batch_id=batch_id, page=page)


async def read_batch_facts(conn: AsyncConnection[Any], batch_id: str, page: int) -> NamedRow:
    """Read what there is of a batch beside its slots, at most `page` rows of each kind; also where it is unknown."""
    (facts,) = await fetch_named_rows(conn, "count_batch_rows", batch_id=batch_id)
    blocked = await fetch_named_rows(conn, "read_blocked_batch", batch_id=batch_id)
    return facts | {
        "blocked": blocked[0] if blocked else None,
        "confirmations": await fetch_named_rows(conn, "list_confirmations_of_batch", batch_id=batch_id, page=page),
        "rejected": await fetch_named_rows(conn, "list_rejected_of_batch", batch_id=batch_id, page=page),
        "history": await read_timeline(conn, batch_id, page),
    }


async def index_changes(conn: AsyncConnection[Any]) -> Sequence[str]:
    """Write the rows of the search for the next batches that changed. Returns them; none where the pass is done."""
    await fetch_rows(conn, "lock_search")
    ((since, after, _),) = await fetch_rows(conn, "begin_indexing")
    page = {"after": after, "most": PASS_BATCHES, "slots": PASS_SLOTS}
    if since is None:
        rows = await _fetch(conn, "find_all_batches", **page)
    else:
        rows = await _fetch(conn, "find_changed_batches", **page, since=since)
    batch_ids = [row["batch_id"] for row in rows]
    if batch_ids:
        await conn.execute(STATEMENTS["index_batches"], {"batch_ids": Texts(batch_ids)})
    await conn.execute(STATEMENTS["note_indexed"], {"after": batch_ids[-1] if batch_ids else None})
    return batch_ids


async def index_batches(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> None:
    """Write the rows of the search for batches anew, from what their tables state now (after an erasure)."""
    await fetch_rows(conn, "lock_search")
    await conn.execute(STATEMENTS["index_batches"], {"batch_ids": Texts(batch_ids)})
