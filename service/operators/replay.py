"""Processes rejected inputs again, or what an operator sends in their place, with the code that processes new ones.

The changes of a replay and the closing of its quarantine row commit together or not at all. An input that is rejected
again changes only the reason of its row, and stays open; an edited value that is rejected changes nothing. The row is
closed last, as the intake writes the quarantine last: so the two cannot deadlock. If someone else closed the row in the
meantime, the whole replay rolls back.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from psycopg import AsyncConnection

from service.domain import incoming as events
from service.domain.delivery import Delivery, IntakeLimits
from service.domain.events import Rejection
from service.domain.input_limits import InputLimits
from service.domain.personal_data import blanked_value
from service.intake.errors import is_caused_by_data, rejection_of
from service.intake.outcome import Effects
from service.intake.transaction import apply
from service.operators.errors import Conflict
from service.postgres.errors import is_contention
from service.postgres.pool import Database
from service.runtime.loop import Backoff
from service.store import erasures, operator_actions, quarantine
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


HandOver = Callable[[Database, dict[str, Any], bytes | None], Awaitable[Replayed]]


class Replay:
    """Replays rejected inputs for an operator."""

    def __init__(
        self,
        database: Database,
        by: Operator,
        limits: IntakeLimits,
        input_limits: InputLimits,
        other_cell: Callable[[str], Database] | None = None,
        hand_over: HandOver | None = None,
    ) -> None:
        """`hand_over` replays the input of a row, or an edited value, in the database that `other_cell` has opened."""
        self._other_cell = other_cell
        self._hand_over = hand_over
        self._database = database
        self._by = by
        self._limits = limits
        self._input_limits = input_limits

    async def replay(self, id_: int) -> Replayed:
        """Replay one input, in a transaction of its own.

        Raises Conflict if it does not exist or is closed, psycopg.Error if the database fails or stays blocked.
        """
        return await self._until_free(lambda: self._attempt(id_))

    async def edit(self, id_: int, value: bytes, *, dry_run: bool = False) -> Replayed:
        """Process this value in place of that of the input, with its key, in a transaction of its own.

        With `dry_run`, the transaction is rolled back. Raises like `replay`.
        """
        return await self._until_free(lambda: self._attempt(id_, value, dry_run=dry_run))

    async def _until_free(self, attempt: Callable[[], Awaitable[Replayed]]) -> Replayed:
        backoff = Backoff(first=0.05, longest=1.0)
        while True:
            try:
                return await attempt()
            except Exception as error:
                if not is_contention(error) or backoff.failures >= ATTEMPTS:
                    raise
                await asyncio.sleep(backoff.pause())

    async def _attempt(self, id_: int, edited: bytes | None = None, *, dry_run: bool = False) -> Replayed:
        delivery = await self._read(id_, edited)
        if isinstance(delivery.event, Rejection):
            return await self._reject(id_, delivery.topic, delivery.event, edited)
        if not self._database.slice.holds(delivery.event.batch_id):
            return await self._elsewhere(id_, delivery, edited, dry_run=dry_run)
        try:
            async with self._database.transaction() as conn:
                outcome = await apply(conn, [delivery], self._limits, exclusive=True, replaying=True)
                if dry_run:
                    await conn.rollback()
                if not outcome.effects.rejected:
                    done = Replayed(id_, delivery.topic, outcome_of(outcome.effects))
                    return done if dry_run else await self._close(conn, done, edited, delivery)
        except Exception as error:
            if not is_caused_by_data(error):
                raise
            return await self._reject(id_, delivery.topic, rejection_of(error), edited)
        # A registration that contradicts the first one was rejected, and changed nothing.
        return await self._reject(id_, delivery.topic, outcome.effects.rejected[0][1], edited)

    async def _elsewhere(self, id_: int, delivery: Delivery, edited: bytes | None, *, dry_run: bool) -> Replayed:
        """Replay an input in the cell that its batch belongs to, then close it here."""
        batch_id = delivery.event.batch_id  # type: ignore[union-attr]
        if self._other_cell is None or self._hand_over is None:
            owner = self._database.slice.owner(batch_id)
            error = f"its batch belongs to {owner}: set ELS_CELL_DATABASE_URLS to replay it there"
            return Replayed(id_, delivery.topic, "other_cell", error)
        other = self._other_cell(batch_id)
        cell = other.slice.cell
        if dry_run:
            return Replayed(id_, delivery.topic, f"replayed in cell {cell}")
        async with self._database.transaction() as conn:
            row = await quarantine.read_quarantined(conn, id_)
        there = await self._hand_over(other, row or {}, edited)
        if there.failed:
            return Replayed(id_, delivery.topic, there.outcome, f"in cell {cell}: {there.error}")
        done = Replayed(id_, delivery.topic, there.outcome)
        async with self._database.transaction() as conn:
            return await self._close(conn, done, edited, delivery, {"cell": cell, "id_in_cell": there.id})

    async def _read(self, id_: int, edited: bytes | None) -> Delivery:
        async with self._database.transaction() as conn:
            row = await quarantine.read_quarantined(conn, id_)
        if row is None or row["state"] != "open":
            raise Conflict(f"quarantined input {id_} {'is ' + row['state'] if row else 'does not exist'}")
        if row["erased_at"]:
            raise Conflict(f"quarantined input {id_} was erased: its value is not kept; discard it")
        topic, value = row["topic"], row["value"] if edited is None else edited
        limits = self._input_limits
        event = events.decode(topic, value, max_bytes=limits.value_bytes[topic], max_values=limits.json_values)
        return Delivery(topic, row["partition"], row["offset"], row["key"], value, (), event)

    async def _close(
        self,
        conn: AsyncConnection[Any],
        done: Replayed,
        edited: bytes | None,
        delivery: Delivery,
        more: Mapping[str, int] = MappingProxyType({}),
    ) -> Replayed:
        if edited is None:
            action, closed = "quarantine replay", await quarantine.close_quarantine(conn, [done.id], "replayed")
            details: dict[str, Any] = {"outcome": done.outcome}
        else:
            if await erasures.find_rejected(conn, [delivery]):
                edited = blanked_value(edited) or b""
            row = await quarantine.close_edited(conn, done.id, edited)
            action, closed = "quarantine edit", [row] if row else []
            details = {"outcome": done.outcome, "value": edited.decode()}  # JSON, since it was decoded
        if not closed:
            raise Conflict(f"quarantined input {done.id} was closed by someone else in the meantime")
        batch_id = None if edited is None or isinstance(delivery.event, Rejection) else delivery.event.batch_id
        subject = Subject(batch_id, done.topic, closed[0].named | details | dict(more))
        await operator_actions.insert_operator_actions(conn, self._by, action, [subject])
        return done

    async def _reject(self, id_: int, topic: str, rejection: Rejection, edited: bytes | None) -> Replayed:
        if edited is None:
            async with self._database.transaction() as conn:
                if not await quarantine.reject_again(conn, id_, rejection):
                    raise Conflict(f"quarantined input {id_} was closed by someone else in the meantime")
                details = {"id": id_, "outcome": "rejected", "reason": rejection.reason}
                subject = Subject(topic=topic, details=details)
                await operator_actions.insert_operator_actions(conn, self._by, "quarantine replay", [subject])
        return Replayed(id_, topic, rejection.reason, rejection.error or rejection.reason)


def outcome_of(effects: Effects) -> str:
    """Returns the outcome of one input as a short name, such as "assigned" or "repeat"."""
    kind = next(each.kind for each in effects.records if each.delivery is not None)
    subject, outcome = kind.split("_")
    if outcome == "repeated":
        return "repeat"
    return kind.replace("_", " ") if subject == "failure" else outcome
