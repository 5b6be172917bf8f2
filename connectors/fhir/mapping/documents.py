"""DocumentReference, DiagnosticReport and Communication to notes (and a Communication about an alert of ours to feedback).

`note_id` stays over a document's versions and is never one of two patients' documents (`connectors.documents`). It derives from:

| the resource | |
|---|---|
| has a masterIdentifier (the document's, whatever resource has it) | that and the patient; HL7 v2's TXA-12 likewise |
| is an update (PUT, rest-hook, fetched) | its id on its server |
| is a create with an id, which is no promise (R4 http.html#create; some send one for all) | that and the patient |
| has no id | its first identifier, of a DiagnosticReport the code too (an accession number is of several), and the patient |
| has neither, and others of its request have that number too (both knees of one accession number) | its place among them, too |
| has no identifier either | its content |

An identifier without a system is the server's. Where an update's note was another until now (another subject, a masterIdentifier)
the new one takes its place: what an id was filed under is remembered, in memory. What a document replaces or adds to (relatesTo) is
found by the target's id, else by an identifier: its masterIdentifier, or any that is remembered of one document alone.

| | status | relation |
|---|---|---|
| DocumentReference | status, docStatus | relatesTo: replaces, appends; else original, edit where docStatus is amended |
| DiagnosticReport | status | original; edit where the status says that it was changed |
| Communication | status | original |
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from connectors import texts
from connectors.contexts import surviving
from connectors.documents import Filed, after, note_of, number_of, own
from connectors.fhir.mapping.attachments import content
from connectors.fhir.mapping.reading import Reading, Subject, codings, objects, text
from connectors.fhir.structure import Json, kind_of
from processors.events import Coding, FeedbackEvent, NoteEvent, Relation
from processors.identity import natural_id

Status = Literal["preliminary", "final", "amended", "corrected", "cancelled", "entered-in-error"]

LOINC: Final = "http://loinc.org"
ALERT_SYSTEM: Final = "urn:vigil:alert"  # identifier system of our alerts, as we send them out
_PATIENT_SYSTEM: Final = "urn:vigil:patient"  # of `connectors.deliver.fhir`
_DOCUMENT: Final[dict[str, Status]] = {  # DocumentReference.docStatus (composition-status)
    "preliminary": "preliminary",
    "final": "final",
    "amended": "amended",
    "entered-in-error": "entered-in-error",
    "": "final",
}
_REPORT: Final[dict[str, Status]] = {  # DiagnosticReport.status (diagnostic-report-status)
    "registered": "preliminary",
    "partial": "preliminary",
    "preliminary": "preliminary",
    "final": "final",
    "amended": "amended",
    "corrected": "corrected",
    "appended": "amended",
    "cancelled": "cancelled",
    "entered-in-error": "entered-in-error",
    "unknown": "preliminary",
}
_RELATIONS: Final[dict[str, Relation]] = {"replaces": "replacement", "transforms": "replacement", "appends": "addendum"}
_CHANGED: Final = frozenset({"amended", "corrected", "appended", "entered-in-error"})  # of a DiagnosticReport: a version of one
_VOID: Final = frozenset({"cancelled", "entered-in-error"})
_ANSWERS: Final[dict[str, Literal["alert-acknowledged", "alert-declined", "alert-answer-retracted"]]] = {
    "completed": "alert-acknowledged",
    "not-done": "alert-declined",
    "entered-in-error": "alert-answer-retracted",
}
_STAFF: Final = frozenset({"Practitioner", "PractitionerRole"})
_UNKNOWN_REPLY: Final = (
    f"no answer to an alert that is known: inResponseTo.identifier of {ALERT_SYSTEM} names one, not an id of the EHR"
)


def map_document(reading: Reading) -> None:
    """Map a DocumentReference."""
    resource = reading.resource
    status = _DOCUMENT.get(text(resource.get("docStatus")), "preliminary")
    relation: Relation = "edit" if status == "amended" else "original"
    target = None
    for one in objects(resource, "relatesTo"):
        if found := _RELATIONS.get(text(one.get("code"))):
            relation, target = found, one.get("target")
    if resource.get("status") == "entered-in-error":
        status = "entered-in-error"
    elif resource.get("status") == "superseded":  # by another document, which says so itself
        status, relation = "cancelled", "cancel"
    attachments = [(f"content[{n}].attachment", one.get("attachment")) for n, one in enumerate(objects(resource, "content"))]
    context = resource.get("context")
    stays = objects(context, "encounter") if isinstance(context, dict) else iter(())
    creations = {f"{place}.creation": one.get("creation") for place, one in attachments if isinstance(one, dict)}
    _publish(
        reading,
        status=status,
        relation=relation,
        target=target,
        kind=resource.get("type") or resource.get("category"),
        text="" if status in _VOID else _whole(reading, attachments),
        times={"date": resource.get("date"), **creations},
        encounter=next(stays, None),
    )


def map_report(reading: Reading) -> None:
    """Map a DiagnosticReport: its presented forms, else its conclusion."""
    resource = reading.resource
    status = _REPORT.get(text(resource.get("status")), "preliminary")
    attachments = [(f"presentedForm[{n}]", one) for n, one in enumerate(objects(resource, "presentedForm"))]
    words = ""
    if status not in _VOID:
        words = _whole(reading, attachments) or _plain(reading, "conclusion", text(resource.get("conclusion")))
    if not words and status not in _VOID:
        if not reading.troubles:
            reading.note("", "a report without text (presentedForm, conclusion): not used")
        return
    period = resource.get("effectivePeriod")
    spans = {f"effectivePeriod.{name}": period.get(name) for name in ("end", "start")} if isinstance(period, dict) else {}
    _publish(
        reading,
        status=status,
        relation="edit" if status in ("amended", "corrected") else "original",
        target=None,
        kind=resource.get("code"),
        text=words,
        times={name: resource.get(name) for name in ("issued", "effectiveDateTime")} | spans,
        encounter=resource.get("encounter"),
    )


def map_communication(reading: Reading) -> None:
    """Map a Communication: what people answered to an alert of ours, or a text that was sent about a patient."""
    resource, believed = reading.resource, reading.sender.peer.answers_alerts
    if alerts := _alert_ids(reading):
        if not believed:
            reading.note("inResponseTo", "an answer to an alert by a peer without `answers_alerts`: not used")
        elif reading.acts("answers no alert"):
            _feedback(reading, alerts)
        return
    if any(text(one.get("system")) == ALERT_SYSTEM for one in objects(resource, "identifier")):
        reading.note("identifier", "an alert that Vigil itself wrote to that server: not used")
        return
    strings = [
        (f"payload[{n}].contentString", text(one.get("contentString"))) for n, one in enumerate(objects(resource, "payload"))
    ]
    words = "\n".join(filter(None, (_plain(reading, *one) for one in strings)))
    attachments = [
        (f"payload[{n}].contentAttachment", one.get("contentAttachment"))
        for n, one in enumerate(objects(resource, "payload"))
        if "contentAttachment" in one
    ]
    words = "\n\n".join(filter(None, (words, _whole(reading, attachments))))
    status: Status = {"completed": "final", "entered-in-error": "entered-in-error", "not-done": "cancelled"}.get(  # type: ignore[assignment]
        text(resource.get("status")), "preliminary"
    )
    reply = believed and any(objects(resource, "inResponseTo"))
    if not words and status not in _VOID:
        if reply:
            reading.trouble("inResponseTo", _UNKNOWN_REPLY, code="not-found")
        elif not reading.troubles:
            reading.note("payload", "a communication without text: not used")
        return
    if reply:
        reading.note("inResponseTo", _UNKNOWN_REPLY)
    _publish(
        reading,
        status=status,
        relation="original",
        target=None,
        kind=next(objects(resource, "category"), None) or {"text": "Communication"},
        text="" if status in _VOID else words,
        times={name: resource.get(name) for name in ("sent", "received")},
        encounter=resource.get("encounter"),
    )


def _publish(
    reading: Reading,
    *,
    status: Status,
    relation: Relation,
    target: Any,
    kind: Any,
    text: str,
    times: Mapping[str, object],
    encounter: Any,
) -> None:
    if not text.strip() and status not in _VOID:
        if not reading.troubles:
            reading.trouble("content", "a document without text", code="required")
        return
    subject = reading.subject()
    authored = reading.stamp(times)
    if subject is None or authored is None:
        return
    event_id = reading.event_id(NoteEvent)
    note_id, left = _filed(reading, subject, event_id, withdrawn=status in _VOID)
    if left and relation == "original":
        relation = "cancel" if status in _VOID else "edit"
    reading.events.append(
        NoteEvent(
            id=event_id,
            patient_id=subject.patient_id,
            encounter_id=reading.encounter(encounter, subject),
            note_id=note_id,
            status=status,
            relation=relation,
            replaces=left if left and relation != "addendum" else _target_id(reading, subject, target),
            note_type=_kind(kind),
            text=text,
            authored_at=authored,
            received_at=reading.sender.received_at,
            processing=reading.processing,
            origin=reading.origin,
        )
    )


def delete(reading: Reading) -> Literal["deleted", "unknown", "several"]:
    """Withdraw the note that is filed under the id of a resource which was deleted; `several`: of which of them nobody can tell."""
    number = _keyed(reading, reading.sender.base, f"{reading.kind}/{reading.name}")
    filed = _notes(reading, number)
    if len({one.note_id for one in filed}) != 1:
        return "several" if filed else "unknown"
    note = filed[-1]
    if note.withdrawn:
        reading.note("", "nothing of it stands: taken back before")
        return "deleted"
    reading.resource["meta"] = {"versionId": natural_id("deleted", note.note_id, note.event)}  # the same until it is known
    event_id, at = reading.event_id(NoteEvent), reading.sender.received_at
    reading.events.append(
        NoteEvent(
            id=event_id,
            patient_id=surviving(reading.site.contexts, note.patient_id),
            note_id=note.note_id,
            status="entered-in-error",
            relation="cancel",
            note_type=Coding(code="unknown"),
            text="",
            authored_at=at,
            received_at=at,
            processing=reading.processing,
            origin=reading.origin,
        )
    )
    reading.documents[_remembered(reading, number)] = (*filed[:-1], replace(note, event=event_id, withdrawn=True))
    return "deleted"


def _kind(concept: Any) -> Coding:
    """Return the document's type: the first LOINC code, else the sender's own first, else its text."""
    concept = concept[0] if isinstance(concept, list) and concept else concept
    coded = codings(concept)
    code, words, system = next((one for one in coded if one[2] == "LN"), coded[0] if coded else ("unknown", "", ""))
    return Coding(system=LOINC if system == "LN" else "", code=code or words, display=words if code else "")


# ------------------------------------------------------------------------------------------------------------------- ids


@dataclass(frozen=True, slots=True)
class _Numbers:
    """What a resource is known by, as numbers that are compared (`number_of`). `note`: what its note derives from."""

    id: str
    note: str
    every: frozenset[str]
    vouched: bool  # its note derives from an id that its sender gives to nothing else
    further: bool  # others of the request have its number too, and are other documents


def _numbers(reading: Reading, resource: Json, whose: str, *, vouched: bool) -> _Numbers:
    """Return the numbers of a resource that is about that patient."""
    masters, named = ([*filter(_value, objects(resource, name))] for name in ("masterIdentifier", "identifier"))
    given = [_given(reading, one) for one in (*masters, *named)]
    name = text(resource.get("id"))
    itself = reading if resource is reading.resource else Reading(resource, reading.sender, reading.site, reading.index)
    note, place = _keyed(reading, reading.sender.base, f"{kind_of(resource)}/{itself.logical_id}"), 0
    if not name and named:
        code = (_kind(resource.get("code")).code,) if kind_of(resource) == "DiagnosticReport" else ()
        note = _keyed(reading, text(named[0].get("system")), _value(named[0]), *code)
        if not (itself.name or masters):  # no conditional update, which is of what its identifier names
            same = reading.index.numbered.setdefault((note, whose), {})  # the same content twice is one
            if place := same.setdefault(itself.digest, len(same)):  # 0 for the first
                note = _keyed(reading, "", note, str(place + 1))
    own_id = note
    if masters:
        note = given[0]
    return _Numbers(own_id, note, frozenset((own_id, note, *given)), vouched and bool(name) and not masters, bool(place))


def _value(identifier: Json) -> str:
    return text(identifier.get("value"))


def _given(reading: Reading, identifier: Json) -> str:
    return _keyed(reading, text(identifier.get("system")), _value(identifier))


def _keyed(reading: Reading, scope: str, *number: str) -> str:
    return number_of(reading.site.identities, scope or reading.sender.base, *number)


def _filed(reading: Reading, subject: Subject, event_id: str, *, withdrawn: bool) -> tuple[str, str | None]:
    """File the document by its event; return its note and, where an update's note was another until now, that one."""
    numbers = _numbers(reading, reading.resource, subject.patient_id, vouched=reading.update)
    if numbers.further:
        reading.note("identifier", "of another document in the same request too: a document of its own")
    corrects = withdrawn or reading.resource.get("docStatus") == "amended" or text(reading.resource.get("status")) in _CHANGED
    mine = own(_notes(reading, numbers.note, subject), reading.site.contexts, subject.patient_id)
    note_id = mine[-1].note_id if mine else note_of(numbers.note, *(() if numbers.vouched else (subject.patient_id,)))
    before = _notes(reading, numbers.id) if reading.update and reading.name else ()
    if not before and not mine and corrects and numbers.note != numbers.id and reading.update and reading.name:
        before = _notes(reading, numbers.note, subject, anybody=True)  # before this process: by the masterIdentifier alone
    last = next((one for one in before if one.note_id == note_id), None)
    took = last.took if last else before[0].note_id if len({one.note_id for one in before}) == 1 else None
    if last and any(one.note_id == took for number in numbers.every for one in _notes(reading, number)):
        took = None  # it was filed anew since
    for number in numbers.every:
        notes = (one for one in _notes(reading, number) if one.note_id != took)
        filed = Filed(subject.patient_id, note_id, took=took, event=event_id, withdrawn=withdrawn)
        reading.documents[_remembered(reading, number)] = after(notes, filed)
    return note_id, took


