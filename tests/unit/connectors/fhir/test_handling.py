from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.fhir.capability import capability_statement
from connectors.fhir.handling import FhirMapper, Request
from connectors.fhir.settings import FhirPeer, FhirSettings
from connectors.fhir.structure import validate
from processors.events import DeadLetterEvent, NoteEvent, PatientEvent, VitalsEvent
from tests.edge import identities
from tests.fhir_resources import bundle, document, encounter, observation, patient, pressure

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
IDS = identities()
ANY = Request()
MAPPER = FhirMapper(FhirSettings(), IDS)
CLAIM = {
    "resourceType": "Basic",  # a type that is not taken
    "code": {"text": "something else"},
}


def handle(resource, request=ANY, using=MAPPER):
    body = resource if isinstance(resource, bytes) else orjson.dumps(resource)
    return using.handle(body, using.sender("fhir", NOW), request)


def statuses(outcome):
    return [entry["response"]["status"] for entry in outcome.answer.body["entry"]]


def test_a_type_that_is_not_taken_is_404_and_a_broken_one_400():
    assert (handle(CLAIM).code, handle(CLAIM).verdict) == (404, "ignored")
    assert (handle({"resourceType": "Basic"}).code, handle({"resourceType": "Basic"}).verdict) == (400, "refused")
    assert (handle({"resourceType": "Nonsense"}).code, handle({"resourceType": "Nonsense"}).verdict) == (404, "refused")


def test_url_and_body_must_agree():
    assert handle(patient(id="1"), Request("create", "Observation")).code == 400
    assert handle(patient(id="1"), Request("update", "Patient", "2")).code == 400
    assert handle(patient(), Request("update", "Patient", "2")).code == 400
    assert handle(patient(id="1"), Request("update", "Patient", "1")).code == 200
    assert handle(patient(id="1"), Request("create", "Patient")).code == 201


def test_a_transaction_is_one_set_of_events_or_none():
    good = handle(bundle(patient(), encounter(), observation(), pressure(), document()))
    assert (good.verdict, good.code) == ("accepted", 200)
    assert [type(event) for event in good.events] == [PatientEvent, VitalsEvent, NoteEvent]
    assert len(good.events[1].observations) == 3  # what was observed together is one set
    assert statuses(good) == ["201 Created"] * 5
    bad = handle(bundle(patient(), observation(status=None)))
    assert (bad.code, bad.events) == (400, ())
    assert bad.answer.body["issue"][0]["expression"] == ["Bundle.entry[1].resource.status"]


def test_the_same_bundle_has_the_same_ids():
    made = bundle(patient(), observation(), pressure())
    assert [event.id for event in handle(made).events] == [event.id for event in handle(made).events]


def test_sets_are_cut_by_patient_time_and_code():
    other = {"identifier": {"system": "https://hospital.example/mrn", "value": "P2"}}
    outcome = handle(
        bundle(
            observation(),
            observation(value=73),
            observation(subject=other),
            observation("9279-1", 16, effectiveDateTime="2026-11-23T10:05:00+01:00"),
            observation("2708-6", 97, "%"),
        )
    )
    assert [[one.code for one in event.observations] for event in outcome.events] == [
        ["8867-4", "2708-6"],
        ["8867-4"],
        ["8867-4"],
        ["9279-1"],
    ]


def test_a_batch_is_taken_entry_by_entry():
    made = bundle(observation(), observation(status=None), CLAIM, observation("2339-0", 90, "mg/dL"), kind="batch")
    made["entry"].append({"request": {"method": "GET", "url": "Patient/1"}})
    made["entry"].append({"request": {"method": "POST", "url": "Patient"}})
    outcome = handle(made)
    assert (outcome.verdict, outcome.code, len(outcome.events)) == ("accepted", 200, 1)
    assert statuses(outcome) == ["201 Created", "400 Bad Request", "200 OK", "200 OK", "400 Bad Request", "400 Bad Request"]
    assert outcome.answer.body["type"] == "batch-response"
    assert validate(outcome.answer.body) == []


URL = "Bundle.entry[1].request.url"
NUMBER = [{"system": "urn:x", "value": "1"}]


