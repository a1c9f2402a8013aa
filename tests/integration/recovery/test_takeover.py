"""Tests that topics of older implementations are taken over without contradicting what these announced first."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from service.domain.topics import EXCESS_CONTENT, SLOT_ASSIGNED
from tests.support.builders.older_implementation import OlderImplementation, Places, authoritative
from tests.support.pods.running_consumer import ConsumerFixture
from tests.support.pods.set_back import SetBack, set_back_fixture, traffic


@pytest.fixture
async def stack(strict_consumers: ConsumerFixture) -> AsyncIterator[SetBack]:
    async with set_back_fixture(strict_consumers) as stack:
        yield stack


@pytest.mark.parametrize("places", ["in order", "at random"])
async def test_no_announcement_of_an_older_implementation_is_contradicted(stack: SetBack, places: Places) -> None:
    await check_taken_over(stack, 1, places)


async def check_taken_over(stack: SetBack, seed: int, places: Places) -> None:
    """Asserts that a recovery of an empty database keeps to what was announced first, and publishes the rest."""
    chance = random.Random(seed)
    inputs = traffic(chance, "b", 20)
    announced = OlderImplementation(chance, places).announcements(inputs)
    assert announced
    await stack.send(inputs)
    for topic, batch_id, data in announced:
        await stack.announce(topic, batch_id, **data)
        await asyncio.sleep(0.002)  # records of one millisecond have no order across partitions
    slots, contradictions = authoritative(announced)
    recovered = await stack.recover()
    assert len(recovered.contradictions) == contradictions
    rows: dict[Any, Any] = {
        (batch_id, essay_id): text
        for batch_id, essay_id, text in stack.consumers.conn.execute(
            "select batch_id, essay_id, text_storage_id from els.slots"
        )
    }
    registered = {batch_id for batch_id, _ in rows}
    first = {(batch_id, essay): text for batch_id, some in slots.items() for essay, text in some.items()}
    assert {key: rows.get(key) for key in first} == first
    assert stack.consumers.conn.execute("select * from ops.invariant_violations").fetchall() == []
    waiting = stack.consumers.conn.execute("select batch_id from els.pending_content").fetchall()
    assert not registered & {batch_id for (batch_id,) in waiting}
    stack.start_relay()
    await stack.published()
    await stack.stop_relay()
    for topic, event_id, value in await stack.outputs():
        if not event_id:
            continue
        data = orjson.loads(value)["data"]
        place = data["batch_id"], data.get("essay_id")
        if topic == SLOT_ASSIGNED:
            assert place not in first or first[place] == data["text_storage_id"]
            assert rows[place] == data["text_storage_id"]
        elif topic == EXCESS_CONTENT:
            assert data["text_storage_id"] not in slots.get(data["batch_id"], {}).values()
