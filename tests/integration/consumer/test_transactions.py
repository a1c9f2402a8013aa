"""Tests transactions of producers: only what is committed is an input, and none leaves a lag behind."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from deploy.servers.pods import until
from service.consumer import applied, reader
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from tests.support.builders.inputs import content, registration
from tests.support.checks.audited import check_audit
from tests.support.pods.running_consumer import BOUND, PENDING, ConsumerFixture, Running

TP = TopicPartition(CONTENT_PROVISIONED, 0)
STATES = "select string_agg(essay_id || ' ' || state, ', ' order by position) from els.slots"
NOTHING = "select (select count(*) from els.batches) + (select count(*) from els.quarantine)"


@asynccontextmanager
async def transactional(consumers: ConsumerFixture) -> AsyncIterator[AIOKafkaProducer]:
    async with AIOKafkaProducer(
        bootstrap_servers=consumers.broker.bootstrap_servers, transactional_id=f"upstream-{uuid4()}"
    ) as producer:
        yield producer


async def reports_lag(running: Running, records: Mapping[TopicPartition, int] = MappingProxyType({})) -> None:
    """Waits until these are the lags that are reported, and that of every other partition is reported as 0."""
    found: dict[TopicPartition, int | None] = {}
    running.consumer.watchdog._report_lag = found.__setitem__

    def reported() -> bool:
        wanted = dict.fromkeys(running.consumer._assignment.partitions, 0) | dict(records)
        return found == wanted

    await until(reported, BOUND, lambda: f"lag {found}")


async def test_an_aborted_transaction_is_no_input(on_apache: ConsumerFixture, database_url: str) -> None:
    """Not while it is open, and not afterwards: the registration that follows is the first one."""
    running = await on_apache.start()
    async with transactional(on_apache) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(BATCH_REGISTERED, registration("b", ["wrong"]), b"b", partition=0)
        await producer.send_and_wait(CONTENT_PROVISIONED, content("b", "aborted"), b"b", partition=0)
        await producer.send_and_wait(CONTENT_PROVISIONED, content("b", "aborted too"), b"b", partition=0)
        # What is behind it in the same partition waits for its end, and nothing else does.
        await on_apache.publish(CONTENT_PROVISIONED, content("b", "behind"))
        await on_apache.publish(CONTENT_PROVISIONED, content("b", "beside"), partition=1)
        await on_apache.becomes(PENDING, 1)
        await reports_lag(running)
        await producer.abort_transaction()
    await on_apache.becomes(PENDING, 2)
    assert on_apache.value(NOTHING) == 0
    await on_apache.publish(BATCH_REGISTERED, registration("b", ["right", "other"]))
    await on_apache.becomes(STATES, "right assigned, other assigned")
    await reports_lag(running)
    assert all(not each.gaps_until for each in running.consumer._assignment.partitions.values())
    await check_audit(database_url, on_apache.broker, on_apache.group)


async def test_of_one_producer_the_committed_transactions_are_applied(
    on_apache: ConsumerFixture, database_url: str
) -> None:
    """It aborts every second one. All are in the topic before the first fetch, so that one fetch has many of them."""
    async with transactional(on_apache) as producer:
        for number in range(40):
            await producer.begin_transaction()
            for part in range(3):
                await producer.send(CONTENT_PROVISIONED, content("b", f"t{number}-{part}"), b"b", partition=0)
            await (producer.abort_transaction() if number % 2 else producer.commit_transaction())
    running = await on_apache.start()
    await on_apache.becomes(PENDING, 60)
    await reports_lag(running)
    committed = on_apache.conn.execute("select text_storage_id from els.pending_content").fetchall()
    assert {text for (text,) in committed} == {f"t{number}-{part}" for number in range(0, 40, 2) for part in range(3)}
    await check_audit(database_url, on_apache.broker, on_apache.group)


@pytest.mark.parametrize("committed", [True, False])
async def test_a_pod_that_starts_within_a_transaction_reads_it_as_the_others_do(
    on_apache: ConsumerFixture, committed: bool
) -> None:
    """The offset at which it continues is before the transaction, or before its end."""
    await on_apache.start()
    async with transactional(on_apache) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(CONTENT_PROVISIONED, content("b", "within"), b"b", partition=0)
        await on_apache.publish(CONTENT_PROVISIONED, content("b", "beside"), partition=1)
        await on_apache.becomes(PENDING, 1)
        await on_apache.stop()
        running = await on_apache.start()
        await producer.send_and_wait(CONTENT_PROVISIONED, content("b", "within, later"), b"b", partition=0)
        await (producer.commit_transaction() if committed else producer.abort_transaction())
    await on_apache.publish(CONTENT_PROVISIONED, content("b", "behind"))
    await on_apache.becomes(PENDING, 4 if committed else 2)
    await reports_lag(running)
    assert on_apache.value("select count(*) from els.lost_inputs") == 0


async def test_while_a_transaction_is_open_its_partition_is_not_applied_to_its_end(on_apache: ConsumerFixture) -> None:
    """Else a content expires although its registration is in the transaction, and is committed later."""
    until_then = "select applied_until > '{}' from els.progress where topic = '{}' and \"partition\" = {}"
    await on_apache.start()
    async with transactional(on_apache) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(BATCH_REGISTERED, registration("b", ["e"]), b"b", partition=0)
        began = on_apache.value("select now()::text")
        for number in range(2):  # each partition is looked at anew some seconds later
            await on_apache.becomes(until_then.format(began, BATCH_REGISTERED, 1), True)
            assert not on_apache.value(until_then.format(began, BATCH_REGISTERED, 0)), number
            began, before = on_apache.value("select now()::text"), began
        await producer.commit_transaction()
    await on_apache.becomes(until_then.format(before, BATCH_REGISTERED, 0), True)


async def test_a_transaction_that_stays_open_is_a_line_of_the_health(
    on_apache: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it ends, also where another pod owns the partition then."""
    monkeypatch.setattr(applied, "OPEN_SECONDS", 1.0)
    line = "select line from ops.health cross join unnest(attention) as line where line like '%transaction%'"
    told = f"for more than a minute, records of {TP.topic} partition 0 have waited for the end of a producer's"
    await on_apache.start()
    async with transactional(on_apache) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(CONTENT_PROVISIONED, content("b", "within"), b"b", partition=0)
        await on_apache.becomes(line, f"{told} transaction: ops.progress")
        await on_apache.stop()
        await producer.commit_transaction()
    await on_apache.start()
    await on_apache.becomes(line, None)


