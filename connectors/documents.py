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

What says so: see `connectors.hl7.mapping.documents` and `connectors.fhir.mapping.documents`.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from connectors.contexts import Contexts, surviving
from connectors.identity import Identities
from processors.events import NoteEvent, ProcessingId
from processors.identity import natural_id

_KEPT: Final = 4  # notes of a number: more only show again that it is given to several documents


@dataclass(frozen=True, slots=True)
class Filed:
    """A note that was filed under a number.

    `at`: the time that the document says it is of, as sent; empty where it says none. `took`: the note whose place it took, so that
    what was not confirmed says the same when it comes again. `event`: the id of the event that filed it last, where that is asked.
    """

    patient_id: str
    note_id: str
    at: str = ""
    took: str | None = None
    event: str = ""


class Documents:
    """The notes of the numbers heard of most recently, at most `limit` (about 500 bytes each); forgets the oldest above that.

    And the newest texts, at most `characters` of them in all: what changes a document's status may come without its text.
    """

    def __init__(self, limit: int = 100_000, characters: int = 32_000_000) -> None:
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
