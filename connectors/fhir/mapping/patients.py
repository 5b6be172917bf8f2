"""Patient and Encounter to patient contexts. How a partial message becomes a whole context stands in `connectors.contexts`.

1. A Patient takes effect when its server last wrote it (meta.lastUpdated), else when it was received; an Encounter likewise. A time
   in the future counts as the receipt, noted.
2. A Patient that has an id on its server *and* another identifier that names it makes two contexts: its own, and an alias under the
   id, `merged_into` the first. By the alias, kept in the compacted topic like any context, a bare `Patient/7` is understood later.
   A Patient that has no number any more is filed under the one that it had; one whose number another record lists beside its own
   under that record, where the date of birth says so (`contexts.registered`; the alias is then `merged_by` the number), and so is
   one with another number beside that of a record. Where both numbers have records, these are merged or noted (`one_person`).
3. `link` replaced-by merges this record into another, `replaces` the other into this one; the survivor takes over what it lacks.
   An update without a link that its resource said before (`merged_by`) takes that merge back, as A37 does in HL7 v2.
4. A stay that is over, planned or cancelled does not displace another one that is in progress, or may be; nor does one in progress
   but of an inpatient's or emergency's class, unless it displaces an outpatient's, nor one that began earlier
   (Encounter.period.start). The rule stands in `connectors.stays`. A class that is not known displaces nothing, and it is noted.
5. What is part of another Encounter (`partOf`: a department's or a ward's share of a stay) is about that stay. It tells where the
   patient lies; it never ends the stay, which goes on in the next ward. Where none is in progress it begins one: its whole may not
   have come yet. One that is in progress after its whole has ended goes on, and ends, by itself.
6. A new stay begins without the place, pregnancy and ceiling of care of the one before (as in the HL7 v2 connector).
7. An update replaces the resource (R4 http.html#update): a death that it no longer tells did not happen. A date of birth that it no
   longer tells is kept: who has no age is not watched, and no patient becomes ageless.
8. An update with another number is a change of identifier (HL7 v2: A47): the record of the old number is merged into that of the
   new one, unless another Patient has the old number too. A Patient that comes under the old number, later, takes that back.
9. An update of an Encounter with another subject moves the stay (A45): the first patient has none any more, and what their watch
   raised is withdrawn (`stay_moved_to`).
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from connectors.contexts import (
    STAY,
    Contexts,
    Numbers,
    beside_own,
    facts_of,
    in_future,
    inherited,
    is_late,
    kept,
    one_person,
    registering,
    since,
    surviving,
    whole,
)
from connectors.fhir.mapping.reading import Reading, Stay, Subject, codings, objects, text
from connectors.fhir.structure import Json
from connectors.identity import LOGICAL
from connectors.stays import NEW_STAY, Class, class_of, gives_way, in_bed
from processors.events import UNDATED, Identifier, Location, PatientEvent
from processors.identity import natural_id

ENCOUNTER_STATUS: Final[Mapping[str, str]] = {  # http://hl7.org/fhir/R4/valueset-encounter-status.html
    "planned": "planned",
    "arrived": "in-progress",
    "triaged": "in-progress",
    "in-progress": "in-progress",
    "onleave": "in-progress",
    "finished": "finished",
    "cancelled": "cancelled",
    "entered-in-error": "cancelled",
    "unknown": "unknown",
}
_PLACES: Final[Mapping[str, str]] = {"wa": "ward", "ro": "room", "bd": "bed"}  # location-physical-type; others are the ward
_GONE: Final = {name: PatientEvent.model_fields[name].default for name in STAY}
UNKNOWN_CLASS: Final = "neither an inpatient's nor an outpatient's that is known (`classes` of the peer): displaces no stay"
_DATE: Final = len("2026-01-31")  # shorter ones are years and months
_FOLLOWED: Final = 8  # aliases and merges followed before one is taken for a circle


class Book:
    """The contexts that one request writes, one event per patient however many resources speak of it."""

    def __init__(self, contexts: Contexts) -> None:
        self._contexts = contexts
        self._written: dict[str, PatientEvent] = {}
        self._sources: dict[str, list[str]] = {}

    def get(self, patient_id: str) -> PatientEvent | None:
        """Return the context as this request has it so far."""
        return self._written.get(patient_id) or self._contexts.get(patient_id)

    def merged(self, patient_id: str) -> frozenset[str]:
        """Return the records that are merged into a patient's, as this request has it so far."""
        written = {name for name, one in self._written.items() if one.merged_into == patient_id}
        return self._contexts.merged(patient_id) - self._written.keys() | written

    def is_late(self, patient_id: str, at: datetime) -> bool:
        """Whether what took effect then is older than what is known of a patient but for this request's words."""
        return is_late(self._contexts.get(patient_id), at)

    def write(self, reading: Reading, patient_id: str, said: Mapping[str, Any], *, at: datetime | None = None) -> None:
        """Apply what a resource says. Without `at` it is a single fact, which says nothing of how new the rest is."""
        known = self.get(patient_id)
        fact = at is None
        when = at or (since(known) if known else UNDATED)
        if in_future(when, reading.sender.received_at):
            reading.note("", "a time in the future: counts as of its receipt")
            when = reading.sender.received_at
        late = not fact and self.is_late(patient_id, when)
        if late:
            reading.note("", "older than what is known of the patient: fills only what is missing")
        self._sources.setdefault(patient_id, []).extend(reading.identity)
        reading.shared = True
        self._written[patient_id] = whole(
            known,
            said,
            id="unset",
            patient_id=patient_id,
            at=max(when, since(known)) if known and patient_id in self._written else when,
            received_at=reading.sender.received_at,
            origin=reading.origin,
            late=late,
        )

    def events(self) -> list[PatientEvent]:
        """Return the contexts as events, their ids from all that spoke."""
        return [
            context.model_copy(update={"id": natural_id(*self._sources[patient], PatientEvent.type, patient)})
            for patient, context in self._written.items()
        ]


