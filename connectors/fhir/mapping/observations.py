"""Observation to sets of vitals, and to lasting facts about the patient.

| element | becomes |
|---|---|
| code, component.code | LOINC by the site's tables, LOINC or MDC codings (the tables of the HL7 v2 connector) |
| value[x] | quantity, integer, string (`37.2 C`, `120/80`), a bound where it scores as one; coded responsiveness and room air |
| a value that cannot be read | a dead letter, and `Observation.refused`: then no older value shows the patient well |
| dataAbsentReason, no value | the same without a dead letter; nothing where nobody looked (`not-asked`, ...) |
| no value, and no reason | nothing (a status that retracts goes on without a value) |
| a status that retracts, without a time or code | what its id is remembered to have said (`versions`), else a dead letter |
| status | the same word |
| effectiveDateTime, Instant, Period (end), Timing (first) | observed_at; else issued, else lastUpdated, else received |
| one of these that is there and no time | nothing: a dead letter, since an old value must not pass for a new one |
| focus | nothing where it is anything but the subject (a fetus, a donor): a dead letter |
| hasMember of what is contained | the member, read like a component; its subject, time, status are its own where it has them |
| bodySite, method, referenceRange, note, other hasMember, derivedFrom | not used |
"""

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, get_args

from connectors.fhir.mapping.reading import Reading, Subject, codings, objects, text
from connectors.fhir.structure import Json, kind_of
from connectors.fhir.understanding import status_issues
from connectors.hl7.mapping.codes import (
    BLOOD_PRESSURE,
    CODED,
    OXYGEN,
    Coded,
    Conflict,
    is_mdc,
    observation_code,
    responsiveness,
    room_air,
    unfit,
    unit,
)
from connectors.hl7.mapping.facts import STANDARD
from connectors.hl7.mapping.vitals import Value, bounded, measured, number, oxygen, pressures, refused
from connectors.hl7.settings import ContextCode, LocalCode
from processors import loinc
from processors.events import Observation, ObservationStatus, Origin, ProcessingId, VitalsEvent
from processors.identity import content_hash, natural_id

OF_ANOTHER: Final = "business-rule"  # the code of a trouble that says: not about the subject (`focus`)
RETRACTS: Final = frozenset({"entered-in-error", "cancelled"})
_AMENDS: Final = RETRACTS | {"amended", "corrected"}
_COUNTS: Final = frozenset({"final", "amended", "corrected"})
_EFFECTIVE: Final = ("effectiveDateTime", "effectiveInstant", "effectivePeriod", "effectiveTiming")
_SHARED: Final = ("subject", "focus", "encounter", *_EFFECTIVE, "issued", "device", "performer")  # with contained members
_NOTHING: Final[dict[str, dict[str, Any]]] = {
    "pregnant": {"pregnant": None},
    "spo2_scale": {"spo2_scale": 1, "spo2_scale_decided_by": None},
    "ceiling_of_care": {"ceiling_of_care": None},
}


@dataclass(frozen=True, slots=True)
class Observed:
    """One observation with all that decides to which set it belongs."""

    reading: Reading
    observation: Observation
    at: datetime
    subject: Subject
    encounter_id: str | None
    device: str
    charted: bool
    processing: ProcessingId


@dataclass(frozen=True, slots=True)
class Fact:
    """What an Observation says lastingly about a patient."""

    reading: Reading
    subject: Subject
    said: dict[str, Any]


def map_observation(reading: Reading, *, remembered: bool = False) -> list[Observed | Fact]:
    """Read an Observation. What cannot be used is noted as trouble, what is no vital sign as a note.

    `remembered`: what it said before is known, so a retraction need not say it again.
    """
    members = _members(reading, remembered=remembered)
    return [*members, *_itself(reading, remembered=remembered, holds=bool(members))]


