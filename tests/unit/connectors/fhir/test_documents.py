"""Which note a FHIR document is: one for its versions, never one for two documents (`connectors.documents`)."""

from base64 import b64encode
from datetime import UTC, datetime

import orjson
import pytest

from connectors.fhir.handling import FhirMapper, Outcome, Request
from connectors.fhir.settings import FhirSettings
from processors.events import Identifier, NoteEvent, PatientEvent
from processors.vectors import owners
from tests.edge import identities
from tests.fhir_resources import MRN, bundle, concept, document
from tests.hl7_messages import PID, message, reader

ANY = Request()
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SYSTEM = "https://hospital.example/document"
MASTER = {"system": SYSTEM, "value": "M1"}
ACCESSION = [{"type": {"coding": [{"code": "ACSN"}]}, "system": "urn:acc", "value": "ACC1"}]


class Feed:
    """Requests that come one after the other, each remembered once it is confirmed."""

    def __init__(self) -> None:
        self.mapper = FhirMapper(FhirSettings(), identities())

    def __call__(self, resource: dict, request: Request = ANY) -> Outcome:
        outcome = self.mapper.handle(orjson.dumps(resource), self.mapper.sender("fhir", NOW), request)
        self.mapper.learn(outcome)
        return outcome

    def note(self, resource: dict, request: Request = ANY) -> NoteEvent:
        (event,) = [one for one in self(resource, request).events if isinstance(one, NoteEvent)]
        return event

    def put(self, resource: dict) -> NoteEvent:
        return self.note(resource, Request("update", resource["resourceType"], resource["id"]))


def of(person: str) -> dict:
    return {"identifier": {"system": MRN, "value": person}}


def report(words: str = "Large subdural bleed.", person: str = "P1", code: str = "24725-4", **more: object) -> dict:
    made = {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "code": concept(code),
        "subject": of(person),
        "issued": "2026-11-23T09:00:00Z",
        "conclusion": words,
        "identifier": ACCESSION,
    }
    return made | more


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_two_resources_are_two_documents_whatever_identifier_they_share(method):
    feed = Feed()
    made = bundle(report(id="r1"), report("No fracture.", code="36813-4", id="r2"), method=method)
    first, second = (one for one in feed(made, Request("bundle")).events if isinstance(one, NoteEvent))
    assert first.note_id != second.note_id
    assert (second.relation, second.replaces) == ("original", None)
    later = feed.put(report("Small bleed.", status="corrected", id="r1"))
    assert (later.note_id, later.relation, later.replaces) == (first.note_id, "edit", None)


def test_reports_without_an_id_are_told_apart_by_identifier_code_and_patient():
    first, again = Feed().note(report()), Feed().note(report("Small bleed.", status="amended"))
    assert again.note_id == first.note_id
    others = (report(code="36813-4"), report(person="P2"), report(identifier=[{"value": "ACC1"}]))
    assert len({Feed().note(one).note_id for one in (report(), *others)}) == 4


@pytest.mark.parametrize("make", [report, lambda person="P1", **more: document(subject=of(person), **more)])
def test_an_identifier_without_a_system_is_of_its_server_and_never_of_two_patients(make):
    feed, number = Feed(), [{"value": "1"}]
    assert feed.note(make(identifier=number)).note_id != feed.note(make(identifier=number, person="P2")).note_id
    master = {"masterIdentifier": {"value": "1"}} if make is not report else {}
    made = [feed.put(make(identifier=number, person=f"P{n}", id=f"d{n}", **master)) for n in (1, 2)]
    assert made[0].note_id != made[1].note_id
    assert made[1].replaces is None


def test_an_id_on_a_create_names_a_document_together_with_its_patient():
    feed = Feed()
    first, second = feed.note(report(id="1")), feed.note(report(id="1", person="P2"))
    assert first.note_id != second.note_id
    assert second.replaces is None
    assert feed.note(report("Small bleed.", id="1", status="corrected")).note_id == first.note_id
    # An update of what was created goes on with it, and of a stranger it is nobody's version.
    lone = feed.note(report(id="2"))
    assert feed.put(report(id="2", status="amended")).note_id == lone.note_id


