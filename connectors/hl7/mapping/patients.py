"""ADT to patient contexts. How a partial message becomes a whole context stands in `connectors.contexts`; what ADT adds:

1. A message takes effect when it was recorded (EVN-2, else MSH-7), not when its event occurred (EVN-6), which in a cancel or a
   late entry lies before what it corrects. HL7's null (`""`) deletes a value. A time in the future counts as the receipt, flagged.
2. An admission with another visit number begins a new stay: place, pregnancy and ceiling of care of the old one are not carried
   over (the SpO2 scale is: it was decided for the patient).
3. What is about another visit than the stay in progress does not end, cancel or move it, unless it is a new admission: which
   trigger with which visit does what stands in `mapping.visits`.
4. Cancels undo by their own snapshot: PV1 of an A12 holds the place before the transfer, A13 means in the house again.

Merges (A40, older A18, A30, A34, A36, A39; A43 and A47 which move or change an identifier, which is what a `patient_id` is made
from): the prior patient's record gets `merged_into`, the surviving one takes over what it does not know itself. Both may be named
by a number that only stands beside the record's own (`contexts.holder`), and the survivor's PID may list the number that goes away.
What cannot be carried out is told: a number that several records list, a record that would be merged into itself. Links (A24) are
read as a merge into the first of the two, unlinks (A37) take it back. Moves of an account or visit (A44, A45): the visit leaves the
one context and enters the other, where it displaces a stay in progress only if it is in progress itself, in a bed, and the later.
An A45 moves as many as it has MRG segments. What the old patient's watch has raised is withdrawn (`stay_moved_to`).

A number that was merged away may be given out anew: a temporary one of the emergency room is. An admission recorded after the merge
lifts it and begins an empty record, by these signs (birth dates compared as far as both are known):

| it is | and its visit (PV1-19, PID-18) | and its birth date | |
|---|---|---|---|
| A01, A04 | is neither the old record's nor the survivor's | any | anew |
| A01, A04 | is not said | is neither's, and one is known | anew |
| A05, A28 | is not said, or neither's | is neither's, and one is known | anew |
| any other | any | any | of the old record, which stays merged |

A deletion (A29) leaves a context that says so, and nothing else but where the record was merged into: the watch ends, until
registration speaks of the patient again. Where registration lists a number that only devices have sent so far, what is known under
that goes over to its record, as in a merge.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from connectors.contexts import (
    FACTS,
    STAY,
    Contexts,
    Numbers,
    among,
    beside_own,
    in_future,
    inherited,
    is_late,
    kept,
    one_person,
    same_date,
    since,
    surviving,
    whole,
)
from connectors.hl7.errors import Condition, Location, Unreadable
from connectors.hl7.mapping.facts import fact_of, read_fact
from connectors.hl7.mapping.reading import Reading, Subject, birth_date, born
from connectors.hl7.mapping.visits import PASSED_OVER, SNAPSHOTS, Visit, about_the_stay, is_another, numbers_of, read_visit
from connectors.hl7.message import Segment
from connectors.stays import NUMBERS, Named, gives_way, in_bed, is_it
from processors.events import UNDATED, Identifier, PatientEvent
from processors.events import Location as Place

MERGES: Final = frozenset({"A18", "A30", "A34", "A36", "A39", "A40", "A43", "A46", "A47"})
MOVES: Final = frozenset({"A44", "A45"})
LINKS: Final = frozenset({"A24", "A37"})
DELETION: Final = "A29"
_GONE: Final[dict[str, Any]] = {
    "encounter_id": None,
    "visit": None,
    "account": None,
    "encounter_status": "unknown",
    "encounter_class": None,
    "encounter_since": None,
    "location": Place(),
}
_NOTHING: Final[dict[str, Any]] = {name: PatientEvent.model_fields[name].default for name in FACTS}
_DELETED: Final = {name: value for name, value in _NOTHING.items() if name not in ("merged_into", "merged_by")} | {
    "deleted": True
}
_SEVERAL: Final = "a number that several records list: nobody can tell which"
_ADMITS: Final = frozenset({"A01", "A04"})
_REGISTERS: Final = _ADMITS | {"A05", "A28"}
TRIGGERS: Final = frozenset(SNAPSHOTS) | MERGES | MOVES | LINKS | {DELETION}


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
            subject = _subject(reading, group, trigger)
            if subject is None:
                words = "no identifier that names the patient" if reading.subject(group.pid) is None else _SEVERAL
                reading.trouble(words, group.pid.at(3), Condition.UNKNOWN_KEY, stage="identify")
            elif trigger in MERGES:
                _merge(book, group, subject)
            elif trigger in MOVES:
                _move(book, group, subject)
            elif trigger == DELETION:
                _delete(book, subject)
            else:
                _unite(book, group, subject)
                _snapshot(book, group, subject, trigger)
                _gather(book, subject)
                if group is groups[-1]:
                    _facts(book, subject)
    book.close()


def _subject(reading: Reading, group: Group, trigger: str) -> Subject | None:
    """Return whom PID is about, by a number of the enterprise's too (`contexts.registered`).

    Of a merge or move the one who stays, whose PID may list the number that goes away too.

    None where it names nobody, or nobody for certain: a number that several records list.
    """
    subject = reading.subject(group.pid)
    if subject is None or trigger == DELETION:  # of an enterprise's number a deletion is of that number alone
        return subject
    if group.mrg is None or trigger not in MERGES | MOVES:
        return reading.registered(subject, born(group.pid), new=trigger in _REGISTERS)
    gone = _mrg(reading, group.mrg, subject)
    staying = reading.subject(group.pid, gone) or subject
    record = reading.held(staying)
    going = map(reading.tables.identities.patient, gone)
    return staying if record and record.patient_id in going else record  # the one that goes may have listed it before


def _groups(segments: tuple[Segment, ...]) -> Iterator[Group]:
    """Yield each PID with its PV1 and MRG; one with several MRG (an A45 moves several visits) once for each, with the PV1 after."""
    found: dict[str, Segment] = {}
    for segment in segments:
        if found and (segment.name == "PID" or (segment.name == "MRG" and "MRG" in found)):
            yield Group(found["PID"], found.get("PV1"), found.get("MRG"))
            found = {"PID": found["PID"]}
        if segment.name == "PID":
            found = {"PID": segment}
        elif found and segment.name in ("PV1", "MRG"):
            found.setdefault(segment.name, segment)
    if found:
        yield Group(found["PID"], found.get("PV1"), found.get("MRG"))


def _effective(reading: Reading) -> datetime:
    event = reading.message.first("EVN")
    return reading.moment_or_none(event, 2) or reading.sent_at


class Book:
    """The contexts that this message writes, one per patient."""

    def __init__(self, reading: Reading, contexts: Contexts, at: datetime) -> None:
        self.reading = reading
        self._contexts = contexts
        self._future = in_future(at, reading.received_at)
        self._at = reading.received_at if self._future else at
        self._written: dict[str, PatientEvent] = {}

    def get(self, patient_id: str) -> PatientEvent | None:
        """Return the context as this message has it so far."""
        return self._written.get(patient_id) or self._contexts.get(patient_id)

    def is_late(self, patient_id: str) -> bool:
        """Whether this message is older than what is known of a patient but for its own words."""
        return patient_id not in self._written and is_late(self._contexts.get(patient_id), self._at)

    def write_person(self, patient_id: str, said: Mapping[str, Any]) -> None:
        """Apply what a message about another visit says of the person: nothing where it is known, and the stay's time stands."""
        known, late = self.get(patient_id), self.is_late(patient_id)
        assert known is not None  # a visit is another only than one that is known
        facts = {
            name: value
            for name, value in said.items()
            if getattr(known, name) != value and not (late and getattr(known, name) != PatientEvent.model_fields[name].default)
        }
        if facts:
            self.write(patient_id, facts, fact=True)

    def write(self, patient_id: str, said: Mapping[str, Any], *, fact: bool = False) -> None:
        """Apply what the message says to what is known. A single `fact` says nothing of how new the rest of the context is."""
        known = self.get(patient_id)
        if self._future and not fact:
            self.reading.flags["a time in the future: counts as of its receipt"] += 1
        late = not fact and self.is_late(patient_id)
        if late:
            self.reading.flags["older than what is known of the patient: fills only what is missing"] += 1
        self._written[patient_id] = whole(
            known,
            said,
            id="unset",
            patient_id=patient_id,
            at=(since(known) if known else UNDATED) if fact else self._at,
            received_at=self.reading.received_at,
            origin=self.reading.origin,
            late=late,
        )

    def close(self, *, first: bool = False) -> None:
        """Add the events, in the order in which the patients were first written; `first`: before what is there already."""
        if self.reading.processing != "production" and not self.reading.peer.settings.test_contexts:
            if self._written:  # a discharge for training must not end the watch over a patient
                self.reading.skipped["test traffic (MSH-11) does not change patients' contexts"] += 1
            return
        place = 0 if first else len(self.reading.events)
        self.reading.events[place:place] = [
            context.model_copy(update={"id": self.reading.event_id(PatientEvent)}) for context in self._written.values()
        ]


