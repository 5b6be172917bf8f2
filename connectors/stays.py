"""Which stay a patient's context is about, where messages speak of several: one rule for HL7 v2 and FHIR.

A context holds one stay. By it a patient is watched and alerts are routed, so what is said of another visit (dialysis, a clinic, a
planned admission, an old stay that is tidied up) must not end, cancel or move it. But where the end of the old stay was lost, a new
admission must take over, or the patient is watched under a ward that was left long ago. What stands against what:

1. Only what is named differs: where the message or the context has no visit number, there is one stay and the message is about it.
2. The end, cancellation or plan of another visit is never used while a stay is in progress, or may be (`unknown`).
3. A visit that begins takes over from a stay in progress when it puts the patient into a bed or an emergency room, or when the stay
   is known to be an outpatient one (those are often never ended). A class that is not known protects the stay that has it.
4. Not where it begins before the stay in progress, as far as both say when: it is entered late. What only may be earlier is not.

Where the two mistakes weigh against each other: a stay that is displaced wrongly ends with the visit that displaced it, and nobody
watches; one that is kept wrongly is watched and alerts, in its old place, until its own end or the next admission.
"""

from datetime import datetime
from typing import Any, Final, Literal

from processors.events import Location, PatientEvent
from processors.patients import NOT_HERE

Class = Literal["inpatient", "emergency", "outpatient"]

# HL7 v2 table 0004, and the v3 ActCodes that FHIR's Encounter.class takes. Others (obstetrics, a site's own) tell nothing here.
CLASSES: Final[dict[str, Class]] = {
    "I": "inpatient",
    "E": "emergency",
    "O": "outpatient",
    "P": "outpatient",  # preadmit: in no bed yet
    "R": "outpatient",  # recurring, dialysis for one
    "IMP": "inpatient",
    "ACUTE": "inpatient",
    "NONAC": "inpatient",
    "SS": "inpatient",  # short stay
    "OBSENC": "inpatient",  # observation: in a bed
    "EMER": "emergency",
    "AMB": "outpatient",
    "FLD": "outpatient",
    "HH": "outpatient",
    "PRENC": "outpatient",
    "VR": "outpatient",
}
NEW_STAY: Final[dict[str, Any]] = {  # what a stay does not take over from the one before
    "location": Location(),
    "encounter_class": None,
    "encounter_since": None,
    "pregnant": None,
    "ceiling_of_care": None,
}


def is_another(known: PatientEvent | None, encounter_id: str | None) -> bool:
    """Whether a visit is another than the context's: only where both are named."""
    return known is not None and None not in (known.encounter_id, encounter_id) and known.encounter_id != encounter_id


def in_bed(kind: Class | None) -> bool:
    """Whether a class says that the patient lies in the house."""
    return kind in ("inpatient", "emergency")


def begins_earlier(known: PatientEvent, latest: datetime | None) -> bool:
    """Whether a visit that began at the latest then began before the context's stay: certain, or False."""
    return known.encounter_since is not None and latest is not None and latest < known.encounter_since


def gives_way(known: PatientEvent, status: str, *, takes_over: bool, latest: datetime | None) -> bool:
    """Whether the context's stay gives way to another visit of that status.

    `takes_over`: that visit puts the patient into a bed (rule 3). `latest`: when it began at the latest, None where nobody says.
    """
    if status in NOT_HERE:
        return known.encounter_status not in ("in-progress", "unknown")
    if known.encounter_status != "in-progress":
        return True
    lesser = known.encounter_class == "outpatient"
    return status == "in-progress" and (takes_over or lesser) and not begins_earlier(known, latest)
