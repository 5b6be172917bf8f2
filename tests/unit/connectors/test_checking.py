"""A feed that is tried: the server's own outcome for every message, advice that works, and nobody's data in any of it."""

import gzip
import json
import tomllib
from collections.abc import AsyncIterator
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate

from connectors.checking import UNREADABLE, Checker, Row, Totals, guess, samples
from connectors.dicom.checking import DicomChecker
from connectors.dicom.settings import DicomPeer, DicomSettings
from connectors.fhir.checking import FhirChecker
from connectors.fhir.settings import FhirSettings
from connectors.hl7.checking import Hl7Checker
from connectors.hl7.settings import MllpSettings, Peer
from models.errors import Permanent
from models.registry import Registry
from streams.demo.radiographs import draw, png
from tests.dicom_objects import encode, make, rejection
from tests.edge import identities
from tests.fhir_resources import MRN, bundle, concept, document, encounter, media, observation, patient, quantity
from tests.hl7_messages import PID, PULSE, mapper, message, obx, vitals

NOW = datetime(2026, 11, 24, tzinfo=UTC)
SECRET = "Zq7SECRET"


MODEL: dict[str, Any] = {"model_of": lambda patient: Registry.load().entry("image-text")}


def shared(**more: Any) -> dict[str, Any]:
    return {"identities": identities(), "now": lambda: NOW, "largest_record": 4_000_000} | more


def hl7(settings: MllpSettings | None = None, **more: Any) -> Hl7Checker:
    own = settings or MllpSettings()
    return Hl7Checker(own, Peer("loopback", own.peers["loopback"]), **shared(**more))


def fhir(settings: FhirSettings | None = None, **more: Any) -> FhirChecker:
    return FhirChecker(settings or FhirSettings(), "fhir", **shared(largest_object=2**28, **MODEL, **more))


def dicom(settings: DicomSettings | None = None, **more: Any) -> DicomChecker:
    return DicomChecker(settings or DicomSettings(), DicomPeer(ae_title="CT1"), **shared(largest_object=2**28, **MODEL, **more))


async def tried(checker: Checker, content: bytes, name: str = "one") -> list[Row]:
    rows: AsyncIterator[Row] = checker.check(name, content)
    return [row async for row in rows]


def said(rows: list[Row]) -> str:
    """All that a report would show."""
    totals = Totals()
    for row in rows:
        totals.add(row)
    return json.dumps([totals.json(), *(row.json() for row in rows)])


def found(rows: list[Row], about: str) -> list[str]:
    return [one.what for row in rows for one in row.findings if one.about == about]


# ------------------------------------------------------------------------------------------------------------------- HL7 v2


async def test_the_events_are_those_that_the_server_would_publish() -> None:
    raw = vitals(PULSE, obx("59408-5^SpO2^LN", "97", "%"))
    (row,) = await tried(hl7(), raw)
    outcome = mapper().handle(raw, Peer("loopback", MllpSettings().peers["loopback"]), NOW)
    assert (row.outcome, row.code, row.refused) == ("accepted", "AA", False)
    assert [(one.type, one.id) for one in row.events] == [(type(one).type, one.id) for one in outcome.events]
    assert row.details == {"message_type": "ORU^R01^ORU_R01", "version": "2.6", "control_id": "M1"}


async def test_the_answer_of_what_would_be_refused() -> None:
    rows = await tried(hl7(), b"\n".join((vitals(PULSE, version="7.1"), vitals(), message(PID, kind="ADT^A08", accept="AL"))))
    assert [(row.code, row.refused) for row in rows] == [("AR", True), ("AA", False), ("CA", False)]
    (row,) = await tried(hl7(MllpSettings.model_validate({"peers": {"loopback": {"addresses": ["::1"], "not_for_us": "AR"}}})),
                         message(PID, kind="SIU^S12"))  # fmt: skip
    assert (row.outcome, row.code, row.refused) == ("ignored", "AR", True)


