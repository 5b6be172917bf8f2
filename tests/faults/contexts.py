"""Contexts that change under the load of the vitals lane, and faults meanwhile: what is said of each patient is known beforehand.

Beside the usual patients, whose sets go on, others live through a story of sets and contexts: admitted, transferred, discharged,
discharged by mistake, admitted anew, an admission cancelled, dead, merged. The two kinds lie on different topics and may meet in
either order; so each record of a story leaves once the lane has committed the one before, and only the order of that one patient's
is fixed by it: a fault strikes wherever the stories have come to. By each context it is known what must follow (`Course`).
"""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from confluent_kafka import KafkaException

from processors.events import Location, Observation, Origin, PatientEvent, VitalsEvent
from processors.identity import natural_id
from tests.faults import inputs
from tests.faults.arena import Arena, Fault
from tests.faults.inputs import Course, Load, Sender, Sent, sent
from tests.faults.outside import broker_kill
from tests.faults.workers import nothing, rebalance, sigkill

COPIES = 6  # of each story, begun one after the other
APART = timedelta(seconds=2)
LOOK = 0.1  # seconds between looks at what the lane has committed
ORIGIN = Origin(protocol="file", peer="stories")
UNITS = {
    "9279-1": "/min",
    "59408-5": "%",
    "8480-6": "mm[Hg]",
    "8462-4": "mm[Hg]",
    "8867-4": "/min",
    "8310-5": "Cel",
    "3151-8": "L/min",
}
CALM = {"9279-1": 16.0, "59408-5": 98.0, "8480-6": 125.0, "8462-4": 75.0, "8867-4": 78.0, "8310-5": 36.8, "3151-8": 0.0}
STATES = {  # by their NEWS2, which every story goes up
    "calm": CALM,
    "medium": CALM | {"9279-1": 22.0, "59408-5": 94.0, "8867-4": 112.0},  # 5
    "high": CALM | {"9279-1": 22.0, "59408-5": 93.0, "8867-4": 115.0, "8310-5": 38.5},  # 7
    "higher": CALM | {"9279-1": 22.0, "59408-5": 93.0, "8867-4": 116.0, "8310-5": 38.5, "3151-8": 4.0},  # 9: worth telling
}


@dataclass(frozen=True)
class Beat:
    """One record of a story: a set (`state`) or a context (`changes` to the one before), and what must follow.

    `steps`: of alerts: state, severity, ward; the stay is the context's of then. `flag`, `reason`: what the set's score says of
    the patient. `who`: whose it is, where two live through one story.
    """

    state: str = ""
    changes: dict[str, Any] | None = None
    steps: tuple[tuple[str, str, str], ...] = ()
    flag: str = ""
    reason: str = ""
    who: str = ""


def ward(name: str) -> dict[str, Any]:
    """A bed on a ward."""
    return {"location": Location(ward=name, room="1", bed="2")}


