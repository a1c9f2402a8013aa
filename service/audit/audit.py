"""Inputs, tables and outputs held against each other, from the start of the topics; nothing is changed.

Fit for production. The tables are read in one snapshot, which lasts no longer than that, the topics before and after
it; what is under way meanwhile is no violation. Facts go to a file, sorted there by batch, so that memory holds the
facts of one batch at a time. The order of reading is what makes the verdicts hold:

1. the offsets that the group has committed, and the ends of the outgoing topics: all of this is in the snapshot
2. the snapshot: all that it says was told is in the outbox, or on a topic by now
3. the ends of all topics: so far they are read
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, cast

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaTimeoutError
from psycopg import AsyncConnection

from service.audit import checks as history
from service.audit.checks import UNKNOWN, Finding, Knowledge
from service.domain import delivery as delivery_
from service.domain import events as events_
from service.domain import incoming as events
from service.domain.delivery import Delivery
from service.domain.events import Reason, Refusal
from service.domain.topics import (
    INCOMING_TOPICS,
    OUTGOING_TOPICS,
)
from service.history import facts as facts_
from service.history.facts import Came, Event, Fact, History, digest
from service.history.ledger import Ledger
from service.history.topics import (
    BEYOND_SECONDS,
    IDLE_MS,
    STALLED_SECONDS,
    _committed,
    _event,
    _partitions,
    _reader,
    _said,
)
from service.kafka.record_batches import Unreadable
from service.postgres.pool import Database
from service.postgres.session import Timeouts
from service.postgres.statements import STATEMENTS

PAGE: Final = 5_000
TIMEOUTS: Final = Timeouts(statement_timeout=3_600_000, transaction_timeout=3_600_000)
"""Its one transaction may take longer than what a poll asks for; not for ever, since its snapshot keeps dead rows."""
EXAMPLES: Final = 20
"""Of what is unknown so many are shown."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What the audit is told about the world. Seconds and bytes."""

    group: str
    max_bytes: Mapping[str, int]
    shortest_retention: float
    whole: bool = False
    """The topics have everything that was ever on them: what is missing there is a violation, not unknown."""
    clocks_apart: float = 5.0


@dataclass(slots=True)
class Report:
    """What was read and found. `findings` has at most as many as were asked for, `violations` counts all."""

    counts: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    unknown: int = 0
    examples: list[Finding] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.violations

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "clean": self.clean,
            "violations": dict(self.violations),
            "findings": [finding._asdict() for finding in self.findings],
            "unknown": self.unknown,
            "examples_of_unknown": [finding._asdict() for finding in self.examples],
            "counts": dict(self.counts),
        }

    def add(self, finding: Finding, most: int) -> None:
        """Count it, and keep it while there is room."""
        if finding.rule == UNKNOWN:
            self.unknown += 1
            if len(self.examples) < EXAMPLES:
                self.examples.append(finding)
            return
        self.violations[finding.rule] += 1
        if len(self.findings) < most:
            self.findings.append(finding)


async def audit(database: Database, kafka: Mapping[str, Any], scope: Scope, *, most: int = 1_000) -> Report:
    """Hold everything against everything. Raises psycopg.Error and KafkaError where one of them is away."""
    report = Report()
    with Ledger() as ledger:
        async with open_reader(kafka) as reader:
            partitions = await topic_partitions(kafka)
            committed = await committed_offsets(kafka, scope.group, partitions[INCOMING_TOPICS])
            settled = await reader.end_offsets(partitions[OUTGOING_TOPICS])
            now = await _read_tables(database, ledger, report.counts)
            kept_since = now.timestamp() - scope.shortest_retention
            reading = _Reading(ledger, report, scope, {**committed, **settled}, kept_since, most)
            await reading.read(reader, [*partitions[INCOMING_TOPICS], *partitions[OUTGOING_TOPICS]])
        known = Knowledge(reading.since, kept_since, ledger.quarantined, scope.clocks_apart)
        for batch_id, facts in ledger.batches():
            report.counts["batches and what waits for one"] += 1
            for finding in history.judge(History.of(batch_id, facts), known):
                report.add(finding, most)
    return report


