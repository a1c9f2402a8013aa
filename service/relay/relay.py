"""Outbox → Kafka: what was committed is published, in the order of its commits within a batch.

Why the order holds: the rows of a batch get their `seq` under that batch's row lock, so within a batch
`seq` is the order of the commits. A row is handed to the broker only after every earlier row of its
batch is acknowledged or was found deleted, whatever its topic. So the *first* acknowledgement of each
row comes in that order, even where two relays overlap: each goes in order from a point before which
everything is acknowledged. Shards and leases only keep relays from doing the same work twice.

Why nothing is lost: a row leaves the outbox after its acknowledgement, in a transaction of its own. What
happens in between, a crash, a cancellation, a lost answer, repeats the row under its old event id.

No connection and no lock is held while the broker is waited for.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import psycopg
import structlog

from service.kafka.producer import Producer
from service.postgres.pool import Database
from service.relay.leases import Lease
from service.relay.worker import Worker
from service.runtime.loop import Loop, cancelled
from service.store import relays
from service.store.outbox import FetchLimits
from service.store.relays import SHARDS

_log = structlog.get_logger(__name__)


NOTIFY_SECONDS: Final = 0.05
CHANNEL: Final = "els_outbox"


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
        """Nothing runs yet. Behind a transaction pooler: `listen=False` and a shorter poll."""
        self._database = database
        self._drain_seconds = drain_seconds
        self._running = False
        self._unannounced = False
        self._lease = Lease(database, lease_seconds, self._took)
        self._worker = Worker(database, self._lease, producers, limits)
        self._renewal = Loop("relay_lease", self._lease.renew, lease_seconds / 3)
        self._working = Loop("relay", self._worker.step, poll_seconds, self._worker.wake)
        self._notifying = Loop("relay_notify", self._notify, poll_seconds)
        self._listening = Loop("relay_listen", self._listen, poll_seconds) if listen else None

    @property
    def error(self) -> str | None:
        """What keeps the relay from publishing; None while all is well."""
        if not self._running:
            return "the relay is not running"
        errors = [f"{loop.name}: {loop.error}" for loop in (self._working, self._renewal) if loop.error]
        if not errors and not self._lease.is_valid:
            return "the relay has no lease"
        return "; ".join(errors) or None

    @property
    def shards(self) -> frozenset[int]:
        """The shards that this relay serves."""
        return self._lease.shards

    def wake(self) -> None:
        """Rows were committed by this pod. Cheap; call it after every commit."""
        self._worker.wake.set()
        if len(self._lease.shards) < SHARDS:
            self._unannounced = True
            self._notifying.wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until `stop`; then finish what is on its way, within the drain time, and leave.

        Cancelled, it leaves everything as it is: the rows are in the outbox, the lease runs out.
        """
        self._running = True
        ended = asyncio.Event()
        background = [asyncio.create_task(loop.run(ended)) for loop in self._background()]
        work = asyncio.create_task(self._working.run(stop))
        try:
            await stop.wait()
            await asyncio.wait([work], timeout=self._drain_seconds)
            await cancelled([work, *background])
            async with asyncio.timeout(self._drain_seconds):
                await self._leave()
        except (TimeoutError, psycopg.Error) as error:
            _log.warning("relay_shutdown_incomplete", error=str(error))
        finally:
            self._running = False
            await cancelled([work, *background])
            await self._worker.abandon()

    async def publish_once(self) -> bool:
        """One renewal and one step. Returns whether there was anything to do."""
        await self._lease.renew()
        return await self._worker.step()

    async def close(self) -> None:
        """After `publish_once`: settle and leave, as the end of `run` does."""
        await self._leave()

    async def _leave(self) -> None:
        await self._worker.finish()
        await self._lease.leave()

    def _background(self) -> list[Loop]:
        return [loop for loop in (self._renewal, self._notifying, self._listening) if loop is not None]

    def _took(self, shards: Iterable[int]) -> None:
        self._worker.forget_watermarks(shards)
        self._worker.wake.set()

    async def _notify(self) -> bool:
        """Tell other pods, once for all that was committed meanwhile."""
        if self._unannounced:
            self._unannounced = False
            async with self._database.transaction() as conn:
                await relays.notify_relays(conn)
            await asyncio.sleep(NOTIFY_SECONDS)
        return False

    async def _listen(self) -> bool:
        """Hear of rows of other pods, on a session of its own, until that ends."""
        async with await self._database.connect_alone() as conn:
            await conn.execute(f"listen {CHANNEL}")
            async for _ in conn.notifies():
                self._worker.wake.set()
        return False
