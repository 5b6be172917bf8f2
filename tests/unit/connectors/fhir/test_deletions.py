"""A resource that is deleted takes back what its id said: by every door, once, and never more than is known."""

from datetime import UTC, datetime, timedelta

import orjson
import pytest

from connectors.contexts import MemoryContexts
from connectors.fhir.capability import DELETABLE, SUPPORTED, capability_statement
from connectors.fhir.handling import FhirMapper, Request
from connectors.fhir.settings import FhirPeer, FhirSettings
from processors.events import Identifier, ImageEvent, NoteEvent, PatientEvent, VitalsEvent
from streams.demo.radiographs import draw, png
from tests.edge import identities
from tests.fhir_resources import MRN, bundle, document, encounter, media, observation, patient, pressure

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
IDS = identities()
P1, P2 = (IDS.patient(Identifier(authority=MRN, value=value)) for value in ("P1", "P2"))
OTHER = {"identifier": {"system": MRN, "value": "P2"}}


class Feed:
    """One mapper that learns from what it took, as the endpoint does."""

    def __init__(self, **changes):
        self.contexts = MemoryContexts()
        self.mapper = FhirMapper(FhirSettings(**changes), IDS, self.contexts)
        self.now = NOW

    def take(self, resource, request, *, learn=True):
        body = b"" if resource is None else orjson.dumps(resource)
        self.now += timedelta(seconds=1)
        outcome = self.mapper.handle(body, self.mapper.sender("fhir", self.now), request)
        if learn:
            self.mapper.learn(outcome)
        return outcome

    def put(self, resource):
        outcome = self.take(resource, Request("update", resource["resourceType"], resource["id"]))
        assert outcome.verdict == "accepted"
        return outcome

    def delete(self, kind, name, door="update", **more):
        return self.take(None, Request(door, kind, name, deletes=True), **more)


def film(**more):
    return media(png(draw(1, "clear", 64)), id="m1", **more)


def asked(kind, name, method="DELETE"):
    return {"request": {"method": method, "url": f"{kind}/{name}"}}


def entry(resource, method="PUT"):
    return {"resource": resource} | asked(resource["resourceType"], resource["id"], method)


def of(kind, *entries):
    return {"resourceType": "Bundle", "type": kind, "entry": [*entries]}


def statuses(outcome):
    return [one["response"]["status"] for one in outcome.answer.body["entry"]]


KINDS = {
    "Observation": observation(id="x"),
    "DocumentReference": document(id="x"),
    "DiagnosticReport": {
        "resourceType": "DiagnosticReport",
        "id": "x",
        "status": "final",
        "code": {"text": "CT"},
        "conclusion": "Clear.",
        "subject": {"identifier": {"system": MRN, "value": "P1"}},
        "issued": "2026-11-23T10:00:00Z",
    },
    "Communication": {
        "resourceType": "Communication",
        "id": "x",
        "status": "completed",
        "payload": [{"contentString": "Call back."}],
        "subject": {"identifier": {"system": MRN, "value": "P1"}},
        "sent": "2026-11-23T10:00:00Z",
    },
    "Media": film() | {"id": "x"},
    "Patient": patient(id="x"),
}


def stands(outcome):
    """Of each event what it says stands, or does not: status of values, notes and images, and of a record whether it is deleted."""
    found = []
    for event in outcome.events:
        match event:
            case VitalsEvent():
                found += [one.status for one in event.observations]
            case NoteEvent() | ImageEvent():
                found.append(event.status)
            case PatientEvent() if not event.merged_into:
                found.append("deleted" if event.deleted else "stands")
    return found


