"""FHIR resources made for tests: nothing in them comes from a patient."""

from base64 import b64encode
from typing import Any

LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"
MRN = "https://hospital.example/mrn"


def concept(code: str, system: str = LOINC, display: str = "") -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code} | ({"display": display} if display else {})]}


def quantity(value: Any, measure: str = "/min", **more: Any) -> dict[str, Any]:
    return {"value": value, "unit": measure, "system": UCUM, "code": measure} | more


def media(picture: bytes, kind: str = "image/png", **more: Any) -> dict[str, Any]:
    """A photograph; `more` sets or (None) removes elements."""
    made = {
        "resourceType": "Media",
        "status": "completed",
        "modality": concept("XC", "http://dicom.nema.org/resources/ontology/DCM"),
        "bodySite": concept("368209003", "http://snomed.info/sct", "Right arm"),
        "subject": {"identifier": {"system": MRN, "value": "P1"}},
        "createdDateTime": "2026-11-23T10:00:00+01:00",
        "content": {"contentType": kind, "data": b64encode(picture).decode()},
    }
    return without(made | more)


def without(resource: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in resource.items() if value is not None}


def observation(loinc: str = "8867-4", value: Any = 72, measure: str = "/min", **more: Any) -> dict[str, Any]:
    """A vital sign; `more` sets or (None) removes elements."""
    made = {
        "resourceType": "Observation",
        "status": "final",
        "category": [concept("vital-signs", "http://terminology.hl7.org/CodeSystem/observation-category")],
        "code": concept(loinc),
        "subject": {"identifier": {"system": MRN, "value": "P1"}},
        "effectiveDateTime": "2026-11-23T10:00:00+01:00",
        "valueQuantity": quantity(value, measure),
    }
    return without(made | more)


def pressure(systolic: Any = 120, diastolic: Any = 80, **more: Any) -> dict[str, Any]:
    parts = [
        {"code": concept("8480-6"), "valueQuantity": quantity(systolic, "mm[Hg]")},
        {"code": concept("8462-4"), "valueQuantity": quantity(diastolic, "mm[Hg]")},
    ]
    return observation("85354-9", valueQuantity=None, component=parts, **more)


def patient(**more: Any) -> dict[str, Any]:
    made = {
        "resourceType": "Patient",
        "identifier": [{"system": MRN, "value": "P1", "type": concept("MR", "http://terminology.hl7.org/CodeSystem/v2-0203")}],
        "name": [{"family": "Probe", "given": ["Petra"]}],
        "birthDate": "1950-02-03",
    }
    return without(made | more)


def encounter(**more: Any) -> dict[str, Any]:
    made = {
        "resourceType": "Encounter",
        "identifier": [{"system": "https://hospital.example/visit", "value": "V1"}],
        "status": "in-progress",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"},
        "subject": {"identifier": {"system": MRN, "value": "P1"}},
    }
    return without(made | more)


def attachment(content: str | bytes = "Chest pain since noon.", kind: str = "text/plain") -> dict[str, Any]:
    data = content.encode() if isinstance(content, str) else content
    return {"contentType": kind, "data": b64encode(data).decode()}


def document(words: str | bytes = "Chest pain since noon.", kind: str = "text/plain", **more: Any) -> dict[str, Any]:
    made = {
        "resourceType": "DocumentReference",
        "identifier": [{"system": "https://hospital.example/document", "value": "D1"}],
        "status": "current",
        "docStatus": "final",
        "type": concept("11506-3", display="Progress note"),
        "subject": {"identifier": {"system": MRN, "value": "P1"}},
        "date": "2026-11-23T09:30:00Z",
        "content": [{"attachment": attachment(words, kind)}],
    }
    return without(made | more)


def bundle(*resources: dict[str, Any], kind: str = "transaction", method: str = "POST") -> dict[str, Any]:
    entries = [
        {
            "resource": one,
            "request": {"method": method, "url": one["resourceType"] + (f"/{one['id']}" if method == "PUT" else "")},
        }
        for one in resources
    ]
    return {"resourceType": "Bundle", "type": kind, "entry": entries}
