"""What takes bytes from outside, and what must hold for any bytes. Each call stands alone, so that a finding is one file."""

import asyncio
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Final

import httpx

from connectors.deliver.callback import CallbackServer
from connectors.deliver.settings import CallbackSettings
from connectors.deliver.signing import ID, SIGNATURE, TIMESTAMP, sign
from connectors.dicom import mapping as dicom_mapping
from connectors.dicom.settings import DicomSettings
from connectors.fhir import xml as fhir_xml
from connectors.fhir.handling import FhirMapper, Request
from connectors.fhir.settings import FhirPeer, FhirSettings
from connectors.hl7.acknowledgement import POSITIVE
from connectors.hl7.batches import of_frame
from connectors.hl7.framing import HEAD_BYTES, Framer, Oversize
from connectors.hl7.handling import Hl7Mapper
from connectors.hl7.sender import read_ack
from connectors.hl7.settings import ContextCode, Hl7Peer, MllpSettings, Peer
from models.errors import Poison
from processors.events import Event, FeedbackEvent, ObjectReference, PatientEvent, ScoreEvent, VitalsEvent
from processors.monitor import Monitor
from streams.wire import decode
from tests import bedside
from tests.edge import RecordingPublisher, identities
from tests.fuzz import mutation, seeds
from tests.fuzz.invariants import UNFORESEEN, hold, listen, no_patient_text, outcome, storable

NOW: Final = datetime(2026, 11, 23, 12, tzinfo=UTC)
LOGS: Final = listen()


@dataclass(frozen=True, slots=True)
class Target:
    """Bytes in, `Violation` or any other exception out for a finding. `longest` bounds an input, in bytes."""

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    mutate: mutation.Mutation
    longest: int = 8192


# ------------------------------------------------------------------------------------------------------------------ MLLP, HL7


def mllp(data: bytes) -> None:
    """The framer: whatever the cuts, the same messages; bounded memory; no byte lost, each is in a message, counted or a mark."""
    limit = 4096
    whole = Framer(limit)
    together = whole.feed(data)
    chance = random.Random(zlib.crc32(data))
    cut, parts, at = Framer(limit), [], 0
    while at < len(data):
        size = chance.choice((1, 1, 2, 3, 7, 64, 1000))
        parts += cut.feed(data[at : at + size])
        hold(cut.buffered <= limit + size + 3, f"{cut.buffered} bytes held of at most {limit}")
        at += size
    hold(parts == together, "other messages when the bytes come in other pieces")
    hold(
        (cut.garbage, cut.broken, cut.inside) == (whole.garbage, whole.broken, whole.inside),
        "counted otherwise in other pieces",
    )
    for framer in (whole, cut):
        silent = framer.end_of_silence()
        hold(len(silent) <= 1 and not framer.ending, "not at rest after silence")
        framer.close()
        hold(not framer.buffered and not framer.inside, "not empty after the end")
    for one in together:
        length = len(one.head) if isinstance(one, Oversize) else len(one)
        hold(length <= (HEAD_BYTES if isinstance(one, Oversize) else limit), "longer than the limit")


_HL7_SETTINGS: Final = MllpSettings(
    context_codes={"SCALE": ContextCode(fact="spo2_scale"), "CEIL": ContextCode(fact="ceiling_of_care")}
)
_HL7_PEERS: Final = (
    Peer("plain", Hl7Peer()),
    Peer(
        "odd",
        Hl7Peer.model_validate(
            {
                "zone": "Europe/Berlin",
                "charset": "shift_jis",
                "unconfirmed": "AE",
                "not_for_us": "AR",
                "unmapped": "dead-letter",
                "answers_alerts": True,
                "text_types": ["TX", "FT", "ED", "ST"],
                "test_contexts": True,
            }
        ),
    ),
)


def hl7(data: bytes) -> None:
    """One frame: an outcome for each message, and answers that a sender can read."""
    mapper = Hl7Mapper(_HL7_SETTINGS, identities())
    peer = _HL7_PEERS[zlib.crc32(data) & 1]
    for raw in of_frame(data):
        found = mapper.handle(raw, peer, NOW)
        positive = any(code in POSITIVE for code, _ in found.answers)
        outcome(found.verdict, found.reason, found.events, positive=positive)
        storable(found.events)
        for code, answer in (*found.answers, *found.unconfirmed):
            ack = read_ack(answer)
            hold(ack is not None and ack.code == code, f"an answer {code} that a sender cannot read")
        again = mapper.handle(raw, peer, NOW)
        hold([event.id for event in again.events] == [event.id for event in found.events], "other ids for the same message")
        for context in found.contexts:
            mapper.contexts.remember(context)
    LOGS.check()


