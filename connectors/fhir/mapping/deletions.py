"""A resource that was deleted on its server, or is to be deleted here: what it said is taken back.

Nothing but its type and id comes with a deletion. So what is remembered of that id is taken back, as if the resource had come as
entered in error:

| deleted | becomes |
|---|---|
| Observation | each value that stands, as `entered-in-error`, for its patient, code and time (`versions`) |
| DocumentReference, DiagnosticReport, Communication | a withdrawal of its note, under the note's id (`documents`) |
| Media | words that take its pictures back (`media`) |
| Patient | its record is as after an A29: the watch ends until registration speaks of it again |
| Patient, where another one (id) is filed under that record too | the record stays, noted |

What nothing is known of is said, and takes nothing back: an id that was forgotten, another process's, a fact about the patient.
"""

from typing import Final, Literal

from connectors.contexts import FACTS
from connectors.fhir.mapping import documents, media
from connectors.fhir.mapping.observations import Observed
from connectors.fhir.mapping.patients import Book
from connectors.fhir.mapping.reading import Reading, Shown
from connectors.fhir.mapping.versions import Versions, follow
from connectors.fhir.structure import LONGEST_ID
from connectors.identity import LOGICAL
from processors.events import Identifier, PatientEvent
from processors.identity import natural_id

Deleted = Literal["deleted", "unknown", "several"]
_DELETED: Final = {
    name: PatientEvent.model_fields[name].default for name in FACTS if name not in ("identifiers", "merged_into", "merged_by")
} | {"deleted": True}


def map_deletion(
    reading: Reading, book: Book, shown: dict[str, Shown], versions: dict[str, Versions], known: Versions
) -> Deleted:
    """Map the deletion of what `reading` names by type and id; say what is known of that.

    `shown` and `versions`: of this request, to which what stands from now on is added; `known`: the Observation's versions.
    """
    if len(reading.name) > LONGEST_ID:  # nothing that was taken has such an id
        return "unknown"
    match reading.kind:
        case "Observation":
            return _observation(reading, versions, known)
        case "Media":
            return media.delete(reading, shown)
        case "Patient":
            return _patient(reading, book)
        case _:
            return documents.delete(reading)


def _observation(reading: Reading, versions: dict[str, Versions], known: Versions) -> Deleted:
    if not known:
        return "unknown"
    reading.resource["status"] = "entered-in-error"
    reading.resource["meta"] = {"versionId": natural_id("deleted", *known[-1].name)}  # a repeat has the same, until it is known
    nothing: list[Observed] = []
    _, versions[reading.remembered_by] = follow(reading, nothing, known, update=True)
    return "deleted"


def _patient(reading: Reading, book: Book) -> Deleted:
    own = Identifier(authority=reading.sender.base, value=reading.name, kind=LOGICAL)
    alias = reading.site.identities.patient(own)
    known = book.get(alias)
    if known is None:
        return "unknown"
    if not reading.acts("changes no patient's context", as_context=True):
        return "deleted"
    record = known.merged_into if known.merged_into and not known.merged_by else alias
    at = reading.sender.received_at
    reading.resource["meta"] = {"versionId": natural_id("deleted", known.id, record)}
    others = (book.get(one) for one in book.merged(record) - {alias})
    if any(one and not one.deleted and {each.kind for each in one.identifiers} == {LOGICAL} for one in others):
        reading.note("", "another Patient is filed under that record too: the record stays")
    elif (filed := book.get(record)) is None or filed.deleted:
        reading.note("", "deleted before")
    else:  # one that was merged away stays so: the surviving one is not touched
        book.write(reading, record, _DELETED, at=at)
    if record != alias and not known.deleted:
        book.write(reading, alias, {"deleted": True}, at=at)
    return "deleted"
