"""One resource while it is being mapped: what the mappers share, and what they find."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final
from zoneinfo import ZoneInfo

from connectors.contexts import Contexts, holder, in_future, registered, surviving
from connectors.documents import Documents, Filed
from connectors.fhir.acknowledgement import Issue
from connectors.fhir.mapping.times import moment
from connectors.fhir.settings import FhirPeer, FhirSettings
from connectors.fhir.structure import Json, canonical, kind_of
from connectors.hl7.mapping.codes import Coded
from connectors.identity import ENDED, LOGICAL, SECONDARY, TEMPORARY, VALID, Identities, kind_in_words, lasting, number_kind
from connectors.publisher import NewObject
from processors.events import Event, Identifier, Origin, ProcessingId
from processors.identity import content_hash, natural_id

# Coding systems by the names that the HL7 v2 code tables use, so that one set of tables serves both
SYSTEMS: Final[Mapping[str, str]] = {
    "http://loinc.org": "LN",
    "urn:oid:2.16.840.1.113883.6.1": "LN",
    "urn:iso:std:iso:11073:10101": "MDC",
    "urn:oid:2.16.840.1.113883.6.24": "MDC",
    "http://snomed.info/sct": "SCT",
    "urn:oid:2.16.840.1.113883.6.96": "SCT",
    "http://unitsofmeasure.org": "UCUM",
}
STRANGE: Final = "a Patient on a server that is no peer's `base`: filed under that URL, of which nothing is known"
_DEEPEST: Final = 8  # parts of parts of a stay followed before they are taken for a circle
_USES: Final = {"secondary": SECONDARY, "temp": TEMPORARY}  # http://hl7.org/fhir/R4/valueset-identifier-use.html
HTEST: Final = "HTEST"  # http://terminology.hl7.org/CodeSystem/v3-ActReason: health care test data (meta.security, meta.tag)


@dataclass(frozen=True, slots=True)
class Subject:
    """The patient that a resource is about."""

    patient_id: str
    authority: str = ""  # of the identifier that was chosen; empty where the patient was known by a reference


@dataclass(frozen=True, slots=True)
class Stay:
    """What an Encounter resource was last said to be, `at` that time: its stay (a pseudonym; empty for none) and whose."""

    encounter_id: str
    patient_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Shown:
    """What a Media resource was last said to show: pictures by instance UID, and of whom. `updated`: its `meta.lastUpdated`.

    `version`: what tells the version that said so from others.
    """

    pictures: frozenset[tuple[str, str]]
    updated: datetime | None
    version: str = ""


@dataclass(frozen=True, slots=True)
class Site:
    """What every mapping needs and no resource changes.

    `encounters`: what Encounters are, by `stay_key`, as far as known; `shown`: what Media show, by `remembered_by`, likewise;
    `documents`: the notes of documents.
    """

    settings: FhirSettings
    identities: Identities
    contexts: Contexts
    encounters: Mapping[str, Stay] = field(default_factory=dict)
    shown: Mapping[str, Shown] = field(default_factory=dict)
    documents: Documents = field(default_factory=Documents)


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent, by the name and settings of the peer, and when it was received."""

    name: str
    peer: FhirPeer
    received_at: datetime

    @property
    def base(self) -> str:
        """What scopes the ids of its resources."""
        return self.peer.base.rstrip("/") or self.name

    def of(self, resource: Json) -> "Sender":
        """Return the sender of what a resource says or holds: a test system where it is marked as test data (HTEST)."""
        meta = resource.get("meta")
        marked = isinstance(meta, dict) and any(one.get("code") == HTEST for one in objects(meta, "security", "tag"))
        if not marked or self.peer.processing != "production":
            return self
        return replace(self, peer=self.peer.model_copy(update={"processing": "training"}))

    @property
    def zone(self) -> ZoneInfo:
        """The zone of a date without a time."""
        return ZoneInfo(self.peer.zone)


Fetched = tuple[bytes, str] | str  # what a server gave for a URL, and its content type; or in words why not


