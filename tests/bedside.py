"""Sets of vital signs, contexts and answers for the monitor's tests, in few words; and a monitor that is easy to ask."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from processors.events import (
    AlertEvent,
    Event,
    FeedbackEvent,
    Location,
    Observation,
    Origin,
    PatientEvent,
    ScoreEvent,
    Source,
    VitalsEvent,
)
from processors.monitor import Monitor, MonitorRules

START = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
PATIENT = "patient-a"
SOURCE = Source(topic="clinical.vitals", partition=0, offset=0, event_id="source")

CODES = {
    "rr": ("9279-1", "/min"),
    "spo2": ("59408-5", "%"),
    "sbp": ("8480-6", "mm[Hg]"),
    "dbp": ("8462-4", "mm[Hg]"),
    "map": ("8478-0", "mm[Hg]"),
    "hr": ("8867-4", "/min"),
    "temp": ("8310-5", "Cel"),
    "acvpu": ("67775-7", ""),
    "fio2": ("3150-6", "%"),
    "flow": ("3151-8", "L/min"),
}
WELL: dict[str, Any] = {"rr": 16, "spo2": 97, "flow": 0, "sbp": 120, "hr": 70, "acvpu": "A", "temp": 36.8}
ILL: dict[str, Any] = {**WELL, "rr": 26, "spo2": 91, "flow": 2}  # 3 + 3 + 2

_serial = count()


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def observation(
    name: str, value: Any, *, status: str = "final", unit: str | None = None, when: datetime | None = None, span: int = 0
) -> Observation:
    code, usual = CODES[name]
    measure = usual if unit is None else unit
    return Observation(code=code, value=value, unit=measure, status=status, observed_at=when, span=span)


def vitals(
    minutes: float,
    values: dict[str, Any] | None = None,
    *,
    status: str = "final",
    received: float | None = None,
    patient: str = PATIENT,
    peer: str = "ehr",
    charted: bool = True,
    encounter: str | None = None,
    processing: str = "production",
    id: str = "",
    observations: Iterable[Observation] | None = None,
) -> VitalsEvent:
    made = observations if observations is not None else [observation(k, v, status=status) for k, v in (values or {}).items()]
    return VitalsEvent(
        id=id or f"set-{next(_serial)}",
        patient_id=patient,
        encounter_id=encounter,
        observed_at=at(minutes),
        received_at=at(minutes if received is None else received),
        observations=tuple(made),
        charted=charted,
        processing=processing,
        origin=Origin(protocol="hl7v2", peer=peer),
    )


def context(minutes: float = 0, *, patient: str = PATIENT, id: str = "", ward: str = "A", **fields: Any) -> PatientEvent:
    known: dict[str, Any] = {"birth_date": "1950-06-01", "encounter_status": "in-progress", "encounter_id": "e1"}
    return PatientEvent(
        id=id or f"context-{next(_serial)}",
        patient_id=patient,
        location=Location(ward=ward),
        effective_at=at(minutes),
        received_at=at(minutes),
        origin=Origin(protocol="hl7v2", peer="adt"),
        **{**known, **fields},
    )


def answer(
    alert: str,
    minutes: float,
    kind: str = "alert-acknowledged",
    *,
    patient: str = PATIENT,
    reason: str = "",
    given: float | None = None,
    sequence: int | None = None,
) -> FeedbackEvent:
    return FeedbackEvent(
        id=f"answer-{next(_serial)}",
        patient_id=patient,
        kind=kind,
        target_id=alert,
        sequence=sequence,
        by="nurse-7",
        reason=reason,
        given_at=at(minutes if given is None else given),
        received_at=at(minutes),
        origin=Origin(protocol="vigil"),
    )


class Ward:
    """A monitor with one watched adult. Times are minutes after START; `say` feeds one event and returns what came out."""

    def __init__(self, rules: MonitorRules | None = None, *, admit: bool = True, **known: Any) -> None:
        self.monitor = Monitor(rules or MonitorRules())
        self.monitor.tick(START, SOURCE)
        self.meanwhile: list[AlertEvent] = []
        if admit:
            self.monitor.patient(context(**known), SOURCE)

    def say(self, event: Event, deterioration: Any = None) -> list[Event]:
        if isinstance(event, VitalsEvent):
            return self.monitor.decide(self.monitor.observe(event, SOURCE), deterioration, "no model in this test")
        if isinstance(event, PatientEvent):
            return self.monitor.patient(event, SOURCE)
        assert isinstance(event, FeedbackEvent)
        return self.monitor.feedback(event, SOURCE)

    def chart(self, minutes: float, values: dict[str, Any] | None = None, **more: Any) -> tuple[ScoreEvent, list[AlertEvent]]:
        """Let time come to the set's receipt (what it says is in `meanwhile`), then chart the set."""
        event = vitals(minutes, values, **more)
        self.meanwhile = self.wait((event.received_at - START).total_seconds() / 60)
        score, *rest = self.say(event)
        assert isinstance(score, ScoreEvent)
        return score, alerts(rest)

    def wait(self, minutes: float) -> list[AlertEvent]:
        """Let logged time come, minute by minute as a running lane does."""
        out: list[Event] = []
        now = self.monitor.now
        assert now is not None
        while now < at(minutes):
            now = min(now + timedelta(minutes=1), at(minutes))
            out += self.monitor.tick(now, SOURCE)
        return alerts(out)

    def sleep(self, minutes: float) -> list[AlertEvent]:
        """Let logged time come at one leap: an outage."""
        return alerts(self.monitor.tick(at(minutes), SOURCE))


def alerts(events: Sequence[Event]) -> list[AlertEvent]:
    return [event for event in events if isinstance(event, AlertEvent)]


def steps(events: Sequence[Event]) -> list[tuple[str, str, str]]:
    return [(one.kind, one.state, one.severity) for one in alerts(events)]
