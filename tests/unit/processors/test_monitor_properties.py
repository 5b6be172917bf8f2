"""What holds for every stream: batching changes nothing; a monitor loaded from snapshots goes on bit for bit; invariants."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from models.tasks import ModelIdentity
from processors.deterioration import deterioration_of
from processors.events import AlertEvent, Event, PatientEvent, ScoreEvent, Source, VitalsEvent
from processors.monitor import Assessment, Monitor, MonitorRules
from processors.rules import Persistence
from tests.bedside import ILL, SOURCE, WELL, answer, at, context, observation, vitals

PATIENTS = ("p0", "p1", "p2")
IDENTITY = ModelIdentity("lstm", "1", "d" * 64)
# Windows short enough for timers to meet random streams of an hour or two.
RULES = MonitorRules(
    suppression=timedelta(minutes=10),
    declined_suppression=timedelta(minutes=20),
    resolve_after=timedelta(minutes=5),
    forget_after=timedelta(minutes=40),
    staleness=timedelta(minutes=30),
    catch_up=timedelta(minutes=3),
    model_pages=True,
    model_threshold=0.5,
    ward_budget=3,
    remembered_ids=4,
    sources=("ehr", "gateway"),
    persistence=Persistence(samples=3, spacing=timedelta(minutes=1), within=timedelta(minutes=15)),
)

NUMBERS: dict[str, list[Any]] = {
    "rr": [8, 16, 22, 26, 61, 900],
    "spo2": [97, 94, 91, 60, 0.5],
    "sbp": [120, 95, 85, 225],
    "dbp": [70, 130],
    "hr": [70, 115, 135, 35],
    "temp": [36.8, 38.05, 39.5, 34.0, 98.6],
    "acvpu": ["A", "C", "V", "sleepy"],
    "flow": [0, 2],
    "fio2": [21, 40],
}
STATUSES = ["final"] * 12 + ["preliminary", "corrected", "amended", "entered-in-error", "cancelled", "registered", "unknown"]


@dataclass(frozen=True)
class Tick:
    minutes: float


@dataclass(frozen=True)
class Answer:
    which: int
    kind: str
    minutes: float


def stream(seed: int, length: int) -> list[Any]:
    """A random day on a ward: time runs on by ticks; sets come on time, late, out of order, corrected, twice.

    The stream of a smaller length is the beginning of that of a larger one, so a failure shrinks.
    """
    rng = random.Random(seed)
    now = 0.0
    inputs: list[Any] = [Tick(0), *(context(0, patient=patient, id=f"first-{patient}") for patient in PATIENTS)]
    while len(inputs) < length:
        what = rng.choice(["set"] * 12 + ["again"] * 2 + ["tick"] * 6 + ["pause", "sleep", "context", "answer", "answer"])
        if what == "tick":
            now += rng.choice([0.05, 1, 3, 6])
            inputs.append(Tick(now))
        elif what == "pause":  # nothing comes, and the lane is awake
            for _ in range(rng.choice([4, 12])):
                now += 9
                inputs.append(Tick(now))
        elif what == "sleep":
            now += rng.choice([11, 35, 90])
            inputs.append(Tick(now))
        elif what == "context":
            inputs.append(a_context(rng, now, f"c{len(inputs)}"))
        elif what == "answer":
            inputs.append(
                Answer(rng.randrange(4), rng.choice(["alert-acknowledged", "alert-acknowledged", "alert-declined"]), now)
            )
        elif what == "again":
            inputs.append(rng.choice([one for one in inputs if not isinstance(one, Tick | Answer)][-9:]))
        else:
            inputs.append(a_set(rng, now, f"v{len(inputs)}"))
    return inputs


def a_context(rng: random.Random, now: float, id: str) -> PatientEvent:
    return context(
        now,
        patient=rng.choice(PATIENTS),
        id=id,
        ward=rng.choice("AB"),
        birth_date=rng.choice(["1950-06-01"] * 5 + [None, "2015"]),
        pregnant=rng.choice([None] * 6 + [True]),
        encounter_id=rng.choice(["e1", "e1", "e1", "e2", None]),
        encounter_status=rng.choice(["in-progress"] * 5 + ["finished", "finished", "unknown", "planned"]),
        merged_into=rng.choice([None] * 8 + ["p2"]),
        ceiling_of_care=rng.choice([None, None, "ward based"]),
        spo2_scale=rng.choice([1, 1, 2]),
        spo2_scale_decided_by="dr-1",
    )


def a_set(rng: random.Random, now: float, id: str) -> VitalsEvent:
    chosen = rng.choice(["well", "well", "ill", "some", "some"])
    if chosen == "some":
        names = rng.sample(sorted(NUMBERS), rng.randint(0, 5))
        made = [observation(name, rng.choice(NUMBERS[name]), status=rng.choice(STATUSES)) for name in names]
    else:
        made = [observation(name, value) for name, value in (WELL if chosen == "well" else ILL).items()]
    lag = rng.choice([0, 0, 0, 0.2, 3, 25, 50])
    late = rng.choice([0, 0, 5, 40]) if lag >= 25 else 0
    return vitals(
        round(now - lag + rng.choice([0] * 20 + [90]), 1),
        observations=made,
        received=now - late,
        patient=rng.choice(PATIENTS),
        peer=rng.choice(["ehr", "ehr", "gateway", "other"]),
        charted=rng.choice([True, True, False]),
        encounter=rng.choice([None, None, "e1", "e2"]),
        processing=rng.choice(["production"] * 9 + ["training"]),
        id=id,
    )


class Driver:
    """Feeds a stream to a monitor; `cut` says after which sets a batch ends, `crash` where the monitor is lost and loaded again."""

    def __init__(self, *, cut: Callable[[int], bool] = lambda _: True, crash: Callable[[int], bool] = lambda _: False) -> None:
        self.monitor = self.new()
        self.out: list[Event] = []
        self.batch: list[VitalsEvent] = []
        self.stored: dict[str, bytes] = {}
        self.cut, self.crash = cut, crash

    @staticmethod
    def new() -> Monitor:
        return Monitor(RULES, partition=3, model=IDENTITY)

    def run(self, inputs: list[Any]) -> list[Event]:
        for place, one in enumerate(inputs):
            if isinstance(one, VitalsEvent):
                self.batch.append(one)
                if self.cut(place):
                    self.flush()
            else:
                self.flush()
                self.out += self.between(one)
            if not self.batch and self.crash(place):
                self.reload()
        self.flush()
        return self.out

    def between(self, one: Any) -> list[Event]:
        if isinstance(one, Tick):
            return self.monitor.tick(at(one.minutes), SOURCE.model_copy(update={"topic": "vigil.vitals.journal"}))
        if isinstance(one, PatientEvent):
            return self.monitor.patient(one, source_of(one))
        raised = [event for event in self.out if isinstance(event, AlertEvent) and event.sequence == 0]
        if not raised:
            return []
        alert = raised[-1 - one.which % len(raised)]
        event = answer(alert.alert_id, one.minutes, one.kind, patient=alert.patient_id)
        event = event.model_copy(update={"id": f"f{len(self.out)}"})
        return self.monitor.feedback(event, source_of(event))

    def flush(self) -> None:
        made = [self.monitor.observe(event, SOURCE) for event in self.batch]
        for assessment in made:
            self.out += self.monitor.decide(assessment, self.model(assessment), "none")
        self.batch = []

    @staticmethod
    def model(assessment: Assessment) -> Any:
        """A model that looks at the whole window: any difference in it shows in the score."""
        if assessment.window is None:
            return None
        seen = sum((place + 1) * float(value) for place, value in enumerate(assessment.window.flat) if value == value)
        return deterioration_of(seen * 7 % 1, None, IDENTITY, 24)

    def reload(self) -> None:
        for patient in self.monitor.dirty():
            state = self.monitor.dump(patient)
            if state is None:
                self.stored.pop(patient, None)
            else:
                self.stored[patient] = state
        self.monitor.clean()
        self.monitor = self.new()
        for patient in sorted(self.stored, reverse=True):  # another order than they were made in
            self.monitor.load(patient, self.stored[patient])


def source_of(event: Event) -> Source:
    return SOURCE.model_copy(update={"topic": event.topic, "event_id": event.id})


def plain(events: list[Event]) -> list[str]:
    return [f"{type(event).__name__} {event.model_dump_json()}" for event in events]


QUICK = settings(max_examples=40, deadline=None)
SEEDS, LENGTHS, PLACES = st.integers(0, 10**9), st.integers(4, 70), st.sets(st.integers(0, 70))


@QUICK
@given(SEEDS, LENGTHS, PLACES)
def test_any_batching_gives_the_same_outputs(seed: int, length: int, cuts: set[int]) -> None:
    inputs = stream(seed, length)
    one_by_one = Driver().run(inputs)
    batched = Driver(cut=lambda place: place in cuts).run(inputs)
    assert plain(batched) == plain(one_by_one)


@QUICK
@given(SEEDS, LENGTHS, PLACES)
def test_a_monitor_loaded_from_snapshots_goes_on_bit_for_bit(seed: int, length: int, crashes: set[int]) -> None:
    inputs = stream(seed, length)
    uninterrupted = Driver().run(inputs)
    interrupted = Driver(crash=lambda place: place in crashes).run(inputs)
    assert plain(interrupted) == plain(uninterrupted)


@QUICK
@given(SEEDS, LENGTHS)
def test_alerts_taken_up_from_what_was_told_are_those_that_stood(seed: int, length: int) -> None:
    """Answered or waiting, since when, how far up the chain, told to whom: as the lost state had it."""
    driver = Driver()
    told = [event for event in driver.run(stream(seed, length)) if isinstance(event, AlertEvent)]
    before = driver.monitor
    after = driver.new()
    for patient in before.dirty():
        after.load(patient, before.dump(patient))
    for owner in (after._partition, *after._patients.values()):
        owner.alerts.clear()
    after._partition.woke_at = None
    assert after.resume(told, before.now) == sum(len(alerts) for _, alerts in standing(before))
    assert dict(standing(after)) == dict(standing(before))
    assert after._partition.woke_at == before._partition.woke_at
    kept = [(one.id, kind, until) for one in before._patients.values() for kind, (_, until) in one.closed.items()]
    again = [(one.id, kind, until) for one in after._patients.values() for kind, (_, until) in one.closed.items()]
    now = (before.now or at(0)).timestamp() * 1000
    assert {one for one in kept if one[2] > now} <= set(again)


def standing(monitor: Monitor) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each patient's alerts, and the partition's, without what no event tells."""
    some = (
        "id",
        "kind",
        "severity",
        "state",
        "sequence",
        "route",
        "routes",
        "quiet",
        "since",
        "about",
        "text",
        "waiting_since",
    )
    for owner in (monitor._partition, *monitor._patients.values()):
        found: dict[str, Any] = {}
        for key, one in owner.alerts.items():
            found[key] = {name: getattr(one, name) for name in some} | {"step": one.step if one.waiting_since else 0}
        if found:
            yield owner.id, found


