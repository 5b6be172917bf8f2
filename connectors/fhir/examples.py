"""A small resource of each kind that is taken, as the OpenAPI document shows them. Nothing in them comes from a patient."""

from base64 import b64encode
from typing import Any, Final

Json = dict[str, Any]

_SUBJECT: Final[Json] = {"identifier": {"system": "https://hospital.example/mrn", "value": "P1"}}
# one grey pixel, PNG
_PIXEL: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
_WORDS: Final = b64encode(b"Chest pain since noon.").decode()


def _code(code: str, system: str = "http://loinc.org") -> Json:
    return {"coding": [{"system": system, "code": code}]}


def _quantity(value: float, unit: str) -> Json:
    return {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}


def _entry(resource: Json) -> Json:
    return {"resource": resource, "request": {"method": "POST", "url": resource["resourceType"]}}


def _bundle(kind: str, *resources: Json) -> Json:
    return {"resourceType": "Bundle", "type": kind, "entry": [_entry(one) for one in resources]}


_PULSE: Final[Json] = {
    "resourceType": "Observation",
    "status": "final",
    "code": _code("8867-4"),
    "subject": _SUBJECT,
    "effectiveDateTime": "2026-11-23T10:00:00+01:00",
    "valueQuantity": _quantity(72, "/min"),
}
_PRESSURE: Final[Json] = {
    "resourceType": "Observation",
    "status": "final",
    "code": _code("85354-9"),
    "subject": _SUBJECT,
    "effectiveDateTime": "2026-11-23T10:00:00+01:00",
    "component": [
        {"code": _code("8480-6"), "valueQuantity": _quantity(120, "mm[Hg]")},
        {"code": _code("8462-4"), "valueQuantity": _quantity(80, "mm[Hg]")},
    ],
}
_PATIENT: Final[Json] = {
    "resourceType": "Patient",
    "identifier": [{"system": "https://hospital.example/mrn", "value": "P1"}],
    "birthDate": "1950-02-03",
}
_MESSAGE: Final[Json] = {
    "resourceType": "MessageHeader",
    "eventCoding": {"system": "https://hospital.example/events", "code": "vitals"},
    "source": {"endpoint": "https://hospital.example/gateway"},
}

EXAMPLES: Final[dict[str, dict[str, Json]]] = {
    "Observation": {"pulse": _PULSE, "pressure": _PRESSURE},
    "DocumentReference": {
        "note": {
            "resourceType": "DocumentReference",
            "status": "current",
            "type": _code("11506-3"),
            "subject": _SUBJECT,
            "date": "2026-11-23T09:30:00Z",
            "content": [{"attachment": {"contentType": "text/plain", "data": _WORDS}}],
        }
    },
    "DiagnosticReport": {
        "report": {
            "resourceType": "DiagnosticReport",
            "status": "final",
            "code": _code("18748-4"),
            "subject": _SUBJECT,
            "effectiveDateTime": "2026-11-23T09:30:00Z",
            "conclusion": "No acute finding.",
        }
    },
    "Patient": {"patient": _PATIENT},
    "Encounter": {
        "stay": {
            "resourceType": "Encounter",
            "identifier": [{"system": "https://hospital.example/visit", "value": "V1"}],
            "status": "in-progress",
            "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"},
            "subject": _SUBJECT,
        }
    },
    "Media": {
        "photograph": {
            "resourceType": "Media",
            "status": "completed",
            "subject": _SUBJECT,
            "createdDateTime": "2026-11-23T10:00:00+01:00",
            "content": {"contentType": "image/png", "data": _PIXEL},
        }
    },
    "ImagingStudy": {
        "study": {"resourceType": "ImagingStudy", "status": "available", "subject": _SUBJECT, "started": "2026-11-23"}
    },
    "Communication": {
        "message": {
            "resourceType": "Communication",
            "status": "completed",
            "subject": _SUBJECT,
            "sent": "2026-11-23T10:00:00Z",
            "payload": [{"contentString": "Family informed."}],
        }
    },
    "Bundle": {"transaction": _bundle("transaction", _PATIENT, _PULSE), "batch": _bundle("batch", _PULSE, _PRESSURE)},
    "Message": {
        "message": {
            "resourceType": "Bundle",
            "type": "message",
            "timestamp": "2026-11-23T10:00:00Z",
            "entry": [{"resource": _MESSAGE}, {"resource": _PULSE}],
        }
    },
    "Notification": {"resource": _PULSE, "history": {"resourceType": "Bundle", "type": "history", "entry": [_entry(_PULSE)]}},
}
