"""A membership of the consumer group: aiokafka's client, and what it lacks.

Fetches that can be abandoned; a broker that has gone silent, which the client itself would wait for without end; and a
stop in bounded time. What a membership needs from behind aiokafka's surface is reached here alone.
"""

import asyncio
import math
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from service.domain import topics
from service.runtime.loop import cancelled

CALM_SECONDS = 1.0
CALM_FACTOR = 10
"""Where nothing has come for so long, fetches wait so many times longer: a hundred a second cost a tenth of a core."""
SILENT_SECONDS = 6.0
"""A broker that gives no answer for so long, or for the session's timeout where that is longer, is left."""


@dataclass(frozen=True, slots=True)
class ConsumerOptions:
    """Of the consumer and of its memberships: seconds, records and bytes."""

    group: str
    max_poll_records: int = 2_000
    session_timeout: float = 6
    rebalance_timeout: float = 30
    drain: float = 20
    watchdog: float = 60
    fetch_wait: float = 0.01
    """How long a broker may hold a fetch that finds nothing, while records come."""
    max_bytes: Mapping[str, int] = field(default_factory=dict)
    """The largest message taken, by topic."""

    @property
    def short_timeout(self) -> float:
        """What one of the small steps of a drain may take; half of the drain is for the poll in hand."""
        return self.drain / 12


class Stalled(Exception):
    """Nothing moves despite lag, the group has no share for us, or the broker no word: a new membership is needed."""


