"""One message while it is being mapped: what the mappers of its parts share, and what they find."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

from connectors.contexts import FUTURE, Contexts, among, holder, registered, surviving
from connectors.documents import Documents, Filed
from connectors.hl7.errors import Condition, Location, Trouble
from connectors.hl7.message import Message, Segment
from connectors.hl7.settings import ContextCode, LocalCode, Peer
from connectors.hl7.times import Stamp, parse_stamp, resolve
from connectors.identity import ENDED, VALID, Identities, lasting, number_kind
from connectors.stays import ACCOUNT, Named, Number, is_it
from processors.events import Event, Identifier, Origin, ProcessingId
from processors.identity import natural_id

_COARSE: Final = ("year", "month", "day")
_LAST_SECOND: Final = timedelta(hours=23, minutes=59, seconds=59)
_SPANS: Final = {"hour": 3600, "minute": 60, "second": 1}
_LENGTHS: Final = {"year": timedelta(days=366), "month": timedelta(days=31), "day": timedelta(days=1)}


@dataclass(frozen=True, slots=True)
class Subject:
    """The patient that a part of a message is about."""

    patient_id: str
    identifiers: tuple[Identifier, ...]
    authority: str = ""  # of the identifier that was chosen
    chosen: Identifier | None = None
    account: tuple[str, str] | None = None  # authority (empty where none is said) and number, of PID-18
    over: bool = False  # the validity of the identifier that was chosen: no other one may be used

    def authority_for(self, kind: str) -> str:
        """Return who numbers the patient by that type: the chosen one's authority, unless only others give such numbers."""
        of_kind = [one.authority for one in self.identifiers if kind and one.kind == kind]
        return self.authority if not of_kind or self.authority in of_kind else of_kind[0]


@dataclass(frozen=True, slots=True)
class Tables:
    """What the mapping of every message needs and no message changes."""

    identities: Identities
    codes: Mapping[str, LocalCode]
    units: Mapping[str, str]
    context_codes: Mapping[str, ContextCode]
    set_window: timedelta
    contexts: Contexts
    documents: Documents
    plain: dict[tuple[object, ...], Any]  # what `vitals.recall` goes by


