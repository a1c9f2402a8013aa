"""Reports the state of this pod into the database, for ops.pods and ops.health, also while the broker is down.

It writes one row every few seconds, beside everything else that the pod does.
"""

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final
from uuid import uuid4

import psycopg

from service import __version__
from service.postgres.pool import Database
from service.runtime.loop import Loop
from service.store import pods, relays
from service.store.pods import Backlog, PodReport

REPORT_SECONDS: Final = 5.0
"""Pause between two reports. ops.health takes a pod for dead that has reported nothing for 30 s."""

CHANGE_SECONDS: Final = 1.0
"""Pause between two looks whether the pod became ready, or is not any more. Such a change is reported at once."""

REMOVAL_SECONDS: Final = 2.0
"""Time for removing the row at the end."""

_SHOWN_ELSEWHERE: Final = frozenset({"topics"})
"""Parts whose errors ops.health reads from tables of their own."""

_OF_THE_BROKER: Final = frozenset({"consumer", "relay"})
"""Parts that cannot work without a broker."""


class PodReports:
    """Reports the state of one pod, while `run` runs."""

    def __init__(
        self,
        database: Database,
        roles: Sequence[str],
        errors: Callable[[], Awaitable[Mapping[str, str | None]]],
        broker_error: Callable[[], Awaitable[str | None]],
        backlog: Callable[[], Backlog | None],
    ) -> None:
        """Create what reports; `run` starts it.

        `errors` returns the error of each part. `broker_error` says why no broker can be reached, None where one can;
        it is called while a part that needs a broker is not ready.
        """
        self._database = database
        self._roles = roles
        self._errors = errors
        self._broker_error = broker_error
        self._backlog = backlog
        self._pod = uuid4()
        self._host = f"{socket.gethostname()}-{os.getpid()}"
        self._not_ready_since: float | None = None
        self._broker_away_since: float | None = None
        self._was_ready: bool | None = None
        self._reported_at = 0.0

    async def run(self) -> None:
        """Report until cancelled."""
        await Loop("pod_report", self.report_changes, CHANGE_SECONDS).run(asyncio.Event())

    async def report_changes(self) -> bool:
        """Report where the last report is old, or the pod became ready, or not ready. A step of a loop.

        Raises psycopg.Error.
        """
        errors = await self._named_errors()
        is_due = time.monotonic() - self._reported_at >= REPORT_SECONDS
        if is_due or self._was_ready is not (not errors):
            await self._report(errors)
        return False

    async def leave(self) -> None:
        """Remove the row, so that nobody takes this pod for one that went silent."""
        with suppress(psycopg.Error, TimeoutError):
            async with asyncio.timeout(REMOVAL_SECONDS), self._database.transaction() as conn:
                await relays.prepare_relay(conn)
                await pods.leave_pod(conn, self._pod)

    async def _named_errors(self) -> Mapping[str, str]:
        found = await self._errors()
        return {part: error for part, error in found.items() if error and part not in _SHOWN_ELSEWHERE}

    async def _report(self, errors: Mapping[str, str]) -> None:
        broker_error = await self._broker_error() if _OF_THE_BROKER.intersection(errors) else None
        now = time.monotonic()
        self._not_ready_since = (self._not_ready_since or now) if errors else None
        self._broker_away_since = (self._broker_away_since or self._not_ready_since) if broker_error else None
        report = PodReport(
            self._pod,
            self._host,
            __version__,
            self._roles,
            [f"{part}: {error}" for part, error in errors.items()],
            _seconds(now, self._not_ready_since),
            broker_error,
            _seconds(now, self._broker_away_since),
            self._backlog(),
        )
        async with self._database.transaction() as conn:
            await relays.prepare_relay(conn)
            await pods.report_pod(conn, report)
        self._was_ready, self._reported_at = not errors, now


def _seconds(now: float, since: float | None) -> float | None:
    return None if since is None else now - since
