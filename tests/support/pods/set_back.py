"""Runs consumers and a relay on a database that a test sets back to an earlier state."""

import asyncio
import random
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
from aiokafka import ConsumerRecord

from deploy.local.postgres import installed_programs
from deploy.servers.pods import until
from service.domain.delivery import IntakeLimits
from service.domain.input_limits import InputLimits
from service.domain.topics import (
    ASSOCIATIONS_CONFIRMED,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    OUTGOING_TOPICS,
    VALIDATION_FAILED,
)
from service.history.topics import open_reader, read_to_end, topic_partitions
from service.kafka.connection import client_options
from service.kafka.producer import Producer
from service.operators.batches import BatchActions
from service.postgres.pool import Database
from service.recovery.recovery import Recovered, RecoveryOptions, recover
from service.relay.relay import Relay
from service.store.operator_actions import Operator
from service.store.outbox import EVENTS_PER_ROW
from tests.support.builders.inputs import confirmation, content, failure, registration
from tests.support.pods.running_consumer import BOUND, ConsumerFixture

FILLED_BY_MIGRATIONS = ("alembic_version", "erasure_keys", "outbox_format", "policy", "relay_shards", "slice")
STATE = {
    "batches": "batch_id, expected, assigned, failed, state, essay_set, user_id, correlation_id, completed_at,"
    " timed_out_at, withdrawn, cancelled_at, cancel_reason from els.batches",
    "slots": "batch_id, essay_id, position, text_storage_id, file_upload_id, taken_at, original_file_name,"
    " raw_file_storage_id, file_size_bytes, content_md5_hash, correlation_id, traceparent, origin"
    " from els.slots where state = 'assigned'",
    # The slots of failures are announced when their batch is complete, and without a time. Of a batch that is cancelled
    # before that, only their number is announced.
    "failed slots": "batch_id, essay_id, position, file_upload_id from els.slots join els.batches using (batch_id)"
    " where slots.state = 'failed' and completed_at is not null and cancelled_at is null",
    "excess_content": "batch_id, text_storage_id, reason, file_upload_id, raw_file_storage_id, correlation_id,"
    " declared_at, origin from els.excess_content",
    "pending_content": "batch_id, text_storage_id, state, file_upload_id, raw_file_storage_id, correlation_id, origin"
    " from els.pending_content",
    "validation_failures": "batch_id, file_upload_id, state, raw_file_storage_id, error_detail::jsonb::text,"
    ""
    " correlation_id, origin from els.validation_failures where batch_id not in ("
    " select batch_id from els.batches where completed_at is null or cancelled_at is not null)",
}
"""What must be the same after a recovery, by table."""

Input = tuple[str, int, bytes]
"""Topic, partition and value of an input."""

Output = tuple[str, bytes, bytes]
"""Topic, event id and value of a record of an output topic."""


