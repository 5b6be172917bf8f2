"""What was observed under a record that was merged away goes on to the surviving one (HL7 A40 and its kin, FHIR Patient.link).

The two ids lie in different partitions as a rule, so state cannot move from one machine to the other: it travels as sets of vital
signs, on the topic like any other, written by the lane of the old id before it settles what they follow from. Their ids derive from
what they follow from, so that a rerun writes the same ones; `moved_from` names the ids that they came under.

With the merge goes what is known of the last day, as one set whose values carry their own times: history fills up, and only the
state that it comes to may alert. After it, each set that still comes under the old id goes on as it is.
"""

from typing import Final

from processors.deterioration import FEATURES
from processors.events import Observation, Origin, PatientEvent, Severity, VitalsEvent
from processors.history import CORRECTED, History
from processors.identity import natural_id
from processors.loinc import LOINC
from processors.patients import when
from processors.vitals import UNITS_OF

_HOPS: Final = 8  # merges that a set follows: records that were merged in a circle would pass it on for ever
_CODES: Final = {
    name: min((meaning.preference, code) for code, meaning in LOINC.items() if meaning.parameter == name)[1]
    for name in FEATURES
}


def forwarded(event: VitalsEvent, survivor: str, *, history: bool) -> list[VitalsEvent]:
    """Return the set that came under an old id as one of the survivor's; nothing where it has been there before.

    `history`: it came by a redrive or a replay, which its new record does not show.
    """
    if survivor in (event.patient_id, *event.moved_from) or len(event.moved_from) >= _HOPS:
        return []
    moved = {
        "id": natural_id(event.id, "moved", survivor),
        "patient_id": survivor,
        "moved_from": (*event.moved_from, event.patient_id),
        "history": history,
    }
    return [event.model_copy(update=moved)]


def history_of(history: History, merge: PatientEvent, survivor: str, standing: Severity | None) -> list[VitalsEvent]:
    """Return what is known under the old id as one set of the survivor's; nothing where nothing is known.

    `standing`: the severity of the alert by NEWS2 that stood there.

    Samples that have not proved persistent stay behind: the stream goes on under the survivor and proves itself there.
    """
    newest = history.newest
    if newest is None:
        return []
    observations = [
        Observation(
            code=_CODES[name],
            value=value,
            unit=UNITS_OF.get(name, ""),
            status="corrected" if rank == CORRECTED else "final",
            observed_at=when(at),
        )
        for name, entries in sorted(history.entries.items())
        for at, value, rank in entries
    ]
    return [
        VitalsEvent(
            id=natural_id(merge.id, "moved", survivor),
            patient_id=survivor,
            observed_at=when(newest),
            received_at=merge.received_at,
            observations=tuple(observations),
            moved_from=(merge.patient_id,),
            standing=standing,
            origin=Origin(protocol="vigil", message_type="merge"),
        )
    ]
