"""Which observation codes are which vital sign, and how consciousness is coded.

One vocabulary of parameters runs through NEWS2, the deterioration model and the alerts: the names of
`processors.deterioration.FEATURES`. Codes are LOINC (https://loinc.org): the connectors translate what devices send (IEEE
11073-10101, MDC) and what senders call things themselves.
"""

import re
from typing import Final, NamedTuple


class Meaning(NamedTuple):
    """What a code measures. `preference` orders codes of one parameter that give different values in one set (0 first)."""

    parameter: str
    quantity: str  # what the value is checked and converted as: the parameter, or fio2 / oxygen_flow
    preference: int


def _codes(parameter: str, *codes: str, quantity: str = "") -> dict[str, Meaning]:
    return {code: Meaning(parameter, quantity or parameter, place) for place, code in enumerate(codes)}


# SNOMED CT UK, ACVPU scale score: what the UK's FHIR profiles code it by (CareConnect-ACVPU-Observation-1)
ACVPU_SNOMED: Final = "1104441000000107"

LOINC: dict[str, Meaning] = {
    **_codes("respiratory_rate", "9279-1"),
    # 59408-5 by pulse oximetry; 2708-6 is what the FHIR vital-signs profile asks for besides
    **_codes("spo2", "59408-5", "2708-6"),
    # systolic: any; sitting; lying; non-invasive; invasive. Not standing (8460-8): a test for postural drop, not the chart's value.
    **_codes("systolic", "8480-6", "8459-0", "8461-6", "76534-7", "76215-3"),
    **_codes("diastolic", "8462-4", "8453-3", "8455-8", "76535-4", "76213-8"),
    **_codes("mean_arterial", "8478-0", "76536-2", "76214-6"),
    # heart rate: any; palpated; by oximeter; beat to beat by ECG
    **_codes("heart_rate", "8867-4", "8893-0", "8889-8", "76282-3"),
    # body temperature: any; core; bladder; rectal; oral; ear; axilla; oesophagus; nasopharynx; temporal artery
    **_codes(
        "temperature", "8310-5", "8329-5", "8334-5", "8332-9", "8331-1", "8333-7", "8328-7", "60836-8", "76010-8", "75539-7"
    ),
    **_codes("consciousness", "67775-7", "11454-6", ACVPU_SNOMED),
    **_codes("oxygen", "3150-6", "19994-3", quantity="fio2"),  # inspired; as a ventilator is set
    **_codes("oxygen", "3151-8", quantity="oxygen_flow"),
}

# Panels and groupers carry no value of their own; they are passed over without a word.
PANELS: frozenset[str] = frozenset({"85354-9", "85353-1", "35094-2", "8716-3", "34566-0", "96607-7"})

# Consciousness after ACVPU (RCP 2017). "C" is *new* confusion. Where it is unclear whether confusion is new or the patient's usual
# state, RCP has it assumed to be new until it is confirmed to be otherwise: so "Confused" alone is C, and alerts say "taken as
# new". An answer that says it is not ("chronic confusion") is none of these; a site's `codes` may give it a level. Compared without
# case; the first column is what is kept.
# LOINC answers to 67775-7, and LA6560-2 for confusion. SNOMED CT: UK Core's ACVPU value set; 255373000 is IHE's.
# "Unconscious" is RCP's own other word. The Glasgow Coma Scale is not translated, nor is "drowsy": RCP gives no such table.
ACVPU: dict[str, tuple[str, ...]] = {
    "A": ("A", "Alert", "Mentally alert", "Awake and alert", "Alert and oriented", "LA9340-6", "248234008"),
    "C": (
        *("C", "Confused", "Confusion", "New confusion", "New onset confusion", "New-onset confusion", "Newly confused"),
        *("Acute confusion", "LA6560-2", "130987000"),
    ),
    "V": (
        *("V", "Voice", "Verbal", "Responds to voice", "Responds to verbal", "Responds to verbal stimuli", "Response to voice"),
        *("Responsive to voice", "Responding to voice", "Voice responsive", "Responds to speech"),
        *("LA17108-4", "300202002", "255373000"),
    ),
    "P": (
        *("P", "Pain", "Painful", "Responds to pain", "Responds to painful stimuli", "Response to pain", "Responsive to pain"),
        *("Responding to pain", "Pain responsive", "Responds to pain only", "LA17107-6", "450847001"),
    ),
    "U": ("U", "Unresponsive", "Unconscious", "LA9343-0", "422768004"),
}
_ANSWERS: dict[str, str] = {word.casefold(): letter for letter, words in ACVPU.items() for word in words}

# The letter and the word in one, as charts show them: "A - Alert", "V: Verbal", "(P) Pain", "Unresponsive (U)".
_LETTER_FIRST: Final = re.compile(r"\(?([acvpu])\)?\s*[-\u2013:=/)(.]\s*([^\s].*?)\)?")
_LETTER_LAST: Final = re.compile(r"(.*?[^\s])\s*[-\u2013:=/(]\s*([acvpu])\)?")

ROOM_AIR: frozenset[str] = frozenset({"air", "room air", "ra", "722742002"})  # the last: SNOMED CT, breathing room air
ON_OXYGEN = "oxygen"  # some oxygen: all that is kept of a flow or a share, so all that can move with a merged record


def consciousness(answer: str) -> str | None:
    """Return the ACVPU letter of an answer's text or code (also the first two parts of an HL7 `code^text^...`), or None."""
    for part in answer.split("^")[:2]:
        words = " ".join(part.split()).casefold()
        if letter := _ANSWERS.get(words):
            return letter
        both = _LETTER_FIRST.fullmatch(words) or _LETTER_LAST.fullmatch(words)
        if both and (letter := _ANSWERS.get(both[1])) and letter == _ANSWERS.get(both[2]):  # "U - Unable to assess" is none
            return letter
    return None
