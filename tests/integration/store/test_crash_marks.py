"""Crash marks that a pod leaves: which records they make suspicious, and which they do not."""

from collections.abc import AsyncIterator

import pytest
from aiokafka import TopicPartition

from service.consumer import crash_marks
from service.consumer.crash_marks import CRASHES, IsolationRange
from service.postgres.pool import Database
from service.store.crash_marks import Mark, claim_marks, release_marks, set_mark

P = TopicPartition("topic", 0)


class Marks:
    """What pods write about one partition, each in a transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, pod: str) -> Mark | None:
        async with self._database.transaction() as conn:
            return (await claim_marks(conn, pod, [P])).get(P)

    async def take(self, pod: str, offset: int, records: int) -> None:
        async with self._database.transaction() as conn:
            await set_mark(conn, pod, P, offset, records)

    async def give_back(self, pod: str) -> None:
        async with self._database.transaction() as conn:
            await release_marks(conn, pod, [P])


@pytest.fixture
async def marks(app_url: str) -> AsyncIterator[Marks]:
    database = Database(app_url, pool_size=1)
    yield Marks(database)
    await database.close()


async def test_a_record_that_alone_was_handled_at_each_crash_is_the_culprit(marks: Marks) -> None:
    await marks.claim("pod 0")
    for number in range(CRASHES):
        await marks.take(f"pod {number}", 10, 1)
        mark = await marks.claim(f"pod {number + 1}")
        assert mark == Mark(10, 1, number + 1)
    assert mark
    assert crash_marks.isolation_range(mark, 10, 2_000) == IsolationRange(11, 1, is_unpacked=True, culprit=10)


async def test_crashes_before_the_record_was_handled_do_not_count_against_it(marks: Marks) -> None:
    await marks.claim("pod 0")
    await marks.take("pod 0", 10, 1)
    for number in range(1, CRASHES + 2):  # each crashes for another reason, before it comes to the record
        mark = await marks.claim(f"pod {number}")
        assert mark == Mark(10, 1, 1)
        assert crash_marks.isolation_range(Mark(*mark), 10, 2_000).culprit is None


async def test_a_pod_that_gives_a_partition_back_leaves_no_mark(marks: Marks) -> None:
    await marks.claim("pod 0")
    await marks.take("pod 0", 10, 1)
    await marks.give_back("pod 0")
    assert await marks.claim("pod 1") is None
