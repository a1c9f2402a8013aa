"""The log of operator actions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from psycopg import AsyncConnection

from service.postgres.arrays import Texts
from service.postgres.statements import STATEMENTS


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
