"""Runs Debian's PgBouncer in front of a PostgreSQL server, on a port of loopback."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

from deploy.local import postgres
from deploy.local.processes import LOOPBACK, Program, StackError, plain_environment, port_answers, wait_until
from deploy.servers import leftovers
from deploy.servers.locks import one_at_a_time
from deploy.servers.ports import reserved_port


def program() -> str | None:
    """Returns the path of PgBouncer; None where it is not installed. Debian has it where only root looks."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def missing() -> str | None:
    """What this machine lacks, in words; None where it lacks nothing."""
    return None if program() else "pgbouncer (Debian's package pgbouncer) is not there"


@contextmanager
def pgbouncer(url: str, mode: str, **settings: str) -> Iterator[str]:
    """Gives the URL of the same database and role through a new PgBouncer with `pool_mode` = `mode`.

    `url` names one host, and a password. `settings` are more lines of its section [pgbouncer].
    """
    with one_at_a_time("account"):
        account = postgres.server_account()
    server = conninfo_to_dict(url)
    user, database = str(server["user"]), str(server["dbname"])
    settings = {
        "listen_addr": LOOPBACK,
        "listen_port": str(reserved_port()),
        "unix_socket_dir": "",
        "auth_type": "trust",
        "auth_file": "users.txt",
        "pool_mode": mode,
        **settings,
    }
    # Started by root, it runs as another user, who cannot enter root's own folders.
    home = Path(tempfile.mkdtemp(prefix=leftovers.prefix(), dir=postgres.OUTSIDE if account else None))
    try:
        (home / "users.txt").write_text(f'"{user}" "{server["password"]}"\n')
        target = f"host={server['host']} port={server['port']} dbname={database}"
        lines = [f"{name} = {value}" for name, value in settings.items()]
        (home / "pgbouncer.ini").write_text("\n".join(["[databases]", f"{database} = {target}", "[pgbouncer]", *lines]))
        if account:
            home.chmod(0o711)
            for path in home.iterdir():
                os.chown(path, account.uid, account.gid)
        pooler = Program("PgBouncer", home / "pgbouncer.json", home / "pgbouncer.log")
        pooler.start(
            [program() or "pgbouncer", str(home / "pgbouncer.ini")], env=plain_environment(), account=account, cwd=home
        )
        try:
            port = int(settings["listen_port"])
            if not wait_until(lambda: port_answers(port), 30):
                raise StackError(f"PgBouncer did not start:\n{pooler.last_lines()}")
            yield f"postgresql://{quote(user)}@{LOOPBACK}:{port}/{quote(database)}"
        finally:
            pooler.stop((signal.SIGTERM, 10), (signal.SIGKILL, 10))
    finally:
        shutil.rmtree(home)
