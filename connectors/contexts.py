"""Whole patient contexts from partial messages, without a database.

`clinical.patients` is compacted: the newest record of a patient replaces the one before, so each record must be whole. A sender's
message is not: registration knows nothing of what a clinician decided elsewhere (SpO2 scale, ceiling of care), and an update need
not repeat the place. The rule, for every connector:

1. What a message says replaces what was known.
2. What it does not say is kept from the context as last published.
3. A message older than that context fills only what is unknown: a late or repeated admission does not undo a discharge.
4. A message stamped later than it was received, by more than `FUTURE`, counts as of its receipt, and so does such a context
   that was published before: one wrong clock must not make every later transfer and discharge look old.
5. What is observed or written under a record that was merged away is filed under the surviving one (`surviving`): devices keep an
   old number for hours. Registration under the old number stays with the old record: its stay is not the survivor's. Where it
   registers the number anew (`connectors.hl7.mapping.patients`), the number is somebody else's, and the merge over.
6. What is said in passing (a lasting fact, or PID and PV1 of a result) dates nothing. Of PID and PV1 it fills only what is unknown.
   Who is known by such words alone has a context as of `UNDATED`, so that any word of registration, however old, counts as newer;
   until then vital signs from elsewhere move the patient (`connectors.hl7.mapping.persons`).
7. A number of which registration has never spoken by itself, and which it lists beside another, belongs to that record (`holder`):
   a feed may know the enterprise's number alone. Where several records list it, nobody can tell. Registration under it is of that
   record too, unless it may have been given out anew (`registered`): then it makes a record of its own.
8. A number that nobody has, sent beside the number of a registered record, belongs to that record likewise: a better number may
   come later. Where both numbers have a record the two are one person only by more than that (`one_person`), and the one is merged
   into the other. Whatever differs speaks against it (`contradicts`): two records of one person are watched twice, one record of
   two persons shows neither as they are. Registration under a merged number that the survivor still has too is of the survivor.

"As last published" comes from a copy of the topic that the process holds (`MemoryContexts`): filled from the topic at start, kept
up by what this and other processes publish. Two processes that write about the same patient within the delay of that copy may each
miss the other's last word; what was missed comes back with the sender's next snapshot.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from connectors.identity import LOGICAL, NOT_A_PATIENT_INDEX, Identities
from connectors.stays import Named, in_bed, is_it
from processors.events import UNDATED, Identifier, Origin, PatientEvent
from processors.patients import NOT_HERE

_OWN: Final = frozenset({"id", "patient_id", "effective_at", "received_at", "origin", "stay_moved_to"})  # of one event alone
FACTS: Final = tuple(name for name in PatientEvent.model_fields if name not in _OWN)
# They go together.
STAY: Final = ("encounter_id", "visit", "account", "encounter_status", "encounter_class", "encounter_since", "location")

_PASSING: Final = frozenset({"AN", "ANC", "ANON", "VN", LOGICAL})  # numbers of which one patient has several in time
_WHOLE_DATE: Final = len("2026-01-31")

FUTURE: Final = timedelta(minutes=5)  # as `monitor.future_tolerance` for vitals: clocks that differ so little keep their order


class Contexts(Protocol):
    """The patients' contexts as last published. A look-up never waits; it may come from any thread."""

    def get(self, patient_id: str) -> PatientEvent | None:
        """Return the context of a patient, None when nothing is known."""
        ...

    def listing(self, identifier: Identifier) -> Collection[PatientEvent]:
        """Return the contexts that list an identifier (`same_number`) among others, or alone."""
        ...

    def merged(self, patient_id: str) -> frozenset[str]:
        """Return the records that were merged into a patient's, and not into another since."""
        ...

    def remember(self, context: PatientEvent) -> None:
        """Take over a context that was published, or is about to be."""
        ...

    def take_back(self, context: PatientEvent, stored: PatientEvent | None) -> None:
        """Put what was `stored` before in the place of a context whose publishing failed, unless another has come since."""
        ...


class Merged(Protocol):
    """A record that says whether it was merged away."""

    @property
    def merged_into(self) -> str | None:
        """The surviving record."""
        ...


class Records(Protocol):
    """Patients' contexts by their ids: `Contexts`, or those that a message has written so far over them."""

    def get(self, patient_id: str) -> PatientEvent | None:
        """Return the context of a patient, None when nothing is known."""
        ...


