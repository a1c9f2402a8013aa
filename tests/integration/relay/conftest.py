"""The stage of the tests of relays."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from deploy.servers.brokers import Broker
from service.kafka.connection import client_options
from service.postgres.pool import Database
from tests.support.pods.relay_stage import Stage


@pytest.fixture
async def stage(database_url: str, kafka: Any) -> AsyncIterator[Stage]:
    database = Database(database_url)
    yield Stage(database_url, database, client_options(getattr(kafka, "bootstrap_servers", kafka)))
    await database.close()


@pytest.fixture
async def apache_stage(database_url: str, apache: Broker) -> AsyncIterator[Stage]:
    """With a broker that asks for replicas and has idempotent producers."""
    database = Database(database_url)
    yield Stage(database_url, database, client_options(apache.bootstrap_servers))
    await database.close()
