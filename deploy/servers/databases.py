"""Gives each test its own database, copied from one that was migrated once."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlencode

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from deploy.local import postgres
from deploy.local.postgres import Postgres
from deploy.servers import docker, leftovers
from deploy.servers.certificates import Certificate
from deploy.servers.locks import one_at_a_time
from deploy.servers.ports import reserved_port
from deploy.servers.secure_postgres import SecurePostgres
from service.postgres import migration


@contextmanager
def server_url(named: str | None) -> Iterator[str]:
    """Gives a superuser's URL: of the server `named`, else of a container, else of an embedded server."""
    if named:
        yield named
    elif docker.answers():
        container, url = docker.postgres_url()
        try:
            yield url
        finally:
            container.remove()
    else:
        with embedded_server(durable=False, within=in_memory()) as server:
            yield server.url()


ROOM = 4 << 30
"""Bytes that must be free in memory for databases that need not last."""


IN_MEMORY = Path("/dev/shm")
PLACES = (postgres.OUTSIDE, IN_MEMORY)
"""Where servers may lie, other than among the temporary files."""


def in_memory() -> Path | None:
    """Where there is a file system in memory with room enough: a database is copied there at a third of the cost."""
    try:
        enough = min(shutil.disk_usage(IN_MEMORY).free, psutil.virtual_memory().available) > ROOM
    except OSError:
        return None
    return IN_MEMORY if enough and os.access(IN_MEMORY, os.W_OK) else None


@contextmanager
def embedded_server(
    *,
    durable: bool,
    certificate: Certificate | None = None,
    within: Path | None = None,
    kind: Callable[..., Postgres] = Postgres,
) -> Iterator[Postgres]:
    """Runs an embedded server in a temporary folder under `within`. `durable` is for tests that kill it.

    With a certificate, the server accepts only TLS connections; `kind` is a class of deploy/servers/postgres_versions.
    """
    with one_at_a_time("account"):
        account = postgres.server_account()
    # Started by root, the server runs as another user, who cannot enter root's own folders.
    home = Path(tempfile.mkdtemp(prefix=leftovers.prefix(), dir=within or (postgres.OUTSIDE if account else None)))
    try:
        if account:
            home.chmod(0o711)
        place = postgres.server_place(home / "postgres", account)
        if certificate:
            kind = partial(SecurePostgres, certificate)
        server = kind(place, home, reserved_port(), secrets.token_hex(16), account=account, durable=durable)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(home)


@contextmanager
def template(server: str) -> Iterator[str]:
    """Gives the name of a migrated database, which `cloned` copies."""
    with created(server, "template0") as url:
        migration.upgrade(url)
        yield str(conninfo_to_dict(url)["dbname"])


@contextmanager
def cloned(server: str, name: str) -> Iterator[str]:
    """Gives the URL of a new copy of the database `name`."""
    with created(server, name) as url:
        yield url


@contextmanager
def created(server: str, source: str) -> Iterator[str]:
    """Gives the URL of a new copy of `source`; drops it at the end and ends its sessions."""
    name = f"els_test_{secrets.token_hex(6)}"
    create = sql.SQL("create database {} template {} strategy {}")
    with psycopg.connect(server, autocommit=True) as conn:
        # Copying files costs a third, if nothing has to reach a disk.
        quick = conn.execute("show fsync").fetchone() == ("off",)
        strategy = sql.SQL("file_copy" if quick else "wal_log")
        conn.execute(create.format(sql.Identifier(name), sql.Identifier(source), strategy))
    try:
        yield database_in(server, name)
    finally:
        with psycopg.connect(server, autocommit=True) as conn:
            conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def database_in(server: str, name: str) -> str:
    """Returns the server's URL with another database, in the form `postgresql://`, as settings require."""
    return _as_url(conninfo_to_dict(server) | {"dbname": name})


def url_as(url: str, role: str) -> str:
    """Returns a URL of the same database with the role `els_app`, `els_ops` or `els_owner`; no password is needed.

    The session has the rights of the role, but not the parameters that `alter role … set` gives to its logins.
    """
    parts = conninfo_to_dict(url)
    options = f"{parts.get('options') or ''} -c role={role}".strip()
    return _as_url(parts | {"options": options})


def _as_url(parts: Mapping[str, object]) -> str:
    rest = {name: str(value) for name, value in parts.items() if value is not None}
    database = quote(rest.pop("dbname"), safe="")
    return f"postgresql:///{database}?{urlencode(rest, quote_via=quote)}"