class SetBack:
    """A stack whose database can be set back."""

    def __init__(self, consumers: ConsumerFixture, folder: Path) -> None:
        self.consumers = consumers
        self._dump = folder / "dump"
        self.kafka = client_options(consumers.broker.bootstrap_servers)
        self.database = Database(consumers.app_url, pool_size=4)
        self._stop = asyncio.Event()
        self._relay: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts a consumer and a relay."""
        await self.consumers.start()
        self.start_relay()

    def start_relay(self) -> None:
        idempotent = self.consumers.broker.idempotence
        relay = Relay(self.database, lambda: Producer(self.kafka, idempotent=idempotent), listen=False)
        self._stop = asyncio.Event()
        self._relay = asyncio.create_task(relay.run(self._stop))

    async def stop_relay(self) -> None:
        self._stop.set()
        if self._relay is not None:
            await self._relay
        self._relay = None

    async def stop(self) -> None:
        """Stops both."""
        await self.consumers.stop()
        await self.stop_relay()

    async def send(self, inputs: Sequence[Input]) -> None:
        for topic, partition, value in inputs:
            await self.consumers.publish(topic, value, partition=partition)

    async def settled(self) -> None:
        """Waits until everything is applied and published."""
        await self.consumers.all_committed()
        await self.published()

    async def end_some(self) -> list[Input]:
        """Closes and cancels batches that wait, in turn. Returns a content for each, which comes too late."""
        waiting = (
            "select batch_id, state from els.batches"
            " where state in ('registered', 'complete') and batch_id not like 'old%' order by batch_id"
        )
        actions, by = BatchActions(self.database, IntakeLimits()), Operator("a test", "end it")
        late = []
        for number, (batch_id, state) in enumerate(self.consumers.conn.execute(waiting).fetchall()):
            if number % 3 == 2:
                continue
            if number % 3 == 0 and state == "registered":
                await actions.close(by, batch_id)
            else:
                await actions.cancel(by, batch_id, "OTHER")
            late.append((CONTENT_PROVISIONED, 0, content(batch_id, "late")))
        return late

    async def published(self) -> None:
        query = "select count(*) from els.outbox_pages"
        await until(lambda: self.consumers.value(query) == 0, BOUND, lambda: "the outbox is not empty")

    async def keep(self) -> None:
        """Makes a backup of the tables."""
        others = [f"--exclude-table=els.{table}" for table in FILLED_BY_MIGRATIONS]
        await self._run("pg_dump", "--format=custom", "--schema=els", *others, "--file")

    async def set_back(self) -> None:
        """Restores the backup."""
        self.clear()
        await self._run("pg_restore", "--disable-triggers", "--exit-on-error")

    async def _run(self, program: str, *arguments: str) -> None:
        info = self.consumers.conn.info
        url = f"--dbname={info.dsn} password={info.password}"
        command = [str(installed_programs() / program), url, "--data-only", *arguments, str(self._dump)]
        await asyncio.to_thread(lambda: subprocess.run(command, check=True))

    def clear(self) -> None:
        """Empties the tables but for what migrations insert, and lets the numbers begin anew."""
        tables = self.consumers.value(
            "select string_agg(format('els.%I', relname), ', ') from pg_class"
            f" where relnamespace = 'els'::regnamespace and relkind = 'r' and relname not in {FILLED_BY_MIGRATIONS}"
        )
        self.consumers.conn.execute(f"truncate {tables} restart identity")
        self.consumers.conn.execute("select setval('els.outbox_seq_seq', 1)")

    def state(self) -> set[tuple[Any, ...]]:
        """Returns what must be the same after a recovery: rows, each behind the name of its table."""
        conn = self.consumers.conn
        return {(name, *row) for name, query in STATE.items() for row in conn.execute(f"select {query}")}

    async def republished(self) -> list[tuple[str, str]]:
        """Republishes all that batches announced, but only into the outbox. Returns batch and bytes of each event."""
        conn = self.consumers.conn
        actions, by = BatchActions(self.database, IntakeLimits()), Operator("a test", "compare")
        for (batch_id,) in conn.execute("select batch_id from els.batches order by 1").fetchall():
            await actions.republish(by, batch_id, slots=True, excess=True)
        events = conn.execute("select batch_id, event from ops.outbox_events order by seq").fetchall()
        conn.execute("truncate els.outbox_pages")
        return events

    async def recover(self, **options: Any) -> Recovered:
        given = RecoveryOptions(
            self.consumers.group,
            IntakeLimits(),
            InputLimits(),
            Operator("a test", "set back"),
            **{"quiet_seconds": 0.3, **options},
        )
        return await recover(self.database, self.kafka, given)

    async def announce(self, topic: str, batch_id: str, **data: Any) -> None:
        """Publishes an event as another implementation does: without headers, ids and times of ours."""
        value = {"event_type": topic, "source_service": "els", "data": {"batch_id": batch_id, **data}}
        await self.consumers.producer.send_and_wait(topic, orjson.dumps(value), batch_id.encode())

    async def outputs(self) -> list[Output]:
        """Reads all records of the output topics: topic, event id and value."""
        return [(each.topic, dict(each.headers).get("event_id", b""), each.value) for each in await self._records()]

    async def highest_number(self) -> int:
        """Returns the highest number of a row of the outbox that was published."""
        return max(int(dict(each.headers)["seq"]) // EVENTS_PER_ROW for each in await self._records())

    async def _records(self) -> list[ConsumerRecord]:
        found: list[ConsumerRecord] = []
        partitions = await topic_partitions(self.kafka)
        async with open_reader(self.kafka) as reader:
            await read_to_end(reader, partitions[OUTGOING_TOPICS], found.extend)
        return found


@asynccontextmanager
async def set_back_fixture(consumers: ConsumerFixture) -> AsyncIterator[SetBack]:
    """Yields a stack on these servers."""
    with TemporaryDirectory() as folder:
        stack = SetBack(consumers, Path(folder))
        try:
            yield stack
        finally:
            await stack.stop()
            await stack.database.close()


def traffic(chance: random.Random, name: str, batches: int) -> list[Input]:
    """Makes the inputs of some batches in a random order: early and late ones, failures, repeats, too many, classes."""
    inputs: list[Input] = []
    for number in range(batches):
        batch_id = f"{name}{number}"
        size = chance.randint(1, 6)
        class_id = chance.choice((None, "8a"))
        if chance.random() < 0.9:
            value = registration(batch_id, [f"{batch_id}-e{essay}" for essay in range(size)], class_id=class_id)
            inputs.append((BATCH_REGISTERED, chance.randrange(3), value))
        choices: list[list[str | None]] = [[], ["8a"], ["8a", "8b"], [None, "8a"]]
        classes = chance.choice(choices)
        inputs += [(ASSOCIATIONS_CONFIRMED, chance.randrange(3), confirmation(batch_id, each)) for each in classes]
        for text in range(chance.randint(0, size + 2)):
            value = content(batch_id, f"{batch_id}-t{text}")
            inputs += [(CONTENT_PROVISIONED, chance.randrange(3), value)] * (1 + (chance.random() < 0.1))
        for upload in range(chance.choice((0, 0, 1, 2))):
            inputs.append((VALIDATION_FAILED, chance.randrange(3), failure(batch_id, f"{batch_id}-f{upload}")))
    chance.shuffle(inputs)
    return inputs