@pytest.mark.parametrize("seed", range(30))
def test_the_largest_batches_and_a_crash_after_every_input(seed: int) -> None:
    inputs = stream(seed, 120)
    uninterrupted = plain(Driver().run(inputs))
    assert plain(Driver(cut=lambda _: False).run(inputs)) == uninterrupted
    assert plain(Driver(crash=lambda _: True).run(inputs)) == uninterrupted


@QUICK
@given(SEEDS, LENGTHS)
def test_invariants_of_every_stream(seed: int, length: int) -> None:
    inputs = stream(seed, length)
    out = Driver().run(inputs)
    assert [type(event).model_validate_json(event.model_dump_json()) for event in out] == out
    sets = {one.id for one in inputs if isinstance(one, VitalsEvent)}
    scores = {event.id: event for event in out if isinstance(event, ScoreEvent)}
    assert len(scores) == len(sets)
    lives = defaultdict(list)
    for event in out:
        if isinstance(event, AlertEvent):
            lives[event.alert_id].append(event)
    for life in lives.values():
        check_life(life)
        first = life[0]
        if first.kind == "news2":
            assert first.news2 is not None
            assert first.news2.total >= 5 or first.news2.single_three
            assert first.decided_at - first.observed_at <= RULES.staleness
            assert first.score_id is None or scores[first.score_id].processing == "production"
    standing: dict[tuple[str, str], str] = {}
    for event in out:
        if isinstance(event, AlertEvent) and event.kind in ("news2", "deterioration", "no-observations"):
            key = event.patient_id, event.kind
            if event.state == "raised":
                assert key not in standing  # never two of a kind at once
                standing[key] = event.alert_id
            assert standing[key] == event.alert_id
            if event.state in ("resolved", "withdrawn", "declined"):
                del standing[key]


