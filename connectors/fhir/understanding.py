"""What decides how a resource is to be understood at all: its status, and modifiers that nobody here knows.

A status is from a required value set: another word is a mistake, and reading it as the nearest or as none turns a retraction into a
value that counts. A modifier (https://hl7.org/fhir/R4/extensibility.html#modifierExtension) may turn round what an element says
("was not taken"), and `implicitRules` what the whole resource says: who does not know it must not use it.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
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
# elements that the mapping does not read: a modifier in them changes nothing of what is taken
_UNREAD: Final[Mapping[str, frozenset[str]]] = {
    "Observation": frozenset({"referenceRange"}),
    "DiagnosticReport": frozenset({"media"}),
    "Patient": frozenset({"contact", "communication"}),
    "Encounter": frozenset({"statusHistory", "classHistory", "participant", "diagnosis", "hospitalization"}),
    "ImagingStudy": frozenset({"series"}),
}
_SHOWN: Final = 20


def status_issues(resource: Json) -> list[Issue]:
    """Return what is wrong with the status of a resource whose structure is right; empty for nothing."""
    kind = kind_of(resource)
    return [
        Issue("error", "code-invalid", "not a code of the required value set", f"{kind}.{name}")
        for name, codes in STATUSES.get(kind, {}).items()
        if isinstance(given := resource.get(name), str) and given not in codes
    ]


def modifier_issues(resource: Json) -> list[Issue]:
    """Return the modifiers in a resource whose structure is right, which stand against using it; empty for none.

    Their URLs are not quoted: the place finds them, and what stands in a URL is anybody's.
    """
    return [*islice(_modifiers(resource, kind_of(resource)), _SHOWN)]


def _modifiers(part: Json, place: str) -> Iterator[Issue]:
    kind = kind_of(part)
    if kind and part.get("implicitRules"):
        yield Issue(
            "error", "not-supported", "implicit rules that are not known here: it cannot be used", f"{place}.implicitRules"
        )
    for name, value in part.items():
        # what an extension says is not read; a Bundle's resources are looked at by themselves
        if name in _UNREAD.get(kind, ()) or name in ("extension", "resource"):
            continue
        for n, one in enumerate(value) if isinstance(value, list) else ((-1, value),):
            here = f"{place}.{name}" + (f"[{n}]" if n >= 0 else "")
            if name == "modifierExtension":
                yield Issue("error", "extension", "a modifier that is not known here: what it modifies cannot be used", here)
            elif isinstance(one, dict):
                yield from _modifiers(one, here)
