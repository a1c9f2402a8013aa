"""What operators change. Every change leaves a row in the audit, in its own transaction.

The connection comes first, nothing commits: the command (or whoever acts for an operator) opens the transaction.
What waits is changed behind its batch's lock, where a registration can't come between, and after a look made
since: the lock is one statement, the look the next.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from psycopg import AsyncConnection

from service.domain.outgoing import Outgoing
from service.intake import announcement as completion
from service.intake.outcome import Limits
from service.postgres.statements import STATEMENTS, Texts
from service.store import batches as store
from service.store import pending_content as waiting
from service.store import quarantine
from service.store.pending_content import Chosen

NAMED = 100
"""So many contents an audit row names; of more it tells the number, and their `closed_at` is its `at`."""


class Undone(Exception):
    """It was not done; the message is one line that says why."""


class NotThere(Undone):
    """What it was to be done to is not there."""


class Impossible(Undone):
    """It can't be done as things stand, and nothing was changed."""


class Busy(Undone):
    """Somebody else is at work on it; nothing was changed, and it may be asked for again."""


class Wrong(Undone):
    """It may not be asked for like this."""


class Away(Undone):
    """The database does not do what it should."""


@dataclass(frozen=True, slots=True)
class Operator:
    """Who does it, and why."""

    who: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """What a change was done to."""

    batch_id: str | None = None
    topic: str | None = None
    details: Mapping[str, Any] | None = None


async def record(conn: AsyncConnection[Any], by: Operator, action: str, done: Sequence[Done]) -> None:
    """Write down what was done, a row for each."""
    await conn.execute(
        STATEMENTS["insert_operator_actions"],
        {
            "who": by.who,
            "why": by.why,
            "action": action,
            "batch_ids": Texts([each.batch_id for each in done]),
            "topics": Texts([each.topic for each in done]),
            "details": Texts([orjson.dumps(each.details or {}) for each in done]),
        },
    )


async def remove_pending(conn: AsyncConnection[Any], by: Operator, action: str, chosen: Chosen) -> int:
    """Remove what is chosen of what waits for a batch, expired content included; returns how much it was.

    Raises Impossible where the batch is registered, NotThere where a content that is named does not wait,
    psycopg.Error (55P03) where somebody has the batch in hand.
    """
    batch_id = await _unregistered(conn, chosen.batch_id)
    removed = await waiting.remove_pending_content(conn, chosen)
    _all_of(chosen.text_storage_ids, removed, f"waits for batch {batch_id}")
    if removed:
        conditions = {name: getattr(chosen, name) for name in ("contains", "older_than", "newer_than")}
        given = {name: value for name, value in conditions.items() if value is not None}
        await record(conn, by, action, [Done(batch_id, details=_contents(removed) | given)])
    return len(removed)


async def restore_pending(
    conn: AsyncConnection[Any], by: Operator, batch_id: str, text_storage_ids: Sequence[str] | None
) -> int:
    """Let expired content (None: all of the batch) wait again; returns how much it was. Raises as remove_pending."""
    await _unregistered(conn, batch_id)
    restored = await waiting.restore_pending_content(conn, batch_id, text_storage_ids)
    _all_of(text_storage_ids, restored, f"of batch {batch_id} is expired")
    if restored:
        await record(conn, by, "pending restore", [Done(batch_id, details=_contents(restored))])
    return len(restored)


async def resume_topic(conn: AsyncConnection[Any], by: Operator, topic: str) -> bool:
    """Set a stopped topic going again; False where it is not stopped."""
    resumed = await quarantine.resume_topic(conn, topic)
    if resumed:
        await record(conn, by, "quarantine resume", [Done(topic=topic)])
    return resumed


async def discard(conn: AsyncConnection[Any], by: Operator, ids: Sequence[int]) -> int:
    """Close refused inputs that are open, for good; returns how many they were."""
    discarded = await quarantine.close_quarantine(conn, ids, "discarded")
    if discarded:
        done = [Done(topic=each.topic, details={"id": each.id, "reason": each.reason}) for each in discarded]
        await record(conn, by, "quarantine discard", done)
    return len(discarded)


async def republish(conn: AsyncConnection[Any], by: Operator, batch_id: str, limits: Limits) -> list[Outgoing]:
    """Put what a complete batch had to announce into the outbox again, with its old event ids.

    Raises Impossible where the batch is not registered or not complete.
    """
    _, registered = await store.look_at_batches(conn, [batch_id])
    if not registered:
        raise Impossible(f"batch {batch_id} is not registered")
    # The deciding row is held before it is read, so that the rows stand behind all that was committed before.
    count = (await (await store.count_taken(conn, {batch_id: (0, 0)})))[batch_id]
    row = (await store.read_batches(conn, [batch_id]))[batch_id]
    if row.completed_at is None:
        taken = f"{count.assigned + count.failed} of its {count.expected} slots are taken"
        raise Impossible(f"batch {batch_id} has announced nothing yet: {taken}")
    pages = store.assigned_pages(conn, batch_id)
    announced = completion.announce(conn, row, pages, row.completed_at, max_bytes=limits.large_event_bytes)
    events = [event async for event in announced]
    await store.insert_outbox(conn, events)
    republished = {"events": [{"topic": event.topic, "event_id": event.event_id} for event in events]}
    await record(conn, by, "batches republish", [Done(batch_id, details=republished)])
    return events


async def _unregistered(conn: AsyncConnection[Any], batch_id: str | None) -> str:
    """Have the batch alone, and see that it is not registered."""
    if batch_id is None:
        raise ValueError("a change is of one batch")
    await store.lock_batch(conn, batch_id, alone=True)
    _, registered = await store.look_at_batches(conn, [batch_id])
    if registered:
        raise Impossible(f"batch {batch_id} is registered: nothing waits for it, its content has slots or is excess")
    return batch_id


def _all_of(named: Sequence[str] | None, changed: Sequence[str], such: str) -> None:
    """What is named is changed, all of it, or nothing is: a slip in one name is not passed over."""
    if missing := set(named or ()) - set(changed):
        raise NotThere(f"nothing such {such}: {min(missing)}")


def _contents(text_storage_ids: Sequence[str]) -> dict[str, Any]:
    return {"contents": len(text_storage_ids), "text_storage_ids": list(text_storage_ids[:NAMED])}
