"""Fixtures of the tests of the consumer."""

from collections.abc import AsyncIterator

import pytest

from deploy.servers.brokers import Broker, apache_missing
from tests.support.pods.running_consumer import ConsumerFixture, consumer_fixture


@pytest.fixture
async def consumers(app_url: str, database_url: str, kafka: Broker) -> AsyncIterator[ConsumerFixture]:
    async with consumer_fixture(app_url, database_url, kafka) as consumers:
        yield consumers


@pytest.fixture
async def unchecked(app_url: str, database_url: str, tansu: Broker) -> AsyncIterator[ConsumerFixture]:
    """On the broker that stores whatever it is given; Apache Kafka checks it."""
    async with consumer_fixture(app_url, database_url, tansu) as consumers:
        yield consumers


@pytest.fixture
def judging_broker(request: pytest.FixtureRequest) -> Broker:
    broker: Broker = request.getfixturevalue("tansu" if apache_missing() else "apache")
    return broker


@pytest.fixture
async def judge(app_url: str, database_url: str, judging_broker: Broker) -> AsyncIterator[ConsumerFixture]:
    """On one broker only: Apache Kafka where it is installed, since the embedded one is slow with groups."""
    async with consumer_fixture(app_url, database_url, judging_broker) as consumers:
        yield consumers
