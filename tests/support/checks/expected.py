"""Checks the result of the recorded morning in the views and in the output topics.

Reads the recording as plain JSON, without the service's own models, so that the check is independent of the service.
"""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any
from uuid import UUID

import psycopg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from psycopg.rows import dict_row

from deploy.servers.brokers import Broker, committed_offsets
from deploy.servers.pods import until
from tests.support.builders.replay import STREAMS, Record
from tests.support.checks.readers import read_strictly

SLOT_ASSIGNED = "huleedu.els.essay.slot.assigned.v1"
BATCH_COMPLETED = "huleedu.batch.content.provisioning.completed.v1"
BATCH_READY = "huleedu.els.batch.essays.ready.v1"
EXCESS_CONTENT = "huleedu.els.excess.content.provisioned.v1"
VALIDATION_ERRORS = "huleedu.els.batch.validation.errors.v1"
PENDING_EXPIRED = "huleedu.els.pending.content.expired.v1"
READINESS_TIMEOUT = "huleedu.els.batch.readiness.timeout.v1"
BATCH_CANCELLED = "huleedu.els.batch.cancelled.v1"
OUTGOING = (
    SLOT_ASSIGNED,
    BATCH_COMPLETED,
    BATCH_READY,
    EXCESS_CONTENT,
    VALIDATION_ERRORS,
    PENDING_EXPIRED,
    READINESS_TIMEOUT,
    BATCH_CANCELLED,
)

# Not part of the state: which relay works, crash marks, progress, the counters of consecutive rejections, what pods and
# the purge note of themselves, and the other form of names and ids for the search.
WORKINGS = (
    "relays",
    "relay_shards",
    "outbox_format",
    "crash_marks",
    "topic_refusals",
    "rejected_bytes",
    "alembic_version",
    "progress",
    "server_identity",
    "purge_hold",
    "purge_rounds",
    "pods",
    "input_topics",
    "search",
    "search_progress",
)
END = b"here the tests have read to"
DELIVERIES = ["deliveries", "last_seen_at"]

Json = dict[str, Any]
Origin = tuple[str, str | None, str | None]
"""correlation_id, traceparent, tracestate"""


# -- the end of the replay


async def all_done(
    database_url: str, broker: Broker, group: str, ends: Mapping[TopicPartition, int], seconds: float = 240
) -> None:
    """Waits until every record is processed (by the committed offsets) and every event published."""
    left: list[str] = ["no server responded"]

    async def done() -> bool:
        with suppress(KafkaError, psycopg.OperationalError, OSError, TimeoutError):
            committed = await committed_offsets(broker, group, ends)
            left[:] = [f"{tp}: {committed.get(tp)} of {end}" for tp, end in ends.items() if committed.get(tp, 0) < end]
            if not left and (rows := await _rows(database_url, "select topic, rows from ops.outbox_backlog")):
                left[:] = [f"{row['rows']} rows in the outbox for {row['topic']}" for row in rows]
            return not left
        return False

    await until(done, seconds, lambda: f"the end was not reached: {left}", every=0.1)


# -- tables


async def check_tables(database_url: str) -> None:
    """Asserts the final state of every batch, every pending upload and the quarantine."""
    wanted = _expected()
    batches = {row["batch_id"]: row for row in await _rows(database_url, "select * from ops.batches")}
    excess = Counter(row["batch_id"] for row in await _rows(database_url, "select * from ops.excess_content"))
    pending = await _rows(database_url, "select * from ops.pending_content order by text_storage_id")
    failures = await _rows(database_url, "select * from ops.validation_failures where pending")

    _same("registered batches", sorted(batches), sorted(wanted["batches"]))
    for batch_id, told in wanted["batches"].items():
        _check_batch(batches[batch_id], excess[batch_id], told)
    _same(
        "pending content", _texts(pending), {batch_id: sorted(texts) for batch_id, texts in wanted["pending"].items()}
    )
    _same("pending failures", dict(Counter(row["batch_id"] for row in failures)), wanted["pending_failures"])
    _same("excess of batches", sorted(excess.keys() - wanted["batches"].keys()), [])
    await _check_nothing_else(database_url, wanted["quarantined"])


