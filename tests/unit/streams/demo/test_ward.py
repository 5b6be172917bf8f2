"""The feed says of each message what a connector should make of it: here the connectors' own mappers are asked."""

import json
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import orjson
import pytest
from fhir.resources.R4B import get_fhir_model_class
from pydantic import SecretStr

from connectors.contexts import MemoryContexts
from connectors.dicom.mapping import Context
from connectors.dicom.mapping import handle as handle_dicom
from connectors.dicom.settings import DicomPeer, DicomSettings
from connectors.hl7.handling import Hl7Mapper
from connectors.hl7.settings import MllpSettings, Peer
from connectors.identity import Identities, IdentitySettings
from processors.events import Event, NoteEvent, PatientEvent, VitalsEvent
from streams.demo import notes, radiographs
from streams.demo.people import people
from streams.demo.physiology import COURSES, Body
from streams.demo.ward import SETTINGS, Sendable, main, ward

EPOCH = datetime(2026, 1, 5, 7, tzinfo=UTC)
HOURS = 6.0
IDENTITIES = Identities(
    IdentitySettings(site_secret=SecretStr("x" * 32), aliases=json.loads(SETTINGS["VIGIL_IDENTITY__ALIASES"]))
)

Mapped = list[tuple[Sendable, str, tuple[Event, ...]]]


@pytest.fixture(scope="module")
def feed() -> list[Sendable]:
    return list(ward(7, HOURS, 26, epoch=EPOCH))


@pytest.fixture(scope="module")
def mapped(feed: list[Sendable]) -> Mapped:
    """The HL7 part: (message, verdict, events)."""
    settings = MllpSettings(context_codes=json.loads(SETTINGS["VIGIL_CONNECTORS__MLLP__CONTEXT_CODES"]))
    contexts = MemoryContexts()
    mapper, peer = Hl7Mapper(settings, IDENTITIES, contexts), Peer("loopback", settings.peers["loopback"])
    found, seen = [], set()
    for message in feed:
        if message.channel == "mllp":
            outcome = mapper.handle(message.payload, peer, EPOCH + message.at)
            for context in outcome.contexts:
                contexts.remember(context)
            ids = {event.id for event in outcome.events}
            repeat = outcome.verdict == "accepted" and ids <= seen
            seen |= ids
            found.append((message, "repeat" if repeat else outcome.verdict, outcome.events))
    return found


def events(mapped: Mapped, kind: type) -> list:
    return [event for _, _, found in mapped for event in found if isinstance(event, kind)]


def test_the_feed_is_in_order_and_the_same_every_time(feed: list[Sendable]) -> None:
    assert feed == sorted(feed, key=lambda message: message.at)
    assert timedelta(0) <= feed[0].at and feed[-1].at < timedelta(hours=HOURS)
    assert feed == list(ward(7, HOURS, 26, epoch=EPOCH))
    assert feed != list(ward(8, HOURS, 26, epoch=EPOCH))
    assert {message.channel for message in feed} == {"mllp", "fhir", "dicom"}


def test_hl7_becomes_what_the_feed_expects(mapped: Mapped) -> None:
    assert [(message.what, verdict) for message, verdict, _ in mapped] == [
        (message.what, message.expect) for message, _, _ in mapped
    ]
    assert {message.expect for message, _, _ in mapped} == {"accepted", "refused", "ignored", "dead-letter", "repeat"}


def test_dicom_becomes_what_the_feed_expects(feed: list[Sendable]) -> None:
    context = Context(DicomSettings(), IDENTITIES, DicomPeer(ae_title="DX1"), EPOCH)
    outcomes = [(message, handle_dicom(message.payload, context)) for message in feed if message.channel == "dicom"]
    assert [outcome.verdict for _, outcome in outcomes] == [message.expect for message, _ in outcomes]
    syntaxes = Counter(outcome.subject.transfer_syntax for _, outcome in outcomes)
    assert len(syntaxes) == 2 and len(outcomes) >= 10
    assert len({outcome.subject.instance_uid for _, outcome in outcomes}) == len(outcomes)
    assert b"MONOCHROME1" in b"".join(message.payload for message, _ in outcomes)


def test_fhir_is_structurally_valid_where_it_is_meant_to_be(feed: list[Sendable]) -> None:
    kinds = Counter()
    for message in feed:
        if message.channel == "fhir" and message.expect == "accepted":
            resource = orjson.loads(message.payload)
            kind = resource["resourceType"]
            get_fhir_model_class(kind).model_validate(resource)
            assert message.path == ("/fhir" if kind == "Bundle" else f"/fhir/{kind}")
            kinds[kind] += 1
    assert set(kinds) == {"Patient", "Encounter", "Bundle", "DocumentReference"}
    for message in feed:
        if message.channel == "fhir" and message.expect == "refused":
            with pytest.raises(ValueError):
                get_fhir_model_class("Observation").model_validate(orjson.loads(message.payload))


