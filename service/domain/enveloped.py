"""Makes records of events: ids, envelopes, and lists that are read in pages."""

import json
import re
from collections.abc import AsyncIterable, Callable, Sequence
from hashlib import sha1
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from service.domain.contract import (
    SOURCE_SERVICE,
    BatchEntity,
    BatchMetadata,
    Data,
    Envelope,
)

_NAMESPACE = UUID("2f1f3a5e-6c0d-4f0e-9d3b-8a54c1f7b6e2").bytes

_HASH = sha1(_NAMESPACE, usedforsecurity=False)

_VERSION_BITS, _VERSION_5 = 0xF000_C000_0000_0000_0000, 0x5000_8000_0000_0000_0000


class Outgoing(NamedTuple):
    """One record to publish, with the batch id as its key. `payload` is JSON in UTF-8, up to many megabytes."""

    topic: str
    batch_id: str
    event_id: UUID
    payload: bytes | bytearray
    correlation_id: UUID
    traceparent: str | None
    tracestate: str | None


class Origin(NamedTuple):
    """The correlation id and the trace context that an event takes over from the input that caused it."""

    correlation_id: UUID
    traceparent: str | None = None
    tracestate: str | None = None


# Rows of the outbox and relays of the previous release depend on this form: one line, and these fields first, in this
# order. Views find topic and event id in it, too. Extend what is read here one release before `_enveloped` changes.
_HEAD = re.compile(
    rb'{"event_id":"([^"]{36})","event_type":"([^"]+)","event_timestamp":"[^"]+","source_service":"[^"]+",'
    rb'"schema_version":1,"correlation_id":"([^"]{36})",'
)

_METADATA = b'"metadata":'

_SOURCE = SOURCE_SERVICE.encode()


def headers_of(event: bytes) -> list[tuple[str, bytes]]:
    """Return the Kafka headers of an event of this service: its id, type, correlation id and source, and its trace.

    Reads the ends of the envelope only, since `data` may be many megabytes. The quoted name of a field cannot occur
    within a string, where quotes are escaped. Raises ValueError where `event` is no such envelope.
    """
    head = _HEAD.match(event)
    if head is None:
        raise ValueError("not an event of this service")
    event_id, event_type, correlation_id = head.groups()
    headers = [
        ("event_id", event_id),
        ("event_type", event_type),
        ("correlation_id", correlation_id),
        ("source_service", _SOURCE),
    ]
    if not event.endswith(b"null}"):
        trace = orjson.loads(event[event.rindex(_METADATA) + len(_METADATA) : -1])
        headers += [(name, str(trace[name]).encode()) for name in ("traceparent", "tracestate") if name in trace]
        if parent := trace.get("traceparent"):
            headers.append(("trace_id", str(parent)[3:35].encode()))
    return headers


class Unpublishable(ValueError):
    """An event is larger than its topic allows."""

    def __init__(self, topic: str, batch_id: str, max_bytes: int) -> None:
        super().__init__(f"{topic} of batch {batch_id} is larger than {max_bytes} bytes")
        self.topic, self.batch_id, self.max_bytes = topic, batch_id, max_bytes


def event_id(topic: str, batch_id: str, subject: str = "") -> UUID:
    """Return the id of an event: the UUIDv5 of its topic, its batch and its subject.

    The length of the batch id distinguishes ("ab", "c") from ("a", "bc"). Computed here, since `uuid.uuid5` takes twice
    as long.
    """
    name = f"{topic} {len(batch_id)} {batch_id}{subject}".encode()
    digest = _HASH.copy()
    digest.update(name)
    return UUID(int=int.from_bytes(digest.digest()[:16]) & ~_VERSION_BITS | _VERSION_5)


def batch_entity(batch_id: str) -> BatchEntity:
    """Return the reference to a batch that several events contain."""
    return {"entity_id": batch_id, "entity_type": "batch", "parent_id": None}


def batch_metadata(batch_id: str, event: str, time: str) -> BatchMetadata:
    """Return the `metadata` that the `data` of several events contains."""
    entity = batch_entity(batch_id)
    return {
        "entity": entity,
        **entity,
        "timestamp": time,
        "processing_stage": None,
        "started_at": None,
        "completed_at": None,
        "event": event,
        "error_info": {},
    }


def _enveloped(topic: str, identity: UUID, data: Data, origin: Origin, time: str) -> Envelope[Data]:
    trace = {}
    if origin.traceparent:
        trace["traceparent"] = origin.traceparent
    if origin.tracestate:
        trace["tracestate"] = origin.tracestate
    return {
        "event_id": identity,
        "event_type": topic,
        "event_timestamp": time,
        "source_service": SOURCE_SERVICE,
        "schema_version": 1,
        "correlation_id": origin.correlation_id,
        "data_schema_uri": None,
        "data": data,
        "metadata": trace or None,
    }


def small_event(
    topic: str, batch_id: str, subject: str, data: object, origin: Origin, time: str, max_bytes: int
) -> Outgoing:
    """Build an event without long lists. Raises Unpublishable."""
    identity = event_id(topic, batch_id, subject)
    payload = orjson.dumps(_enveloped(topic, identity, data, origin, time))
    if len(payload) > max_bytes:
        raise Unpublishable(topic, batch_id, max_bytes)
    return Outgoing(topic, batch_id, identity, payload, *origin)


async def paged_event(
    topic: str,
    batch_id: str,
    data: object,
    origin: Origin,
    time: str,
    max_bytes: int,
    *lists: tuple[str, AsyncIterable[Sequence[Any]], Callable[[Any], object]],
) -> Outgoing:
    """Build an event whose lists are read in pages, so that only the payload is in memory. Raises Unpublishable.

    Each of `lists` is (name, pages, function from an element to JSON), and is empty in `data`. The text before a list
    is written before its pages are read, the text behind it afterwards, so that `data` may change there meanwhile. The
    quoted name of a list cannot occur within a string, where quotes are escaped.
    """
    identity = event_id(topic, batch_id)
    event = _enveloped(topic, identity, data, origin, time)
    payload, rest = bytearray(), orjson.dumps(event)
    for name, pages, element in lists:
        opening = f'"{name}":['.encode()
        payload += rest.partition(opening)[0] + opening
        async for page in pages:
            if page:
                payload += _elements([element(row) for row in page])
                payload += b","
            if len(payload) > max_bytes:
                raise Unpublishable(topic, batch_id, max_bytes)
        if payload.endswith(b","):
            del payload[-1:]
        rest = orjson.dumps(event).partition(opening)[2]
    payload += rest
    if len(payload) > max_bytes:
        raise Unpublishable(topic, batch_id, max_bytes)
    return Outgoing(topic, batch_id, identity, payload, *origin)


def _elements(values: list[object]) -> memoryview | bytes:
    """Return the JSON of a list without its brackets."""
    try:
        return memoryview(orjson.dumps(values))[1:-1]
    except TypeError:
        return b",".join(map(_json, values))


def _json(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        # jsonb writes 1e300 as an integer of 301 digits, which orjson does not support.
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
