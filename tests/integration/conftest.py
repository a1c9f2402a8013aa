"""Fixtures of the tests that run consumers, or apply polls."""

from collections.abc import AsyncIterator

import pytest

from deploy.servers.brokers import Broker
from tests.support import selection
from tests.support.pods.applier import ApplyFixture, apply_fixture
from tests.support.pods.running_consumer import ConsumerFixture, consumer_fixture


@pytest.fixture
async def applier(database_url: str) -> AsyncIterator[ApplyFixture]:
    async with apply_fixture(database_url) as found:
        yield found


@pytest.fixture
async def consumers(app_url: str, database_url: str, kafka: Broker) -> AsyncIterator[ConsumerFixture]:
    async with consumer_fixture(app_url, database_url, kafka) as consumers:
        yield consumers


@pytest.fixture
async def lenient_consumers(app_url: str, database_url: str, tansu: Broker) -> AsyncIterator[ConsumerFixture]:
    """On Tansu, which stores record batches unchecked; Apache Kafka checks them."""
    async with consumer_fixture(app_url, database_url, tansu) as consumers:
        yield consumers


@pytest.fixture
def strict_broker(request: pytest.FixtureRequest) -> Broker:
    broker: Broker = request.getfixturevalue("apache" if selection.on_apache(request.config) else "tansu")
    return broker


@pytest.fixture
async def strict_consumers(app_url: str, database_url: str, strict_broker: Broker) -> AsyncIterator[ConsumerFixture]:
    """On Apache Kafka if it is installed, else on Tansu: for long tests, since Tansu is slow with groups."""
    async with consumer_fixture(app_url, database_url, strict_broker) as consumers:
        yield consumers


@pytest.fixture
async def on_apache(app_url: str, database_url: str, apache: Broker) -> AsyncIterator[ConsumerFixture]:
    """On a broker that deletes records, sees at once who leaves a group, and has transactions."""
    async with consumer_fixture(app_url, database_url, apache) as consumers:
        consumers.restarts = True
        yield consumers
