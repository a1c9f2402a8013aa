"""Stores, lists and closes rejected inputs (a dead-letter table), and counts rejections to pause a topic.

Each function runs one statement in the caller's transaction. Each raises psycopg.Error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from service import __version__
from service.domain.admission import (
    CountRejections,
    RejectionCounter,
)
from service.domain.delivery import Delivery, fingerprint
from service.domain.events import Rejection
from service.domain.personal_data import BLANK
from service.domain.rejected_values import read_subject
from service.postgres.arrays import Blobs, Integers, Texts, Uuids
from service.postgres.pipeline import PendingResult
from service.postgres.queries import fetch_rows
from service.postgres.statements import STATEMENTS
from service.store.erasures import find_rejected


async def quarantine_inputs(
    conn: AsyncConnection[Any], rejected: Sequence[tuple[Delivery, Rejection]]
) -> list[tuple[Delivery, Rejection]]:
    """Store rejected inputs. Only raises the count of one that is stored already. Returns the new ones.

    Of those that contain an id that was erased, neither contents nor error are stored, nor is the error returned.
    """
    erased = await find_rejected(conn, [delivery for delivery, _ in rejected])
    first: dict[tuple[str, bytes], tuple[Delivery, Rejection]] = {}
    deliveries: dict[tuple[str, bytes], int] = {}
    for delivery, rejection in rejected:
        identity = (delivery.topic, fingerprint(delivery))
        kept = Rejection(rejection.reason, BLANK) if id(delivery) in erased else rejection
        first.setdefault(identity, (delivery, kept))
        deliveries[identity] = deliveries.get(identity, 0) + 1
    rows = list(first.values())
    subjects = [read_subject(delivery) for delivery, _ in rows]
    cursor = await conn.execute(
        STATEMENTS["quarantine_inputs"],
        {
            "topics": Texts([topic for topic, _ in first]),
            "fingerprints": Blobs([digest for _, digest in first]),
            "partitions": Integers([delivery.partition for delivery, _ in rows]),
            "offsets": Integers([delivery.offset for delivery, _ in rows]),
            "keys": Blobs([None if id(delivery) in erased else delivery.key for delivery, _ in rows]),
            "values": Blobs([None if id(delivery) in erased else delivery.value for delivery, _ in rows]),
            "headers": Texts([b"[]" if id(delivery) in erased else _headers(delivery) for delivery, _ in rows]),
            "erased": [id(delivery) in erased for delivery, _ in rows],
            "reasons": Texts([rejection.reason for _, rejection in rows]),
            "errors": Texts([_text(rejection.error) for _, rejection in rows]),
            "deliveries": Integers(list(deliveries.values())),
            "batch_ids": Texts([subject.batch_id for subject in subjects]),
            "original_file_names": Texts(
                [
                    None if id(delivery) in erased else subject.original_file_name
                    for (delivery, _), subject in zip(rows, subjects, strict=True)
                ]
            ),
            "correlation_ids": Uuids([subject.correlation_id for subject in subjects]),
            "release": __version__,
        },
        binary=True,
    )
    known = {(topic, digest): total async for topic, digest, total in cursor}
    return [each for identity, each in first.items() if known[identity] == deliveries[identity]]


async def send_read_topic_rejections(conn: AsyncConnection[Any]) -> PendingResult[dict[str, RejectionCounter]]:
    """Send the read of the counters of all topics that have consecutive rejections."""
    return PendingResult(
        await conn.execute(STATEMENTS["read_topic_rejections"]),
        lambda rows: {topic: RejectionCounter(count, paused, skips) for topic, count, paused, skips in rows},
    )


async def read_topic_rejections(conn: AsyncConnection[Any]) -> dict[str, RejectionCounter]:
    """The counters of all topics that have consecutive rejections."""
    return await (await send_read_topic_rejections(conn))


async def count_rejections(
    conn: AsyncConnection[Any],
    counts: Mapping[str, CountRejections],
    new_bytes: Mapping[str, int],
    limit: int,
    most_bytes: int,
) -> dict[str, bool]:
    """Change the counters of topics. One that reaches `limit`, or `most_bytes` within a day, is paused.

    Returns of each topic whether it is paused.
    """
    cursor = await conn.execute(
        STATEMENTS["count_rejections"],
        {
            "topics": Texts(list(counts)),
            "in_a_row": Integers([count.consecutive for count in counts.values()]),
            "restarted": Texts([topic for topic, count in counts.items() if count.restarted]),
            "bytes": Integers([new_bytes.get(topic, 0) for topic in counts]),
            "limit": limit,
            "most_bytes": most_bytes,
        },
    )
    return dict(await cursor.fetchall())


class QuarantinedRow(NamedTuple):
    """A rejected input with the columns that operators see in a list."""

    id: int
    state: str
    topic: str
    partition: int
    offset: int
    reason: str
    error: str
    first_seen_at: datetime
    deliveries: int
    batch_id: str | None
    original_file_name: str | None
    correlation_id: UUID | None
    release: str | None
    """The release of the service that rejected it; None of releases before 0.2.0."""


@dataclass(frozen=True, slots=True)
class QuarantineFilter:
    """Which rejected inputs to read or change. All given conditions must hold.

    Ages are seconds since the first rejection.
    """

    ids: Sequence[int] | None = None
    topic: str | None = None
    reason: str | None = None
    older_than: float | None = None
    newer_than: float | None = None
    batch_id: str | None = None
    file: str | None = None
    """A part of the file's name, in any case."""
    contains: str | None = None
    """A part of the key, the value (as it is, or with its escapes decoded) or the error, in any case."""
    release: str | None = None
    """The release that rejected it; `unknown`: one before 0.2.0."""
    after: int | None = None
    """Only ids above this one. Used only by `find_open_quarantine`."""

    def conditions(self) -> dict[str, object]:
        """Return all conditions but those on ids, by parameter name."""
        names = ("topic", "reason", "older_than", "newer_than", "batch_id", "file", "contains", "release")
        return {name: getattr(self, name) for name in names}


