import random
from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, generate_uid

from connectors.contexts import MemoryContexts
from connectors.deadletters import REFERENCE_TYPE
from connectors.dicom import acknowledgement as ack
from connectors.dicom.mapping import Command, Context, acquired_at, handle, is_directory
from connectors.dicom.settings import DicomPeer, DicomSettings
from processors.events import DeadLetterEvent, Identifier, ImageEvent, ObjectReference, PatientEvent
from tests.dicom_objects import encode, fill, make, rejection
from tests.edge import identities

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
IDENTITIES = identities()


def context(**changes):
    chosen = DicomSettings(**changes)
    return Context(chosen, IDENTITIES, chosen.peer("CT_WARD_3"), NOW)


def references(outcome):
    return [
        ObjectReference(uri=f"{n}", sha256="0" * 64, media_type=one.media_type, bytes=len(one.data))
        for n, one in enumerate(outcome.objects)
    ]


def events(outcome):
    return outcome.events(references(outcome))


def test_a_picture_under_a_merged_number_is_filed_under_the_survivor():
    dataset = make(IssuerOfPatientID="hosp a")
    (before,) = events(handle(encode(dataset), context()))
    contexts = MemoryContexts()
    merged = {"id": "a40", "patient_id": before.patient_id, "merged_into": "survivor", "origin": before.origin}
    contexts.remember(PatientEvent(**merged, effective_at=NOW, received_at=NOW))
    (event,) = events(handle(encode(dataset), replace(context(), contexts=contexts)))
    assert event.patient_id == "survivor"


def test_a_picture_under_a_second_number_is_filed_under_the_record_that_lists_it():
    dataset = make(IssuerOfPatientID="empi")
    (before,) = events(handle(encode(dataset), context()))
    contexts, number = MemoryContexts(), _identifier("empi", "P0001")
    made = {"id": "a01", "origin": before.origin, "effective_at": NOW, "received_at": NOW}
    one = PatientEvent(patient_id="one", identifiers=(_identifier("hosp a", "1"), number), **made)
    contexts.remember(one)
    asked = replace(context(), contexts=contexts)
    (event,) = events(handle(encode(dataset), asked))
    assert event.patient_id == "one"
    (note, *_) = events(handle(encode(rejection(dataset)), asked))
    assert note.patient_id == "one"
    contexts.remember(one.model_copy(update={"patient_id": "two"}))
    outcome = handle(encode(dataset), asked)
    (letter,) = events(outcome)
    assert (outcome.verdict, outcome.status, letter.stage) == ("dead-letter", 0x0000, "identify")
    assert "several records list" in letter.message
    other = Dataset()
    other.PatientID, other.IssuerOfPatientID = "77", "hosp b"
    contexts.remember(one.model_copy(update={"identifiers": (number, _identifier("hosp b", "77"))}))
    dataset.OtherPatientIDsSequence = Sequence([other])
    (event,) = events(handle(encode(dataset), asked))
    assert event.patient_id == "one"  # the one of the two that lists the other number too


def test_a_picture_becomes_one_event_with_a_reference():
    dataset = make(BodyPartExamined="CHEST", ViewPosition="PA", AdmissionID="V77", IssuerOfPatientID="hosp a")
    outcome = handle(encode(dataset), context())
    assert (outcome.verdict, outcome.status) == ("accepted", 0x0000)
    assert [one.media_type for one in outcome.objects] == ["image/png"]
    (event,) = events(outcome)
    assert isinstance(event, ImageEvent)
    assert (event.rows, event.columns) == (64, 48)
    assert (event.modality, event.body_part, event.view) == ("CT", "CHEST", "PA")
    assert event.instance_uid == dataset.SOPInstanceUID
    assert event.origin.peer == "CT_WARD_3"
    assert event.origin.message_type == dataset.SOPClassUID
    assert event.acquired_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert event.patient_id == IDENTITIES.patient(IDENTITIES.choose([_identifier("hosp a", "P0001")]))
    everything = event.model_dump_json()
    assert "P0001" not in everything
    assert "V77" not in everything
    assert "Petra" not in everything


def test_what_a_picture_shows_is_told_by_codes_and_descriptions_where_the_attribute_is_empty():
    chest, frontal = Dataset(), Dataset()
    chest.CodeValue, chest.CodingSchemeDesignator, chest.CodeMeaning = "51185008", "SCT", "Chest"
    frontal.CodeValue, frontal.CodingSchemeDesignator, frontal.CodeMeaning = "399348003", "SCT", "antero-posterior"
    coded = make(AnatomicRegionSequence=Sequence([chest]), ViewCodeSequence=Sequence([frontal]), BodyPartExamined="")
    (event,) = events(handle(encode(coded), context()))
    assert (event.body_part, event.view, event.described) == ("Chest", "antero-posterior", ())
    described = make(SeriesDescription="PA", StudyDescription="XR CHEST", ProtocolName="P" * 300)
    (event,) = events(handle(encode(described), context()))
    assert (event.body_part, event.view, event.described) == ("", "", ("PA", "XR CHEST"))


