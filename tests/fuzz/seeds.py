"""What the fuzzers begin with: our own samples, every patient's datum in them the canary."""

import json
from datetime import timedelta
from typing import Any

import numpy as np
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from processors.events import Event, FeedbackEvent, PatientEvent, VitalsEvent
from tests import bedside, dicom_objects, fhir_resources
from tests.fuzz.invariants import CANARY
from tests.hl7_messages import PULSE as HEART_RATE
from tests.hl7_messages import PV1, message, obx, vitals

_PID = f"PID|1||{CANARY}1^^^HOSP^MR~{CANARY}2^^^&1.2.3&ISO^PI||{CANARY}^JANE||19500321|F|||{CANARY} street"
_TXA = f"TXA|1|DS|TX|20260302093000+0000||20260302090000+0000||||||{CANARY}D^EPIC|{CANARY}P||||LA"
_RTF = "^application^rtf^A^" + "{\\rtf1\\ansi " + CANARY + " is well\\par}".replace("\\", "\\E\\")


def hl7() -> list[bytes]:
    """Messages of every type that is mapped, and of some that are not."""
    pressure = obx("8480-6^Systolic^LN", "120", "mm[Hg]^^UCUM", number=2)
    local = obx(f"{CANARY}^{CANARY}^L", CANARY, CANARY, number=3)
    scale = obx("SCALE^^L", "2", kind="CWE", number=4)
    document = ["EVN|T02", _PID, PV1, _TXA]
    people = ["EVN|A01|20260302090000", _PID, "PD1|1", PV1 + f"|{CANARY}"]
    return [
        vitals(HEART_RATE, pressure, local, scale, pid=_PID),
        vitals(
            HEART_RATE,
            obx("59408-5^^LN", "97", "%", kind="SN", at="20260302095501"),
            "NTE|1||" + CANARY,
            pid=_PID,
            accept="AL",
            application="ER",
        ),
        vitals(obx("2339-0^Glucose^LN", "<5", "mg/dL"), pid="PID|1", pv1="", charset="8859/1"),
        vitals(
            obx("18842-5^Report^LN", CANARY + "\\.br\\text", kind="TX", number=1),
            obx("18842-5^^LN", _RTF, kind="ED", number=2),
            pid=_PID,
        ),
        *(
            message(*document, obx("18842-5^^LN", CANARY, kind="TX"), kind=f"MDM^{trigger}^MDM_T02")
            for trigger in ("T02", "T06", "T10", "T11")
        ),
        *(message(*people, kind=f"ADT^{trigger}") for trigger in ("A01", "A03", "A08", "A11", "A31")),
        message(*people, f"MRG|{CANARY}9^^^HOSP^MR", kind="ADT^A40", processing="T", version="2.3"),
        message(
            "MSA|AA|1",
            "PRT|1||AD||^" + CANARY,
            f"OBR|1|alert^VIGIL||{CANARY}",
            f"OBX|1|ST|X|1|{CANARY}",
            kind="ORA^R41^ORA_R41",
        ),
        message("MSA|AA|1", kind="ACK"),
        message(_PID, kind="SIU^S12", version="2.2"),
        b"FHS|^~\\&|\rBHS|^~\\&|\r" + vitals(HEART_RATE, pid=_PID) + message(*people, kind="ADT^A04") + b"BTS|2\rFTS|1\r",
        f"MSH#*!?$#A#B#C#D#20260302##ORU*R01#1#P#2.5\rPID#1##{CANARY}**MR\rOBX#1#NM#8867-4**LN##80#/min#####F".encode(),
        vitals(HEART_RATE, pid="PID|1||" + CANARY + "\\.sp3\\\\X41\\^^^HOSP^MR", charset="UNICODE UTF-8~ISO IR87"),
    ]


def mllp() -> list[bytes]:
    """Streams of frames, good and bad."""
    one, two = (b"\x0b" + raw + b"\x1c\r" for raw in hl7()[:2])
    return [
        one + two,
        one[:-1] + two,
        b"noise\r\n" + one,
        one[:40] + two,
        b"\x0bMSH|" + b"x" * 6000 + b"\x1c\r" + two,
        one.replace(b"|", b"\x1c", 3),
        b"\x0b" * 40,
    ]


def _canaried(resource: Any) -> Any:
    """The resource with the canary in names, numbers of people, and texts."""
    replaced = {
        "P1": CANARY,
        "V1": CANARY,
        "D1": CANARY,
        "Probe": CANARY,
        "Petra": CANARY,
        "Progress note": CANARY,
        "Right arm": CANARY,
    }
    return json.loads(
        json.dumps(resource),
        object_hook=lambda found: {k: replaced.get(v, v) if isinstance(v, str) else v for k, v in found.items()},
    )