# -- the ledger


# -- the tables


async def _read_tables(database: Database, ledger: Ledger, counts: Counter[str]) -> datetime:
    """Everything as one snapshot has it; returns its moment, by the database's clock."""
    async with database.transaction() as conn:
        await conn.execute("set transaction isolation level repeatable read, read only")
        cursor = await conn.execute(STATEMENTS["begin_audit"])
        ((moment,),) = await cursor.fetchall()
        for table, fact in _TABLES.items():
            async for page in _pages(conn, f"audit_{table}"):
                ledger.add([(each[0], fact(*each)) for each in page])
                counts[f"rows of {table}"] += len(page)
        async for page in _pages(conn, "audit_quarantine"):
            ledger.refuse([(topic, fingerprint.hex(), state) for topic, fingerprint, state in page])
            counts["rows of quarantine"] += len(page)
        return cast("datetime", moment)


async def _pages(conn: AsyncConnection[Any], statement: str) -> AsyncIterator[list[Any]]:
    async with conn.cursor(name=statement) as cursor:
        await cursor.execute(STATEMENTS[statement])
        while page := await cursor.fetchmany(PAGE):
            yield page


def _batch(
    _: str, essay_set: bytes, expected: int, assigned: int, failed: int, state: str, *times: datetime | None
) -> facts_.Batch:
    registered_at, completed_at, timed_out_at = map(_seconds, times)
    return facts_.Batch(
        essay_set.hex(), expected, assigned, failed, state, registered_at or 0.0, completed_at, timed_out_at
    )


def _slot(
    _: str,
    essay_id: str,
    position: int,
    state: str,
    text: str | None,
    upload: str | None,
    name: str,
    file: list[Any],
    origin: list[Any],
    taken_at: datetime | None,
    written_by: int,
) -> facts_.Slot:
    says, told = digest(upload, name, *file, *origin), digest(essay_id, text, upload, name, *origin)
    return facts_.Slot(essay_id, position, state, text, upload, says, told, _seconds(taken_at), written_by)


def _waiting(
    _: str,
    text: str,
    state: str,
    upload: str,
    name: str,
    file: list[Any],
    origin: list[Any],
    stored_at: datetime,
    closed_at: datetime | None,
) -> facts_.Waiting:
    says, told = digest(upload, name, *file, *origin), digest(text, upload, name, *origin)
    return facts_.Waiting(text, state, says, told, stored_at.timestamp(), _seconds(closed_at))


def _excess(
    _: str, text: str, reason: str, upload: str, name: str, file: list[Any], origin: list[Any], declared_at: datetime
) -> facts_.Excess:
    says, told = digest(upload, name, *file, *origin), digest(text, name, reason, *origin)
    return facts_.Excess(text, says, told, declared_at.timestamp())


def _failure(_: str, upload: str, state: str, stored_at: datetime) -> facts_.Failure:
    return facts_.Failure(upload, state, stored_at.timestamp())


def _in_outbox(batch_id: str, topic: str, payload: str, seq: int, created_at: datetime) -> Event:
    event = event_of(topic, batch_id.encode(), payload.encode(), -1, seq, created_at.timestamp(), settled=False)
    if event is None:
        raise ValueError(f"row {seq} of the outbox is no event of ours")
    return event[1]


_TABLES: Final[Mapping[str, Callable[..., Fact]]] = {
    "batches": _batch,
    "slots": _slot,
    "pending_content": _waiting,
    "excess_content": _excess,
    "validation_failures": _failure,
    "outbox": _in_outbox,
}


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


# -- the topics