def check_life(life: list[AlertEvent]) -> None:
    assert [one.sequence for one in life] == list(range(len(life)))
    assert [one.state == "raised" for one in life] == [True] + [False] * (len(life) - 1)
    assert all(one.state not in ("resolved", "withdrawn") for one in life[:-1])
    assert len({one.id for one in life}) == len(life)
    assert len({(one.kind, one.patient_id) for one in life}) == 1
    assert all(0 < len(one.title) < 200 for one in life)
    assert [one.decided_at for one in life] == sorted(one.decided_at for one in life)


def parts(model: BaseModel) -> Iterator[BaseModel]:
    """A model and all models in it."""
    yield model
    for value in model.__dict__.values():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, BaseModel):
                yield from parts(one)


@QUICK
@given(SEEDS, LENGTHS)
def test_what_is_made_without_validation_is_what_validation_makes_of_it(seed: int, length: int) -> None:
    for event in Driver().run(stream(seed, length)):
        strict = type(event).model_validate(event.model_dump(), strict=True)
        assert strict == event
        assert strict.model_dump_json() == event.model_dump_json()
        assert all(set(one.__dict__) == set(type(one).model_fields) for one in parts(event))


@QUICK
@given(SEEDS, LENGTHS)
def test_a_late_set_and_test_traffic_raise_nothing(seed: int, length: int) -> None:
    driver = Driver()
    for one in stream(seed, length):
        before = len(driver.out)
        driver.run([one])
        score = driver.out[before] if len(driver.out) > before else None
        if isinstance(score, ScoreEvent) and (score.late or score.processing != "production"):
            assert {event.state for event in driver.out[before + 1 :] if isinstance(event, AlertEvent)} <= {
                "withdrawn",
                "updated",
            }


def test_the_streams_reach_what_they_are_for() -> None:
    """The properties say something only if alerts of every kind and step come out of the streams."""
    reached = {
        f"{event.kind} {event.state}"
        for seed in range(60)
        for event in Driver().run(stream(seed, 70))
        if isinstance(event, AlertEvent)
    }
    patient = ("raised", "updated", "acknowledged", "declined", "escalated", "resolved", "withdrawn")
    own = ("raised", "acknowledged", "declined", "resolved")
    wanted = {f"news2 {state}" for state in patient} | {f"deterioration {state}" for state in patient}
    wanted |= {f"{kind} {state}" for kind in ("feed-stopped", "monitoring-blind", "no-observations") for state in own}
    assert wanted - reached == set()
