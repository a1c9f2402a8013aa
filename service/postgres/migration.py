"""Brings a database to the schema that this code expects.

One at a time: an advisory lock is held throughout. Each revision is a transaction of its own, then all
views and grants are laid again in one. Nothing waits long for a lock that the service holds (`lock_timeout`):
what could not be had is tried again, so that nothing queues up behind a waiting `alter table`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Final

import psycopg
from alembic import command, op
from alembic.config import Config
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from service.postgres.errors import sqlstate_of
from service.postgres.session import Timeouts, conninfo

_ROOT: Final = Path(__file__).parents[2]
_SQL: Final = _ROOT / "sql"

_LOCK: Final = "select pg_try_advisory_lock(hashtextextended('els.migrate', 0))"
_UNLOCK: Final = "select pg_advisory_unlock(hashtextextended('els.migrate', 0))"
_LOCK_SECONDS: Final = 300
_LOCK_PAUSE_SECONDS: Final = 0.2

# A revision may take its time; what it may not do is stand in a queue with others behind it: those it holds up for
# as long as it waits for its own lock.
_TIMEOUTS: Final = Timeouts(lock_timeout=500, statement_timeout=0, transaction_timeout=0)

_ATTEMPTS: Final = 20
_PAUSE_SECONDS: Final = 1.0
# Lock not available, deadlock: somebody works on these tables. Object or key exists, "tuple concurrently
# updated": somebody lays the roles of this cluster from another database at the same moment.
_BUSY: Final = frozenset({"55P03", "40P01"})
_RIVAL: Final = frozenset({"42710", "23505", "XX000"})

_ROLES: Final = ("els_owner", "els_app", "els_ops")


class MigrationError(Exception):
    """The database can't be brought to the schema; the message is one line that says why."""


def upgrade(url: str, *, pending_ttl_seconds: int | None = None) -> list[str]:
    """Migrate to the newest revision, lay views and grants, and return what an operator should know.

    `url` is libpq's. `pending_ttl_seconds` is what ops.pending_content counts down from; it stays as it
    is where none is given. Raises MigrationError or psycopg.Error.
    """
    config = Config(_ROOT / "alembic.ini")
    with connect(url) as connection:
        config.attributes["connection"] = connection
        _persistently(_BUSY, lambda: command.upgrade(config, "head"))
        if pending_ttl_seconds is not None:
            with as_owner(connection):
                _run(connection, _SET_PENDING_TTL, {"seconds": pending_ttl_seconds})
    return list(config.attributes["notes"])


_SET_PENDING_TTL: Final = "update els.policy set seconds = %(seconds)s where name = 'pending_ttl'"


@contextmanager
def connect(url: str) -> Iterator[Connection]:
    """One connection for a migration. Raises psycopg.Error."""
    info = conninfo(url, "essay-lifecycle-service migrate", _TIMEOUTS)
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(info), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        raise error.orig or error from None
    finally:
        engine.dispose()


@contextmanager
def alone(connection: Connection) -> Iterator[None]:
    """Hold the right to migrate this database. Raises MigrationError where another keeps it for minutes.

    It is polled for: a session that waits for an advisory lock has a snapshot, and `create index
    concurrently` of the one that holds it would wait for that snapshot for ever.
    """
    patience = time.monotonic() + _LOCK_SECONDS
    while not _ask(connection, _LOCK):
        if time.monotonic() > patience:
            raise MigrationError("another migration of this database is at work and does not end")
        time.sleep(_LOCK_PAUSE_SECONDS)
    try:
        yield
    finally:
        _ask(connection, _UNLOCK)


def lay_roles(connection: Connection) -> list[str]:
    """Create the roles of sql/roles.sql, or return a note where that may not be but they exist.

    Raises MigrationError where it may not be and one of them is missing.
    """
    try:
        _persistently(_RIVAL, lambda: _run(connection, (_SQL / "roles.sql").read_text()))
    except psycopg.errors.InsufficientPrivilege as error:
        problem = " ".join(str(error).split())
    else:
        return []
    known = f"select count(*) = {len(_ROLES)} from pg_roles where rolname in {_ROLES}"  # noqa: S608
    if _ask(connection, known):
        return [f"roles are left as they are, this login may not lay them: {problem}"]
    raise MigrationError(
        f"the roles {', '.join(_ROLES)} are not all there and this login may not create them ({problem}): "
        "let an administrator run sql/roles.sql in this database, then migrate again"
    )