def test_every_kind_that_is_said_to_be_deletable_is_tried():
    assert KINDS.keys() == DELETABLE
    stated = {one["type"]: one for one in capability_statement(url="u", date=NOW, software_version="1")["rest"][0]["resource"]}
    assert {name for name, one in stated.items() if {"code": "delete"} in one["interaction"]} == DELETABLE
    assert stated.keys() == SUPPORTED.keys()


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("door", ["delete", "hook", "batch", "transaction", "history"])
def test_what_an_id_said_is_taken_back_once(kind, door):
    feed = Feed()

    def delete():
        if door in ("delete", "hook"):
            return feed.delete(kind, "x", "hook" if door == "hook" else "update")
        return feed.take(of(door, asked(kind, "x")), Request("hook" if door == "history" else "bundle"))

    made = feed.put(KINDS[kind])
    gone = delete()
    assert (gone.verdict, gone.code) == ("accepted", 200)
    assert stands(gone) == ["deleted" if kind == "Patient" else "entered-in-error"]
    assert {event.patient_id for event in gone.events} <= {event.patient_id for event in made.events}
    again = delete()
    assert (again.verdict, again.code, again.events) == ("ignored", 200, ())
    assert "before" in again.reason
    back = feed.put(KINDS[kind] | {"meta": {"versionId": "9"}})
    assert not {"deleted", "entered-in-error"} & {*stands(back)}
    once_more = delete()
    assert stands(once_more) == stands(gone)
    assert not {event.id for event in once_more.events} & {event.id for event in gone.events}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_deletion_that_was_not_confirmed_comes_again_under_the_same_ids(kind):
    feed = Feed()
    feed.put(KINDS[kind])
    first, second = (feed.delete(kind, "x", learn=False) for _ in range(2))
    assert [event.id for event in first.events] == [event.id for event in second.events] != []


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_of_what_nothing_is_known_nothing_is_taken_back_and_that_is_said(kind):
    feed = Feed()
    alone = feed.delete(kind, "x")
    assert (alone.verdict, alone.code, alone.events) == ("refused", 404, ())
    assert [(one.severity, one.code) for one in alone.issues] == [("error", "not-found")]
    told = feed.delete(kind, "x", "hook")
    assert (told.verdict, told.code, [one.severity for one in told.issues]) == ("ignored", 200, ["warning"])
    batch = feed.take(of("batch", asked(kind, "x"), entry(observation(id="y"))), Request("bundle"))
    assert statuses(batch) == ["404 Not Found", "200 OK"]
    assert stands(batch) == ["final"]
    whole = feed.take(of("transaction", asked(kind, "x"), entry(observation(id="z"))), Request("bundle"))
    assert (whole.code, whole.events) == (422, ())
    history = feed.take(of("history", asked(kind, "x")), Request("hook"))
    assert (history.code, history.events, [one.severity for one in history.issues]) == (200, (), ["warning"])


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("name", ["x" * 65, "x" * 10_000, " ", "\ud800", "%2F"])
def test_an_id_that_nothing_can_have_is_not_known(kind, name):
    assert Feed().delete(kind, name).code in (400, 404)


@pytest.mark.parametrize(("kind", "code"), [("Encounter", 405), ("ImagingStudy", 405), ("Basic", 404), ("Nonsense", 404)])
def test_what_is_not_remembered_by_its_id_is_not_deleted(kind, code):
    feed = Feed()
    outcome = feed.delete(kind, "x")
    assert (outcome.code, outcome.events) == (code, ())
    assert dict(outcome.answer.headers) == ({"Allow": "PUT"} if code == 405 else {})
    assert statuses(feed.take(of("batch", asked(kind, "x")), Request("bundle"))) == ["400 Bad Request"]
    assert feed.delete(kind, "x", "hook").code == (200 if kind != "Nonsense" else 404)
    assert feed.take(of("history", asked(kind, "x")), Request("hook")).events == ()


@pytest.mark.parametrize("url", ["Observation?identifier=1", "Observation", "", "Observation/"])
def test_only_what_is_named_by_type_and_id_is_deleted(url):
    request = {"request": {"method": "DELETE", "url": url}}
    assert statuses(Feed().take(of("batch", request), Request("bundle"))) == ["400 Bad Request"]
    assert Feed().take(of("history", request), Request("hook")).code == 200


def test_all_values_of_a_panel_are_taken_back_of_the_patient_that_they_stand_under():
    feed = Feed()
    feed.put(pressure(id="x"))
    feed.put(pressure(id="x", subject=OTHER, status="corrected"))
    gone = feed.delete("Observation", "x")
    (event,) = gone.events
    assert event.patient_id == P2
    assert {(one.code, one.value, one.status) for one in event.observations} == {
        ("8480-6", 120, "entered-in-error"),
        ("8462-4", 80, "entered-in-error"),
    }


def test_a_note_is_withdrawn_under_its_id_and_under_the_record_that_survived():
    feed = Feed()
    (made,) = feed.put(document(id="x")).events
    feed.contexts.remember(
        PatientEvent(id="m", patient_id=P1, merged_into=P2, effective_at=NOW, received_at=NOW, origin=made.origin)
    )
    (gone,) = feed.delete("DocumentReference", "x").events
    assert (gone.note_id, gone.patient_id, gone.status, gone.relation) == (made.note_id, P2, "entered-in-error", "cancel")