def _check_batch(batch: Json, excess: int, told: Json) -> None:
    found = {name: batch[name] for name in ("state", "expected", "assigned", "failed", "course_code")}
    found |= {"excess": excess, "correlation_id": str(batch["correlation_id"])}
    wanted = {name: told[name] if told[name] is not None else found[name] for name in found}
    _same(f"batch {batch['batch_id']} ({told['kind']})", found, wanted)
    _same(f"open slots of {batch['batch_id']}", batch["open"], batch["expected"] - batch["assigned"] - batch["failed"])
    if told["full"]:
        _same(f"slots taken of {batch['batch_id']}", batch["assigned"] + batch["failed"], told["expected"])
    _same(f"contents of {batch['batch_id']}", batch["assigned"] + excess, told["contents"])


async def _check_nothing_else(database_url: str, quarantined: int) -> None:
    rejected = await _rows(database_url, "select state, reason, value_text from ops.quarantine")
    if len(rejected) != quarantined:
        raise AssertionError(
            f"{len(rejected)} in quarantine, not {quarantined}: {Counter(r['reason'] for r in rejected)}"
        )
    _same("states in quarantine", {row["state"] for row in rejected}, {"open"})
    for view in ("invariant_violations", "outbox_backlog", "outbox_blocked", "expired_content", "stopped_topics"):
        _same(f"ops.{view}", await _rows(database_url, f"select * from ops.{view}"), [])


async def everything(database_url: str) -> dict[str, list[str]]:
    """Returns every row of every table, without how often and when a rejected input was delivered."""
    tables = await _rows(database_url, "select tablename from pg_tables where schemaname = 'els' order by 1")
    rows = {}
    for name in [row["tablename"] for row in tables if row["tablename"] not in WORKINGS]:
        found = await _rows(database_url, f"select (to_jsonb(t) - %s::text[])::text as r from els.{name} t", DELIVERIES)
        rows[name] = sorted(row["r"] for row in found)
    return rows


# -- topics


async def read_back(broker: Broker, topics: Sequence[str] = OUTGOING) -> dict[str, list[ConsumerRecord]]:
    """Returns every record of the topics, in order within each partition.

    Reads from offset 0 up to a record that it publishes itself. The embedded broker's first offset may be too high,
    when two producers wrote the first records at the same moment, and its end offset too low.
    """
    partitions = await _partitions(broker, topics)
    ends = await _ends(broker, partitions)
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign(partitions)
        for tp in partitions:
            consumer.seek(tp, 0)
        records: dict[str, list[ConsumerRecord]] = {topic: [] for topic in topics}
        async with asyncio.timeout(120):
            while any([await consumer.position(tp) <= end for tp, end in ends.items()]):
                for tp, some in (await consumer.getmany(timeout_ms=250)).items():
                    records[tp.topic] += [record for record in some if record.key != END]
        return {topic: sorted(some, key=_in_order) for topic, some in records.items()}
    finally:
        await consumer.stop()


async def _partitions(broker: Broker, topics: Sequence[str]) -> list[TopicPartition]:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    await admin.start()
    try:
        described = await admin.describe_topics(list(topics))
    finally:
        await admin.close()
    return [TopicPartition(each["topic"], some["partition"]) for each in described for some in each["partitions"]]


async def _ends(broker: Broker, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
    """Publishes a last record to each partition. Returns their offsets."""
    producer = AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap_servers, acks="all", enable_idempotence=broker.idempotence
    )
    await producer.start()
    try:
        return {
            tp: (await producer.send_and_wait(tp.topic, b"", END, partition=tp.partition)).offset for tp in partitions
        }
    finally:
        await producer.stop()


def _in_order(record: ConsumerRecord) -> tuple[int, int]:
    return record.partition, record.offset