ADMITTED = {"birth_date": "1950-01-01", "encounter_status": "in-progress", **ward("A")}
OVER = {"encounter_status": "finished"}
RAISED = (("raised", "high", "A"),)
GRAVER = (("updated", "high", "A"),)
RESOLVED = (("resolved", "high", "A"),)
STORIES: dict[str, tuple[Beat, ...]] = {
    "transfer": (
        Beat(changes=ADMITTED),
        Beat("medium", steps=(("raised", "medium", "A"),)),
        Beat(changes=ward("B"), steps=(("updated", "medium", "B"),)),
        Beat("high", steps=(("updated", "high", "B"),)),
        Beat(changes=ward("C"), steps=(("updated", "high", "C"),)),
        Beat("higher", steps=(("updated", "high", "C"),)),
    ),
    "discharge-cancelled": (
        Beat(changes=ADMITTED),
        Beat("high", steps=RAISED),
        Beat(changes=OVER, steps=RESOLVED),
        Beat("high", flag="not-watched"),
        Beat(changes={"encounter_status": "in-progress"}, steps=RAISED),
        Beat("higher", steps=GRAVER),
    ),
    "admission": (
        Beat("high", reason="age unknown"),
        Beat(changes=ADMITTED, steps=RAISED),
        Beat("higher", steps=GRAVER),
    ),
    "admission-cancelled": (
        Beat(changes=ADMITTED),
        Beat("high", steps=RAISED),
        Beat(changes={"encounter_status": "cancelled"}, steps=RESOLVED),
        Beat("higher", flag="not-watched"),
    ),
    "death": (
        Beat(changes=ADMITTED),
        Beat("high", steps=RAISED),
        Beat(changes={"deceased": True}, steps=RESOLVED),
        Beat("higher", flag="not-watched"),
    ),
    "readmission": (
        Beat(changes=ADMITTED),
        Beat("high", steps=RAISED),
        Beat(changes=OVER, steps=RESOLVED),
        Beat(
            changes={"encounter_status": "in-progress", "encounter_id": "second", **ward("D")}, steps=(("raised", "high", "D"),)
        ),
        Beat("higher", steps=(("updated", "high", "D"),)),
    ),
    "merge": (
        Beat(changes=ADMITTED, who="heir"),
        Beat(changes=ADMITTED),
        Beat("calm", who="heir"),
        Beat("medium", steps=(("raised", "medium", "A"),)),
        Beat("high", steps=(("updated", "high", "A"),)),
        Beat(changes={"merged_into": "heir"}, steps=(("withdrawn", "high", "A"),)),
        Beat("higher", flag="moved"),
    ),
}
HEIRS = (("raised", "high", "A"), ("updated", "high", "A"))
"""What becomes of a survivor: the alert stands on by what was known, and then by what still came under the old number."""


@dataclass
class Told:
    """One copy of a story as it is sent: its records in order, and how far it has come."""

    begins: float  # seconds after the load
    records: list[Sent]
    sent: int = 0


