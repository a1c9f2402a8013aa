"""A split and a move of a cell's database, killed at every step; what each half has afterwards; what is failed."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import psycopg
import pytest

from deploy.local.postgres import Postgres
from deploy.local.processes import plain_environment
from deploy.servers import databases
from deploy.servers.standby import Standby, standby_of
from service.cells.beginning import wait_until
from service.cells.servers import Server
from service.cells.transfer import STEPS
from service.domain.cells import cell_of
from service.postgres import migration
from service.postgres.statements import STATEMENTS
from service.store.relays import SHARDS
from tests.support.builders.rows import PLANT
from tests.support.pods.command_line import NOBODY, ROOT, CommandLine, Ended
from tests.support.pods.killed_transfer import WHEN

BATCHES = [f"batch-{number}" for number in range(64)]
OF_A_BATCH = ("outbox_pages", "outbox_blocked", "pending_content", "validation_failures", "confirmations")

# Half of the rejected inputs show their batch, and half of them only their partition.
ROWS = """
select pg_temp.pending(id, 't1') from unnest(%(ids)s::text[]) as id;
select pg_temp.failure(id, 'u1', 'pending') from unnest(%(ids)s::text[]) as id;
insert into els.outbox_pages (batch_id, topics, events)
select id, '{"topic": 1}', '{}' from unnest(%(ids)s::text[]) as id;
insert into els.outbox_blocked (batch_id, seq, topic, error, since, retry_at)
select id, 1, 'topic', 'too large', now(), now() from unnest(%(ids)s::text[]) as id;
insert into els.confirmations (batch_id, class_id, state, associations, correlation_id, stored_at)
select id, '8a', 'pending', 1, gen_random_uuid(), now() from unnest(%(ids)s::text[]) as id;
insert into els.quarantine
    (topic, fingerprint, "partition", "offset", reason, error, first_seen_at, last_seen_at, batch_id)
