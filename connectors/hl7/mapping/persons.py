"""What a result or a document says of the person and the bed, where no registration has said it (rule 6 of `connectors.contexts`).

A gateway of monitors may be the only feed of a site. Without an age there is no NEWS2 alert, and without a place nobody is called.
Nor does anything else say that a patient was moved: while registration has not spoken, vital signs do, by where they come from.
Not taken from here: death and pregnancy, since both silence, and nothing but registration would take them back.
"""

from collections.abc import Sequence
from typing import Any, Final

from pydantic import ValidationError

from connectors.contexts import FUTURE
from connectors.hl7.mapping.patients import Book
from connectors.hl7.mapping.reading import Subject, birth_date
from connectors.hl7.mapping.visits import place_of
from connectors.hl7.message import Segment
from processors.events import UNDATED, Event, Location, NoteEvent, PatientEvent, VitalsEvent

_WITHDRAWN: Final = frozenset({"cancelled", "entered-in-error"})


def fill(book: Book, pid: Segment | None, pv1: Segment | None, subject: Subject, made: Sequence[Event]) -> None:
    """Add to the patient's context what PID and PV1 say and it does not know. `made`: the events that they are told with.

    Where all of those are taken back the device or the author had the wrong patient: then the place may be another's.
    """
    known = book.get(subject.patient_id)
    if pid is None or (known and known.deleted) or not any(map(_stands, made)):
        return
    new: dict[str, Any] = {}
    if known is None or known.birth_date is None:
        try:
            if born := birth_date(pid):
                new["birth_date"] = born
        except ValueError:  # registration's to mend: a dead letter with each set of vitals would say no more
            book.reading.flags["a date of birth that cannot be read"] += 1
    if pv1 and (known is None or not _placed(known) or _moves(known, made)):
        try:
            if (place := place_of(pv1)) not in (Location(), known.location if known else None):
                new["location"] = place
        except ValidationError:  # longer than is taken: vitals are not refused for the name of a bed
            book.reading.flags["a place that cannot be read"] += 1
    if new:
        book.write(subject.patient_id, new | ({"identifiers": subject.identifiers} if known is None else {}), fact=True)


def _has_stay(known: PatientEvent) -> bool:
    return bool(known.encounter_id) or known.encounter_status != "unknown"


def _placed(known: PatientEvent) -> bool:
    return _has_stay(known) or known.location != Location()


def _moves(known: PatientEvent, made: Sequence[Event]) -> bool:
    """Tell whether vital signs say where a patient is now whom registration has not placed.

    Those that were measured well after the last word about the patient came: neither a message that was long on its way nor two
    devices that disagree (a transport monitor beside the bed's) move anybody back and forth with every set.
    """
    if known.effective_at != UNDATED or _has_stay(known):
        return False
    sets = [event for event in made if isinstance(event, VitalsEvent) and _stands(event)]
    return any(min(one.observed_at, one.received_at) > known.received_at + FUTURE for one in sets)


def _stands(event: Event) -> bool:
    if isinstance(event, VitalsEvent):
        return any(one.status not in _WITHDRAWN for one in event.observations)
    return isinstance(event, NoteEvent) and event.status not in _WITHDRAWN