def _members(reading: Reading, *, remembered: bool) -> list[Observed | Fact]:
    """Read the Observations that are contained in it and that it names as its members: they have no other way in.

    Of subject, stay, time and device a member says what differs; a panel that is taken back takes them with it.
    """
    resource = reading.resource
    named = {text(one.get("reference")) for one in objects(resource, "hasMember")}
    found: list[Observed | Fact] = []
    for n, one in enumerate(objects(resource, "contained") if named else ()):
        if kind_of(one) != "Observation" or f"#{text(one.get('id'))}" not in named:
            continue
        timed = any(name in one for name in _EFFECTIVE)
        shared = [name for name in _SHARED if not (timed and name in (*_EFFECTIVE, "issued"))]
        part = {name: resource[name] for name in shared if name in resource}
        part |= {name: value for name, value in one.items() if name != "hasMember"}
        part |= {name: resource[name] for name in ("contained", "meta") if name in resource}
        if resource.get("status") in RETRACTS:
            part["status"] = resource["status"]
        member = Reading(part, reading.sender, reading.site, reading.index, update=reading.update)
        if wrong := status_issues(part):
            member.trouble("status", wrong[0].diagnostics, code=wrong[0].code)
        else:
            found += [replace(each, reading=reading) for each in map_observation(member, remembered=remembered)]
        place = f"{reading.kind}.contained[{n}]"
        reading.troubles += [(stage, issue.within(place)) for stage, issue in member.troubles]
        reading.notes += [issue.within(place) for issue in member.notes]
    return found


def _about(reading: Reading, subject: Subject) -> bool:
    """Whether it is about the subject; noted as trouble where its focus is somebody or something else."""
    if all(reading.means(one, subject) for one in objects(reading.resource, "focus")):
        return True
    reading.trouble("focus", "about somebody or something else than the subject: held apart", code=OF_ANOTHER, stage="identify")
    return False


def _itself(reading: Reading, *, remembered: bool, holds: bool) -> list[Observed | Fact]:
    """Read an Observation but for its members. `holds`: those say something."""
    resource = reading.resource
    if (meaning := _fact_of(reading, codings(resource.get("code")))) is not None:
        subject = reading.subject()
        said = _fact(reading, meaning) if subject and _about(reading, subject) else None
        return [Fact(reading, subject, said)] if subject and said else []
    parts = [("", resource), *((f"component[{n}]", one) for n, one in enumerate(objects(resource, "component")))]
    values = [found for place, part in parts for found in _part(reading, place, part)]
    if resource.get("status") in RETRACTS and not _is_whole(reading, values, remembered=remembered):
        return []
    if not values:
        if not reading.troubles and not reading.notes and not holds:
            _note_unmapped(reading)
        return []
    subject = reading.subject()
    if subject is None or not _about(reading, subject):
        return []
    at = _when(reading)
    if at is None:
        return []
    status: ObservationStatus = next((one for one in get_args(ObservationStatus) if one == resource.get("status")), "unknown")
    # of all its values, and looked for among all its components: once
    encounter_id, charted = reading.encounter(resource.get("encounter"), subject), _charted(reading, status)
    span = int(status in _AMENDS and not at.microsecond)  # seconds are always written, fractions not by all
    return [
        Observed(
            reading,
            Observation(**value._asdict(), status=status, span=span),
            at,
            subject,
            encounter_id,
            _device(resource),
            charted,
            reading.processing,
        )
        for value in values
    ]


def _is_whole(reading: Reading, values: list[Value], *, remembered: bool) -> bool:
    """Return whether a retraction says by itself what it takes back: a code, and when it was observed.

    One that does not, of what is not remembered, takes nothing back: noted as trouble, so that somebody looks. `issued` may stand
    for the time only where it did for the original: it is tried as well.
    """
    timed = any(reading.resource.get(name) is not None for name in _EFFECTIVE)
    if remembered:
        return timed and bool(values)
    if not timed if values else _is_panel(reading):
        reading.trouble("", "a retraction that does not say of what, and nothing is remembered under its id", code="not-found")
    return timed or not values or reading.resource.get("issued") is not None