def _facts(book: Book, subject: Subject) -> None:
    for obx in book.reading.message.all("OBX"):
        if meaning := fact_of(book.reading, obx):
            book.write(subject.patient_id, read_fact(book.reading, obx, meaning), fact=True)


# ------------------------------------------------------------------------------------------------ what a snapshot says


def _snapshot(book: Book, group: Group, subject: Subject, trigger: str) -> None:
    reading, known = book.reading, book.get(subject.patient_id)
    contexts, identities, sent = reading.tables.contexts, reading.tables.identities, reading.identifiers(group.pid, 3)
    listed = Numbers(subject.identifiers)
    others = [one for one in kept(contexts, identities, known, sent) if one not in listed]
    person = {"identifiers": (*subject.identifiers, *others)} | _person(reading, group.pid)
    visit = read_visit(reading, group.pv1, subject, trigger)
    if known is not None and _anew(book, known, trigger, visit.named, person.get("birth_date")):
        reading.flags["a number that was merged away is registered anew: somebody else's from now on"] += 1
        book.write(subject.patient_id, _NOTHING | person | visit.said | visit.named.said)
        return
    renumbered = reading.named(group.mrg, replace(subject, account=None), 5) if trigger == "A50" else None
    said = about_the_stay(visit, trigger, known, late=book.is_late(subject.patient_id), renumbered=renumbered)
    if not isinstance(said, str):
        book.write(subject.patient_id, person | said)
        return
    reading.skipped[said] += 1
    book.write_person(subject.patient_id, person)


