"""Tests that published events are built as the contract says, within the sizes of their topics."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from service.domain import contract, enveloped, failure_events, outgoing
from service.domain.contract import DATA_OF
from service.domain.delivery import IntakeLimits
from service.domain.enveloped import Origin, Outgoing, Unpublishable
from service.domain.events import (
    ContentProvisioned,
    Rejection,
    ValidationFailed,
)
from service.domain.failure_events import FailedSlot
from service.domain.topics import (
    BATCH_READY,
    LARGEST_COMPRESSED,
    LARGEST_VALUE,
    OUTGOING_TOPICS,
    VALIDATION_ERRORS,
)
from tests.support.builders.samples import (
    ABSENT,
    BATCH,
    CONTENT,
    CORRELATION,
    DATA,
    FAILURE,
    MIB,
    NOW,
    ORIGIN,
    TRACEPARENT,
    having,
    read,
    sample,
    text,
)
from tests.support.checks.readers import read_strictly


async def paged(*pages: Sequence[Any]) -> AsyncIterator[Sequence[Any]]:
    for page in pages:
        yield page


def moment(written: str) -> datetime:
    return datetime.fromisoformat(written)


def failed_slot(upload: str = "upload-0002", **detail: Any) -> FailedSlot:
    event = read(FAILURE)
    assert isinstance(event, ValidationFailed)
    return FailedSlot(
        upload,
        event.original_file_name,
        event.validation_error_code,
        {**event.error_detail, **detail},
        event.failed_at,
        event.correlation_id,
    )


def build(name: str, data: dict[str, Any], origin: Origin) -> Outgoing:
    """The event of a sample, from the sample's own values."""
    ready = [(essay["essay_id"], essay["text_storage_id"]) for essay in data.get("ready_essays", [])]
    at = moment((data.get("metadata") or data)["timestamp"])
    match name:
        case "out.essay_slot_assigned":
            return outgoing.slot_assigned(
                data["batch_id"],
                data["essay_id"],
                data["text_storage_id"],
                data["file_upload_id"],
                data["original_file_name"],
                origin,
                at,
                max_bytes=MIB,
            )
        case "out.excess_content_provisioned":
            return outgoing.excess_content(
                data["batch_id"],
                data["text_storage_id"],
                data["original_file_name"],
                data["reason"],
                origin,
                at,
                max_bytes=MIB,
            )
        case "out.pending_content_expired":
            return outgoing.pending_expired(
                data["batch_id"],
                data["text_storage_id"],
                data["file_upload_id"],
                data["original_file_name"],
                moment(data["stored_at"]),
                moment(data["expired_at"]),
                origin,
                max_bytes=MIB,
            )
        case "out.batch_essays_ready":
            pages = paged(ready[:1], [], ready[1:])
            course, instructions = data["course_code"], data["essay_instructions"]
            return asyncio.run(
                outgoing.batch_ready(BATCH, course, instructions, None, None, pages, origin, at, max_bytes=MIB)
            )
        case "out.batch_content_provisioning_completed":
            listed = [(essay["essay_id"], essay["text_storage_id"]) for essay in data["essays_for_processing"]]
            course, user, pages = data["course_code"], data["user_id"], paged(listed[:1], listed[1:])
            return asyncio.run(
                outgoing.batch_completed(BATCH, course, user, None, pages, 2, 2, origin, at, max_bytes=MIB)
            )
        case "out.batch_readiness_timeout":
            return asyncio.run(
                outgoing.readiness_timeout(
                    BATCH,
                    paged(ready),
                    paged(data["missing_essay_ids"]),
                    2,
                    1,
                    86400,
                    origin,
                    at,
                    max_bytes=MIB,
                )
            )
        case "out.batch_cancelled":
            return outgoing.batch_cancelled(BATCH, data["reason"], 3, 1, 0, origin, at, max_bytes=MIB)
        case _:
            return errors([failed_slot()], origin=origin, now=at)


def errors(
    *pages: Sequence[FailedSlot],
    critical: bool = False,
    origin: Origin = ORIGIN,
    now: datetime = NOW,
    max_bytes: int = 32 * MIB,
) -> Outgoing:
    return asyncio.run(
        failure_events.validation_errors(BATCH, lambda: paged(*pages), critical, origin, now, max_bytes=max_bytes)
    )


def ready(*pages: Sequence[tuple[str, str]], class_id: str | None = None, max_bytes: int = MIB) -> Outgoing:
    return asyncio.run(
        outgoing.batch_ready(BATCH, "SV1", "", class_id, None, paged(*pages), ORIGIN, NOW, max_bytes=max_bytes)
    )


