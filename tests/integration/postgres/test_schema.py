"""The migrated schema is the declared one, and migrating is safe to do at any time, by several at once."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import NullPool, create_engine

from deploy.servers import databases
from service.postgres import migration
from service.postgres.pool import Database
from service.postgres.schema import EXPECTED_REVISION, read_revision
from service.postgres.tables import METADATA

ROOT = Path(__file__).parents[3]

# What a schema consists of, as the catalog describes it. Only one of the two has Alembic's own table.
CATALOG = {
    "columns": """
        select c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
            a.attidentity::text, a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid)
        from pg_class as c
        join pg_attribute as a on a.attrelid = c.oid
        left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where c.relnamespace = 'els'::regnamespace
        and c.relkind = 'r'
        and a.attnum > 0
        and not a.attisdropped
        and c.relname <> 'alembic_version'
        order by c.relname, a.attnum
    """,
    "constraints": """
        select conrelid::regclass::text, conname, contype::text, pg_get_constraintdef(oid), convalidated
        from pg_constraint
        where connamespace = 'els'::regnamespace
        and conrelid <> 'els.alembic_version'::regclass
        order by 1, 2
    """,
    "indexes": """
        select indexrelid::regclass::text, pg_get_indexdef(indexrelid), indisvalid
        from pg_index
        join pg_class on pg_class.oid = indrelid
        where relnamespace = 'els'::regnamespace
        and relname <> 'alembic_version'
        order by 1
    """,
    "storage": """
        select c.relname, c.relkind::text, c.reloptions, t.reloptions
        from pg_class as c
        left join pg_class as t on t.oid = c.reltoastrelid
        where c.relnamespace = 'els'::regnamespace
        and c.relkind in ('r', 'i')
        and c.relname not like 'alembic_version%'
        order by 1
    """,
    "sequences": """
        select sequencename, data_type::text, start_value, min_value, max_value, increment_by, cycle,
            cache_size
        from pg_sequences
        where schemaname = 'els'
        order by 1
    """,
}


def catalog(url: str) -> dict[str, list[tuple[Any, ...]]]:
    with psycopg.connect(url) as connection:
        return {what: connection.execute(query.encode()).fetchall() for what, query in CATALOG.items()}


def query(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(sql.encode()).fetchall()


def execute(url: str, command: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(command.encode())


@pytest.fixture
def empty_url(server_url: str) -> Iterator[str]:
    """An empty database."""
    with databases.created(server_url, "template0") as url:
        yield url


@pytest.mark.parametrize("what", CATALOG)
def test_the_migrated_schema_is_the_declared_one(database_url: str, empty_url: str, what: str) -> None:
    execute(empty_url, "create schema els")
    execute(empty_url, "create table els.alembic_version ()")
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(empty_url), poolclass=NullPool)
    METADATA.create_all(engine)
    migrated, declared = catalog(database_url)[what], catalog(empty_url)[what]
    assert migrated
    assert migrated == declared


def test_the_code_expects_the_newest_revision(database_url: str) -> None:
    assert query(database_url, "select version_num from els.alembic_version") == [(EXPECTED_REVISION,)]


async def test_a_database_without_the_schema_has_no_revision(database_url: str, empty_url: str) -> None:
    for url, expected in ((database_url, EXPECTED_REVISION), (empty_url, None)):
        database = Database(url)
        assert await read_revision(database) == expected
        await database.close()


def test_migrating_again_changes_nothing(database_url: str) -> None:
    before = catalog(database_url)
    assert migration.upgrade(database_url) == []
    assert catalog(database_url) == before


def test_a_migration_creates_all_views_anew_and_drops_those_that_have_no_file(database_url: str) -> None:
    views = "select viewname::text from pg_views where schemaname = 'ops' order by 1"
    execute(database_url, "drop view ops.batches")
    execute(database_url, "set role els_owner; create view ops.left_over as select 1 as one")
    migration.upgrade(database_url)
    assert query(database_url, views) == [(file.stem,) for file in sorted(ROOT.glob("sql/views/*.sql"))]


def test_several_migrations_at_once_all_succeed(empty_url: str) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda _: alembic(empty_url, ROOT, "upgrade", "head"), range(3)))
    assert query(empty_url, "select version_num from els.alembic_version") == [(EXPECTED_REVISION,)]


def test_a_downgrade_and_an_upgrade_lead_back_to_the_same_schema(database_url: str, tmp_path: Path) -> None:
    before = catalog(database_url)
    alembic(database_url, tmp_path, "downgrade", "base")
    assert query(database_url, "select count(*) from pg_views where schemaname = 'ops'") == [(0,)]
    alembic(database_url, tmp_path, "upgrade", "head")
    assert catalog(database_url) == before
    assert query(database_url, "select count(*) > 10 from pg_views where schemaname = 'ops'") == [(True,)]


def test_autogenerate_finds_nothing_to_do(database_url: str, tmp_path: Path) -> None:
    alembic(database_url, tmp_path, "check")


def test_the_time_limits_that_the_views_go_by_are_those_that_the_migration_was_given(database_url: str) -> None:
    policy = "select name, seconds from els.policy order by name"
    assert query(database_url, policy) == [("batch_timeout", 86400), ("pending_ttl", 86400)]
    migration.upgrade(database_url, policy={"pending_ttl": 60, "batch_timeout": 61})
    assert query(database_url, policy) == [("batch_timeout", 61), ("pending_ttl", 60)]
    migration.upgrade(database_url)
    assert query(database_url, policy) == [("batch_timeout", 61), ("pending_ttl", 60)]


def test_a_login_that_may_not_change_roles_gets_a_note_and_an_error_that_names_what_else_it_lacks(
    database_url: str,
) -> None:
    stranger = f"els_test_{secrets.token_hex(6)}"
    execute(database_url, f"create role {stranger}")
    try:
        with migration.connect(database_url) as connection:
            connection.exec_driver_sql(f"set session authorization {stranger}")
            connection.commit()
            (note,) = migration.apply_roles(connection)
            assert note.startswith("the roles are unchanged, since this login may not change them: ")
            with (
                pytest.raises(migration.MigrationError, match="may not work as els_owner"),
                migration.as_owner(connection),
            ):
                pass
    finally:
        execute(database_url, f"drop role {stranger}")


def alembic(url: str, directory: Path, *arguments: str) -> None:
    """Alembic's own command line, from a directory that is not ours."""
    environment = {**os.environ, "ELS_DATABASE_URL": url, "ELS_KAFKA_BOOTSTRAP_SERVERS": "unused:9092"}
    command = [sys.executable, "-m", "alembic", "-c", str(ROOT / "alembic.ini"), *arguments]
    ended = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
