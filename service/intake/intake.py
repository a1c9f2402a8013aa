"""Applies polls in transactions: each delivery ends applied, recognised as a repeat, or in quarantine.

Errors are of three kinds, distinguished by SQLSTATE. A record with data that PostgreSQL or an event cannot hold is
isolated by bisection, in new transactions, and quarantined. Records of batches that another transaction holds are
deferred. Every other error is one of the environment: roll back, back off and retry, however long it lasts.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, Protocol

import structlog
from psycopg import AsyncConnection
from psycopg.errors import DeadlockDetected, LockNotAvailable

from service.domain.delivery import Delivery, IntakeLimits
from service.domain.events import Rejection
from service.intake.attempts import Attempts
from service.intake.errors import is_caused_by_data, rejection_of
from service.intake.outcome import Effects, Outcome
from service.intake.transaction import apply
from service.postgres.errors import is_contention, is_refusal
from service.postgres.pool import Transactions
from service.runtime import metrics, tracing
from service.runtime.errors import one_line
from service.runtime.health import Health
from service.runtime.loop import Backoff
from service.store import batches

_log = structlog.get_logger(__name__)


EXCLUSIVE_AT_ONCE = 3
"""How many exclusive transactions run at the same time, each with a session of the pool."""


NAMED_BATCHES = 100
"""How many deferred batches a line of the log names."""


class ProgressWriter(Protocol):
    """Writes how far the input topics are applied, in the transaction that applies their records."""

    async def write(
        self, conn: AsyncConnection[Any], deliveries: Iterable[Delivery], left: Iterable[Delivery]
    ) -> Callable[[], None]:
        """Write that the deliveries are dealt with, except those that are left. The result is called after the commit.

        It is the last statement of the transaction. It fails where this database must not be written.
        """
        ...


@dataclass(frozen=True, slots=True)
class _How:
    """How to apply deliveries."""

    progress: ProgressWriter | None
    """None: neither writes progress nor is checked against it."""
    spans: tracing.Processing
    deferred: frozenset[str] = frozenset()
    """Batches that have deferred deliveries already."""
    probing: bool = False
    exclusive: bool = False

    def behind(self, deferred: frozenset[str]) -> "_How":
        """Also defer the deliveries of these batches."""
        return replace(self, deferred=self.deferred | deferred)


_IntakeStep = Callable[[Sequence[Delivery], _How], Awaitable[Outcome]]


class Intake:
    """Applies deliveries, and reports the effects of each transaction to `committed` after its commit."""

    def __init__(
        self,
        database: Transactions,
        limits: IntakeLimits,
        health: Health,
        committed: Callable[[Effects], Awaitable[None]],
    ) -> None:
        self._database = database
        self._limits = limits
        self._attempts = Attempts(database, health)
        self._committed = committed
        self._exclusive_at_once = asyncio.Semaphore(EXCLUSIVE_AT_ONCE)

    async def take(
        self,
        deliveries: Sequence[Delivery],
        progress: ProgressWriter | None = None,
        *,
        probing: bool = False,
        deferred: frozenset[str] = frozenset(),
    ) -> Outcome:
        """Apply a poll. Pass the deliveries that the outcome names as `deferred` to `take_exclusive`.

        The argument `deferred` names the batches that have deferred deliveries already: theirs are deferred as well.
        Returns when all others are committed, however long the database is unavailable. Only cancellation ends it, and
        a refusal to write, of `progress` or of the database, which is raised (`is_refusal`).
        """
        with tracing.process(deliveries) as spans:
            return await self._take(deliveries, _How(progress, spans, deferred, probing))

    async def _take(self, deliveries: Sequence[Delivery], how: _How) -> Outcome:
        outcome = await self._retry(lambda: self._poll(deliveries, how))
        while outcome.next_transaction:
            rest = await self._take(outcome.next_transaction, replace(how, probing=False))
            outcome.next_transaction = []
            # Those not admitted there were admitted here, before their topic paused.
            outcome.deferred += rest.deferred + rest.not_admitted
            outcome.paused = rest.paused
        return outcome

    async def take_exclusive(self, deliveries: Sequence[Delivery], progress: ProgressWriter | None = None) -> None:
        """Apply deferred deliveries, each batch in an exclusive transaction that waits for the locks that it needs.

        A batch whose locks were not released in time goes behind the others, which may not have to wait. Raises like
        `take`.
        """
        by_batch: dict[str, list[Delivery]] = {}
        for delivery in deliveries:
            by_batch.setdefault(delivery.event.batch_id, []).append(delivery)  # type: ignore[union-attr]
        waiting = deque(by_batch.values())
        with tracing.process(deliveries) as spans, self._attempts.attempt(is_of_some_batches=True) as attempt:
            how = _How(progress, spans, exclusive=True)
            while waiting:
                outcome = await self._retry(partial(self._take_turn, waiting.popleft(), how))
                if outcome.deferred:
                    waiting.append(outcome.deferred)
                    await attempt.locked()
                else:
                    attempt.succeeded()

    async def _poll(self, deliveries: Sequence[Delivery], how: _How) -> Outcome:
        try:
            return await self._transaction(deliveries, how)
        except Exception as error:
            if is_caused_by_data(error):
                return await self._isolate(deliveries, error, self._poll, how)
            if isinstance(error, LockNotAvailable | DeadlockDetected):
                return await self._poll(deliveries, how.behind(await self._held(deliveries, how.deferred, error)))
            raise

    async def _take_turn(self, deliveries: Sequence[Delivery], how: _How) -> Outcome:
        """An attempt counts among those at the same time; the pause before the next attempt does not."""
        async with self._exclusive_at_once:
            return await self._exclusive(deliveries, how)

    async def _exclusive(self, deliveries: Sequence[Delivery], how: _How) -> Outcome:
        try:
            return await self._transaction(deliveries, how)
        except Exception as error:
            if is_caused_by_data(error):
                return await self._isolate(deliveries, error, self._exclusive, how)
            if isinstance(error, LockNotAvailable):
                return Outcome(Effects(), deferred=list(deliveries))
            raise

    async def _transaction(self, deliveries: Sequence[Delivery], how: _How) -> Outcome:
        committed = None
        step = "alone" if how.exclusive else "poll"
        with metrics.TRANSACTION.labels(step).time(), how.spans.transaction(deliveries) as traces:
            async with self._database.transaction(pipelined=True) as conn:
                outcome = await apply(
                    conn,
                    deliveries,
                    self._limits,
                    exclusive=how.exclusive,
                    probing=how.probing,
                    deferred=how.deferred,
                )
                if how.progress:
                    left = chain(outcome.deferred, outcome.not_admitted, outcome.next_transaction)
                    committed = await how.progress.write(conn, deliveries, left)
            traces.link(outcome.effects.joined)
        if committed:
            committed()
        # It is committed: an error from here on (such as a full disk for the log) must not apply it again.
        with suppress(Exception):
            await self._committed(outcome.effects)
        return outcome

    async def _isolate(self, deliveries: Sequence[Delivery], error: Exception, step: _IntakeStep, how: _How) -> Outcome:
        """Halve the deliveries until the one that causes the error is alone, and reject it."""
        how = replace(how, probing=False)
        if len(deliveries) == 1:
            return await step([replace(deliveries[0], event=rejection_of(error))], how)
        half = len(deliveries) // 2
        first = await self._retry(lambda: step(deliveries[:half], how))
        # Deliveries of the second half must not overtake those of the first half that are not applied yet.
        first.deferred += first.next_transaction
        behind = how.behind(_batch_ids(first.deferred))
        second = await self._retry(lambda: step(deliveries[half:], behind))
        return replace(
            second, deferred=first.deferred + second.deferred, not_admitted=first.not_admitted + second.not_admitted
        )

    async def _held(self, deliveries: Sequence[Delivery], deferred: frozenset[str], error: Exception) -> frozenset[str]:
        """Return the batches that other transactions hold, all if no row shows which. Raises `error` without any."""
        batch_ids = _batch_ids(deliveries) - deferred
        if not batch_ids:  # then another transaction holds a row of the quarantine
            raise error
        async with self._database.transaction() as conn:
            held = frozenset(await batches.find_held_batches(conn, sorted(batch_ids)) or batch_ids)
        named = sorted(held)[:NAMED_BATCHES]
        _log.info("batches_deferred", batches=len(held), batch_ids=named, error=type(error).__name__)
        return held

    async def _retry(self, step: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Run a step until it succeeds, is refused, or is cancelled."""
        backoff = Backoff(first=0.05, longest=5.0)
        with self._attempts.attempt() as attempt:
            while True:
                try:
                    return await step()
                except Exception as error:
                    if is_refusal(error):
                        raise
                    # Every other error is one of the environment.
                    if is_contention(error):
                        await attempt.locked()
                    else:
                        attempt.failed(one_line(error))
                    if backoff.failures in (3, 10) or backoff.failures % 100 == 99:
                        _log.warning("transaction_failed", error=one_line(error), failures=backoff.failures)
                    await asyncio.sleep(backoff.pause())


def _batch_ids(deliveries: Sequence[Delivery]) -> frozenset[str]:
    return frozenset(each.event.batch_id for each in deliveries if not isinstance(each.event, Rejection))