def test_a_master_identifier_is_the_documents_whatever_resource_has_it():
    feed = Feed()
    first = feed.put(document(id="d1", masterIdentifier=MASTER))
    again = feed.put(document("Chest pain since one.", id="d2", masterIdentifier=MASTER, docStatus="amended"))
    assert (again.note_id, again.relation, again.replaces) == (first.note_id, "edit", None)
    assert Feed().put(document(id="d3", masterIdentifier=MASTER)).note_id == first.note_id
    # The same by HL7 v2.
    txa = f"TXA|1|DS|TX|20261123093000+0000||20261123090000+0000||||||M1^^{SYSTEM}|||||LA"
    pid = PID.replace("4711^^^HOSP^MR", f"P1^^^{MRN}^MR")
    raw = message(pid, txa, "OBX|1|TX|x||Chest pain since noon.||||||F", kind="MDM^T02")
    assert next(one for one in reader()(raw).events if isinstance(one, NoteEvent)).note_id == first.note_id


@pytest.mark.parametrize("master", [{}, {"masterIdentifier": MASTER}])
@pytest.mark.parametrize("status", ["final", "amended", "entered-in-error"])
def test_an_update_with_another_subject_takes_the_document_along(master, status):
    feed = Feed()
    wrong = feed.put(document(id="d1", **master))
    moved = document(id="d1", subject=of("P2"), docStatus=status, **master)
    right = feed.put(moved)
    assert right.patient_id != wrong.patient_id
    assert owners(right, ("p",)) == ({wrong.note_id: (), right.note_id: ("p",)} if master else {right.note_id: ("p",)})
    assert (right.note_id == wrong.note_id) == (not master)
    assert feed.put(moved) == right  # a resend
    if master:  # by another resource the first patient has such a document again: it is not taken away
        feed.put(document(id="d9", **master))
        assert feed.put(moved).replaces is None


def test_a_master_identifier_that_comes_later_takes_the_document_along():
    feed = Feed()
    first = feed.put(document(id="d1"))
    later = feed.put(document(id="d1", masterIdentifier=MASTER))
    assert (later.relation, later.replaces) == ("edit", first.note_id)
    assert feed.put(document(id="d1", masterIdentifier=MASTER, docStatus="amended")).note_id == later.note_id


@pytest.mark.parametrize("master", [{}, {"masterIdentifier": MASTER}])
def test_what_a_document_replaces_is_found_by_id_and_by_identifier(master):
    feed = Feed()
    first = feed.put(document(id="d1", **master))
    targets = [{"reference": "DocumentReference/d1"}, {"identifier": {"system": SYSTEM, "value": "D1"}}]
    if master:
        targets.append({"identifier": MASTER})
    for target in targets:
        relates = [{"code": "replaces", "target": target}]
        other = feed.put(document(id="d2", identifier=[{"system": SYSTEM, "value": "D2"}], relatesTo=relates))
        assert (other.relation, other.replaces) == ("replacement", first.note_id)
        assert other.note_id != first.note_id
    # After a restart the id does for what goes by its id, and the masterIdentifier for what goes by that.
    relates = [{"code": "replaces", "target": targets[-1] if master else targets[0]}]
    assert Feed().put(document(id="d2", relatesTo=relates)).replaces == first.note_id


def test_the_same_report_twice_in_a_request_is_one_and_an_update_is_no_other():
    made = [one for one in Feed()(bundle(report(), report()), Request("bundle")).events if isinstance(one, NoteEvent)]
    assert len({one.note_id for one in made}) == 1
    master = document(masterIdentifier=MASTER), document("Later.", masterIdentifier=MASTER)
    made = [one for one in Feed()(bundle(*master), Request("bundle")).events if isinstance(one, NoteEvent)]
    assert len({one.note_id for one in made}) == 1


def test_what_replaces_the_second_of_one_number_in_the_same_request():
    relates = [{"code": "replaces", "target": {"reference": "urn:uuid:1"}}]
    shared = {"identifier": ACCESSION}
    made = bundle(
        document("First.", **shared), document("Second.", **shared), document("Better.", identifier=None, relatesTo=relates)
    )
    made["entry"][1]["fullUrl"] = "urn:uuid:1"
    notes = {one.text: one for one in Feed()(made, Request("bundle")).events if isinstance(one, NoteEvent)}
    assert notes["Better."].replaces == notes["Second."].note_id != notes["First."].note_id