def told(name: str, copy: int, start: datetime, seed: int) -> tuple[Told, dict[str, Course]]:
    """Write one copy of a story, and what must come of it. The same arguments give the same ids."""
    records: list[Sent] = []
    contexts: dict[str, PatientEvent] = {}
    steps: dict[str, list[tuple[str, str, str, str, str]]] = {}
    sets: dict[str, dict[str, tuple[str, str]]] = {}
    rates: dict[str, list[tuple[int, float]]] = {}
    heirs: dict[str, str] = {}
    after: dict[str, int] = {}

    def called(who: str) -> str:
        return f"story-{name}-{copy}{who and '-' + who}"

    for number, beat in enumerate(STORIES[name]):
        patient, at = called(beat.who), start + copy * APART + number * timedelta(seconds=1)
        times = {"received_at": at, "origin": ORIGIN}
        stay = contexts[patient].encounter_id if patient in contexts else None
        one = natural_id("story", seed, name, copy, number)
        event: Any
        if beat.changes is not None:
            changes = dict(beat.changes)
            if "encounter_id" in changes:
                changes["encounter_id"] = f"{patient}-{changes['encounter_id']}"
            if "merged_into" in changes:
                changes["merged_into"] = heirs[patient] = called(changes["merged_into"])
            before = contexts.get(patient) or PatientEvent(
                id=one, patient_id=patient, encounter_id=f"{patient}-stay", effective_at=at, **times
            )
            event = before.model_copy(update={**changes, "id": one, "effective_at": at, **times})
            contexts[patient], stay = event, event.encounter_id
        else:
            values = STATES[beat.state]
            observed = tuple(Observation(code=code, value=value, unit=UNITS[code]) for code, value in values.items())
            observed += (Observation(code="67775-7", value="A"),)
            event = VitalsEvent(id=one, patient_id=patient, encounter_id=stay, observed_at=at, observations=observed, **times)
            sets.setdefault(patient, {})[one] = beat.flag, beat.reason
            if patient in heirs:
                after[patient] = after.get(patient, 0) + 1
            rates.setdefault(patient, []).append((int(at.timestamp() * 1_000_000 + 0.5) // 1000, values["8867-4"]))
        records.append(sent(event))
        steps.setdefault(patient, []).extend((one, *step, stay or "") for step in beat.steps)
    courses = {}
    for patient in steps:
        merged = heirs.get(patient)
        known = {"heir": merged, "rates": tuple(rates[patient]), "after": after.get(patient, 0)} if merged else {}
        courses[patient] = Course(tuple(steps[patient]), sets.get(patient, {}), **known)  # type: ignore[arg-type]
        if merged:
            stay = contexts[merged].encounter_id or ""
            courses[merged] = Course(tuple(("moved", *step, stay) for step in HEIRS), sets.get(merged, {}))
    return Told(copy * APART.total_seconds(), records), courses


class Narrator(Sender):
    """Sends the usual load, and the stories beside it: each record when the lane has committed the one before."""

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena.kafka.bootstrap, arena.prefix)
        self._arena = arena
        self._stories: list[Told] = []

    def pace(self, load: Load, over: threading.Event, **more: Any) -> None:
        """Send both; over when both are. They begin at the same time, in every run."""
        start = datetime.fromisoformat(json.loads(load.paced[0].value or b"")["observed_at"])
        for name in STORIES:
            for copy in range(COPIES):
                story, courses = told(name, copy, start, self._arena.seed)
                self._stories.append(story)
                self._arena.courses |= courses
        usual = threading.Thread(target=super().pace, args=(load, over), kwargs=more, daemon=True)
        began = time.monotonic()
        usual.start()
        while not over.is_set() and any(story.sent < len(story.records) for story in self._stories):
            committed = self._committed()
            for story in self._ready(committed, time.monotonic() - began):
                self.say(story.records[story.sent])
                story.sent += 1
            over.wait(LOOK)
        usual.join()

    def _ready(self, committed: dict[tuple[str, int], int], since: float) -> Iterator[Told]:
        with self._lock:
            places = {event_id: place for place, event_id in self.accepted.at.items()}
        for story in self._stories:
            if story.sent == len(story.records) or since < story.begins:
                continue
            topic, number, offset = places.get(story.records[story.sent - 1].event_id, ("", 0, 0))
            if not story.sent or committed.get((topic, number), -1) > offset:
                yield story

    def _committed(self) -> dict[tuple[str, int], int]:
        """What the lane has committed of its topics; nothing while the broker does not say."""
        self._producer.poll(0)
        found: dict[tuple[str, int], int] = {}
        try:
            for topic in (self._arena.input, "clinical.patients"):
                offsets = self._arena.kafka.committed(self._arena.group, self._arena.prefix + topic)
                found |= {(topic, number): offset for number, offset in offsets.items()}
        except KafkaException:
            return {}
        return found


def narrate(arena: Arena) -> None:
    """Have the load sent by one who tells the stories beside it."""
    arena.sender = Narrator(arena)


def usual(arena: Arena) -> Load:
    """The lane's own load; no answers of people, which end alerts as contexts do."""
    return inputs.of_lane("vitals", arena.seed, arena.fault.seconds, str(arena.objects))


def row(name: str, words: str, strike: Any, **more: Any) -> Fault:
    """Make a row of these stories."""
    given: dict[str, Any] = {"load": usual, "prepare": narrate, "like": "contexts", "seconds": 18.0, **more}
    return Fault(name, "vitals", words, strike, **given)


FAULTS = [
    row("contexts", "no fault: contexts change under the load", nothing, seconds=24.0),
    row("contexts-sigkill", "SIGKILL three times while contexts change", sigkill, seconds=20.0),
    row("contexts-rebalance", "workers added and removed while contexts change", rebalance, seconds=24.0),
    row("contexts-broker-kill", "the broker killed for 4 s while contexts change", broker_kill),
]
