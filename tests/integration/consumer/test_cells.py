"""Cells on one broker: each record is applied by exactly one, and what belongs to others changes nothing."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count, islice
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener

from deploy.servers import databases
from deploy.servers.brokers import Broker
from deploy.servers.pods import pods, until
from service.consumer import paused_topics
from service.consumer.locator import Behind
from service.domain.cells import ALL_BATCHES, Slice, cell_of
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED, INCOMING_TOPICS, SLOT_ASSIGNED
from service.kafka.group import offset_text
from tests.integration.consumer.test_crashes import crashes_or, settings_of
from tests.support.builders.inputs import content, registration
from tests.support.pods.running_consumer import BOUND, PENDING, ConsumerFixture, consumer_fixture


@pytest.fixture
async def halves(server_url: str, template: str, tansu: Broker) -> AsyncIterator[Sequence[ConsumerFixture]]:
    async with two_cells(server_url, template, tansu) as cells:
        yield cells


@asynccontextmanager
async def two_cells(server_url: str, template: str, broker: Broker) -> AsyncIterator[Sequence[ConsumerFixture]]:
    """Two cells, each with a database of its own."""
    async with AsyncExitStack() as stack:
        cells, group = [], f"group-{uuid4().hex[:8]}"
        for cell in range(2):
            url = stack.enter_context(databases.cloned(server_url, template))
            fixture = consumer_fixture(databases.url_as(url, "els_app"), url, broker)
            cells.append(await stack.enter_async_context(fixture))
            cells[-1].becomes_cell(Slice(2, cell), group)
            cells[-1].ends = cells[0].ends
        yield cells


def ids_of(cell: int, number: int, cells: int = 2) -> list[str]:
    """Returns ids of batches of a cell."""
    return list(islice((each for each in map("b{}".format, count()) if cell_of(each, cells) == cell), number))


async def test_each_record_is_applied_by_one_cell(halves: Sequence[ConsumerFixture]) -> None:
    first = halves[0]
    mine, others = ids_of(0, 20), ids_of(1, 20)
    everything = [batch_id for pair in zip(mine, others, strict=True) for batch_id in pair]
    for partition in range(3):
        some = everything[partition::3]
        await first.publish(CONTENT_PROVISIONED, *(content(each, f"t-{each}") for each in some), partition=partition)
        key = b"%d" % partition  # the same key and value at another place would be the same input
        await first.publish(CONTENT_PROVISIONED, b"nobody can read this", None, partition=partition, key=key)
        await first.publish(BATCH_REGISTERED, *(registration(each, ["e"]) for each in some[:2]), partition=partition)
        await first.publish(BATCH_REGISTERED, *(registration(each, []) for each in some[2:4]), partition=partition)
    for each in halves:
        await each.start()
    for each, own in zip(halves, (mine, others), strict=True):
        await each.all_committed()
        found = each.conn.execute(
            "select batch_id from els.pending_content union select batch_id from els.batches order by 1"
        ).fetchall()
        assert found == [(batch_id,) for batch_id in sorted(own)]
        await passes_all(each)
    for cell, each in enumerate(halves):
        rejected = each.conn.execute("select partition, batch_id from els.quarantine").fetchall()
        unreadable = sorted(partition for partition, batch_id in rejected if batch_id is None)
        assert unreadable == sorted([partition for partition in range(3) if partition % 2 == cell] * 2)
        assert {cell_of(batch_id, 2) for _, batch_id in rejected if batch_id} <= {cell}
    assert sum(each.value("select count(*) from els.quarantine where batch_id is not null") for each in halves) == 6


async def passes_all(cell: ConsumerFixture) -> None:
    """Waits until the rows have passed all records, and name the last one of the partition, whosever it is."""
    query = "select topic, partition, next_offset, record_offset from els.progress where next_offset > 0 order by 1, 2"
    wanted = [(tp.topic, tp.partition, end, end - 1) for tp, end in sorted(cell.ends.items())]
    found: list[tuple[object, ...]] = []

    def passed() -> bool:
        found[:] = cell.conn.execute(query).fetchall()
        return found == wanted

    await until(passed, BOUND, lambda: str(found))


async def test_records_of_another_cell_neither_count_nor_reset_anything(
    halves: Sequence[ConsumerFixture], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rejections of cell 0, with valid and invalid records of cell 1 between them, pause the topic in cell 0 only."""
    zero, one = halves
    (mine,), (other,) = ids_of(0, 1), ids_of(1, 1)
    for number in range(5):
        invalid = content(mine, f"t{number}", file_size_bytes=-1)
        await zero.publish(CONTENT_PROVISIONED, invalid, content(other, f"t{number}"))
    await zero.publish(CONTENT_PROVISIONED, content(other, "bad", file_size_bytes=-1))
    for each in halves:
        await each.start(limit=5)
    await one.all_committed()
    assert one.value(PENDING) == 5
    await zero.becomes("select in_a_row from els.topic_refusals where stopped_at is not null", 5)
    assert one.value("select count(*) from els.topic_refusals where stopped_at is not null") == 0
    # A probe passes what belongs to others, up to the first record of the cell.
    await zero.publish(CONTENT_PROVISIONED, *(content(other, f"u{number}") for number in range(300)))
    await zero.publish(CONTENT_PROVISIONED, content(mine, "valid"))
    monkeypatch.setattr(paused_topics, "PROBE_SECONDS", 0.1)
    await zero.becomes(PENDING, 1)
    for each in halves:
        await each.all_committed()


