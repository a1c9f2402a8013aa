"""Builds rows of the outbox for tests that fill it themselves."""

import json
from collections import Counter
from typing import Final
from uuid import UUID, uuid4

from service.domain.enveloped import Origin, Outgoing, small_event

CORRELATION_ID: Final = UUID(int=7)

INSERT_ROW: Final = "insert into els.outbox_pages (batch_id, topics, events) values (%s, %s, %s)"
"""Takes what `row_of` returns."""

INSERT_PREVIOUS_ROW: Final = """
    insert into els.outbox (id, aggregateid, type, payload, correlation_id, traceparent, tracestate)
    values (%s, %s, %s, %s, %s, %s, %s)
"""
"""The row of one event in the form of the previous release. Takes what `previous_row_of` returns."""


def event(batch_id: str, topic: str, text: object = "", trace: Origin = Origin(CORRELATION_ID)) -> Outgoing:  # noqa: B008  a tuple
    """An event of its own, with `text` as its data."""
    data = {"text": text}
    return small_event(topic, batch_id, uuid4().hex, data, trace, "2026-11-29T00:00:00Z", max_bytes=1 << 30)


def row_of(*events: Outgoing) -> tuple[str, str, str]:
    """The columns of one row with these events, which are of one batch."""
    lines = "\n".join(event.payload.decode() for event in events)
    return events[0].batch_id, json.dumps(Counter(event.topic for event in events)), lines


def previous_row_of(event: Outgoing) -> tuple[object, ...]:
    """The columns of the row of one event in the form of the previous release."""
    trace = event.traceparent, event.tracestate
    return event.event_id, event.batch_id, event.topic, event.payload.decode(), event.correlation_id, *trace
