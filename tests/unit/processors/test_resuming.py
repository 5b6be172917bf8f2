"""A monitor whose memory is lost goes on from what was told of alerts, as it would have gone on."""

from typing import Any

import pytest

from processors.events import AlertEvent, Event, FeedbackEvent, HeartbeatEvent, Location, PatientEvent, Source, VitalsEvent
from processors.monitor import Monitor, MonitorRules
from processors.rules import CeilingPolicy
from tests.bedside import ILL, WELL, answer, at, context, vitals

JOURNAL = "vigil.vitals.journal"
TAKEN = dict.fromkeys((VitalsEvent.topic, PatientEvent.topic, FeedbackEvent.topic), 1_000)


class Watch:
    """A monitor with one watched adult, and all that it told; times are minutes."""

    def __init__(self, rules: MonitorRules | None = None) -> None:
        self.rules = rules or MonitorRules()
        self.monitor = Monitor(self.rules)
        self.told: list[Any] = []
        self.inputs: list[Event] = []
        self.tick(0)
        self.take(context())

    def take(self, event: Event) -> list[AlertEvent]:
        self.inputs.append(event)
        return self._tell(self._out(event))

    def _out(self, event: Event) -> list[Event]:
        source = Source(topic=event.topic, partition=0, offset=len(self.inputs), event_id=event.id)
        if isinstance(event, VitalsEvent):
            return self.monitor.decide(self.monitor.observe(event, source), None, "no model in this test")
        if isinstance(event, PatientEvent):
            return self.monitor.patient(event, source)
        assert isinstance(event, FeedbackEvent)
        return self.monitor.feedback(event, source)

    def tick(self, minutes: float) -> list[AlertEvent]:
        return self._tell(self.monitor.tick(at(minutes), Source(topic=JOURNAL, partition=0, offset=0, event_id=f"0/{minutes}")))

    def until(self, begin: int, end: int) -> list[AlertEvent]:
        """Let the time go on, minute by minute."""
        return [step for minute in range(begin, end) for step in self.tick(minute)]

    def _tell(self, out: list[Event]) -> list[AlertEvent]:
        self.told += [event for event in out if isinstance(event, AlertEvent | HeartbeatEvent)]
        return [event for event in out if isinstance(event, AlertEvent)]

    def lost(self, told: list[Any] | None = None, *, sets: bool = True) -> "Watch":
        """Return who goes on where the state is lost: contexts and sets are taken anew, the rest is as it was told."""
        made = Watch(self.rules)
        made.monitor, made.told, made.inputs = Monitor(self.rules), list(self.told), list(self.inputs)
        for event in self.inputs:
            if isinstance(event, PatientEvent) or (sets and isinstance(event, VitalsEvent)):
                made._out(event)
        made.monitor.resume(self.told if told is None else told, TAKEN)
        return made


def said(steps: list[AlertEvent]) -> list[tuple[Any, ...]]:
    return [(step.id, step.kind, step.state, step.route, step.decided_at) for step in steps]


def after(course: str) -> Watch:
    """What happened in the first twenty minutes."""
    watch = Watch(MonitorRules(ceilings={"comfort care": CeilingPolicy(route="palliative")}))
    (raised,) = watch.take(vitals(1, ILL))
    if course == "nobody answers":
        watch.until(2, 20)
        return watch
    if course in ("graver, and nobody answers", "another bed", "a correction", "a ceiling that was lifted"):
        watch.until(2, 7)
        change = {
            "graver, and nobody answers": vitals(7, {**ILL, "hr": 135}),
            "another bed": context(7).model_copy(update={"location": Location(ward="A", bed="2")}),
            "a correction": vitals(1, {"flow": 0, "hr": 95}, status="corrected", received=7),
            "a ceiling that was lifted": context(7, ceiling_of_care="comfort care"),
        }
        watch.take(change[course])
        if course == "a ceiling that was lifted":
            watch.until(8, 10)
            watch.take(context(10))
        watch.until(11, 20)
        return watch
    watch.until(2, 4)
    if course == "passed on":
        watch.take(answer(raised.alert_id, 4, "alert-declined"))
    else:
        watch.take(answer(raised.alert_id, 4))
    if course == "graver than was answered":
        watch.take(vitals(6, {**ILL, "hr": 135}))
        watch.take(answer(raised.alert_id, 7, given=4.5))
    if course == "taken back":
        watch.take(answer(raised.alert_id, 8, "alert-answer-retracted"))
    if course == "declined":
        for minute in (5, 6, 7):
            watch.take(answer(raised.alert_id, minute, "alert-answer-retracted"))
            watch.take(answer(raised.alert_id, minute, "alert-declined"))
    if course == "moved":
        watch.take(context(9, ward="B"))
    if course == "a ceiling of care":
        watch.take(context(9, ceiling_of_care="ward based"))
    watch.until(10, 20)
    return watch


COURSES = (
    *("nobody answers", "answered", "passed on", "graver than was answered", "taken back", "declined", "moved"),
    *("graver, and nobody answers", "another bed", "a correction", "a ceiling that was lifted"),
)


