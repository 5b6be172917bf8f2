"""What a mistake ended stands again when the mistake is known, however old the set is that it rests on; and silence goes by it."""

from typing import Any

import pytest

from processors.events import AlertEvent, ScoreEvent, VitalsEvent
from processors.monitor import Monitor, MonitorRules
from tests.bedside import ILL, PATIENT, SOURCE, WELL, Ward, alerts, at, context, steps, vitals
from tests.unit.processors.test_resuming import Watch

MEDIUM: dict[str, Any] = {**WELL, "rr": 26, "spo2": 93}  # 3 + 2
FIVE: dict[str, Any] = {**WELL, "flow": 2, "hr": 111, "temp": 38.5}  # 2 + 2 + 1, no single 3
HELD: dict[str, Any] = {**WELL, "flow": 2, "hr": 111}  # 4: holds an alert of 5, and raises none
MISTAKES: dict[str, dict[str, Any]] = {
    "discharged": {"encounter_status": "finished"},
    "recorded as deceased": {"deceased": True},
    "merged into b: watched there from now on": {"merged_into": "b"},
    "NEWS2 does not apply: pregnancy recorded": {"pregnant": True},
    "NEWS2 does not apply: under 16 years": {"birth_date": "2020-01-01"},
}


def restart(ward: Ward) -> None:
    fresh = Monitor(ward.monitor.rules)
    for name in (*ward.monitor._patients, ward.monitor.id):
        fresh.load(name, ward.monitor.dump(name))
    ward.monitor = fresh


def of(found: list[AlertEvent], kind: str = "news2") -> list[tuple[str, str]]:
    return [(one.state, one.severity) for one in found if one.kind == kind]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("minutes", [50, 65, 300])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_a_mistaken_context_closed_stands_again(mistake: str, minutes: int, restarted: bool) -> None:
    ward = Ward()
    (raised,) = ward.chart(1, MEDIUM)[1]
    ward.wait(40)
    (ended,) = [one for one in alerts(ward.say(context(40, **MISTAKES[mistake]))) if one.kind == "news2"]
    assert (ended.alert_id, ended.reason.endswith(mistake)) == (raised.alert_id, True)
    if restarted:
        restart(ward)
    ward.wait(minutes)
    (again,) = [one for one in alerts(ward.say(context(minutes))) if one.kind == "news2"]
    assert (again.state, again.severity, again.observed_at) == ("raised", "medium", at(1))
    assert again.alert_id != raised.alert_id
    assert again.reason == f"stands again: what ended it holds no more ({ended.reason})"
    found = ward.wait(minutes + 16)
    assert [one.route for one in found if one.kind == "news2"] == ["nurse-in-charge"]


def test_what_age_alone_keeps_from_alerting_is_no_alert_that_stands_again() -> None:
    ward = Ward(encounter_status="finished")
    ward.chart(1, MEDIUM)
    ward.wait(65)
    assert of(alerts(ward.say(context(65)))) == []


def test_an_alert_of_the_stay_before_does_not_stand_again() -> None:
    ward = Ward()
    ward.chart(1, MEDIUM)
    ward.say(context(40, encounter_status="finished"))
    ward.wait(100)
    assert of(alerts(ward.say(context(100, encounter_id="e2")))) == []
    assert ward.monitor._patients[PATIENT].shut == {}


def test_a_calm_that_was_charted_meanwhile_is_not_undone() -> None:
    ward = Ward()
    ward.chart(1, MEDIUM)
    ward.say(context(10, encounter_status="finished"))
    ward.chart(20, WELL)
    ward.wait(90)
    assert of(alerts(ward.say(context(90)))) == []
    assert of(ward.chart(91, WELL)[1]) == []
    assert ward.monitor._patients[PATIENT].shut == {}  # nor later, by a score that would only have held it


def test_a_score_that_only_holds_it_lets_it_stand_again() -> None:
    ward = Ward()
    ward.chart(1, FIVE)
    ward.chart(5, HELD)
    ward.say(context(10, encounter_status="finished"))
    ward.wait(15)
    assert of(alerts(ward.say(context(15)))) == [("raised", "medium")]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(("own", "severity"), [(MEDIUM, "medium"), (ILL, "high")])
@pytest.mark.parametrize("taken_back", [30, 63, 90])
def test_what_anothers_sets_resolved_stands_again(taken_back: int, own: Any, severity: str, restarted: bool) -> None:
    ward = Ward()
    ward.chart(1, own)
    ward.chart(10, WELL)
    assert of(ward.chart(26, WELL)[1]) == [("resolved", severity)]
    if restarted:
        restart(ward)
    ward.wait(taken_back)
    assert of(alerts(ward.say(vitals(10, WELL, received=taken_back, status="entered-in-error")))) == []
    (again,) = alerts(ward.say(vitals(26, WELL, received=taken_back, status="entered-in-error")))
    assert (again.state, again.severity, again.observed_at) == ("raised", severity, at(1))
    assert again.reason == "stands again: what ended it was corrected or taken back"


def test_what_own_sets_resolved_is_over() -> None:
    ward = Ward()
    ward.chart(1, MEDIUM)
    ward.chart(10, WELL)
    ward.chart(26, WELL)
    ward.wait(70)
    assert alerts(ward.say(vitals(1, {"rr": 25}, received=70, status="corrected"))) == []
    ward.chart(71, WELL)
    assert of(ward.wait(120)) == []


def test_what_a_wrong_correction_withdrew_stands_again() -> None:
    ward = Ward()
    ward.chart(1, MEDIUM)
    ward.wait(30)
    assert of(alerts(ward.say(vitals(1, {"rr": 16, "spo2": 97}, received=30, status="corrected")))) == [("withdrawn", "medium")]
    ward.wait(70)
    found = alerts(ward.say(vitals(1, {"rr": 26, "spo2": 93}, received=70, status="corrected")))
    assert of(found) == [("raised", "medium")]


