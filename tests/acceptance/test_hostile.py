"""A pod that may take 512 MiB reads the worst record batches that Apache Kafka accepts, in each codec."""

import re
from pathlib import Path

import pytest
from aiokafka.errors import KafkaError

from deploy.servers.brokers import Broker
from deploy.servers.pods import pods, until
from service.domain.topics import CONTENT_PROVISIONED
from tests.prove.hostile import BOUND, KINDS_OF_CASES, STALL_SECONDS, play
from tests.prove.report import Row
from tests.support.builders import hostile
from tests.support.builders.inputs import content
from tests.support.checks.audited import check_audit
from tests.support.pods.limited import LIMIT
from tests.support.pods.running_consumer import consumer_fixture
from tests.support.servers import memory


@pytest.mark.only_in_test_all("hostile record batches")
@pytest.mark.parametrize("codec", hostile.CODECS)
async def test_a_pod_with_little_memory_survives_every_record_batch_that_a_broker_accepts(
    tmp_path: Path, app_url: str, database_url: str, apache: Broker, codec: str
) -> None:
    async with consumer_fixture(app_url, database_url, apache) as consumers:
        accepted, valid = 0, 0
        for each in hostile.batches(codec):
            try:
                await consumers.publish_batch(each.topic, each.batch, each.records)
            except KafkaError:
                continue  # the broker rejects it, and so protects the pod
            accepted += 1
            for partition in (0, 1):  # behind it, and beside it
                valid += 1
                await consumers.publish(CONTENT_PROVISIONED, content("valid", f"v{valid}"), partition=partition)
        assert accepted > 20
        settings = {
            "ELS_DATABASE_URL": app_url,
            "ELS_CONSUMER_GROUP": consumers.group,
            "ELS_CONSECUTIVE_REJECTIONS_LIMIT": "1000000",
        }
        with memory.memory_group(LIMIT) as group, pods(tmp_path, settings, apache.settings) as running:
            (pod,) = running.start(module="tests.support.pods.limited", MEMORY_GROUP=str(group or ""))
            applied = "select count(*) from els.pending_content where batch_id = 'valid'"
            await until(
                lambda: pod.has_ended or consumers.value(applied) == valid, BOUND, lambda: f"{consumers.value(applied)}"
            )
            assert not pod.has_ended, pod.last_lines()
            await pod.ready()
            await consumers.all_committed()
            (blocked,) = re.findall(r"^els_event_loop_blocked_seconds (\S+)", await pod.metrics(), re.MULTILINE)
            assert float(blocked) < STALL_SECONDS
            assert group is None or memory.killed(group) == 0
            assert await running.stop() == [0]
        await check_audit(app_url, apache, consumers.group)  # each input is applied, a repeat, or in quarantine


@pytest.mark.only_in_test_all("hostile record batches")
async def test_a_pod_with_little_memory_survives_random_record_batches(database_url: str, apache: Broker) -> None:
    """A short round of `make prove ARGS=hostile`."""
    rows, overall = {kind: Row("", kind) for kind in KINDS_OF_CASES}, Row("", "")
    await play(database_url, apache, 1, rows, overall, 30)
    assert overall.found == []
    assert sum(row.runs for row in rows.values()) > 5