def _notes(reading: Reading, number: str, subject: Subject | None = None, *, anybody: bool = False) -> tuple[Filed, ...]:
    """Return the notes that were filed under a number; of what was before this process began the subject's, else `anybody`'s."""
    key, documents = _remembered(reading, number), reading.site.documents
    if known := reading.documents.get(key) or documents.get(key):
        return known
    source = reading.sender.name, reading.processing
    if alone := documents.former.alone(source, number):
        return alone
    if subject is None:
        return ()
    return documents.former.of(source, number, reading.site.contexts, subject.patient_id, anybody=anybody)


def _remembered(reading: Reading, number: str) -> str:
    """Return by what a number is remembered; test data's is apart."""
    return f"{reading.processing}\x1f{number}"


def _target_id(reading: Reading, subject: Subject, reference: Any) -> str | None:
    """Return the `note_id` of the document that a Reference means."""
    if not isinstance(reference, dict):
        return None
    literal = text(reference.get("reference"))
    if target := reading.index.find(literal, reading.resource):
        about = target.get("subject")
        whose = (reading.patient(about) if isinstance(about, dict) else None) or subject
        numbers = _numbers(reading, target, whose.patient_id, vouched=reading.update)
        given = () if numbers.vouched else (whose.patient_id,)
        return _found(reading, whose, numbers.note) or note_of(numbers.note, *given)
    if logical := reading.logical_identifier(literal, "DocumentReference"):
        number = _keyed(reading, logical.authority, f"DocumentReference/{logical.value}")
        return _found(reading, subject, number) or note_of(number)
    named = [_given(reading, one) for one in objects(reference, "identifier") if _value(one)]
    found = (_found(reading, subject, number) for number in named)
    return next(filter(None, found), None) or (note_of(named[0], subject.patient_id) if named else None)


