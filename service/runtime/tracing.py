"""Records OpenTelemetry spans of sampled records and events, if the optional extra `otel` is installed.

Every span belongs to the trace of the input that caused it, so that one trace covers its path, however long the input
waited in the database:

- a CONSUMER span `process TOPIC` for a record, from the poll to its commit, a child of the record's own trace context;
- an INTERNAL span `transaction` below it for each attempt to apply it; it links to the traces that it joins, which are
  those of uploads that had waited for the registration, and that of the registration where a batch is announced;
- a PRODUCER span `send TOPIC` for an event, a child of the trace context that the event carries. That is the one of the
  input (docs/events.md), and not that of our own spans: the headers of an event do not depend on tracing.

The number of spans of a poll, of a transaction and of a relay step is limited. While tracing is off, each of them costs
one comparison. Attributes follow the messaging conventions of OpenTelemetry.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext, SpanKind, Tracer, TracerProvider

ENDPOINT_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""The standard variables of OpenTelemetry that name a collector. Tracing is on if one of them is set."""

LINKS: Final = 128
"""Maximum number of links of a span: the default limit of OpenTelemetry, which collectors accept."""

SPANS: Final = 128
"""Maximum number of sampled records of a poll, and of sampled events of a relay step, that get spans."""

TraceContext = tuple[str | None, str | None]
"""The traceparent and tracestate of an input."""

_Key = TypeVar("_Key")


class _Record(Protocol):
    topic: str
    partition: int
    offset: int
    event: Any
    """An event with a batch id and a trace context, or a rejection, which has none."""


class _Event(Protocol):
    @property
    def topic(self) -> str: ...
    @property
    def trace(self) -> TraceContext: ...
    @property
    def headers(self) -> list[tuple[str, bytes]]: ...


class NotInstalled(Exception):
    """A collector is configured, but the extra `otel` is not installed. The message is one line."""


class _Switch:
    tracer: "Tracer | None" = None
    group: str = ""


