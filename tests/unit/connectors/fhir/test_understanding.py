"""What stands against using a resource whose structure is right."""

import pytest

from connectors.fhir.capability import SUPPORTED
from connectors.fhir.handling import Request
from connectors.fhir.structure import validate
from connectors.fhir.understanding import STATUSES
from tests.fhir_resources import attachment, bundle, concept, document, encounter, media, observation, patient, pressure
from tests.unit.connectors.fhir.test_handling import handle, statuses

SUBJECT = {"identifier": {"system": "https://hospital.example/mrn", "value": "P1"}}
RESOURCES = {
    "Observation": observation(),
    "DocumentReference": document(),
    "DiagnosticReport": {"resourceType": "DiagnosticReport", "code": concept("18842-5"), "subject": SUBJECT, "conclusion": "x"},
    "Encounter": encounter(),
    "Media": media(b""),
    "Communication": {"resourceType": "Communication", "subject": SUBJECT, "payload": [{"contentString": "x"}]},
    "ImagingStudy": {"resourceType": "ImagingStudy", "subject": SUBJECT},
}


def test_every_type_that_is_taken_has_its_codes():
    assert {*STATUSES, "Patient"} == {*SUPPORTED} == {*RESOURCES, "Patient"}


@pytest.mark.parametrize(("kind", "element"), [(kind, element) for kind, known in STATUSES.items() for element in known])
@pytest.mark.parametrize("word", ["banana", "finalized", "entered_in_error", "Entered-In-Error", "Final"])
def test_a_status_that_is_no_code_of_its_value_set_is_refused(kind, element, word):
    known = {name: sorted(codes)[0] for name, codes in STATUSES[kind].items()}
    resource = RESOURCES[kind] | known | {element: word}
    assert validate(resource) == []  # the models leave codes to others
    outcome = handle(resource)
    assert (outcome.verdict, outcome.code, outcome.events) == ("refused", 400, ())
    (issue,) = outcome.answer.body["issue"]
    assert (issue["severity"], issue["code"], issue["expression"]) == ("error", "code-invalid", [f"{kind}.{element}"])
    assert word not in str(outcome.answer.body)


@pytest.mark.parametrize(
    ("kind", "element", "word"),
    [(kind, element, word) for kind, known in STATUSES.items() for element, codes in known.items() for word in sorted(codes)],
)
def test_every_code_of_the_value_set_is_taken(kind, element, word):
    known = {name: sorted(codes)[0] for name, codes in STATUSES[kind].items()}
    assert handle(RESOURCES[kind] | known | {element: word}).code < 300


def test_a_bad_status_refuses_a_transaction_and_its_own_entry_of_a_batch():
    bad = observation(status="finalized")
    whole = handle(bundle(pressure(), bad))
    assert (whole.code, whole.events) == (400, ())
    assert whole.answer.body["issue"][0]["expression"] == ["Bundle.entry[1].resource.status"]
    batch = handle(bundle(pressure(), bad, kind="batch"))
    assert (statuses(batch), len(batch.events)) == (["201 Created", "400 Bad Request"], 1)
    assert handle(bad, Request("hook")).code == 400


# -------------------------------------------------------------------------------------------------------------- modifiers

MODIFIER = [{"url": "http://example.org/Petra-was-not-measured", "valueBoolean": True}]
TIMING = {"event": ["2026-11-23T10:00:00Z"], "modifierExtension": MODIFIER}


def component(resource):
    return resource | {"component": [resource["component"][0] | {"modifierExtension": MODIFIER}]}


