"""Adds the records of the topics to the ledger, as facts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from aiokafka import TopicPartition

from service.audit.findings import UNKNOWN, Finding
from service.audit.report import Report, Scope
from service.domain.cells import cell_of
from service.domain.delivery import fingerprint
from service.domain.events import Rejection
from service.domain.topics import INCOMING_TOPICS, OUTGOING_TOPICS
from service.history.facts import Fact, InputFact
from service.history.ledger import Ledger
from service.history.topics import describe_input, event_of
from service.kafka.deliveries import TopicRecord, decode_of_cells
from service.store.skipped_inputs import Skipped, is_skipped


@dataclass(frozen=True, slots=True)
class CellTables:
    """What is known of a cell whose tables were read. They contain the effects of all inputs before `committed`."""

    committed: Mapping[TopicPartition, int]
    kept_since: float
    skipped: Skipped


class TopicRecords:
    """Adds records to the ledger: those that belong to the cells whose tables were read."""

    def __init__(
        self,
        ledger: Ledger,
        report: Report,
        scope: Scope,
        cells: Mapping[int, CellTables],
        settled: Mapping[TopicPartition, int],
    ) -> None:
        """All tables were read after the output topics had reached `settled`."""
        self._ledger = ledger
        self._report = report
        self._scope = scope
        self._cells = cells
        self._settled = settled
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

    def is_skipped(self, tp: TopicPartition, first: int, last: int) -> bool:
        """Return whether all of these cells skip these offsets: perhaps they cannot be fetched."""
        return all(is_skipped(tables.skipped, tp, first, last) for tables in self._cells.values())

    def _facts(self, record: TopicRecord) -> Iterator[tuple[str, Fact]]:
        self._report.counts[f"records of {record.topic}"] += 1
        if record.topic in INCOMING_TOPICS:
            yield from self._input(record)
        else:
            yield from self._output(record)

    def _input(self, record: TopicRecord) -> Iterator[tuple[str, Fact]]:
        tp, at = TopicPartition(record.topic, record.partition), record.timestamp / 1000
        found = decode_of_cells(tp.topic, tp.partition, record, self._scope.limits, self._scope.cells, self._cells)
        if found is None:
            self._report.counts["inputs of other cells"] += 1
            return
        cell, delivery = found
        tables = self._cells[cell]
        if is_skipped(tables.skipped, tp, record.offset, record.offset):
            return
        digest, done = fingerprint(delivery).hex(), record.offset < tables.committed.get(tp, 0)
        self._note_time(record.topic, at)
        if not done:
            self._report.counts["inputs not yet done with"] += 1
        if isinstance(delivery.event, Rejection):
            self._check_quarantined(record, cell, done, digest, delivery.event)
            return
        subject, content_digest = describe_input(delivery.event)
        yield delivery.event.batch_id, InputFact(record.topic, subject, content_digest, at, done, digest)

    def _check_quarantined(self, record: TopicRecord, cell: int, done: bool, digest: str, rejection: Rejection) -> None:
        self._report.counts["inputs rejected"] += 1
        if not done or self._ledger.quarantine_state(cell, record.topic, digest) is not None:
            return
        rule = UNKNOWN if 0 <= record.timestamp / 1000 < self._cells[cell].kept_since else "I8"
        place = f"{record.topic}/{record.partition} at {record.offset}"
        of = "" if len(self._scope.cells) == 1 else f" of cell {cell}"
        self._report.add(Finding(rule, "", f"{place} is invalid ({rejection.reason}), not in quarantine{of}"))

    def _output(self, record: TopicRecord) -> Iterator[tuple[str, Fact]]:
        at = record.timestamp / 1000
        settled = record.offset < self._settled.get(TopicPartition(record.topic, record.partition), 0)
        found = event_of(record.topic, record.key, record.value, record.partition, record.offset, at, settled=settled)
        if found is None:
            self._report.counts["records that are not ours"] += 1
            return
        if self._scope.cells[cell_of(found[0], len(self._scope.cells))] not in self._cells:
            self._report.counts["events of other cells"] += 1
            return
        self._note_time(record.topic, datetime.fromisoformat(found[1].stamp).timestamp())
        yield found

    def _note_time(self, topic: str, at: float) -> None:
        if at >= 0:  # else the record is unreadable and has no time
            self._since[topic] = min(at, self._since.get(topic, at))
