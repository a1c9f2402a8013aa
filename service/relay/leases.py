"""How relays share the outbox: each serves the shards that it leases, and knows from where to read them.

Nothing here keeps the order of what is published, see relay.py; it keeps two relays from doing the same work.
"""

import time
from collections.abc import Callable, Iterable
from uuid import UUID, uuid4

from service.postgres.pool import Database
from service.store import relays


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

        A relay whose lease ran out comes back as another: a fetch that is still on its way, with watermarks
        from before, must not find that its shards are its own again.
        """
        asked_at = time.monotonic()
        if not self.is_valid:
            self.relay, self.shards, self.leaving = uuid4(), frozenset(), frozenset()
        async with self._database.transaction() as conn:
            await relays.prepare_relay(conn)
            await relays.renew_relay(conn, self.relay, self._seconds)
            share = await relays.share_shards(conn, self.relay)
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
            await relays.leave_relay(conn, self.relay)
