"""Wraps aiokafka's consumer as a membership of the consumer group.

It adds what aiokafka lacks: fetches that can be abandoned and take bounded memory, and a stop in bounded time.
"""

import asyncio
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from service.domain import topics
from service.domain.cells import ALL_BATCHES, Slice, slice_named
from service.domain.input_limits import InputLimits
from service.kafka import record_batches
from service.kafka.broker_view import SILENT_SECONDS, BrokerView
from service.kafka.record_batches import RecordBatch, fetched_bytes, new_leaders
from service.runtime.loop import cancelled, ends_before

CALM_SECONDS = 1.0
CALM_FACTOR = 10
"""After this many seconds without records, fetches wait this many times longer: a hundred fetches a second cost a tenth
of a core."""
METADATA_SECONDS = 5.0
"""How often the brokers are asked which topics and partitions there are. By default aiokafka does so every 300 s."""


REPLAY_SUFFIX: Final = ".replay"
"""What the group of a replay is called, after the service's group."""

_PROGRESS_METADATA = re.compile(r"els/progress/([0-9]+)(?:/([0-9]+)/([0-9]+))?", re.ASCII)
"""The text that is committed with offsets: the epoch of the partition and, of one cell of several, their number and its
own. Only releases that write their progress into the database commit it."""


def offset_text(offset: int, epoch: int, of: Slice = ALL_BATCHES) -> tuple[int, str]:
    """Return an offset with the text that is committed with it."""
    return offset, f"els/progress/{epoch}" + ("" if of.is_all else f"/{of.cells}/{of.cell}")


def committed_epoch(text: str) -> int | None:
    """Return the epoch of a committed text; None where it is not one of ours."""
    found = _PROGRESS_METADATA.fullmatch(text)
    return int(found[1]) if found else None


def committed_slice(text: str) -> Slice | None:
    """Return the slice of the cell that committed a text; None where it is not one of ours."""
    found = _PROGRESS_METADATA.fullmatch(text)
    if found is None:
        return None
    return ALL_BATCHES if found[2] is None else Slice(int(found[2]), int(found[3]))


def foreign_group_error(group: str, texts: Iterable[str], of: Slice) -> str | None:
    """Say in one line that the group is that of another cell, by its name or by the texts of its offsets; else None.

    Text of a release before cells, or of another program, says nothing, and brokers may not keep it (Tansu does not).
    """
    named = slice_named(group.removesuffix(REPLAY_SUFFIX))
    if named != of:
        return f"ELS_CONSUMER_GROUP: the group {group!r} is that of {named}, and this is {of}"
    others = {each for text in texts if (each := committed_slice(text)) not in (None, of)}
    if not others:
        return None
    return f"ELS_CONSUMER_GROUP: the group {group!r} has offsets of {min(map(str, others))}, and this is {of}"


@dataclass(frozen=True, slots=True)
class ConsumerOptions:
    """Options of the consumer and of its memberships, in seconds, records and bytes."""

    group: str
    max_poll_records: int = 2_000
    session_timeout: float = 6
    rebalance_timeout: float = 30
    drain: float = 20
    watchdog: float = 60
    fetch_wait: float = 0.01
    """How long a broker may hold a fetch that finds no records, while records arrive."""
    limits: InputLimits = field(default_factory=InputLimits)
    of: Slice = ALL_BATCHES
    """Records of other cells are skipped."""
    replay: bool = False
    """Whether it reads the topics once more in a group of its own: it then writes no progress."""

    @property
    def short_timeout(self) -> float:
        """Seconds that a small step of the drain may take; half of the drain is for the poll in progress."""
        return self.drain / 12