class Membership:
    """From `join` to `leave`; it is not used again."""

    def __init__(
        self, kafka: Mapping[str, Any], client_id: str, options: ConsumerOptions, listener: ConsumerRebalanceListener
    ) -> None:
        """Nothing connects yet. `kafka` is what aiokafka's clients are told of the connection."""
        self._options = options
        self._fetches: set[asyncio.Task[dict[TopicPartition, list[ConsumerRecord]]]] = set()
        self._came = time.monotonic()
        self._silent_since = math.inf
        self._client = AIOKafkaConsumer(
            **kafka,
            group_id=options.group,
            client_id=client_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=int(options.session_timeout * 1000),
            heartbeat_interval_ms=int(options.session_timeout * 1000 / 4),
            rebalance_timeout_ms=int(options.rebalance_timeout * 1000),
            # Whether we move is watched by the consumer: a database that is away must not cost the partitions too.
            max_poll_interval_ms=24 * 3600 * 1000,
            fetch_max_wait_ms=int(min(options.fetch_wait, SILENT_SECONDS / 4) * 1000),
            # What lies fetched and not yet taken is memory: of each partition, and of each broker. A record that is
            # larger comes all the same.
            max_partition_fetch_bytes=512 * 1024,
            fetch_max_bytes=4 * 1024 * 1024,
        )
        self._client.subscribe(topics=list(topics.INCOMING_TOPICS), listener=listener)

    @property
    def patience(self) -> float:
        """Seconds after which a broker that gives no answer is left."""
        return max(SILENT_SECONDS, self._options.session_timeout)

    async def join(self, stop: asyncio.Event) -> bool:
        """Connect, unless told to stop, then False: a client waits long for a topic that is missing.

        Raises KafkaError.
        """
        stopping = asyncio.create_task(stop.wait())
        starting = asyncio.create_task(self._client.start())
        try:
            await asyncio.wait([stopping, starting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            await cancelled([starting])
        if starting.cancelled():
            return False
        starting.result()  # raises what it met
        return True

    async def leave(self) -> None:
        """Leave the group, so that the next owner need not wait for the session to end; nothing of the client stays."""
        leaving = asyncio.create_task(self._client.stop())
        try:
            await asyncio.wait([leaving], timeout=self._options.short_timeout)
            if not leaving.done():
                # It waits for an answer that may never come, and would be left half stopped, still fetching. What waits
                # on a connection that is closed goes on at once.
                with suppress(KafkaError, TimeoutError):
                    async with asyncio.timeout(self._options.short_timeout):
                        await self._client._client.close()  # noqa: SLF001  aiokafka has no other way
                await asyncio.wait([leaving], timeout=self._options.short_timeout)
        finally:
            await cancelled([leaving])

    async def fetch(
        self, tps: Sequence[TopicPartition], records: int, wait_ms: int, enough: asyncio.Event | None = None
    ) -> Mapping[TopicPartition, Sequence[ConsumerRecord]]:
        """What the client has, or gets soon; nothing where fetches are abandoned meanwhile, or `enough` is set."""
        fetch = asyncio.create_task(self._client.getmany(*tps, timeout_ms=wait_ms, max_records=records))
        self._fetches.add(fetch)
        others = [asyncio.create_task(enough.wait())] if enough else []
        try:
            await asyncio.wait([fetch, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._fetches.discard(fetch)
            for task in (fetch, *others):
                task.cancel()
        # One that is cancelled while it waits has taken nothing out of the client yet.
        await asyncio.wait([fetch])
        got = {} if fetch.cancelled() else {tp: some for tp, some in fetch.result().items() if some}
        self._set_fetch_wait(bool(got))
        return got

    def abandon_fetches(self) -> None:
        """To be called where a partition is given back; `rewind` does so itself.

        A fetch that is under way then would bring records from behind the seek or the rebalance to a read from
        before it: that is void, and the client, whose position is past them, would never bring them again.
        """
        for fetch in self._fetches:
            fetch.cancel()

    def rewind(self, tp: TopicPartition, offset: int) -> None:
        """Fetch from this offset again; nothing where the partition is not ours any more."""
        self.abandon_fetches()
        with suppress(IllegalStateError):
            self._client.seek(tp, offset)

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Raises KafkaError, and IllegalStateError where a partition is not ours any more."""
        await self._client.commit(offsets)

    async def position(self, tp: TopicPartition) -> int:
        """The offset that is fetched next. Raises IllegalStateError where the partition is not ours any more."""
        position: int = await self._client.position(tp)
        return position

    async def is_at_the_end(self, tp: TopicPartition) -> bool:
        """Whether the partition has no more to bring: a broker may also be slow."""
        try:
            highwater = self._client.highwater(tp)
            return highwater is not None and await self._client.position(tp) >= highwater
        except IllegalStateError:
            return False

    async def ends(
        self, tps: Sequence[TopicPartition], positions_of: Collection[TopicPartition]
    ) -> tuple[Mapping[TopicPartition, int], Mapping[TopicPartition, int]]:
        """The ends of the partitions, and the positions of some.

        Raises KafkaError, IllegalStateError where a rebalance came between, TimeoutError where there was no answer, and
        Stalled where there was none for too long.
        """
        asked, coming = time.monotonic(), self._coming()
        try:
            async with asyncio.timeout(self.patience / 2):
                ends = await self._client.end_offsets(tps)
                positions = {tp: await self._client.position(tp) for tp in positions_of}
        except IllegalStateError:  # a KafkaError, too, but no silence
            raise
        except (KafkaError, TimeoutError):
            self._heard_nothing(asked, coming)
            raise
        self._silent_since = math.inf
        return ends, positions

    def _heard_nothing(self, asked: float, coming: Mapping[int, int]) -> None:
        """A question was not answered. Raises Stalled where nothing else came for too long.

        Then its connection may be one that nobody answers any more. By now the group has given our share away, and the
        client itself would wait longer than for a rebalance. While something comes the broker is slow, not silent.
        """
        self._silent_since = min(self._silent_since, asked)
        if any(size and size != coming.get(connection) for connection, size in self._coming().items()):
            self._silent_since = time.monotonic()  # answers come one after the other, and a large one takes its time
        silent = time.monotonic() - max(self._silent_since, self._came)
        if silent >= self.patience:
            raise Stalled(f"no word from the broker for {silent:.0f} s")

    def _coming(self) -> dict[int, int]:
        """Bytes of answers that are there in part, by connection."""
        connections = self._client._client._conns.values()  # noqa: SLF001  aiokafka has no other way
        return {id(each): len(each._reader._buffer) for each in connections if each._reader is not None}  # noqa: SLF001

    def _set_fetch_wait(self, comes: bool) -> None:
        """Short while records come: a broker may answer a fetch that found nothing only when its wait is over.

        What else is asked is answered behind it, so that it must not be taken for silence.
        """
        now = time.monotonic()
        if comes:
            self._came = now
        calm = now - self._came > CALM_SECONDS
        wait_ms = int(min(self._options.fetch_wait * (CALM_FACTOR if calm else 1), SILENT_SECONDS / 4) * 1000)
        self._client._fetcher._fetch_max_wait_ms = wait_ms  # noqa: SLF001  aiokafka has no other way, once it runs
