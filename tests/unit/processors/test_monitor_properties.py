"""What holds for every stream: batching changes nothing; a monitor loaded from snapshots goes on bit for bit; invariants."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from models.tasks import ModelIdentity
from processors.deterioration import deterioration_of
from processors.events import AlertEvent, Event, FeedbackEvent, HeartbeatEvent, PatientEvent, ScoreEvent, Source, VitalsEvent
from processors.monitor import Assessment, Monitor, MonitorRules
from processors.partition import Partition
from processors.rules import AcknowledgedFor, Persistence, RepeatLast
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
    observed_after_end=timedelta(minutes=5),
    repeat_last=RepeatLast(high=timedelta(minutes=5), medium=timedelta(minutes=10)),
    acknowledged_for=AcknowledgedFor(high=timedelta(minutes=10), medium=timedelta(minutes=20)),
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
    given: float
    sequence: int | None


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
            kind = rng.choice(["alert-acknowledged"] * 4 + ["alert-declined"] * 2 + ["alert-answer-retracted"])
            given, sequence = now - rng.choice([0, 0, 0, 5]), rng.choice([None, None, 0, 1])
            inputs.append(Answer(rng.randrange(4), kind, now, given, sequence))
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
        self.batch: list[tuple[int, VitalsEvent]] = []
        self.answers: dict[int, FeedbackEvent] = {}  # by the place of what asked for them
        self.stored: dict[str, bytes] = {}
        self.cut, self.crash = cut, crash

    @staticmethod
    def new() -> Monitor:
        return Monitor(RULES, partition=3, model=IDENTITY)

    def run(self, inputs: list[Any]) -> list[Event]:
        for place, one in enumerate(inputs):
            self.feed(place, one)
        self.flush()
        return self.out

    def feed(self, place: int, one: Any) -> None:
        if isinstance(one, VitalsEvent):
            self.batch.append((place, one))
            if self.cut(place):
                self.flush()
        else:
            self.flush()
            self.out += self.between(place, one)
        if not self.batch and self.crash(place):
            self.reload()

    def between(self, place: int, one: Any) -> list[Event]:
        if isinstance(one, Tick):
            return self.monitor.tick(at(one.minutes), SOURCE.model_copy(update={"topic": "vigil.vitals.journal"}))
        if isinstance(one, PatientEvent):
            return self.monitor.patient(one, source_of(one, place))
        if isinstance(one, Answer):
            raised = [event for event in self.out if isinstance(event, AlertEvent) and event.sequence == 0]
            if not raised:
                return []
            alert = raised[-1 - one.which % len(raised)]
            about = {"patient": alert.patient_id, "given": one.given, "sequence": one.sequence}
            one = answer(alert.alert_id, one.minutes, one.kind, **about).model_copy(update={"id": f"f{place}"})
            self.answers[place] = one
        return self.monitor.feedback(one, source_of(one, place))

    def flush(self) -> None:
        made = [self.monitor.observe(event, source_of(event, place)) for place, event in self.batch]
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


def source_of(event: Event, place: int) -> Source:
    return SOURCE.model_copy(update={"topic": event.topic, "event_id": event.id, "offset": place})


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


# What no step says (`processors.resuming`): how calm it has been, and the words for a limit or for a feed's lateness.
AMENDING = {"corrected", "amended", "entered-in-error", "cancelled"}
NOTHING = {
    "high_total": 20,
    "medium_total": 19,
    "single_three": False,
    "model_threshold": 1.0,
    "staleness": timedelta(seconds=1),
}
UNTOLD = ("calm_sets", "calm_since", "until")


@QUICK
@given(SEEDS, st.integers(4, 120))
def test_alerts_taken_up_from_what_was_told_are_those_that_stood(seed: int, length: int) -> None:
    """Answered or waiting, since when, how far up the chain, told to whom, resting on what; budgets and what is held back, too."""
    driver = Driver()
    inputs = stream(seed, length)
    told = [event for event in driver.run(inputs) if isinstance(event, AlertEvent | HeartbeatEvent)]
    before, after = driver.monitor, driver.new()
    for patient in before.dirty():
        after.load(patient, before.dump(patient))
    forget(after)
    assert after.resume(json_and_back(told), {}) == sum(len(owner.alerts) for owner in owners(before))
    # A correction that changes no more than what an alert rests on is not told.
    corrected = {
        one.patient_id for one in inputs if isinstance(one, VitalsEvent) and {o.status for o in one.observations} & AMENDING
    }
    assert dict(standing(after, corrected)) == dict(standing(before, corrected))
    here, there = before._partition, after._partition
    now = before._now or 0
    assert (there.woke_at, there.heartbeat_at) == (here.woke_at, here.heartbeat_at)
    assert counted(there) == counted(here)
    for patient in before._patients:
        was, one = before._patients[patient], after._patients[patient]
        # Who was forgotten meanwhile, or came back, may be known better by what was told.
        assert one.raised[len(one.raised) - len(was.raised) :] == was.raised
        assert {name: one.threes.get(name, 0) <= when for name, when in was.threes.items()} == dict.fromkeys(was.threes, True)
        assert "observed-after-end" not in was.alerts or one.after_end == was.after_end
        held = {kind: over for kind, over in was.closed.items() if over.until > now and not was.ended}
        assert held.items() <= one.closed.items()


@QUICK
@given(SEEDS, st.integers(4, 120), st.integers(0, 120))
def test_alerts_led_on_from_a_snapshot_by_what_was_told_since_are_those_that_stood(seed: int, length: int, cut: int) -> None:
    """Whatever other rules make of the inputs since: here those by which nothing is ever raised, and all is old."""
    driver, inputs = Driver(), stream(seed, length)
    for place, one in enumerate(inputs[:cut]):
        driver.feed(place, one)
    driver.flush()
    told, stood, other = len(driver.out), driver.new(), Driver()
    other.monitor = Monitor(RULES.model_copy(update=NOTHING), partition=3, model=IDENTITY)
    for patient in driver.monitor.dirty():
        for monitor in (stood, other.monitor):
            monitor.load(patient, driver.monitor.dump(patient))
    for place, one in enumerate(inputs[cut:], cut):
        driver.feed(place, one)
        other.feed(place, driver.answers.get(place, one))
    driver.flush()
    other.flush()
    since = [event for event in driver.out[told:] if isinstance(event, AlertEvent | HeartbeatEvent)]
    before, after = driver.monitor, other.monitor
    assert after.resume(json_and_back(since), {}, stood) == sum(len(owner.alerts) for owner in owners(before))
    corrected = {
        one.patient_id for one in inputs if isinstance(one, VitalsEvent) and {o.status for o in one.observations} & AMENDING
    }
    alike, expected = dict(standing(after, corrected)), dict(standing(before, corrected))
    for alerts in (*alike.values(), *expected.values()):  # since when the watch is over, the rebuild says by its rules
        alerts.get("observed-after-end", {}).pop("since", None)
    assert alike == expected
    here, there = before._partition, after._partition
    assert (there.now, there.woke_at, there.heartbeat_at) == (here.now, here.woke_at, here.heartbeat_at)
    assert counted(there) == counted(here)
    for patient in before._patients:
        was, one = before._patients[patient], after._patients[patient]
        held = {kind: over for kind, over in was.closed.items() if over.until > (before._now or 0) and not was.ended}
        assert one.raised[len(one.raised) - len(was.raised) :] == was.raised
        assert "observed-after-end" not in was.alerts or one.after_end == was.after_end
        assert one.ended or held.items() <= one.closed.items()  # the watch may be over by the one's rules


@QUICK
@given(SEEDS, st.integers(10, 90), st.integers(0, 25), st.integers(0, 25))
def test_after_a_loss_no_id_says_two_things_and_no_answer_is_taken_twice(seed: int, cut: int, open: int, later: int) -> None:
    """The last `open` inputs were not committed: they come once more, of the vitals all but the last `later` as of before."""
    inputs, commit = stream(seed, cut + 30), max(0, cut - open)
    first, second = Driver(), Driver()
    told = list(first.run(inputs[:cut]))
    for place, one in enumerate(inputs[:commit]):
        if isinstance(one, VitalsEvent | PatientEvent):
            second.feed(place, one)
    second.out = list(told)
    topics = (VitalsEvent.topic, PatientEvent.topic, FeedbackEvent.topic)
    said = [event for event in told if isinstance(event, AlertEvent | HeartbeatEvent)]
    second.monitor.resume(json_and_back(said), dict.fromkeys(topics, commit))
    again = list(enumerate(inputs[commit:cut], commit))
    sets = [(place, one) for place, one in again if isinstance(one, VitalsEvent)]
    tick = Tick(0.1 + max(one.minutes for one in inputs[:cut] if isinstance(one, Tick)))
    for place, one in (
        *(pair for pair in sets if pair[0] < cut - later),
        *(pair for pair in again if isinstance(pair[1], PatientEvent)),
        *((place, first.answers[place]) for place, _ in again if place in first.answers),
        (cut, tick),
        *(pair for pair in sets if pair[0] >= cut - later),
        *enumerate(inputs[cut:], cut),
    ):
        second.feed(place, one)
    steps = [event for event in second.out if isinstance(event, AlertEvent)]
    assert len({event.id for event in steps}) == len(steps)
    lives = defaultdict(list)
    for event in steps:
        lives[event.alert_id].append(event)
    for life in lives.values():
        check_life(life)
    answers = [event.source.event_id for event in steps if event.source.topic == FeedbackEvent.topic]
    assert len(set(answers)) == len(answers)


def json_and_back(events: list[Any]) -> list[Any]:
    return [type(event).model_validate_json(event.model_dump_json()) for event in events]


def forget(monitor: Monitor) -> None:
    """Forget all that stands in no topic but that of the alerts."""
    state = monitor._partition
    state.alerts, state.hours, state.now, state.heartbeat_at, state.woke_at = {}, {}, None, None, None
    for patient in monitor._patients.values():
        patient.alerts, patient.closed, patient.raised, patient.threes, patient.after_end = {}, {}, [], {}, None


def owners(monitor: Monitor) -> list[Any]:
    return [monitor._partition, *monitor._patients.values()]


def standing(monitor: Monitor, corrected: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each patient's alerts, and the partition's, without what no event tells."""
    for owner in owners(monitor):
        untold = (*UNTOLD, "evidence", "threes") if owner.id in corrected else UNTOLD
        if owner.alerts:
            yield owner.id, {key: without(asdict(one), untold) for key, one in owner.alerts.items()}


def without(fields: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def counted(state: Partition) -> dict[int, Any]:
    return {hour: (one.alerts, one.watched) for hour, one in state.hours.items()}


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
    anew = [one for one in scores.values() if "age-learned" in one.flags]
    assert len(scores) - len(anew) == len(sets)
    assert all(one.news2_reason != "age unknown" for one in anew)
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
            stands_again = "holds no more" in first.reason  # what a mistake ended, however old it is
            assert stands_again or first.decided_at - first.observed_at <= RULES.staleness
            assert first.score_id is None or scores[first.score_id].processing == "production"
            assert first.score_id is None or scores[first.score_id].news2_reason != "age unknown"
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
    wanted |= {f"observed-after-end {state}" for state in ("raised", "resolved")}
    assert wanted - reached == set()
