"""The folder of the embedded PostgreSQL is private, and no other folder is changed for it."""

import os
import subprocess
from pathlib import Path

import psycopg
import pytest

from deploy.local import postgres
from deploy.local.postgres import Postgres
from deploy.local.processes import StackError, as_account

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as another user")


def test_a_place_is_private_and_found_again(tmp_path: Path) -> None:
    place = postgres.own_folder(tmp_path / "place", None)
    assert place.stat().st_mode & 0o777 == 0o700
    assert postgres.own_folder(tmp_path / "place", None) == place


def test_a_folder_that_others_can_enter_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place").chmod(0o755)
    with pytest.raises(StackError, match="not a private folder"):
        postgres.own_folder(tmp_path / "place", None)


def test_a_link_in_place_of_the_data_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "place").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StackError, match="not a private folder"):
        postgres.own_folder(tmp_path / "place", None)


@needs_root
def test_where_the_server_cannot_pass_its_data_lies_outside_and_no_folder_is_opened_for_it(
    tmp_path: Path,
) -> None:
    account = postgres.server_account()
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    place = postgres.server_place(private / "postgres", account)
    try:
        assert place.parent == postgres.OUTSIDE
        assert (private / "postgres").readlink() == place
        assert postgres.server_place(private / "postgres", account) == place
        assert private.stat().st_mode & 0o777 == 0o700
    finally:
        place.rmdir()


def test_a_server_that_was_killed_comes_back_with_what_was_committed(durable_postgres: Postgres) -> None:
    with psycopg.connect(durable_postgres.url()) as conn:
        conn.execute("create table kept (number int)")
        conn.execute("insert into kept values (1)")
    durable_postgres.kill()
    assert not durable_postgres.running()
    durable_postgres.start()
    with psycopg.connect(durable_postgres.url()) as conn:
        assert conn.execute("select number from kept").fetchall() == [(1,)]


def test_a_server_that_was_killed_and_not_yet_waited_for_is_gone(durable_postgres: Postgres) -> None:
    lock = durable_postgres.data / "postmaster.pid"
    told = lock.read_text()
    durable_postgres.kill()
    dead = subprocess.Popen(
        [durable_postgres.programs() / "postgres", "--version"],
        stdout=subprocess.DEVNULL,
        **as_account(durable_postgres.account),
    )
    try:
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
        lock.write_text(f"{dead.pid}\n" + told.split("\n", 1)[1])
        durable_postgres.start()
        assert durable_postgres.answers()
    finally:
        dead.wait()


def test_a_server_without_its_record_is_known_by_its_data(durable_postgres: Postgres) -> None:
    durable_postgres.program.record.unlink()
    assert durable_postgres.running()
    assert durable_postgres.stop()


def test_a_server_wants_a_password(durable_postgres: Postgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(durable_postgres.url(password="wrong"))
