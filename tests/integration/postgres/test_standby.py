"""Tests what becomes of sessions whose server accepts no writes any more, or waits for a standby."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import psycopg
import pytest
from psycopg.errors import ReadOnlySqlTransaction

from deploy.local.postgres import Postgres
from deploy.servers.standby import become_standby
from service.postgres import pool
from service.postgres.pipeline import Connection
from service.postgres.pool import Database
from service.postgres.session import Timeouts, conninfo
from service.postgres.watch import WAITS_FOR_STANDBY, database_error

BOUND = 90
"""Seconds after which a wait has failed."""


def alter_system(server: Postgres, setting: str) -> None:
    """Change a setting of the server. Its sessions follow soon."""
    with psycopg.connect(server.url(), autocommit=True) as conn:
        conn.execute(f"alter system {setting}".encode())
        conn.execute("select pg_reload_conf()")


async def write(database: Database, number: int = 0) -> None:
    async with database.transaction(pipelined=True) as conn:
        await conn.execute("insert into kept values (%s) on conflict do nothing", [number])


async def write_until_done(database: Database) -> None:
    """Write, again where the server is still read-only."""
    async with asyncio.timeout(BOUND):
        while True:
            try:
                return await write(database)
            except psycopg.OperationalError:
                await asyncio.sleep(0.01)


@pytest.fixture
async def database(durable_postgres: Postgres) -> AsyncIterator[Database]:
    database = Database(durable_postgres.url(), pool_size=2)
    async with database.transaction() as conn:
        await conn.execute("create table kept (number int primary key)")
    yield database
    await database.close()


async def test_where_a_server_becomes_read_only_no_idle_session_is_used_again(
    database: Database, durable_postgres: Postgres
) -> None:
    async with database.transaction() as one, database.transaction() as other:
        pass
    alter_system(durable_postgres, "set default_transaction_read_only = on")
    async with asyncio.timeout(BOUND):
        with pytest.raises(ReadOnlySqlTransaction):  # noqa: PT012  the setting takes effect soon
            while True:
                await write(database)
    assert one.closed
    assert other.closed
    with pytest.raises(psycopg.OperationalError, match="read-only"):
        await write(database)
    alter_system(durable_postgres, "reset default_transaction_read_only")
    await write_until_done(database)


async def test_a_standby_is_not_used_until_it_is_promoted(database: Database, durable_postgres: Postgres) -> None:
    durable_postgres.stop()
    become_standby(durable_postgres)
    durable_postgres.start()
    with pytest.raises(psycopg.OperationalError, match=r"terminat|closed"):
        await write(database)
    with pytest.raises(psycopg.OperationalError, match="read-only"):
        await write(database)
    with psycopg.connect(durable_postgres.url(), autocommit=True) as conn:
        conn.execute("select pg_promote()")
    await write_until_done(database)


AGE = "select extract(epoch from clock_timestamp() - xact_start) from pg_stat_activity where wait_event = 'SyncRep'"
WAITING = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'"


async def write_that_waits(database: Database, observer: psycopg.Connection) -> tuple[int, asyncio.Task[None]]:
    """Write numbers until the commit of one waits for a standby: the setting takes effect soon. Returns that one."""
    async with asyncio.timeout(BOUND):
        for number in count():
            task = asyncio.create_task(write(database, number))
            while not task.done():
                if observer.execute(WAITING).fetchone() == (1,):
                    return number, task
                await asyncio.sleep(0.01)
    raise AssertionError


async def has_waited(observer: psycopg.Connection, seconds: float) -> bool:
    """Until the transaction that waits for a standby is so old, or none waits any more. Returns whether one waits."""
    async with asyncio.timeout(BOUND):
        while age := observer.execute(AGE).fetchone():
            if age[0] > seconds:
                return True
            await asyncio.sleep(0.01)
    return False


@pytest.mark.parametrize(
    ("is_cancelled", "wait", "cancels"),
    [
        pytest.param(False, Connection.wait, False, id="kept"),
        pytest.param(True, Connection.wait, False, id="closed"),
        pytest.param(True, psycopg.AsyncConnection.wait, True, id="witness"),
    ],
)
async def test_a_commit_that_waits_for_a_standby_is_not_cancelled(
    durable_postgres: Postgres,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    is_cancelled: bool,
    wait: Any,
    cancels: bool,
) -> None:
    """Neither by a timeout, nor by the end of its task: the driver alone would send a cancel request."""
    for name in ("CHECK_AFTER_SECONDS", "RECHECK_SECONDS", "GRACE_SECONDS"):
        monkeypatch.setattr(pool, name, 0.1)
    monkeypatch.setattr(Connection, "wait", wait)
    log = durable_postgres.program.log
    waiting = Database(durable_postgres.url(), timeouts=Timeouts(300, 300, 300, 300, 100))
    with psycopg.connect(durable_postgres.url(), autocommit=True) as observer:
        alter_system(durable_postgres, "set synchronous_standby_names = 'nobody'")
        number, task = await write_that_waits(waiting, observer)
        async with asyncio.timeout(BOUND):
            while not waiting.waits_for_standby:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await database_error(waiting) == WAITS_FOR_STANDBY
        assert await has_waited(observer, 1), "longer than all timeouts"
        assert not task.done()
        if is_cancelled:
            task.cancel()
            await asyncio.wait([task])
            assert await has_waited(observer, 2) != cancels, "longer than it takes to notice that its client is gone"
        row = observer.execute("select count(*) from kept where number = %s", [number]).fetchone()
        assert row == ((1,) if cancels else (0,))
        alter_system(durable_postgres, "reset synchronous_standby_names")
        await asyncio.wait([task], timeout=BOUND)
        await write(database, number)  # as after a redelivery
        assert observer.execute("select count(*) from kept where number = %s", [number]).fetchone() == (1,)
        async with asyncio.timeout(BOUND):
            while await database_error(waiting) == WAITS_FOR_STANDBY:  # noqa: ASYNC110  the check may be under way
                await asyncio.sleep(0.01)
    await waiting.close()
    assert ("for synchronous replication" in log.read_text()) == cancels


def test_a_url_may_name_which_servers_are_used() -> None:
    assert "target_session_attrs=read-write" in conninfo("postgresql://db/els", "els", None)
    assert "target_session_attrs=any" in conninfo("postgresql://db/els?target_session_attrs=any", "els", None)