@pytest.mark.parametrize(
    ("resource", "place"),
    [
        *((one | {"modifierExtension": MODIFIER}, f"{kind}.modifierExtension[0]") for kind, one in RESOURCES.items()),
        (patient(modifierExtension=MODIFIER), "Patient.modifierExtension[0]"),
        (component(pressure()), "Observation.component[0].modifierExtension[0]"),
        (
            observation(effectiveDateTime=None, effectiveTiming=TIMING),
            "Observation.effectiveTiming.modifierExtension[0]",
        ),
        (
            patient(link=[{"other": {"reference": "Patient/2"}, "type": "replaces", "modifierExtension": MODIFIER}]),
            "Patient.link[0].modifierExtension[0]",
        ),
        (
            document(content=[{"attachment": attachment(), "modifierExtension": MODIFIER}]),
            "DocumentReference.content[0].modifierExtension[0]",
        ),
        (
            observation(contained=[patient(id="p", modifierExtension=MODIFIER)], subject={"reference": "#p"}),
            "Observation.contained[0].modifierExtension[0]",
        ),
    ],
)
def test_a_modifier_that_is_not_known_is_not_used(resource, place):
    known = {"status": "completed"} if resource["resourceType"] == "Communication" else {}
    known |= {"status": "final"} if resource["resourceType"] == "DiagnosticReport" else {}
    known |= {"status": "available"} if resource["resourceType"] == "ImagingStudy" else {}
    assert validate(resource | known) == []
    outcome = handle(resource | known)
    assert (outcome.verdict, outcome.code, outcome.events) == ("refused", 422, ())
    (issue,) = outcome.answer.body["issue"]
    assert (issue["severity"], issue["code"], issue["expression"]) == ("error", "extension", [place])
    assert "Petra" not in str(outcome.answer.body)
    assert "Petra" not in outcome.reason


@pytest.mark.parametrize("kind", [*RESOURCES, "Patient"])
def test_implicit_rules_are_not_known(kind):
    made = (RESOURCES.get(kind) or patient()) | {"implicitRules": "http://example.org/rules"}
    made |= {"status": sorted(STATUSES[kind]["status"])[0]} if kind in STATUSES else {}
    outcome = handle(made)
    assert (outcome.verdict, outcome.code, outcome.events) == ("refused", 422, ())
    (issue,) = outcome.answer.body["issue"]
    assert (issue["code"], issue["expression"]) == ("not-supported", [f"{kind}.implicitRules"])


@pytest.mark.parametrize(
    "resource",
    [
        observation(referenceRange=[{"text": "x", "modifierExtension": MODIFIER}]),
        patient(contact=[{"name": {"text": "x"}, "modifierExtension": MODIFIER}]),
        observation(extension=[{"url": "http://example.org/x", "valueTiming": TIMING}]),
        observation(extension=MODIFIER),
    ],
)
def test_a_modifier_of_what_is_not_read_changes_nothing(resource):
    assert handle(resource).verdict == "accepted"


def test_modifiers_in_bundles():
    bad = observation(modifierExtension=MODIFIER)
    whole = handle(bundle(pressure(), bad))
    assert (whole.code, whole.events) == (422, ())
    assert whole.answer.body["issue"][0]["expression"] == ["Bundle.entry[1].resource.modifierExtension[0]"]
    assert handle(bundle(observation(status=None), bad)).code == 400
    batch = handle(bundle(pressure(), bad, kind="batch"))
    assert (statuses(batch), len(batch.events)) == (["201 Created", "422 Unprocessable Entity"], 1)
    envelope = bundle(observation())
    envelope["entry"][0]["modifierExtension"] = MODIFIER
    outcome = handle(envelope)
    assert (outcome.code, outcome.answer.body["issue"][0]["expression"]) == (422, ["Bundle.entry[0].modifierExtension[0]"])
    assert handle(bundle(observation()) | {"implicitRules": "http://example.org/rules"}).code == 422
    header = {"resourceType": "MessageHeader", "eventUri": "http://x", "source": {"endpoint": "http://x"}}
    message = {"resourceType": "Bundle", "type": "message", "entry": [{"resource": header}, {"resource": observation()}]}
    assert handle(message, Request("message")).code == 200
    message["entry"][0]["resource"] = header | {"modifierExtension": MODIFIER}
    assert handle(message, Request("message")).code == 422


def test_a_place_with_a_modifier_is_not_looked_up():
    ward = {"resourceType": "Location", "name": "7 North"}
    stay = encounter(location=[{"location": {"reference": "urn:uuid:1"}}])
    for more, place in (({}, "7 North"), ({"modifierExtension": MODIFIER}, "urn:uuid:1")):
        made = bundle(stay, ward | more)
        made["entry"][1]["fullUrl"] = "urn:uuid:1"
        (event,) = handle(made).events
        assert event.location.ward == place
