"""Which section of a note a character stands in, found by its header.

A header is a known phrase at the start of a line, followed by a colon or alone on its line, or a known phrase in capitals with a
colon anywhere ("... effusion. IMPRESSION: ..."), as radiology systems flatten their reports. A line of capitals with a colon
that the table does not know ends the section before it and opens one named `OTHER`, so that nothing leaks out of, say, a family
history. The table holds the headings of H&P, SOAP, progress, nursing, discharge and imaging notes (after the section names of
C-CDA 2.1 and of LOINC's document ontology); a site passes its own.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
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
    illness | present illness | hpi | hpc | history | interval history | case | presentation
subjective: subjective | s
past-medical-history: past medical history | past history | previous medical history | medical history | pmh | pmhx |
    past medical and surgical history | significant past medical history | history of past illness | background |
    comorbidities | chronic conditions
past-surgical-history: past surgical history | surgical history | psh | pshx | previous surgery | previous operations
family-history: family history | family medical history | fh | fhx | famhx
social-history: social history | social hx | sh | shx | social circumstances | habits
allergies: allergies | allergy | allergies and intolerances | drug allergies | known allergies | adverse reactions
medications: medications | medication | current medications | home medications | medications on admission | admission
    medications | medication list | drug history | dh | meds | regular medications | inpatient medications
discharge-medications: discharge medications | medications on discharge | medications at discharge | to take out | tto
review-of-systems: review of systems | ros | systems review | systems enquiry | system review
vital-signs: vital signs | vitals | observations | obs | news2 | news
physical-examination: physical examination | physical exam | examination | exam | on examination | o/e | pe | general
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
impression: impression | impressions | conclusion | conclusions | opinion | interpretation | summary
diagnosis: diagnosis | diagnoses | admission diagnosis | admitting diagnosis | admission diagnoses | discharge
    diagnosis | discharge diagnoses | final diagnosis | principal diagnosis | primary diagnosis | secondary diagnoses
    | working diagnosis | differential diagnosis | problem list | active problems | problems | active issues | issues
assessment: assessment | clinical assessment | a
assessment-and-plan: assessment and plan | assessment & plan | assessment/plan | impression and plan | a/p | a&p | ap
    | impression/plan
plan: plan | p | management plan | plan of care | treatment plan | recommendations | recommendation | disposition |
    follow up plan | action | actions
follow-up: follow up | follow-up | followup | follow up instructions | discharge condition | condition on discharge
instructions: discharge instructions | instructions | patient instructions | return precautions | safety netting |
    safety net | advice | escalation plan | when to call | call parameters | notify if
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


# A line that may be a header: marks of a list or of Markdown, a heading without stops, then a colon or the end of the line.
_LINE: Final = re.compile(
    r"[ \t#*_>]*(?:\d{1,2}[.)][ \t]*)?(?P<heading>[A-Za-z][^\r\n:.;]{0,60}?)[ \t*_]*(?::[ \t*_]*|(?![^\r\n]))"
)
_LINE_END: Final = re.compile(r"[\r\n]+")
_INLINE: Final = re.compile(r"(?<=[.;])[ \t]+(?P<heading>[A-Z][A-Z /&-]{3,60}?)[ \t]*:[ \t]*")
_CAPITALS: Final = re.compile(r"[A-Z][A-Z0-9 /&(),'-]{2,60}")


class Sectioner:
    """Finds sections by a table of headings. Made once, used from any thread."""

    def __init__(self, headings: Mapping[str, Sequence[str]] = HEADINGS) -> None:
        self._names = {" ".join(heading.lower().split()): name for name, listed in headings.items() for heading in listed}

    def split(self, text: str) -> list[Section]:
        """Return the sections of a text in order; together with their headers they cover all of it."""
        found = [header for start in self._lines(text) if (header := self._header(text, start))]
        for match in _INLINE.finditer(text):
            if name := self._names.get(" ".join(match["heading"].lower().split())):
                found.append((match.start(), match.end(), name))
        found.sort()
        sections = [Section("", 0, 0, found[0][0] if found else len(text))]
        for index, (begin, start, name) in enumerate(found):
            end = found[index + 1][0] if index + 1 < len(found) else len(text)
            sections.append(Section(name, begin, start, max(start, end)))
        return sections

    @staticmethod
    def _lines(text: str) -> list[int]:
        return [0, *(match.end() for match in _LINE_END.finditer(text))]

    def _header(self, text: str, start: int) -> tuple[int, int, str] | None:
        match = _LINE.match(text, start)
        if match is None:
            return None
        heading = match["heading"]
        name = self._names.get(" ".join(heading.lower().split()))
        colon = ":" in text[match.end("heading") : match.end()]
        if name is None:
            unknown = colon and _CAPITALS.fullmatch(heading) and heading.lower() not in SUBHEADINGS
            return (start, match.end(), OTHER) if unknown else None
        if len(heading) <= 2 and not (colon and heading.isupper()):
            return None  # a lone "s" is a letter, "S:" is a header
        return start, match.end(), name


def section_at(sections: Sequence[Section], position: int) -> str:
    """Name the section that a character stands in. `sections` as `Sectioner.split` gives them."""
    index = bisect_right(sections, position, key=lambda section: section.header) - 1
    return sections[max(index, 0)].name
