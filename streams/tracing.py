"""OpenTelemetry through a lane: one span per input, child of the sender's, parent of whatever reads the outputs.

Without an endpoint nothing is made and a well-formed `traceparent` is passed on as it came. With one (`tracing.endpoint`, extra
`otlp`) a sampled input's outputs carry the span of the lane's work. Attributes name lane, topic, partition and offset: no patient.
"""

import time
from collections.abc import Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from models.errors import Permanent
from streams.settings import TracingSettings
from streams.wire import traceparent_of

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Work:
    """The lane's work on one input; `header` is the `traceparent` for its outputs, None where there is nothing to pass on."""

    __slots__ = ("_span", "header")

    def __init__(self, header: bytes | None, span: Any = None) -> None:
        self.header = header
        self._span = span

    def end(self, outcome: str = "ok") -> None:
        """Say that every output is confirmed."""
        if self._span is not None:
            self._span.set_attribute("vigil.outcome", outcome)
            self._span.end()


class Tracing:
    """Makes the spans of one lane."""

    def __init__(self, settings: TracingSettings, lane: str, exporter: SpanExporter | None = None) -> None:
        self._tracer: Any = None
        self._provider: TracerProvider | None = None
        self._lane = lane
        if exporter is None and settings.endpoint:
            exporter = _otlp(settings.endpoint)
        if exporter is not None:
            self._provider = TracerProvider(resource=Resource.create({"service.name": f"vigil.{lane}"}))
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
            self._tracer = self._provider.get_tracer("vigil")

    def begin(self, records: Sequence[Any]) -> list[Work]:
        """Begin the work on each record, in order."""
        return [self._begin(record) for record in records]

    def _begin(self, record: Any) -> Work:
        header = traceparent_of(record)
        if self._tracer is None or header is None or not int(header[-2:], 16) & TraceFlags.SAMPLED:
            return Work(header)
        _, trace_id, span_id, _ = header.split(b"-")
        parent = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=_SAMPLED)
        span = self._tracer.start_span(
            f"{self._lane} process",
            context=trace.set_span_in_context(NonRecordingSpan(parent)),
            kind=SpanKind.CONSUMER,
            start_time=time.time_ns(),
            attributes={
                "messaging.system": "kafka",
                "messaging.destination.name": record.topic,
                "messaging.destination.partition.id": str(record.partition),
                "messaging.kafka.message.offset": record.offset,
            },
        )
        own = span.get_span_context()
        return Work(b"00-%032x-%016x-01" % (own.trace_id, own.span_id), span)

    def stop(self) -> None:
        """Send what waits."""
        if self._provider is not None:
            self._provider.shutdown()


def _otlp(endpoint: str) -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise Permanent(
            "tracing.endpoint is set, but the exporter is not installed", hint="pip install 'vigil-stream[otlp]'"
        ) from error
    exporter: SpanExporter = OTLPSpanExporter(endpoint=endpoint)
    return exporter