async def test_a_file_without_a_message_has_a_row() -> None:
    assert [row.refused for row in await tried(hl7(), b"")] == [True]
    assert [row.code for row in await tried(hl7(), b"hello\n")] == ["AR"]


async def test_a_capture_of_the_wire_and_a_batch_are_cut() -> None:
    one, other = vitals(PULSE), vitals(PULSE, control_id="M2")
    for content in (
        b"\x0b" + one + b"\x1c\r",
        b"\x0b" + one + b"\x1c\r\x0b" + other + b"\x1c\r",
        b"BHS|^~\\&|A\r" + one + other,
    ):
        rows = await tried(hl7(), content)
        assert [row.code for row in rows] == ["AA"] * content.count(b"MSH")
    rows = await tried(hl7(), (one + other).decode().encode("utf-16"))
    assert [row.code for row in rows] == ["AA", "AA"]


async def test_a_batch_that_counts_other_messages_than_came() -> None:
    one, other = vitals(PULSE), vitals(PULSE, control_id="M2")
    begin = b"FHS|^~\\&|A\rBHS|^~\\&|A\r"
    cut = await tried(hl7(), begin + one + b"BTS|5\rFTS|2\r")
    assert [row.code for row in cut] == ["AA"]
    assert found(cut, "batch") == ["BTS-1 says 5 messages and there are 1", "FTS-1 says 2 batches and there are 1"]
    assert found(await tried(hl7(), begin + b"BTS|1\r"), "batch") == ["BTS-1 says 1 messages and there are 0"]
    whole = begin + one + other + b"BTS|2|two\rBHS|^~\\&|A\rBTS\rFTS|2\r", b"FHS|^~\\&|A\r" + one + b"FTS|1\r"
    for content in (*whole, whole[0].decode().encode("utf-16")):
        assert found(await tried(hl7(), content), "batch") == []


async def test_a_wide_file_is_not_told_that_it_is_what_it_is_not() -> None:
    wide = vitals(PULSE, pid=PID.replace("DOE", "DOÉ"), charset="UNICODE UTF-16")
    (row,) = await tried(hl7(), wide.decode().encode("utf-16"))
    assert row.code == "AA"
    assert "cannot travel over MLLP" in row.reason and "not of the declared" not in row.reason


async def test_a_resend_and_a_control_id_used_twice() -> None:
    one, other = vitals(PULSE), vitals(obx("8867-4^HR^LN", "90", "/min"))
    rows = await tried(hl7(), one + b"\n" + one + b"\n" + other)
    assert [row.reason for row in rows][1] == "a resend"
    assert [row.code for row in rows] == ["AA"] * 3
    assert not rows[1].events
    assert len(found(rows, "repeat")) == 2


async def test_the_line_that_is_suggested_for_a_local_code_makes_it_a_vital_sign() -> None:
    raw = vitals(obx("HR1^Pulse rate^99MON", "80"))
    rows = await tried(hl7(), raw)
    assert not rows[0].events
    totals = Totals()
    totals.add(rows[0])
    given = tomllib.loads(totals.settings())["connectors"]["mllp"]
    assert given["codes"] == {"HR1^99MON": {"loinc": "8867-4", "unit": "/min"}}
    (again,) = await tried(hl7(MllpSettings.model_validate(given)), raw)
    assert [one.type for one in again.events] == ["org.vigil.patient.v1", "org.vigil.vitals.v1"]
    assert not found([again], "unit") and not found([again], "unknown code")


@pytest.mark.parametrize(
    ("name", "loinc"),
    [
        ("NIBP-S", "8480-6"),
        ("NIBP-D", "8462-4"),
        ("NIBP-M", "8478-0"),
        ("ART1-S", "8480-6"),
        ("NBPs", "8480-6"),
        ("TEMP1", "8310-5"),
        ("SPO2-%", "59408-5"),
        ("SPO2-R", "8867-4"),  # the pulse that an oximeter counts
        ("NIBP-R", "8867-4"),
        ("HR (bpm)", "8867-4"),
        ("CVP-M", ""),
        ("PA-S", ""),
        ("PVC", ""),
    ],
)
def test_what_monitors_names_are_guessed_to_be(name: str, loinc: str) -> None:
    assert guess(name) == loinc


