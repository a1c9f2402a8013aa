"""Ports for the servers of tests, such that no two test processes of one machine are given the same one.

A port that was free when it was looked for may be taken when the server starts, or starts again: by another worker, or
by any connection, where the system gives its own end a port of the same range. These lie below that range, and each
process has a block of them to itself until it ends.
"""

from functools import cache
from itertools import cycle
from typing import IO

from deploy.local.processes import port_is_free
from deploy.servers.locks import taken

FIRST, LAST = 20_000, 32_000
BLOCK = 100


class NoPort(Exception):
    """All blocks are in use, or all ports of the block."""


class Block:
    """Ports that belong to this process as long as the lock is held: until it ends."""

    def __init__(self, first: int, lock: IO[str]) -> None:
        self._ports = cycle(range(first, first + BLOCK))
        self._lock = lock

    def next(self) -> int:
        """The port that was given out longest ago, of those where nobody listens."""
        for _ in range(BLOCK):
            port = next(self._ports)
            if port_is_free(port):
                return port
        raise NoPort("somebody listens on all ports of this process")


def reserved_port() -> int:
    """A port for a server, or for nobody."""
    return _block().next()


@cache
def _block() -> Block:
    for first in range(FIRST, LAST, BLOCK):
        if (lock := taken(f"ports-{first}", waits=False)) is not None:
            return Block(first, lock)
    raise NoPort(f"other test processes hold all ports from {FIRST} to {LAST}")


__all__ = ["NoPort", "reserved_port"]
