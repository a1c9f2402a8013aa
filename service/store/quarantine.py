"""Inputs that can't be processed: kept whole, counted, and the topics that bring nothing else stopped.

Statements as in store.py: the connection first, no commit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from service.domain.decisions import RefusalCount
from service.domain.delivery import Delivery, fingerprint
from service.domain.events import Refusal
from service.postgres.arrays import Blobs, Integers, Texts
from service.postgres.pipeline import Answer
from service.postgres.statements import STATEMENTS


@dataclass(frozen=True, slots=True)
class TopicRefusals:
    """How a topic stands: refusals in a row over all pods, and whether it is stopped."""

    in_a_row: int
    stopped: bool


async def keep(
    conn: AsyncConnection[Any], refused: Sequence[tuple[Delivery, Refusal]]
) -> list[tuple[Delivery, Refusal]]:
    """Quarantine inputs; one that is there already is counted. Returns those that were not."""
    first: dict[tuple[str, bytes], tuple[Delivery, Refusal]] = {}
    deliveries: dict[tuple[str, bytes], int] = {}
    for delivery, refusal in refused:
        identity = (delivery.topic, fingerprint(delivery))
        first.setdefault(identity, (delivery, refusal))
        deliveries[identity] = deliveries.get(identity, 0) + 1
    rows = list(first.values())
    cursor = await conn.execute(
        STATEMENTS["quarantine_inputs"],
        {
            "topics": Texts([topic for topic, _ in first]),
            "fingerprints": Blobs([digest for _, digest in first]),
            "partitions": Integers([delivery.partition for delivery, _ in rows]),
            "offsets": Integers([delivery.offset for delivery, _ in rows]),
            "keys": Blobs([delivery.key for delivery, _ in rows]),
            "values": Blobs([delivery.value for delivery, _ in rows]),
            "headers": Texts([_headers(delivery) for delivery, _ in rows]),
            "reasons": Texts([refusal.reason for _, refusal in rows]),
            "errors": Texts([_text(refusal.error) for _, refusal in rows]),
            "deliveries": Integers(list(deliveries.values())),
        },
        binary=True,
    )
    known = {(topic, digest): total async for topic, digest, total in cursor}
    return [each for identity, each in first.items() if known[identity] == deliveries[identity]]


async def ask_topic_refusals(conn: AsyncConnection[Any]) -> Answer[dict[str, TopicRefusals]]:
    """The topics with refusals in a row; the others have none."""
    return Answer(
        await conn.execute(STATEMENTS["read_topic_refusals"]),
        lambda rows: {topic: TopicRefusals(count, stopped) for topic, count, stopped in rows},
    )


async def read_topic_refusals(conn: AsyncConnection[Any]) -> dict[str, TopicRefusals]:
    """The same, waited for."""
    return await (await ask_topic_refusals(conn))


async def count_refusals(conn: AsyncConnection[Any], counts: Mapping[str, RefusalCount], limit: int) -> dict[str, bool]:
    """Carry the refusals in a row on; returns of each topic whether it is stopped now."""
    cursor = await conn.execute(
        STATEMENTS["count_refusals"],
        {
            "topics": Texts(list(counts)),
            "in_a_row": Integers([count.in_a_row for count in counts.values()]),
            "restarted": Texts([topic for topic, count in counts.items() if count.restarted]),
            "limit": limit,
        },
    )
    return dict(await cursor.fetchall())


class Quarantined(NamedTuple):
    """A refused input as operators see it in a list."""

    id: int
    state: str
    topic: str
    partition: int
    offset: int
    reason: str
    error: str
    first_seen_at: datetime
    deliveries: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Which refused inputs: every condition that is given must hold. Ages are seconds since the first refusal."""

    ids: Sequence[int] | None = None
    topic: str | None = None
    reason: str | None = None
    older_than: float | None = None
    newer_than: float | None = None
    after: int | None = None
    """Only what has a higher id; of what is open alone."""

    def conditions(self) -> dict[str, object]:
        """All but those of ids."""
        return {name: getattr(self, name) for name in ("topic", "reason", "older_than", "newer_than")}


async def list_quarantine(
    conn: AsyncConnection[Any],
    chosen: Refused,
    *,
    page: int,
    state: str | None = None,
    before: int | None = None,
) -> list[Quarantined]:
    """The newest refused inputs; the next page is what is `before` the last id of this one."""
    cursor = await conn.execute(
        STATEMENTS["list_quarantine"], {**chosen.conditions(), "page": page, "state": state, "before": before}
    )
    return [Quarantined(*row) async for row in cursor]


async def find_open_quarantine(conn: AsyncConnection[Any], chosen: Refused, most: int | None = None) -> list[int]:
    """The ids of what is chosen and open, the oldest first; so many at most."""
    ids = None if chosen.ids is None else Integers(chosen.ids)
    cursor = await conn.execute(
        STATEMENTS["find_open_quarantine"],
        {**chosen.conditions(), "ids": ids, "after": chosen.after, "most": most},
    )
    return [id_ async for (id_,) in cursor]


class Closed(NamedTuple):
    """A refused input that is closed now."""

    id: int
    topic: str
    reason: str


async def close_quarantine(conn: AsyncConnection[Any], ids: Sequence[int], state: str) -> list[Closed]:
    """Close those that are open, as `replayed` or `discarded`."""
    cursor = await conn.execute(STATEMENTS["close_quarantine"], {"ids": Integers(ids), "state": state})
    return [Closed(*row) async for row in cursor]


async def refuse_again(conn: AsyncConnection[Any], id_: int, refusal: Refusal) -> bool:
    """Give one that is open its new reason; False where it is closed."""
    cursor = await conn.execute(
        STATEMENTS["refuse_again"], {"id": id_, "reason": refusal.reason, "error": _text(refusal.error)}
    )
    return await cursor.fetchone() is not None


async def read_quarantined(conn: AsyncConnection[Any], id_: int) -> dict[str, Any] | None:
    """One refused input, every column by its name; None where there is none."""
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(STATEMENTS["read_quarantined"], {"id": id_})
    return await cursor.fetchone()


async def resume_topic(conn: AsyncConnection[Any], topic: str) -> bool:
    """Set a stopped topic going again; False where it is not stopped."""
    cursor = await conn.execute(STATEMENTS["resume_topic"], {"topic": topic})
    return await cursor.fetchone() is not None


def _headers(delivery: Delivery) -> bytes:
    """Header values are bytes of any kind: as latin-1 text each byte is one character, and none is lost."""
    pairs = [
        [_text(name), None if value is None else value.decode("latin-1").replace("\0", "\ufffd")]
        for name, value in delivery.headers
    ]
    return orjson.dumps(pairs)


def _text(text: str) -> str:
    """What PostgreSQL can keep as text."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
