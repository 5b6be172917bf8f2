"""Whom an alert is about, in the hospital's own numbers: what is found of contexts, and how each format says it."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from connectors.deliver.fhir import communication_of, flag_of
from connectors.deliver.notice import Notice
from connectors.deliver.pcd import message_of
from connectors.deliver.person import Number, People, Person
from connectors.deliver.risk import assessments_of
from connectors.deliver.settings import PcdSettings
from connectors.deliver.webhook import body_of
from connectors.fhir.structure import validate
from connectors.hl7.mapping.answers import control_id
from connectors.hl7.message import parse
from connectors.identity import Identities, IdentitySettings
from processors.events import Identifier, Origin, PatientEvent, ScoreEvent
from processors.examples import EXAMPLES
from tests.deliveries import alert

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
MRN_SYSTEM = "https://hospital.example/mrn"
ALIASES = {"1.2.752.97.3": "HOSP", MRN_SYSTEM: "HOSP", "urn:oid:2.16.840.1.113883.2.1.4.1": "NHS"}
PCD = PcdSettings(kind="pcd04", host="h", port=1)


def identities(*authorities: str) -> Identities:
    secret = SecretStr("a site secret of these tests")
    return Identities(IdentitySettings(site_secret=secret, authorities=authorities, aliases=ALIASES))


def mrn(value: str) -> Identifier:
    return Identifier(authority="HOSP", value=value, kind="MR")


def visit(value: str, authority: str = "VISITS") -> Identifier:
    return Identifier(authority=authority, value=value, kind="VN")


def context(own: Identities, *numbers: Identifier, **fields: Any) -> PatientEvent:
    """The context of the patient whom the first number names."""
    if (number := fields.get("visit")) is not None:
        fields["encounter_id"] = own.encounter(number.authority, number.value)
    return PatientEvent(
        id="e",
        patient_id=own.patient(numbers[0]),
        identifiers=numbers,
        effective_at=NOW,
        received_at=NOW,
        origin=Origin(protocol="hl7v2", peer="adt", digest="0" * 64),
        **fields,
    )


# ----------------------------------------------------------------------------------------------------- what is found


def test_a_patient_is_named_by_the_number_that_the_pseudonym_was_made_of_and_those_of_listed_authorities() -> None:
    nhs, social = Identifier(authority="NHS", value="943", kind="NI"), Identifier(authority="SSA", value="555", kind="SS")
    fhir = Identifier(authority="https://ehr.example/fhir", value="pat-7", kind="FHIR")
    alone, listed = identities(), identities("HOSP", "NHS")
    for own, numbers in ((alone, ["7"]), (listed, ["7", "943"])):
        people = People(own)
        people.remember(context(own, mrn("7"), social, nhs, fhir))
        found = people.find(own.patient(mrn("7")), None)
        assert found is not None
        assert [one.value for one in found.numbers] == numbers
        assert found.numbers[0] == Number("HOSP", "7", "MR", MRN_SYSTEM)
        assert people.find(own.patient(mrn("8")), None) is None


def test_numbers_that_do_not_make_the_pseudonym_name_nobody() -> None:
    """Such a context says nothing of whose number it is: better nobody than another patient."""
    own = identities()
    people = People(own)
    people.remember(context(own, mrn("7")).model_copy(update={"identifiers": (mrn("8"),)}))
    assert people.find(own.patient(mrn("7")), None) is None


def test_an_empty_number_names_nobody_and_does_no_harm() -> None:
    own = identities()
    people = People(own)
    people.remember(
        context(own, mrn("7"), visit=visit("V1")).model_copy(update={"identifiers": (mrn(" "),), "visit": visit("")})
    )
    assert people.find(own.patient(mrn("7")), own.encounter("VISITS", "V1")) is None


def test_a_visit_is_named_only_where_it_is_the_alerts() -> None:
    own = identities()
    people = People(own)
    people.remember(here := context(own, mrn("7"), visit=visit("V1")))
    for encounter, number in ((here.encounter_id, "V1"), (own.encounter("VISITS", "V2"), None), (None, None)):
        found = people.find(here.patient_id, encounter)
        assert found is not None
        assert (found.visit.value if found.visit else None) == number


def test_a_merged_record_is_named_by_the_survivors_numbers_as_far_as_they_are_known() -> None:
    own = identities()
    people = People(own)
    old, middle, last = mrn("1"), mrn("2"), mrn("3")
    people.remember(context(own, old, visit=visit("V1"), merged_into=own.patient(middle)))
    stay = own.encounter("VISITS", "V1")
    found = people.find(own.patient(old), stay)
    assert found is not None
    assert found.numbers[0].value == "1"  # whom it was merged into is not known yet
    people.remember(context(own, middle, merged_into=own.patient(last)))
    people.remember(context(own, last))
    found = people.find(own.patient(old), stay)
    assert found is not None
    assert ([one.value for one in found.numbers], found.visit and found.visit.value) == (["3"], "V1")
    people.remember(context(own, last, merged_into=own.patient(old)))  # a circle has no survivor
    found = people.find(own.patient(old), stay)
    assert found is not None
    assert found.numbers[0].value == "1"


def test_memory_is_bounded_and_the_newest_record_counts() -> None:
    own = identities()
    people = People(own, limit=3)
    for number in range(5):
        people.remember(context(own, mrn(str(number))))
    people.remember(late := context(own, mrn("4"), visit=visit("V9")))
    assert len(people) == 3
    assert people.find(own.patient(mrn("1")), None) is None
    found = people.find(late.patient_id, late.encounter_id)
    assert found is not None
    assert found.visit is not None
    people.forget(late.patient_id)
    assert people.find(late.patient_id, None) is None


def test_the_system_of_an_authority_is_its_name_or_an_alias() -> None:
    own = identities()
    assert own.system("hosp") == MRN_SYSTEM  # a URL before the OID that stands first
    assert own.system("NHS") == "urn:oid:2.16.840.1.113883.2.1.4.1"
    assert own.system("https://other.example/ids") == "https://other.example/ids"
    assert own.system("1.2.3.4") == "urn:oid:1.2.3.4"
    assert own.system("ELSEWHERE") == ""


# --------------------------------------------------------------------------------------------------------- how it is said

BOTH = Person((Number("HOSP", "7", "MR", MRN_SYSTEM), Number("NHS", "943", "NI", "urn:oid:2.16")), Number("VISITS", "V1", "VN"))


def notice(person: Person | None) -> Notice:
    one = alert("0" * 32, encounter_id="e" * 32, at=NOW)
    return Notice("alert", one.id, NOW, one, person=person)


def test_pcd_names_patient_and_visit_beside_vigils_own() -> None:
    message = parse(message_of(notice(BOTH), PCD))
    pid, pv1 = message.first("PID"), message.first("PV1")
    assert pid is not None
    assert pv1 is not None
    assert pid.raw(3) == f"7^^^HOSP^MR~943^^^NHS^NI~{'0' * 32}^^^VIGIL^PI"
    assert (pv1.raw(3), pv1.raw(19)) == ("W1^2^3", "V1^^^VISITS^VN")
    assert message.header.get(10) == control_id(alert("0" * 32, at=NOW))  # what PCD-05 answers by
    assert len(message.header.get(10)) <= 199


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (Number("1.2.3", "7", "", "urn:oid:1.2.3"), "7^^^&1.2.3&ISO^PI"),
        (Number("https://h.example/mrn", "7", "MR", "https://h.example/mrn"), "7^^^&https://h.example/mrn&URI^MR"),
        (Number("A^B&C", "7|8~9", "MR"), "7\\F\\8\\R\\9^^^A\\S\\B\\T\\C^MR"),
    ],
)
def test_an_authority_that_is_an_oid_or_a_uri_is_a_universal_id_and_delimiters_are_escaped(
    number: Number, written: str
) -> None:
    pid = parse(message_of(notice(Person((number,))), PCD)).first("PID")
    assert pid is not None
    assert pid.raw(3).split("~")[0] == written


def test_fhir_names_the_patient_by_the_system_that_its_peers_know() -> None:
    one = notice(BOTH)
    assert one.alert is not None
    score = next(each for each in EXAMPLES if isinstance(each, ScoreEvent))
    for resource in (communication_of(one), flag_of(one, one.alert), *assessments_of(score, BOTH)):
        assert validate(resource) == []
        identifier = resource["subject"]["identifier"]
        assert (identifier["system"], identifier["value"], identifier["type"]["coding"][0]["code"]) == (MRN_SYSTEM, "7", "MR")
        assert resource["encounter"]["identifier"]["value"] == "V1"
        assert "system" not in resource["encounter"]["identifier"]


def test_fhir_gives_a_number_without_a_system_to_people_only() -> None:
    resource = communication_of(notice(Person((Number("HOSP", "7", "MR"),))))
    assert validate(resource) == []
    assert resource["subject"]["identifier"] == {"system": "urn:vigil:patient", "value": "0" * 32}
    assert resource["subject"]["display"] == "7 (HOSP)"


def test_a_webhook_carries_identifiers_in_delivery() -> None:
    data = orjson.loads(body_of(notice(BOTH)))["data"]
    assert data["patient_id"] == "0" * 32
    assert data["delivery"]["identifiers"][0] == {"authority": "HOSP", "value": "7", "kind": "MR"}
    assert data["delivery"]["visit"] == {"authority": "VISITS", "value": "V1", "kind": "VN"}


def test_without_numbers_all_is_as_it_was() -> None:
    one = notice(None)
    message = parse(message_of(one, PCD))
    pid, pv1 = message.first("PID"), message.first("PV1")
    assert pid is not None
    assert pv1 is not None
    assert (pid.raw(3), pv1.raw(19)) == (f"{'0' * 32}^^^VIGIL^PI", f"{'e' * 32}^^^VIGIL^VN")
    resource = communication_of(one)
    assert resource["subject"] == {"type": "Patient", "identifier": {"system": "urn:vigil:patient", "value": "0" * 32}}
    assert "encounter" not in resource
    assert "identifiers" not in orjson.loads(body_of(one))["data"]["delivery"]
