"""From the bytes of one message to everything that follows from them: events, answers, and why. Pure: nothing is sent or stored.

The server calls `handle`, publishes `Outcome.events`, and only then sends `Outcome.answers`; `vigil check-feed` calls it and shows
the outcome. The decision table stands in `acknowledgement`; what becomes of each type of message:

| message | becomes |
|---|---|
| ORU^R01, R30, R31, R32 | vitals and text reports, and before them a context that they add to (`mapping.persons`) |
| MDM T02, T04, T06, T08, T10, T11 | notes, and a context likewise |
| ADT (see `mapping.patients`) | patient contexts |
| MDM T01, T03, T05, T07, T09 | ignored: notices without text, which the even numbers carry; one with text is the next even one |
| MDM T03 (or T04) without text | a note's new status, or its withdrawal, by TXA-17 and TXA-19 |
| ORA^R41 of a peer with `answers_alerts` | feedback (see `mapping.answers`) |
| ACK, MCF, NAK | ignored without an answer: nobody acknowledges an acknowledgement |
| everything else | ignored, AA (AR by setting) |

A piece of one of these (chapter 2.10.2: DSC, ADD, MSH-14) is refused: what was cut is not put together, and half a text may say the
opposite of the whole. Of ADT, which is no text, MSH-14 alone is not asked: senders leave other things there.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Final, Literal

from pydantic import ValidationError

from connectors.contexts import Contexts, MemoryContexts
from connectors.deadletters import dead_letter
from connectors.documents import Documents, Filed, Former
from connectors.hl7 import acknowledgement
from connectors.hl7.acknowledgement import Code, Grade, Header
from connectors.hl7.errors import Condition, Location, Trouble, Unreadable
from connectors.hl7.mapping.answers import map_answer
from connectors.hl7.mapping.documents import NOTICE, RELATIONS, WITHOUT_CONTENT, carries_text, map_document, tells_status
from connectors.hl7.mapping.patients import TRIGGERS, Book, map_patients
from connectors.hl7.mapping.persons import fill
from connectors.hl7.mapping.reading import Reading, Tables
from connectors.hl7.mapping.results import map_results
from connectors.hl7.message import Message, parse
from connectors.hl7.settings import MllpSettings, Peer
from connectors.identity import Identities
from processors.events import DeadLetterEvent, Event, Excess, NoteEvent, PatientEvent, ProcessingId, excess
from processors.identity import content_hash

log = logging.getLogger(__name__)

Verdict = Literal["accepted", "refused", "ignored", "dead-letter"]

MEDIA_TYPE: Final = "x-application/hl7-v2+er7"  # as HL7 v2 over HTTP names it
_VERSIONS: Final = "2.0 2.0D 2.1 2.2 2.3 2.3.1 2.3.2 2.4 2.5 2.5.1 2.5.2 2.6 2.7 2.7.1 2.8 2.8.1 2.8.2 2.9"
VERSIONS: Final = frozenset(_VERSIONS.split())  # table 0104
PROCESSING: Final[dict[str, ProcessingId]] = {"P": "production", "T": "training", "D": "debugging"}  # table 0103
RESULTS: Final = frozenset({"R01", "R30", "R31", "R32"})
ANSWERS: Final = frozenset({"ACK", "MCF", "NAK"})
MAPPED: Final = frozenset({"ORU", "MDM", "ADT", "ORA"})
_STRUCTURE: Final = re.compile(r"([A-Z]{3})_([A-Z]\d\d)")
_REASONS_SHOWN: Final = 8


@dataclass(frozen=True)
class Outcome:
    """What a message leads to.

    `events` must be confirmed before `answers` are sent; `unconfirmed` is what to answer otherwise (nothing: close). `code` is the
    first answer's (or what it would be), `reason` says in words without patient text what was noted. `key` is what identifies a
    message but for its content: the same key with another digest is a control id used twice.
    """

    verdict: Verdict
    code: str
    reason: str
    events: tuple[Event, ...]
    answers: tuple[tuple[Code, bytes], ...]
    unconfirmed: tuple[tuple[Code, bytes], ...]
    message_type: str = ""
    version: str = ""
    control_id: str = ""
    digest: str = ""
    key: tuple[str, ...] = ()
    promise: bool = True  # False: the sender asked for NE/NE and can never know whether its message was stored
    documents: Mapping[str, tuple[Filed, ...]] = field(default_factory=dict)  # documents, by number: to be remembered

    @cached_property
    def contexts(self) -> tuple[PatientEvent, ...]:
        """The patient contexts among the events."""
        return tuple(event for event in self.events if isinstance(event, PatientEvent))

    @cached_property
    def keys(self) -> frozenset[str]:
        """The patients whose order must be kept; the empty key for what has none."""
        return frozenset(getattr(event, "patient_id", "") for event in self.events)


class Hl7Mapper:
    """Reads messages for one site. Holds no message; asks what is known of patients and documents, which `learn` is to be told."""

    def __init__(
        self,
        settings: MllpSettings,
        identities: Identities,
        contexts: Contexts | None = None,
        former: Former | None = None,
    ) -> None:
        """`former`: the notes that were filed before this process began."""
        self.contexts: Contexts = contexts if contexts is not None else MemoryContexts()
        self._facility = settings.facility
        window = timedelta(seconds=settings.set_seconds)
        self._documents = Documents(former=former)
        self._tables = Tables(
            identities, settings.codes, settings.units, settings.context_codes, window, self.contexts, self._documents, {}
        )

    def handle(self, raw: bytes, peer: Peer, received_at: datetime) -> Outcome:
        """Parse, map and decide. Never raises for what a message contains: what nobody foresaw becomes a dead letter."""
        return _Case(self, raw, peer, received_at).outcome()

    def learn(self, outcome: Outcome) -> None:
        """Remember what an outcome says about patients and documents. The former may be taken back (`Contexts.take_back`)."""
        for context in outcome.contexts:
            self.contexts.remember(context)
        self._documents.remember(outcome.documents)
        for event in outcome.events:
            if isinstance(event, NoteEvent) and "MDM" in event.origin.message_type.upper():
                self._documents.keep(event)

    def oversize(self, head: bytes, peer: Peer, received_at: datetime, limit: int) -> Outcome:
        """Refuse a message above the size limit, of which only the head was kept."""
        case = _Case(self, head, peer, received_at)
        trouble = Trouble(f"the message is larger than {limit} bytes", None, Condition.VALUE_TOO_LONG)
        try:
            case.header = Header.of(parse(head, fallback=peer.settings.charset))
        except Unreadable:
            case.header = Header.salvaged(head)
        return case.finish(Grade.REFUSED, "refused", (trouble,))

    def stranger(self, raw: bytes, peer: Peer, received_at: datetime) -> Outcome:
        """Refuse a message that no peer at its address sends as; `peer` is one of them, by whose settings it is read."""
        reason = "no peer at this address sends as that application and facility"
        trouble = Trouble(reason, Location("MSH", 1, 3), Condition.TABLE_VALUE_NOT_FOUND)
        return _Case(self, raw, peer, received_at).outcome(stranger=trouble)

    def poisoned(self, raw: bytes, peer: Peer, received_at: datetime, reason: str) -> Outcome:
        """Decide again about a message that the broker will never take: whole into a dead letter, if that fits."""
        return _Case(self, raw, peer, received_at).outcome(unusable=Trouble(reason, None, Condition.APPLICATION_ERROR, "store"))

    def unstorable(self, raw: bytes, peer: Peer, received_at: datetime, reason: str) -> Outcome:
        """Refuse a message that does not even fit a dead letter: it stays with its sender."""
        case = _Case(self, raw, peer, received_at)
        case.message = parse(raw, fallback=peer.settings.charset)
        case.header = Header.of(case.message)
        return case.finish(Grade.ERROR, "refused", (Trouble(reason, None, Condition.VALUE_TOO_LONG),))

    @property
    def tables(self) -> Tables:
        """What the mapping of every message needs."""
        return self._tables

    @property
    def facility(self) -> str:
        """Our name in answers to a message that names no receiver."""
        return self._facility


class _Case:
    """One message on its way to its outcome."""

    def __init__(self, mapper: Hl7Mapper, raw: bytes, peer: Peer, received_at: datetime) -> None:
        self.mapper = mapper
        self.raw = raw
        self.peer = peer
        self.received_at = received_at
        self.digest = content_hash(raw)
        self.header = Header()
        self.message: Message | None = None
        self.reading: Reading | None = None

    def outcome(self, unusable: Trouble | None = None, *, stranger: Trouble | None = None) -> Outcome:
        try:
            self.message = parse(self.raw, fallback=self.peer.settings.charset)
        except Unreadable as error:
            self.header = Header.salvaged(self.raw)
            header_seen = error.trouble.location is not None  # an MSH that starts and cannot be followed
            return self.finish(Grade.ERROR if header_seen else Grade.REFUSED, "refused", (error.trouble,))
        self.header = Header.of(self.message)
        kind, trigger = message_type(self.message)
        if kind in ANSWERS:
            return self.finish(Grade.ACCEPTED, "ignored", (), "an acknowledgement is not acknowledged", silent=True)
        if stranger:
            return self.finish(Grade.REFUSED, "refused", (stranger,))
        if refusal := self._unsupported(kind):
            return self.finish(refusal[0], "refused", (refusal[1],))
        processing = PROCESSING.get(self.message.header.get(11).upper(), self.peer.settings.empty_processing)
        try:
            self.reading = Reading(self.message, self.peer, self.received_at, self.digest, processing, self.mapper.tables)
        except ValidationError as error:  # of MSH-9 and MSH-10, which say where an event comes from
            too_long = excess(error)
            return self.finish(Grade.ERROR, "refused", (self._too_long(too_long or Excess("MSH", "", 0, "characters")),))
        if unusable is None:
            try:
                if not self._map(kind, trigger):
                    return self._not_for_us(kind)
            except Unreadable as error:
                return self.finish(Grade.ERROR, "refused", (error.trouble,))
            except Exception as error:  # whatever a message does to us, it must not be lost or stop the feed
                if isinstance(error, ValidationError) and (too_long := excess(error)):
                    return self.finish(Grade.ERROR, "refused", (self._too_long(too_long),))
                log.error("mapping failed: %s at %s (type %s, peer %s)", *_fault(error), kind, self.peer.name)
                unusable = Trouble(f"the mapping failed with {type(error).__name__}", None, Condition.APPLICATION_ERROR)
        if unusable:
            self.reading.events.clear()
            self.reading.documents.clear()
            self.reading.troubles[:] = [unusable]
        return self._mapped(self.reading)

    def _too_long(self, found: Excess) -> Trouble:
        """Say where in the message the value stands that no event has room for: nothing is cut, and the sender keeps it."""
        assert self.message is not None
        reason = f"longer than the {found.most} {found.things} that are taken"
        if not isinstance(found.value, str):
            return Trouble(f"{reason} ({found.field})", None, Condition.VALUE_TOO_LONG)
        return Trouble(reason, self.message.place_of(found.value), Condition.VALUE_TOO_LONG)

    def _map(self, kind: str, trigger: str) -> bool:
        assert self.reading is not None
        reading = self.reading
        if kind in MAPPED and (cut := _cut_at(reading.message, kind)):
            raise Unreadable("a piece of a message that was cut (DSC, ADD, MSH-14): to be sent whole", cut)
        if kind == "ORU" and (trigger in RESULTS or not trigger):
            map_results(reading, self.mapper.contexts)
        elif kind == "MDM" and trigger in RELATIONS:
            if not message_has(reading.message, "TXA", "OBX"):
                raise Unreadable("an MDM message without TXA and OBX", Location("TXA"))
            self._map_document(reading, trigger)
        elif kind == "MDM" and trigger in WITHOUT_CONTENT:
            if carries_text(reading.message):
                reading.flags["a notice that carries the text: read as the event that does"] += 1
                self._map_document(reading, WITHOUT_CONTENT[trigger])
            elif trigger == "T03" and tells_status(reading.message):
                self._map_document(reading, trigger)
            else:
                reading.skipped[NOTICE] += 1
        elif kind == "ADT" and trigger in TRIGGERS:
            map_patients(reading, self.mapper.contexts, trigger)
        elif kind == "ORA" and trigger == "R41" and self.peer.settings.answers_alerts:
            map_answer(reading)
        else:
            return False
        return True

    def _map_document(self, reading: Reading, trigger: str) -> None:
        message = reading.message
        pid = message.first("PID")
        pv1 = message.first("PV1")
        subject = reading.watched(pid)
        if subject is None:
            reading.held_apart(pid, pv1)
            return
        book = Book(reading, self.mapper.contexts, reading.sent_at)
        map_document(reading, subject, reading.encounter_id(pv1, subject), message.segments, trigger)
        fill(book, pid, pv1, subject, reading.events)
        book.close(first=True)

    def _unsupported(self, kind: str) -> tuple[Grade, Trouble] | None:
        assert self.message is not None
        msh = self.message.header
        if not kind:
            return Grade.ERROR, Trouble("no message type", msh.at(9), Condition.REQUIRED_FIELD_MISSING)
        if msh.get(12) and msh.get(12) not in VERSIONS:
            return Grade.REFUSED, Trouble("not a version of HL7 v2", msh.at(12), Condition.UNSUPPORTED_VERSION_ID)
        if msh.get(11) and msh.get(11).upper() not in PROCESSING:
            return Grade.REFUSED, Trouble("not a processing id", msh.at(11), Condition.UNSUPPORTED_PROCESSING_ID)
        return None

    def _not_for_us(self, kind: str) -> Outcome:
        assert self.message is not None
        where = self.message.header.at(9)
        if self.peer.settings.not_for_us == "AA":
            return self.finish(Grade.ACCEPTED, "ignored", (), f"{where}: a message type that is not for Vigil")
        known = kind in MAPPED
        condition = Condition.UNSUPPORTED_EVENT_CODE if known else Condition.UNSUPPORTED_MESSAGE_TYPE
        return self.finish(Grade.REFUSED, "ignored", (Trouble("a message type that is not for Vigil", where, condition),))

    def _mapped(self, reading: Reading) -> Outcome:
        useful = bool(reading.events)
        patient = next((event.patient_id for event in reading.events if hasattr(event, "patient_id")), None)
        for stage in dict.fromkeys(trouble.stage for trouble in reading.troubles):
            of_stage = [trouble for trouble in reading.troubles if trouble.stage == stage]
            reading.events.append(self._dead_letter(stage, of_stage, patient, reading))
        verdict: Verdict = "accepted" if useful else "dead-letter" if reading.troubles else "ignored"
        notes = [f"{count} x {what}" for what, count in (*reading.skipped.items(), *reading.flags.items())]
        if verdict == "ignored" and not notes:
            notes = ["nothing in it for Vigil"]
        return self.finish(Grade.ACCEPTED, verdict, tuple(reading.troubles), *notes, events=reading.events)

    def _dead_letter(self, stage: str, troubles: list[Trouble], patient: str | None, reading: Reading) -> DeadLetterEvent:
        return dead_letter(
            self.raw,
            connector="hl7",
            stage=stage,
            message=_listed(map(str, troubles)),
            failed_at=self.received_at,
            media_type=MEDIA_TYPE,
            key=patient,
            identity=reading.identity,
            peer=self.peer.name,
            message_type="^".join(filter(None, message_type(reading.message))),  # one that is mapped, so not what it says
        )

    def finish(
        self,
        grade: Grade,
        verdict: Verdict,
        troubles: tuple[Trouble, ...],
        *notes: str,
        events: Iterable[Event] = (),
        silent: bool = False,
    ) -> Outcome:
        header, at, facility = self.header, self.received_at, self.mapper.facility
        identity = ("hl7v2", self.peer.name, *header.sender, header.control_id, self.digest)
        answers = acknowledgement.answers(header, grade, troubles, identity=identity, at=at, facility=facility)
        instead = acknowledgement.unconfirmed(
            header, self.peer.settings.unconfirmed, identity=identity, at=at, facility=facility
        )
        return Outcome(
            verdict=verdict,
            code="" if silent else answers[0][0] if answers else acknowledgement.expected_code(header, grade),
            reason=_listed((*map(str, troubles), *notes)),
            events=tuple(events),
            answers=() if silent else answers,
            unconfirmed=() if silent else instead,
            message_type=header.message_type,
            version=header.version,
            control_id=header.control_id,
            digest=self.digest,
            key=identity[:-1],
            documents=self.reading.documents if self.reading else {},
            promise=not header.enhanced or (header.accept, header.application) not in (("NE", "NE"), ("", "NE"), ("NE", "")),
        )


def message_has(message: Message, *names: str) -> bool:
    """Whether a message has a segment of one of the names."""
    return any(segment.name in names for segment in message.segments)


def _cut_at(message: Message, kind: str) -> Location | None:
    """Return what says that a message goes on in another one, or goes on with one; None for a whole one."""
    for segment in message.segments:
        goes_on = segment.name == "ADD" and len(segment)  # without a separator it may be a line of text
        if goes_on or (segment.name == "DSC" and (segment.get(1) or segment.get(2))):  # an empty DSC says that nothing follows
            return segment.at(0)
    return message.header.at(14) if message.header.get(14) and kind != "ADT" else None


def message_type(message: Message) -> tuple[str, str]:
    """Return message code and trigger event of MSH-9, from the structure (`ORU_R01`) where the sender put nothing else."""
    msh = message.header
    kind, trigger = msh.get(9).upper(), msh.get(9, 2).upper()
    for part in (2, 3):
        structure = _STRUCTURE.fullmatch(msh.get(9, part).upper())
        if structure and not kind:
            return structure[1], structure[2]
    if not trigger and kind and (event := message.first("EVN")):
        trigger = event.get(1).upper()
    return kind, trigger


def _listed(reasons: Iterable[str]) -> str:
    reasons = [*reasons]
    more = [f"and {len(reasons) - _REASONS_SHOWN} more"] if len(reasons) > _REASONS_SHOWN else []
    return "; ".join((*reasons[:_REASONS_SHOWN], *more))


def _fault(error: BaseException) -> tuple[str, str]:
    """Return an error's class and the line it came from: never its message, which may quote the patient's data."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}" if trace else "nowhere"
    return type(error).__name__, place
