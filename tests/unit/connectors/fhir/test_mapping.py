from base64 import b64decode
from datetime import UTC, datetime

import orjson
import pytest
from pydantic import SecretStr

from connectors.contexts import MemoryContexts
from connectors.fhir.handling import FhirMapper, Request
from connectors.fhir.settings import FhirPeer, FhirSettings
from connectors.hl7.settings import ContextCode, LocalCode
from processors.events import DeadLetterEvent, FeedbackEvent, Identifier, NoteEvent, PatientEvent, VitalsEvent
from processors.monitor import Monitor, MonitorRules
from tests import bedside
from tests.edge import identities
from tests.fhir_resources import (
    MRN,
    attachment,
    bundle,
    concept,
    document,
    encounter,
    observation,
    patient,
    pressure,
    quantity,
    without,
)

ANY = Request()
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
IDS = identities()
P1 = IDS.patient(Identifier(authority=MRN, value="P1"))


def mapper(contexts=None, ids=IDS, peer=None, **changes):
    peers = {"peers": {"ehr": peer}} if peer else {}
    return FhirMapper(FhirSettings(**peers, **changes), ids, contexts)


def handle(resource, using=None, name=None, request=ANY):
    using = using or mapper()
    name = name or next(iter(using.settings.peers))
    return using.handle(orjson.dumps(resource), using.sender(name, NOW), request)


def only(outcome, kind):
    found = [event for event in outcome.events if isinstance(event, kind)]
    assert len(found) == 1, outcome.events
    return found[0]


def letters(outcome):
    return [event for event in outcome.events if isinstance(event, DeadLetterEvent)]


# ---------------------------------------------------------------------------------------------------------- Observation


def test_a_vital_sign_becomes_a_set():
    outcome = handle(observation(valueQuantity=quantity(72.5, "{beats}/min", unit="bpm")))
    assert (outcome.verdict, outcome.code) == ("accepted", 201)
    event = only(outcome, VitalsEvent)
    assert event.patient_id == P1
    assert event.observed_at == datetime(2026, 11, 23, 9, tzinfo=UTC)
    assert event.received_at == NOW
    assert event.charted
    assert [(one.code, one.value, one.unit, one.status) for one in event.observations] == [("8867-4", 72.5, "/min", "final")]
    assert event.origin.protocol == "fhir"
    assert "P1" not in event.model_dump_json()


def test_blood_pressure_comes_as_components():
    event = only(handle(pressure(118, 76)), VitalsEvent)
    assert [(one.code, one.value, one.unit) for one in event.observations] == [
        ("8480-6", 118, "mm[Hg]"),
        ("8462-4", 76, "mm[Hg]"),
    ]


@pytest.mark.parametrize(
    "status", ["registered", "preliminary", "final", "amended", "corrected", "cancelled", "entered-in-error", "unknown"]
)
def test_every_status_is_kept(status):
    event = only(handle(observation(status=status)), VitalsEvent)
    assert event.observations[0].status == status
    assert event.charted == (status != "preliminary")


def said(outcome):
    """Return code, value and why there is none, of each vital sign."""
    found = [one for event in outcome.events if isinstance(event, VitalsEvent) for one in event.observations]
    return [(one.code, one.value, one.refused) for one in found]


def test_what_takes_back_or_corrects_says_how_finely_its_time_is_written():
    for at, span in (("2026-11-23T10:00:00Z", 1), ("2026-11-23T10:00:00.123Z", 0)):
        for status in ("final", "corrected", "amended", "entered-in-error", "cancelled"):
            (one,) = only(handle(observation(status=status, effectiveDateTime=at)), VitalsEvent).observations
            assert one.span == (0 if status == "final" else span)


def test_an_mdc_reference_id_counts_beside_other_words():
    code = concept("MDC_ECG_HEART_RATE", "urn:iso:std:iso:11073:10101", "Heart rate")
    event = only(handle(observation(code=code)), VitalsEvent)
    assert ([one.code for one in event.observations], event.charted) == (["8867-4"], False)


def test_a_retraction_needs_no_value():
    retracted = handle(observation(status="entered-in-error", valueQuantity=None))
    assert said(retracted) == [("8867-4", None, "")]
    assert said(handle(observation(status="cancelled", valueQuantity=None))) == [("8867-4", None, "cannot be obtained")]


@pytest.mark.parametrize(
    ("absent", "reason"),
    [
        (concept("not-performed"), "no value (not-performed)"),
        (concept("error"), "no value (error)"),
        (concept("unknown"), "no value (unknown)"),
        ({"text": "Petra refuses"}, "no value"),  # none of the sender's words
        (concept("UTA", "http://ehr.example", "unable to assess"), "no value"),
    ],
)
def test_a_value_that_could_not_be_had_is_told(absent, reason):
    outcome = handle(observation(valueQuantity=None, dataAbsentReason=absent), request=Request("create", "Observation"))
    assert (outcome.verdict, outcome.code, said(outcome), letters(outcome)) == ("accepted", 201, [("8867-4", None, reason)], [])
    assert reason in outcome.reason
    parts = pressure() | {"component": [{"code": concept("8480-6"), "dataAbsentReason": absent}]}
    assert said(handle(parts)) == [("8480-6", None, reason)]
    panel = without(pressure() | {"component": None, "dataAbsentReason": absent})
    assert said(handle(panel)) == [("8480-6", None, reason), ("8462-4", None, reason)]


@pytest.mark.parametrize("absent", ["not-asked", "not-applicable", "unsupported"])
def test_where_nobody_looked_nothing_is_said(absent):
    outcome = handle(observation(valueQuantity=None, dataAbsentReason=concept(absent)))
    assert (outcome.verdict, outcome.code, outcome.events) == ("ignored", 200, ())
    assert f"no value ({absent})" in outcome.reason