def _is_panel(reading: Reading) -> bool:
    """Tell whether an Observation is a panel that carries its values itself: others retract their members one by one."""
    try:
        code, _ = observation_code(
            codings(reading.resource.get("code")), reading.sender.peer.codes, reading.site.settings.codes
        )
    except Conflict:
        return False
    return (code in BLOOD_PRESSURE or code in loinc.PANELS) and not reading.resource.get("hasMember")


def vitals_events(observed: list[Observed]) -> list[VitalsEvent]:
    """Make sets: what one request says of one patient at one time, by one device, is one set; a code that comes twice is two."""
    sets: dict[tuple[Any, ...], list[Observed]] = {}
    copies = Counter[tuple[Any, ...]]()  # how often a code has come: the number of its next set
    for one in observed:
        key = (one.subject.patient_id, one.encounter_id, one.at, one.device, one.charted, one.processing)
        copy = copies[(*key, one.observation.code)]
        copies[(*key, one.observation.code)] += 1
        sets.setdefault((*key, copy), []).append(one)
    return [_event(members) for members in sets.values()]


def _event(members: list[Observed]) -> VitalsEvent:
    first = members[0]
    readings = list(dict.fromkeys(one.reading for one in members))
    if len(readings) == 1:
        id, origin = readings[0].event_id(VitalsEvent), readings[0].origin
    else:  # several resources, one set: what identifies it is all of them
        digest = content_hash("".join(one.digest for one in readings).encode())
        id = natural_id(*(part for one in readings for part in one.identity), VitalsEvent.type, first.observation.code)
        origin = Origin(protocol="fhir", peer=first.reading.sender.name, message_type="Bundle", digest=digest)
    return VitalsEvent(
        id=id,
        patient_id=first.subject.patient_id,
        encounter_id=first.encounter_id,
        observed_at=first.at,
        received_at=first.reading.sender.received_at,
        observations=tuple(one.observation for one in members),
        device=first.device,
        charted=first.charted,
        processing=first.processing,
        origin=origin,
    )


# ---------------------------------------------------------------------------------------------------------------- values


def _part(reading: Reading, place: str, part: Json) -> list[Value]:
    """Return the value of the Observation itself or of a component, if its code is a vital sign."""
    below = f"{place}." if place else ""
    name, value = next(((name, value) for name, value in part.items() if name.startswith("value")), ("", None))
    try:
        code, local = observation_code(codings(part.get("code")), reading.sender.peer.codes, reading.site.settings.codes)
    except Conflict as error:
        reading.trouble(f"{below}code", str(error), code="code-invalid")
        return refused(error.codes, str(error)) if name else []
    if not code:
        return []
    if not name:
        return _without_value(reading, place, part, code)
    retracts = reading.resource.get("status") in RETRACTS
    ongoing = not retracts and bool(_NO_MEASUREMENT & _interpreted(part))
    try:
        if code in BLOOD_PRESSURE and (name != "valueString" or part.get("component")):
            raise ValueError("a panel carries no value of its own")
        found = _values(code, local, name, value)
    except ValueError as error:
        reading.trouble(f"{below}{name}", str(error))
        said_below = code in BLOOD_PRESSURE and part.get("component")
        return [] if ongoing or said_below else refused(BLOOD_PRESSURE.get(code, (code,)), str(error))
    if ongoing:
        reading.note(place, "no measurement: calibrating or still measuring (interpretation)")
        return []
    for each in found:
        if isinstance(each.value, float) and (to := unfit(each.code, each.unit)) and not retracts:
            # Passed on all the same: the score then says what it had to do without.
            reading.trouble(f"{below}{name}", f"a unit that cannot be brought to {to} ({each.code})")
    return found


# http://terminology.hl7.org/CodeSystem/measurement-status, of ISO/IEEE 11073-10201; what is invalid or not available has no value
# there (dataAbsentReason), test data the tag HTEST
_NO_MEASUREMENT: Final = frozenset({"calibration-ongoing", "msmt-ongoing"})
_UNSURE: Final = frozenset({"questionable", "early-indication"})  # it has to persist before it counts


