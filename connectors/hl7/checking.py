"""Trying HL7 v2 files before a feed goes live: the server's mapping and publishing, without a socket and without a broker."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from time import perf_counter
from typing import Any, Final

from connectors.checking import (
    SAMPLED,
    Finding,
    Nowhere,
    Row,
    Streams,
    device_advice,
    guess,
    held_apart,
    identifier_advice,
    looks_like_code,
    made,
    of_events,
    several_authorities,
    unknown_class,
    unknown_code,
)
from connectors.hl7.batches import is_several, messages, miscounted, of_frame
from connectors.hl7.charsets import unwrap
from connectors.hl7.errors import Unreadable
from connectors.hl7.handling import RESULTS, Hl7Mapper, Outcome, message_type
from connectors.hl7.mapping.codes import Conflict, codings, observation_code
from connectors.hl7.mapping.documents import ANOTHER_ADDENDUM, UNDER_ITS_NUMBER
from connectors.hl7.mapping.facts import STANDARD
from connectors.hl7.mapping.standing import NO_LETTER
from connectors.hl7.message import Message, Segment, parse
from connectors.hl7.publishing import Publishing
from connectors.hl7.settings import MllpSettings, Peer
from connectors.hl7.times import Stamp, parse_stamp
from connectors.identity import Identities
from connectors.stays import OPEN, class_of
from processors.events import Event
from processors.identity import content_hash

_NEGATIVE: Final = frozenset({"AE", "AR", "CE", "CR"})
_TYPE: Final = (
    re.compile(  # MSH-9: codes of tables 0076, 0003 and 0354, also in the wrong component; no two words beside another
        r"[A-Z]{0,3}(_[A-Z][A-Z0-9]\d)?([\^&~]([A-Z][A-Z0-9]\d|[A-Z]{3}_[A-Z][A-Z0-9]\d|ADT|ACK)?)*"
        r"|([A-Z]{3})[\^&~][A-Z]{3}[\^&~]\4_[A-Z][A-Z0-9]\d|(Z[A-Z0-9]{2})[\^&~]\5",  # what is around it says that it is a code
        re.IGNORECASE,
    )
)
_VERSION: Final = re.compile(r"\d(\.\d){0,2}[A-Z]?")
_NO_WORD: Final = re.compile(r"(?!.*[^\W\d_]{2})(?!.*\d{5}).{0,16}")  # no name and no number of a person
_IDENTIFYING: Final = ((2, 1), (3, 1), (4, 1), (5, 1), (18, 1), (19, 1))  # of PID
_STATUSES: Final = (  # words of senders in OBX-11 and OBR-25 -> the letter that they seem to mean; the first that is found
    ("error|wrong|deleted|void|voided|retracted", "D"),
    ("cancelled|canceled", "X"),
    ("unauth|unauthenticated|unverified|preliminary|prelim|partial|progress|dictated|transcribed", "P"),
    ("corrected|correction|modified|altered|amended|revised", "C"),
    ("final|finalized|auth|authenticated|verified|complete|completed|signed|active", "F"),
)
_BESIDE: Final = frozenset({"in", "entered", "result", "results"})  # says nothing by itself
_DETAILS: Final = ("message_type", "version", "control_id")
_MONITORS: Final = re.compile(  # makers of bedside monitors, their gateways and centrals, in MSH-3 and MSH-4
    r"intellivue|\bpiic|philips|carescape|\bge\b|dr(ae|ä|a)ger|infinity|mindray|nihon|spacelabs|masimo|capsule|bedmaster|monitor",
    re.IGNORECASE,
)
_DEVICE_CODES: Final = frozenset({"MDIL"})  # Philips' own; MDC is taken for a device's anyway
_WITHHELD: Final = "(not shown)"


class Hl7Checker:
    """Tries messages as if one peer sent them, in the order of the files."""

    def __init__(
        self,
        settings: MllpSettings,
        peer: Peer,
        *,
        identities: Identities,
        listed: tuple[str, ...] = (),
        now: Callable[[], datetime],
        largest_record: int,
        unitless: Mapping[str, str] | None = None,
        own_section: bool = False,
        show_phi: bool = False,
    ) -> None:
        """`listed`: the site's authorities; `largest_record`: bytes that a topic takes; `unitless`: as the vitals lane has it.

        `own_section`: suggest settings for this peer alone, which must stand in the site's settings already.
        """
        self._settings = settings
        self._peer = peer
        self._now = now
        self._listed = listed
        self._unitless = dict(unitless or {})
        self._show_phi = show_phi
        self._mapper = Hl7Mapper(settings, identities)
        self._publishing = Publishing(self._mapper, Nowhere(largest_record), settings.publish_seconds, settings.remembered)
        base = "connectors.mllp"
        own = f"{base}.peers.{peer.name}" if own_section else base
        self._section, self._units = f"{own}.codes", f"{own}.units"
        self._where = f"connectors.mllp.peers.{peer.name}"
        self._own = own_section
        self._identities = identities
        self._streams = Streams()
        self._answered: dict[str, str] = {}  # digest -> code

    async def check(self, name: str, content: bytes) -> AsyncIterator[Row]:
        """Try every message of a file; a file without any is answered as a frame without one, and the row says so."""
        index = 0
        counts = tuple(_miscounts(content))  # told with the first message: a file may have nothing else
        for raw in _pieces(content):
            row = await self._one(name, index, raw)
            yield row if index else replace(row, findings=(*row.findings, *counts))
            index += 1
        if not index:
            outcome = self._mapper.handle(content, self._peer, self._now())
            details = self._details(content, outcome)
            reason = "no message in the file"
            yield Row(name, 0, "refused", outcome.code, reason, refused=True, findings=counts, details=details)

    @property
    def nothing(self) -> Mapping[str, Any]:
        """The details of a row whose file could not be tried."""
        return dict.fromkeys(_DETAILS, "")

    async def _one(self, name: str, index: int, raw: bytes) -> Row:
        began = perf_counter()
        digest = content_hash(raw)
        if self._publishing.answers_to(self._peer.name, digest) is not None:
            again = Finding("repeat", "a message that came before: answered as then, not processed twice")
            code, seconds = self._answered.get(digest, ""), perf_counter() - began
            return Row(
                name, index, "accepted", code, "a resend", seconds=seconds, findings=(again,), details=self._details(raw)
            )
        at = self._now()
        reused = self._publishing.reused_control_ids
        if len(raw) > self._settings.message_bytes:
            outcome = self._mapper.oversize(raw[:65536], self._peer, at, self._settings.message_bytes)
        else:
            outcome = self._mapper.handle(raw, self._peer, at)
            started = self._publishing.start(raw, self._peer, at, outcome)
            outcome = await started if isinstance(started, asyncio.Task) else started
        seconds = perf_counter() - began
        self._answered[digest] = outcome.code
        findings = [*self._findings(raw, outcome, at)]
        if self._publishing.reused_control_ids > reused:
            findings.append(Finding("repeat", "a control id used for two different messages: both are stored"))
        return Row(
            name,
            index,
            outcome.verdict,
            outcome.code,
            outcome.reason,
            refused=outcome.verdict == "refused" or outcome.code in _NEGATIVE,
            events=made(outcome.events),
            seconds=seconds,
            findings=tuple(findings),
            details=self._details(raw, outcome),
        )

    def _details(self, raw: bytes, outcome: Outcome | None = None) -> dict[str, Any]:
        try:
            message = parse(raw, fallback=self._peer.settings.charset)
        except Unreadable:
            salvaged = (outcome.message_type, outcome.version, outcome.control_id) if outcome else ("", "", "")
            return dict(zip(_DETAILS, self._shown(*salvaged, ()), strict=True))
        msh, pid = message.header, message.first("PID")
        whose = tuple(value for field, part in _IDENTIFYING if pid and len(value := pid.get(field, part)) > 3)
        shown = self._shown(msh.raw(9), msh.get(12), msh.get(10), whose)
        return dict(zip(_DETAILS, shown, strict=True))

    def _shown(self, kind: str, version: str, control: str, whose: tuple[str, ...]) -> tuple[str, str, str]:
        """Withhold what a shifted field could have put there: only what looks as it should is shown."""
        if self._show_phi:
            return kind, version, control
        no_name = looks_like_code(control) and any(c.isdigit() for c in control)
        harmless = no_name and not any(value.casefold() in control.casefold() for value in whose)
        return (
            kind if _TYPE.fullmatch(kind) or _NO_WORD.fullmatch(kind) else _WITHHELD,
            version if _VERSION.fullmatch(version) or _NO_WORD.fullmatch(version) else _WITHHELD,
            control if not control or harmless else _WITHHELD,
        )

    # ---------------------------------------------------------------------------------------------------------------- advice

    def _findings(self, raw: bytes, outcome: Outcome, at: datetime) -> Iterator[Finding]:
        if not outcome.promise:
            yield Finding("negotiation", "the sender asks for no acknowledgement (NE): it cannot learn what was not stored")
        if outcome.verdict == "refused":
            return
        message = parse(raw, fallback=self._peer.settings.charset)
        if not self._peer.settings.sends_as(message.header.raw(3).strip(), message.header.raw(4).strip()):
            what = "MSH-3 and MSH-4 are not this peer's (its `applications`, `facilities`)"
            mend = "another's settings apply to it, and where no peer at that address sends as these it is refused (AR)"
            yield Finding("peer", what, f"{mend}: see {self._where}")
        yield from of_events(outcome.events, at, self._unitless, self._section, f"{self._where}.zone", self._units)
        if held_apart(outcome.events):
            named = [pid.get(3, 4, repetition=n) for pid in message.all("PID") for n in range(1, pid.count(3) + 1)]
            yield identifier_advice(named, self._listed, "PID-3 must carry one; device data without a patient stays apart")
        elif outcome.events:
            yield from self._authority(message)
            yield from several_authorities(outcome.events, self._identities, self._listed)
        if NO_LETTER in outcome.reason:
            yield from self._statuses(message)
        kind, trigger = message_type(message)
        if kind == "ADT":
            yield from self._classes(message)
        if kind == "MDM" and (UNDER_ITS_NUMBER in outcome.reason or ANOTHER_ADDENDUM in outcome.reason):
            what = "addenda (MDM^T06) without a number of their own (TXA-12, the document's in TXA-13)"
            mend = "each is kept as a note of its own; an edit of one (T08) by that number is read as of the document"
            yield Finding("identifier", what, f"{mend}: the sender should number them")
        if kind == "ORU" and (trigger in RESULTS or not trigger):
            yield from self._codes(message)
            yield from self._devices(message, outcome.events)
            if outcome.events:
                yield from self._zone(message)
        for flag in ("ambiguous", "nonexistent"):
            if f"{flag} local time" in outcome.reason:
                yield Finding(
                    "time", f"{flag} local times (daylight saving)", "resolved by rule; offsets in the times would settle it"
                )

    def _authority(self, message: Message) -> Iterator[Finding]:
        pid = message.first("PID")
        if pid and pid.get(3) and not (pid.get(3, 4) or pid.get(3, 4, 2) or self._peer.settings.authority):
            line = f'authority = "{self._guessed_authority(message)}"'
            mend = f"MSH-4 stands in, so another facility's name makes another patient of a number: set {self._where}.authority"
            yield Finding("identifier", "identifiers without an assigning authority", mend, *self._peer_line(line))

    def _guessed_authority(self, message: Message) -> str:
        facility = message.header.get(4)
        return facility if looks_like_code(facility) else "NAME-OF-THE-HOSPITAL"

    def _peer_line(self, line: str, table: str = "") -> tuple[str, str]:
        """Return section and line of a peer's setting; none for a peer that the site's settings do not name yet."""
        return (f"{self._where}.{table}" if table else self._where, line) if self._own and line else ("", "")

    def _statuses(self, message: Message) -> Iterator[Finding]:
        """Say which words stand for a status, with a line for those that are plain. Any other may be anything: not shown."""
        sent = {segment.get(field) for name, field in (("OBX", 11), ("OBR", 25)) for segment in message.all(name)}
        for words in sorted(word for word in sent if len(word) > 1 and word not in self._peer.settings.statuses):
            letter = _guessed_status(words)
            shown = words if letter or self._show_phi else "a word that is not shown"
            line = f'"{words}" = "{letter}"  # a guess from its words: check it' if letter else ""
            mend = f"nothing is final by it: {self._where}.statuses gives it the letter of table 0085 that it means"
            yield Finding("value", f"a status that no table knows: {shown}", mend, *self._peer_line(line, "statuses"))

    def _codes(self, message: Message) -> Iterator[Finding]:
        tables = self._peer.settings.codes, self._settings.codes
        seen: set[tuple[str, str]] = set()
        for obx in message.all("OBX"):
            coded = codings(obx, 3)
            if obx.get(2).upper() not in ("NM", "SN", "CE", "CWE", "ST") or self._is_fact(coded):
                continue
            try:
                known = observation_code(coded, *tables)[0]
            except Conflict:
                continue  # a trouble of the row already
            code, words, system = coded[0] if coded else ("", "", "")
            if known or not code or (code, system) in seen:
                continue
            seen.add((code, system))
            found = unknown_code(code, system, words, self._section, unit=obx.get(6), show_phi=self._show_phi)
            if found.line or obx.get(2).upper() in (
                "NM",
                "SN",
            ):  # a coded or text value counts only where it sounds like a vital sign
                yield found

    def _classes(self, message: Message) -> Iterator[Finding]:
        for pv1 in message.all("PV1"):
            code = pv1.get(2)
            if not code or code.upper() in OPEN or class_of(code, self._peer.settings.classes):
                continue
            section = f"{self._where}.classes" if self._own else ""
            setting = f"{self._where}.classes"
            yield unknown_class(code, "", pv1.get(2, 2), section, setting, show_phi=self._show_phi)

    def _devices(self, message: Message, events: Iterable[Event]) -> Iterator[Finding]:
        """Ask of vitals that count at once, or would with the lines that are suggested, whether a device sends them."""
        sampled = self._streams.sampled(events)
        rows = [obx for obx in message.all("OBX") if self._counts_at_once(obx)]
        if self._peer.settings.charted is not None or not rows:
            return
        systems = sorted({system for obx in rows for _, _, system in codings(obx, 3) if system in _DEVICE_CODES})
        signs = {
            "OBX-18 names one": any(obx.get(18) or obx.get(18, 3) for obx in rows),
            f"codes of {', '.join(systems)}": bool(systems),
            "MSH-3 or MSH-4 is a monitor's": any(_MONITORS.search(message.header.get(field)) for field in (3, 4)),
            SAMPLED: sampled,
        }
        line = "# charted = false  # a monitor's samples; true: staff validate every set"
        for sign in (sign for sign, seen in signs.items() if seen):
            yield device_advice(sign, f"{self._where}.charted", *self._peer_line(line))

    def _counts_at_once(self, obx: Segment) -> bool:
        """Whether an OBX is a vital sign, or may be one by its name, and neither R (not verified) nor of MDC."""
        coded = codings(obx, 3)
        if obx.get(11).upper() == "R" or any(system == "MDC" for _, _, system in coded):
            return False
        try:
            known = observation_code(coded, self._peer.settings.codes, self._settings.codes)[0]
        except Conflict:
            return False
        numeric = obx.get(2).upper() in ("NM", "SN")
        return bool(known) or (numeric and any(system != "LN" and guess(code, words) for code, words, system in coded))

    def _is_fact(self, coded: tuple[tuple[str, str, str], ...]) -> bool:
        table = self._settings.context_codes
        return any(code in STANDARD or code in table or f"{code}^{system}" in table for code, _, system in coded)

    def _zone(self, message: Message) -> Iterator[Finding]:
        if self._peer.zone is not None:
            return
        places = [(obx, 14) for obx in message.all("OBX")] + [(obr, 7) for obr in message.all("OBR")]
        stamps = [stamp for segment, field in places if (stamp := _stamp(segment, field))]
        if any(stamp.offset is None for stamp in stamps):
            sent = _stamp(message.header, 7)
            read = "in the offset of MSH-7, which may be another season's" if sent and sent.offset else "as UTC"
            line = '# zone = "Continent/City"'
            mend = f"name the sender's IANA zone: {self._where}.zone"
            yield Finding("time", f"times without an offset, read {read}", mend, *self._peer_line(line))


def _pieces(content: bytes) -> Iterable[bytes]:
    """Cut a file as the server cuts a frame: one message stays as it is to the byte, since event ids derive from its hash."""
    plain = unwrap(content)
    captured = b"\x0b" in plain or b"\x1c" in plain  # MLLP marks: a capture of the wire
    if captured or not plain.strip():
        return messages(content)
    return of_frame(plain) if is_several(plain) else (content,)


def _miscounts(content: bytes) -> Iterator[Finding]:
    for trailer, said, count in miscounted(content):
        things = "messages" if trailer == "BTS" else "batches"
        yield Finding(
            "batch", f"{trailer}-1 says {said} {things} and there are {count}", "is the file cut off, or a part of it lost?"
        )


def _guessed_status(words: str) -> str:
    """Return the letter that a sender's word for a status seems to mean; empty where a word of it is not known."""
    found = [next((letter for known, letter in _STATUSES if re.fullmatch(known, one)), "") for one in _words(words)]
    told = [letter for letter, one in zip(found, _words(words), strict=True) if one not in _BESIDE]
    return next((letter for _, letter in _STATUSES if letter in told), "") if all(told) else ""


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _stamp(segment: Segment, field: int) -> Stamp | None:
    try:
        return parse_stamp(segment.get(field))
    except ValueError:
        return None
