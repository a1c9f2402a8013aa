"""From deliveries to committed transactions: whatever happens on the way, each one ends applied, recognised or refused.

Three kinds of trouble are told apart by SQLSTATE. What a record *says* (data that PostgreSQL or an event can't
hold) is isolated by halving, in new transactions, and quarantined. What somebody *holds* is set aside. All else
is the world's trouble: roll back, back off, again, for as long as it takes.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import orjson
import psycopg
import structlog
from psycopg.errors import DeadlockDetected, LockNotAvailable

from service import store, telemetry
from service.apply import apply
from service.database import Database, sqlstate_of
from service.events import Reason, Refusal
from service.health import Health, one_line
from service.loop import Backoff
from service.outgoing import Unpublishable
from service.poll import Delivery, Effects, Limits, Outcome, split

_log = structlog.get_logger(__name__)

ALONE_AT_ONCE = 3
"""Batches that wait for others side by side, each with a session of the pool."""


class Intake:
    """Applies deliveries; tells `committed` of the effects of each transaction once it is."""

    def __init__(
        self, database: Database, limits: Limits, health: Health, committed: Callable[[Effects], None]
    ) -> None:
        self._database = database
        self._limits = limits
        self._health = health
        self._committed = committed
        self._alone_at_once = asyncio.Semaphore(ALONE_AT_ONCE)

    async def take(self, deliveries: Sequence[Delivery], *, probing: bool = False) -> Outcome:
        """Apply a poll. What comes back `aside` needs what others hold: give it to `take_alone`.

        Returns when all the rest is committed, however long the database is away; only cancellation ends it.
        """
        outcome = await self._until_it_works(lambda: self._poll(deliveries, probing))
        while outcome.again:
            rest = await self.take(outcome.again)
            outcome.again = []
            outcome.aside += rest.aside
            outcome.stopped = rest.stopped
            # These were admitted before their topic stopped.
            await self.take_alone(rest.left)
        return outcome

    async def take_alone(self, deliveries: Sequence[Delivery]) -> None:
        """Apply what was set aside, each batch in a transaction of its own that waits for what it needs.

        One that waited in vain lets the others go first: it may be the only one that somebody holds.
        """
        batches: dict[str, list[Delivery]] = {}
        for delivery in deliveries:
            batches.setdefault(delivery.event.batch_id, []).append(delivery)  # type: ignore[union-attr]
        waiting = deque(batches.values())
        while waiting:
            async with self._alone_at_once:
                outcome = await self._until_it_works(partial(self._alone, waiting.popleft()))
            if outcome.aside:
                waiting.append(outcome.aside)

    async def _poll(self, deliveries: Sequence[Delivery], probing: bool) -> Outcome:
        try:
            return await self._transaction(deliveries, probing=probing)
        except Exception as error:
            if is_the_records(error):
                return await self._isolate(deliveries, error)
            if isinstance(error, LockNotAvailable | DeadlockDetected):
                return await self._without_held(deliveries, error)
            raise

    async def _alone(self, deliveries: Sequence[Delivery]) -> Outcome:
        try:
            return await self._transaction(deliveries, alone=True)
        except Exception as error:
            if is_the_records(error):
                return await self._isolate(deliveries, error, alone=True)
            if isinstance(error, LockNotAvailable):
                return Outcome(Effects(), aside=list(deliveries))
            raise

    async def _transaction(
        self, deliveries: Sequence[Delivery], *, alone: bool = False, probing: bool = False
    ) -> Outcome:
        with telemetry.TRANSACTION.labels("alone" if alone else "poll").time():
            async with self._database.transaction() as conn:
                outcome = await apply(conn, deliveries, self._limits, alone=alone, probing=probing)
        # It is committed: whatever fails from here on (a full disk for the log) is no reason to do it again.
        with suppress(Exception):
            self._committed(outcome.effects)
        return outcome

    async def _isolate(self, deliveries: Sequence[Delivery], error: Exception, *, alone: bool = False) -> Outcome:
        """Halve until the record that does it is alone, and refuse it. Order is kept: first half first."""
        if len(deliveries) == 1:
            return await self._transaction([replace(deliveries[0], event=refusal_of(error))], alone=alone)
        half = len(deliveries) // 2
        step = self._alone if alone else lambda some: self._poll(some, False)
        first = await self._until_it_works(lambda: step(deliveries[:half]))
        second = await self._until_it_works(lambda: step(deliveries[half:]))
        return _both(first, second)

    async def _without_held(self, deliveries: Sequence[Delivery], error: Exception) -> Outcome:
        """Find the batches that somebody holds, set them aside, and apply the rest."""
        batch_ids = {each.event.batch_id for each in deliveries if not isinstance(each.event, Refusal)}
        if not batch_ids:  # only the quarantine is left that somebody can hold
            raise error
        async with self._database.transaction() as conn:
            held = await store.find_held_batches(conn, sorted(batch_ids))
        # Nobody holds one any more, or not by a row that shows it: then each batch goes alone.
        aside, rest = split(deliveries, held or batch_ids)
        _log.info("batches_set_aside", batches=len(held or batch_ids), error=type(error).__name__)
        outcome = await self._poll(rest, False)
        outcome.aside += aside
        return outcome

    async def _until_it_works(self, step: Callable[[], Awaitable[Outcome]]) -> Outcome:
        backoff = Backoff(first=0.05, longest=5.0)
        while True:
            try:
                outcome = await step()
            except Exception as error:  # noqa: BLE001  the world's trouble, whatever its name
                if not is_contention(error):
                    self._health.trouble("transactions", one_line(error))
                if backoff.failures in (3, 10) or backoff.failures % 100 == 99:
                    _log.warning("transaction_failed", error=one_line(error), failures=backoff.failures)
                await asyncio.sleep(backoff.pause())
            else:
                self._health.well("transactions")
                return outcome


def is_the_records(error: BaseException) -> bool:
    """Whether an error is about what a record says, and not about the world or the concurrency around it."""
    if isinstance(error, Unpublishable | UnicodeEncodeError | OverflowError | struct.error | orjson.JSONEncodeError):
        return True
    state = sqlstate_of(error)
    if state is None:
        return isinstance(error, psycopg.DataError)
    return state.startswith("22") or state in ("23502", "23514", "54001")


def is_contention(error: BaseException) -> bool:
    """Whether an error is about what other transactions do: the database is well, and this one goes again."""
    state = sqlstate_of(error) or ""
    return state.startswith("40") or state in ("23505", "55P03")


def refusal_of(error: Exception) -> Refusal:
    """What an error that `is_the_records` says about its record."""
    reason = Reason.UNPUBLISHABLE if isinstance(error, Unpublishable) else Reason.DATA_ERROR
    return Refusal(reason, one_line(error))


def _both(first: Outcome, second: Outcome) -> Outcome:
    return Outcome(
        second.effects,
        first.aside + second.aside,
        first.again + second.again,
        first.left + second.left,
        second.stopped,
    )