def suggested(rows: list[Row]) -> str:
    totals = Totals()
    for row in rows:
        totals.add(row)
    return totals.settings()


@pytest.mark.parametrize(
    ("line", "header", "sign"),
    [
        (obx("0002-4bb8^SpO2^MDIL", "97", "%"), "MON", "codes of MDIL"),  # which no table knows yet
        (obx("8867-4^HR^LN", "80", "/min", device="MON-07"), "EHR", "OBX-18 names one"),
        (PULSE, "INTELLIVUE", "MSH-3 or MSH-4 is a monitor's"),
    ],
)
async def test_whether_vitals_that_count_at_once_are_a_devices_is_asked(line: str, header: str, sign: str) -> None:
    raw = vitals(line).replace(b"|MON|", f"|{header}|".encode())
    peer = MllpSettings.model_validate({"peers": {"loopback": {"addresses": ["::1"]}}})
    rows = await tried(hl7(peer, own_section=True), raw)
    assert found(rows, "charted") == [f"vitals that may be a device's own: {sign}"]
    assert "# charted = false" in suggested(rows)
    for answer in (True, False):
        settled = MllpSettings.model_validate({"peers": {"loopback": {"addresses": ["::1"], "charted": answer}}})
        assert not found(await tried(hl7(settled), raw), "charted")


async def test_nor_is_it_asked_of_what_has_to_persist_anyway() -> None:
    device = obx("147842^MDC_ECG_HEART_RATE^MDC", "80", "/min", device="MON-07")
    unverified = obx("HR1^Pulse rate^99MON", "80", "/min", status="R", device="MON-07")
    assert not found(await tried(hl7(), vitals(device) + b"\n" + vitals(unverified, control_id="M2")), "charted")
    assert not found(await tried(hl7(), vitals(PULSE)), "charted")


@pytest.mark.parametrize(("minutes", "asked"), [(1, True), (15, False)])
async def test_sets_as_close_as_nobody_charts_them(minutes: int, asked: bool) -> None:
    at = [datetime(2026, 3, 2, 8, minutes * n, tzinfo=UTC) for n in range(3)]
    rows = [
        row
        for n, when in enumerate(at)
        for row in [vitals(PULSE, obr=f"OBR|1||F{n}|VS|||{when:%Y%m%d%H%M%S}+0000", control_id=f"M{n}")]
    ]
    assert bool(found(await tried(hl7(), b"\n".join(rows)), "charted")) is asked
    lines = [observation(id=f"o{n}", effectiveDateTime=when.isoformat()) for n, when in enumerate(at)]
    body = b"\n".join(json.dumps(one).encode() for one in lines)
    checked = await tried(fhir(), body, "x.ndjson")
    assert bool(found(checked, "charted")) is asked
    assert ("# charted = false" in suggested(checked)) is asked


async def test_classes_of_visits_that_no_table_knows_are_listed() -> None:
    adt = [
        message("EVN|A01|20260302095500+0000", PID, f"PV1|1|{kind}|W1" + "|" * 16 + f"V{n}", kind="ADT^A01", control_id=f"M{n}")
        for n, kind in enumerate(["I", "U", "HOV", "OP-SURG", f"{SECRET} ANN"])
    ]
    peer = MllpSettings.model_validate({"peers": {"loopback": {"addresses": ["::1"]}}})
    rows = await tried(hl7(peer, own_section=True), b"\n".join(adt))
    assert found(rows, "class") == ["HOV", "OP-SURG", "a class that does not look like a code (not shown)"]
    assert SECRET not in said(rows)
    assert tomllib.loads(suggested(rows))["connectors"]["mllp"]["peers"]["loopback"] == {"classes": {"OP-SURG": "outpatient"}}
    assert '# "HOV" = "outpatient"' in suggested(rows)
    assert found(await tried(hl7(), adt[2]), "class") == ["HOV"]  # whose peer the settings do not name: no line
    assert "HOV" not in suggested(await tried(hl7(), adt[2]))


