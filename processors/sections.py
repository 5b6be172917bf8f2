"""Which section of a note a character stands in, found by its header.

A header is a known phrase at the start of a line, followed by a colon or a dash or alone on its line, or a known phrase with a
colon inside a line ("... effusion. IMPRESSION: ...", "PMH: HTN. Meds: ..."), as systems flatten their notes; a remark in
parentheses may stand behind the phrase ("Family History (per chart):"). A sentence that begins with "allergic to" is a section of
allergies of its own, and what was open goes on behind it. A line of capitals with a colon that the table does not
know ends the section before it and opens one named `OTHER`, so that nothing leaks out of, say, a family history. Such a section,
a past history and allergies also end at a line that begins with a heading without a colon ("O/E pale") that is hardly anything
else.

The table holds the headings of H&P, SOAP, progress, nursing, discharge and imaging notes (after the section names of
C-CDA 2.1 and of LOINC's document ontology); a site passes its own.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

OTHER: Final = "other"

# Canonical name: the headings that open it, lower case. A blank in a heading matches any run of blanks.
_TABLE: Final = """
chief-complaint: chief complaint | chief complaints | presenting complaint | presenting problem | pc | cc
reason: reason for visit | reason for admission | reason for consultation | reason for referral | reason for exam |
    reason for examination | reason for study | indication | indications | clinical indication | clinical history |
    clinical information | clinical details | clinical question
history-of-present-illness: history of present illness | history of presenting complaint | history of the present
    illness | history of presenting illness | present illness | presenting illness | hpi | hpc | history | interval history |
    case | presentation
subjective: subjective | s
past-medical-history: past medical history | past medical hx | past med hx | past history | past hx | previous medical history |
    medical history | medical hx | pmh | pmhx | past medical and surgical history | past medical/surgical history |
    past medical & surgical history | pmh/psh | pmhx/pshx | past psychiatric history | significant past medical history |
    history of past illness | background | comorbidities | co-morbidities | chronic conditions
past-surgical-history: past surgical history | past surgical hx | surgical history | surgical hx | psh | pshx | previous surgery |
    previous operations
family-history: family history | family hx | fam history | fam hx | family medical history | family medical hx |
    family psychiatric history | significant family history | pertinent family history | fh | fhx | famhx |
    family/social history | family/social hx | family and social history | family & social history |
    social/family history | social and family history | fh/sh | fhx/shx
obstetric-history: past obstetric history | obstetric history | obstetric hx | pph | poh | pobhx
social-history: social history | social hx | soc hx | sh | shx | social circumstances | habits
allergies: allergies | allergy | allergies and intolerances | drug allergies | known allergies | adverse reactions
medications: medications | medication | current medications | home medications | medications on admission | admission
    medications | medication list | drug history | dh | dhx | drug hx | meds | home meds | current meds | regular meds |
    regular medications | inpatient medications
discharge-medications: discharge medications | medications on discharge | medications at discharge | to take out | tto
review-of-systems: review of systems | ros | systems review | systems enquiry | system review
vital-signs: vital signs | vitals | vs | observations | obs | news2 | news
physical-examination: physical examination | physical exam | examination | exam | on examination | on exam | o/e | pe | general
    examination | neurological examination | physical findings
objective: objective | o
results: results | investigations | laboratory data | laboratory results | laboratory | labs | lab results | pertinent
    results | data | bloods | microbiology | diagnostic studies | imaging | radiology | ecg | ekg
hospital-course: hospital course | brief hospital course | course in hospital | clinical course | course | ed course |
    emergency department course | progress | interval events | events overnight | overnight events | nursing note |
    nursing assessment
procedures: procedure | procedures | operations | operation | procedure performed | operative findings | description
    of procedure | operative procedure
technique: technique | method | protocol | contrast
comparison: comparison | comparisons | compared with | prior studies
findings: findings | finding | report
impression: impression | impressions | imp | conclusion | conclusions | opinion | interpretation | summary
diagnosis: diagnosis | diagnoses | admission diagnosis | admitting diagnosis | admission diagnoses | discharge
    diagnosis | discharge diagnoses | final diagnosis | principal diagnosis | primary diagnosis | secondary diagnoses
    | working diagnosis | differential diagnosis | problem list | active problems | problems | active issues | issues
assessment: assessment | clinical assessment | a
assessment-and-plan: assessment and plan | assessment & plan | assessment/plan | impression and plan | a/p | a&p | ap
    | impression/plan
plan: plan | p | management plan | plan of care | treatment plan | recommendations | recommendation | disposition |
    follow up plan | action | actions
follow-up: follow up | follow-up | followup | follow up instructions | discharge condition | condition on discharge
instructions: discharge instructions | instructions | patient instructions | return precautions | ed precautions |
    return instructions | when to return | safety netting | safety-netting | safety net | safety net advice | safety-net advice |
    worsening advice | advice | escalation plan | when to call | call parameters | notify if