@pytest.mark.parametrize("restarted", [False, True])
def test_while_a_backlog_may_bring_newer_sets_it_waits(restarted: bool) -> None:
    ward = Ward()
    ward.chart(1, ILL)
    ward.chart(10, WELL)
    ward.chart(26, WELL)
    ward.sleep(80)
    for minute in (10, 26):
        wrong = vitals(minute, WELL, received=40, status="entered-in-error")
        assert of(alerts(ward.say(wrong))) == []
    if restarted:
        restart(ward)
    found = ward.wait(90)
    assert of(found)[0] == ("raised", "high")


def test_a_patient_who_was_ill_and_is_well_by_the_backlog_is_not_told_of() -> None:
    ward = Ward()
    ward.chart(1, ILL)
    ward.chart(10, WELL)
    ward.chart(26, WELL)
    ward.sleep(80)
    for minute in (10, 26):
        ward.say(vitals(minute, WELL, received=40, status="entered-in-error"))
    ward.say(vitals(75, WELL, received=75))
    assert of(ward.wait(90)) == []


def test_a_discharge_cancelled_after_what_resolved_the_alert_was_taken_back() -> None:
    ward = Ward()
    ward.chart(1, ILL)
    ward.chart(10, WELL)
    ward.chart(26, WELL)
    ward.say(context(27, encounter_status="finished"))
    for minute in (10, 26):
        assert of(alerts(ward.say(vitals(minute, WELL, received=30, status="entered-in-error")))) == []
    ward.wait(70)
    assert of(alerts(ward.say(context(70)))) == [("raised", "high")]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("minutes", [55, 65, 200])
def test_an_alert_goes_on_under_the_surviving_id_however_old_its_set_is(minutes: int, known: bool) -> None:
    old, new = Ward(), Ward(admit=False)
    old.chart(1, MEDIUM)
    old.wait(minutes)
    new.wait(minutes)
    if known:
        new.say(context(patient="b"))
    *_, moved = old.say(context(minutes, merged_into="b"))
    assert isinstance(moved, VitalsEvent)
    assert moved.standing == "medium"
    score, *told = new.say(moved)
    assert isinstance(score, ScoreEvent)
    told = alerts(told)
    restart(new)
    if not known:
        assert told == []
        told = alerts(new.say(context(minutes, patient="b")))
    (raised,) = told or [one for one in new.wait(minutes + 2) if one.kind == "news2"]  # the younger one may be out of a queue
    assert (raised.patient_id, raised.state, raised.severity, raised.observed_at) == ("b", "raised", "medium", at(1))


def test_what_did_not_stand_under_the_old_id_does_not_under_the_surviving_one() -> None:
    old = Ward(encounter_status="finished")
    old.chart(1, MEDIUM)
    old.wait(65)
    *_, moved = old.say(context(65, merged_into="b"))
    assert isinstance(moved, VitalsEvent)
    assert moved.standing is None


def test_a_moved_alert_that_was_replayed_raises_nothing() -> None:
    ward = Ward()
    ward.wait(65)
    moved = vitals(1, MEDIUM, received=65).model_copy(update={"standing": "medium", "moved_from": ("old",)})
    made = ward.monitor.observe(moved, SOURCE, history=True)
    assert alerts(ward.monitor.decide(made, None)) == []
    assert ward.monitor._patients[PATIENT].shut == {}


def test_after_a_lost_journal_what_a_mistaken_discharge_closed_stands_again() -> None:
    watch = Watch(MonitorRules())
    watch.take(vitals(1, MEDIUM))
    watch.until(2, 40)
    watch.take(context(40, encounter_status="finished"))
    watch.until(41, 70)
    lost, back = watch.lost(), context(70)
    expected, found = ([step for step in one.take(back) if step.kind == "news2"] for one in (watch, lost))
    assert of(expected) == [("raised", "medium")]
    assert [(step.id, step.reason) for step in found] == [(step.id, step.reason) for step in expected]


# ------------------------------------------------------------------------------------------------------------------ silence


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(
    "unscored",
    [{"birth_date": None}, {"birth_date": "2020-01-01"}, {"pregnant": True}],
    ids=["age unknown", "wrong birth date", "wrong pregnancy"],
)
def test_an_ill_patient_who_is_registered_late_has_the_silence_limit_of_the_score(unscored: Any, restarted: bool) -> None:
    ward = Ward(**unscored)
    ward.chart(1, ILL)
    assert ward.monitor._patients[PATIENT].band == "unscored"
    ward.wait(65)
    assert of(alerts(ward.say(context(65)))) == []  # too old for an alert of its own
    if restarted:
        restart(ward)
    (silence,) = [one for one in ward.wait(67) if one.kind == "no-observations"]
    assert (silence.state, silence.severity, silence.reason) == ("raised", "medium", "nothing within 30 min")


def test_registration_within_a_backlog_sets_the_silence_limit_too() -> None:
    ward = Ward(admit=False)
    ward.chart(1, ILL)
    ward.sleep(80)
    ward.say(context(80))
    assert of(ward.wait(90), "no-observations")[0] == ("raised", "medium")


def test_a_record_of_pregnancy_leaves_the_silence_limit_until_the_next_set() -> None:
    ward = Ward()
    ward.chart(1, ILL)
    ward.say(context(2, pregnant=True))
    assert steps([one for one in ward.wait(33) if one.kind == "no-observations"]) == [("no-observations", "raised", "medium")]