class Reading:
    """A message, its sender, and what has been found in it so far.

    `events` are to be published, `troubles` are values that cannot be used (they become a dead letter), `skipped` counts what is
    not for Vigil by the reason, `flags` what was read with a rule of thumb (ambiguous local time, ...).
    """

    def __init__(
        self,
        message: Message,
        peer: Peer,
        received_at: datetime,
        digest: str,
        processing: ProcessingId,
        tables: Tables,
    ) -> None:
        header = message.header
        self.message = message
        self.peer = peer
        self.received_at = received_at
        self.processing = processing
        self.tables = tables
        self.identity = ("hl7v2", peer.name, header.raw(3), header.raw(4), header.raw(10), digest)
        self.origin = Origin(
            protocol="hl7v2", peer=peer.name, message_id=header.get(10), message_type=header.raw(9), digest=digest
        )
        self.events: list[Event] = []
        self.troubles: list[Trouble] = []
        self.skipped: Counter[str] = Counter()
        self.flags: Counter[str] = Counter(message.warnings)
        self.documents: dict[str, tuple[Filed, ...]] = {}  # documents of the message, as `Documents.remember` takes them
        self.report_numbers = Counter[tuple[str, str]]()  # patient and number of its reports so far
        self.reports = set[tuple[str, str]]()  # the same, as they were told apart
        self._positions: Counter[str] = Counter()
        self._moments: dict[tuple[str, ...], datetime] = {}
        self._apart = set[str]()  # reasons of `held_apart`
        self._sent_stamp = self._stamp(header, 7)
        self.sent_at = self._sent()

    # ------------------------------------------------------------------------------------------------------- what was found

    @property
    def remarks(self) -> int:
        """Return how much has been noted so far."""
        return len(self.troubles) + self.skipped.total() + self.flags.total()

    def event_id(self, kind: type[Event]) -> str:
        """Return the id of the next event of a kind: from what identifies the message, the type, and the position among them."""
        position = self._positions[kind.type]
        self._positions[kind.type] += 1
        return natural_id(*self.identity, kind.type, position)

    def trouble(
        self, reason: str, location: Location | None = None, condition: Condition = Condition.DATA_TYPE, stage: str = "map"
    ) -> None:
        """Note a value that cannot be used. `reason` must carry no patient text."""
        self.troubles.append(Trouble(reason, location, condition, stage))

    def held_apart(self, pid: Segment | None, pv1: Segment | None, body: Iterable[Segment] = ()) -> None:
        """Note that nobody is named to file something under, and where it comes from: somebody has to find that monitor.

        The device (OBX-18, PRT-10) and the bed (PV1-3) as sent, as far as they look like those of devices and beds: a sender may
        put a patient's name or number anywhere.
        """
        device = next((found for one in body if one.name == "OBX" and (found := _codes(one, 18, 4))), "") or self._participant
        bed = _codes(pv1, 3, 3) if pv1 else ""
        named = [f"{what} {code}" for what, code in (("device", device), ("bed", bed)) if code]
        reason = "nobody to file this under" + (f": {', '.join(named)}" if named else "")
        if reason not in self._apart:
            self._apart.add(reason)
            where = pid.at(3) if pid else Location("PID")
            self.trouble(reason, where, Condition.REQUIRED_FIELD_MISSING, stage="identify")

    @cached_property
    def _participant(self) -> str:
        """The device that PRT-10 names, as `_codes` has it; empty for none."""
        return next((found for one in self.message.all("PRT") if (found := _codes(one, 10, 4))), "")

    # ------------------------------------------------------------------------------------------------------- whose it is

    def subject(self, pid: Segment | None, gone: Collection[Identifier] = ()) -> Subject | None:
        """Return the patient of a PID segment, None when the message does not say or names nobody that may be used.

        `gone`: numbers that the message takes away. PID may list them still: then another one of that type names the patient.
        """
        ranked = self._ranked(pid, 3) or self._ranked(pid, 2) if pid else []
        identities = self.tables.identities
        chosen = identities.choose_ranked(ranked)
        if chosen and among(chosen, gone):
            kind = chosen.kind.upper()
            stay = [(rank, one) for rank, one in ranked if one.kind.upper() == kind and not among(one, gone)]
            chosen = identities.choose_ranked(stay) or chosen
        if pid is None or chosen is None:
            return None
        over = (ENDED, chosen) in ranked and (VALID, chosen) not in ranked
        numbers, account = lasting(ranked, chosen), self.account(pid, 18)
        return Subject(identities.patient(chosen), numbers, chosen.authority, chosen, account, over)

    def held(self, subject: Subject, born: str | None = None) -> Subject | None:
        """Return the record that a number belongs to (`contexts.holder`); None, noted as a flag, where several list it."""
        if subject.chosen is None:
            return subject
        contexts, identities = self.tables.contexts, None if subject.over else self.tables.identities
        numbers = subject.identifiers
        record = holder(contexts, subject.patient_id, subject.chosen, numbers, identities=identities, born=born)
        return self._of(subject, record)

    def registered(self, subject: Subject, born: str | None, *, new: bool) -> Subject | None:
        """Return the record that registration under a number is of (`contexts.registered`); None, as above."""
        assert subject.chosen is not None
        contexts, numbers = self.tables.contexts, subject.identifiers
        identities = None if subject.over else self.tables.identities
        record = registered(contexts, subject.patient_id, subject.chosen, born, numbers, new=new, identities=identities)
        return self._of(subject, record)

    def _of(self, subject: Subject, record: str | None) -> Subject | None:
        contexts, identities = self.tables.contexts, self.tables.identities
        if record is None:
            self.flags["a number that several records list beside their own"] += 1
            return None
        if record == subject.patient_id or (known := contexts.get(record)) is None:
            return subject
        listed = subject.chosen is None or among(subject.chosen, known.identifiers)
        how = "a record lists beside its own" if listed else "nobody had, beside a record's own"
        self.flags[f"a number that {how}: read as that record's"] += 1
        own = next((one for one in known.identifiers if identities.patient(one) == record), None)
        numbers = (*known.identifiers, *(one for one in subject.identifiers if not among(one, known.identifiers)))
        return Subject(record, numbers, own.authority if own else subject.authority, own, subject.account)

    def watched(self, pid: Segment | None) -> Subject | None:
        """Return under whom observations and documents are filed: PID's patient, or the record that theirs was merged into.

        A number that several records list is nobody's for certain: what comes under it is filed under itself.
        """
        subject = self.subject(pid)
        subject = (self.held(subject, born(pid)) or subject) if subject and pid else None
        if subject is None or (survivor := surviving(self.tables.contexts, subject.patient_id)) == subject.patient_id:
            return subject
        self.flags["a number that was merged away: filed under the surviving record"] += 1
        return replace(subject, patient_id=survivor)

    def identifiers(self, segment: Segment, field: int, beside: Subject | None = None) -> tuple[Identifier, ...]:
        """Return the identifiers of a CX field: value, assigning authority (HD: namespace, universal id), type code.

        One that names no authority is of the peer's or the sending facility's; in a field of a merge, of that which numbers the
        patient `beside` it. What stands in the place of an identifier (`UNKNOWN`, `0`) is left out, as an empty one is.
        """
        return tuple(one for _, one in self._numbers(segment, field, beside))

    def _ranked(self, segment: Segment, field: int) -> list[tuple[int, Identifier]]:
        """Return the identifiers of a CX field, and how much each counts: those whose validity is over (CX-8) the least."""
        return [(VALID if self._lasts(segment, field, n) else ENDED, one) for n, one in self._numbers(segment, field)]

    def _numbers(self, segment: Segment, field: int, beside: Subject | None = None) -> list[tuple[int, Identifier]]:
        """Return the identifiers of a CX field with the repetition that each stands in."""
        identities, found = self.tables.identities, []
        for n in range(1, segment.count(field) + 1):
            value, kind = segment.get(field, repetition=n), number_kind(segment.get(field, 5, repetition=n))
            authority = identities.authority(*(segment.get(field, 4, part, repetition=n) for part in (1, 2)))
            if not authority and beside:
                authority = beside.authority_for(kind)
            elif not authority:
                authority = identities.authority(self.peer.settings.authority or self.message.header.get(4))
            if identities.names_somebody(value):
                found.append((n, Identifier(authority=authority, value=value, kind=kind)))
        return found

    def _lasts(self, segment: Segment, field: int, repetition: int) -> bool:
        """Whether a CX is valid when the message is sent: begun (CX-7) and not over (CX-8; a day, month or year to its end)."""
        now = min(self.sent_at, self.received_at)
        begins, ends = (self._bound(segment.get(field, part, repetition=repetition)) for part in (7, 8))
        if begins and self._resolve(begins) > now + FUTURE:
            return False
        return ends is None or self._resolve(ends) > now - _LENGTHS.get(ends.precision, timedelta())

    def _bound(self, text: str) -> Stamp | None:
        try:
            return parse_stamp(text)
        except ValueError:
            self.flags["something that is no timestamp in the place of one"] += 1
            return None

    def encounter_id(self, pv1: Segment | None, subject: Subject) -> str | None:
        """Return the pseudonym of the stay that a result or document names: the context's, unless it is known to be another."""
        named = self.named(pv1, subject)
        known = self.tables.contexts.get(subject.patient_id)
        if named.encounter_id is None or known is None or known.encounter_id is None or is_it(known, named) is False:
            return named.encounter_id
        return known.encounter_id

    def named(self, segment: Segment | None, subject: Subject, field: int = 19) -> Named:
        """Return what names a stay: the visit's number (PV1-19, or MRG-5) and the account's of the subject.

        A number that names no authority is the hospital's that numbers the patient too, so that feeds agree about the visit when
        they agree about the patient.
        """

        def number_of(given: tuple[str, str] | None, kind: str) -> Number | None:
            if given is None:
                return None
            return Number(Identifier(authority=given[0] or subject.authority, value=given[1], kind=kind), bool(given[0]))

        visit, account = number_of(self._visit(segment, field), "VN"), number_of(subject.account, ACCOUNT)
        if (number := visit or account) is None:
            return Named()
        return Named(visit, account, self.tables.identities.encounter(number.identifier.authority, number.identifier.value))

    def account(self, segment: Segment, field: int) -> tuple[str, str] | None:
        """Return the authority (empty where none is said) and number of an account: PID-18, or MRG-3."""
        found = self._visit(segment, field)
        return found if found and self.tables.identities.names_somebody(found[1]) else None

    def _visit(self, segment: Segment | None, field: int) -> tuple[str, str] | None:
        number = segment.get(field) if segment else ""
        if not segment or not number:
            return None
        return self.tables.identities.authority(segment.get(field, 4, 1), segment.get(field, 4, 2)), number

    # ------------------------------------------------------------------------------------------------------- when it was

    def moment(self, *places: tuple[Segment | None, int], latest: bool = False) -> datetime | None:
        """Return the instant in the first of the places that holds one; None for none.

        A day without the hour gives way to a later place with the time of that same day; else it is the day's beginning or, with
        `latest`, the message's own time, no later than the day's end: what was measured today must not pass for midnight's. Raises
        `ValueError` when a place holds something that is no timestamp.
        """
        texts = tuple([segment.raw(field) if segment else "" for segment, field in places])
        if (known := self._moments.get(texts)) is not None:  # the observations of a set have one time
            return known
        stamps = [stamp for segment, field in places if segment and (stamp := parse_stamp(segment.get(field)))]
        if not stamps:
            return None
        first, before = _finest(stamps), self.flags.total()
        if first.precision in _COARSE:
            self.flags["a time without the hour"] += 1
            if latest and first.precision == "day":
                return min(self.sent_at, self._resolve(replace(first, local=first.local + _LAST_SECOND)))
        found = self._resolve(first)
        if self.flags.total() == before:  # else it is counted each time
            self._moments[texts] = found
        return found

    @staticmethod
    def span(*places: tuple[Segment | None, int]) -> int:
        """Return for how many seconds the time that `moment` gives lasts as it is written; 0 for none, or for one with fractions.

        0 also for a day without the hour, which `moment` reads by rule. Raises `ValueError` likewise.
        """
        stamps = [stamp for segment, field in places if segment and (stamp := parse_stamp(segment.get(field)))]
        first = _finest(stamps) if stamps else None
        return _SPANS.get(first.precision, 0) if first and not first.local.microsecond else 0

    def moment_or_none(self, segment: Segment | None, *fields: int) -> datetime | None:
        """Like `moment`, but what is no timestamp counts as absent, flagged: for times that nothing is scored by."""
        for field in fields:
            try:
                if found := self.moment((segment, field)):
                    return found
            except ValueError:
                self.flags["something that is no timestamp in the place of one"] += 1
        return None

    def _resolve(self, stamp: Stamp) -> datetime:
        zone = self.peer.zone or (self._sent_stamp.offset if self._sent_stamp else None) or UTC
        moment, flag = resolve(stamp, zone, self.sent_at)
        if flag:
            self.flags[f"{flag} local time (daylight saving)"] += 1
        return moment

    def _stamp(self, segment: Segment, field: int) -> Stamp | None:
        try:
            return parse_stamp(segment.get(field))
        except ValueError:
            return None

    def _sent(self) -> datetime:
        stamp = self._sent_stamp
        if stamp is None or stamp.precision not in ("minute", "second"):
            return self.received_at
        return resolve(stamp, self.peer.zone or UTC, self.received_at)[0]


