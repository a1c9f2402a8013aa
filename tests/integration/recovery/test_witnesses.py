"""Removes a guard of recovery, and tests that its absence shows."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator

import psycopg
import pytest

from deploy.servers.pods import until
from service.domain.topics import CONTENT_PROVISIONED
from service.postgres.statements import STATEMENTS
from service.recovery import recovery
from tests.support.builders.inputs import content
from tests.support.pods.running_consumer import BOUND, PENDING, ConsumerFixture
from tests.support.pods.set_back import SetBack, set_back_fixture, traffic


@pytest.fixture
async def stack(strict_consumers: ConsumerFixture) -> AsyncIterator[SetBack]:
    async with set_back_fixture(strict_consumers) as stack:
        yield stack


@pytest.mark.only_in_test_all("leaving a group, which the embedded broker is slow to see")
async def test_without_reading_the_outputs_first_events_have_two_bodies(
    stack: SetBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object) -> int:
        return 0

    inputs = traffic(random.Random(1), "b", 20)
    await stack.start()
    await stack.keep()
    await stack.send(inputs)
    await stack.settled()
    await stack.stop()
    await stack.set_back()
    monkeypatch.setattr(recovery, "read_outputs", nothing)
    await stack.recover()
    stack.start_relay()
    await stack.published()
    bodies = defaultdict(set)
    for _, event_id, value in await stack.outputs():
        bodies[event_id].add(value)
    assert max(map(len, bodies.values())) == 2


async def test_without_the_check_of_the_rows_a_loss_is_not_noticed(
    strict_consumers: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll after the loss moves the rows forward, and so erases the evidence."""
    await strict_consumers.start()
    await strict_consumers.publish(CONTENT_PROVISIONED, content("b", "t0"), content("b", "t1"))
    await strict_consumers.all_committed()
    unchecked = STATEMENTS["record_progress"].partition("select\n    els.check_server()")[0]
    monkeypatch.setitem(STATEMENTS, "record_progress", f"{unchecked} select from written")
    with psycopg.connect(strict_consumers.conn.info.dsn, password=strict_consumers.conn.info.password) as conn:
        conn.execute("delete from els.pending_content")
        conn.execute("update els.progress set next_offset = 0")
    await strict_consumers.publish(CONTENT_PROVISIONED, content("b", "t2"))
    await strict_consumers.all_committed()
    await until(lambda: strict_consumers.value(PENDING) == 1, BOUND, lambda: "t2 is not applied")
    await asyncio.sleep(2)  # more than a round in which rows are written
    assert strict_consumers.value("select count(*) from els.recovery") == 0
