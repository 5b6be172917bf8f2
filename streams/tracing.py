"""OpenTelemetry from a sender's message through the lanes: a connector's span, and one span per input of each lane.

    request's traceparent, or a new trace -> connector's span -> record's header -> lane's span -> outputs' header -> who reads them

A trace is begun where a message brings none (MLLP, DICOM, files), with or without an endpoint: the id is what joins an alert with
the message that it came of, and lanes and a site's own consumers may trace where the connectors' process does not. So whether it
is sampled is decided there, once, for all of them (`tracing.ratio`): an unsampled one would silence consumers that begin their own
today. Nothing of it is in an event's bytes or id: a resend that brings no trace has another, and is the same event.

Without an endpoint no span is made and a well-formed `traceparent` is passed on as it came. With one (`tracing.endpoint`, extra
`otlp`) what is sampled carries the span of the work on it. Attributes name lane, topic, partition and offset: no patient.
W3C Trace Context: https://www.w3.org/TR/trace-context/; a `tracestate` is not carried.
"""

import random
import re
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from models.errors import Permanent
from streams.settings import TracingSettings
from streams.wire import TRACEPARENT, traceparent_of

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NEWER: Final = re.compile(rb"(?!00|ff)[0-9a-f]{2}(-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})(?:-.*)?", re.DOTALL)

REQUEST: Final[ContextVar[bytes | None]] = ContextVar("REQUEST", default=None)
"""The `traceparent` of the HTTP request in hand, for whatever is published on its behalf."""


def of_request(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """Return the `traceparent` of a request's headers (names in lower case); None where it is malformed, or there are two.

    Of a version that is not known here what version 00 knows of it is read (W3C 3.2.4 and 4.3).
    """
    found = [value for name, value in headers if name == b"traceparent"]
    if len(found) != 1:
        return None
    value = found[0]
    if (newer := _NEWER.fullmatch(value)) is not None:
        value = b"00" + newer[1][:-2] + b"%02x" % (int(newer[1][-2:], 16) & TraceFlags.SAMPLED)
    return value if TRACEPARENT.fullmatch(value) else None


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
    """Makes the spans of one lane, or of the connectors."""

    def __init__(self, settings: TracingSettings, name: str, exporter: SpanExporter | None = None) -> None:
        self._tracer: Any = None
        self._provider: TracerProvider | None = None
        self._name = name
        self._ratio = settings.ratio
        if exporter is None and settings.endpoint:
            exporter = _otlp(settings.endpoint)
        if exporter is not None:
            self._provider = TracerProvider(
                sampler=ParentBasedTraceIdRatio(settings.ratio), resource=Resource.create({"service.name": f"vigil.{name}"})
            )
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
            self._tracer = self._provider.get_tracer("vigil")

    def begin(self, records: Sequence[Any]) -> list[Work]:
        """Begin the work on each record, in order."""
        return [self._begin(record) for record in records]

    def publish(self, topic: str, count: int) -> Work:
        """Begin to publish the `count` events of one message, the first on `topic`, in the request's trace or a new one."""
        header = REQUEST.get()
        attributes: dict[str, str | int] = {
            "messaging.system": "kafka",
            "messaging.destination.name": topic,
            "messaging.batch.message_count": count,
        }
        if self._tracer is not None and (header is None or _is_sampled(header)):
            return self._work("publish", SpanKind.PRODUCER, header, attributes)
        return Work(header or self._root())

    def _root(self) -> bytes:
        sampled = random.random() < self._ratio
        return b"00-%032x-%016x-%02x" % (random.getrandbits(128) or 1, random.getrandbits(64) or 1, sampled)

    def _begin(self, record: Any) -> Work:
        header = traceparent_of(record)
        if self._tracer is None or header is None or not _is_sampled(header):
            return Work(header)
        attributes = {
            "messaging.system": "kafka",
            "messaging.destination.name": record.topic,
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.message.offset": record.offset,
        }
        return self._work("process", SpanKind.CONSUMER, header, attributes)

    def _work(self, what: str, kind: SpanKind, header: bytes | None, attributes: Mapping[str, str | int]) -> Work:
        span = self._tracer.start_span(
            f"{self._name} {what}",
            context=_parent(header) if header else Context(),
            kind=kind,
            start_time=time.time_ns(),
            attributes=attributes,
        )
        own = span.get_span_context()
        return Work(b"00-%032x-%016x-%02x" % (own.trace_id, own.span_id, own.trace_flags & TraceFlags.SAMPLED), span)

    def stop(self) -> None:
        """Send what waits."""
        if self._provider is not None:
            self._provider.shutdown()


def _is_sampled(header: bytes) -> bool:
    return bool(int(header[-2:], 16) & TraceFlags.SAMPLED)


def _parent(header: bytes) -> Context:
    _, trace_id, span_id, _ = header.split(b"-")
    parent = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=_SAMPLED)
    return trace.set_span_in_context(NonRecordingSpan(parent))


def _otlp(endpoint: str) -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise Permanent(
            "tracing.endpoint is set, but the exporter is not installed", hint="pip install 'vigil-stream[otlp]'"
        ) from error
    exporter: SpanExporter = OTLPSpanExporter(endpoint=endpoint)
    return exporter
