"""ADT to patient context, and the contexts that make a partial message into a whole one.

`clinical.patients` is compacted: the newest record of a patient replaces the one before, so each must be whole. An ADT message is
a snapshot of what the registration system knows (PID, PV1) and knows nothing of what a clinician decided elsewhere (SpO2 scale,
ceiling of care). The rule:

1. What a message says replaces what was known; HL7's null (`""`) deletes it.
2. What it does not say is kept from the context as last published (`Contexts`).
3. A message older than the context (EVN-2, else MSH-7) fills only what is unknown: a late or repeated admission does not undo a
   discharge.
4. An admission with another visit number begins a new stay: place, pregnancy and ceiling of care of the old one are not carried
   over (the SpO2 scale is: it was decided for the patient).
5. A1x cancels undo by their own snapshot: PV1 of an A12 holds the location before the transfer, A13 means in the house again.

Merges (A40, older A18, A30, A34, A36, A39; A43 and A47 which move or change an identifier, which is what a `patient_id` is made
from): the prior patient's record gets `merged_into`, the surviving one takes over what it does not know itself. Links (A24) are
read as a merge into the first of the two, unlinks (A37) take it back. Moves of an account or visit (A44, A45): the visit leaves the
one context and enters the other.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from connectors.hl7.errors import Condition, Location, Unreadable
from connectors.hl7.mapping.reading import Reading, Subject
from connectors.hl7.message import Segment
from connectors.hl7.times import parse_stamp
from processors.events import Location as Place
from processors.events import PatientEvent

# trigger -> encounter status; None: as known (an update of person or bed does not change it), or in progress if nothing is known
SNAPSHOTS: Final[dict[str, str | None]] = {
    "A01": "in-progress",
    "A02": "in-progress",
    "A03": "finished",
    "A04": "in-progress",
    "A05": "planned",
    "A06": "in-progress",
    "A07": "in-progress",
    "A08": None,
    "A09": None,
    "A10": None,
    "A11": "cancelled",
    "A12": "in-progress",
    "A13": "in-progress",
    "A14": "planned",
    "A17": None,
    "A23": "cancelled",
    "A28": None,
    "A31": None,
    "A32": None,
    "A33": None,
    "A38": "cancelled",
    "A50": None,
}
MERGES: Final = frozenset({"A18", "A30", "A34", "A36", "A39", "A40", "A43", "A46", "A47"})
MOVES: Final = frozenset({"A44", "A45"})
LINKS: Final = frozenset({"A24", "A37"})
TRIGGERS: Final = frozenset(SNAPSHOTS) | MERGES | MOVES | LINKS
ADMISSIONS: Final = frozenset({"A01", "A04", "A05"})
_PREGNANT: Final = "B6"  # table 0009, ambulatory status (PV1-15)


class Contexts(Protocol):
    """The patients' contexts as last published, from the topic or a copy of it. A look-up never waits."""

    def get(self, patient_id: str) -> PatientEvent | None:
        """Return the context of a patient, None when nothing is known."""
        ...

    def remember(self, context: PatientEvent) -> None:
        """Take over a context that was published or is about to be."""
        ...


class MemoryContexts:
    """The contexts of the patients heard of most recently. Forgets the oldest above `limit`."""

    def __init__(self, limit: int = 200_000) -> None:
        self._limit = limit
        self._known: OrderedDict[str, PatientEvent] = OrderedDict()

    def get(self, patient_id: str) -> PatientEvent | None:
        """Return the context of a patient, None when nothing is known."""
        return self._known.get(patient_id)

    def remember(self, context: PatientEvent) -> None:
        """Take over a context."""
        self._known[context.patient_id] = context
        self._known.move_to_end(context.patient_id)
        while len(self._known) > self._limit:
            self._known.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Group:
    """A PID with the PV1 and MRG that belong to it."""

    pid: Segment
    pv1: Segment | None = None
    mrg: Segment | None = None


