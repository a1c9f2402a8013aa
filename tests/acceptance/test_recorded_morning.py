"""The recorded morning through real pods: whatever the pace, the pods and the repeats, it ends as it must."""

from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support import replay
from tests.support.brokers import Broker
from tests.support.expected import all_done, check_tables, check_topics, everything, read_back
from tests.support.pods import Pods, pods
from tests.support.replay import Record, Replay

GROUP = "morning"


@pytest.fixture
def settings(app_url: str, kafka: Broker) -> dict[str, str]:
    return {"ELS_DATABASE_URL": app_url, **kafka.settings, "ELS_CONSUMER_GROUP": f"{GROUP}-{uuid4().hex[:8]}"}


async def played(
    running: Pods,
    settings: dict[str, str],
    database_url: str,
    kafka: Broker,
    records: list[Record],
    speed: float | None = None,
) -> Replay:
    """Publish to pods that serve, and wait until they are through with it."""
    await running.ready()
    morning = Replay(kafka, records, speed=speed)
    await morning.run()
    await all_done(database_url, kafka, settings["ELS_CONSUMER_GROUP"], morning.ends)
    assert running.complaints() == []
    return morning


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("speed", [None, 20], ids=["at_full_speed", "at_twenty_times_its_pace"])
async def test_the_recorded_morning_ends_as_it_must(
    tmp_path: Path, settings: dict[str, str], database_url: str, kafka: Broker, count: int, speed: float | None
) -> None:
    records = replay.morning()
    with pods(tmp_path, settings) as running:
        running.start(count)
        await played(running, settings, database_url, kafka, records, speed)
        await check_tables(database_url)
        published = await check_topics(database_url, kafka, records)
        assert published.repeats == 0
        assert [await pod.stop() for pod in running.all] == [0] * count


@pytest.mark.parametrize("repeated", [replay.each_twice, replay.again_renewed], ids=["same_ids", "new_ids"])
async def test_repeats_add_nothing_nor_does_a_new_group_that_reads_all_again(
    tmp_path: Path,
    settings: dict[str, str],
    database_url: str,
    kafka: Broker,
    repeated: Callable[[Sequence[Record]], list[Record]],
) -> None:
    records = repeated(replay.morning())
    with pods(tmp_path, settings) as running:
        running.start(2)
        morning = await played(running, settings, database_url, kafka, records)
        await check_tables(database_url)
        await check_topics(database_url, kafka, records)
        assert [await pod.stop() for pod in running.all] == [0, 0]

    rows, published = await everything(database_url), await read_back(kafka)
    with pods(tmp_path, settings, {"ELS_CONSUMER_GROUP": "another"}) as running:
        running.start(1)
        await all_done(database_url, kafka, "another", morning.ends)
        assert running.complaints() == []
    assert await everything(database_url) == rows
    assert await read_back(kafka) == published