def set_up(group: str) -> None:
    """Turn tracing on if the environment names a collector. `group` is the consumer group. Raises NotInstalled."""
    if not any(os.environ.get(name) for name in ENDPOINT_VARIABLES):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise NotInstalled(f"{ENDPOINT_VARIABLES[1]} is set, and the extra `otel` is not installed: {error}") from None
    resource = Resource.create({SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", "essay-lifecycle-service")})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    use(provider, group)


def use(provider: "TracerProvider | None", group: str = "") -> None:
    """Send spans to this provider. None turns tracing off."""
    _Switch.tracer = provider.get_tracer("essay-lifecycle-service") if provider else None
    _Switch.group = group


class Processing:
    """The CONSUMER spans of the sampled records of a poll."""

    def __init__(self, spans: "Mapping[int, Span]") -> None:
        self._spans = spans

    @contextmanager
    def transaction(self, records: Iterable[_Record]) -> "Iterator[Joined]":
        """Record an INTERNAL span for each of these records that has a CONSUMER span."""
        if not self._spans:
            yield _JOINS_NOTHING
            return
        spans: dict[int, Span] = {}
        joined = Joined({})
        for record in records:
            if parent := self._spans.get(id(record)):
                span = spans[id(record)] = _start("transaction", "INTERNAL", _below(parent), {})
                joined.add(record.event, span)
        with _ended(spans.values()):
            yield joined


class Joined:
    """Links the transaction of a batch to the traces that it joins."""

    def __init__(self, span_of: "dict[str, Span]") -> None:
        self._span_of = span_of

    def add(self, event: Any, span: "Span") -> None:
        """Add the span of an event. One span of a batch has the links: that of the registration, if there is one."""
        if event.batch_id not in self._span_of or hasattr(event, "essay_ids"):
            self._span_of[event.batch_id] = span

    def link(self, traces: Iterable[tuple[str, TraceContext]]) -> None:
        """Link to traces, each with the batch that joins it."""
        if not self._span_of:
            return
        for batch_id, trace in traces:
            context, span = _context_of(trace), self._span_of.get(batch_id)
            if span and context and context.trace_id != span.get_span_context().trace_id:
                span.add_link(context)


_NOTHING: Final = Processing({})
_JOINS_NOTHING: Final = Joined({})


@contextmanager
def process(records: Sequence[_Record]) -> Iterator[Processing]:
    """Record a CONSUMER span for each sampled record, until the records are applied or left to somebody else."""
    if not _Switch.tracer:
        yield _NOTHING
        return
    sampled = _sampled((record, (_text(record, "traceparent"), _text(record, "tracestate"))) for record in records)
    spans = {
        id(record): _start(
            f"process {record.topic}",
            "CONSUMER",
            _within(context),
            {
                **_operation("process", record.topic, record.partition),
                "messaging.consumer.group.name": _Switch.group,
                "messaging.kafka.offset": record.offset,
            },
        )
        for record, context in sampled
    }
    with _ended(spans.values()):
        yield Processing(spans)


class Sending:
    """The PRODUCER spans of the sampled events of a relay step."""

    def __init__(self, spans: "dict[int, Span]") -> None:
        self.spans = spans

    def acknowledged(self, events: Iterable[_Event], partition: int) -> None:
        """End the spans of these events, which the broker has acknowledged."""
        if self.spans:
            for event in events:
                if span := self.spans.pop(id(event), None):
                    span.set_attribute("messaging.destination.partition.id", str(partition))
                    span.end()


@contextmanager
def send(events: Sequence[_Event]) -> Iterator[Sending]:
    """Record a PRODUCER span for each sampled event, until it is acknowledged. Those that are not have an error."""
    if not _Switch.tracer:
        yield Sending({})
        return
    sending = Sending(
        {
            id(event): _start(
                f"send {event.topic}",
                "PRODUCER",
                _within(context),
                {
                    **_operation("send", event.topic),
                    **{
                        name: dict(event.headers)[header].decode()
                        for name, header in (
                            ("messaging.message.id", "event_id"),
                            ("messaging.message.conversation_id", "correlation_id"),
                        )
                    },
                },
            )
            for event, context in _sampled((event, event.trace) for event in events)
        }
    )
    try:
        yield sending
    finally:
        for span in sending.spans.values():
            _fail(span, "not_acknowledged")
            span.end()


def _operation(name: str, topic: str, partition: int | None = None) -> dict[str, Any]:
    attributes = {
        "messaging.system": "kafka",
        "messaging.operation.name": name,
        "messaging.operation.type": name,
        "messaging.destination.name": topic,
    }
    return attributes if partition is None else {**attributes, "messaging.destination.partition.id": str(partition)}


def _text(record: _Record, name: str) -> str | None:
    value: str | None = getattr(record.event, name, None)
    return value


def _sampled(traced: Iterable[tuple[_Key, TraceContext]]) -> "Iterator[tuple[_Key, SpanContext]]":
    """Yield what has a sampled trace context, with this context; at most SPANS."""
    found = ((each, context) for each, trace in traced if (context := _context_of(trace)))
    return islice(found, SPANS)


def _context_of(trace: TraceContext) -> "SpanContext | None":
    """Return the trace context of an input, None where it has none or is not sampled."""
    traceparent, tracestate = trace
    if traceparent is None or not int(traceparent[-2:], 16) & 1:
        return None
    from opentelemetry.trace import SpanContext, TraceFlags, TraceState  # noqa: PLC0415

    _, trace_id, span_id, flags = traceparent.split("-")[:4]
    state = TraceState.from_header([tracestate]) if tracestate else TraceState()
    return SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)), state)


def _within(context: "SpanContext") -> "Context":
    from opentelemetry.trace import NonRecordingSpan  # noqa: PLC0415

    return _below(NonRecordingSpan(context))


def _below(parent: "Span") -> "Context":
    from opentelemetry.context import Context  # noqa: PLC0415
    from opentelemetry.trace import set_span_in_context  # noqa: PLC0415

    return set_span_in_context(parent, Context())


def _start(name: str, kind: str, parent: "Context", attributes: Mapping[str, Any]) -> "Span":
    from opentelemetry import trace  # noqa: PLC0415

    tracer: Tracer = _Switch.tracer or trace.NoOpTracer()
    kinds: type[SpanKind] = trace.SpanKind
    return tracer.start_span(name, parent, kinds[kind], attributes)


@contextmanager
def _ended(spans: "Iterable[Span]") -> Iterator[None]:
    """End these spans with the block, whose error they record."""
    try:
        yield
    except BaseException as error:
        for span in spans:
            span.record_exception(error)
            _fail(span, type(error).__qualname__)
        raise
    finally:
        for span in spans:
            span.end()


def _fail(span: "Span", error_type: str) -> None:
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR))