async def test_a_backlog_of_aborted_transactions_is_passed(
    on_apache: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll that meets only those has no records, and ends all the same, although there is always a next one."""
    batches = reader.MOST_BATCHES // 10
    monkeypatch.setattr(reader, "POLL_MS", 5_000)
    monkeypatch.setattr(reader, "MOST_BATCHES", 1_000_000)
    async with transactional(on_apache) as producer:
        for _ in range(batches):
            await producer.begin_transaction()
            await producer.send_and_wait(CONTENT_PROVISIONED, content("b", "aborted"), b"b", partition=0)
            await producer.abort_transaction()
        running = await on_apache.start()
        partition, places, enough = running.consumer._assignment.partitions[TP], [0], asyncio.Event()
        aborting = asyncio.create_task(abort_until(enough, producer))
        for _ in range(3):  # while they go on, too
            await until(lambda: partition.reached > places[-1], BOUND, lambda: f"at {partition.reached}")
            places.append(partition.reached)
        enough.set()
        await aborting
    await on_apache.publish(CONTENT_PROVISIONED, content("b", "behind"))
    await on_apache.becomes(PENDING, 1)


async def test_records_that_may_crash_a_pod_do_not_keep_it_waiting_for_the_end_of_a_transaction(
    on_apache: ConsumerFixture,
) -> None:
    """They are read alone, before everything else, and may be behind the first offset of an open transaction."""
    left_behind(on_apache, "0, null, 0, false")
    async with transactional(on_apache) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(CONTENT_PROVISIONED, content("b", "within"), b"b", partition=0)
        running = await on_apache.start()
        membership = running.consumer._assignment.membership
        for number in range(3):  # the first read may have begun before it was known what to isolate
            await on_apache.publish(CONTENT_PROVISIONED, content("b", f"beside {number}"), partition=1)
            await on_apache.becomes(PENDING, number + 1)
        # Not a new one: after a minute without progress, the watchdog would have ended the wait.
        assert running.consumer._assignment.membership is membership
        await producer.commit_transaction()
    await on_apache.becomes(PENDING, 4)


async def test_what_an_aborted_transaction_left_is_no_record_that_crashed_a_pod(on_apache: ConsumerFixture) -> None:
    """Whatever the mark says: it is no input, so it is not rejected."""
    async with transactional(on_apache) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(CONTENT_PROVISIONED, content("b", "aborted"), b"b", partition=0)
        await producer.abort_transaction()
    left_behind(on_apache, "0, 1, 3, true")
    await on_apache.publish(CONTENT_PROVISIONED, content("b", "behind"))
    await on_apache.start()
    await on_apache.becomes(PENDING, 1)
    assert on_apache.rejected() == []


def left_behind(consumers: ConsumerFixture, what: str) -> None:
    """Leaves the mark of a pod that has crashed: its offset, its records, how many crashes, and whether it unpacked."""
    consumers.conn.execute(
        'insert into els.crash_marks (topic, "partition", "offset", records, deaths, unpacking, pod, marked_at)'
        f" values ('{CONTENT_PROVISIONED}', 0, {what}, 'els-dead-1-ab@progress', now())".encode()
    )


async def abort_until(enough: asyncio.Event, producer: AIOKafkaProducer) -> None:
    while not enough.is_set():
        await producer.begin_transaction()
        await producer.send_and_wait(CONTENT_PROVISIONED, content("b", "aborted"), b"b", partition=0)
        await producer.abort_transaction()