def map_patients(reading: Reading, contexts: Contexts, trigger: str) -> None:
    """Map an ADT message. Raises `Unreadable` when it lacks a segment that it cannot be read without."""
    groups = [*_groups(reading.message.segments)]
    if not groups:
        raise Unreadable("an ADT message without PID", Location("PID"))
    at = _effective(reading)
    book = Book(reading, contexts, at)
    if trigger in LINKS:
        _link(book, groups, together=trigger == "A24")
    else:
        for group in groups:
            subject = reading.subject(group.pid)
            if subject is None:
                where = group.pid.at(3)
                reading.trouble("no identifier that names the patient", where, Condition.UNKNOWN_KEY, stage="identify")
            elif trigger in MERGES:
                _merge(book, group, subject)
            elif trigger in MOVES:
                _move(book, group, subject)
            else:
                book.write(subject.patient_id, _said(reading, group, subject, trigger, book.get(subject.patient_id)))
    book.close()


def _groups(segments: tuple[Segment, ...]) -> Iterator[Group]:
    found: dict[str, Segment] = {}
    for segment in segments:
        if segment.name == "PID" and found:
            yield Group(found["PID"], found.get("PV1"), found.get("MRG"))
            found = {}
        if segment.name == "PID" or (found and segment.name in ("PV1", "MRG")):
            found.setdefault(segment.name, segment)
    if found:
        yield Group(found["PID"], found.get("PV1"), found.get("MRG"))


def _effective(reading: Reading) -> datetime:
    event = reading.message.first("EVN")
    return reading.moment_or_none(event, 6, 2) or reading.sent_at


class Book:
    """The contexts that this message writes, one per patient."""

    def __init__(self, reading: Reading, contexts: Contexts, at: datetime) -> None:
        self.reading = reading
        self._contexts = contexts
        self._at = at
        self._written: dict[str, PatientEvent] = {}

    def get(self, patient_id: str) -> PatientEvent | None:
        """Return the context as this message has it so far."""
        return self._written.get(patient_id) or self._contexts.get(patient_id)

    def write(self, patient_id: str, said: dict[str, Any]) -> None:
        """Apply what the message says to what is known."""
        known = self.get(patient_id)
        late = known is not None and known.effective_at > self._at and patient_id not in self._written
        fields = known.model_dump(exclude={"id", "origin"}) if known else {}
        for name, value in said.items():
            if not late or fields.get(name) in (None, "", (), "unknown"):
                fields[name] = value
        if late:
            self.reading.flags["older than what is known of the patient: fills only what is missing"] += 1
        fields |= {"patient_id": patient_id, "received_at": self.reading.received_at}
        fields["effective_at"] = known.effective_at if known and late else self._at
        self._written[patient_id] = PatientEvent(id="unset", origin=self.reading.origin, **fields)

    def close(self) -> None:
        """Add the events, in the order in which the patients were first written."""
        for context in self._written.values():
            self.reading.events.append(context.model_copy(update={"id": self.reading.event_id(PatientEvent)}))


# ------------------------------------------------------------------------------------------------ what a snapshot says


def _said(
    reading: Reading, group: Group, subject: Subject, trigger: str = "", known: PatientEvent | None = None
) -> dict[str, Any]:
    said: dict[str, Any] = {"identifiers": subject.identifiers} | _person(reading, group.pid)
    pv1 = group.pv1
    status = SNAPSHOTS.get(trigger)
    if pv1 is not None:
        if encounter := reading.encounter_id(pv1, subject):
            said["encounter_id"] = encounter
        place = Place(ward=pv1.get(3), room=pv1.get(3, 2), bed=pv1.get(3, 3))
        if any((place.ward, place.room, place.bed)):
            said["location"] = place
        if pv1.raw(15):
            said["pregnant"] = any(pv1.get(15, repetition=n) == _PREGNANT for n in range(1, pv1.count(15) + 1)) or None
    if status:
        said["encounter_status"] = status
    if trigger in ("A11", "A38", "A23"):
        said["location"] = Place()
    if trigger in ADMISSIONS and known and known.encounter_id != said.get("encounter_id", known.encounter_id):
        said = {"location": Place(), "pregnant": None, "ceiling_of_care": None} | said
    return said


