"""Each role can do what it needs to do, and nothing else."""

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import Connection, sql
from psycopg.errors import InsufficientPrivilege, QueryCanceled

from deploy.local.postgres import installed_programs
from deploy.servers.pods import ROOT, until
from service.postgres import migration
from service.postgres.session import PLANNER, Timeouts

ROWS = {"SELECT", "INSERT", "UPDATE", "DELETE"}
ADD_AND_DELETE = {"SELECT", "INSERT", "DELETE"}
CHANGE = {"SELECT", "UPDATE"}

TABLES = {
    "batches": ROWS,
    "slots": ROWS,
    "pending_content": ROWS,
    "excess_content": ROWS,
    "validation_failures": ROWS,
    "confirmations": ROWS,
    "outbox": ADD_AND_DELETE,
    "outbox_pages": ADD_AND_DELETE,
    "outbox_format": {"SELECT", "UPDATE"},
    "unpublished": {"SELECT"},
    "outbox_blocked": ROWS,
    "relays": ROWS,
    "relay_shards": CHANGE,
    "quarantine": ROWS,
    "topic_refusals": ROWS,
    "rejected_bytes": ROWS,
    "crash_marks": ROWS,
    "progress": ROWS,
    "server_identity": ROWS,
    "recovery": ROWS,
    "purge_hold": ROWS,
    "incomplete_batches": ROWS,
    "pods": ROWS,
    "search": ROWS,
    "search_progress": ROWS,
    "ended_batches": {"SELECT"},
    "expirable_content": {"SELECT"},
    "expirable_failures": {"SELECT"},
    "expirable_confirmations": {"SELECT"},
    "lost_inputs": {"SELECT", "INSERT", "UPDATE"},
    "input_topics": {"SELECT", "INSERT", "UPDATE"},
    "output_topics": {"SELECT", "INSERT", "UPDATE"},
    "skipped_inputs": {"SELECT", "INSERT", "UPDATE"},
    "notices": {"SELECT", "INSERT", "UPDATE"},
    "expired_seen": CHANGE,
    "purge_rounds": {"SELECT", "INSERT", "UPDATE"},
    "slice": {"SELECT"},
    "transfer": {"SELECT"},
    "trimming": ROWS,
    "policy": CHANGE,
    "operator_actions": {"SELECT", "DELETE"},
    "erasures": ROWS,
    "erasure_keys": {"SELECT", "INSERT"},
    "alembic_version": {"SELECT"},
}
"""What els_app may do with each table; els_ops may do nothing with any."""


@pytest.fixture
def database(shared_url: str) -> Iterator[Connection[tuple[Any, ...]]]:
    """A superuser. The test leaves the database as it was."""
    with psycopg.connect(shared_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def own_database(database_url: str) -> Iterator[Connection[tuple[Any, ...]]]:
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


@pytest.mark.parametrize("table", TABLES)
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
        "select * from els.held_back()",
        "set role els_app",
        "set role els_owner",
        "set role els_ops",
        "select lo_create(0)",
        "select lo_from_bytea(0, 'x')",
        "select pg_advisory_lock(1)",
        "select pg_try_advisory_lock_shared(1, 2)",
        "select pg_advisory_xact_lock(g) from generate_series(1, 20000) as g",
        "alter role els_ops set statement_timeout = 0",
        "alter role els_ops password 'mine'",
        "alter role els_ops login",
        "alter role els_ops set temp_file_limit = -1",
        "set temp_file_limit = -1",
        "select pg_logical_emit_message(false, 'x', repeat('x', 1000000))",
        "create function ops.mine() returns integer language sql return 1",
        "create extension file_fdw",
        "create publication mine for all tables",
        "create role mine",
        "copy (select 1) to program 'true'",
        "copy (select 1) to '/tmp/els-mine'",
        "select pg_read_file('PG_VERSION')",
        "select pg_create_physical_replication_slot('mine')",
        "select * from ops.batches for update",
        "lock table ops.batches in row share mode",
        "lock table ops.batches in access exclusive mode",
        "comment on view ops.batches is 'mine'",
        "drop view ops.batches",
        "reindex table els.batches",
        "select els.shown('x')",
        "set role pg_read_all_data",
        "set session_replication_role = replica",
    ],
)
def test_els_ops_changes_nothing(database: Connection[tuple[Any, ...]], command: str) -> None:
    operator = f"els_test_{secrets.token_hex(6)}"  # roles are the whole server's, tests run side by side
    database.execute(f"create role {operator}; grant els_ops to {operator} with inherit true, set false".encode())
    try:
        with database.transaction(force_rollback=True):
            database.execute(f"set local session authorization {operator}".encode())
            with pytest.raises(InsufficientPrivilege), database.transaction():
                database.execute(command.encode())
    finally:
        database.execute(f"drop role {operator}".encode())