@pytest.mark.parametrize("course", [*COURSES, "a ceiling of care"])
def test_what_was_lost_goes_on_as_it_would_have(course: str) -> None:
    """Links, the last one again and again, acknowledgements that run out, silence: at the same times, under the same ids."""
    watch = after(course)
    lost = watch.lost()
    expected = watch.until(20, 200)
    assert expected
    assert said(lost.until(20, 200)) == said(expected)


@pytest.mark.parametrize("course", COURSES)
def test_an_alert_of_which_only_the_last_step_is_left_goes_on(course: str) -> None:
    watch = after(course)
    newest = {event.alert_id if isinstance(event, AlertEvent) else "": event.id for event in watch.told}
    lost = watch.lost([event for event in watch.told if event.id in newest.values()])
    assert said(lost.until(20, 200)) == said(watch.until(20, 200))


@pytest.mark.parametrize(("course", "states"), [("nobody answers", {"escalated"}), ("answered", set())])
def test_a_step_that_does_not_say_who_is_waited_for_is_asked_anew_or_counts_as_answered(course: str, states: set[str]) -> None:
    watch = after(course)
    lost = watch.lost([event.model_copy(update={"answering": None}) for event in watch.told])
    assert {step.state for step in lost.until(20, 27) if step.kind == "news2"} == states


def test_nothing_waits_for_a_time_that_was_set_back() -> None:
    watch = Watch()
    watch.tick(120)
    (raised,) = watch.take(vitals(120, ILL))
    watch.tick(1)  # the clock was wrong
    assert watch.monitor._partition.set_backs == 1
    watch = watch.lost()
    assert watch.monitor._partition.set_backs == 1
    assert watch.monitor.now == at(1)
    steps = watch.until(2, 8)
    assert [(step.alert_id, step.sequence, step.state) for step in steps if step.kind == "news2"] == [
        (raised.alert_id, 1, "escalated")
    ]


def test_silence_goes_by_what_was_told_where_no_set_is_left() -> None:
    watch = Watch()
    watch.take(vitals(1, ILL))
    watch.tick(2)
    watch = watch.lost(sets=False)
    assert [step.severity for step in watch.until(3, 40) if step.kind == "no-observations"] == ["medium"]


def test_who_is_gone_and_was_told_of_is_told_of_once() -> None:
    watch = Watch()
    watch.take(vitals(1, WELL))
    watch.take(context(2, encounter_status="finished"))
    watch.tick(3)
    (told,) = watch.take(vitals(40, ILL))
    assert told.kind == "observed-after-end"
    watch.take(answer(told.alert_id, 41))
    watch = watch.lost()
    assert watch.take(vitals(45, ILL)) == []
    (back,) = (step for step in watch.take(context(50, encounter_id="e2")) if step.kind == told.kind)
    assert (back.alert_id, back.sequence, back.state, back.title) == (told.alert_id, 2, "resolved", told.title)


def test_a_feed_that_stopped_and_one_that_is_late_stay_told_and_end() -> None:
    watch = Watch()
    for minute in range(12):
        watch.take(vitals(minute, WELL, peer="stops", patient="b"))
        watch.take(vitals(minute - 90, WELL, received=minute, peer="late"))
        watch.tick(minute)
    for minute in range(12, 50):
        watch.take(vitals(minute - 90, WELL, received=minute, peer="late"))
        watch.tick(minute)
    own = {step.peer: step for step in watch.told if isinstance(step, AlertEvent) and step.kind.startswith("feed-")}
    assert {peer: step.kind for peer, step in own.items()} == {"stops": "feed-stopped", "late": "feed-late"}
    watch.take(answer(own["stops"].alert_id, 50, "alert-declined", patient=watch.monitor.id))
    watch = watch.lost()
    assert [step for step in watch.until(50, 52) if step.kind.startswith("feed-")] == []
    for second in range(25):
        watch.take(vitals(52 + second / 60, WELL, peer="late"))
    watch.take(vitals(52, WELL, peer="stops", patient="b"))
    ended = {step.peer: step for step in watch.tick(53) if step.kind.startswith("feed-")}
    assert {peer: (step.alert_id, step.sequence, step.state) for peer, step in ended.items()} == {
        "stops": (own["stops"].alert_id, 2, "resolved"),
        "late": (own["late"].alert_id, 1, "resolved"),
    }


def test_a_budget_that_was_used_up_stays_so() -> None:
    rules = MonitorRules(ward_budget=3, silence={"high": "24h", "low_medium": "24h", "medium": "24h"})
    single = {**WELL, "rr": 26}
    watch = Watch(rules)
    for number in range(3):
        watch.take(context(patient=f"p{number}"))
        watch.take(vitals(1, single, patient=f"p{number}"))
    watch.tick(2)
    watch.take(vitals(2.5, {**WELL, "spo2": 91}))  # not of the mildest budget: another 3 pages, and counts as told of
    watch = watch.lost()
    watch.tick(3)
    ends = [step for minute in (4, 22, 40) for step in watch.take(vitals(minute, WELL)) + watch.until(minute, minute + 1)]
    assert [step.state for step in ends if step.kind == "news2"] == ["resolved"]
    later = watch.until(41, 60) + watch.take(vitals(60, {**WELL, "spo2": 91}))
    (again,) = [step for step in later if step.kind == "news2"]
    assert (again.state, again.route) == ("raised", rules.quiet_route)
