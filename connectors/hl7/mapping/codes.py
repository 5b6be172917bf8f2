"""The code tables between HL7 v2 and Vigil: observation codes, units, coded values, statuses, document types.

LOINC codes and answer codes: https://loinc.org. MDC codes and reference ids: ISO/IEEE 11073-10101 (code = partition * 65536 + term)
as IHE PCD-01 sends them in OBX-3 (`150456^MDC_PULS_OXIM_SAT_O2^MDC`) and OBX-6. HL7 tables by number.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from connectors.hl7.message import Segment
from connectors.hl7.settings import LocalCode
from processors import loinc, ucum
from processors.events import ObservationStatus
from processors.vitals import UNITS_OF

SYSTOLIC: Final = "8480-6"
DIASTOLIC: Final = "8462-4"
HEART_RATE: Final = "8867-4"
RESPIRATION: Final = "9279-1"
VITAL_SIGNS: Final = frozenset(loinc.LOINC)  # what goes into `clinical.vitals`: the codes that its lane can score
CODED: Final = frozenset(code for code, meaning in loinc.LOINC.items() if meaning.parameter == "consciousness")
OXYGEN: Final = frozenset(code for code, meaning in loinc.LOINC.items() if meaning.parameter == "oxygen")
_DIASTOLIC_OF: Final = {SYSTOLIC: DIASTOLIC, "8459-0": "8453-3", "8461-6": "8455-8", "76534-7": "76535-4", "76215-3": "76213-8"}
# Panels, LOINC's and the compounds of MDC, that some send as one value, `120/80` -> systolic and diastolic. Others have them as
# parts: then the panel is empty.
BLOOD_PRESSURE: Final[Mapping[str, tuple[str, str]]] = {
    panel: (systolic, _DIASTOLIC_OF[systolic])
    for systolic, panels in {
        SYSTOLIC: ("85354-9", "55284-4", "18684-1", "MDC_PRESS_BLD"),
        "76534-7": ("MDC_PRESS_BLD_NONINV", "MDC_PRESS_CUFF"),
        "76215-3": ("MDC_PRESS_BLD_ART", "MDC_PRESS_BLD_ART_ABP"),
    }.items()
    for panel in panels
}
PRESSURES: Final = {**BLOOD_PRESSURE, **{systolic: (systolic, other) for systolic, other in _DIASTOLIC_OF.items()}}

# MDC reference id -> (code, LOINC; of a compound what `BLOOD_PRESSURE` knows it by). The site of measurement is kept where LOINC
# has it. Skin, room and blood temperature are not body temperature and are not here.
_MDC: Final = {
    "MDC_ECG_HEART_RATE": (147842, HEART_RATE),
    "MDC_PULS_RATE": (149514, HEART_RATE),
    "MDC_BLD_PULS_RATE_INV": (149522, HEART_RATE),
    "MDC_PULS_OXIM_PULS_RATE": (149530, "8889-8"),
    "MDC_PULS_RATE_NON_INV": (149546, HEART_RATE),
    "MDC_RESP_RATE": (151562, RESPIRATION),
    "MDC_AWAY_RESP_RATE": (151570, RESPIRATION),
    "MDC_TTHOR_RESP_RATE": (151578, RESPIRATION),
    "MDC_VENT_RESP_RATE": (151586, RESPIRATION),
    "MDC_CO2_RESP_RATE": (151594, RESPIRATION),
    "MDC_PULS_OXIM_SAT_O2": (150456, "59408-5"),
    "MDC_PRESS_BLD": (150016, "MDC_PRESS_BLD"),
    "MDC_PRESS_BLD_NONINV": (150020, "MDC_PRESS_BLD_NONINV"),
    "MDC_PRESS_CUFF": (150300, "MDC_PRESS_CUFF"),
    "MDC_PRESS_BLD_ART": (150032, "MDC_PRESS_BLD_ART"),
    "MDC_PRESS_BLD_ART_ABP": (150036, "MDC_PRESS_BLD_ART_ABP"),
    "MDC_PRESS_BLD_SYS": (150017, SYSTOLIC),
    "MDC_PRESS_BLD_DIA": (150018, DIASTOLIC),
    "MDC_PRESS_BLD_MEAN": (150019, "8478-0"),
    "MDC_PRESS_BLD_NONINV_SYS": (150021, "76534-7"),
    "MDC_PRESS_BLD_NONINV_DIA": (150022, "76535-4"),
    "MDC_PRESS_BLD_NONINV_MEAN": (150023, "76536-2"),
    "MDC_PRESS_CUFF_SYS": (150301, "76534-7"),
    "MDC_PRESS_CUFF_DIA": (150302, "76535-4"),
    "MDC_PRESS_CUFF_MEAN": (150303, "76536-2"),
    "MDC_PRESS_BLD_ART_SYS": (150033, "76215-3"),
    "MDC_PRESS_BLD_ART_DIA": (150034, "76213-8"),
    "MDC_PRESS_BLD_ART_MEAN": (150035, "76214-6"),
    "MDC_PRESS_BLD_ART_ABP_SYS": (150037, "76215-3"),
    "MDC_PRESS_BLD_ART_ABP_DIA": (150038, "76213-8"),
    "MDC_PRESS_BLD_ART_ABP_MEAN": (150039, "76214-6"),
    "MDC_TEMP": (150344, "8310-5"),
    "MDC_TEMP_BODY": (150364, "8310-5"),
    "MDC_TEMP_CORE": (150368, "8329-5"),
    "MDC_TEMP_ESOPH": (150372, "60836-8"),
    "MDC_TEMP_NASOPH": (150380, "76010-8"),
    "MDC_TEMP_TYMP": (150392, "8333-7"),
    "MDC_TEMP_EAR": (188428, "8333-7"),
    "MDC_TEMP_RECT": (188420, "8332-9"),
    "MDC_TEMP_ORAL": (188424, "8331-1"),
    "MDC_TEMP_AXILLA": (188452, "8328-7"),
    "MDC_CONC_AWAY_O2_INSP": (152196, "3150-6"),
}
MDC_BY_NAME: Final = {name: target for name, (_, target) in _MDC.items()}
MDC_BY_CODE: Final = {str(code): target for code, target in _MDC.values()}

_SYSTEMS: Final = {  # table 0396 and the OIDs seen in its place
    "LN": "LN",
    "LOINC": "LN",
    "LNC": "LN",
    "HTTP://LOINC.ORG": "LN",
    "2.16.840.1.113883.6.1": "LN",
    "MDC": "MDC",
    "URN:ISO:STD:IEEE:11073:10101": "MDC",
    "URN:ISO:STD:ISO:11073:10101": "MDC",
    "2.16.840.1.113883.6.24": "MDC",
    "SCT": "SCT",
    "SNM": "SCT",
    "2.16.840.1.113883.6.96": "SCT",
    "UCUM": "UCUM",
    "2.16.840.1.113883.6.8": "UCUM",
}


def coding_system(name: str) -> str:
    """Return LN, MDC, SCT or UCUM for the ways to write them, anything else as it is (upper case)."""
    folded = name.strip().upper()
    return _SYSTEMS.get(folded, folded)


Coded = tuple[str, str, str]  # identifier, text, coding system


def is_mdc(coded: Coded) -> bool:
    """Whether a coding is of MDC, by its system or a reference id: device data."""
    code, text, system = coded
    return system == "MDC" or code.startswith("MDC_") or text.startswith("MDC_")


def codings(segment: Segment, field: int) -> tuple[Coded, ...]:
    """Return the coded values of a CE or CWE field, primary first: components 1-3, alternate 4-6, second alternate 10-12."""
    return _codings(segment.components(field))


@lru_cache(maxsize=8192)
def _codings(parts: tuple[str, ...]) -> tuple[Coded, ...]:
    found = []
    for first in (0, 3, 9):
        code, text, system = (*parts[first : first + 3], "", "", "")[:3]
        if code or text:
            found.append((code, text, coding_system(system)))
    return tuple(found)


class Conflict(ValueError):
    """The codings of one observation, or of its unit, mean different things. `codes`: the LOINC codes that it may be of."""

    def __init__(self, reason: str, *codes: str) -> None:
        super().__init__(reason)
        self.codes = tuple(dict.fromkeys(each for code in codes for each in BLOOD_PRESSURE.get(code, (code,))))


def observation_code(coded: tuple[Coded, ...], *tables: Mapping[str, LocalCode]) -> tuple[str, LocalCode | None]:
    """Return the LOINC code of an observation (of a compound of MDC its reference id) and the local entry that named it.

    "" when no coding is a vital sign.

    The sender's own table wins; else the first of LOINC and MDC. Raises `Conflict` when they name different vital signs (not when
    one says more: pulse by oximeter beside heart rate), or an MDC code and its reference id disagree.
    """
    for table in tables:
        for code, _, system in coded if table else ():
            if code and (local := table.get(f"{code}^{system}") or table.get(code)):
                return local.loinc, local
    return _standard_code(coded), None


@lru_cache(maxsize=8192)
def _standard_code(coded: tuple[Coded, ...]) -> str:
    found: dict[str, str] = {}  # what is measured -> the first code that says so
    for code, text, system in coded:
        meant = ""
        if code in VITAL_SIGNS or code in BLOOD_PRESSURE:
            meant = code if system in ("SCT" if code == loinc.ACVPU_SNOMED else "LN", "") else ""
        elif is_mdc((code, text, system)):
            # the reference id stands in either place, beside a code or any words
            said = dict.fromkeys(filter(None, (MDC_BY_CODE.get(code), MDC_BY_NAME.get(code), MDC_BY_NAME.get(text))))
            if len(said) > 1:
                raise Conflict("MDC code and reference id name different observations", *said)
            meant = next(iter(said), "")
        if meant:
            found.setdefault(loinc.LOINC[BLOOD_PRESSURE.get(meant, (meant,))[0]].quantity, meant)
    if len(found) > 1:
        raise Conflict("its codes name different vital signs", *found.values())
    return next(iter(found.values()), "")


# ----------------------------------------------------------------------------------------------------------------- units


def _spellings() -> dict[str, str]:
    """Turn the lane's table of spellings around: a spelling (folded) -> the UCUM code that it means, before any conversion."""
    exact = {"[degf]": "[degF]", "kpa": "kPa", "k": "K", "ml/min": "mL/min"}  # what folding makes unrecognisable as UCUM
    found: dict[str, str] = {}
    for target, spellings in ucum.UNITS.items():
        firsts: dict[ucum.Conversion, str] = {ucum.Conversion(): target}
        for spelling, conversion in spellings.items():
            first = firsts.setdefault(conversion, exact.get(spelling, spelling))  # the table names the UCUM form first
            found.setdefault(spelling, first)
    return found