def privileges(database: Connection[tuple[Any, ...]], schema: str, kinds: str) -> dict[tuple[str, str], set[str]]:
    """Privileges by relation and role, as the server computes them, with memberships and grants to all."""
    found = database.execute(
        """
        select relname::text, role,
            array_agg(privilege) filter (where has_table_privilege(role, pg_class.oid, privilege))
        from pg_class
        cross join unnest(array['els_app', 'els_ops', 'public']) as role
        cross join unnest(array[
            'SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN'
        ]) as privilege
        where relnamespace = %s::regnamespace
        and relkind = any (%s)
        group by relname, role
        """,
        [schema, list(kinds)],
    ).fetchall()
    return {(name, role): set(granted or ()) for name, role, granted in found}


def test_each_role_has_these_privileges_on_tables_and_no_others(database: Connection[tuple[Any, ...]]) -> None:
    all_found = privileges(database, "els", "rpvmf")
    found = {key: granted for key, granted in all_found.items() if not key[0].startswith("own_")}
    own = {role: granted for (name, role), granted in all_found.items() if granted and name.startswith("own_")}
    assert own == {"els_app": {"SELECT"}}
    expected = {(table, "els_app"): granted for table, granted in TABLES.items()}
    expected |= {(table, role): set() for table in TABLES for role in ("els_ops", "public")}
    assert found == expected


def test_views_are_read_and_nothing_else(database: Connection[tuple[Any, ...]]) -> None:
    found = privileges(database, "ops", "rpvmf")
    assert {name for name, _ in found} == set(views(database))
    assert {role: granted for (_, role), granted in found.items() if role != "public"} == {
        "els_app": {"SELECT"},
        "els_ops": {"SELECT"},
    }
    assert not any(granted for (_, role), granted in found.items() if role == "public")


def test_sequences_and_schemas_are_used_by_who_needs_them(database: Connection[tuple[Any, ...]]) -> None:
    sequences = """
        select relname::text, role from pg_class cross join unnest(array['els_app', 'els_ops', 'public']) as role
        where relnamespace in ('els'::regnamespace, 'ops'::regnamespace)
        and relkind = 'S'
        and has_sequence_privilege(role, pg_class.oid, 'usage, select, update')
    """
    assert sorted(database.execute(sequences).fetchall()) == [
        ("arrivals", "els_app"),
        ("outbox_seq_seq", "els_app"),
        ("quarantine_id_seq", "els_app"),
    ]
    schemas = """
        select schema, role, has_schema_privilege(role, schema, 'create')
        from unnest(array['els', 'ops']) as schema, unnest(array['els_app', 'els_ops', 'public']) as role
        where has_schema_privilege(role, schema, 'usage, create')
        order by 1, 2
    """
    assert database.execute(schemas).fetchall() == [
        ("els", "els_app", False),
        ("ops", "els_app", False),
        ("ops", "els_ops", False),
    ]


def test_functions_that_run_as_the_owner_have_a_fixed_search_path(
    database: Connection[tuple[Any, ...]],
) -> None:
    definers = """
        select proname::text, proconfig from pg_proc
        where pronamespace in ('els'::regnamespace, 'ops'::regnamespace)
        and prosecdef
    """
    found = dict(database.execute(definers).fetchall())
    assert set(found) == {"oldest_transaction", "held_back", "refuse_previous_relay", "blank_operator_actions"}
    assert set(map(str, found.values())) == {"['search_path=pg_catalog, pg_temp']"}, "types of a caller come last"