async def test_a_cell_that_begins_later_is_not_behind_because_others_have_published(
    halves: Sequence[ConsumerFixture],
) -> None:
    zero, one = halves
    (mine,), (other,) = ids_of(0, 1), ids_of(1, 1)
    published = b'{"data": {"batch_id": "%s", "essay_id": "e", "text_storage_id": "t"}}' % other.encode()
    await zero.producer.send_and_wait(SLOT_ASSIGNED, published, other.encode(), headers=[("seq", b"1000")])
    await zero.publish(CONTENT_PROVISIONED, content(mine, "t"), content(other, "t"))
    await zero.start()
    await zero.becomes(PENDING, 1)
    # Its own database was lost: an event of it is published.
    behind = one.start_one()
    one.running.clear()
    with pytest.raises(Behind, match="published are not in it"):
        await asyncio.wait_for(behind._task, BOUND)
    assert one.value(PENDING) == 0
    await behind.database.close()


@pytest.mark.parametrize(
    ("member", "outsiders"),
    [(Slice(2, 0), [Slice(2, 1), Slice(4, 2), ALL_BATCHES]), (ALL_BATCHES, [Slice(2, 1)])],
    ids=["a cell", "all batches"],
)
async def test_the_group_of_another_cell_is_not_joined(
    server_url: str, template: str, kafka: Broker, member: Slice, outsiders: Sequence[Slice]
) -> None:
    """By its name, since not every broker keeps the texts of offsets: while it has members, and when they are gone."""
    async with two_cells(server_url, template, kafka) as (zero, one):
        zero.becomes_cell(member, f"group-{uuid4().hex[:8]}")
        await zero.publish(CONTENT_PROVISIONED, *(content(batch_id, "t") for batch_id in ids_of(0, 3) + ids_of(1, 3)))
        running = await zero.start()
        await zero.all_committed()
        assigned = dict(running.consumer._assignment.partitions)
        for has_members in (True, False):
            if not has_members:
                await zero.stop()
            for of in outsiders:
                one.becomes_cell(of, "")
                one.group = zero.group
                outsider = one.start_one()
                message = f"ELS_CONSUMER_GROUP: the group '{zero.group}' is that of {member}, and this is {of}"
                await outsider.is_kept_out(message)
                await one.stop()
            if has_members:
                assert running.consumer._assignment.partitions == assigned  # the same objects: nothing was revoked
        assert one.value(PENDING) == 0


