"""Servers and databases for all tests; what they are, tests/support says.

`database_url`      a migrated database of the test's own, as superuser; `app_url` the same as els_app
`server_url`        the PostgreSQL that these databases are in, as superuser
`durable_postgres`  a PostgreSQL of the test's own with durable settings: it may be killed and started
`oldest_postgres`   a PostgreSQL of the oldest supported version; `too_old_postgres` of the one before it
`kafka`             a broker with fresh topics, once for each that this machine can run
`tansu`, `apache`   the same for a test that is about one of them
"""

import asyncio
import os
import shutil
from collections.abc import Iterator

import pytest

from deploy.local.postgres import Postgres
from deploy.servers import brokers, databases, postgres_versions
from deploy.servers.brokers import Broker
from deploy.servers.postgres_versions import OldestSupportedPostgres, TooOldPostgres
from tests.support.servers import pythons

# Taken out of the environment: what a test runs gets its settings from the test alone.
GIVEN = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("ELS_")}

NAMED_DATABASE = GIVEN.get("ELS_DATABASE_URL")
NAMED_KAFKA = GIVEN.get("ELS_KAFKA_BOOTSTRAP_SERVERS")
MAY_DELETE = "ELS_TEST_DELETES_TOPICS"

APACHE_MISSING = None if NAMED_KAFKA else brokers.apache_missing()
SECURED_MISSING = brokers.secured_missing()
PROMTOOL_MISSING = None if shutil.which("promtool") else "promtool (Debian's package prometheus) is not there"
LEFT_OUT = {
    "on Apache Kafka": APACHE_MISSING,
    "over TLS": SECURED_MISSING,
    "with promtool": PROMTOOL_MISSING,
    "on PostgreSQL 16 and 17": postgres_versions.missing(),
    **{f"on Python {version}": pythons.missing(version) for version in pythons.others()},
}


def pytest_configure() -> None:
    """In CI the judge must sit: nothing is left out silently there."""
    for what, why in LEFT_OUT.items():
        if why and os.environ.get("CI"):
            raise pytest.UsageError(f"CI is set, and the tests {what} can't run: {why}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `kafka` runs on every broker there is."""
    if "kafka" in metafunc.fixturenames:
        names = ["named"] if NAMED_KAFKA else ["tansu"] if APACHE_MISSING else ["tansu", "apache"]
        metafunc.parametrize("kafka", names, indirect=True)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if any(LEFT_OUT.values()):
        terminalreporter.section("left out")
    for what, why in LEFT_OUT.items():
        if why:
            terminalreporter.line(f"Nothing was tested {what}: {why}.")


@pytest.fixture
def promtool() -> str:
    if PROMTOOL_MISSING:
        pytest.skip(PROMTOOL_MISSING)
    return "promtool"


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    with databases.server_url(NAMED_DATABASE) as url:
        yield url


@pytest.fixture(scope="session")
def template(server_url: str) -> Iterator[str]:
    with databases.template(server_url) as name:
        yield name


@pytest.fixture
def database_url(server_url: str, template: str) -> Iterator[str]:
    with databases.cloned(server_url, template) as url:
        yield url


@pytest.fixture
def app_url(database_url: str) -> str:
    return databases.url_as(database_url, "els_app")


@pytest.fixture
def durable_postgres() -> Iterator[Postgres]:
    with databases.embedded_server(durable=True) as server:
        yield server


@pytest.fixture(scope="session")
def oldest_postgres() -> Iterator[Postgres]:
    yield from _other_version(OldestSupportedPostgres)


@pytest.fixture(scope="session")
def too_old_postgres() -> Iterator[Postgres]:
    yield from _other_version(TooOldPostgres)


def _other_version(kind: type[Postgres]) -> Iterator[Postgres]:
    if missing := postgres_versions.missing():
        pytest.skip(missing)
    with databases.embedded_server(durable=False, kind=kind) as server:
        yield server


@pytest.fixture
def kafka(request: pytest.FixtureRequest) -> Broker:
    broker: Broker = request.getfixturevalue({"named": "named_kafka"}.get(request.param, request.param))
    return broker


@pytest.fixture
def tansu() -> Iterator[Broker]:
    with brokers.tansu() as broker:
        asyncio.run(broker.create_topics())
        yield broker


@pytest.fixture(scope="session")
def apache_server() -> Iterator[Broker]:
    if APACHE_MISSING:
        pytest.skip(APACHE_MISSING)
    with brokers.apache() as broker:
        yield broker


@pytest.fixture
def apache(apache_server: Broker) -> Broker:
    apache_server.start()  # the test before may have killed it
    asyncio.run(apache_server.reset_topics())
    return apache_server


@pytest.fixture(scope="session")
def named_server() -> Iterator[Broker]:
    """The server of ELS_KAFKA_BOOTSTRAP_SERVERS. Topics have fixed names, so tests delete what is there."""
    assert NAMED_KAFKA
    there = asyncio.run(brokers.topics_there(NAMED_KAFKA))
    if there and not GIVEN.get(MAY_DELETE):
        pytest.fail(
            f"{NAMED_KAFKA} has {', '.join(sorted(there))}: tests would delete them. "
            f"Unset ELS_KAFKA_BOOTSTRAP_SERVERS, or set {MAY_DELETE}=1 if they may."
        )
    idempotence = GIVEN.get("ELS_KAFKA_ENABLE_IDEMPOTENCE", "true").lower() in ("true", "1", "yes", "on")
    yield Broker("named", NAMED_KAFKA, idempotence=idempotence)
    asyncio.run(brokers.delete_topics(NAMED_KAFKA))


@pytest.fixture
def named_kafka(named_server: Broker) -> Broker:
    asyncio.run(named_server.reset_topics())
    return named_server