class Membership:
    """One membership of the group, from `join` to `leave`. It is not used again."""

    def __init__(
        self, kafka: Mapping[str, Any], client_id: str, options: ConsumerOptions, listener: ConsumerRebalanceListener
    ) -> None:
        """Nothing connects yet. `kafka` is the result of `client_options`."""
        self._options = options
        self._fetches: set[asyncio.Task[dict[TopicPartition, list[ConsumerRecord]]]] = set()
        self._room = asyncio.Event()
        self._client = AIOKafkaConsumer(
            **kafka,
            group_id=options.group,
            client_id=client_id,
            enable_auto_commit=False,
            auto_offset_reset="none",  # where to continue is decided by the rows of the database
            isolation_level="read_committed",
            metadata_max_age_ms=int(METADATA_SECONDS * 1000),
            session_timeout_ms=int(options.session_timeout * 1000),
            heartbeat_interval_ms=int(options.session_timeout * 1000 / 4),
            rebalance_timeout_ms=int(options.rebalance_timeout * 1000),
            # The watchdog checks for progress: while the database is unavailable, the partitions must not be lost.
            max_poll_interval_ms=24 * 3600 * 1000,
            fetch_max_wait_ms=int(min(options.fetch_wait, SILENT_SECONDS / 4) * 1000),
            # By partition and by broker; a larger record batch is fetched as well.
            max_partition_fetch_bytes=512 * 1024,
            fetch_max_bytes=4 * 1024 * 1024,
        )
        self._client.subscribe(topics=list(topics.INCOMING_TOPICS), listener=listener)
        self.brokers = BrokerView(self._client, options.session_timeout)
        # By default it waits for all topics. One that is missing is reported, and the others are read.
        self._client._wait_topics = self._client._client.force_metadata_update  # noqa: SLF001

    async def join(self, stop: asyncio.Event) -> bool:
        """Connect to the group. Returns False where `stop` was set meanwhile.

        Raises KafkaError.
        """
        if not await ends_before(stop, record_batches.start(self._client)):
            return False
        self._client._fetcher._proc_fetch_request = self._fetch_within_bounds  # noqa: SLF001  aiokafka has no other way
        return True

    async def leave(self) -> None:
        """Leave the group and close the client, so that the next owner need not wait for the session to end."""
        leaving = asyncio.create_task(self._client.stop())
        try:
            await asyncio.wait([leaving], timeout=self._options.short_timeout)
            if not leaving.done():
                # It waits for an answer that may never arrive; cancelled now, the client would go on fetching. Closing
                # the connections ends such a wait at once.
                with suppress(KafkaError, TimeoutError):
                    async with asyncio.timeout(self._options.short_timeout):
                        await self._client._client.close()  # noqa: SLF001  aiokafka has no other way
                await asyncio.wait([leaving], timeout=self._options.short_timeout)
        finally:
            await cancelled([leaving])

    async def fetch(
        self, tps: Sequence[TopicPartition], wait_ms: int, enough: asyncio.Event | None = None
    ) -> Mapping[TopicPartition, Sequence[RecordBatch]]:
        """Take all record batches of these partitions that have arrived, waiting at most `wait_ms` for the first.

        No other partitions are fetched from now on. Returns nothing where fetches are abandoned meanwhile, or `enough`
        is set. Raises OffsetOutOfRangeError.
        """
        self._fetch_only(tps)
        fetch = asyncio.create_task(self._client.getmany(*tps, timeout_ms=wait_ms))
        self._fetches.add(fetch)
        others = [asyncio.create_task(enough.wait())] if enough else []
        try:
            await asyncio.wait([fetch, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._fetches.discard(fetch)
            for task in (fetch, *others):
                task.cancel()
        # A fetch that is cancelled while it waits has taken no records out of the client yet.
        await asyncio.wait([fetch])
        got = {} if fetch.cancelled() else {tp: some for tp, some in fetch.result().items() if some}
        self._room.set()
        self._set_fetch_wait(bool(got))
        return {tp: [each.value for each in some] for tp, some in got.items()}

    def _fetch_only(self, tps: Sequence[TopicPartition]) -> None:
        """Pause all other partitions: what is fetched of them would only take memory."""
        assigned, paused = self._client.assignment(), self._client.paused()
        if paused or len(tps) < len(assigned):
            self._client.resume(*paused.intersection(tps))
            self._client.pause(*assigned.difference(tps, paused))

    async def _fetch_within_bounds(self, *request: Any) -> bool:
        """Send a fetch once what has arrived and is not taken yet is below its bound. Takes aiokafka's place."""
        fetcher = self._client._fetcher  # noqa: SLF001  aiokafka has no other way
        with suppress(asyncio.CancelledError):  # as aiokafka does it: the assignment was changed
            while fetched_bytes(fetcher, self._client.paused()) > self._options.limits.fetched_bytes:
                self._room.clear()
                await self._room.wait()
            return bool(await type(fetcher)._proc_fetch_request(fetcher, *request))  # noqa: SLF001
        return False

    def new_leaders(self) -> set[TopicPartition]:
        """Return the partitions whose next records are of another leader than before, and were not returned."""
        subscription = self._client._subscription.subscription  # noqa: SLF001  aiokafka has no other way
        return new_leaders(subscription.assignment) if subscription and subscription.assignment else set()

    def abandon_fetches(self) -> None:
        """Cancel the fetches in progress. To be called when a partition is revoked; `rewind` calls it itself.

        Such a fetch could return records from after the seek or the rebalance to a read from before it. That read is
        stale, so they would be dropped, and the client, whose position is past them, would not fetch them again.
        """
        for fetch in self._fetches:
            fetch.cancel()

    def rewind(self, tp: TopicPartition, offset: int) -> None:
        """Fetch from this offset again. Does nothing where the partition is not assigned to this consumer any more."""
        self.abandon_fetches()
        with suppress(IllegalStateError):
            self._client.seek(tp, offset)

    async def commit(self, offsets: Mapping[TopicPartition, tuple[int, int]]) -> None:
        """Commit offsets, each with the epoch of its partition.

        Raises KafkaError, and IllegalStateError where a partition is not assigned any more.
        """
        of = self._options.of
        await self._client.commit({tp: offset_text(*each, of) for tp, each in offsets.items()})

    def _set_fetch_wait(self, has_records: bool) -> None:
        """Make fetches wait for a short time while records arrive, and for longer afterwards.

        A broker may answer a fetch that finds no records only when its wait is over, and answers other requests of the
        connection after it. So the wait is short enough not to look like silence.
        """
        if has_records:
            self.brokers.received_at = time.monotonic()
        is_calm = time.monotonic() - self.brokers.received_at > CALM_SECONDS
        wait_ms = int(min(self._options.fetch_wait * (CALM_FACTOR if is_calm else 1), SILENT_SECONDS / 4) * 1000)
        self._client._fetcher._fetch_max_wait_ms = wait_ms  # noqa: SLF001  aiokafka has no other way, once it runs