async def test_a_class_of_an_encounter_that_is_not_known_has_a_line_that_makes_it_known() -> None:
    own = {"system": "urn:oid:1.2.840.114350", "code": "13", "display": "Support OP Encounter"}
    body = json.dumps(encounter(**{"class": own})).encode()
    rows = await tried(fhir(), body)
    assert found(rows, "class") == ["13^urn:oid:1.2.840.114350"]
    given = tomllib.loads(suggested(rows))["connectors"]["fhir"]
    assert given == {"peers": {"fhir": {"classes": {"13^urn:oid:1.2.840.114350": "outpatient"}}}}
    assert not found(await tried(fhir(FhirSettings.model_validate(given)), body), "class")
    assert not found(await tried(fhir(), json.dumps(encounter()).encode()), "class")


async def test_numbers_of_several_authorities_ask_for_an_order() -> None:
    number = "PID|1||E5555^^^EPIC^EPI~4711^^^HOSP^MRN~999^^^SSA^SS||DOE^JANE||19500321|F"
    raw = message("EVN|A01|20260302095500+0000", number, kind="ADT^A01")
    rows = await tried(hl7(), raw)
    assert found(rows, "identifier") == ["numbers of several authorities: HOSP, EPIC"]  # the one that counts first
    assert '# authorities = ["HOSP", "EPIC"]' in suggested(rows)
    assert not found(await tried(hl7(listed=("HOSP",)), raw), "identifier")
    assert not found(await tried(hl7(), message("EVN|A01|20260302095500+0000", PID, kind="ADT^A01")), "identifier")
    body = patient(
        id="7", identifier=[{"system": "urn:epi", "value": "E5"}, {"system": MRN, "value": "1", "type": {"text": "MRN"}}]
    )
    assert found(await tried(fhir(), json.dumps(body).encode()), "identifier") == [
        f"numbers of several authorities: {MRN}, urn:epi"
    ]
    assert not found(await tried(fhir(), json.dumps(patient(id="7")).encode()), "identifier")


async def test_a_missing_and_an_unknown_unit_have_lines() -> None:
    rows = await tried(hl7(), vitals(obx("8867-4^HR^LN", "80"), obx("9279-1^RR^LN", "14", "furlongs")))
    assert found(rows, "unit") == ["8867-4 without a unit", "9279-1: unknown unit furlongs"]
    totals = Totals()
    totals.add(rows[0])
    given = tomllib.loads(totals.settings())["connectors"]["mllp"]
    assert given["units"] == {"furlongs": "/min"}
    again = await tried(
        hl7(MllpSettings.model_validate(given)), vitals(obx("8867-4^HR^LN", "80"), obx("9279-1^RR^LN", "14", "furlongs"))
    )
    assert not found(again, "unit")


async def test_addenda_without_a_number_of_their_own_are_told() -> None:
    def mdm(trigger: str, number: str, parent: str, text: str) -> bytes:
        txa = f"TXA|1|DS|TX|||||||||{number}|{parent}||||AU"
        return message(PID, txa, f"OBX|1|TX|18842-5^Summary^LN||{text}||||||F", kind=f"MDM^{trigger}")

    feed = [("T02", "D1", "", "a"), ("T06", "D2", "D1", "b"), ("T06", "D1", "", "c"), ("T06", "D2", "D1", "d")]
    checker = hl7()
    rows = [row for one in feed for row in await tried(checker, mdm(*one))]
    told = ["addenda (MDM^T06) without a number of their own (TXA-12, the document's in TXA-13)"]
    about = [[one.what for one in row.findings if "addenda" in one.what] for row in rows]
    assert about == [[], [], told, told]


