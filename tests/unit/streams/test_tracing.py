"""The traceparent through a lane."""

from dataclasses import dataclass

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from streams.settings import TracingSettings
from streams.tracing import Tracing

HEADER = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"


@dataclass
class Record:
    headers: tuple[tuple[str, bytes], ...]
    topic: str = "clinical.notes"
    partition: int = 2
    offset: int = 5


def test_without_an_endpoint_the_header_is_passed_on_as_it_came() -> None:
    tracing = Tracing(TracingSettings(), "x")
    one, none, bad = tracing.begin([Record((("traceparent", HEADER),)), Record(()), Record((("traceparent", b"x"),))])
    assert (one.header, none.header, bad.header) == (HEADER, None, None)


def test_with_one_the_outputs_carry_a_child_of_the_senders_span() -> None:
    spans = InMemorySpanExporter()
    tracing = Tracing(TracingSettings(), "notes-entities", exporter=spans)
    (work,) = tracing.begin([Record((("traceparent", HEADER),))])
    work.end()
    tracing.stop()
    (span,) = spans.get_finished_spans()
    version, trace_id, span_id, flags = work.header.split(b"-")
    assert (version, trace_id, flags) == (b"00", b"a" * 32, b"01")
    assert format(span.context.span_id, "016x").encode() == span_id != b"b" * 16
    assert format(span.parent.span_id, "016x").encode() == b"b" * 16
    assert span.attributes["messaging.kafka.message.offset"] == 5
    assert span.attributes["vigil.outcome"] == "ok"


def test_what_is_not_sampled_is_not_recorded() -> None:
    spans = InMemorySpanExporter()
    tracing = Tracing(TracingSettings(), "x", exporter=spans)
    unsampled = HEADER[:-2] + b"00"
    (work,) = tracing.begin([Record((("traceparent", unsampled),))])
    work.end()
    tracing.stop()
    assert work.header == unsampled
    assert not spans.get_finished_spans()