class _Reading:
    """The topics from their beginning to their end, as facts."""

    def __init__(
        self,
        ledger: Ledger,
        report: Report,
        scope: Scope,
        bounds: Mapping[TopicPartition, int],
        kept_since: float,
        most: int,
    ) -> None:
        self._ledger = ledger
        self._report = report
        self._scope = scope
        self._bounds = bounds
        """What is before these offsets is in the snapshot."""
        self._kept_since = kept_since
        self._most = most
        self.since: dict[str, float] = {}

    async def read(self, reader: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> None:
        """All records that are there now."""
        reader.assign(partitions)
        beginnings = await reader.beginning_offsets(partitions)
        ends = await reader.end_offsets(partitions)
        for tp, beginning in beginnings.items():
            reader.seek(tp, beginning)
        clock = asyncio.get_running_loop().time
        left, moved = set(partitions), clock()
        page: dict[TopicPartition, list[ConsumerRecord]] = {}
        while left or (page and clock() < moved + BEYOND_SECONDS):
            page = await reader.getmany(timeout_ms=IDLE_MS)
            for some in page.values():
                self._ledger.add([fact for record in some for fact in self._facts(record)])
            if left and page:
                moved = clock()
            elif left and clock() > moved + STALLED_SECONDS:
                raise KafkaTimeoutError(f"{min(left)} brings nothing for {STALLED_SECONDS:.0f} s")
            left = {tp for tp in left if await reader.position(tp) < ends[tp]}
        self._reach(beginnings)

    def _reach(self, beginnings: Mapping[TopicPartition, int]) -> None:
        """A topic whose start was cut reaches back to nowhere, as far as can be told."""
        for tp, beginning in beginnings.items():
            if beginning > 0:
                self.since[tp.topic] = float("inf")
        if self._scope.whole:
            self.since = dict.fromkeys([*INCOMING_TOPICS, *OUTGOING_TOPICS], 0.0)

    def _facts(self, record: ConsumerRecord) -> Iterator[tuple[str, Fact]]:
        settled = record.offset < self._bounds.get(TopicPartition(record.topic, record.partition), 0)
        self._report.counts[f"records of {record.topic}"] += 1
        if record.topic in INCOMING_TOPICS:
            yield from self._came(record, settled)
        else:
            yield from self._told(record, settled)

    def _came(self, record: ConsumerRecord, done: bool) -> Iterator[tuple[str, Fact]]:
        at = record.timestamp / 1000
        event = self._decoded(record)
        delivery = Delivery(
            record.topic, record.partition, record.offset, record.key, record.value, record.headers, event
        )
        fingerprint = delivery_.fingerprint(delivery).hex()
        self._since(record.topic, at)
        if not done:
            self._report.counts["inputs not yet done with"] += 1
        if isinstance(event, Refusal):
            self._refused(record, done, fingerprint, event)
            return
        about, says = what_input_says(event)
        yield event.batch_id, Came(record.topic, about, says, at, done, fingerprint)

    def _decoded(self, record: ConsumerRecord) -> events_.Incoming | Refusal:
        if isinstance(record.value, Unreadable):
            return Refusal(Reason.UNREADABLE, record.value.why)
        return events.decode(record.topic, record.value, max_bytes=self._scope.max_bytes[record.topic])

    def _refused(self, record: ConsumerRecord, done: bool, fingerprint: str, refusal: Refusal) -> None:
        self._report.counts["inputs refused"] += 1
        if not done or self._ledger.quarantined(record.topic, fingerprint) is not None:
            return
        rule = UNKNOWN if 0 <= record.timestamp / 1000 < self._kept_since else "I8"
        place = f"{record.topic}/{record.partition} at {record.offset}"
        self._report.add(Finding(rule, "", f"{place} is no input ({refusal.reason}), not in quarantine"), self._most)

    def _told(self, record: ConsumerRecord, settled: bool) -> Iterator[tuple[str, Fact]]:
        at = record.timestamp / 1000
        found = event_of(record.topic, record.key, record.value, record.partition, record.offset, at, settled=settled)
        if found is None:
            self._report.counts["records that are not ours"] += 1
            return
        self._since(record.topic, datetime.fromisoformat(found[1].stamp).timestamp())
        yield found

    def _since(self, topic: str, at: float) -> None:
        if at >= 0:  # else the record is unreadable and tells no time
            self.since[topic] = min(at, self.since.get(topic, at))
