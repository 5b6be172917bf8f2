"""What each Observation has said so far, so that its next version corrects it and takes back what it no longer says.

A lane finds what a retraction means by patient, code and time. An update that moves an Observation to another patient or time, or
drops a code, names none of them as they were, and nor does a retraction stripped to its status and id. One that gives another value
in place of the last replaces it (R4 http.html#update) whatever its status says, and to a lane two final values of one time are both
true. What an id contributed is therefore remembered, in memory, for the ids heard of most recently:

| a version that was not seen before | takes back, as entered in error |
|---|---|
| entered-in-error, cancelled | all that stands, but what it retracts itself |
| an update (PUT, rest-hook, fetched), or amended, corrected | what stands and it no longer says, of that patient, code and time |
| the same, some of it not usable | the codes that it gives, readable or not, for another patient or time; of those it lacks none |
| an update that is `preliminary`, `unknown` or `registered`, of what is not | the same, and the values that it gives others for |
| older than the one that stands, by `meta.lastUpdated` of both | nothing |
| a create, of no correcting status | nothing: an id on a create is no promise (R4 http.html#create), some send one for all |
| one that is test data | what test data said |
| one about something else than the subject (`focus`) | as one that says nothing |

| a value for the same patient, code and time, of an update | is passed on |
|---|---|
| another one than stands, `final` | as `corrected` |
| another one than stands, of a version that is older than what stands | not at all |
| any other | as it is |

A version that was seen before (a resend) says and takes back the same again, under the same event ids, unless another one stands by
now.
"""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from connectors.contexts import in_future, surviving
from connectors.fhir.mapping.observations import OF_ANOTHER, RETRACTS, Observed
from connectors.fhir.mapping.reading import Reading, text
from processors import loinc
from processors.events import Observation, ObservationStatus, ProcessingId, VitalsEvent
from processors.identity import natural_id

_KEPT: Final = 4  # versions of an id that are known again
_CORRECTS: Final = RETRACTS | {"amended", "corrected"}
_UNVALIDATED: Final = frozenset({"preliminary", "unknown", "registered"})  # none of them stands for a value that counts
_SAYS_NOTHING: Final = frozenset(
    {"not-supported", OF_ANOTHER}
)  # codes of troubles: no vital sign (setting `unmapped`), or not its own


@dataclass(frozen=True, slots=True)
class Said:
    """One value that an Observation contributed."""

    patient_id: str
    encounter_id: str | None
    at: datetime
    code: str
    value: float | str | None
    unit: str
    refused: str
    device: str
    charted: bool
    processing: ProcessingId
    status: ObservationStatus

    @property
    def parameter(self) -> str:
        """What the code measures: two codes of one parameter are one value to a lane."""
        meaning = loinc.LOINC.get(self.code)
        return meaning.parameter if meaning else self.code


@dataclass(frozen=True, slots=True)
class Version:
    """A version that was taken: what stands since, of this id, what it took back, and the keys (`_key`) of what it corrected."""

    name: tuple[str, ...]  # versionId and content
    stands: tuple[Said, ...]
    taken_back: tuple[Said, ...]
    corrected: frozenset["Key"]
    updated: datetime | None


Key = tuple[str, str, datetime]  # patient, parameter, time
Versions = tuple[Version, ...]  # of one id; the last is the one that stands


