"""A schema is migrated under running pods: which code runs on which revision, and what a migration does not block."""

import asyncio
import hashlib
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from alembic.config import Config
from alembic.script import Script, ScriptDirectory

from deploy.local.processes import LOOPBACK
from deploy.servers.brokers import Broker
from deploy.servers.pods import ROOT, Pod, pods, until
from service.postgres import migration
from service.postgres.pool import Database
from service.postgres.schema import EXPECTED_REVISION, schema_error
from tests.support.builders.outbox import INSERT_PREVIOUS_ROW, INSERT_ROW, event, previous_row_of, row_of
from tests.support.servers.migrations import moved

RELEASED = {"0001": "d5014d1d94c79fa972698b46716babdeff6030ee223b784d9ab76a386273e21b"}
"""Released revisions, by their SHA-256. A released revision is not changed: a new one follows it."""


def revisions() -> list[Script]:
    """The oldest first."""
    return list(ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).walk_revisions())[::-1]


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


# -- which code runs on which revision


@pytest.mark.parametrize("script", revisions(), ids=lambda script: script.revision)
def test_a_revision_is_a_number_and_names_the_oldest_code_that_runs_on_it(script: Script) -> None:
    assert re.fullmatch(r"[0-9]{4}", script.revision)
    assert script.module.oldest_code <= script.revision
    assert script.down_revision is None or script.module.oldest_code >= "0001"


def test_a_revision_that_was_released_is_not_changed() -> None:
    found = {script.revision: hashlib.sha256(Path(script.path).read_bytes()).hexdigest() for script in revisions()}
    assert {name: found[name] for name in RELEASED} == RELEASED


def test_an_interrupted_migration_is_repeated(database_url: str, conn: psycopg.Connection[tuple[object, ...]]) -> None:
    """An index on a live table is committed before the rest of its revision, which then must not be done twice."""
    moved(database_url, "0003")
    with psycopg.connect(database_url) as other:
        other.execute("lock table els.outbox_blocked")  # the index is made, the rest of the revision fails
        with ThreadPoolExecutor() as pool:
            upgrade = pool.submit(migration.upgrade, database_url)
            waits = "select pid from pg_locks where not granted and relation = 'els.outbox_blocked'::regclass"
            while not (pid := conn.execute(waits).fetchone()):
                assert not upgrade.done()
            conn.execute("select pg_terminate_backend(%s)", pid)
            with pytest.raises(Exception, match="terminat"):
                upgrade.result()
    migration.upgrade(database_url)
    assert conn.execute("select version_num from els.alembic_version").fetchone() == (EXPECTED_REVISION,)


def test_a_downgrade_keeps_the_events_and_refuses_while_a_relay_runs(
    database_url: str, conn: psycopg.Connection[tuple[object, ...]]
) -> None:
    first, second, third = [event("b", topic) for topic in ("one", "two", "three")]
    conn.execute(INSERT_PREVIOUS_ROW, previous_row_of(first))
    conn.execute(INSERT_ROW, row_of(second, third))
    conn.execute("insert into els.relays values (gen_random_uuid(), now() + interval '1 hour', true)")
    with pytest.raises(Exception, match="a relay is running"):
        moved(database_url, "0003")
    conn.execute("delete from els.relays")
    moved(database_url, "0003")
    rows = conn.execute("select id, type, payload from els.outbox order by seq").fetchall()
    assert rows == [(each.event_id, each.topic, each.payload.decode()) for each in (first, second, third)]


CANCELLED = "withdrawn = expected, state = 'cancelled', cancelled_at = now(), cancel_reason = 'OTHER'"


@pytest.mark.parametrize("ended", ["withdrawn = expected, state = 'failed'", CANCELLED])
def test_a_downgrade_refuses_where_a_batch_was_ended_that_the_release_before_does_not_know(
    database_url: str, conn: psycopg.Connection[tuple[object, ...]], ended: str
) -> None:
    conn.execute(
        "insert into els.batches (batch_id, expected, essay_set, course_code, user_id, essay_instructions,"
        " correlation_id, registered_at, changed_at)"
        " values ('b', 1, sha256(''), 'ENG5', 'u', '', gen_random_uuid(), now(), now())"
    )
    conn.execute(f"update els.batches set completed_at = now(), {ended}".encode())
    with pytest.raises(Exception, match="closed or cancelled"):
        moved(database_url, "0009")
    conn.execute("delete from els.batches")
    moved(database_url, "0009")


def test_a_downgrade_refuses_where_a_failure_was_removed(
    database_url: str, conn: psycopg.Connection[tuple[object, ...]]
) -> None:
    conn.execute(
        "insert into els.validation_failures (batch_id, file_upload_id, arrival, state, original_file_name,"
        " validation_error_code, error_detail, failed_at, correlation_id, stored_at, waiting_since, closed_at, origin)"
        " values ('b', 'u', 1, 'removed', '', '', '{}', now(), gen_random_uuid(), now(), now(), now(), 'output')"
    )
    with pytest.raises(Exception, match="validation failures are removed"):
        moved(database_url, "0009")
    conn.execute("delete from els.validation_failures")
    moved(database_url, "0009")