select 'in', sha256(id::bytea), number, number, 'invalid', '', now(), now(), case number %% 2 when 0 then id end
from unnest(%(ids)s::text[]) with ordinality as given (id, number);
insert into els.progress (topic, "partition", next_offset) values ('in', 0, 7);
update els.relay_shards set relay = gen_random_uuid();
"""


@dataclass
class Cell:
    """A server with a cell's database, and its standby."""

    primary: Postgres
    standby: Standby
    service: CommandLine

    def command(self, *arguments: str, **settings: str) -> Ended:
        """Runs a command on the cell."""
        return self.service(*arguments, **settings)

    def killed(self, *kills: str, kind: str = "split") -> None:
        """Runs a command once for each of these kills, of which it dies."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.pods.killed_transfer", "cells", kind],
            env={**plain_environment(), **self.settings, "PYTHONPATH": str(ROOT), "KILL_AT": ",".join(kills)},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done

    @property
    def settings(self) -> Mapping[str, str]:
        return settings_of(self.primary, self.standby)


def settings_of(primary: Postgres, standby: Postgres) -> Mapping[str, str]:
    return {
        "ELS_DATABASE_URL": primary.url(),
        "ELS_STANDBY_DATABASE_URL": standby.url(),
        "ELS_KAFKA_BOOTSTRAP_SERVERS": NOBODY,
        "ELS_WHO": "Ada",
    }


def query(server: Postgres, text: str, *parameters: object) -> list[Any]:
    with psycopg.connect(server.url(), autocommit=True) as conn:
        return conn.execute(text.encode(), parameters or None).fetchall()


def value(server: Postgres, text: str) -> Any:
    return query(server, text)[0][0]


@pytest.fixture
def planted(durable_postgres: Postgres) -> Postgres:
    """A server with rows of many batches."""
    migration.upgrade(durable_postgres.url())
    with psycopg.connect(durable_postgres.url()) as conn:
        conn.execute(PLANT)
        with psycopg.ClientCursor(conn) as cursor:
            cursor.execute(ROWS, {"ids": BATCHES})
    return durable_postgres


@pytest.fixture
def cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], planted: Postgres
) -> Iterator[Cell]:
    with standby_of(planted) as standby:
        yield Cell(planted, standby, CommandLine(tmp_path, monkeypatch, capfd, settings_of(planted, standby)))


def check_halves(cell: Cell) -> None:
    """Asserts that each row is in the database of its half, and in no other."""
    for number, server in enumerate((cell.primary, cell.standby)):
        check_half(server, number)
    rejected = [value(server, "select count(*) from els.quarantine") for server in (cell.primary, cell.standby)]
    assert sum(rejected) == len(BATCHES)
    assert all(rejected)


def check_half(server: Postgres, number: int) -> None:
    """Asserts that a database has the rows of its half, and no other."""
    own = sorted(each for each in BATCHES if cell_of(each, 2) == number)
    for table in OF_A_BATCH:
        found = query(server, f'select batch_id from els.{table} order by batch_id collate "C"')
        assert found == [(each,) for each in own]
    rejected = query(server, 'select batch_id, "partition" from els.quarantine')
    assert all(number == (partition % 2 if batch is None else cell_of(batch, 2)) for batch, partition in rejected)
    assert query(server, "select cells, cell, fenced, trims from els.slice") == [(2, number, False, True)]
    assert query(server, "select next_offset from els.progress") == [(7,)]
    assert value(server, "select state from els.transfer") == "done"
    assert value(server, "select oldest_code from els.alembic_version") == "0012"


def test_a_split_that_is_killed_at_every_step_leaves_each_row_in_one_half(cell: Cell) -> None:
    cell.killed(*(f"{step}:{when}" for (step, _), when in product(STEPS, WHEN)))
    done = cell.command("cells", "split", "--json")
    assert done.status == 0, done
    check_halves(cell)
    assert [step["name"] for step in done.json["steps"]] == [name for name, _ in STEPS]
    lower, upper = done.json["cells"]
    assert (lower["cells"], lower["cell"], upper["cells"], upper["cell"]) == (2, 0, 2, 1)
    assert 0 < lower["fenced_seconds"] <= upper["fenced_seconds"]
    actions = "select who, details ->> 'state' from els.operator_actions order by id"
    assert query(cell.primary, actions) == query(cell.standby, actions) == [("Ada", "fenced"), ("Ada", "done")]


def test_a_backup_of_before_is_cut_by_hand_as_the_page_says(planted: Postgres) -> None:
    earlier = "(true, gen_random_uuid(), 'split', 'done', 1, 0, '', now(), now())"
    value(planted, f"insert into els.transfer values {earlier} returning run")
    page = (ROOT / "docs" / "scaling.md").read_text().split("### By hand")[1]
    script = page.split("```sh\n")[1].split("```")[0]
    environment = {
        **plain_environment(),
        "ELS_MIGRATION_DATABASE_URL": planted.url(),
        "PATH": f"{planted.programs()}:{os.environ['PATH']}",
    }
    subprocess.run(["bash", "-ec", script], env=environment, cwd=ROOT, check=True, timeout=60, capture_output=True)
    check_half(planted, 1)


def all_rows(server: Postgres) -> Mapping[str, Any]:
    tables = [name for (name,) in query(server, "select tablename from pg_tables where schemaname = 'els' order by 1")]
    return {name: query(server, f"select * from els.{name} as t order by t::text") for name in tables}


def check_fails(cell: Cell, *arguments: str, why: str, **settings: str) -> None:
    """Asserts that a command fails with one line, and changes nothing."""
    before = all_rows(cell.primary)
    failed = cell.command("cells", *arguments, **settings)
    assert failed.status == 1, failed
    assert failed.out == ""
    (line,) = failed.err.splitlines()
    assert why in line
    assert all_rows(cell.primary) == before


def slice_errors(server: Postgres, *slices: str) -> list[str | None]:
    """The errors that processes of these slices get."""
    with psycopg.connect(server.url(), autocommit=True) as conn:
        told = []
        for of in slices:
            conn.execute("select set_config('els.slice', %s, false)", [of])
            told += [error for (error,) in conn.execute("select els.slice_error()")] or [None]
        return told


def test_a_dry_run_and_a_failed_check_change_nothing_and_a_cancelled_split_can_be_begun_again(cell: Cell) -> None:
    before = all_rows(cell.primary)
    rehearsed = cell.command("cells", "split", "--dry-run", "--json")
    assert rehearsed.status == 0, rehearsed
    assert rehearsed.json["would"] == [name for name, _ in STEPS[1:]]
    assert {half: rows["outbox_pages"] for half, rows in rehearsed.json["would_delete"].items()} == {
        f"cell {number} of 2": sum(cell_of(each, 2) != number for each in BATCHES) for number in (0, 1)
    }
    as_owner = databases.url_as(cell.standby.url(), "els_owner")
    rehearsed = cell.command("cells", "split", "--dry-run", ELS_STANDBY_DATABASE_URL=as_owner)
    assert "you will have to promote it, while the pods wait (this login may not" in rehearsed.out
    assert all_rows(cell.primary) == before

    check_fails(cell, "split", "--cancel", why="nothing to cancel")
    check_fails(cell, "split", why="(ELS_CELLS, ELS_CELL)", ELS_CELLS="2", ELS_CELL="1")
    check_fails(cell, "split", why="lead to the same database", ELS_STANDBY_DATABASE_URL=cell.primary.url())
    check_fails(cell, "split", why="leads to a standby", ELS_DATABASE_URL=cell.standby.url())
    with psycopg.connect(cell.primary.url()) as open_for_long:
        open_for_long.execute("select pg_sleep(1.1)")
        check_fails(cell, "split", "--lag", "1", why="a transaction has been open since")
    query(cell.standby, "select pg_wal_replay_pause()")
    check_fails(cell, "split", "--lag", "1", why="its replay is paused")
    query(cell.standby, "select pg_wal_replay_resume()")

    cell.killed("drain:after")
    assert all("fenced until a split" in str(told) for told in slice_errors(cell.primary, "1/0", "2/0", "2/1"))
    check_fails(cell, "move", why="a split of all batches has begun")
    assert cell.command("cells", "split", "--cancel").status == 0
    assert slice_errors(cell.primary, "1/0") == [None]
    done = cell.command("cells", "split")
    assert done.status == 0, done
    check_halves(cell)


def test_what_takes_too_long_takes_the_fence_away_and_who_passed_the_check_is_waited_for(cell: Cell) -> None:
    with psycopg.connect(cell.primary.url()) as passed:
        passed.execute("select els.check_server()")
        late = cell.command("cells", "split", "--wait", "1")
        assert late.status == 1
        assert "transactions of before have not ended: session" in late.err
        assert "fence is taken away" in late.err
        assert slice_errors(cell.primary, "1/0") == [None]
        passed.execute("insert into els.progress (topic, partition, next_offset) values ('passed', 0, 1)")
    cell.killed("fence:after")
    query(cell.standby, "select pg_wal_replay_pause()")
    late = cell.command("cells", "split", "--wait", "1")
    assert late.status == 1
    assert "the standby has not replayed the fence" in late.err
    assert slice_errors(cell.primary, "1/0") == [None]
    query(cell.standby, "select pg_wal_replay_resume()")
    cell.killed("promote:after")
    assert cell.command("cells", "split", "--cancel").status == 0
    assert slice_errors(cell.primary, "1/0") == [None]
    assert "fenced until a split" in str(slice_errors(cell.standby, "1/0")), "it may not be used"
    check_fails(cell, "split", why="leads to no standby")


def test_a_relay_that_passed_the_check_keeps_no_shard_that_it_took_behind_the_fence(cell: Cell) -> None:
    """Its lease would last for seconds: it would publish on beside the other half, which has to wait for its shards."""
    with psycopg.connect(cell.primary.url()) as renewing:
        relay = {"relay": uuid4(), "lease": 60}
        renewing.execute(STATEMENTS["renew_relay"].encode(), relay)
        cell.killed("fence:after")
        taken = renewing.execute(STATEMENTS["share_shards"].encode(), relay).fetchall()
        assert len(taken[0][1]) == SHARDS
    done = cell.command("cells", "split")
    assert done.status == 0, done
    for server in (cell.primary, cell.standby):
        assert query(server, "select relay from els.relays") == []
        assert value(server, "select count(relay) from els.relay_shards") == 0


@pytest.mark.only_in_test_all("servers that are promoted too early, frozen, or killed at every step of a split")
def test_a_standby_that_is_promoted_too_early_is_not_used(cell: Cell) -> None:
    cell.killed("fence:after")
    cell.standby.promote()
    check_fails(cell, "split", why="promoted before it had everything")
    assert cell.command("cells", "split", "--cancel").status == 0
    assert slice_errors(cell.primary, "1/0") == [None]


def test_a_moved_cell_is_served_by_the_standby_and_its_old_database_is_never_written_again(cell: Cell) -> None:
    before = {name: query(cell.primary, f"select * from els.{name} order by 1") for name in OF_A_BATCH}
    manual = cell.command("cells", "move", "--no-promote", "--wait", "1")
    assert manual.status == 1
    assert "promote the standby" in manual.err
    assert "is not promoted after 1 s" in manual.err
    cell.killed(*(f"{step}:after" for step, _ in STEPS), kind="move")
    done = cell.command("cells", "move", "--json")
    assert done.status == 0, done
    (there,) = done.json["cells"]
    assert (there["cells"], there["cell"]) == (1, 0)
    assert {name: query(cell.standby, f"select * from els.{name} order by 1") for name in OF_A_BATCH} == before
    assert query(cell.standby, "select cells, cell, fenced, trims from els.slice") == [(1, 0, False, False)]
    assert slice_errors(cell.standby, "1/0", "2/0") != [None, None]
    assert all("was moved to another database" in str(told) for told in slice_errors(cell.primary, "1/0", "2/0"))
    may_delete = "select has_table_privilege('els_app', 'els.outbox_pages', 'delete')"
    assert not value(cell.primary, may_delete)
    migration.upgrade(cell.primary.url())  # it grants all rights anew
    assert not value(cell.primary, may_delete)
    assert value(cell.standby, may_delete)
    check_fails(cell, "move", "--cancel", why="stays closed")
    moved = Cell(cell.standby, cell.standby, cell.service)
    exchanged = {"ELS_DATABASE_URL": cell.standby.url(), "ELS_STANDBY_DATABASE_URL": cell.primary.url()}
    check_fails(moved, "move", why="leads to no standby", **exchanged)


@pytest.mark.only_in_test_all("servers that are promoted too early, frozen, or killed at every step of a split")
def test_a_transfer_that_has_ended_is_no_reason_to_use_another_copy(cell: Cell) -> None:
    """One that was promoted by mistake has the note that it was done, too."""
    assert cell.command("cells", "move").status == 0
    moved = Cell(cell.standby, cell.standby, cell.service)
    with standby_of(cell.standby) as copy:
        copy.promote()
        check_fails(moved, "move", why="leads to no standby", **settings_of(cell.standby, copy))
    with standby_of(cell.standby) as copy:
        assert cell.command("cells", "split", **settings_of(cell.standby, copy)).status == 0
        with standby_of(cell.standby) as stray:
            stray.promote()
            check_fails(moved, "split", why="the database holds cell 0 of 2", **settings_of(cell.standby, stray))


@pytest.mark.only_in_test_all("servers that are promoted too early, frozen, or killed at every step of a split")
async def test_a_server_that_does_not_answer_is_not_waited_for_any_longer(planted: Postgres) -> None:
    """Its process is frozen, so that nothing closes the connection."""
    server = Server(planted.url(), "ELS_STANDBY_DATABASE_URL")
    async with server.transaction() as conn:
        session = psutil.Process(conn.pgconn.backend_pid)

    async def is_done() -> bool:
        async with server.transaction():
            return False

    session.suspend()
    try:
        assert not await wait_until(is_done, 1)
    finally:
        session.resume()
    async with server.transaction() as conn:
        assert conn.pgconn.backend_pid != session.pid


@pytest.mark.only_in_test_all("servers that are promoted too early, frozen, or killed at every step of a split")
def test_servers_that_are_killed_at_every_step_continue_with_the_split(cell: Cell) -> None:
    for step, _ in STEPS:
        for server in (cell.primary, cell.standby):
            cell.killed(f"{step}:before")
            server.kill()
            assert cell.command("cells", "split", "--wait", "1", "--lag", "1").status == 1
            server.start()
    done = cell.command("cells", "split")
    assert done.status == 0, done
    check_halves(cell)