class Merges(Protocol):
    """What merges are followed through: `Contexts`, or less of them."""

    def get(self, patient_id: str) -> Merged | None:
        """Return the record of a patient, None when nothing is known."""
        ...


class MemoryContexts:
    """The contexts of the patients heard of most recently, at most `limit` (about 2 KB each); forgets the oldest above that."""

    def __init__(self, limit: int = 200_000) -> None:
        self._limit = limit
        self._known: OrderedDict[str, PatientEvent] = OrderedDict()
        self._holders: dict[int, tuple[str, ...]] = {}  # hash of authority and number -> who may list it: 100 bytes each
        self._merged: dict[str, frozenset[str]] = {}  # survivor -> records merged into it

    def __len__(self) -> int:
        return len(self._known)

    def get(self, patient_id: str) -> PatientEvent | None:
        """Return the context of a patient, None when nothing is known."""
        return self._known.get(patient_id)

    def listing(self, identifier: Identifier) -> Collection[PatientEvent]:
        """Return the contexts that list an identifier (`same_number`) among others, or alone."""
        named = (self._known.get(one) for one in self._holders.get(_place(identifier), ()))
        return [one for one in named if one and among(identifier, one.identifiers)]

    def merged(self, patient_id: str) -> frozenset[str]:
        """Return the records that were merged into a patient's, and not into another since."""
        return self._merged.get(patient_id, frozenset())

    def remember(self, context: PatientEvent) -> None:
        """Take over a context, unless a newer one is known: the topic's echo comes after what this process wrote itself."""
        known = self._known.get(context.patient_id)
        if known is None or _order(known) <= _order(context):
            self._put(context)
            self._known.move_to_end(context.patient_id)
            if len(self._known) > self._limit:
                self._drop(next(iter(self._known)))

    def take_back(self, context: PatientEvent, stored: PatientEvent | None) -> None:
        """Put what was `stored` before in the place of a context whose publishing failed, unless another has come since."""
        if self._known.get(context.patient_id) is not context:
            return
        if stored is None:
            self._drop(context.patient_id)
        else:
            self._put(stored)

    def _put(self, context: PatientEvent) -> None:
        known = self._known.get(context.patient_id)
        self._known[context.patient_id] = context
        self._part(known)
        if context.merged_into:
            self._merged[context.merged_into] = self.merged(context.merged_into) | {context.patient_id}
        if known is None or known.identifiers != context.identifiers:
            for place in _places(context):
                if context.patient_id not in (holders := self._holders.get(place, ())):
                    self._holders[place] = (*holders, context.patient_id)
            self._unlist(known, _places(context))

    def _drop(self, patient_id: str) -> None:
        known = self._known.pop(patient_id)
        self._part(known)
        self._unlist(known, frozenset())

    def _unlist(self, known: PatientEvent | None, kept: frozenset[int]) -> None:
        for place in (_places(known) - kept) if known else ():
            if others := tuple(one for one in self._holders.get(place, ()) if known and one != known.patient_id):
                self._holders[place] = others
            else:
                self._holders.pop(place, None)

    def _part(self, known: PatientEvent | None) -> None:
        """Forget that a record was merged into another."""
        if known is None or not known.merged_into:
            return
        if rest := self.merged(known.merged_into) - {known.patient_id}:
            self._merged[known.merged_into] = rest
        else:
            self._merged.pop(known.merged_into, None)


def _places(context: PatientEvent) -> frozenset[int]:
    return frozenset(map(_place, context.identifiers))


def _place(identifier: Identifier) -> int:
    return hash((identifier.authority.casefold(), identifier.value))


def same_number(one: Identifier, other: Identifier) -> bool:
    """Whether two identifiers are one number: of a known authority, and of one type or of none that is said.

    What numbers an account or a visit by its type is no patient's number to a feed that leaves the type out.
    """
    kinds = {one.kind.upper(), other.kind.upper()}
    alike = len(kinds) == 1 or ("" in kinds and not kinds & NOT_A_PATIENT_INDEX)
    return bool(one.authority) and alike and one.authority.casefold() == other.authority.casefold() and one.value == other.value


