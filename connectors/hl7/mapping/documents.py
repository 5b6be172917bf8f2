"""MDM documents and ORU text reports to notes.

`note_id` stays over a document's versions, so it derives from the patient and the sender's document number (TXA-12), or for an ORU
report the filler's order number (OBR-3, else the placer's OBR-2) and the service (OBR-4). What replaces or adds to another document
is a note of its own that names the other (`replaces`).

Orders of one message that have all that in common (both knees under one accession number, the bottles of a culture) are several
reports: after the first each is told apart by its OBR-2 where that is its own, else by its place among them. One that comes alone
later is known by OBR-2 as long as that is remembered; else it is a version of the first.

| message | relation |
|---|---|
| MDM T02 original, T04 status change | original; edit where it is a correction |
| MDM T03 or T04 without a text | the remembered version's, with the status of TXA-17; TXA-19 CA: original, cancelled |
| MDM T06 addendum | addendum to TXA-13, else to TXA-12 |
| MDM T08 edit | edit |
| MDM T10 replacement | replacement of TXA-13 |
| MDM T11 cancel | cancel |
| ORU with text | original; edit where it is a correction |

An addendum adds and takes the place of nothing (chapter 9). By the standard it has a number of its own; some senders repeat the
document's. One under the number of what it adds to, or of another addendum, is a note of its own, its id derived from the message:

| a T06 under such a number | |
|---|---|
| the message that brought an addendum before | that note |
| a correction (OBX-11 C, A, B), of one addendum that came under the number | a version of that one |
| OBX-11 D, W, X | those that came under the number are withdrawn; the document, where the number is its own, stays |
| any other | another note |

What withdraws a document (T11, T03 and T04 with TXA-19 CA, OBX-11 D, W, X) withdraws what was added under its very number as well.

What an MDM changes it names, by TXA-12; an edit or replacement by TXA-13 too. Where it does not, the old version stays, and that is
a trouble; a text that was to take its place is a note by itself.

The status, and what is a correction: the table in `standing`.

A number that comes under another patient than before, from the same sender (peer, MSH-3, MSH-4; `connectors.documents`):

| the message | means |
|---|---|
| corrects (T08, OBX-11 C), withdraws (T11, OBX-11 D, W, X) or replaces (T10) | the other patient was wrong: the text leaves them |
| does so, but several others had the number, or OBR-7 (MDM: TXA-4) is another than the other's | a document of its own |
| any other | a document of its own: numbers are given out again |
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from connectors.documents import Filed, after, note_of, number_of, own
from connectors.hl7.errors import Condition, Location
from connectors.hl7.mapping.codes import DOCUMENT_LOINC, NO_RESULT, RETRACTED, codings
from connectors.hl7.mapping.embedded import Lines, Piece, pieces_of, same_run, texts_of
from connectors.hl7.mapping.reading import Reading, Subject
from connectors.hl7.mapping.standing import Status, letter_of, of_document, of_order, standing
from connectors.hl7.message import Message, Segment
from connectors.texts import begins_document, text_of_words
from processors.events import Coding, NoteEvent, Relation
from processors.identity import natural_id

RELATIONS: Final[dict[str, Relation]] = {
    "T02": "original",
    "T04": "original",
    "T06": "addendum",
    "T08": "edit",
    "T10": "replacement",
    "T11": "cancel",
}
TEXT_TYPES: Final = frozenset({"TX", "FT", "ST", "ED", "RP", ""})
WITHOUT_CONTENT: Final = {  # notices -> the event that brings the text, which some senders put into the notice
    "T01": "T02",
    "T03": "T04",
    "T05": "T06",
    "T07": "T08",
    "T09": "T10",
}
_TAKEN_BACK: Final = frozenset({"entered-in-error", "cancelled"})
_ADDENDA: Final = 16  # of one number that are remembered
NOTICE: Final = "a notice without the document's text"
UNDER_ITS_NUMBER: Final = "an addendum under the number of its document: a note of its own"
ANOTHER_ADDENDUM: Final = "an addendum under the number of one that stands: a note of its own"
NOT_FETCHED: Final = "a reference to a document elsewhere is not fetched"
LOINC: Final = "http://loinc.org"


@dataclass(slots=True)
class Report:
    """The text of a document as it is gathered from its OBX and NTE segments."""

    parts: list[tuple[str, str]] = field(default_factory=list)  # (heading, text)
    statuses: list[str] = field(default_factory=list)
    types: list[Coding] = field(default_factory=list)
    first: Segment | None = None
    _embedded: list[Piece] = field(default_factory=list)  # that may be pieces of one document
    _lines: Lines | None = None

    def add(self, reading: Reading, obx: Segment) -> None:
        """Add an OBX with text; one without usable content is noted. Call `finish` after the last."""
        kind, letter = obx.get(2).upper(), letter_of(reading, obx)
        has_text = kind in TEXT_TYPES and kind != "RP" and letter not in NO_RESULT | RETRACTED
        goes_on = has_text and self._lines is not None and self._lines.take(obx)
        pieces = pieces_of(obx, self._embedded) if has_text and not goes_on else []
        if pieces:
            self._end_lines(reading)
        else:
            self._end_pieces(reading)
        if letter in NO_RESULT:
            reading.skipped["no result, only order detail (OBX-11 O or N)"] += 1
            return
        self.first = self.first or obx
        self.statuses.append(letter)
        if letter in RETRACTED or goes_on:
            return
        if kind not in TEXT_TYPES:
            reading.skipped["observations of a document that are not text"] += 1
            return
        if kind == "RP":
            reading.trouble(NOT_FETCHED, obx.at(5), Condition.DATA_TYPE)
            return
        for piece in pieces:
            if self._embedded and not same_run(self._embedded[0], piece):
                self._end_pieces(reading)
            self._embedded.append(piece)
        if pieces:
            return
        self._end_lines(reading)
        if begins_document(obx.whole(5)):
            self._lines = Lines(obx)
        else:
            self._read(reading, obx, obx.whole(5))

    def finish(self, reading: Reading) -> None:
        """Read the embedded documents whose pieces or lines have come."""
        self._end_lines(reading)
        self._end_pieces(reading)

    def _end_pieces(self, reading: Reading) -> None:
        run, self._embedded = self._embedded, []
        for obx, text in texts_of(run, reading.message.codec) if run else ():
            if isinstance(text, ValueError):
                reading.trouble(str(text), obx.at(5))
            else:
                self._take(obx, text)

    def _end_lines(self, reading: Reading) -> None:
        lines, self._lines = self._lines, None
        if lines:
            self._read(reading, lines.obx, lines.whole())

    def _read(self, reading: Reading, obx: Segment, words: str) -> None:
        try:
            self._take(obx, text_of_words(words))
        except ValueError as error:
            reading.trouble(str(error), obx.at(5))

    def _take(self, obx: Segment, text: str) -> None:
        coded = codings(obx, 3)
        if text.strip() or self.parts:
            self.parts.append((coded[0][1] if coded else "", text))
        self.types += [coding(code, name, system) for code, name, system in coded]

    def add_note(self, reading: Reading, nte: Segment) -> None:
        """Add the comment of an NTE."""
        self.finish(reading)
        try:
            text = text_of_words(nte.whole(3)).strip()
        except ValueError as error:
            reading.trouble(str(error), nte.at(3))
            return
        if text:
            self.parts.append(("", text))
            self.first = self.first or nte

    def text(self) -> str:
        """Return the whole text. A heading goes before a part where the parts have different ones (findings, impression)."""
        headings = {heading for heading, _ in self.parts if heading}
        lines: list[str] = []
        last = ""
        for heading, text in self.parts:
            if len(headings) > 1 and heading and heading != last:
                lines += [f"{heading}:"] if not lines else ["", f"{heading}:"]
            last = heading or last
            lines.append(text.rstrip())
        return "\n".join(lines).strip("\n")


def carries_text(message: Message) -> bool:
    """Whether a message has an OBX with text in it. A reference to a document elsewhere is none."""
    texts = (obx for obx in message.all("OBX") if obx.get(2).upper() in TEXT_TYPES - {"RP"})
    return any(obx.whole(5).strip() for obx in texts)


def tells_status(message: Message) -> bool:
    """Whether a notice says how a document stands: completion (TXA-17), or that it was deleted (TXA-19 CA)."""
    txa = message.first("TXA")
    return txa is not None and bool(txa.get(17) or of_document(txa, cancelled=False).cancelled)


def coding(code: str, text: str, system: str) -> Coding:
    """Return a coded value with the system's URI where it is LOINC."""
    return Coding(system=LOINC if system == "LN" else "", code=code or text, display=text if code else "")


