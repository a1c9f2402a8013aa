"""Tests memberships of the group on a real broker: silent brokers are detected, lost partitions are assigned again."""

import asyncio
import random
from dataclasses import replace
from functools import partial

import pytest
from aiokafka import TopicPartition
from aiokafka.client import ConnectionGroup

from deploy.servers.pods import until
from service.consumer import watchdog
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from service.kafka import broker_view
from service.kafka.broker_view import Stalled
from tests.support.builders.inputs import MEBIBYTE, content, registration
from tests.support.pods.running_consumer import BOUND, PENDING, ConsumerFixture, Running
from tests.support.servers.proxy import Proxy, kafka_through


async def continues(consumers: ConsumerFixture, running: Running) -> None:
    """Run the consumer with a new membership, as the process does, and wait until it applies a record."""
    await running.fail_and_run_again()
    await until(lambda: running.partitions > 0, BOUND, lambda: "no partition was assigned")
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t"))
    await consumers.becomes(PENDING, 1)


async def test_a_consumer_without_an_assignment_stalls_and_starts_again(consumers: ConsumerFixture) -> None:
    """Its partitions are revoked, and the response that would assign them again does not arrive."""
    running = await consumers.start()
    running.consumer.watchdog._options = replace(running.consumer._options, watchdog=1)
    await running.consumer.revoked(list(running.consumer._assignment.partitions))
    with pytest.raises(Stalled, match="has assigned no partitions"):
        await asyncio.wait_for(running._task, BOUND)
    running.consumer.watchdog._options = replace(running.consumer._options, watchdog=60)
    await continues(consumers, running)


async def test_of_a_partition_that_was_revoked_no_end_is_known(consumers: ConsumerFixture) -> None:
    """Whoever notes open transactions may come upon one: a rebalance can begin at any time."""
    running = await consumers.start()
    brokers, tp = running.consumer._assignment.membership.brokers, TopicPartition(CONTENT_PROVISIONED, 99)
    assert brokers.open_transaction(tp) is None
    assert not await brokers.is_at_the_end(tp)


async def test_a_broker_that_does_not_answer_any_more_is_reconnected(
    consumers: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client itself would wait for 40 s, longer than a rebalance may take."""
    monkeypatch.setattr(watchdog, "LAG_CHECK_SECONDS", 0.1)
    monkeypatch.setattr(broker_view, "SILENT_SECONDS", 1)
    running = await consumers.start()
    running.consumer._assignment.membership.brokers._session_timeout = 1
    for connection in running.consumer._assignment.membership._client._client._conns.values():
        connection._writer.transport.pause_reading()
    with pytest.raises(Stalled, match="no word from the broker"):
        await asyncio.wait_for(running._task, BOUND)
    await continues(consumers, running)


async def test_a_slow_transfer_of_a_large_record_is_not_silence(
    consumers: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests meanwhile are answered behind it, and a new client would fetch the record again, for ever."""
    proxy = await Proxy(int(consumers.broker.bootstrap_servers.rpartition(":")[2])).start()
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t"))  # the producer has its connections from now on
    monkeypatch.setattr("aiokafka.client.create_conn", partial(kafka_through, proxy))
    running = await consumers.start()
    await consumers.becomes(PENDING, 1)
    # Long enough for a broker on a busy machine, and a third of what the record takes.
    monkeypatch.setattr(broker_view, "SILENT_SECONDS", 6)
    running.consumer._assignment.membership.brokers._session_timeout = 6
    proxy.slow(0.3)
    instructions = random.Random(1).randbytes(2 * MEBIBYTE).hex()
    await consumers.publish(BATCH_REGISTERED, registration("b", ["e1"], unknown_field=instructions))
    await consumers.becomes("select count(*) from els.batches", 1)
    assert not running._task.done()
    proxy.flow()
    await consumers.stop()
    await proxy.stop()


async def test_a_coordinator_that_does_not_answer_commits_is_reconnected_without_leftover_tasks(
    consumers: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records arrive meanwhile, since they have connections of their own."""
    monkeypatch.setattr(broker_view, "SILENT_SECONDS", 1)
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t1"))  # the producer has its connections from now on
    before = asyncio.all_tasks()
    running = await consumers.start()
    await consumers.all_committed()
    connections = running.consumer._assignment.membership._client._client._conns
    (coordinator,) = [each for (_, group), each in connections.items() if group == ConnectionGroup.COORDINATION]
    coordinator._writer.transport.pause_reading()
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t2"))
    with pytest.raises(Stalled, match="no answer to a commit"):
        await asyncio.wait_for(running._task, BOUND)
    await until(lambda: asyncio.all_tasks() <= before, BOUND, lambda: f"left: {asyncio.all_tasks() - before}")
    await running.fail_and_run_again()
    await consumers.becomes(PENDING, 2)
    await consumers.all_committed()
    # The group may still wait for the closed client, so that the new one is stopped while it joins.
    await consumers.stop()
    assert asyncio.all_tasks() <= before


async def test_fetches_wait_longer_while_no_records_arrive(consumers: ConsumerFixture) -> None:
    running = await consumers.start()

    def waits(milliseconds: int) -> bool:
        return bool(running.consumer._assignment.membership._client._fetcher._fetch_max_wait_ms == milliseconds)

    await until(lambda: waits(100), BOUND, lambda: "fetches do not wait longer")
    await consumers.publish(CONTENT_PROVISIONED, content("a", "text"))
    await until(lambda: waits(10), BOUND, lambda: "fetches wait long although a record arrived", every=0.01)


async def test_a_consumer_is_not_ready_during_a_rebalance(strict_consumers: ConsumerFixture) -> None:
    running = await strict_consumers.start()
    assert running.health.ready
    await running.consumer.revoked(list(running.consumer._assignment.partitions))
    assert (running.health.ready, running.partitions) == (False, 0)