def _anew(book: Book, known: PatientEvent, trigger: str, named: Named, born: str | None) -> bool:
    """Whether an admission registers a number anew that was merged away: the table above."""
    if known.merged_into is None or trigger not in _REGISTERS or book.is_late(known.patient_id):
        return False
    survivor = book.get(surviving(book.reading.tables.contexts, known.patient_id))
    records = [known, survivor] if survivor else [known]
    told = [is_it(one, named) for one in records]
    if True in told:
        return False
    neither = all(this is False or one.encounter_id is None for this, one in zip(told, records, strict=True))
    if trigger in _ADMITS and neither and (named.visit or False in told):
        return True
    dates = [one.birth_date for one in records if one.birth_date]
    return bool(born and dates) and not any(same_date(born, date) for date in dates)


def _unite(book: Book, group: Group, subject: Subject) -> None:
    """Merge into the patient's record those that go by other numbers of the message, where they are certainly one person's.

    Told as an A40 is: the record that is merged away says into which, and the patient's takes over what it does not know itself,
    before the message is applied to it. What is not certain is noted, and the records stay apart (rule 8 of `connectors.contexts`).
    """
    reading, sent = book.reading, book.reading.subject(group.pid)
    if sent is None or sent.chosen is None or sent.over:
        return
    identities, numbers = reading.tables.identities, sent.identifiers
    for other in beside_own(book, identities, subject.patient_id, sent.chosen, numbers):
        known = book.get(subject.patient_id)
        if surviving(book, other.patient_id) == subject.patient_id:
            continue
        late = book.is_late(subject.patient_id) or book.is_late(other.patient_id)
        if known is None or late or not one_person(known, other, born(group.pid), numbers):
            reading.flags["numbers of records that may be two patients': not merged"] += 1
            continue
        reading.flags["numbers of two records that are one patient's: merged"] += 1
        book.write(subject.patient_id, inherited(known, other), fact=True)
        book.write(other.patient_id, {"merged_into": subject.patient_id})