def _interpreted(part: Json) -> set[str]:
    return {code for one in objects(part, "interpretation") for code, *_ in codings(one)}


def _without_value(reading: Reading, place: str, part: Json, code: str) -> list[Value]:
    if code in loinc.PANELS and code not in BLOOD_PRESSURE:
        return []
    status, pressures = reading.resource.get("status"), BLOOD_PRESSURE.get(code, ())
    if status in RETRACTS and not pressures:  # what it retracts is found by patient, code and time
        return [Value(code, None, refused="cannot be obtained" if status == "cancelled" else "")]
    absent = codings(part.get("dataAbsentReason"))
    if pressures and (status in RETRACTS or not absent or any(name in part for name in ("component", "hasMember"))):
        return []
    why = next((word for word, *_ in absent if word in _ABSENT), "")
    reason = f"no value ({why})" if why else "no value"
    reading.note(place, reason)
    if not absent or why in _NOT_SOUGHT or status == "registered":
        return []
    return refused(pressures or (code,), reason)


_ABSENT: Final = frozenset(  # http://hl7.org/fhir/R4/valueset-data-absent-reason.html
    {
        "unknown", "asked-unknown", "temp-unknown", "not-asked", "asked-declined", "masked", "not-applicable", "unsupported",
        "as-text", "error", "not-a-number", "negative-infinity", "positive-infinity", "not-performed", "not-permitted",
    }
)  # fmt: skip
_NOT_SOUGHT: Final = frozenset({"not-asked", "not-applicable", "unsupported"})  # nobody looked: nothing is said of the patient


def _values(code: str, local: LocalCode | None, name: str, value: Any) -> list[Value]:
    """Read value[x]: one value, or the two of a blood pressure (`120/80`).

    Raises `ValueError` (with no value in it) when it cannot be used.
    """
    measure = local.unit if local else ""
    coded = codings(value) if name == "valueCodeableConcept" else (("", text(value), ""),) if name == "valueString" else ()
    if local and local.values:
        for word in (word for one in coded for word in one[:2]):
            if word in local.values:
                return [Value(code, local.values[word], measure)]
    if code in CODED:
        letter = responsiveness(coded)
        if not letter:
            raise ValueError("not a level of responsiveness that is known (ACVPU)")
        return [Value(code, letter)]
    if code in OXYGEN and room_air(coded):
        return [Value(code, "air")]
    if code in OXYGEN and (amount := oxygen(code, coded, measure)):
        return [amount]
    if name == "valueQuantity" and isinstance(value, dict):
        return [bounded(code, _number(value.get("value")), _unit(value) or measure, text(value.get("comparator")))]
    if name == "valueString":
        words = text(value)
        return pressures(code, words, measure) or [measured(code, words, measure)]
    if name == "valueInteger":
        return [Value(code, _number(value), measure)]
    raise ValueError("not a kind of value that a vital sign has")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("not a number")
    return number(value if isinstance(value, str) else repr(value))


def _unit(quantity: Json) -> str:
    code, words = text(quantity.get("code")), text(quantity.get("unit"))
    system = "UCUM" if text(quantity.get("system")) == "http://unitsofmeasure.org" else ""
    return unit(((code, words, system),)) if code or words else ""


# ----------------------------------------------------------------------------------------------------- when, who, by what


def _when(reading: Reading) -> datetime | None:
    """Return when it was observed; None, noted as trouble, where a time is given and cannot be read."""
    resource = reading.resource
    period, timing = resource.get("effectivePeriod"), resource.get("effectiveTiming")
    events = timing.get("event") if isinstance(timing, dict) else None
    effective = {name: resource.get(name) for name in ("effectiveDateTime", "effectiveInstant")}
    if isinstance(period, dict):
        effective |= {f"effectivePeriod.{name}": period.get(name) for name in ("end", "start")} | {"effectivePeriod": period}
    if timing is not None:
        first = events[0] if isinstance(events, list) and events else None
        effective |= {"effectiveTiming.event[0]": first, "effectiveTiming": timing}
    if found := reading.moment(*effective.values()):
        given = next(value for value in effective.values() if reading.moment(value))
        if found[1] or len(str(given).strip()) < len("2026-11-30"):  # a year or a month says nothing of now
            return found[0]
        reading.note(
            "effective", "a date without a time of day, read as observed when issued or received, by the end of that day"
        )
        written = reading.stamp({"issued": resource.get("issued")})
        return written and min(written, found[0] + timedelta(days=1, seconds=-1))
    if reading.unread(effective):
        return None
    reading.note("effective", "no time, read as observed when issued or received")
    return reading.stamp({"issued": resource.get("issued")})


