"""Clinical notes of invented patients: admission, progress, nursing, radiology, discharge, addenda. 80 to 250 words each.

Sentences are put together from `pictures.toml` with numbers drawn anew, in the order and under the headings that wards use, so that
sections, negation, family history and drugs with doses all occur. Generating one takes some 50 microseconds.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from streams.demo.people import Patient
from streams.demo.physiology import Vitals
from streams.demo.pictures import COMMON, PICTURES, READINGS, Picture


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of note: LOINC code and name, and its letter in HL7 table 0270 where there is one."""

    loinc: str
    display: str
    table_0270: str = ""


ADMISSION: Final = Kind("34117-2", "History and physical note", "HP")
PROGRESS: Final = Kind("11506-3", "Progress note", "PR")
NURSING: Final = Kind("34746-8", "Nurse note")
DISCHARGE: Final = Kind("18842-5", "Discharge summary", "DS")
RADIOLOGY: Final = Kind("36643-5", "XR Chest 2 Views")


def numbers(rng: random.Random) -> dict[str, str]:
    """Draw the numbers that a note may need."""
    whole, some = rng.randint, rng.uniform
    return {
        "days": str(whole(2, 6)), "crp": str(whole(12, 320)), "wcc": f"{some(6, 24):.1f}", "urea": f"{some(4, 19):.1f}",
        "creatinine": str(whole(58, 240)), "lactate": f"{some(0.8, 5.2):.1f}", "ph": f"{some(7.2, 7.44):.2f}",
        "pco2": f"{some(5, 9.5):.1f}", "hb": str(whole(68, 142)), "sodium": str(whole(124, 146)), "steps": str(whole(4, 30)),
        "drain": str(whole(20, 700)), "hour": str(whole(1, 12)), "amylase": str(whole(400, 2900)), "pain": str(whole(0, 8)),
        "jvp": str(whole(4, 9)), "bnp": str(whole(900, 9900)), "potassium": f"{some(3.1, 5.6):.1f}", "ef": str(whole(20, 50)),
        "weight": f"{some(48, 118):.1f}", "urine": str(whole(200, 1900)), "ddimer": str(whole(600, 5000)),
        "ketones": f"{some(3.2, 6.5):.1f}", "glucose": f"{some(12, 33):.1f}", "peak": str(whole(40, 85)),
        "year": str(whole(1995, 2022)), "balance": f"{whole(-1500, 1800):+d}", "percent": str(whole(2, 10) * 10),
    }  # fmt: skip


def _some(rng: random.Random, parts: Sequence[str], count: int) -> list[str]:
    return rng.sample(parts, min(count, len(parts)))


def _listed(parts: Sequence[str], last: str = "and") -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def _one(rng: random.Random, bank: str) -> str:
    return rng.choice(COMMON[bank])


def _few(rng: random.Random, bank: str, count: int) -> list[str]:
    return _some(rng, COMMON[bank], count)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") or not text else ".")


def _told(parts: Sequence[str]) -> str:
    return " ".join(map(_sentence, parts))


def observations(vitals: Vitals | None) -> str:
    """Put a set of vitals in a ward's words; empty for none."""
    if vitals is None:
        return ""
    oxygen = f"{vitals.oxygen:g} L/min oxygen" if vitals.oxygen else "room air"
    state = {"A": "alert", "C": "newly confused", "V": "responds to voice"}.get(vitals.consciousness, vitals.consciousness)
    return (
        f"RR {vitals.respiratory_rate}, SpO2 {vitals.spo2}% on {oxygen}, BP {vitals.systolic}/{vitals.diastolic}, "
        f"pulse {vitals.heart_rate}, temperature {vitals.temperature}, {state}"
    )