def test_a_newest_observation_that_cannot_be_read_leaves_no_older_one_as_normal():
    well = [("9279-1", 16, "/min"), ("59408-5", 97, "%"), ("3151-8", 0, "L/min"), ("8480-6", 120, "mm[Hg]")]
    well += [("8867-4", 70, "/min"), ("8310-5", 36.8, "Cel")]
    alert = observation("67775-7", valueQuantity=None, valueCodeableConcept={"text": "Alert"})
    ill = "2026-11-23T10:05:00+01:00"
    drowsy = {"valueQuantity": None, "valueCodeableConcept": {"text": "Drowsy, hard to rouse"}}
    newer = [
        observation("67775-7", effectiveDateTime=ill, **drowsy),
        observation("59408-5", effectiveDateTime=ill, valueQuantity=quantity(85, "%", comparator="<")),
        observation("9279-1", effectiveDateTime=ill, valueQuantity=None, dataAbsentReason={"text": "unable to count"}),
    ]
    using, watch = mapper(), bedside.Ward(admit=False)
    watch.monitor = Monitor(MonitorRules())
    watch.say(bedside.context(patient=P1))
    score = None
    for resource in (*(observation(*each) for each in well), alert, *newer):
        outcome = handle(resource, using)
        assert outcome.code == 201
        assert "rouse" not in "".join(event.model_dump_json() for event in outcome.events if isinstance(event, VitalsEvent))
        score = next(one for event in outcome.events if isinstance(event, VitalsEvent) for one in watch.say(event))
    assert score.news2.total == 0
    assert [(one.name, one.reason) for one in score.news2.refused] == [
        ("respiratory_rate", "no value"),
        ("spo2", "a comparator leaves the value open"),
        ("consciousness", "not a level of responsiveness that is known (ACVPU)"),
    ]


@pytest.mark.parametrize(
    ("change", "place", "refused"),
    [
        ({"code": {"coding": [*concept("8867-4")["coding"], *concept("9279-1")["coding"]]}}, "code", ["8867-4", "9279-1"]),
        ({"code": concept("8480-6"), "valueQuantity": quantity(16, "mm[Hg]", unit="kPa")}, "valueQuantity", ["8480-6"]),
    ],
)
def test_what_contradicts_itself_is_refused(change, place, refused):
    outcome = handle(observation(**change))
    (letter,) = letters(outcome)
    assert letter.message.startswith(f"Observation.{place}: its ")
    assert [(code, value) for code, value, _ in said(outcome)] == [(code, None) for code in refused]
    both = concept("59408-5")["coding"] + concept("2708-6")["coding"]
    assert said(handle(observation(code={"coding": both}, valueQuantity=quantity(97, "%")))) == [("59408-5", 97, "")]


@pytest.mark.parametrize(
    ("element", "value"),
    [
        ({"valueQuantity": quantity(60, comparator="<")}, None),
        ({"valueQuantity": {"unit": "/min"}}, None),
        ({"valueQuantity": None, "valueString": "fast"}, None),
        ({"valueQuantity": None, "valueString": "72"}, 72),
        ({"valueQuantity": None, "valueInteger": 72}, 72),
        ({"valueQuantity": None, "valueBoolean": True}, None),
        ({"valueQuantity": None, "valueRange": {"low": {"value": 1}}}, None),
        ({"valueQuantity": None, "valueCodeableConcept": concept("x")}, None),
    ],
)
def test_values_that_can_and_cannot_be_used(element, value):
    outcome = handle(observation(**element))
    assert outcome.code == 201
    if value is None:
        (letter,) = letters(outcome)
        assert outcome.verdict == "accepted"  # that it cannot be used is passed on, and nothing of the value
        assert said(outcome) == [("8867-4", None, letter.message.partition(": ")[2])]
        assert (letter.stage, letter.message_type) == ("map", "Observation")
        assert letter.peer
        assert letter.message.startswith("Observation.value")
        assert orjson.loads(b64decode(letter.original_value))["resourceType"] == "Observation"
        assert outcome.answer.body["issue"][0]["severity"] == "warning"
    else:
        assert only(outcome, VitalsEvent).observations[0].value == value


@pytest.mark.parametrize(
    ("code", "words", "expected"),
    [
        ("3151-8", "2L", [("3151-8", 2.0, "L/min")]),
        ("3151-8", "2L by mask", [("3151-8", 2.0, "L/min")]),
        ("3151-8", "4 L NC", [("3151-8", 4.0, "L/min")]),
        ("8310-5", "37,2 °C", [("8310-5", 37.2, "Cel")]),
        ("85354-9", "85/40 mmHg", [("8480-6", 85.0, "mm[Hg]"), ("8462-4", 40.0, "mm[Hg]")]),
        ("8480-6", "85/40", [("8480-6", 85.0, ""), ("8462-4", 40.0, "")]),
    ],
)
def test_a_value_in_words(code, words, expected):
    found = only(handle(observation(code, valueQuantity=None, valueString=words)), VitalsEvent).observations
    assert [(one.code, one.value, one.unit) for one in found] == expected


@pytest.mark.parametrize(("code", "words"), [("85354-9", "85"), ("8462-4", "85/40"), ("3151-8", "2L till noon")])
def test_words_that_are_no_value(code, words):
    outcome = handle(observation(code, valueQuantity=None, valueString=words))
    assert (len(letters(outcome)), outcome.code, {value for _, value, _ in said(outcome)}) == (1, 201, {None})


def test_a_bound_that_scores_as_all_that_it_may_mean():
    for element in ({"valueQuantity": quantity(80, "%", comparator="<")}, {"valueQuantity": None, "valueString": "<80 %"}):
        (found,) = only(handle(observation("59408-5", **element)), VitalsEvent).observations
        assert (found.comparator, found.value, found.unit) == ("<", 80, "%")


def test_a_compound_of_a_device_has_its_values_in_components():
    resource = pressure(code=concept("150020", "urn:iso:std:iso:11073:10101"))
    found = only(handle(resource), VitalsEvent).observations
    assert [one.code for one in found] == ["8480-6", "8462-4"]


def test_a_unit_that_cannot_be_brought_to_the_one_that_is_meant_is_told_and_the_value_passed_on():
    outcome = handle(observation("8310-5", 37.2, "furlong"))
    (observed,), (letter,) = only(outcome, VitalsEvent).observations, letters(outcome)
    assert (outcome.code, observed.value, observed.unit) == (201, 37.2, "furlong")
    assert letter.message == "Observation.valueQuantity: a unit that cannot be brought to Cel (8310-5)"
    assert not letters(handle(observation("8310-5", 99.0, "[degF]")))


@pytest.mark.parametrize(("code", "charted"), [("questionable", False), ("early-indication", False), ("in-alarm", True)])
def test_what_the_device_doubts_has_to_persist(code, charted):
    flag = concept(code, "http://terminology.hl7.org/CodeSystem/measurement-status")
    assert only(handle(observation(interpretation=[flag])), VitalsEvent).charted is charted


def test_what_is_still_being_measured_is_no_measurement():
    outcome = handle(
        observation(interpretation=[concept("calibration-ongoing", "http://terminology.hl7.org/CodeSystem/measurement-status")])
    )
    assert (outcome.verdict, outcome.code, outcome.events) == ("ignored", 200, ())
    assert "no measurement" in outcome.reason


