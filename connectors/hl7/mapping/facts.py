"""Observations that say something lasting about a patient, not how the patient does: they go into the context.

Pregnancy has LOINC codes. The SpO2 scale and the ceiling of care have none that senders agree on: a site names its codes in the
settings. A scale counts only as somebody's recorded decision, so OBX-16 (responsible observer) must name who.
"""

from collections.abc import Mapping
from typing import Any, Final

from connectors.hl7.errors import Condition
from connectors.hl7.mapping.codes import OBSERVATION_STATUS, codings
from connectors.hl7.mapping.reading import Reading
from connectors.hl7.mapping.standing import letter_of
from connectors.hl7.message import Segment
from connectors.hl7.settings import ContextCode

_YES_NO: Final[Mapping[str, bool | None]] = {
    "LA15173-0": True,  # LOINC answers to 82810-3: pregnant, not pregnant, unknown
    "LA26683-5": False,
    "LA4489-6": None,
    "77386006": True,  # SNOMED CT: pregnant, not pregnant
    "60001007": False,
    "Y": True,
    "N": False,
}
_PREGNANCY: Final = ContextCode(fact="pregnant", values=dict(_YES_NO))
STANDARD: Final = {"82810-3": _PREGNANCY, "11449-6": _PREGNANCY}
_COUNTS: Final = frozenset({"final", "corrected", "amended"})
_NOTHING: Final[Mapping[str, dict[str, Any]]] = {
    "pregnant": {"pregnant": None},
    "spo2_scale": {"spo2_scale": 1, "spo2_scale_decided_by": None},
    "ceiling_of_care": {"ceiling_of_care": None},
}


def fact_of(reading: Reading, obx: Segment) -> ContextCode | None:
    """Return what lasting fact an OBX is about, None for the ordinary."""
    site = reading.tables.context_codes
    for code, _, system in codings(obx, 3):
        found = (site.get(f"{code}^{system}") or site.get(code) if site else None) or STANDARD.get(code)
        if found:
            return found
    return None


def read_fact(reading: Reading, obx: Segment, meaning: ContextCode, obr: Segment | None = None) -> dict[str, Any]:
    """Return the fields of `PatientEvent` that an OBX sets; empty, and noted, when it cannot be used."""
    status = OBSERVATION_STATUS.get(letter_of(reading, obx, obr), "unknown")
    if status == "entered-in-error":
        return dict(_NOTHING[meaning.fact])
    if status not in _COUNTS:
        reading.skipped["a fact about the patient that is not final"] += 1
        return {}
    words = [word for code, text, _ in codings(obx, 5) for word in (code, text) if word]
    if not words:
        reading.skipped["empty value (OBX-5)"] += 1
        return {}
    found = [meaning.values[word] for word in words if word in meaning.values]
    if not found and meaning.values:
        reading.trouble("a value that the settings do not name", obx.at(5), Condition.TABLE_VALUE_NOT_FOUND)
        return {}
    return _fields(reading, obx, meaning, found[0] if found else words[0])


def _fields(reading: Reading, obx: Segment, meaning: ContextCode, value: bool | int | str | None) -> dict[str, Any]:
    if meaning.fact == "ceiling_of_care":
        return {"ceiling_of_care": None if value is None else str(value)}
    if meaning.fact == "pregnant":
        return {"pregnant": value if isinstance(value, bool) else None}
    if str(value) not in ("1", "2"):
        reading.trouble("not an SpO2 scale", obx.at(5))
        return {}
    observer = obx.get(16) or obx.get(16, 2)
    if not observer:
        reading.trouble("an SpO2 scale that nobody is named for (OBX-16)", obx.at(16), Condition.REQUIRED_FIELD_MISSING)
        return {}
    scope = obx.get(16, 9) or reading.message.header.get(4)
    decided_by = reading.tables.identities.pseudonym("staff", scope, observer)
    return {"spo2_scale": int(str(value)), "spo2_scale_decided_by": decided_by}