async def test_a_status_in_words_has_a_line() -> None:
    words = {"In Error": "D", "Auth (Verified)": "F", "Modified": "C", "Unauth": "P"}
    own = {"peers": {"loopback": {"addresses": ["127.0.0.1"]}}}
    lines = [obx("8867-4^HR^LN", "80", "/min", status=one, number=n) for n, one in enumerate((*words, "Smith", "f"), 1)]
    rows = await tried(hl7(MllpSettings.model_validate(own), own_section=True), vitals(*lines))
    shown = ["Auth (Verified)", "In Error", "Modified", "a word that is not shown", "Unauth"]
    assert found(rows, "value") == [f"a status that no table knows: {one}" for one in shown]
    totals = Totals()
    totals.add(rows[0])
    given = tomllib.loads(totals.settings())["connectors"]["mllp"]
    assert given["peers"]["loopback"]["statuses"] == words
    given["peers"]["loopback"] |= own["peers"]["loopback"]
    again = await tried(hl7(MllpSettings.model_validate(given)), vitals(*lines))
    assert found(again, "value") == ["a status that no table knows: a word that is not shown"]
    assert "Smith" not in said(rows)
    assert not found(await tried(hl7(), vitals(obx("718-7^Hb^LN", "9", status="In Error"))), "value")  # nothing of ours


async def test_times_without_a_zone_and_from_the_future() -> None:
    bare = vitals(PULSE, obr="OBR|1||F9|VS|||20260302095500", sent="20260302100000")
    assert found(await tried(hl7(), bare), "time") == ["times without an offset, read as UTC"]
    zoned = MllpSettings.model_validate({"peers": {"loopback": {"addresses": ["::1"], "zone": "Europe/Paris"}}})
    assert not found(await tried(hl7(zoned), bare), "time")
    future = vitals(PULSE, obr="OBR|1||F9|VS|||20270302095500+0000")
    assert found(await tried(hl7(), future), "time") == ["VitalsEvent: a time in the future"]


async def test_who_cannot_be_told() -> None:
    assert found(await tried(hl7(), vitals(PULSE, pid="")), "identifier") == [
        "no patient identifier that may be used: held apart, not guessed"
    ]
    assert found(await tried(hl7(), vitals(PULSE, pid="PID|1||4711")), "identifier") == [
        "identifiers without an assigning authority"
    ]
    rows = await tried(hl7(MllpSettings(message_bytes=1024)), vitals(PULSE, *["NTE|1||" + "x" * 90] * 12))
    assert [(row.code, row.refused) for row in rows] == [("AR", True)]


async def test_a_record_that_no_topic_takes_becomes_a_dead_letter_or_is_refused() -> None:
    raw = vitals("OBX|1|TX|18842-5^DS^LN||" + "word " * 500 + "||||||F")
    (kept,) = await tried(hl7(largest_record=2200), raw)
    assert (kept.outcome, kept.code) == ("dead-letter", "AA")
    (refused,) = await tried(hl7(largest_record=500), raw)
    assert (refused.outcome, refused.code, refused.refused) == ("refused", "AE", True)


async def test_a_name_in_the_wrong_field_is_not_shown_unless_asked_for() -> None:
    pid = f"PID|1||{SECRET}9^^^HOSP^MR||{SECRET}^ANN"
    raw = vitals(obx(f"{SECRET} ANN^{SECRET}^L", "5"), PULSE, pid=pid, control_id=f"{SECRET}9")
    raw += b"\n" + message(pid, kind=f"{SECRET}^ANN", control_id=f"{SECRET}^X", version=SECRET)
    assert SECRET not in said(await tried(hl7(), raw))
    assert SECRET in said(await tried(hl7(show_phi=True), raw))


