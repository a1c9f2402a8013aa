"""Tests connections with TLS and passwords: the round trip, errors at the start, and that no secret is shown.

PostgreSQL takes TLS 1.3 and a password; Apache Kafka has a listener with TLS and a password (SASL_SSL, SCRAM) and one
with TLS and the client's certificate (SSL). The authority that signed theirs is made for the test run.
"""

import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
import pytest

from deploy.local.postgres import Postgres
from deploy.local.processes import LOOPBACK, plain_environment
from deploy.servers import brokers, databases
from deploy.servers.apache_kafka import Security
from deploy.servers.brokers import Broker
from deploy.servers.certificates import Authority, Certificate
from deploy.servers.pods import ROOT, Pod, pods
from deploy.servers.ports import reserved_port
from service.domain.topics import BATCH_READY, BATCH_REGISTERED, CONTENT_PROVISIONED, SLOT_ASSIGNED
from service.postgres import migration
from tests.support.builders import inputs
from tests.support.builders.replay import Record, Replay
from tests.support.checks.expected import all_done, read_back

SECRET = "hush"  # every secret of these tests begins with this, and nothing else contains it
DATABASE_PASSWORD = f"{SECRET}-database:@/% 1"
KAFKA_PASSWORD = f"{SECRET}-kafka-1"
ADMIN_TOKEN = f"{SECRET}-of-the-operators"
WRONG_PASSWORD = f"{SECRET}-wrong-1"


@dataclass(frozen=True, slots=True)
class Certificates:
    """The certificates of our authority and those of a stranger."""

    authority: Authority
    server: Certificate
    client: Certificate
    stranger: Authority
    strangers_client: Certificate


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    ours, stranger = Authority(folder / "ours"), Authority(folder / "strangers")
    # Only the name: the certificate does not contain the address.
    return Certificates(ours, ours.issue("localhost"), ours.issue("els"), stranger, stranger.issue("els"))


@pytest.fixture(scope="session")
def secure_postgres_server(certificates: Certificates) -> Iterator[Postgres]:
    if missing := brokers.secured_missing():
        pytest.skip(missing)
    with databases.embedded_server(durable=False, certificate=certificates.server) as server:
        migration.upgrade(server.url())
        with psycopg.connect(server.url(), autocommit=True) as conn:
            conn.execute(b"alter role els_app password '%s'" % DATABASE_PASSWORD.encode())
        yield server


@pytest.fixture(scope="session")
def security(certificates: Certificates) -> Security:
    ports = (reserved_port(), reserved_port())
    return Security(certificates.server, certificates.authority.file, "els", KAFKA_PASSWORD, *ports)


@pytest.fixture(scope="session")
def secure_kafka(security: Security) -> Iterator[Broker]:
    with brokers.secure_apache(security) as broker:
        yield broker


@dataclass(frozen=True, slots=True)
class Servers:
    """Correct settings, and the parts from which tests build wrong ones."""

    database_port: int
    security: Security
    certificates: Certificates

    def database_url(
        self, *, host: str = "localhost", password: str = DATABASE_PASSWORD, authority: Path | None = None
    ) -> str:
        options = {"sslmode": "verify-full", "sslrootcert": str(authority or self.certificates.authority.file)}
        login = f"els_app:{quote(password, safe='')}"
        return f"postgresql://{login}@{host}:{self.database_port}/postgres?{urlencode(options)}"

    def settings(self) -> dict[str, str]:
        return {
            "ELS_DATABASE_URL": self.database_url(),
            "ELS_KAFKA_BOOTSTRAP_SERVERS": f"localhost:{self.security.password_port}",
            "ELS_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "ELS_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "ELS_KAFKA_SASL_USERNAME": "els",
            "ELS_KAFKA_SASL_PASSWORD": KAFKA_PASSWORD,
            "ELS_KAFKA_SSL_CAFILE": str(self.certificates.authority.file),
            "ELS_ADMIN_TOKEN": ADMIN_TOKEN,
            "ELS_HTTP_HOST": LOOPBACK,
            "ELS_HTTP_PORT": "0",
        }

    def with_certificate(self, certificate: Certificate) -> dict[str, str]:
        """Returns the settings for the listener that authenticates clients by their certificates."""
        rest = {name: value for name, value in self.settings().items() if "SASL" not in name}
        return rest | {
            "ELS_KAFKA_BOOTSTRAP_SERVERS": f"localhost:{self.security.certificate_port}",
            "ELS_KAFKA_SECURITY_PROTOCOL": "SSL",
            "ELS_KAFKA_SSL_CERTFILE": str(certificate.certificate),
            "ELS_KAFKA_SSL_KEYFILE": str(certificate.key),
        }