def _person(reading: Reading, pid: Segment) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if pid.is_null(7):
        said["birth_date"] = None
    elif birth := _date(reading, pid):
        said["birth_date"] = birth
    if pid.get(30).upper() in ("Y", "N"):
        said["deceased"] = pid.get(30).upper() == "Y"
    elif pid.get(29):
        said["deceased"] = True
    elif pid.is_null(30) or pid.is_null(29):
        said["deceased"] = False
    return said


def _date(reading: Reading, pid: Segment) -> str | None:
    try:
        stamp = parse_stamp(pid.get(7))
    except ValueError as error:
        reading.trouble(f"date of birth: {error}", pid.at(7))
        return None
    if stamp is None:
        return None
    if stamp.precision in ("year", "month"):
        reading.flags["a date of birth without the day counts as unknown"] += 1
        return None
    return stamp.local.date().isoformat()


# --------------------------------------------------------------------------------------------- merges, moves and links


def _prior(reading: Reading, group: Group) -> Subject | None:
    """Return whom MRG-1 names, by the same order of authorities; noted when it names nobody."""
    if group.mrg is None:
        raise Unreadable("a merge or move without MRG", Location("MRG"))
    identities = reading.tables.identities
    identifiers = reading.identifiers(group.mrg, 1) or reading.identifiers(group.mrg, 4)
    chosen = identities.choose(identifiers)
    if chosen is None:
        reading.trouble("no identifier that names the prior patient", group.mrg.at(1), Condition.UNKNOWN_KEY, stage="identify")
        return None
    return Subject(identities.patient(chosen), identifiers, chosen.authority)


def _merge(book: Book, group: Group, subject: Subject) -> None:
    reading = book.reading
    prior = _prior(reading, group)
    if prior is None or prior.patient_id == subject.patient_id:
        return
    old = book.get(prior.patient_id)
    said = _said(reading, group, subject) | {"merged_into": None}
    if old is not None:
        known = book.get(subject.patient_id)
        inherited = old.model_dump(
            exclude={"id", "origin", "patient_id", "identifiers", "merged_into", "effective_at", "received_at"}
        )
        blank: dict[str, Any] = known.model_dump() if known else {}
        if not blank.get("encounter_id"):  # the stay goes over as one: number, status and place
            said = {name: inherited[name] for name in ("encounter_id", "encounter_status", "location")} | said
        for name in ("birth_date", "pregnant", "ceiling_of_care"):
            if blank.get(name) is None:
                said.setdefault(name, inherited[name])
        if old.spo2_scale_decided_by and not blank.get("spo2_scale_decided_by"):
            said |= {"spo2_scale": old.spo2_scale, "spo2_scale_decided_by": old.spo2_scale_decided_by}
    book.write(subject.patient_id, said)
    book.write(prior.patient_id, {"identifiers": prior.identifiers, "merged_into": subject.patient_id})


def _move(book: Book, group: Group, subject: Subject) -> None:
    """Move the visit or account that MRG names from its patient to PID's."""
    reading = book.reading
    prior = _prior(reading, group)
    if prior is None:
        return
    said = _said(reading, group, subject)
    moved = reading.encounter_id(group.mrg, prior, 5)
    old = book.get(prior.patient_id)
    if moved and "encounter_id" not in said:
        said["encounter_id"] = moved
    if old is not None and old.encounter_id in (moved, said.get("encounter_id")) and old.encounter_id:
        said = {"encounter_status": old.encounter_status, "location": old.location} | said
        book.write(
            prior.patient_id,
            {"encounter_id": None, "encounter_status": "unknown", "location": Place()},
        )
    book.write(subject.patient_id, said)


def _link(book: Book, groups: list[Group], *, together: bool) -> None:
    reading = book.reading
    subjects = [subject for group in groups if (subject := reading.subject(group.pid))]
    if len(subjects) < 2:
        reading.trouble("a link needs two patients", Location("PID", 2, 3), Condition.REQUIRED_FIELD_MISSING, stage="identify")
        return
    first = subjects[0]
    for other in subjects[1:]:
        if other.patient_id != first.patient_id:
            merged = {"merged_into": first.patient_id if together else None}
            book.write(first.patient_id, {"identifiers": first.identifiers} | ({} if together else {"merged_into": None}))
            book.write(other.patient_id, {"identifiers": other.identifiers} | merged)
