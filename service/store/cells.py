"""Reads and writes how far a cell's way to another database is: the fence, and the cut into halves.

Each function runs in the caller's transaction, as the owner of the schema. Each raises psycopg.Error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from psycopg import AsyncConnection

from service.domain.cells import Slice
from service.postgres.queries import fetch_rows
from service.store.operator_actions import Operator

Kind = Literal["split", "move"]
"""Half of a cell's batches get another database, or all of them."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What a database says of the cell that it holds, and of the transfer that it took part in last."""

    slice: Slice
    fenced: bool
    origin: str
    """The same for a server and its standbys: which server and database it is a copy of."""
    identity: str | None
    """Which server it is on; None on a standby."""
    run: UUID | None
    """The transfer; with it None, so is all that follows."""
    kind: Kind | None
    state: Literal["fenced", "sealed", "done"] | None
    before: Slice
    """The slice before it."""
    begun_on: str | None
    """The server that the cell was on before."""
    seconds: float | None
    """How long the transfer has taken so far, or took."""

    @property
    def is_standby(self) -> bool:
        """Returns whether it is a standby."""
        return self.identity is None


async def read_cell(conn: AsyncConnection[Any]) -> Cell:
    """Read what the database says of its cell. Works on a standby, too."""
    ((cells, cell, fenced, origin, identity, *transfer),) = await fetch_rows(conn, "read_cell")
    run, kind, state, cells_before, cell_before, begun_on, seconds = transfer
    before = Slice(cells_before, cell_before)
    return Cell(Slice(cells, cell), fenced, origin, identity, run, kind, state, before, begun_on, seconds)


async def find_obstacles(conn: AsyncConnection[Any], longest: float) -> list[str]:
    """Say in one line each why no transfer may begin. A transaction older than `longest` seconds is a reason."""
    return [why for (why,) in await fetch_rows(conn, "find_obstacles", longest=longest)]


async def count_other_half(conn: AsyncConnection[Any], half: Slice) -> Mapping[str, int]:
    """Count the rows, by table, that a split would delete in the database that gets the slice `half`."""
    return dict(await fetch_rows(conn, "count_other_half", **half._asdict()))


async def fence_cell(conn: AsyncConnection[Any], run: UUID, kind: Kind, of: Slice, by: Operator) -> bool:
    """Refuse everyone from the commit on. Returns False where it is fenced, has another slice, or is behind."""
    parameters = {"run": run, "kind": kind, "who": by.who, "why": by.why, **of._asdict()}
    return bool(await fetch_rows(conn, "fence_cell", **parameters))


async def list_transactions(conn: AsyncConnection[Any]) -> Mapping[str, str]:
    """Return the open transactions of clients of this database, each with the session that runs it."""
    return dict(await fetch_rows(conn, "list_transactions"))


async def seal_cell(conn: AsyncConnection[Any], run: UUID) -> bool:
    """Note that all transactions from before the fence have ended. Returns False while a recovery is needed."""
    return bool(await fetch_rows(conn, "seal_cell", run=run))


async def unfence_cell(conn: AsyncConnection[Any], run: UUID, by: Operator) -> bool:
    """Take the fence away again. Returns False where the transfer has got to its cut."""
    return bool(await fetch_rows(conn, "unfence_cell", run=run, who=by.who, why=by.why))


async def cut_cell(conn: AsyncConnection[Any], run: UUID, half: Slice, by: Operator) -> bool:
    """Give the database the slice `half`. Returns False where it has no sealed transfer of this `run`."""
    return bool(await fetch_rows(conn, "cut_cell", run=run, who=by.who, why=by.why, **half._asdict()))


async def move_cell(conn: AsyncConnection[Any], run: UUID, by: Operator) -> bool:
    """End the transfer of a whole cell, in each of its databases. Returns False as `cut_cell` does."""
    return bool(await fetch_rows(conn, "move_cell", run=run, who=by.who, why=by.why))


async def find_leftovers(conn: AsyncConnection[Any], *, is_copy: bool) -> Sequence[str]:
    """Say in one line each what a promotion leaves to do on this server: the promoted one, or the one before."""
    return [line for (line,) in await fetch_rows(conn, "find_leftovers", is_copy=is_copy)]
