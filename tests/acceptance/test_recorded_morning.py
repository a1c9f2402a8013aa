"""The recorded morning has the expected result at any pace, with any number of pods, and with repeats."""

import asyncio
from pathlib import Path

import pytest

from deploy.servers.brokers import PARTITIONS, Broker
from deploy.servers.pods import pods
from service.domain.topics import INCOMING_TOPICS
from tests.support.builders import replay
from tests.support.builders.replay import Replay
from tests.support.checks.decisions import check_decisions
from tests.support.checks.expected import all_done, check_tables, check_topics, everything, read_back
from tests.support.checks.metrics import check_metrics
from tests.support.selection import partly_in_test_all


@pytest.mark.parametrize("count", partly_in_test_all([1, 2, 4], {1, 4}, "the recorded morning on 1 or 4 pods"))
async def test_the_morning_at_full_speed_has_the_expected_result(
    tmp_path: Path, settings: dict[str, str], group: str, database_url: str, kafka: Broker, count: int
) -> None:
    records = replay.morning()
    morning = Replay(kafka, records)
    with pods(tmp_path, settings) as running:
        running.start(count)
        await running.ready()
        await morning.run()
        await all_done(database_url, kafka, group, morning.ends)
        await check_tables(database_url)
        published = await check_topics(database_url, kafka, records)
        assert published.repeats == 0
        await check_metrics(running.all, database_url, published, len(records), len(INCOMING_TOPICS) * PARTITIONS)
        check_decisions(running.all, database_url)
        assert await running.stop() == [0] * count
        assert running.complaints() == []


@pytest.mark.parametrize("count", partly_in_test_all([1, 2, 4], {1, 4}, "the recorded morning on 1 or 4 pods"))
async def test_the_morning_at_twenty_times_its_pace_has_the_expected_result(
    tmp_path: Path, settings: dict[str, str], group: str, database_url: str, kafka: Broker, count: int
) -> None:
    """The pods start during the replay, so that partitions are reassigned meanwhile."""
    records = replay.morning()
    morning = Replay(kafka, records, speed=20)
    with pods(tmp_path, settings) as running:
        running.start(count)
        await asyncio.gather(morning.run(), running.ready())
        await all_done(database_url, kafka, group, morning.ends)
        await check_tables(database_url)
        await check_topics(database_url, kafka, records)
        assert await running.stop() == [0] * count
        assert running.complaints() == []


@pytest.mark.only_in_test_all("the recorded morning three times")
async def test_repeats_and_a_new_group_that_reads_everything_add_nothing(
    tmp_path: Path, settings: dict[str, str], group: str, database_url: str, kafka: Broker
) -> None:
    """Each record twice, then all of them once more under new event ids."""
    records = replay.again_renewed(replay.each_twice(replay.morning()))
    morning = Replay(kafka, records)
    await morning.run()
    with pods(tmp_path, settings) as running:
        running.start(2)
        await all_done(database_url, kafka, group, morning.ends)
        await check_tables(database_url)
        await check_topics(database_url, kafka, records)
        assert await running.stop() == [0, 0]

    rows, published = await everything(database_url), await read_back(kafka)
    with pods(tmp_path, settings, {"ELS_CONSUMER_GROUP": f"{group}-again"}) as running:
        running.start(1)
        await all_done(database_url, kafka, f"{group}-again", morning.ends)
        assert await running.stop() == [0]
    assert await everything(database_url) == rows
    assert await read_back(kafka) == published
