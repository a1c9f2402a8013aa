"""Tests poison-record isolation: a record that crashes the process is found, and other ends reject no record."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from aiokafka import TopicPartition

from deploy.local.processes import plain_environment
from deploy.servers.brokers import PARTITIONS
from deploy.servers.pods import Pod, killed, pods, until
from service.consumer import offsets
from service.consumer.crash_marks import HANGING_SECONDS
from service.consumer.offsets import OffsetCommitter
from service.domain.topics import CONTENT_PROVISIONED, INCOMING_TOPICS
from tests.support.builders.batches import record_batch
from tests.support.builders.inputs import content
from tests.support.pods.command_line import ROOT
from tests.support.pods.running_consumer import BOUND, PENDING, ConsumerFixture, Running
from tests.support.selection import partly_in_test_all


@pytest.mark.only_in_test_all("isolation over a rebalance")
async def test_isolated_records_are_not_skipped_when_their_partition_is_revoked_and_assigned_again(
    strict_consumers: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tp = TopicPartition(CONTENT_PROVISIONED, 0)
    strict_consumers.conn.execute(
        """insert into els.crash_marks (topic, "partition", "offset", records, deaths, pod, marked_at)
        values (%s, 0, 0, null, 0, 'dead', now())""",
        [CONTENT_PROVISIONED],
    )
    commit, reached, go = OffsetCommitter.commit, asyncio.Event(), asyncio.Event()

    async def slow_to_commit(committing: OffsetCommitter) -> None:
        if not reached.is_set():
            reached.set()
            await go.wait()
        await commit(committing)

    monkeypatch.setattr(offsets, "COMMIT_SECONDS", 3600)  # so that only the isolation commits
    monkeypatch.setattr(OffsetCommitter, "commit", slow_to_commit)
    running = await strict_consumers.start()
    await asyncio.wait_for(reached.wait(), BOUND)
    before = running.consumer._assignment.partitions[tp]
    joined = await strict_consumers.start()
    strict_consumers.running.remove(joined)
    await joined.stop()
    await until(
        lambda: running.partitions == len(INCOMING_TOPICS) * PARTITIONS,
        BOUND,
        lambda: "not all partitions are assigned again",
    )
    assert running.consumer._assignment.partitions[tp] is not before
    with psycopg.connect(strict_consumers.conn.info.dsn, password=strict_consumers.conn.info.password) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
        await strict_consumers.publish(CONTENT_PROVISIONED, *(content("free", f"t{number}") for number in range(3)))
        await strict_consumers.publish(CONTENT_PROVISIONED, content("held", "t"), content("free", "t3"))
        go.set()
        await strict_consumers.becomes("select count(*) from els.pending_content where batch_id = 'free'", 4)
        await commit(running.consumer._offsets)
        assert (await strict_consumers.committed(tp)).get(tp, 0) <= 3
    await strict_consumers.becomes(PENDING, 5)


@pytest.mark.parametrize(
    "mine", partly_in_test_all(["decode", "apply"], {"decode"}, "a record that kills the process when it is decoded")
)
async def test_a_record_that_was_alone_in_three_crashes_is_rejected(
    tmp_path: Path, strict_consumers: ConsumerFixture, mine: str
) -> None:
    records = [content("b", f"t{number}") for number in range(40)]
    records[23] = content("b", "mine")
    await strict_consumers.publish(CONTENT_PROVISIONED, *records)
    settings = settings_of(strict_consumers) | {
        "ELS_MAX_POLL_RECORDS": "16",
        "MINE": mine,
    }
    crashes = 0
    with pods(tmp_path, settings) as started:
        while crashes <= 5:
            (pod,) = started.start(module="tests.support.pods.crash_on_record")
            if await crashes_or(pod, lambda: strict_consumers.value(PENDING) == 39):
                crashes += 1
            else:
                break
        # Once in a poll of 16, whose sixteenth is one record, then three times with that alone.
        assert 4 <= crashes <= 5
        await strict_consumers.all_committed()
        assert strict_consumers.rejected() == [(CONTENT_PROVISIONED, "killed_the_process")]
        assert strict_consumers.value("select value from els.quarantine") == records[23]
        pod.terminate()
        assert await pod.ended() == 0
    assert strict_consumers.value("select count(*) from els.crash_marks") == 0


@pytest.mark.only_in_test_all("a record batch that kills the process when it is unpacked, and a record that hangs")
async def test_a_record_batch_that_was_alone_in_three_crashes_is_rejected_unread(
    tmp_path: Path, strict_consumers: ConsumerFixture
) -> None:
    for names in (("t1", "t2"), ("t3", "mine", "t5"), ("t6", "t7")):  # a record batch each
        batch = record_batch([content("b", name) for name in names])
        await strict_consumers.publish_batch(CONTENT_PROVISIONED, batch, len(names))
    settings = settings_of(strict_consumers) | {
        "MINE": "unpack",
    }
    crashes = 0
    with pods(tmp_path, settings) as started:
        while crashes <= 5:
            (pod,) = started.start(module="tests.support.pods.crash_on_record")
            if not await crashes_or(pod, lambda: strict_consumers.value(PENDING) == 4):
                break
            crashes += 1
        assert crashes == 4, "once in a poll, then three times with that batch alone"
        await strict_consumers.all_committed()
        assert strict_consumers.rejected() == [(CONTENT_PROVISIONED, "killed_the_process")]
        pod.terminate()
        assert await pod.ended() == 0
    assert strict_consumers.value("select count(*) from els.crash_marks") == 0


@pytest.mark.only_in_test_all("a record batch that kills the process when it is unpacked")
async def test_a_record_batch_that_an_operator_has_skipped_kills_no_further_pod(
    tmp_path: Path, strict_consumers: ConsumerFixture
) -> None:
    for names in (("t1", "t2"), ("t3", "mine", "t5"), ("t6", "t7")):
        batch = record_batch([content("b", name) for name in names])
        last = await strict_consumers.publish_batch(CONTENT_PROVISIONED, batch, len(names))
    settings = settings_of(strict_consumers) | {"MINE": "unpack"}
    with pods(tmp_path, settings) as started:
        (pod,) = started.start(module="tests.support.pods.crash_on_record")
        assert await crashes_or(pod, lambda: False)
        command = [sys.executable, "-m", "service", "inputs", "skip", CONTENT_PROVISIONED, "0", str(last - 2)]
        environment = plain_environment() | settings | {"PYTHONPATH": str(ROOT)}
        for arguments in (["--batch", "--dry-run"], ["--batch", "--yes", "--why", "it kills"]):
            ended = await asyncio.to_thread(
                subprocess.run, [*command, *arguments], env=environment, capture_output=True, text=True, check=False
            )
            assert ended.returncode == 0, ended.stderr
        (pod,) = started.start(module="tests.support.pods.crash_on_record")
        assert not await crashes_or(pod, lambda: strict_consumers.value(PENDING) == 4)
        await strict_consumers.all_committed()
        pod.terminate()
        assert await pod.ended() == 0
    assert strict_consumers.rejected() == [(CONTENT_PROVISIONED, "skipped")]
    lost = strict_consumers.conn.execute("select records, cause from ops.lost_inputs").fetchall()
    assert lost == [(3, "skipped")]


@pytest.mark.only_in_test_all("a record batch that kills the process when it is unpacked, and a record that hangs")
async def test_a_record_that_hangs_until_the_pod_is_stopped_is_rejected(
    tmp_path: Path, strict_consumers: ConsumerFixture
) -> None:
    """A liveness probe stops such a pod with SIGTERM. It ends by itself, although the thread does not."""
    hangs = content("b", "mine", padding="x" * 300_000)  # decoded in a thread
    for value in (content("b", "t1"), hangs, content("b", "t2")):
        await strict_consumers.publish(CONTENT_PROVISIONED, value)
    settings = settings_of(strict_consumers) | {
        "ELS_DRAIN_SECONDS": "1",
        "MINE": "hang",
    }
    stops = 0

    def has_logged(event: str) -> bool:
        return any(entry.get("event") == event for entry in pod.logged())

    def done() -> bool:
        return bool(strict_consumers.value(PENDING) == 2)

    with pods(tmp_path, settings) as started:
        while stops <= 5:
            (pod,) = started.start(module="tests.support.pods.crash_on_record")
            await until(lambda: has_logged("hangs") or done(), BOUND, pod.last_lines)
            if done():
                break
            await asyncio.sleep(HANGING_SECONDS + 0.5)  # SPEC, section 5
            pod.terminate()
            assert await pod.ended() == 1
            assert has_logged("thread_hangs")
            stops += 1
        assert stops == 4, "once in a poll, then three times with that record alone"
        await strict_consumers.all_committed()
        assert strict_consumers.rejected() == [(CONTENT_PROVISIONED, "killed_the_process")]


def settings_of(consumers: ConsumerFixture) -> dict[str, str]:
    return {
        "ELS_DATABASE_URL": consumers.app_url,
        **consumers.broker.settings,
        "ELS_CONSUMER_GROUP": consumers.group,
        "ELS_SESSION_TIMEOUT_SECONDS": "1",
    }


async def crashes_or(pod: Pod, condition: Callable[[], bool]) -> bool:
    """Wait until a pod has crashed or the condition is true. Returns whether it has crashed."""
    process = pod._process
    assert process is not None
    await until(lambda: process.poll() is not None or condition(), BOUND, pod.last_lines)
    if process.poll() is None:
        return False
    assert killed(process.returncode), pod.last_lines()
    return True


async def test_a_consumer_that_is_stopped_leaves_no_mark_behind(strict_consumers: ConsumerFixture) -> None:
    await strict_consumers.publish(CONTENT_PROVISIONED, content("held", "t0"), content("free", "t1"))
    strict_consumers.conn.execute(
        """insert into els.crash_marks (topic, "partition", "offset", records, deaths, in_hand, pod, marked_at)
        values (%s, 0, 0, 1, 1, true, 'dead', now())""",
        [CONTENT_PROVISIONED],
    )
    with psycopg.connect(strict_consumers.conn.info.dsn, password=strict_consumers.conn.info.password) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
        await strict_consumers.start()
        # It is isolated alone again after two crashes: one more would make it the culprit.
        await strict_consumers.becomes("select deaths from els.crash_marks where records = 1", 2)
        await strict_consumers.stop()
        assert strict_consumers.value("select count(*) from els.crash_marks") == 0
    await strict_consumers.start()
    await strict_consumers.all_committed()
    assert (strict_consumers.value(PENDING), strict_consumers.rejected()) == (2, [])


async def test_an_isolated_record_is_not_rejected_because_of_database_errors(
    strict_consumers: ConsumerFixture,
) -> None:
    await strict_consumers.publish(CONTENT_PROVISIONED, content("b", "t0"), content("b", "t1"))
    strict_consumers.conn.execute(
        """insert into els.crash_marks (topic, "partition", "offset", records, deaths, in_hand, pod, marked_at)
        values (%s, 0, 0, 1, 1, true, 'dead', now())""",
        [CONTENT_PROVISIONED],
    )
    # The session ends the first two times that the record is marked.
    strict_consumers.conn.execute("""
        create sequence public.tries;
        create function public.end_session() returns trigger language plpgsql security definer as $$
        begin
            if new.records = 1 and nextval('public.tries') <= 2 then
                perform pg_terminate_backend(pg_backend_pid());
            end if;
            return new;
        end $$;
        create trigger ending after update on els.crash_marks
            for each row when (new.deaths < 9) execute function public.end_session();
    """)
    for _ in range(5):
        started = Running(
            strict_consumers.app_url, strict_consumers.broker, strict_consumers.group, 1_000, replay=False
        )
        task = started._task
        await until(
            lambda task=task: task.done() or strict_consumers.value(PENDING) == 2,  # type: ignore[misc]
            BOUND,
            lambda: "neither done nor failed",
        )
        if not task.done():
            await started.stop()
            break
        assert isinstance(task.exception(), psycopg.Error)
        await started.database.close()
    assert (strict_consumers.value(PENDING), strict_consumers.rejected()) == (2, [])
