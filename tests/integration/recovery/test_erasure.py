"""Tests an erasure from one end to the other: inputs, pods, topics, redeliveries, the audit and recoveries."""

import json
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from service.domain.delivery import IntakeLimits
from service.domain.input_limits import DEFAULT_LIMITS
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED, VALIDATION_FAILED
from service.intake.reporting import report
from service.operators.operations import Operations
from service.operators.privacy import ErasureReport, ErasureRequest
from service.recovery.blanking import import_tombstones, tombstone_of
from service.store import search
from service.store.operator_actions import Operator
from tests.support.builders.inputs import content, failure, registration
from tests.support.checks.audited import check_audit
from tests.support.checks.personal import contains_name, places_of
from tests.support.pods.running_consumer import ConsumerFixture
from tests.support.pods.set_back import Input, SetBack, set_back_fixture

NAME = "Åsa Öberg"
FILE = f"{NAME} uppsats.docx"
USER = "lärare-77"
BY = Operator("tester", "case 7")
DETAIL = {"message": f"cannot read {FILE}", "details": {"path": FILE}}


@pytest.fixture
async def stack(strict_consumers: ConsumerFixture) -> AsyncIterator[SetBack]:
    strict_consumers.restarts = True
    async with set_back_fixture(strict_consumers) as stack:
        yield stack


def inputs() -> list[Input]:
    """Batches of one user: one that is ready, one that waits for a slot, one that is not registered; another's."""
    user = {"user_id": USER, "essay_instructions": f"for {NAME}"}
    return [
        (BATCH_REGISTERED, 0, registration("ready", ["e1", "e2"], **user)),
        (CONTENT_PROVISIONED, 1, content("ready", "t1", original_file_name=FILE)),
        (VALIDATION_FAILED, 2, failure("ready", "u2", original_file_name=FILE, validation_error_detail=DETAIL)),
        (CONTENT_PROVISIONED, 1, content("ready", "t3", original_file_name=FILE)),
        (BATCH_REGISTERED, 0, registration("waits", ["e1", "e2"], **user)),
        (CONTENT_PROVISIONED, 1, content("waits", "t1", original_file_name=FILE)),
        (CONTENT_PROVISIONED, 2, content("early", "t1", original_file_name=FILE)),
        (BATCH_REGISTERED, 0, registration("theirs", ["e1"], user_id="another")),
        (CONTENT_PROVISIONED, 2, content("theirs", "t1", original_file_name="Kim.docx")),
        rejected(),
    ]


def rejected() -> Input:
    """A rejected input of the user's batch, each time with another event id."""
    return CONTENT_PROVISIONED, 2, content("ready", "t9", original_file_name=FILE, file_size_bytes=-1)


async def erase(stack: SetBack, request: ErasureRequest) -> ErasureReport:
    operations = Operations(stack.database, IntakeLimits(), DEFAULT_LIMITS)
    report = await operations.privacy.erase(BY, request)
    assert report.blocked == []
    return report


def check_erased(stack: SetBack) -> None:
    """The name is nowhere, and everything else is as it was."""
    conn = stack.consumers.conn
    assert places_of(conn, NAME, ("els", "ops")) == set()
    assert places_of(conn, USER, ("els", "ops")) == set()
    assert conn.execute("select original_file_name from els.slots where batch_id = 'theirs'").fetchall() == [
        ("Kim.docx",)
    ]


async def stop(stack: SetBack) -> None:
    """Write what the pods have counted into the log, as pods do, and stop them."""
    for running in stack.consumers.running:
        for effects in running.effects:
            await report(effects)
        running.effects.clear()
    await stack.stop()


async def erased_and_audited(stack: SetBack) -> None:
    """Erase what was applied, deliver everything again with more of the same, and audit it. No pod runs afterwards."""
    await stack.start()
    await stack.send(inputs())
    await stack.settled()
    async with stack.database.transaction() as conn:  # as the purge does
        await search.index_changes(conn)
    await stack.keep()  # a backup, which has the name
    assert "slots.original_file_name" in places_of(stack.consumers.conn, NAME)
    await erase(stack, ErasureRequest("user", name=USER))
    await erase(stack, ErasureRequest("batch", "early"))
    check_erased(stack)
    stack.consumers.running[0].effects.clear()
    with capture_logs() as logs:
        before = stack.state()
        await stack.send([*inputs(), rejected()])
        await stack.settled()
        assert stack.state() == before
        await stack.send(
            [
                (CONTENT_PROVISIONED, 0, content("waits", "t2", original_file_name=FILE)),
                (BATCH_REGISTERED, 0, registration("early", ["e1"], user_id=USER, essay_instructions=f"for {NAME}")),
            ]
        )
        await stack.settled()
        await stop(stack)
    check_erased(stack)
    assert not contains_name(repr(logs).encode(), NAME)
    assert {"input_rejected", "content_repeated"} <= {each["event"] for each in logs}
    await check_audit(stack.consumers.app_url, stack.consumers.broker, stack.consumers.group)


async def test_what_was_erased_does_not_come_back_by_redelivery(stack: SetBack) -> None:
    await erased_and_audited(stack)


@pytest.mark.only_in_test_all("leaving a group, which the embedded broker is slow to see")
@pytest.mark.parametrize("is_empty", [True, False])
async def test_what_was_erased_does_not_come_back_by_a_recovery(stack: SetBack, is_empty: bool) -> None:
    await erased_and_audited(stack)
    conn, state = stack.consumers.conn, stack.state()
    exported = [
        tombstone_of(json.dumps(row, default=str).encode())
        for row in await Operations(stack.database, IntakeLimits(), DEFAULT_LIMITS).privacy.export()
    ]
    if is_empty:  # with a key of its own
        stack.clear()
        conn.execute("truncate els.erasure_keys")
        conn.execute("select els.add_erasure_key(sha256('another'), true)")
    else:  # from a backup, which has the name
        await stack.set_back()
        assert "slots.original_file_name" in places_of(conn, NAME)
    async with stack.database.transaction() as connection:
        assert not await import_tombstones(connection, exported)
    with capture_logs() as logs:
        await stack.recover()
        check_erased(stack)
        assert stack.state() ^ state == set()
        await stack.start()
        await stack.send([*inputs(), rejected()])
        await stack.settled()
        await stop(stack)
    check_erased(stack)
    assert not contains_name(repr(logs).encode(), NAME)
    await check_audit(stack.consumers.app_url, stack.consumers.broker, stack.consumers.group)
