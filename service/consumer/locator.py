"""Finds where to continue in partitions: when a pod takes them over, or the topic lacks the record at its position.

Their rows are compared with the topics and with the group. A database that was restored, or promoted after a loss of
data, is behind them: then nothing is applied, on any pod, until an operator has decided.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NoReturn

import psycopg
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from service.consumer.announced import last_events
from service.consumer.applied import AppliedTimes
from service.consumer.foreign_group import ANSWER_SECONDS, check_group
from service.consumer.partitions import Assignment, Partition
from service.domain.cells import Slice
from service.domain.topics import INCOMING_TOPICS, OUTGOING_TOPICS
from service.history.comparison import compare
from service.history.resumption import Observed, Resumption, records_behind, resume
from service.history.topics import committed_offsets, open_reader, topic_partitions
from service.kafka.errors import describe
from service.kafka.group import ConsumerOptions, committed_epoch
from service.postgres.errors import BEHIND, is_refusal, sqlstate_of
from service.postgres.pool import Database
from service.runtime import metrics
from service.runtime.errors import one_line
from service.runtime.health import Health
from service.runtime.loop import cancelled
from service.store import progress
from service.store.progress import LastRecord, LostInputs, ProgressRow
from service.store.skipped_inputs import Skipped, read_skipped_inputs

LOCATE_SECONDS: Final = 1.0
"""Pause after an attempt that failed, and between two looks for partitions that have a leader again."""

_log = structlog.get_logger(__name__)


class Behind(Exception):
    """The database is behind its topics. The message says how far, in one line."""


class Locator:
    """Finds where to continue in the partitions of one consumer."""

    def __init__(
        self,
        kafka: Mapping[str, Any],
        database: Database,
        options: ConsumerOptions,
        assignment: Assignment,
        times: AppliedTimes,
        health: Health,
    ) -> None:
        self._kafka = kafka
        self._database = database
        self._options = options
        self._assignment = assignment
        self._times = times
        self._health = health
        self._together = True
        """Whether partitions are located all at once: after an error one by one, since only one may be at fault."""
        self._skipped: Skipped = {}
        self._compared: str | None = None
        """The server whose tables were compared with the output topics since the last refusal to write."""

    async def run(self) -> None:
        """Locate the partitions of which it is not known where to continue, until cancelled. The others are read.

        Raises Behind, and psycopg.Error where nothing may be written to the database.
        """
        changed = self._assignment.changed
        while True:
            changed.clear()
            waiting = asyncio.create_task(changed.wait())
            unknown = self._assignment.unknown
            locating = [asyncio.create_task(self._try_to_locate(unknown))] if unknown else []
            try:
                # A partition may get a leader at any time.
                timeout = None if locating else LOCATE_SECONDS
                await asyncio.wait([waiting, *locating], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                for task in locating:
                    if task.done():
                        task.result()
            finally:
                await cancelled([waiting, *locating])

    async def failed(self, error: psycopg.Error) -> None:
        """A transaction was refused: compare the tables with the output topics again before the next one."""
        self._compared = None
        if sqlstate_of(error) == BEHIND:
            await self._report(one_line(error))

    async def _report(self, why: str, records: int | None = None) -> None:
        """Note that the database is behind: all pods stop. Raises psycopg.Error."""
        async with self._database.transaction() as conn:
            await progress.report_behind(conn, why, records)
        _log.error("database_behind", why=why, records=records)

    async def _try_to_locate(self, unknown: Collection[Partition]) -> None:
        """Find where to continue in these partitions. An unavailable server is only reported: it is tried again."""
        some = [unknown] if self._together else [[each] for each in unknown]
        for partitions in some:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._locate(partitions)
            except (KafkaError, TimeoutError, psycopg.Error) as error:
                if is_refusal(error):
                    raise
                self._together = False
                self._health.set_error("consumer", f"the progress can not be compared: {describe(error)}")
                await asyncio.sleep(LOCATE_SECONDS)
            else:
                self._together = True

    async def _locate(self, partitions: Collection[Partition]) -> None:
        """Find and write where to continue in these partitions. Those that another pod has changed stay unknown.

        Raises Behind, KafkaError, TimeoutError, psycopg.Error.
        """
        known = await topic_partitions(self._kafka)
        inputs, outputs = known[INCOMING_TOPICS], known[OUTGOING_TOPICS]
        committed = await committed_offsets(self._kafka, self._options.group, inputs)
        check_group(self._options.group, self._options.of, committed)
        async with self._database.transaction() as conn:
            state = await progress.read_database_state(conn)
            rows = await progress.read_progress(conn)
            self._skipped = await read_skipped_inputs(conn)
        if state.error is not None:
            raise Behind(state.error)
        if self._options.replay:
            await self._begin_replay(partitions, committed)
            return
        own = {partition.tp: partition for partition in partitions}
        async with open_reader(self._kafka, whole_log=True) as reader:
            beginnings, ends = await reader.beginning_offsets(list(own)), await reader.end_offsets(list(own))
            compared = await compare(reader, {tp: row for tp, row in rows.items() if tp in own}, beginnings, ends)
            observed = {
                tp: Observed(
                    rows.get(tp),
                    committed[tp].offset if tp in committed and committed[tp].offset >= 0 else None,
                    committed_epoch(committed[tp].metadata or "") if tp in committed else None,
                    beginnings.get(tp, 0),
                    ends.get(tp, 0),
                    compared.get(tp, "unknown"),
                )
                for tp in inputs
            }
            if records := sum(map(records_behind, observed.values())):
                await self._stop(f"{records} records that the group has passed are not in it", records)
            if state.identity != self._compared and (events := await last_events(reader, outputs, self._options.of)):
                async with self._database.transaction() as conn:
                    unknown = await progress.count_unknown_events(conn, events)
                if unknown:
                    await self._stop(f"{unknown} of the last {len(events)} events that were published are not in it")
            if not rows and not state.has_batches and await _has_published(reader, outputs, self._options.of):
                await self._stop("it is empty, and the output topics have records")
        resumed = {tp: resume(observed[tp]) for tp in own if tp in observed}
        if state.identity != state.known_identity:
            async with self._database.transaction() as conn:
                if not await progress.adopt_server(conn, state):
                    return
        self._compared = state.identity
        for tp in await self._write(resumed, {tp: observed[tp].row for tp in resumed}):
            row, found = rows.get(tp), resumed[tp]
            # Only of a record that was found, since what follows a deleted one may be deleted, too, and only where a
            # previous release has not gone on from the row.
            last = row.record if row and row.next_offset == found.offset and observed[tp].record == "same" else None
            # A first offset says nothing, so it is not committed before there is progress.
            group_offset = beginnings[tp] if observed[tp].group_offset is None else observed[tp].group_offset
            self._continue(own[tp], found.offset, found.epoch, last, group_offset)

    async def _stop(self, why: str, records: int | None = None) -> NoReturn:
        await self._report(why, records)
        raise Behind(why)

    async def _begin_replay(
        self, partitions: Collection[Partition], committed: Mapping[TopicPartition, OffsetAndMetadata]
    ) -> None:
        """Continue at the group's offsets, or at the first records that there are."""
        tps = [partition.tp for partition in partitions]
        async with open_reader(self._kafka, whole_log=True) as reader:
            beginnings, ends = await reader.beginning_offsets(tps), await reader.end_offsets(tps)
        for partition in partitions:
            tp = partition.tp
            group_offset = committed[tp].offset if tp in committed else -1
            self._continue(partition, group_offset if beginnings[tp] <= group_offset <= ends[tp] else beginnings[tp])

    def _continue(
        self,
        partition: Partition,
        offset: int,
        epoch: int = 0,
        last: LastRecord | None = None,
        committed: int | None = None,
    ) -> None:
        if self._assignment.partitions.get(partition.tp) is partition:
            if epoch != partition.row_epoch:
                # Transactions of the epoch before keep the old object, and are refused.
                # Nor do the marks of the log before say anything of this one.
                partition = Partition(partition.tp)
                self._assignment.partitions[partition.tp] = partition
            partition.committed = committed
            some = self._skipped.get(partition.tp, ())
            partition.skipped = [each for each in some if each.epoch == epoch or self._options.replay]
            self._times.forget(partition.tp)
            first = partition.locate(offset, epoch, last, self._options.max_poll_records)
            self._assignment.membership.rewind(partition.tp, first)

    async def _write(
        self, resumed: Mapping[TopicPartition, Resumption], rows: Mapping[TopicPartition, ProgressRow | None]
    ) -> set[TopicPartition]:
        """Write the rows that change. Returns the partitions whose rows are as decided."""
        changed = [
            (tp, each.epoch, each.offset)
            for tp, each in resumed.items()
            if (row := rows[tp]) is None
            or row.previous_release
            or (row.epoch, row.next_offset) != (each.epoch, each.offset)
        ]
        if not changed:
            return set(resumed)
        async with self._database.transaction() as conn:
            await progress.check_server(conn)
            written = await progress.resume_progress(conn, changed)
            lost = [LostInputs(tp, *each.lost) for tp, each in resumed.items() if each.lost and tp in written]
            if lost:
                await progress.insert_lost_inputs(conn, lost)
        _report(written, {tp: each for tp, each in resumed.items() if rows[tp] is None}, lost)
        return written | (set(resumed) - {tp for tp, _, _ in changed})


async def _has_published(reader: AIOKafkaConsumer, tps: Sequence[TopicPartition], of: Slice) -> bool:
    """Whether this cell has published anything: the other cells write to the same topics."""
    if not of.is_all:
        return bool(await last_events(reader, tps, of))
    if not tps:  # the client would wait for ever
        return False
    beginnings, ends = await reader.beginning_offsets(tps), await reader.end_offsets(tps)
    return any(beginnings[tp] < ends[tp] for tp in tps)


def _report(
    written: Collection[TopicPartition], begun: Mapping[TopicPartition, Resumption], lost: Sequence[LostInputs]
) -> None:
    for tp, each in begun.items():
        if tp in written:
            _log.info("progress_begins", topic=tp.topic, partition=tp.partition, offset=each.offset)
    for loss in lost:
        metrics.LOST_INPUTS.labels(loss.partition.topic).inc(loss.next_offset - loss.first_offset)
        _log.error(
            "inputs_lost",
            topic=loss.partition.topic,
            partition=loss.partition.partition,
            first_offset=loss.first_offset,
            next_offset=loss.next_offset,
            cause=loss.cause,
        )
