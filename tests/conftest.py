"""Servers and databases for all tests; what they are, tests/support says.

`database_url`      a migrated database of the test's own, as superuser; `app_url` the same as els_app
`shared_url`        one for all tests of a worker that only read it, or roll back what they change
`server_url`        the PostgreSQL that these databases are in, as superuser
`durable_postgres`  a PostgreSQL of the test's own with durable settings: it may be killed and started
`oldest_postgres`   a PostgreSQL of the oldest supported version; `too_old_postgres` of the one before it
`pgbouncer`         puts PgBouncer in front of a server, in session or transaction mode
`kafka`             a broker with fresh topics: the embedded one, in `make test-all` Apache Kafka too
`tansu`, `apache`   the same for a test that is about one of them
`guarded_cluster`   three brokers of Apache Kafka without topics, and a user without rights
"""

import asyncio
import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import hypothesis
import pytest

from deploy.local.postgres import Postgres
from deploy.servers import apache_kafka, brokers, databases, leftovers, postgres_versions
from deploy.servers import pgbouncer as pooling
from deploy.servers.brokers import Broker
from deploy.servers.kafka_cluster import kafka_cluster
from deploy.servers.postgres_versions import OldestSupportedPostgres, TooOldPostgres
from tests.support import selection
from tests.support.selection import (  # noqa: F401 - pytest finds its hooks here
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_generate_tests,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
    pytest_xdist_auto_num_workers,
)
from tests.support.servers import acls
from tests.support.servers.acls import GuardedCluster
from tests.support.typescript import programs

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

Pooling = Callable[..., AbstractContextManager[str]]

MAY_DELETE = "ELS_TEST_DELETES_TOPICS"


def pytest_configure(config: pytest.Config) -> None:
    """Whatever this process starts is ended with it. Only `tmp_path` stays, for a look at what went wrong."""
    selection.configure(config)
    if not selection.is_controller(config):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        folder, _ = leftovers.watch(*databases.PLACES)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """The modules and tests stay until the end, so the garbage collector need not look at them again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def promtool() -> str:
    if missing := selection.promtool_missing():
        pytest.skip(missing)
    return "promtool"


@pytest.fixture(scope="session")
def typescript() -> None:
    """The compiler of TypeScript, and a generator of models for it (tests/support/typescript/programs.py)."""
    if missing := programs.missing():
        pytest.skip(missing)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the machine's Chromium."""
    if missing := selection.chromium_missing():
        pytest.skip(missing)
    return str(shutil.which("chromium"))


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    with databases.server_url(selection.NAMED_DATABASE) as url:
        yield url


@pytest.fixture(scope="session")
def template(server_url: str) -> Iterator[str]:
    with databases.template(server_url) as name:
        yield name


@pytest.fixture
def database_url(server_url: str, template: str) -> Iterator[str]:
    with databases.cloned(server_url, template) as url:
        yield url


@pytest.fixture(scope="session")
def shared_url(server_url: str, template: str) -> Iterator[str]:
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
def pgbouncer() -> Pooling:
    if missing := pooling.missing():
        pytest.skip(missing)
    return pooling.pgbouncer


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
    if missing := selection.apache_missing():
        pytest.skip(missing)
    with brokers.apache() as broker:
        yield broker


@pytest.fixture
def apache(apache_server: Broker) -> Broker:
    apache_server.start()  # the test before may have killed it
    asyncio.run(apache_server.reset_topics())
    return apache_server


@pytest.fixture(scope="session")
def guarded_cluster_server() -> Iterator[GuardedCluster]:
    if missing := apache_kafka.missing():
        pytest.skip(missing)
    with kafka_cluster(username=acls.USER, password=acls.PASSWORD) as cluster:
        yield GuardedCluster(cluster)


@pytest.fixture
def guarded_cluster(guarded_cluster_server: GuardedCluster) -> GuardedCluster:
    """Without topics and rights, and with all brokers: the test before may have killed one."""
    asyncio.run(guarded_cluster_server.reset())
    return guarded_cluster_server


@pytest.fixture(scope="session")
def named_server() -> Iterator[Broker]:
    """The server of ELS_KAFKA_BOOTSTRAP_SERVERS. Topics have fixed names, so tests delete what is there."""
    assert selection.NAMED_KAFKA
    there = asyncio.run(brokers.topics_there(selection.NAMED_KAFKA))
    if there and not selection.GIVEN.get(MAY_DELETE):
        pytest.fail(
            f"{selection.NAMED_KAFKA} has {', '.join(sorted(there))}: tests would delete them. "
            f"Unset ELS_KAFKA_BOOTSTRAP_SERVERS, or set {MAY_DELETE}=1 if they may."
        )
    idempotence = selection.GIVEN.get("ELS_KAFKA_ENABLE_IDEMPOTENCE", "true").lower() in ("true", "1", "yes", "on")
    yield Broker("named", selection.NAMED_KAFKA, idempotence=idempotence)
    asyncio.run(brokers.delete_topics(selection.NAMED_KAFKA))


@pytest.fixture
def named_kafka(named_server: Broker) -> Broker:
    asyncio.run(named_server.reset_topics())
    return named_server