def test_a_bad_component_does_not_take_the_good_one_with_it():
    resource = pressure()
    resource["component"][1]["valueQuantity"]["comparator"] = ">"
    outcome = handle(resource)
    assert outcome.verdict == "accepted"
    assert said(outcome) == [("8480-6", 120, ""), ("8462-4", None, "a comparator leaves the value open")]
    assert "Observation.component[1].valueQuantity" in letters(outcome)[0].message


@pytest.mark.parametrize(
    ("code", "value", "expected"),
    [
        ("67775-7", concept("LA9340-6"), "A"),
        ("67775-7", concept("300202002", "http://snomed.info/sct"), "V"),
        ("67775-7", {"text": "Unresponsive"}, "U"),
        ("3151-8", {"text": "room air"}, "air"),
        ("3151-8", {"text": "4 L NC"}, 4),
        ("3151-8", {"text": "Oxygen via nasal cannula"}, "oxygen"),
    ],
)
def test_coded_values(code, value, expected):
    event = only(handle(observation(code, valueQuantity=None, valueCodeableConcept=value)), VitalsEvent)
    assert event.observations[0].value == expected


def test_device_codes_are_understood_and_not_charted():
    resource = observation(code=concept("150456", "urn:iso:std:iso:11073:10101", "MDC_PULS_OXIM_SAT_O2"))
    resource["valueQuantity"] = quantity(97, "%")
    resource["device"] = {"identifier": {"value": "MON-12"}, "display": "Monitor"}
    event = only(handle(resource), VitalsEvent)
    assert event.observations[0].code == "59408-5"
    assert not event.charted
    assert event.device == "MON-12"


def test_local_codes_by_peer():
    peer = FhirPeer(codes={"HF^HTTP://LAB.EXAMPLE": LocalCode(loinc="8867-4", unit="/min")})
    resource = observation(code=concept("HF", "http://lab.example"), valueQuantity=None, valueInteger=80)
    event = only(handle(resource, mapper(peer=peer)), VitalsEvent)
    assert (event.observations[0].code, event.observations[0].unit) == ("8867-4", "/min")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"effectiveDateTime": None, "effectiveInstant": "2026-11-23T08:00:00.5Z"}, "2026-11-23T08:00:00.500000+00:00"),
        (
            {"effectiveDateTime": None, "effectivePeriod": {"start": "2026-11-23T08:00:00Z", "end": "2026-11-23T09:00:00Z"}},
            "2026-11-23T09:00:00+00:00",
        ),
        ({"effectiveDateTime": None, "effectiveTiming": {"event": ["2026-11-23T07:00:00Z"]}}, "2026-11-23T07:00:00+00:00"),
        ({"effectiveDateTime": "2026-11-23"}, NOW.isoformat()),  # was read as midnight: history, and never alerted
        ({"effectiveDateTime": "2026-11-23", "issued": "2026-11-23T06:00:00Z"}, "2026-11-23T06:00:00+00:00"),
        ({"effectiveDateTime": "2026-11-22"}, "2026-11-22T22:59:59+00:00"),
        ({"effectiveDateTime": None, "effectivePeriod": {"end": "2026-11-23"}}, NOW.isoformat()),
        ({"effectiveDateTime": "2026-11"}, "2026-10-31T23:00:00+00:00"),
        ({"effectiveDateTime": None, "issued": "2026-11-23T06:00:00Z"}, "2026-11-23T06:00:00+00:00"),
        ({"effectiveDateTime": None, "meta": {"lastUpdated": "2026-11-23T05:00:00Z"}}, "2026-11-23T05:00:00+00:00"),
        ({"effectiveDateTime": None}, NOW.isoformat()),
        ({"effectiveDateTime": "2026-11-23T10:00:60Z"}, "2026-11-23T10:00:59+00:00"),
    ],
)
def test_times(change, expected):
    outcome = handle(observation(**change), mapper(peer=FhirPeer(zone="Europe/Berlin")))
    assert only(outcome, VitalsEvent).observed_at.isoformat() == expected


# well-formed, and outside what a clock has: `NOW` in its place would make an old value the current one
NO_TIME = "9999-12-31T23:59:59-01:00"


@pytest.mark.parametrize(
    ("element", "place"),
    [
        ({"effectiveDateTime": NO_TIME}, "effectiveDateTime"),
        ({"effectiveDateTime": NO_TIME, "issued": "2026-11-23T11:00:00Z"}, "effectiveDateTime"),
        ({"effectiveDateTime": None, "effectivePeriod": {"end": NO_TIME}}, "effectivePeriod.end"),
        ({"effectiveDateTime": None, "effectivePeriod": {}}, "effectivePeriod"),
        ({"effectiveDateTime": None, "effectiveTiming": {"event": [NO_TIME]}}, "effectiveTiming.event[0]"),
        ({"effectiveDateTime": None, "effectiveTiming": {"code": {"text": "BID"}}}, "effectiveTiming"),
        ({"effectiveDateTime": None, "issued": NO_TIME}, "issued"),
        ({"effectiveDateTime": None, "meta": {"lastUpdated": NO_TIME}}, "meta.lastUpdated"),
    ],
)
def test_a_time_that_cannot_be_read_is_never_now(element, place):
    outcome = handle(observation(**element))
    assert (outcome.verdict, outcome.code) == ("dead-letter", 201)
    (letter,) = letters(outcome)
    assert (letter.stage, letter.message) == ("map", f"Observation.{place}: a time that cannot be read")


def test_a_period_that_is_open_at_its_end_has_its_start():
    event = only(
        handle(observation(effectiveDateTime=None, effectivePeriod={"start": "2026-11-23T08:00:00Z", "end": NO_TIME})),
        VitalsEvent,
    )
    assert event.observed_at == datetime(2026, 11, 23, 8, tzinfo=UTC)


def test_a_time_as_a_number_is_refused():
    for element in ({"effectiveDateTime": 1732874400}, {"effectiveDateTime": None, "issued": 12345}):
        outcome = handle(observation(**element))
        place = next(iter(one for one in element if element[one]))
        assert (outcome.verdict, outcome.code, outcome.events) == ("refused", 400, ())
        assert outcome.answer.body["issue"][0]["expression"] == [f"Observation.{place}"]


def test_a_document_whose_time_cannot_be_read_is_kept_apart():
    outcome = handle(document(date="0001-01-01T00:00:00+14:00"))
    assert [letter.message for letter in letters(outcome)] == ["DocumentReference.date: a time that cannot be read"]


