"""One trace from a sender's request to the outputs: `POST` with a `traceparent`, the connectors, the lanes, on a broker."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from connectors.hl7.sender import MllpSender
from processors.events import FeedbackEvent
from streams import edge, tracing
from streams.clock import real_clock
from streams.outbox import Outbox
from streams.settings import ConnectorSettings, TracingSettings, VitalsStateSettings
from streams.wire import header
from tests import fhir_resources as fhir
from tests import hl7_messages as hl7
from tests.clinic import ORIGIN, Clinic
from tests.kafka import Kafka, Record
from tests.lanes import bodies, until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

VITALS, NOTE, ANSWER = "a" * 32, "b" * 32, "c" * 32  # trace ids
SPAN = "d" * 16
LANES = {"vitals": ("patients", "vitals", "feedback"), "notes-entities": ("notes",)}


def parent(trace_id: str) -> bytes:
    return f"00-{trace_id}-{SPAN}-01".encode()


@pytest.fixture
def exporters(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[InMemorySpanExporter]]:
    """What would go to the endpoint, in the order of their making: the connectors', then each lane's."""
    made: list[InMemorySpanExporter] = []

    def exporter(endpoint: str) -> InMemorySpanExporter:
        made.append(InMemorySpanExporter())
        return made[-1]

    # In memory, so that spans can be told apart by process; tests/unit/streams/test_tracing.py sends them over OTLP.
    monkeypatch.setattr(tracing, "_otlp", exporter)
    yield made


async def play(kafka: Kafka, folder: Path, endpoint: str) -> dict[str, list[Record]]:
    """A grave set and a note by HTTP, each in a trace of its own, a set by MLLP without, a receiver's answer to the alert."""
    site = Clinic(
        kafka,
        folder,
        connectors=ConnectorSettings.model_validate({"enabled": ["mllp", "fhir"], "mllp": {"port": 0}, "fhir": {"port": 0}}),
        state=VitalsStateSettings(tick_seconds=0.2),
        tracing=TracingSettings(endpoint=endpoint),
    )

    async def done(lane: str) -> None:
        for topic in LANES[lane]:
            site.written[f"clinical.{topic}"] = len(await site.records(f"clinical.{topic}"))
            await site.until_done(lane, f"clinical.{topic}")

    async with edge.running(site.settings) as addresses, site.running("vitals"), site.running("notes-entities"):
        base = "http://{}:{}/fhir".format(*addresses["fhir"])
        async with httpx.AsyncClient(headers={"content-type": "application/fhir+json"}) as client:

            async def post(resource: dict[str, Any], **headers: Any) -> None:
                told = await client.post(f"{base}/{resource['resourceType']}", json=resource, headers=headers)
                assert told.status_code in (200, 201), told.text

            await post(fhir.patient())
            await post(fhir.encounter())
            await done("vitals")
            now = real_clock()
            await post(fhir.observation("9279-1", 30, effectiveDateTime=now.isoformat()), traceparent=parent(VITALS))
            await post(fhir.document(), traceparent=parent(NOTE))
        async with MllpSender(*addresses["mllp"], timeout=10) as sender:
            assert (await sender.send(hl7.vitals(hl7.PULSE))).code in ("AA", "CA")
        await done("notes-entities")
        await done("vitals")
        (alert,) = [one for one in await site.read("clinical.alerts") if one.get("state") == "raised"]
        answer = FeedbackEvent(
            id="answer-1", patient_id=alert["patient_id"], kind="alert-acknowledged", target_id=alert["alert_id"], by="nurse-7",
            given_at=now, received_at=now, origin=ORIGIN,
        )  # fmt: skip
        outbox = Outbox(site.settings, source="/test/receiver")
        await outbox.start()
        await outbox.send([outbox.encode(answer, traceparent=parent(ANSWER))])
        await outbox.stop()

        async def answered() -> bool:
            return "acknowledged" in {one.get("state") for one in await site.read("clinical.alerts")}

        await until(answered, within=60, what="the answer is taken")
        await done("vitals")
    topics = ("vitals", "notes", "scores", "alerts", "entities")
    return {topic: await site.records(f"clinical.{topic}") for topic in topics}


def carried(records: list[Record], **wanted: str) -> list[bytes]:
    """The traceparents of the events with these fields."""
    chosen = [
        record
        for record, body in zip(records, bodies(records), strict=True)
        if all(body.get(name) == value for name, value in wanted.items())
    ]
    return [header(one, "traceparent") or b"" for one in chosen]


async def test_without_an_endpoint_the_requests_header_reaches_the_outputs_as_it_came(kafka: Kafka, tmp_path: Path) -> None:
    found = await play(kafka, tmp_path, "")
    of_sets, of_scores = carried(found["vitals"]), carried(found["scores"])
    assert of_sets.count(parent(VITALS)) == 1 and len(of_sets) == 2
    assert sorted(of_sets) == sorted(of_scores)  # the message of MLLP began a trace too
    (began,) = set(of_sets) - {parent(VITALS)}
    assert began.endswith(b"-01")
    assert carried(found["alerts"], state="raised") == [parent(VITALS)]
    assert carried(found["alerts"], state="acknowledged") == [parent(ANSWER)]
    assert carried(found["notes"]) == carried(found["entities"]) == [parent(NOTE)]
    for topic in ("scores", "alerts", "entities"):
        assert all(header(record, "ce_time") for record in found[topic]), topic


async def test_with_one_each_hop_is_a_span_under_the_one_before(
    kafka: Kafka, tmp_path: Path, exporters: list[InMemorySpanExporter]
) -> None:
    found = await play(kafka, tmp_path, "http://nowhere")
    spans = {span.context.span_id: span for exporter in exporters for span in exporter.get_finished_spans() if span.context}

    def way(traceparent: bytes) -> list[str]:
        """The names of the spans from the one that a header names up to what began here; all of its trace."""
        _, trace_id, span_id, _ = traceparent.decode().split("-")
        names, here = [], int(span_id, 16)
        while (span := spans.get(here)) is not None:
            assert span.context and format(span.context.trace_id, "032x") == trace_id
            names.append(span.name)
            here = span.parent.span_id if span.parent else 0
        assert here == (int(SPAN, 16) if trace_id in (VITALS, NOTE, ANSWER) else 0)
        return names

    (raised,) = carried(found["alerts"], state="raised")
    assert raised[3:35].decode() == VITALS
    assert way(raised) == ["vitals process", "connectors publish"]
    (acknowledged,) = carried(found["alerts"], state="acknowledged")
    assert way(acknowledged) == ["vitals process"]  # of the receiver's own record
    (entities,) = carried(found["entities"])
    assert way(entities) == ["notes-entities process", "connectors publish"]
    for score in carried(found["scores"]):
        assert way(score) == ["vitals process", "connectors publish"]
    seen: list[ReadableSpan] = list(spans.values())
    assert {"ok"} == {(span.attributes or {}).get("vigil.outcome") for span in seen}
