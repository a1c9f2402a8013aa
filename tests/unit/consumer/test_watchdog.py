"""Tests when a consumer without progress is given a new Kafka client, and when it is healthy again."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
from aiokafka import TopicPartition

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


class Brokers:
    """Brokers of which nothing is known but that they answer."""

    throttled = None

    def lacking(self) -> None:
        return None

    async def ends(self, tps: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return dict.fromkeys(tps, 0)


async def test_a_pod_without_partitions_is_healthy_once_a_broker_answers() -> None:
    """Others have all partitions, so that nothing else would clear its error."""
    health, assignment, membership = Health(), Assignment(), cast("Any", type("Membership", (), {"brokers": Brokers()}))
    assignment.membership = membership
    watchdog = Watchdog(assignment, cast("Any", None), health, ConsumerOptions("group"), lambda _tp, _lag: None)
    watchdog.assigned()
    health.set_error("consumer", "no answer from the broker: TimeoutError")
    await watchdog._check_lag()
    assert health.parts["consumer"] is None
    watchdog.revoked()
    health.set_error("consumer", "the group is rebalancing")
    await watchdog._check_lag()
    assert health.parts["consumer"] == "the group is rebalancing", "it has no assignment that could be healthy"