def test_what_is_no_vital_sign_is_noted_or_kept_or_refused_by_setting():
    glucose = observation("2339-0", 90, "mg/dL")
    outcome = handle(glucose)
    assert (outcome.verdict, outcome.code, outcome.events) == ("ignored", 200, ())
    assert outcome.answer.body["issue"][0]["severity"] == "information"
    assert handle(glucose, mapper(unmapped="dead-letter")).verdict == "dead-letter"
    assert handle(glucose, mapper(not_for_us="refuse")).code == 422


@pytest.mark.parametrize(
    "nothing",
    [
        observation(status="registered", valueQuantity=None),
        observation(valueQuantity=None),
        pressure() | {"component": [{"code": concept("8480-6"), "dataAbsentReason": concept("not-asked")}]},
        observation("82810-3", status="preliminary", valueQuantity=None, valueBoolean=True),  # a fact that is not final
        observation("2339-0", 90, "mg/dL"),
        {"resourceType": "DiagnosticReport", "status": "final", "code": concept("1"), "subject": {"reference": "Patient/1"}},
    ],
    ids=["registered", "absent", "absent-parts", "fact", "laboratory", "report"],
)
def test_created_means_stored(nothing):
    outcome = handle(nothing, request=Request("create", nothing["resourceType"]))
    assert (outcome.verdict, outcome.code, outcome.events, outcome.answer.headers) == ("ignored", 200, (), ())
    issue = outcome.answer.body["issue"][0]
    assert issue["severity"] == "information"
    assert issue["diagnostics"] != "All OK"
    both = handle(bundle(observation(), nothing))
    assert [one["response"]["status"] for one in both.answer.body["entry"]] == ["201 Created", "200 OK"]
    assert ["location" in one["response"] for one in both.answer.body["entry"]] == [True, False]


def test_a_value_that_is_not_there_yet_refuses_nothing_by_setting_either():
    registered = observation(status="registered", valueQuantity=None)  # a vital sign, and for us once it has a value
    assert handle(bundle(observation(), registered), mapper(not_for_us="refuse")).code == 200


def test_test_data_is_marked():
    tag = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST"}
    assert only(handle(observation(meta={"security": [tag]})), VitalsEvent).processing == "training"
    assert only(handle(observation(), mapper(peer=FhirPeer(processing="debugging"))), VitalsEvent).processing == "debugging"


@pytest.mark.parametrize(
    ("focus", "own"),
    [
        ({"reference": "RelatedPerson/fetus"}, False),
        ({"reference": "#fetus"}, False),
        ({"reference": "Device/pump"}, False),
        ({"identifier": {"system": MRN, "value": "P2"}}, False),
        ({"identifier": {"system": MRN, "value": "P1"}, "type": "RelatedPerson"}, False),
        ({"reference": "RelatedPerson/mother", "identifier": {"system": MRN, "value": "P1"}}, False),
        ({"display": "fetus"}, False),
        ({"identifier": {"system": MRN, "value": "P1"}}, True),
        ({"reference": "Patient/7"}, True),
        ({"reference": "#mother"}, True),
    ],
)
@pytest.mark.parametrize("code", ["8867-4", "82810-3"])
def test_what_is_about_another_than_the_subject_is_held_apart(focus, own, code):
    using = mapper(MemoryContexts())
    using.learn(handle(patient(id="7"), using))
    contained = [{"resourceType": "RelatedPerson", "id": "fetus", "patient": {"reference": "Patient/7"}}, patient(id="mother")]
    pregnant = {"valueQuantity": None, "valueCodeableConcept": concept("LA15173-0")} if code == "82810-3" else {}
    outcome = handle(observation(code, focus=[focus], contained=contained, **pregnant), using)
    if own:
        assert isinstance(only(outcome, (VitalsEvent, PatientEvent)), VitalsEvent | PatientEvent)
        assert letters(outcome) == []
    else:
        (letter,) = outcome.events
        assert (letter.stage, outcome.verdict) == ("identify", "dead-letter")
        assert letter.message == "Observation.focus: about somebody or something else than the subject: held apart"


def test_the_focus_of_what_is_no_vital_sign_is_not_asked():
    laboratory = observation("2339-0", 90, "mg/dL", focus=[{"reference": "RelatedPerson/fetus"}])
    assert handle(laboratory).verdict == "ignored"


def member(loinc="8867-4", value=72, measure="/min", **more):
    return without(observation(loinc, value, measure, **{"subject": None, "effectiveDateTime": None} | more))


def panel(*members, **more):
    named = [{"reference": f"#{one['id']}"} for one in members]
    return observation("85353-1", valueQuantity=None, contained=[*members], hasMember=named, **more)


def test_members_that_a_panel_contains_are_values_of_it():
    rate, spo2 = member(id="m1"), member("59408-5", 91, "%", id="m2")
    event = only(handle(panel(rate, spo2)), VitalsEvent)
    assert event.observed_at == datetime(2026, 11, 23, 9, tzinfo=UTC)
    assert [(one.code, one.value) for one in event.observations] == [("8867-4", 72), ("59408-5", 91)]
    later = member("59408-5", 91, "%", id="m2", effectiveDateTime="2026-11-23T10:07:00+01:00", status="preliminary")
    first, second = (event for event in handle(panel(rate, later)).events if isinstance(event, VitalsEvent))
    assert (f"{second.observed_at:%H:%M}", second.observations[0].status, second.charted) == ("09:07", "preliminary", False)
    assert first.id != second.id
    both = handle(observation(contained=[spo2], hasMember=[{"reference": "#m2"}]))  # a value of its own too
    assert {one.code for one in only(both, VitalsEvent).observations} == {"8867-4", "59408-5"}
    pregnant = member("82810-3", id="m1", valueQuantity=None, valueCodeableConcept=concept("LA15173-0"))
    assert only(handle(panel(pregnant)), PatientEvent).pregnant


