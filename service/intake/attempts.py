"""Reports transactions that do not succeed, as the part "transactions" of the health."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import psycopg

from service.postgres.pool import Transactions
from service.runtime.health import Health
from service.store import monitoring

LOCKED_SECONDS: Final = 4.0
"""Waiting for locks is reported when it has gone on for so long after the first lock timeout. A transaction of the
service holds its locks for less; locks of a pod that is frozen are free after 10 s."""


class Attempts:
    """Keeps the errors of the transactions that are tried again. The part is healthy while there are none."""

    def __init__(self, database: Transactions, health: Health) -> None:
        self._database = database
        self._health = health
        self._errors: dict[Attempt, str] = {}
        self._locked_since: dict[Attempt, float] = {}
        self._unlocked_at = 0.0

    @contextmanager
    def attempt(self, *, is_of_some_batches: bool = False) -> Iterator["Attempt"]:
        """Give what reports the errors of the body, until its end. An exception leaves the health as it is.

        That some batches wait for a lock, while others are processed, is reported only where a table is locked.
        """
        attempt = Attempt(self, is_of_some_batches)
        try:
            yield attempt
        finally:
            self.forget(attempt)
        self.report()

    def forget(self, attempt: "Attempt") -> None:
        """Note that an attempt has no error."""
        self._errors.pop(attempt, None)
        if self._locked_since.pop(attempt, None) is not None:
            self._unlocked_at = time.monotonic()

    def report(self, attempt: "Attempt | None" = None, error: str | None = None) -> None:
        """Report what is known, with one more error."""
        if attempt is not None and error is not None:
            self._errors[attempt] = error
        self._health.report("transactions", next(iter(self._errors.values()), None))

    async def locked(self, attempt: "Attempt") -> None:
        """Note that an attempt got a lock not in time. Reports it where it, or all, have waited for long.

        With many attempts, each waits for its turn between two tries: so they are also taken together.
        """
        now = time.monotonic()
        own = self._locked_since.setdefault(attempt, now)
        together = max(self._unlocked_at, min(self._locked_since.values()))
        if now - min(own, together) >= LOCKED_SECONDS:
            holder = await self._holder()
            if holder or not attempt.is_of_some_batches:
                why = holder or "see pg_stat_activity for old transactions"
                self.report(attempt, f"a lock is held by others for long: {why}")

    async def _holder(self) -> str | None:
        """Name who holds a lock on a whole table. The holder of a lock on a row is not known afterwards."""
        with suppress(psycopg.Error):
            async with self._database.transaction() as conn:
                if holder := await monitoring.find_table_lock(conn):
                    return "{mode} on {table} by process {pid} ({login}, {application})".format(**holder)
        return None


class Attempt:
    """Reports the errors of one transaction that is tried again and again."""

    def __init__(self, attempts: Attempts, is_of_some_batches: bool) -> None:
        self._attempts = attempts
        self.is_of_some_batches = is_of_some_batches

    def failed(self, error: str) -> None:
        """Report an error of the environment."""
        self._attempts.report(self, error)

    async def locked(self) -> None:
        """Note that a lock was not free in time."""
        await self._attempts.locked(self)

    def succeeded(self) -> None:
        """Note that a try succeeded, and another one may follow."""
        self._attempts.forget(self)
        self._attempts.report()
