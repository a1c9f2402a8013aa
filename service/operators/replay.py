"""Processes rejected inputs again, with the code that processes new ones.

The changes of a replay and the closing of its quarantine row commit together or not at all. An input that is rejected
again changes only the reason of its row, and stays open. The row is closed last, as the intake writes the quarantine
last: so the two cannot deadlock. If someone else closed the row in the meantime, the whole replay rolls back.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

from service.domain import incoming as events
from service.domain.delivery import Delivery, IntakeLimits
from service.domain.events import Rejection
from service.domain.input_limits import InputLimits
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
"""Number of retries of a replay that other transactions block."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The result of one replay. `outcome` is a short name; `error` is empty if the input was replayed."""

    id: int
    topic: str
    outcome: str
    error: str = ""

    @property
    def failed(self) -> bool:
        """Returns whether the input was not replayed."""
        return bool(self.error)


class Replay:
    """Replays rejected inputs for an operator."""

    def __init__(self, database: Database, by: Operator, limits: IntakeLimits, input_limits: InputLimits) -> None:
        self._database = database
        self._by = by
        self._limits = limits
        self._input_limits = input_limits

    async def replay(self, id_: int) -> Replayed:
        """Replay one input, in a transaction of its own.

        Raises Conflict if it does not exist or is closed, psycopg.Error if the database fails or stays blocked.
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
                    return await self._close(conn, id_, delivery.topic, outcome_of(outcome.effects))
        except Exception as error:
            if not is_caused_by_data(error):
                raise
            return await self._reject(id_, delivery.topic, rejection_of(error))
        # A registration that contradicts the first one was rejected, and changed nothing.
        return await self._reject(id_, delivery.topic, outcome.effects.rejected[0][1])

    async def _read(self, id_: int) -> Delivery:
        async with self._database.transaction() as conn:
            row = await quarantine.read_quarantined(conn, id_)
        if row is None or row["state"] != "open":
            raise Conflict(f"quarantined input {id_} {'is ' + row['state'] if row else 'does not exist'}")
        topic, value = row["topic"], row["value"]
        limits = self._input_limits
        event = events.decode(topic, value, max_bytes=limits.value_bytes[topic], max_values=limits.json_values)
        return Delivery(topic, row["partition"], row["offset"], row["key"], value, (), event)

    async def _close(self, conn: AsyncConnection[Any], id_: int, topic: str, outcome: str) -> Replayed:
        closed = await quarantine.close_quarantine(conn, [id_], "replayed")
        if not closed:
            raise Conflict(f"quarantined input {id_} was closed by someone else in the meantime")
        await self._record(conn, id_, topic, {"outcome": outcome, "reason": closed[0].reason})
        return Replayed(id_, topic, outcome)

    async def _reject(self, id_: int, topic: str, rejection: Rejection) -> Replayed:
        async with self._database.transaction() as conn:
            if not await quarantine.reject_again(conn, id_, rejection):
                raise Conflict(f"quarantined input {id_} was closed by someone else in the meantime")
            await self._record(conn, id_, topic, {"outcome": "rejected", "reason": rejection.reason})
        return Replayed(id_, topic, rejection.reason, rejection.error or rejection.reason)

    async def _record(self, conn: AsyncConnection[Any], id_: int, topic: str, details: dict[str, str]) -> None:
        subject = Subject(topic=topic, details={"id": id_, **details})
        await operator_actions.insert_operator_actions(conn, self._by, "quarantine replay", [subject])


def outcome_of(effects: Effects) -> str:
    """Returns the outcome of one input as a short name, such as "assigned" or "repeat"."""
    kind = next(each.kind for each in effects.records if each.delivery is not None)
    subject, outcome = kind.split("_")
    if outcome == "repeated":
        return "repeat"
    return kind.replace("_", " ") if subject == "failure" else outcome
