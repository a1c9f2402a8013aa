"""Runs a physical standby of a PostgreSQL server, made from a base backup of it, and promotes it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from deploy.local.postgres import Postgres
from deploy.local.processes import StackError, as_account, plain_environment
from deploy.servers import databases

NAME = "standby"
"""Its name in `pg_stat_replication` and in `synchronous_standby_names`."""


def base_backup(server: Postgres, target: Path, *options: str) -> None:
    """Copies the data of the running server to `target`, as `pg_basebackup` does. Raises StackError if it fails."""
    target_ = make_conninfo(server.url(), application_name=NAME)
    done = subprocess.run(
        [str(server.programs() / "pg_basebackup"), "-D", str(target), "-d", target_, "-c", "fast", *options],
        env=plain_environment(),
        cwd=server.place,
        capture_output=True,
        text=True,
        check=False,
        **as_account(server.account),
    )
    if done.returncode:
        shutil.rmtree(target, ignore_errors=True)
        raise StackError(f"pg_basebackup failed: {done.stderr}")


class Standby(Postgres):
    """A server that replays what `primary` writes, until it is promoted; its passwords are those of the primary."""

    def __init__(self, primary: Postgres, place: Path, home: Path, port: int, _: str, **options: Any) -> None:
        password = conninfo_to_dict(primary.url())["password"]
        super().__init__(place, home, port, str(password), **options)
        self.primary = primary

    def _make_data(self, _: Path) -> None:
        draft = self.place / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        base_backup(self.primary, draft, "--write-recovery-conf")
        draft.rename(self.data)

    def promote(self) -> None:
        """Makes it a primary; waits at most a minute."""
        self._run("select pg_promote()")

    def feed_back(self, slot: str = "") -> None:
        """Reports to the primary what it still reads, through this slot if one is named."""
        self._run(f"alter system set primary_slot_name = '{slot}'")
        self._run("alter system set hot_standby_feedback = on")
        self._run("alter system set wal_receiver_status_interval = '1s'")
        self._run("select pg_reload_conf()")

    def disconnect(self) -> None:
        """Ends the replication."""
        self._run("alter system set primary_conninfo = ''")
        self._run("select pg_reload_conf()")

    def _run(self, statement: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as conn:
            conn.execute(statement.encode())


@contextmanager
def standby_of(primary: Postgres) -> Iterator[Standby]:
    """Runs a standby of a running server."""
    with databases.embedded_server(durable=True, kind=partial(Standby, primary)) as server:
        assert isinstance(server, Standby)
        yield server


def become_standby(server: Postgres) -> None:
    """Makes a server start as a standby the next time."""
    marker = server.data / "standby.signal"
    marker.touch()
    if account := server.account:
        os.chown(marker, account.uid, account.gid)