def facts_of(context: PatientEvent | None) -> dict[str, Any]:
    """Return what a context says, by field name; empty for None."""
    return {name: getattr(context, name) for name in FACTS} if context else {}


def in_future(at: datetime, received_at: datetime) -> bool:
    """Whether a stamp lies so far after the receipt that a clock must be wrong, or a year mistyped."""
    return at - received_at > FUTURE


def since(context: PatientEvent) -> datetime:
    """Return when a context took effect; its receipt where it says that that lies in the future (rule 4)."""
    return context.received_at if in_future(context.effective_at, context.received_at) else context.effective_at


def surviving(contexts: Merges, patient_id: str) -> str:
    """Return the record that a patient's was merged into, over several merges; the patient's own where there was none (rule 5)."""
    passed = {patient_id}
    current = patient_id
    while (known := contexts.get(current)) is not None and known.merged_into:
        current = known.merged_into
        if current in passed:  # a circle has no survivor
            return patient_id
        passed.add(current)
    return current


def kept(
    contexts: Contexts, identities: Identities, known: PatientEvent | None, sent: Collection[Identifier]
) -> list[Identifier]:
    """Return the numbers of a record that stay its own though a message does not list them: of records merged into it.

    Another feed may know the patient by that number alone: its transfers and discharges must not be of a record that nobody
    watches. `sent`: the message's numbers, those that are over too: what it says of a row (authority and type) is all that is true.
    """
    merged = contexts.merged(known.patient_id) if known else frozenset()
    own = [one for one in known.identifiers if one.kind != LOGICAL] if known and merged else []
    rows = Numbers(sent)
    return [one for one in own if identities.patient(one) in merged and not rows.row(one)]


def registering(contexts: Records, identities: Identities, patient_id: str) -> str:
    """Return the record that a stay under a patient's is of: the surviving one where that still has the number (rule 8)."""
    survivor = surviving(contexts, patient_id)
    known = contexts.get(survivor) if survivor != patient_id else None
    numbers = known.identifiers if known else ()
    own = next((one for one in numbers if identities.patient(one) == patient_id), None)
    return survivor if own and not any(_row(one) == _row(own) and one.value != own.value for one in numbers) else patient_id


def among(identifier: Identifier, others: Collection[Identifier]) -> bool:
    """Whether a number is one of others. To ask for many, ask `Numbers`: what a message lists is not compared each with each."""
    return any(same_number(identifier, other) for other in others)


class Numbers:
    """Identifiers, looked through once: what one of another list is among them, or of one row with them (authority and type)."""

    def __init__(self, given: Iterable[Identifier]) -> None:
        self._kinds: dict[tuple[str, str], set[str]] = {}  # authority and number -> types
        self._values: dict[tuple[str, str | None], set[str]] = {}  # authority and type, None for all of them -> numbers
        for one in given:
            authority, kind = _row(one)
            self._kinds.setdefault((authority, one.value), set()).add(kind)
            for row in (kind, None):
                self._values.setdefault((authority, row), set()).add(one.value)

    def __contains__(self, identifier: Identifier) -> bool:
        """Whether one of them is that number (`same_number`)."""
        authority, kind = _row(identifier)
        kinds = self._kinds.get((authority, identifier.value))
        if not authority or not kinds:
            return False
        if not kind:
            return not kinds <= NOT_A_PATIENT_INDEX
        return kind in kinds or ("" in kinds and kind not in NOT_A_PATIENT_INDEX)

    def row(self, identifier: Identifier) -> bool:
        """Whether one of them is of one row with it: of one authority, and of one type or of none that is said."""
        return any(self._row(identifier))

    def alone(self, identifier: Identifier) -> bool:
        """Whether no other number is of one row with it."""
        return all(values <= {identifier.value} for values in self._row(identifier))

    def _row(self, identifier: Identifier) -> tuple[set[str], ...]:
        authority, kind = _row(identifier)
        return tuple(self._values.get((authority, one), set()) for one in ((kind, "") if kind else (None,)))


