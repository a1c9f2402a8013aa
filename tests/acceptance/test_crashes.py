"""What dies while the recorded morning is replayed: pods, anywhere and exactly where it hurts, database, broker.

The outside may see an event again, under its old id and the same to the last byte; nothing else tells of a death.
TEST_CRASHES (default 3) is how many deaths the random tests have, TEST_SEEDS (default 1) how many of these there
are; a run at night may take many more seeds. Six deaths or more may culprit an innocent record of having caused
them, as they should if it had.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
from aiokafka import TopicPartition

from deploy.local.postgres import Postgres
from deploy.servers.brokers import Broker, committed_offsets
from deploy.servers.databases import url_as
from deploy.servers.pods import Pod, killed, pods, until
from service.postgres import migration
from tests.support.builders import replay
from tests.support.builders.replay import Replay
from tests.support.checks.expected import all_done, check_tables, check_topics

CRASHES = int(os.environ.get("TEST_CRASHES", "3"))
SEEDS = range(int(os.environ.get("TEST_SEEDS", "1")))

SPEED = 40
DOOMED = "tests.support.pods.crash_at_step"
SHORT_SESSION = {"ELS_SESSION_TIMEOUT_SECONDS": "2"}
"""How long the partitions of the dead wait for others."""

WITHIN = {"statement": 100, "commit": 20, "offsets": 1, "send": 10, "delete": 2}
"""So many of each step a pod takes for certain that has a morning before it, in polls of fifty."""


@asynccontextmanager
async def going_on(morning: Replay) -> AsyncIterator[None]:
    """The replay beside the body; behind it all is published."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(morning.run())
        yield


async def published(morning: Replay, count: int) -> None:
    """Wait until so many records are with the broker."""
    await until(lambda: morning.published >= count, 120, lambda: f"only {morning.published} records are published")


async def ended(pod: Pod, dice: random.Random) -> None:
    """End it one way or the other: as a node that is lost, or as a deployment does."""
    if dice.random() < 0.7:
        pod.kill()
    else:
        pod.terminate()
        assert await pod.ended() == 0


@pytest.mark.parametrize("seed", SEEDS)
async def test_pods_that_end_at_random_moments_lose_and_add_nothing(
    tmp_path: Path, settings: dict[str, str], group: str, database_url: str, kafka: Broker, seed: int
) -> None:
    """The morning comes in pieces at full speed; into each of them a pod dies."""
    records = replay.morning()
    dice = random.Random(seed)
    cuts = sorted(dice.sample(range(1, len(records)), CRASHES - 1))
    ends: dict[TopicPartition, int] = {}
    with pods(tmp_path, settings, SHORT_SESSION) as running:
        running.start(2)
        await running.ready()
        for start, end in pairwise([0, *cuts, len(records)]):
            piece = Replay(kafka, records[start:end])
            async with going_on(piece):
                await published(piece, dice.randint(0, end - start))
                pod = dice.choice(running.all)
                await ended(pod, dice)
                pod.start()
            ends |= piece.ends
            await pod.ready()
        await all_done(database_url, kafka, group, ends)
        await check_tables(database_url)
        await check_topics(database_url, kafka, records)


@pytest.mark.parametrize("seed", SEEDS)
async def test_pods_that_are_killed_at_random_steps_lose_and_add_nothing(
    tmp_path: Path, settings: dict[str, str], group: str, database_url: str, kafka: Broker, seed: int
) -> None:
    """A backlog in small polls, so that there is something under way at every step."""
    records = replay.morning()
    dice = random.Random(seed)
    morning = Replay(kafka, records)
    await morning.run()
    with pods(tmp_path, settings, SHORT_SESSION, {"ELS_MAX_POLL_RECORDS": "50"}) as running:
        end = asyncio.create_task(all_done(database_url, kafka, group, morning.ends))
        deaths = 0
        for _ in range(CRASHES):
            step, most = dice.choice(list(WITHIN.items()))
            (doomed,) = running.start(1, module=DOOMED, DOOM=f"{step}:{dice.randint(1, most)}")
            death = asyncio.create_task(doomed.ended())
            # It may come to the end of the morning before it comes to that step.
            await asyncio.wait([death, end], return_when=asyncio.FIRST_COMPLETED)
            deaths += death.done()
            death.cancel()
            doomed.kill()
        assert deaths > 0
        running.start(1)
        await end
        await check_tables(database_url)
        await check_topics(database_url, kafka, records)