addendum: addendum | addenda | correction | amendment
signature: signed by | dictated by | electronically signed | electronically signed by | attending | author | signature
"""


def _table(text: str) -> Mapping[str, tuple[str, ...]]:
    joined = text.strip().replace("\n    ", " ")
    rows = (line.partition(": ") for line in joined.splitlines())
    return MappingProxyType({name: tuple(heading.strip() for heading in listed.split("|")) for name, _, listed in rows})


HEADINGS: Final = _table(_TABLE)

# Organs and systems head lines inside a section (an examination, a report): they open none of their own.
_ORGANS: Final = """
general heent head neck eyes ears nose throat mouth chest lungs lung heart cardiac cardiovascular cvs cv respiratory
resp pulmonary abdomen abdominal abdo gi gu genitourinary gastrointestinal neuro neurological neurologic cns msk
musculoskeletal skin extremities psych psychiatric endocrine renal haematology hematology bones pleura mediastinum
hila airway airways diaphragm vascular vascularity lymph constitutional temp hr rr bp spo2 news avpu gcs
"""
SUBHEADINGS: Final = frozenset(_ORGANS.split())


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of text: `text[start:end]` begins after its header. `name` is canonical; empty before the first header."""

    name: str
    header: int  # where the header begins; `start` where there is none
    start: int
    end: int


# Headings that begin something new without a colon or a dash too, where they begin a line: "PMH AF, CCF", "Imp NSTEMI". The first
# are nothing else however they are written, the others only so ("plan", "vs" are words of a sentence).
# Left out are "PE" and "History", which begin a line of a list as often ("History of MI").
BARE: Final = re.compile(
    r"(?:(?i:pmhx?|pshx?|dhx|fhx|famhx|shx|hpc|hpi|o/e|imp|a/p)|PPH|POH|DH|FH|SH|ROS|VS|ECG|EKG|Plan|PLAN|Impression|IMPRESSION|"
    r"On [Ee]xam(?:ination)?|Exam(?:ination)?|Assessment|Diagnosis|Meds|Home [Mm]eds|Drug [Hh]istory|Medications|Obs|Vitals|Bloods|"
    r"Labs|Allergies|ALLERGIES|Family [Hh]istory|Social [Hh]istory|Past [Mm]edical [Hh]istory)(?![\w/'’&-])"
)
# What says something of all that stands in it, and must not say it of what no longer does. The first three tell whose or of when it
# is: without a colon they are known for one line alone ("PMH AF" by its words), so they open no section.
_ASSERTING: Final = frozenset({"family-history", "past-medical-history", "past-surgical-history"})
_TELLING: Final = _ASSERTING | {"allergies"}

# A line that may be a header: marks of a list or of Markdown, a heading without stops, then a colon or the end of the line.
_LINE: Final = re.compile(
    r"[ \t#*_>]*(?:\d{1,2}[.)][ \t]*)?(?P<heading>[A-Za-z][^\r\n:.;]{0,60}?)[ \t*_]*(?::[ \t*_]*|(?![^\r\n]))"
)
_LINE_END: Final = re.compile(r"[\r\n]+")
# "PMH - asthma", of known headings only: capitals with a dash may be anything.
_DASHED: Final = re.compile(r"[ \t#*_>]*(?P<heading>[A-Za-z][A-Za-z /&]{1,60}?)[ \t]+[-–—][ \t]+")
# Inside a line a heading ends at a colon, and may begin at any word before it that begins with a capital.
_COLON: Final = re.compile(r":[ \t]*")
_CAPITAL: Final = re.compile(r"(?<=[ \t])[A-Z]")
# "Allergic to penicillin -> rash." under "DHx:" is no medication, to its stop.
_ALLERGIC: Final = re.compile(
    r"(?:\A|(?<=[.;\n\r]))[ \t]*(?P<heading>(?:(?:pt|patient|he|she|is|known|also|severely|says|reports) ){0,4}"
    r"(?:allergic to|allergy to|reacts to|intolerant (?:of|to)))[ \t]+(?P<body>[^;\n\r.]*(?:\.(?=\w)[^;\n\r.]*)*)",
    re.IGNORECASE,
)
_LONGEST: Final = 60
_CAPITALS: Final = re.compile(r"[A-Z][A-Z0-9 /&(),'-]{2,60}")