def _device(resource: Json) -> str:
    device = resource.get("device")
    if not isinstance(device, dict):
        return ""
    named = next((text(one.get("value")) for one in objects(device, "identifier")), "")
    return named or text(device.get("reference")) or text(device.get("display"))


def _charted(reading: Reading, status: str) -> bool:
    if any(_UNSURE & _interpreted(one) for one in (reading.resource, *objects(reading.resource, "component"))):
        return False
    if reading.sender.peer.charted is not None:
        return reading.sender.peer.charted
    return status != "preliminary" and not any(map(is_mdc, codings(reading.resource.get("code"))))


# ----------------------------------------------------------------------------------------------------------------- facts


def _fact_of(reading: Reading, coded: tuple[Coded, ...]) -> ContextCode | None:
    for code, _, system in coded:
        for table in (reading.site.settings.context_codes, STANDARD):
            if code and (found := table.get(f"{code}^{system}") or table.get(code)):
                return found
    return None


def _fact(reading: Reading, meaning: ContextCode) -> dict[str, Any] | None:
    resource = reading.resource
    status = resource.get("status")
    if status == "entered-in-error":
        return dict(_NOTHING[meaning.fact])
    if status not in _COUNTS:
        reading.note("status", "a fact about the patient that is not final")
        return None
    value = _said(resource, meaning)
    if value is _UNKNOWN:
        reading.trouble("value", "a value that the settings do not name", code="code-invalid")
        return None
    if meaning.fact == "spo2_scale":
        return _scale(reading, value)
    if meaning.fact == "pregnant":
        return {"pregnant": value if isinstance(value, bool) else None}
    return {"ceiling_of_care": None if value is None else str(value)}


_UNKNOWN: Final = object()


def _said(resource: Json, meaning: ContextCode) -> Any:
    words = [word for code, display, _ in codings(resource.get("valueCodeableConcept")) for word in (code, display) if word]
    for name in ("valueString", "valueInteger"):
        if name in resource:
            words.append(str(resource[name]))
    if isinstance(resource.get("valueBoolean"), bool) and not words:
        return resource["valueBoolean"]
    for word in words:
        if word in meaning.values:
            return meaning.values[word]
    return words[0] if words and not meaning.values else _UNKNOWN


def _scale(reading: Reading, value: Any) -> dict[str, Any] | None:
    """The SpO2 scale counts only as somebody's recorded decision: `performer` must name who."""
    if str(value) not in ("1", "2"):
        reading.trouble("value", "not an SpO2 scale")
        return None
    for performer in objects(reading.resource, "performer"):
        for one in objects(performer, "identifier"):
            if text(one.get("value")):
                return _decided(reading, value, text(one.get("system")), text(one.get("value")))
        if literal := text(performer.get("reference")):
            return _decided(reading, value, reading.sender.base, literal)
    reading.trouble("performer", "an SpO2 scale that nobody is named for", code="required")
    return None


def _decided(reading: Reading, value: Any, scope: str, who: str) -> dict[str, Any]:
    return {"spo2_scale": int(value), "spo2_scale_decided_by": reading.site.identities.pseudonym("staff", scope, who)}


def _note_unmapped(reading: Reading) -> None:
    if reading.site.settings.unmapped == "dead-letter":
        reading.trouble("code", "no vital sign that is known", code="not-supported")
    else:
        reading.note("code", "no vital sign: not used")
