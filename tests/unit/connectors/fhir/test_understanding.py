"""What stands against using a resource whose structure is right."""

import pytest

from connectors.fhir.capability import SUPPORTED
from connectors.fhir.handling import Request
from connectors.fhir.structure import validate
from connectors.fhir.understanding import STATUSES
from tests.fhir_resources import bundle, concept, document, encounter, media, observation, pressure
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