async def test_a_kill_between_database_commit_and_offset_commit_is_not_to_be_seen(
    tmp_path: Path, settings: dict[str, str], group: str, database_url: str, kafka: Broker
) -> None:
    records = replay.morning()
    morning = Replay(kafka, records)
    await morning.run()
    with pods(tmp_path, settings, SHORT_SESSION) as running:
        (doomed,) = running.start(1, module=DOOMED, DOOM="offsets:1")
        assert killed(await doomed.ended())
        assert await committed_offsets(kafka, group, morning.ends) == {}
        assert contents_kept(database_url) > 0

        running.start(1)
        await all_done(database_url, kafka, group, morning.ends)
        await check_tables(database_url)
        await check_topics(database_url, kafka, records)


async def test_a_kill_between_publish_and_delete_repeats_events_under_their_old_ids(
    tmp_path: Path, settings: dict[str, str], group: str, database_url: str, kafka: Broker
) -> None:
    records = replay.morning()
    morning = Replay(kafka, records)
    await morning.run()
    with pods(tmp_path, settings, SHORT_SESSION) as running:
        (doomed,) = running.start(1, module=DOOMED, DOOM="delete:1")
        assert killed(await doomed.ended())

        running.start(1)
        await all_done(database_url, kafka, group, morning.ends)
        await check_tables(database_url)
        seen = await check_topics(database_url, kafka, records)
        assert seen.repeats > 0


async def test_a_database_that_dies_and_comes_back_costs_nothing(
    tmp_path: Path, durable_postgres: Postgres, tansu: Broker, group: str
) -> None:
    migration.upgrade(durable_postgres.url())
    settings = {"ELS_DATABASE_URL": url_as(durable_postgres.url(), "els_app"), "ELS_CONSUMER_GROUP": group}
    records = replay.morning()
    morning = Replay(tansu, records, speed=SPEED)
    with pods(tmp_path, settings, tansu.settings) as running:
        running.start(2)
        await running.ready()
        async with going_on(morning):
            for moment in (len(records) // 3, len(records) * 2 // 3):
                await published(morning, moment)
                durable_postgres.kill()
                await asyncio.to_thread(durable_postgres.start)
        await all_done(durable_postgres.url(), tansu, group, morning.ends)
        await check_tables(durable_postgres.url())
        await check_topics(durable_postgres.url(), tansu, records)
        await running.ready()
        assert await running.stop() == [0, 0]


async def test_a_broker_that_dies_and_comes_back_costs_nothing(
    tmp_path: Path, database_url: str, app_url: str, apache: Broker, group: str
) -> None:
    # A client that lost its broker in the midst of joining may wait for ever: the watchdog makes another.
    settings = {"ELS_DATABASE_URL": app_url, "ELS_CONSUMER_GROUP": group, "ELS_WATCHDOG_SECONDS": "20"}
    records = replay.morning()
    morning = Replay(apache, records, speed=SPEED)
    with pods(tmp_path, settings, apache.settings) as running:
        running.start(2)
        await running.ready()
        async with going_on(morning):
            await published(morning, len(records) // 2)
            apache.kill()
            await asyncio.to_thread(apache.start)
        await all_done(database_url, apache, group, morning.ends)
        await check_tables(database_url)
        await check_topics(database_url, apache, records)
        await running.ready()
        assert await running.stop() == [0, 0]


def contents_kept(database_url: str) -> int:
    """How many contents wait or have a slot."""
    with psycopg.connect(database_url) as conn:
        row = conn.execute(
            "select (select count(*) from ops.pending_content)"
            " + (select count(*) from ops.slots where state = 'assigned')"
        ).fetchone()
    assert row is not None
    return int(row[0])