@pytest.mark.parametrize(
    ("resource", "asked", "place"),
    [
        (observation(id="o9"), {"method": "PUT", "url": "Observation/o8"}, "Bundle.entry[1].resource.id"),
        (observation(), {"method": "PUT", "url": "Observation/o77"}, "Bundle.entry[1].resource.id"),
        (observation(id="o1"), {"method": "PUT", "url": "Patient/o1"}, URL),
        (observation(id="o1"), {"method": "PUT", "url": "Observation"}, URL),
        (observation(id="o1"), {"method": "PUT", "url": "Observation/o1/_history/2"}, URL),
        (observation(id="o1"), {"method": "PUT", "url": "Patient?identifier=x"}, URL),
        (observation(), {"method": "PUT", "url": "Observation?identifier=urn:x|1"}, URL),
        (observation(identifier=NUMBER), {"method": "PUT", "url": "Observation?identifier=urn:y|1"}, URL),
        (observation(identifier=NUMBER), {"method": "PUT", "url": "Observation?identifier=|1"}, URL),
        (observation(identifier=NUMBER), {"method": "PUT", "url": "Observation?identifier=urn:x|"}, URL),
        (observation(identifier=NUMBER), {"method": "PUT", "url": "Observation?identifier=urn:x|1&status=final"}, URL),
        (observation(identifier=NUMBER), {"method": "PUT", "url": "Observation?code=8867-4"}, URL),
        (observation(identifier=NUMBER), {"method": "PUT", "url": "Observation?"}, URL),
        (observation(), {"method": "POST", "url": "Patient"}, URL),
        (observation(), {"method": "POST", "url": "Observation/o1"}, URL),
        (observation(), None, "Bundle.entry[1].request"),
        (CLAIM, {"method": "POST", "url": "Observation"}, URL),
    ],
)
def test_the_request_of_an_entry_is_held_against_its_resource(resource, asked, place):
    for kind in ("transaction", "batch"):
        made = bundle(pressure(), observation(), kind=kind)
        made["entry"][1] = {"resource": resource} | ({"request": asked} if asked else {})
        outcome = handle(made)
        if kind == "transaction":
            assert (outcome.code, outcome.events) == (400, ())
            assert [issue["expression"] for issue in outcome.answer.body["issue"]] == [[place]]
        else:
            assert (statuses(outcome), len(outcome.events)) == (["201 Created", "400 Bad Request"], 1)
            assert outcome.answer.body["entry"][1]["response"]["outcome"]["issue"][0]["expression"] == [place]


@pytest.mark.parametrize(
    ("resource", "asked"),
    [
        (observation(id="o1"), {"method": "PUT", "url": "Observation/o1"}),
        (observation(id="o1"), {"method": "PUT", "url": "https://vigil.example/fhir/Observation/o1"}),
        (observation(id="o1"), {"method": "PUT", "url": "/Observation/o1/"}),
        (observation(identifier=NUMBER), {"method": "PUT", "url": "Observation?identifier=urn:x|1"}),
        (observation(identifier=NUMBER), {"method": "PUT", "url": "/Observation?identifier=urn%3Ax%7C1"}),
        (observation(identifier=NUMBER), {"method": "PUT", "url": "Observation?identifier=1"}),
        (observation(id="o1"), {"method": "POST", "url": "Observation"}),
        (observation(), {"method": "POST", "url": "https://vigil.example/fhir/Observation"}),
    ],
)
def test_urls_of_entries_that_agree(resource, asked):
    made = bundle(pressure(), observation())
    made["entry"][1] = {"resource": resource, "request": asked}
    assert statuses(handle(made)) == ["201 Created", "200 OK" if asked["method"] == "PUT" else "201 Created"]


def test_a_transaction_that_updates_a_resource_twice_fails():
    twice = bundle(observation(id="o1"), pressure(id="o2"), observation(id="o1", value=99), method="PUT")
    outcome = handle(twice)
    assert (outcome.code, outcome.events) == (400, ())
    (issue,) = outcome.answer.body["issue"]
    assert (issue["code"], issue["expression"]) == ("duplicate", ["Bundle.entry[2].request.url"])
    assert handle(bundle(observation(id="o1"), encounter(id="o1"), method="PUT")).code == 200
    assert handle(twice | {"type": "batch"}).code == 200  # a batch has no such rule
    assert handle(bundle(observation(id="o1"), observation(id="o1", value=99))).code == 200  # a create has no id of its own
    by_number = bundle(observation(identifier=NUMBER), observation(identifier=NUMBER, value=99))
    for entry in by_number["entry"]:
        entry["request"] = {"method": "PUT", "url": "Observation?identifier=urn:x|1"}
    assert (handle(by_number).code, handle(by_number | {"type": "batch"}).code) == (400, 200)


