"""Who lies on the ward. Nobody here exists: the family names say so."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Final, Literal

from streams.demo.physiology import COURSES

AUTHORITY: Final = "FICTION"  # assigning authority of record and visit numbers in every feed
HOSPITAL: Final = "FICTION GENERAL"

# What is odd about how a patient is measured or sent. `ward` says what each does.
Quirk = Literal[
    "artefact", "impossible", "missing", "fahrenheit", "corrected", "duplicated", "late", "wrong-patient", "monitor",
    "refused-value", "unknown-age", "comma",
]  # fmt: skip

_FAMILIES: Final = (
    "Madeup", "Notreal", "Fictiva", "Pretend", "Invented", "Imagined", "Placeholder", "Mockford", "Samplewright", "Testcase",
    "Storybook", "Makebelieve", "Erfunden", "Fingierski", "Exempel", "Phantasma", "Nobodiak", "Specimen", "Dummyson", "Synthetova",
)  # fmt: skip
_WOMEN: Final = (
    "Ada",
    "Bella",
    "Clio",
    "Dora",
    "Edda",
    "Flora",
    "Greta",
    "Hedda",
    "Ines",
    "Juno",
    "Kaja",
    "Lotte",
    "Mira",
    "Nora",
)
_MEN: Final = (
    "Abel",
    "Bruno",
    "Carl",
    "Dario",
    "Emil",
    "Fritz",
    "Goran",
    "Hugo",
    "Ivo",
    "Jonas",
    "Karel",
    "Leo",
    "Milan",
    "Nils",
)


@dataclass(frozen=True, slots=True)
class Patient:
    """An invented patient. Hours count from the ward's epoch; negative: before it."""

    number: int
    family: str
    given: str
    female: bool
    age: int
    diagnosis: str  # a key of `notes.PICTURES`
    course: str  # a key of `physiology.COURSES`
    every: int = 60  # minutes between sets of vitals
    feed: Literal["mllp", "fhir"] = "mllp"
    quirks: frozenset[Quirk] = frozenset()
    admitted: float = -12.0
    transferred: float | None = None  # to intensive care
    discharged: float | None = None
    pregnant: bool = False
    scale_2: bool = False  # by a clinician's recorded decision
    ceiling: str = ""
    radiographs: int = 0

    @property
    def mrn(self) -> str:
        """The record number."""
        return f"FIC{100_000 + self.number}"

    @property
    def visit(self) -> str:
        """The visit number."""
        return f"V{500_000 + self.number}"

    @property
    def bed(self) -> str:
        """The bed on the ward, two to a room."""
        return f"{self.number % 60 + 1:02d}"

    @property
    def room(self) -> str:
        """The room."""
        return f"{(self.number % 60) // 2 + 1:02d}"

    def born(self, today: date) -> date:
        """Return the date of birth that makes them their age on the ward's first day."""
        return date(today.year - self.age, 1, 1) + timedelta(days=(self.number * 47) % 150 - 151)

    @property
    def words(self) -> dict[str, str]:
        """Pronouns for the notes."""
        kinds = ("boy", "girl") if self.age < 16 else ("man", "woman")
        she, her, hers = ("she", "her", "her") if self.female else ("he", "him", "his")
        return {
            "kind": kinds[self.female],
            "she": she,
            "She": she.capitalize(),
            "her": her,
            "hers": hers,
            "Hers": hers.capitalize(),
        }


def _p(
    female: bool, age: int, diagnosis: str, course: str, *quirks: Quirk, every: int = 60, feed: Literal["mllp", "fhir"] = "mllp",
    admitted: float = -12.0, transferred: float | None = None, discharged: float | None = None, pregnant: bool = False,
    scale_2: bool = False, ceiling: str = "", radiographs: int = 0,
) -> Patient:  # fmt: skip
    return Patient(
        0, "", "", female, age, diagnosis, course, every, feed, frozenset(quirks), admitted, transferred, discharged, pregnant,
        scale_2, ceiling, radiographs,
    )  # fmt: skip


# The cast. Every case that the alert rules must get right lies in one of these beds.
_CAST: Final = (
    _p(True, 67, "pneumonia", "sepsis-early", every=15, radiographs=2, transferred=5.5),
    _p(False, 74, "urosepsis", "sepsis-treated", every=20, admitted=0.2, radiographs=1),
    _p(False, 71, "copd", "copd", every=30, scale_2=True, radiographs=1),
    _p(True, 64, "copd", "copd-worse", every=20, scale_2=True),
    _p(True, 7, "asthma", "child", every=30),
    _p(True, 31, "pyelonephritis", "pregnant", every=30, pregnant=True),
    _p(True, 82, "hip-fracture", "post-op", every=30, discharged=None),
    _p(False, 58, "bowel-resection", "bleeding", every=15, admitted=0.4),
    _p(False, 45, "pancreatitis", "stable", "artefact", every=30),
    _p(True, 53, "cellulitis", "stable", "impossible"),
    _p(False, 69, "heart-failure", "fluid", "missing", radiographs=2),
    _p(True, 38, "pulmonary-embolism", "stable", "fahrenheit", every=30, radiographs=1),
    _p(False, 62, "stroke", "stable", "corrected"),
    _p(True, 77, "heart-failure", "stable", "duplicated", radiographs=1),
    _p(False, 80, "pneumonia", "recovering", "late", every=30, radiographs=1),
    _p(True, 49, "diabetes", "recovering", feed="fhir", every=30),
    _p(False, 56, "gi-bleed", "stable", feed="fhir"),
    _p(True, 72, "urosepsis", "sepsis-late", feed="fhir", every=20, radiographs=1),
    _p(False, 34, "appendicitis", "post-op", discharged=4.5),
    _p(True, 88, "cancer", "palliative", ceiling="ward-based care, no intensive care"),
    _p(False, 66, "pneumonia", "stable", "monitor", every=5, radiographs=1),
    _p(True, 29, "appendicitis", "opioid", every=20, admitted=0.6),
    _p(False, 73, "stroke", "stable", "wrong-patient"),
    _p(True, 60, "cellulitis", "stable", "refused-value"),
    _p(False, 51, "pancreatitis", "stable", "unknown-age", admitted=1.0),
    _p(True, 70, "hip-fracture", "stable", "comma", discharged=6.5),
)
_DIAGNOSES: Final = (
    "pneumonia", "urosepsis", "copd", "hip-fracture", "pancreatitis", "cellulitis", "heart-failure", "pulmonary-embolism", "stroke",
    "diabetes", "gi-bleed", "appendicitis", "cancer", "bowel-resection",
)  # fmt: skip
_ORDINARY: Final = tuple(
    course for course in COURSES if course not in ("child", "pregnant", "copd", "copd-worse", "palliative")
)


def people(seed: int, count: int) -> list[Patient]:
    """Return the first `count` patients: the cast of 26, and after it ordinary ones, most of them stable."""
    return list(_people(seed, count))


def _people(seed: int, count: int) -> Iterator[Patient]:
    rng = random.Random(f"people {seed}")
    for number in range(1, count + 1):
        if number <= len(_CAST):
            patient = _CAST[number - 1]
        else:
            course = "stable" if rng.random() < 0.8 else rng.choice(_ORDINARY)
            sick = course not in ("stable", "recovering")
            patient = _p(rng.random() < 0.5, rng.randint(18, 95), rng.choice(_DIAGNOSES), course, every=20 if sick else 60)
        yield replace(
            patient, number=number, family=rng.choice(_FAMILIES), given=rng.choice(_WOMEN if patient.female else _MEN)
        )