@contextmanager
def as_owner(connection: Connection) -> Iterator[None]:
    """Work as els_owner, and see that the schemas exist. Raises MigrationError where that may not be."""
    try:
        _run(connection, "set role els_owner")
        _run(connection, _SCHEMAS)
    except psycopg.errors.InvalidParameterValue:
        raise MigrationError("there is no role els_owner: an upgrade to head creates it") from None
    except psycopg.errors.InsufficientPrivilege as error:
        problem = " ".join(str(error).split())
        raise MigrationError(
            f"this login may not work as els_owner here ({problem}): let an administrator run sql/roles.sql"
            " in this database, and `grant els_owner to` this login"
        ) from None
    try:
        yield
    finally:
        _run(connection, "reset role")


# RequestModel first: `if not exists` wants the privilege to create even where there is nothing to create.
_SCHEMAS: Final = """
do $$
begin
    if to_regnamespace('els') is null then
        create schema els;
    end if;
    if to_regnamespace('ops') is null then
        create schema ops;
    end if;
    -- alembic's own table, with a column of ours: the oldest code that runs on this revision.
    create table if not exists els.alembic_version (
        version_num varchar(32) not null,
        constraint alembic_version_pkc primary key (version_num)
    );
    if not exists (
        select from pg_attribute
        where attrelid = 'els.alembic_version'::regclass
        and attname = 'oldest_code'
    ) then
        alter table els.alembic_version add column oldest_code text;
    end if;
end
$$;
"""


_HALF_MADE: Final = "select not indisvalid from pg_index where indexrelid = to_regclass(:name)"


def create_index(name: str, definition: str) -> None:
    """For a revision: make an index of els on a table that is in use, holding up nobody who reads or writes it.

    `definition` is what stands behind `on`. What the revision did before is committed. One that an earlier try left
    half made is made again; a whole one is kept, so that a second try goes on where the first one ended.
    """
    context = op.get_context()
    with context.autocommit_block():
        half_made = None if context.as_sql else op.get_bind().scalar(text(_HALF_MADE), {"name": f"els.{name}"})
        if half_made is False:
            return
        # It waits for the transactions that were there before it, with nobody in a queue behind it.
        op.execute("set lock_timeout = 0")
        try:
            if half_made:
                op.execute(f"drop index concurrently els.{name}")
            op.execute(f"create index concurrently {name} on {definition}")
        finally:
            op.execute("reset lock_timeout")


def render(revisions: str) -> str:
    """The SQL of some revisions ("0001:0002"; "base:head" for all), for who reads it; nothing is connected to."""
    told = StringIO()
    command.upgrade(Config(_ROOT / "alembic.ini", output_buffer=told), revisions, sql=True)
    return told.getvalue()


def lay_views(connection: Connection) -> None:
    """Make the views of schema ops what sql/views says, and all grants what sql/grants.sql says, in one."""
    files = [*sorted((_SQL / "views").glob("*.sql")), _SQL / "grants.sql"]
    script = "\n".join([_CLEAR_VIEWS, *(file.read_text() for file in files)])
    _persistently(_BUSY, lambda: _run(connection, script))


# In one command, so that their order among themselves does not matter. Without cascade: a view that
# somebody built on these is not ours to drop, and the error names it.
_CLEAR_VIEWS: Final = """
do $$
declare
    views text;
begin
    select string_agg(format('ops.%I', viewname), ', ') into views
    from pg_views
    where schemaname = 'ops'
    and viewowner = current_user;
    if views is not null then
        execute 'drop view ' || views;
    end if;
end
$$;
"""


def _run(connection: Connection, script: str, parameters: dict[str, object] | None = None) -> None:
    """Run one statement, or a script of several, in a transaction of its own."""
    with _driver(connection).transaction() as transaction:
        transaction.connection.execute(script.encode(), parameters)


def _ask(connection: Connection, question: str) -> bool:
    """The answer of a query that has one, outside of any transaction when it returns."""
    with _driver(connection).transaction() as transaction:
        row = transaction.connection.execute(question.encode()).fetchone()
    return bool(row and row[0])


def _driver(connection: Connection) -> "psycopg.Connection[tuple[object, ...]]":
    """The connection underneath, idle: alembic leaves the transaction open in which it read the revision."""
    connection.rollback()
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError(f"{type(driver).__name__} is not psycopg's connection")
    return driver


def _persistently(troubles: frozenset[str], step: Callable[[], object]) -> None:
    """Do it, again where others were in the way."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            step()
        except (psycopg.Error, DBAPIError) as error:
            if attempt == _ATTEMPTS or sqlstate_of(error) not in troubles:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return
