"""Builds the events of a purge. One that is too large for its topic must not stop it: the change is made without it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from psycopg import AsyncConnection

from service.domain import outgoing
from service.domain.enveloped import Origin, Outgoing, Unpublishable
from service.domain.events import trace_id_of
from service.domain.topics import BATCH_READY
from service.store import batches, outbox, slots
from service.store.announcements import announcements_of
from service.store.retention import ExpiredContent, LateBatch

_log = structlog.get_logger(__name__)


def expired_event(content: ExpiredContent, now: datetime, max_bytes: int) -> Outgoing | None:
    """Build PendingContentExpired; None where it is too large for its topic, which is logged."""
    origin = Origin(content.correlation_id, content.traceparent, content.tracestate)
    try:
        return outgoing.pending_expired(
            content.batch_id,
            content.text_storage_id,
            content.file_upload_id,
            content.original_file_name,
            content.stored_at,
            now,
            origin,
            max_bytes=max_bytes,
        )
    except Unpublishable as error:
        _log_unpublishable(error, content.correlation_id, content.traceparent, text_storage_id=content.text_storage_id)
        return None


async def timeout_event(
    conn: AsyncConnection[Any], batch: LateBatch, timeout: int, now: datetime, max_bytes: int
) -> Outgoing | None:
    """Build BatchReadinessTimeout; None where it is too large for its topic, which is logged."""
    try:
        return await outgoing.readiness_timeout(
            batch.batch_id,
            slots.stream_assigned_slots(conn, batch.batch_id),
            slots.read_open_slots(conn, batch.batch_id),
            batch.expected,
            batch.assigned,
            timeout,
            Origin(batch.correlation_id, batch.traceparent, batch.tracestate),
            now,
            max_bytes=max_bytes,
        )
    except Unpublishable as error:
        _log_unpublishable(error, batch.correlation_id, batch.traceparent)
        return None


async def publish_ready(
    conn: AsyncConnection[Any], batch_ids: Sequence[str], max_bytes: int
) -> list[tuple[str, UUID, str | None]]:
    """Publish BatchEssaysReady of batches, except where it is too large for its topic, which is logged.

    Returns the id, correlation id and traceparent of each published one.
    """
    published = []
    for row in (await batches.read_batches(conn, batch_ids)).values() if batch_ids else ():
        try:
            events = announcements_of(conn, row, max_bytes=max_bytes, topics={BATCH_READY})
            await publish(conn, [event async for event in events])
            published.append((row.batch_id, row.correlation_id, row.traceparent))
        except Unpublishable as error:
            _log_unpublishable(error, row.correlation_id, row.traceparent)
    return published


async def publish(conn: AsyncConnection[Any], events: Sequence[Outgoing]) -> None:
    """Write events into the outbox."""
    if events:
        await outbox.insert_outbox(conn, events)


def _log_unpublishable(error: Unpublishable, correlation_id: UUID, traceparent: str | None, **more: str) -> None:
    """Log an event that is too large for its topic. It must not stop the purge; the change is made without it."""
    more |= {"trace_id": trace_id} if (trace_id := trace_id_of(traceparent)) else {}
    _log.error(
        "event_not_published",
        batch_id=error.batch_id,
        correlation_id=str(correlation_id),
        topic=error.topic,
        error=str(error),
        **more,
    )
