"""From deliveries to committed transactions: whatever happens on the way, each one ends applied, recognised or refused.

Three kinds of trouble are told apart by SQLSTATE. What a record *says* (data that PostgreSQL or an event can't
hold) is isolated by halving, in new transactions, and quarantined. What somebody *holds* is set aside. All else
is the world's trouble: roll back, back off, again, for as long as it takes.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import structlog
from psycopg.errors import DeadlockDetected, LockNotAvailable

from service.domain.delivery import Delivery, Limits, contexts
from service.domain.events import Refusal
from service.intake.errors import is_the_records, refusal_of
from service.intake.outcome import Effects, Outcome
from service.intake.transaction import apply
from service.postgres.errors import is_contention
from service.postgres.pool import Database
from service.runtime import metrics as telemetry
from service.runtime import tracing
from service.runtime.errors import one_line
from service.runtime.health import Health
from service.runtime.loop import Backoff
from service.store import batches as store

_log = structlog.get_logger(__name__)

_Step = Callable[[Sequence[Delivery], frozenset[str]], Awaitable[Outcome]]

ALONE_AT_ONCE = 3
"""Batches that wait for others side by side, each with a session of the pool."""


class Intake:
    """Applies deliveries; tells `committed` of the effects of each transaction once it is."""

    def __init__(
        self, database: Database, limits: Limits, health: Health, committed: Callable[[Effects], Awaitable[None]]
    ) -> None:
        self._database = database
        self._limits = limits
        self._health = health
        self._committed = committed
        self._alone_at_once = asyncio.Semaphore(ALONE_AT_ONCE)

    async def take(
        self, deliveries: Sequence[Delivery], *, probing: bool = False, waiting: frozenset[str] = frozenset()
    ) -> Outcome:
        """Apply a poll. What comes back `aside` needs what others hold: give it to `take_alone`.

        What is for batches that are `waiting` there already comes back as well. Returns when all the rest is
        committed, however long the database is away; only cancellation ends it.
        """
        outcome = await self._until_it_works(lambda: self._poll(deliveries, waiting, probing=probing))
        while outcome.again:
            rest = await self.take(outcome.again, waiting=waiting)
            outcome.again = []
            # What is left there was admitted before its topic stopped.
            outcome.aside += rest.aside + rest.left
            outcome.stopped = rest.stopped
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
            outcome = await self._until_it_works(partial(self._in_turn, waiting.popleft()))
            if outcome.aside:
                waiting.append(outcome.aside)

    async def _poll(self, deliveries: Sequence[Delivery], waiting: frozenset[str], *, probing: bool = False) -> Outcome:
        try:
            return await self._transaction(deliveries, waiting=waiting, probing=probing)
        except Exception as error:
            if is_the_records(error):
                return await self._isolate(deliveries, error, self._poll, waiting)
            if isinstance(error, LockNotAvailable | DeadlockDetected):
                held = await self._held(deliveries, waiting, error)
                return await self._poll(deliveries, waiting | held, probing=probing)
            raise

    async def _in_turn(self, deliveries: Sequence[Delivery]) -> Outcome:
        """A try has a place among those at once; the pause before the next has none."""
        async with self._alone_at_once:
            return await self._alone(deliveries)

    async def _alone(self, deliveries: Sequence[Delivery], waiting: frozenset[str] = frozenset()) -> Outcome:
        try:
            return await self._transaction(deliveries, alone=True, waiting=waiting)
        except Exception as error:
            if is_the_records(error):
                return await self._isolate(deliveries, error, self._alone, waiting)
            if isinstance(error, LockNotAvailable):
                return Outcome(Effects(), aside=list(deliveries))
            raise

    async def _transaction(
        self,
        deliveries: Sequence[Delivery],
        *,
        alone: bool = False,
        probing: bool = False,
        waiting: frozenset[str] = frozenset(),
    ) -> Outcome:
        with telemetry.TRANSACTION.labels("alone" if alone else "poll").time(), tracing.step("apply") as step:
            step.about(len(deliveries), contexts(deliveries))
            async with self._database.transaction(pipelined=True) as conn:
                outcome = await apply(conn, deliveries, self._limits, alone=alone, probing=probing, waiting=waiting)
            step.about(0, outcome.effects.waited)
        # It is committed: whatever fails from here on (a full disk for the log) is no reason to do it again.
        with suppress(Exception):
            await self._committed(outcome.effects)
        return outcome

    async def _isolate(
        self, deliveries: Sequence[Delivery], error: Exception, step: _Step, waiting: frozenset[str]
    ) -> Outcome:
        """Halve until the record that does it is alone, and refuse it. Order is kept: first half first."""
        if len(deliveries) == 1:
            return await step([replace(deliveries[0], event=refusal_of(error))], waiting)
        half = len(deliveries) // 2
        first = await self._until_it_works(lambda: step(deliveries[:half], waiting))
        # What of the first half is not applied yet, the second half's for the same batches must not overtake.
        first.aside += first.again
        behind = waiting | _batch_ids(first.aside)
        second = await self._until_it_works(lambda: step(deliveries[half:], behind))
        return replace(second, aside=first.aside + second.aside, left=first.left + second.left)

    async def _held(self, deliveries: Sequence[Delivery], waiting: frozenset[str], error: Exception) -> frozenset[str]:
        """The batches that somebody holds; all where no row shows which. Raises the error where there is none."""
        batch_ids = _batch_ids(deliveries) - waiting
        if not batch_ids:  # only the quarantine is left that somebody can hold
            raise error
        async with self._database.transaction() as conn:
            held = frozenset(await store.find_held_batches(conn, sorted(batch_ids)) or batch_ids)
        _log.info("batches_set_aside", batches=len(held), error=type(error).__name__)
        return held

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


def _batch_ids(deliveries: Sequence[Delivery]) -> frozenset[str]:
    return frozenset(each.event.batch_id for each in deliveries if not isinstance(each.event, Refusal))
