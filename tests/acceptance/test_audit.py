"""Runs the audit on real histories: on a running service, after falsified rows, and after deleted records."""

import asyncio
import json
from pathlib import Path

import psycopg
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete
from psycopg.conninfo import conninfo_to_dict

from deploy.servers import databases
from deploy.servers.brokers import Broker
from deploy.servers.pods import pods
from service.domain.topics import CONTENT_PROVISIONED
from tests.support.builders import replay
from tests.support.builders.replay import Replay
from tests.support.checks.audited import audited, check_audit
from tests.support.checks.expected import all_done
from tests.support.pods.command_line import CommandLine


@pytest.fixture
def service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], settings: dict[str, str]
) -> CommandLine:
    return CommandLine(tmp_path, monkeypatch, capfd, settings)


async def test_an_audit_of_a_running_service_finds_no_violation(
    tmp_path: Path, settings: dict[str, str], group: str, database_url: str, kafka: Broker, service: CommandLine
) -> None:
    """Each record arrives twice, and work in progress is not a violation."""
    morning = Replay(kafka, replay.each_twice(replay.morning()), speed=40)
    with pods(tmp_path, settings) as running:
        running.start(2)
        publishing = asyncio.create_task(morning.run())
        while not publishing.done():
            report = await audited(database_url, kafka, group, whole=False)
            assert report.clean, report.findings[:20]
        await publishing
        await all_done(database_url, kafka, group, morning.ends)
        report = await check_audit(database_url, kafka, group)
        assert report.counts["inputs not yet done with"] == 0
        assert report.counts[f"records of {CONTENT_PROVISIONED}"] > 2000
        printed = await asyncio.to_thread(service, "audit", "--whole", "--json")
        assert (printed.status, json.loads(printed.out)["clean"]) == (0, True), printed


FALSIFICATIONS = {
    "I1": (
        "insert into els.excess_content (batch_id, text_storage_id, reason, file_upload_id, original_file_name,"
        " raw_file_storage_id, file_size_bytes, correlation_id, declared_at)"
        " select batch_id, text_storage_id, 'BATCH_FULL', file_upload_id, original_file_name, raw_file_storage_id,"
        " file_size_bytes, correlation_id, taken_at from els.slots where state = 'assigned' limit 1"
    ),
    "I4": (
        "update els.pending_content set batch_id = (select batch_id from els.batches limit 1)"
        " where text_storage_id = (select min(text_storage_id) from els.pending_content)"
    ),
    "I5": "update els.slots set position = position + 1000 where position = 1",
    "I6": "delete from els.excess_content",
    "I8": "delete from els.pending_content",
    "quarantine I8": "delete from els.quarantine",
    "sender I8": "update els.slots set content_md5_hash = 'other' where state = 'assigned'",
}


@pytest.mark.only_in_test_all("every row falsified in turn")
async def test_an_audit_finds_every_falsified_row(
    tmp_path: Path, app_url: str, group: str, database_url: str, server_url: str, tansu: Broker
) -> None:
    morning = Replay(tansu, replay.morning())
    settings = {"ELS_DATABASE_URL": app_url, "ELS_CONSUMER_GROUP": group}
    with pods(tmp_path, settings, tansu.settings) as running:
        running.start(1)
        await morning.run()
        await all_done(database_url, tansu, group, morning.ends)
        await running.stop()
    for rule, statement in FALSIFICATIONS.items():
        with databases.cloned(server_url, str(conninfo_to_dict(database_url)["dbname"])) as url:
            with psycopg.connect(url) as conn:
                conn.execute(statement)
            report = await audited(url, tansu, group)
            assert rule.split()[-1] in report.violations, (rule, report)


async def test_records_deleted_from_a_topic_are_unknown_and_not_violations(
    tmp_path: Path, app_url: str, group: str, database_url: str, apache: Broker
) -> None:
    """The first half of each partition is deleted, as after `retention.ms`."""
    morning = Replay(apache, replay.morning())
    settings = {"ELS_DATABASE_URL": app_url, "ELS_CONSUMER_GROUP": group}
    with pods(tmp_path, settings, apache.settings) as running:
        running.start(1)
        await morning.run()
        await all_done(database_url, apache, group, morning.ends)
        await running.stop()
    ends = {tp: end for tp, end in morning.ends.items() if tp.topic == CONTENT_PROVISIONED}
    admin = AIOKafkaAdminClient(bootstrap_servers=apache.bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_records({tp: RecordsToDelete(before_offset=end // 2) for tp, end in ends.items()})
    finally:
        await admin.close()
    report = await audited(database_url, apache, group, whole=False)
    assert report.clean, report.findings[:20]
    assert report.unknown > 100
    assert (await audited(database_url, apache, group, whole=True)).violations["I8"] > 100