def test_what_a_document_replaces_in_the_same_request():
    relates = [{"code": "replaces", "target": {"reference": "urn:uuid:1"}}]
    made = bundle(document("Better.", identifier=None, relatesTo=relates), document(identifier=None))
    made["entry"][1]["fullUrl"] = "urn:uuid:1"
    notes = {one.text: one for one in Feed()(made, Request("bundle")).events if isinstance(one, NoteEvent)}
    assert notes["Better."].replaces == notes["Chest pain since noon."].note_id


def test_an_identifier_of_several_documents_names_none_of_them():
    feed = Feed()
    made = [feed.put(document(id=f"d{n}", identifier=ACCESSION)) for n in (1, 2)]
    relates = [{"code": "replaces", "target": {"identifier": ACCESSION[0]}}]
    assert feed.put(document(id="d3", relatesTo=relates)).replaces not in {one.note_id for one in made}


def test_versions_of_a_document_over_a_merge():
    feed, ids = Feed(), identities()
    first = feed.put(document(id="d1", masterIdentifier=MASTER))
    survivor = ids.patient(Identifier(authority=MRN, value="P2"))
    feed.mapper.contexts.remember(
        PatientEvent(
            id="a40",
            patient_id=first.patient_id,
            identifiers=(Identifier(authority=MRN, value="P1"),),
            merged_into=survivor,
            effective_at=NOW,
            received_at=NOW,
            origin=first.origin,
        )
    )
    later = feed.put(document(id="d1", masterIdentifier=MASTER, subject=of("P2"), docStatus="amended"))
    assert (later.patient_id, later.note_id, later.replaces) == (survivor, first.note_id, None)


def test_test_data_takes_no_document_along():
    feed = Feed()
    feed.put(document(id="d1", masterIdentifier=MASTER))
    test = {"meta": {"tag": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST"}]}}
    assert feed.put(document(id="d1", masterIdentifier=MASTER, subject=of("P2"), **test)).replaces is None


@pytest.mark.parametrize(
    ("words", "text"),
    [("<p>Large <b>bleed</b></p>", "Large bleed"), (r"{\rtf1\ansi Large bleed}", "Large bleed"), ("Na <normal", "Na <normal")],
)
def test_a_document_in_the_place_of_a_string(words, text):
    assert Feed().note(report(words)).text == text
    said = {"resourceType": "Communication", "status": "completed", "subject": of("P1"), "payload": [{"contentString": words}]}
    assert Feed().note(said).text == text


def test_base64_in_the_place_of_a_string_is_kept_with_the_reason():
    outcome = Feed()(report(b64encode(bytes(range(256))).decode()))
    assert (outcome.verdict, outcome.issues[0].expression) == ("dead-letter", "DiagnosticReport.conclusion")


@pytest.mark.parametrize("kind", ["transaction", "batch"])
def test_reports_of_one_request_under_one_number_are_two_documents(kind):
    feed = Feed()

    def sent(*resources: dict) -> list[NoteEvent]:
        outcome = feed(bundle(*resources, kind=kind), Request("bundle"))
        assert ("of another document in the same request too" in outcome.reason) == (len(resources) == 2)
        return [one for one in outcome.events if isinstance(one, NoteEvent)]

    left, right = sent(report("Left: fracture."), report("Right: normal."))
    assert left.note_id != right.note_id
    assert [one.relation for one in (left, right)] == ["original", "original"]
    assert [one.note_id for one in sent(report("Left: fracture."), report("Right: normal."))] == [left.note_id, right.note_id]
    corrected = sent(report("Left: fracture."), report("Right: effusion.", status="corrected"))
    assert [one.note_id for one in corrected] == [left.note_id, right.note_id]
    (alone,) = sent(report("Left: old fracture.", status="corrected"))
    assert alone.note_id == left.note_id
    assert len({one.note_id for one in sent(report(), report(person="P2"), report(code="36813-4"))} | {left.note_id}) == 3