def test_els_app_writes_and_deletes_rows_of_the_outbox_and_never_changes_one(
    database: Connection[tuple[Any, ...]],
) -> None:
    insert = "insert into els.outbox_pages (batch_id, topics, events) values ('b', '{}', '')"
    assert may(database, "els_app", insert)
    assert may(database, "els_app", "delete from els.outbox_pages")
    assert not may(database, "els_app", "update els.outbox_pages set events = ''")


def test_els_app_adds_operator_actions_and_never_changes_one(database: Connection[tuple[Any, ...]]) -> None:
    insert = "insert into els.operator_actions (who, action, why) values ('w', 'a', '')"
    assert may(database, "els_app", insert)
    assert not may(
        database, "els_app", "insert into els.operator_actions (at, who, action, why) values (now(), 'w', 'a', '')"
    )
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
        "truncate els.outbox_pages",
        "update els.alembic_version set version_num = ''",
        "delete from els.relay_shards",
        "grant select on els.batches to els_ops",
        "select pg_logical_emit_message(false, 'x', 'x')",
        "copy (select 1) to program 'true'",
        "truncate els.operator_actions",
        "alter table els.operator_actions disable trigger all",
        "drop function els.blank_operator_actions",
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


def test_the_owner_has_no_login_and_no_role_has_a_privilege_that_it_does_not_need(
    database: Connection[tuple[Any, ...]],
) -> None:
    """Earlier releases, which other tests run on this server, gave els_ops a login."""
    roles = database.execute(
        "select rolname::text, rolcanlogin and rolname <> 'els_ops', rolsuper or rolcreatedb or rolcreaterole"
        " or rolbypassrls from pg_roles where rolname in ('els_owner', 'els_app', 'els_ops') order by 1"
    ).fetchall()
    assert roles == [("els_app", True, False), ("els_ops", False, False), ("els_owner", False, False)]


def test_the_service_deletes_no_operator_action_that_is_younger_than_30_days(
    own_database: Connection[tuple[Any, ...]],
) -> None:
    own_database.execute(
        "insert into els.operator_actions (at, who, action, why)"
        " select now() - make_interval(days => days), 'me', 'purge', 'a test'"
        " from unnest(array[0, 29, 31]) as days"
    )
    with own_database.transaction():
        own_database.execute("set local role els_app")
        deleted = own_database.execute("delete from els.operator_actions returning now() - at > interval '30 days'")
        assert deleted.fetchall() == [(True,)]


def test_the_roles_are_set_up_anew_with_each_migration(
    own_database: Connection[tuple[Any, ...]], database_url: str
) -> None:
    """A person gets the timeouts; in this database, nobody may make temporary tables any more."""
    person = f"els_test_{secrets.token_hex(6)}"
    own_database.execute(f"create role {person} login; grant els_ops to {person} with inherit true, set false".encode())
    try:
        migration.upgrade(database_url)
        assert configured(own_database, person) == configured(own_database, "els_ops")
        may_fill = "select has_database_privilege(%s, current_database(), 'temporary')"
        assert own_database.execute(may_fill, [person]).fetchone() == (False,)
    finally:
        own_database.execute(f"drop role {person}".encode())


def configured(database: Connection[tuple[Any, ...]], role: str) -> dict[str, str]:
    (found,) = database.execute("select rolconfig from pg_roles where rolname = %s", [role]).fetchall()
    return dict(setting.split("=", 1) for setting in found[0])


def test_els_app_has_the_planner_of_a_pods_own_sessions(database: Connection[tuple[Any, ...]]) -> None:
    """Behind a pooler what a session is started with is not sent."""
    settings = configured(database, "els_app")
    planner = dict(PLANNER)
    assert planner.items() <= settings.items()


