"""One observation as sent into one usable reading, or the reason why not.

A reading is what NEWS2 and the model work on: a parameter of `processors.deterioration.FEATURES` and its value in the unit of
`UNITS_OF`. An impossible value is refused with its reason; an extreme but possible one (SpO2 60 %) never is.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import NamedTuple

from processors import loinc, news2, ucum
from processors.events import Comparator, Observation


class Reading(NamedTuple):
    """A usable value: `value` in the parameter's unit, an ACVPU letter for consciousness, air or oxygen for oxygen."""

    parameter: str
    value: float | str
    preference: int


class Limits(NamedTuple):
    """What can be at all, bounds included, and why the bounds lie there."""

    unit: str
    low: float
    high: float
    why: str


# Outside these a number is no measurement of a living patient. They are wide on purpose: the extreme is what alerts are for.
LIMITS: dict[str, Limits] = {
    "heart_rate": Limits("/min", 0, 350, "0 is asystole as a monitor shows it; 1:1 flutter stays below 350"),
    "respiratory_rate": Limits("/min", 0, 120, "0 is apnoea; no breathing pattern of an adult or a newborn passes 120"),
    "spo2": Limits("%", 1, 100, "a saturation is a share of 100; an oximeter shows 0 when its probe is off"),
    "systolic": Limits("mm[Hg]", 10, 400, "arterial lines show 10-20 in arrest; transducers end at 300-400"),
    "diastolic": Limits("mm[Hg]", 3, 350, "as systolic; below 3 a line is open or being zeroed"),
    "mean_arterial": Limits("mm[Hg]", 5, 375, "between the two"),
    "temperature": Limits("Cel", 11, 47, "survived: 11.8 (accidental hypothermia, 2014) and 46.5 (heat stroke, 1980)"),
    "fio2": Limits("%", 20, 100, "air holds 20.9 %; a sensor may read 20; more than all oxygen cannot be"),
    "oxygen_flow": Limits("L/min", 0, 100, "high-flow devices end at 60-80 L/min"),
}
UNITS_OF: dict[str, str] = {name: limits.unit for name, limits in LIMITS.items()}

SWAPPED = "impossible: systolic below diastolic, swapped or mistyped"  # then neither of the two is true

_AIR_PERCENT = 21.5  # FiO2 that rounds to 21 % is air: 21 %, 0.21, a sensor's 20.9

# (code, value, unit) -> the reading, or why there is none
Read = Callable[[str, float | str | None, str], Reading | str]


def reader(unitless: Mapping[str, str], *, remembered: int = 16384) -> Read:
    """Make `read` for one site. Answers are remembered, since a ward's numbers repeat: this is the lane's hottest function.

    `unitless` gives the unit to take where a sender gives none, by quantity; the others are refused without a unit.
    """
    return lru_cache(maxsize=remembered)(partial(read, unitless=dict(unitless)))


def read(code: str, value: float | str | None, unit: str, *, unitless: Mapping[str, str]) -> Reading | str:
    """Turn one observation into a reading, or into the reason why it cannot be used (a sentence without patient text)."""
    meaning = loinc.LOINC.get(code)
    if meaning is None:
        return "" if code in loinc.PANELS else "not a vital sign that is scored"
    if value is None:
        return "no value"
    parameter, quantity, preference = meaning
    if quantity == "consciousness":
        letter = loinc.consciousness(value) if isinstance(value, str) else None
        return Reading(parameter, letter, preference) if letter else "not an answer on the ACVPU scale"
    if isinstance(value, str):
        if parameter == "oxygen" and value.strip().casefold() in loinc.ROOM_AIR:
            return Reading(parameter, "air", preference)
        if parameter == "oxygen" and value.strip().casefold() == loinc.ON_OXYGEN:
            return Reading(parameter, "oxygen", preference)
        return "not a number"
    number = _measure(quantity, float(value), unit or unitless.get(quantity, ""))
    if isinstance(number, str):
        return number
    if quantity == "fio2":
        return Reading(parameter, "air" if number < _AIR_PERCENT else "oxygen", preference)
    if quantity == "oxygen_flow":
        return Reading(parameter, "oxygen" if number > 0 else "air", preference)
    return Reading(parameter, number, preference)


def one_band(code: str, value: float, unit: str, comparator: Comparator) -> bool:
    """Tell whether a bound (`<80`) says what it scores: all that it may mean has the same NEWS2 points, or is oxygen, or air."""
    reading, above = read(code, value, unit, unitless={}), comparator in (">", ">=")
    if isinstance(reading, str):
        return False
    if isinstance(reading.value, str):
        return reading.value == ("oxygen" if above else "air")
    if reading.parameter not in news2.CHART and reading.parameter != "spo2":
        return False
    limits = LIMITS[reading.parameter]
    beyond = reading.value == (limits.high if above else limits.low) and comparator in ("<", ">")  # nothing can be meant
    return not beyond and news2.one_band(reading.parameter, reading.value, above=above)


def bounds(observations: Iterable[Observation]) -> list[str]:
    """Return what a score says of the values that were sent as bounds."""
    found = (one for one in observations if one.comparator and isinstance(one.value, float))
    return [f"bound: {one.code} {one.comparator}{one.value:g} {one.unit}" for one in found]


def _measure(quantity: str, value: float, unit: str) -> float | str:
    limits = LIMITS[quantity]
    if not math.isfinite(value):
        return "not a finite number"
    if not unit.strip():
        return "no unit"
    how = ucum.conversion(unit, limits.unit)
    if how is None:
        return f"unknown unit for {limits.unit}"
    number = ucum.convert(value, how)
    if not limits.low <= number <= limits.high:
        return f"impossible: {number:g} {limits.unit} is outside {limits.low:g}-{limits.high:g} ({limits.why})"
    return number
