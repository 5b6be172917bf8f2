"""FHIR R4 resources of the ward's second system: patients, encounters, observations, documents, after the vital signs profile."""

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from streams.demo.notes import Kind
from streams.demo.people import Patient
from streams.demo.physiology import Vitals

MRN_SYSTEM: Final = "https://fiction.example/mrn"
VISIT_SYSTEM: Final = "https://fiction.example/visit"
DOCUMENT_SYSTEM: Final = "https://fiction.example/document"
OBSERVATION_SYSTEM: Final = "https://fiction.example/observation"
_LOINC: Final = "http://loinc.org"
_UCUM: Final = "http://unitsofmeasure.org"
_CATEGORY: Final = "http://terminology.hl7.org/CodeSystem/observation-category"
_SIGNS: Final[Mapping[str, tuple[str, str, str]]] = {
    "heart_rate": ("8867-4", "Heart rate", "/min"),
    "respiratory_rate": ("9279-1", "Respiratory rate", "/min"),
    "spo2": ("59408-5", "Oxygen saturation in Arterial blood by Pulse oximetry", "%"),
    "temperature": ("8310-5", "Body temperature", "Cel"),
}
_ANSWERS: Final = {"A": ("LA9340-6", "Alert"), "C": ("LA6560-2", "Confused"), "V": ("LA17108-4", "Responds to voice")}
Resource = dict[str, Any]


def wire(resource: Resource) -> bytes:
    """Write a resource as JSON."""
    return orjson.dumps(resource)


def instant(at: datetime) -> str:
    """Write a FHIR instant in UTC."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _subject(patient: Patient) -> Resource:
    return {"type": "Patient", "identifier": {"system": MRN_SYSTEM, "value": patient.mrn}}


def _encounter(patient: Patient) -> Resource:
    return {"type": "Encounter", "identifier": {"system": VISIT_SYSTEM, "value": patient.visit}}


def person(patient: Patient, epoch: datetime) -> Resource:
    """Write a Patient."""
    record = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]}
    return {
        "resourceType": "Patient",
        "identifier": [{"use": "usual", "type": record, "system": MRN_SYSTEM, "value": patient.mrn}],
        "active": True,
        "name": [{"use": "official", "family": patient.family, "given": [patient.given]}],
        "gender": "female" if patient.female else "male",
        "birthDate": patient.born(epoch.date()).isoformat(),
    }


def stay(patient: Patient, at: datetime) -> Resource:
    """Write an Encounter in progress."""
    return {
        "resourceType": "Encounter",
        "identifier": [{"system": VISIT_SYSTEM, "value": patient.visit}],
        "status": "in-progress",
        "class": {
            "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode",
            "code": "IMP",
            "display": "inpatient encounter",
        },
        "subject": _subject(patient),
        "period": {"start": instant(at)},
        "location": [{"location": {"display": f"7 NORTH {patient.room}-{patient.bed}"}, "status": "active"}],
    }


def _observation(patient: Patient, at: datetime, number: str, code: str, display: str, value: Resource) -> Resource:
    return {
        "resourceType": "Observation",
        "identifier": [{"system": OBSERVATION_SYSTEM, "value": f"{number}-{code}"}],
        "status": "final",
        "category": [{"coding": [{"system": _CATEGORY, "code": "vital-signs"}]}],
        "code": {"coding": [{"system": _LOINC, "code": code, "display": display}]},
        "subject": _subject(patient),
        "encounter": _encounter(patient),
        "effectiveDateTime": instant(at),
        **value,
    }


def _quantity(value: float, unit: str) -> Resource:
    return {"valueQuantity": {"value": value, "unit": unit, "system": _UCUM, "code": unit}}


def vitals_bundle(patient: Patient, at: datetime, vitals: Vitals, *, number: str) -> Resource:
    """Write a set of vitals: a transaction of single observations, blood pressure with its two components."""
    resources = [
        _observation(patient, at, number, code, display, _quantity(getattr(vitals, sign), unit))
        for sign, (code, display, unit) in _SIGNS.items()
    ]
    pressures = [
        ("8480-6", "Systolic blood pressure", vitals.systolic),
        ("8462-4", "Diastolic blood pressure", vitals.diastolic),
    ]
    parts = [
        {"code": {"coding": [{"system": _LOINC, "code": code, "display": name}]}, **_quantity(value, "mm[Hg]")}
        for code, name, value in pressures
    ]
    resources.append(_observation(patient, at, number, "85354-9", "Blood pressure panel", {"component": parts}))
    code, text = _ANSWERS[vitals.consciousness]
    answer = {"valueCodeableConcept": {"coding": [{"system": _LOINC, "code": code, "display": text}], "text": text}}
    resources.append(_observation(patient, at, number, "67775-7", "Level of responsiveness", answer))
    oxygen = _quantity(vitals.oxygen, "L/min")
    resources.append(_observation(patient, at, number, "3151-8", "Inhaled oxygen flow rate", oxygen))
    return transaction(resources)


def vitals_panel(patient: Patient, at: datetime, vitals: Vitals, *, number: str) -> Resource:
    """Write a set of vitals as one Observation: a panel with all values as its components."""
    entries = [entry["resource"] for entry in vitals_bundle(patient, at, vitals, number=number)["entry"]]
    parts = [
        part
        for one in entries
        for part in one.get("component") or [{"code": one["code"]} | {k: v for k, v in one.items() if k.startswith("value")}]
    ]
    return _observation(patient, at, number, "85353-1", "Vital signs panel", {"component": parts})


def transaction(resources: Sequence[Resource]) -> Resource:
    """Write a transaction Bundle that creates the resources."""
    entries = [{"resource": one, "request": {"method": "POST", "url": one["resourceType"]}} for one in resources]
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def document(patient: Patient, at: datetime, text: str, kind: Kind, *, number: str) -> Resource:
    """Write a DocumentReference with the note inside."""
    data = base64.b64encode(text.encode()).decode()
    return {
        "resourceType": "DocumentReference",
        "identifier": [{"system": DOCUMENT_SYSTEM, "value": number}],
        "status": "current",
        "docStatus": "final",
        "type": {"coding": [{"system": _LOINC, "code": kind.loinc, "display": kind.display}]},
        "subject": _subject(patient),
        "date": instant(at),
        "content": [{"attachment": {"contentType": "text/plain; charset=utf-8", "data": data, "creation": instant(at)}}],
        "context": {"encounter": [_encounter(patient)]},
    }