@pytest.mark.parametrize(
    ("kind", "version", "shown"),
    [
        ("ORU^R01^ORU_R01", "2.5.1", ("ORU^R01^ORU_R01", "2.5.1")),
        ("RSP^SLI^RSP_K11", "2.3.z", ("RSP^SLI^RSP_K11", "2.3.z")),
        ("ZZZ^ZZZ", "2.9999", ("ZZZ^ZZZ", "2.9999")),
        ("%s", "{}", ("%s", "{}")),
        ("ROE^ANN", "120045", ("(not shown)", "(not shown)")),
        ("ROE^ANN^LEE_A01", "v. Roe", ("(not shown)", "(not shown)")),
    ],
)
async def test_what_can_only_be_a_type_or_a_version_is_shown_as_sent(kind: str, version: str, shown: tuple[str, str]) -> None:
    (row,) = await tried(hl7(), message(PID, kind=kind, version=version))
    assert (row.details["message_type"], row.details["version"]) == shown


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([PID.encode(), PULSE.encode(), vitals(PULSE)[:70]]))))
async def test_garbage_has_rows(parts: list[bytes]) -> None:
    assert await tried(hl7(), b"\r".join(parts))


# --------------------------------------------------------------------------------------------------------------------- FHIR


async def test_hl7_says_which_messages_are_another_peers() -> None:
    own = MllpSettings.model_validate({"peers": {"loopback": {"addresses": ["127.0.0.1"], "applications": ["MON"]}}})
    for application, found in (("MON", []), ("LAB", ["peer"])):
        (row,) = await tried(hl7(own), vitals(PULSE).replace(b"|MON|", f"|{application}|".encode()))
        assert [one.about for one in row.findings] == found


async def test_fhir_statuses_events_and_places() -> None:
    lines = [observation(), observation(status=None), {"resourceType": "Claim", "status": "active"}, {"a": 1}]
    rows = await tried(fhir(), b"\n".join(json.dumps(one).encode() for one in lines), "x.ndjson")
    assert [row.code for row in rows] == ["201", "400", "400", "400"]
    assert [row.refused for row in rows] == [False, True, True, True]
    assert [one.type for one in rows[0].events] == ["org.vigil.vitals.v1"]
    assert rows[1].details["issues"][0]["expression"] == "Observation.status"


async def test_an_entry_that_is_refused_makes_its_batch_refused() -> None:
    (row,) = await tried(fhir(), json.dumps(bundle(observation(), observation(status=None), kind="batch")).encode())
    assert (row.outcome, row.code, row.refused) == ("accepted", "200", True)


async def test_a_bundle_teaches_what_a_later_file_refers_to() -> None:
    checker = fhir()
    (first,) = await tried(checker, json.dumps(patient(id="7")).encode())
    (second,) = await tried(checker, json.dumps(observation(subject={"reference": "Patient/7"})).encode())
    by_number = await tried(fhir(), json.dumps(observation()).encode())
    assert second.events[0].key == by_number[0].events[0].key
    assert second.events[0].key in {one.key for one in first.events}


async def test_fhir_line_for_a_local_code_works() -> None:
    code = concept("HR1", "https://monitor.example/codes", "Heart rate")
    body = json.dumps(observation(code=code, valueQuantity=quantity(80))).encode()
    rows = await tried(fhir(), body)
    totals = Totals()
    totals.add(rows[0])
    given = tomllib.loads(totals.settings())["connectors"]["fhir"]
    (again,) = await tried(fhir(FhirSettings.model_validate(given)), body)
    assert [one.type for one in again.events] == ["org.vigil.vitals.v1"]


async def test_fhir_says_whose_server_a_reference_may_be_on() -> None:
    lines = patient(id="7"), observation(subject={"reference": "https://ehr.example/fhir/R4/Patient/7"})
    body = b"\n".join(json.dumps(one).encode() for one in lines)
    totals = Totals()
    for row in await tried(fhir(), body, "x.ndjson"):
        totals.add(row)
    given = tomllib.loads(totals.settings())["connectors"]["fhir"]
    assert given == {"peers": {"fhir": {"base": "https://ehr.example/fhir/R4"}}}
    rows = await tried(fhir(FhirSettings.model_validate(given)), body, "x.ndjson")
    assert [row.findings for row in rows] == [(), ()]
    assert rows[1].events[0].key in {one.key for one in rows[0].events}
    other = fhir(FhirSettings.model_validate({"peers": {"fhir": {"base": "https://other.example"}}}))
    finding = (await tried(other, body, "x.ndjson"))[1].findings[0]
    assert "https://ehr.example/fhir/R4" in finding.what
    assert not finding.line  # its base is said already


