"""Gives each test its own database, copied from one that was migrated once."""

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
    """Runs an embedded server in a temporary folder under `within`. `durable` is for tests that kill it.

    With a certificate, the server accepts only TLS connections; `kind` is a class of deploy/servers/postgres_versions.
    """
    account = postgres.server_account()
    # Started by root, the server runs as another user, who cannot enter root's own folders.
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
    _execute(server, sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(source)))
    try:
        yield database_in(server, name)
    finally:
        _execute(server, sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


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


def _execute(server: str, statement: sql.Composed) -> None:
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(statement)