@dataclass(slots=True)
class Event:
    """One event of the service: the first record with its id."""

    record: ConsumerRecord
    envelope: Json
    place: int
    """Its position among the records of its topic, which is their order within a partition."""

    @property
    def data(self) -> Json:
        """The data of its envelope."""
        return self.envelope["data"]  # type: ignore[no-any-return]

    @property
    def origin(self) -> Origin:
        """The correlation id and trace that it took from its input."""
        trace = self.envelope["metadata"] or {}
        return self.envelope["correlation_id"], trace.get("traceparent"), trace.get("tracestate")


@dataclass(slots=True)
class Published:
    """The published events by topic, in order, and how many records repeated one."""

    events: dict[str, list[Event]] = field(default_factory=dict)
    repeats: int = 0

    def of(self, topic: str) -> dict[str, list[Event]]:
        """Returns the events of a topic by batch."""
        batches: dict[str, list[Event]] = defaultdict(list)
        for event in self.events[topic]:
            batches[event.data["batch_id"]].append(event)
        return batches


def first_occurrences(records: Mapping[str, Iterable[ConsumerRecord]], *, republished: bool = False) -> Published:
    """Returns each event once. Asserts that records with the same event id are identical.

    What an operator has `republished` has another number.
    """
    published = Published()
    ids: set[str] = set()
    for topic, some in records.items():
        known: dict[str, Event] = {}
        for place, record in enumerate(some):
            event = Event(record, json.loads(record.value), place)
            first = known.setdefault(event.envelope["event_id"], event)
            if first is not event:
                published.repeats += 1
                parts = [_bytes_of(each, numbered=not republished) for each in (record, first.record)]
                _same("a repeated record", *parts)
        _same(f"event ids of {topic} that other topics have too", known.keys() & ids, set())
        ids |= known.keys()
        published.events[topic] = list(known.values())
    return published


async def check_topics(
    database_url: str, broker: Broker, records: Sequence[Record], older_until: datetime | None = None
) -> Published:
    """Asserts that the events match the tables, each once, in order, with the origin of their inputs.

    Events before `older_until` may be of release 0.1, which wrote them in another form.
    """
    found = await read_back(broker)
    try:
        return await _check_published(database_url, first_occurrences(found), records, older_until)
    except AssertionError as error:
        again = await read_back(broker)
        for topic in OUTGOING:
            error.add_note(f"{topic}: {len(found[topic])} records, and {len(again[topic])} when they were read again")
            if gaps := _gaps(again[topic]):
                error.add_note(f"{topic}: the broker has given these offsets away, and brings no record: {gaps}")
        raise


def _gaps(records: Sequence[Any]) -> list[tuple[int, int]]:
    """Returns (partition, offset) of records that are missing within each partition."""
    offsets = defaultdict(set)
    for record in records:
        offsets[record.partition].add(record.offset)
    return sorted(
        (partition, offset) for partition, there in offsets.items() for offset in set(range(max(there))) - there
    )


async def _check_published(
    database_url: str, published: Published, records: Sequence[Record], older_until: datetime | None
) -> Published:
    inputs = Inputs(records)
    slots: dict[str, list[Json]] = defaultdict(list)
    for row in await _rows(database_url, "select * from ops.slots order by batch_id, position"):
        slots[row["batch_id"]].append(row)
    batches = await _rows(database_url, "select * from ops.batches")
    excess = await _rows(database_url, "select * from ops.excess_content")

    for topic in OUTGOING:
        for event in published.events[topic]:
            _check_wrapping(topic, event)
            if older_until is None or datetime.fromisoformat(event.envelope["event_timestamp"]) > older_until:
                read_strictly(topic, event.record.value)
    _check_slots(published, slots, inputs)
    _check_excess(published, excess, inputs)
    silent = "select batch_id from els.batches where state = 'ready' and ready_announced_at is null"
    _check_completed(published, batches, slots, inputs, {row["batch_id"] for row in await _rows(database_url, silent)})
    _check_ready(published, batches, slots, inputs)
    _check_errors(published, batches, slots, inputs)
    _check_order(published, slots)
    _check_numbers(published)
    for topic in (PENDING_EXPIRED, READINESS_TIMEOUT, BATCH_CANCELLED):
        _same(topic, len(published.events[topic]), 0)
    return published


