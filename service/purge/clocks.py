"""Stops the purge where the database's clock can not be trusted: after a jump, everything would expire at once."""

import time
from collections.abc import Callable
from typing import Final

import structlog

from service.postgres.pool import Database
from service.store import retention

TOLERANCE: Final = 300.0
"""Seconds by which the clocks may differ, and by which the database's clock may move against a pod's monotonic one."""

ROUNDS: Final = 3
"""In so many rounds the clocks must agree before the purge goes on."""

_log = structlog.get_logger(__name__)


class Clocks:
    """Compares the clock of the database with those of this process, once in each purge round."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._before: tuple[float, float] | None = None
        """The database's time and the monotonic time at the last round."""

    async def may_purge(self, database: Database) -> bool:
        """Compare the clocks. Returns whether this round may run. Raises psycopg.Error."""
        async with database.transaction() as conn:
            now, is_noted, was_held = await retention.read_purge_hold(conn)
            if disagreement := self._compare(now.timestamp()):
                why, apart = disagreement
                await retention.hold_purge(conn, why, apart, TOLERANCE)
            elif is_noted:
                await retention.agree_on_time(conn, ROUNDS)
        async with database.transaction() as conn:
            _, _, is_held = await retention.read_purge_hold(conn)
        if is_held and not was_held:
            _log.error("purge_held", why=disagreement[0] if disagreement else "")
        elif was_held and not is_held:
            _log.warning("purge_resumed")
        return not is_held

    def _compare(self, now: float) -> tuple[str, float] | None:
        """Return why the clocks do not agree, and by how many seconds the database's is ahead; None where they do."""
        wall, monotonic = self._wall(), self._monotonic()
        before, self._before = self._before, (now, monotonic)
        if abs(apart := now - wall) > TOLERANCE:
            return f"the clocks of the database and of a pod are {apart:.0f} s apart", apart
        if before and abs(moved := now - before[0] - (monotonic - before[1])) > TOLERANCE:
            return f"the database's clock moved by {moved:.0f} s between two rounds", moved
        return None
