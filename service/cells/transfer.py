"""Splits a cell in two, or moves it, step by step. The database has what is done: a killed command is run again.

Why nothing is lost or published twice. The fence, a row of the database, makes every check of a pod refuse; it also
takes the shards from the relays, so that they fetch nothing more. A transaction that began before the fence was
committed may have passed its check, so all of these must have ended before the row says `sealed`. From then on nobody
adds anything. A standby that shows `sealed` has replayed everything, however it is promoted. Then each database is cut
in a transaction of its own: what waits in the outbox or for a registration is in exactly one of them.

What a relay had fetched when the fence was noted it may still publish, as after the loss of its lease: it deletes those
rows in the database before the cut, and perhaps only after the standby was sealed. So the other half publishes them
again, under their old ids, from the first row of their batch on.

Until the first cut the transfer can be cancelled: the promoted standby stays fenced. The first cut is the point of no
return; when that is committed and the second is not, only a second run makes the other half available.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple
from uuid import UUID, uuid4

import psycopg

from service.cells.beginning import (
    TooLate,
    TransferError,
    TransferOptions,
    check_beginning,
    continues,
    read,
    wait_until,
)
from service.cells.servers import Server
from service.domain.cells import Slice
from service.postgres.errors import is_contention
from service.postgres.schema import read_schema_error
from service.store import cells
from service.store.cells import Cell

_LOCK_WAIT_SECONDS: Final = 10.0
_TRIES: Final = 10
_MAY_NOT: Final = " (this login may not: grant execute on function pg_promote)"
_REVOKE: Final = "revoke insert, update, delete, truncate on all tables in schema els from els_app"


class Performed(NamedTuple):
    """A step that has been performed."""

    name: str
    seconds: float
    said: str


class Transfer:
    """Takes a cell from one server to another, half or whole, by the steps of `STEPS` in order."""

    def __init__(
        self, here: Server, there: Server, options: TransferOptions, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """`here` is the server of the cell, `there` the standby. `say` is called where somebody else must act."""
        self.here = here
        self.there = there
        self.run: UUID | None = None
        """The transfer that goes on; None where a new one begins."""
        self._options = options
        self._say = say

    @property
    def halves(self) -> tuple[Slice, Slice]:
        """Returns the slices of the two databases afterwards; the same twice for a move."""
        return self._options.halves

    async def check(self) -> str:
        """Find out where to continue, and whether the standby is one of this database that follows it."""
        await self._lock()
        async with self.here.transaction() as conn:
            if error := await read_schema_error(conn):
                raise TransferError(error)
        here, there = await read(self.here), await read(self.there)
        if continues(here, there, self._options):
            self.run = here.run
            return f"goes on: {here.kind} of {here.before}, {'at its end' if here.state == 'done' else here.state}"
        seconds = await check_beginning(self.here, self.there, here, there, self._options)
        said = f"the standby follows within {seconds:.2f} s"
        if self._options.promotes and not await self.there.may_promote():
            said += f"; you will have to promote it, while the pods wait{_MAY_NOT}"
        return said

    async def fence(self) -> str:
        """Fence the pods."""
        if self.run is not None:
            return "was noted before"
        run, options = uuid4(), self._options
        async with self.here.transaction() as conn:
            if not await cells.fence_cell(conn, run, options.kind, options.of, options.by):
                raise TransferError("the database was fenced, or given another slice, a moment ago")
        self.run = run
        return "every pod is refused from its next transaction on"

    async def drain(self) -> str:
        """Wait for the transactions that may not have seen the fence, and note that they have ended."""
        if (await read(self.here)).state != "fenced":
            return "was noted before"
        async with self.here.transaction() as conn:
            before = await cells.list_transactions(conn)
        last = before

        async def ended() -> bool:
            nonlocal last
            async with self.here.transaction() as conn:
                now = await cells.list_transactions(conn)
            last = {id_: whose for id_, whose in now.items() if id_ in before}
            return not last

        if not await wait_until(ended, self._options.most_wait):
            raise TooLate(f"transactions of before have not ended: {', '.join(sorted(last.values()))}")
        async with self.here.transaction() as conn:
            if not await cells.seal_cell(conn, self._known_run()):
                raise TooLate("the database is behind its topics, or is being recovered")
        return f"{len(before)} transactions of before have ended"

    async def replay(self) -> str:
        """Wait until the standby has everything."""
        run = self._known_run()

        async def is_sealed() -> bool:
            there = await self._read_there()
            if there is None or (there.run == run and there.state != "fenced"):
                return there is not None
            if not there.is_standby:
                raise TooLate("the standby was promoted before it had everything: build it anew")
            return False

        if not await wait_until(is_sealed, self._options.most_wait):
            raise TooLate(f"the standby has not replayed the fence after {self._options.most_wait:g} s")
        return "the standby has everything"

    async def promote(self) -> str:
        """Promote the standby, or wait until somebody else has."""
        if not (await read(self.there)).is_standby:
            return "was promoted before"
        is_ours = self._options.promotes and await self.there.may_promote()
        if is_ours:
            await self.there.promote()
        else:
            why = _MAY_NOT if self._options.promotes else ""
            self._say(f"promote the standby {self.there.place} now, by your own means{why}; the command waits for it")

        async def is_promoted() -> bool:
            there = await self._read_there()
            return there is not None and not there.is_standby

        if not await wait_until(is_promoted, self._options.most_wait):
            raise TransferError(
                f"the standby is not promoted after {self._options.most_wait:g} s: run this again, or --cancel"
            )
        return f"by {'this command' if is_ours else 'somebody else'}; this was the last step that can be cancelled"

    async def hand_over(self) -> str:
        """Give the database of the cell its new slice; of a move, close it for ever. The point of no return."""
        here, there = await read(self.here), await read(self.there)
        if here.state == "done":
            return "was done before"
        if here.run != self.run or there.run != self.run or there.state != "sealed" or there.is_standby:
            raise TransferError("the two databases do not belong to the same transfer any more: run this again")
        await self._end(self.here, self.halves[0])
        return f"now {self.halves[0]}" if self._options.kind == "split" else "closed for ever"

    async def take_over(self) -> str:
        """Give the promoted database its slice."""
        if (await read(self.there)).state == "done":
            return "was done before"
        await self._end(self.there, self.halves[1])
        return f"now {self.halves[1]}"

    async def cancel(self) -> bool:
        """Take the fence away. Returns False where nothing is fenced. Raises TransferError from the first cut on."""
        await self._lock()
        here = await read(self.here)
        if here.run is None or (here.state == "done" and not here.fenced):
            return False
        if here.state == "done":
            raise TransferError("the cell has been moved: this database stays closed")
        if here.is_standby or here.begun_on != here.identity:
            raise TransferError(
                f"the {here.kind} began on the server {here.begun_on}, and this is {here.identity or 'a standby'}"
            )
        async with self.here.transaction() as conn:
            return await cells.unfence_cell(conn, here.run, self._options.by)

    async def fenced_seconds(self) -> tuple[float, float]:
        """Return how long, in seconds, each of the databases refused its pods."""
        here, there = await read(self.here), await read(self.there)
        return here.seconds or 0.0, there.seconds or 0.0

    async def leftovers(self) -> Sequence[str]:
        """Say in one line each what is left to do on the servers."""
        found = []
        for server, is_copy in ((self.here, False), (self.there, True)):
            async with server.transaction() as conn:
                lines = await cells.find_leftovers(conn, is_copy=is_copy)
            found += [f"{server.place}: {line}" for line in lines]
        return found

    async def counts(self) -> dict[str, dict[str, int]]:
        """Count the rows that each database would lose, by table; nothing for a move."""
        if self._options.kind == "move":
            return {}
        async with self.here.transaction() as conn:
            return {str(half): dict(await cells.count_other_half(conn, half)) for half in self.halves}

    async def _end(self, server: Server, half: Slice) -> None:
        """Cut, or move. Relays that settle what they have published may be in the way: then once more."""
        run, by = self._known_run(), self._options.by
        for left in reversed(range(_TRIES)):
            try:
                async with server.transaction() as conn:
                    if self._options.kind == "split":
                        is_done = await cells.cut_cell(conn, run, half, by)
                    else:
                        is_done = await cells.move_cell(conn, run, by)
                        if server is self.here:
                            await conn.execute(_REVOKE)
            except psycopg.Error as error:
                if not left or not is_contention(error):
                    raise
            else:
                if not is_done:
                    raise TransferError("the transfer has ended or was cancelled a moment ago: run this again")
                return

    def _known_run(self) -> UUID:
        if self.run is None:
            raise TransferError("no transfer has begun")
        return self.run

    async def _lock(self) -> None:
        """Keep other commands out until the connection is closed. Raises TransferError."""
        if not await self.here.lock(_LOCK_WAIT_SECONDS):
            raise TransferError("a migration, or another command on this cell, is running: wait for its end")

    async def _read_there(self) -> Cell | None:
        """Read the promoted database, or the standby; None where it cannot be reached, for a moment perhaps."""
        try:
            return await read(self.there)
        except psycopg.OperationalError:
            return None


STEPS: Final[Sequence[tuple[str, Callable[[Transfer], Awaitable[str]]]]] = (
    ("check", Transfer.check),
    ("fence", Transfer.fence),
    ("drain", Transfer.drain),
    ("replay", Transfer.replay),
    ("promote", Transfer.promote),
    ("hand over", Transfer.hand_over),
    ("take over", Transfer.take_over),
)
"""The steps by their names, in order. Each may be killed at any moment, and does nothing where it was done."""


async def perform(transfer: Transfer, report: Callable[[Performed], None]) -> None:
    """Perform all steps that are left. Where one takes too long before the first cut, the fence is taken away again.

    Raises TransferError and psycopg.Error; afterwards it may be run again.
    """
    for name, step in STEPS:
        began = time.monotonic()
        try:
            said = await step(transfer)
        except TooLate as late:
            if not await transfer.cancel():
                raise TransferError(f"{late}: run this again") from None
            raise TransferError(f"{late}: the fence is taken away again, and pods go on as before") from None
        report(Performed(name, time.monotonic() - began, said))