@pytest.fixture
def servers(
    secure_postgres_server: Postgres, secure_kafka: Broker, security: Security, certificates: Certificates
) -> Servers:
    return Servers(secure_postgres_server.port, security, certificates)


@dataclass(frozen=True, slots=True)
class Ended:
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str

    def is_one_line(self, status: int, *expected: str) -> bool:
        (line,) = self.err.splitlines()
        assert (self.status, self.out) == (status, ""), self
        assert all(each in line for each in expected), self
        return True


def run_command(folder: Path, settings: Mapping[str, str], *command: str) -> Ended:
    """Run a command to its end. Its output contains no secret."""
    ended = subprocess.run(
        [sys.executable, "-m", "service", *command],
        env={**plain_environment(), "PYTHONPATH": str(ROOT), **settings},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert SECRET not in ended.stdout + ended.stderr
    return Ended(ended.returncode, ended.stdout, ended.stderr)


# -- working connections


@pytest.mark.parametrize("login", ["password", "certificate"])
async def test_a_pod_works_over_tls(
    tmp_path: Path, servers: Servers, secure_postgres_server: Postgres, secure_kafka: Broker, login: str
) -> None:
    """From the creation of the topics to the ready batch, without showing a secret."""
    settings = servers.settings() if login == "password" else servers.with_certificate(servers.certificates.client)
    settings["ELS_CONSUMER_GROUP"] = group = f"secured-{login}"
    assert run_command(tmp_path, settings, "topics", "create").status == 0
    batch = f"batch-{login}"
    records = [
        Record(0, CONTENT_PROVISIONED, b"upload", inputs.content(batch, f"text-{login}")),
        Record(0, BATCH_REGISTERED, batch.encode(), inputs.registration(batch, ["essay"])),
    ]
    early = Replay(secure_kafka, records)
    with pods(tmp_path, settings, {"ELS_LOG_LEVEL": "DEBUG"}) as running:
        (pod,) = running.start()
        await running.ready()
        await early.run()
        await all_done(secure_postgres_server.url(), secure_kafka, group, early.ends)
        shown = "".join([*shown_by(pod), run_command(tmp_path, settings, "check", "--json").out])
        assert await running.stop() == [0]
        assert running.complaints() == []
        shown += pod.last_lines(100_000)
    published = await read_back(secure_kafka, [SLOT_ASSIGNED, BATCH_READY])
    assert [sum(record.key == batch.encode() for record in some) for some in published.values()] == [1, 1]
    assert '"started"' in shown
    assert SECRET not in shown


def shown_by(pod: Pod) -> list[str]:
    """Returns what others can see of a pod: its arguments and its HTTP responses."""
    port = next(entry["port"] for entry in pod.logged() if entry.get("event") == "started")
    pages = [
        urllib.request.urlopen(f"http://{LOOPBACK}:{port}/{page}", timeout=10).read().decode()
        for page in ("healthz", "readyz", "metrics")
    ]
    return [Path(f"/proc/{pod.pid}/cmdline").read_text(), *pages]


# -- errors are reported in one line, with the name of the setting


def test_a_server_that_another_authority_has_signed_is_not_trusted(tmp_path: Path, servers: Servers) -> None:
    url = servers.database_url(authority=servers.certificates.stranger.file)
    ended = run_command(tmp_path, servers.settings() | {"ELS_DATABASE_URL": url}, "run")
    assert ended.is_one_line(1, "ELS_DATABASE_URL: ", "certificate verify failed")


def test_a_server_of_another_name_is_not_trusted(tmp_path: Path, servers: Servers) -> None:
    url = servers.database_url(host=LOOPBACK)
    ended = run_command(tmp_path, servers.settings() | {"ELS_DATABASE_URL": url}, "run")
    assert ended.is_one_line(1, "ELS_DATABASE_URL: ", 'does not match host name "127.0.0.1"')


def test_a_wrong_password_of_the_database_is_reported(tmp_path: Path, servers: Servers) -> None:
    url = servers.database_url(password=WRONG_PASSWORD)
    for name, command in (("ELS_DATABASE_URL", "run"), ("ELS_MIGRATION_DATABASE_URL", "migrate")):
        ended = run_command(tmp_path, servers.settings() | {name: url}, command)
        assert ended.is_one_line(1, f"{name}: ", "password authentication failed")


def test_a_malformed_url_of_the_database_is_not_repeated(tmp_path: Path, servers: Servers) -> None:
    for url in (
        f"postgresql://els:{WRONG_PASSWORD}@db:port/els",
        f"postgresql://els:{WRONG_PASSWORD}@[db/els",
        f"postgresql://els:{WRONG_PASSWORD}@db/els?no=such",
        f"{WRONG_PASSWORD}",
    ):
        ended = run_command(tmp_path, servers.settings() | {"ELS_DATABASE_URL": url}, "check")
        assert ended.is_one_line(2, "ELS_DATABASE_URL: ")


@pytest.mark.parametrize("command", ["run", "topics create"])
def test_a_broker_that_another_authority_has_signed_is_not_trusted(
    tmp_path: Path, servers: Servers, command: str
) -> None:
    wrong = {"ELS_KAFKA_SSL_CAFILE": str(servers.certificates.stranger.file)}
    ended = run_command(tmp_path, servers.settings() | wrong, *command.split())
    assert ended.is_one_line(1, "ELS_KAFKA_SSL_CAFILE: ", "certificate verify failed")


def test_a_broker_of_another_name_is_not_trusted(tmp_path: Path, servers: Servers) -> None:
    wrong = {"ELS_KAFKA_BOOTSTRAP_SERVERS": f"{LOOPBACK}:{servers.security.password_port}"}
    ended = run_command(tmp_path, servers.settings() | wrong, "run")
    assert ended.is_one_line(1, "ELS_KAFKA_BOOTSTRAP_SERVERS: ", "not valid for '127.0.0.1'")


@pytest.mark.parametrize("wrong", ["ELS_KAFKA_SASL_PASSWORD", "ELS_KAFKA_SASL_USERNAME"])
def test_a_wrong_password_of_the_broker_is_reported(tmp_path: Path, servers: Servers, wrong: str) -> None:
    ended = run_command(tmp_path, servers.settings() | {wrong: WRONG_PASSWORD}, "run")
    assert ended.is_one_line(1, "ELS_KAFKA_SASL_PASSWORD: ", "uthentication")


def test_a_mechanism_that_the_broker_does_not_support_is_reported(tmp_path: Path, servers: Servers) -> None:
    ended = run_command(tmp_path, servers.settings() | {"ELS_KAFKA_SASL_MECHANISM": "PLAIN"}, "run")
    assert ended.is_one_line(1, "ELS_KAFKA_SASL_MECHANISM: ")


def test_a_wrong_protocol_of_the_broker_is_reported(tmp_path: Path, servers: Servers, secure_kafka: Broker) -> None:
    for wrong in (
        {"ELS_KAFKA_BOOTSTRAP_SERVERS": secure_kafka.bootstrap_servers},
        {"ELS_KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"},
    ):
        ended = run_command(tmp_path, servers.settings() | wrong, "run")
        assert ended.is_one_line(1, "ELS_KAFKA_SECURITY_PROTOCOL: ", "another protocol")


def test_a_certificate_that_the_broker_does_not_trust_is_reported(tmp_path: Path, servers: Servers) -> None:
    settings = servers.with_certificate(servers.certificates.strangers_client)
    assert run_command(tmp_path, settings, "run").is_one_line(1, "ELS_KAFKA_SSL_CERTFILE: ", "unknown")
    none = {name: value for name, value in settings.items() if name[-8:] not in ("CERTFILE", "_KEYFILE")}
    assert run_command(tmp_path, none, "run").is_one_line(1, "ELS_KAFKA_SSL_CERTFILE: ", "certificate")


def test_a_file_that_is_not_a_certificate_is_reported(tmp_path: Path, servers: Servers) -> None:
    other = tmp_path / "other.pem"
    other.write_text(WRONG_PASSWORD)
    settings = servers.with_certificate(servers.certificates.client)
    for name, named in (
        ("ELS_KAFKA_SSL_CAFILE", "ELS_KAFKA_SSL_CAFILE"),
        ("ELS_KAFKA_SSL_CERTFILE", "ELS_KAFKA_SSL_CERTFILE"),
        ("ELS_KAFKA_SSL_KEYFILE", "ELS_KAFKA_SSL_CERTFILE"),
    ):
        assert run_command(tmp_path, settings | {name: str(other)}, "run").is_one_line(2, f"{named}: ", "PEM")


def test_check_reports_each_error_and_no_secret(tmp_path: Path, servers: Servers) -> None:
    wrong = {
        "ELS_DATABASE_URL": servers.database_url(password=WRONG_PASSWORD),
        "ELS_KAFKA_SASL_PASSWORD": WRONG_PASSWORD,
    }
    ended = run_command(tmp_path, servers.settings() | wrong, "check")
    assert ended.status == 1
    assert "ELS_DATABASE_URL: " in ended.out
    assert "ELS_KAFKA_SASL_PASSWORD: " in ended.out
