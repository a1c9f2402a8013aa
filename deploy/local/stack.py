"""Starts PostgreSQL, the broker and the service in this order, and stops them in reverse.

Each step does only what is missing, so `up` may be called at any time. A server that the environment (or `.env`) names
is used as it is. The chosen ports and passwords are kept, so addresses stay the same from one `up` to the next.
"""

import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from dotenv import dotenv_values
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from rich.console import Console
from rich.markup import escape

from deploy.local import postgres
from deploy.local.postgres import Postgres
from deploy.local.processes import LOOPBACK, Program, StackError, free_port, port_is_free, wait_until
from deploy.local.tansu import Tansu

DATABASE = "els"
PORTS = {"postgres": 15432, "kafka": 19092, "http": 8080}
OPERATOR = "operator"
"""The login for people: a member of els_ops."""
ROLES = (postgres.SUPERUSER, "els_app", OPERATOR)
ROLES_SCRIPT = Path(__file__).parents[2] / "sql" / "roles.sql"
READY_SECONDS = 90
DRAIN_SECONDS = 25  # the service drains within 20


class Stack:
    """The local stack of one checkout. Call its methods within `exclusively`."""

    def __init__(self, checkout: Path, environment: Mapping[str, str], console: Console) -> None:
        self.checkout = checkout
        self.home = checkout / ".local"
        self.console = console
        self._environment = dict(environment)
        self.given = _settings_given(checkout, environment)
        self.service = Program("The service", self.home / "service.json", self.home / "service.log")
        self._has_new_broker = False

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Lets one command at a time run; others wait."""
        if not self.home.exists():
            # Started by root, PostgreSQL runs as another user, who needs to reach its data through this folder.
            self.home.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700)
        with (self.home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # up

    def up(self) -> dict[str, str]:
        """Starts what does not run, waits until the service is ready, and returns its settings."""
        settings = self._database_settings() | self._kafka_settings()
        # Our own service on port 8080 is no conflict; another program there is.
        settings |= self._http_settings() | self._tokens()
        settings = {name: value for name, value in self._environment.items() if name.startswith("ELS_")} | settings
        self._command("Schema", settings, "migrate")
        if "ELS_DATABASE_URL" not in self.given:
            self._set_up_logins()
        self._command("Topics", settings, "topics", "create")
        if self._has_new_broker:
            begin_new_epochs(settings["ELS_DATABASE_URL"])
        self._run_service(settings)
        self._await_ready(settings)
        return settings

    def _database_settings(self) -> dict[str, str]:
        if "ELS_DATABASE_URL" in self.given:
            parts = conninfo_to_dict(self.given["ELS_DATABASE_URL"])
            self.print_line(
                "PostgreSQL", f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}, from ELS_DATABASE_URL"
            )
            return {}
        server = self._postgres()
        started = not server.running()
        if started:
            server = self._postgres(port=self._chosen_port("postgres", keep=True))
            with self.console.status("Starting PostgreSQL"):
                server.start()
        _make_database(server)
        self.print_line("PostgreSQL", f"{'started' if started else 'already running'} on {LOOPBACK}:{server.port}")
        return {
            "ELS_DATABASE_URL": server.url(DATABASE, "els_app", self._passwords(server.place)["els_app"]),
            "ELS_MIGRATION_DATABASE_URL": server.url(DATABASE),
        }

    def _kafka_settings(self) -> dict[str, str]:
        if "ELS_KAFKA_BOOTSTRAP_SERVERS" in self.given:
            self.print_line("Kafka", f"{self.given['ELS_KAFKA_BOOTSTRAP_SERVERS']}, from ELS_KAFKA_BOOTSTRAP_SERVERS")
            return {}
        broker = self._tansu()
        started = not broker.program.running()
        if started:
            broker = self._tansu(port=self._chosen_port("kafka", keep=True))
            with self.console.status("Starting the broker"):
                broker.start()
            self._has_new_broker = True
        self.print_line("Broker", f"Tansu {'started' if started else 'already running'} on {broker.bootstrap_servers}")
        # Tansu does not support the idempotent producer.
        return {
            "ELS_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "ELS_KAFKA_ENABLE_IDEMPOTENCE": "false",
        }

    def _http_settings(self) -> dict[str, str]:
        host = self.given.get("ELS_HTTP_HOST", LOOPBACK)
        wanted = int(self.given.get("ELS_HTTP_PORT") or 0)
        running = self.service.running()
        if running and wanted in (0, self._port("http")):
            port = self._port("http")
        elif wanted:
            if not port_is_free(wanted):
                raise StackError(f"ELS_HTTP_PORT={wanted}: the port is in use; stop that program, or set another port")
            port = wanted
        else:
            port = self._chosen_port("http", keep=False)
            if port != PORTS["http"]:
                self.print_line("HTTP", f"port {PORTS['http']} is in use; the service uses {port}")
        self._keep(ports=self._kept("ports") | {"http": port})
        return {"ELS_HTTP_HOST": host, "ELS_HTTP_PORT": str(port)}

    def _tokens(self) -> dict[str, str]:
        """Chooses a token for the console and `/admin/`, and keeps it."""
        if {"ELS_ADMIN_TOKEN", "ELS_VIEWER_TOKEN"} & self.given.keys():
            return {}
        token = self._kept("tokens").get("admin") or secrets.token_urlsafe(24)
        self._keep(tokens={"admin": token})
        return {"ELS_ADMIN_TOKEN": token}

    def _set_up_logins(self) -> None:
        """Sets the passwords of the roles that `migrate` created, and writes the script `.local/psql` for operators."""
        server = self._postgres()
        passwords = self._passwords(server.place)
        with psycopg.connect(server.url(DATABASE), autocommit=True) as conn:
            conn.execute("create extension if not exists pg_stat_statements")
            if not conn.execute("select 1 from pg_roles where rolname = %s", [OPERATOR]).fetchone():
                member = sql.SQL("create role {0}; grant els_ops to {0} with inherit true, set false")
                conn.execute(member.format(sql.Identifier(OPERATOR)))
            for role in ("els_app", OPERATOR):
                conn.execute(sql.SQL("alter role {} login password {}").format(sql.Identifier(role), passwords[role]))
            conn.execute(ROLES_SCRIPT.read_bytes())  # gives the login its timeouts
        psql = postgres.installed_programs() / "psql"
        _write_private(
            self.home / "psql",
            "#!/bin/sh\n"
            "# psql as an operator: reads the views of schema ops, nothing else\n"
            f"export PGHOST={LOOPBACK} PGPORT={server.port} PGDATABASE={DATABASE} PGUSER={OPERATOR}\n"
            f"export PGPASSWORD={passwords[OPERATOR]}\n"
            f'exec "{psql}" "$@"\n',
            mode=0o700,
        )

    def _run_service(self, settings: dict[str, str]) -> None:
        """Starts it; restarts it if it runs with other settings."""
        written = "".join(f"{name}={_quoted(value)}\n" for name, value in sorted(settings.items()))
        kept = self.home / "env"
        running = self.service.running()
        if running and kept.exists() and kept.read_text() == written:
            self.print_line("Service", "already running (after a change of the code: make down up)")
            return
        if running:
            self.print_line("Service", "stopped, because its settings have changed")
            self._stop_service()
        _write_private(kept, written)
        env = self._environment | settings
        env.pop("ELS_MIGRATION_DATABASE_URL", None)  # that role may change the schema; the service does not need it
        self.service.start([sys.executable, "-m", "service", "run"], env=env, cwd=self.checkout)
        self.print_line("Service", "started")

    def _await_ready(self, settings: Mapping[str, str]) -> None:
        url = f"http://{_reachable(settings['ELS_HTTP_HOST'])}:{settings['ELS_HTTP_PORT']}/readyz"
        with self.console.status("Waiting until the service is ready") as status:

            def settled() -> bool:
                ready, text = _read_readiness(url)
                status.update(f"Waiting until the service is ready: {text}")
                return ready or not self.service.running()

            in_time = wait_until(settled, READY_SECONDS, every=0.1)
        if not self.service.running():
            raise StackError(f"The service ended while it started:\n{self.service.last_lines()}")
        if not in_time:
            raise StackError(
                f"The service is not ready after {READY_SECONDS} s: {_read_readiness(url)[1]}\nLog: {self.service.log}"
            )
        self.print_line("Service", "ready")

    def _command(self, what: str, settings: dict[str, str], *words: str) -> None:
        """Runs one command of the service. Raises StackError with its output if it fails."""
        with self.console.status(what):
            done = subprocess.run(
                [sys.executable, "-m", "service", *words],
                env=self._environment | settings,
                cwd=self.checkout,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise StackError(f"`python -m service {' '.join(words)}` failed:\n{(done.stderr or done.stdout).strip()}")
        self.print_line(what, "up to date")

    # down

    def down(self) -> None:
        """Stops what runs. The data of PostgreSQL is kept; the broker has none on disk."""
        self._print_stopped("Service", self._stop_service())
        self._print_stopped("Broker", self._tansu().stop())
        if self._place().exists():
            self._print_stopped("PostgreSQL", self._postgres().stop())
        (self.home / "env").unlink(missing_ok=True)

    def clean(self) -> None:
        """Does `down`, then deletes the data."""
        self.down()
        place = self._place()
        if place.exists():
            shutil.rmtree(place)
        shutil.rmtree(self.home)
        self.print_line("Data", "deleted")

    def running(self) -> dict[str, bool]:
        """Returns which of the three run."""
        return {
            "PostgreSQL": self._place().exists() and self._postgres().running(),
            "Broker": self._tansu().program.running(),
            "Service": self.service.running(),
        }

    def settings(self) -> dict[str, str]:
        """Returns the settings of the service as `up` wrote them; empty if the stack is down."""
        kept = self.home / "env"
        return {name: value or "" for name, value in dotenv_values(kept).items()} if kept.exists() else {}

    def _stop_service(self) -> bool:
        with self.console.status("Stopping the service (it finishes the work in progress)"):
            return self.service.stop((signal.SIGTERM, DRAIN_SECONDS), (signal.SIGKILL, 5))

    def _print_stopped(self, what: str, stopped: bool) -> None:
        self.print_line(what, "stopped" if stopped else "was not running")

    # choices that are kept

    def _postgres(self, port: int | None = None) -> Postgres:
        account = postgres.server_account()
        place = postgres.server_place(self.home / "postgres", account)
        password = self._passwords(place)[postgres.SUPERUSER]
        return Postgres(place, self.home, port or self._port("postgres"), password, account=account)

    def _place(self) -> Path:
        """Returns the folder of PostgreSQL's data; it may not exist."""
        linked = self.home / "postgres"
        return linked.resolve() if linked.exists() else postgres.outside_of(linked)

    def _tansu(self, port: int | None = None) -> Tansu:
        return Tansu(self.home, port or self._port("kafka"))

    def _port(self, name: str) -> int:
        return int(self._kept("ports").get(name, PORTS[name]))

    def _chosen_port(self, name: str, *, keep: bool) -> int:
        """Chooses and keeps a port: the default (with `keep`, the last choice), or the next free one after it."""
        port = free_port(self._port(name) if keep else PORTS[name])
        self._keep(ports=self._kept("ports") | {name: port})
        return port

    def _passwords(self, place: Path) -> dict[str, str]:
        """Returns the passwords of the server in `place`. They are stored beside its data, which needs them."""
        kept = place / "passwords.json"
        if not kept.exists():
            _write_private(kept, json.dumps({role: secrets.token_urlsafe(24) for role in ROLES}))
        passwords: dict[str, str] = json.loads(kept.read_text())
        if missing := set(ROLES) - passwords.keys():  # those of an earlier release
            passwords |= {role: secrets.token_urlsafe(24) for role in missing}
            _write_private(kept, json.dumps(passwords))
        return passwords

    def _kept(self, name: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.home / "choices.json").read_text())[name]
        except (OSError, ValueError, KeyError):
            return {}
        return found

    def _keep(self, **choices: dict[str, Any]) -> None:
        kept = {name: self._kept(name) for name in ("ports", "tokens")}
        _write_private(self.home / "choices.json", json.dumps(kept | choices))

    def print_line(self, what: str, text: str) -> None:
        """Prints one line of progress: `what` as its heading, then the text."""
        self.console.print(f"  [bold]{what:<11}[/bold] {escape(text)}", highlight=False, soft_wrap=True)


