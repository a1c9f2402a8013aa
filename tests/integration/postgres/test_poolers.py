"""Tests that the service works behind a pooler that its setting names, and names one that it does not."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import psycopg
import pytest

from service.domain.cells import ALL_BATCHES, Slice
from service.postgres import liveness
from service.postgres import pool as database_module
from service.postgres.pool import Database
from service.postgres.schema import read_revision
from service.postgres.server import planner_error, pooler_error, server_error, timeouts_error
from service.postgres.session import Pooler, Timeouts
from service.postgres.watch import database_error
from service.relay.relay import CHANNEL
from service.store.progress import check_server

Pooling = Callable[..., AbstractContextManager[str]]

ACCEPTING = {"ignore_startup_parameters": "options"}


@pytest.fixture
def session_pooler(pgbouncer: Pooling, database_url: str) -> Iterator[str]:
    with pgbouncer(database_url, "session") as url:
        yield url


@pytest.fixture
def transaction_pooler(pgbouncer: Pooling, database_url: str) -> Iterator[str]:
    with pgbouncer(database_url, "transaction") as url:
        yield url


async def test_sessions_behind_a_session_pooler_have_their_settings(session_pooler: str) -> None:
    database = Database(session_pooler, pooler="session", timeouts=Timeouts(lock_timeout=1234))
    async with database.transaction(pipelined=True) as conn:
        for _ in range(10):  # from the sixth on it is prepared
            cursor = await conn.execute("select current_setting('lock_timeout'), current_setting('TimeZone')")
            assert await cursor.fetchone() == ("1234ms", "UTC")
    assert await planner_error(database) is None
    await database.close()


async def test_the_sessions_of_others_keep_none_of_our_settings(pgbouncer: Pooling, database_url: str) -> None:
    with pgbouncer(database_url, "session", default_pool_size="1") as url:
        database = Database(url, pooler="session")
        assert await read_revision(database)
        await database.close()
        async with await psycopg.AsyncConnection.connect(url) as other:
            assert await (await other.execute("show enable_seqscan")).fetchone() == ("on",)


async def test_behind_a_session_pooler_a_session_listens(session_pooler: str) -> None:
    database = Database(session_pooler, pooler="session")
    async with await database.connect_unpooled() as listening, asyncio.timeout(30):
        await listening.execute(f"listen {CHANNEL}")
        async with database.transaction() as conn:
            await conn.execute(f"notify {CHANNEL}")
        async for notified in listening.notifies():
            assert notified.channel == CHANNEL
            break
    await database.close()


async def test_behind_a_session_pooler_a_transaction_that_the_server_does_not_know_is_closed(
    session_pooler: str,
) -> None:
    """The process id that the client knows is the pooler's, so that the server is asked for its own."""
    database = Database(session_pooler, pooler="session")
    async with database.transaction() as conn:
        server_pid = (await (await conn.execute("select pg_backend_pid()")).fetchone() or [0])[0]
        assert server_pid == conn.server_pid  # type: ignore[attr-defined]
        assert server_pid != conn.pgconn.backend_pid
        assert await database._is_served(server_pid)
    assert not await database._is_served(server_pid)
    await database.close()


async def test_behind_a_transaction_pooler_each_transaction_may_have_another_session(transaction_pooler: str) -> None:
    database = Database(transaction_pooler, pooler="transaction")
    pids = set()
    async with database.transaction() as one, database.transaction() as other:
        for conn in (one, other):
            pids |= {(await (await conn.execute("select pg_backend_pid()")).fetchone() or [0])[0]}
    for _ in range(10):
        async with database.transaction(pipelined=True) as conn:
            await conn.execute("select %s::int", [1])
    assert len(pids) == 2
    await database.close()