def _check_wrapping(topic: str, event: Event) -> None:
    envelope, record = event.envelope, event.record
    correlation_id, traceparent, tracestate = event.origin
    headers = {"event_id": envelope["event_id"], "event_type": topic, "correlation_id": correlation_id}
    headers |= {"traceparent": traceparent} if traceparent else {}
    headers |= {"tracestate": tracestate} if tracestate else {}
    published = [(name, value.decode()) for name, value in record.headers if name != "seq"]
    if "source_service" in dict(published):  # a relay of release 0.1 publishes fewer
        headers["source_service"] = "essay-lifecycle-service"
        headers |= {"trace_id": traceparent.split("-")[1]} if traceparent else {}
    _same(f"headers of {topic}", dict(published), headers)
    _same(f"number of headers of {topic}", len(published), len(headers))
    _same(f"key of {topic}", record.key.decode(), event.data["batch_id"])
    fixed = {
        "event_type": topic,
        "source_service": "essay-lifecycle-service",
        "schema_version": 1,
        "data_schema_uri": None,
    }
    _same(f"envelope of {topic}", {name: envelope[name] for name in fixed}, fixed)
    _same(f"zone of {topic}", envelope["event_timestamp"][-1], "Z")
    _same(f"version of the event id of {topic}", UUID(envelope["event_id"]).version, 5)


def _check_slots(published: Published, slots: Mapping[str, list[Json]], inputs: "Inputs") -> None:
    named = ("essay_id", "text_storage_id", "file_upload_id", "original_file_name")
    for batch_id, of_batch in slots.items():
        _same(f"slots of {batch_id}", [slot["essay_id"] for slot in of_batch], inputs.registrations[batch_id].essay_ids)
    wanted = [
        (slot["batch_id"], *(slot[name] for name in named), str(slot["correlation_id"]))
        for of_batch in slots.values()
        for slot in of_batch
        if slot["state"] == "assigned"
    ]
    found = [
        (event.data["batch_id"], *(event.data[name] for name in named), event.data["correlation_id"])
        for event in published.events[SLOT_ASSIGNED]
    ]
    _same("slots assigned", sorted(found), sorted(wanted))
    for event in published.events[SLOT_ASSIGNED]:
        inputs.check_origin(event)


def _check_excess(published: Published, excess: Sequence[Json], inputs: "Inputs") -> None:
    named = ("batch_id", "text_storage_id", "original_file_name", "reason")
    found = [tuple(event.data[name] for name in named) for event in published.events[EXCESS_CONTENT]]
    _same("excess", sorted(found), sorted(tuple(row[name] for name in named) for row in excess))
    for event in published.events[EXCESS_CONTENT]:
        inputs.check_origin(event)


def _check_ready(
    published: Published, batches: Sequence[Json], slots: Mapping[str, list[Json]], inputs: "Inputs"
) -> None:
    told = _expected()["batches"]
    announced = published.of(BATCH_READY)
    _same("ready batches", sorted(announced), sorted(row["batch_id"] for row in batches if row["state"] == "ready"))
    for batch_id, events in announced.items():
        _same(f"announcements of {batch_id}", len(events), 1)
        data, registration = events[0].data, inputs.registrations[batch_id]
        _same(f"ready essays of {batch_id}", data["ready_essays"], _essays(slots[batch_id]))
        _same(f"origin of ready {batch_id}", events[0].origin, registration.origin)
        course = told[batch_id]["course_code"]
        wanted = {
            "course_code": course,
            "course_language": "en" if course.startswith("ENG") else "sv",
            "class_type": told[batch_id]["class_type"],
            "essay_instructions": registration.instructions,
        }
        _same(f"course of {batch_id}", {name: data[name] for name in wanted}, wanted)


