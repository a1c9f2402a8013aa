"""What every replay needs: a consumer group of its own, and the settings of its pods."""

from uuid import uuid4

import pytest

from deploy.servers.brokers import Broker


@pytest.fixture
def group() -> str:
    """Nobody waits for the session of a member that another test left behind."""
    return f"acceptance-{uuid4().hex[:8]}"


@pytest.fixture
def settings(app_url: str, kafka: Broker, group: str) -> dict[str, str]:
    """The environment of pods on the test's own database, in the role that has no more than it needs."""
    return {"ELS_DATABASE_URL": app_url, **kafka.settings, "ELS_CONSUMER_GROUP": group}
