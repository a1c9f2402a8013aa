"""Tests how deferred records end with their consumer."""

import asyncio
from contextlib import suppress
from typing import Any, cast

from aiokafka import TopicPartition

from service.consumer.deferred import DeferredRecords
from service.consumer.partitions import Partition
from service.intake.intake import Intake
from tests.support.builders.inputs import provisioned


async def test_no_deferred_record_is_applied_after_a_shutdown_that_is_cancelled_itself() -> None:
    started, ended, swallowed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Held:
        async def take_exclusive(self, *_: object) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    class Writes:
        def of(self, partitions: object) -> object:
            return partitions

    async def swallow() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        swallowed.set()
        await asyncio.Event().wait()

    deferred = DeferredRecords(cast("Intake", Held()), cast("Any", Writes()), lambda: None)
    delivery = provisioned("b", "t")
    tp = TopicPartition(delivery.topic, delivery.partition)
    deferred.defer([delivery], {tp: Partition(tp)})
    beside: asyncio.Task[Any] = asyncio.create_task(swallow())
    await started.wait()
    shutdown = asyncio.create_task(deferred.abandon([beside]))
    await swallowed.wait()
    shutdown.cancel()
    await asyncio.wait([shutdown])
    assert ended.is_set()
    beside.cancel()
