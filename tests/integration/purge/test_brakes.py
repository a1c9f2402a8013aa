"""Tests on a real broker that nothing expires while a registration that would prevent it may be unread."""

import asyncio
import time
from contextlib import suppress
from uuid import uuid4

import psycopg
from aiokafka import AIOKafkaProducer

from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from service.postgres.pool import Database
from service.purge.policy import RetentionPolicy
from service.purge.purge import purge_once
from tests.support.builders.inputs import content, registration
from tests.support.pods.running_consumer import PENDING, ConsumerFixture

NEVER = 4_000_000_000
EXPIRED = "select count(*) from els.pending_content where state = 'expired'"
WEEKEND_TTL = RetentionPolicy(86_400, NEVER, NEVER)
SECOND_TTL = RetentionPolicy(1, NEVER, NEVER)


async def purge_often(consumers: ConsumerFixture, policy: RetentionPolicy, stop: asyncio.Event) -> int:
    """Purges until it is stopped. Returns how often."""
    database, times = Database(consumers.app_url, pool_size=1), 0
    while not stop.is_set():
        with suppress(psycopg.Error):
            await purge_once(database, policy)
            times += 1
        await asyncio.sleep(0.05)
    await database.close()
    return times


async def test_a_weekend_without_pods_expires_nothing_that_an_unread_registration_takes(
    on_apache: ConsumerFixture,
) -> None:
    batches, stop = [f"b{number}" for number in range(200)], asyncio.Event()
    await on_apache.start()
    await on_apache.publish(CONTENT_PROVISIONED, *(content(batch_id, f"{batch_id}-t") for batch_id in batches))
    await on_apache.all_committed()
    await on_apache.stop()
    for number, batch_id in enumerate(batches):
        await on_apache.publish(BATCH_REGISTERED, registration(batch_id, ["e"]), partition=number % 3)
    weekend = "interval '3 days'"
    on_apache.conn.execute(f"update els.pending_content set waiting_since = waiting_since - {weekend}")
    on_apache.conn.execute(f"update els.progress set applied_until = applied_until - {weekend}")
    purging = asyncio.create_task(purge_often(on_apache, WEEKEND_TTL, stop))
    await on_apache.start()
    await on_apache.becomes("select count(*) from els.batches where state = 'ready'", len(batches))
    stop.set()
    assert await purging > 1
    assert on_apache.value(PENDING) == on_apache.value("select count(*) from els.excess_content") == 0


async def test_nothing_expires_whose_registration_is_in_an_open_transaction(on_apache: ConsumerFixture) -> None:
    await check_open_transaction(on_apache, 6)


async def check_open_transaction(consumers: ConsumerFixture, seconds: float) -> None:
    """Asserts that content waits for a registration in a transaction that is open for so long; a second is its TTL."""
    stop = asyncio.Event()
    await consumers.start()
    async with AIOKafkaProducer(
        bootstrap_servers=consumers.broker.bootstrap_servers,
        transactional_id=f"upstream-{uuid4()}",
        transaction_timeout_ms=900_000,
    ) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(BATCH_REGISTERED, registration("b", ["e"]), b"b", partition=0)
        await consumers.publish(CONTENT_PROVISIONED, content("b", "t"))
        await consumers.becomes(PENDING, 1)
        purging = asyncio.create_task(purge_often(consumers, SECOND_TTL, stop))
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            assert consumers.value(EXPIRED) == 0
            await asyncio.sleep(0.2)
        await producer.commit_transaction()
    await consumers.becomes("select state from els.batches", "ready")
    stop.set()
    assert await purging > 1
    assert consumers.value(PENDING) == 0
