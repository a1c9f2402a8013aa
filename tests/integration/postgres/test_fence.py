"""The database and this code agree on the cell of a batch, and it refuses a process of another cell."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from aiokafka import TopicPartition
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from deploy.servers import databases
from service.domain.cells import ALL_BATCHES, Slice, cell_of
from service.postgres import migration, schema
from service.postgres.errors import is_refusal
from service.postgres.fence import slice_error
from service.postgres.pool import Database
from service.postgres.schema import schema_error
from service.postgres.session import Pooler
from service.recovery.blanking import Tombstone, blank_rejected, import_tombstones
from service.store import crash_marks, progress, recovery, relays, retention
from service.store.operator_actions import Operator, Subject, insert_operator_actions
from tests.support.pods.command_line import NOBODY, CommandLine

CELLS = [1, 2, 8, 64, 1024]
REFUSAL = "the database holds cell 1 of 2, and this process is set to "


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def halved(conn: psycopg.Connection[Any]) -> None:
    conn.execute("update els.slice set cells = 2, cell = 1")


# What an id may be: 1 to 255 characters, without NUL and surrogates.
IDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=255)


@settings(max_examples=20)
@given(ids=st.lists(IDS, min_size=1, max_size=100, unique=True))
@example(ids=["b", "\U0001f600" * 255, "é", "e\u0301", "'", "\\x00", " ", "\u2028", "\ufeff"])
def test_the_database_and_the_code_compute_the_same_cell(server_url: str, template: str, ids: list[str]) -> None:
    # The functions of the template: no row is written.
    with psycopg.connect(databases.database_in(server_url, template)) as conn:
        for cells in CELLS:
            query = "select els.cell_of(id, %s) from unnest(%s::text[]) with ordinality as given (id, n) order by n"
            found = conn.execute(query, [cells, ids]).fetchall()
            assert found == [(cell_of(each, cells),) for each in ids]


def test_the_cell_of_a_batch_never_changes() -> None:
    """The first 8 bytes of the MD5 of this id are 9e107d9d372bb682."""
    quick = "The quick brown fox jumps over the lazy dog"
    assert [cell_of(quick, cells) for cells in (1, 2, 4, 8, 16, 32, 64, 128, 256)] == [0, 0, 2, 2, 2, 2, 2, 2, 0x82]


def test_a_cell_that_is_split_shares_its_batches_with_one_new_cell() -> None:
    ids = [str(uuid4()) for _ in range(1000)]
    for batch_id in ids:
        assert cell_of(batch_id, 8) in (cell_of(batch_id, 4), cell_of(batch_id, 4) + 4)
    assert {cell_of(batch_id, 8) for batch_id in ids} == set(range(8))


def test_a_database_is_migrated_to_a_slice_until_it_is_used(server_url: str) -> None:
    query = "select cells, cell from els.slice"
    with databases.created(server_url, "template0") as url:
        assert migration.upgrade(url, of=Slice(4, 2)) == []
        with psycopg.connect(url, autocommit=True) as conn:
            assert conn.execute(query).fetchall() == [(4, 2)]
            assert conn.execute("select oldest_code from els.alembic_version").fetchall() == [("0012",)]
            assert migration.upgrade(url, of=Slice(4, 3)) == []
            assert conn.execute(query).fetchall() == [(4, 3)]
            conn.execute("insert into els.progress (topic, partition, epoch, next_offset) values ('t', 0, 0, 0)")
            (note,) = migration.upgrade(url)
            assert note == "the database keeps its slice of the batches, which is not all batches (ELS_CELLS, ELS_CELL)"
            assert conn.execute(query).fetchall() == [(4, 3)]
            assert conn.execute("select oldest_code from els.alembic_version").fetchall() == [("0012",)]


def test_the_service_cannot_change_the_slice(app_url: str) -> None:
    with psycopg.connect(app_url) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("update els.slice set cells = 2")


@pytest.mark.usefixtures("halved")
@pytest.mark.parametrize("pooler", ["none", "session", "transaction"])
@pytest.mark.parametrize("of", [ALL_BATCHES, Slice(2, 0), Slice(4, 1), Slice(2, 1)], ids=str)
async def test_nothing_of_another_cell_changes_the_database(app_url: str, pooler: Pooler, of: Slice) -> None:
    database = Database(app_url, pooler=pooler, of=of)

    async def error_of(step: Any) -> str | None:
        try:
            async with database.transaction() as conn:
                await step(conn)
        except psycopg.Error as error:
            return str(error).partition("\n")[0] if is_refusal(error) else f"another error: {error}"
        return None

    expected = None if of == Slice(2, 1) else f"{REFUSAL}{of} (ELS_CELLS, ELS_CELL)"
    who = Operator("somebody", "why")
    assert await slice_error(database) == expected
    assert await progress.behind_error(database) == expected
    assert await error_of(progress.check_server) == expected
    assert await error_of(retention.try_purge) == expected
    assert await error_of(lambda conn: relays.renew_relay(conn, uuid4(), 5)) == expected
    assert await error_of(lambda conn: insert_operator_actions(conn, who, "act", [Subject()])) == expected
    assert await error_of(lambda conn: crash_marks.claim_marks(conn, "pod", [TopicPartition("t", 0)])) == expected
    assert await error_of(lambda conn: recovery.begin_recovery(conn, uuid4(), "why")) == expected
    await database.close()


@pytest.mark.usefixtures("halved")
async def test_an_erasure_blanks_nothing_in_a_database_of_another_cell(
    app_url: str, conn: psycopg.Connection[Any]
) -> None:
    """A standby that was sealed has these rows, too, and would keep them: it must not be reported as done."""
    conn.execute(
        """
        insert into els.quarantine
            (topic, fingerprint, "partition", "offset", reason, error, first_seen_at, last_seen_at, value)
        values ('in', sha256('f'), 0, 0, 'invalid', '', now(), now(), '"Ada Lovelace.docx"')
        """
    )
    of_another = Database(app_url)
    with pytest.raises(psycopg.Error, match=REFUSAL):
        await blank_rejected(of_another, "Ada")
    with pytest.raises(psycopg.Error, match=REFUSAL):
        async with of_another.transaction() as writing:
            await import_tombstones(writing, [Tombstone("00" * 32, "user", datetime.now(UTC), None, "ab")])
    await of_another.close()
    assert conn.execute("select value is null, erased_at from els.quarantine").fetchall() == [(False, None)]
    own = Database(app_url, of=Slice(2, 1))
    assert await blank_rejected(own, "Ada") == (1, 0)
    await own.close()


@pytest.mark.usefixtures("halved")
@pytest.mark.parametrize("pooler", ["none", "session", "transaction"])
async def test_what_another_session_has_left_is_not_taken_for_the_own_slice(app_url: str, pooler: Pooler) -> None:
    """A pooler may hand out a session of the server with the settings of who had it before."""
    database = Database(make_conninfo(app_url, options="-c els.slice=2/1"), pooler=pooler)
    assert await slice_error(database) == f"{REFUSAL}all batches (ELS_CELLS, ELS_CELL)"
    await database.close()


@pytest.mark.usefixtures("halved")
async def test_a_process_of_another_cell_does_not_stop_the_database(app_url: str) -> None:
    """What it has read of the topics and the tables may be of the time before a split."""
    database = Database(app_url)
    with pytest.raises(psycopg.Error, match=REFUSAL):
        async with database.transaction() as conn:
            await progress.report_behind(conn, "it is behind", 1)
    await database.close()


@pytest.mark.usefixtures("halved")
async def test_code_that_knows_no_cells_is_kept_out_of_a_cell(
    database_url: str, app_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(app_url)
    monkeypatch.setattr(schema, "EXPECTED_REVISION", "0011")
    assert await schema_error(database) is None
    monkeypatch.undo()
    migration.upgrade(database_url, of=Slice(2, 1))
    assert await schema_error(database) is None
    monkeypatch.setattr(schema, "EXPECTED_REVISION", "0011")
    assert await schema_error(database) == "the schema is at revision 0012, for code of 0012 or newer; this is 0011"
    await database.close()


COMMANDS = [
    "run",
    "relay --once",
    "purge",
    "recover",
    "audit",
    "top --once",
    "find b",
    "batches show b",
    "quarantine list",
    "pending list",
    "health",
    "batches republish b --why test",
]


@pytest.mark.usefixtures("halved")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_another_cell_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], app_url: str, command: str
) -> None:
    settings_ = {"ELS_DATABASE_URL": app_url, "ELS_KAFKA_BOOTSTRAP_SERVERS": NOBODY, "ELS_HTTP_PORT": "0"}
    service = CommandLine(tmp_path, monkeypatch, capfd, settings_)
    assert service(*command.split()).failed_with(1, f"{REFUSAL}all batches")
    assert service(*command.split(), ELS_CELLS="2", ELS_CELL="0").failed_with(1, f"{REFUSAL}cell 0 of 2")


@pytest.mark.usefixtures("halved")
def test_check_reports_the_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], app_url: str
) -> None:
    settings_ = {"ELS_DATABASE_URL": app_url, "ELS_KAFKA_BOOTSTRAP_SERVERS": NOBODY}
    service = CommandLine(tmp_path, monkeypatch, capfd, settings_)
    rows = {row["check"]: row for row in service("check", "--json").json}
    assert REFUSAL in str(rows["cell"])
    rows = {row["check"]: row for row in service("check", "--json", ELS_CELLS="2", ELS_CELL="1").json}
    assert "cell 1 of 2" in str(rows["database"])
    assert "cell" not in rows


def test_migrating_a_database_of_another_cell_says_so_and_changes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    database_url: str,
    conn: psycopg.Connection[Any],
    halved: None,
) -> None:
    conn.execute("insert into els.progress (topic, partition, epoch, next_offset) values ('t', 0, 0, 0)")
    settings_ = {"ELS_DATABASE_URL": database_url, "ELS_KAFKA_BOOTSTRAP_SERVERS": NOBODY}
    service = CommandLine(tmp_path, monkeypatch, capfd, settings_)
    ended = service("migrate", ELS_CELLS="2", ELS_CELL="0")
    note = "the database keeps its slice of the batches, which is not cell 0 of 2 (ELS_CELLS, ELS_CELL)"
    assert (ended.status, ended.out.splitlines()[:-1]) == (0, [note])
    assert conn.execute("select cells, cell from els.slice").fetchall() == [(2, 1)]