def _found(reading: Reading, subject: Subject, number: str) -> str | None:
    """Return the one note that is remembered of a number, of the patient before others."""
    notes = _notes(reading, number, subject)
    for those in (own(notes, reading.site.contexts, subject.patient_id), notes):
        if len({one.note_id for one in those}) == 1:
            return those[0].note_id
        if those:
            return None
    return None


# ---------------------------------------------------------------------------------------------------------------- content


def _whole(reading: Reading, attachments: list[tuple[str, Any]]) -> str:
    """Return the text of all attachments; of several forms of the same document (text and PDF) the first that has text."""
    found: list[str] = []
    failed: list[tuple[str, str]] = []
    for place, attachment in attachments:
        if not isinstance(attachment, dict):
            continue
        try:
            words = _attached(reading, attachment)
        except ValueError as error:
            failed.append((place, str(error)))
            continue
        if words not in found:
            found.append(words)
    if not found:
        for place, reason in failed:
            reading.trouble(place, reason)
    else:
        for place, reason in failed:
            reading.note(place, f"{reason}; another form of the document was used")
    return found[0] if found else ""


def _plain(reading: Reading, place: str, words: str) -> str:
    """Return the text of a string element, which may hold a document (RTF, HTML); empty, noted as trouble, where it has none."""
    try:
        return texts.text_of_words(words)
    except ValueError as error:
        reading.trouble(place, str(error))
        return ""


