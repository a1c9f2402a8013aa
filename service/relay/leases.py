"""How relays share the outbox: each serves the shards that it leases, and knows from where to read them.

Nothing here keeps the order of what is published, see relay.py; it keeps two relays from doing the same work.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final
from uuid import UUID, uuid4

from service.postgres.pool import Database
from service.store import outbox
from service.store.outbox import Row

FLOOR_SECONDS: Final = 10.0


class Lease:
    """The shards that this relay may serve, as long as its lease lasts by its own clock."""

    def __init__(self, database: Database, seconds: float, taken: Callable[[Iterable[int]], None]) -> None:
        self.relay: UUID = uuid4()
        self.shards: frozenset[int] = frozenset()
        self.leaving: frozenset[int] = frozenset()
        self._database = database
        self._seconds = seconds
        self._until = float("-inf")
        self._taken = taken

    @property
    def is_valid(self) -> bool:
        """Whether others still count this relay, as far as its own clock can tell."""
        return time.monotonic() < self._until

    def serves(self, shard: int) -> bool:
        """Whether rows of this shard may be published now."""
        return shard in self.shards and self.is_valid

    async def renew(self) -> bool:
        """Live on, take free shards, choose those to give back. The worker gives back: it knows when.

        A relay whose lease ran out comes back as another: a fetch that is still on its way, with floors
        from before, must not find that its shards are its own again.
        """
        asked_at = time.monotonic()
        if not self.is_valid:
            self.relay, self.shards, self.leaving = uuid4(), frozenset(), frozenset()
        async with self._database.transaction() as conn:
            await outbox.prepare_relay(conn)
            await outbox.renew_relay(conn, self.relay, self._seconds)
            share = await outbox.share_shards(conn, self.relay)
        held = frozenset(share.held + share.taken)
        fresh = held - self.shards | set(share.taken)
        kept_last = sorted(held, key=lambda shard: (shard not in self.leaving, -shard))
        self.leaving = frozenset(kept_last[: max(0, len(held) - share.fair)])
        self.shards = held
        self._until = asked_at + self._seconds
        if fresh:
            self._taken(fresh)
        return False

    def gave_back(self, shards: Iterable[int]) -> None:
        self.shards = self.shards - frozenset(shards)
        self.leaving = self.leaving - frozenset(shards)

    async def leave(self) -> None:
        """Give all back."""
        self._until = float("-inf")
        self.shards = self.leaving = frozenset()
        async with self._database.transaction() as conn:
            await outbox.leave_relay(conn, self.relay)


class Floors:
    """For each shard a seq up to which no row waits, so that a fetch need not wade through dead rows.

    A row with a low seq may be committed after one with a high seq has been read. So a floor rises only
    to a seq whose every forerunner's transaction had ended when a later fetch found nothing below: the
    transaction id that was drawn after that seq had been seen, against the oldest one that still runs.
    A floor is a hint: it is forgotten every few seconds, and wherever a row below could come back.
    """

    def __init__(self) -> None:
        self._floors: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        self._candidates: dict[int, tuple[int, int]] = {}
        self._forgotten_at = time.monotonic()

    def of(self, shards: Iterable[int]) -> list[tuple[int, int]]:
        """The shards, each with its floor."""
        if time.monotonic() - self._forgotten_at > FLOOR_SECONDS:
            self._floors.clear()
            self._forgotten_at = time.monotonic()
        return [(shard, self._floors.get(shard, 0)) for shard in shards]

    def drawn(self, transaction_id: int) -> None:
        """This id was drawn after everything seen so far had been read."""
        for shard, seq in self._seen.items():
            self._candidates.setdefault(shard, (seq, transaction_id))
        self._seen.clear()

    def fetched(self, rows: Sequence[Row]) -> None:
        """What a fetch brought, in the order of seq within each shard."""
        first: dict[int, int] = {}
        for row in rows:
            first.setdefault(row.shard, row.seq)
            self._seen[row.shard] = row.seq
        for shard, lowest in first.items():
            seq, transaction_id = self._candidates.get(shard, (0, rows[0].horizon + 1))
            if transaction_id <= rows[0].horizon:
                self._floors[shard] = min(seq, lowest - 1)
                del self._candidates[shard]

    def forget(self, shards: Iterable[int]) -> None:
        """Rows below may come back: a batch is blocked no more, or the shard was another relay's."""
        for shard in shards:
            self._floors.pop(shard, None)
            self._candidates.pop(shard, None)
            self._seen.pop(shard, None)
