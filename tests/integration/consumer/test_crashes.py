"""A record that kills the process is found; whatever else ends a process convicts nothing."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from aiokafka import TopicPartition

from deploy.servers.pods import Pod, killed, pods, until
from service.consumer import offsets
from service.consumer.offsets import Offsets
from service.domain.topics import CONTENT_PROVISIONED
from tests.support.builders.inputs import content
from tests.support.pods.running_consumer import BOUND, PENDING, ConsumerFixture, Running


async def test_suspects_that_a_rebalance_took_away_and_brought_back_are_not_gone_past(
    judge: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tp = TopicPartition(CONTENT_PROVISIONED, 0)
    judge.conn.execute(
        """insert into els.crash_marks (topic, "partition", "offset", records, deaths, pod, marked_at)
        values (%s, 0, 0, null, 0, 'dead', now())""",
        [CONTENT_PROVISIONED],
    )
    commit, reached, go = Offsets.commit, asyncio.Event(), asyncio.Event()

    async def slow_to_commit(committing: Offsets) -> None:
        if not reached.is_set():
            reached.set()
            await go.wait()
        await commit(committing)

    monkeypatch.setattr(offsets, "COMMIT_SECONDS", 3600)  # so that it is the suspects' commit
    monkeypatch.setattr(Offsets, "commit", slow_to_commit)
    running = await judge.start()
    await asyncio.wait_for(reached.wait(), BOUND)
    before = running.consumer._assignment.partitions[tp]
    joined = await judge.start()
    judge.running.remove(joined)
    await joined.stop()
    await until(lambda: running.partitions == 9, BOUND, lambda: "it has not all of them again")
    assert running.consumer._assignment.partitions[tp] is not before
    with psycopg.connect(judge.conn.info.dsn, password=judge.conn.info.password) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
        await judge.publish(CONTENT_PROVISIONED, *(content("free", f"t{number}") for number in range(3)))
        await judge.publish(CONTENT_PROVISIONED, content("held", "t"), content("free", "t3"))
        go.set()
        await judge.becomes("select count(*) from els.pending_content where batch_id = 'free'", 4)
        await commit(running.consumer._offsets)
        assert (await judge.committed(tp)).get(tp, 0) <= 3
    await judge.becomes(PENDING, 5)


@pytest.mark.parametrize("mine", ["decode", "apply"])
async def test_a_record_that_kills_the_process_is_refused_when_it_was_alone_in_three_deaths(
    tmp_path: Path, judge: ConsumerFixture, mine: str
) -> None:
    records = [content("b", f"t{number}") for number in range(40)]
    records[23] = content("b", "mine")
    await judge.publish(CONTENT_PROVISIONED, *records)
    settings = {
        "ELS_DATABASE_URL": judge.app_url,
        **judge.broker.settings,
        "ELS_CONSUMER_GROUP": judge.group,
        "ELS_SESSION_TIMEOUT_SECONDS": "1",
        "ELS_MAX_POLL_RECORDS": "16",
        "MINE": mine,
    }
    deaths = 0
    with pods(tmp_path, settings) as started:
        while deaths <= 5:
            (pod,) = started.start(module="tests.support.pods.crash_on_record")
            if await dies_or(pod, lambda: judge.value(PENDING) == 39):
                deaths += 1
            else:
                break
        # Once in a poll of 16, whose sixteenth is one record, then three times with that alone.
        assert 4 <= deaths <= 5
        await judge.all_committed()
        assert judge.rejected() == [(CONTENT_PROVISIONED, "killed_the_process")]
        assert judge.value("select value from els.quarantine") == records[23]
        pod.terminate()
        assert await pod.ended() == 0
    assert judge.value("select count(*) from els.crash_marks") == 0


async def dies_or(pod: Pod, condition: Callable[[], bool]) -> bool:
    """Wait until a pod is dead or this is so; returns whether it is dead."""
    process = pod._process
    assert process is not None
    await until(lambda: process.poll() is not None or condition(), BOUND, pod.last_lines)
    if process.poll() is None:
        return False
    assert killed(process.returncode), pod.last_lines()
    return True


async def test_whoever_is_told_to_stop_leaves_no_suspicion_behind(judge: ConsumerFixture) -> None:
    await judge.publish(CONTENT_PROVISIONED, content("held", "t0"), content("free", "t1"))
    judge.conn.execute(
        """insert into els.crash_marks (topic, "partition", "offset", records, deaths, in_hand, pod, marked_at)
        values (%s, 0, 0, 1, 1, true, 'dead', now())""",
        [CONTENT_PROVISIONED],
    )
    with psycopg.connect(judge.conn.info.dsn, password=judge.conn.info.password) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
        await judge.start()
        # Alone in hand once more, and two deaths to its name: one more would culprit it.
        await judge.becomes("select deaths from els.crash_marks where records = 1", 2)
        await judge.stop()
        assert judge.value("select count(*) from els.crash_marks") == 0
    await judge.start()
    await judge.all_committed()
    assert (judge.value(PENDING), judge.rejected()) == (2, [])


async def test_a_suspect_that_is_tried_while_the_database_comes_and_goes_is_not_convicted_of_that(
    judge: ConsumerFixture,
) -> None:
    await judge.publish(CONTENT_PROVISIONED, content("b", "t0"), content("b", "t1"))
    judge.conn.execute(
        """insert into els.crash_marks (topic, "partition", "offset", records, deaths, in_hand, pod, marked_at)
        values (%s, 0, 0, 1, 1, true, 'dead', now())""",
        [CONTENT_PROVISIONED],
    )
    # Each time that the suspect is marked, the session ends; the third time all is well again.
    judge.conn.execute("""
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
        started = Running(judge.app_url, judge.broker, judge.group, 1_000)
        task = started._task
        await until(
            lambda task=task: task.done() or judge.value(PENDING) == 2,  # type: ignore[misc]
            BOUND,
            lambda: "neither done nor failed",
        )
        if not task.done():
            await started.stop()
            break
        assert isinstance(task.exception(), psycopg.Error)
        await started.database.close()
    assert (judge.value(PENDING), judge.rejected()) == (2, [])
