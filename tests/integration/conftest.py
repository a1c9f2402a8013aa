"""Stations of the tests of the consumer."""

from collections.abc import AsyncIterator

import pytest

from deploy.servers.brokers import Broker, apache_missing
from tests.support.pods.running_consumer import Station, station_at


@pytest.fixture
async def station(app_url: str, database_url: str, kafka: Broker) -> AsyncIterator[Station]:
    async with station_at(app_url, database_url, kafka) as station:
        yield station


@pytest.fixture
async def unchecked(app_url: str, database_url: str, tansu: Broker) -> AsyncIterator[Station]:
    """A station on the broker that keeps whatever it is given; Apache Kafka checks it."""
    async with station_at(app_url, database_url, tansu) as station:
        yield station


@pytest.fixture
def judging_broker(request: pytest.FixtureRequest) -> Broker:
    broker: Broker = request.getfixturevalue("tansu" if apache_missing() else "apache")
    return broker


@pytest.fixture
async def judge(app_url: str, database_url: str, judging_broker: Broker) -> AsyncIterator[Station]:
    """A station on the one broker that says most: for what takes long, as the embedded one is slow with groups."""
    async with station_at(app_url, database_url, judging_broker) as station:
        yield station
