"""Reads what the console lists. The statements read the first of the rows that wait, never history.

Each function runs one statement in the caller's transaction, and raises psycopg.Error.
"""

from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection

from service.postgres.queries import NamedRow, fetch_named_rows
from service.store.quarantine import QuarantineFilter

SEARCHED: Final = 3_000
"""How many of the newest open inputs that match otherwise are searched for a text: a quarter of a second."""


RECENT: Final = 10_000
"""How many operator actions are searched for those on one rejected input: some milliseconds."""


async def list_waiting_batches(conn: AsyncConnection[Any], page: int) -> list[NamedRow]:
    """Read the batches whose content or failures have waited longest for their registration."""
    return await fetch_named_rows(conn, "list_waiting_batches", page=page)


async def list_expired_batches(conn: AsyncConnection[Any], page: int) -> list[NamedRow]:
    """Read the batches of the contents and validation failures that expired last."""
    return await fetch_named_rows(conn, "list_expired_batches", page=page)


async def list_late_batches(conn: AsyncConnection[Any], page: int) -> list[NamedRow]:
    """Read batches that are not finished; the column `kind` is `late`, `unconfirmed` or `open`."""
    return await fetch_named_rows(conn, "list_late_batches", page=page)


async def group_quarantine(conn: AsyncConnection[Any]) -> list[NamedRow]:
    """Count the open rejected inputs by topic, reason and release."""
    return await fetch_named_rows(conn, "group_quarantine")


async def list_open_quarantine(
    conn: AsyncConnection[Any],
    condition: QuarantineFilter,
    *,
    page: int,
    before: int | None,
) -> list[NamedRow]:
    """Read a page of open rejected inputs, the newest first. Give the last id as `before` for the next page.

    Parts of file names are not searched.
    """
    conditions = condition.conditions()
    del conditions["file"]
    return await fetch_named_rows(
        conn, "list_open_quarantine", **conditions, page=page, before=before, searched=SEARCHED
    )


async def list_progress(conn: AsyncConnection[Any]) -> list[NamedRow]:
    """Read how far each input partition is applied."""
    return await fetch_named_rows(conn, "list_progress")


async def list_paused_topics(conn: AsyncConnection[Any]) -> list[NamedRow]:
    """Read the input topics that are paused."""
    return await fetch_named_rows(conn, "list_paused_topics")


async def list_lost_inputs(conn: AsyncConnection[Any], page: int) -> list[NamedRow]:
    """Read the latest losses of inputs."""
    return await fetch_named_rows(conn, "list_lost_inputs", page=page)


async def list_outbox_backlog(conn: AsyncConnection[Any]) -> list[NamedRow]:
    """Read the topics for which events wait."""
    return await fetch_named_rows(conn, "list_outbox_backlog")


async def list_outbox_blocked(conn: AsyncConnection[Any], page: int) -> list[NamedRow]:
    """Read batches whose next event could not be published."""
    return await fetch_named_rows(conn, "list_outbox_blocked", page=page)


async def list_operator_actions(
    conn: AsyncConnection[Any],
    *,
    page: int,
    who: str | None = None,
    action: str | None = None,
    batch_id: str | None = None,
    topic: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
) -> list[NamedRow]:
    """Read a page of the log of operator actions, the newest first. Give the last id as `before` for the next page."""
    conditions = {"who": who, "action": action, "batch_id": batch_id, "topic": topic, "since": since, "until": until}
    return await fetch_named_rows(conn, "list_operator_actions", **conditions, before=before, page=page)


async def list_input_actions(
    conn: AsyncConnection[Any], id_: int, topic: str, since: datetime, until: datetime | None, page: int
) -> list[NamedRow]:
    """Read what operators did with a rejected input, the newest first: among the `RECENT` newest of its time."""
    return await fetch_named_rows(
        conn, "list_input_actions", id=str(id_), topic=topic, since=since, until=until, recent=RECENT, page=page
    )


async def list_pods(conn: AsyncConnection[Any]) -> list[NamedRow]:
    """Read the pods, each as it has reported itself."""
    return await fetch_named_rows(conn, "list_pods")