def _check_completed(
    published: Published,
    batches: Sequence[Json],
    slots: Mapping[str, list[Json]],
    inputs: "Inputs",
    silent: Collection[str],
) -> None:
    """`silent` are batches that code of release 0.1 has announced, which publishes no completions."""
    announced = published.of(BATCH_COMPLETED)
    complete = {row["batch_id"]: row for row in batches if row["state"] in ("complete", "ready")}
    complete = {batch_id: row for batch_id, row in complete.items() if batch_id not in silent}
    _same("complete batches", sorted(announced), sorted(complete))
    for batch_id, events in announced.items():
        _same(f"completions of {batch_id}", len(events), 1)
        data, row = events[0].data, complete[batch_id]
        wanted = {
            "provisioned_count": row["assigned"],
            "expected_count": row["expected"],
            "course_code": row["course_code"],
            "user_id": row["user_id"],
            "class_id": row["class_id"],
            "essays_for_processing": _essays(slots[batch_id]),
            "correlation_id": events[0].envelope["correlation_id"],
        }
        _same(f"completion of {batch_id}", {name: data[name] for name in wanted}, wanted)
        _same(f"origin of the completion of {batch_id}", events[0].origin, inputs.registrations[batch_id].origin)


def _essays(slots: Sequence[Json]) -> list[Json]:
    return [
        {"essay_id": slot["essay_id"], "text_storage_id": slot["text_storage_id"]}
        for slot in slots
        if slot["state"] == "assigned"
    ]


def _check_errors(
    published: Published, batches: Sequence[Json], slots: Mapping[str, list[Json]], inputs: "Inputs"
) -> None:
    announced = published.of(VALIDATION_ERRORS)
    with_errors = [row for row in batches if row["state"] != "registered" and row["failed"]]
    _same("batches with errors", sorted(announced), sorted(row["batch_id"] for row in with_errors))
    for row in with_errors:
        batch_id = row["batch_id"]
        _same(f"errors of {batch_id}", len(announced[batch_id]), 1)
        event = announced[batch_id][0]
        failed = [slot["file_upload_id"] for slot in slots[batch_id] if slot["state"] == "failed"]
        _same(f"failed essays of {batch_id}", [each["essay_id"] for each in event.data["failed_essays"]], failed)
        summary = event.data["error_summary"]
        _same(f"errors counted of {batch_id}", summary["total_errors"], len(failed))
        _same(f"categories of {batch_id}", sum(summary["error_categories"].values()), len(failed))
        _same(f"critical failure of {batch_id}", summary["critical_failure"], row["assigned"] == 0)
        _same(f"origin of errors of {batch_id}", event.origin, inputs.registrations[batch_id].origin)


def _check_order(published: Published, slots: Mapping[str, list[Json]]) -> None:
    """Asserts the order within one commit: slots in slot order, then its excess, errors, completed, ready.

    The timestamp of a record is set when its producer accepts it, after the acknowledgement of the records before.
    """
    ready, errors, excess = published.of(BATCH_READY), published.of(VALIDATION_ERRORS), published.of(EXCESS_CONTENT)
    for batch_id, events in published.of(SLOT_ASSIGNED).items():
        position = {slot["essay_id"]: slot["position"] for slot in slots[batch_id]}
        commits: dict[str, list[int]] = defaultdict(list)
        for event in sorted(events, key=lambda event: event.place):
            commits[event.envelope["event_timestamp"]].append(position[event.data["essay_id"]])
        for taken in commits.values():
            _same(f"order of slots of {batch_id}", taken, sorted(taken))
    completed = published.of(BATCH_COMPLETED)
    for batch_id in completed.keys() | ready.keys() | errors.keys():
        last = [*errors.get(batch_id, []), *completed.get(batch_id, []), *ready.get(batch_id, [])]
        completed_at = last[0].envelope["event_timestamp"]
        before = published.of(SLOT_ASSIGNED)[batch_id] + [
            event for event in excess.get(batch_id, []) if event.envelope["event_timestamp"] == completed_at
        ]
        times = [max([event.record.timestamp for event in before], default=0)]
        times += [event.record.timestamp for event in last]
        _same(f"order of the topics of {batch_id}", times, sorted(times))