def publish_report(reading: Reading, subject: Subject, encounter_id: str | None, report: Report, obr: Segment | None) -> None:
    """Add the note of an ORU report. A report without any text is none, unless it voids an earlier one."""
    status, corrects = standing(report.statuses, of_order(reading, obr))
    text = "" if status == "entered-in-error" else report.text()
    if not text.strip() and status not in _TAKEN_BACK:
        return
    service = codings(obr, 4) if obr else ()
    order = (obr.get(3) or obr.get(2)) if obr else ""
    elsewhere, authored = (
        None,
        reading.moment_or_none(obr, 22, 7) or reading.moment_or_none(report.first, 14) or reading.sent_at,
    )
    if order and obr:
        number = _number(reading, obr.get(3, 2) or obr.get(2, 2), order, service[0][0] if service else "")
        number = _further(reading, subject, number, obr.get(2) if obr.get(3) else "")
        takes = corrects or status in _TAKEN_BACK
        note_id, elsewhere = _filed(reading, subject, number, at=obr.get(7), authored=authored, takes=takes)
    else:
        note_id = natural_id(*reading.identity, "note", report.first.number if report.first else 0)
        reading.flags["a report without order number: later versions of it will not be recognised"] += 1
    kinds = [coding(*one) for one in service] + report.types
    _publish(
        reading,
        subject,
        encounter_id,
        note_id=note_id,
        status=status,
        relation="edit" if corrects else "cancel" if elsewhere else "original",
        replaces=elsewhere,
        kind=_kind(kinds),
        text=text,
        authored_at=authored,
    )


