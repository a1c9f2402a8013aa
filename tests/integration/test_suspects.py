"""Marks that a pod leaves behind when it dies: who is suspected of it, and who is not."""

from collections.abc import AsyncIterator

import pytest
from aiokafka import TopicPartition

from service.consumer import crash_marks
from service.consumer.crash_marks import DEATHS, Suspects
from service.postgres.pool import Database
from service.store import crash_marks as suspects

P = TopicPartition("topic", 0)

Mark = tuple[int, int | None, int]


class Marks:
    """What pods write about one partition, each in a transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, pod: str) -> Mark | None:
        async with self._database.transaction() as conn:
            return (await suspects.claim(conn, pod, [P])).get(P)

    async def take(self, pod: str, offset: int, records: int) -> None:
        async with self._database.transaction() as conn:
            await suspects.mark(conn, pod, P, offset, records)

    async def give_back(self, pod: str) -> None:
        async with self._database.transaction() as conn:
            await suspects.release(conn, pod, [P])


@pytest.fixture
async def marks(app_url: str) -> AsyncIterator[Marks]:
    database = Database(app_url, pool_size=1)
    yield Marks(database)
    await database.close()


async def test_a_record_that_was_alone_in_hand_at_each_death_is_convicted(marks: Marks) -> None:
    await marks.claim("pod 0")
    for number in range(DEATHS):
        await marks.take(f"pod {number}", 10, 1)
        mark = await marks.claim(f"pod {number + 1}")
        assert mark == (10, 1, number + 1)
    assert mark
    assert crash_marks.suspects(mark, 10, 2_000) == Suspects(11, 1, convict=10)


async def test_deaths_before_the_record_was_in_hand_say_nothing_about_it(marks: Marks) -> None:
    await marks.claim("pod 0")
    await marks.take("pod 0", 10, 1)
    for number in range(1, DEATHS + 2):  # each dies of something else, before it comes to the record
        mark = await marks.claim(f"pod {number}")
        assert mark == (10, 1, 1)
        assert crash_marks.suspects(mark, 10, 2_000).convict is None


async def test_who_gives_a_partition_back_leaves_no_suspicion(marks: Marks) -> None:
    await marks.claim("pod 0")
    await marks.take("pod 0", 10, 1)
    await marks.give_back("pod 0")
    assert await marks.claim("pod 1") is None
