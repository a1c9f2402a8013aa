"""Tests that of two recoveries only the one that was begun last writes, also where the first was only thought dead."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from urllib.parse import quote

import psycopg
import pytest

from deploy.local.processes import plain_environment
from deploy.servers.pods import ROOT, until
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED, SLOT_ASSIGNED
from service.recovery import state
from service.recovery.state import NotRecoverable, begin
from tests.support.builders.inputs import content, registration
from tests.support.pods.running_consumer import BOUND, ConsumerFixture
from tests.support.pods.set_back import SetBack, set_back_fixture

TAKEN_OVER = "the recovery was abandoned, or another process has taken it over"
IDLE_SECONDS = 3
WAITS = """
    select count(*) from pg_stat_activity
    where wait_event_type = 'Lock' and wait_event = 'advisory' and datname = current_database()
"""
IN_TRANSACTION = """
    select count(*) from pg_stat_activity where state = 'idle in transaction' and datname = current_database()
"""


@pytest.fixture
async def stack(strict_consumers: ConsumerFixture) -> AsyncIterator[SetBack]:
    async with set_back_fixture(strict_consumers) as stack:
        yield stack


async def test_a_recovery_that_another_process_has_taken_over_writes_nothing_more(stack: SetBack) -> None:
    first = await begin(stack.database)
    second = await begin(stack.database)
    with pytest.raises(psycopg.Error, match=TAKEN_OVER):
        async with first.transaction():
            pass
    async with second.transaction():
        pass


async def test_a_recovery_says_that_another_one_is_in_a_transaction(
    stack: SetBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "LEAVE_SECONDS", 0.0)
    first = await begin(stack.database)
    async with first.transaction():
        with pytest.raises(NotRecoverable, match="in the midst of a transaction"):
            await begin(stack.database)


async def test_a_recovery_that_was_frozen_writes_nothing_when_it_goes_on(stack: SetBack) -> None:
    """It is frozen in a transaction of its intake, another one finishes, and the backup is restored once more.

    What it read is worth nothing then: its decisions would contradict what was announced meanwhile.
    """
    await stack.keep()
    await stack.send([(BATCH_REGISTERED, 0, registration("b", ["e1", "e2"]))])
    await stack.send([(CONTENT_PROVISIONED, 0, content(batch_id, "t1")) for batch_id in ("b", "held")])
    await stack.announce(SLOT_ASSIGNED, "b", essay_id="e2", text_storage_id="t1")
    with frozen_in_its_intake(stack) as frozen:
        await until(lambda: frozen.poll() is None and waits(stack), BOUND, lambda: f"it does not wait: {frozen.poll()}")
        os.kill(frozen.pid, signal.SIGSTOP)
        stack.consumers.conn.execute("select pg_advisory_unlock_all()")
        await until(lambda: stack.consumers.value(IN_TRANSACTION) == 1, BOUND, lambda: "it is in no transaction")
        await stack.recover()
        assert stack.consumers.value("select essay_id from els.slots where text_storage_id = 't1'") == "e2"
        assert stack.consumers.value("select count(*) from els.pending_content where batch_id = 'held'") == 1
        await stack.set_back()
        os.kill(frozen.pid, signal.SIGCONT)
        _, said = await asyncio.to_thread(frozen.communicate)
    assert (frozen.returncode, TAKEN_OVER in said) == (1, True), said
    assert stack.state() == set()
    assert stack.consumers.value("select count(*) from els.outbox_pages") == 0


def waits(stack: SetBack) -> bool:
    return bool(stack.consumers.value(WAITS) == 1)


@contextmanager
def frozen_in_its_intake(stack: SetBack) -> Iterator["subprocess.Popen[str]"]:
    """Starts a recovery in a process of its own, whose intake waits for the lock of the batch `held`."""
    stack.consumers.conn.execute("select pg_advisory_lock(hashtextextended('held', 0))")
    options = f"-c idle_in_transaction_session_timeout={IDLE_SECONDS}s -c lock_timeout={BOUND}s"
    assert "options=" in stack.consumers.app_url
    settings = {
        "ELS_DATABASE_URL": stack.consumers.app_url.replace("options=", f"options={quote(options)}%20"),
        "ELS_CONSUMER_GROUP": stack.consumers.group,
        **stack.consumers.broker.settings,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "recover", "--acts", os.devnull],
        env={**plain_environment(), **settings, "PYTHONPATH": str(ROOT)},
        cwd="/",
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