def _finest(stamps: Sequence[Stamp]) -> Stamp:
    """Return the first of several stamps, or where it is a day without the hour, the first that has the time of that day."""
    first = stamps[0]
    if first.precision not in _COARSE:
        return first
    exact = (other for other in stamps if other.precision not in _COARSE and other.local.date() == first.local.date())
    return next(exact, first)


def birth_date(pid: Segment) -> str | None:
    """Return the date of birth (PID-7), None where none is said. Raises `ValueError` for what is none."""
    stamp = None if pid.is_null(7) else parse_stamp(pid.get(7))
    if stamp is None:
        return None
    return stamp.local.date().isoformat()[: {"year": 4, "month": 7}.get(stamp.precision, 10)]  # as much as is known


def born(pid: Segment) -> str | None:
    """Return the date of birth, None also for what is none."""
    try:
        return birth_date(pid)
    except ValueError:
        return None


# W1, MON-07, ICU, 0001, an EUI-64: too short for a name or a patient's number.
_PLACE: Final = re.compile(r"[A-Za-z]{0,4}[-_]?\d{1,5}[A-Za-z]?|[A-Za-z]{1,3}|[0-9A-Fa-f]{16}|EUI-64")


def _codes(segment: Segment, field: int, most: int) -> str:
    """Return the first components of a field as sent; empty where one of them may be more than the code of a device or place."""
    parts = [segment.get(field, n) for n in range(1, most + 1)]
    return "^".join(parts).rstrip("^") if all(_PLACE.fullmatch(part) for part in parts if part) else ""
