"""Replaces a PostgreSQL server by an earlier copy of its data, as a restore or a failover with loss of data does."""

import shutil
import subprocess
from pathlib import Path

import psycopg

from deploy.local.postgres import Postgres
from deploy.servers.standby import become_standby


def copy_data(server: Postgres, copy: Path) -> None:
    """Stops the server for as long as its data is copied."""
    server.stop()
    _move(server.data, copy, keeping=True)
    server.start()


def replace(server: Postgres, copy: Path, *, is_promoted: bool) -> None:
    """Ends the server at once, and starts one with the data of the copy, promoted as a standby if wanted."""
    server.kill()
    shutil.rmtree(server.data)
    _move(copy, server.data)
    if is_promoted:
        become_standby(server)
    server.start()
    if is_promoted:
        with psycopg.connect(server.url(), autocommit=True) as conn:
            conn.execute("select pg_promote()")


def _move(source: Path, target: Path, *, keeping: bool = False) -> None:
    """Moves or copies a folder with the owners of its files."""
    subprocess.run([*(["cp", "-a"] if keeping else ["mv"]), source, target], check=True)