OUT_SAMPLES = sorted(path.stem for path in (DATA / "contract").glob("out.*.json"))


@pytest.mark.parametrize("name", OUT_SAMPLES)
def test_each_event_is_built_as_its_sample_with_the_same_keys_in_the_same_order(name: str) -> None:
    expected = sample(name)
    trace = expected["metadata"] or {}
    event = build(name, expected["data"], Origin(UUID(expected["correlation_id"]), trace.get("traceparent")))
    built = json.loads(event.payload)
    assert built["event_id"] == str(event.event_id)
    # In the samples the time of the envelope differs from that of the event; in built events they are the same.
    expected["event_id"], expected["event_timestamp"] = built["event_id"], built["event_timestamp"]
    assert json.dumps(built) == json.dumps(expected)
    assert (event.topic, event.batch_id, event.correlation_id) == (expected["event_type"], BATCH, CORRELATION)
    assert event.traceparent == trace.get("traceparent")


@pytest.mark.parametrize("name", OUT_SAMPLES)
def test_samples_and_built_events_match_the_declared_types(name: str) -> None:
    expected = sample(name)
    envelope: Any = contract.Envelope
    adapter = TypeAdapter(envelope[DATA_OF[expected["event_type"]]])
    adapter.validate_json(text(expected))
    adapter.validate_json(build(name, expected["data"], ORIGIN).payload)
    for field in expected["data"]:
        with pytest.raises(ValueError, match=field):
            adapter.validate_json(text(having(expected, f"data.{field}", ABSENT)))


def test_every_outgoing_topic_has_its_sample_and_its_type() -> None:
    assert {sample(name)["event_type"] for name in OUT_SAMPLES} == set(OUTGOING_TOPICS) == set(DATA_OF)


def test_an_event_id_is_a_stable_uuid5_that_is_unique_by_subject() -> None:
    pairs = [("ab", "c"), ("a", "bc"), ("", "abc"), ("abc", ""), ("1 a", ""), ("a", "1 "), ("å", "b")]
    ids = {enveloped.event_id(topic, *pair) for topic in OUTGOING_TOPICS for pair in pairs}
    assert len(ids) == len(pairs) * len(OUTGOING_TOPICS)
    namespace = UUID(bytes=enveloped._NAMESPACE)
    assert enveloped.event_id(BATCH_READY, "å", "b") == uuid5(namespace, f"{BATCH_READY} 1 åb")


def test_an_event_that_is_built_again_later_has_the_same_id() -> None:
    def built(now: datetime) -> UUID:
        return outgoing.slot_assigned("b", "e", "t", "u", "n", ORIGIN, now, max_bytes=MIB).event_id

    assert built(NOW) == built(datetime(2027, 1, 1, tzinfo=UTC))


def test_content_that_expires_again_is_another_event() -> None:
    def built(expired_at: datetime) -> UUID:
        return outgoing.pending_expired("b", "t", "u", "n", NOW, expired_at, ORIGIN, max_bytes=MIB).event_id

    assert built(NOW) == built(NOW) != built(datetime(2027, 1, 1, tzinfo=UTC))


def test_text_leaves_as_utf_8_and_trace_context_only_where_it_is_known() -> None:
    origin = Origin(CORRELATION, TRACEPARENT, "a=b")
    event = outgoing.slot_assigned("b", "e", "t", "u", "Åsa", origin, NOW, max_bytes=MIB)
    assert "Åsa".encode() in event.payload
    assert json.loads(event.payload)["metadata"] == {"traceparent": TRACEPARENT, "tracestate": "a=b"}
    bare = outgoing.slot_assigned("b", "e", "t", "u", "Åsa", ORIGIN, NOW, max_bytes=MIB)
    assert json.loads(bare.payload)["metadata"] is None


@pytest.mark.parametrize(("class_id", "kind"), [(None, "GUEST"), ("", "GUEST"), ("class-1", "REGULAR")])
def test_a_batch_is_regular_where_its_registration_names_a_class(class_id: str | None, kind: str) -> None:
    data = json.loads(ready([("e", "t")], class_id=class_id).payload)["data"]
    assert (data["class_type"], data["course_language"]) == (kind, "sv")


@given(st.lists(st.lists(st.tuples(st.text(), st.text()), max_size=3), max_size=5))
def test_pages_are_joined_whatever_they_contain(pages: list[list[tuple[str, str]]]) -> None:
    expected = [{"essay_id": essay, "text_storage_id": content} for page in pages for essay, content in page]
    assert json.loads(ready(*pages).payload)["data"]["ready_essays"] == expected


