"""A search for an id of a batch finds everything that happened to it: every line of the log carries the ids."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from service.domain.delivery import Delivery
from service.domain.events import AssociationsConfirmed, BatchRegistered, ContentProvisioned, ValidationFailed
from service.intake.reporting import report
from service.purge import reporting as purge_reporting
from service.purge.policy import RetentionPolicy
from service.purge.purge import purge_once
from tests.support.builders.inputs import confirmed, failed, provisioned, registered
from tests.support.pods.applier import ApplyFixture, apply_fixture

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HOUR = 3600
POLICY = RetentionPolicy(HOUR, HOUR, HOUR, HOUR, HOUR, HOUR)
IDENTITY = {"content": "text_storage_id", "failure": "file_upload_id"}
"""The id that a line carries beside that of the batch, by the first word of its event."""

ON_ARRIVAL = ("_registered", "_pending", "_excess", "_repeated", "_differs", "_rejected")
"""The events of a record, not of an upload that had waited."""


@pytest.fixture
async def applier(database_url: str) -> AsyncIterator[ApplyFixture]:
    async with apply_fixture(database_url) as found:
        yield found


def traced(delivery: Delivery) -> Delivery:
    event: Any = delivery.event
    assert isinstance(event, BatchRegistered | ContentProvisioned | ValidationFailed | AssociationsConfirmed)
    delivery.event = event._replace(traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
    return delivery


async def test_every_line_about_a_batch_carries_its_ids_in_every_state(applier: ApplyFixture) -> None:
    async def poll(*deliveries: Delivery) -> None:
        await report((await applier.once(*map(traced, deliveries))).effects)

    async def purge(hours: float) -> None:
        now = datetime.now(UTC) + timedelta(hours=hours)
        await purge_once(applier.database, POLICY, now=now, committed=purge_reporting.report)

    conflict = registered("b", "e1", "e5")
    with capture_logs() as lines:
        # Its uploads come first, and one of them twice, with another file.
        await poll(provisioned("b", "t1"), provisioned("b", "t2"), failed("b", "u1"), confirmed("b", "8a"))
        await poll(provisioned("b", "t1", file_size_bytes=1), failed("b", "u1"))
        await poll(registered("b", "e1", "e2", "e3", "e4", class_id="8a"))
        await poll(provisioned("b", "t3"), failed("b", "u2"), provisioned("b", "t4"))
        await poll(confirmed("b", "8a"), registered("b", "e4", "e3", "e2", "e1", class_id="8a"))
        await poll(failed("b", "u3"))
        for _ in range(2):
            await poll(conflict)
        # Batches that wait: for a registration, for content, and for a confirmation.
        await poll(provisioned("early", "t1"), failed("early", "u1"), registered("late", "e1"))
        await poll(registered("unconfirmed", "e1", class_id="8a"), provisioned("unconfirmed", "t1"))
        await poll(confirmed("late", "8a"), registered("failed", "e1"), failed("failed", "u1"))
        await purge(1.5)
        applier.conn.execute("delete from els.outbox_pages")
        await purge(4)

    about = [line for line in lines if "rows" not in line and not line["event"].startswith("quarantine_")]
    for line in about:
        origin = [line.get(name) for name in ("batch_id", "correlation_id", "trace_id")]
        assert origin[0] in ("b", "early", "late", "unconfirmed", "failed"), line
        assert (str(UUID(str(origin[1]))), origin[2]) == (str(origin[1]), TRACE), line
        if identity := IDENTITY.get(line["event"].split("_")[0]):
            assert line[identity], line
        if line["event"].endswith(ON_ARRIVAL):
            assert {"topic", "partition", "offset"} <= line.keys(), line
    assert {line["event"] for line in about} == {
        *("batch_registered", "batch_completed", "batch_ready", "batch_failed", "batch_timed_out", "batch_deleted"),
        *("content_pending", "content_assigned", "content_excess", "content_repeated", "content_differs"),
        *("content_expired", "content_deleted"),
        *("failure_pending", "failure_slot", "failure_surplus", "failure_repeated", "failure_expired"),
        "failure_deleted",
        *("confirmation_pending", "confirmation_applied", "confirmation_unused", "confirmation_repeated"),
        *("registration_repeated", "registration_differs", "input_rejected", "rejection_repeated"),
    }
