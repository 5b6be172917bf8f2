"""Test data (the tag HTEST, a peer that is a test system) changes nothing of a real patient."""

import pytest

from connectors.fhir.handling import Request
from connectors.fhir.settings import FhirPeer
from processors.events import FeedbackEvent, PatientEvent, VitalsEvent
from tests.fhir_resources import bundle, concept, encounter, observation, patient
from tests.unit.connectors.fhir.test_versions import OTHER, P1, Bedside, Feed, told

HTEST = {"meta": {"tag": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST"}]}}
TEN = "2026-11-23T10:00:00+01:00"
PREGNANT = observation("82810-3", id="pg", valueQuantity=None, valueCodeableConcept=concept("LA15173-0"))
ANSWER = {
    "resourceType": "Communication",
    "id": "c1",
    "status": "completed",
    "subject": {"identifier": patient()["identifier"][0]},
    "sent": TEN,
    "sender": {"reference": "Practitioner/7"},
    "inResponseTo": [{"identifier": {"system": "urn:vigil:alert", "value": "a-1"}}],
}


@pytest.mark.parametrize(
    "resource",
    [
        patient(id="1", deceasedBoolean=True),
        patient(id="1", link=[{"type": "replaced-by", "other": OTHER}]),
        patient(id="1", birthDate="2020-01-01"),
        encounter(id="e1", status="finished"),
        encounter(id="e1", subject=OTHER),
        PREGNANT,
        ANSWER,
    ],
    ids=["death", "merge", "birth", "discharge", "move", "pregnancy", "answer"],
)
@pytest.mark.parametrize("tagged", [True, False])
def test_it_changes_no_context_and_answers_no_alert(resource, tagged):
    bedside = Bedside()
    peers = bedside.feed.mapper.settings.peers
    peers["fhir"] = real = FhirPeer(base="https://ehr.example/fhir", answers_alerts=True)
    bedside.put(patient(id="1"))
    bedside.put(encounter(id="e1"))
    bedside.put(observation(value=140, id="o1"))
    if not tagged:
        peers["fhir"] = real.model_copy(update={"processing": "training"})
    outcome = bedside.take(resource | (HTEST if tagged else {}), Request("update", resource["resourceType"], resource["id"]))
    assert outcome.events == ()
    assert (outcome.verdict, outcome.code) == ("ignored", 200)
    assert "test data" in outcome.reason
    assert [alert.state for alert in bedside.alerts] == ["raised"]
    peers["fhir"] = real
    outcome = bedside.feed.take(resource)  # the same, not as a test
    assert any(isinstance(event, PatientEvent | FeedbackEvent) for event in outcome.events)


def test_a_test_system_of_its_own_may_write_contexts_and_still_answers_nothing():
    feed = Feed(peers={"fhir": FhirPeer(processing="training", test_contexts=True, answers_alerts=True)})
    feed.put(patient(id="1"))
    feed.put(encounter(id="e1", status="finished"))
    feed.put(PREGNANT)
    known = feed.mapper.contexts.get(P1)
    assert (known.encounter_status, known.pregnant) == ("finished", True)
    assert feed.take(ANSWER).events == ()


def test_it_takes_no_real_value_back_and_none_of_it_is_taken_back_by_real_data():
    feed = Feed()
    feed.put(observation(id="o1"))
    outcome = feed.put(observation(id="o1", value=80, **HTEST))
    assert [(event.processing, event.observations[0].status) for event in outcome.events] == [("training", "final")]
    retracted = feed.put(observation(id="o1", status="entered-in-error", effectiveDateTime=None, valueQuantity=None, **HTEST))
    assert [(event.processing, event.observations[0].value) for event in retracted.events] == [("training", 80)]  # its own
    moved = feed.put(observation(id="o1", subject=OTHER))
    assert {event.processing for event in moved.events if isinstance(event, VitalsEvent)} == {"production"}
    assert told(moved)[1] == (P1, "09:00", ("8867-4", 72, "entered-in-error"))


def test_in_a_bundle_only_what_is_marked_is_test_data():
    feed = Feed()
    made = bundle(patient(), encounter(), encounter(status="finished", **HTEST), patient(deceasedBoolean=True, **HTEST))
    outcome = feed.take(made)
    (context,) = outcome.contexts
    assert (context.encounter_status, context.deceased) == ("in-progress", False)


def test_a_bundle_or_message_that_is_marked_carries_test_data():
    over = encounter(status="finished")
    header = {"resourceType": "MessageHeader", "eventUri": "urn:x", "source": {"endpoint": "urn:y"}}
    message = {"resourceType": "Bundle", "type": "message", "entry": [{"resource": header}, {"resource": over}]}
    assert len(Feed().take(message).events) == 1
    marked = {**message, "entry": [{"resource": header | HTEST}, {"resource": over}]}
    for made in (bundle(over) | HTEST, message | HTEST, marked):
        outcome = Feed().take(made)
        assert (outcome.events, "test data changes" in outcome.reason) == ((), True)