def map_document(
    reading: Reading, subject: Subject, encounter_id: str | None, segments: Sequence[Segment], trigger: str
) -> None:
    """Map the TXA and OBX segments of an MDM message; of a T03 that `tells_status` the TXA alone."""
    txa = next((segment for segment in segments if segment.name == "TXA"), None)
    report = Report()
    for segment in segments if trigger in RELATIONS else ():
        if segment.name == "OBX":
            report.add(reading, segment)
        elif segment.name == "NTE":
            report.add_note(reading, segment)
    report.finish(reading)
    relation = RELATIONS.get(trigger, "original")
    number = _txa_number(reading, txa, 12)
    status, corrects = standing(report.statuses, of_document(txa, cancelled=relation == "cancel"))
    withdrawn = status in _TAKEN_BACK
    text = "" if relation == "cancel" or status == "entered-in-error" else report.text()
    parent = _txa_number(reading, txa, 13)
    relation = "edit" if corrects and relation == "original" else relation
    named = number or (parent if relation in ("edit", "replacement") else None)
    if not text.strip() and withdrawn and named is None:
        reading.trouble("a cancelled document without its number", Location("TXA", 1, 12), Condition.REQUIRED_FIELD_MISSING)
        return
    if not text.strip() and not withdrawn:
        if trigger in ("T03", "T04") and number and txa and txa.get(17) and _restate(reading, subject, number, status):
            return
        if trigger not in RELATIONS:
            reading.skipped[NOTICE] += 1
        elif not reading.troubles:
            reading.trouble("a document without text", Location("OBX", 1, 5), Condition.REQUIRED_FIELD_MISSING)
        return
    if named is None and (withdrawn or relation in ("edit", "replacement")):
        where = Location("TXA", 1, 13 if relation == "replacement" else 12)
        reading.trouble(
            "a new version that does not name its document: the old one stays", where, Condition.REQUIRED_FIELD_MISSING
        )
    elif number is None:
        reading.flags["a document without its number: later versions of it will not be recognised"] += 1
    if relation in ("addendum", "replacement") and parent is None:
        reading.flags["an addendum or replacement that does not name its document (TXA-13)"] += 1
    authored = reading.moment_or_none(txa, 6, 4, 7) or reading.moment_or_none(report.first, 14) or reading.sent_at
    # What is edited or cancelled by its own number may be an addendum: the document that it adds to stays.
    of_parent = number is None or (relation in ("addendum", "replacement") and parent != number)
    replaces = _named(reading, subject, parent, takes=relation != "addendum") if parent and of_parent else None
    note_id, elsewhere = natural_id(*reading.identity, "note", 0), None
    event_id, shares = reading.event_id(NoteEvent), number is not None and relation == "addendum" and parent in (None, number)
    if number and shares and withdrawn:
        if not _withdraw_added(reading, subject, encounter_id, number, status, txa):
            reading.trouble("the withdrawal of an addendum that is not known", Location("TXA", 1, 12), Condition.UNKNOWN_KEY)
        return
    if number and relation == "addendum" and not withdrawn:
        at = txa.get(4) if txa else ""
        note_id = _adds(reading, subject, number, event_id, shares=shares, corrects=corrects, at=at, authored=authored)
        replaces = _named(reading, subject, number, takes=False) if shares else replaces
    elif number:
        takes = replaces is None and (withdrawn or relation in ("edit", "replacement", "cancel"))
        note_id, elsewhere = _filed(reading, subject, number, at=txa.get(4) if txa else "", authored=authored, takes=takes)
    _publish(
        reading,
        subject,
        encounter_id,
        note_id=note_id,
        status=status,
        relation="cancel" if elsewhere and relation == "original" else relation,
        replaces=replaces or elsewhere,
        kind=_kind([*(_txa_types(txa)), *report.types]),
        text=text,
        authored_at=authored,
        event_id=event_id,
    )
    if number and withdrawn:
        _withdraw_added(reading, subject, encounter_id, number, status, txa, but=note_id)


