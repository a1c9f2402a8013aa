"""Refused inputs once more, through the code that fresh ones run.

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
from service.domain.delivery import Delivery, Limits
from service.domain.events import Refusal
from service.intake.errors import is_the_records, refusal_of
from service.intake.outcome import Effects
from service.intake.transaction import apply
from service.operators.errors import Impossible
from service.postgres.errors import is_contention
from service.postgres.pool import Database
from service.runtime.loop import Backoff
from service.store import operator_actions, quarantine
from service.store.operator_actions import Done, Operator

ATTEMPTS = 8
"""So often a replay begins anew where others are in its way."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a replay: `outcome` is a word, `error` is empty unless it was refused again."""

    id: int
    topic: str
    outcome: str
    error: str = ""

    @property
    def refused(self) -> bool:
        return bool(self.error)


class Replay:
    """Replays refused inputs for an operator."""

    def __init__(self, database: Database, by: Operator, limits: Limits, max_bytes: Mapping[str, int]) -> None:
        self._database = database
        self._by = by
        self._limits = limits
        self._max_bytes = max_bytes

    async def replay(self, id_: int) -> Replayed:
        """One input, in a transaction of its own.

        Raises Impossible where it is not there or closed, psycopg.Error where the world is in the way.
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
        if isinstance(delivery.event, Refusal):
            return await self._refuse(id_, delivery.topic, delivery.event)
        try:
            async with self._database.transaction() as conn:
                outcome = await apply(conn, [delivery], self._limits, alone=True, replaying=True)
                if not outcome.effects.refused:
                    return await self._close(conn, id_, delivery.topic, became(outcome.effects))
        except Exception as error:
            if not is_the_records(error):
                raise
            return await self._refuse(id_, delivery.topic, refusal_of(error))
        # A contradicting registration: it was judged, and changed nothing.
        return await self._refuse(id_, delivery.topic, outcome.effects.refused[0][1])

    async def _read(self, id_: int) -> Delivery:
        async with self._database.transaction() as conn:
            row = await quarantine.read_quarantined(conn, id_)
        if row is None or row["state"] != "open":
            raise Impossible(f"quarantined input {id_} is {row['state'] if row else 'not there'}")
        topic, value = row["topic"], row["value"]
        event = events.decode(topic, value, max_bytes=self._max_bytes[topic])
        return Delivery(topic, row["partition"], row["offset"], row["key"], value, (), event)

    async def _close(self, conn: AsyncConnection[Any], id_: int, topic: str, outcome: str) -> Replayed:
        closed = await quarantine.close_quarantine(conn, [id_], "replayed")
        if not closed:
            raise Impossible(f"quarantined input {id_} was closed by somebody else meanwhile")
        await self._record(conn, id_, topic, {"outcome": outcome, "reason": closed[0].reason})
        return Replayed(id_, topic, outcome)

    async def _refuse(self, id_: int, topic: str, refusal: Refusal) -> Replayed:
        async with self._database.transaction() as conn:
            if not await quarantine.refuse_again(conn, id_, refusal):
                raise Impossible(f"quarantined input {id_} was closed by somebody else meanwhile")
            await self._record(conn, id_, topic, {"outcome": "refused", "reason": refusal.reason})
        return Replayed(id_, topic, refusal.reason, refusal.error or refusal.reason)

    async def _record(self, conn: AsyncConnection[Any], id_: int, topic: str, details: dict[str, str]) -> None:
        done = Done(topic=topic, details={"id": id_, **details})
        await operator_actions.record(conn, self._by, "quarantine replay", [done])


def became(effects: Effects) -> str:
    """What one input became, in a word."""
    what = next(each.what for each in effects.decisions if each.delivery is not None)
    kind, became = what.split("_")
    if became == "repeated":
        return "repeat"
    return what.replace("_", " ") if kind == "failure" else became
