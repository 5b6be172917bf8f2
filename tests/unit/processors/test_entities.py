from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import Poison
from models.tasks import ModelIdentity, Span
from models.vocabulary import vocabulary
from processors.entities import entities_event
from processors.events import Coding, EntitiesEvent, NoteEvent, Origin, Source

MODEL = ModelIdentity("ner", "1", "ab" * 32)
SOURCE = Source(topic="clinical.notes", partition=1, offset=7, event_id="n1-v1")
WHEN = datetime(2026, 11, 23, 8, tzinfo=UTC)


def note(text: str, **changes: object) -> NoteEvent:
    fields: dict[str, object] = {
        "id": "n1-v1", "patient_id": "p", "encounter_id": "e", "note_id": "n1", "text": text, "note_type": Coding(code="11506-3"),
        "authored_at": WHEN, "received_at": WHEN, "origin": Origin(protocol="hl7v2"),
    }  # fmt: skip
    return NoteEvent.model_validate(fields | changes)


def test_entities_keep_their_place_section_and_assertion() -> None:
    text = "Zürich 🫀\r\nPMH: COPD\r\nPlan:\r\nNo pneumonia; start prednisolone."
    spans = [Span(kind, text.index(word), text.index(word) + len(word), 0.9)
             for kind, word in (("medication", "prednisolone"), ("condition", "COPD"), ("condition", "pneumonia"))]  # fmt: skip
    event = entities_event(note(text), SOURCE, spans, MODEL)
    assert [(e.text, e.section, e.assertion) for e in event.entities] == [
        ("COPD", "past-medical-history", "historical"),
        ("pneumonia", "plan", "negated"),
        ("prednisolone", "plan", "present"),
    ]
    assert all(text[e.start : e.end] == e.text for e in event.entities)
    assert (event.patient_id, event.encounter_id, event.note_id, event.source) == ("p", "e", "n1", SOURCE)
    assert event.model.digest == MODEL.digest
    assert (event.received_at, event.processing, event.relation, event.replaces) == (WHEN, "production", "original", None)
    assert EntitiesEvent.model_validate_json(event.model_dump_json()) == event


def test_a_heading_is_no_entity_and_a_test_in_one_is() -> None:
    text = "ALLERGIES: penicillin\nPast Medical History: asthma. Meds: aspirin.\nECG: normal\nPE: likely\nCHEST PAIN: none"
    words = [("symptom", "ALLERGIES"), ("medication", "penicillin"), ("condition", "Medical History"), ("medication", "Meds"),
             ("test", "ECG"), ("condition", "PE"), ("symptom", "CHEST PAIN")]  # fmt: skip
    spans = [Span(kind, text.index(word), text.index(word) + len(word), 0.9) for kind, word in words]
    event = entities_event(note(text), SOURCE, spans, MODEL)
    assert [(e.text, e.section) for e in event.entities] == [
        ("penicillin", "allergies"), ("ECG", "results"), ("PE", "physical-examination"), ("CHEST PAIN", "other"),
    ]  # fmt: skip


def test_the_id_is_of_version_stage_and_model() -> None:
    def made(**changes: object) -> str:
        return entities_event(note("x", **changes), SOURCE, [], MODEL).id

    assert made() == made(encounter_id="other")
    assert made() != made(id="n1-v2")
    assert made() != entities_event(note("x"), SOURCE, [], ModelIdentity("ner", "1", "cd" * 32)).id


@pytest.mark.parametrize("status", ["cancelled", "entered-in-error"])
def test_a_withdrawn_note_has_no_entities(status: str) -> None:
    event = entities_event(note("fever", status=status), SOURCE, [Span("symptom", 0, 5, 0.9)], MODEL)
    assert event.entities == ()
    assert event.note_status == status


@pytest.mark.parametrize(
    "span",
    [Span("x", -1, 2, 0.5), Span("x", 2, 2, 0.5), Span("x", 0, 6, 0.5), Span("x", 0, 2, float("nan")), Span("x", 0, 2, 1.1)],
)
def test_a_span_that_cannot_be_is_poison_without_the_text(span: Span) -> None:
    with pytest.raises(Poison) as caught:
        entities_event(note("fever"), SOURCE, [span], MODEL)
    assert caught.value.stage == "model"
    assert "fever" not in str(caught.value)


@given(st.text(min_size=1, max_size=120), st.data())
def test_the_text_is_always_the_notes_own(text: str, data: st.DataObject) -> None:
    spans = []
    for _ in range(data.draw(st.integers(0, 5))):
        start = data.draw(st.integers(0, len(text) - 1))
        spans.append(Span("x", start, data.draw(st.integers(start + 1, len(text))), 0.5))
    event = entities_event(note(text), SOURCE, spans, MODEL)
    assert len(event.entities) == len(spans)
    for entity in event.entities:
        assert entity.text == text[entity.start : entity.end]


def test_a_reader_learns_what_a_note_takes_the_place_of_and_that_it_is_test_traffic() -> None:
    event = entities_event(note("x", relation="replacement", replaces="n0", processing="training"), SOURCE, [], MODEL)
    assert (event.relation, event.replaces, event.processing) == ("replacement", "n0", "training")


def test_the_vocabulary_s_terms_are_entities_of_their_own_with_section_and_assertion() -> None:
    text = "PMH: T2DM. HPI: SOB, no PE seen."
    spans = [Span("medication", 5, 9, 0.95), Span("symptom", 16, 19, 0.9)]
    terms = vocabulary()
    event = entities_event(note(text), SOURCE, spans, MODEL, vocabulary=terms, labels=("condition", "symptom", "medication"))
    assert [(e.text, e.label, e.assertion, e.found_by, e.score) for e in event.entities] == [
        ("T2DM", "condition", "historical", "vocabulary", 1.0),
        ("SOB", "symptom", "present", "model", 0.9),
        ("PE", "condition", "negated", "vocabulary", 1.0),
    ]
    alone = entities_event(note(text), SOURCE, spans, MODEL)
    assert (event.vocabulary, alone.vocabulary) == (terms.digest, None)
    assert event.id != alone.id  # another table says other things: not the same event


def test_a_withdrawn_note_has_no_terms_either() -> None:
    event = entities_event(note("T2DM", status="cancelled"), SOURCE, [], MODEL, vocabulary=vocabulary(), labels=("condition",))
    assert event.entities == ()