def test_what_is_not_for_us_in_a_transaction_is_noted_or_refuses_it_by_setting():
    made = bundle(observation(), CLAIM)
    outcome = handle(made)
    assert (outcome.verdict, len(outcome.events), statuses(outcome)) == ("accepted", 1, ["201 Created", "200 OK"])
    strict = FhirMapper(FhirSettings(not_for_us="refuse"), IDS)
    refused = handle(made, using=strict)
    assert (refused.code, refused.events) == (422, ())


def test_a_message():
    header = {
        "resourceType": "MessageHeader",
        "id": "m1",
        "eventUri": "http://example.org/vitals",
        "source": {"endpoint": "http://example.org"},
    }
    made = {"resourceType": "Bundle", "type": "message", "entry": [{"resource": header}, {"resource": observation()}]}
    outcome = handle(made, Request("message"))
    assert (outcome.verdict, outcome.code, len(outcome.events)) == ("accepted", 200, 1)
    answer = outcome.answer.body["entry"][0]["resource"]
    assert (answer["response"], answer["eventUri"]) == ({"identifier": "m1", "code": "ok"}, "http://example.org/vitals")
    assert validate(outcome.answer.body) == []
    assert handle(made | {"entry": made["entry"][1:]}, Request("message")).code == 400
    assert handle(made, Request("bundle")).code == 422
    assert handle(bundle(observation()), Request("message")).code == 422


def test_other_bundles():
    collection = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": observation()}]}
    assert (handle(collection).verdict, handle(collection).code) == ("ignored", 422)
    assert handle(collection, Request("hook")).verdict == "accepted"
    broken = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": observation(status=None)}]}
    assert (handle(broken).verdict, handle(broken).code) == ("refused", 400)
    assert handle({"resourceType": "Bundle", "entry": []}).code == 400
    assert handle({"resourceType": "Bundle", "type": "batch", "entry": [7]}).code == 400
    assert handle({"resourceType": "Bundle", "type": "batch"}).code == 200
    few = FhirMapper(FhirSettings(most_entries=2), IDS)
    assert handle(bundle(observation(), observation(), observation()), using=few).code == 400


def test_the_capability_statement_is_valid():
    statement = capability_statement(url="http://localhost/fhir", date=NOW, software_version="1")
    assert validate(statement) == []
    assert {one["type"] for one in statement["rest"][0]["resource"]} >= {"Observation", "Patient", "Encounter"}


def test_every_answer_is_valid_fhir():
    for resource in (observation(), patient(), observation(status=None), CLAIM, document(content=[]), bundle(observation())):
        assert validate(handle(resource).answer.body) == []


def test_what_is_learnt_about_stays_is_bounded():
    using = FhirMapper(FhirSettings(), IDS)
    using._encounters.limit = 10
    for n in range(30):
        made = encounter(id=f"e{n}", status="finished", identifier=[{"value": f"V{n}"}])
        using.learn(handle(made, using=using))
    assert len(using._encounters) == 10


def test_settings_that_cannot_tell_senders_apart_are_refused():
    token = "t" * 16
    for peers in (
        {},
        {"a": {"token": "short"}},
        {"a": {"token": token}, "b": {"token": token}},
        {"a": {"token": token}, "b": {}},
        {"a": {"zone": "Nowhere/Land"}},
    ):
        with pytest.raises(ValueError, match=r"peer|token|zone|Zone"):
            FhirSettings(peers=peers)
    assert not FhirSettings().needs_token
    assert FhirSettings(peers={"a": FhirPeer.model_validate({"token": token})}).needs_token


# ------------------------------------------------------------------------------------------------------------- properties

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-10, 10**6)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
RESOURCES = [
    observation(id="o"),
    pressure(),
    patient(id="p", link=[{"other": {"reference": "Patient/2"}, "type": "replaced-by"}]),
    encounter(id="e", location=[{"location": {"display": "7"}}]),
    document(relatesTo=[{"code": "replaces", "target": {"reference": "DocumentReference/1"}}]),
    bundle(patient(), observation(), document()),
    bundle(observation(), kind="batch"),
]