def _check_numbers(published: Published) -> None:
    """Asserts that the header `seq` gives the order of the events of a batch, across topics.

    Events of older code have none.
    """
    batches: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for event in chain.from_iterable(published.events.values()):
        headers = dict(event.record.headers)
        if "seq" in headers:
            batches[event.record.key].append((int(headers["seq"]), event.record.timestamp))
    for batch_id, numbered in batches.items():
        times = [timestamp for _, timestamp in sorted(numbered)]
        _same(f"order of the numbers of {batch_id!r}", times, sorted(times))
        _same(f"numbers of {batch_id!r}", len({seq for seq, _ in numbered}), len(numbered))


# -- the recording


@dataclass(frozen=True, slots=True)
class Registration:
    """The first registration of a batch, which is valid."""

    essay_ids: list[str]
    instructions: str
    origin: Origin


class Inputs:
    """The inputs of the recording, as far as they are JSON."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.registrations: dict[str, Registration] = {}
        self._origins: dict[tuple[str, str], set[Origin]] = defaultdict(set)
        told = _expected()["batches"]
        for record in records:
            envelope = _envelope(record)
            if envelope is None:
                continue
            data = envelope["data"]
            batch_id = data.get("batch_id") or data.get("entity_id")
            origin = _origin(envelope)
            if "text_storage_id" in data and isinstance(data["text_storage_id"], str):
                self._origins[batch_id, data["text_storage_id"]].add(origin)
            elif "essay_ids" in data and batch_id in told and origin[0] == told[batch_id]["correlation_id"]:
                registration = Registration(data["essay_ids"], data.get("essay_instructions") or "", origin)
                self.registrations.setdefault(batch_id, registration)

    def check_origin(self, event: Event) -> None:
        """Asserts that an event about a content has the correlation id and trace of that content."""
        content = event.data["batch_id"], event.data["text_storage_id"]
        if event.origin not in self._origins[content]:
            raise AssertionError(f"{content} came with {self._origins[content]}, went out with {event.origin}")
        _same(f"correlation of {content}", event.data["correlation_id"], event.origin[0])


def _envelope(record: Record) -> Json | None:
    try:
        envelope = json.loads(record.value or b"")
    except (ValueError, RecursionError):
        return None
    is_one = isinstance(envelope, dict) and isinstance(envelope.get("data"), dict)
    return envelope if is_one and isinstance(envelope.get("correlation_id"), str) else None


def _origin(envelope: Json) -> Origin:
    trace = envelope.get("metadata")
    trace = trace if isinstance(trace, dict) else {}
    return envelope["correlation_id"], trace.get("traceparent"), trace.get("tracestate")


def _expected() -> Json:
    told: Json = json.loads((STREAMS / "school-day.expected.json").read_text())
    return told


def _texts(pending: Iterable[Json]) -> dict[str, list[str]]:
    batches: dict[str, list[str]] = defaultdict(list)
    for row in pending:
        batches[row["batch_id"]].append(row["text_storage_id"])
    return {batch_id: sorted(texts) for batch_id, texts in batches.items()}


def _bytes_of(record: ConsumerRecord, *, numbered: bool) -> tuple[object, ...]:
    headers = [header for header in record.headers if numbered or header[0] != "seq"]
    return record.key, record.value, tuple(headers), record.partition


async def _rows(database_url: str, statement: str, *parameters: object) -> list[Json]:
    async with await psycopg.AsyncConnection.connect(database_url, row_factory=dict_row, connect_timeout=5) as conn:
        cursor = await conn.execute(statement, parameters or None)
        return await cursor.fetchall()


def _same(what: str, found: object, wanted: object) -> None:
    """Raises AssertionError with the differences, if both can be listed."""
    if found == wanted:
        return
    complaint = f"{what}: {found!r}, not {wanted!r}"
    if isinstance(found, list) and isinstance(wanted, list):
        surplus = [each for each in found if each not in wanted]
        missing = [each for each in wanted if each not in found]
        complaint = f"{what}: too many: {surplus[:5]}, missing: {missing[:5]}, else it is the order"
    raise AssertionError(complaint)
