"""Trying a sample of a feed before it goes live: what every connector's check shares.

A check sends each message through the connector's own mapping and publishing, with a publisher that writes nothing (`Nowhere`).
What it adds is advice: where a site's settings would make more of the feed, the line to add. Nothing here carries patient text,
and neither do rows and findings, unless a check was told `show_phi`: then what the sender wrote stands in `Row.details`.
"""

import gzip
import re
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from connectors.identity import LOGICAL, NOT_A_PATIENT_INDEX, Identities
from connectors.stays import Class
from models.errors import Permanent, Poison
from models.registry import ModelEntry
from processors import loinc, vitals
from processors.entities import WITHDRAWN
from processors.events import DeadLetterEvent, Event, ImageEvent, ObjectReference, PatientEvent, VitalsEvent, to_json
from processors.meant import unmeant

Verdict = Literal["accepted", "refused", "ignored", "dead-letter"]
About = Literal[
    "unknown code",
    "unit",
    "value",
    "identifier",
    "class",
    "charted",
    "time",
    "repeat",
    "rejection",
    "batch",
    "negotiation",
    "peer",
    "content",
    "picture",
]

SKEW: Final = timedelta(minutes=5)  # a clock may be this far ahead
LARGEST_FILE: Final = 2**30  # bytes, unpacked: a sample is read into memory
# What lies beside samples in a folder and is none. A file that is named itself is always tried.
PASSED_OVER: Final = frozenset(
    {".csv", ".tsv", ".md", ".rst", ".toml", ".yaml", ".yml", ".py", ".sh", ".html", ".css", ".js", ".png", ".jpg", ".pdf"}
)
_CODE: Final = re.compile(r"[\w.:/+%#-]{1,64}")  # what a code looks like; a name of a person has blanks or carets
_PRESSURE: Final = r"\b(ni?bp|abp|art\d?)"  # followed by s, d, m: Philips NBPs, ABPd; GE NIBP-S, ART1-M
_GUESSES: Final[tuple[tuple[str, str], ...]] = (  # words in a code or its name -> LOINC; the first that is found
    (rf"mean.*(arter|press|bp)|\bmap\b|{_PRESSURE} ?m\b", "8478-0"),
    (rf"diastol|\bdbp\b|\bbpd\b|{_PRESSURE} ?d\b", "8462-4"),
    (rf"systol|\bsbp\b|\bbps\b|{_PRESSURE} ?s\b", "8480-6"),
    (rf"\bspo2 r\b|{_PRESSURE} (r|hr)\b", "8867-4"),  # the pulse, as an oximeter or a cuff counts it
    (r"spo2|sp02|\bsao2\b|o2 ?sat|oxygen satur|oximet.*sat", "59408-5"),
    (r"fio2|inspired o(xygen|2)", "3150-6"),
    (r"(o2|oxygen).*(flow|rate)|\bo2 ?flow\b", "3151-8"),
    (r"\bresp(irat\w*)?\b|\brr\b|breath(s| ?rate)", "9279-1"),
    (r"pulse|heart ?rate|\bhr\b|\becg rate\b", "8867-4"),
    (r"\btemp(erature)?\d?\b", "8310-5"),
    (r"a?c?vpu|responsiveness|level of conscious", "67775-7"),
)
_CLASS_GUESSES: Final[tuple[tuple[str, Class], ...]] = (  # words in a class of visits or its name; the first that is found
    (r"\bemerg|\bed\b|\ba ?& ?e\b", "emergency"),
    (r"\bout ?patient|\bop\b|\bambulatory\b|\bappointment\b|\bclinic\b|\bday (case|surgery)\b", "outpatient"),
    (r"\bin ?patient|\bip\b", "inpatient"),
)
_STREAM: Final = timedelta(minutes=2)  # staff do not chart a set so often, three times in a row
_NO_GUESS: Final = re.compile(
    r"skin|room|ambient|blood temp|f(o?)etal|pressure support|pulse press|cuff"
)  # sounds alike, is not
_NAMES: Final = {
    "8478-0": "mean arterial pressure",
    "8462-4": "diastolic",
    "8480-6": "systolic",
    "59408-5": "SpO2",
    "3150-6": "inspired oxygen",
    "3151-8": "oxygen flow",
    "9279-1": "respiratory rate",
    "8867-4": "heart rate",
    "8310-5": "temperature",
    "67775-7": "responsiveness",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something an engineer should look at, in words without patient text.

    `mend` says what to do; where a setting does it, `section` and `line` are its TOML.
    """

    about: About
    what: str
    mend: str = ""
    section: str = ""
    line: str = ""


@dataclass(frozen=True, slots=True)
class Made:
    """An event that would be published. `key` is its record's key: a patient's pseudonym, or empty."""

    type: str
    id: str
    key: str


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one message. `code` is the answer; `refused`: the sender would be told no (to a part of it, at least)."""

    file: str
    index: int
    outcome: Verdict
    code: str
    reason: str = ""
    refused: bool = False
    events: tuple[Made, ...] = ()
    seconds: float = 0.0
    findings: tuple[Finding, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """Return the row as it stands in a report."""
        return {
            "file": self.file,
            "index": self.index,
            "outcome": self.outcome,
            "code": self.code,
            "refused": self.refused,
            "reason": self.reason,
            "events": [{"type": one.type, "id": one.id, "key": one.key} for one in self.events],
            "seconds": round(self.seconds, 6),
            "findings": [{"about": one.about, "what": one.what} for one in self.findings],
            **self.details,
        }


class Totals:
    """What a report says of all rows together."""

    def __init__(self) -> None:
        self.rows = self.refused = 0
        self.outcomes: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.reasons: Counter[tuple[str, str]] = Counter()  # outcome, reason
        self.findings: Counter[Finding] = Counter()
        self.pictures: Counter[tuple[str, str]] = Counter()  # model, why it is not asked (empty: it is)

    def add(self, row: Row) -> None:
        """Count a row."""
        self.rows += 1
        self.refused += row.refused
        self.outcomes[row.outcome] += 1
        self.codes[row.code or "no answer"] += 1
        self.events.update(one.type for one in row.events)
        self.findings.update(row.findings)
        if row.reason:
            self.reasons[row.outcome, row.reason] += 1
        if row.details.get("judged") is not None:
            self.pictures[row.details["model"], row.details["not_judged"]] += 1

    @property
    def judged(self) -> int:
        """How many pictures a model would be asked about."""
        return sum(n for (_, why), n in self.pictures.items() if not why)

    def settings(self) -> str:
        """Return the lines to add to the settings as TOML, empty for none. Guesses say that they are; each key stands once."""
        sections: dict[str, dict[str, str]] = {}
        for one, _ in self.findings.most_common():
            if one.line:
                sections.setdefault(one.section, {}).setdefault(one.line.partition(" = ")[0], one.line)
        return "\n".join(f"[{name}]\n" + "\n".join(lines.values()) + "\n" for name, lines in sections.items())

    def json(self) -> dict[str, Any]:
        """Return the totals as they stand in a report."""
        return {
            "messages": self.rows,
            "refused": self.refused,
            "outcomes": dict(self.outcomes),
            "codes": dict(self.codes),
            "events": dict(self.events),
            "reasons": [{"outcome": o, "reason": reason, "count": n} for (o, reason), n in self.reasons.most_common()],
            "findings": [
                {"about": one.about, "what": one.what, "mend": one.mend, "count": n} for one, n in self.findings.most_common()
            ],
            "settings": self.settings(),
            "pictures": [
                {"model": model, "judged": not why, "not_judged": why, "count": n}
                for (model, why), n in self.pictures.most_common()
            ],
        }


class Checker(Protocol):
    """A connector's check. Keeps what a running server would keep (contexts, resends), so order matters."""

    @property
    def nothing(self) -> Mapping[str, Any]:
        """The details of a row whose file could not be tried: every key that its rows have, without a value."""
        ...

    def check(self, name: str, content: bytes) -> AsyncIterator[Row]:
        """Try everything in a file: at least one row, whatever is in it."""
        ...


class Nowhere:
    """A publisher that writes nothing and refuses what a broker would."""

    def __init__(self, largest_bytes: int) -> None:
        """`largest_bytes`: of one record; a dead letter may have twice as many, as its topic has."""
        self._largest = largest_bytes

    async def publish(self, events: Sequence[Event], *, timeout: float | None = None) -> None:
        """Confirm at once. Raises `Poison` for an event that is too large."""
        for event in events:
            allowed = self._largest * (2 if isinstance(event, DeadLetterEvent) else 1)
            if len(to_json(event)) > allowed:
                raise Poison("a record is too large", stage="produce")


class Unstored:
    """An object store that keeps nothing, and refuses what the real one would."""

    def __init__(self, largest_bytes: int) -> None:
        self._largest = largest_bytes

    async def put(self, data: bytes, media_type: str, suffix: str = "") -> ObjectReference:
        """Return the reference that the bytes would have. Raises `Poison` over the size limit."""
        if len(data) > self._largest:
            raise Poison("an object is over the size limit", stage="store")
        digest = sha256(data).hexdigest()
        path = f"{digest[:2]}/{digest[2:4]}/{digest}{suffix}"
        return ObjectReference(uri=path, sha256=digest, media_type=media_type, bytes=len(data))


# ------------------------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True, slots=True)
class Sample:
    """A file to try, by the name it has in the report."""

    path: Path
    name: str

    def read(self) -> bytes:
        """Return its content, unpacked where it ends in .gz. Raises `OSError`, `EOFError`, `zlib.error` where that fails."""
        if self.path.suffix.lower() != ".gz":
            if self.path.stat().st_size > LARGEST_FILE:
                raise OSError("too large")
            return self.path.read_bytes()
        with gzip.open(self.path) as packed:
            content = packed.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise OSError("too large")
        return content


UNREADABLE: Final = (OSError, EOFError, zlib.error)


def samples(paths: Iterable[Path]) -> tuple[list[Sample], Counter[str]]:
    """List the files of files and folders (with all below), and by suffix what was passed over in folders, links to folders too.

    Raises `Permanent` for a path that is not there.
    """
    found: list[Sample] = []
    passed: Counter[str] = Counter()
    for path in paths:
        if path.is_dir():
            for one in sorted(path.rglob("*")):
                inside = one.relative_to(path)
                if one.is_symlink() and one.is_dir():
                    passed["link to a folder"] += 1
                dangling = one.is_symlink() and not one.exists()  # its row says that there is no file
                if not (one.is_file() or dangling):
                    continue
                if one.suffix.lower() in PASSED_OVER or any(part.startswith(".") for part in inside.parts):
                    passed[one.suffix.lower() or one.name] += 1
                else:
                    found.append(Sample(one, _printable(path.name / inside)))
        elif path.is_file():
            found.append(Sample(path, _printable(path)))
        else:
            raise Permanent(f"{path} is not there", hint="give files or folders of samples")
    return found, passed


def _printable(path: Path) -> str:
    return "".join(each if each.isprintable() else "?" for each in str(path))  # names may hold line ends and broken UTF-8


def failed(name: str, index: int, reason: str, details: Mapping[str, Any]) -> Row:
    """Return the row of what could not be tried: nobody would have answered, so it has no code."""
    return Row(name, index, "refused", "", reason, refused=True, details=details)


# ------------------------------------------------------------------------------------------------------------------ advice


def looks_like_code(text: str) -> bool:
    """Whether a text may be shown as a code: no blanks, nothing that a name or an address needs."""
    return bool(_CODE.fullmatch(text))


def guess(*words: str) -> str:
    """Return the LOINC code of the vital sign that words seem to name, "" for none. A guess: somebody must look at it."""
    text = " ".join(re.sub(r"[_\-./]+", " ", word) for word in words).casefold()
    if _NO_GUESS.search(text):
        return ""
    return next((code for pattern, code in _GUESSES if re.search(pattern, text)), "")


def unknown_code(code: str, system: str, words: str, section: str, *, unit: str, show_phi: bool = False) -> Finding:
    """Return the advice for an observation code that no table knows. `unit` is what the sender gave.

    What does not look like a code is shown with `show_phi` only: it may be anything.
    """
    key = f"{code}^{system}" if system else code
    if not looks_like_code(code) or not (not system or looks_like_code(system)):
        what = key if show_phi else "a code that does not look like one (not shown)"
        return Finding("unknown code", what, "no line can be suggested for such a code; --show-phi shows it")
    meant = guess(code, words) if system != "LN" else ""
    if not meant:
        mend = "nothing to do where it is no vital sign; else add a line to the codes of the connector"
        return Finding("unknown code", key, "LOINC, and no vital sign that is scored" if system == "LN" else mend)
    quantity = loinc.LOINC[meant].quantity
    default = vitals.UNITS_OF.get(quantity, "")
    fills = f', unit = "{default}"' if default and not unit else ""
    line = f'"{key}" = {{ loinc = "{meant}"{fills} }}  # {_NAMES[meant]}? A guess from its name: check it'
    return Finding("unknown code", key, f"perhaps {meant} ({_NAMES[meant]})", section, line)


def of_events(
    events: Iterable[Event], received_at: datetime, unitless: Mapping[str, str], section: str, zone: str, units: str = ""
) -> Iterator[Finding]:
    """Say what the vitals lane will not be able to use, and which times cannot be.

    `section` and `units`: of the settings, where codes and ways to write a unit stand; `zone`: the setting that a time depends on.
    """
    for event in events:
        if isinstance(event, VitalsEvent):
            for one in event.observations:
                if one.value is not None and isinstance(
                    why := vitals.read(one.code, one.value, one.unit, unitless=unitless), str
                ):
                    yield from _unusable(one.code, one.unit, why, section, units)
        if isinstance(event, DeadLetterEvent):
            continue
        for name in ("observed_at", "authored_at", "acquired_at"):
            at = getattr(event, name, None)
            if at is not None and at > received_at + SKEW:
                yield Finding("time", f"{type(event).__name__}: a time in the future", f"is {zone} right?")


def _unusable(code: str, unit: str, why: str, section: str, units: str) -> Iterator[Finding]:
    meaning = loinc.LOINC.get(code)
    target = vitals.UNITS_OF.get(meaning.quantity, "") if meaning else ""
    if why == "no unit":
        line = f'"{code}" = {{ loinc = "{code}", unit = "{target}" }}  # if the sender means {target}'
        yield Finding("unit", f"{code} without a unit", "the vitals lane refuses it without one", section, line)
    elif why.startswith("unknown unit"):
        if not looks_like_code(unit.replace(" ", "").replace("[", "").replace("]", "")):
            yield Finding("unit", f"{code}: unknown unit (not shown)", f"have the sender say {target}")
        elif units:
            line = f'"{unit}" = "{target}"  # if the sender means {target}'
            yield Finding("unit", f"{code}: unknown unit {unit}", "the vitals lane refuses it", units, line)
        else:
            yield Finding("unit", f"{code}: unknown unit {unit}", f"have the sender say {target}, or report the spelling")
    elif why:
        yield Finding("value", f"{code}: {why.partition(':')[0]}", "the vitals lane will not use it")


def made(events: Iterable[Event]) -> tuple[Made, ...]:
    """Return what a row says of events."""
    return tuple(Made(type(one).type, one.id, getattr(one, "patient_id", "") or "") for one in events)


def held_apart(events: Iterable[Event]) -> bool:
    """Whether something could not be filed under anybody."""
    return any(isinstance(one, DeadLetterEvent) and one.stage == "identify" for one in events)


def several_authorities(events: Iterable[Event], identities: Identities, listed: Sequence[str]) -> Iterator[Finding]:
    """Say which authorities number one patient where the site has no order of them: another feed may send other numbers."""
    for event in () if listed else events:
        if not isinstance(event, PatientEvent) or event.merged_into:
            continue
        of_index = [one for one in event.identifiers if one.kind.upper() not in NOT_A_PATIENT_INDEX and one.kind != LOGICAL]
        first = identities.choose(of_index)
        named = {one.authority.casefold(): one.authority for one in ((first,) if first else ()) + (*of_index,) if one.authority}
        if len(named) < 2:
            continue
        shown = [one if looks_like_code(one) else "(not shown)" for one in named.values()]
        what = f"numbers of several authorities: {', '.join(shown)}"
        mend = (
            "feeds agree about a patient only by one that all of them send; without an order MR counts, then PI, then the first"
        )
        order = ", ".join(f'"{one}"' for one in shown)
        line = f"# authorities = [{order}]  # the first that a message has names the patient: is it one that every feed sends?"
        yield Finding("identifier", what, mend, *(("identity", line) if "(not shown)" not in shown else ()))


def unknown_class(code: str, system: str, words: str, section: str, setting: str, *, show_phi: bool = False) -> Finding:
    """Return the advice for a class of visits of which nothing is known. `section`: empty where no line can be suggested."""
    key = f"{code}^{system}" if system else code
    mend = f"displaces no stay in progress, nor does an outpatient's; {setting} says which it is"
    if not looks_like_code(code) or not (not system or looks_like_code(system)):
        return Finding("class", key if show_phi else "a class that does not look like a code (not shown)", mend)
    text = re.sub(r"[_\-./]+", " ", f"{code} {words}").casefold()
    meant = next((kind for pattern, kind in _CLASS_GUESSES if re.search(pattern, text)), None)
    if meant:
        return Finding("class", key, mend, section, section and f'"{key}" = "{meant}"  # A guess from its name: check it')
    return Finding("class", key, mend, section, section and f'# "{key}" = "outpatient"  # or "inpatient", "emergency"')


ModelOf = Callable[[str], ModelEntry]
"""The image model that is asked about a patient's pictures."""

UNJUDGED: Final[Mapping[str, Any]] = {"judged": None, "model": "", "not_judged": ""}  # of what brings no picture


def of_picture(event: Event, model_of: ModelOf) -> Mapping[str, Any]:
    """Return whether the images lane would judge a picture, by which model, and why not; `UNJUDGED` for anything else."""
    if not isinstance(event, ImageEvent) or event.status in WITHDRAWN or event.pixels is None:
        return UNJUDGED
    entry = model_of(event.patient_id)
    why = unmeant(event, entry.meant_for)
    return {"judged": not why, "model": f"{entry.name} {entry.version}", "not_judged": why}


def of_pictures(events: Iterable[Event], model_of: ModelOf) -> Iterator[Finding]:
    """Say of which pictures nothing would be said, and what to do where the model is for them all the same."""
    for said in (of_picture(event, model_of) for event in events):
        if why := said["not_judged"]:
            listed = f"where it is for them, list the site's own words in [meant_for.{said['model'].partition(' ')[0]}]"
            yield Finding("picture", f"not judged by {said['model']}: {why}", f"{listed} of the registry file")


class Streams:
    """Tells by the times of patients' sets whether they are a device's samples, not what staff charted."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[datetime, int]] = {}  # patient -> time of the last set, how many came close before it

    def sampled(self, events: Iterable[Event]) -> bool:
        """Take the next sets, and return whether one of them that would count at once is the third in a row, close together."""
        found = False
        for event in events:
            if not isinstance(event, VitalsEvent) or not event.charted:
                continue
            last, run = self._last.get(event.patient_id, (event.observed_at, 0))
            if event.observed_at != last:
                run = run + 1 if timedelta() < event.observed_at - last <= _STREAM else 0
            self._last[event.patient_id] = event.observed_at, run
            found = found or run > 1
        return found


def device_advice(sign: str, setting: str, section: str = "", line: str = "") -> Finding:
    """Return the question that has to be asked of vitals which would count at once though a device may have sent them unseen."""
    mend = f"did staff validate them? A monitor's samples need {setting} = false, or one artefact can raise an alert"
    return Finding("charted", f"vitals that may be a device's own: {sign}", mend, section, line)


SAMPLED: Final = "sets of a patient within 2 minutes, again and again"


def identifier_advice(authorities: Iterable[str], listed: Sequence[str], setting: str) -> Finding:
    """Return the advice for what nobody could be found for. `authorities` are those that the message names."""
    named = list(dict.fromkeys(one for one in authorities if looks_like_code(one)))
    if named and listed:
        line = f"authorities = [{', '.join(repr(one).replace(chr(39), chr(34)) for one in (*listed, *named))}]"
        what = f"no identifier of a listed authority; the message names {', '.join(named)}"
        return Finding("identifier", what, "list it if the site vouches for it", "identity", line)
    return Finding("identifier", "no patient identifier that may be used: held apart, not guessed", setting)