_UCUM: Final = _spellings()


def unit(coded: tuple[Coded, ...], *tables: Mapping[str, str]) -> str:
    """Return the UCUM code of OBX-6, or the sender's text as it is when no table knows it: the lane says what it makes of it.

    `tables` are the site's own, by the unit as sent. Raises `Conflict` when code, text or alternates are different units.
    """
    for table in tables:
        for code, text, _ in coded if table else ():
            if own := table.get(code) or table.get(text):
                return own
    return _standard_unit(coded)


@lru_cache(maxsize=8192)
def _standard_unit(coded: tuple[Coded, ...]) -> str:
    known = {found for code, text, _ in coded for name in (code, text) if (found := known_unit(name))}
    if len(known) > 1:
        raise Conflict("its unit's code and words are different units")
    for code, text, system in coded:
        for name in (code, text):
            if found := known_unit(name):
                return found
        if system == "UCUM" and code:
            return code
    return next((code or text for code, text, _ in coded), "")


def known_unit(text: str) -> str:
    """Return the UCUM code for a way to write a unit of a vital sign, "" for one that is not known."""
    return next((found for one in ucum.looked_up_by(text) if one != "1" and (found := _UCUM.get(one))), "")


@lru_cache(maxsize=1024)
def unfit(code: str, measure: str) -> str:
    """Return the unit that a value needs to be scored, where the sender's cannot be brought to it; else "", also for none."""
    to = UNITS_OF.get(loinc.LOINC[code].quantity, "")
    return to if to and measure and ucum.conversion(measure, to) is None else ""