@pytest.mark.parametrize("value", ["UNKNOWN", "0", "n/a"])
def test_what_stands_in_for_a_patient_id_names_nobody(value):
    outcome = handle(encode(make(PatientID=value)), context())
    assert (outcome.verdict, outcome.status) == ("dead-letter", 0x0000)
    (letter,) = outcome.events(references(outcome))
    assert letter.stage == "identify"
    other = Dataset()
    other.PatientID, other.IssuerOfPatientID = "P0001", "hosp a"
    (event,) = events(handle(encode(make(PatientID=value, OtherPatientIDsSequence=[other])), context()))
    assert event.patient_id == IDENTITIES.patient(_identifier("hosp a", "P0001"))


def _identifier(authority, value):
    return Identifier(authority=authority, value=value)


def test_identity_is_the_instance_uid_and_the_content():
    dataset = make()
    data = encode(dataset)
    first, again = events(handle(data, context()))[0], events(handle(data, context()))[0]
    assert first.id == again.id
    dataset.file_meta.SourceApplicationEntityTitle = "OTHER_HOP"  # every hop writes the meta header anew
    assert events(handle(encode(dataset), context()))[0].id == first.id
    dataset.SeriesDescription = "changed"
    assert events(handle(encode(dataset), context()))[0].id != first.id
    dataset = make(SOPInstanceUID=generate_uid())
    assert events(handle(encode(dataset), context()))[0].id != first.id


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_uncompressed_syntaxes(syntax):
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4) * 1000
    dataset = make(pixels if syntax != ExplicitVRBigEndian else pixels.byteswap(), syntax=syntax)
    if syntax == ExplicitVRBigEndian:
        dataset["PixelData"].VR = "OW"
    outcome = handle(encode(dataset), context(), every_frame=True)
    assert outcome.verdict == "accepted", outcome.reason
    assert outcome.stored.maximum == 11000
    assert outcome.subject.transfer_syntax == syntax


def test_a_file_without_preamble_is_read():
    data = encode(make(syntax=ImplicitVRLittleEndian))
    start = data.index(b"\x08\x00\x16\x00")  # the data set alone, as some senders archive it
    assert handle(data[start:], context()).verdict == "accepted"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", ack.CANNOT_UNDERSTAND),
        (b"not dicom at all, just some text that goes on", None),
        (b"\0" * 128 + b"DICM", ack.MISSING_ATTRIBUTE),
    ],
)
def test_garbage_is_refused(data, status):
    outcome = handle(data, context())
    assert outcome.verdict == "refused"
    assert outcome.objects == ()
    if status is not None:
        assert outcome.status in (status, ack.MISSING_ATTRIBUTE)
    assert 0xC000 <= outcome.status <= 0xCFFF


def test_identifiers_are_checked():
    assert handle(encode(make(SOPInstanceUID="1.2 3/4")), context()).status == ack.INVALID_INSTANCE
    dataset = make()
    good = Command(dataset.SOPClassUID, dataset.SOPInstanceUID)
    assert handle(encode(dataset), context(), command=good).status == ack.SUCCESS
    assert handle(encode(dataset), context(), command=replace(good, sop_class="1.2.3")).status == ack.MISMATCH
    assert handle(encode(dataset), context(), command=replace(good, instance_uid="1.2.3")).status == ack.INVALID_INSTANCE


def test_no_patient_is_held_apart_not_guessed():
    outcome = handle(encode(make(PatientID="  ")), context())
    assert (outcome.verdict, outcome.status) == ("dead-letter", 0x0000)
    (letter,) = events(outcome)
    assert isinstance(letter, DeadLetterEvent)
    assert (letter.stage, letter.message_type) == ("identify", make().SOPClassUID)
    assert letter.peer == (context().peer.name or context().peer.ae_title)
    assert outcome.objects[0].media_type == "application/dicom"


def test_only_listed_authorities_count():
    strict = Context(DicomSettings(), identities("MRN"), DicomPeer(ae_title="X"), NOW)
    assert handle(encode(make(IssuerOfPatientID="SOMEBODY")), strict).verdict == "dead-letter"
    assert handle(encode(make(IssuerOfPatientID="mrn")), strict).verdict == "accepted"
    by_peer = Context(DicomSettings(), identities("MRN"), DicomPeer(ae_title="X", authority="MRN"), NOW)
    assert handle(encode(make()), by_peer).verdict == "accepted"
    other = Dataset()
    other.PatientID, other.IssuerOfPatientID = "77", "MRN"
    chosen = handle(encode(make(OtherPatientIDsSequence=Sequence([other]))), strict)
    assert events(chosen)[0].patient_id == strict.identities.patient(_identifier("MRN", "77"))


