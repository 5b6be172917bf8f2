"""From the body of one request to everything that follows from it: events, answer, and why. Pure: nothing is sent or stored.

The server calls `handle`, publishes `Outcome.events`, and only then sends `Outcome.answer`; `vigil check-feed` calls it and shows
the outcome.

| request | becomes |
|---|---|
| a supported type, by POST or PUT | its events |
| DELETE of a supported type and id | what the id is remembered to have said, taken back (see `mapping.deletions`) |
| another type by itself | 404 |
| Bundle `batch` | each entry by itself: one that is refused does not stop the others |
| Bundle `transaction` | all entries or none |
| Bundle `message` to $process-message | all entries after the MessageHeader or none |
| Bundle `history`, `searchset`, `collection` at the hook | all entries that can be used |
| a notification (see `subscriptions`) | the resources behind its status |
| any other Bundle | 422 |
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal, TypeVar

import orjson
from pydantic import ValidationError

from connectors.contexts import Contexts, MemoryContexts
from connectors.documents import Documents, Filed, Former
from connectors.fhir.acknowledgement import (
    BAD_REQUEST,
    CONFLICT,
    CREATED,
    NOT_ALLOWED,
    NOT_FOUND,
    OK,
    TOO_LARGE,
    UNPROCESSABLE,
    Answer,
    Issue,
    Severity,
    Verdict,
    operation_outcome,
)
from connectors.fhir.bundles import (
    NOTIFICATIONS,
    STAND_IN,
    Entry,
    announced,
    answer_of,
    condition_of,
    deletion_issue,
    entries_of,
    location_of,
    message_of,
    overlap_issues,
    request_issues,
)
from connectors.fhir.capability import DELETABLE, SUPPORTED
from connectors.fhir.letters import REASONS_SHOWN, discreet, in_words, letter_of_refused, letters_of
from connectors.fhir.mapping.deletions import Deleted, map_deletion
from connectors.fhir.mapping.documents import map_communication, map_document, map_report
from connectors.fhir.mapping.media import map_media
from connectors.fhir.mapping.observations import Fact, Observed, map_observation, vitals_events
from connectors.fhir.mapping.patients import Book, map_encounter, map_patient
from connectors.fhir.mapping.reading import HTEST, Fetched, Index, Reading, Sender, Shown, Site, Stay, text
from connectors.fhir.mapping.versions import Memory, Versions, follow
from connectors.fhir.settings import FhirSettings
from connectors.fhir.structure import Json, Unreadable, is_known, kind_of, parse, validate
from connectors.fhir.subscriptions import Status, status_of
from connectors.fhir.understanding import modifier_issues
from connectors.identity import Identities
from connectors.publisher import NewObject
from processors.events import Event, PatientEvent, excess

log = logging.getLogger(__name__)

Remembered = TypeVar("Remembered")
Door = Literal["create", "update", "bundle", "message", "hook", "any"]
_WITHOUT_REQUEST: Final = frozenset({"message", "searchset", "collection"}) | NOTIFICATIONS
_HOOK_BUNDLES: Final = frozenset({"history", "searchset", "collection", "transaction", "batch"})
# order of mapping inside one request: what others refer to first
_ORDER: Final = {"Patient": 0, "Encounter": 1}


def _turn_of(resource: Json) -> tuple[int, bool]:
    """Return a resource's place in the order of mapping: whom it is about, then stays, whole ones before their parts."""
    return _ORDER.get(kind_of(resource), 2), "partOf" in resource


