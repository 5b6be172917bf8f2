"""The sets of vital signs of a busy hospital, planned: who is measured when, and whose measurement must alert.

A tenth of the sets take their patient a step down a staircase of severity, on which each step is told: raised at 5 points, updated
at 7 (graver) and from there by two points. Between the steps the values stay. So each alert has one set that led to it.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count

from processors.events import Observation, Origin, PatientEvent, VitalsEvent
from processors.identity import natural_id, patient_id
from streams.demo.hl7 import Writer
from streams.demo.people import AUTHORITY, Patient
from streams.demo.physiology import Vitals

# heart rate, respirations, SpO2, systolic, diastolic, temperature, consciousness, oxygen;  NEWS2 total
STEPS = (
    Vitals(70, 16, 97, 120, 75, 36.8, "A", 0.0),  # 0
    Vitals(95, 22, 95, 105, 70, 36.8, "A", 0.0),  # 1+2+1+1 = 5: medium
    Vitals(95, 25, 93, 105, 70, 36.8, "A", 0.0),  # 1+3+2+1 = 7: high
    Vitals(115, 25, 93, 95, 65, 36.8, "A", 0.0),  # 2+3+2+2 = 9
    Vitals(115, 25, 93, 95, 65, 36.8, "A", 4.0),  # +2 for oxygen = 11
    Vitals(115, 25, 93, 95, 65, 39.4, "A", 4.0),  # +2 for temperature = 13
    Vitals(135, 25, 91, 95, 65, 39.4, "A", 4.0),  # 3+3+3+2+2+2 = 15
)
SHARE = 0.1  # of the sets alert
_TIME = datetime(2099, 1, 1, tzinfo=UTC)  # stands in messages until they are sent
_STAMP = b"20990101000000+0000"


@dataclass(frozen=True, slots=True)
class Planned:
    """One set: when it is sent (seconds after the start), and whether it alerts."""

    due: float
    patient: int
    step: int
    alerts: bool


def plan(seed: int, patients: int, rate: float, seconds: float) -> list[Planned]:
    """Plan `rate` sets a second: everybody in turn, the steps at random."""
    rng = random.Random(f"ward load {seed}")
    at = [0] * patients
    planned = []
    for number in range(int(rate * seconds)):
        who = number % patients
        alerts = number >= patients and at[who] + 1 < len(STEPS) and rng.random() < SHARE
        at[who] += alerts
        planned.append(Planned(number / rate, who, at[who], alerts))
    return planned


class People:
    """Invented adults, each with an HL7 writer; `first` makes two groups of people different ones."""

    def __init__(self, first: int, number: int, secret: bytes) -> None:
        self._people = [
            Patient(first + n, "Madeup", "Ada", female=True, age=70, diagnosis="pneumonia", course="stable")
            for n in range(number)
        ]
        self.ids = [patient_id(secret, AUTHORITY, patient.mrn) for patient in self._people]
        self._writers = [Writer(patient, datetime.now(UTC)) for patient in self._people]
        self._orders = count()

    def admissions(self) -> Iterator[bytes]:
        """Yield the message that admits each."""
        now = datetime.now(UTC) - timedelta(hours=1)
        for writer in self._writers:
            yield writer.adt("A01", now)

    def message(self, planned: Planned) -> bytes:
        """Return the ORU of a set, with a placeholder for the time (`stamped`)."""
        return self._writers[planned.patient].oru([(_TIME, STEPS[planned.step])], _TIME, order=f"B{next(self._orders)}")

    def event(self, planned: Planned, at: datetime) -> VitalsEvent:
        """Return the set as the connector would write it."""
        signs = STEPS[planned.step]
        values = (
            ("8867-4", float(signs.heart_rate), "/min"), ("9279-1", float(signs.respiratory_rate), "/min"),
            ("59408-5", float(signs.spo2), "%"), ("8480-6", float(signs.systolic), "mm[Hg]"),
            ("8462-4", float(signs.diastolic), "mm[Hg]"), ("8310-5", signs.temperature, "Cel"),
            ("67775-7", signs.consciousness, ""), ("3151-8", signs.oxygen, "L/min"),
        )  # fmt: skip
        return VitalsEvent.model_construct(
            id=natural_id("bench", next(self._orders)),
            patient_id=self.ids[planned.patient],
            observed_at=at,
            received_at=at,
            observations=tuple(Observation.model_construct(code=c, value=v, unit=u) for c, v, u in values),
            origin=Origin(protocol="hl7v2", peer="bench"),
        )

    def contexts(self) -> Iterator[PatientEvent]:
        """Yield each patient's context, for a bench without connectors."""
        now = datetime.now(UTC) - timedelta(hours=1)
        for number, who in enumerate(self.ids):
            yield PatientEvent(
                id=natural_id("bench-context", who), patient_id=who, birth_date="1950-01-01", pregnant=False,
                encounter_id=f"encounter-{number}", encounter_status="in-progress", effective_at=now, received_at=now,
                origin=Origin(protocol="hl7v2", peer="bench"),
            )  # fmt: skip


def stamped(message: bytes, at: datetime) -> bytes:
    """Put the time of sending into a message: a set is sent as soon as it is measured. To the millisecond."""
    return message.replace(_STAMP, at.strftime("%Y%m%d%H%M%S.").encode() + b"%03d+0000" % (at.microsecond // 1000))
