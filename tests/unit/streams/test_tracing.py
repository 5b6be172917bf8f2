"""The traceparent from a sender's request into the stream, and through a lane."""

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from models.errors import Transient
from streams.clock import real_clock
from streams.edge import Requests
from streams.metrics import EdgeMetrics
from streams.outbox import Outbox
from streams.publisher import KafkaPublisher
from streams.settings import Settings, TracingSettings
from streams.tracing import REQUEST, Tracing, of_request
from streams.wire import TRACEPARENT, Message, header
from tests.vitals import patient

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


def test_spans_reach_an_endpoint() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the otlp extra")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    got: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        tracing = Tracing(TracingSettings(endpoint=f"http://127.0.0.1:{server.server_port}/v1/traces"), "notes-entities")
        (work,) = tracing.begin([Record((("traceparent", HEADER),))])
        work.end()
        tracing.stop()
        server.shutdown()
    ((path, body),) = got
    (sent,) = ExportTraceServiceRequest.FromString(body).resource_spans
    (span,) = sent.scope_spans[0].spans
    assert path == "/v1/traces"
    assert {one.key: one.value.string_value for one in sent.resource.attributes}["service.name"] == "vigil.notes-entities"
    assert (span.name, span.trace_id.hex().encode(), span.parent_span_id.hex().encode()) == (
        "notes-entities process", b"a" * 32, b"b" * 16,
    )  # fmt: skip


def test_what_is_not_sampled_is_not_recorded() -> None:
    spans = InMemorySpanExporter()
    tracing = Tracing(TracingSettings(), "x", exporter=spans)
    unsampled = HEADER[:-2] + b"00"
    (work,) = tracing.begin([Record((("traceparent", unsampled),))])
    work.end()
    tracing.stop()
    assert work.header == unsampled
    assert not spans.get_finished_spans()


# ------------------------------------------------------------------------------------------------------------- the connectors


class Kept(Outbox):
    """Confirms and keeps; `trouble` fails the next write."""

    def __init__(self) -> None:
        super().__init__(Settings(), source="/test")
        self.messages: list[Message] = []
        self.trouble: Exception | None = None

    async def send(self, messages: Sequence[Message]) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.messages += messages


@pytest.fixture(autouse=True)
def _no_request() -> Iterator[None]:
    token = REQUEST.set(None)
    yield
    REQUEST.reset(token)


def publisher(outbox: Outbox, tracing: Tracing) -> KafkaPublisher:
    return KafkaPublisher(outbox, real_clock, tracing, timeout=5)


def events(count: int = 2) -> list[Any]:
    return [patient(number, datetime(2026, 11, 24, tzinfo=UTC)) for number in range(count)]


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        ([HEADER], HEADER),
        ([HEADER[:-2] + b"00"], HEADER[:-2] + b"00"),
        ([], None),
        ([HEADER, HEADER], None),
        ([b""], None),
        ([HEADER.upper()], None),
        ([HEADER + b"-more"], None),  # version 00 ends there
        ([b"ff" + HEADER[2:]], None),
        ([b"cc" + HEADER[2:]], HEADER),
        ([b"cc" + HEADER[2:-2] + b"0a-what-comes-later"], HEADER[:-2] + b"00"),
        ([b"cc" + HEADER[2:] + b".later"], None),
        ([b"00-" + b"0" * 32 + HEADER[35:]], None),
        ([b"cc-" + b"a" * 32 + b"-" + b"0" * 16 + b"-01"], None),
        ([b"\xff" * 55], None),
    ],
)
def test_a_requests_traceparent_is_read_as_w3c_says(sent: list[bytes], taken: bytes | None) -> None:
    assert of_request([(b"host", b"x"), *((b"traceparent", value) for value in sent)]) == taken


async def test_a_request_has_its_own_trace_and_the_next_one_none() -> None:
    seen: list[bytes | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(REQUEST.get())

    around = Requests("fhir", EdgeMetrics()).around(app)
    for headers in ([(b"traceparent", HEADER)], []):
        await around({"type": "http", "headers": headers}, None, None)
    assert seen == [HEADER, None]


async def test_all_events_of_a_request_carry_its_trace() -> None:
    outbox = Kept()
    REQUEST.set(HEADER)
    await publisher(outbox, Tracing(TracingSettings(), "connectors")).publish(events())
    assert [header(message, "traceparent") for message in outbox.messages] == [HEADER, HEADER]


@pytest.mark.parametrize(("ratio", "flags"), [(1.0, b"01"), (0.0, b"00")])
@pytest.mark.parametrize("with_endpoint", [False, True])
async def test_a_message_without_one_begins_a_trace(ratio: float, flags: bytes, with_endpoint: bool) -> None:
    outbox, spans = Kept(), InMemorySpanExporter()
    tracing = Tracing(TracingSettings(ratio=ratio), "connectors", exporter=spans if with_endpoint else None)
    publishing = publisher(outbox, tracing)
    first, again = events(1), events(1)
    await publishing.publish(first)
    await publishing.publish(again)  # a resend
    one, other = outbox.messages
    assert (one.value, one.key, header(one, "ce_id")) == (other.value, other.key, header(other, "ce_id"))
    found = [header(message, "traceparent") for message in outbox.messages]
    assert all(value and TRACEPARENT.fullmatch(value) and value.endswith(b"-" + flags) for value in found)
    assert found[0] != found[1]
    tracing.stop()
    assert len(spans.get_finished_spans()) == (2 if with_endpoint and ratio else 0)
    assert all(span.parent is None for span in spans.get_finished_spans())


async def test_a_connectors_span_is_a_child_of_the_requests_and_says_what_became_of_it() -> None:
    outbox, spans = Kept(), InMemorySpanExporter()
    tracing = Tracing(TracingSettings(ratio=0.0), "connectors", exporter=spans)
    publishing = publisher(outbox, tracing)
    REQUEST.set(HEADER)
    await publishing.publish(events())
    outbox.trouble = Transient("no broker")
    with pytest.raises(Transient):
        await publishing.publish(events())
    tracing.stop()
    done, failed = spans.get_finished_spans()
    carried = {header(message, "traceparent") for message in outbox.messages}
    assert carried == {b"00-" + b"a" * 32 + b"-%016x-01" % done.context.span_id}
    assert format(done.parent.span_id, "016x").encode() == b"b" * 16
    assert [span.attributes["vigil.outcome"] for span in (done, failed)] == ["ok", "transient"]
    assert done.attributes["messaging.destination.name"] == "clinical.patients"
    assert done.attributes["messaging.batch.message_count"] == 2