def test_what_of_contained_members_is_not_used():
    fetus = member(id="m1", focus=[{"reference": "RelatedPerson/fetus"}])
    outcome = handle(panel(fetus, member("59408-5", 91, "%", id="m2")))
    assert [one.code for one in only(outcome, VitalsEvent).observations] == ["59408-5"]
    assert letters(outcome)[0].message.startswith("Observation.contained[0].focus: about somebody")
    assert "Observation.contained[0].status" in letters(handle(panel(member(id="m1", status="done"))))[0].message
    assert handle(panel(member("2339-0", 90, "mg/dL", id="m1"))).verdict == "ignored"
    assert handle(panel(member(id="m1")) | {"hasMember": [{"reference": "Observation/m1"}]}).verdict == "ignored"
    circle = member("85353-1", id="m1", valueQuantity=None, hasMember=[{"reference": "#m1"}])
    assert handle(panel(circle)).verdict == "ignored"
    tag = {"tag": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST"}]}
    assert only(handle(panel(member(id="m1"), meta=tag)), VitalsEvent).processing == "training"


# ------------------------------------------------------------------------------------------------- identity of a message


def test_a_resend_has_the_same_ids_and_another_version_others():
    resource = observation(id="o1", meta={"versionId": "1", "lastUpdated": "2026-11-23T10:00:00Z"})
    first = only(handle(resource), VitalsEvent)
    later = resource | {"meta": {"versionId": "1", "lastUpdated": "2026-11-23T11:00:00Z"}}
    assert only(handle(later), VitalsEvent).id == first.id
    assert only(handle(resource | {"meta": {"versionId": "2"}}), VitalsEvent).id != first.id
    changed = resource | {"valueQuantity": quantity(73)}  # the same version, another content: never taken for a resend
    assert only(handle(changed), VitalsEvent).id != first.id
    two = FhirSettings(
        peers={"a": FhirPeer(token=SecretStr("a" * 16)), "b": FhirPeer(token=SecretStr("b" * 16))},
    )
    using = FhirMapper(two, IDS)
    assert only(handle(resource, using, "a"), VitalsEvent).id != only(handle(resource, using, "b"), VitalsEvent).id


def test_the_location_of_a_create_is_stable():
    one, other = handle(observation()), handle(observation())
    assert one.answer.headers == other.answer.headers
    named = handle(observation(id="o1"))
    assert dict(named.answer.headers)["Location"] == "/fhir/Observation/o1"


# ------------------------------------------------------------------------------------------------------------- patients


@pytest.mark.parametrize(
    "subject",
    [None, {"display": "Petra Probe"}, {"reference": "Group/7"}, {"reference": "#nobody"}, {"identifier": {"value": " "}}],
)
def test_no_patient_is_held_apart_not_guessed(subject):
    outcome = handle(observation(subject=subject))
    assert (outcome.verdict, outcome.code) == ("dead-letter", 201)
    (letter,) = letters(outcome)
    assert letter.stage == "identify"
    assert "Petra" not in letter.message


@pytest.mark.parametrize("value", ["UNKNOWN", "0", "n/a"])
def test_what_stands_in_for_an_identifier_names_nobody(value):
    named = {"identifier": {"system": MRN, "value": value}}
    assert handle(observation(subject=named)).verdict == "dead-letter"
    assert handle(observation(subject={"reference": f"Patient/{value.replace('/', '')}"})).verdict == "dead-letter"
    assert handle(patient(id=None, identifier=[named["identifier"]])).verdict == "dead-letter"
    by_server = only(handle(patient(id="7", identifier=[named["identifier"]])), PatientEvent)
    assert [(one.kind, one.value) for one in by_server.identifiers] == [("FHIR", "7")]
    both = only(handle(patient(id=None, identifier=[named["identifier"], *patient()["identifier"]])), PatientEvent)
    assert both.patient_id == P1


def test_a_contained_patient_and_one_of_the_bundle_name_the_patient():
    contained = observation(subject={"reference": "#p"}, contained=[patient(id="p")])
    assert only(handle(contained), VitalsEvent).patient_id == P1
    made = bundle(patient(), observation(subject={"reference": "urn:uuid:0b"}))
    made["entry"][0]["fullUrl"] = "urn:uuid:0b"
    assert only(handle(made), VitalsEvent).patient_id == P1


def test_a_bare_reference_is_understood_once_its_patient_is_known():
    contexts = MemoryContexts()
    using = mapper(contexts)
    bare = observation(subject={"reference": "Patient/7"})
    before = only(handle(bare, using), VitalsEvent).patient_id
    made = handle(patient(id="7"), using)
    using.learn(made)
    alias = next(event for event in made.events if event.merged_into)
    assert alias.patient_id == before  # what came before can be moved
    assert alias.merged_into == P1
    assert only(handle(bare, using), VitalsEvent).patient_id == P1
    absolute = observation(subject={"reference": "https://ehr.example/fhir/Patient/7"})  # the same id on another server
    assert only(handle(absolute, using), VitalsEvent).patient_id not in (P1, before)


@pytest.mark.parametrize(
    "nobody", ["urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0", "urn:oid:1.2.3", f"Patient?identifier={MRN}|P1"]
)
def test_what_points_at_nothing_in_the_request_and_a_search_are_held_apart(nobody):
    using = mapper()
    using.learn(handle(patient(id="7"), using))
    for sent in (
        observation(subject={"reference": nobody}),
        bundle(patient(id="7"), observation(subject={"reference": nobody})),
    ):
        outcome = handle(sent, using)
        assert not [event for event in outcome.events if isinstance(event, VitalsEvent)]
        assert letters(outcome)[0].stage == "identify"
        assert any(issue.severity == "warning" for issue in outcome.issues)
    named = observation(subject={"reference": nobody, "identifier": {"system": MRN, "value": "P1"}})
    assert only(handle(named, using), VitalsEvent).patient_id == P1


def test_a_patient_on_a_server_that_nobody_knows_is_noted():
    strange = observation(subject={"reference": "https://ehr.example/fhir/Patient/7"})
    using = mapper()
    using.learn(handle(patient(id="7"), using))
    outcome = handle(strange, using)
    assert outcome.verdict == "accepted"
    assert [(one.severity, one.expression) for one in outcome.issues] == [("information", "Observation.subject")]
    assert "no peer's `base`" in outcome.reason
    using = mapper(peer=FhirPeer(base="https://ehr.example/fhir/"))
    using.learn(handle(patient(id="7"), using))
    known = handle(strange, using)
    assert (only(known, VitalsEvent).patient_id, known.issues) == (P1, ())
    assert not handle(observation(subject={"reference": "Patient/8"}), using).issues  # its own, and not known yet


def test_with_listed_authorities_a_bare_reference_is_not_trusted():
    using = mapper(ids=identities(MRN))
    assert handle(observation(subject={"reference": "Patient/7"}), using).verdict == "dead-letter"
    using.learn(handle(patient(id="7"), using))
    assert handle(observation(subject={"reference": "Patient/7"}), using).verdict == "accepted"


@pytest.mark.parametrize("resource", [patient, encounter])
def test_a_record_that_hl7_deleted_is_there_again_when_fhir_speaks_of_it(resource):
    using = mapper()
    first = only(handle(patient(), using), PatientEvent)
    using.contexts.remember(first.model_copy(update={"deleted": True}))
    assert not only(handle(resource(meta={"lastUpdated": NOW.isoformat()}), using), PatientEvent).deleted


def test_a_patient_context():
    event = only(handle(patient(deceasedDateTime="2026-11-20")), PatientEvent)
    assert event.patient_id == P1
    assert event.birth_date == "1950-02-03"
    assert event.deceased
    assert event.identifiers == (Identifier(authority=MRN, value="P1", kind="MR"),)
    assert "Probe" not in event.model_dump_json()


def test_patient_and_encounter_make_one_whole_context():
    made = bundle(
        patient(),
        encounter(location=[{"location": {"display": "7 North"}, "status": "active"}]),
        observation("82810-3", valueQuantity=None, valueCodeableConcept=concept("LA15173-0")),
    )
    event = only(handle(made), PatientEvent)
    assert (event.birth_date, event.encounter_status, event.location.ward, event.pregnant) == (
        "1950-02-03",
        "in-progress",
        "7 North",
        True,
    )
    assert event.encounter_id == IDS.encounter("https://hospital.example/visit", "V1")


def test_contexts_grow_over_requests_and_late_ones_fill_gaps_only():
    contexts = MemoryContexts()
    using = mapper(contexts)
    using.learn(handle(patient(meta={"lastUpdated": "2026-11-23T10:00:00Z"}), using))
    made = handle(encounter(meta={"lastUpdated": "2026-11-23T11:00:00Z"}), using)
    assert only(made, PatientEvent).birth_date == "1950-02-03"
    using.learn(made)
    old = handle(patient(birthDate="1900-01-01", meta={"lastUpdated": "2026-11-01T00:00:00Z"}), using)
    assert only(old, PatientEvent).birth_date == "1950-02-03"


def test_a_time_in_the_future_counts_as_of_its_receipt():
    """A server whose clock is wrong must not hold off what comes after."""
    using = mapper()
    made = handle(patient(meta={"lastUpdated": "2062-01-01T00:00:00Z"}), using)
    assert only(made, PatientEvent).effective_at == NOW
    using.learn(made)
    finished = handle(encounter(status="finished", meta={"lastUpdated": NOW.isoformat()}), using)
    assert only(finished, PatientEvent).encounter_status == "finished"


def test_a_context_published_with_a_future_time_is_superseded_by_what_arrives_now():
    using = mapper()
    known = only(handle(encounter(), using), PatientEvent)
    using.contexts.remember(known.model_copy(update={"effective_at": datetime(2062, 1, 1, tzinfo=UTC)}))
    finished = only(handle(encounter(status="finished"), using), PatientEvent)
    assert (finished.encounter_status, finished.effective_at) == ("finished", NOW)


def test_a_stay_that_is_over_does_not_displace_one_in_progress():
    contexts = MemoryContexts()
    using = mapper(contexts)
    using.learn(handle(encounter(), using))
    old = encounter(status="finished", identifier=[{"system": "https://hospital.example/visit", "value": "V0"}])
    assert handle(old, using).events == ()
    finished = handle(encounter(status="finished"), using)
    assert only(finished, PatientEvent).encounter_status == "finished"


def stay(number, kind, begins="", **more):
    period = {"period": {"start": begins}} if begins else {}
    return encounter(
        identifier=[{"system": "https://hospital.example/visit", "value": number}],
        **{"class": {"code": kind}},
        **period,
        **more,
    )


@pytest.mark.parametrize("kind", ["AMB", "VR", "HH", "PRENC", "O"])
def test_an_outpatients_stay_does_not_displace_one_in_progress_and_its_end_does_not_end_it(kind):
    using = mapper(MemoryContexts())
    using.learn(handle(stay("V1", "IMP"), using))
    for status in ("in-progress", "finished"):
        other = handle(stay("V3", kind, status=status), using)
        assert (other.code, other.events) == (200, ())
        assert "another stay is in progress" in other.reason
    assert only(handle(stay("V1", "IMP", status="finished"), using), PatientEvent).encounter_status == "finished"


@pytest.mark.parametrize(
    ("kind", "begins", "taken"),
    [
        ("IMP", "2026-11-23T09:00:00Z", True),
        ("EMER", "2026-11-23T09:00:00Z", True),
        ("a site's own", "", False),
        ("IMP", "2026-11-22", True),  # the day alone: may be later
        ("IMP", "2026-11-21", False),
        ("IMP", "2026-01-01T09:00:00Z", False),
    ],
)
def test_a_new_stay_takes_over_from_one_whose_end_was_lost_unless_it_began_earlier(kind, begins, taken):
    using = mapper(MemoryContexts())
    using.learn(handle(stay("V1", "IMP", "2026-11-22T09:00:00Z"), using))
    assert bool(handle(stay("V9", kind, begins), using).events) is taken


APPOINTMENT = "13", "urn:oid:1.2.840.114350"  # a site's own class, as its EHR sends it
CLASSES = {"13^URN:OID:1.2.840.114350": "outpatient", "4": "inpatient"}


def told(using, number, code, system="", **more):
    return handle(stay(number, "", **more) | {"class": {"system": system, "code": code}}, using)


@pytest.mark.parametrize("known", ["IMP", "EMER", "4"])
def test_a_visit_of_an_unknown_class_neither_displaces_nor_ends_a_stay_that_may_be_in_a_bed(known):
    using = mapper(MemoryContexts())
    using.learn(handle(stay("V1", known), using))
    begun, ended = told(using, "V3", *APPOINTMENT), told(using, "V3", *APPOINTMENT, status="finished")
    assert (begun.events, ended.events) == ((), ())
    assert "`classes` of the peer" in begun.reason and "`classes`" not in ended.reason
    assert only(handle(stay("V1", known, status="finished"), using), PatientEvent).encounter_status == "finished"


def test_a_site_says_what_its_own_classes_are():
    using = mapper(MemoryContexts(), peer={"classes": CLASSES})
    using.learn(told(using, "V1", "4"))
    appointment = told(using, "V3", *APPOINTMENT)
    assert (appointment.events, "`classes`" in appointment.reason) == ((), False)
    admission = only(told(using, "V9", "4"), PatientEvent)
    assert (admission.encounter_class, admission.visit.value) == ("inpatient", "V9")
    assert only(told(using, "V8", *APPOINTMENT, status="in-progress", subject={"identifier": {"system": MRN, "value": "P2"}}),
                PatientEvent).encounter_class == "outpatient"  # fmt: skip
    elsewhere = only(told(using, "V8", "13", "urn:oid:9", subject={"identifier": {"system": MRN, "value": "P2"}}), PatientEvent)
    assert elsewhere.encounter_class is None


def test_an_outpatients_stay_gives_way_to_a_visit_of_an_unknown_class():
    using = mapper(MemoryContexts())
    using.learn(handle(stay("V1", "AMB"), using))
    assert only(told(using, "V2", *APPOINTMENT), PatientEvent).visit.value == "V2"


def test_an_outpatients_stay_in_progress_gives_way_to_the_next():
    using = mapper(MemoryContexts())
    using.learn(handle(stay("V1", "AMB"), using))
    event = only(handle(stay("V2", "AMB"), using), PatientEvent)
    assert (event.encounter_class, event.encounter_id) == ("outpatient", IDS.encounter("https://hospital.example/visit", "V2"))


def part(id, of, ward="", status="in-progress", **more):
    location = {"location": [{"location": {"display": ward}, "status": "active"}]} if ward else {}
    made = {"id": id, "partOf": {"reference": f"Encounter/{of}"}, "status": status, "identifier": None}
    return encounter(**made | location | more)


def context(using, *resources):
    """What is known once all of them have come, each in a request of its own."""
    for resource in resources:
        using.learn(handle(resource, using))
        known = using.contexts.get(P1)
        if known is not None and known.visit is not None:  # a delivery must name no other visit
            assert IDS.encounter(known.visit.authority, known.visit.value) == known.encounter_id
    return using.contexts.get(P1)


WHOLE = IDS.encounter("https://hospital.example/visit", "V1")


def test_the_end_of_a_part_does_not_end_the_stay_and_the_next_one_moves_the_patient():
    using = mapper(MemoryContexts())
    stay = context(
        using,
        encounter(id="house"),
        part("surgery", "house", "4 East"),
        part("ward-4", "surgery", "4 East"),
        part("ward-4", "surgery", "4 East", status="finished"),
        part("surgery", "house", status="finished"),
    )
    assert (stay.encounter_id, stay.encounter_status, stay.location.ward) == (WHOLE, "in-progress", "4 East")
    stay = context(using, part("medicine", "house", "7 North"))
    assert (stay.encounter_id, stay.encounter_status, stay.location.ward) == (WHOLE, "in-progress", "7 North")
    assert stay.visit == Identifier(authority="https://hospital.example/visit", value="V1", kind="VN")
    said = handle(part("medicine", "house", status="finished"), using)
    assert said.events == ()
    assert "not whether the stay goes on" in said.reason
    assert context(using, encounter(id="house", status="finished")).encounter_status == "finished"


@pytest.mark.parametrize("shared", [False, True])  # the visit number: some senders give all parts that of the whole
def test_nor_does_it_after_a_restart_that_has_forgotten_who_is_part_of_whom(shared):
    contexts = MemoryContexts()
    context(mapper(contexts), encounter(id="house"), part("surgery", "house", "4 East"))
    number = {"identifier": encounter()["identifier"]} if shared else {}
    stay = context(
        mapper(contexts), part("ward-4", "surgery", status="finished", **number), part("ward-7", "surgery", "7 North", **number)
    )
    assert (stay.encounter_id, stay.encounter_status, stay.location.ward) == (WHOLE, "in-progress", "7 North")


def test_what_is_observed_in_a_part_belongs_to_the_whole():
    using = mapper(MemoryContexts())
    context(using, encounter(id="house"), part("surgery", "house"), part("ward-4", "surgery"))
    made = handle(observation(encounter={"reference": "Encounter/ward-4"}), using)
    assert only(made, VitalsEvent).encounter_id == WHOLE
    together = bundle(part("ward-4", "house"), encounter(id="house"), observation(encounter={"reference": "Encounter/ward-4"}))
    assert only(handle(together), VitalsEvent).encounter_id == WHOLE
    assert only(handle(together), PatientEvent).encounter_id == WHOLE


def test_a_part_that_comes_before_its_whole_begins_the_stay_that_the_whole_ends():
    using = mapper(MemoryContexts())
    first = context(using, part("ward-4", "house", "4 East"), part("ward-4", "house", status="finished"))
    assert (first.encounter_status, first.location.ward) == ("in-progress", "4 East")
    stay = context(using, encounter(id="house", period={"start": "2026-11-01"}))
    assert (stay.encounter_id, stay.encounter_status, stay.location.ward) == (WHOLE, "in-progress", "4 East")
    assert context(using, encounter(id="house", status="finished")).encounter_status == "finished"


def test_a_part_that_goes_on_after_its_whole_goes_on_and_ends_by_itself():
    using = mapper(MemoryContexts())
    context(using, encounter(id="emergency", **{"class": {"code": "EMER"}}), part("ward-4", "emergency", "4 East"))
    assert context(using, encounter(id="emergency", status="finished")).encounter_status == "finished"
    later = {"meta": {"lastUpdated": "2026-11-23T11:59:00Z"}}
    assert context(using, part("ward-4", "emergency", "4 East", **later)).encounter_status == "finished"  # said before that end
    stay = context(using, part("ward-4", "emergency", "4 East"))
    assert (stay.encounter_status, stay.location.ward) == ("in-progress", "4 East")
    assert context(using, encounter(id="emergency", status="finished")).encounter_status == "in-progress"
    assert context(using, part("ward-4", "emergency", status="finished")).encounter_status == "finished"


def test_parts_in_a_circle_are_stays():
    using = mapper(MemoryContexts())
    made = handle(bundle(part("a", "b"), part("b", "a")), using)
    assert only(made, PatientEvent).encounter_status == "in-progress"


def test_places():
    kinds = "http://terminology.hl7.org/CodeSystem/location-physical-type"
    location = [
        {"location": {"display": "7 North"}, "physicalType": concept("wa", kinds), "status": "active"},
        {"location": {"display": "712"}, "physicalType": concept("ro", kinds), "status": "active"},
        {"location": {"display": "B"}, "physicalType": concept("bd", kinds), "status": "active"},
        {"location": {"display": "Emergency"}, "status": "completed"},
    ]
    found = only(handle(encounter(location=location)), PatientEvent).location
    assert (found.ward, found.room, found.bed) == ("7 North", "712", "B")


def test_a_bare_encounter_reference_means_its_visit_once_known():
    using = mapper()
    visit = IDS.encounter("https://hospital.example/visit", "V1")
    bare = observation(encounter={"reference": "Encounter/e1"})
    assert only(handle(bare, using), VitalsEvent).encounter_id != visit
    using.learn(handle(encounter(id="e1"), using))
    assert only(handle(bare, using), VitalsEvent).encounter_id == visit


def test_links_merge_and_never_in_a_circle():
    using = mapper()
    other = [{"system": MRN, "value": "P2"}]
    link = [{"other": {"identifier": {"system": MRN, "value": "P1"}}, "type": "replaced-by"}]
    using.learn(handle(encounter(subject={"identifier": other[0]}), using))
    merged = handle(patient(identifier=other, link=link), using)
    using.learn(merged)
    by_record = {event.patient_id: event for event in merged.events if isinstance(event, PatientEvent)}
    (p2,) = by_record.keys() - {P1}
    assert (by_record[p2].merged_into, by_record[P1].merged_into) == (P1, None)
    assert (by_record[P1].birth_date, by_record[P1].encounter_status) == ("1950-02-03", "in-progress")  # what it lacked
    late = handle(observation(subject={"identifier": other[0]}), using)
    assert only(late, VitalsEvent).patient_id == P1
    stay = handle(encounter(status="finished", subject={"identifier": other[0]}), using)
    assert only(stay, PatientEvent).patient_id == p2
    back = [{"other": {"identifier": other[0]}, "type": "replaced-by"}]
    assert only(handle(patient(link=back), using), PatientEvent).merged_into is None
    replaces = handle(patient(link=[{"other": {"identifier": {"system": MRN, "value": "P3"}}, "type": "replaces"}]))
    assert {event.merged_into for event in replaces.events} == {None, P1}


def test_site_codes_set_scale_and_ceiling():
    codes = {
        "SCALE": ContextCode(fact="spo2_scale", values={"two": 2}),
        "CEILING": ContextCode(fact="ceiling_of_care"),
    }
    using = mapper(context_codes=codes)
    scale = observation(code=concept("SCALE", "urn:x"), valueQuantity=None, valueString="two")
    assert handle(scale, using).verdict == "dead-letter"  # nobody is named for it
    decided = only(handle(scale | {"performer": [{"reference": "Practitioner/3"}]}, using), PatientEvent)
    assert decided.spo2_scale == 2
    assert decided.spo2_scale_decided_by
    ceiling = observation(code=concept("CEILING", "urn:x"), valueQuantity=None, valueString="ward-based care")
    assert only(handle(ceiling, using), PatientEvent).ceiling_of_care == "ward-based care"


# ------------------------------------------------------------------------------------------------------------ documents


def test_a_document_becomes_a_note():
    event = only(handle(document("Zürich: stable", "text/plain; charset=utf-8")), NoteEvent)
    assert event.text == "Zürich: stable"
    assert (event.note_type.system, event.note_type.code) == ("http://loinc.org", "11506-3")
    assert event.authored_at == datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
    assert (event.status, event.relation, event.patient_id) == ("final", "original", P1)


@pytest.mark.parametrize(
    ("content", "kind", "text"),
    [
        ("<p>One</p><p>two &amp; three</p>", "text/html", "One\ntwo & three"),
        ("Müller".encode("latin-1"), "text/plain;charset=iso-8859-1", "Müller"),
        (rb"{\rtf1\ansi Stable.}", "application/rtf", "Stable."),
    ],
)
def test_formats(content, kind, text):
    assert only(handle(document(content, kind)), NoteEvent).text == text


def test_versions_of_a_document_share_the_note_id():
    first = only(handle(document()), NoteEvent)
    amended = only(handle(document("Chest pain since one.", docStatus="amended")), NoteEvent)
    assert amended.note_id == first.note_id
    assert amended.id != first.id
    assert (amended.status, amended.relation) == ("amended", "edit")
    void = only(handle(document(status="entered-in-error")), NoteEvent)
    assert (void.note_id, void.status, void.text) == (first.note_id, "entered-in-error", "")
    relates = [{"code": "replaces", "target": {"identifier": {"system": "https://hospital.example/document", "value": "D1"}}}]
    successor = only(handle(document(identifier=[{"value": "D2"}], relatesTo=relates)), NoteEvent)
    assert (successor.relation, successor.replaces) == ("replacement", first.note_id)
    assert successor.note_id != first.note_id
    assert "D1" not in first.model_dump_json()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([{"attachment": {"contentType": "text/plain", "url": "https://elsewhere.example/1"}}], "is not fetched"),
        ([{"attachment": {"contentType": "text/plain"}}], "without data"),
        ([{"attachment": attachment(bytes(range(256)), "image/png")}], "not text"),
    ],
)
def test_a_document_without_usable_text_is_kept_with_the_reason(content, reason):
    outcome = handle(document(content=content))
    assert outcome.verdict == "dead-letter"
    assert reason in letters(outcome)[0].message