# ---------------------------------------------------------------------------------------------------------- coded values


def responsiveness(coded: Iterable[Coded]) -> str:
    """Return A, C, V, P or U for a coded level of responsiveness, "" when it is none of them."""
    return next((letter for code, text, _ in coded for word in (code, text) if (letter := loinc.consciousness(word))), "")


def room_air(coded: Iterable[Coded]) -> bool:
    """Whether a coded value says that the patient breathes air."""
    return any(word.strip().casefold() in loinc.ROOM_AIR for code, text, _ in coded for word in (code, text))


# How oxygen is given, and the words around it, as charts write a flow: `4 L NC`, `2L/min O2 via face mask`, `15 L NRB`. They say
# nothing of how much, so what is left without them must be an amount, or no more than that it is oxygen. Not here: what may be
# followed by a pressure (CPAP, BiPAP), and what is not certainly a way to give oxygen.
_WAYS: Final = re.compile(
    r"\b(?:(?P<gas>oxygen|o2)|via|by|per|through|with|of|on|at|fio2"
    r"|high[- ]flow|nasal (?:cannulae?|cannulas|canula|prongs?|specs?|spectacles)|nc|np|hfnc|hfno|optiflow"
    r"|(?:simple )?(?:face ?|venturi ?|venti ?)?mask|fm|venturi"
    r"|non[- ]?rebreath(?:er|ing)(?: mask)?|nrb|nrbm|reservoir mask|(?:trach|tracheostomy) (?:mask|collar)|humidified)\b"
)


