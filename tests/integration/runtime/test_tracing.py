"""One trace covers the path of a record to the event that it causes, and leads to the traces that it joins."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaProducer
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanKind, StatusCode

from deploy.servers.brokers import Broker
from deploy.servers.pods import until
from service.consumer.consumer import Consumer
from service.domain.delivery import Delivery, IntakeLimits
from service.domain.events import BatchRegistered, ContentProvisioned, Reason, Rejection
from service.domain.topics import BATCH_COMPLETED, BATCH_READY, BATCH_REGISTERED, CONTENT_PROVISIONED, SLOT_ASSIGNED
from service.intake.intake import Intake
from service.kafka.connection import client_options
from service.kafka.group import ConsumerOptions
from service.kafka.producer import Producer
from service.postgres.pool import Database
from service.relay.relay import Relay
from service.runtime import tracing
from service.runtime.health import Health
from tests.support.builders.inputs import content, provisioned, registered, registration
from tests.support.pods.applier import forget

CONTENT = "00-" + "c" * 32 + "-" + "1" * 16 + "-01"
REGISTRATION = "00-" + "b" * 32 + "-" + "2" * 16 + "-01"
UNSAMPLED = "00-" + "a" * 32 + "-" + "3" * 16 + "-00"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider, "a group")
    yield exporter
    tracing.use(None)


def traced(value: bytes, **metadata: str) -> bytes:
    return json.dumps({**json.loads(value), "metadata": metadata}).encode()


def context_of(span: ReadableSpan | Link) -> str:
    assert span.context
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"


def parent_of(span: ReadableSpan) -> str:
    assert span.parent
    return f"00-{span.parent.trace_id:032x}-{span.parent.span_id:016x}-01"


async def test_one_trace_covers_the_path_from_a_record_to_its_event_and_links_the_traces_that_it_joins(
    spans: InMemorySpanExporter, app_url: str, tansu: Broker
) -> None:
    database = Database(app_url)
    health = Health()
    consumer = Consumer(
        client_options(tansu.bootstrap_servers),
        database,
        Intake(database, IntakeLimits(), health, forget),
        health,
        ConsumerOptions(group=uuid4().hex),
        lag=lambda *_: None,
    )
    relay = Relay(database, lambda: Producer(client_options(tansu.bootstrap_servers), idempotent=False))
    stop = asyncio.Event()
    running = [asyncio.create_task(part.run(stop)) for part in (consumer, relay)]
    producer = AIOKafkaProducer(bootstrap_servers=tansu.bootstrap_servers, enable_idempotence=False)
    await producer.start()

    def of(trace: str) -> list[ReadableSpan]:
        """The spans of a trace, in the order of their beginning."""
        found = [each for each in spans.get_finished_spans() if context_of(each)[:35] == trace[:35]]
        return sorted(found, key=lambda each: each.start_time or 0)

    early = traced(content("b", "t"), traceparent=CONTENT, tracestate="vendor=1")
    sent = await producer.send_and_wait(CONTENT_PROVISIONED, early, b"b")
    await until(lambda: len(of(CONTENT)) == 2, 90, lambda: "the content is not applied")
    await producer.send_and_wait(BATCH_REGISTERED, traced(registration("b", ["e"]), traceparent=REGISTRATION), b"b")
    await until(lambda: len(of(CONTENT) + of(REGISTRATION)) == 7, 90, lambda: "not everything is published")
    stop.set()
    await asyncio.gather(*running)
    await producer.stop()
    await database.close()

    process, transaction, assigned = of(CONTENT)
    assert [(each.name, each.kind) for each in (process, transaction, assigned)] == [
        (f"process {CONTENT_PROVISIONED}", SpanKind.CONSUMER),
        ("transaction", SpanKind.INTERNAL),
        (f"send {SLOT_ASSIGNED}", SpanKind.PRODUCER),
    ]
    # The event carries the context of the record, and not that of our spans: both are children of it.
    assert [parent_of(each) for each in (process, transaction, assigned)] == [CONTENT, context_of(process), CONTENT]
    assert process.context
    assert process.context.trace_state.to_header() == "vendor=1"
    assert dict(process.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": CONTENT_PROVISIONED,
        "messaging.destination.partition.id": str(sent.partition),
        "messaging.kafka.offset": sent.offset,
        "messaging.consumer.group.name": "a group",
    }
    attributes = dict(assigned.attributes or {})
    assert UUID(str(attributes.pop("messaging.message.id"))).version == 5
    assert attributes.pop("messaging.message.conversation_id") == json.loads(early)["correlation_id"]
    assert int(str(attributes.pop("messaging.destination.partition.id"))) >= 0
    assert attributes == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": SLOT_ASSIGNED,
    }
    # The registration's trace leads to the upload that had waited.
    process, transaction, *announced = of(REGISTRATION)
    assert [each.name for each in announced] == [f"send {BATCH_COMPLETED}", f"send {BATCH_READY}"]
    assert [context_of(link) for link in transaction.links] == [CONTENT]
    assert [parent_of(each) for each in announced] == [REGISTRATION] * 2
    assert all(each.status.is_ok or each.status.status_code == StatusCode.UNSET for each in spans.get_finished_spans())


def record(trace: str | None, batch_id: str = "b", **fields: Any) -> Delivery:
    event = provisioned(batch_id, "t")
    assert isinstance(event.event, ContentProvisioned)
    event.event = event.event._replace(traceparent=trace)
    return replace(event, **fields)


@pytest.mark.parametrize("trace", [None, UNSAMPLED])
async def test_unsampled_records_make_no_span(spans: InMemorySpanExporter, trace: str | None) -> None:
    records = [record(trace), replace(record(trace), event=Rejection(Reason.NOT_JSON, "no"))]
    with tracing.process(records) as processing, processing.transaction(records) as joined:
        joined.link([("b", (CONTENT, None))])
    assert spans.get_finished_spans() == ()


async def test_an_upload_that_completes_a_batch_leads_to_the_trace_of_the_registration(
    spans: InMemorySpanExporter, app_url: str
) -> None:
    database = Database(app_url)
    intake = Intake(database, IntakeLimits(), Health(), forget)
    registered_ = registered("b", "e")
    assert isinstance(registered_.event, BatchRegistered)
    registered_.event = registered_.event._replace(traceparent=REGISTRATION)
    await intake.take([registered_])
    await intake.take([record(CONTENT)])
    await database.close()
    (_, transaction) = [each for each in spans.get_finished_spans() if each.name == "transaction"]
    assert parent_of(transaction)[:35] == CONTENT[:35]
    assert [context_of(link) for link in transaction.links] == [REGISTRATION]


async def test_a_failed_attempt_records_its_error(spans: InMemorySpanExporter) -> None:
    records = [record(CONTENT)]

    def fail() -> None:
        with tracing.process(records) as processing, processing.transaction(records):
            raise OSError("away")

    with pytest.raises(OSError, match="away"):
        fail()
    for span in spans.get_finished_spans():
        assert span.status.status_code == StatusCode.ERROR
        assert (span.attributes or {})["error.type"] == "OSError"
        assert [event.name for event in span.events] == ["exception"]


class Event(NamedTuple):
    topic: str = "a.topic"
    trace: tuple[str | None, str | None] = (CONTENT, None)
    headers: list[tuple[str, bytes]] = [("event_id", b"1"), ("correlation_id", b"2")]  # noqa: RUF012


async def test_an_event_that_is_not_acknowledged_has_an_error(spans: InMemorySpanExporter) -> None:
    published, held = Event(), Event("another.topic")
    with tracing.send([published, held]) as sending:
        sending.acknowledged([published], 3)
    found = {
        span.name: (span.status.status_code, (span.attributes or {}).get("error.type"))
        for span in spans.get_finished_spans()
    }
    assert found == {
        "send a.topic": (StatusCode.UNSET, None),
        "send another.topic": (StatusCode.ERROR, "not_acknowledged"),
    }


async def test_the_spans_and_links_of_a_poll_are_limited(spans: InMemorySpanExporter) -> None:
    traces = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 1001)]
    records = [record(trace) for trace in traces]
    with tracing.process(records) as processing, processing.transaction(records) as joined:
        joined.link([("b", (trace, None)) for trace in traces])
    found = spans.get_finished_spans()
    assert [span.name for span in found].count("transaction") == len(found) / 2 == tracing.SPANS
    assert sum(len(span.links) for span in found) <= tracing.LINKS
    spans.clear()
    with tracing.send([Event() for _ in traces]):
        pass
    assert len(spans.get_finished_spans()) == tracing.SPANS


async def test_without_a_collector_contexts_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tracing.ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    tracing.set_up("a group")

    class Unread(Sequence[Any]):
        def __getitem__(self, _: Any) -> Any:
            raise AssertionError

        def __len__(self) -> int:
            raise AssertionError

    with tracing.process(Unread()) as processing, processing.transaction(Unread()) as joined:
        joined.link(Unread())
    with tracing.send(Unread()) as sending:
        sending.acknowledged(Unread(), 0)


def test_a_collector_without_the_extra_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    with pytest.raises(tracing.NotInstalled, match="OTEL_EXPORTER_OTLP_ENDPOINT is set, and the extra `otel`"):
        tracing.set_up("a group")