def test_a_batch_whose_id_looks_like_the_list_of_its_essays_is_announced_completely() -> None:
    batch = '"ready_essays":[],"failed_essays":[]'
    event = asyncio.run(
        outgoing.batch_ready(batch, "SV1", batch, None, None, paged([("e", "t")]), ORIGIN, NOW, max_bytes=MIB)
    )
    data = json.loads(event.payload)["data"]
    assert (data["batch_id"], data["essay_instructions"]) == (batch, batch)
    assert data["ready_essays"] == [{"essay_id": "e", "text_storage_id": "t"}]


def test_an_event_may_be_as_long_as_its_limit_and_no_longer() -> None:
    def slot(max_bytes: int) -> Outgoing:
        return outgoing.slot_assigned("b", "e", "t", "u", "n", ORIGIN, NOW, max_bytes=max_bytes)

    length = len(slot(MIB).payload)
    assert len(slot(length).payload) == length
    with pytest.raises(Unpublishable):
        slot(length - 1)
    length = len(ready([("e", "t")]).payload)
    assert len(ready([("e", "t")], max_bytes=length).payload) == length
    with pytest.raises(Unpublishable) as raised:
        ready([("e", "t")], max_bytes=length - 1)
    assert BATCH in str(raised.value)
    length = len(errors([failed_slot()]).payload)
    assert len(errors([failed_slot()], max_bytes=length).payload) == length
    with pytest.raises(Unpublishable):
        errors([failed_slot()], max_bytes=100)


def test_no_further_page_is_read_once_an_event_is_too_long() -> None:
    given_out = []

    async def endless() -> AsyncIterator[Sequence[tuple[str, str]]]:
        while True:
            given_out.append(1)
            yield [("e" * 100, "t" * 100)] * 100

    with pytest.raises(Unpublishable):
        asyncio.run(outgoing.batch_ready(BATCH, "SV1", "", None, None, endless(), ORIGIN, NOW, max_bytes=100_000))
    assert len(given_out) < 10


def test_errors_are_counted_by_their_code() -> None:
    given = [
        ("EMPTY_CONTENT", "x"),
        (None, "CONTENT_TOO_LONG"),
        ("RAW_STORAGE_FAILED", "EMPTY_CONTENT"),
        (None, "b" * 1_024),
        ('"', "EMPTY_CONTENT"),
        ("c", "d"),
    ]
    slots = [
        failed_slot(f"u{n}", error_code=own, details={"a": 1})._replace(validation_error_code=code)
        for n, (own, code) in enumerate(given)
    ]
    data = json.loads(errors(slots[:2], slots[2:], critical=True).payload)["data"]
    assert data["error_summary"] == {
        "total_errors": 6,
        "error_categories": {
            "EMPTY_CONTENT": 2,
            "CONTENT_TOO_LONG": 1,
            "RAW_STORAGE_FAILED": 1,
            "UNKNOWN_VALIDATION_ERROR": 2,
        },
        "critical_failure": True,
    }
    assert [essay["essay_id"] for essay in data["failed_essays"]] == ["u0", "u1", "u2", "u3", "u4", "u5"]
    details = [essay["error_detail"]["details"] for essay in data["failed_essays"]]
    assert [each.get("original_error_code") for each in details] == ["x", None, None, "b" * 1_024, '"', "c"]
    assert {each["a"] for each in details} == {1}


def test_what_a_producer_left_out_is_filled_in_and_what_it_gave_is_kept() -> None:
    names = ("error_code", "correlation_id", "timestamp", "service", "operation", "details")
    nothing: dict[str, Any] = dict.fromkeys(names)
    slots = [failed_slot(**nothing), failed_slot(service="", operation="store", timestamp="t")]
    first, second = json.loads(errors(slots).payload)["data"]["failed_essays"]
    assert first["error_detail"] == {
        "error_code": "EMPTY_CONTENT",
        "message": "The file holds no text.",
        "correlation_id": str(CORRELATION),
        "timestamp": first["failed_at"],
        "service": "file_service",
        "operation": "validate_content",
        "details": {},
        "stack_trace": None,
        "trace_id": None,
        "span_id": None,
    }
    kept = second["error_detail"]
    assert (kept["service"], kept["operation"], kept["timestamp"]) == ("", "store", "t")