def test_a_binary_of_the_bundle_is_its_content():
    binary = {"resourceType": "Binary", "id": "b1"} | attachment("From the binary.")
    made = bundle(document(content=[{"attachment": {"url": "Binary/b1"}}]), binary)
    assert only(handle(made), NoteEvent).text == "From the binary."


def test_a_report_by_presented_form_or_conclusion():
    report = {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "code": concept("24627-2", display="CT Chest"),
        "subject": {"identifier": {"system": MRN, "value": "P1"}},
        "issued": "2026-11-23T09:00:00Z",
    }
    assert only(handle(report | {"conclusion": "No embolus."}), NoteEvent).text == "No embolus."
    assert only(handle(report | {"presentedForm": [attachment("Full text.")], "conclusion": "short"}), NoteEvent).text == (
        "Full text."
    )
    assert handle(report).verdict == "ignored"


def test_a_communication_is_a_note_or_the_answer_to_an_alert():
    said = {
        "resourceType": "Communication",
        "status": "completed",
        "subject": {"identifier": {"system": MRN, "value": "P1"}},
        "sent": "2026-11-23T09:00:00Z",
        "payload": [{"contentString": "Please review."}],
    }
    assert only(handle(said), NoteEvent).text == "Please review."
    about = {"inResponseTo": [{"identifier": {"system": "urn:vigil:alert", "value": "a-1"}}]}
    named = said | about | {"sender": {"identifier": {"value": "nurse-7"}}}
    stranger = handle(named)
    assert (stranger.verdict, stranger.events) == ("ignored", ())  # no peer ends an escalation unless the site believes it
    assert "answers_alerts" in stranger.reason
    believed = mapper(peer=FhirPeer(answers_alerts=True))
    assert handle(said | about, believed).verdict == "dead-letter"  # nobody is named for it
    answer = only(handle(named, believed), FeedbackEvent)
    assert (answer.kind, answer.target_id, answer.by) == ("alert-acknowledged", "a-1", "nurse-7")
