"""Sends the demo's events and reads the views and the output topics.

The demo uses the public interfaces only: it publishes events to Kafka, reads the views as an operator does, and reads
the output topics. Every wait is bounded; after its bound it raises `Missing`, which names what did not arrive.
"""

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE, STDOUT
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from uuid import uuid4

import psycopg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from service.domain.topics import (
    ASSOCIATIONS_CONFIRMED,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    OUTGOING_TOPICS,
    VALIDATION_FAILED,
)
from service.settings import Settings
from service.wiring import kafka_options

PATIENCE = 20.0
"""The bound of each wait, in seconds; most take a fraction of a second."""

PRODUCERS = 3

CLASS = "class-9b"

SOURCES = {BATCH_REGISTERED: "batch-service", ASSOCIATIONS_CONFIRMED: "class_management_service"}


class Missing(Exception):
    """Something did not arrive in time."""


@dataclass(frozen=True, slots=True)
class Input:
    """One event of another service without its envelope. Each delivery gets a new `event_id`."""

    topic: str
    batch_id: str
    data: Mapping[str, Any]

    def envelope(self) -> bytes:
        return json.dumps(
            {
                "event_id": str(uuid4()),
                "event_type": self.topic,
                "event_timestamp": _now(),
                "source_service": SOURCES.get(self.topic, "file-service"),
                "schema_version": 1,
                "correlation_id": str(uuid4()),
                "data_schema_uri": None,
                "data": self.data,
                "metadata": None,
            }
        ).encode()


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the service, as read from its topic."""

    topic: str
    batch_id: str
    data: Mapping[str, Any]
    published_at: int
    """The timestamp of its record, in milliseconds."""


@dataclass(frozen=True)
class Batch:
    """The inputs of one batch. `newer`: in the format of the newer producers."""

    batch_id: str
    slots: int
    contents: int
    failures: int = 0
    newer: bool = False

    @cached_property
    def essays(self) -> list[str]:
        return [f"essay-{number}" for number in range(1, self.slots + 1)]

    @property
    def texts(self) -> set[str]:
        return {f"text-{number}" for number in range(1, self.contents + 1)}

    @property
    def failed_uploads(self) -> set[str]:
        return {f"failed-{number}" for number in range(1, self.failures + 1)}

    @property
    def excess(self) -> int:
        """How many texts are excess. Exact unless a batch has failures and excess; none of ours has both."""
        return max(0, self.contents + self.failures - self.slots)

    def inputs(self) -> list[Input]:
        """Returns all inputs, each once."""
        contents = [self.content(number) for number in range(1, self.contents + 1)]
        failures = [self.failure(number) for number in range(1, self.failures + 1)]
        return [self.registration(), *contents, *failures, *([self.confirmation()] if self.newer else [])]

    def registration(self, essays: Sequence[str] | None = None) -> Input:
        essays = self.essays if essays is None else essays
        generation: dict[str, Any] = (
            {"student_prompt_ref": None, "org_id": None, "class_id": CLASS}
            if self.newer
            else {"essay_instructions": "Write about a book that you have read."}
        )
        return self._input(
            BATCH_REGISTERED,
            {
                "event": "batch.essays.registered",
                "expected_essay_count": len(essays),
                "essay_ids": list(essays),
                "course_code": "SV2",
                "user_id": "teacher-17",
                **generation,
            },
        )

    def content(self, number: int) -> Input:
        return self._input(
            CONTENT_PROVISIONED,
            {
                "event": "essay.content.provisioned",
                **self._upload(f"upload-{number}", f"{PUPILS[number % len(PUPILS)]}.docx", 18_000 + number),
                "text_storage_id": f"text-{number}",
                "content_md5_hash": f"{number:032x}",
            },
        )

    def failure(self, number: int) -> Input:
        return self._input(
            VALIDATION_FAILED,
            {
                "event": "essay.validation.failed",
                **self._upload(f"failed-{number}", f"empty {number}.txt", 0),
                "validation_error_code": "EMPTY_CONTENT",
                "validation_error_detail": {"message": "The file holds no text."},
            },
        )

    def confirmation(self) -> Input:
        """Confirms the students of the class, which only newer producers name."""
        associations = [{"essay_id": essay, "student_id": f"student-{essay}"} for essay in self.essays]
        return Input(
            ASSOCIATIONS_CONFIRMED,
            self.batch_id,
            {"batch_id": self.batch_id, "class_id": CLASS, "associations": associations},
        )

    def _upload(self, upload: str, file_name: str, size: int) -> dict[str, Any]:
        return {
            "file_upload_id": upload,
            "original_file_name": file_name,
            "raw_file_storage_id": f"raw-{upload}",
            "file_size_bytes": size,
            "correlation_id": str(uuid4()),
            "timestamp": _now(),
        }

    def _input(self, topic: str, data: dict[str, Any]) -> Input:
        name = "entity_id" if self.newer else "batch_id"
        return Input(topic, self.batch_id, {name: self.batch_id, **data})


PUPILS = ("Åsa Öberg", "Nils Berg", "Maja Lind", "Omar Said", "Elsa Ek", "Liv Dahl", "Ali Noor", "Siri Ås")


@dataclass
class Outcome:
    """The result, according to the views and the topics."""

    events: Sequence[Event]
    slots: Sequence[tuple[str, int, str, str, str | None, str | None]] = ()
    """batch, position, essay, state, text, upload"""
    batches: Sequence[tuple[str, str]] = ()
    """batch, state"""
    excess: Sequence[tuple[str, str]] = ()
    """batch, text"""
    waiting: Sequence[tuple[str, str]] = ()
    """batch, what is pending or expired"""
    quarantine: Sequence[tuple[str, str]] = ()
    """batch, reason and state"""
    violations: Sequence[tuple[str, str, str]] = ()
    """invariant, batch, detail"""
    level: str = "fine"
    """that of ops.health"""
    left: Sequence[str] = ()
    """lines of ops.health that were not there before the demo"""

    def data(self, topic: str) -> list[Mapping[str, Any]]:
        return [event.data for event in self.events if event.topic == topic]


@dataclass
class World:
    """The running service, seen from outside. Only one task at a time may read the views."""

    environment: Mapping[str, str]
    settings: Settings
    database: psycopg.AsyncConnection[Any]
    is_operator: bool
    producers: Sequence[Any]
    admin: Any
    reader: Any
    events: dict[str, Event] = field(default_factory=dict)
    """Published events of our batches, by event id; `repeats` counts those that were published again."""
    repeats: int = 0
    _ours: set[str] = field(default_factory=set)
    _sent: dict[TopicPartition, int] = field(default_factory=dict)
    _read: dict[TopicPartition, int] = field(default_factory=dict)
    _reading: asyncio.Task[None] | None = None

    # inputs

    async def send(self, *inputs: Input) -> None:
        """Publishes inputs concurrently from all producers; on return the broker has acknowledged them."""
        await asyncio.gather(*(self.send_by(number, event) for number, event in enumerate(inputs)))

    async def send_by(self, producer: int, event: Input) -> None:
        """Publishes one input from the producer with this number."""
        self._ours.add(event.batch_id)
        sender = self.producers[producer % len(self.producers)]
        key = event.batch_id.encode()
        stored = await sender.send_and_wait(event.topic, event.envelope(), key=key)
        at = TopicPartition(stored.topic, stored.partition)
        self._sent[at] = max(self._sent.get(at, 0), stored.offset + 1)

    # outputs

    async def settle(self) -> None:
        """Waits until all inputs are processed, their events are published, and we have read those events.

        Afterwards, an input without an event is known to have none.
        """
        await until("The service has not processed all inputs", self._is_taken)
        [(now,)] = await self.query("select clock_timestamp()")

        async def is_published() -> bool:
            [(oldest,)] = await self.query("select oldest_outbox_row from ops.health")
            return oldest is None or oldest > now

        await until("Events are still in the outbox (ops.outbox_backlog, ops.outbox_blocked)", is_published)
        await until("The output topics could not be read to their end", self._is_read)

    async def _is_taken(self) -> bool:
        group = self.settings.group
        found = await self.admin.list_consumer_group_offsets(group, partitions=list(self._sent))
        return all(found[at].offset >= end for at, end in self._sent.items())

    async def _is_read(self) -> bool:
        if self._reading is not None and self._reading.done():
            self._reading.result()
        ends = await self.reader.end_offsets(list(self._read))
        return all(self._read[at] >= end for at, end in ends.items())

    async def start_reading(self) -> None:
        """Starts to read the output topics from their present end."""
        partitions: set[TopicPartition] = set()

        async def are_there() -> bool:
            # A new topic may not be in all metadata yet.
            for each in await self.admin.describe_topics(list(OUTGOING_TOPICS)):
                partitions.update(TopicPartition(each["topic"], part["partition"]) for part in each["partitions"])
            return {at.topic for at in partitions} == set(OUTGOING_TOPICS)

        await until("Not all output topics exist (`python -m service topics create` creates them)", are_there)
        self.reader.assign(partitions)
        self._read.update(await self.reader.end_offsets(list(partitions)))
        for at, end in self._read.items():
            self.reader.seek(at, end)
        self._reading = asyncio.create_task(self._read_on())

    async def stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})

    async def _read_on(self) -> None:
        while True:
            found = await self.reader.getmany(timeout_ms=100)
            for at, records in found.items():
                for record in records:
                    self._store(record)
                self._read[at] = records[-1].offset + 1

    def _store(self, record: Any) -> None:
        batch_id = record.key.decode()
        if batch_id not in self._ours:
            return
        envelope = json.loads(record.value)
        if envelope["event_id"] in self.events:
            self.repeats += 1
        else:
            self.events[envelope["event_id"]] = Event(record.topic, batch_id, envelope["data"], record.timestamp)

    # views

    async def query(self, query: str, **parameters: object) -> list[tuple[Any, ...]]:
        """Returns the rows of a query, in the role els_ops if this login may use it."""
        async with self.database.transaction():
            if self.is_operator:
                # For this transaction only, since there may be a connection pooler before the server.
                await self.database.execute("set local role els_ops")
            found = await self.database.execute(query.encode(), parameters)
            return await found.fetchall()

    async def health(self) -> list[str]:
        """Returns the lines of ops.health."""
        [(lines,)] = await self.query("select attention from ops.health")
        return list(lines)

    async def operate(self, *arguments: str) -> str:
        """Runs a command of the service, as an operator does. Returns what it printed. Raises Missing if it fails."""
        command = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "service", *arguments,
            env=os.environ | self.environment, stdout=PIPE, stderr=STDOUT,
        )  # fmt: skip
        printed, _ = await asyncio.wait_for(command.communicate(), PATIENCE)
        if command.returncode:
            raise Missing(f"`els {' '.join(arguments)}` failed: {printed.decode()}")
        return printed.decode().strip()

    async def outcome(self, batches: Iterable[Batch], lines_before: Collection[str]) -> Outcome:
        """Reads the result for these batches. `lines_before` are those of ops.health before they were sent."""
        [(level,)] = await self.query("select level from ops.health")
        ids = [batch.batch_id for batch in batches]
        ours = {"ids": ids}
        return Outcome(
            events=[event for event in self.events.values() if event.batch_id in set(ids)],
            slots=await self.query(
                "select batch_id, position, essay_id, state, text_storage_id, file_upload_id "
                "from ops.slots where batch_id = any(%(ids)s) order by batch_id, position",
                **ours,
            ),
            batches=await self.query("select batch_id, state from ops.batches where batch_id = any(%(ids)s)", **ours),
            excess=await self.query(
                "select batch_id, text_storage_id from ops.excess_content where batch_id = any(%(ids)s)", **ours
            ),
            waiting=await self.query(
                "select batch_id, 'content' from ops.pending_content where batch_id = any(%(ids)s) union all "
                "select batch_id, 'batch' from ops.pending_batches where batch_id = any(%(ids)s) union all "
                "select batch_id, 'expired' from ops.expired_content where batch_id = any(%(ids)s)",
                **ours,
            ),
            quarantine=await self.query(
                "select key_text, reason || ', ' || state from ops.quarantine where key_text = any(%(ids)s)", **ours
            ),
            violations=await self.query("select invariant, batch_id, detail from ops.invariant_violations"),
            level=level,
            left=[line for line in await self.health() if line not in lines_before],
        )


@asynccontextmanager
async def world(settings: Mapping[str, str]) -> AsyncIterator[World]:
    """Connects to the servers of the service with these settings (environment variables).

    Raises psycopg.Error or KafkaError if a server does not respond.
    """
    given = {name.removeprefix("ELS_").lower(): value for name, value in settings.items() if value}
    known = Settings.model_validate(given)
    options: dict[str, Any] = kafka_options(known)
    idempotent = known.kafka_enable_idempotence
    async with AsyncExitStack() as stack:

        async def started(client: Any, close: str) -> Any:
            stack.push_async_callback(getattr(client, close))
            await client.start()
            return client

        database = await psycopg.AsyncConnection.connect(
            known.migration_url, autocommit=True, prepare_threshold=None, connect_timeout=5
        )
        stack.push_async_callback(database.close)
        found = World(
            environment=settings,
            settings=known,
            database=database,
            is_operator=await _may_be_operator(database),
            producers=[
                await started(AIOKafkaProducer(**options, acks="all", enable_idempotence=idempotent), "stop")
                for _ in range(PRODUCERS)
            ],
            admin=await started(AIOKafkaAdminClient(**options), "close"),
            reader=await started(AIOKafkaConsumer(**options, group_id=None, enable_auto_commit=False), "stop"),
        )
        stack.push_async_callback(found.stop_reading)
        await found.start_reading()
        yield found


async def _may_be_operator(database: psycopg.AsyncConnection[Any]) -> bool:
    found = await database.execute(
        "select exists (select from pg_roles where rolname = 'els_ops' and pg_has_role(oid, 'set'))"
    )
    row = await found.fetchone()
    return bool(row and row[0])


async def until(otherwise: str, seen: Callable[[], Awaitable[bool]]) -> None:
    """Checks repeatedly until `seen` returns true. Raises Missing after `PATIENCE` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not await seen():
        if time.monotonic() > deadline:
            raise Missing(f"{otherwise}, after {PATIENCE:g} s.")
        await asyncio.sleep(0.05)


def by_batch(rows: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    """Groups the second columns by the first."""
    grouped = defaultdict(list)
    for batch_id, value in rows:
        grouped[batch_id].append(value)
    return grouped


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
