"""A database for each test, copied from one that was migrated once: commits are real, tests apart."""

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from deploy.local import postgres
from deploy.local.postgres import Postgres
from deploy.local.processes import free_port
from deploy.servers import docker
from deploy.servers.certificates import Certificate
from deploy.servers.secure_postgres import SecurePostgres
from service.postgres import migration


@contextmanager
def server_url(named: str | None) -> Iterator[str]:
    """A superuser's URL: of the server that the environment names, of a container, or of an embedded one."""
    if named:
        yield named
    elif docker.answers():
        container, url = docker.postgres_url()
        try:
            yield url
        finally:
            container.remove()
    else:
        with embedded_server(durable=False) as server:
            yield server.url()


@contextmanager
def embedded_server(
    *,
    durable: bool,
    certificate: Certificate | None = None,
    within: Path | None = None,
    kind: Callable[..., Postgres] = Postgres,
) -> Iterator[Postgres]:
    """A server in a folder that is thrown away. `durable` where the test kills it; `within` a file system.

    With a certificate it is one that speaks TLS and nothing else; `kind` is one of tests/support/postgres_versions.
    """
    account = postgres.server_account()
    # Root's server runs as another user, who may not pass through root's own folders.
    home = Path(tempfile.mkdtemp(prefix="els-test-", dir=within or (postgres.OUTSIDE if account else None)))
    try:
        if account:
            home.chmod(0o711)
        place = postgres.server_place(home / "postgres", account)
        if certificate:
            kind = partial(SecurePostgres, certificate)
        server = kind(place, home, free_port(), secrets.token_hex(16), account=account, durable=durable)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(home)


@contextmanager
def template(server: str) -> Iterator[str]:
    """The name of a migrated database that `cloned` copies."""
    with created(server, "template0") as url:
        migration.upgrade(url)
        yield str(conninfo_to_dict(url)["dbname"])


@contextmanager
def cloned(server: str, name: str) -> Iterator[str]:
    """The URL of a fresh copy of the database `name`."""
    with created(server, name) as url:
        yield url


@contextmanager
def created(server: str, source: str) -> Iterator[str]:
    """The URL of a new database, copied from `source`; dropped at the end, whoever is still in it."""
    name = f"els_test_{secrets.token_hex(6)}"
    _tell(server, sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(source)))
    try:
        yield database_in(server, name)
    finally:
        _tell(server, sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def database_in(server: str, name: str) -> str:
    """The server's URL with another database; a `postgresql://` one, as settings want it."""
    return _as_url(conninfo_to_dict(server) | {"dbname": name})


def url_as(url: str, role: str) -> str:
    """The same database in the role of `els_app`, `els_ops` or `els_owner` (no login, so no password needed).

    What the role may is what it may; what `alter role … set` gives to its logins, it has not.
    """
    parts = conninfo_to_dict(url)
    options = f"{parts.get('options') or ''} -c role={role}".strip()
    return _as_url(parts | {"options": options})


def _as_url(parts: Mapping[str, object]) -> str:
    rest = {name: str(value) for name, value in parts.items() if value is not None}
    database = quote(rest.pop("dbname"), safe="")
    return f"postgresql:///{database}?{urlencode(rest, quote_via=quote)}"


def _tell(server: str, statement: sql.Composed) -> None:
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(statement)
