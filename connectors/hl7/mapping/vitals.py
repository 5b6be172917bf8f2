"""ORU^R01 observations to sets of vitals: LOINC, MDC and local codes; NM, SN, ST and coded values; statuses; times.

One order (OBR) is a set. Where its observations lie further apart than the window, a code comes twice, or some have to persist
before they count (a doubtful value among validated ones), it is cut into several, each of what was observed together. A set's time
is that of its latest observation; others keep their own.

A lane finds what is taken back or corrected by patient, code and time, as finely as that is written (`span`). So where neither
OBX-14 nor OBR has one:

| the observation is | |
|---|---|
| a value (final, preliminary), or X without a value | observed when sent, flagged |
| C, A or B with a value | the same, and a trouble: what it corrects stays |
| taken back: D, W, X with a value, null in a correction, OBR-25 X | a trouble: nothing is taken back |
| of a status that no table knows | a trouble: it may be taken back, and must not pass for a value of now |

A value that cannot be read, and X, which says that none can be had, are passed on as `Observation.refused`: then no older value
shows the patient well. What was sent stands in the dead letter alone.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from connectors.hl7.errors import Condition
from connectors.hl7.mapping.codes import (
    BLOOD_PRESSURE,
    CODED,
    NO_MEASUREMENT,
    NO_RESULT,
    OBSERVATION_STATUS,
    OXYGEN,
    PRESSURES,
    UNSURE,
    Coded,
    Conflict,
    codings,
    is_mdc,
    known_unit,
    observation_code,
    oxygen_without_ways,
    responsiveness,
    room_air,
    unfit,
    unit,
)
from connectors.hl7.mapping.reading import Reading, Subject
from connectors.hl7.mapping.standing import UNKNOWN, letter_of, own_letter
from connectors.hl7.message import Segment
from connectors.hl7.settings import Hl7Peer, LocalCode
from processors.events import Comparator, Observation, ObservationStatus, VitalsEvent
from processors.loinc import ON_OXYGEN, ROOM_AIR
from processors.vitals import one_band

_NUMBER: Final = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:[eE]([+-]?\d{1,2}))?", re.ASCII)
_COMMA: Final = re.compile(r"[+-]?\d+,\d{1,2}|[+-]?\d+,\d{4,}", re.ASCII)  # three digits after a comma could be thousands
_TRAILING: Final = re.compile(r"([+-]?[\d.,]+)\s*([^\d\s].*)")
_PRESSURES: Final = re.compile(r"\s*(\d{1,3}(?:\.\d+)?)\s*/\s*(\d{1,3}(?:\.\d+)?)\s*(.*)")
_BOUND: Final = re.compile(r"([<>]=?)\s*(.+)")
_COMPARATORS: Final[Mapping[str, Comparator]] = {"<": "<", "<=": "<=", ">=": ">=", ">": ">", "=": "", "": ""}
_CODED_TYPES: Final = frozenset({"CE", "CWE", "CNE", "CF", "IS", "ID"})
_CHANGED: Final = frozenset({"corrected", "amended"})
_TAKEN_BACK: Final = frozenset({"entered-in-error", "cancelled"})
_UNOBTAINABLE: Final = "cannot be obtained"
_WITHOUT_TIME: Final = "without a time: which value is meant nobody can tell, and it stays"
_MEASURED: Final = frozenset({"final", "preliminary", "unknown"}) | _CHANGED


@dataclass(frozen=True, slots=True)
class Observed:
    """One observation with its time and what the set needs to know of its sender."""

    code: str
    value: float | str | None
    unit: str
    comparator: Comparator
    refused: str
    status: ObservationStatus
    at: datetime
    span: int
    device: str
    charted: bool


class _Plain(NamedTuple):
    """What an observation says whenever it is sent: nothing had to be noted about it."""

    settings: Hl7Peer  # by which it was read
    values: "tuple[Value, ...]"
    status: ObservationStatus
    device: str
    charted: bool


_REMEMBERED: Final = 20_000  # plain observations, the most that are remembered; of
_SHORT: Final = 400  # characters at most


def _key(reading: Reading, obx: Segment, obr: Segment | None) -> tuple[object, ...]:
    """Return all that the meaning of an observation comes of, its time apart."""
    message, order = reading.message, obr.raw(25) if obr else ""
    return id(reading.peer.settings), message.delimiters, message.codec, order, obx.beside(14)


def recall(reading: Reading, obx: Segment, obr: Segment | None) -> list[Observed] | None:
    """Return what `observe` found in an OBX that said the same but for its time, and without a remark; None for any other.

    Wards repeat themselves, and reading eight observations anew is two thirds of the work on a message.
    """
    plain: _Plain | None = reading.tables.plain.get(_key(reading, obx, obr))
    if plain is None or plain.settings is not reading.peer.settings:
        return None
    try:
        at = reading.moment((obx, 14), (obr, 7), (obr, 22), latest=True)
    except ValueError:
        return None
    if at is None:
        return None
    return [Observed(*value, plain.status, at, 0, plain.device, plain.charted) for value in plain.values]


def _remember(reading: Reading, obx: Segment, obr: Segment | None, plain: _Plain) -> None:
    if sum(map(len, obx.beside(14))) > _SHORT:
        return
    if len(reading.tables.plain) >= _REMEMBERED:
        reading.tables.plain.clear()
    reading.tables.plain[_key(reading, obx, obr)] = plain


def is_vital(reading: Reading, obx: Segment) -> bool:
    """Whether an OBX is a vital sign by its code. A contradiction in its codes is noted and counts as one (and is not used)."""
    try:
        return bool(observation_code(codings(obx, 3), reading.peer.settings.codes, reading.tables.codes)[0])
    except Conflict:
        return True


def observe(reading: Reading, obx: Segment, obr: Segment | None) -> list[Observed]:
    """Read an OBX that is a vital sign. What cannot be used is noted as trouble and refused, what says nothing is counted."""
    remarks = reading.remarks
    coded = codings(obx, 3)
    conflict: Conflict | None = None
    loinc, local = "", None
    try:
        loinc, local = observation_code(coded, reading.peer.settings.codes, reading.tables.codes)
    except Conflict as error:
        reading.trouble(str(error), obx.at(3), Condition.TABLE_VALUE_NOT_FOUND)
        conflict = error
    letter = letter_of(reading, obx, obr)
    if letter in NO_RESULT:
        reading.skipped["no result, only order detail (OBX-11 O or N)"] += 1
        return []
    if loinc.startswith("MDC_") and not obx.raw(5).strip():  # not even with X, by which devices write the rows of their tree
        reading.skipped["a compound whose parts carry the values"] += 1
        return []
    status = OBSERVATION_STATUS.get(letter, "unknown")
    flags = {obx.get(8, repetition=n).upper() for n in range(1, obx.count(8) + 1)}
    if (invalid := next((NO_MEASUREMENT[one] for one in sorted(flags) if one in NO_MEASUREMENT), "")) and status in _MEASURED:
        if status not in _CHANGED:
            reading.skipped[f"no measurement: {invalid} (OBX-8)"] += 1
            return []
        status = "entered-in-error"  # a correction that says so takes back what it corrects
    when = ((obx, 14), (obr, 7), (obr, 22))
    try:
        at = reading.moment(*when, latest=True)
        span = reading.span(*when) if status in _TAKEN_BACK | _CHANGED else 0
    except ValueError as error:
        reading.trouble(f"time of a vital sign: {error}", obx.at(14))
        return []
    if at is None:
        if letter == UNKNOWN:  # a trouble already
            return []
        unavailable = own_letter(reading, obx) == "X" and not obx.get(5)
        if status in _TAKEN_BACK and not unavailable:
            reading.trouble(f"taken back {_WITHOUT_TIME}", obx.at(14), Condition.REQUIRED_FIELD_MISSING)
            return []
        at = reading.sent_at
        reading.flags["a vital sign without a time, read as observed when sent"] += 1
        if status in _CHANGED:  # passed on all the same: as of now it is what is known
            reading.trouble(f"corrected {_WITHOUT_TIME}", obx.at(14), Condition.REQUIRED_FIELD_MISSING)
    codes = conflict.codes if conflict else BLOOD_PRESSURE.get(loinc, (loinc,))
    # not where only its order is cancelled, nor where a device says that it measures nothing
    unobtainable = _UNOBTAINABLE if own_letter(reading, obx) == "X" and not invalid else ""
    try:
        if conflict is None:
            values = _values(reading, obx, loinc, local)
        else:
            values = refused(codes, str(conflict)) if _says_something(obx) else []
    except ValueError as error:
        place = (6, Condition.TABLE_VALUE_NOT_FOUND) if isinstance(error, Conflict) else (5, Condition.DATA_TYPE)
        reading.trouble(str(error), obx.at(place[0]), place[1])
        values = refused(codes, unobtainable or str(error))
    if not values:
        if letter in ("F", ""):
            reading.skipped["empty value (OBX-5)"] += 1
            return []
        if letter == "C":
            reading.trouble("a correction without a value", obx.at(5), Condition.REQUIRED_FIELD_MISSING)
        # a status alone says much: deleted, wrong, cannot be obtained, now final
        values = refused(codes, "a correction without a value" if letter == "C" else unobtainable)
    for code, value, measure, *_ in values:
        if isinstance(value, float) and (to := unfit(code, measure)):
            # Passed on all the same: the score then says what it had to do without.
            reading.trouble(f"a unit that cannot be brought to {to} ({code})", obx.at(6), Condition.TABLE_VALUE_NOT_FOUND)
    device = obx.get(18) or obx.get(18, 3)
    charted = reading.peer.settings.charted
    if charted is None:
        charted = letter != "R" and not any(map(is_mdc, coded))
    charted = charted and not flags & UNSURE
    if status not in _TAKEN_BACK | _CHANGED and reading.remarks == remarks:
        _remember(reading, obx, obr, _Plain(reading.peer.settings, tuple(values), status, device, charted))
    return [Observed(*value, status, at, span, device, charted) for value in values]


def publish_sets(reading: Reading, subject: Subject, encounter_id: str | None, observed: list[Observed]) -> None:
    """Cut the observations of an order into sets and add their events."""
    for group in _sets(reading, observed):
        at = max(one.at for one in group)
        observations = tuple(
            Observation(
                code=one.code,
                value=one.value,
                unit=one.unit,
                comparator=one.comparator,
                refused=one.refused,
                status=one.status,
                observed_at=None if one.at == at else one.at,
                span=one.span,
            )
            for one in group
        )
        reading.events.append(
            VitalsEvent(
                id=reading.event_id(VitalsEvent),
                patient_id=subject.patient_id,
                encounter_id=encounter_id,
                observed_at=at,
                received_at=reading.received_at,
                observations=observations,
                device=next((one.device for one in group if one.device), ""),
                charted=group[0].charted,
                processing=reading.processing,
                origin=reading.origin,
            )
        )


def _sets(reading: Reading, observed: list[Observed]) -> list[list[Observed]]:
    """Cut observations into sets, oldest first: those of a stream, which have to persist, apart from those that count at once."""
    groups: list[list[Observed]] = []
    last: dict[bool, list[Observed]] = {}
    for one in sorted(observed, key=lambda each: each.at):  # stable: message order within one time
        group = last.get(one.charted)
        if not group or one.at - group[0].at > reading.tables.set_window or any(one.code == other.code for other in group):
            last[one.charted] = group = []
            groups.append(group)
        group.append(one)
    return groups


class Value(NamedTuple):
    """What an observation says. `comparator`: `value` is a bound. `refused`: why there is no value although something was said."""

    code: str  # LOINC
    value: float | str | None
    unit: str = ""
    comparator: Comparator = ""
    refused: str = ""


def refused(codes: Iterable[str], reason: str) -> list[Value]:
    """Return what says of some codes that there is no value, and why (in our words; empty: a status alone)."""
    return [Value(code, None, refused=reason) for code in codes]


def _says_something(obx: Segment) -> bool:
    return bool(obx.raw(5).strip()) and not obx.is_null(5)


def _values(reading: Reading, obx: Segment, loinc: str, local: LocalCode | None) -> list[Value]:
    """Return what OBX-5 says, empty for nothing. Raises `ValueError` (with no value in it) when it cannot be used."""
    kind = obx.get(2).upper()
    if obx.count(5) > 1:
        raise ValueError("a vital sign with several values")
    if not _says_something(obx):
        return []
    measure = unit(codings(obx, 6), reading.peer.settings.units, reading.tables.units) or (local.unit if local else "")
    if local and local.values:
        for word in (obx.get(5), obx.get(5, 2)):
            if word in local.values:
                return [Value(loinc, local.values[word], measure)]
    if pair := _pressures(obx, kind, loinc, measure):
        return pair
    if loinc in CODED:
        letter = responsiveness(codings(obx, 5))
        if not letter:
            raise ValueError("not a level of responsiveness that is known (ACVPU)")
        return [Value(loinc, letter)]
    if loinc in OXYGEN and room_air(codings(obx, 5)):
        return [Value(loinc, "air")]
    if loinc in OXYGEN and kind != "SN" and (amount := oxygen(loinc, codings(obx, 5), measure)):
        return [amount]
    if kind == "SN":
        return [_structured(obx, loinc, measure)]
    if kind in _CODED_TYPES:
        raise ValueError("a coded value where a number is needed")
    if obx.get(5, 2):
        raise ValueError("a value of several components where a number is needed")
    return [measured(loinc, obx.get(5), measure)]


def measured(code: str, text: str, measure: str) -> Value:
    """Read a number that may have its unit behind it, `98 %`, `37.2 C`, `2L`, and a comparator before it (`bounded`).

    `measure`: the unit that is said beside it. Raises `ValueError` (with no value in it) when it cannot be used.
    """
    bound = _BOUND.fullmatch(text.strip())
    comparator, text = (bound[1], bound[2]) if bound else ("", text)
    try:
        return bounded(code, number(text), measure, comparator)
    except ValueError:
        trailing = _TRAILING.fullmatch(text.strip())
        if not trailing or not (stuck := known_unit(trailing[2])) or (measure and measure != stuck):
            raise
        return bounded(code, number(trailing[1]), stuck, comparator)


def oxygen(code: str, coded: Iterable[Coded], measure: str) -> Value | None:
    """Read oxygen as charts write it, with how it is given: `4 L NC`, `2L by mask`, `O2: RA`, `oxygen`. None where none is said.

    Raises `ValueError` (with no value in it) for words beside it that are no amount, or that differ: it is not read past them.
    """
    found: list[Value] = []
    words = [word for one in coded for word in one[:2] if word]
    told = [ways for word in words if (ways := oxygen_without_ways(word))]
    for amount in dict.fromkeys(amount for amount, _ in told if amount):
        found.append(Value(code, "air") if amount in ROOM_AIR else measured(code, amount, measure))
    if len(set(found)) > 1:
        raise ValueError("words of oxygen that differ")
    if not found and len(told) == len(words) and any(gas for _, gas in told):  # nothing beside it that could say: none
        return Value(code, ON_OXYGEN)
    return found[0] if found else None


def bounded(code: str, value: float, measure: str, comparator: str) -> Value:
    """Return a value, or a bound that scores as all that it may mean (`processors.vitals.one_band`): SpO2 `<80`, `>40` breaths.

    Raises `ValueError` for any other.
    """
    known = _COMPARATORS.get(comparator)
    if known is None or (known and not one_band(code, value, measure, known)):
        raise ValueError("a comparator leaves the value open")
    return Value(code, value, measure, known)


def number(text: str) -> float:
    """Read a number as senders write it: HL7's NM, a decimal comma where it cannot be a thousands mark.

    Raises `ValueError`, which does not quote the text.
    """
    text = text.strip()
    if _COMMA.fullmatch(text):
        text = text.replace(",", ".")
    if not _NUMBER.fullmatch(text):
        raise ValueError("not a number")
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("not a finite number")
    return value


def _structured(obx: Segment, code: str, measure: str) -> Value:
    """Read SN: comparator, number, separator, number. Only a single number is a measurement, exact or a bound (`bounded`)."""
    comparator, first, separator, second = (obx.get(5, n) for n in range(1, 5))
    if separator or second:
        raise ValueError("a range or ratio is not one value")
    return bounded(code, number(first), measure, comparator)


def _pressures(obx: Segment, kind: str, code: str, measure: str) -> list[Value]:
    if kind == "SN" and obx.get(5, 3) == "/":
        if obx.get(5) not in ("", "="):
            raise ValueError("a comparator leaves the value open")
        return pressures(code, f"{obx.get(5, 2)}/{obx.get(5, 4)}", measure)
    return pressures(code, obx.get(5), measure)


def pressures(code: str, text: str, measure: str) -> list[Value]:
    """Read a blood pressure, `120/80` or `120/80 mmHg`, under a panel or a systolic pressure; under the latter empty for none.

    Raises `ValueError` for what is no blood pressure under a panel, and for two units.
    """
    found = _PRESSURES.fullmatch(text) if code in PRESSURES else None
    stuck = known_unit(found[3]) if found else ""
    if not found or (found[3] and not stuck):
        if code in BLOOD_PRESSURE:
            raise ValueError("not a blood pressure as systolic/diastolic")
        return []
    if stuck and measure and stuck != measure:
        raise ValueError("a blood pressure with two units")
    values = zip(PRESSURES[code], (found[1], found[2]), strict=True)
    return [Value(each, number(value), measure or stuck) for each, value in values]