def test_what_cannot_be_decoded_is_kept_whole_by_reference():
    dataset = make()
    dataset.PixelData = dataset.PixelData[:10]
    data = encode(dataset)
    outcome = handle(data, context())
    assert (outcome.verdict, outcome.status) == ("dead-letter", 0x0000)
    assert outcome.objects[0].data == data
    (letter,) = events(outcome)
    assert letter.stage == "decode"
    assert b64decode(letter.original_headers[0].value).decode() == REFERENCE_TYPE
    assert ObjectReference.model_validate_json(b64decode(letter.original_value)) == references(outcome)[0]
    assert events(handle(data, context()))[0].id == letter.id
    assert "Petra" not in letter.model_dump_json()


@pytest.mark.parametrize(
    ("keyword", "place", "most"),
    [
        ("PatientID", "(0010,0020) Patient ID", 512),
        ("IssuerOfPatientID", "(0010,0021) Issuer of Patient ID", 512),
        ("StudyInstanceUID", "(0020,000D) Study Instance UID", 512),
        ("SeriesInstanceUID", "(0020,000E) Series Instance UID", 512),
        ("Modality", "(0008,0060) Modality", 256),
        ("BodyPartExamined", "(0018,0015) Body Part Examined", 256),
        ("ViewPosition", "(0018,5101) View Position", 256),
        ("SOPClassUID", "(0008,0016) SOP Class UID", 256),
    ],
)
def test_what_no_event_has_room_for_is_kept_whole_and_its_place_named(keyword, place, most):
    fits, too_long = (make(**{keyword: "9" * n}) for n in (most, most + 1))
    assert handle(encode(fits), context()).verdict == "accepted"
    outcome = handle(encode(too_long), context())
    assert (outcome.verdict, outcome.status) == ("dead-letter", 0x0000)
    assert outcome.reason == f"{place} is longer than the {most} characters that are taken"
    (letter,) = events(outcome)
    assert (letter.stage, outcome.objects[0].data) == ("identify", encode(too_long))