class Sectioner:
    """Finds sections by a table of headings. Made once, used from any thread."""

    def __init__(self, headings: Mapping[str, Sequence[str]] = HEADINGS) -> None:
        self._names = {_key(heading): name for name, listed in headings.items() for heading in listed}

    def split(self, text: str) -> list[Section]:
        """Return the sections of a text in order; together with their headers they cover all of it."""
        lines = self._lines(text)
        found = [header for start in lines if (header := self._header(text, start))]
        found = sorted([*found, *self._inline(text, {start for _, start, _ in found})])
        found = _allergic(text, self._ended(text, lines, found))
        sections = [Section("", 0, 0, found[0][0] if found else len(text))]
        for index, (begin, start, name) in enumerate(found):
            end = found[index + 1][0] if index + 1 < len(found) else len(text)
            sections.append(Section(name, begin, start, max(start, end)))
        return sections

    def _ended(self, text: str, lines: Sequence[int], found: Sequence[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
        """Add the headings without a colon that end a section of `_TELLING`."""
        headers = {header[0]: header for header in found}
        bare = {start: match for start in lines if start not in headers and (match := BARE.match(text, start))}
        ended: list[tuple[int, int, str]] = []
        for begin in sorted({*headers, *bare}):
            if begin in headers:
                ended.append(headers[begin])
            elif ended and ended[-1][2] in _TELLING:
                name, end = self._names.get(_key(bare[begin].group()), OTHER), bare[begin].end()
                while text[end : end + 1] in (" ", "\t"):
                    end += 1
                ended.append((begin, end, OTHER if name in _ASSERTING else name))
        return ended

    @staticmethod
    def _lines(text: str) -> list[int]:
        return [0, *(match.end() for match in _LINE_END.finditer(text))]

    def _header(self, text: str, start: int) -> tuple[int, int, str] | None:
        match = _LINE.match(text, start)
        name = self._names.get(_key(match["heading"])) if match else None
        if name is None and (dashed := _DASHED.match(text, start)) and (name := self._names.get(_key(dashed["heading"]))):
            match = dashed
        if match is None:
            return None
        heading = match["heading"]
        colon = not text[match.end("heading") : match.end()].isspace() and match.end("heading") < match.end()
        if name is None:
            unknown = colon and _CAPITALS.fullmatch(heading) and heading.lower() not in SUBHEADINGS
            return (start, match.end(), OTHER) if unknown else None
        if len(heading) <= 2 and not (colon and heading.isupper()):
            return None  # a lone "s" is a letter, "S:" is a header
        return start, match.end(), name

    def _inline(self, text: str, taken: Collection[int]) -> Iterator[tuple[int, int, str]]:
        """Find the known headings inside lines, but those that end where one was found already."""
        floor = 0
        for colon in _COLON.finditer(text):
            end = colon.start()
            floor = max(floor, text.rfind("\n", floor, end) + 1, text.rfind("\r", floor, end) + 1)
            for first in _CAPITAL.finditer(text, max(floor, end - _LONGEST), end):
                heading = text[first.start() : end].rstrip()
                name = self._names.get(_key(heading))
                if name and colon.end() not in taken and _stands_out(text[floor : first.start()], heading):
                    yield first.start(), colon.end(), name
                    break
            floor = colon.end()


def _allergic(text: str, found: Sequence[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Add the sentences that begin with "allergic to", and behind each the section that was open."""
    added, begins = [*found], [header[0] for header in found]
    for match in _ALLERGIC.finditer(text):
        start, end = match.start("heading"), match.end()
        after = bisect_right(begins, start)
        _, opened, name = found[after - 1] if after else (0, 0, "")
        if name == "allergies" or start < opened or (after < len(found) and found[after][0] <= end):
            continue
        added.append((start, match.start("body"), "allergies"))
        if end < len(text):
            added.append((end, end, name))
    return sorted(added)


def _key(heading: str) -> str:
    named = heading.rpartition("(")[0] if heading.endswith(")") else heading
    return " ".join(named.lower().split())


def _stands_out(before: str, heading: str) -> bool:
    """Say whether a heading inside a line begins something new: behind a stop, or unlike the words before it.

    "with cough. Exam: ..." and "no asthma Assessment: ..." do; "Dr Plan: ..." and "Microbiology Advice: ..." do not.
    """
    previous = before.split()[-1:] or [""]
    if previous[0][-1:] in (*".;,!?)]", ""):
        return len(heading) > 2 or (len(heading) == 2 and heading.isupper())
    if len(heading) < (3 if heading.isupper() else 6):
        return False
    return not previous[0][0].isupper() or previous[0].isupper() != heading.isupper()


def section_at(sections: Sequence[Section], position: int) -> str:
    """Name the section that a character stands in. `sections` as `Sectioner.split` gives them."""
    index = bisect_right(sections, position, key=lambda section: section.header) - 1
    return sections[max(index, 0)].name


def in_heading(sections: Sequence[Section], start: int, end: int) -> bool:
    """Say whether `text[start:end]` is a known heading or a word of one, longer than two letters ("PE: ..." may be a finding)."""
    section = sections[max(bisect_right(sections, start, key=lambda section: section.header) - 1, 0)]
    return section.name not in ("", OTHER) and end <= section.start and end - start > 2
