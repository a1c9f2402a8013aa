"""Detects a session whose server no longer answers."""

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from enum import IntEnum
from typing import Any

from psycopg import AsyncConnection

GRACE_SECONDS = 5.0
"""A server ends a transaction that takes too long. If it has not reported that after so many more seconds, it does not
answer."""

CHECK_AFTER_SECONDS = 5.0
"""A transaction that has lasted so long is checked on its server."""

RECHECK_SECONDS = 1.0
"""The check is repeated so often: a server soon ends a session that is idle in its transaction."""

RECEIVING_MS = 2_000
"""Where bytes have arrived within so long, the rest of the result is on its way, even if the transaction has ended."""


class Served(IntEnum):
    """What the server does for a session."""

    NO = 0
    YES = 1
    """It works for it, or waits for its client in a transaction."""
    BY_STANDBY = 2
    """The commit is done here and waits for a synchronous standby, for which no timeout of the server holds."""


# A session that is in no transaction will send nothing more. Each transaction holds a lock on its own virtual id, which
# every role may see; in pg_stat_activity, a session that took another role sees no state, not even its own.
IS_SERVED = f"""
select case
    when exists (select from pg_stat_activity where pid = watched.pid and wait_event = 'SyncRep')
        then {Served.BY_STANDBY:d}
    when exists (select from pg_locks where pid = watched.pid and locktype = 'virtualxid') then {Served.YES:d}
    else {Served.NO:d}
end
from (values (%s::int)) as watched (pid)
"""  # noqa: S608


class DelayedTask:
    """Starts work after so many seconds. `cancel` prevents the start, or cancels the work."""

    def __init__(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._begun: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(seconds, self._begin)

    def cancel(self) -> None:
        self._timer.cancel()
        if self._begun is not None:
            self._begun.cancel()

    def _begin(self) -> None:
        self._begun = asyncio.create_task(self._work())


def is_receiving(connection: AsyncConnection) -> bool:
    """Tell whether bytes have arrived within RECEIVING_MS. False where the system can not say.

    Linux reports the time since the last bytes as the 14th number of `tcp_info`.
    """
    if connection.closed or not hasattr(socket, "TCP_INFO"):
        return False
    with suppress(OSError), socket.socket(fileno=os.dup(connection.pgconn.socket)) as copied:
        if copied.family != socket.AF_UNIX:
            since_ms = int.from_bytes(copied.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 56)[52:56], sys.byteorder)
            return since_ms < RECEIVING_MS
    return False


def hang_up(connection: AsyncConnection) -> None:
    """Shut down the socket, so that a task that waits for a result gets an error."""
    if not connection.closed:
        with suppress(OSError), socket.socket(fileno=os.dup(connection.pgconn.socket)) as copied:
            copied.shutdown(socket.SHUT_RDWR)