def map_patient(reading: Reading, book: Book) -> None:
    """Map a Patient."""
    resource = reading.resource
    chosen = reading.chosen(resource)
    if chosen is None:
        reading.trouble("identifier", "no identifier that names the patient", code="required", stage="identify")
        return
    identifiers = reading.person_identifiers(resource)
    subject = reading.filed(resource, chosen) if chosen.kind != LOGICAL else None
    if subject is None and chosen.kind != LOGICAL:
        reading.trouble("identifier", "a number that several records list: nobody can tell which", stage="identify")
        return
    number = reading.site.identities.patient(chosen)
    patient = subject.patient_id if subject else number
    at = reading.last_updated or reading.sender.received_at
    own = next((reading.site.identities.patient(one) for one in identifiers if one.kind == LOGICAL), None)
    before = book.get(own) if own else None
    filed = before.merged_into if before and not before.merged_by else None  # under what this resource was filed last
    sent = reading.identifiers(objects(resource, "identifier"))
    others = kept(reading.site.contexts, reading.site.identities, book.get(patient), sent)
    said: dict[str, Any] = {"identifiers": (*identifiers, *others)} | _person(reading)
    voice = {}
    if chosen.kind != LOGICAL and not reading.over(resource, chosen):
        _unite(reading, book, patient, chosen, at)
    if patient != number:
        reading.note("identifier", "another number of a record's: filed under that record")
        listed = record.identifiers if (record := book.get(patient)) else ()
        own_numbers = Numbers(listed)
        said["identifiers"] = (*listed, *(one for one in identifiers if one not in own_numbers))
        voice = {"merged_by": number}
    if own == patient and filed:
        reading.note("identifier", "no number any more: filed under the one that it had")
        patient = filed
        del said["identifiers"]
    elif own and filed and filed != patient and reading.update:
        _renumber(reading, book, filed, patient, own, at)
    if patient == number and chosen.kind != LOGICAL and (known := book.get(patient)) and known.merged_by == patient:
        said["merged_into"] = None  # who had this number, and then another, was somebody else
    book.write(reading, patient, said, at=at)
    if own and own != patient:
        logical = tuple(one for one in identifiers if one.kind == LOGICAL)
        book.write(reading, own, {"identifiers": logical, "merged_into": patient, "deleted": False} | voice, at=at)
    _links(reading, book, patient, at)


def _unite(reading: Reading, book: Book, patient: str, chosen: Identifier, at: datetime) -> None:
    """Merge into the patient's record those of its other numbers, where they are certainly one person's (as HL7 v2's ADT does)."""
    numbers, born = reading.person_identifiers(reading.resource), text(reading.resource.get("birthDate")) or None
    for other in beside_own(book, reading.site.identities, patient, chosen, numbers):
        known = book.get(patient)
        if surviving(book, other.patient_id) == patient:
            continue
        late = book.is_late(patient, at) or book.is_late(other.patient_id, at)
        if known is None or late or not one_person(known, other, born, numbers):
            reading.note("identifier", "numbers of records that may be two patients': not merged")
            continue
        reading.note("identifier", "numbers of two records that are one patient's: merged")
        book.write(reading, patient, inherited(known, other), at=at)
        book.write(reading, other.patient_id, {"merged_into": patient}, at=at)


