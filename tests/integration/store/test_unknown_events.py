"""Tests which published events show that a database has lost transactions."""

import time

import pytest

from service.consumer.announced import EVENT_KINDS
from service.domain.delivery import IntakeLimits
from service.domain.topics import OUTGOING_TOPICS
from service.intake.intake import Intake
from service.intake.outcome import Effects
from service.operators.batches import BatchActions
from service.postgres.pool import Database
from service.runtime.health import Health
from service.store.operator_actions import Operator
from service.store.progress import AnnouncedEvent, count_unknown_events
from tests.support.builders.inputs import provisioned, registered

OLD = 7_200_000
"""The age of an event in milliseconds; the other events are new."""
KNOWN = [
    AnnouncedEvent("slot", "b", "t0", "e1", 1, 0),
    AnnouncedEvent("excess", "b", "t1", None, 1, 0),
    AnnouncedEvent("completed", "b", None, None, 1, 0),
    AnnouncedEvent("timeout", "b", None, None, 1, 0),
    AnnouncedEvent("cancelled", "gone", None, None, 1, 0),
    AnnouncedEvent("expired", "early", "t2", None, 1, 0),
    AnnouncedEvent("slot", "deleted long ago", "t", "e", 1, OLD),
    AnnouncedEvent("expired", "deleted long ago", "t", None, 1, OLD),
]
UNKNOWN = [
    AnnouncedEvent("slot", "b", "t1", "e1", 1, 0),
    AnnouncedEvent("slot", "b", "t0", "e2", 1, 0),
    AnnouncedEvent("excess", "b", "t0", None, 1, 0),
    AnnouncedEvent("completed", "open", None, None, 1, 0),
    AnnouncedEvent("timeout", "open", None, None, 1, 0),
    AnnouncedEvent("cancelled", "b", None, None, 1, 0),
    AnnouncedEvent("ready", "gone", None, None, 1, 0),
    AnnouncedEvent("expired", "early", "t3", None, 1, 0),
    AnnouncedEvent("slot", "not there", "t", "e", 1, 0),
    AnnouncedEvent("slot", "deleted long ago", "t", "e", 10**9, OLD),
]


async def forget(_: Effects) -> None:
    """Reports nothing."""


@pytest.mark.parametrize(
    ("event", "unknown"), [*((event, 0) for event in KNOWN), *((event, 1) for event in UNKNOWN)], ids=str
)
async def test_an_event_is_unknown_where_the_tables_contradict_it(
    database_url: str, event: AnnouncedEvent, unknown: int
) -> None:
    database = Database(database_url)
    try:
        intake = Intake(database, IntakeLimits(), Health("database"), forget)
        await intake.take([registered("b", "e1"), provisioned("b", "t0"), provisioned("b", "t1")])
        await intake.take([registered("open", "e1"), provisioned("early", "t2"), registered("gone", "e1")])
        await BatchActions(database, IntakeLimits()).cancel(Operator("a test"), "gone", "OTHER")
        async with database.transaction() as conn:
            await conn.execute("update els.batches set timed_out_at = now() where batch_id = 'b'")
            dated = event._replace(published_at=round(time.time() * 1000) - event.published_at)
            assert await count_unknown_events(conn, [dated]) == unknown
    finally:
        await database.close()


def test_every_event_of_the_service_is_compared() -> None:
    assert set(EVENT_KINDS) == set(OUTGOING_TOPICS)