def admission(rng: random.Random, patient: Patient, vitals: Vitals | None = None) -> str:
    """Write a history and physical."""
    picture, words = PICTURES[patient.diagnosis], patient.words
    lines = [
        f"PRESENTING COMPLAINT: {_sentence(picture.complaints[0])}",
        f"HISTORY OF PRESENT ILLNESS: {patient.age} year old {words['kind']} with {_listed(_some(rng, picture.complaints, 3))}. "
        f"{words['She']} denies {_listed(_some(rng, picture.denied, 3), 'or')}. {_one(rng, 'onset')}",
        "PAST MEDICAL HISTORY:",
        *(f"- {_sentence(part)}" for part in _few(rng, "history", rng.randint(2, 3))),
        f"MEDICATIONS: {_sentence(', '.join(_few(rng, 'home_drugs', rng.randint(2, 3))))}",
        f"ALLERGIES: {_sentence(_one(rng, 'allergies'))}",
        f"FAMILY HISTORY: {_sentence(_one(rng, 'family'))}",
        f"SOCIAL HISTORY: {_sentence('; '.join(_few(rng, 'social', 2)))}",
        f"EXAMINATION: {_sentence(_listed(_some(rng, picture.signs, 2)))} No {_listed(_some(rng, picture.absent, 2), 'or')}. "
        f"{_sentence(observations(vitals))}",
        f"INVESTIGATIONS: {_told(_some(rng, picture.tests, 3))}",
        f"ASSESSMENT AND PLAN: Impression is {picture.name}.",
        *(f"{number}. {_sentence(part)}" for number, part in enumerate(_plan(rng, picture), 1)),
    ]
    return _filled(lines, numbers(rng))


def progress(rng: random.Random, patient: Patient, vitals: Vitals | None = None) -> str:
    """Write a doctor's progress note, by SOAP or as one piece."""
    picture, words = PICTURES[patient.diagnosis], patient.words
    subjective = (
        f"{_sentence(_one(rng, 'well'))} {_sentence('still has ' + rng.choice(picture.complaints))} "
        f"{_one(rng, 'asks')} {_listed(_some(rng, picture.denied, 2), 'or')}."
    )
    signs, absent = _listed(_some(rng, picture.signs, 2)), _listed(_some(rng, picture.absent, 2), "or")
    objective = f"{_sentence(observations(vitals))} {_sentence(signs)} No evidence of {absent}.".strip()
    results = _told(_some(rng, picture.tests, 2))
    plan = _plan(rng, picture)
    if rng.random() < 0.5:
        lines = [
            f"S: {subjective}",
            f"O: {objective} {results}",
            f"A: {_sentence(picture.name + ', ' + _one(rng, 'verdict'))}",
            "P:",
            *(f"- {_sentence(part)}" for part in plan),
        ]
    else:
        lines = [
            f"{_one(rng, 'opening')} {patient.age} year old {words['kind']} with {picture.name}. {subjective}",
            f"Examination: {objective}",
            f"Results: {results}",
            f"Treatment: {_sentence(', '.join(_some(rng, picture.drugs, 3)))}",
            f"Plan: {_told(plan)}",
        ]
    return _filled(lines, numbers(rng))


def nursing(rng: random.Random, patient: Patient, vitals: Vitals | None = None) -> str:
    """Write a nurse's note of a shift."""
    picture, words = PICTURES[patient.diagnosis], patient.words
    seen = observations(vitals)
    lines = [
        f"{_one(rng, 'shift')}. Care taken over from the outgoing team, {words['kind']} of {patient.age} with {picture.name}.",
        *([f"Observations: {_sentence(seen)}"] if seen else []),
        f"{_sentence(_one(rng, 'well'))} {_told(_some(rng, picture.nursing, 2))}",
        f"{words['She']} has {rng.choice(picture.complaints)}, but no {_listed(_some(rng, picture.denied, 2), 'or')}.",
        _told(_few(rng, "care", rng.randint(4, 6))),
        f"Medicines given as prescribed: {_listed(_some(rng, picture.drugs, 2))}.",
        f"Plan: {_sentence(_one(rng, 'safety'))} {_sentence(rng.choice(picture.plans))}",
    ]
    return _filled(lines, numbers(rng))