def _renumber(reading: Reading, book: Book, old: str, new: str, own: str, at: datetime) -> None:
    """Merge the record of the number that a Patient had into that of the one that it has (rule 8)."""
    known, prior = book.get(new), book.get(old)
    if book.is_late(own, at) or (prior and prior.merged_into):
        return
    others = (book.get(one) for one in book.merged(old) - {own})
    if any(one and {each.kind for each in one.identifiers} == {LOGICAL} for one in others):
        reading.note("identifier", "another number than before, which another Patient has too: the records are not merged")
        return
    taken = inherited(known, prior)
    if known and prior and known.merged_into == old:  # the number it had first: what came since stands under the other
        taken = {name: value for name, value in facts_of(prior).items() if name != "identifiers"} | {"merged_into": None}
    elif _circular(book, new, old):
        return
    reading.note("identifier", "another number than before: the record of the old one is merged into that of the new one")
    if taken:
        book.write(reading, new, taken, at=at)
    book.write(reading, old, {"merged_into": new, "merged_by": old}, at=at)


def _links(reading: Reading, book: Book, patient: str, at: datetime) -> None:
    """Merge what the links say, and take back what those of an earlier version of the resource said and they do not."""
    named = Identifier(authority=reading.sender.base, value=reading.name, kind=LOGICAL)
    voice = reading.site.identities.patient(named) if reading.name else None
    links = [
        (n, text(link.get("type")), link["other"])
        for n, link in enumerate(objects(reading.resource, "link"))
        if link.get("type") in ("replaced-by", "replaces") and isinstance(link.get("other"), dict)
    ]
    merges: list[tuple[str, str]] = []  # prior, survivor
    for n, kind, reference in links:
        if other := reading.patient(reference):
            merges.append((patient, other.patient_id) if kind == "replaced-by" else (other.patient_id, patient))
        else:
            reading.trouble(f"link[{n}].other", "names no patient that is known", code="not-found", stage="identify")
    if voice and reading.update and len(merges) == len(links):  # what cannot be read takes nothing back
        for prior in {patient} | book.merged(patient):
            known = book.get(prior)
            if known and known.merged_into and known.merged_by == voice and (prior, known.merged_into) not in merges:
                reading.note("link", "a link that is no longer there: the merge is taken back")
                book.write(reading, prior, {"merged_into": None}, at=at)
    for prior, survivor in merges:
        if survivor != prior and not _circular(book, survivor, prior):
            if taken := inherited(book.get(survivor), book.get(prior)):
                book.write(reading, survivor, taken)
            book.write(reading, prior, {"merged_into": survivor, "merged_by": voice}, at=at)


def _circular(book: Book, survivor: str, prior: str) -> bool:
    current: str | None = survivor
    for _ in range(_FOLLOWED):
        known = book.get(current) if current else None
        current = known.merged_into if known else None
        if current == prior:
            return True
    return False


def _person(reading: Reading) -> dict[str, Any]:
    resource, said = reading.resource, dict[str, Any](deleted=False)
    if birth := text(resource.get("birthDate")):
        said["birth_date"] = birth
    if isinstance(resource.get("deceasedBoolean"), bool):
        said["deceased"] = resource["deceasedBoolean"]
    elif resource.get("deceasedDateTime") or resource.get("_deceasedDateTime"):  # the latter alone: nobody knows when
        said["deceased"] = True
    elif reading.update and not resource.get("_deceasedBoolean"):
        said["deceased"] = False
    return said


def map_encounter(reading: Reading, book: Book, learnt: dict[str, Stay]) -> None:
    """Map an Encounter. `learnt`: what this request's Encounters are, by `Reading.stay_key`."""
    resource = reading.resource
    subject = reading.subject(followed=False)  # a stay is the record's own
    if subject is None:
        return
    contexts, identities = reading.site.contexts, reading.site.identities
    subject = replace(subject, patient_id=registering(contexts, identities, subject.patient_id))
    stay = reading.encounter_of(resource, subject)
    at, received_at = reading.last_updated or reading.sender.received_at, reading.sender.received_at
    written = received_at if in_future(at, received_at) else at
    left = None
    before = learnt.get(reading.stay_key) or reading.site.encounters.get(reading.stay_key)
    if before and reading.update and _is_anothers(reading, before, subject):
        if written < before.at:
            reading.note("subject", "another patient's than a newer version says: not used")
            return
        left = _leave(reading, book, before, subject)
    if reading.stay_key:
        learnt[reading.stay_key] = Stay(stay or "", subject.patient_id, written)
    status = ENCOUNTER_STATUS.get(text(resource.get("status")), "unknown")
    kind = _class(reading, resource)
    earliest, latest = _began(reading, resource)
    known = book.get(subject.patient_id)
    late = book.is_late(subject.patient_id, at)
    alone = reading.encounter_by_id(resource, subject)
    if reading.encounter(resource.get("partOf"), subject) is not None:
        # A visit number will not do to tell a part by: parts have that of the whole with some senders.
        if alone is not None and known is not None and known.encounter_id == alone:
            stay = alone  # it goes on by itself
        elif _is_share(reading, book, subject.patient_id, status, at, late=late):
            return
        elif known is not None and known.encounter_id == stay and known.encounter_status != "planned":
            stay = alone  # its whole has ended, and it has not
    another = known is not None and known.encounter_id not in (None, stay, alone)
    if another and known is not None:
        if late:
            reading.note("", "another stay, and older than what is known of the patient: not used")
            return
        if not gives_way(known, status, takes_over=in_bed(kind), latest=latest):
            reading.note("", "another stay is in progress: not used")
            if kind is None and status == "in-progress":
                reading.note("class", UNKNOWN_CLASS)
            return
    said: dict[str, Any] = {"encounter_id": stay, "encounter_status": status, "deleted": False}
    visit = reading.visit_of_stay(resource, subject, stay)
    if visit is not None or (known is not None and known.encounter_id != stay):
        said["visit"] = visit
    if another:
        said |= NEW_STAY
    if kind:
        said["encounter_class"] = kind
    if earliest:
        said["encounter_since"] = earliest
    if place := _place(reading, resource):
        said["location"] = place
    elif status == "cancelled":
        said["location"] = Location()
    elif left:
        said["location"] = left
    book.write(reading, subject.patient_id, said, at=at)


