"""Brings a database that is behind its topics, or empty, up to date with them: docs/decisions/0013-recovery.md.

1. The state is noted: pods leave the group, relays stop. Recovery waits until nothing can be published any more.
2. The output topics are read, then the inputs that the database lacks, into a temporary file sorted by batch. Content
   that operators have removed in the lost time is stored as removed.
3. Batch by batch, the tables are made to state what was announced.
4. The inputs are applied by the regular decisions: those that were announced are repeats now.
5. The output topics' ends are read again; where they have grown, everything from 2 on is repeated.
6. The group's offsets follow the rows of the database, and the state ends.

Each transaction can be repeated, so a recovery that is killed begins again with 1.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

import psycopg
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from service.domain.delivery import Delivery, IntakeLimits, fingerprint
from service.domain.events import ContentProvisioned
from service.domain.input_limits import InputLimits
from service.domain.topics import INCOMING_TOPICS, OUTGOING_TOPICS
from service.history.comparison import compare
from service.history.ledger import Ledger
from service.history.resumption import Observed, Resumption, resume
from service.history.topics import open_reader, topic_partitions
from service.intake.intake import Intake
from service.intake.outcome import Effects, Outcome
from service.intake.reporting import report as report_effects
from service.kafka.deliveries import IsSkipped
from service.postgres.errors import is_refusal
from service.postgres.pool import Database
from service.recovery import state
from service.recovery.acts import Act, lost_acts
from service.recovery.blanking import blank_rejected, blank_stored
from service.recovery.facts import RECORDS, Published
from service.recovery.placement import UNLIMITED, Facts, pages, place
from service.recovery.preparation import prepare, skipped_by_operators
from service.recovery.reading import (
    first_times,
    input_pages,
    kept_since,
    output_starts,
    read_inputs,
    read_outputs,
    records_between,
    unreached,
)
from service.recovery.state import QUIET_SECONDS, NotRecoverable, Partitions, Recovering
from service.runtime.health import Health
from service.store import progress, recovery, slots
from service.store.operator_actions import Operator, Subject
from service.store.progress import LastRecord, LostInputs, ProgressRow, time_of

LISTED: Final = 1_000
"""How many contradictions and incomplete batches a report lists."""

PAGES_AT_ONCE: Final = 2
"""How many pages of batches are written at the same time."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RecoveryOptions:
    """How to recover. `log` is called with the progress, a line each time."""

    group: str
    limits: IntakeLimits
    input_limits: InputLimits
    by: Operator
    accept_unknown: bool = False
    dry_run: bool = False
    acts: Sequence[Act] = ()
    """Operator actions of the lost time, in the order of their times."""
    quiet_seconds: float = QUIET_SECONDS
    log: Callable[[str], None] = lambda _: None


@dataclass(slots=True)
class Recovered:
    """What a recovery did, or would do."""

    why: str
    """Why the database was behind."""
    counts: Counter[str] = field(default_factory=Counter)
    contradictions: list[tuple[str, str]] = field(default_factory=list)
    """(batch id, what): announcements that contradict earlier ones, and do not count."""
    incomplete: list[str] = field(default_factory=list)
    """Batches that were announced, and whose registration is in no topic."""
    paused: frozenset[str] = frozenset()
    """Input topics that are paused: their records wait for an operator, as before."""

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "behind": self.why,
            "counts": dict(self.counts),
            "contradictions": [{"batch_id": batch_id, "what": what} for batch_id, what in self.contradictions],
            "incomplete": self.incomplete,
            "paused": sorted(self.paused),
        }


async def recover(database: Database, kafka: Mapping[str, Any], options: RecoveryOptions) -> Recovered:
    """Recover the database. Raises NotRecoverable, KafkaError, TimeoutError, psycopg.Error."""
    try:
        return await _recover(database, kafka, options)
    except psycopg.Error as error:
        if is_refusal(error):
            raise NotRecoverable(str(error.diag.message_primary)) from None
        raise


async def _recover(database: Database, kafka: Mapping[str, Any], options: RecoveryOptions) -> Recovered:
    known = await topic_partitions(kafka)
    inputs, outputs = known[INCOMING_TOPICS], known[OUTGOING_TOPICS]
    async with open_reader(kafka) as reader:
        # Before anything is noted: a database that is not behind goes on where the recovery is refused.
        recovering = await state.begin(database, dry_run=True)
        known_since = await _known_since(reader, outputs, recovering, accept_unknown=options.accept_unknown)
        if not options.dry_run:
            recovering = await state.begin(database)
        resumed = await _resumed(kafka, inputs, recovering.rows)
        run = _Run(recovering, reader, (inputs, outputs), resumed, known_since, options)
        if not options.dry_run:
            options.log("waiting until no pod applies and no relay publishes")
            await state.await_silence(
                recovering, kafka, options.group, run.output_ends, quiet_seconds=options.quiet_seconds
            )
        ends = None
        while ends != (ends := await run.output_ends()):
            await run.recover(ends)
            if options.dry_run:
                return run.report
    options.log("committing where the pods continue")
    details = {"why_behind": recovering.why, **run.report.counts}
    await state.finish(recovering, kafka, options.group, inputs, options.by, Subject(details=details))
    return run.report