def _gather(book: Book, subject: Subject) -> None:
    """Merge what is known under the patient's other numbers by results alone: registration says whose they are."""
    for one in subject.identifiers:
        other = book.get(book.reading.tables.identities.patient(one))
        if (
            other is not None
            and other.patient_id != subject.patient_id
            and other.effective_at == UNDATED
            and not other.merged_into
            and among(one, other.identifiers)
        ):
            taken = inherited(book.get(subject.patient_id), other)
            if person := {name: value for name, value in taken.items() if name not in STAY and value != _NOTHING[name]}:
                book.write(subject.patient_id, person, fact=True)
            book.write(other.patient_id, {"merged_into": subject.patient_id})


def _delete(book: Book, subject: Subject) -> None:
    if book.is_late(subject.patient_id):
        book.reading.skipped["a deletion recorded before what is known of the patient: not used"] += 1
    else:
        book.write(subject.patient_id, _DELETED | {"identifiers": subject.identifiers})


def _person(reading: Reading, pid: Segment) -> dict[str, Any]:
    said: dict[str, Any] = {"deleted": False}
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
        return birth_date(pid)
    except ValueError as error:
        reading.trouble(f"date of birth: {error}", pid.at(7))
        return None


# --------------------------------------------------------------------------------------------- merges, moves and links


def _priors(reading: Reading, group: Group, subject: Subject) -> tuple[Subject, ...]:
    """Return whom MRG names, by the same order of authorities; noted when it names nobody, or nobody for certain.

    Two numbers of one authority and type are two records, whatever else is in MRG then is nobody's for certain. A number that the
    survivor's own record lists is no other record's: what came under it alone goes to the survivor.
    """
    if group.mrg is None:
        raise Unreadable("a merge or move without MRG", Location("MRG"))
    identities = reading.tables.identities
    identifiers = _mrg(reading, group.mrg, subject)
    chosen = identities.choose(identifiers)
    if chosen is None:
        reading.trouble("no identifier that names the prior patient", group.mrg.at(1), Condition.UNKNOWN_KEY, stage="identify")
        return ()
    alike = [one for one in identifiers if _index(one) == _index(chosen)]
    records = {identities.patient(one): one for one in alike}
    account = reading.account(group.mrg, 3)
    named = [
        Subject(patient_id, identifiers if len(records) == 1 else (one,), one.authority, one, account)
        for patient_id, one in records.items()
    ]
    return tuple(found for prior in named if (found := _other(reading, prior, subject, group.mrg.at(1))))


def _other(reading: Reading, other: Subject, subject: Subject, where: Location) -> Subject | None:
    """Return the record of another number than the survivor's; None, noted as trouble, where several list it."""
    record = reading.held(other)
    if record is None:
        reading.trouble(_SEVERAL, where, Condition.UNKNOWN_KEY, stage="identify")
    return other if record and record.patient_id == subject.patient_id else record


def _mrg(reading: Reading, mrg: Segment, subject: Subject) -> tuple[Identifier, ...]:
    """Return the numbers in MRG. Without an authority they are of the one that numbers PID's patient: the two are of one index."""
    return reading.identifiers(mrg, 1, subject) or reading.identifiers(mrg, 4, subject)


def _index(identifier: Identifier) -> tuple[str, str]:
    return identifier.authority.casefold(), identifier.kind.casefold()


def _merge(book: Book, group: Group, subject: Subject) -> None:
    priors = _priors(book.reading, group, subject)
    others = [prior for prior in priors if prior.patient_id != subject.patient_id]
    for prior in others:
        _merge_one(book, group, subject, prior)
    if priors and not others:
        book.reading.trouble("a merge of a record into itself", Location("MRG", 1, 1), Condition.UNKNOWN_KEY, stage="identify")