# ----------------------------------------------------------------------------------------------------------------------- FHIR

_FHIR_SETTINGS: Final = (
    FhirSettings(context_codes={"SCALE": ContextCode(fact="spo2_scale")}),
    FhirSettings(
        not_for_us="refuse",
        unmapped="dead-letter",
        peers={"fhir": FhirPeer(base="https://a.example/fhir", zone="Europe/Berlin")},
    ),
)
_DOORS: Final = (Request(), Request("bundle"), Request("hook"), Request("message"), Request("any"))


def fhir(data: bytes) -> None:
    """One body by any door: an outcome, an OperationOutcome or a Bundle as the answer, in JSON and in XML."""
    sum_of = zlib.crc32(data)
    mapper = FhirMapper(_FHIR_SETTINGS[sum_of & 1], identities())
    found = mapper.handle(data, mapper.sender("fhir", NOW), _DOORS[(sum_of >> 1) % len(_DOORS)])
    outcome(found.verdict, found.reason, found.events, positive=False)
    hold(found.answer.status in (200, 201, 400, 404, 413, 422), f"status {found.answer.status}")
    hold(not found.events or found.answer.status in (200, 201), "stored, and the answer says that it was not")
    positive = found.answer.status in (200, 201)
    hold(
        not positive or found.verdict != "refused" or found.answer.body["resourceType"] == "Bundle",
        "refused with a positive answer",
    )
    said = (
        found.reason
        or found.notification
        or found.answer.body.get("type") in ("batch-response", "transaction-response", "message")
    )
    hold(not positive or found.events or said, "a positive answer for nothing, and no reason")
    hold(found.answer.body["resourceType"] in ("OperationOutcome", "Bundle"), "an answer of another kind")
    storable(found.events)
    hold(fhir_xml.of_json(found.answer.body), "an answer that cannot be XML")
    hold(set(found.pictures) <= {event.id for event in found.events}, "pictures of no event")
    mapper.learn(found)
    LOGS.check()


# ---------------------------------------------------------------------------------------------------------------------- DICOM

_DICOM: Final = tuple(
    dicom_mapping.Context(settings, identities(), settings.peer("CT"), NOW)
    for settings in (
        DicomSettings(authority="hosp", largest_frame=1_000_000, largest_object=4_000_000),
        DicomSettings(
            frame="middle", unmapped="refuse", burned_in="dead-letter", zone="Europe/Berlin", largest_frame=1_000_000
        ),
    )
)


def dicom(data: bytes) -> None:
    """One object in the file format: an outcome, its events storable, with a status that fits."""
    found = dicom_mapping.handle(data, _DICOM[zlib.crc32(data) & 1])
    references = [
        ObjectReference(uri=f"o/{number}", sha256="0" * 64, media_type=one.media_type, bytes=len(one.data))
        for number, one in enumerate(found.objects)
    ]
    events = found.events(references)
    outcome(found.verdict, found.reason, events, positive=found.status == 0)
    hold((found.status == 0) == (found.verdict != "refused"), f"{found.verdict} with status {found.status:04X}")
    storable(events)
    dicom_mapping.is_directory(data)
    LOGS.check()


# -------------------------------------------------------------------------------------------------------- the wire, the monitor

_KINDS: Final[dict[bytes, type[Event]]] = {b"V": VitalsEvent, b"P": PatientEvent, b"F": FeedbackEvent}


