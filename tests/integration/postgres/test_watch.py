"""Tests that a pod reports a database that is of no use any more, in time and without traffic."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from deploy.local.postgres import Postgres
from deploy.servers.pods import until
from deploy.servers.standby import become_standby
from service.postgres import migration
from service.postgres.pool import Database
from service.postgres.watch import DatabaseWatch, database_error
from service.runtime.health import Health
from tests.support.selection import partly_in_test_all
from tests.support.servers.proxy import Proxy

REPORTED_SECONDS = 15
"""SPEC, section 5."""


@asynccontextmanager
async def watched(database: Database, url: str) -> AsyncIterator[Health]:
    health = Health("database")
    watching = asyncio.create_task(DatabaseWatch(database, url, health).run())
    try:
        await reported(health, None)
        yield health
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        await database.close()


async def reported(health: Health, text: str | None) -> None:
    """Waits until the part contains the text, or has no error."""

    def is_reported() -> bool:
        error = health.parts["database"]
        return error is None if text is None else text in (error or "")

    await until(is_reported, REPORTED_SECONDS, lambda: f"{health.parts}, and not {text}")


@pytest.fixture
def migrated(durable_postgres: Postgres) -> Postgres:
    migration.upgrade(durable_postgres.url())
    return durable_postgres


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


@pytest.mark.parametrize(
    "of",
    partly_in_test_all(["system", "database", "role"], {"database", "role"}, "read-only by a database or a role"),
)
async def test_a_database_that_becomes_read_only_is_reported(migrated: Postgres, of: str) -> None:
    altered = {"system": "system", "database": "database postgres", "role": "role postgres"}[of]
    reset = ("set default_transaction_read_only = off", f"alter {altered} reset default_transaction_read_only")
    url = migrated.url()
    async with watched(Database(url), url) as health:
        execute(url, f"alter {altered} set default_transaction_read_only = on", "select pg_reload_conf()")
        await reported(health, "read-only: default_transaction_read_only is on (set by: ")
        execute(url, *reset, "select pg_reload_conf()")
        await reported(health, None)


async def test_a_server_that_becomes_a_standby_is_reported(migrated: Postgres) -> None:
    url = migrated.url()
    async with watched(Database(url), url) as health:
        await asyncio.to_thread(restart_as_standby, migrated)
        await reported(health, "the server is a standby")
        execute(url, "select pg_promote()")
        await reported(health, None)


def restart_as_standby(server: Postgres) -> None:
    server.stop()
    become_standby(server)
    server.start()


async def test_no_session_stays_on_a_standby_that_the_name_led_to(migrated: Postgres) -> None:
    """With a URL that allows standbys, since libpq would not open such a session."""
    url = f"{migrated.url()}?target_session_attrs=any"
    database = Database(url)
    await asyncio.to_thread(restart_as_standby, migrated)
    async with database.transaction() as one, database.transaction() as other:
        pass
    assert "the server is a standby" in (await database_error(database) or "")
    assert one.closed
    assert other.closed


async def test_a_server_without_free_connections_is_reported(migrated: Postgres) -> None:
    """In time, although the pod has sessions enough at the moment."""
    execute(migrated.url(), "create role few login superuser password 'few'")
    url = migrated.url(role="few", password="few")
    execute(migrated.url(), "alter role few nosuperuser", "grant els_app to few")
    async with watched(Database(url), url) as health:
        execute(migrated.url(), "alter role few connection limit 0")
        await reported(health, "too few connections")
        execute(migrated.url(), "alter role few connection limit 10")
        await reported(health, None)


@pytest.mark.only_in_test_all("a frozen server")
async def test_a_server_that_is_frozen_or_does_not_answer_is_reported(migrated: Postgres) -> None:
    url = migrated.url()
    identity = migrated.program.identity()
    assert identity
    async with watched(Database(url), url) as health:
        os.kill(identity.pid, signal.SIGSTOP)  # accepts no new session
        try:
            await reported(health, "time")
        finally:
            os.kill(identity.pid, signal.SIGCONT)
        await reported(health, None)


async def test_sessions_whose_server_never_answers_are_reported(database_url: str) -> None:
    proxy = await Proxy(int(str(conninfo_to_dict(database_url)["port"]))).start()
    async with watched(Database(f"{database_url}&port={proxy.port}"), database_url) as health:
        proxy.stall()
        await reported(health, "the database does not answer")
    await proxy.stop()
