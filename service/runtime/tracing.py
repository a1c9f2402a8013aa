"""Spans of the steps, where somebody collects them: the optional extra `otel`.

An input waits, for milliseconds or for a day, between being received, applied and published, and a step is about
many inputs at once. So no step is a child of another, nor of its inputs: each is a span of its own, linked to the
trace context of every sampled input that it is about, which lies in the tables beside the content and in the outbox
beside the event. While tracing is off, or no input is sampled, a step costs a comparison.
"""

import os
import time
from collections.abc import Iterable
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Tracer, TracerProvider

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""One of these, as everywhere in OpenTelemetry, says where spans go; without it there are none."""

LINKS: Final = 128
"""Of one span: what OpenTelemetry's own limit is, and what collectors take."""

Context = tuple[str | None, str | None]
"""traceparent and tracestate of an input."""


class NotInstalled(Exception):
    """A collector is named, and the extra `otel` is not there; the message is one line."""


class _Switch:
    tracer: "Tracer | None" = None


def set_up() -> None:
    """Trace from now on, where the environment names a collector. Raises NotInstalled."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise NotInstalled(f"{ENDPOINTS[1]} is set, and the extra `otel` is not installed: {error}") from None
    resource = Resource.create({SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", "essay-lifecycle-service")})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    use(provider)


def use(provider: "TracerProvider | None") -> None:
    """Give spans to this provider; None turns tracing off."""
    _Switch.tracer = provider.get_tracer("essay-lifecycle-service") if provider else None


class step:  # noqa: N801  read as a statement: `with tracing.step("apply") as step`
    """One step; it becomes a span at its end, if one of the inputs that it is about is sampled."""

    __slots__ = ("_began", "_links", "_name", "_number")

    def __init__(self, name: Literal["receive", "apply", "publish"]) -> None:
        self._name = name
        self._number = 0
        self._links: list[Link] = []

    def __enter__(self) -> Self:
        self._began = time.time_ns() if _Switch.tracer else 0
        return self

    def about(self, number: int, contexts: Iterable[Context]) -> None:
        """So many inputs or events; their contexts are not looked at while tracing is off."""
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
