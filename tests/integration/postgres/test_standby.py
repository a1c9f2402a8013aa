"""Tests what becomes of sessions whose server accepts no writes any more, or waits for a standby."""

import asyncio
import os
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg.errors import ReadOnlySqlTransaction

from deploy.local.postgres import Postgres
from service.postgres.pool import Database
from service.postgres.session import conninfo

BOUND = 90
"""Seconds after which a wait has failed."""


def alter_system(server: Postgres, setting: str) -> None:
    """Change a setting of the server. Its sessions follow soon."""
    with psycopg.connect(server.url(), autocommit=True) as conn:
        conn.execute(f"alter system {setting}".encode())
        conn.execute("select pg_reload_conf()")


async def write(database: Database) -> None:
    async with database.transaction() as conn:
        await conn.execute("insert into kept values (1)")


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
        await conn.execute("create table kept (word int)")
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
    signal = durable_postgres.data / "standby.signal"
    signal.touch()
    if account := durable_postgres.account:
        os.chown(signal, account.uid, account.gid)
    durable_postgres.start()
    with pytest.raises(psycopg.OperationalError, match=r"terminat|closed"):
        await write(database)
    with pytest.raises(psycopg.OperationalError, match="read-only"):
        await write(database)
    with psycopg.connect(durable_postgres.url(), autocommit=True) as conn:
        conn.execute("select pg_promote()")
    await write_until_done(database)


def test_a_url_may_name_which_servers_are_used() -> None:
    assert "target_session_attrs=read-write" in conninfo("postgresql://db/els", "els", None)
    assert "target_session_attrs=any" in conninfo("postgresql://db/els?target_session_attrs=any", "els", None)
