"""Servers that are spoken to over TLS and with passwords: the round trip, what goes wrong at the start, no secret told.

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
from deploy.local.processes import LOOPBACK, free_port, plain_environment
from deploy.servers import brokers, databases
from deploy.servers.apache_kafka import Security
from deploy.servers.brokers import Broker
from deploy.servers.certificates import Authority, Certificate
from deploy.servers.pods import ROOT, Pod, pods
from service.domain.topics import BATCH_READY, BATCH_REGISTERED, CONTENT_PROVISIONED, SLOT_ASSIGNED
from service.postgres import migration
from tests.support.builders import inputs
from tests.support.builders.replay import Record, Replay
from tests.support.checks.expected import all_done, read_back

SECRET = "hush"  # what every secret of these tests begins with, and nothing else has in it
DATABASE_PASSWORD = f"{SECRET}-database:@/% 1"
KAFKA_PASSWORD = f"{SECRET}-kafka-1"
ADMIN_TOKEN = f"{SECRET}-admin-1"
WRONG_PASSWORD = f"{SECRET}-wrong-1"


@dataclass(frozen=True, slots=True)
class Certificates:
    """Ours, and what a stranger has."""

    authority: Authority
    server: Certificate
    client: Certificate
    stranger: Authority
    strangers_client: Certificate


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    ours, stranger = Authority(folder / "ours"), Authority(folder / "strangers")
    # The name alone: by its address the server is not known.
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
    return Security(certificates.server, certificates.authority.file, "els", KAFKA_PASSWORD, free_port(), free_port())


@pytest.fixture(scope="session")
def secure_kafka(security: Security) -> Iterator[Broker]:
    with brokers.secure_apache(security) as broker:
        yield broker


@dataclass(frozen=True, slots=True)
class Servers:
    """Settings that each are right, and the parts to make wrong ones of."""

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
        """The listener that knows its clients by their certificates."""
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
class Said:
    """What a command left behind for all to see."""

    status: int
    out: str
    err: str

    def is_one_line(self, status: int, *told: str) -> bool:
        (line,) = self.err.splitlines()
        assert (self.status, self.out) == (status, ""), self
        assert all(each in line for each in told), self
        return True


def says(folder: Path, settings: Mapping[str, str], *command: str) -> Said:
    """Run a command to its end; no secret is in what it says."""
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
    return Said(ended.returncode, ended.stdout, ended.stderr)


# -- all is well


@pytest.mark.parametrize("login", ["password", "certificate"])
async def test_a_pod_works_over_tls(
    tmp_path: Path, servers: Servers, secure_postgres_server: Postgres, secure_kafka: Broker, login: str
) -> None:
    """From the topics' creation to the batch that is ready, and nobody is told a secret."""
    settings = servers.settings() if login == "password" else servers.with_certificate(servers.certificates.client)
    settings["ELS_CONSUMER_GROUP"] = group = f"secured-{login}"
    assert says(tmp_path, settings, "topics", "create").status == 0
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
        told = "".join([*shown_by(pod), says(tmp_path, settings, "check", "--json").out])
        assert await running.stop() == [0]
        assert running.complaints() == []
        told += pod.last_lines(100_000)
    published = await read_back(secure_kafka, [SLOT_ASSIGNED, BATCH_READY])
    assert [sum(record.key == batch.encode() for record in some) for some in published.values()] == [1, 1]
    assert '"started"' in told
    assert SECRET not in told


def shown_by(pod: Pod) -> list[str]:
    """What others can see of a pod: its arguments, and what it answers."""
    port = next(entry["port"] for entry in pod.logged() if entry.get("event") == "started")
    pages = [
        urllib.request.urlopen(f"http://{LOOPBACK}:{port}/{page}", timeout=10).read().decode()
        for page in ("healthz", "readyz", "metrics")
    ]
    return [Path(f"/proc/{pod.pid}/cmdline").read_text(), *pages]


# -- what is wrong is told in one line, with the setting's name


def test_a_server_that_another_authority_has_signed_is_not_trusted(tmp_path: Path, servers: Servers) -> None:
    url = servers.database_url(authority=servers.certificates.stranger.file)
    said = says(tmp_path, servers.settings() | {"ELS_DATABASE_URL": url}, "run")
    assert said.is_one_line(1, "ELS_DATABASE_URL: ", "certificate verify failed")


def test_a_server_of_another_name_is_not_trusted(tmp_path: Path, servers: Servers) -> None:
    url = servers.database_url(host=LOOPBACK)
    said = says(tmp_path, servers.settings() | {"ELS_DATABASE_URL": url}, "run")
    assert said.is_one_line(1, "ELS_DATABASE_URL: ", 'does not match host name "127.0.0.1"')


def test_a_wrong_password_of_the_database_is_told(tmp_path: Path, servers: Servers) -> None:
    url = servers.database_url(password=WRONG_PASSWORD)
    for name, command in (("ELS_DATABASE_URL", "run"), ("ELS_MIGRATION_DATABASE_URL", "migrate")):
        said = says(tmp_path, servers.settings() | {name: url}, command)
        assert said.is_one_line(1, f"{name}: ", "password authentication failed")


