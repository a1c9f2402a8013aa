"""A transaction is committed completely or not at all, and only usable sessions return to the pool."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import DivisionByZero, InFailedSqlTransaction, LockNotAvailable

from service.postgres import pool as database_module
from service.postgres import server
from service.postgres.arrays import Texts
from service.postgres.errors import sqlstate_of
from service.postgres.liveness import Served
from service.postgres.pipeline import LARGE_PARAMETERS, Connection, PendingResult
from service.postgres.pool import Database
from service.postgres.schema import read_revision
from service.postgres.session import BEGIN, Timeouts, conninfo
from tests.support.servers.proxy import Proxy

BOUND = 90
"""Seconds after which a wait has failed."""

PIPELINED = pytest.mark.parametrize("pipelined", [False, True])


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, pool_size=1)
    async with database.transaction() as connection:
        await connection.execute("create table public.kept (word text)")
    yield database
    await database.close()


async def keep(connection: AsyncConnection, word: str) -> None:
    await connection.execute("insert into public.kept (word) values (%s)", [word])


async def kept(database: Database) -> list[str]:
    async with database.transaction() as connection:
        cursor = await connection.execute("select word from public.kept order by word")
        return [word for (word,) in await cursor.fetchall()]


async def backend(database: Database) -> int:
    async with database.transaction() as connection:
        return connection.info.backend_pid


async def listens(url: str, statement: str) -> None:
    """Until a session has executed this statement, and waits for its client."""
    waits = "select exists (select from pg_stat_activity where query = %s and wait_event = 'ClientRead')"
    async with asyncio.timeout(BOUND), await AsyncConnection.connect(url, autocommit=True) as other:
        while await (await other.execute(waits, [statement])).fetchone() != (True,):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@PIPELINED
async def test_a_transaction_is_committed_at_its_end_and_its_session_used_again(
    database: Database, pipelined: bool
) -> None:
    before = await backend(database)
    async with database.transaction(pipelined=pipelined) as connection:
        await keep(connection, "one")
    assert await kept(database) == ["one"]
    assert await backend(database) == before


@PIPELINED
async def test_a_transaction_is_rolled_back_where_its_body_raises(database: Database, pipelined: bool) -> None:
    before = await backend(database)
    with pytest.raises(DivisionByZero) as caught:  # noqa: PT012  the body is what is tested
        async with database.transaction(pipelined=pipelined) as connection:
            await keep(connection, "one")
            await connection.execute("select 1 / 0")
    assert sqlstate_of(caught.value) == "22012"
    assert await kept(database) == []
    assert await backend(database) == before


@PIPELINED
async def test_a_failure_that_the_body_hides_is_not_taken_for_a_commit(database: Database, pipelined: bool) -> None:
    with pytest.raises(InFailedSqlTransaction):  # noqa: PT012  the body is what is tested
        async with database.transaction(pipelined=pipelined) as connection:
            await keep(connection, "one")
            with pytest.raises(DivisionByZero):
                await (await connection.execute("select 1 / 0")).fetchall()
    assert await kept(database) == []


async def test_in_a_pipeline_a_failure_is_raised_by_the_next_await_as_itself(database: Database) -> None:
    with pytest.raises(DivisionByZero):  # noqa: PT012  the body is what is tested
        async with database.transaction(pipelined=True) as connection:
            await connection.execute("select 1 / 0")
            await keep(connection, "one")
            await (await connection.execute("select word from public.kept")).fetchall()
    with pytest.raises(DivisionByZero):  # noqa: PT012  the body is what is tested
        async with database.transaction(pipelined=True) as connection:
            await keep(connection, "one")
            await connection.execute("select 1 / 0")
    assert await kept(database) == []


async def test_one_result_is_awaited_while_the_server_works_on_later_statements(
    database: Database, database_url: str
) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as other, asyncio.timeout(BOUND):
        await other.execute("lock table public.kept")
        async with database.transaction(pipelined=True) as connection:
            answer = PendingResult(await connection.execute("select 1"), list)
            await keep(connection, "one")
            after = PendingResult(await connection.execute("select word from public.kept"), list)
            assert await answer == [(1,)]
            await other.commit()
    assert await after == [("one",)]


async def test_the_first_failure_is_raised_and_not_one_that_follows_from_it(database: Database) -> None:
    with pytest.raises(DivisionByZero):  # noqa: PT012  the body is what is tested
        async with database.transaction(pipelined=True) as connection:
            before = PendingResult(await connection.execute("select 1"), list)
            await connection.execute("select 1 / 0")
            assert await before == [(1,)]
            await asyncio.sleep(0.1)  # it may have come by now, unread
            await keep(connection, "one")
    assert await kept(database) == []


async def test_a_session_forgets_what_it_prepared_in_vain(database_url: str) -> None:
    """A lock that was waited for too long while a statement was parsed, behind an answer that was there."""
    database = Database(database_url, pool_size=1, timeouts=Timeouts(lock_timeout=100))
    async with database.transaction() as connection:
        await connection.execute("create table public.kept (word text)")
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        for _ in range(5):  # from the sixth on it is prepared
            async with database.transaction(pipelined=True) as connection:
                await keep(connection, "before")
        await other.execute("lock table public.kept")
        for _ in range(2):
            with pytest.raises(LockNotAvailable):  # noqa: PT012  the body is what is tested
                async with database.transaction(pipelined=True) as connection:
                    answer = PendingResult(await connection.execute("select 1"), list)
                    await keep(connection, "in vain")
                    await answer
        await other.rollback()
    pid = await backend(database)
    async with database.transaction(pipelined=True) as connection:
        answer = PendingResult(await connection.execute("select 1"), list)
        await keep(connection, "behind")
        await answer
    assert await backend(database) == pid
    assert (await kept(database))[0] == "before"
    assert "behind" in await kept(database)
    await database.close()


async def test_a_cleanup_command_of_the_driver_is_not_taken_for_a_sync(database: Database) -> None:
    async with asyncio.timeout(BOUND), database.transaction(pipelined=True) as connection:
        connection.prepare_threshold, connection.prepared_max = 0, 1
        for number in range(5):
            cursor = await connection.execute(f"select {number}, %s::text", ["x"])
            assert await cursor.fetchall() == [(number, "x")]


async def test_statements_are_collected_until_a_result_is_awaited_or_one_is_large(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = 0
    communicate = psycopg.AsyncPipeline._communicate_gen

    def counted(pipeline: psycopg.AsyncPipeline) -> PQGen[None]:
        nonlocal sent
        sent += 1
        return communicate(pipeline)

    monkeypatch.setattr(psycopg.AsyncPipeline, "_communicate_gen", counted)
    async with database.transaction(pipelined=True) as connection:
        for word in "abc":
            await keep(connection, word)
        assert sent == 0
        await (await connection.execute("select 1")).fetchall()
        assert sent == 1
        await keep(connection, "x" * 100_000)
        assert sent == 2
    assert sent == 3


@PIPELINED
async def test_a_cancelled_transaction_leaves_nothing_and_its_session_is_not_used_again(
    database: Database, pipelined: bool
) -> None:
    before = await backend(database)
    started = asyncio.Event()

    async def work() -> None:
        async with database.transaction(pipelined=pipelined) as connection:
            await keep(connection, "one")
            started.set()
            await (await connection.execute("select pg_sleep(60)")).fetchall()

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await kept(database) == []
    assert await backend(database) != before


@PIPELINED
async def test_what_is_larger_than_a_socket_takes_at_once_is_sent_whole(database: Database, pipelined: bool) -> None:
    word = "x" * 30_000_000
    async with asyncio.timeout(60), database.transaction(pipelined=pipelined) as connection:
        cursor = await connection.execute("select length(%s::text)", [word])
        assert await cursor.fetchall() == [(len(word),)]
        await keep(connection, word)
    async with database.transaction() as connection:
        cursor = await connection.execute("select length(word) from public.kept")
        assert await cursor.fetchall() == [(len(word),)]


@PIPELINED
async def test_a_cancelled_transaction_costs_the_others_nothing(database_url: str, pipelined: bool) -> None:
    database = Database(database_url, pool_size=2)
    started = asyncio.Event()

    async def work() -> None:
        async with database.transaction(pipelined=pipelined) as connection:
            await (await connection.execute("select 1")).fetchall()
            started.set()
            await asyncio.Event().wait()

    async with database.transaction() as idle:
        task = asyncio.create_task(work())
        await started.wait()
    task.cancel()
    await asyncio.wait([task])
    assert not idle.closed
    assert await backend(database) == idle.info.backend_pid
    await database.close()


async def test_a_check_of_the_server_that_is_cancelled_closes_its_connection(database_url: str) -> None:
    """A request to cancel would go through a pooler, which may hand it to another session."""
    connection = await server._open(conninfo(database_url, "a test", None))
    sleeps = "select pg_sleep(60)"
    task = asyncio.create_task(connection.execute(sleeps))
    running = "select exists (select from pg_stat_activity where query = %s and state = 'active')"
    async with asyncio.timeout(BOUND), await AsyncConnection.connect(database_url, autocommit=True) as other:
        while await (await other.execute(running, [sleeps])).fetchone() != (True,):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert connection.closed
        ended = await (await other.execute(running, [sleeps])).fetchone()
        assert ended == (True,), "a request to cancel has ended it"
        await other.execute("select pg_terminate_backend(pid) from pg_stat_activity where query = %s", [sleeps])


async def test_a_session_that_the_server_ended_is_replaced(database: Database) -> None:
    with pytest.raises(psycopg.OperationalError) as caught:  # noqa: PT012  the body is what is tested
        async with database.transaction() as connection:
            await keep(connection, "one")
            await connection.execute("select pg_terminate_backend(pg_backend_pid())")
    assert sqlstate_of(caught.value) == "57P01"
    assert await kept(database) == []


async def test_an_empty_pool_raises_the_drivers_error(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.postgres.pool._POOL_TIMEOUT_SECONDS", 0.01)
    async with database.transaction():
        with pytest.raises(psycopg.OperationalError, match="no database session was free"):
            async with database.transaction():
                pass
    assert await kept(database) == []


async def test_a_session_in_use_when_the_pool_is_closed_is_closed_when_it_is_returned(database: Database) -> None:
    async with database.transaction() as connection:
        await keep(connection, "one")
        await database.close()
    assert connection.closed
    assert await kept(database) == ["one"]


async def test_when_the_server_ends_one_session_the_idle_ones_are_not_used_again(database_url: str) -> None:
    database = Database(database_url, pool_size=2)
    async with database.transaction(), database.transaction() as other:
        idle = other.info.backend_pid
    with pytest.raises(psycopg.OperationalError):
        async with database.transaction() as connection:
            await connection.execute("select pg_terminate_backend(pg_backend_pid())")
    assert other.closed
    assert await backend(database) != idle
    await database.close()


@pytest.mark.parametrize(
    ("state", "is_lost"), [("25006", True), ("57P01", True), ("57P02", True), ("57P03", True), ("P0001", False)]
)
async def test_an_error_of_a_server_that_is_lost_closes_all_sessions(
    database_url: str, state: str, is_lost: bool
) -> None:
    """The connection itself stays open, as where a pooler passes on the error of its server."""
    database = Database(database_url)
    async with database.transaction() as one, database.transaction() as other:
        pass
    with pytest.raises(psycopg.Error):
        async with database.transaction() as connection:
            await connection.execute(f"do $$ begin raise exception using errcode = '{state}'; end $$".encode())
    assert (one.closed, other.closed) == (is_lost, is_lost)
    await database.close()


async def test_an_unreachable_server_raises_the_drivers_error() -> None:
    database = Database("postgresql://postgres@127.0.0.1:1/nothing")
    with pytest.raises(psycopg.OperationalError):
        async with database.transaction():
            pass
    await database.close()


async def test_every_session_has_its_timeouts_and_knows_our_arrays(database: Database) -> None:
    async with database.transaction() as connection:
        cursor = await connection.execute(
            "select current_setting('lock_timeout'), current_setting('transaction_timeout'),"
            " current_setting('TimeZone'), cardinality(%s)",
            [Texts(["one", None])],
        )
        assert await cursor.fetchone() == ("2s", "2min", "UTC", 2)


async def test_an_unpooled_connection_commits_each_statement(database: Database) -> None:
    connection = await database.connect_unpooled()
    await keep(connection, "one")
    await connection.close()
    assert await kept(database) == ["one"]


def test_behind_a_pooler_no_session_settings_are_sent_and_those_of_the_url_stay() -> None:
    assert "lock_timeout" not in conninfo("postgresql://db/els", "els", None)
    assert "search_path=x" in conninfo("postgresql://db/els?options=-csearch_path%3Dx", "els", None)


async def test_the_session_of_a_server_that_acknowledges_and_never_answers_is_closed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No timeout of TCP detects it. The next transaction has a session of its own."""
    monkeypatch.setattr(database_module, "GRACE_SECONDS", 0.1)
    proxy = await Proxy(int(str(conninfo_to_dict(database_url)["port"]))).start()
    database = Database(f"{database_url}&port={proxy.port}", timeouts=Timeouts(transaction_timeout=2_000))
    try:
        with pytest.raises(psycopg.OperationalError):  # noqa: PT012  the body is what is tested
            async with database.transaction() as conn:
                proxy.swallow()
                await conn.execute("select 1")
        async with database.transaction() as conn:
            cursor = await conn.execute("select 1")
            assert await cursor.fetchone() == (1,)
    finally:
        await database.close()
        await proxy.stop()


