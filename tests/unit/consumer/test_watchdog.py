"""Tests when a consumer without progress is given a new Kafka client."""

from typing import Any, cast

import pytest

from service.consumer.partitions import Assignment
from service.consumer.watchdog import Watchdog
from service.kafka.broker_view import Stalled
from service.kafka.group import ConsumerOptions
from service.postgres.watch import WAITS_FOR_STANDBY
from service.runtime.health import Health


def test_a_consumer_that_waits_for_a_standby_keeps_its_client() -> None:
    health = Health()
    options = ConsumerOptions("group", watchdog=-1)  # so any time without progress is too long
    watchdog = Watchdog(Assignment(), cast("Any", None), health, options, lambda _tp, _lag: None)
    health.set_error("database", WAITS_FOR_STANDBY)
    watchdog._check_progress()
    health.set_healthy("database")
    with pytest.raises(Stalled, match="no progress"):
        watchdog._check_progress()
