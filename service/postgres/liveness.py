"""Detects a session whose server no longer answers."""

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from psycopg import AsyncConnection

GRACE_SECONDS = 5.0
"""A server ends a transaction that takes too long; one that has not even said so after this has gone silent."""

CHECK_AFTER_SECONDS = 5.0
"""A transaction that has lasted so long is looked for on its server."""

RECHECK_SECONDS = 1.0
"""And again so often: a server soon ends a session that is idle in its transaction."""

RECEIVING_MS = 2_000
"""Where something has come within so long, the rest of the answer is on its way, whatever the server knows."""

# What is in no transaction will answer nothing more. Each holds a lock on its own number, which every role may see; of
# pg_stat_activity a session that took another role sees no state, not even its own.
IS_SERVED = "select pg_backend_pid(), exists (select from pg_locks where pid = %s and locktype = 'virtualxid')"


class DelayedTask:
    """What is begun after so many seconds, unless it is cancelled before; then, too, it is cancelled."""

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
    """Whether something came lately, as far as the system tells: Linux does, in the 14th number of `tcp_info`."""
    if connection.closed or not hasattr(socket, "TCP_INFO"):
        return False
    with suppress(OSError), socket.socket(fileno=os.dup(connection.pgconn.socket)) as ours:
        if ours.family != socket.AF_UNIX:
            since_ms = int.from_bytes(ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 56)[52:56], sys.byteorder)
            return since_ms < RECEIVING_MS
    return False


def hang_up(connection: AsyncConnection) -> None:
    """Whoever waits for an answer on this connection is told that there comes none; cancelling would wait on."""
    if not connection.closed:
        with suppress(OSError), socket.socket(fileno=os.dup(connection.pgconn.socket)) as ours:
            ours.shutdown(socket.SHUT_RDWR)