@pytest.mark.parametrize("of", [ALL_BATCHES, Slice(2, 1)], ids=str)
async def test_a_group_with_offsets_of_another_cell_is_not_joined(
    server_url: str, template: str, apache: Broker, of: Slice
) -> None:
    """A group of the right name, of which another cell has committed one offset: until somebody sets it again."""
    async with two_cells(server_url, template, apache) as (_, one):
        one.becomes_cell(of, f"group-{uuid4().hex[:8]}")
        await one.publish(CONTENT_PROVISIONED, content(ids_of(1, 1)[0], "t"))
        listener = CountingListener()
        other = AIOKafkaConsumer(
            bootstrap_servers=apache.bootstrap_servers, group_id=one.group, enable_auto_commit=False
        )
        other.subscribe(topics=list(INCOMING_TOPICS), listener=listener)
        async with other:
            await until(lambda: len(other.assignment()) > 1, BOUND, lambda: "no partition was assigned")
            first, second, *_ = sorted(other.assignment())
            await other.commit({first: offset_text(0, 0, Slice(4, 3)), second: (0, "of another program")})
            outsider = one.start_one()
            message = f"ELS_CONSUMER_GROUP: the group '{one.group}' has offsets of cell 3 of 4, and this is {of}"
            await outsider.is_kept_out(message)
            assert listener.rebalances == 1
        await one.stop()
        outsider = one.start_one()
        await outsider.is_kept_out(message)
        async with AIOKafkaConsumer(bootstrap_servers=apache.bootstrap_servers, group_id=one.group) as tool:
            tool.assign([first])
            await tool.commit({first: 0})
        await one.all_committed()
        assert one.value(PENDING) == 1


class CountingListener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Counts how often partitions were assigned."""

    def __init__(self) -> None:
        self.rebalances = 0

    def on_partitions_revoked(self, revoked: object) -> None:
        pass

    def on_partitions_assigned(self, assigned: object) -> None:  # noqa: ARG002
        self.rebalances += 1


@pytest.mark.only_in_test_all("poison-record isolation in a cell")
async def test_a_record_that_kills_the_pods_of_its_cell_is_found_among_those_of_others(
    tmp_path: Path, halves: Sequence[ConsumerFixture]
) -> None:
    zero, one = halves
    (mine,), (other,) = ids_of(0, 1), ids_of(1, 1)
    records = [content(mine if number % 3 else other, f"t{number}") for number in range(40)]
    records[23] = content(mine, "mine")
    await zero.publish(CONTENT_PROVISIONED, *records)
    settings = settings_of(zero) | {"ELS_MAX_POLL_RECORDS": "16", "MINE": "decode"}
    settings["ELS_CONSUMER_GROUP"] = zero.group.removesuffix(zero.slice.suffix)
    crashes = 0
    with pods(tmp_path, settings | {"ELS_CELLS": "2", "ELS_CELL": "0"}) as started:
        while crashes <= 6:
            (pod,) = started.start(module="tests.support.pods.crash_on_record")
            if not await crashes_or(pod, lambda: zero.value(PENDING) == 25):
                break
            crashes += 1
        assert 4 <= crashes <= 6
        await zero.all_committed()
        assert zero.rejected() == [(CONTENT_PROVISIONED, "killed_the_process")]
        pod.terminate()
        assert await pod.ended() == 0
    with pods(tmp_path, settings | {"ELS_DATABASE_URL": one.app_url, "ELS_CELLS": "2", "ELS_CELL": "1"}) as started:
        (pod,) = started.start(module="tests.support.pods.crash_on_record")
        await one.becomes(PENDING, 14)
        await one.all_committed()
        assert one.rejected() == []
        pod.terminate()
        assert await pod.ended() == 0
