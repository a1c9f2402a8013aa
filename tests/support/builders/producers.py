"""Helps producers of tests to count acknowledged events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaProducer
from aiokafka.errors import UnknownError

from deploy.servers.brokers import Broker

BOUND = 60
"""Seconds after which a wait has failed."""


@asynccontextmanager
async def transactional(broker: Broker) -> AsyncIterator[AIOKafkaProducer]:
    """A producer with transactions. Tansu answers the request for one with an error at times: it is asked again."""
    async with asyncio.timeout(BOUND):
        while True:
            producer = AIOKafkaProducer(
                bootstrap_servers=broker.bootstrap_servers, transactional_id=f"upstream-{uuid4()}"
            )
            try:
                await producer.start()
                break
            except UnknownError:
                await producer.stop()
                await asyncio.sleep(0.1)
    try:
        yield producer
    finally:
        await producer.stop()


def noting_ids(records: Any) -> Any:
    """Makes a record batch builder note the event ids of its records in `ids`."""
    append, records.ids = records.append, []

    def noting(**record: Any) -> Any:
        taken = append(**record)
        if taken is not None:
            records.ids.append(dict(record["headers"])["event_id"])
        return taken

    records.append = noting
    return records
