"""QuarantineFilter inputs once more, through the code that fresh ones run.

What must hold: what a replay changes and the closing of its row commit together or not at all; one that fails again
changes nothing but its reason, and stays open. The row is closed last, as the intake writes the quarantine last, so
the two never wait for each other in a ring; a row that somebody closed meanwhile rolls the whole back.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

from service.domain import incoming as events
from service.domain.delivery import Delivery, IntakeLimits
from service.domain.events import Rejection
from service.intake.errors import is_caused_by_data, rejection_of
from service.intake.outcome import Effects
from service.intake.transaction import apply
from service.operators.errors import Conflict
from service.postgres.errors import is_contention
from service.postgres.pool import Database
from service.runtime.loop import Backoff
from service.store import operator_actions, quarantine
from service.store.operator_actions import Operator, Subject

ATTEMPTS = 8
"""So often a replay begins anew where others are in its way."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a replay: `outcome` is a word, `error` is empty unless it was rejected again."""

    id: int
    topic: str
    outcome: str
    error: str = ""

    @property
    def rejected(self) -> bool:
        return bool(self.error)


class Replay:
    """Replays rejected inputs for an operator."""

    def __init__(self, database: Database, by: Operator, limits: IntakeLimits, max_bytes: Mapping[str, int]) -> None:
        self._database = database
        self._by = by
        self._limits = limits
        self._max_bytes = max_bytes

    async def replay(self, id_: int) -> Replayed:
        """One input, in a transaction of its own.

        Raises Conflict where it is not there or closed, psycopg.Error where the world is in the way.
        """
        backoff = Backoff(first=0.05, longest=1.0)
        while True:
            try:
                return await self._attempt(id_)
            except Exception as error:
                if not is_contention(error) or backoff.failures >= ATTEMPTS:
                    raise
                await asyncio.sleep(backoff.pause())

    async def _attempt(self, id_: int) -> Replayed:
        delivery = await self._read(id_)
        if isinstance(delivery.event, Rejection):
            return await self._reject(id_, delivery.topic, delivery.event)
        try:
            async with self._database.transaction() as conn:
                outcome = await apply(conn, [delivery], self._limits, exclusive=True, replaying=True)
                if not outcome.effects.rejected:
                    return await self._close(conn, id_, delivery.topic, became(outcome.effects))
        except Exception as error:
            if not is_caused_by_data(error):
                raise
            return await self._reject(id_, delivery.topic, rejection_of(error))
        # A contradicting registration: it was judged, and changed nothing.
        return await self._reject(id_, delivery.topic, outcome.effects.rejected[0][1])

    async def _read(self, id_: int) -> Delivery:
        async with self._database.transaction() as conn:
            row = await quarantine.read_quarantined(conn, id_)
        if row is None or row["state"] != "open":
            raise Conflict(f"quarantined input {id_} is {row['state'] if row else 'not there'}")
        topic, value = row["topic"], row["value"]
        event = events.decode(topic, value, max_bytes=self._max_bytes[topic])
        return Delivery(topic, row["partition"], row["offset"], row["key"], value, (), event)

    async def _close(self, conn: AsyncConnection[Any], id_: int, topic: str, outcome: str) -> Replayed:
        closed = await quarantine.close_quarantine(conn, [id_], "replayed")
        if not closed:
            raise Conflict(f"quarantined input {id_} was closed by somebody else meanwhile")
        await self._record(conn, id_, topic, {"outcome": outcome, "reason": closed[0].reason})
        return Replayed(id_, topic, outcome)

    async def _reject(self, id_: int, topic: str, rejection: Rejection) -> Replayed:
        async with self._database.transaction() as conn:
            if not await quarantine.reject_again(conn, id_, rejection):
                raise Conflict(f"quarantined input {id_} was closed by somebody else meanwhile")
            await self._record(conn, id_, topic, {"outcome": "rejected", "reason": rejection.reason})
        return Replayed(id_, topic, rejection.reason, rejection.error or rejection.reason)

    async def _record(self, conn: AsyncConnection[Any], id_: int, topic: str, details: dict[str, str]) -> None:
        subject = Subject(topic=topic, details={"id": id_, **details})
        await operator_actions.insert_operator_actions(conn, self._by, "quarantine replay", [subject])


def became(effects: Effects) -> str:
    """What one input became, in a word."""
    kind = next(each.kind for each in effects.records if each.delivery is not None)
    subject, became = kind.split("_")
    if became == "repeated":
        return "repeat"
    return kind.replace("_", " ") if subject == "failure" else became