def test_the_schema_says_which_code_runs_on_it(database_url: str, conn: psycopg.Connection[tuple[object, ...]]) -> None:
    query = "select version_num, oldest_code from els.alembic_version"
    head, before = revisions()[-1], revisions()[-2]
    assert conn.execute(query).fetchall() == [(head.revision, head.module.oldest_code)]
    moved(database_url, before.revision)
    assert conn.execute(query).fetchall() == [(before.revision, before.module.oldest_code)]


@pytest.mark.parametrize(
    ("revision", "oldest_code", "expected"),
    [
        ("0000", None, f"the schema is at revision 0000, this code needs {EXPECTED_REVISION}: run"),
        ("0000", "0000", f"the schema is at revision 0000, this code needs {EXPECTED_REVISION}: run"),
        (EXPECTED_REVISION, None, None),
        (EXPECTED_REVISION, EXPECTED_REVISION, None),
        ("9998", EXPECTED_REVISION, None),
        ("9998", "0000", None),
        ("9998", "9997", f"the schema is at revision 9998, for code of 9997 or newer; this is {EXPECTED_REVISION}"),
        ("9998", None, f"the schema is at revision 9998, for code of 9998 or newer; this is {EXPECTED_REVISION}"),
    ],
)
async def test_code_runs_on_its_own_revision_and_on_newer_ones_that_serve_it(
    app_url: str,
    conn: psycopg.Connection[tuple[object, ...]],
    revision: str,
    oldest_code: str | None,
    expected: str | None,
) -> None:
    conn.execute("update els.alembic_version set version_num = %s, oldest_code = %s", [revision, oldest_code])
    database = Database(app_url)
    error = await schema_error(database)
    await database.close()
    assert error == expected or (error and expected and error.startswith(expected))


async def test_a_pod_goes_on_while_the_schema_serves_it_and_is_not_ready_when_it_does_not(
    tmp_path: Path, app_url: str, tansu: Broker, conn: psycopg.Connection[tuple[object, ...]]
) -> None:
    conn.execute("update els.alembic_version set version_num = '9998', oldest_code = %s", [EXPECTED_REVISION])
    with pods(tmp_path, {"ELS_DATABASE_URL": app_url, "ELS_CONSUMER_GROUP": "moved", **tansu.settings}) as running:
        (pod,) = running.start()
        await pod.ready()
        conn.execute("update els.alembic_version set version_num = '9999', oldest_code = '9999'")
        await until(lambda: "for code of 9999" in readiness(pod), 90, lambda: readiness(pod))
        conn.execute("update els.alembic_version set version_num = '9998', oldest_code = %s", [EXPECTED_REVISION])
        await pod.ready()
        assert await running.stop() == [0]


def readiness(pod: Pod) -> str:
    """What /readyz says, whatever its status."""
    port = next(entry["port"] for entry in pod.logged() if entry.get("event") == "started")
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/readyz", timeout=10) as answer:
            return str(answer.read(), "utf-8")
    except urllib.error.HTTPError as rejection:
        return str(rejection.read(), "utf-8")


# -- what a migration does to concurrent transactions


async def test_a_writer_waits_less_than_a_second_for_a_migration_that_waits_for_its_lock(
    database_url: str, conn: psycopg.Connection[tuple[object, ...]]
) -> None:
    """It gives up its place in the queue repeatedly, until the table is free for a moment."""
    moved(database_url, "0001")
    waits = """
        select exists (
            select from pg_locks where relation = 'els.validation_failures'::regclass
            and mode = 'AccessExclusiveLock' and not granted
        )
    """
    write = "lock table els.validation_failures in row exclusive mode"
    with ThreadPoolExecutor() as pool, psycopg.connect(database_url) as busy:
        busy.execute(write)
        upgraded = pool.submit(migration.upgrade, database_url)
        for _ in range(2):
            await until(lambda: conn.execute(waits).fetchone() == (True,), 90, lambda: "the migration does not wait")
            with conn.transaction():
                conn.execute("set local lock_timeout = '1s'")
                conn.execute(write)  # behind the migration in the queue
        assert not upgraded.done()
        busy.commit()
        await asyncio.wrap_future(upgraded)
    database = Database(database_url)
    assert await schema_error(database) is None
    await database.close()


def test_an_invalid_index_is_created_anew_and_a_valid_one_kept(
    database_url: str, conn: psycopg.Connection[tuple[object, ...]]
) -> None:
    indexes = """
        select relname::text, pg_class.oid, indisvalid from pg_class join pg_index on indexrelid = pg_class.oid
        where relname in ('batches_late', 'batches_ended') order by 1
    """
    moved(database_url, "0002")
    conn.execute("update els.alembic_version set version_num = '0001'")
    conn.execute("update pg_index set indisvalid = false where indexrelid = 'els.batches_late'::regclass")
    (ended, late) = conn.execute(indexes).fetchall()
    assert (ended[2], late[2]) == (True, False)
    migration.upgrade(database_url)
    (ended_after, late_after) = conn.execute(indexes).fetchall()
    assert ended_after == ended
    assert late_after[2] is True
    assert late_after[1] != late[1]
