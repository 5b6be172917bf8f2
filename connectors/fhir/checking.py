"""Trying FHIR files before a feed goes live: the endpoint's mapping and publishing, without HTTP and without a broker."""

import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from datetime import datetime
from time import perf_counter
from typing import Any, Final

from connectors.checking import (
    SAMPLED,
    Finding,
    ModelOf,
    Nowhere,
    Row,
    Streams,
    Unstored,
    device_advice,
    held_apart,
    identifier_advice,
    looks_like_code,
    made,
    of_events,
    of_pictures,
    several_authorities,
    unknown_class,
    unknown_code,
)
from connectors.fhir.acknowledgement import TOO_LARGE, Issue
from connectors.fhir.handling import FhirMapper, Outcome, Request
from connectors.fhir.letters import discreet, in_words
from connectors.fhir.mapping.reading import STRANGE, codings, objects, text
from connectors.fhir.publishing import Publishing
from connectors.fhir.settings import FhirSettings
from connectors.fhir.structure import Json, Unreadable, is_known, kind_of, parse
from connectors.hl7.mapping.codes import Conflict, observation_code
from connectors.hl7.mapping.facts import STANDARD
from connectors.identity import Identities
from connectors.stays import OPEN, class_of
from processors.events import Event, VitalsEvent

_LINES: Final = (".ndjson", ".jsonl")
_REFUSED: Final = 400
_SERVER: Final = re.compile(r"(https?://[^?#@]+)/Patient/[^/?#]+(?:/_history/[^/?#]+)?/?")  # an absolute reference to a Patient