def monitor(data: bytes) -> None:
    """Records of a partition in any state: `Poison` at most, and the neighbour is scored as if nothing had been."""
    watched = Monitor(bedside.MonitorRules())
    watched.tick(bedside.START, bedside.SOURCE)
    clock = bedside.START
    for row in data.split(b"\n")[:64]:
        if row[:1] == b"T":
            clock += _minutes(row[1:])
            _keeps(watched.tick(clock, bedside.SOURCE))
        elif kind := _KINDS.get(row[:1]):
            _keeps(_said(watched, kind, row[1:]))
    for patient_id in watched.dirty():
        state = watched.dump(patient_id)
        Monitor(bedside.MonitorRules()).load(patient_id, state)
        again = Monitor(bedside.MonitorRules())
        again.load(patient_id, state)
        hold(again.dump(patient_id) == state, "a state that does not come back the same")
    watched.patient(bedside.context(patient="the neighbour", id="the neighbour's context"), bedside.SOURCE)
    neighbour = bedside.vitals(
        (clock - bedside.START) / timedelta(minutes=1), bedside.ILL, patient="the neighbour", id="the neighbour's set"
    )
    score = watched.decide(watched.observe(neighbour, bedside.SOURCE), None)[0]
    hold(isinstance(score, ScoreEvent) and score.news2 is not None and score.news2.total == 8, "the neighbour is not scored")
    LOGS.check()


def _minutes(text: bytes) -> timedelta:
    try:
        return timedelta(minutes=min(max(float(text), 0.0), 1e5))
    except ValueError:
        return timedelta()


def _said(watched: Monitor, kind: type[Event], value: bytes) -> list[Event]:
    try:
        event: Any = decode(kind, SimpleNamespace(value=value, headers=[]))
        if isinstance(event, VitalsEvent):
            return watched.decide(watched.observe(event, bedside.SOURCE), None, "no model")
        return (
            watched.patient(event, bedside.SOURCE)
            if isinstance(event, PatientEvent)
            else watched.feedback(event, bedside.SOURCE)
        )
    except Poison as error:
        no_patient_text(str(error))
        hold(not str(error).startswith(UNFORESEEN[1]), str(error))
        return []


def _keeps(events: list[Event]) -> None:
    storable(events)
    no_patient_text(*(event.news2_reason + event.deterioration_reason for event in events if isinstance(event, ScoreEvent)))


# --------------------------------------------------------------------------------------------------------------- the call-back

_KEY: Final = b"the fuzzers' key, long enough"
_LOOP: Final = asyncio.new_event_loop()


def callback(data: bytes) -> None:
    """One call: a known status; 204 only for what was published, 401 for what is not signed."""
    publisher = RecordingPublisher()
    told: list[tuple[str, int]] = []
    settings = CallbackSettings(port=0)
    server = CallbackServer(
        settings,
        {"pager": (_KEY,)},
        publisher=publisher,
        now=lambda: NOW,
        observe=lambda name, status, _: told.append((name, status)),
    )
    how, body = data[:1], data[1:]
    headers: dict[str, str] = {}
    if how == b"1":
        *shown, body = (*data[1:].split(b"\n", 3), b"", b"", b"")[:4]
        headers = dict(zip((ID, TIMESTAMP, SIGNATURE), (one.decode("latin-1") for one in shown), strict=True))
    elif how != b"2":
        headers = sign((_KEY,), "call-1", int(NOW.timestamp()), body)
    pure = {name: "".join(c for c in value if c.isprintable()).encode("latin-1", "replace") for name, value in headers.items()}

    async def call() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url="http://vigil") as client:
            return await client.post("/deliver/pager/feedback", content=body, headers=pure)

    status = _LOOP.run_until_complete(call()).status_code
    hold(status in (204, 401, 413, 422), f"status {status}")
    hold(told == [("pager", status)], "not observed as answered")
    hold((status == 204) == (len(publisher.events) == 1), "204 is not the same as stored")
    hold(how not in (b"1", b"2") or status in (401, 413), "believed without a right signature")
    storable(publisher.events)
    LOGS.check()


TARGETS: Final = {
    one.name: one
    for one in (
        Target("mllp", mllp, seeds.mllp, mutation.frames, 20_000),
        Target("hl7", hl7, seeds.hl7, mutation.hl7),
        Target("fhir", fhir, seeds.fhir, mutation.fhir),
        Target("dicom", dicom, seeds.dicom, mutation.dicom),
        Target("monitor", monitor, seeds.monitor, mutation.lines, 16_384),
        Target("callback", callback, seeds.callback, lambda data, rng: data[:1] + mutation.tree(data[1:], rng)),
    )
}