async def test_fhir_says_what_would_be_fetched() -> None:
    for url, found in (("Binary/7", ["content"]), ("https://elsewhere.example/7.pdf", [])):
        content = [{"attachment": {"contentType": "application/pdf", "url": url}}]
        (row,) = await tried(fhir(), json.dumps(document(content=content)).encode())
        assert (row.outcome, [one.about for one in row.findings]) == ("dead-letter", found)


async def test_fhir_shows_nobodys_data() -> None:
    body = patient(name=[{"family": SECRET}], birthDate=SECRET), observation(subject={"display": SECRET}), observation(
        code=concept(f"{SECRET} x", f"{SECRET} y", SECRET), subject={"identifier": {"system": MRN, "value": SECRET}}
    )  # fmt: skip
    rows = [row for one in body for row in await tried(fhir(), json.dumps(one).encode())]
    assert SECRET not in said(rows)


# -------------------------------------------------------------------------------------------------------------------- DICOM


async def test_dicom_statuses_and_figures() -> None:
    (row,) = await tried(dicom(), encode(make()))
    assert (row.outcome, row.code, [one.type for one in row.events]) == ("accepted", "0000", ["org.vigil.image.v1"])
    assert {name: row.details[name] for name in ("shape", "dtype", "min", "max")} == {
        "shape": [64, 48], "dtype": "uint16", "min": 0, "max": 4095,
    }  # fmt: skip
    (row,) = await tried(dicom(), b"garbage" * 50)
    assert row.refused and row.code.startswith("C0")
    (row,) = await tried(dicom(), encode(make(PatientID=None)))
    assert (row.outcome, row.code, row.refused) == ("dead-letter", "0000", False)
    assert found([row], "identifier")


async def test_of_each_picture_it_is_told_whether_a_model_would_judge_it() -> None:
    serves = Registry.load().entry("image-text")
    assert serves.meant_for is not None
    by = f"{serves.name} {serves.version}"
    film = make(Modality="DX", BodyPartExamined="CHEST", ViewPosition="PA")
    sent = [film, make(Modality="DX", BodyPartExamined=SECRET), make(), rejection(film), make(PatientID=None)]
    checker = dicom()
    rows = [row for one in sent for row in await tried(checker, encode(one))]
    assert [(row.details["judged"], row.details["model"], row.details["not_judged"]) for row in rows] == [
        (True, by, ""),
        (False, by, f"another body part than the model is meant for: {', '.join(serves.meant_for.body_parts)}"),
        (False, by, "another modality than the model is meant for: CR, DX, RG"),
        (None, "", ""),  # takes back
        (None, "", ""),  # held apart
    ]
    assert found(rows, "picture") == [f"not judged by {by}: {rows[n].details['not_judged']}" for n in (1, 2)]
    assert SECRET not in said(rows)
    totals = Totals()
    for row in rows:
        totals.add(row)
    assert totals.judged == 1
    assert {(one["judged"], one["not_judged"], one["count"]) for one in totals.json()["pictures"]} == {
        (row.details["judged"], row.details["not_judged"], 1) for row in rows[:3]
    }


async def test_a_picture_in_a_media_is_told_of_too() -> None:
    (row,) = await tried(fhir(), json.dumps(media(png(draw(1, "clear", 64)))).encode())
    assert row.outcome == "accepted"
    assert found([row], "picture")[0].startswith("not judged by ")


async def test_dicom_advice_and_repeats() -> None:
    checker, one = dicom(), encode(make(PatientName=SECRET, PatientID=f"{SECRET}1"))
    rows = await tried(checker, one) + await tried(checker, one)
    assert found(rows, "repeat") == ["an object that came before: the same ids, not processed twice"]
    assert "times without an offset, read in UTC" in found(rows, "time")
    assert "Patient IDs without an issuer" in found(rows, "identifier")
    assert SECRET not in said(rows)
    settled = dicom(DicomSettings(authority="HOSP", zone="Europe/Paris"))
    assert not found(await tried(settled, encode(make(TimezoneOffsetFromUTC="+0100"))), "time")


