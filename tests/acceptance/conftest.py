"""Fixtures of every replay: its consumer group and the settings of its pods."""

from uuid import uuid4

import pytest

from deploy.servers.brokers import Broker


@pytest.fixture
def group() -> str:
    """A new group, so that no test waits until the session of another test's member expires."""
    return f"acceptance-{uuid4().hex[:8]}"


@pytest.fixture
def settings(app_url: str, kafka: Broker, group: str) -> dict[str, str]:
    """The environment of pods on the test's database, in the least-privileged role."""
    return {"ELS_DATABASE_URL": app_url, **kafka.settings, "ELS_CONSUMER_GROUP": group}
