"""From the rows of a file to sets of vitals: a row in, what it says out.

A row whose patient or time cannot be read, a value that is no number, and a line that is no row (`connectors.vitals.tables`) is not
dropped but counted and kept as a dead letter: the row as it stood, with the reason and its place in the file. Of a value that is no
number the set says so too (`Observation.refused`): then no older value shows the patient well.

Daylight saving, of timestamps without an offset: a local time that occurred twice is the first one, unless by the row before it of
the same patient, device and (long) name the first is over already and the second is not: so where a file goes on in time. One that
never occurred is read with the offset from before the jump, as in `connectors.hl7.times`. Both are counted (`RowMapper.flags`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import orjson

from connectors.deadletters import dead_letter
from connectors.hl7.mapping.vitals import number
from connectors.identity import Identities
from connectors.vitals.settings import FileMapping
from connectors.vitals.tables import Broken, Row
from processors.events import LONGEST_NAME, DeadLetterEvent, Event, Identifier, Observation, Origin, PatientEvent, VitalsEvent
from processors.identity import content_hash, natural_id

_TIMES: Final = {
    "timestamp": "ISO 8601: 2026-11-30T08:00:00",
    "seconds": "a number of seconds",
    "minutes": "a number of minutes",
    "hours": "a number of hours",
}
_PER: Final[dict[str, float]] = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0}


@dataclass(slots=True)
class Reading:
    """One set: what the rows of one patient at one time say."""

    patient: str
    at: datetime
    encounter: str = ""
    device: str = ""
    values: list[tuple[str, float | str, str]] = field(default_factory=list)  # LOINC, value, unit
    refused: list[str] = field(default_factory=list)  # LOINC of what is there and no number
    age: float | None = None
    troubles: list[tuple[str, Row]] = field(default_factory=list)  # reason, the row with it

    @property
    def key(self) -> tuple[datetime, str, str, str]:
        """What makes rows of a long file one set."""
        return self.at, self.patient, self.encounter, self.device


class Unusable(ValueError):
    """A row that says nothing that can be filed; the reason quotes no value."""


class RowMapper:
    """Reads the rows of one file, in its order. `flags` counts what was read by a rule."""

    def __init__(self, mapping: FileMapping, identities: Identities, *, name: str) -> None:
        """`name` stands for the file in events and their ids where the mapping has no name of its own."""
        self.mapping = mapping
        self.name = mapping.name or name
        self._identities = identities
        self._zone = ZoneInfo(mapping.zone)
        self._authority = identities.authority(mapping.authority, self.name)
        self.flags: Counter[str] = Counter()
        self._before: dict[tuple[str, ...], datetime] = {}  # patient, device, name of a long file -> time of the row before
        self._columns, self._names = set(mapping.wanted), set(mapping.names)  # that no row has had so far

    @property
    def unread(self) -> tuple[str, ...]:
        """What the mapping names and no row had: columns (of JSON lines; a table without one is refused) and names."""
        return tuple(sorted(self._columns | self._names))

    def read(self, row: Row) -> Reading:
        """Read one row, the time in UTC. Raises `Unusable` where patient or time is missing or cannot be read."""
        mapping = self.mapping
        self._columns.difference_update(row.values)
        self._names.discard(self._text(row, mapping.parameter))
        patient = self._text(row, mapping.patient)
        if not patient:
            raise Unusable("no patient")
        if max(len(patient), len(self._text(row, mapping.device))) > LONGEST_NAME:
            raise Unusable(f"a patient's number or a device's name of more than {LONGEST_NAME} characters")
        found = Reading(patient, self._time(row), self._text(row, mapping.encounter), self._text(row, mapping.device))
        if mapping.layout == "long":
            self._cell(found, row, self._text(row, mapping.parameter), mapping.value)
        else:
            for column in (*mapping.columns, *((mapping.age,) if mapping.age else ())):
                self._cell(found, row, column, column)
        return found

    def _cell(self, found: Reading, row: Row, name: str, column: str) -> None:
        if name != self.mapping.age and name not in self.mapping.columns:
            return
        text = self._text(row, column)
        try:
            if isinstance(row.values.get(column), (list, dict, bool)):  # of JSON: there, but nothing that a table holds
                raise ValueError
            if text in self.mapping.missing:
                return
            if name == self.mapping.age:
                found.age = number(text)
            else:
                meaning = self.mapping.columns[name]
                value = meaning.values[text] if text in meaning.values else number(text)
                found.values.append((meaning.code, value, meaning.unit))
        except ValueError:
            found.troubles.append((f"column {column!r}: not a number", row))
            if name != self.mapping.age:
                found.refused.append(self.mapping.columns[name].code)

    def _text(self, row: Row, column: str) -> str:
        value = row.values.get(column) if column else None
        if value is None or isinstance(value, (list, dict, bool)):
            return ""
        return value.strip() if isinstance(value, str) else repr(value)

    def _time(self, row: Row) -> datetime:
        text = self._text(row, self.mapping.time)
        if text in self.mapping.missing:
            raise Unusable("no time")
        try:
            if self.mapping.time_in == "timestamp":
                at = datetime.fromisoformat(text)
                return at.astimezone(UTC) if at.tzinfo else self._local(row, at)
            return self.mapping.epoch + timedelta(seconds=number(text) * _PER[self.mapping.time_in])
        except (ValueError, OverflowError):
            raise Unusable(f"column {self.mapping.time!r}: cannot be read as a time ({_TIMES[self.mapping.time_in]})") from None

    def _local(self, row: Row, at: datetime) -> datetime:
        names = (self.mapping.patient, self.mapping.device, self.mapping.parameter)
        which = tuple(self._text(row, name) for name in names)
        first, second = (at.replace(tzinfo=self._zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        before, found = self._before.get(which), first
        if first < second:
            self.flags["a time that occurred twice (daylight saving)"] += 1
            found = second if before is not None and first <= before < second else first
        elif first > second:
            self.flags["a time that never occurred (daylight saving)"] += 1
        self._before[which] = found
        return found

    # ------------------------------------------------------------------------------------------------------------- events

    def events(self, reading: Reading, *, shift: timedelta, received_at: datetime) -> list[Event]:
        """Return what a set becomes: the patient's context where it says the age, the vitals, its dead letters."""
        at, made = reading.at + shift, list[Event]()
        patient = Identifier(authority=self._authority, value=reading.patient)
        person = self._identities.patient(patient)
        says = ("age", reading.age, *reading.values, reading.encounter, reading.device)
        identity = ("file", self.name, person, at.isoformat(), content_hash(repr(says).encode()))
        origin = Origin(protocol="file", peer=self.name, message_type=self.mapping.layout, digest=identity[-1])
        visit = Identifier(authority=self._authority, value=reading.encounter, kind="VN") if reading.encounter else None
        stay = self._identities.encounter(visit.authority, visit.value) if visit else None
        if reading.age is not None and 0 <= reading.age < 150:
            made.append(
                PatientEvent(
                    id=natural_id(*identity, PatientEvent.type),
                    patient_id=person,
                    identifiers=(patient,),
                    birth_date=str(at.year - int(reading.age)),  # as much as an age tells
                    encounter_id=stay,
                    visit=visit,
                    effective_at=at,
                    received_at=received_at,
                    origin=origin,
                )
            )
        if reading.values or reading.refused:
            values = (Observation(code=code, value=value, unit=unit) for code, value, unit in reading.values)
            refused = (Observation(code=code, refused="not a number") for code in reading.refused)
            made.append(
                VitalsEvent(
                    id=natural_id(*identity, VitalsEvent.type),
                    patient_id=person,
                    encounter_id=stay,
                    observed_at=at,
                    received_at=received_at,
                    observations=(*values, *refused),
                    device=reading.device,
                    charted=self.mapping.charted,
                    processing=self.mapping.processing,
                    origin=origin,
                )
            )
        made += (self.letter(reason, row, received_at, person) for reason, row in reading.troubles)
        return made

    def letter(self, reason: str, row: Row | Broken, failed_at: datetime, person: str | None = None) -> DeadLetterEvent:
        """Return the dead letter of a row that cannot be used, or of a line that is none: each line of a file has its own."""
        if isinstance(row, Broken):
            original, media_type = row.line, "text/plain"
        else:
            original, media_type = orjson.dumps(row.values, default=str, option=orjson.OPT_NON_STR_KEYS), "application/json"
        return dead_letter(
            original,
            connector="vitals",
            stage="decode" if isinstance(row, Broken) else "map",
            message=f"line {row.number}: {reason}",
            failed_at=failed_at,
            media_type=media_type,
            key=person,
            identity=(self.name, row.number, reason),
            peer=self.name,
        )


def joined(readings: Iterable[Reading]) -> Iterator[Reading]:
    """Join consecutive readings of one patient and time into one set; a code that comes twice begins another."""
    current: Reading | None = None
    for one in readings:
        if (
            current is not None
            and current.key == one.key
            and not {code for code, *_ in current.values} & {code for code, *_ in one.values}
        ):
            current.values += one.values
            current.refused += one.refused
            current.troubles += one.troubles
            current.age = one.age if one.age is not None else current.age
        else:
            if current is not None:
                yield current
            current = one
    if current is not None:
        yield current
