"""Runs two relays on one outbox in every order of their statements and sends; each may crash at any step.

The first relay believes that its lease is still valid, like a pod that was paused at the worst moment. After each order
a successor publishes what is left. Then every event is on its topic, the first occurrences of a batch are in commit
order, repeats have the same id, and the outbox is empty.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from unittest import mock
from uuid import UUID

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder

from deploy.servers.brokers import Broker
from service.domain.enveloped import Outgoing
from service.kafka.connection import client_options
from service.kafka.producer import Producer, partition_of
from service.kafka.topics import create_topics
from service.postgres.pool import Database
from service.relay import worker as worker_module
from service.relay.events import OutboxEvent
from service.relay.leases import Lease
from service.relay.partitions import AgreedPartitions
from service.relay.publication import Publication
from service.relay.worker import Worker
from service.store import outbox
from service.store.outbox import FetchLimits, OutboxKey, OutboxRow
from service.store.relays import SHARDS
from tests.support.builders.outbox import INSERT_PREVIOUS_ROW, INSERT_ROW, event, previous_row_of, row_of
from tests.support.builders.producers import noting_ids
from tests.support.checks.footprints import Footprint
from tests.support.interleaving.interleaving import Report, Stage, stage
from tests.support.interleaving.race import HEAR, Actor, Died, Left, Work

FIRST, SECOND = "prove.first", "prove.second"
BATCHES = ("b-0", "b-1")

PARTITIONS = 1
WRITES_TO_TOPICS = Footprint(reads=frozenset({"topics"}), ends=frozenset({"topics"}))
ZOMBIE = UUID(int=1)
ALL_IS_THE_ZOMBIES = f"""
    delete from els.outbox_blocked;
    delete from els.relays;
    insert into els.relays values ('{ZOMBIE}', 'infinity', true);
    update els.relay_shards set relay = '{ZOMBIE}'
"""
EXPIRE = "update els.relays set expires_at = '-infinity'"
BLOCK = "insert into els.outbox_blocked values (%s, 0, 'topic', 'once', now(), now())"


@dataclass(frozen=True, slots=True)
class Race:
    """Rows that wait at the start, and rows that are committed during the race: each a batch and its events' topics."""

    before: Sequence[Sequence[str]]
    meanwhile: Sequence[Sequence[str]] = ()
    previous: bool = False
    """Whether the first row is in the table of the previous release."""
    blocked: bool = False
    """Whether the first batch is blocked and due for a retry."""
    renews: bool = False
    """Whether the first relay notices at the end that its lease ran out, and renews it."""
    most: int = 2000
    """Maximum number of rows of a fetch."""


b, d = BATCHES
RACES = {
    "one batch on two topics": Race([(b, FIRST), (b, SECOND)]),
    "one row for two topics": Race([(b, FIRST, SECOND)]),
    "two batches": Race([(b, FIRST), (d, FIRST), (b, SECOND)]),
}
LONG_RACES = {  # minutes each; `make prove` runs them
    "one batch, read a row at a time": Race([(b, FIRST), (b, FIRST)], most=1),
    "a batch and its next commit": Race([(b, FIRST)], meanwhile=[(b, SECOND)]),
    "a row of the previous release and the next": Race([(b, FIRST), (b, SECOND, FIRST)], previous=True),
    "a batch that was blocked": Race([(b, FIRST), (b, SECOND)], blocked=True),
    "a relay that comes back": Race([(b, FIRST), (b, SECOND)], renews=True),
}