def _adds(
    reading: Reading, subject: Subject, number: str, event_id: str, *, shares: bool, corrects: bool, at: str, authored: datetime
) -> str:
    """Return the note of an addendum that comes under a number; `shares`: the number is of what it adds to."""
    key, before = _notes(reading, subject, _of_addenda(reading, number))
    added = own(before, reading.tables.contexts, subject.patient_id)
    filed = own(_notes(reading, subject, number)[1], reading.tables.contexts, subject.patient_id)
    if same := next((one for one in (*added, *filed) if one.event == event_id), None):
        return same.note_id
    if corrects and len({one.note_id for one in added}) == 1:
        note_id = added[0].note_id
    elif shares or (filed and not corrects):
        note_id = natural_id(*reading.identity, "note", 0)
        reading.flags[UNDER_ITS_NUMBER if shares else ANOTHER_ADDENDUM] += 1
    else:
        note_id, _ = _filed(reading, subject, number, at=at, authored=authored, takes=False)
    # One for each message, not for each note: the original of an addendum that was corrected may come again.
    reading.documents[key] = (*before, Filed(subject.patient_id, note_id, at, event=event_id))[-_ADDENDA:]
    return note_id


def _of_addenda(reading: Reading, number: str) -> str:
    """Return by what the addenda are remembered that came under a document's number."""
    return number_of(reading.tables.identities, "", number, "addenda")


def _added(reading: Reading, subject: Subject, number: str) -> list[str]:
    """Return the notes of the addenda that came under a document's number."""
    added = own(_notes(reading, subject, _of_addenda(reading, number))[1], reading.tables.contexts, subject.patient_id)
    return [*dict.fromkeys(one.note_id for one in added)]


def _withdraw_added(
    reading: Reading,
    subject: Subject,
    encounter_id: str | None,
    number: str,
    status: Status,
    txa: Segment | None,
    but: str = "",
) -> bool:
    """Withdraw what was added under a document's number, `but` for one; False where nothing was."""
    added = _added(reading, subject, number)
    for note_id in added:
        if note_id != but:
            _publish(
                reading,
                subject,
                encounter_id,
                note_id=note_id,
                status=status,
                relation="cancel",
                replaces=None,
                kind=_kind(_txa_types(txa)),
                text="",
                authored_at=reading.moment_or_none(txa, 6, 4, 7) or reading.sent_at,
            )
    return bool(added)


def _restate(reading: Reading, subject: Subject, number: str, status: Status) -> bool:
    """Add the remembered version of a document, and of what was added under its number, with another status; False for none."""
    documents, filed = (
        reading.tables.documents,
        own(_notes(reading, subject, number)[1], reading.tables.contexts, subject.patient_id),
    )
    note_id = filed[-1].note_id if filed else note_of(number, subject.patient_id)
    note_ids = dict.fromkeys([note_id, *_added(reading, subject, number)])
    known = [note for one in note_ids if (note := documents.last(one, reading.processing))]
    for note in known:
        event_id = reading.event_id(NoteEvent)
        if event_id != note.id and (note.status == status or (status == "final" and note.status != "preliminary")):
            reading.skipped["a status that the document has already"] += 1
            continue
        new = {"id": event_id, "patient_id": subject.patient_id, "status": status}
        reading.events.append(note.model_copy(update=new | {"received_at": reading.received_at, "origin": reading.origin}))
    return bool(known)


def _number(reading: Reading, scope: str, *number: str) -> str:
    """Return a document's number as it is compared; one that names no authority is the sending facility's."""
    return number_of(reading.tables.identities, scope or reading.message.header.raw(4), *number)