async def _known_since(
    reader: AIOKafkaConsumer, outputs: Sequence[TopicPartition], recovering: Recovering, *, accept_unknown: bool
) -> datetime:
    """Return since when all announcements are known.

    Raises NotRecoverable where some may be missing that the database lacks.
    """
    until = recovering.begun.known_until
    times = await first_times(reader, outputs) if outputs else {}
    if (missing := unreached(times, until)) and not accept_unknown:
        raise NotRecoverable(
            f"{missing[0].topic}/{missing[0].partition} and {len(missing) - 1} other partitions of output topics do not"
            f" reach back to {until.isoformat(timespec='seconds') if until else 'an unknown time'}: what was announced"
            " is not known; --accept-unknown recovers without it"
        )
    return kept_since(times, until, recovering.begun.since)


async def _resumed(
    kafka: Mapping[str, Any], inputs: Sequence[TopicPartition], rows: Mapping[TopicPartition, ProgressRow]
) -> dict[TopicPartition, Resumption]:
    """Return where to continue behind the rows of these partitions, as a pod does that takes them over."""
    there = {tp: row for tp, row in rows.items() if tp in inputs}
    async with open_reader(kafka, whole_log=True) as reader:
        beginnings, ends = await reader.beginning_offsets(inputs), await reader.end_offsets(inputs)
        compared = await compare(reader, there, beginnings, ends)
    return {
        tp: resume(Observed(row, None, None, beginnings[tp], ends[tp], compared.get(tp, "unknown")))
        for tp, row in there.items()
    }


