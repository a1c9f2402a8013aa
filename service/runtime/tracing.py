"""Records OpenTelemetry spans of the steps receive, apply and publish, if the optional extra `otel` is installed.

A step handles many inputs at once, and between two steps an input waits for milliseconds or for a day. So no span is a
child of another one: each step is a root span with links to the trace contexts of the sampled inputs that it handles.
The tables keep the trace context of a content, the outbox that of an event. While tracing is off, or no input is
sampled, a step costs one comparison.
"""

import os
import time
from collections.abc import Iterable
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Tracer, TracerProvider

ENDPOINT_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""The standard variables of OpenTelemetry that name a collector. Tracing is on if one of them is set."""

LINKS: Final = 128
"""Maximum number of links of a span: the default limit of OpenTelemetry, which collectors accept."""

Context = tuple[str | None, str | None]
"""The traceparent and tracestate of an input."""


class NotInstalled(Exception):
    """A collector is configured, but the extra `otel` is not installed. The message is one line."""


class _Switch:
    tracer: "Tracer | None" = None


def set_up() -> None:
    """Turn tracing on if the environment names a collector. Raises NotInstalled."""
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
    use(provider)


def use(provider: "TracerProvider | None") -> None:
    """Send spans to this provider. None turns tracing off."""
    _Switch.tracer = provider.get_tracer("essay-lifecycle-service") if provider else None


class step:  # noqa: N801  read as a statement: `with tracing.step("apply") as step`
    """Measures one step. At its end, records a span if at least one of the inputs that it handled is sampled."""

    __slots__ = ("_began", "_links", "_name", "_number")

    def __init__(self, name: Literal["receive", "apply", "publish"]) -> None:
        self._name = name
        self._number = 0
        self._links: list[Link] = []

    def __enter__(self) -> Self:
        self._began = time.time_ns() if _Switch.tracer else 0
        return self

    def about(self, number: int, contexts: Iterable[Context]) -> None:
        """Add inputs or events that the step handles. While tracing is off, `contexts` is not evaluated."""
        if _Switch.tracer:
            self._number += number
            distinct = dict.fromkeys(context for context in contexts if context[0] and _is_sampled(context[0]))
            self._links += [_link(*context) for context in islice(distinct, LINKS - len(self._links))]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if _Switch.tracer and self._began and self._links:
            from opentelemetry.context import Context as Parent  # noqa: PLC0415
            from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

            span = _Switch.tracer.start_span(
                self._name,
                context=Parent(),
                links=self._links,
                start_time=self._began,
                attributes={"messaging.batch.message_count": self._number},
            )
            if error is not None:
                span.record_exception(error)
                span.set_status(Status(StatusCode.ERROR))
            span.end()


def _is_sampled(traceparent: str) -> bool:
    return int(traceparent[-2:], 16) & 1 == 1


def _link(traceparent: str | None, tracestate: str | None) -> "Link":
    from opentelemetry.trace import Link, SpanContext, TraceFlags, TraceState  # noqa: PLC0415

    _, trace_id, span_id, flags = (traceparent or "").split("-")[:4]
    state = TraceState.from_header([tracestate]) if tracestate else TraceState()
    return Link(SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)), state))
