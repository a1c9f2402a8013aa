"""Tests that transactions set their isolation level and durability themselves, whatever the defaults are."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from service.domain.delivery import IntakeLimits
from service.intake.transaction import apply
from service.postgres import migration
from service.postgres import pool as database_module
from service.postgres.pool import Database
from service.postgres.server import durability_warning
from service.postgres.session import BEGIN, Pooler, Timeouts
from tests.support.builders.events import content, deliveries, registration
from tests.support.pods.applier import deliver

BOUND = 90
"""Seconds after which a wait has failed."""

SETTINGS = "select current_setting('transaction_isolation'), current_setting('synchronous_commit')"
WAITING = "select from pg_stat_activity where datname = current_database() and wait_event = 'advisory'"


def set_default(url: str, **settings: str) -> None:
    """Set defaults of the database."""
    with psycopg.connect(url, autocommit=True) as conn:
        for name, value in settings.items():
            conn.execute(f"alter database {conn.info.dbname} set {name} = '{value}'".encode())


@pytest.fixture
async def observer(database_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    set_default(database_url, default_transaction_isolation="repeatable read", synchronous_commit="off")
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as conn:
        yield conn


@pytest.mark.parametrize(
    ("begin", "left"),
    [pytest.param(BEGIN, [], id="service"), pytest.param("begin", ["c1"], id="witness")],
)
async def test_content_that_waited_for_its_registration_sees_it_whatever_the_default_isolation_level_is(
    observer: psycopg.AsyncConnection, database_url: str, begin: str, left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the default level, the snapshot is that of the statement that waits for the lock."""
    monkeypatch.setattr(database_module, "BEGIN", begin)
    database = Database(database_url, timeouts=Timeouts(lock_timeout=0))
    async with asyncio.timeout(BOUND):
        async with database.transaction() as conn:
            await conn.execute("select pg_advisory_xact_lock(hashtextextended('b', 0))")
            waiting = asyncio.create_task(deliver(database, deliveries(content("c1"))))
            while await (await observer.execute(WAITING)).fetchone() is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await apply(conn, deliveries(registration()), IntakeLimits(), exclusive=True)
        await waiting
    pending = await (await observer.execute("select text_storage_id from els.pending_content")).fetchall()
    assert [text for (text,) in pending] == left
    await database.close()


@pytest.mark.parametrize("pooler", ["none", "session", "transaction"])
@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize(("default", "used"), [("off", "on"), ("local", "on"), ("remote_apply", "remote_apply")])
async def test_transactions_are_durable_whatever_the_default_is(
    observer: psycopg.AsyncConnection, database_url: str, pooler: Pooler, pipelined: bool, default: str, used: str
) -> None:
    set_default(database_url, synchronous_commit=default)
    database = Database(database_url, pooler=pooler)
    for _ in range(2):
        async with database.transaction(pipelined=pipelined) as conn:
            assert await (await conn.execute(SETTINGS)).fetchone() == ("read committed", used)
            await conn.execute("set local synchronous_commit to off")  # as a relay does
    assert (await durability_warning(database) is not None) == (default == "off")
    await database.close()


def test_migrations_are_durable_whatever_the_default_is(observer: psycopg.AsyncConnection, database_url: str) -> None:
    with migration.connect(database_url) as connection:
        for _ in range(2):
            assert connection.exec_driver_sql(SETTINGS).one() == ("read committed", "on")
            connection.commit()
