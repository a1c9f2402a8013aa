"""The group's client on a real broker: silence is noticed, a share that is lost is asked for anew."""

import asyncio
import random
from dataclasses import replace
from functools import partial

import pytest
from aiokafka.client import ConnectionGroup

from deploy.servers.pods import until
from service.consumer import watchdog
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from service.kafka import group as membership_module
from service.kafka.group import Stalled
from tests.support.builders.inputs import MEBIBYTE, content, registration
from tests.support.pods.running_consumer import BOUND, PENDING, ConsumerFixture, Running
from tests.support.servers.proxy import Proxy, kafka_through


async def goes_on(consumers: ConsumerFixture, running: Running) -> None:
    """With another membership, as the process has it made."""
    await running.fail_and_run_again()
    await until(lambda: running.partitions > 0, BOUND, lambda: "it was given no partition")
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t"))
    await consumers.becomes(PENDING, 1)


async def test_a_consumer_that_the_group_has_forgotten_is_made_anew(consumers: ConsumerFixture) -> None:
    """Its partitions are taken back, and the answer that would share them out anew never comes."""
    running = await consumers.start()
    running.consumer._watchdog._options = replace(running.consumer._options, watchdog=1)
    await running.consumer.revoked(list(running.consumer._assignment.partitions))
    with pytest.raises(Stalled, match="no share of the group"):
        await asyncio.wait_for(running._task, BOUND)
    running.consumer._watchdog._options = replace(running.consumer._options, watchdog=60)
    await goes_on(consumers, running)


async def test_a_broker_that_answers_nothing_any_more_is_connected_to_anew(
    consumers: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client itself would wait for its answers for 40 s, the time that a rebalance may take and more."""
    monkeypatch.setattr(watchdog, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(membership_module, "SILENT_SECONDS", 1)
    running = await consumers.start()
    running.consumer._assignment.membership._options = replace(running.consumer._options, session_timeout=1)
    for connection in running.consumer._assignment.membership._client._client._conns.values():
        connection._writer.transport.pause_reading()
    with pytest.raises(Stalled, match="no word from the broker"):
        await asyncio.wait_for(running._task, BOUND)
    await goes_on(consumers, running)


async def test_a_large_record_that_takes_long_to_come_is_no_silence(
    consumers: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked meanwhile is answered behind it; a client that is made anew would begin with it again, for ever."""
    proxy = await Proxy(int(consumers.broker.bootstrap_servers.rpartition(":")[2])).start()
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t"))  # the producer has its connections from now on
    monkeypatch.setattr("aiokafka.client.create_conn", partial(kafka_through, proxy))
    running = await consumers.start()
    await consumers.becomes(PENDING, 1)
    monkeypatch.setattr(membership_module, "SILENT_SECONDS", 1)
    running.consumer._assignment.membership._options = replace(running.consumer._options, session_timeout=1)
    proxy.slow(0.3)
    instructions = random.Random(1).randbytes(2 * MEBIBYTE).hex()
    await consumers.publish(BATCH_REGISTERED, registration("b", ["e1"], essay_instructions=instructions))
    await consumers.becomes("select count(*) from els.batches", 1)
    assert not running._task.done()
    proxy.flow()
    await consumers.stop()
    await proxy.stop()


async def test_a_coordinator_that_answers_no_commit_any_more_is_connected_to_anew_and_nothing_stays_behind(
    consumers: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records come all the while: they have connections of their own."""
    monkeypatch.setattr(membership_module, "SILENT_SECONDS", 1)
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
    # The group may still wait for the client that is gone, and the other is asked to leave while it joins.
    await consumers.stop()
    assert asyncio.all_tasks() <= before


async def test_fetches_wait_longer_where_nothing_comes(consumers: ConsumerFixture) -> None:
    running = await consumers.start()

    def waits(milliseconds: int) -> bool:
        return bool(running.consumer._assignment.membership._client._fetcher._fetch_max_wait_ms == milliseconds)

    await until(lambda: waits(100), BOUND, lambda: "fetches do not wait longer")
    await consumers.publish(CONTENT_PROVISIONED, content("a", "text"))
    await until(lambda: waits(10), BOUND, lambda: "fetches wait long although something came", every=0.01)


async def test_whose_partitions_are_shared_out_anew_is_not_ready(judge: ConsumerFixture) -> None:
    running = await judge.start()
    assert running.health.ready
    await running.consumer.revoked(list(running.consumer._assignment.partitions))
    assert (running.health.ready, running.partitions) == (False, 0)