@pytest.mark.parametrize(
    ("mode", "more", "pooler"),
    [("session", {}, "session"), ("transaction", {}, "transaction"), ("session", ACCEPTING, "none")],
)
@pytest.mark.parametrize("held", [ALL_BATCHES, Slice(2, 1)], ids=str)
async def test_behind_a_pooler_each_transaction_states_its_slice(
    pgbouncer: Pooling, database_url: str, mode: str, more: dict[str, str], pooler: Pooler, held: Slice
) -> None:
    """Also where it drops `options`, and where one session of the server serves several processes."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("update els.slice set cells = %s, cell = %s", held)
    with pgbouncer(database_url, mode, **more, default_pool_size="1") as url:
        for of in [held, ALL_BATCHES, held, Slice(2, 1), Slice(2, 0), held]:
            database = Database(url, pooler=pooler, of=of)
            for pipelined in (True, False):
                error = f"the database holds {held}, and this process is set to {of} \\(ELS_CELLS, ELS_CELL\\)"
                with nullcontext() if of == held else pytest.raises(psycopg.Error, match=error):
                    async with database.transaction(pipelined=pipelined) as connection:
                        await check_server(connection)
            await database.close()


@pytest.mark.parametrize(
    ("mode", "accepts_options", "setting", "told"),
    [
        ("session", False, "none", "set ELS_DATABASE_POOLER to session"),
        ("session", True, "none", None),  # then `planner_error` says what is missing
        ("session", False, "session", None),
        ("session", False, "transaction", None),
        ("transaction", False, "none", "set ELS_DATABASE_POOLER to transaction"),
        ("transaction", True, "none", "set ELS_DATABASE_POOLER to transaction"),
        ("transaction", False, "session", "set ELS_DATABASE_POOLER to transaction"),
        ("transaction", False, "transaction", None),
        (None, False, "none", None),
        (None, False, "session", None),
    ],
)
async def test_a_pooler_that_the_setting_does_not_name_is_named(
    pgbouncer: Pooling, database_url: str, mode: str | None, accepts_options: bool, setting: Pooler, told: str | None
) -> None:
    if mode is None:
        assert await pooler_error(database_url, setting) is None
        return
    with pgbouncer(database_url, mode, **(ACCEPTING if accepts_options else {})) as url:
        error = await pooler_error(url, setting)
        assert told in error if told and error else error == told


@pytest.mark.parametrize("setting", ["none", "session"])
async def test_a_running_pod_reports_a_pooler_that_shares_sessions(
    pgbouncer: Pooling, database_url: str, setting: Pooler
) -> None:
    with pgbouncer(database_url, "transaction", **ACCEPTING) as url:
        database = Database(url, pooler=setting)
        assert await database_error(database) is None
        async with await psycopg.AsyncConnection.connect(url) as other:
            await other.execute("select 1")  # now the other one has the server's session
            assert "set ELS_DATABASE_POOLER to transaction" in (await database_error(database) or "")
        await database.close()


async def test_a_pooler_that_gives_one_session_only_is_named(
    pgbouncer: Pooling, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.postgres.server.CONNECT_SECONDS", 0.5)
    told = "too few connections: the pooler gives no session"
    with (
        pgbouncer(database_url, "session", default_pool_size="1") as url,
        pytest.raises(psycopg.OperationalError, match=told),
    ):
        await pooler_error(url, "session")


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_a_rejected_startup_parameter_names_the_setting(pgbouncer: Pooling, database_url: str, mode: str) -> None:
    with pgbouncer(database_url, mode) as url:
        database = Database(url)
        with pytest.raises(psycopg.OperationalError, match=r"set ELS_DATABASE_POOLER to its pool_mode"):
            await read_revision(database)


async def test_no_session_is_closed_where_a_pooler_shares_them_and_nobody_has_told(
    pgbouncer: Pooling, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server knows of the process id is not about this transaction."""
    monkeypatch.setattr(database_module, "CHECK_AFTER_SECONDS", 0.05)
    monkeypatch.setattr(database_module, "RECHECK_SECONDS", 0.05)
    monkeypatch.setattr(database_module, "IS_SERVED", "select 0 * %s")
    monkeypatch.setattr(liveness, "RECEIVING_MS", 50)
    with pgbouncer(database_url, "transaction", **ACCEPTING) as url:
        database = Database(url)
        async with database.transaction() as conn:
            await conn.execute("select pg_sleep(1)")
            await conn.execute("select 1")
        await database.close()


@pytest.mark.parametrize("pooler", ["none", "session", "transaction"])
async def test_sessions_have_the_timeouts_that_they_need(pgbouncer: Pooling, database_url: str, pooler: Pooler) -> None:
    """Behind a transaction pooler, those of the role count."""
    name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(f"alter database {name} set statement_timeout = 15".encode())
    if pooler == "none":
        assert await timeouts_error(database := Database(database_url)) is None
    else:
        with pgbouncer(database_url, pooler) as url:
            error = await timeouts_error(database := Database(url, pooler=pooler))
            assert (error is None) == (pooler == "session")
            assert error is None or "statement_timeout is 15 ms and should be 60000 ms" in error
    await database.close()


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_the_version_and_the_encoding_are_known_behind_a_pooler(
    pgbouncer: Pooling, server_url: str, database_url: str, mode: str
) -> None:
    with pgbouncer(database_url, mode) as url:
        assert await server_error(url) is None
    name = f"els_test_latin_{mode}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"create database {name} template template0 encoding 'LATIN1' locale_provider libc locale 'C'")
        try:
            with pgbouncer(f"{server_url.rpartition('/')[0]}/{name}", mode) as url:
                assert "the encoding of the database is LATIN1" in (await server_error(url) or "")
        finally:
            conn.execute(f"drop database {name} with (force)".encode())
