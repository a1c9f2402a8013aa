"""Writes the log of operator actions: a row for each, and a line of the log once its transaction is committed."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import orjson
from psycopg import AsyncConnection

from service.postgres.arrays import Texts
from service.postgres.pipeline import Connection
from service.postgres.queries import fetch_rows
from service.runtime.logging import log_many


@dataclass(frozen=True, slots=True)
class Operator:
    """Who performs an action, and why. A recovery repeats actions for those who performed them first."""

    who: str
    why: str = ""
    first_at: datetime | None = None
    """When the action was performed first; None where it is not repeated."""
    repeated_by: str = ""
    """Who repeats it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What an action changed: a batch, a topic or neither. `details` describes the change, as JSON."""

    batch_id: str | None = None
    topic: str | None = None
    details: Mapping[str, Any] | None = None


async def insert_operator_actions(
    conn: AsyncConnection[Any], by: Operator, action: str, subjects: Sequence[Subject]
) -> None:
    """Insert a row for each subject, in the caller's transaction. Raises psycopg.Error.

    A row and its line of the log (`operator_action`) contain what is needed to perform the action again.
    """
    repeats = {} if by.first_at is None else {"first_at": by.first_at, "repeated_by": by.repeated_by}
    details = [orjson.dumps({**(each.details or {}), **repeats}) for each in subjects]
    (at,), *_ = await fetch_rows(
        conn,
        "insert_operator_actions",
        who=by.who,
        why=by.why,
        action=action,
        batch_ids=Texts([each.batch_id for each in subjects]),
        topics=Texts([each.topic for each in subjects]),
        details=Texts(details),
    )
    lines = [
        {
            "batch_id": each.batch_id,
            "topic": each.topic,
            "action": action,
            "at": at,
            "who": by.who,
            "why": by.why,
            "details": orjson.loads(described),
        }
        for each, described in zip(subjects, details, strict=True)
    ]
    if isinstance(conn, Connection):  # of the pool
        conn.after_commit.append(partial(_log, lines))


async def has_operator_action(
    conn: AsyncConnection[Any],
    by: Operator,
    action: str,
    at: datetime,
    subject: Subject,
) -> bool:
    """Tell whether the log has an action that was performed first at this time, also as a repeated one.

    The details of `subject` are those that distinguish it from others of that moment. Raises psycopg.Error.
    """
    ((is_known,),) = await fetch_rows(
        conn,
        "find_operator_action",
        at=at,
        who=by.who,
        action=action,
        batch_id=subject.batch_id,
        topic=subject.topic,
        identity=orjson.dumps(subject.details).decode(),
    )
    return bool(is_known)


def _log(lines: Sequence[dict[str, Any]]) -> None:
    with suppress(OSError, ValueError):  # it is done, whether or not it can be logged
        log_many(("operator_action", line) for line in lines)
