"""The CapabilityStatement (https://hl7.org/fhir/R4/capabilitystatement.html) at [base]/metadata: what is taken, as a resource."""

from datetime import datetime
from typing import Any, Final

SUPPORTED: Final[dict[str, str]] = {  # resource type -> what becomes of it
    "Observation": "vital signs become sets of vitals; pregnancy and configured codes go into the context",
    "DocumentReference": "documents (text, HTML, CDA, RTF, PDF), inline or in a Binary: of the Bundle or, by setting, the server",
    "DiagnosticReport": "reports with a presented form or a conclusion",
    "Patient": "identifiers, birth date, deceased, links (replaced-by, replaces)",
    "Encounter": "the stay: visit number, status, ward, room, bed",
    "Media": "a picture (PNG, JPEG, TIFF, WebP, BMP, GIF), inline or in a Binary: of the Bundle or, by setting, the server",
    "ImagingStudy": "checked and answered; its instances are taken by DICOM C-STORE or STOW-RS",
    "Communication": "text payloads become notes; in response to an alert of ours (identifier system urn:vigil:alert) feedback",
}
INTERACTIONS: Final = ("create", "update")
DELETABLE: Final = frozenset({"Observation", "DocumentReference", "DiagnosticReport", "Communication", "Media", "Patient"})


def capability_statement(*, url: str, date: datetime, software_version: str) -> dict[str, Any]:
    """Return the CapabilityStatement of an instance whose base is `url`."""
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": date.isoformat(),
        "kind": "instance",
        "software": {"name": "Vigil", "version": software_version},
        "implementation": {"description": "Vigil, clinical event stream: takes data in, serves none", "url": url},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json", "application/fhir+xml", "xml"],
        "rest": [
            {
                "mode": "server",
                "documentation": "A positive answer means stored (Kafka, all in-sync replicas). Structure "
                "is validated (R4B models, whose supported types equal R4's) and so are the codes of status; other terminology and "
                "profiles are not. What carries a modifier extension or implicit rules is refused. "
                "What is deleted is taken back as far as its id is remembered, else 404. "
                "Nothing can be read back.",
                "security": {
                    "cors": False,
                    "description": "bearer token where configured; TLS and mutual TLS where configured",
                },
                "resource": [
                    {
                        "type": name,
                        "documentation": words,
                        "interaction": [
                            {"code": code} for code in (*INTERACTIONS, *(("delete",) if name in DELETABLE else ()))
                        ],
                        "versioning": "no-version",
                        "readHistory": False,
                        "updateCreate": True,
                        "conditionalCreate": False,
                        "conditionalUpdate": False,
                        "conditionalDelete": "not-supported",
                        "referencePolicy": ["logical", "literal", "local"],
                    }
                    for name, words in SUPPORTED.items()
                ],
                "interaction": [{"code": "transaction"}, {"code": "batch"}],
                "operation": [
                    {
                        "name": "process-message",
                        "definition": "http://hl7.org/fhir/OperationDefinition/MessageHeader-process-message",
                    }
                ],
            }
        ],
    }
