import pytest

from connectors.fhir.structure import Unreadable, canonical, expression, is_known, parse, too_deep, validate
from tests.fhir_resources import encounter, observation, patient


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'"Patient"', "not a JSON object"),
        (b'{"resourceType": 7}', "no resourceType"),
        (b'{"resourceType": "../x"}', "no resourceType"),
        (b"<Patient", "not XML: line 1"),
        (b"<Patient/>", "namespace"),
        (b'<Nonsense xmlns="http://hl7.org/fhir"/>', "not a FHIR resource"),
        (b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', "document type"),
        (b'<!DOCTYPE a><Patient xmlns="http://hl7.org/fhir"/>', "document type"),
        (
            b'<Patient xmlns="http://hl7.org/fhir">' + b"<extension>" * 200 + b"</extension>" * 200 + b"</Patient>",
            "nested more",
        ),
        (b'<Patient xmlns="http://hl7.org/fhir">' + b"<extension>" * 9000, "not XML"),
        (b'<Patient xmlns="http://hl7.org/fhir"><colour value="red"/></Patient>', "structure"),
        (b'<Observation xmlns="http://hl7.org/fhir"/>', "required"),
        (
            b'<Observation xmlns="http://hl7.org/fhir"><status value="final"/><code/><valueQuantity><value value="1e999"/>'
            b"</valueQuantity></Observation>",
            "beyond the range of a double",
        ),
        (b'{"resourceType": "Patient", "a": NaN}', "not JSON: line 1 column"),
        (b'{"resourceType": "Patient", "a": "\xff"}', "not JSON"),
        (b'{"resourceType": "Patient", // comment\n}', "not JSON"),
        (b'{"resourceType": "Patient", "x": ' + b"[" * 60 + b"]" * 60 + b"}", "nested more than 50"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_fhir_json(body, words):
    with pytest.raises(Unreadable, match=words):
        parse(body, deepest=50)


def test_a_byte_order_mark_is_ignored():
    assert parse(b'\xef\xbb\xbf{"resourceType": "Patient"}', deepest=50) == {"resourceType": "Patient"}


def test_depth_counts_levels():
    assert not too_deep({"a": {"b": [1]}}, 3)
    assert too_deep({"a": {"b": [[1]]}}, 3)


@pytest.mark.parametrize(
    ("change", "where", "code"),
    [
        ({"status": None}, "Observation.status", "required"),
        ({"code": None}, "Observation.code", "required"),
        ({"code": {"coding": {"code": "x"}}}, "Observation.code.coding", "value"),
        ({"effectiveDateTime": "2026-13-01"}, "Observation.effectiveDateTime", "value"),
        ({"effectiveDateTime": "10:00"}, "Observation.effectiveDateTime", "value"),
        ({"valueString": "too"}, "Observation", "value"),
        ({"valueQuantity": {"value": "much"}}, "Observation.valueQuantity.value", "value"),
        ({"component": [{"valueInteger": 1}]}, "Observation.component[0].code", "required"),
        ({"colour": "red"}, "Observation.colour", "structure"),
        ({"id": "a b"}, "Observation.id", "value"),
        # the models read these as seconds since 1970 or since midnight, and 1 as true: what JSON says counts
        ({"effectiveDateTime": 1732874400}, "Observation.effectiveDateTime", "value"),
        ({"effectiveDateTime": None, "effectiveInstant": 1732874400.5}, "Observation.effectiveInstant", "value"),
        ({"effectiveDateTime": None, "effectivePeriod": {"end": 1732874400}}, "Observation.effectivePeriod.end", "value"),
        ({"effectiveDateTime": None, "effectiveTiming": {"event": [12345]}}, "Observation.effectiveTiming.event[0]", "value"),
        ({"issued": 12345}, "Observation.issued", "value"),
        ({"meta": {"lastUpdated": 12345}}, "Observation.meta.lastUpdated", "value"),
        ({"valueQuantity": None, "valueTime": 3600}, "Observation.valueTime", "value"),
        ({"valueQuantity": None, "valueBoolean": 1}, "Observation.valueBoolean", "value"),
        ({"valueQuantity": None, "valueInteger": True}, "Observation.valueInteger", "value"),
        ({"contained": [{"resourceType": "Patient", "birthDate": 0}]}, "Observation.contained[0].birthDate", "value"),
        ({"valueQuantity": None, "valueBoolean": "true"}, "Observation.valueBoolean", "value"),
        ({"id": "a" * 65}, "Observation.id", "value"),
    ],
)
def test_issues_name_their_place(change, where, code):
    issues = validate(observation(**change))
    assert [(issue.expression, issue.code) for issue in issues] == [(where, code)]
    assert all(issue.severity == "error" for issue in issues)


def test_a_valid_resource_has_no_issues():
    assert validate(observation(id="a" * 64)) == []
    assert validate(observation(contained=[{"resourceType": "Patient", "id": "a" * 65}])) == []  # as the validator can be told


def test_numbers_and_booleans_stay_what_they_are():
    assert validate(observation(value=72.50)) == []
    assert validate(observation(value=72)) == []
    assert validate(observation(value="72")) == []  # more lenient than the standard: the mapping reads it too
    assert validate(patient(multipleBirthInteger=2, deceasedBoolean=False)) == []
    assert validate(encounter(**{"class": {"code": "IMP", "userSelected": False}})) == []
    assert [one.expression for one in validate(encounter(**{"class": {"userSelected": 0}}))] == ["Encounter.class.userSelected"]


def test_issues_quote_neither_values_nor_names_that_are_no_elements():
    issues = validate(observation(**{"Petra Probe": 1, "status": ["Petra"], "note": "Petra"}))
    assert issues
    assert not any("Petra" in str(issue) for issue in issues)
    assert expression("Patient", ("name", 0, "a b", "c")) == "Patient.name[0]"


def test_hundreds_of_issues_are_cut():
    issues = validate({"resourceType": "Patient"} | {f"x{n}": 1 for n in range(500)})
    assert len(issues) == 21
    assert "480 more" in issues[-1].diagnostics


def test_types():
    assert is_known("Patient")
    assert is_known("Questionnaire")
    assert not is_known("HumanName")  # a model, and no resource
    assert not is_known("Foo")
    assert not is_known("Code")


def test_canonical_content_ignores_order_and_meta():
    one = {"resourceType": "Patient", "id": "1", "meta": {"lastUpdated": "a"}, "active": True}
    other = {"active": True, "id": "1", "resourceType": "Patient"}
    assert canonical(one) == canonical(other)
    assert canonical(one) != canonical(other | {"active": False})


def test_xml_says_what_json_says():
    from fhir.resources.R4B.observation import Observation

    resource = observation(value=72.50, note=[{"text": "Größe < 3"}], meta={"versionId": "3"})
    words = Observation.model_validate(resource).model_dump_xml()
    read = parse(words if isinstance(words, bytes) else words.encode(), deepest=50)
    assert read["valueQuantity"] == resource["valueQuantity"]
    assert canonical(read) == canonical(resource | {"effectiveDateTime": read["effectiveDateTime"]})


def test_a_bomb_of_entities_is_not_expanded():
    levels = b"".join(b'<!ENTITY l%d "%s">' % (n, b"&l%d;" % (n - 1) * 10) for n in range(1, 12))
    bomb = b'<!DOCTYPE a [<!ENTITY l0 "ha">' + levels + b']><Patient xmlns="http://hl7.org/fhir"><id value="&l11;"/></Patient>'
    with pytest.raises(Unreadable):
        parse(bomb, deepest=50)