def discharge(rng: random.Random, patient: Patient, vitals: Vitals | None = None) -> str:
    """Write a discharge summary."""
    picture, words = PICTURES[patient.diagnosis], patient.words
    lines = [
        f"Discharge diagnosis: {_sentence(picture.name)}",
        f"Hospital course: Admitted with {_listed(_some(rng, picture.complaints, 2))}. Treated with "
        f"{_listed(_some(rng, picture.drugs, 2))}. {_told(_some(rng, picture.tests, 2))} "
        f"{words['She']} recovered well and has no {_listed(_some(rng, picture.denied, 2), 'or')}.",
        f"Past medical history: {_sentence(_listed(_few(rng, 'history', 2)))}",
        f"Condition on discharge: {_sentence(observations(vitals) or _one(rng, 'well'))} "
        f"No {_listed(_some(rng, picture.absent, 2), 'or')} on examination.",
        f"Discharge medications: {_sentence(', '.join([*_some(rng, picture.drugs, 2), *_few(rng, 'home_drugs', 2)]))}",
        f"Follow up: {_told(_some(rng, picture.plans, 2))}",
        f"Instructions: {_sentence(_one(rng, 'safety'))} Please return if fever, chest pain or new confusion develops.",
    ]
    return _filled(lines, numbers(rng))


def radiology(rng: random.Random, patient: Patient, vitals: Vitals | None = None, *, sign: str = "") -> str:
    """Write a chest film's report; `sign` as the film shows it, else as the diagnosis suggests."""
    picture, words = PICTURES[patient.diagnosis], patient.words
    reading = READINGS[sign or (picture.image if rng.random() < 0.75 else "clear")]
    lines = [
        f"CLINICAL INFORMATION: {patient.age} year old {words['kind']}, {rng.choice(picture.complaints)}. "
        f"{_sentence(_one(rng, 'question'))} {_one(rng, 'background')}",
        f"TECHNIQUE: {_one(rng, 'technique')} of the chest.",
        f"COMPARISON: {_one(rng, 'comparison')}",
        f"FINDINGS: {_told([reading.findings, *_few(rng, 'rest', 2)])}",
        f"IMPRESSION: {_sentence(reading.impression)}",
    ]
    return _filled(lines, numbers(rng))


def addendum(rng: random.Random, patient: Patient, vitals: Vitals | None = None) -> str:
    """Write an addendum to an earlier note."""
    picture, words = PICTURES[patient.diagnosis], patient.words
    lines = [
        f"ADDENDUM: discussed with the senior doctor on call about this {words['kind']} of {patient.age} with {picture.name}.",
        f"Further results: {_told(_some(rng, picture.tests, 2))}",
        f"{words['She']} was seen again because of {rng.choice(picture.complaints)}. {_sentence(observations(vitals))} "
        f"There is no {_listed(_some(rng, picture.absent, 2), 'or')} and {words['she']} denies {rng.choice(picture.denied)}.",
        f"Examination again shows {rng.choice(picture.signs)}. {_sentence(_one(rng, 'care'))}",
        f"The plan above stands with these changes: {_told(_plan(rng, picture))}",
    ]
    return _filled(lines, numbers(rng))


def _plan(rng: random.Random, picture: Picture) -> list[str]:
    drugs = [f"{rng.choice(('continue', 'start', 'give'))} {drug}" for drug in _some(rng, picture.drugs, 2)]
    return [*drugs, *_some(rng, picture.plans, 2), _one(rng, "safety")]


def _filled(lines: Sequence[str], values: Mapping[str, str]) -> str:
    return "\n".join(lines).format_map(values)


Writer = Callable[[random.Random, Patient, Vitals | None], str]
# What a ward writes, and how often.
MIX: Final[tuple[tuple[Kind, Writer, int], ...]] = (
    (PROGRESS, progress, 40),
    (NURSING, nursing, 35),
    (ADMISSION, admission, 8),
    (RADIOLOGY, radiology, 12),
    (DISCHARGE, discharge, 5),
)