def holder(
    contexts: Contexts,
    patient_id: str,
    identifier: Identifier,
    beside: Collection[Identifier] = (),
    *,
    identities: Identities | None = None,
    born: str | None = None,
) -> str | None:
    """Return the record that a number belongs to (rule 7); None where several list it, none of which it is the number of.

    `patient_id` is made of `identifier`. It is its own record where registration has spoken of it, or nobody's that is known. Of
    several the one that lists another of the numbers sent `beside` it. With `identities` a number that nobody has is that record's
    whose own number is sent beside it (rule 8); `born`: the date of birth that is sent with them.
    """
    known = contexts.get(patient_id)
    if known is not None and (known.effective_at != UNDATED or known.merged_into):
        return patient_id
    listed_by = [one for one in contexts.listing(identifier) if one.effective_at != UNDATED and not one.deleted]
    if not listed_by:
        return _beside(contexts, identities, patient_id, identifier, beside, born) if identities else patient_id
    others = Numbers(one for one in beside if not same_number(one, identifier))
    for those in (listed_by, [one for one in listed_by if any(other in others for other in one.identifiers)]):
        records = {surviving(contexts, one.patient_id) for one in those}
        if len(records) == 1:
            return records.pop()
    return None


def registered(
    contexts: Contexts,
    patient_id: str,
    identifier: Identifier,
    born: str | None,
    beside: Collection[Identifier] = (),
    *,
    new: bool,
    identities: Identities | None = None,
) -> str | None:
    """Return the record that registration under a number alone is of (rule 7); None where several list it.

    Its own, as somebody else's from now on, where the date of birth is another than the record's, and where that one has another
    number of the same row (authority and type): such are given out anew. `new`: it may be a first registration; then only the same
    date of birth shows that it is the same person, or the record's own number beside one that it lists. A merged number is the
    survivor's where that lists it, or is named by its own number beside it (rule 8).
    """
    record = holder(contexts, patient_id, identifier, beside, identities=identities, born=born)
    if record == patient_id:
        record = surviving(contexts, patient_id)
    known = contexts.get(record) if record else None
    if record == patient_id or known is None:
        return record
    own = identities is not None and any(identities.patient(one) == record for one in beside)
    lists = among(identifier, known.identifiers)
    if contexts.get(patient_id) is not None and (known.deleted or not (lists or own)):
        return patient_id
    row = [one for one in known.identifiers if (_row(one) == _row(identifier)) and one.value != identifier.value]
    same = None if None in (born, known.birth_date) else same_date(born, known.birth_date)
    return patient_id if row or same is False or (new and not same and not (lists and own)) else record


def _beside(
    contexts: Contexts,
    identities: Identities,
    patient_id: str,
    identifier: Identifier,
    numbers: Collection[Identifier],
    born: str | None,
) -> str:
    """Return the record that a number which nobody has is of by one that is sent beside it; its own where that is not certain."""
    near = beside_own(contexts, identities, patient_id, identifier, numbers)
    records = {surviving(contexts, one.patient_id) for one in near}
    certain = [one for one in near if {one.patient_id} == records and not contradicts(one, born, numbers)]
    return certain[0].patient_id if certain else patient_id


def beside_own(
    contexts: Records, identities: Identities, patient_id: str, identifier: Identifier, numbers: Collection[Identifier]
) -> list[PatientEvent]:
    """Return the registered records of the other numbers that are sent beside a patient's.

    Not those of numbers that are no index of patients, nor where the message has several of one row, of which it cannot be told
    whose they are.
    """
    found: list[PatientEvent] = []
    rows = Numbers(numbers)
    if not rows.alone(identifier):
        return found
    for one in numbers:
        known = contexts.get(identities.patient(one))
        counts = one.kind.upper() not in NOT_A_PATIENT_INDEX and one.kind != LOGICAL
        if not counts or not rows.alone(one) or _alike(one, identifier) or known is None or known.patient_id == patient_id:
            continue
        if known.effective_at != UNDATED and not known.deleted and among(one, known.identifiers):
            found.append(known)
    return found


def contradicts(known: PatientEvent, born: str | None, numbers: Collection[Identifier]) -> bool:
    """Whether a record is certainly not, or may well not be, of the person with that date of birth and those numbers.

    Dates are compared as far as both are known. Of a row (authority and type, or none that is said) in which both have numbers they
    must have one in common.
    """
    if None not in (born, known.birth_date) and not same_date(born, known.birth_date):
        return True
    own = [one for one in known.identifiers if one.kind.upper() not in _PASSING]
    listed, mine = Numbers(numbers), Numbers(own)
    common = Numbers(one for one in numbers if one in mine)
    return any(listed.row(one) and not common.row(one) for one in own)


