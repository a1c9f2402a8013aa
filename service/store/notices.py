"""Reads the verdict of ops.health, and marks its notices as seen.

Each function runs the statement of its name in the caller's transaction, and raises psycopg.Error.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from service.postgres.queries import fetch_rows


class Condition(NamedTuple):
    """One line of ops.health. `level` is "action needed" or "notice"; `kind` is what `health acknowledge` takes."""

    level: str
    kind: str
    line: str


class Notice(NamedTuple):
    """A notice with a row of its own."""

    id: int
    kind: str
    detail: str


async def read_verdict(conn: AsyncConnection[Any]) -> tuple[str, Sequence[Condition]]:
    """Read the level ("action needed", "notice" or "fine") and its reasons, those that need an action first."""
    ((level, action_kinds, actions, notice_kinds, notices),) = await fetch_rows(conn, "read_verdict")
    needed = [Condition("action needed", kind, line) for kind, line in zip(action_kinds, actions, strict=True)]
    return level, needed + [Condition("notice", kind, line) for kind, line in zip(notice_kinds, notices, strict=True)]


async def acknowledge_notices(conn: AsyncConnection[Any], kind: str | None) -> Sequence[Notice]:
    """Mark notices as seen: those of a kind, or all. Returns them."""
    return [Notice(*row) for row in await fetch_rows(conn, "acknowledge_notices", kind=kind)]


async def acknowledge_expired(conn: AsyncConnection[Any]) -> tuple[datetime, int, int] | None:
    """Mark as seen what has expired so far. Returns up to when, and how many contents and failures; None: none."""
    rows = await fetch_rows(conn, "acknowledge_expired")
    return rows[0] if rows else None


async def acknowledge_late(conn: AsyncConnection[Any]) -> tuple[datetime, int] | None:
    """Mark as seen the batches that were reported as late so far. Returns up to when, and how many; None: none."""
    rows = await fetch_rows(conn, "acknowledge_late")
    return rows[0] if rows else None
