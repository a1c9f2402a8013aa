"""Compares inputs, tables and outputs with each other, from the start of the topics. Changes nothing.

Fit for production: the tables are read in one snapshot, which ends when they are read. Work in progress meanwhile is
not a violation. Facts go to a temporary file and come back batch by batch, so that memory holds those of one batch. The
findings are valid because of the order of reading:

1. the offsets that the group has committed, and the ends of the output topics. The snapshot contains the effects of all
   records before them.
2. the snapshot. Everything that it records as announced is in the outbox, or on a topic by now.
3. the ends of all topics, up to which they are read.

Several cells are audited together: the topics are read once, and each batch is judged with the tables of its own cell.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import psycopg
from aiokafka import TopicPartition

from service.audit.checks import judge
from service.audit.findings import Finding, Knowledge
from service.audit.places import elsewhere
from service.audit.records import CellTables, TopicRecords
from service.audit.report import AuditedCell, Report, Scope
from service.domain.cells import cell_of
from service.domain.topics import INCOMING_TOPICS, OUTGOING_TOPICS
from service.history.facts import KINDS, ElsewhereFact, History
from service.history.ledger import Ledger
from service.history.tables import read_tables
from service.history.topics import committed_offsets, open_reader, read_to_end, topic_partitions
from service.postgres.session import Timeouts
from service.runtime.errors import one_line
from service.store.recovery import read_incomplete_batches
from service.store.skipped_inputs import read_skipped_inputs

TIMEOUTS: Final = Timeouts(statement_timeout=3_600_000, transaction_timeout=3_600_000)
"""For the transaction that reads the tables: longer than for a poll, but bounded, since a snapshot keeps dead rows."""


async def audit(
    cells: Sequence[AuditedCell],
    kafka: Mapping[str, Any],
    scope: Scope,
    *,
    most: int = 1_000,
    not_audited: Mapping[int, str] | None = None,
) -> Report:
    """Compare inputs, tables and outputs, and report at most `most` findings.

    `not_audited` are cells that could not be asked. One whose database fails meanwhile is reported likewise, and its
    batches are not judged. Raises psycopg.Error where all databases are unavailable, KafkaError for the broker.
    """
    report = Report(most, not_audited=dict(not_audited or {}))
    with Ledger(KINDS) as ledger:
        async with open_reader(kafka) as reader:
            partitions = await topic_partitions(kafka)
            inputs, outputs = partitions[INCOMING_TOPICS], partitions[OUTGOING_TOPICS]
            committed = [await committed_offsets(kafka, each.group, inputs) for each in cells]
            settled = await reader.end_offsets(outputs)
            offsets = [{tp: known.offset for tp, known in each.items()} for each in committed]
            read = partial(_read_cell, ledger=ledger, report=report, scope=scope)
            tables = _by_cell(cells, await asyncio.gather(*map(read, cells, offsets), return_exceptions=True), report)
            records = TopicRecords(ledger, report, scope, tables, settled)
            beginnings = await read_to_end(reader, [*inputs, *outputs], records.add, scope.limits, records.is_skipped)
        since = records.reach(beginnings)
        reading = [each for each in cells if each.number in tables]
        found = await asyncio.gather(*map(_incomplete_batches, reading), return_exceptions=True)
        known = {
            cell: Knowledge(
                since,
                tables[cell].kept_since,
                partial(ledger.quarantine_state, cell),
                scope.clocks_apart,
                incomplete,
            )
            for cell, incomplete in _by_cell(reading, found, report).items()
        }
        _judge(ledger, report, scope, known)
    return report


async def _read_cell(
    cell: AuditedCell, committed: Mapping[TopicPartition, int], *, ledger: Ledger, report: Report, scope: Scope
) -> CellTables:
    """Add the rows of a cell to the ledger. Raises psycopg.Error."""
    now = await read_tables(cell.database, ledger, report.counts, scope.limits)
    async with cell.database.transaction() as conn:
        return CellTables(committed, now.timestamp() - scope.shortest_retention, await read_skipped_inputs(conn))


async def _incomplete_batches(cell: AuditedCell) -> frozenset[str]:
    """Return the batches whose registration a recovery has found in no topic. Raises psycopg.Error."""
    async with cell.database.transaction() as conn:
        return frozenset(batch_id for batch_id, _ in await read_incomplete_batches(conn))


def _by_cell(cells: Sequence[AuditedCell], found: Sequence[Any], report: Report) -> dict[int, Any]:
    """Return what was read, by cell, and report whose database has failed.

    Raises the first error that is not one of a database, or where nothing was read.
    """
    errors = [each for each in found if isinstance(each, BaseException)]
    for error in errors:
        if len(errors) == len(found) or not isinstance(error, psycopg.Error):
            raise error
    read = {}
    for cell, each in zip(cells, found, strict=True):
        if isinstance(each, BaseException):
            report.not_audited[cell.number] = one_line(each)
        else:
            read[cell.number] = each
    return read


def _judge(ledger: Ledger, report: Report, scope: Scope, known: Mapping[int, Knowledge]) -> None:
    for batch_id, facts in ledger.batches():
        knowledge = known.get(scope.cells[cell_of(batch_id, len(scope.cells))])
        if knowledge is None:  # its own cell is not audited: what is known of it may be incomplete
            history = History.of(batch_id, (fact for fact in facts if isinstance(fact, ElsewhereFact)))
            report.add(*(Finding(rule, batch_id, detail) for rule, detail in elsewhere(history, Knowledge({}))))
            continue
        report.counts["batches and what waits for one"] += 1
        report.add(*judge(History.of(batch_id, facts), knowledge))