@pytest.mark.parametrize(
    ("message", "cut"),
    [("m" * 1024, "m" * 1024), ("m" * 1025, "m" * 1024), ("m" + "å" * 600, "m" + "å" * 511)],
)
def test_a_message_is_cut_at_a_kibibyte_between_two_characters(message: str, cut: str) -> None:
    data = json.loads(errors([failed_slot(message=message)]).payload)["data"]
    assert data["failed_essays"][0]["error_detail"]["message"] == cut


def test_details_and_stack_traces_are_left_out_where_the_event_would_exceed_16_mib() -> None:
    slots = [failed_slot(f"u{n}", details={"a": "x" * MIB}, stack_trace="s", trace_id="t") for n in range(17)]
    whole = json.loads(errors(slots[:15]).payload)["data"]["failed_essays"]
    bare = json.loads(errors(slots).payload)["data"]["failed_essays"]
    assert {essay["error_detail"]["stack_trace"] for essay in whole} == {"s"}
    assert len(bare) == 17
    for essay in bare:
        detail = essay["error_detail"]
        assert (detail["details"], detail["stack_trace"], detail["trace_id"]) == ({}, None, "t")


def test_the_code_of_the_producer_remains_where_the_details_are_left_out() -> None:
    slots = [
        failed_slot(f"u{n}", error_code="n" * 1_024, details={"a": "x" * MIB})._replace(validation_error_code="x")
        for n in range(17)
    ]
    for essay in json.loads(errors(slots).payload)["data"]["failed_essays"]:
        assert essay["error_detail"]["details"] == {"original_error_code": "n" * 1_024}


@pytest.mark.parametrize(
    ("number", "code", "known", "name"),
    [
        (10_000, "c" * 1_000, "UNKNOWN_VALIDATION_ERROR", ""),
        pytest.param(
            *(100_000, "ENCRYPTED_FILE_UNSUPPORTED", "ENCRYPTED_FILE_UNSUPPORTED", "ö" * 8),
            marks=[pytest.mark.only_in_test_all("a hundred thousand failures"), pytest.mark.no_cover],
        ),
    ],
)
def test_a_batch_of_failures_only_is_announced_however_long_their_texts_are(
    number: int, code: str, known: str, name: str
) -> None:
    """With fewer failures, in an event that is as much smaller."""
    long = failed_slot(message="m" * 2_000, details={"a": "x"}, operation="o" * 2_000, error_code=code)
    one = long._replace(original_file_name="ö" * 2_000, validation_error_code=code)
    slots = [one._replace(file_upload_id=str(UUID(int=each))) for each in range(number)]
    most = IntakeLimits().large_event_bytes * number // 100_000
    event = errors(slots, max_bytes=most)
    data = json.loads(event.payload)["data"]
    assert [essay["essay_id"] for essay in data["failed_essays"]] == [slot.file_upload_id for slot in slots]
    assert data["failed_essays"][0]["file_name"] == name
    assert data["error_summary"]["error_categories"] == {known: number}
    assert len(event.payload) <= LARGEST_COMPRESSED * number // 100_000
    if number == 100_000:
        assert len(event.payload) > LARGEST_VALUE
    envelope: Any = contract.Envelope
    TypeAdapter(envelope[contract.ValidationErrors]).validate_json(event.payload)
    read_strictly(event.topic, bytes(event.payload))


def test_a_large_number_as_jsonb_returns_it_can_be_published() -> None:
    event = errors([failed_slot(details={"n": 10**300, "å": 2**64})])
    detail = json.loads(event.payload)["data"]["failed_essays"][0]["error_detail"]
    assert detail["details"] == {"n": 10**300, "å": 2**64}
    assert event.topic == VALIDATION_ERRORS


@given(st.text(), st.text(), st.integers(0, 2**63 - 1))
def test_decoding_an_encoded_content_returns_the_same_content(name: str, md5: str, size: int) -> None:
    changed = having(having(CONTENT, "data.content_md5_hash", md5), "data.file_size_bytes", size)
    event = read(having(changed, "data.original_file_name", name))
    if "\0" in name + md5:
        assert isinstance(event, Rejection)
        return
    assert isinstance(event, ContentProvisioned)
    origin = Origin(event.correlation_id, event.traceparent, event.tracestate)
    sent = outgoing.slot_assigned(
        event.batch_id,
        "e",
        event.text_storage_id,
        event.file_upload_id,
        event.original_file_name,
        origin,
        NOW,
        max_bytes=MIB,
    )
    data = json.loads(sent.payload)["data"]
    assert (data["original_file_name"], data["text_storage_id"]) == (name, event.text_storage_id)
    assert (event.content_md5_hash, event.file_size_bytes) == (md5, size)