@pytest.mark.parametrize("begun", [True, False])
async def test_a_session_that_the_server_has_ended_or_does_not_know_is_closed_soon(
    app_url: str, begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before the end of the longest transaction, two minutes."""
    monkeypatch.setattr(database_module, "CHECK_AFTER_SECONDS", 0.2)
    proxy = await Proxy(int(str(conninfo_to_dict(app_url)["port"]))).start()
    database = Database(f"{app_url}&port={proxy.port}", timeouts=Timeouts(idle_in_transaction_session_timeout=300))
    try:
        assert await read_revision(database)
        async with asyncio.timeout(BOUND):
            with pytest.raises(psycopg.OperationalError):  # noqa: PT012  the body is what is tested
                async with database.transaction(pipelined=True) as conn:
                    if begun:
                        await (await conn.execute("select 1")).fetchone()
                    proxy.swallow()
                    await (await conn.execute("select 2")).fetchone()
        assert await read_revision(database)
    finally:
        await database.close()
        await proxy.stop()


async def test_an_answer_that_takes_long_to_come_is_read_to_its_end(
    app_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has committed meanwhile, and knows of no transaction any more."""
    monkeypatch.setattr(database_module, "CHECK_AFTER_SECONDS", 0.2)
    monkeypatch.setattr(database_module, "RECHECK_SECONDS", 0.2)
    proxy = await Proxy(int(str(conninfo_to_dict(app_url)["port"]))).start()
    database = Database(f"{app_url}&port={proxy.port}")
    try:
        assert await read_revision(database)
        proxy.slow(0.1)
        async with database.transaction(pipelined=True) as conn:
            answer = await conn.execute("select repeat('x', 1000) from generate_series(1, 6000)")
        assert len(await answer.fetchall()) == 6000
    finally:
        await database.close()
        await proxy.stop()


@PIPELINED
@pytest.mark.parametrize("role", ["superuser", "els_app"])
async def test_a_transaction_that_takes_long_is_not_ended(
    database_url: str, app_url: str, role: str, pipelined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the server works for it, or waits for what it does next, and whether its state may be seen or not."""
    database = Database(app_url if role == "els_app" else database_url)
    checks = []
    is_served = Database._is_served

    async def noting(self: Database, pid: int) -> Served | None:
        served = await is_served(self, pid)
        checks.append(served)
        return served

    monkeypatch.setattr(database_module, "CHECK_AFTER_SECONDS", 0.05)
    monkeypatch.setattr(database_module, "RECHECK_SECONDS", 0.05)
    monkeypatch.setattr(Database, "_is_served", noting)
    async with asyncio.timeout(BOUND), database.transaction(pipelined=pipelined) as conn:
        while len(checks) < 3:
            await (await conn.execute("select pg_sleep(0.1)")).fetchall()
        while len(checks) < 6:  # noqa: ASYNC110  what is waited for is in the code under test
            await asyncio.sleep(0.01)
        await (await conn.execute("select 1")).fetchall()
    assert all(checks)
    await database.close()


async def test_sessions_that_are_not_used_for_a_while_are_closed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(database_url)
    async with database.transaction() as one, database.transaction() as other:
        pass
    monkeypatch.setattr(database_module, "_UNUSED_SECONDS", 0.2)
    async with asyncio.timeout(BOUND):
        while not other.closed:
            pid = await backend(database)
            await asyncio.sleep(0.01)
    assert pid == await backend(database) == one.info.backend_pid
    await database.close()


async def test_where_begin_fails_no_statement_runs_as_a_transaction_of_its_own(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large statements are sent ahead, each with a sync, behind which the server would take the next for its own."""
    execute = Connection.execute

    async def failing(self: Connection, query: Any, *arguments: Any, **options: Any) -> Any:
        return await execute(self, "begin nonsense" if query == BEGIN else query, *arguments, **options)

    monkeypatch.setattr(Connection, "execute", failing)
    for _ in range(10):  # it may be noticed before more is sent
        with pytest.raises(psycopg.errors.SyntaxError):  # noqa: PT012  the body is what is tested
            async with database.transaction(pipelined=True) as connection:
                for letter in "abc":
                    await keep(connection, letter * (LARGE_PARAMETERS + 1))
    monkeypatch.undo()
    assert await kept(database) == []


@pytest.mark.parametrize("more", ["", "x" * LARGE_PARAMETERS * 2], ids=["answered", "sent ahead"])
async def test_the_locks_of_a_frozen_pod_are_free_soon(database_url: str, more: str) -> None:
    """In the middle of a pipeline, too, and behind what was sent ahead: its session must count as idle."""
    proxy = await Proxy(int(str(conninfo_to_dict(database_url)["port"]))).start()
    timeouts = Timeouts(idle_in_transaction_session_timeout=300)
    database = Database(f"{database_url}&port={proxy.port}", timeouts=timeouts)
    free = False
    try:
        with pytest.raises(psycopg.OperationalError):  # noqa: PT012  the body is what is tested
            async with database.transaction(pipelined=True) as conn:
                await (await conn.execute("select pg_advisory_xact_lock(1)")).fetchone()
                if more:
                    await conn.execute("select %s::text", [more])
                    await listens(database_url, "select $1::text")
                proxy.swallow()
                async with await psycopg.AsyncConnection.connect(database_url) as other:
                    await other.execute("set lock_timeout = '10s'")
                    await other.execute("select pg_advisory_xact_lock(1)")
                    free = True
                proxy.cut()
    finally:
        await database.close()
        await proxy.stop()
    assert free


async def test_the_server_detects_pods_that_have_disappeared(database: Database) -> None:
    async with database.transaction() as conn:
        cursor = await conn.execute(
            "select current_setting('tcp_keepalives_idle'), current_setting('tcp_user_timeout')"
        )
        assert await cursor.fetchone() == ("5", "10000")
