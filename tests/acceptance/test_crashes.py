"""Crashes of pods, the database and the broker while the recorded morning is replayed.

Consumers may see an event twice, with the same id and the same bytes; a crash has no other visible effect.
TEST_CRASHES (default 3) is the number of crashes in each random test, TEST_SEEDS (default 1) the number of its runs;
a nightly run may use many more seeds. With six crashes or more, poison-record isolation may take an innocent record
for the culprit.
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
CRASH_AT_STEP = "tests.support.pods.crash_at_step"
SHORT_SESSION = {"ELS_SESSION_TIMEOUT_SECONDS": "2"}
"""How long the partitions of a crashed pod wait for another one."""

WITHIN = {"statement": 100, "commit": 20, "offsets": 1, "send": 10, "delete": 2}
"""How many of each step a pod certainly executes for the whole morning, in polls of fifty."""


@asynccontextmanager
async def going_on(morning: Replay) -> AsyncIterator[None]:
    """Runs the replay during the body; afterwards all is published."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(morning.run())
        yield


async def published(morning: Replay, count: int) -> None:
    """Waits until the broker has acknowledged `count` records."""
    await until(lambda: morning.published >= count, 120, lambda: f"only {morning.published} records are published")


async def ended(pod: Pod, dice: random.Random) -> None:
    """Ends the pod with SIGKILL (70 %), as a lost node does, or with SIGTERM, as a deployment does."""
    if dice.random() < 0.7:
        pod.kill()
    else:
        pod.terminate()
        assert await pod.ended() == 0


@pytest.mark.only_in_test_all("pods that end at random moments")
@pytest.mark.parametrize("seed", SEEDS)
async def test_pods_that_end_at_random_moments_lose_and_add_nothing(
    tmp_path: Path, settings: dict[str, str], group: str, database_url: str, kafka: Broker, seed: int
) -> None:
    """The morning is published in pieces at full speed; during each of them a pod ends."""
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
    """A backlog in small polls, so that every step has work in progress."""
    records = replay.morning()
    dice = random.Random(seed)
    morning = Replay(kafka, records)
    await morning.run()
    with pods(tmp_path, settings, SHORT_SESSION, {"ELS_MAX_POLL_RECORDS": "50"}) as running:
        end = asyncio.create_task(all_done(database_url, kafka, group, morning.ends))
        crashes = 0
        for _ in range(CRASHES):
            step, most = dice.choice(list(WITHIN.items()))
            (crashing,) = running.start(1, module=CRASH_AT_STEP, CRASH_AT=f"{step}:{dice.randint(1, most)}")
            crash = asyncio.create_task(crashing.ended())
            # It may reach the end of the morning before that step.
            await asyncio.wait([crash, end], return_when=asyncio.FIRST_COMPLETED)
            crashes += crash.done()
            crash.cancel()
            crashing.kill()
        assert crashes > 0
        running.start(1)
        await end
        await check_tables(database_url)
        await check_topics(database_url, kafka, records)


@pytest.mark.only_in_test_all("a kill between two certain steps")
async def test_a_kill_between_database_commit_and_offset_commit_is_invisible(
    tmp_path: Path, settings: dict[str, str], group: str, database_url: str, kafka: Broker
) -> None:
    records = replay.morning()
    morning = Replay(kafka, records)
    await morning.run()
    with pods(tmp_path, settings, SHORT_SESSION) as running:
        (crashing,) = running.start(1, module=CRASH_AT_STEP, CRASH_AT="offsets:1")
        assert killed(await crashing.ended())
        assert await committed_offsets(kafka, group, morning.ends) == {}
        assert contents_kept(database_url) > 0

        running.start(1)
        await all_done(database_url, kafka, group, morning.ends)
        await check_tables(database_url)
        await check_topics(database_url, kafka, records)


@pytest.mark.only_in_test_all("a kill between two certain steps")
async def test_a_kill_between_publish_and_delete_repeats_events_under_their_old_ids(
    tmp_path: Path, settings: dict[str, str], group: str, database_url: str, kafka: Broker
) -> None:
    records = replay.morning()
    morning = Replay(kafka, records)
    await morning.run()
    with pods(tmp_path, settings, SHORT_SESSION) as running:
        (crashing,) = running.start(1, module=CRASH_AT_STEP, CRASH_AT="delete:1")
        assert killed(await crashing.ended())

        running.start(1)
        await all_done(database_url, kafka, group, morning.ends)
        await check_tables(database_url)
        seen = await check_topics(database_url, kafka, records)
        assert seen.repeats > 0


async def test_a_crash_of_the_database_loses_nothing(
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


async def test_a_crash_of_the_broker_loses_nothing(
    tmp_path: Path, database_url: str, app_url: str, apache: Broker, group: str
) -> None:
    # A client that loses its broker while joining may wait for ever; the watchdog then replaces it.
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
    """Returns how many contents are pending or have a slot."""
    with psycopg.connect(database_url) as conn:
        row = conn.execute(
            "select (select count(*) from ops.pending_content)"
            " + (select count(*) from ops.slots where state = 'assigned')"
        ).fetchone()
    assert row is not None
    return int(row[0])
