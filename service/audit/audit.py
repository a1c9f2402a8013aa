"""Compares inputs, tables and outputs with each other, from the start of the topics. Changes nothing.

Fit for production: the tables are read in one snapshot, which ends when they are read. Work in progress meanwhile is
not a violation. Facts go to a temporary file and come back batch by batch, so that memory holds those of one batch. The
findings are valid because of the order of reading:

1. the offsets that the group has committed, and the ends of the output topics. The snapshot contains the effects of all
   records before them.
2. the snapshot. Everything that it records as announced is in the outbox, or on a topic by now.
3. the ends of all topics, up to which they are read.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final

from aiokafka import TopicPartition

from service.audit.checks import judge
from service.audit.findings import UNKNOWN, Finding, Knowledge
from service.domain.cells import Slice
from service.domain.delivery import fingerprint
from service.domain.events import Rejection
from service.domain.input_limits import InputLimits
from service.domain.topics import (
    INCOMING_TOPICS,
    OUTGOING_TOPICS,
)
from service.history.facts import KINDS, Fact, History, InputFact
from service.history.ledger import Ledger
from service.history.tables import read_tables
from service.history.topics import (
    committed_offsets,
    describe_input,
    event_of,
    open_reader,
    read_to_end,
    topic_partitions,
)
from service.kafka.deliveries import TopicRecord, decode_own
from service.postgres.pool import Database
from service.postgres.session import Timeouts
from service.store.recovery import read_incomplete_batches
from service.store.skipped_inputs import is_skipped, read_skipped_inputs

TIMEOUTS: Final = Timeouts(statement_timeout=3_600_000, transaction_timeout=3_600_000)
"""For the transaction that reads the tables: longer than for a poll, but bounded, since a snapshot keeps dead rows."""
EXAMPLES: Final = 20
"""How many findings of the rule `unknown` a report shows."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What the audit must know about the environment. Times are in seconds, sizes in bytes."""

    group: str
    limits: InputLimits
    shortest_retention: float
    whole: bool = False
    """Whether the topics still contain everything that was ever published: what is missing is then a violation."""
    clocks_apart: float = 5.0


@dataclass(slots=True)
class Report:
    """What was read and found. `violations` counts all violations by rule, `findings` contains the first of them."""

    counts: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    unknown: int = 0
    examples: list[Finding] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.violations

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "clean": self.clean,
            "violations": dict(self.violations),
            "findings": [finding._asdict() for finding in self.findings],
            "unknown": self.unknown,
            "examples_of_unknown": [finding._asdict() for finding in self.examples],
            "counts": dict(self.counts),
        }

    def add(self, finding: Finding, most: int) -> None:
        """Count a finding, and keep it while there are fewer than `most`."""
        if finding.rule == UNKNOWN:
            self.unknown += 1
            if len(self.examples) < EXAMPLES:
                self.examples.append(finding)
            return
        self.violations[finding.rule] += 1
        if len(self.findings) < most:
            self.findings.append(finding)


async def audit(database: Database, kafka: Mapping[str, Any], scope: Scope, *, most: int = 1_000) -> Report:
    """Compare inputs, tables and outputs, and report at most `most` findings.

    Raises psycopg.Error or KafkaError where a server is unavailable.
    """
    report = Report()
    with Ledger(KINDS) as ledger:
        async with open_reader(kafka) as reader:
            partitions = await topic_partitions(kafka)
            committed = await committed_offsets(kafka, scope.group, partitions[INCOMING_TOPICS])
            settled = await reader.end_offsets(partitions[OUTGOING_TOPICS])
            now = await read_tables(database, ledger, report.counts, scope.limits)
            kept_since = now.timestamp() - scope.shortest_retention
            records = _Records(
                ledger,
                report,
                scope,
                database.slice,
                {tp: known.offset for tp, known in committed.items()} | settled,
                kept_since,
                most,
            )
            async with database.transaction() as conn:
                skipped = await read_skipped_inputs(conn)
            both = [*partitions[INCOMING_TOPICS], *partitions[OUTGOING_TOPICS]]
            beginnings = await read_to_end(reader, both, records.add, scope.limits, partial(is_skipped, skipped))
        async with database.transaction() as conn:
            incomplete = frozenset(batch_id for batch_id, _ in await read_incomplete_batches(conn))
        known = Knowledge(
            records.reach(beginnings), kept_since, ledger.quarantine_state, scope.clocks_apart, incomplete
        )
        for batch_id, facts in ledger.batches():
            report.counts["batches and what waits for one"] += 1
            for finding in judge(History.of(batch_id, facts), known):
                report.add(finding, most)
    return report


