"""Each role can do what it is for, and nothing else."""

import secrets
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.errors import InsufficientPrivilege

from service.database import Timeouts

TABLES = (
    "batches",
    "slots",
    "pending_content",
    "excess_content",
    "validation_failures",
    "outbox",
    "outbox_blocked",
    "relays",
    "relay_shards",
    "quarantine",
    "topic_refusals",
    "crash_marks",
    "policy",
    "operator_actions",
)


@pytest.fixture
def database(database_url: str) -> Iterator[Connection[tuple[Any, ...]]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def may(database: Connection[tuple[Any, ...]], role: str, command: str) -> bool:
    """Whether a role has the privileges for a command; the command changes nothing."""
    try:
        with database.transaction(force_rollback=True):
            database.execute(f"set local role {role}".encode())
            database.execute(command.encode())
    except InsufficientPrivilege:
        return False
    return True


def views(database: Connection[tuple[Any, ...]]) -> list[str]:
    found = database.execute("select viewname::text from pg_views where schemaname = 'ops'").fetchall()
    return [name for (name,) in found]


def test_els_ops_reads_every_view(database: Connection[tuple[Any, ...]]) -> None:
    assert views(database)
    for view in views(database):
        assert may(database, "els_ops", f"select * from ops.{view}"), view


@pytest.mark.parametrize("table", [*TABLES, "alembic_version"])
def test_els_ops_sees_no_table(database: Connection[tuple[Any, ...]], table: str) -> None:
    for command in (
        f"select count(*) from els.{table}",
        f"delete from els.{table}",
        f"truncate els.{table}",
        f"lock table els.{table}",
    ):
        assert not may(database, "els_ops", command), command


@pytest.mark.parametrize(
    "command",
    [
        "create table els.mine ()",
        "create table ops.mine ()",
        "create table public.mine ()",
        "create schema mine",
        "update ops.batches set state = 'ready'",
        "delete from ops.slots",
        "insert into ops.slots (batch_id, essay_id, position) values ('b', 'e', 1)",
        "select nextval('els.arrivals')",
        "select els.oldest_transaction()",
        "set role els_app",
        "set role els_owner",
    ],
)
def test_els_ops_changes_nothing(database: Connection[tuple[Any, ...]], command: str) -> None:
    operator = f"els_test_{secrets.token_hex(6)}"  # roles are the whole server's, tests run side by side
    database.execute(f"create role {operator} in role els_ops".encode())
    try:
        with database.transaction(force_rollback=True):
            database.execute(f"set local session authorization {operator}".encode())
            with pytest.raises(InsufficientPrivilege), database.transaction():
                database.execute(command.encode())
    finally:
        database.execute(f"drop role {operator}".encode())


@pytest.mark.parametrize("table", sorted(set(TABLES) - {"outbox", "relay_shards", "policy", "operator_actions"}))
def test_els_app_reads_and_writes_the_rows_of_the_service(database: Connection[tuple[Any, ...]], table: str) -> None:
    for command in (
        f"select * from els.{table} for update",
        f"insert into els.{table} select * from els.{table} where false"
        if table != "quarantine"
        else "insert into els.quarantine (topic) select topic from els.quarantine where false",
        f"delete from els.{table}",
    ):
        assert may(database, "els_app", command), command


def test_els_app_writes_and_deletes_rows_of_the_outbox_and_never_changes_one(
    database: Connection[tuple[Any, ...]],
) -> None:
    insert = (
        "insert into els.outbox (id, aggregateid, type, payload, correlation_id)"
        " values (gen_random_uuid(), 'b', 'topic', '{}', gen_random_uuid())"
    )
    assert may(database, "els_app", insert)
    assert may(database, "els_app", "delete from els.outbox")
    assert not may(database, "els_app", "update els.outbox set payload = ''")


def test_els_app_adds_to_the_audit_and_never_changes_it(database: Connection[tuple[Any, ...]]) -> None:
    insert = "insert into els.operator_actions (who, action, why) values ('w', 'a', '')"
    assert may(database, "els_app", insert)
    assert may(database, "els_app", "select * from els.operator_actions")
    assert not may(database, "els_app", "update els.operator_actions set who = 'another'")


@pytest.mark.parametrize(
    "command",
    [
        "select nextval('els.arrivals')",
        "update els.relay_shards set relay = null",
        "update els.policy set seconds = 1",
        "select version_num from els.alembic_version",
        "select * from ops.pending_content",
        "select * from ops.health",
    ],
)
def test_els_app_may_also_do_this(database: Connection[tuple[Any, ...]], command: str) -> None:
    assert may(database, "els_app", command)


@pytest.mark.parametrize(
    "command",
    [
        "create table els.mine ()",
        "create table ops.mine ()",
        "create schema mine",
        "create view ops.mine as select 1 as one",
        "drop table els.crash_marks",
        "drop view ops.health",
        "alter table els.batches add column mine text",
        "create index on els.batches (user_id)",
        "truncate els.outbox",
        "update els.alembic_version set version_num = ''",
        "delete from els.relay_shards",
        "grant select on els.batches to els_ops",
    ],
)
def test_els_app_cannot_change_the_schema(database: Connection[tuple[Any, ...]], command: str) -> None:
    # A grant by who may not grant is only a warning where he holds the privilege, and grants nothing.
    may(database, "els_app", command)
    if command.startswith("grant"):
        assert not may(database, "els_ops", "select * from els.batches")
    else:
        assert not may(database, "els_app", command)


def test_els_owner_owns_everything(database: Connection[tuple[Any, ...]]) -> None:
    owners = database.execute(
        """
        select distinct relowner::regrole::text from pg_class
        where relnamespace in ('els'::regnamespace, 'ops'::regnamespace)
        union
        select proowner::regrole::text from pg_proc where pronamespace = 'els'::regnamespace
        union
        select nspowner::regrole::text from pg_namespace where nspname in ('els', 'ops')
        """
    ).fetchall()
    assert owners == [("els_owner",)]


def test_nobody_logs_in_as_the_owner_and_no_role_is_more_than_it_must_be(
    database: Connection[tuple[Any, ...]],
) -> None:
    roles = database.execute(
        "select rolname::text, rolcanlogin, rolsuper or rolcreatedb or rolcreaterole or rolbypassrls"
        " from pg_roles where rolname in ('els_owner', 'els_app', 'els_ops') order by 1"
    ).fetchall()
    assert roles == [("els_app", True, False), ("els_ops", True, False), ("els_owner", False, False)]


def configured(database: Connection[tuple[Any, ...]], role: str) -> dict[str, str]:
    (found,) = database.execute("select rolconfig from pg_roles where rolname = %s", [role]).fetchall()
    return dict(setting.split("=", 1) for setting in found[0])


def test_the_statements_and_transactions_of_els_ops_time_out(database: Connection[tuple[Any, ...]]) -> None:
    settings = configured(database, "els_ops")
    assert settings["default_transaction_read_only"] == "on"
    for timeout in (
        "statement_timeout",
        "transaction_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
    ):
        assert settings[timeout] not in ("0", "")


def test_els_app_has_by_its_role_what_the_service_asks_for_with_each_session(
    database: Connection[tuple[Any, ...]],
) -> None:
    settings = configured(database, "els_app")
    for name in Timeouts.__slots__:
        with database.transaction(force_rollback=True):
            database.execute("select set_config(%s, %s, true)", [name, settings[name]])
            (by_role,) = database.execute("select current_setting(%s)", [name]).fetchall()
            database.execute("select set_config(%s, %s, true)", [name, str(getattr(Timeouts(), name))])
            assert database.execute("select current_setting(%s)", [name]).fetchall() == [by_role]