@pytest.mark.parametrize(("unmapped", "verdict", "status"), [("store", "ignored", 0x0000), ("refuse", "refused", 0x0122)])
def test_what_is_no_picture(unmapped, verdict, status):
    report = make(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", PixelData=None)
    outcome = handle(encode(report), context(unmapped=unmapped))
    assert (outcome.verdict, outcome.status) == (verdict, status)
    assert len(outcome.objects) == (unmapped == "store")
    assert events(outcome) == ()


@pytest.mark.parametrize(
    ("code", "status"),
    [("113001", "entered-in-error"), ("113037", "entered-in-error"), ("113038", "entered-in-error"), ("113039", "cancelled")],
)
@pytest.mark.parametrize("unmapped", ["store", "refuse"])
def test_a_rejection_note_takes_back_each_image_that_it_lists(code, status, unmapped):
    first, second = make(IssuerOfPatientID="hosp a"), make(IssuerOfPatientID="hosp a")
    data = encode(rejection(first, second, code=code))
    outcome = handle(data, context(unmapped=unmapped))
    assert (outcome.verdict, outcome.status, outcome.objects) == ("accepted", 0x0000, ())
    words = events(outcome)
    (image,) = events(handle(encode(first), context()))
    assert [one.instance_uid for one in words] == [first.SOPInstanceUID, second.SOPInstanceUID]
    assert (words[0].study_uid, words[0].series_uid) == (first.StudyInstanceUID, first.SeriesInstanceUID)
    assert {(one.patient_id, one.status, one.pixels, one.rows) for one in words} == {(image.patient_id, status, None, None)}
    assert code in words[0].reason
    assert words[0].acquired_at == datetime(2026, 1, 3, 4, 5, 6, tzinfo=UTC)
    assert words == events(handle(data, context()))
    assert len({one.id for one in (*words, image)}) == 3


def test_a_rejection_note_that_cannot_be_carried_out_is_a_dead_letter():
    for note in (
        rejection(make(PatientID="")),
        rejection(make(), CurrentRequestedProcedureEvidenceSequence=[]),
        rejection(make(SOPInstanceUID="no uid/at all")),
    ):
        outcome = handle(encode(note), context())
        assert (outcome.verdict, len(outcome.objects)) == ("dead-letter", 1)
        (letter,) = events(outcome)
        assert (letter.stage, letter.message_type) == ("identify", "1.2.840.10008.5.1.4.1.1.88.59")


@pytest.mark.parametrize(("code", "scheme"), [("113000", "DCM"), ("113037", "99LOCAL")])
def test_another_key_object_selection_takes_nothing_back(code, scheme):
    outcome = handle(encode(rejection(make(), code=code, scheme=scheme)), context())
    assert (outcome.verdict, events(outcome)) == ("ignored", ())


def test_an_image_class_without_pixels_is_broken_not_ignored():
    assert handle(encode(make(PixelData=None)), context()).verdict == "dead-letter"


def test_burned_in_text_can_be_held_apart():
    data = encode(make(BurnedInAnnotation="YES"))
    assert handle(data, context()).verdict == "accepted"
    assert handle(data, context(burned_in="dead-letter")).verdict == "dead-letter"


def test_a_deflate_bomb_is_not_inflated():
    dataset = make(syntax=DeflatedExplicitVRLittleEndian)
    fill(dataset, np.zeros((2000, 2000), np.uint16))
    data = encode(dataset)
    assert len(data) < 20_000
    outcome = handle(data, context(largest_object=1_000_000))
    assert (outcome.verdict, outcome.status) == ("refused", ack.TOO_DEEP)


def test_deep_nesting_is_refused_or_read_never_a_crash():
    inner = b""
    for _ in range(3000):
        inner = b"\x40\x00\x75\x02\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" + inner
    dataset = encode(make(syntax=ImplicitVRLittleEndian))
    outcome = handle(dataset + inner, context())
    assert outcome.verdict == "refused"


@pytest.mark.parametrize(
    ("attributes", "zone", "expected"),
    [
        ({"AcquisitionDateTime": "20260301101112.5+0200"}, "UTC", "2026-03-01T08:11:12.500000+00:00"),
        ({"AcquisitionDateTime": "20260301"}, "UTC", "2026-03-01T00:00:00+00:00"),
        ({"AcquisitionDate": "20260701", "AcquisitionTime": "1200"}, "Europe/Berlin", "2026-07-01T10:00:00+00:00"),
        ({"ContentDate": "2026.01.05", "ContentTime": "10:11:12"}, "UTC", "2026-01-05T10:11:12+00:00"),
        ({"TimezoneOffsetFromUTC": "-0500"}, "Europe/Berlin", "2026-01-02T08:04:05+00:00"),
        ({"StudyDate": "20261399"}, "UTC", NOW.isoformat()),
        ({"StudyDate": None}, "UTC", NOW.isoformat()),
        ({"StudyTime": "235960"}, "UTC", "2026-01-02T23:59:59+00:00"),
    ],
)
def test_times(attributes, zone, expected):
    assert acquired_at(make(**attributes), context(zone=zone)).isoformat() == expected


def test_a_zone_that_is_none_is_refused_at_start():
    for wrong in ({"zone": "No/Such"}, {"peers": [{"ae_title": "X", "zone": "../etc"}]}):
        with pytest.raises(ValueError, match="no time zone"):
            DicomSettings(**wrong)


def test_test_modalities_are_marked():
    chosen = DicomSettings(peers=(DicomPeer(ae_title="PHANTOM", processing="training", name="physics lab"),))
    outcome = handle(encode(make()), Context(chosen, IDENTITIES, chosen.peer("PHANTOM "), NOW))
    (event,) = events(outcome)
    assert event.processing == "training"
    assert event.origin.peer == "physics lab"


BASE = encode(make(syntax=ImplicitVRLittleEndian))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(BASE) - 1), st.integers(0, 255)), max_size=30), st.integers(0, len(BASE)))
def test_a_damaged_object_always_has_an_outcome(changes, cut):
    damaged = bytearray(BASE)
    for place, value in changes:
        damaged[place] = value
    for data in (bytes(damaged), bytes(damaged[:cut])):
        outcome = handle(data, context(largest_frame=1_000_000))
        assert outcome.status in ack.STATUSES
        if outcome.verdict != "refused":
            assert all(event.id for event in events(outcome))


def test_random_bytes_never_crash():
    source = random.Random(7)
    for size in (1, 131, 132, 140, 500, 5000):
        for prefix in (b"", b"\0" * 128 + b"DICM"):
            assert handle(prefix + source.randbytes(size), context()).verdict == "refused"


@pytest.mark.parametrize("keyword", [b"\x02\x00\x02\x00UI", b"\x02\x00\x10\x00UI"])
def test_a_meta_element_of_an_unknown_representation_stops_no_import(keyword):
    """Found by fuzzing: pydicom converts meta elements when they are looked at, and an import of a folder ended there."""
    data = encode(make())
    assert keyword in data
    damaged = data.replace(keyword, keyword[:4] + b"U\x1a", 1)
    assert not is_directory(damaged)
    assert handle(damaged, context()).status in ack.STATUSES