class _Records:
    """Adds the records of the topics to the ledger, as facts."""

    def __init__(
        self,
        ledger: Ledger,
        report: Report,
        scope: Scope,
        of: Slice,
        bounds: Mapping[TopicPartition, int],
        kept_since: float,
        most: int,
    ) -> None:
        """The snapshot of the tables contains the effects of all records before the offsets in `bounds`."""
        self._ledger = ledger
        self._report = report
        self._scope = scope
        self._slice = of
        self._bounds = bounds
        self._kept_since = kept_since
        self._most = most
        self._since: dict[str, float] = {}

    def add(self, records: Sequence[TopicRecord]) -> None:
        """Add records of one partition."""
        self._ledger.add([fact for record in records for fact in self._facts(record)])

    def reach(self, beginnings: Mapping[TopicPartition, int]) -> Mapping[str, float]:
        """Return since when each topic is complete: infinity for a topic whose first records are deleted."""
        if self._scope.whole:
            return dict.fromkeys([*INCOMING_TOPICS, *OUTGOING_TOPICS], 0.0)
        trimmed = {tp.topic: float("inf") for tp, beginning in beginnings.items() if beginning > 0}
        return {**self._since, **trimmed}

    def _facts(self, record: TopicRecord) -> Iterator[tuple[str, Fact]]:
        settled = record.offset < self._bounds.get(TopicPartition(record.topic, record.partition), 0)
        self._report.counts[f"records of {record.topic}"] += 1
        if record.topic in INCOMING_TOPICS:
            yield from self._input(record, settled)
        else:
            yield from self._output(record, settled)

    def _input(self, record: TopicRecord, done: bool) -> Iterator[tuple[str, Fact]]:
        at = record.timestamp / 1000
        delivery = decode_own(record.topic, record.partition, record, self._scope.limits, self._slice)
        if delivery is None:
            self._report.counts["inputs of other cells"] += 1
            return
        digest = fingerprint(delivery).hex()
        self._note_time(record.topic, at)
        if not done:
            self._report.counts["inputs not yet done with"] += 1
        if isinstance(delivery.event, Rejection):
            self._check_quarantined(record, done, digest, delivery.event)
            return
        subject, content_digest = describe_input(delivery.event)
        yield delivery.event.batch_id, InputFact(record.topic, subject, content_digest, at, done, digest)

    def _check_quarantined(self, record: TopicRecord, done: bool, digest: str, rejection: Rejection) -> None:
        self._report.counts["inputs rejected"] += 1
        if not done or self._ledger.quarantine_state(record.topic, digest) is not None:
            return
        rule = UNKNOWN if 0 <= record.timestamp / 1000 < self._kept_since else "I8"
        place = f"{record.topic}/{record.partition} at {record.offset}"
        self._report.add(Finding(rule, "", f"{place} is invalid ({rejection.reason}), not in quarantine"), self._most)

    def _output(self, record: TopicRecord, settled: bool) -> Iterator[tuple[str, Fact]]:
        at = record.timestamp / 1000
        found = event_of(record.topic, record.key, record.value, record.partition, record.offset, at, settled=settled)
        if found is None:
            self._report.counts["records that are not ours"] += 1
            return
        if not self._slice.holds(found[0]):
            self._report.counts["events of other cells"] += 1
            return
        self._note_time(record.topic, datetime.fromisoformat(found[1].stamp).timestamp())
        yield found

    def _note_time(self, topic: str, at: float) -> None:
        if at >= 0:  # else the record is unreadable and has no time
            self._since[topic] = min(at, self._since.get(topic, at))
