"""Runs a command on cells that is killed: `KILL_AT=STEP:WHEN,… python -m tests.support.pods.killed_transfer ARGS`.

It is run once for each of these, in a process of its own, which sends itself SIGKILL `before` the step, `within` it
(instead of its second transaction, or at its end if it has none) or `after` it.
"""

import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from service.__main__ import main
from service.cells import transfer
from service.cells.servers import Server
from service.cells.transfer import STEPS, Transfer

WHEN = ("before", "within", "after")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(step: Callable[[Transfer], Awaitable[str]], when: str) -> Callable[[Transfer], Awaitable[str]]:
    """Returns the step, in which the process ends."""

    async def taken(of: Transfer) -> str:
        if when == "before":
            die()
        if when == "within":
            Server.transaction = until_the_second()  # type: ignore[method-assign]
        said = await step(of)
        die()
        return said

    return taken


TRANSACTION = Server.transaction


def until_the_second() -> Any:
    number = count(1)

    @asynccontextmanager
    async def transaction(server: Server) -> AsyncIterator[Any]:
        if next(number) == 2:
            die()
        async with TRANSACTION(server) as connection:
            yield connection

    return transaction


def die_at(kill: str) -> int:
    """Runs the command, in a process of its own. Returns its exit status, negative where a signal has ended it."""
    name, _, when = kill.rpartition(":")
    assert when in WHEN
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    transfer.STEPS = tuple(  # type: ignore[misc]
        (each, killed(step, when) if each == name else step) for each, step in STEPS
    )
    os._exit(main(sys.argv[1:]))


if __name__ == "__main__":
    for kill in os.environ["KILL_AT"].split(","):
        status = die_at(kill)
        if status != -signal.SIGKILL:
            sys.exit(f"{kill}: ended with {status}")