@dataclass(frozen=True, slots=True)
class Request:
    """By which door a body came in, and what the URL said of it. `any` (files): what it is decides.

    `deletes`: it is no body, but word that what the URL names is deleted. `fetched`: what was to be had of the URLs that an earlier
    mapping of the same body wanted.
    """

    door: Door = "any"
    kind: str = ""
    id: str = ""
    deletes: bool = False
    fetched: Mapping[str, Fetched] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Learnt:
    """What is to be remembered once the events are confirmed: what Encounters, Media, Observations and documents are."""

    encounters: dict[str, Stay] = field(default_factory=dict)
    shown: dict[str, Shown] = field(default_factory=dict)
    versions: dict[str, Versions] = field(default_factory=dict)
    documents: dict[str, tuple[Filed, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a request leads to. `events` must be confirmed before `answer` is sent.

    `reason` says in words without patient text what was noted; `learnt` is to be remembered once the events are confirmed;
    `pictures` are to be stored before, each for the image event of that id.
    """

    verdict: Verdict
    answer: Answer
    issues: tuple[Issue, ...] = ()
    events: tuple[Event, ...] = ()
    resource_type: str = ""
    learnt: Learnt = field(default_factory=Learnt)
    pictures: dict[str, NewObject] = field(default_factory=dict)
    notification: Status | None = None
    announced: tuple[str, ...] = ()  # what a notification names and does not carry
    wanted: frozenset[str] = frozenset()  # URLs of content that did not come along
    refusals: tuple[tuple[int, str], ...] = ()  # of a batch: the entries that cannot be used at all, and why

    @property
    def code(self) -> int:
        """The HTTP status."""
        return self.answer.status

    @cached_property
    def reason(self) -> str:
        """The issues in words."""
        return in_words([discreet(issue) for issue in self.issues])

    @cached_property
    def contexts(self) -> tuple[PatientEvent, ...]:
        """The patient contexts among the events."""
        return tuple(event for event in self.events if isinstance(event, PatientEvent))


class FhirMapper:
    """Reads requests for one site. `contexts` is asked for what is known of a patient; `learn` is called after the confirmation."""

    def __init__(
        self,
        settings: FhirSettings,
        identities: Identities,
        contexts: Contexts | None = None,
        former: Former | None = None,
    ) -> None:
        """`former`: the notes that were filed before this process began."""
        self.settings = settings
        self.contexts: Contexts = contexts if contexts is not None else MemoryContexts()
        self._encounters, self._shown = _Bounded[Stay](), _Bounded[Shown]()
        self._versions = Memory(settings.remembered_observations)
        self._documents = Documents(former=former)
        self._site = Site(settings, identities, self.contexts, self._encounters, self._shown, self._documents)

    def sender(self, name: str, received_at: Any) -> Sender:
        """Return the sender of a peer's name."""
        return Sender(name, self.settings.peers[name], received_at)

    def learn(self, outcome: Outcome) -> None:
        """Remember what a confirmed outcome says about patients, stays, pictures and documents, and what its Observations said."""
        for context in outcome.contexts:
            self.contexts.remember(context)
        self._encounters.update(outcome.learnt.encounters)
        self._shown.update(outcome.learnt.shown)
        self._versions.remember(outcome.learnt.versions)
        self._documents.remember(outcome.learnt.documents)

    def handle(self, body: bytes, sender: Sender, request: Request = Request()) -> Outcome:
        """Parse, validate, map and decide. Never raises for what a body contains."""
        try:
            resource: Json = parse(body, deepest=self.settings.deepest) if not request.deletes else {}
        except Unreadable as error:
            return _refused(BAD_REQUEST, (error.issue,), error.issue.expression)
        kind = kind_of(resource)
        try:
            if request.deletes:
                return self._deleted(sender, request)
            if kind == "Bundle" and (request.door in ("bundle", "message", "hook", "any")):
                return self._bundle(resource, sender, request)
            return self._single(resource, sender, request)
        except ValidationError as error:
            if found := excess(error):  # nothing is cut: the sender keeps it
                words = f"longer than the {found.most} {found.things} that are taken"
                return _refused(
                    UNPROCESSABLE, (Issue("error", "too-long", words, _place_of(resource, found.value) or kind),), kind
                )
            return self._failed(error, kind, sender)
        except Exception as error:  # whatever a body does to us, its sender gets an answer and keeps what it has
            return self._failed(error, kind, sender)

    def _failed(self, error: Exception, kind: str, sender: Sender) -> Outcome:
        log.error("mapping failed: %s (type %s, peer %s)", *_fault(error), kind if is_known(kind) else "?", sender.name)
        return _refused(BAD_REQUEST, (Issue("error", "exception", f"the mapping failed with {type(error).__name__}"),), kind)

    # ------------------------------------------------------------------------------------------------------- one resource

    def _single(self, resource: Json, sender: Sender, request: Request) -> Outcome:
        kind = kind_of(resource)
        entry = Entry(resource, method="PUT" if request.door == "update" else "POST")
        if refusal := _contradiction(resource, request):
            return _refused(BAD_REQUEST, (refusal,), kind)
        entry.check(self.settings.most_entries)
        if entry.refused:
            return _refused(entry.refusal if kind in SUPPORTED else BAD_REQUEST, tuple(entry.issues), kind)
        if kind not in SUPPORTED:
            issue = Issue("error", "not-supported", "this resource type is not taken; see the CapabilityStatement", kind)
            verdict: Verdict = "ignored" if is_known(kind) else "refused"
            return replace(_refused(NOT_FOUND, (issue,), kind), verdict=verdict)
        events, learnt = self._map([entry], sender, request)
        self._grade(entry)
        if entry.status == UNPROCESSABLE:
            return replace(_refused(UNPROCESSABLE, tuple(entry.issues), kind), verdict="ignored")
        location = (("Location", f"{self.settings.path}/{location_of(entry)}"),) if entry.status == CREATED else ()
        answer = Answer(entry.status, operation_outcome(entry.issues), location)
        verdict, wanted = _verdict(events, [entry]), _wanted([entry])
        return Outcome(verdict, answer, tuple(entry.issues), tuple(events), kind, learnt, _pictures([entry]), wanted=wanted)

    def _deleted(self, sender: Sender, request: Request) -> Outcome:
        """Take back what the URL names. By the hook, whose server cannot do better, what is not known is noted and not refused."""
        kind = request.kind
        entry = Entry({"resourceType": kind, "id": request.id}, method="DELETE", indexed=False)
        if kind not in DELETABLE and request.door != "hook":
            issue = deletion_issue(kind if is_known(kind) else "resource", "")
            status = NOT_ALLOWED if kind in SUPPORTED else NOT_FOUND
            allowed = (("Allow", "PUT"),) if status == NOT_ALLOWED else ()
            answer = Answer(status, operation_outcome((issue,)), allowed)
            return Outcome("ignored" if is_known(kind) else "refused", answer, (issue,), resource_type=kind)
        events, learnt = self._map([entry] if kind in SUPPORTED else [], sender, request)
        self._grade(entry)
        if entry.refused:
            return _refused(entry.status, tuple(entry.issues), kind)
        answer = Answer(OK, operation_outcome(entry.issues))
        return Outcome("accepted" if events else "ignored", answer, tuple(entry.issues), tuple(events), kind, learnt)

    # ------------------------------------------------------------------------------------------------------------ Bundles

    def _bundle(self, bundle: Json, sender: Sender, request: Request) -> Outcome:
        kind = text(bundle.get("type"))
        if issues := self._envelope(bundle):
            return _refused(BAD_REQUEST, issues, "Bundle")
        if modifiers := modifier_issues(bundle):
            return _refused(UNPROCESSABLE, tuple(modifiers), "Bundle")
        sender = sender.of(bundle)
        entries = [*entries_of(bundle)]
        notification = (
            status_of(bundle) if request.door in ("hook", "any") and kind in ("history", "subscription-notification") else None
        )
        if notification:
            entries = [entry for entry in entries[1:] if notification.carries_events]
        for entry in entries:
            if entry.resource:
                entry.check(self.settings.most_entries)
        taken = {"message": {"message"}, "hook": _HOOK_BUNDLES, "any": {"batch", "transaction", "message"}}
        if notification is None and kind not in taken.get(request.door, {"batch", "transaction"}):
            return self._no_such_bundle(entries, kind, request)
        for entry in entries:
            if kind not in _WITHOUT_REQUEST:
                entry.issues += request_issues(entry)
        if kind == "transaction" and (twice := overlap_issues(entries)):
            return _refused(BAD_REQUEST, tuple(twice), "Bundle")
        if kind == "message":
            header, (entries, refusal) = entries[:1], message_of(entries)
            sender = sender.of(header[0].resource) if header else sender
            if refusal:
                return _refused(header[0].refusal if header else BAD_REQUEST, (refusal,), "Bundle")
        # A notification is not sent again: what cannot be taken of it is kept, and the others of it stand.
        alone = notification is not None or (
            request.door == "hook" and kind not in ("batch", "transaction") and _stands(entries)
        )
        if kind != "batch" and not alone and (refused := [entry for entry in entries if entry.refused]):
            status = min(entry.refusal for entry in refused)
            return _refused(status, tuple(issue for entry in entries for issue in entry.issues), "Bundle")
        refusals = tuple((n, _why(entry)) for n, entry in enumerate(entries) if entry.refused)
        usable = [entry for entry in entries if not entry.refused and kind_of(entry.resource) in SUPPORTED]
        given = [(entry.url, entry.resource) for entry in entries if entry.indexed]
        events, learnt = self._map(usable, sender, request, given, told=kind in NOTIFICATIONS)
        for entry in entries:
            self._grade(entry)
        if alone and (notification is not None or _stands(entries)):
            events += [
                letter_of_refused(orjson.dumps(entry.resource), sender.name, _why(entry), sender.received_at)
                for entry in entries
                if entry.refused
            ]
        verdict = _verdict(events, entries)
        all_or_none = kind in ("transaction", "message") and any(entry.refused for entry in entries)
        if all_or_none or (verdict == "refused" and kind != "batch"):  # a batch is answered entry by entry
            return _refused(UNPROCESSABLE, tuple(issue for entry in entries for issue in entry.issues), "Bundle")
        if kind in _WITHOUT_REQUEST and notification is None:
            _say_what_is_empty(entries)
        issues = tuple(issue for entry in entries for issue in entry.issues)
        answer = answer_of(bundle, kind, entries)
        if not entries and not notification:
            issues = (Issue("information", "informational", "a Bundle without entries", "Bundle.entry"),)
        pictures, wanted = _pictures(entries), _wanted(entries)
        outcome = Outcome(verdict, answer, issues, tuple(events), "Bundle", learnt, pictures, wanted=wanted, refusals=refusals)
        return (
            replace(outcome, notification=notification, announced=announced(notification, entries)) if notification else outcome
        )

    def _envelope(self, bundle: Json) -> tuple[Issue, ...]:
        given = bundle.get("entry") or []
        if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
            return (Issue("error", "structure", "not a list of entries", "Bundle.entry"),)
        if len(given) > self.settings.most_entries:
            return (Issue("error", "too-costly", f"more than {self.settings.most_entries} entries", "Bundle.entry"),)
        # the entries' resources are validated one by one, so that one bad entry of a batch stands alone
        bare = {**bundle, "entry": [{n: v for n, v in one.items() if n != "resource"} | STAND_IN for one in given]}
        if not given:
            del bare["entry"]
        return tuple(validate(bare))

    def _no_such_bundle(self, entries: list[Entry], kind: str, request: Request) -> Outcome:
        if bad := [issue for entry in entries for issue in entry.issues if issue.is_error]:
            return _refused(BAD_REQUEST, tuple(bad), "Bundle")
        door = "$process-message" if kind == "message" else "nothing here"
        issue = Issue("error", "not-supported", f"a Bundle of this type is taken by {door}", "Bundle.type")
        return replace(_refused(UNPROCESSABLE, (issue,), "Bundle"), verdict="ignored" if request.door == "any" else "refused")

    # ------------------------------------------------------------------------------------------------------------ mapping

    def _map(
        self,
        entries: Iterable[Entry],
        sender: Sender,
        request: Request,
        given: Sequence[tuple[str, Json]] = (),
        *,
        told: bool = False,
    ) -> tuple[list[Event], Learnt]:
        """Map the entries together: vitals of one time become one set, what is said of one patient one context.

        What is to be deleted comes first (R4 http.html#trules); what a notification tells (`told`) has been, and comes last.
        """
        index, book = Index(given, request.fetched), Book(self.contexts)
        learnt = Learnt()
        observed: list[Observed] = []
        entries = [*entries]
        told = told or request.door == "hook"
        for entry in sorted(entries, key=lambda one: (one.deletes == told, *_turn_of(one.resource))):
            if entry.deletes:
                self._delete(entry, sender, index, book, learnt, told=told)
                continue
            update, condition = entry.method == "PUT" or request.door == "hook", condition_of(entry) or ""
            entry.reading = reading = Reading(
                entry.resource, sender, self._site, index, update=update, condition=condition, documents=learnt.documents
            )
            match reading.kind:
                case "Patient":
                    if reading.acts("changes no patient's context", as_context=True):
                        map_patient(reading, book)
                case "Encounter":
                    if reading.acts("changes no patient's context", as_context=True):
                        map_encounter(reading, book, learnt.encounters)
                case "DocumentReference":
                    map_document(reading)
                case "DiagnosticReport":
                    map_report(reading)
                case "Communication":
                    map_communication(reading)
                case "Media":
                    map_media(reading, learnt.shown)
                case "ImagingStudy":
                    reading.note("", "its instances come by C-STORE or STOW-RS, and say all that it does: not used")
                case _:
                    for found in self._observed(reading, learnt.versions):
                        if isinstance(found, Fact):
                            if reading.acts("changes no patient's context", as_context=True):
                                book.write(reading, found.subject.patient_id, found.said)
                        else:
                            observed.append(found)
                            reading.shared = True
        entries = [entry for entry in entries if entry.reading is not None]
        readings = [entry.reading for entry in entries if entry.reading is not None]
        first = (event for reading in readings for event in reading.first)
        events: list[Event] = [*book.events(), *first, *vitals_events(observed)]
        for reading in readings:
            events += reading.events
            events += letters_of(reading)
        for entry in entries:
            assert entry.reading is not None
            entry.say(*(issue for _, issue in entry.reading.troubles), *entry.reading.notes)
        return events, learnt

    def _delete(self, entry: Entry, sender: Sender, index: Index, book: Book, learnt: Learnt, *, told: bool) -> None:
        """Map a deletion. What its id said as test data is remembered apart, and nothing tells which it was."""
        kind, found = kind_of(entry.resource), _UNKNOWN
        if kind not in DELETABLE:
            entry.say(Issue("information", "informational", "of this type a deletion is not used", kind))
            return
        marked = {"meta": {"tag": [{"code": HTEST}]}}
        for resource in (entry.resource, entry.resource | marked):
            reading = Reading(resource, sender, self._site, index, update=True, documents=learnt.documents)
            known = learnt.versions.get(reading.remembered_by) or self._versions.get(reading.remembered_by)
            found = map_deletion(reading, book, learnt.shown, learnt.versions, known)
            if found != _UNKNOWN:
                break
        entry.reading = reading
        if found == "deleted":
            return
        severity: Severity = "warning" if told else "error"
        words, entry.status = _NOT_DELETED[found]
        entry.say(Issue(severity, "not-found" if found == _UNKNOWN else "multiple-matches", words, kind))

    def _observed(self, reading: Reading, versions: dict[str, Versions]) -> list[Observed | Fact]:
        """Map an Observation; what an earlier version said is corrected or taken back. `versions`: of this request."""
        name = reading.remembered_by
        known = (versions.get(name) or self._versions.get(name)) if name else ()
        found = map_observation(reading, remembered=bool(known))
        observed, said = follow(reading, [one for one in found if isinstance(one, Observed)], known, update=reading.update)
        if name and said:
            versions[name] = said
        return [*(one for one in found if isinstance(one, Fact)), *observed]

    def _grade(self, entry: Entry) -> None:
        """Set the entry's status by what was found."""
        kind = kind_of(entry.resource)
        if entry.refused:
            entry.status = entry.refusal
        elif entry.resource and kind not in SUPPORTED:
            if self.settings.not_for_us == "refuse" or not is_known(kind):
                entry.say(Issue("error", "not-supported", "this resource type is not taken", kind))
                entry.status = NOT_FOUND
            else:
                entry.say(Issue("information", "not-supported", "this resource type is not used", kind))
        elif entry.reading is not None:
            stored = entry.reading.stored
            not_for_us = not stored and any(one.diagnostics.endswith("not used") for one in entry.reading.notes)
            if not_for_us and self.settings.not_for_us == "refuse":
                entry.say(Issue("error", "business-rule", "nothing in it is for Vigil", kind))
                entry.status = UNPROCESSABLE
            else:  # 201 promises that it is durable
                entry.status = CREATED if entry.method in ("POST", "") and stored else OK

    def too_large(self, outcome: Outcome) -> Outcome:
        """Refuse what no broker will take: it stays with its sender."""
        issue = Issue("error", "too-long", "larger than what the broker takes as one event")
        return _refused(TOO_LARGE, (issue,), outcome.resource_type)


# ----------------------------------------------------------------------------------------------------------------- details

_UNKNOWN: Final[Deleted] = "unknown"
_NOT_DELETED: Final[Mapping[Deleted, tuple[str, int]]] = {
    "unknown": (
        "nothing is known of that id: nothing is taken back; send it as entered in error, with subject and time",
        NOT_FOUND,
    ),
    "several": (
        "several were filed under that id: nobody can tell which; send it as entered in error, with its subject",
        CONFLICT,
    ),
}


class _Bounded(dict[str, Remembered]):
    """Remembers a bounded number of stays or pictures, forgetting the oldest: a bare reference to one is then its own number."""

    limit = 200_000

    def update(self, *args: Any, **kwargs: Any) -> None:
        super().update(*args, **kwargs)
        for key in [*self][: max(0, len(self) - self.limit)]:
            del self[key]


def _refused(status: int, issues: tuple[Issue, ...], kind: str = "") -> Outcome:
    return Outcome("refused", Answer(status, operation_outcome(issues)), issues, resource_type=kind)


def _why(entry: Entry) -> str:
    """Return why an entry is refused, the places as they are in its resource."""
    kind = kind_of(entry.resource) if is_known(kind_of(entry.resource)) else "resource"
    shown = [str(discreet(issue)).replace(f"{entry.place}.resource", kind) for issue in entry.issues if issue.is_error]
    return "; ".join(shown[:REASONS_SHOWN])


def _place_of(part: Any, value: Any, place: str = "") -> str:
    """Return the FHIRPath of a value in what was sent, "" where it stands there otherwise."""
    place = place or text(part.get("resourceType"))
    for name, one in part.items():
        for n, item in enumerate(one) if isinstance(one, list) else ((-1, one),):
            here = f"{place}.{name}" + (f"[{n}]" if n >= 0 else "")
            if item == value:
                return here
            if isinstance(item, dict) and (found := _place_of(item, value, here)):
                return found
    return ""


def _say_what_is_empty(entries: Iterable[Entry]) -> None:
    """An entry without a resource (of a history: what was deleted) is accepted, and nothing becomes of it: say so."""
    for entry in entries:
        if not entry.resource:
            entry.say(Issue("information", "informational", "an entry without a resource: not used"))


def _pictures(entries: Iterable[Entry]) -> dict[str, NewObject]:
    return {name: one for entry in entries if entry.reading is not None for name, one in entry.reading.pictures.items()}


def _wanted(entries: Iterable[Entry]) -> frozenset[str]:
    return frozenset(url for entry in entries if entry.reading is not None for url in entry.reading.index.wanted)


def _contradiction(resource: Json, request: Request) -> Issue | None:
    kind = kind_of(resource)
    if request.kind and kind != request.kind:
        return Issue("error", "invalid", "the resource is not of the type in the URL", "resourceType")
    if request.door == "update" and resource.get("id") != request.id:
        return Issue("error", "invalid", "the resource's id is not the id in the URL", f"{kind}.id")
    return None


def _stands(entries: Iterable[Entry]) -> bool:
    return any(not entry.refused for entry in entries)


def _verdict(events: Sequence[Event], entries: Sequence[Entry]) -> Verdict:
    letters = sum(event.topic == "clinical.dead-letters" for event in events)
    if len(events) > letters:
        return "accepted"
    if letters:
        return "dead-letter"
    return "refused" if entries and all(entry.refused for entry in entries) else "ignored"


def _fault(error: BaseException) -> tuple[str]:
    """Return an error's class and line: never its message, which may quote the patient's data."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}" if trace else "nowhere"
    return (f"{type(error).__name__} at {place}",)
