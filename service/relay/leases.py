"""Shares the shards of the outbox among relays: each relay leases some of them.

Leases only keep two relays from doing the same work. The order of publication does not depend on them, see relay.py.
"""

import time
from collections.abc import Callable, Iterable
from uuid import UUID, uuid4

from service.postgres.pool import Database
from service.relay.partitions import AgreedPartitions
from service.store import relays


class Lease:
    """Holds the shards that this relay may serve until its lease ends, by its own clock."""

    def __init__(
        self, database: Database, seconds: float, took: Callable[[], None], partitions: AgreedPartitions
    ) -> None:
        """`took` is called after shards became this relay's. `seconds` is how long a lease lasts.

        The agreed `partitions` are read anew whenever the lease is renewed.
        """
        self.relay: UUID = uuid4()
        self.shards: frozenset[int] = frozenset()
        self.leaving: frozenset[int] = frozenset()
        """Shards beyond the fair share of this relay, which the worker gives back with the results of their rows."""
        self._database = database
        self._seconds = seconds
        self._until = float("-inf")
        self._took = took
        self._partitions = partitions

    @property
    def is_valid(self) -> bool:
        """Returns whether other relays still respect this lease, by the clock of this process."""
        return time.monotonic() < self._until

    def serves(self, shard: int) -> bool:
        """Returns whether rows of this shard may be published now."""
        return (shard in self.shards or shard in self.leaving) and self.is_valid

    async def renew(self) -> bool:
        """Extend the lease, take free shards, and choose those to give back; the worker gives them back when it can.

        A relay whose lease ran out gets a new id: a fetch that is still running, with an old watermark, must not find
        its shards leased to its id again.
        """
        renewed_at = time.monotonic()
        if not self.is_valid:
            self.relay, self.shards, self.leaving = uuid4(), frozenset(), frozenset()
        async with self._database.transaction() as conn:
            await relays.prepare_relay(conn)
            await relays.renew_relay(conn, self.relay, self._seconds)
            await relays.end_previous_format(conn)
            share = await relays.share_shards(conn, self.relay)
            await self._partitions.read(conn)
        held = frozenset(share.held + share.taken)
        fresh = held - self.shards - self.leaving | set(share.taken)
        kept_last = sorted(held, key=lambda shard: (shard not in self.leaving, -shard))
        self.leaving = frozenset(kept_last[: max(0, len(held) - share.fair)])
        self.shards = held - self.leaving
        self._until = renewed_at + self._seconds
        if fresh:
            self._took()
        return False

    def gave_back(self, shards: Iterable[int]) -> None:
        """Note that the worker has given these shards back."""
        self.shards -= frozenset(shards)
        self.leaving -= frozenset(shards)

    async def leave(self) -> None:
        """Give all shards back and end the lease."""
        self._until = float("-inf")
        self.shards = self.leaving = frozenset()
        async with self._database.transaction() as conn:
            await relays.leave_relay(conn, self.relay)