async def test_dicom_corrections_are_told() -> None:
    checker, image = dicom(), make()
    corrected = deepcopy(image)
    corrected.PatientID = "P0002"
    rows = await tried(checker, encode(image)) + await tried(checker, encode(corrected))
    assert found(rows, "repeat") == [
        "an instance UID of before under another patient: what was found in the earlier is withdrawn"
    ]
    (row,) = await tried(checker, encode(rejection(image, make())))
    assert (row.outcome, row.code, found([row], "rejection")) == (
        "accepted",
        "0000",
        ["takes back 2 images, 1 of them among those before"],
    )


async def test_an_object_over_the_limit_and_one_that_the_store_refuses() -> None:
    (row,) = await tried(dicom(DicomSettings(largest_object=100)), encode(make()))
    assert (row.code, row.refused) == ("A700", True)


async def test_a_syntax_that_is_not_negotiated_and_a_directory() -> None:
    video = make()
    video.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.98"  # encapsulated uncompressed: we do not negotiate it
    video.PixelData = encapsulate([video.PixelData])
    video["PixelData"].is_undefined_length = True
    (row,) = await tried(dicom(), encode(video))
    assert row.refused
    assert found([row], "negotiation")
    directory = make(SOPClassUID=None)
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    (row,) = await tried(dicom(), encode(directory))
    assert (row.outcome, row.code, row.refused) == ("ignored", "0000", False)


async def test_a_name_that_is_no_elements_is_shown_to_its_sender_only() -> None:
    wrong = json.dumps({"resourceType": "Patient", "MUSTERMANN": "Erika", "nickname": "E"}).encode()
    (row,) = await tried(fhir(), wrong)
    assert "MUSTERMANN" not in repr(row)
    assert row.reason.startswith("Patient.?: no such element here; Patient.nickname: no such element here")
    (shown,) = await tried(fhir(show_phi=True), wrong)
    assert "Patient.MUSTERMANN" in shown.reason
    (other,) = await tried(fhir(), b'{"resourceType": "Mustermann"}')
    assert "Mustermann" not in repr(other)


# -------------------------------------------------------------------------------------------------------------------- files


def test_samples_are_listed_with_what_was_passed_over(tmp_path: Path) -> None:
    feed = tmp_path / "feed"
    (feed / "deep").mkdir(parents=True)
    (feed / "b.hl7").write_bytes(b"b")
    (feed / "deep" / "a").write_bytes(b"a")
    (feed / "list.csv").write_bytes(b"c")
    (feed / ".hidden").write_bytes(b"c")
    with gzip.open(feed / "z.json.gz", "wb") as packed:
        packed.write(b"{}")
    (feed / "gone").symlink_to(tmp_path / "nowhere")
    (feed / "linked").symlink_to(feed / "deep")
    files, passed = samples([feed, feed / "list.csv"])
    assert [one.name for one in files[:-1]] == ["feed/b.hl7", "feed/deep/a", "feed/gone", "feed/z.json.gz"]
    assert files[-1].read() == b"c"
    assert files[3].read() == b"{}"
    with pytest.raises(UNREADABLE):  # its row says so
        files[2].read()
    assert passed == {".csv": 1, ".hidden": 1, "link to a folder": 1}
    with pytest.raises(Permanent):
        samples([tmp_path / "nothing"])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("NBP_SYS systolic", "8480-6"), ("SpO2 pulse oximetry saturation", "59408-5"), ("HR", "8867-4"), ("resp_rate", "9279-1"),
        ("Body temperature", "8310-5"), ("Skin temperature", ""), ("System check", ""), ("Glucose", ""), ("Foetal HR", ""),
        ("responsiveness", "67775-7"), ("corresponding", ""), ("bleeding time BT", ""),
    ],
)  # fmt: skip
def test_guesses(words: str, code: str) -> None:
    assert guess(words) == code