def _settings_given(checkout: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the settings in the environment or `.env`. As for the service, an empty value counts as not set."""
    both = dotenv_values(checkout / ".env") | dict(environment)
    return {name: value for name, value in both.items() if name.startswith("ELS_") and value}


def begin_new_epochs(database_url: str) -> None:
    """Says that all input topics are new. The local broker loses them when it stops, which is no loss to report."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(
            "update els.progress set epoch = epoch + 1, next_offset = 0, record_offset = null, record_at = null,"
            " record_digest = null, applied_until = null"
        )


def console_address(settings: Mapping[str, str]) -> str:
    """Returns where people watch the service."""
    return f"http://{_reachable(settings['ELS_HTTP_HOST'])}:{settings['ELS_HTTP_PORT']}/console/"


def _make_database(server: Postgres) -> None:
    with psycopg.connect(server.url(), autocommit=True) as conn:
        found = conn.execute("select 1 from pg_database where datname = %s", [DATABASE]).fetchone()
        if found is None:
            conn.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))


def _read_readiness(url: str) -> tuple[bool, str]:
    """Returns whether /readyz says that the service is ready, and a text for people."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - an address that we made
            return response.status == 200, "ready"
    except urllib.error.HTTPError as error:
        return False, " ".join(error.read(500).decode(errors="replace").split())
    except OSError:
        return False, "it does not respond yet"


def _reachable(host: str) -> str:
    return LOOPBACK if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound


def _quoted(value: str) -> str:
    """Quotes a value so that both a shell and a reader of `.env` files understand it."""
    return value if all(part.isalnum() or part in "-_.:/@,%+=" for part in value) else f"'{value}'"


def _write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Writes a file atomically, readable by its owner only."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    draft.replace(path)
