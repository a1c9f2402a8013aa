"""Tests that the Kafka headers of an event are read from its envelope, whatever its data contains."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.enveloped import Origin, headers_of, small_event

TRICKY = st.sampled_from(
    ['"metadata":', '"metadata":null}', "null}", '","tracestate":"', '{"event_id":"', "\n", '\\"', "\x00", "å"]
)
TEXT = st.lists(TRICKY | st.text(max_size=8), max_size=6).map("".join)
TEXT = TEXT.filter(lambda text: not any(0xD800 <= ord(char) <= 0xDFFF for char in text))
DATA = st.recursive(
    TEXT | st.none() | st.integers(-(2**53), 2**53) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.just("metadata"), inner, max_size=3),
    max_leaves=8,
)


@given(DATA, st.uuids(), st.none() | TEXT, st.none() | TEXT)
def test_headers_are_read_from_the_envelope_whatever_it_contains(
    data: object, correlation_id: UUID, traceparent: str | None, tracestate: str | None
) -> None:
    event = small_event(
        "a.topic", "b", "", data, Origin(correlation_id, traceparent, tracestate), "2026-11-29T00:00:00Z", 1 << 20
    )
    trace = {"traceparent": traceparent, "tracestate": tracestate}
    assert dict(headers_of(bytes(event.payload))) == {
        "event_id": str(event.event_id).encode(),
        "event_type": b"a.topic",
        "correlation_id": str(correlation_id).encode(),
        "source_service": b"essay-lifecycle-service",
        **{name: value.encode() for name, value in trace.items() if value},
        **({"trace_id": traceparent[3:35].encode()} if traceparent else {}),
    }
    assert b"\n" not in event.payload, "events are separated by line ends"


def test_the_trace_id_is_part_of_the_traceparent() -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    event = small_event("a.topic", "b", "", {}, Origin(UUID(int=1), parent), "2026-11-29T00:00:00Z", 1 << 20)
    assert dict(headers_of(bytes(event.payload)))["trace_id"] == b"4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize("text", [b"", b"{}", b"no JSON", b'{"event_type":"a.topic","event_id":"x"}'])
def test_anything_else_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not an event"):
        headers_of(text)
