"""What operators can do, once: the command line and /admin/ both speak to this.

Each look and each change is a transaction of its own. What can't be done is an Undone of service.actions, its message
one line for people: nothing was changed, or what was changed before stays and may be asked for again.
"""

import base64
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import AsyncConnection

from service.domain import topics
from service.domain.delivery import Limits
from service.domain.enveloped import Outgoing, Unpublishable
from service.operators import batches, parameters, pending
from service.operators import quarantine as quarantine_
from service.operators.errors import Away, Busy, Impossible, NotThere, Wrong
from service.operators.replay import Replay, Replayed
from service.postgres.errors import is_contention
from service.postgres.pool import Database
from service.runtime.errors import one_line
from service.store import batches as store
from service.store import pending_content as waiting
from service.store import quarantine
from service.store import slots as slots_
from service.store.operator_actions import Operator
from service.store.pending_content import Chosen, Waiting
from service.store.quarantine import Quarantined, Refused

_Row = TypeVar("_Row")
Columns = dict[str, Any]
"""A row, every column by its name."""


@dataclass(frozen=True, slots=True)
class Page(Generic[_Row]):
    """Some rows; where there may be more, `next` is what the page behind them is asked for with."""

    rows: Sequence[_Row]
    next: str | None


class Operations:
    """What operators can do with one database."""

    def __init__(self, database: Database, limits: Limits, max_bytes: Mapping[str, int]) -> None:
        self._database = database
        self._limits = limits
        self._max_bytes = max_bytes

    # -- pending

    async def list_pending(
        self, chosen: Chosen, *, page: int, state: str = "pending", after: tuple[Any, int] | None = None
    ) -> Page[Waiting]:
        """What waits, the longest waiting first."""
        async with self._transaction() as conn:
            rows = await waiting.list_pending_content(conn, chosen, page=page, state=state, after=after)
        more = parameters.written_place(rows[-1].waiting_since, rows[-1].arrival) if len(rows) == page else None
        return Page(rows, more)

    async def show_pending(self, batch_id: str, text_storage_id: str) -> Columns:
        """One content that waits, is expired or was removed."""
        async with self._transaction() as conn:
            row = await waiting.show_pending_content(conn, batch_id, text_storage_id)
            _, registered = await store.look_at_batches(conn, [batch_id])
        if row is None and registered:
            raise NotThere(
                f"batch {batch_id} is registered: nothing waits for it, see ops.slots and ops.excess_content"
            )
        if row is None:
            raise NotThere(f"there is no content {text_storage_id} that waits for batch {batch_id}")
        return row

    async def count_removable(self, chosen: Chosen) -> int:
        """How much `remove_pending` would take."""
        async with self._transaction() as conn:
            return await waiting.count_removable_content(conn, chosen)

    async def remove_pending(self, by: Operator, action: str, chosen: Chosen) -> int:
        """Take back what is chosen of what waits for a batch; returns how much it was, which is not 0."""
        async with self._transaction() as conn:
            removed = await pending.remove_pending(conn, by, action, chosen)
        if not removed:
            raise NotThere(f"nothing such waits for batch {chosen.batch_id}")
        return removed

    async def restore_pending(self, by: Operator, batch_id: str, text_storage_ids: Sequence[str] | None) -> int:
        """Let expired content wait again; returns how much it was, which is not 0."""
        async with self._transaction() as conn:
            restored = await pending.restore_pending(conn, by, batch_id, text_storage_ids)
        if not restored:
            raise NotThere(f"nothing such of batch {batch_id} is expired")
        return restored

    # -- quarantine

    async def list_quarantine(
        self, chosen: Refused, *, page: int, state: str | None, before: int | None
    ) -> Page[Quarantined]:
        """Refused inputs, the newest first."""
        async with self._transaction() as conn:
            rows = await quarantine.list_quarantine(conn, chosen, page=page, state=state, before=before)
        return Page(rows, str(rows[-1].id) if len(rows) == page else None)

    async def show_quarantined(self, id_: int, most_bytes: int | None = None) -> Columns:
        """One refused input; of its value so many bytes at most.

        Bytes are text only where they are text, else Base64 under another name.
        """
        async with self._transaction() as conn:
            row = await quarantine.read_quarantined(conn, id_)
        if row is None:
            raise NotThere(f"there is no quarantined input {id_}")
        value = row["value"]
        if value is None or most_bytes is None or len(value) <= most_bytes:
            return _readable(row)
        return _readable(row | {"value": value[:most_bytes]}) | {"value_bytes": len(value)}

    async def find_open(self, chosen: Refused, *, everything: bool, most: int | None = None) -> list[int]:
        """The open inputs that were named, or that the filters leave, the oldest first; never all by a slip."""
        if chosen == Refused(after=chosen.after) and not everything:
            raise Wrong("name inputs by their ids, choose some by topic, reason or age, or say all (--all)")
        async with self._transaction() as conn:
            ids = await quarantine.find_open_quarantine(conn, chosen, most)
        if missing := sorted(set(chosen.ids or ()) - set(ids)):
            raise NotThere(f"quarantined input {missing[0]} is not there, or not open, or not among those chosen")
        if not ids:
            raise NotThere("nothing such is open in the quarantine")
        return ids

    async def replay(self, by: Operator, ids: Iterable[int]) -> AsyncIterator[Replayed]:
        """Run refused inputs through the code that fresh ones run, each in a transaction of its own."""
        replay = Replay(self._database, by, self._limits, self._max_bytes)
        for id_ in ids:
            try:
                outcome = await replay.replay(id_)
            except Impossible as error:
                outcome = Replayed(id_, "", "closed", str(error))
            except psycopg.Error as error:
                if not is_contention(error):
                    raise _told(error) from None
                outcome = Replayed(id_, "", "busy", one_line(error))
            yield outcome

    async def discard(self, by: Operator, ids: Sequence[int]) -> int:
        """Close refused inputs for good, in one transaction; returns how many were still open."""
        async with self._transaction() as conn:
            return await quarantine_.discard(conn, by, ids)

    async def resume(self, by: Operator, topic: str) -> None:
        """Set a stopped topic going again."""
        if topic not in topics.INCOMING_TOPICS:
            raise Wrong(f"there is no topic {topic!r}; there are {', '.join(topics.INCOMING_TOPICS)}")
        async with self._transaction() as conn:
            resumed = await quarantine_.resume_topic(conn, by, topic)
        if not resumed:
            raise Impossible(f"{topic} is not stopped")

    # -- batches

    async def list_batches(self, *, page: int, **chosen: Any) -> Page[Columns]:
        """Registered batches in the order of their ids; `chosen` as batches.list_batches has it."""
        async with self._transaction() as conn:
            rows = await store.list_batches(conn, page=page, **chosen)
        return Page(rows, rows[-1]["batch_id"] if len(rows) == page else None)

    async def show_batch(self, batch_id: str, *, page: int, after: int) -> tuple[Columns, Page[Columns]]:
        """One batch, with a page of its slots."""
        async with self._transaction() as conn:
            batch = await store.show_batch(conn, batch_id)
            slots = await slots_.list_slots(conn, batch_id, page=page, after=after)
            waits = await waiting.count_removable_content(conn, Chosen(batch_id))
        if batch is None:
            raise NotThere(f"batch {batch_id} is not registered; {contents(waits)} waiting or expired")
        more = len(slots) == page and slots[-1]["position"] < batch["expected"]
        return batch, Page(slots, str(slots[-1]["position"]) if more else None)

    async def republish(self, by: Operator, batch_id: str) -> list[Outgoing]:
        """Announce a complete batch again, for who lost the event."""
        try:
            async with self._transaction() as conn:
                return await batches.republish(conn, by, batch_id, self._limits)
        except Unpublishable as error:
            raise Impossible(str(error)) from None

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection[Any]]:
        try:
            async with self._database.transaction() as conn:
                yield conn
        except psycopg.Error as error:
            raise _told(error) from None


def contents(number: int) -> str:
    """So many contents, in words."""
    return "1 content" if number == 1 else f"{number} contents"


def _told(error: psycopg.Error) -> Exception:
    if is_contention(error):
        return Busy("somebody is at work on this at the moment: nothing was changed, try again")
    if isinstance(error, psycopg.DataError):
        return Wrong(one_line(error))
    return Away(one_line(error))


def _readable(row: Columns) -> Columns:
    shown: Columns = {}
    for name, value in row.items():
        text = _text_of(value) if isinstance(value, bytes) else value
        if isinstance(value, bytes) and text is None:
            shown[f"{name}_base64"] = base64.b64encode(value).decode()
        else:
            shown[name] = text
    return shown


def _text_of(value: bytes) -> str | None:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if all(char.isprintable() or char in "\t\n\r" for char in text) else None
