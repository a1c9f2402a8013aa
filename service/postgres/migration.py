"""Migrates a database to the schema that this code expects.

An advisory lock allows one migration at a time. Each revision runs in a transaction of its own, then all views and
grants are made anew in one. A migration waits only shortly for a lock that the service holds (`lock_timeout`) and
retries, so that the service's statements do not queue up behind a waiting `alter table`.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Final

import psycopg
from alembic import command, op
from alembic.config import Config
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from service.domain.cells import ALL_BATCHES, Slice
from service.postgres.errors import explained, sqlstate_of
from service.postgres.session import DURABLE, Timeouts, conninfo

_ROOT: Final = Path(__file__).parents[2]
_SQL: Final = _ROOT / "sql"

_LOCK: Final = "select pg_try_advisory_lock(hashtextextended('els.migrate', 0))"
_UNLOCK: Final = "select pg_advisory_unlock(hashtextextended('els.migrate', 0))"
_LOCK_SECONDS: Final = 300
_LOCK_PAUSE_SECONDS: Final = 0.2

# A revision may take long, but may not wait long for a lock: every later statement on the table waits behind it.
_TIMEOUTS: Final = Timeouts(lock_timeout=500, statement_timeout=0, transaction_timeout=0)

_ATTEMPTS: Final = 20
_PAUSE_SECONDS: Final = 1.0
# Lock not available, deadlock: another transaction works on these tables.
_TABLES_IN_USE: Final = frozenset({"55P03", "40P01"})
# Object or key exists, "tuple concurrently updated": a migration of another database creates the same roles right now.
_ROLES_IN_USE: Final = frozenset({"42710", "23505", "XX000"})

_ROLES: Final = ("els_owner", "els_app", "els_ops")


class MigrationError(Exception):
    """The database can not be migrated. The message is one line that says why."""


def upgrade(url: str, *, policy: Mapping[str, int] | None = None, of: Slice = ALL_BATCHES) -> list[str]:
    """Migrate to the newest revision, with views and grants. Returns notes for the operator.

    `url` is libpq's. `policy` has the time limits in seconds that the views go by: pending_ttl and batch_timeout. What
    it does not name stays. A database that was not used yet gets the slice `of`; a note says where one has another.
    Raises MigrationError or psycopg.Error.
    """
    config = Config(_ROOT / "alembic.ini")
    with connect(url) as connection:
        config.attributes["connection"] = connection
        _retry_on(_TABLES_IN_USE, lambda: command.upgrade(config, "head"))
        with as_owner(connection):
            for name, seconds in (policy or {}).items():
                _run(connection, _SET_POLICY, {"name": name, "seconds": seconds})
            _run(connection, _SET_SLICE, of._asdict())
            _run(connection, _KEEP_OLD_CODE_OUT)
            agrees = _query_bool(connection, _HAS_SLICE.format(**of._asdict()))
    notes = [] if agrees else [f"the database keeps its slice of the batches, which is not {of} (ELS_CELLS, ELS_CELL)"]
    return [*config.attributes["notes"], *notes]


_SET_POLICY: Final = "update els.policy set seconds = %(seconds)s where name = %(name)s"

# Only a database that no pod has used yet: the slice of another changes by a split.
_SET_SLICE: Final = """
update els.slice
set cells = %(cells)s, cell = %(cell)s, since = transaction_timestamp()
where (cells, cell) <> (%(cells)s, %(cell)s)
    and not exists (select from els.progress)
    and not exists (select from els.batches)
    and not exists (select from els.pending_content)
    and not exists (select from els.validation_failures)
    and not exists (select from els.confirmations)
    and not exists (select from els.quarantine)
"""

# Code that knows no cells would apply what belongs to others. Its own check of the schema keeps it out.
_KEEP_OLD_CODE_OUT: Final = """
update els.alembic_version
set oldest_code = '0012'
where oldest_code < '0012'
    and exists (select from els.slice where cells > 1)
"""

_HAS_SLICE: Final = "select exists (select from els.slice where (cells, cell) = ({cells}, {cell}))"


@contextmanager
def connect(url: str) -> Iterator[Connection]:
    """Open the connection of a migration, and close it after the body. Raises psycopg.Error."""
    info = conninfo(url, "essay-lifecycle-service migrate", _TIMEOUTS)
    engine = create_engine("postgresql+psycopg://", creator=lambda: _open(info), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        raise error.orig or error from None
    finally:
        engine.dispose()


def _open(info: str) -> "psycopg.Connection[tuple[object, ...]]":
    """Connect, with isolation level and durability set for all transactions. Raises psycopg.Error."""
    try:
        connection = psycopg.connect(info, autocommit=True)
    except psycopg.OperationalError as error:
        raise explained(error) from None
    connection.execute(DURABLE)
    connection.autocommit = False
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    return connection


@contextmanager
def migration_lock(connection: Connection) -> Iterator[None]:
    """Hold the lock that allows one migration of a database at a time.

    Polls for the lock: a session that waits for an advisory lock has a snapshot, and `create index concurrently` of the
    session that holds it would wait for that snapshot forever. Raises MigrationError if the lock is not free in time.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    while not _query_bool(connection, _LOCK):
        if time.monotonic() > deadline:
            raise MigrationError(f"other migrations of this database have run for more than {_LOCK_SECONDS} seconds")
        time.sleep(_LOCK_PAUSE_SECONDS)
    try:
        yield
    finally:
        _query_bool(connection, _UNLOCK)