class _Run:
    """One process's work on a recovery."""

    def __init__(
        self,
        recovering: Recovering,
        reader: AIOKafkaConsumer,
        partitions: tuple[Sequence[TopicPartition], Sequence[TopicPartition]],
        resumed: Mapping[TopicPartition, Resumption],
        known_since: datetime,
        options: RecoveryOptions,
    ) -> None:
        """`partitions` are those of the input topics and of the output topics."""
        self._recovering, self._reader, self._options = recovering, reader, options
        (self._inputs, self._outputs), self._resumed, self._known_since = partitions, resumed, known_since
        self._acts = lost_acts(options.acts, options.input_limits)
        self._slice = recovering.database.slice
        self.report = Recovered(recovering.why)

    async def output_ends(self) -> Partitions:
        """Return the ends of the output topics."""
        ends: Partitions = await self._reader.end_offsets(self._outputs) if self._outputs else {}
        return ends

    async def recover(self, ends: Partitions) -> None:
        """Read the topics, write what was announced, and apply the inputs."""
        beginnings = await self._reader.beginning_offsets(self._inputs)
        input_ends = await self._reader.end_offsets(self._inputs)
        starts = dict(beginnings)
        if not self._recovering.reads_everything:
            starts |= {tp: each.offset for tp, each in self._resumed.items()}
        self.report.counts["inputs to read"] = records_between(starts, input_ends)
        # These are found anew in each pass; what is written is written once.
        self.report.counts["contradictions"] = self.report.counts["incomplete"] = 0
        self.report.contradictions, self.report.incomplete = [], []
        log, limits = self._options.log, self._options.input_limits
        skipped = await skipped_by_operators(self._recovering, self._acts, self._resumed, dry_run=self._options.dry_run)
        if not self._options.dry_run and (erased := await blank_stored(self._recovering.transaction)):
            self.report.counts["erased batches"] = erased
        with Ledger(RECORDS) as ledger:
            log("reading the output topics")
            since = await output_starts(self._reader, self._outputs, self._recovering.begun.known_until)
            highest = await read_outputs(
                self._reader, ledger, since, ends, self._counter("read {} announcements"), self._slice
            )
            log("reading the inputs")
            count, note = self._counter("read {} inputs"), self._acts.note
            await read_inputs(self._reader, ledger, starts, input_ends, limits, note, count, skipped, self._slice)
            ledger.add(self._acts.edited)
            async with self._recovering.database.transaction() as conn:
                for batch_id, announcements in await recovery.read_incomplete_batches(conn):
                    ledger.add([(batch_id, Published(*each)) for each in announcements])
            if not self._options.dry_run:
                async with self._recovering.transaction() as conn:
                    await recovery.advance_outbox(conn, highest)
                await prepare(self._recovering, self._acts)
            log("writing what was announced")
            await self._place(ledger)
        if self._options.dry_run:
            return
        log("applying the inputs")
        await self._apply(starts, input_ends, skipped)
        await blank_stored(self._recovering.transaction)  # also what operators have removed
        await blank_rejected(self._recovering.database)

    def _counter(self, what: str, every: int = 100_000) -> Callable[[int], None]:
        """Return a function that adds to a count, and logs the count now and then."""
        done, next_at = 0, every

        def count(more: int) -> None:
            nonlocal done, next_at
            done += more
            if done >= next_at:
                next_at = done + every
                self._options.log(what.format(done))

        return count

    async def _place(self, ledger: Ledger) -> None:
        """Write what was announced. While the database works on a page, the next one is compared."""
        count = self._counter("compared {} batches", 10_000)
        waiting: asyncio.Queue[list[Facts] | None] = asyncio.Queue(PAGES_AT_ONCE)

        async def work() -> None:
            while page := await waiting.get():
                changed, counts = await place(
                    self._recovering, page, self._options.limits, self._known_since, dry_run=self._options.dry_run
                )
                self.report.counts += counts
                for each in changed:
                    self._note(each.batch_id, each.contradictions, incomplete=each.incomplete)
                count(len(page))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(PAGES_AT_ONCE):
                    group.create_task(work())
                for page in pages(ledger.batches()):
                    await waiting.put(page)
                for _ in range(PAGES_AT_ONCE):
                    await waiting.put(None)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def _note(self, batch_id: str, contradictions: list[str], *, incomplete: bool) -> None:
        self.report.counts["contradictions"] += len(contradictions)
        self.report.counts["incomplete"] += incomplete
        for what in contradictions:
            _log.warning("announcement_contradicted", batch_id=batch_id, what=what)
        if incomplete:
            _log.warning("batch_incomplete", batch_id=batch_id)
        if contradictions and len(self.report.contradictions) < LISTED:
            self.report.contradictions += [(batch_id, what) for what in contradictions]
        if incomplete and len(self.report.incomplete) < LISTED:
            self.report.incomplete.append(batch_id)

    # -- the regular decisions

    async def _apply(self, starts: Partitions, ends: Partitions, skipped: IsSkipped) -> None:
        """Apply the inputs, and move the rows of the partitions behind them."""
        limits = replace(self._options.limits, consecutive_rejections=UNLIMITED)
        intake = Intake(self._recovering, limits, Health(), report_effects)
        count = self._counter("applied {} inputs")
        epochs = {tp: self._resumed[tp].epoch if tp in self._resumed else 0 for tp in starts}
        lost = [LostInputs(tp, *each.lost) for tp, each in self._resumed.items() if each.lost]
        async with self._recovering.transaction() as conn:
            # Together: a run that is killed behind this finds rows without a loss.
            await recovery.write_progress(conn, {tp: ProgressRow(epochs[tp], start) for tp, start in starts.items()})
            if lost:
                await progress.insert_lost_inputs(conn, lost)
        self._resumed = {tp: replace(each, lost=None) for tp, each in self._resumed.items()}
        stopped: set[TopicPartition] = set()
        async for deliveries, last in input_pages(
            self._reader, starts, ends, self._options.input_limits, skipped, self._slice
        ):
            tp = TopicPartition(last.topic, last.partition)
            if tp in stopped:
                continue
            outcome = await intake.take(await self._unknown(deliveries)) if deliveries else Outcome(Effects())
            await intake.take_exclusive(outcome.deferred)
            record = LastRecord(last.offset, time_of(last.timestamp), fingerprint(last))
            row = ProgressRow(epochs[tp], last.offset + 1, record)
            if outcome.not_admitted:
                stopped.add(tp)
                row = ProgressRow(epochs[tp], min(delivery.offset for delivery in outcome.not_admitted))
            self.report.paused |= outcome.paused
            await self._write_rows({tp: row})
            count(len(deliveries))

    async def _unknown(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Leave out content that is in its place already: most of it, since it was announced."""
        contents = [each.event for each in deliveries if isinstance(each.event, ContentProvisioned)]
        if not contents:
            return list(deliveries)
        async with self._recovering.transaction(pipelined=True) as conn:
            known = await slots.find_known_content(conn, contents)
        return [
            each
            for each in deliveries
            if not isinstance(each.event, ContentProvisioned)
            or (each.event.batch_id, each.event.text_storage_id) not in known
        ]

    async def _write_rows(self, rows: Mapping[TopicPartition, ProgressRow]) -> None:
        async with self._recovering.transaction() as conn:
            await recovery.write_progress(conn, rows)