class FhirChecker:
    """Tries resources and Bundles as if one peer sent them, in the order of the files. What they are decides by which door."""

    def __init__(
        self,
        settings: FhirSettings,
        peer: str,
        *,
        identities: Identities,
        listed: tuple[str, ...] = (),
        now: Callable[[], datetime],
        largest_record: int,
        largest_object: int,
        model_of: ModelOf,
        unitless: Mapping[str, str] | None = None,
        own_section: bool = False,
        show_phi: bool = False,
    ) -> None:
        """`listed`: the site's authorities; `largest_record`, `largest_object`: bytes that a topic and the object store take;
        `model_of`: the image model that is asked about a patient's pictures; `unitless`: as the vitals lane has it.

        `own_section`: suggest settings for this peer alone, which must stand in the site's settings already. `show_phi`: show
        codes that do not look like codes, and names that are no element's.
        """
        self._settings = settings
        self._peer = peer
        self._now = now
        self._listed = listed
        self._model_of = model_of
        self._unitless = dict(unitless or {})
        self._publishing = Publishing(
            FhirMapper(settings, identities),
            Nowhere(largest_record),
            Unstored(largest_object),
            now=now,
            seconds=settings.confirm_timeout,
        )
        self._where = f"connectors.fhir.peers.{peer}"
        self._show_phi = show_phi
        self._section = f"{self._where}.codes" if own_section else "connectors.fhir.codes"
        self._seen: set[str] = set()
        self._identities = identities
        self._streams = Streams()

    async def check(self, name: str, content: bytes) -> AsyncIterator[Row]:
        """Try a file: one resource, or one a line (.ndjson, .jsonl); a file of lines without any is answered as an empty body."""
        bare = name.lower().removesuffix(".gz")
        lines = [line for line in content.splitlines() if line.strip()] if bare.endswith(_LINES) else []
        for index, body in enumerate(lines or [content]):
            yield await self._one(name, index, body)

    @property
    def nothing(self) -> Mapping[str, Any]:
        """The details of a row whose file could not be tried."""
        return _details("", ())

    async def _one(self, name: str, index: int, body: bytes) -> Row:
        began = perf_counter()
        if len(body) > self._settings.largest_body:
            reason = f"longer than {self._settings.largest_body} bytes"
            return Row(name, index, "refused", str(TOO_LARGE), reason, refused=True, details=_details("", ()))
        outcome = await self._publishing.take(body, self._peer, Request())
        seconds = perf_counter() - began
        findings = () if outcome.code >= _REFUSED else tuple(self._findings(body, outcome))
        issues = outcome.issues if self._show_phi else tuple(map(discreet, outcome.issues))
        kind = outcome.resource_type if self._show_phi or is_known(outcome.resource_type) else "?"
        return Row(
            name,
            index,
            outcome.verdict,
            str(outcome.code),
            in_words(issues),
            refused=outcome.code >= _REFUSED or any(issue.is_error for issue in outcome.issues),
            events=made(outcome.events),
            seconds=seconds,
            findings=findings,
            details=_details(kind, issues),
        )

    # ---------------------------------------------------------------------------------------------------------------- advice

    def _findings(self, body: bytes, outcome: Outcome) -> Iterator[Finding]:
        try:
            resource = parse(body, deepest=self._settings.deepest)
        except Unreadable:
            return
        if outcome.events and all(event.id in self._seen for event in outcome.events):
            yield Finding("repeat", "what came before: its events have the same ids and are not processed twice")
        self._seen.update(event.id for event in outcome.events)
        yield from of_events(outcome.events, self._now(), self._unitless, self._section, "the sender's clock")
        yield from of_pictures(outcome.events, self._model_of)
        resources = _resources(resource)
        if held_apart(outcome.events):
            named = [text(one.get("system")) for each in resources for one in objects(each, "identifier")]
            yield identifier_advice(named, self._listed, "a Patient reference or identifier is needed")
        elif outcome.events and any(_without_system(each) for each in resources):
            yield self._peer_finding(
                "identifier", "Patient.identifier without a system", "authority", "the server's base stands in"
            )
        else:
            yield from several_authorities(outcome.events, self._identities, self._listed)
        yield from self._devices(outcome.events)
        if any(issue.diagnostics == STRANGE for issue in outcome.issues):
            yield from self._servers(resources)
        if any("Binary/" in url for url in outcome.wanted):
            yield self._peer_finding(
                "content",
                "content in a Binary of its server (url)",
                "fetch",
                "fetched with `base` and `fetch`, and when pulled",
            )
        if any("a date without a time of day" in issue.diagnostics for issue in outcome.issues):
            yield self._peer_finding(
                "time", "a vital sign with a date and no time of day", "zone", "read as observed when issued or received"
            )
        for each in resources:
            if kind_of(each) == "Observation":
                yield from self._codes(each)
            if kind_of(each) == "Encounter":
                yield from self._class(each)

    def _servers(self, resources: list[Json]) -> Iterator[Finding]:
        """The servers that references to patients name and no peer has as its `base`: the sender's own, perhaps."""
        known = {peer.base.rstrip("/") for peer in self._settings.peers.values()}
        subjects = (one for each in resources for one in objects(each, "subject"))
        named = (_SERVER.fullmatch(text(one.get("reference"))) for one in subjects)
        for base in dict.fromkeys(one[1] for one in named if one and one[1] not in known):
            shown = base if looks_like_code(base) else "(not shown)"
            what = f"a Patient on a server that no peer's `base` names: {shown}"
            if self._settings.peers[self._peer].base or shown != base:
                yield self._peer_finding("identifier", what, "base", "not the patient whose id it is on the sender's server")
            else:
                mend = "if that is the sender's own server, its patients' ids are these; else they are strangers"
                yield Finding("identifier", what, mend, self._where, f'base = "{base}"')

    def _peer_finding(self, about: Any, what: str, setting: str, mend: str) -> Finding:
        return Finding(about, what, f"{mend}; see {self._where}.{setting}")

    def _class(self, encounter: Json) -> Iterator[Finding]:
        given = encounter.get("class")
        code, system, words = (
            text(given.get(name)) if isinstance(given, dict) else "" for name in ("code", "system", "display")
        )
        if code and code.upper() not in OPEN and not class_of(code, self._settings.peers[self._peer].classes, system):
            section = f"{self._where}.classes"
            yield unknown_class(code, system, words, section, section, show_phi=self._show_phi)

    def _devices(self, events: Iterable[Event]) -> Iterator[Finding]:
        """Ask of vitals that count at once whether a device sends them."""
        sampled = self._streams.sampled(events)
        if self._settings.peers[self._peer].charted is not None:
            return
        named = any(isinstance(one, VitalsEvent) and one.charted and one.device for one in events)
        for sign in (sign for sign, seen in (("`device` names one", named), (SAMPLED, sampled)) if seen):
            line = "# charted = false  # a monitor's samples; true: staff validate every set"
            yield device_advice(sign, f"{self._where}.charted", self._where, line)

    def _codes(self, resource: Json) -> Iterator[Finding]:
        """The codes with a number that no table knows: of the Observation, and of its components."""
        tables = self._settings.peers[self._peer].codes, self._settings.codes
        for part in (resource, *objects(resource, "component")):
            quantity = part.get("valueQuantity")
            coded = codings(part.get("code"))
            if not isinstance(quantity, dict) or not coded or any(one[0] in STANDARD for one in coded):
                continue
            try:
                known = observation_code(coded, *tables)[0]
            except Conflict:
                continue  # a trouble of the row already
            if not known:
                code, words, system = coded[0]
                unit = text(quantity.get("code")) or text(quantity.get("unit"))
                names = " ".join((words, *(one[1] for one in coded[1:])))
                yield unknown_code(code, system, names, self._section, unit=unit, show_phi=self._show_phi)


def _resources(resource: Json) -> list[Json]:
    if kind_of(resource) != "Bundle":
        return [resource]
    return [found for entry in objects(resource, "entry") if isinstance(found := entry.get("resource"), dict)]


def _without_system(resource: Json) -> bool:
    if kind_of(resource) != "Patient":
        return False
    return any(text(one.get("value")) and not text(one.get("system")) for one in objects(resource, "identifier"))


def _details(kind: str, issues: tuple[Issue, ...]) -> dict[str, Any]:
    shown = [
        {"severity": one.severity, "code": one.code, "expression": one.expression, "diagnostics": one.diagnostics}
        for one in issues
    ]
    return {"resource_type": kind, "issues": shown}