async def list_quarantine(
    conn: AsyncConnection[Any],
    condition: QuarantineFilter,
    *,
    page: int,
    state: str | None = None,
    before: int | None = None,
) -> list[QuarantinedRow]:
    """Read a page of rejected inputs, the newest first. Give the last id as `before` for the next page."""
    cursor = await conn.execute(
        STATEMENTS["list_quarantine"], {**condition.conditions(), "page": page, "state": state, "before": before}
    )
    return [QuarantinedRow(*row) async for row in cursor]


async def find_open_quarantine(
    conn: AsyncConnection[Any], condition: QuarantineFilter, most: int | None = None
) -> list[int]:
    """Find the ids of open rejected inputs that match the condition, the oldest first; at most `most` of them."""
    ids = None if condition.ids is None else Integers(condition.ids)
    cursor = await conn.execute(
        STATEMENTS["find_open_quarantine"],
        {**condition.conditions(), "ids": ids, "after": condition.after, "most": most},
    )
    return [id_ async for (id_,) in cursor]


class Closed(NamedTuple):
    """A rejected input that was closed. Its topic and `fingerprint` identify it in any copy of the database."""

    id: int
    topic: str
    reason: str
    fingerprint: bytes
    batch_id: str | None

    @property
    def named(self) -> dict[str, Any]:
        """Returns what names it in the log of operator actions."""
        return {"id": self.id, "reason": self.reason, "fingerprint": self.fingerprint.hex()}


async def close_quarantine(conn: AsyncConnection[Any], ids: Sequence[int], state: str) -> list[Closed]:
    """Close rejected inputs that are open, as `replayed` or `discarded`. Returns those."""
    return [Closed(*row) for row in await fetch_rows(conn, "close_quarantine", ids=Integers(ids), state=state)]


async def find_quarantined(
    conn: AsyncConnection[Any], topic: str, digest: bytes
) -> tuple[int, str, bytes | None] | None:
    """Find a rejected input by its fingerprint. Returns its id, state and edited value; None where there is none."""
    rows = await fetch_rows(conn, "find_quarantined", topic=topic, fingerprint=digest)
    return tuple(rows[0]) if rows else None


async def close_edited(conn: AsyncConnection[Any], id_: int, value: bytes) -> Closed | None:
    """Close a rejected input that is open with the value that an operator has sent in its place. None: it is closed."""
    rows = await fetch_rows(conn, "close_edited", id=id_, value=value)
    return Closed(*rows[0]) if rows else None


async def reject_again(conn: AsyncConnection[Any], id_: int, rejection: Rejection) -> bool:
    """Store the new reason of an open input whose replay was rejected. Returns False where it is closed."""
    cursor = await conn.execute(
        STATEMENTS["reject_again"],
        {"id": id_, "reason": rejection.reason, "error": _text(rejection.error), "release": __version__},
    )
    return await cursor.fetchone() is not None


async def read_quarantined(conn: AsyncConnection[Any], id_: int) -> dict[str, Any] | None:
    """Read one rejected input, each column by its name; None where there is none."""
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(STATEMENTS["read_quarantined"], {"id": id_})
    return await cursor.fetchone()


async def resume_topic(conn: AsyncConnection[Any], topic: str, *, skips: bool = False) -> bool:
    """End the pause of a topic; with `skips`, no rejection pauses it before the next valid record.

    Returns False where it is not paused.
    """
    cursor = await conn.execute(STATEMENTS["resume_topic"], {"topic": topic, "skips": skips})
    return await cursor.fetchone() is not None


def _headers(delivery: Delivery) -> bytes:
    """Encode headers as JSON. Values are any bytes; as latin-1 text each byte is one character, so none is lost.

    Except NUL, which PostgreSQL can not store as text.
    """
    pairs = [
        [_text(name), None if value is None else value.decode("latin-1").replace("\0", "\ufffd")]
        for name, value in delivery.headers
    ]
    return orjson.dumps(pairs)


def _text(text: str) -> str:
    """Replace the characters that PostgreSQL can not store as text."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
