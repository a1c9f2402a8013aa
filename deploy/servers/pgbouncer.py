"""Runs PgBouncer (Debian's package) in front of a PostgreSQL server, in session or in transaction mode."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

from deploy.local.postgres import OUTSIDE, server_account
from deploy.local.processes import LOOPBACK, Program, StackError, plain_environment, port_answers, wait_until
from deploy.servers import leftovers
from deploy.servers.ports import reserved_port

SETTINGS = """\
[databases]
* = host={host} port={target}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {home}/users.txt
pool_mode = {mode}
default_pool_size = 40
max_client_conn = 400
logfile =
pidfile =
"""


def program() -> str | None:
    """Returns the path of PgBouncer, or None."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def missing() -> str | None:
    """Returns a text that says what this machine lacks, or None."""
    return None if program() else "PgBouncer (Debian's package pgbouncer) is not there"


class PgBouncer:
    """A pooler on a port of its own, for logins with the names and passwords in `users`. `home` must be empty."""

    def __init__(
        self, home: Path, target_port: int, mode: Literal["session", "transaction"], *, more: str = "", **users: str
    ) -> None:
        """`more` are further lines of its configuration."""
        self.home = home
        self.port = reserved_port()
        self._users = users
        self._settings = SETTINGS.format(host=LOOPBACK, target=target_port, port=self.port, home=home, mode=mode) + more
        self.program = Program("PgBouncer", home / "pgbouncer.json", home / "pgbouncer.log")

    def start(self) -> None:
        """Starts it and waits until it listens. Raises StackError if it does not."""
        account = server_account()  # it does not run as root either
        users = "".join(f'"{name}" "{password}"\n' for name, password in self._users.items())
        for name, text in (("users.txt", users), ("pgbouncer.ini", self._settings)):
            (file := self.home / name).write_text(text)
            file.chmod(0o600)
            if account:
                os.chown(file, account.uid, account.gid)
        if account:
            self.home.chmod(0o711)
        found = program() or "pgbouncer"
        self.program.start(
            [found, str(self.home / "pgbouncer.ini")], env=plain_environment(), account=account, cwd=Path("/")
        )
        wait_until(lambda: port_answers(self.port) or not self.program.running(), 20)
        if not self.program.running():
            raise StackError(f"PgBouncer did not start:\n{self.program.last_lines()}")

    def stop(self) -> bool:
        """Stops it at once."""
        return self.program.stop((signal.SIGTERM, 10), (signal.SIGKILL, 10))

    def url(self, database: str, user: str) -> str:
        """Returns the URL for a client."""
        return f"postgresql://{user}:{quote(self._users[user], safe='')}@{LOOPBACK}:{self.port}/{database}"


@contextmanager
def pgbouncer(url: str, mode: Literal["session", "transaction"], **settings: str) -> Iterator[str]:
    """Gives the URL of the same database and role through a new PgBouncer.

    `url` names one host, and a password. `settings` are more lines of its section [pgbouncer].
    """
    server = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    # Started by root, it runs as another user, who cannot enter root's own folders.
    home = Path(tempfile.mkdtemp(prefix=leftovers.prefix(), dir=OUTSIDE if server_account() else None))
    more = "".join(f"{name} = {value}\n" for name, value in settings.items())
    pooler = PgBouncer(home, int(server["port"]), mode, more=more, **{server["user"]: server["password"]})
    try:
        pooler.start()
        yield pooler.url(server["dbname"], server["user"])
    finally:
        pooler.stop()
        shutil.rmtree(home)