class Memory:
    """The versions of the ids heard of most recently, at most `limit`; forgets the oldest above that."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: OrderedDict[str, Versions] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, name: str) -> Versions:
        """Return the versions of an id, none where nothing is known."""
        return self._known.get(name, ())

    def remember(self, said: Mapping[str, Versions]) -> None:
        """Take over what confirmed outcomes said."""
        for name, versions in said.items():
            self._known[name] = versions
            self._known.move_to_end(name)
        while len(self._known) > self._limit:
            self._known.popitem(last=False)


def follow(reading: Reading, observed: list[Observed], known: Versions, *, update: bool) -> tuple[list[Observed], Versions]:
    """Return what an Observation says as it is to be passed on, and its versions with this one.

    Adds the events that take back what it no longer says. `update`: whether its sender vouches for the id.
    """
    name, now = reading.identity[4:], _said(observed)
    if any(version.name == name for version in known):
        if known[-1].name != name:
            return observed, known
        _take_back(reading, known[-1].taken_back)
        return _corrections(reading, observed, known[-1].corrected), known
    updated = reading.last_updated
    if updated is not None and in_future(updated, reading.sender.received_at):
        updated = None  # a wrong clock, which would make all that follows look old
    before = known[-1] if known else None
    stood = before.stands if before else ()
    if before and before.updated and updated and updated < before.updated:
        reading.note("meta.lastUpdated", "older than the version that stands: takes nothing back")
        versions = (*known[:-1], Version(name, (), (), frozenset(), updated), before)[-_KEPT:]
        return (_not_outdated(reading, observed, _others(reading, stood, now)) if update else observed), versions
    status = text(reading.resource.get("status"))
    follows = update or status in _CORRECTS
    gone = _gone(reading, stood, now, status) if follows else ()
    others = _others(reading, stood, now) if update and status not in RETRACTS else frozenset()
    downgraded = tuple(one for one in stood if _key(reading, one) in others and one.status not in _UNVALIDATED)
    gone += downgraded if status in _UNVALIDATED else ()
    _take_back(reading, gone)
    if gone:
        reading.note("", "what an earlier version said of another patient, time or code is taken back")
    elif status in RETRACTS and known and not now:
        reading.note("", "nothing of it stands: taken back before")
    elif status in _CORRECTS - RETRACTS and now and not known:
        reading.note("", "a correction of what is not remembered: it replaces what is of the same patient, code and time only")
    corrected = others if status == "final" else frozenset()
    covered, left = {_key(reading, one) for one in now}, frozenset(gone)
    kept = [one for one in stood if one not in left and _key(reading, one) not in covered]
    stands = () if status in RETRACTS else (*(kept if follows else ()), *now)
    passed = _corrections(reading, observed, corrected)
    if not known and not stands:
        return passed, ()
    return passed, (*known, Version(name, stands, gone, corrected, updated))[-_KEPT:]


def _others(reading: Reading, stood: tuple[Said, ...], now: tuple[Said, ...]) -> frozenset[Key]:
    """Return the keys of the values that another value of this id stands for."""
    keys = {_key(reading, one) for one in stood}
    same = {(_key(reading, one), one.value, one.unit) for one in stood}
    return frozenset(key for one in now if (key := _key(reading, one)) in keys and (key, one.value, one.unit) not in same)


def _corrections(reading: Reading, observed: list[Observed], keys: frozenset[Key]) -> list[Observed]:
    """Return the observations, those of some keys as corrections."""
    if keys:
        reading.note("", "another value than an earlier version of this id had: passed on as a correction of it")
    return [
        replace(one, observation=one.observation.model_copy(update={"status": "corrected"}))
        if _key(reading, said) in keys
        else one
        for one, said in zip(observed, _said(observed), strict=True)
    ]


def _not_outdated(reading: Reading, observed: list[Observed], keys: frozenset[Key]) -> list[Observed]:
    """Return the observations but those of some keys, of which a newer version says something else."""
    if keys:
        reading.note("", "a newer version of this id gives another value for the same time: this one does not count")
    return [one for one, said in zip(observed, _said(observed), strict=True) if _key(reading, said) not in keys]


def _gone(reading: Reading, stood: tuple[Said, ...], now: tuple[Said, ...], status: str) -> tuple[Said, ...]:
    covered = {_key(reading, one) for one in now}
    if status in RETRACTS:  # one that tells a value takes back that value: what else was said of that time stands in
        whole = {_key(reading, one) for one in now if one.value is None and (status == "cancelled" or not one.refused)}
        told = {(*_key(reading, one), one.value) for one in now}
        return tuple(one for one in stood if _key(reading, one) not in whole and (*_key(reading, one), one.value) not in told)
    gone = [one for one in stood if _key(reading, one) not in covered]
    if any(issue.code not in _SAYS_NOTHING for _, issue in reading.troubles):
        moved = {one.parameter for one in now}
        gone = [one for one in gone if one.parameter in moved]
    return tuple(gone)


def _key(reading: Reading, one: Said) -> Key:
    """Return what a lane finds a value by; of a record that was merged away since, the surviving one."""
    return surviving(reading.site.contexts, one.patient_id), one.parameter, one.at


def _said(observed: list[Observed]) -> tuple[Said, ...]:
    return tuple(
        Said(
            one.subject.patient_id,
            one.encounter_id,
            one.at,
            one.observation.code,
            one.observation.value,
            one.observation.unit,
            one.observation.refused,
            one.device,
            one.charted,
            one.processing,
            one.observation.status,
        )
        for one in observed
    )


def _take_back(reading: Reading, gone: tuple[Said, ...]) -> None:
    """Add an event for each patient and time: what is taken back there, with its value, so that another feed's stays.

    What takes the place of it comes before, so that an alert follows the new value and is not raised twice; but not a value that
    does not count: to a lane it would be the unvalidated one that is taken back.
    """
    events = reading.first if text(reading.resource.get("status")) in _UNVALIDATED else reading.events
    sets: dict[tuple[str, datetime, int], list[Said]] = {}
    copies = Counter[tuple[str, datetime, str]]()
    for one in gone:
        copy = copies[one.patient_id, one.at, one.parameter]
        copies[one.patient_id, one.at, one.parameter] += 1
        sets.setdefault((one.patient_id, one.at, copy), []).append(one)
    for (patient, at, copy), members in sets.items():
        first = members[0]
        events.append(
            VitalsEvent(
                id=natural_id(*reading.identity, VitalsEvent.type, "taken-back", patient, at.isoformat(), copy),
                patient_id=patient,
                encounter_id=first.encounter_id,
                observed_at=at,
                received_at=reading.sender.received_at,
                observations=tuple(
                    Observation(code=one.code, value=one.value, unit=one.unit, refused=one.refused, status="entered-in-error")
                    for one in members
                ),
                device=first.device,
                charted=first.charted,
                processing=first.processing,
                origin=reading.origin,
            )
        )