def oxygen_without_ways(text: str) -> tuple[str, bool] | None:
    """Return a charted flow or share of oxygen without how it is given, and whether it says that it is oxygen; None: no such words.

    `4 L NC` -> `4 l`, `oxygen via mask` -> ``.
    """
    words = re.sub(r"[(),;:](?!\d)", " ", text.casefold())
    rest = _WAYS.sub(" ", words)
    gas = any(found["gas"] for found in _WAYS.finditer(words))
    return None if rest == words else (" ".join(rest.split()), gas)


# ------------------------------------------------------------------------------------------------------------- statuses

# Table 0085, observation result status (OBX-11) -> FHIR observation-status
OBSERVATION_STATUS: Final[Mapping[str, ObservationStatus]] = {
    "F": "final",
    "U": "final",  # changed to final without a new value
    "V": "final",  # verified
    "": "final",  # required, and left out by many senders of final results
    "P": "preliminary",
    "R": "preliminary",  # entered, not verified
    "S": "preliminary",  # partial
    "C": "corrected",
    "A": "amended",
    "B": "amended",  # appended
    "D": "entered-in-error",  # delete
    "W": "entered-in-error",  # wrong, for example wrong patient
    "X": "cancelled",  # cannot be obtained
    "I": "registered",  # specimen in the laboratory, no result yet
}
NO_RESULT: Final = frozenset({"O", "N"})  # order detail only; not asked
RETRACTED: Final = frozenset({"D", "W"})

# OBX-8 as IHE PCD-01 uses it: the measurement status of ISO/IEEE 11073-10201 and the null flavours, beside the flags of table 0078
NO_MEASUREMENT: Final[Mapping[str, str]] = {
    **dict.fromkeys(("INV", "NAV", "OFF", "OFFL", "NI", "NA", "MSK", "OTH", "NAN", "PINF", "NINF"), "invalid or not available"),
    **dict.fromkeys(("CAL", "BUSY"), "calibrating or still measuring"),
    **dict.fromkeys(("TEST", "DEMO"), "test or demonstration data"),
}
UNSURE: Final = frozenset({"QUES", "EARLY"})  # questionable, a first estimate: it has to persist before it counts

# Table 0270, document type (TXA-2) -> LOINC, where the two mean the same
DOCUMENT_LOINC: Final = {
    "AR": ("46209-3", "Provider orders"),
    "CN": ("11488-4", "Consultation note"),
    "DS": ("18842-5", "Discharge summary"),
    "ED": ("34111-5", "Emergency department note"),
    "HP": ("34117-2", "History and physical note"),
    "OP": ("11504-8", "Surgical operation note"),
    "PN": ("28570-0", "Procedure note"),
    "PR": ("11506-3", "Progress note"),
    "SP": ("11526-1", "Pathology study"),
    "TS": ("18761-7", "Transfer summary note"),
}

# What says of an observation in ST that it is a report's text
REPORT_LOINC: Final = frozenset(code for code, _ in DOCUMENT_LOINC.values()) | {
    "11502-2",  # laboratory report
    "18748-4",  # diagnostic imaging study
    "18782-3",  # radiology study observation, narrative
    "19005-8",  # radiology imaging study, impression
    "22634-0",  # pathology report, gross observation
    "22637-3",  # pathology report, final diagnosis
    "59776-5",  # procedure findings, narrative
}
REPORT_SUFFIX: Final = frozenset(
    {"GDT", "MDT", "IMP", "REC"}
)  # chapter 7.2.4, OBX-3 `71020&IMP`: narrative, impression, advice
REPORT_SECTIONS: Final = frozenset(  # table 0074, OBR-24: imaging and pathology, whose results are words
    {"RAD", "RX", "XRC", "RUS", "OUS", "VUS", "CUS", "CT", "NMR", "NMS", "CTH", "SP", "CP"}
)