def _attached(reading: Reading, attachment: Json) -> str:
    """Return the text of an Attachment. Raises `ValueError` with the reason, not the content, when there is none."""
    data, kind = content(reading, attachment)
    return texts.text_of(data, kind, _charset(kind))


def _charset(kind: str) -> str:
    for parameter in kind.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip(' "') or "utf-8"
    return "utf-8"


# --------------------------------------------------------------------------------------------------------------- feedback


def _alert_ids(reading: Reading) -> list[str]:
    """Return the alerts of ours that a Communication answers: by our identifier, or that of what it points at inside the request.

    An alert that it is about, or based on, it does not answer.
    """
    found: list[str] = []
    for reference in objects(reading.resource, "inResponseTo"):
        literal = text(reference.get("reference"))
        target = reading.index.find(literal, reading.resource) if literal else None
        given = [*objects(reference, "identifier"), *(objects(target, "identifier") if target else ())]
        found += [text(one.get("value")) for one in given if text(one.get("system")) == ALERT_SYSTEM]
    return [*dict.fromkeys(filter(None, found))]


def _feedback(reading: Reading, alerts: list[str]) -> None:
    """A Communication answers by its status; its sender must be one of the staff."""
    resource = reading.resource
    kind = _ANSWERS.get(text(resource.get("status")))
    if kind is None:
        reading.note("status", "an answer that is not given yet: not used")
        return
    who, kinds = _sender(reading)
    if kinds - _STAFF:
        reading.trouble("sender", "an answer to an alert by what is none of the staff (Practitioner, PractitionerRole)")
        return
    if not who:
        reading.trouble("sender", "an answer to an alert that nobody is named for", code="required")
        return
    patient_id = _pseudonym(resource)
    if not patient_id:
        subject: Subject | None = reading.subject()
        if subject is None:
            return
        patient_id = subject.patient_id
    given = reading.stamp({name: resource.get(name) for name in ("sent", "received")})
    if given is None:
        return
    reasons = [one for one in codings(resource.get("statusReason")) if any(one)]
    for alert in alerts:
        reading.events.append(
            FeedbackEvent(
                id=reading.event_id(FeedbackEvent),
                patient_id=patient_id,
                kind=kind,
                target_id=alert,
                by=who,
                reason=reasons[0][1] or reasons[0][0] if reasons else "",
                given_at=given,
                received_at=reading.sender.received_at,
                origin=reading.origin,
            )
        )


def _pseudonym(resource: Json) -> str:
    """Return Vigil's own patient id, where the answer repeats the one that stood in the alert."""
    subject = resource.get("subject")
    identifiers = objects(subject, "identifier") if isinstance(subject, dict) else ()
    return next((text(one.get("value")) for one in identifiers if text(one.get("system")) == _PATIENT_SYSTEM), "")


def _sender(reading: Reading) -> tuple[str, set[str]]:
    """Return who sent it, and of what types they are said to be: by the reference and by what it points at inside the request."""
    sender = reading.resource.get("sender")
    if not isinstance(sender, dict):
        return "", set()
    literal = text(sender.get("reference"))
    target = reading.index.find(literal, reading.resource) if literal else None
    parts = literal.split("/_history/")[0].rstrip("/").split("/")
    own = parts[-2] if len(parts) > 1 else ""  # Practitioner/7, with or without a base
    kinds = {own, kind_of(target or {}), text(sender.get("type")).rsplit("/", 1)[-1]} - {""}
    given = (*objects(sender, "identifier"), *(objects(target, "identifier") if target else ()))
    named = next((value for one in given if (value := text(one.get("value")))), "")
    return named or (literal if own else ""), kinds