def paths(value, path=()):
    yield path
    if isinstance(value, dict):
        for name in value:
            yield from paths(value[name], (*path, name))
    elif isinstance(value, list):
        for n, one in enumerate(value):
            yield from paths(one, (*path, n))


def changed(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_resource_always_has_an_answer_and_what_is_accepted_is_published(data):
    resource = data.draw(st.sampled_from(RESOURCES))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([*paths(resource)]))
        resource = changed(resource, path, data.draw(JSON))
        if not isinstance(resource, dict):
            break
    outcome = handle(resource, data.draw(st.sampled_from([ANY, Request("hook"), Request("create", "Observation")])))
    assert outcome.code in (200, 201, 400, 404, 422)
    assert "exception" not in {issue.code for issue in outcome.issues}, outcome.issues
    assert (outcome.verdict in ("accepted", "dead-letter")) == bool(outcome.events)
    assert outcome.code < 300 or not outcome.events
    assert not any(isinstance(event, DeadLetterEvent) for event in outcome.events) or outcome.issues


XML = b"""<Observation xmlns="http://hl7.org/fhir"><status value="final"/><code><coding><system value="http://loinc.org"/>
<code value="8867-4"/></coding></code><subject><reference value="Patient/1"/></subject><valueQuantity><value value="72"/>
<unit value="/min"/></valueQuantity></Observation>"""


def test_xml_is_taken():
    outcome = handle(XML)
    assert (outcome.verdict, outcome.code) == ("accepted", 201)
    assert outcome.events[0].observations[0].value == 72


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(XML) - 1), st.binary(max_size=3)), min_size=1, max_size=6))
def test_damaged_xml_always_has_an_answer(changes):
    damaged = bytearray(XML)
    for place, words in changes:
        damaged[place : place + len(words)] = words
    outcome = handle(bytes(damaged))
    assert outcome.code in (200, 201, 400, 404, 422)
    assert "exception" not in {issue.code for issue in outcome.issues}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | JSON.map(orjson.dumps))
def test_any_bytes_have_an_answer(body):
    outcome = handle(body)
    assert outcome.verdict in ("refused", "ignored")
    assert outcome.code in (400, 404, 422, 200)


HOOK = Request("hook")


@pytest.mark.parametrize("kind", ["history", "searchset", "collection"])
@pytest.mark.parametrize("resource", [["x"], "x", {"resourceType": 5}, {"id": "1"}])
def test_what_is_no_resource_is_refused_by_every_door(kind, resource):
    """Found by fuzzing: the hook answered 200 "All OK" and left it out."""
    entry = {"resource": resource, "request": {"method": "POST", "url": "Observation"}, "response": {"status": "201"}}
    outcome = handle({"resourceType": "Bundle", "type": kind, "entry": [entry]}, HOOK)
    assert (outcome.verdict, outcome.code, outcome.events) == ("refused", 400, ())


def test_a_hooks_bundle_of_which_nothing_is_taken_is_not_answered_200():
    """Found by fuzzing: refused, and a positive answer."""
    sent = {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": {"resourceType": "Nonsense"}}]}
    assert (handle(sent, HOOK).verdict, handle(sent, HOOK).code) == ("refused", 422)
    sent["entry"].append({"resource": observation()})
    assert (handle(sent, HOOK).verdict, handle(sent, HOOK).code) == ("accepted", 200)


def test_a_positive_answer_for_nothing_says_why():
    empty = {"resourceType": "Bundle", "type": "searchset"}
    deleted = {
        "fullUrl": "Observation/1",
        "request": {"method": "DELETE", "url": "Observation/1"},
        "response": {"status": "204"},
    }
    history = {"resourceType": "Bundle", "type": "history", "entry": [deleted]}
    for sent in (empty, history):
        outcome = handle(sent, HOOK)
        assert (outcome.verdict, outcome.code) == ("ignored", 200)
        assert outcome.reason


def test_a_value_that_no_event_has_room_for_is_refused_and_its_place_named():
    number = "9" * 100_000
    outcome = handle(patient(identifier=[{"system": "urn:mrn", "value": "1"}, {"system": "urn:mrn", "value": number}]))
    assert (outcome.verdict, outcome.code, outcome.events) == ("refused", 422, ())
    assert outcome.answer.body["issue"][0]["code"] == "too-long"
    assert outcome.issues[0].expression == "Patient.identifier[1].value"
    assert number not in outcome.reason