def one_person(known: PatientEvent, other: PatientEvent, born: str | None, numbers: Collection[Identifier]) -> bool:
    """Whether two records are one person's, as a message that has both their numbers says (rule 8).

    Only where registration has spoken of both, their dates of birth are known in full and the same, or their stay is one, and
    nothing of the two and of the message contradicts. Nobody lies in two beds by two visits, nor is both dead and alive.
    """
    shown = known.birth_date == other.birth_date and len(known.birth_date or "") == _WHOLE_DATE
    if not shown and not is_it(known, Named.of(other)):
        return False
    if any(one.effective_at == UNDATED or one.deleted or one.merged_into for one in (known, other)):
        return False
    visits = {one.visit.value for one in (known, other) if one.visit}
    lie_there = all(one.encounter_status == "in-progress" and in_bed(one.encounter_class) for one in (known, other))
    if known.deceased != other.deceased or (lie_there and len(visits) > 1):
        return False
    said = [(known, born, numbers), (other, born, numbers), (known, other.birth_date, other.identifiers)]
    return not any(contradicts(*each) for each in said)


def same_date(one: str | None, other: str | None) -> bool:
    """Whether two dates are the same as far as both are known (a year, a month)."""
    return one is not None and other is not None and (one.startswith(other) or other.startswith(one))


def _alike(one: Identifier, other: Identifier) -> bool:
    """Whether two numbers may be of one row: of one authority, and of one type or of none that is said."""
    kinds = {one.kind.upper(), other.kind.upper()}
    return one.authority.casefold() == other.authority.casefold() and (len(kinds) == 1 or "" in kinds)


def _row(identifier: Identifier) -> tuple[str, str]:
    return identifier.authority.casefold(), identifier.kind.upper()


def inherited(survivor: PatientEvent | None, prior: PatientEvent | None) -> dict[str, Any]:
    """Return what the surviving record of a merge takes over because it does not know it. The stay goes over as one.

    A stay in progress goes over also where the survivor's own is over: the patient who lies there under a temporary number, with
    a discharge of last year under the lasting one, must not be taken for discharged. A merge that is told again takes nothing
    over: the survivor has moved on since.
    """
    if prior is None or (survivor is not None and prior.merged_into == survivor.patient_id):
        return {}
    own, others = facts_of(survivor), facts_of(prior)
    names = [name for name in ("birth_date", "pregnant", "ceiling_of_care") if own.get(name) is None]
    lies_there = prior.encounter_status == "in-progress" and own.get("encounter_status") in NOT_HERE
    if lies_there or not own.get("encounter_id"):
        names += STAY
    if not own.get("spo2_scale_decided_by"):
        names += ["spo2_scale", "spo2_scale_decided_by"]
    return {name: others[name] for name in names}


def is_late(known: PatientEvent | None, at: datetime) -> bool:
    """Whether a message that took effect then is older than what is known."""
    return known is not None and since(known) > at


def _order(context: PatientEvent) -> tuple[datetime, datetime]:
    return since(context), context.received_at


def whole(
    known: PatientEvent | None,
    said: Mapping[str, Any],
    *,
    id: str,
    patient_id: str,
    at: datetime,
    received_at: datetime,
    origin: Origin,
    late: bool | None = None,
) -> PatientEvent:
    """Return the context after a message: `said` (fields of `PatientEvent`) over what is `known`, by the rule above.

    `at` is when it took effect; `late` overrides the comparison with `known`.
    """
    if in_future(at, received_at):
        at = received_at
    if late is None:
        late = is_late(known, at)
    facts = facts_of(known)
    if "merged_into" in said:  # by whose word goes with it
        if late and facts.get("merged_into"):
            said = {name: value for name, value in said.items() if name != "merged_by"}
        else:
            said = {"merged_by": None, **said}
    for name, value in said.items():
        if not late or (name in facts and facts[name] == PatientEvent.model_fields[name].default):
            facts[name] = value
    effective_at = since(known) if known and late else at
    return PatientEvent(
        id=id, patient_id=patient_id, effective_at=effective_at, received_at=received_at, origin=origin, **facts
    )