def test_contexts_carry_decisions_pregnancy_and_unknown_age(mapped: Mapped) -> None:
    last = {context.patient_id: context for context in events(mapped, PatientEvent)}
    assert len(last) >= 20
    scale_2 = [context for context in last.values() if context.spo2_scale == 2]
    assert len(scale_2) == 2 and all(context.spo2_scale_decided_by for context in scale_2)
    assert sum(context.pregnant is True for context in last.values()) == 1
    assert sum(context.ceiling_of_care is not None for context in last.values()) == 1
    assert sum(context.birth_date is None for context in last.values()) == 1
    assert any(context.birth_date and context.birth_date >= "2010" for context in last.values())
    assert any(context.location.ward == "INTENSIVE CARE" for context in last.values())
    assert sum(context.encounter_status == "finished" for context in last.values()) >= 1


def test_vitals_carry_every_quirk(mapped: Mapped) -> None:
    sets: list[VitalsEvent] = events(mapped, VitalsEvent)
    assert any(o.unit == "[degF]" and isinstance(o.value, float) and o.value > 90 for s in sets for o in s.observations)
    assert {o.status for s in sets for o in s.observations} >= {"final", "corrected", "entered-in-error"}
    assert any(o.value == 150.0 and o.code == "59408-5" for s in sets for o in s.observations)
    assert any(not s.charted for s in sets) and any(s.processing == "training" for s in sets)
    assert any(s.received_at - s.observed_at > timedelta(minutes=90) for s in sets)
    temperatures = [o.value for s in sets for o in s.observations if o.code == "8310-5" and o.unit == "Cel"]
    assert all(isinstance(value, float) for value in temperatures)  # the decimal comma was read


def test_notes_have_versions_and_a_realistic_length(mapped: Mapped) -> None:
    found: list[NoteEvent] = events(mapped, NoteEvent)
    by_id = {note.note_id for note in found}
    relations = Counter(note.relation for note in found)
    assert set(relations) == {"original", "addendum", "replacement", "cancel"}
    assert all(note.replaces in by_id for note in found if note.relation in ("addendum", "replacement"))
    assert all(
        note.note_id in {n.note_id for n in found if n.relation == "original"} for note in found if note.relation == "cancel"
    )
    assert len(found) >= 80
    assert all("{" not in note.text and "\\" not in note.text for note in found)


@pytest.mark.parametrize(("kind", "writer", "_weight"), notes.MIX, ids=lambda value: getattr(value, "display", ""))
def test_every_kind_of_note_for_every_diagnosis(kind: notes.Kind, writer: notes.Writer, _weight: int) -> None:
    rng = random.Random(1)
    texts = [writer(rng, patient, Body("x", COURSES[patient.course]).vitals(1)) for patient in people(1, 80) for _ in range(3)]
    assert len(set(texts)) == len(texts)
    assert all(80 <= len(text.split()) <= 250 for text in texts)
    assert all("{" not in text and ".." not in text and "  " not in text for text in texts)


def test_the_sick_get_sick_and_the_stable_do_not() -> None:
    sepsis, calm = Body("a", COURSES["sepsis-early"]), Body("b", COURSES["stable"])
    early, late = sepsis.vitals(0), [sepsis.vitals(4 + n / 4) for n in range(4)]
    assert early.systolic > 100 and all(v.systolic < 105 and v.heart_rate > 95 and v.respiratory_rate > 20 for v in late)
    settled = [calm.vitals(n) for n in range(200)]
    assert all(v.consciousness == "A" and v.oxygen == 0 for v in settled)
    assert sum(v.respiratory_rate > 20 or v.systolic <= 90 or v.spo2 <= 91 for v in settled) <= 4


def test_films_show_their_sign_and_are_the_same_every_time() -> None:
    clear, ill = radiographs.draw(3, "clear"), radiographs.draw(3, "consolidation")
    assert np.array_equal(clear, radiographs.draw(3, "clear"))
    zone = np.s_[190:230, 85:115]
    assert ill[zone].mean() - clear[zone].mean() > 0.1
    lung, spine = clear[120:170, 85:110].mean(), clear[120:170, 152:168].mean()
    assert spine - lung > 0.3


def test_more_patients_than_the_cast_and_fewer() -> None:
    assert len({patient.mrn for patient in people(1, 200)}) == 200
    assert len(list(ward(1, 1.0, 3, epoch=EPOCH))) < len(list(ward(1, 1.0, 60, epoch=EPOCH)))


def test_an_epoch_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        next(ward(epoch=datetime(2026, 1, 5)))


def test_the_feed_as_files(tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path), "--hours", "0.5", "--patients", "5"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert len(rows) == len(list(tmp_path.iterdir())) - 1 > 10
    assert (tmp_path / rows[0]["file"]).read_bytes().startswith(b"MSH|")