def test_of_an_id_that_several_documents_were_created_under_none_is_withdrawn():
    feed = Feed()
    for one in (document(id="x"), document(id="x", subject=OTHER)):
        assert feed.take(one, Request("create", "DocumentReference")).code == 201
    gone = feed.delete("DocumentReference", "x")
    assert (gone.code, gone.events, gone.issues[0].code) == (409, (), "multiple-matches")


def test_a_record_that_another_patient_resource_is_filed_under_stays_until_that_is_deleted_too():
    feed = Feed()
    for name in ("a", "b"):
        feed.put(patient(id=name))
    first = feed.delete("Patient", "a")
    assert (first.code, "deleted" in stands(first)) == (200, False)
    assert "another Patient is filed under that record too" in first.reason
    assert stands(feed.delete("Patient", "b")) == ["deleted"]
    feed.put(patient(id="a"))
    assert not feed.contexts.get(P1).deleted


def test_a_deleted_record_keeps_its_numbers_and_nothing_else_of_the_person():
    feed = Feed()
    feed.put(patient(id="a", birthDate="1950-01-01"))
    feed.put(encounter(id="e", subject={"reference": "Patient/a"}))
    feed.delete("Patient", "a")
    left = feed.contexts.get(P1)
    assert (left.deleted, left.birth_date, left.encounter_id, left.encounter_status) == (True, None, None, "unknown")
    assert [one.value for one in left.identifiers if one.authority == MRN] == ["P1"]


def test_in_a_transaction_a_deletion_comes_first_and_in_a_notification_last():
    feed = Feed()
    feed.put(observation(id="x"))
    twice = feed.take(of("transaction", entry(observation(id="x", value=90)), asked("Observation", "x")), Request("bundle"))
    assert (twice.code, twice.issues[0].code) == (400, "duplicate")
    feed.take(of("history", asked("Observation", "x"), entry(observation(id="x", value=90))), Request("hook"))
    assert "before" in feed.delete("Observation", "x").reason


def test_test_data_is_deleted_as_test_data_and_a_test_system_deletes_nobody():
    feed = Feed()
    tagged = observation(id="x", meta={"tag": [{"code": "HTEST"}]})
    feed.put(tagged)
    (gone,) = feed.delete("Observation", "x").events
    assert (gone.processing, gone.observations[0].status) == ("training", "entered-in-error")
    test = Feed(peers={"fhir": FhirPeer(processing="training")})
    test.contexts.remember(next(one for one in Feed().put(patient(id="a")).events if one.patient_id == P1))
    for one in Feed().put(patient(id="a")).contexts:
        test.contexts.remember(one)
    assert test.delete("Patient", "a").events == ()
    assert not test.contexts.get(P1).deleted


def test_a_message_or_a_page_of_a_search_deletes_nothing():
    feed = Feed()
    feed.put(observation(id="x"))
    for kind in ("searchset", "collection"):
        outcome = feed.take(of(kind, asked("Observation", "x") | {"fullUrl": "Observation/x"}), Request("hook"))
        assert (outcome.code, outcome.events) == (200, ())
    assert stands(feed.delete("Observation", "x")) == ["entered-in-error"]


def test_what_a_notification_deletes_is_not_asked_for():
    feed = Feed()
    feed.put(observation(id="x"))
    status = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "subscription", "valueReference": {"reference": "Subscription/1"}},
            {"name": "status", "valueCode": "active"},
            {"name": "type", "valueCode": "event-notification"},
            {
                "name": "notification-event",
                "part": [
                    {"name": "event-number", "valueString": "1"},
                    {"name": "focus", "valueReference": {"reference": "Observation/x"}},
                ],
            },
        ],
    }
    deleted = {"fullUrl": "http://ehr/fhir/Observation/x"} | asked("Observation", "x") | {"response": {"status": "204"}}
    outcome = feed.take(of("history", {"resource": status}, deleted), Request("hook"))
    assert (outcome.code, outcome.announced, stands(outcome)) == (200, (), ["entered-in-error"])


def test_in_a_bundle_of_several_deletions_each_takes_back_its_own():
    feed = Feed()
    made = [observation(id="x"), document(id="y"), film()]
    feed.take(bundle(*made, method="PUT") | {"entry": [entry(one) for one in made]}, Request("bundle"))
    gone = feed.take(of("transaction", *(asked(one["resourceType"], one["id"]) for one in made)), Request("bundle"))
    assert gone.code == 200
    assert sorted(stands(gone)) == ["entered-in-error"] * 3
    assert all("location" not in one["response"] for one in gone.answer.body["entry"])
