"""Publishes committed outbox rows to Kafka, in the order of their commits within a batch.

Why the order holds: the rows of a batch get their `seq` under the lock of the batch's counter row, so within a batch
`seq` is the order of the commits. An event is sent to the broker only after every earlier event of its batch, on any
topic, is acknowledged, or its row was found deleted. So the *first* acknowledgement of each event comes in that order,
even if two relays overlap: each publishes in order, from a point before which everything is acknowledged. Shards and
leases only keep relays from doing the same work twice.

Why nothing is lost: a row is deleted from the outbox after the acknowledgement of its last event, in a separate
transaction. After a crash, a cancellation, a lost lease or a lost response before that, its events are published again
with the same ids. Where a record is rejected, its batch is blocked, with the number of events before it in the row: a
retry begins there.

The relay holds no connection and no lock while it waits for the broker.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import psycopg
import structlog

from service.kafka.errors import describe
from service.kafka.producer import Producer
from service.postgres.pool import Database
from service.relay.leases import Lease
from service.relay.partitions import AgreedPartitions
from service.relay.worker import Worker
from service.runtime.loop import Loop, cancelled
from service.store import relays
from service.store.outbox import FetchLimits
from service.store.relays import SHARDS

_log = structlog.get_logger(__name__)

NOTIFY_SECONDS: Final = 0.05
"""Pause after a notification of other pods, so that one covers all commits meanwhile, in seconds."""

CHANNEL: Final = "els_outbox"
"""The channel of LISTEN and NOTIFY on which pods announce new outbox rows to each other."""


class Relay:
    """Publishes the outbox, together with the relays of other pods."""

    def __init__(
        self,
        database: Database,
        producers: Callable[[], Producer],
        *,
        lease_seconds: float = 6.0,
        poll_seconds: float = 1.0,
        listen: bool = True,
        drain_seconds: float = 5.0,
        limits: FetchLimits = FetchLimits(),  # noqa: B008  a tuple
    ) -> None:
        """Create a relay; `run` starts it. Behind a transaction pooler, use `listen=False` and a shorter poll."""
        self._database = database
        self._drain_seconds = drain_seconds
        self._running = False
        self._must_notify = False
        partitions = AgreedPartitions(database)
        self._lease = Lease(database, lease_seconds, self._took_shards, partitions)
        self._worker = Worker(database, self._lease, partitions, producers, limits)
        self._renewal = Loop("relay_lease", self._lease.renew, lease_seconds / 3)
        self._working = Loop("relay", self._worker.step, poll_seconds, self._worker.wake, describe=describe)
        self._notifying = Loop("relay_notify", self._notify, poll_seconds)
        self._background = [self._renewal, self._notifying]
        if listen:
            self._background.append(Loop("relay_listen", self._listen, poll_seconds))

    @property
    def error(self) -> str | None:
        """Returns what keeps the relay from publishing, or delays it for long; None if it is healthy."""
        if not self._running:
            return "the relay is not running"
        errors = [f"{loop.name}: {loop.error}" for loop in (self._working, self._renewal) if loop.error]
        if not errors and not self._lease.is_valid:
            return "the relay has no lease"
        return "; ".join(errors) or self._worker.throttled

    @property
    def shards(self) -> frozenset[int]:
        """Returns the shards of the outbox that this relay serves."""
        return self._lease.shards

    def wake(self) -> None:
        """Make the relay publish rows that this pod has committed. Cheap; call it after every commit."""
        self._worker.wake.set()
        if len(self._lease.shards) < SHARDS:
            self._must_notify = True
            self._notifying.wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until `stop`; then finish sending within the drain time, and give up the lease.

        Cancellation is safe: unsent rows stay in the outbox, and the lease runs out.
        """
        self._running = True
        ended = asyncio.Event()
        background = [asyncio.create_task(loop.run(ended)) for loop in self._background]
        work = asyncio.create_task(self._working.run(stop))
        try:
            await stop.wait()
            await asyncio.wait([work], timeout=self._drain_seconds)
            await cancelled([work, *background])
            async with asyncio.timeout(self._drain_seconds):
                await self.close()
        except (TimeoutError, psycopg.Error) as error:
            _log.warning("relay_shutdown_incomplete", error=str(error))
        finally:
            self._running = False
            await cancelled([work, *background])
            await self._worker.abandon()

    async def publish_once(self) -> bool:
        """Renew the lease and run one step. Returns whether there was anything to publish."""
        await self._lease.renew()
        return await self._worker.step()

    async def close(self) -> None:
        """Settle what is published and give up the lease. `run` does so itself."""
        await self._worker.finish()
        await self._lease.leave()

    def _took_shards(self) -> None:
        self._worker.took_shards()

    async def _notify(self) -> bool:
        """Notify other pods once about all rows committed since the last notification."""
        if self._must_notify:
            self._must_notify = False
            async with self._database.transaction() as conn:
                await relays.notify_relays(conn)
            await asyncio.sleep(NOTIFY_SECONDS)
        return False

    async def _listen(self) -> bool:
        """Wake the worker when other pods commit rows. Listens on a session of its own until that ends."""
        async with await self._database.connect_unpooled() as conn:
            await conn.execute(f"listen {CHANNEL}")
            async for _ in conn.notifies():
                self._worker.wake.set()
        return False
