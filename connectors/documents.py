"""Which note a document is: one for all its versions, and never one for two patients' documents.

A `note_id` derives from the document's number and the patient that it is filed under: numbers are given out again, by carts that
count from 1, and by senders that name no authority. What the number and the patient cannot say is remembered, in memory, for the
numbers heard of most recently:

| a document comes under a number that is remembered of | it is |
|---|---|
| the same patient | a version of that note |
| a record that was merged into the patient's since | a version of that note, whose id stays |
| one other patient only, and says that it corrects or withdraws | another note, which takes that one's place (`replaces`) |
| other patients, else | another note |

After a restart the numbers are no longer known, but `clinical.notes` is: the newest notes on it are read back (`Former`), each
with its patient. Whether one of them was filed under a number is seen by deriving its id again: for the patient of the document
and the records merged into theirs always; for any other patient (2 ms for a thousand of them) only where the document says that it
corrects or withdraws.

What says so: see `connectors.hl7.mapping.documents` and `connectors.fhir.mapping.documents`.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from connectors.contexts import Contexts, surviving
from connectors.identity import Identities
from processors.events import NoteEvent, ProcessingId
from processors.identity import natural_id

_KEPT: Final = 4  # notes of a number: more only show again that it is given to several documents


@dataclass(frozen=True, slots=True)
class Filed:
    """A note that was filed under a number.

    `at`: the time that the document says it is of, as sent; empty where it says none. `authored`: the event's, of one that was read
    back, of which `at` is not known. `took`: the note whose place it took, so that
    what was not confirmed says the same when it comes again. `event`: the id of the event that filed it last, where that is asked;
    `withdrawn`: whether that took it back.
    """

    patient_id: str
    note_id: str
    at: str = ""
    took: str | None = None
    event: str = ""
    withdrawn: bool = False
    authored: datetime | None = None


Source = tuple[str, str]  # peer, and whether it is test traffic (`NoteEvent.processing`)


class Former:
    """The notes that stood on `clinical.notes` last when this process began, at most `limit` (about 500 bytes each)."""

    def __init__(self, limit: int = 100_000) -> None:
        self.limit = limit
        self._notes: OrderedDict[tuple[Source, str], Filed] = OrderedDict()
        self._patients: dict[Source, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._notes)

    def take(self, note: NoteEvent) -> None:
        """Take a version over, in the topic's order. What it took the place of is filed under no number any more."""
        source = note.origin.peer, note.processing
        took = note.replaces if note.relation in ("edit", "cancel") and note.replaces != note.note_id else None
        if took:
            self._notes.pop((source, took), None)
        withdrawn = note.status in ("cancelled", "entered-in-error")
        filed = Filed(note.patient_id, note.note_id, "", took, note.id, withdrawn, note.authored_at)
        self._notes[source, note.note_id] = filed
        self._notes.move_to_end((source, note.note_id))
        self._patients.setdefault(source, {})[note.patient_id] = None
        while len(self._notes) > self.limit:
            self._notes.popitem(last=False)

    def of(
        self, source: Source, number: str, contexts: Contexts, patient_id: str, *, anybody: bool = False
    ) -> tuple[Filed, ...]:
        """Return the notes that were filed under a number: the patient's (and of records merged into theirs), else `anybody`'s."""
        mine = self._found(source, number, _with_merged(contexts, patient_id))
        return self._found(source, number, self._patients.get(source, ())) if anybody and not mine else mine

    def alone(self, source: Source, number: str) -> tuple[Filed, ...]:
        """Return the note that derives from a number alone, whoever's it is."""
        found = self._notes.get((source, note_of(number)))
        return (found,) if found else ()

    def _found(self, source: Source, number: str, patients: Iterable[str]) -> tuple[Filed, ...]:
        named = (note_of(number, one) for one in patients)
        return tuple(one for name in named if (one := self._notes.get((source, name))))


def _with_merged(contexts: Contexts, patient_id: str) -> list[str]:
    """Return a record and those that were merged into it, over several merges."""
    found = [patient_id]
    for one in found:  # grows
        found += (other for other in sorted(contexts.merged(one)) if other not in found)
    return found


class Documents:
    """The notes of the numbers heard of most recently, at most `limit` (about 500 bytes each); forgets the oldest above that.

    `former`: what was filed before this process began. And the newest texts, at most `characters` of them in all: what changes a
    document's status may come without its text.
    """

    def __init__(self, limit: int = 100_000, former: Former | None = None, characters: int = 32_000_000) -> None:
        self.former = former if former is not None else Former()
        self._limit = limit
        self._known: OrderedDict[str, tuple[Filed, ...]] = OrderedDict()
        self._room = characters
        self._notes: OrderedDict[tuple[str, ProcessingId], NoteEvent] = OrderedDict()

    def get(self, number: str) -> tuple[Filed, ...]:
        """Return the notes of a number, the newest last; none where nothing is known."""
        return self._known.get(number, ())

    def remember(self, filed: Mapping[str, tuple[Filed, ...]]) -> None:
        """Take over the notes of some numbers, each number's whole."""
        for number, notes in filed.items():
            self._known[number] = notes
            self._known.move_to_end(number)
        while len(self._known) > self._limit:
            self._known.popitem(last=False)

    def keep(self, note: NoteEvent) -> None:
        """Remember the version of a note that came last, where it has a text."""
        key = note.note_id, note.processing
        if before := self._notes.pop(key, None):
            self._room += len(before.text)
        if note.text:
            self._notes[key] = note
            self._room -= len(note.text)
        while self._room < 0:
            _, oldest = self._notes.popitem(last=False)
            self._room += len(oldest.text)

    def last(self, note_id: str, processing: ProcessingId) -> NoteEvent | None:
        """Return the version of a note that came last, None where it has no text or is not remembered."""
        return self._notes.get((note_id, processing))


def after(notes: Iterable[Filed], one: Filed) -> tuple[Filed, ...]:
    """Return a number's notes after another one was filed, or one of them again."""
    return (*(other for other in notes if (other.patient_id, other.note_id) != (one.patient_id, one.note_id)), one)[-_KEPT:]


def number_of(identities: Identities, scope: str, *number: str) -> str:
    """Return a document's number as it is compared and remembered: keyed, because it is a record number too."""
    return identities.pseudonym("document", identities.authority(scope), "\x1e".join(number))


def note_of(number: str, *patient_id: str) -> str:
    """Return the `note_id` of a document by its number (`number_of`) and whom it is of."""
    return natural_id("note", number, *patient_id)


def own(notes: Iterable[Filed], contexts: Contexts, patient_id: str) -> list[Filed]:
    """Return those of a number's notes that are a patient's, or were of a record that was merged into theirs."""
    person = surviving(contexts, patient_id)
    return [one for one in notes if surviving(contexts, one.patient_id) == person]