def _further(reading: Reading, subject: Subject, number: str, placer: str) -> str:
    """Return the number of a report whose message may have others under the same one; `placer` (OBR-2) may tell them apart."""
    identities, whose, taken = reading.tables.identities, subject.patient_id, reading.reports
    reading.report_numbers[whose, number] += 1
    place = reading.report_numbers[whose, number]
    own_number = number_of(identities, "", number, "placer", placer)
    free = bool(placer) and (whose, own_number) not in taken
    if free and _notes(reading, subject, own_number)[1]:
        found = own_number
    elif (whose, number) not in taken:
        found = number
    else:
        found = own_number if free else number_of(identities, "", number, "place", str(place))
    taken |= {(whose, found), (whose, own_number)}
    if place > 1:
        reading.flags["another report under the number of one in the same message: a document of its own"] += 1
    return found


def _txa_number(reading: Reading, txa: Segment | None, position: int) -> str | None:
    if txa is None:
        return None
    number, scope = txa.get(position), txa.get(position, 2) or txa.get(position, 3)
    if not number:  # some senders leave the entity id empty and put the number next to it
        number, scope = txa.get(position, 3), ""
    return _number(reading, scope, number) if number else None


def _filed(
    reading: Reading, subject: Subject, number: str, *, at: str, authored: datetime | None, takes: bool
) -> tuple[str, str | None]:
    """File a document by its number; return its note and, where it takes one away from another patient, that one.

    `takes`: the message says that a document which is there already is corrected or withdrawn; `at`: when it says that it is of,
    and `authored` when it was written: of a note that was read back the former is not known, and the latter must be the same.
    """
    key, notes = _notes(reading, subject, number, anybody=takes)
    mine = own(notes, reading.tables.contexts, subject.patient_id)
    others = [one for one in notes if one not in mine]
    note_id = mine[-1].note_id if mine else note_of(number, subject.patient_id)
    took = mine[-1].took if mine else None
    if others and not mine:
        if takes and len(others) == 1 and (not at or others[0].at in ("", at)) and others[0].authored in (None, authored):
            took, notes = others[0].note_id, ()
            reading.flags["a correction of a document that was another patient's: taken from there"] += 1
        else:
            reading.flags["a document's number that another patient's has too: two documents"] += 1
    reading.documents[key] = after(notes, Filed(subject.patient_id, note_id, at, took))
    elsewhere = took if takes and all(one.note_id != took for one in notes) else None
    return note_id, elsewhere


def _named(reading: Reading, subject: Subject, number: str, *, takes: bool) -> str:
    """Return the note of a document that another one names; `takes`: it takes its place, so that it may be of a wrong patient."""
    _, notes = _notes(reading, subject, number, anybody=takes)
    mine = own(notes, reading.tables.contexts, subject.patient_id)
    found = mine or (notes if takes and len(notes) == 1 else ())
    return found[-1].note_id if found else note_of(number, subject.patient_id)


def _notes(reading: Reading, subject: Subject, number: str, *, anybody: bool = False) -> tuple[str, tuple[Filed, ...]]:
    """Return by what a sender's number is remembered, and the notes that were filed under it; test traffic's are apart.

    Of what was filed before this process began the subject's, else with `anybody` whoever's.
    """
    key, documents = "\x1f".join((*reading.identity[:4], reading.processing, number)), reading.tables.documents
    if known := reading.documents.get(key) or documents.get(key):
        return key, known
    source, contexts = (reading.peer.name, reading.processing), reading.tables.contexts
    return key, documents.former.of(source, number, contexts, subject.patient_id, anybody=anybody)


def _txa_types(txa: Segment | None) -> list[Coding]:
    if txa is None:
        return []
    found = []
    for code, text, system in codings(txa, 2):
        if code in DOCUMENT_LOINC and system != "LN":
            loinc, name = DOCUMENT_LOINC[code]
            found.append(Coding(system=LOINC, code=loinc, display=text or name))
        else:
            found.append(coding(code, text, system))
    return found


def _kind(kinds: Sequence[Coding]) -> Coding:
    """Return the document's type: the first LOINC code, else the sender's own first."""
    return next((kind for kind in kinds if kind.system), kinds[0] if kinds else Coding(code="unknown"))


def _publish(
    reading: Reading,
    subject: Subject,
    encounter_id: str | None,
    *,
    note_id: str,
    status: Status,
    relation: Relation,
    replaces: str | None,
    kind: Coding,
    text: str,
    authored_at: datetime,
    event_id: str = "",
) -> None:
    reading.events.append(
        NoteEvent(
            id=event_id or reading.event_id(NoteEvent),
            patient_id=subject.patient_id,
            encounter_id=encounter_id,
            note_id=note_id,
            status=status,
            relation=relation,
            replaces=replaces,
            note_type=kind,
            text=text,
            authored_at=authored_at,
            received_at=reading.received_at,
            processing=reading.processing,
            origin=reading.origin,
        )
    )