def test_a_url_of_the_database_that_cannot_be_read_is_told_without_it(tmp_path: Path, servers: Servers) -> None:
    for url in (
        f"postgresql://els:{WRONG_PASSWORD}@db:port/els",
        f"postgresql://els:{WRONG_PASSWORD}@[db/els",
        f"postgresql://els:{WRONG_PASSWORD}@db/els?no=such",
        f"{WRONG_PASSWORD}",
    ):
        said = says(tmp_path, servers.settings() | {"ELS_DATABASE_URL": url}, "check")
        assert said.is_one_line(2, "ELS_DATABASE_URL: ")


@pytest.mark.parametrize("command", ["run", "topics create"])
def test_a_broker_that_another_authority_has_signed_is_not_trusted(
    tmp_path: Path, servers: Servers, command: str
) -> None:
    wrong = {"ELS_KAFKA_SSL_CAFILE": str(servers.certificates.stranger.file)}
    said = says(tmp_path, servers.settings() | wrong, *command.split())
    assert said.is_one_line(1, "ELS_KAFKA_SSL_CAFILE: ", "certificate verify failed")


def test_a_broker_of_another_name_is_not_trusted(tmp_path: Path, servers: Servers) -> None:
    wrong = {"ELS_KAFKA_BOOTSTRAP_SERVERS": f"{LOOPBACK}:{servers.security.password_port}"}
    said = says(tmp_path, servers.settings() | wrong, "run")
    assert said.is_one_line(1, "ELS_KAFKA_BOOTSTRAP_SERVERS: ", "not valid for '127.0.0.1'")


@pytest.mark.parametrize("wrong", ["ELS_KAFKA_SASL_PASSWORD", "ELS_KAFKA_SASL_USERNAME"])
def test_a_wrong_password_of_the_broker_is_told(tmp_path: Path, servers: Servers, wrong: str) -> None:
    said = says(tmp_path, servers.settings() | {wrong: WRONG_PASSWORD}, "run")
    assert said.is_one_line(1, "ELS_KAFKA_SASL_PASSWORD: ", "uthentication")


def test_a_mechanism_that_the_broker_does_not_know_is_told(tmp_path: Path, servers: Servers) -> None:
    said = says(tmp_path, servers.settings() | {"ELS_KAFKA_SASL_MECHANISM": "PLAIN"}, "run")
    assert said.is_one_line(1, "ELS_KAFKA_SASL_MECHANISM: ")


def test_a_protocol_that_the_broker_does_not_speak_is_told(
    tmp_path: Path, servers: Servers, secure_kafka: Broker
) -> None:
    for wrong in (
        {"ELS_KAFKA_BOOTSTRAP_SERVERS": secure_kafka.bootstrap_servers},
        {"ELS_KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"},
    ):
        said = says(tmp_path, servers.settings() | wrong, "run")
        assert said.is_one_line(1, "ELS_KAFKA_SECURITY_PROTOCOL: ", "another protocol")


def test_a_certificate_that_the_broker_does_not_trust_is_told(tmp_path: Path, servers: Servers) -> None:
    settings = servers.with_certificate(servers.certificates.strangers_client)
    assert says(tmp_path, settings, "run").is_one_line(1, "ELS_KAFKA_SSL_CERTFILE: ", "unknown")
    none = {name: value for name, value in settings.items() if name[-8:] not in ("CERTFILE", "_KEYFILE")}
    assert says(tmp_path, none, "run").is_one_line(1, "ELS_KAFKA_SSL_CERTFILE: ", "certificate")


def test_a_file_that_is_no_certificate_is_told(tmp_path: Path, servers: Servers) -> None:
    other = tmp_path / "other.pem"
    other.write_text(WRONG_PASSWORD)
    settings = servers.with_certificate(servers.certificates.client)
    for name, named in (
        ("ELS_KAFKA_SSL_CAFILE", "ELS_KAFKA_SSL_CAFILE"),
        ("ELS_KAFKA_SSL_CERTFILE", "ELS_KAFKA_SSL_CERTFILE"),
        ("ELS_KAFKA_SSL_KEYFILE", "ELS_KAFKA_SSL_CERTFILE"),
    ):
        assert says(tmp_path, settings | {name: str(other)}, "run").is_one_line(2, f"{named}: ", "PEM")


def test_check_tells_each_fault_and_no_secret(tmp_path: Path, servers: Servers) -> None:
    wrong = {
        "ELS_DATABASE_URL": servers.database_url(password=WRONG_PASSWORD),
        "ELS_KAFKA_SASL_PASSWORD": WRONG_PASSWORD,
    }
    said = says(tmp_path, servers.settings() | wrong, "check")
    assert said.status == 1
    assert "ELS_DATABASE_URL: " in said.out
    assert "ELS_KAFKA_SASL_PASSWORD: " in said.out
