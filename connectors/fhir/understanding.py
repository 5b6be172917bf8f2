"""What decides how a resource is to be understood at all: its status.

A status is from a required value set: another word is a mistake, and reading it as the nearest or as none turns a retraction into a
value that counts.
"""

from collections.abc import Mapping
from typing import Final

from connectors.fhir.acknowledgement import Issue
from connectors.fhir.structure import Json, kind_of

_EVENT: Final = "preparation in-progress not-done on-hold stopped completed entered-in-error unknown"  # event-status
_CODES: Final[Mapping[str, Mapping[str, str]]] = {  # http://hl7.org/fhir/R4/valueset-NAME.html
    "Observation": {  # observation-status
        "status": "registered preliminary final amended corrected cancelled entered-in-error unknown"
    },
    "DocumentReference": {
        "status": "current superseded entered-in-error",  # document-reference-status
        "docStatus": "preliminary final amended entered-in-error",  # composition-status
    },
    "DiagnosticReport": {  # diagnostic-report-status
        "status": "registered partial preliminary final amended corrected appended cancelled entered-in-error unknown"
    },
    "Encounter": {  # encounter-status
        "status": "planned arrived triaged in-progress onleave finished cancelled entered-in-error unknown"
    },
    "Media": {"status": _EVENT},
    "Communication": {"status": _EVENT},
    "ImagingStudy": {"status": "registered available cancelled entered-in-error unknown"},  # imagingstudy-status
}
STATUSES: Final[Mapping[str, Mapping[str, frozenset[str]]]] = {  # resource type -> element -> codes; a Patient has none
    kind: {name: frozenset(codes.split()) for name, codes in elements.items()} for kind, elements in _CODES.items()
}


def status_issues(resource: Json) -> list[Issue]:
    """Return what is wrong with the status of a resource whose structure is right; empty for nothing."""
    kind = kind_of(resource)
    return [
        Issue("error", "code-invalid", "not a code of the required value set", f"{kind}.{name}")
        for name, codes in STATUSES.get(kind, {}).items()
        if isinstance(given := resource.get(name), str) and given not in codes
    ]