def test_the_statements_and_transactions_of_els_ops_time_out(database: Connection[tuple[Any, ...]]) -> None:
    settings = configured(database, "els_ops")
    assert settings["default_transaction_read_only"] == "on"
    assert settings["temp_file_limit"] == "1GB"
    for timeout in (
        "statement_timeout",
        "transaction_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
    ):
        assert settings[timeout] not in ("0", "")


@contextmanager
def operator(database: Connection[tuple[Any, ...]], url: str, **hurried: str) -> Iterator[Connection[tuple[Any, ...]]]:
    """A session as els_ops has it when it logs in, with one of its timeouts shortened."""
    settings = configured(database, "els_ops")
    assert hurried.keys() <= settings.keys()
    options = " ".join(f"-c {name}={value}" for name, value in [*(settings | hurried).items(), ("role", "els_ops")])
    connection = psycopg.connect(url, autocommit=True, options=options)
    yield connection
    connection.close()


def test_a_statement_of_els_ops_that_does_not_end_is_ended(
    own_database: Connection[tuple[Any, ...]], database_url: str
) -> None:
    with operator(own_database, database_url, statement_timeout="100ms") as ops, pytest.raises(QueryCanceled):
        ops.execute("select pg_sleep(300)")


async def test_views_that_are_left_open_in_a_transaction_block_no_other_and_are_closed(
    own_database: Connection[tuple[Any, ...]], database_url: str
) -> None:
    there = "select exists (select from pg_stat_activity where pid = %s)"
    reads = "; ".join(["begin", *(f"select * from ops.{view}" for view in views(own_database))]).encode()
    with operator(own_database, database_url) as ops:
        ops.execute(reads)
        held = "select distinct mode from pg_locks where pid = %s and locktype <> 'virtualxid'"
        assert own_database.execute(held, [ops.info.backend_pid]).fetchall() == [("AccessShareLock",)]
    with operator(own_database, database_url, idle_in_transaction_session_timeout="100ms") as ops:
        ops.execute(reads)
        pid = [ops.info.backend_pid]
        await until(lambda: own_database.execute(there, pid).fetchone() == (False,), 90, lambda: "it is still open")


def test_the_sessions_of_els_ops_leave_room_for_the_service(database: Connection[tuple[Any, ...]]) -> None:
    (limit,) = database.execute("select rolconnlimit from pg_roles where rolname = 'els_ops'").fetchone() or (None,)
    assert limit == 20


def test_els_app_has_by_its_role_the_settings_that_the_service_sends_with_each_session(
    database: Connection[tuple[Any, ...]],
) -> None:
    settings = configured(database, "els_app")
    for name in Timeouts.__slots__:
        with database.transaction(force_rollback=True):
            database.execute("select set_config(%s, %s, true)", [name, settings[name]])
            (by_role,) = database.execute("select current_setting(%s)", [name]).fetchall()
            database.execute("select set_config(%s, %s, true)", [name, str(getattr(Timeouts(), name))])
            assert database.execute("select current_setting(%s)", [name]).fetchall() == [by_role]


# -- people


def create_person(url: str, password: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs sql/person.sql as docs/deployment.md says, and types the password twice."""
    command = [str(installed_programs() / "psql"), url, *arguments, "--file", str(ROOT / "sql" / "person.sql")]
    return subprocess.run(
        command, input=f"{password}\n" * 2, text=True, capture_output=True, check=False, start_new_session=True
    )


def test_a_person_gets_a_login_that_reads_the_views_and_a_new_password(
    own_database: Connection[tuple[Any, ...]], database_url: str
) -> None:
    person = f"Anna-{secrets.token_hex(4)}"
    try:
        for password in ("first", "second"):
            ended = create_person(database_url, password, "--set", f"person={person}")
            assert ended.returncode == 0, ended.stderr
            with psycopg.connect(database_url, user=person, password=password) as conn:
                assert conn.execute("select level from health").fetchone()
                assert conn.execute("show statement_timeout").fetchone() == ("15s",)
                with pytest.raises(InsufficientPrivilege):
                    conn.execute("set role els_ops")
        assert create_person(database_url, "x").returncode != 0
    finally:
        own_database.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(person)))