class Index:
    """What the references inside one request point at: entries by fullUrl and by Type/id.

    `fetched`: what was to be had of URLs outside it; `wanted`: those that are read and are not among these.
    """

    def __init__(
        self, resources: Iterable[tuple[str, Json]] = (), fetched: Mapping[str, Fetched] = MappingProxyType({})
    ) -> None:
        self.fetched = fetched
        self.wanted: set[str] = set()
        self.anew: set[str] = set()  # patients whose number is their own by this request, though another record lists it
        # Looked through once, though all of a request may refer to it. By id(), with what has it, so that it stays that one's:
        self.ranked: dict[int, tuple[Json, list[tuple[int, Identifier]]]] = {}  # Patient -> its numbers
        self.chosen: dict[int, tuple[Json, Identifier | None]] = {}  # and the one that it is filed under
        self.numbered: dict[tuple[str, str], dict[str, int]] = {}  # number and patient -> documents by digest, in order
        self._contained: dict[int, tuple[object, dict[str, Json]]] = {}  # list of what is contained -> by its ids
        self._by_url: dict[str, Json] = {}
        for url, resource in resources:
            if url:
                self._by_url.setdefault(url, resource)
            if isinstance(resource.get("id"), str):
                self._by_url.setdefault(f"{kind_of(resource)}/{resource['id']}", resource)

    def find(self, reference: str, owner: Json) -> Json | None:
        """Return the resource that a reference means: contained in its owner (`#id`), or an entry."""
        if reference.startswith("#"):
            return self._within(owner).get(reference[1:])
        if found := self._by_url.get(reference):
            return found
        tail = "/".join(reference.split("/_history/")[0].split("/")[-2:])
        return self._by_url.get(tail)

    def _within(self, owner: Json) -> dict[str, Json]:
        """Return what is contained in a resource, by its ids."""
        given = owner.get("contained")
        if (known := self._contained.get(id(given))) is None:
            named: dict[str, Json] = {}
            for one in objects(owner, "contained"):
                if isinstance(one.get("id"), str):
                    named.setdefault(one["id"], one)
            known = self._contained[id(given)] = given, named
        return known[1]