def _merge_one(book: Book, group: Group, subject: Subject, prior: Subject) -> None:
    reading = book.reading
    known, other = book.get(subject.patient_id), book.get(prior.patient_id)
    if other is None:
        reading.flags["a merge of a record that was never heard of"] += 1
    taken = inherited(known, other)
    person = {"identifiers": subject.identifiers} | _person(reading, group.pid)
    visit = read_visit(reading, group.pv1, subject)
    holder = known or other
    stay = holder.model_copy(update=taken) if holder else None
    said = visit.said | (numbers_of(visit.named, stay) if stay else visit.named.said)
    if stay and is_another(visit, stay):
        if stay.encounter_status == "in-progress":
            reading.skipped[PASSED_OVER] += 1
            said = {}
        else:  # PV1's stay is another than the one whose end is known
            said = _GONE | visit.said | visit.named.said
    book.write(subject.patient_id, {"merged_into": None} | taken | person | said)
    listed = other.identifiers if other else ()
    own = Numbers(listed)
    numbers = (*listed, *(one for one in prior.identifiers if one not in own))
    book.write(prior.patient_id, {"identifiers": numbers, "merged_into": subject.patient_id})


def _move(book: Book, group: Group, subject: Subject) -> None:
    """Move the visit or account that MRG names from its patient to PID's."""
    reading = book.reading
    person = {"identifiers": subject.identifiers} | _person(reading, group.pid)
    visit = read_visit(reading, group.pv1, subject)
    said, named = visit.said, visit.named
    for prior in _priors(reading, group, subject):
        moved = reading.named(group.mrg, prior, 5)
        old = book.get(prior.patient_id)
        if old is not None and is_it(old, named if is_it(old, moved) is None else moved):
            said = {name: getattr(old, name) for name in STAY if name not in NUMBERS} | said
            named = named if is_it(old, named) is False else Named.of(old)
            book.write(prior.patient_id, _GONE | {"stay_moved_to": subject.patient_id})
        else:
            named = moved if named.encounter_id is None else named
            reading.flags["a move of a visit that is not the stay of the record it moves from"] += 1
    known = book.get(subject.patient_id)
    if known and is_another(Visit(said, named=named), known):
        status, kind, began = (said.get(name) for name in ("encounter_status", "encounter_class", "encounter_since"))
        if not gives_way(known, status or "unknown", takes_over=status == "in-progress" and in_bed(kind), latest=began):
            reading.skipped[PASSED_OVER] += 1
            said = {}
        else:
            said = _GONE | said | named.said
    else:
        said = said | (numbers_of(named, known) if known else named.said)
    book.write(subject.patient_id, person | said)


def _link(book: Book, groups: list[Group], *, together: bool) -> None:
    reading = book.reading
    subjects = [subject for group in groups if (subject := reading.subject(group.pid))]
    if len(subjects) < 2:
        reading.trouble("a link needs two patients", Location("PID", 2, 3), Condition.REQUIRED_FIELD_MISSING, stage="identify")
        return
    first = reading.held(subjects[0])
    if first is None:
        reading.trouble(_SEVERAL, Location("PID", 1, 3), Condition.UNKNOWN_KEY, stage="identify")
        return
    others = [other for one in subjects[1:] if (other := _other(reading, one, first, Location("PID", 2, 3)))]
    if others and all(other.patient_id == first.patient_id for other in others):
        reading.trouble("a link of a record with itself", Location("PID", 2, 3), Condition.UNKNOWN_KEY, stage="identify")
    for other in others:
        if other.patient_id != first.patient_id:
            merged = {"merged_into": first.patient_id if together else None}
            taken = inherited(book.get(first.patient_id), book.get(other.patient_id)) if together else {"merged_into": None}
            book.write(first.patient_id, taken | {"identifiers": first.identifiers})
            book.write(other.patient_id, {"identifiers": other.identifiers} | merged)
