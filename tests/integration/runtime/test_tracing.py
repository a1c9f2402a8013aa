"""Tests that each step is a root span with links to the traces of its inputs."""

import asyncio
import json
from collections.abc import Iterator
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from deploy.servers.brokers import Broker
from deploy.servers.pods import until
from service.consumer.consumer import Consumer
from service.domain.delivery import IntakeLimits
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from service.intake.intake import Intake
from service.kafka.connection import client_options
from service.kafka.group import ConsumerOptions
from service.kafka.producer import Producer
from service.postgres.pool import Database
from service.relay.relay import Relay
from service.runtime import tracing
from service.runtime.health import Health
from tests.support.builders.inputs import content, registration
from tests.support.interleaving.interleaving import forget

CONTENT = "00-" + "c" * 32 + "-" + "1" * 16 + "-01"
REGISTRATION = "00-" + "b" * 32 + "-" + "2" * 16 + "-01"
UNSAMPLED = "00-" + "a" * 32 + "-" + "3" * 16 + "-00"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    yield exporter
    tracing.use(None)


def traced(value: bytes, **metadata: str) -> bytes:
    return json.dumps({**json.loads(value), "metadata": metadata}).encode()


def linked(span: ReadableSpan) -> list[str]:
    return [f"00-{link.context.trace_id:032x}-{link.context.span_id:016x}-01" for link in span.links]


async def test_every_step_from_poll_to_publication_links_the_traces_of_its_inputs(
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

    def finished_spans(*steps: str) -> list[ReadableSpan]:
        return [span for span in spans.get_finished_spans() if span.name in steps]

    early = traced(content("b", "t"), traceparent=CONTENT, tracestate="vendor=1")
    await producer.send_and_wait(CONTENT_PROVISIONED, early, b"b")
    await until(lambda: len(finished_spans("apply")) == 1, 90, lambda: "the content is not applied")
    await producer.send_and_wait(BATCH_REGISTERED, traced(registration("b", ["e"]), traceparent=REGISTRATION), b"b")
    await until(lambda: len(finished_spans("publish")) == 1, 90, lambda: "nothing is published")
    stop.set()
    await asyncio.gather(*running)
    await producer.stop()
    await database.close()

    finished = spans.get_finished_spans()
    assert [(span.name, linked(span)) for span in finished] == [
        ("receive", [CONTENT]),
        ("apply", [CONTENT]),
        ("receive", [REGISTRATION]),
        ("apply", [REGISTRATION, CONTENT]),
        ("publish", [CONTENT, REGISTRATION]),
    ]
    assert all(span.parent is None for span in finished)
    assert len({span.context.trace_id for span in finished if span.context}) == 5
    assert finished[0].links[0].context.trace_state.to_header() == "vendor=1"


@pytest.mark.parametrize("parent", [None, UNSAMPLED])
async def test_unsampled_inputs_make_no_span(spans: InMemorySpanExporter, parent: str | None) -> None:
    with tracing.step("apply") as step:
        step.about(1, [(parent, None)])
    assert spans.get_finished_spans() == ()


async def test_a_failed_step_records_its_error(spans: InMemorySpanExporter) -> None:
    def fail() -> None:
        with tracing.step("publish") as step:
            step.about(1, [(CONTENT, None)])
            raise OSError("away")

    with pytest.raises(OSError, match="away"):
        fail()
    (span,) = spans.get_finished_spans()
    assert not span.status.is_ok
    assert [event.name for event in span.events] == ["exception"]


async def test_the_links_of_a_span_are_limited(spans: InMemorySpanExporter) -> None:
    with tracing.step("apply") as step:
        step.about(1000, [(f"00-{number:032x}-{number:016x}-01", None) for number in range(1, 1001)])
        step.about(1000, [(CONTENT, None)])
    (span,) = spans.get_finished_spans()
    assert len(span.links) == tracing.LINKS
    assert dict(span.attributes or {}) == {"messaging.batch.message_count": 2000}


async def test_without_a_collector_contexts_are_not_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tracing.ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    tracing.set_up()

    evaluated: list[int] = []

    def context(number: int) -> tuple[str | None, str | None]:
        evaluated.append(number)
        return CONTENT, None

    with tracing.step("apply") as step:
        step.about(3, map(context, range(3)))
    assert evaluated == []


def test_a_collector_without_the_extra_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    with pytest.raises(tracing.NotInstalled, match="OTEL_EXPORTER_OTLP_ENDPOINT is set, and the extra `otel`"):
        tracing.set_up()
