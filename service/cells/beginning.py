"""Checks whether a transfer of a cell may begin or go on."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from service.cells.servers import Server
from service.domain.cells import Slice
from service.store import cells
from service.store.cells import Cell, Kind
from service.store.operator_actions import Operator

_CHECK_SECONDS: Final = 0.02
"""Pause between two checks of a condition: the pods stand still while one waits."""


class TransferError(Exception):
    """The transfer does not begin or go on. The message is one line that says why, and what to do."""


class TooLate(Exception):
    """A step has waited for too long, or in vain. The message says for what."""


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """What an operator asks for."""

    kind: Kind
    of: Slice
    """The cell, as it is before."""
    by: Operator
    most_lag: float = 10.0
    """How many seconds the standby may need to replay what is written now."""
    most_wait: float = 60.0
    """How many seconds a step may keep the pods fenced."""
    promotes: bool = True
    """Whether the command promotes the standby; otherwise it waits until somebody else has."""

    @property
    def halves(self) -> tuple[Slice, Slice]:
        """Returns the slices of the two databases afterwards; the same twice for a move."""
        cells_, cell = self.of
        if self.kind == "move":
            return self.of, self.of
        return Slice(2 * cells_, cell), Slice(2 * cells_, cell + cells_)


async def read(server: Server) -> Cell:
    """Read what a server's database says of its cell. Raises psycopg.Error."""
    async with server.transaction() as conn:
        return await cells.read_cell(conn)


async def wait_until(condition: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Wait until the condition holds. Returns False after `seconds`, also where a server does not answer."""
    try:
        async with asyncio.timeout(seconds):
            while not await condition():  # noqa: ASYNC110  nobody says when a server has got there
                await asyncio.sleep(_CHECK_SECONDS)
    except TimeoutError:
        return False
    return True


def continues(here: Cell, there: Cell, options: TransferOptions) -> bool:
    """Tell whether a transfer goes on. Raises TransferError where that is another one, or cannot go on."""
    if here.is_standby:
        raise TransferError("ELS_MIGRATION_DATABASE_URL leads to a standby: it should lead to the primary")
    if here.origin != there.origin:
        raise TransferError(
            f"ELS_STANDBY_DATABASE_URL leads to another database ({there.origin}), and not to a copy of this one"
            f" ({here.origin})"
        )
    if here.identity == there.identity:
        raise TransferError("ELS_MIGRATION_DATABASE_URL and ELS_STANDBY_DATABASE_URL lead to the same database")
    is_same = (here.kind, here.before) == (options.kind, options.of)
    if here.state == "done":
        return is_same and there.run == here.run and _are_its_two(here, there, options)
    if here.run is None:
        return False
    if not is_same:
        raise TransferError(f"a {here.kind} of {here.before} has begun: finish or cancel that first")
    if here.begun_on != here.identity:
        raise TransferError(
            f"the {here.kind} began on the server {here.begun_on}, and this is {here.identity}: a failover, or the"
            " two URLs are exchanged (docs/scaling.md)"
        )
    if not there.is_standby and (there.run, there.state) != (here.run, "sealed"):
        raise TransferError(
            "the standby was promoted before it had everything: cancel this (--cancel), and build the standby anew"
        )
    return True


def _are_its_two(here: Cell, there: Cell, options: TransferOptions) -> bool:
    """Tell whether these are the two databases of a transfer that has ended in the first one.

    Whatever is copied from either of them later has the note of that transfer, too.
    """
    if there.is_standby:
        return False
    if options.kind == "move":
        return here.fenced and (there.state == "sealed" or not there.fenced)
    lower, upper = options.halves
    return here.slice == lower and (there.state == "sealed" or there.slice == upper)


async def check_beginning(
    here_server: Server, there_server: Server, here: Cell, there: Cell, options: TransferOptions
) -> float:
    """Check that a transfer may begin. Returns how many seconds the standby needs to replay what is written.

    Raises TransferError.
    """
    async with here_server.transaction() as conn:
        obstacles = await cells.find_obstacles(conn, options.most_lag)
    if here.fenced:
        raise TransferError("the cell has been moved away from this database")
    if here.slice != options.of:
        raise TransferError(
            f"the database holds {here.slice}, and the command is set to {options.of} (ELS_CELLS, ELS_CELL)"
        )
    if not there.is_standby:
        raise TransferError("ELS_STANDBY_DATABASE_URL leads to no standby: it was promoted, or never was one")
    if obstacles:
        raise TransferError("; ".join(obstacles))
    began = time.monotonic()
    position = await here_server.write_position()
    where = ""

    async def follows() -> bool:
        nonlocal where
        has_replayed, where = await there_server.has_replayed(position)
        return has_replayed

    if not await wait_until(follows, options.most_lag):
        raise TransferError(
            f"the standby is behind by more than {options.most_lag:g} s: {where}, and not beyond {position}"
        )
    return time.monotonic() - began