class Reading:
    """A resource, its sender, and what has been found in it so far.

    `update`: its sender vouches for its id, and it replaces what was there: what is absent is absent (R4 http.html#update).
    `condition`: what names it in place of an id, in a conditional update. `documents`: those of the request, by number.
    `troubles` are values that cannot be used (they become a dead letter), `notes` say what is not for Vigil.
    """

    def __init__(
        self,
        resource: Json,
        sender: Sender,
        site: Site,
        index: Index,
        *,
        update: bool = False,
        condition: str = "",
        documents: dict[str, tuple[Filed, ...]] | None = None,
    ) -> None:
        self.resource = resource
        self.update = update
        self.kind = kind_of(resource)
        self.sender = sender
        self.site = site
        self.index = index
        self.name = text(resource.get("id")) or condition  # what one sender's versions of it have in common; empty: nothing
        self.first: list[Event] = []  # what must come before the values of the same request
        self.events: list[Event] = []
        self.documents = {} if documents is None else documents
        self.shared = False  # it is in an event that is made of several resources: a set of vitals, a patient's context
        self.pictures: dict[str, NewObject] = {}  # id of an image event -> what is to be stored for it
        self.troubles: list[tuple[str, Issue]] = []  # stage, issue
        self.notes: list[Issue] = []
        self._positions: dict[str, int] = {}

    # ----------------------------------------------------------------------------------------------------------- what it is

    @cached_property
    def digest(self) -> str:
        """Return the hash of its content."""
        return content_hash(canonical(self.resource))

    @cached_property
    def logical_id(self) -> str:
        """Return what names the resource over its versions: its id, else its first identifier, else its content."""
        if name := text(self.resource.get("id")):
            return name
        for one in objects(self.resource, "masterIdentifier", "identifier"):
            if value := text(one.get("value")):
                return natural_id("fhir", self.sender.name, self.kind, text(one.get("system")), value)
        return natural_id("fhir", self.sender.name, self.kind, self.digest)

    @cached_property
    def identity(self) -> tuple[str, ...]:
        """Return what identifies this version: sender, type, id, version *and* content.

        The content counts because a client's versionId is no promise: servers are told to ignore it on update (R4 3.1.0.4.1), so
        two different contents may come under one. Better twice than lost.
        """
        meta = self.resource.get("meta")
        version = text(meta.get("versionId")) if isinstance(meta, dict) else ""
        return ("fhir", self.sender.name, self.kind, self.logical_id, version, self.digest)

    @cached_property
    def origin(self) -> Origin:
        """Return where the events come from."""
        name, version = self.identity[3:5]
        return Origin(
            protocol="fhir",
            peer=self.sender.name,
            message_id=f"{name}/{version}" if version else name,
            message_type=self.kind,
            digest=self.digest,
        )

    @cached_property
    def processing(self) -> ProcessingId:
        """Return whether it is test data: by the peer's setting, or by the tag HTEST."""
        return self.sender.of(self.resource).peer.processing

    def acts(self, what: str, *, as_context: bool = False) -> bool:
        """Whether it may change what is known or done of a patient, as every real resource may.

        Test data may not, and it is noted: `what` says in words what it leaves. It ends no watch, merges nobody, sets no fact,
        answers no alert; nor does it take a real value back, since its versions are remembered apart (`remembered_by`).
        `as_context`: a site may let test systems write contexts (`test_contexts`).
        """
        if self.processing == "production" or (as_context and self.sender.peer.test_contexts):
            return True
        self.note("", f"test data {what}")
        return False

    @property
    def remembered_by(self) -> str:
        """Return what it is remembered by over its versions: its sender and id, or condition; empty for one without.

        Test data is remembered apart: it follows nothing real, and nothing real follows it.
        """
        test = "" if self.processing == "production" else f"\x1f{self.processing}"
        return f"{self.sender.name}\x1f{self.name}{test}" if self.name else ""

    def event_id(self, kind: type[Event]) -> str:
        """Return the id of the next event of a kind."""
        position = self._positions[kind.type] = self._positions.get(kind.type, -1) + 1
        return natural_id(*self.identity, kind.type, position)

    @property
    def stored(self) -> bool:
        """Whether anything becomes of it: an event, or a dead letter."""
        return self.shared or bool(self.first or self.events or self.troubles)

    # ------------------------------------------------------------------------------------------------------- what was found

    def trouble(self, place: str, reason: str, *, code: str = "value", stage: str = "map") -> None:
        """Note a value that cannot be used. `reason` must carry no patient text; `place` is the path below the resource."""
        self.troubles.append((stage, Issue("warning", code, reason, f"{self.kind}.{place}" if place else self.kind)))

    def note(self, place: str, reason: str) -> None:
        """Note what is not for Vigil."""
        self.notes.append(Issue("information", "informational", reason, f"{self.kind}.{place}" if place else self.kind))

    # --------------------------------------------------------------------------------------------------------- whose it is

    def subject(self, name: str = "subject", *, followed: bool = True) -> Subject | None:
        """Return the patient that an element refers to; None, and noted as trouble, when it names nobody that may be used.

        `followed`: where their record was merged away, the surviving one.
        """
        reference = self.resource.get(name)
        found = self.patient(reference) if isinstance(reference, dict) else None
        if found is None:
            self.trouble(
                name, "names no patient that is known, or two: held apart, not guessed", code="not-found", stage="identify"
            )
        elif followed and (survivor := surviving(self.site.contexts, found.patient_id)) != found.patient_id:
            self.note(name, "a record that was merged away: filed under the surviving one")
            return replace(found, patient_id=survivor)
        elif isinstance(reference, dict) and self._is_strange(text(reference.get("reference")), found):
            self.note(name, STRANGE)
        return found

    def _is_strange(self, literal: str, subject: Subject) -> bool:
        """Whether a reference alone says whom it means, by a server that no `base` names, and nothing is known of that one."""
        own = self.logical_identifier(literal, "Patient")
        if own is None or subject.patient_id != self.site.identities.patient(own) or self.site.contexts.get(subject.patient_id):
            return False
        return own.authority not in {self.sender.base, *(peer.base.rstrip("/") for peer in self.site.settings.peers.values())}

    def patient(self, reference: Json) -> Subject | None:
        """Return whom a Reference means, None where it names nobody, or two.

        Its literal URL means the Patient that it points at inside the request, by that one's numbers; else the record that an
        earlier Patient resource was filed under (an alias among the contexts); else the URL itself is the identifier, scoped by
        server. Where that is not known, its `identifier` counts. Both given are one person, or the reference is not used. A number
        that a record lists beside its own is that record's (`contexts.holder`); one that several list is nobody's for certain.
        A `urn:` that points at nothing inside the request, and a search (`Patient?identifier=...`), name nobody.
        """
        identities = self.site.identities
        literal = text(reference.get("reference"))
        target = self.index.find(literal, self.resource) if literal else None
        own = self._own(target) if target is not None else self.logical_identifier(literal, "Patient") if literal else None
        chosen = self.chosen(target) if target is not None else None
        numbers = self.person_identifiers(target) if target is not None else ()
        referred = None
        if target is not None and chosen and chosen.kind != LOGICAL:
            referred = self.filed(target, chosen, contained=literal.startswith("#"))
            if referred is None:
                return None
        alias = self.site.contexts.get(identities.patient(own)) if referred is None and own is not None else None
        if alias is not None and alias.merged_into:
            referred = Subject(alias.merged_into)
            known = self.site.contexts.get(alias.merged_into)
            numbers = known.identifiers if known else ()
        beside = self.identifiers(objects(reference, "identifier"))
        given = identities.choose(beside)
        if given is not None:
            if referred is not None and any((one.authority, one.value) == (given.authority, given.value) for one in numbers):
                return referred
            named = self._record(given, beside)
            if referred is None or named is None:
                return named
            if self._contradict(referred, numbers, named, given):
                return None
        if referred is None and (chosen := identities.choose([own]) if own else None):
            return Subject(identities.patient(chosen), chosen.authority)
        return referred

    def _record(self, number: Identifier, beside: Iterable[Identifier]) -> Subject | None:
        """Return the record that a number belongs to, None where several list it."""
        own = self.site.identities.patient(number)
        record = own if own in self.index.anew else holder(self.site.contexts, own, number, [*beside])
        return Subject(record, number.authority) if record else None

    def filed(self, resource: Json, number: Identifier, *, contained: bool = False) -> Subject | None:
        """Return the record that a Patient is filed under by its number (`contexts.registered`); None where several list it.

        Its own where the resource was filed under the other one by another number before: then its number has changed. One that is
        `contained` registers nobody.
        """
        contexts, identities = self.site.contexts, self.site.identities
        own, born = identities.patient(number), text(resource.get("birthDate")) or None
        beside = self.person_identifiers(resource)
        record = registered(contexts, own, number, born, beside, new=not contained, identities=identities)
        logical = None if contained else self._own(resource)
        alias = contexts.get(identities.patient(logical)) if logical else None
        if record and alias and alias.merged_into == record and alias.merged_by != own:
            record = own
        if record == own and not contained:
            self.index.anew.add(own)
        return Subject(record, number.authority) if record else None

    def over(self, resource: Json, number: Identifier) -> bool:
        """Whether the period of a Patient's number is over or has not begun."""
        ranks = [rank for rank, one in self._ranked(resource) if one == number]
        return bool(ranks) and min(ranks) == ENDED

    def _contradict(self, referred: Subject, numbers: Iterable[Identifier], named: Subject, given: Identifier) -> bool:
        """Whether a reference and its identifier are two patients: another number of the same index, or of another known record."""
        contexts = self.site.contexts
        if surviving(contexts, referred.patient_id) == surviving(contexts, named.patient_id):
            return False
        alike = any(
            one.authority == given.authority and ("" in (one.kind, given.kind) or one.kind == given.kind) for one in numbers
        )
        return alike or contexts.get(named.patient_id) is not None

    def means(self, reference: Json, subject: Subject) -> bool:
        """Whether a Reference that may be to anything means that patient."""
        literal = text(reference.get("reference"))
        target = self.index.find(literal, self.resource) if literal else None
        steps = literal.split("/_history/")[0].rstrip("/").split("/")
        kind = kind_of(target or {}) or text(reference.get("type")) or (steps[-2] if len(steps) > 1 else "")
        found = self.patient(reference) if kind in ("", "Patient") else None
        return found is not None and surviving(self.site.contexts, found.patient_id) == surviving(
            self.site.contexts, subject.patient_id
        )

    def person_identifiers(self, resource: Json) -> tuple[Identifier, ...]:
        """Return the identifiers of a Patient resource, its own id on its server last; none that only stands in for one.

        Those that count most come first; one whose period is over is left out, unless the patient is filed under it.
        """
        own = self._own(resource)
        return (*lasting(self._ranked(resource), self.chosen(resource)), *((own,) if own else ()))

    def chosen(self, resource: Json) -> Identifier | None:
        """Return the identifier by which a Patient resource is filed: the number that counts most, else its own id.

        `use` and `period` come before the site's order of authorities; a number that may not be used is passed over.
        """
        identities, own = self.site.identities, self._own(resource)
        if id(resource) not in self.index.chosen:
            self.index.chosen[id(resource)] = resource, identities.choose_ranked(self._ranked(resource))
        return self.index.chosen[id(resource)][1] or (identities.choose([own]) if own else None)

    def _own(self, resource: Json) -> Identifier | None:
        """Return the identifier that a Patient resource's own id on its server is, None for what has none."""
        if kind_of(resource) != "Patient":
            return None
        own = Identifier(authority=self.sender.base, value=text(resource.get("id")), kind=LOGICAL)
        return next(iter(self.site.identities.real((own,))), None)

    def _ranked(self, resource: Json) -> list[tuple[int, Identifier]]:
        """Return the numbers of a Patient resource and how much each counts, in that order; of one authority the official first."""
        if kind_of(resource) != "Patient":
            return []
        if known := self.index.ranked.get(id(resource)):
            return known[1]
        found: list[tuple[int, int, bool, Identifier]] = []
        order: dict[str, int] = {}
        for given in objects(resource, "identifier"):
            for one in self.site.identities.real(self.identifiers((given,))):
                use = text(given.get("use"))
                rank = _USES.get(use, VALID) if self._lasts(given.get("period")) else ENDED
                found.append((rank, order.setdefault(one.authority, len(order)), use != "official", one))
        ranked = [(rank, one) for rank, _, _, one in sorted(found, key=lambda each: each[:3])]
        self.index.ranked[id(resource)] = resource, ranked
        return ranked

    def _lasts(self, period: Any) -> bool:
        """Whether a Period has begun and not ended. A date without a time is in it to its end, as a month or year (R4 Period)."""
        bounds = [text(period.get(name)) for name in ("start", "end")] if isinstance(period, dict) else ["", ""]
        start, end = (moment(given, self.sender.zone) if given else None for given in bounds)
        if start is not None and in_future(start[0], self.sender.received_at):
            return False
        length = timedelta(days={4: 366, 7: 31}.get(len(bounds[1]), 1) if end and not end[1] else 0)
        return end is None or end[0] > self.sender.received_at - length

    def identifiers(self, given: Iterable[Json]) -> tuple[Identifier, ...]:
        """Return Identifier elements as identifiers; old ones (`use` old) are left out."""
        found = []
        for one in given:
            value = text(one.get("value"))
            if value and one.get("use") != "old":
                kinds = codings(one.get("type"))
                code = next((code for code, _, _ in kinds if code), "")
                kind = number_kind(code) if code or not kinds else kind_in_words(kinds[-1][1])
                found.append(Identifier(authority=self._authority(one), value=value, kind=kind))
        return tuple(found)

    def _authority(self, identifier: Json) -> str:
        assigner = identifier.get("assigner")
        named = text(assigner.get("display")) if isinstance(assigner, dict) else ""
        default = self.sender.peer.authority or self.sender.base
        return self.site.identities.authority(text(identifier.get("system")), named, default)

    def logical_identifier(self, literal: str, kind: str) -> Identifier | None:
        """Return the identifier that a literal reference is: the id, scoped by the server of the URL, else the sender's.

        None for what is no place on a server: `#id`; a `urn:`, which holds within one request (R4 bundle.html#references).
        """
        if literal.startswith(("#", "urn:")):
            return None
        parts = literal.split("/_history/")[0].rstrip("/").split("/")
        if len(parts) < 2 or parts[-2] != kind or not parts[-1]:
            return None
        base = "/".join(parts[:-2])
        return Identifier(authority=base or self.sender.base, value=parts[-1], kind=LOGICAL)

    def encounter(self, reference: Any, subject: Subject, *, within: int = 0) -> str | None:
        """Return the pseudonym of the stay that a Reference means, None where it means none."""
        if not isinstance(reference, dict):
            return None
        literal = text(reference.get("reference"))
        target = self.index.find(literal, self.resource) if literal else None
        if kind_of(target or {}) == "Encounter":
            assert target is not None
            return self.encounter_of(target, subject, within=within)
        for one in self.identifiers(objects(reference, "identifier")):
            return self._encounter_id(one, subject)
        own = self.logical_identifier(literal, "Encounter")
        if own is None:
            return None
        known = self.site.encounters.get(f"{own.authority}\x1f{own.value}")
        return (known and known.encounter_id) or self._encounter_id(own, subject)

    @property
    def stay_key(self) -> str:
        """Return what an Encounter resource is remembered by, as `encounters` of `Site` are; empty for one without an id."""
        return f"{self.sender.base}\x1f{self.name}" if self.name else ""

    def encounter_of(self, resource: Json, subject: Subject, *, within: int = 0) -> str | None:
        """Return the pseudonym of the stay that an Encounter resource is about: the whole one where it is a part (`partOf`)."""
        if within < _DEEPEST and (whole := self.encounter(resource.get("partOf"), subject, within=within + 1)):
            return whole
        visit = self.visit(resource, subject)
        return self._encounter_id(visit, subject) if visit else self.encounter_by_id(resource, subject)

    def visit(self, resource: Json, subject: Subject) -> Identifier | None:
        """Return the visit number of an Encounter resource: the one that says so (VN), else its first identifier."""
        named = self.identifiers(objects(resource, "identifier"))
        visit = next((one for one in named if one.kind == "VN"), named[0] if named else None)
        if visit is None:
            return None
        return Identifier(authority=visit.authority or subject.authority, value=visit.value, kind=visit.kind or "VN")

    def visit_of_stay(self, resource: Json, subject: Subject, stay: str | None) -> Identifier | None:
        """Return the visit number of an Encounter resource where it is the one that a stay goes by."""
        visit = self.visit(resource, subject)
        return visit if visit and self._encounter_id(visit, subject) == stay else None

    def encounter_by_id(self, resource: Json, subject: Subject) -> str | None:
        """Return what a bare reference to an Encounter resource means as long as the resource has not been seen."""
        own = text(resource.get("id"))
        return self._encounter_id(Identifier(authority=self.sender.base, value=own, kind=LOGICAL), subject) if own else None

    def _encounter_id(self, visit: Identifier, subject: Subject) -> str:
        return self.site.identities.encounter(visit.authority or subject.authority, visit.value)

    # --------------------------------------------------------------------------------------------------------- when it was

    def moment(self, *values: object) -> tuple[datetime, bool] | None:
        """Return the first of the values that is a time, and whether it has a time of day."""
        return next((found for value in values if (found := moment(value, self.sender.zone))), None)

    def stamp(self, given: Mapping[str, object]) -> datetime | None:
        """Return the first of some elements that is a time, else when its server wrote the resource, else the receipt.

        None, and noted as trouble, where one is there and none can be read: what is old must not pass for now.
        """
        meta = self.resource.get("meta")
        written = {"meta.lastUpdated": meta.get("lastUpdated")} if isinstance(meta, dict) else {}
        for group in (given, written):
            if found := self.moment(*group.values()):
                return found[0]
            if self.unread(group):
                return None
        return self.sender.received_at

    def unread(self, given: Mapping[str, object]) -> bool:
        """Note the first of some elements that is there as a time that cannot be read; return whether one is there."""
        place = next((place for place, value in given.items() if value is not None), "")
        if place:
            self.trouble(place, "a time that cannot be read")
        return bool(place)

    @property
    def last_updated(self) -> datetime | None:
        """When its server last wrote it."""
        meta = self.resource.get("meta")
        found = moment(meta.get("lastUpdated"), self.sender.zone) if isinstance(meta, dict) else None
        return found[0] if found else None


def text(value: Any) -> str:
    """Return a string element stripped; anything else as empty."""
    return value.strip() if isinstance(value, str) else ""


def objects(owner: Json, *names: str) -> Iterator[Json]:
    """Yield the objects of some elements, whether they repeat or not."""
    for name in names:
        value = owner.get(name)
        for one in value if isinstance(value, list) else (value,):
            if isinstance(one, dict):
                yield one


def codings(concept: Any) -> tuple[Coded, ...]:
    """Return a CodeableConcept as (code, text, system) like an HL7 v2 coded value; its text alone last."""
    if not isinstance(concept, dict):
        return ()
    found = [
        (text(one.get("code")), text(one.get("display")), SYSTEMS.get(text(one.get("system")), text(one.get("system")).upper()))
        for one in objects(concept, "coding")
    ]
    if words := text(concept.get("text")):
        found.append(("", words, ""))
    return tuple(found)