def apply_roles(connection: Connection) -> list[str]:
    """Create and configure the roles of sql/roles.sql.

    Returns a note where the login lacks the privilege but the roles exist. Raises MigrationError where it lacks the
    privilege and a role is missing.
    """
    try:
        _retry_on(_ROLES_IN_USE, lambda: _run(connection, (_SQL / "roles.sql").read_text()))
    except psycopg.errors.InsufficientPrivilege as error:
        problem = " ".join(str(error).split())
    else:
        return []
    known = f"select count(*) = {len(_ROLES)} from pg_roles where rolname in {_ROLES}"  # noqa: S608
    if _query_bool(connection, known):
        return [f"the roles are unchanged, since this login may not change them: {problem}"]
    raise MigrationError(
        f"of the roles {', '.join(_ROLES)} some are missing, and this login may not create them ({problem}): "
        "let an administrator run sql/roles.sql in this database, then migrate again"
    )


@contextmanager
def as_owner(connection: Connection) -> Iterator[None]:
    """Run the body as els_owner, with the schemas created. Raises MigrationError where the login may not do that."""
    try:
        _run(connection, "set role els_owner")
        _run(connection, _SCHEMAS)
    except psycopg.errors.InvalidParameterValue:
        raise MigrationError("the role els_owner is missing: an upgrade to head creates it") from None
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


# Checked first: `create schema if not exists` needs the privilege to create even where the schema exists.
_SCHEMAS: Final = """
do $$
begin
    if to_regnamespace('els') is null then
        create schema els;
    end if;
    if to_regnamespace('ops') is null then
        create schema ops;
    end if;
    -- Alembic's own table, with a column of ours: the oldest code that runs on this revision.
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


_IS_INVALID: Final = "select not indisvalid from pg_index where indexrelid = to_regclass(:name)"


def create_index(name: str, definition: str) -> None:
    """Create an index of schema els without blocking reads or writes of its table; for a revision.

    `definition` is what follows `on`. Commits what the revision did before. An invalid index, which an interrupted try
    left, is created anew; a valid one is kept, so that a second try continues where the first one ended.
    """
    context = op.get_context()
    with context.autocommit_block():
        is_invalid = None if context.as_sql else op.get_bind().scalar(text(_IS_INVALID), {"name": f"els.{name}"})
        if is_invalid is False:
            return
        # It waits for the transactions that began before it, and no statement waits behind it.
        op.execute("set lock_timeout = 0")
        try:
            if is_invalid:
                op.execute(f"drop index concurrently els.{name}")
            op.execute(f"create index concurrently {name} on {definition}")
        finally:
            op.execute("reset lock_timeout")


def render(revisions: str) -> str:
    """Return the SQL of some revisions ("0001:0002"; "base:head" for all). Connects to nothing."""
    output = StringIO()
    command.upgrade(Config(_ROOT / "alembic.ini", output_buffer=output), revisions, sql=True)
    return output.getvalue()


def replace_views(connection: Connection) -> None:
    """Drop the views of sql/own.sql and of schema ops, create them anew, and grant anew, in one transaction."""
    files = [_SQL / "functions.sql", _SQL / "own.sql", *sorted((_SQL / "views").glob("*.sql")), _SQL / "grants.sql"]
    script = "\n".join([_DROP_VIEWS, *(file.read_text() for file in files)])
    _retry_on(_TABLES_IN_USE, lambda: _run(connection, script))


# In one command, since views may depend on each other. Without cascade: a view that an administrator made on top of
# these must not be dropped; the error names it.
_DROP_VIEWS: Final = """
do $$
declare
    views text;
begin
    select string_agg(format('%I.%I', schemaname, viewname), ', ') into views
    from pg_views
    where (schemaname = 'ops' or schemaname = 'els' and starts_with(viewname, 'own_'))
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


def _query_bool(connection: Connection, query: str) -> bool:
    """Return the one value of a query, as a bool. No transaction is open when it returns."""
    with _driver(connection).transaction() as transaction:
        row = transaction.connection.execute(query.encode()).fetchone()
    return bool(row and row[0])


def _driver(connection: Connection) -> "psycopg.Connection[tuple[object, ...]]":
    """Return the driver's connection, idle: Alembic leaves the transaction open in which it read the revision."""
    connection.rollback()
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError(f"{type(driver).__name__} is not psycopg's connection")
    return driver


def _retry_on(sqlstates: frozenset[str], step: Callable[[], object]) -> None:
    """Run a step, and again after an error with one of these SQLSTATEs."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            step()
        except (psycopg.Error, DBAPIError) as error:
            if attempt == _ATTEMPTS or sqlstate_of(error) not in sqlstates:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return
