"""Large and legal bodies: what they take grows with their size, not with its square, and one element's number is bounded."""

from datetime import UTC, datetime
from time import process_time

import orjson
import pytest

from connectors.fhir.handling import FhirMapper, Request
from connectors.fhir.settings import FhirSettings
from processors.events import MOST_IDENTIFIERS, VitalsEvent
from tests.edge import identities
from tests.fhir_resources import MRN, bundle, concept, observation, patient, quantity
from tests.work import calls

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PANEL = observation("85353-1", valueQuantity=None)
MANY = 4000


def pulse(n: int) -> dict:
    return {"code": concept("8867-4"), "valueQuantity": quantity(60 + n % 90)}


def components(count: int, **more: object) -> dict:
    made = {name: value for name, value in PANEL.items() if value is not None}
    return made | {"component": [pulse(n) for n in range(count)]} | more


def members() -> dict:
    held = [{"resourceType": "Observation", "id": f"m{n}", "status": "final", **pulse(n)} for n in range(MANY)]
    named = [{"reference": f"#m{n}"} for n in range(MANY)]
    return {name: value for name, value in PANEL.items() if value is not None} | {"contained": held, "hasMember": named}


def of_a_contained_patient() -> dict:
    made = members()
    made["contained"].insert(0, {"resourceType": "Patient", "id": "p", "identifier": [{"system": MRN, "value": "P1"}]})
    return made | {"subject": {"reference": "#p"}}


def of_a_patient_of_many_numbers() -> dict:
    numbers = [{"system": MRN, "value": f"P{n}"} for n in range(400)]
    made = bundle(patient(identifier=numbers), *(observation(subject={"reference": "urn:uuid:p"}) for _ in range(400)))
    made["entry"][0]["fullUrl"] = "urn:uuid:p"
    return made


@pytest.mark.parametrize(
    ("body", "sets"),
    [(components(MANY), MANY), (members(), MANY), (of_a_contained_patient(), MANY), (of_a_patient_of_many_numbers(), 400)],
    ids=["components", "members", "contained-subject", "numbers"],
)
def test_a_large_body_takes_no_more_than_seconds(body, sets):
    using, raw = FhirMapper(FhirSettings(), identities()), orjson.dumps(body)
    began = process_time()
    outcome = using.handle(raw, using.sender("fhir", NOW))
    took = process_time() - began
    assert sum(isinstance(event, VitalsEvent) for event in outcome.events) == sets
    assert took < 5  # less than one second; with the square 5.7 to 17


def test_what_a_large_body_said_is_taken_back_in_seconds():
    using = FhirMapper(FhirSettings(), identities())
    put = Request("update", "Observation", "o1")
    using.learn(using.handle(orjson.dumps(components(MANY, id="o1")), using.sender("fhir", NOW), put))
    gone = {"resourceType": "Observation", "id": "o1", "status": "entered-in-error", "code": concept("85353-1")}
    began = process_time()
    outcome = using.handle(orjson.dumps(gone), using.sender("fhir", NOW), put)
    assert process_time() - began < 5
    assert [[one.status for one in event.observations] for event in outcome.events] == [["entered-in-error"]] * MANY


@pytest.mark.parametrize("name", ["component", "contained"])
def test_an_element_that_is_there_too_often_is_refused_with_its_place(name):
    using = FhirMapper(FhirSettings(most_entries=2), identities())

    def handle(count: int):
        held = [{"resourceType": "Patient", "id": f"p{n}"} if name == "contained" else pulse(n) for n in range(count)]
        return using.handle(orjson.dumps(observation() | {name: held}), using.sender("fhir", NOW))

    assert handle(2).code == 201
    refused = handle(3)
    assert (refused.verdict, refused.code) == ("refused", 400)
    assert [(one.code, one.expression) for one in refused.issues] == [("too-costly", f"Observation.{name}")]


def test_in_a_batch_only_the_entry_that_is_too_large_is_refused():
    using = FhirMapper(FhirSettings(most_entries=2), identities())
    outcome = using.handle(orjson.dumps(bundle(components(3), observation(), kind="batch")), using.sender("fhir", NOW))
    assert [one["response"]["status"][:3] for one in outcome.answer.body["entry"]] == ["400", "201"]


def of_many(count: int, system: str) -> list[dict]:
    return [{"system": system.format(n=n), "value": f"P{n}"} for n in range(count)]


@pytest.mark.parametrize("system", [MRN, "urn:s{n}"], ids=["of-one", "of-many"])
def test_many_numbers_of_a_patient_take_as_much_more_as_there_are_more_of_them(system):
    def work(count: int) -> int:
        using = FhirMapper(FhirSettings(), identities())
        bodies = [orjson.dumps(patient(id="p", identifier=of_many(count, system), gender=one)) for one in ("male", "female")]
        return calls(lambda: [using.learn(using.handle(body, using.sender("fhir", NOW))) for body in bodies])

    work(1)  # the first builds the models
    assert work(MOST_IDENTIFIERS) < 3 * work(MOST_IDENTIFIERS // 2)  # with the square four times


def test_more_numbers_than_anybody_has_are_refused_with_their_place():
    using = FhirMapper(FhirSettings(), identities())
    held = {"resourceType": "Patient", "id": "p", "identifier": of_many(MOST_IDENTIFIERS + 1, "urn:s{n}")}
    sent = [patient(identifier=held["identifier"]), observation(contained=[held], subject={"reference": "#p"})]
    answers = [using.handle(orjson.dumps(one), using.sender("fhir", NOW)) for one in sent]
    assert [(one.verdict, one.code, one.events) for one in answers] == [("refused", 400, ())] * 2
    assert [[(issue.code, issue.expression) for issue in one.issues] for one in answers] == [
        [("too-costly", "Patient.identifier")],
        [("too-costly", "Observation.contained[0].identifier")],
    ]
