"""Units of the vital signs: UCUM, the spellings that senders use instead, and the device dimensions of IEEE 11073-10101.

Spellings are compared without case, blanks and dots (`Deg. F`, `L/min.`): no unit of a vital sign is told from another by them.

Conversion is exact (fractions of the decimal digits as sent), because NEWS2 rounds half up and a binary 38.05 is a little less
than 38.05. References: UCUM (https://ucum.org/ucum), table 4 ([degF], m[Hg]) and section 6 (annotations in braces mean nothing);
IEEE 11073-10101, partition 4 (dimensions): context-free code = 4 * 65536 + term code.
"""

import re
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple


class Conversion(NamedTuple):
    """`value * factor + offset` gives the target unit."""

    factor: Fraction = Fraction(1)
    offset: Fraction = Fraction(0)


_SAME = Conversion()
_PER_SECOND = Conversion(Fraction(60))
_FAHRENHEIT = Conversion(Fraction(5, 9), Fraction(-160, 9))
_KELVIN = Conversion(offset=Fraction(-27315, 100))
_KILOPASCAL = Conversion(Fraction(1_000_000, 133_322))  # UCUM: 1 m[Hg] = 133.3220 kPa
_FRACTION = Conversion(Fraction(100))  # the unit 1: 0.97 is 97 %; the value never decides
_MILLILITRES = Conversion(Fraction(1, 1000))


_LEFT_OUT = str.maketrans({"º": "°", ".": None, " ": None, "\t": None, "\xa0": None})  # an ordinal sign is not a degree sign


def folded(unit: str) -> str:
    """Return a spelling without what tells no units apart."""
    return unit.casefold().translate(_LEFT_OUT)


def _spellings(*groups: tuple[Conversion, str]) -> dict[str, Conversion]:
    return {folded(word): conversion for conversion, words in groups for word in words.split("  ")}


# Target unit -> spelling (folded, without annotations) -> conversion. HL7 v2 sends UCUM's case-insensitive variant too
# (MM[HG], CEL, [DEGF]), which the folding covers. Spellings are parted by two blanks.
UNITS: dict[str, dict[str, Conversion]] = {
    "/min": _spellings(
        (_SAME, "/min  1/min  min-1  min^-1  bpm  b/min  beats/min  beats per minute  beat/min  beats/minute  per minute"),
        (_SAME, "beats per min  per min  x/min  times/min  counts/min  pulse/min  /minute  /mn  bts/min"),
        (_SAME, "breaths/min  breath/min  breaths per minute  breaths per min  breaths/minute  br/min  brpm  resp/min  rpm"),
        (_SAME, "resps/min  respirations/min  respirations per minute  insp/min"),
        (_SAME, "MDC_DIM_BEAT_PER_MIN  264864  MDC_DIM_RESP_PER_MIN  264928  MDC_DIM_PER_MIN  264672"),
        (_PER_SECOND, "/s  Hz  1/s  MDC_DIM_HZ  264640"),
    ),
    "%": _spellings(
        (_SAME, "%  percent  pct  prcnt  per cent  %O2  %SpO2  %sat  percent O2  MDC_DIM_PERCENT  262688"),
        (_FRACTION, "1  fraction  MDC_DIM_DIMLESS  262656"),
    ),
    "mm[Hg]": _spellings(
        (_SAME, "mm[Hg]  mmHg  mm(Hg)  mm/Hg  torr  millimeters of mercury  millimetres of mercury  MDC_DIM_MMHG  266016"),
        (_KILOPASCAL, "kPa  MDC_DIM_KILO_PASCAL  265987"),
    ),
    "Cel": _spellings(
        (_SAME, "Cel  C  °C  C°  °Cel  degC  [degC]  degree C  degrees C  deg Cel  Celsius  °Celsius  degree Celsius"),
        (_SAME, "degrees Celsius  centigrade  Grad C  Grad Celsius  MDC_DIM_DEGC  268192"),
        (_FAHRENHEIT, "[degF]  F  °F  F°  degF  degree F  degrees F  Fahrenheit  °Fahrenheit  degree Fahrenheit"),
        (_FAHRENHEIT, "degrees Fahrenheit  Grad Fahrenheit  MDC_DIM_FAHR  266560"),
        (_KELVIN, "K  Kelvin  MDC_DIM_KELVIN  266528"),
    ),
    "L/min": _spellings(
        (_SAME, "L/min  lpm  L/m  liters/min  litres/min  liter/min  litre/min  L/minute  liters/minute  litres/minute"),
        (_SAME, "liters per minute  litres per minute  L per min  L/min O2"),
        (_SAME, "L  litre  litres  liter  liters  L O2"),  # charts say 2L of a flow; no vital sign is a volume
        (_SAME, "MDC_DIM_L_PER_MIN  MDC_DIM_X_L_PER_MIN  265216"),
        (_MILLILITRES, "mL/min  MDC_DIM_MILLI_L_PER_MIN  265234"),
    ),
}

_ANNOTATION = re.compile(r"\{[^{}]*\}")
_ASIDE = re.compile(r"\([^()]*\)")  # written as an annotation is, by senders that do not know UCUM's braces: (beats)/min


def looked_up_by(unit: str) -> tuple[str, str]:
    """Return the two folded spellings by which a unit may be found: without annotations, and without asides in parentheses too.

    A unit that is nothing but an annotation is the unit 1.
    """
    spelt = folded(unit)
    bare = _ANNOTATION.sub("", spelt) or ("1" if spelt else "")
    return bare, _ASIDE.sub("", bare)


def conversion(unit: str, to: str) -> Conversion | None:
    """Tell how to bring a sender's unit to the UCUM unit `to` (a key of `UNITS`), or None: not a known unit of that kind.

    Annotations in braces are left out ({beats}/min is /min).
    """
    return next((found for one in looked_up_by(unit) if (found := UNITS[to].get(one))), None)


def convert(value: float, how: Conversion) -> float:
    """Convert exactly, from the shortest decimal that is this number (which is what the sender wrote)."""
    if how is _SAME:
        return float(value)
    return float(Fraction(Decimal(repr(float(value)))) * how.factor + how.offset)
