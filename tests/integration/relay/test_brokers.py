"""Tests relays whose broker is silent, slow, away, or lacks replicas."""

import asyncio
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.local.tansu import Tansu
from deploy.servers.ports import reserved_port
from service.kafka import producer as producer_module
from service.kafka.connection import client_options
from service.kafka.producer import Producer
from service.postgres.liveness import hang_up
from service.relay import producer_line
from service.relay.producer_line import ProducerLine
from tests.support.pods.relay_stage import LARGE, Stage, until
from tests.support.servers.proxy import Proxy, kafka_through


async def test_a_new_topic_is_found_on_a_new_connection_if_the_broker_stops_responding(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client itself would retry on the same connection."""
    monkeypatch.setattr(producer_module, "ANSWER_MS", 1_000)
    known, new = await stage.create(2)
    relay = stage.relay()
    async with stage.running(relay):
        await stage.commit(("b", known, "{}"))
        await until(stage.is_empty)
        producer = relay._worker._line._producer
        assert producer is not None
        for connection in producer.client._conns.values():
            connection._writer.transport.pause_reading()
        await stage.commit(("b", new, "{}"))
        await until(stage.is_empty)
    assert len(await stage.records(new, 1)) == 1


async def test_a_small_record_batch_waits_for_a_large_one_on_the_same_connection(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are sent in one request: if the small one timed out, its producer would be replaced again and again."""
    monkeypatch.setattr(producer_line, "ACK_SECONDS", 1.0)
    proxy = await Proxy(int(str(stage.options["bootstrap_servers"]).rpartition(":")[2])).start()
    monkeypatch.setattr("aiokafka.client.create_conn", partial(kafka_through, proxy))
    [topic] = await stage.create()
    line = ProducerLine(lambda: Producer(stage.options, idempotent=False))
    try:
        producer = await line.producer_for([topic])
        proxy.slow(0.1)
        waves = []
        for partition, size in enumerate([100, 3_000_000, 100]):
            records = producer.create_batch()
            assert records.append(timestamp=None, key=b"b", value=b"x" * size, headers=[])
            waves.append(line.send(records, topic, partition))
        assert await asyncio.gather(*waves) == [None, None, None]
        assert line._in_flight == 0, "the time to wait for an acknowledgement grows with it"
    finally:
        await line.abandon()
        await proxy.stop()


async def test_a_relay_that_lost_its_database_session_replaces_its_producer(stage: Stage) -> None:
    """A network failure may break both connections, and the relay would wait for each in turn."""
    [topic] = await stage.create()
    relay = stage.relay()

    async def has_new_producer() -> bool:
        for session in stage.database._idle:
            hang_up(session.connection)
        return relay._worker._line._producer is not producer

    async with stage.running(relay):
        await stage.commit(("b", topic, "1"))
        await until(stage.is_empty)
        producer = relay._worker._line._producer
        assert producer is not None
        await until(has_new_producer)
        await stage.commit(("b", topic, "2"))
        await until(stage.is_empty)


async def test_while_the_broker_is_unavailable_nothing_is_lost_or_blocked(stage: Stage, tmp_path: Path) -> None:
    broker = Tansu(tmp_path, reserved_port())
    stage.options = client_options(broker.bootstrap_servers)
    topic = f"relay.{uuid4().hex}"
    await stage.commit(*[(f"batch-{n % 5}", topic, "x") for n in range(50)])
    relay = stage.relay()

    async def has_failed() -> bool:
        return "Kafka" in (relay.error or "")

    try:
        async with stage.running(relay):
            await until(has_failed)
            assert await stage.left() == 50
            assert await stage.all("select from els.outbox_blocked") == []
            broker.start()
            await stage.create_named([topic], 3, LARGE)
            await until(stage.is_empty)
            broker.kill()
            await stage.commit(("batch-1", topic, "x"))
            relay.wake()
            await until(has_failed)
            assert await stage.left() == 1
    finally:
        broker.stop()
    stage.written["batch-1"].pop()
    stage.assert_in_order()