def _is_anothers(reading: Reading, before: Stay, subject: Subject) -> bool:
    """Whether a stay was another patient's; a merge is no move."""
    contexts = reading.site.contexts
    return surviving(contexts, before.patient_id) != surviving(contexts, subject.patient_id)


def _leave(reading: Reading, book: Book, before: Stay, subject: Subject) -> Location | None:
    """Take the stay from the patient whose it is no longer (rule 9), and return where they lay, None where nobody knows.

    A part of a stay takes only itself along.
    """
    own = {reading.encounter_by_id(reading.resource, subject)}
    if reading.encounter(reading.resource.get("partOf"), subject) is None:
        own.add(before.encounter_id)
    place = None
    for patient in dict.fromkeys((before.patient_id, surviving(reading.site.contexts, before.patient_id))):
        old = book.get(patient)
        if old is not None and old.encounter_id is not None and old.encounter_id in own:
            reading.note("subject", "another patient than before: the stay moves")
            book.write(reading, patient, _GONE | {"stay_moved_to": subject.patient_id})
            place = old.location if old.location != Location() else place
    return place


def _is_share(reading: Reading, book: Book, patient_id: str, status: str, at: datetime, *, late: bool) -> bool:
    """Take a part of a stay for its share in it, the place; False where no stay is in progress and it begins one."""
    known = book.get(patient_id)
    runs = known is not None and known.encounter_id is not None and known.encounter_status in ("in-progress", "unknown")
    if not runs and status == "in-progress" and not late:
        return False
    place = _place(reading, reading.resource) if runs and status == "in-progress" and not late else None
    if place:
        book.write(reading, patient_id, {"location": place}, at=at)
    used = "its place is used" if place else "not used"
    reading.note("partOf", f"a part of a stay says where the patient lies, not whether the stay goes on: {used}")
    return True


def _class(reading: Reading, resource: Json) -> Class | None:
    given = resource.get("class")
    if not isinstance(given, dict):
        return None
    return class_of(text(given.get("code")), reading.sender.peer.classes, text(given.get("system")))


def _began(reading: Reading, resource: Json) -> tuple[datetime | None, datetime | None]:
    """Return when the stay began, at the earliest and at the latest (a date without the hour)."""
    period = resource.get("period")
    start = period.get("start") if isinstance(period, dict) else None
    found = reading.moment(start)
    if found is None or len(text(start)) < _DATE or in_future(found[0], reading.sender.received_at):
        return None, None
    return found[0], found[0] + timedelta(days=1) if len(text(start)) == _DATE else found[0]


def _place(reading: Reading, resource: Json) -> Location | None:
    """Return where the patient lies: the active locations, else the last that is not over."""
    given = [one for one in objects(resource, "location") if one.get("status") in (None, "active", "reserved", "completed")]
    active = [one for one in given if one.get("status") == "active"] or [
        one for one in given if not isinstance(one.get("period"), dict) or not one["period"].get("end")
    ]
    found: dict[str, str] = {}
    for one in active or given[-1:]:
        reference = one.get("location")
        if not isinstance(reference, dict):
            continue
        target = reading.index.find(text(reference.get("reference")), resource) or {}
        words = text(reference.get("display")) or text(target.get("name"))
        words = words or next((text(each.get("value")) for each in objects(reference, "identifier")), "")
        words = words or text(reference.get("reference"))
        kinds = [code for code, _, _ in (*codings(one.get("physicalType")), *codings(target.get("physicalType")))]
        name = next((_PLACES[code] for code in kinds if code in _PLACES), "ward")
        if words:
            found[name] = words
    return Location(**found) if found else None
