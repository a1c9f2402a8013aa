"""Writes the log of operator actions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from psycopg import AsyncConnection

from service.postgres.arrays import Texts
from service.postgres.statements import STATEMENTS


@dataclass(frozen=True, slots=True)
class Operator:
    """Who performs an action, and why."""

    who: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """What an action changed: a batch, a topic or neither. `details` describes the change, as JSON."""

    batch_id: str | None = None
    topic: str | None = None
    details: Mapping[str, Any] | None = None


async def insert_operator_actions(
    conn: AsyncConnection[Any], by: Operator, action: str, subjects: Sequence[Subject]
) -> None:
    """Insert a row for each subject, in the caller's transaction. Raises psycopg.Error."""
    await conn.execute(
        STATEMENTS["insert_operator_actions"],
        {
            "who": by.who,
            "why": by.why,
            "action": action,
            "batch_ids": Texts([each.batch_id for each in subjects]),
            "topics": Texts([each.topic for each in subjects]),
            "details": Texts([orjson.dumps(each.details or {}) for each in subjects]),
        },
    )