def fhir() -> list[bytes]:
    """Resources of every type that is mapped, Bundles of every kind, notifications, and XML."""
    make = fhir_resources
    png = dicom_png()
    observation = make.observation(id="o1", interpretation=[{"text": CANARY}], note=[{"text": CANARY}])
    communication = {
        "resourceType": "Communication",
        "id": "c1",
        "status": "completed",
        "subject": {"reference": "Patient/7"},
        "sent": "2026-11-23T10:00:00Z",
        "payload": [{"contentString": CANARY}],
    }
    report = {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "code": make.concept("18842-5"),
        "subject": {"identifier": {"system": make.MRN, "value": "P1"}},
        "issued": "2026-11-23T10:00:00Z",
        "conclusion": CANARY,
        "presentedForm": [make.attachment(CANARY), make.attachment("{\\rtf1 x}", "application/rtf")],
        "text": {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml"><p>{CANARY}</p></div>'},
    }
    study = {"resourceType": "ImagingStudy", "status": "available", "subject": {"reference": "Patient/7"}}
    single = [
        observation,
        make.pressure(),
        make.observation(valueQuantity=None, valueString=CANARY),
        make.observation(
            "67775-7", valueQuantity=None, valueCodeableConcept=make.concept("248234008", "http://snomed.info/sct")
        ),
        make.observation(value="72"),
        make.observation("8310-5", 98.6, "[degF]", effectiveDateTime=None, effectivePeriod={"start": "2026-11-23T10:00:00Z"}),
        make.patient(id="7", deceasedBoolean=False, link=[{"other": {"reference": "Patient/8"}, "type": "replaced-by"}]),
        make.encounter(id="e", location=[{"location": {"display": CANARY}}]),
        make.document(CANARY, relatesTo=[{"code": "replaces", "target": {"identifier": {"value": "D0"}}}]),
        make.document("<p>hi</p>", "text/html"),
        communication,
        report,
        study,
        make.media(png),
        {"resourceType": "Basic", "code": {"text": CANARY}},
    ]
    header = {
        "resourceType": "MessageHeader",
        "eventCoding": {"system": "urn:x", "code": "x"},
        "source": {"endpoint": "http://a.example"},
    }
    bundles = [
        make.bundle(make.patient(), make.encounter(), observation, make.pressure(), make.document()),
        make.bundle(observation, make.patient(id="7"), kind="batch", method="POST"),
        {
            "resourceType": "Bundle",
            "type": "message",
            "timestamp": "2026-11-23T10:00:00Z",
            "entry": [{"resource": header}, {"resource": observation, "fullUrl": "urn:uuid:1"}],
        },
        {
            "resourceType": "Bundle",
            "type": "history",
            "entry": [
                {
                    "resource": _status(),
                    "request": {"method": "GET", "url": "Subscription/1/$status"},
                    "response": {"status": "200"},
                },
                {
                    "resource": observation,
                    "fullUrl": "http://a.example/Observation/o1",
                    "request": {"method": "POST", "url": "Observation"},
                    "response": {"status": "201"},
                },
            ],
        },
        {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": observation, "search": {"mode": "match"}}]},
    ]
    xml = f"""<Observation xmlns="http://hl7.org/fhir"><id value="x"/><status value="final"/><code><coding><system value="http://loinc.org"/>
<code value="8867-4"/></coding><text value="{CANARY}"/></code><subject><identifier>
<system value="urn:a"/><value value="{CANARY}"/></identifier></subject>
<effectiveDateTime value="2026-11-23T10:00:00Z"/><valueQuantity><value value="72"/><unit value="/min"/><system value="http://unitsofmeasure.org"/>
<code value="/min"/></valueQuantity></Observation>"""
    patient = f'''<Patient xmlns="http://hl7.org/fhir"><identifier><value value="{CANARY}"/></identifier><name>
<family value="{CANARY}"/></name><birthDate value="1950-02-03"/></Patient>'''
    return [json.dumps(_canaried(one)).encode() for one in (*single, *bundles)] + [xml.encode(), patient.encode()]


def _status() -> dict[str, Any]:
    parameter = [
        {"name": "subscription", "valueReference": {"reference": "https://a.example/fhir/Subscription/1"}},
        {"name": "status", "valueCode": "active"},
        {"name": "type", "valueCode": "event-notification"},
        {"name": "events-since-subscription-start", "valueString": "2"},
        {
            "name": "notification-event",
            "part": [
                {"name": "event-number", "valueString": "2"},
                {"name": "focus", "valueReference": {"reference": "https://a.example/fhir/Observation/o1"}},
            ],
        },
    ]
    return {"resourceType": "Parameters", "parameter": parameter}


def dicom_png() -> bytes:
    """A small PNG."""
    from io import BytesIO

    from PIL import Image

    out = BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(out, "PNG")
    return out.getvalue()


def dicom() -> list[bytes]:
    """Small objects of the usual layouts and syntaxes."""
    grey = np.arange(48, dtype=np.uint16).reshape(6, 8) * 80
    person = {"PatientID": CANARY, "PatientName": CANARY, "AdmissionID": CANARY, "IssuerOfPatientID": "hosp"}
    fixed = {"SOPInstanceUID": "1.2.3.4", "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1"}
    many = dicom_objects.make(grey, **person, **fixed)
    many.NumberOfFrames, many.PixelData = 3, many.PixelData * 3
    signed = (grey.astype(np.int32) - 1000).astype(np.int16)
    made = [
        dicom_objects.make(
            grey, WindowCenter=1000, WindowWidth=400, RescaleSlope="1.0", RescaleIntercept="-1024", **person, **fixed
        ),
        dicom_objects.make(
            signed,
            syntax=ImplicitVRLittleEndian,
            AcquisitionDateTime="20260102030405.5+0100",
            TimezoneOffsetFromUTC="+0100",
            **person,
            **fixed,
        ),
        dicom_objects.make(grey, syntax=DeflatedExplicitVRLittleEndian, **person, **fixed),
        dicom_objects.make(grey, syntax=ExplicitVRBigEndian, **person, **fixed),
        dicom_objects.make(np.arange(144, dtype=np.uint8).reshape(6, 8, 3), **person, **fixed),
        dicom_objects.make(grey, PatientID=None, **fixed),
        dicom_objects.make(grey, PixelData=None, **person, **fixed),
        dicom_objects.make(grey, BurnedInAnnotation="YES", ImageComments=CANARY, **person, **fixed),
        many,
        dicom_objects.rejection(many),
    ]
    return [dicom_objects.encode(one) for one in made]


def _line(event: Event) -> bytes:
    letter = {VitalsEvent: "V", PatientEvent: "P", FeedbackEvent: "F"}[type(event)]
    return letter.encode() + event.model_dump_json().encode()


def monitor() -> list[bytes]:
    """Stays of a few inputs: `V`, `P` and `F` before an event's JSON, `T` before minutes by which the clock goes on."""
    ill = [bedside.vitals(n * 5, bedside.ILL, patient=CANARY, id=f"ill-{n}") for n in range(4)]
    well = [bedside.vitals(n * 5, bedside.WELL, patient=CANARY, id=f"well-{n}") for n in range(3)]
    streamed = [bedside.vitals(n, bedside.ILL, patient=CANARY, charted=False, id=f"streamed-{n}") for n in range(6)]
    correction = bedside.vitals(5, {"hr": 71}, status="corrected", patient=CANARY, id="corrected")
    known = bedside.context(patient=CANARY, id="context")
    merged = bedside.context(10, patient=CANARY, id="merged", merged_into="patient-b")
    scale = bedside.context(5, patient=CANARY, id="scale", spo2_scale=2, ceiling_of_care=CANARY, ward="B")
    said = bedside.answer("alert", 6, patient=CANARY, reason=CANARY)
    rows: list[list[bytes]] = [
        [_line(known), *(_line(one) for one in ill), b"T5", _line(said), b"T60"],
        [_line(known), _line(well[0]), b"T5", _line(ill[1]), _line(well[2]), _line(scale), b"T10", _line(merged)],
        [*(_line(one) for one in streamed), b"T1", _line(correction), b"T1440"],
        [_line(known), _line(ill[0]), _line(ill[0]), _line(correction), b"T-5", b"T0.001", _line(ill[3]), b"T700"],
        [_line(bedside.vitals(0, {"temp": 98.6, "flow": 2}, patient=CANARY, received=90)), b"T90", _line(well[1])],
    ]
    return [b"\n".join(one) for one in rows]


def callback() -> list[bytes]:
    """Bodies, the first byte of each saying how it is signed."""
    data = {
        "alert_id": "a1",
        "patient_id": CANARY,
        "answer": "acknowledged",
        "by": CANARY,
        "reason": CANARY,
        "given_at": str(bedside.at(0) + timedelta(minutes=1)),
    }
    body = json.dumps({"type": "vigil.feedback", "data": data}).encode()
    return [
        b"0" + body,
        b"0" + body.replace(b"acknowledged", b"declined"),
        b"1msg-1\n1795000000\nv1,AAAA\n" + body,
        b"2" + body,
        b"0{}",
    ]
