"""Tests that what operators did in the time that a restored database has lost is done again."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deploy.local.processes import plain_environment
from deploy.servers.brokers import Broker
from deploy.servers.pods import ROOT
from service.domain.delivery import IntakeLimits
from service.domain.input_limits import InputLimits
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED, VALIDATION_FAILED
from service.operators.operations import Operations
from service.operators.repetition import Repetition
from service.recovery.acts import Act, read_acts
from service.store.operator_actions import Operator
from service.store.pending_content import PendingFilter
from service.store.quarantine import QuarantineFilter
from tests.support.builders.inputs import content, failure, registration
from tests.support.checks.audited import check_audit
from tests.support.pods.running_consumer import consumer_fixture
from tests.support.pods.set_back import Input, SetBack, set_back_fixture

ME = Operator("me", "by mistake")
WRONG = registration("w", ["e1", "e2"], expected_essay_count=3)
RIGHT = registration("w", ["e1", "e2"])


@pytest.fixture
async def stack(app_url: str, database_url: str, apache: Broker) -> AsyncIterator[SetBack]:
    """On Apache Kafka: the embedded broker is slow to see that a pod has left its group."""
    async with consumer_fixture(app_url, database_url, apache) as consumers, set_back_fixture(consumers) as stack:
        consumers.restarts = True
        yield stack


def operations(stack: SetBack) -> Operations:
    return Operations(stack.database, IntakeLimits(), InputLimits())


def exported(stack: SetBack) -> list[Act]:
    """Exports the operator actions as docs/recovery.md says."""
    query = "select row_to_json(a)::text from ops.operator_actions as a order by id desc"
    return read_acts("\n".join(row for (row,) in stack.consumers.conn.execute(query)).encode())


async def recovered(stack: SetBack, acts: Sequence[Act]) -> list[tuple[Act, str]]:
    """Recovers, as the command does it. Returns what cannot be repeated."""
    await stack.recover(acts=acts)
    return await Repetition(stack.database, operations(stack), "her").repeat(acts)


def contents(batch_id: str, *texts: str) -> list[Input]:
    return [(CONTENT_PROVISIONED, 0, content(batch_id, text)) for text in texts]


def states(stack: SetBack) -> dict[str, str]:
    rows = stack.consumers.conn.execute(
        "select text_storage_id, state from els.pending_content"
        " union all select text_storage_id, 'slot' from els.slots where text_storage_id is not null"
        " union all select text_storage_id, 'excess' from els.excess_content"
    )
    return dict(rows.fetchall())


def repeated(stack: SetBack) -> list[tuple[Any, ...]]:
    return stack.consumers.conn.execute(
        "select who, why, action, details ->> 'repeated_by' from ops.operator_actions where details ? 'first_at'"
        " order by (details ->> 'first_at')::timestamptz, id"
    ).fetchall()


async def ids(stack: SetBack, reason: str) -> Sequence[int]:
    return await operations(stack).quarantine.find_open(QuarantineFilter(reason=reason), everything=False)


async def test_content_that_was_removed_gets_no_slot_after_a_restore(stack: SetBack) -> None:
    """Some of it is in the backup, some only in the topic; its batch was registered, or not, in the lost time."""
    await stack.start()
    await stack.send([*contents("b", "t1", "t2"), *contents("c", "t5")])
    await stack.settled()
    await stack.keep()
    await stack.send([*contents("b", "t3", "t4"), *contents("c", "t6", "t7")])
    await stack.settled()
    pending = operations(stack).pending
    await pending.remove(ME, "pending remove", PendingFilter("b", ["t1", "t3"]))
    await pending.remove(ME, "pending clear", PendingFilter("c", None))
    await stack.send([(BATCH_REGISTERED, 0, registration("b", [f"e{number}" for number in range(4)]))])
    await stack.settled()
    await stack.stop()
    before, acts = states(stack), exported(stack)
    assert before == {"t2": "slot", "t4": "slot"} | dict.fromkeys(("t1", "t3", "t5", "t6", "t7"), "removed")
    await stack.set_back()
    await stack.send([(BATCH_REGISTERED, 0, registration("c", ["e1", "e2", "e3"]))])
    assert await recovered(stack, acts) == []
    assert states(stack) == before
    assert repeated(stack) == [("me", "by mistake", f"pending {name}", "her") for name in ("remove", "clear")]
    assert await recovered(stack, acts) == [], "a second time"
    assert (states(stack), len(repeated(stack))) == (before, 2)
    stack.start_relay()
    await stack.published()
    await stack.stop_relay()
    await check_audit(stack.consumers.app_url, stack.consumers.broker, stack.consumers.group)


async def test_failures_that_were_removed_take_no_slot_after_a_restore(stack: SetBack) -> None:
    """As content: some in the backup, some only in the topic. One of them expired before; one has the id of a text."""
    failures = [(VALIDATION_FAILED, 0, failure("b", f"f{number}")) for number in range(5)]
    await stack.start()
    await stack.send([*failures[:2], *contents("b", "t1"), (VALIDATION_FAILED, 0, failure("c", "f9"))])
    await stack.settled()
    await stack.keep()
    await stack.send([*failures[2:], *contents("b", "f3"), *contents("c", "t2")])
    await stack.settled()
    conn, pending = stack.consumers.conn, operations(stack).pending
    conn.execute("update els.validation_failures set state = 'expired', closed_at = now() where file_upload_id = 'f2'")
    assert await pending.remove(ME, "pending remove", PendingFilter("b", ["f0", "f2", "f3"])) == (1, 3)
    assert await pending.remove(ME, "pending clear", PendingFilter("c", None)) == (1, 1)
    await stack.send([(BATCH_REGISTERED, 0, registration("b", [f"e{number}" for number in range(4)]))])
    await stack.settled()
    await stack.stop()
    found = "select file_upload_id, state from els.validation_failures order by 1"
    before, placed, acts = conn.execute(found).fetchall(), states(stack), exported(stack)
    assert before == [("f0", "removed"), ("f1", "slot"), ("f2", "removed"), ("f3", "removed"), ("f4", "slot"),
                      ("f9", "removed")]  # fmt: skip
    await stack.set_back()
    await stack.send([(BATCH_REGISTERED, 0, registration("c", ["e1", "e2", "e3"])), failures[0]])
    assert await recovered(stack, acts) == []
    conn = stack.consumers.conn
    assert (conn.execute(found).fetchall(), states(stack)) == (before, placed)
    assert repeated(stack) == [("me", "by mistake", f"pending {name}", "her") for name in ("remove", "clear")]
    stack.start_relay()
    await stack.published()
    await stack.stop_relay()
    await check_audit(stack.consumers.app_url, stack.consumers.broker, stack.consumers.group)


async def test_what_was_done_to_rejected_inputs_is_done_again(stack: SetBack) -> None:
    """The corrected registration was announced in part, and its batch is complete only after the recovery."""
    await stack.start()
    await stack.keep()
    await stack.send([(BATCH_REGISTERED, 0, WRONG), *contents("w", "t1"), (CONTENT_PROVISIONED, 0, b"no JSON")])
    await stack.send([(VALIDATION_FAILED, 0, b"[]")])
    await stack.settled()
    quarantine = operations(stack).quarantine
    (wrong,) = await ids(stack, "count_mismatch")
    assert not (await quarantine.edit(ME, wrong, RIGHT)).failed
    assert await quarantine.discard(ME, await ids(stack, "not_json")) == 1
    (again,) = await ids(stack, "not_an_envelope")
    (rejected,) = [each async for each in quarantine.replay(ME, [again])]
    assert rejected.failed
    await stack.published()
    await stack.send([(CONTENT_PROVISIONED, 1, content("w", "t2"))])
    await stack.settled()
    await stack.stop()
    before, slots, acts = stack.state(), await stack.outputs(), exported(stack)
    assert stack.consumers.value("select state from els.batches") == "ready"
    await stack.set_back()
    assert await recovered(stack, acts) == []
    assert stack.state() ^ before == set()
    rows = stack.consumers.conn.execute("select state, reason, edited_value from els.quarantine order by reason")
    assert rows.fetchall() == [
        ("replayed", "count_mismatch", RIGHT),
        ("open", "not_an_envelope", None),
        ("discarded", "not_json", None),
    ]
    assert [row[2] for row in repeated(stack)] == ["quarantine edit", "quarantine discard"]
    stack.start_relay()
    await stack.published()
    await stack.stop_relay()
    assert sorted(await stack.outputs()) == sorted(slots), "something was announced anew"
    await check_audit(stack.consumers.app_url, stack.consumers.broker, stack.consumers.group)


async def test_expired_content_is_restored_again_and_a_paused_topic_resumed(stack: SetBack) -> None:
    await stack.start()
    await stack.send([*contents("b", "t1"), (VALIDATION_FAILED, 0, failure("b", "f1"))])
    await stack.settled()
    conn = stack.consumers.conn
    for table in ("pending_content", "validation_failures"):
        conn.execute(f"update els.{table} set state = 'expired', closed_at = now()".encode())
    conn.execute("insert into els.topic_refusals values (%s, 1000, now())", [CONTENT_PROVISIONED])
    await stack.stop()
    await stack.keep()
    await operations(stack).pending.restore(ME, PendingFilter("b"))
    await operations(stack).quarantine.resume(ME, CONTENT_PROVISIONED, skip_refused=True)
    acts = exported(stack)
    await stack.set_back()
    await stack.send(contents("b", "t2"))
    assert await recovered(stack, acts) == []
    assert states(stack) == {"t1": "pending", "t2": "pending"}, "the topic was paused"
    assert stack.consumers.value("select state from els.validation_failures") == "pending"
    assert [row[2] for row in repeated(stack)] == ["pending restore", "quarantine resume"]


async def test_what_cannot_be_repeated_is_reported_with_the_reason(stack: SetBack) -> None:
    """The line of the log has what the row has. Lines of other events are left out."""
    await stack.send([(BATCH_REGISTERED, 0, registration("b", ["e1"])), *contents("b", "t1")])
    await stack.consumers.start()
    await stack.consumers.all_committed()
    await stack.consumers.stop()
    common = {"event": "operator_action", "who": "me", "why": "", "at": "2026-11-30T01:00:00Z"}
    lines: list[dict[str, Any]] = [
        {"event": "partitions_assigned"},
        {"action": "pending remove", "batch_id": "b", "details": {"contents": 1, "text_storage_ids": ["t1"]}},
        {"action": "quarantine discard", "topic": CONTENT_PROVISIONED, "details": {"id": 7}},
        {"action": "quarantine replay", "topic": CONTENT_PROVISIONED, "details": {"fingerprint": "00" * 32}},
        {"action": "batches cancel", "batch_id": "b", "details": {"reason": "OTHER", "state": "cancelled"}},
        {"action": "batches close", "batch_id": "none", "details": {}},
        {"action": "health acknowledge", "details": {}},
        {"action": "another", "details": {}},
    ]
    acts = read_acts("\n".join(json.dumps(common | line) for line in lines).encode())
    reasons = {act.action: why for act, why in await recovered(stack, acts)}
    assert reasons == {
        "pending remove": "1 of its uploads were announced, or are in no topic: t1",
        "quarantine discard": "its row is of an earlier release, and does not identify the input",
        "quarantine replay": "the input is not in quarantine: it was accepted this time, or no topic has it any more",
        "batches cancel": reasons["batches cancel"],
        "batches close": "batch none is not registered",
        "another": "a recovery does not repeat such an action: do it by hand",
    }
    assert reasons["batches cancel"].startswith("batch b is ready")


async def test_what_was_skipped_is_skipped_again(stack: SetBack) -> None:
    broker = stack.kafka
    actions = Operations(stack.database, IntakeLimits(), InputLimits(), lambda: broker)
    await stack.keep()
    await stack.send(contents("b", "t1", "t2", "t3"))
    await actions.inputs.skip(ME, CONTENT_PROVISIONED, 0, 1, whole_batch=True)
    acts = exported(stack)
    await stack.set_back()
    await stack.recover(acts=acts)
    assert await Repetition(stack.database, actions, "her").repeat(acts) == []
    assert states(stack) == {"t1": "pending", "t3": "pending"}
    assert stack.consumers.conn.execute("select first_offset, cause from ops.lost_inputs").fetchall() == [
        (1, "skipped")
    ]
    assert stack.consumers.value("select reason from els.quarantine") == "skipped"
    assert [row[2] for row in repeated(stack)] == ["inputs skip"]


async def test_a_record_that_ends_a_recovery_is_skipped_by_a_line_of_the_file(stack: SetBack, tmp_path: Path) -> None:
    """Pods had isolated it in the lost time; nobody has skipped it, and while the database is behind nobody can."""
    await stack.send([*contents("b", "t1"), (CONTENT_PROVISIONED, 0, content("b", "t2", original_file_name="mine"))])
    await stack.send(contents("b", "t3"))

    def recovered_with(lines: str) -> "subprocess.CompletedProcess[str]":
        (file := tmp_path / "acts.jsonl").write_text(lines)
        settings = {
            "ELS_DATABASE_URL": stack.consumers.app_url,
            "ELS_CONSUMER_GROUP": stack.consumers.group,
            **stack.consumers.broker.settings,
            "MINE": "decode",
        }
        return subprocess.run(
            [sys.executable, "-m", "tests.support.pods.crash_on_record", "recover", "--acts", str(file)],
            env={**plain_environment(), **settings, "PYTHONPATH": str(ROOT)},
            cwd="/",
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )

    assert (await asyncio.to_thread(recovered_with, "")).returncode == -signal.SIGKILL
    line = {"at": "2026-11-30T01:00:00Z", "who": "me", "action": "inputs skip", "topic": CONTENT_PROVISIONED,
            "details": {"partition": 0, "offset": 1, "epoch": 0, "first_offset": 1, "next_offset": 2}}  # fmt: skip
    done = await asyncio.to_thread(recovered_with, json.dumps(line))
    assert done.returncode == 0, done.stderr
    assert states(stack) == {"t1": "pending", "t3": "pending"}
    assert stack.consumers.conn.execute("select first_offset, cause from ops.lost_inputs").fetchall() == [
        (1, "skipped")
    ]
    assert stack.consumers.value("select reason from els.quarantine") == "skipped"


async def test_a_batch_that_was_cancelled_is_cancelled_again(stack: SetBack) -> None:
    """Once where the topics have its announcement, once where they do not."""
    await stack.start()
    await stack.keep()
    await stack.send([(BATCH_REGISTERED, 0, registration(batch_id, ["e1", "e2"])) for batch_id in ("b", "c")])
    await stack.settled()
    await operations(stack).batches.cancel(ME, "b", "DUPLICATE")
    await stack.published()
    await stack.stop()
    await operations(stack).batches.cancel(ME, "c", "OTHER")
    before, acts = stack.state(), exported(stack)
    await stack.set_back()
    assert await recovered(stack, acts) == []
    states = stack.consumers.conn.execute("select state from els.batches").fetchall()
    assert states == [("cancelled",)] * 2
    assert [row[2] for row in repeated(stack)] == ["batches cancel"] * 2
    assert {row[:2] for row in stack.state()} == {row[:2] for row in before}


async def test_a_close_that_nobody_was_told_of_is_repeated_behind_all_inputs(stack: SetBack) -> None:
    """Uploads that came after it may take slots this time. Nothing that was announced is contradicted."""
    await stack.start()
    await stack.keep()
    names = ("some", "all", "cancelled")
    await stack.send([(BATCH_REGISTERED, 0, registration(each, ["e1", "e2", "e3"])) for each in names])
    await stack.send([each for name in names for each in contents(name, f"{name}-1")])
    await stack.settled()
    await stack.published()
    await stack.stop_relay()
    batches = operations(stack).batches
    for name in ("some", "all"):
        assert (await batches.close(ME, name)).withdrawn == 2
    await batches.cancel(ME, "cancelled", "DUPLICATE")
    later = [*contents("some", "some-2"), *contents("all", "all-2", "all-3")]
    await stack.send([*later, *contents("cancelled", "cancelled-2", "cancelled-3")])
    await stack.consumers.all_committed()
    assert sorted(states(stack).values()) == ["excess"] * 5 + ["slot"] * 3
    await stack.stop()
    acts = exported(stack)
    await stack.set_back()
    left = await recovered(stack, acts)
    assert [(act.batch_id, why.split(":")[0]) for act, why in left] == [("cancelled", "batch cancelled is ready")]
    assert set(states(stack).values()) == {"slot"}
    ended = "select batch_id, state, assigned, withdrawn from els.batches order by 1"
    assert stack.consumers.conn.execute(ended).fetchall() == [
        ("all", "ready", 3, 0),
        ("cancelled", "ready", 3, 0),
        ("some", "ready", 2, 1),
    ]
    assert sorted(row[2] for row in repeated(stack)) == ["batches close"] * 2
    stack.start_relay()
    await stack.published()
    await stack.stop_relay()
    await check_audit(stack.consumers.app_url, stack.consumers.broker, stack.consumers.group)


def test_csv_is_read_as_well() -> None:
    names = "id,at,who,action,batch_id,topic,why,details"
    (act,) = read_acts(f'{names}\n1,2026-11-30 01:00:00+01,me,pending clear,b,,"a, b","{{""n"": 1}}"\n'.encode())
    assert act == Act(datetime(2026, 11, 30, tzinfo=UTC), "me", "pending clear", "b", None, "a, b", {"n": 1})