class Topics:
    """The acknowledged events in order, and the producers of the actors, which all write to the same topics."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.acknowledged: list[str] = []
        """Acknowledged in the present order of the race."""
        self.logs: defaultdict[str, list[str]] = defaultdict(list)
        self._options = options
        self._producers: dict[str, Cut] = {}

    def producer(self, name: str, actor: Any) -> "Cut":
        """Returns the producer of an actor; it is kept for all orders, since connecting takes longer than an order."""
        if name not in self._producers:
            self._producers[name] = Cut(self, self._options)
        self._producers[name].actor = actor
        return self._producers[name]

    def note(self, topic: str, ids: Sequence[str]) -> None:
        self.acknowledged += ids
        self.logs[topic] += ids

    async def close(self) -> None:
        for producer in self._producers.values():
            await Producer.abandon(producer)

    async def read(self) -> dict[str, list[str]]:
        """Returns the event ids on each topic, once they are at least as many as were acknowledged."""
        there: dict[str, list[str]] = {topic: [] for topic in self.logs}
        async with AIOKafkaConsumer(**self._options, auto_offset_reset="earliest") as consumer, asyncio.timeout(90):
            consumer.assign([TopicPartition(topic, 0) for topic in there])
            while any(len(there[topic]) < len(log) for topic, log in self.logs.items()):
                for partition, records in (await consumer.getmany(timeout_ms=200)).items():
                    there[partition.topic] += [dict(record.headers)["event_id"].decode() for record in records]
        return there


class Cut(Producer):
    """A producer whose actor waits for its turn before a send, and again before it sees the acknowledgement."""

    def __init__(self, topics: Topics, options: Mapping[str, Any]) -> None:
        super().__init__(options, idempotent=False)
        self.actor: Actor | None = None
        self._topics = topics
        self._one_step = asyncio.Lock()
        self._started = False

    async def start(self) -> None:
        if not self._started:
            await super().start()
            self._started = True

    async def abandon(self) -> None:
        """Do nothing: the next order uses this producer, too."""

    def create_batch(self) -> BatchBuilder:
        return noting_ids(super().create_batch())

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> Any:
        async with self._one_step:
            await self._turn("send", WRITES_TO_TOPICS)
            acknowledged = await super().send_batch(batch, topic, partition=partition)
            await acknowledged
            self._topics.note(topic, [event_id.decode() for event_id in batch.ids])
            await self._turn(HEAR, Footprint())
            return acknowledged

    async def _turn(self, what: str, step: Footprint) -> None:
        if self.actor is not None:
            await self.actor.turn(what, step)


@asynccontextmanager
async def topics_of(broker: Broker) -> AsyncIterator[Topics]:
    """Create the topics. Checks at the end that the broker has what the producers recorded."""
    options = client_options(broker.bootstrap_servers)
    await create_topics(options, partitions=PARTITIONS, replication=1, topics={FIRST: {}, SECOND: {}})
    topics = Topics(options)
    try:
        yield topics
        assert await topics.read() == topics.logs
    finally:
        await topics.close()


async def run(played: Stage, topics: Topics, race: Race, *, until: str | None = None) -> Report:
    """Run every order of the race, and check the result of each."""
    before = [[event(batch_id, topic) for topic in topics] for batch_id, *topics in race.before]
    meanwhile = [[event(batch_id, topic) for topic in topics] for batch_id, *topics in race.meanwhile]
    await played.start_from()
    for row in before:
        insert(played.observer, row, previous=race.previous)
    played.keep_start()

    async def zombie(database: Database) -> None:
        lease = new_lease(database)
        lease.relay, lease.shards, lease._until = ZOMBIE, frozenset(range(SHARDS)), float("inf")
        await publish(topics.producer("A", database), database, lease, FetchLimits(rows=race.most))
        if race.renews:
            await lease.renew()
            await publish(topics.producer("A", database), database, lease, FetchLimits(rows=race.most))

    async def heir(database: Database) -> None:
        async with database.transaction() as conn:
            await conn.execute(EXPIRE)
        lease = new_lease(database)
        await lease.renew()
        await publish(topics.producer("B", database), database, lease, FetchLimits(rows=race.most))

    async def commit(database: Database) -> None:
        async with database.transaction() as conn:
            for row in meanwhile:
                await conn.execute(INSERT_ROW, row_of(*row))

    def begin() -> Mapping[str, Work]:
        topics.acknowledged = []
        played.observer.execute(ALL_IS_THE_ZOMBIES)
        if race.blocked:
            played.observer.execute(BLOCK, [before[0][0].batch_id])
        return {"A": zombie, "B": heir} | ({"W": commit} if meanwhile else {})

    async def check(played: Stage, dead: Sequence[str]) -> list[str]:
        found = [] if dead or meanwhile else left(played)
        database = cast("Database", played)
        played.observer.execute(EXPIRE)
        lease = new_lease(database)
        await lease.renew()
        await publish(topics.producer("successor", None), database, lease, FetchLimits())
        committed = [each for row in (before if "W" in dead else before + meanwhile) for each in row]
        return [*found, *left(played), *out_of_order(topics.acknowledged, committed)]

    # Blocked batches are read in every step or in none, independent of the clock, and no step waits.
    with (
        mock.patch.object(worker_module, "BLOCKED_SECONDS", 0.0 if race.blocked else float("nan")),
        mock.patch.object(worker_module, "SETTLE_SECONDS", 0.0),
    ):
        return await played.explore(begin, check, deaths=1, until=until)


def insert(observer: psycopg.Connection[Any], row: Sequence[Outgoing], *, previous: bool) -> None:
    """Insert a row, the first one of a batch in the table of the previous release if `previous`."""
    if previous and not observer.execute("select from els.unpublished").fetchall():
        observer.execute(INSERT_PREVIOUS_ROW, previous_row_of(*row))
    else:
        observer.execute(INSERT_ROW, row_of(*row))


def new_lease(database: Database) -> Lease:
    return Lease(database, 3600, lambda: None, AgreedPartitions(database))


async def publish(producer: Producer, database: Database, lease: Lease, limits: FetchLimits) -> None:
    """Publish until nothing is left."""
    partitions = AgreedPartitions(database)
    # They are agreed before, in no step of the race.
    partitions._agreed = partitions._found = dict.fromkeys((FIRST, SECOND), PARTITIONS)
    worker = Worker(database, lease, partitions, lambda: producer, limits)
    try:
        while await worker.step():
            pass
    except BaseExceptionGroup as group:  # of the tasks that send a wave. Python 3.11.2 wraps what `except*` raises
        if group.split((Died, Left))[1] is not None:
            raise
        raise Left from group


def left(played: Stage) -> list[str]:
    rows = played.observer.execute("select batch_id, topic from ops.outbox_events order by seq").fetchall()
    return [f"left in the outbox: {batch_id} for {topic}" for batch_id, topic in rows]


def out_of_order(acknowledged: Sequence[str], committed: Sequence[Outgoing]) -> list[str]:
    """Returns the committed events that were not acknowledged, or before an earlier event of their batch."""
    ids = [str(each.event_id) for each in committed]
    found = [f"never committed: {id_}" for id_ in set(acknowledged) - set(ids)]
    before: defaultdict[str, int] = defaultdict(lambda: -1)
    for number, (id_, each) in enumerate(zip(ids, committed, strict=True)):
        if id_ not in acknowledged:
            found.append(f"lost: event {number}, {each.batch_id} for {each.topic}")
            continue
        place = acknowledged.index(id_)
        if place < before[each.batch_id]:
            found.append(f"too early: event {number}, {each.batch_id} for {each.topic}")
        before[each.batch_id] = place
    return found


@pytest.mark.parametrize("name", RACES)
async def test_no_order_of_two_relays_loses_or_overtakes(database_url: str, tansu: Broker, name: str) -> None:
    async with stage(database_url, 3) as played, topics_of(tansu) as topics:
        report = await run(played, topics, RACES[name])
    print(f"{name}: {report}")
    assert not report.violations, str(report.violations[0])
    assert not report.errors
    assert report.orders > 10
    assert report.deaths > 0


def without_waves(patch: pytest.MonkeyPatch) -> None:
    """Send all events of a batch at once, on all topics."""

    def everything(self: Publication, producer: Producer) -> dict[tuple[str, int | None], list[OutboxEvent]]:
        wave: dict[tuple[str, int | None], list[OutboxEvent]] = {}
        for batch_id, runs in self._waiting.items():
            for run in runs:
                wave.setdefault((run[0].topic, partition_of(batch_id, PARTITIONS)), []).extend(run)
        self._waiting = {}
        return wave

    patch.setattr(Publication, "_next_wave", everything)


def with_rows_deleted_when_they_are_read(patch: pytest.MonkeyPatch) -> None:
    """Delete rows when they are read, before they are acknowledged."""
    transaction = Worker._transaction

    async def fetch_and_delete(self: Worker) -> list[OutboxRow]:
        rows = await transaction(self)
        async with self._database.transaction() as conn:
            await outbox.delete_outbox(conn, [OutboxKey(row.batch_id, row.seq, row.is_page) for row in rows])
        return rows

    patch.setattr(Worker, "_transaction", fetch_and_delete)


@pytest.mark.parametrize(
    ("broken", "shows"), [(without_waves, "too early"), (with_rows_deleted_when_they_are_read, "lost")]
)
async def test_the_races_of_relays_find_faults_that_break_the_order(
    database_url: str,
    tansu: Broker,
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[pytest.MonkeyPatch], None],
    shows: str,
) -> None:
    broken(monkeypatch)
    async with stage(database_url, 3) as played, topics_of(tansu) as topics:
        race = Race([(b, FIRST), (b, SECOND), (b, FIRST)])
        assert (await run(played, topics, race, until=shows)).tells(shows)
