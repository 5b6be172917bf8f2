"""Who is watched, and that whoever is not is told: late words, silence, the end of the watch, queues, clocks that are wrong."""

from typing import Any

import orjson
import pytest

from processors.events import AlertEvent, ScoreEvent
from processors.monitor import MonitorRules
from tests.bedside import ILL, PATIENT, WELL, Ward, alerts, answer, at, context, observation, steps, vitals


def only(found: list[AlertEvent]) -> AlertEvent:
    assert len(found) == 1, steps(found)
    return found[0]


def of(found: list[AlertEvent], kind: str) -> list[AlertEvent]:
    return [one for one in found if one.kind == kind]


def restored(before: Ward, *patients: str) -> Ward:
    """Return a ward with a monitor that was loaded from the other's snapshots."""
    ward = Ward(before.monitor.rules, admit=False)
    for name in patients or (PATIENT, before.monitor.id):
        ward.monitor.load(name, before.monitor.dump(name))
    return ward


# ------------------------------------------------------------------------------- the newest word is too old to alert by itself


@pytest.mark.parametrize("before", [None, WELL])
@pytest.mark.parametrize("restarted", [False, True])
def test_the_newest_word_sets_the_silence_limit_however_late_it_comes(before: dict[str, Any] | None, restarted: bool) -> None:
    """NEWS2 8, 65 minutes old and the newest: the next word was after 12.5 hours, and asked nobody to come."""
    ward = Ward()
    if before:
        ward.chart(0, before)
    score, found = ward.chart(60, ILL, received=125)
    assert (score.late, found) == (True, [])
    if restarted:
        ward = restored(ward)
    silent = only(of(ward.wait(126), "no-observations"))
    assert (silent.state, silent.severity, silent.title) == ("raised", "medium", "No observations for 1 h 6 min")
    assert [one.route for one in of(ward.wait(156), "no-observations")] == ["nurse-in-charge", "ward-doctor"]


def test_the_newest_word_of_a_backlog_sets_the_silence_limit_too() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    ward.sleep(90)
    score, *found = ward.say(vitals(20, ILL))
    assert isinstance(score, ScoreEvent)
    assert (score.late, found) == (True, [])
    assert [one.severity for one in of(ward.wait(96), "no-observations")] == ["medium"]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("answered", [False, True])
def test_one_well_set_under_a_standing_emergency_does_not_buy_12_hours_of_silence(answered: bool, restarted: bool) -> None:
    """NEWS2 8 and one well set, then nothing: the next word was "no observations", information, after 12.5 hours."""
    ward = Ward()
    raised = only(ward.chart(0, ILL)[1])
    if answered:
        ward.say(answer(raised.alert_id, 0))
    assert ward.chart(4, WELL)[1] == []
    if restarted:
        ward = restored(ward)
    silent, *climbed = of(ward.wait(65), "no-observations")
    assert (silent.state, silent.severity, silent.decided_at) == ("raised", "medium", at(35))
    assert [(one.route, one.decided_at) for one in climbed] == [("nurse-in-charge", at(50)), ("ward-doctor", at(65))]
    assert steps(ward.chart(66, WELL)[1]) == [("no-observations", "resolved", "medium"), ("news2", "resolved", "high")]
    assert of(ward.wait(66 + 12.5 * 60), "no-observations") == []


def test_a_milder_alert_that_stands_leaves_the_limit_of_a_graver_score() -> None:
    ward = Ward(MonitorRules(high_total=20))
    assert steps(ward.chart(0, ILL)[1]) == [("news2", "raised", "medium")]
    assert [one.severity for one in of(ward.wait(31), "no-observations")] == ["medium"]


def test_a_milder_set_ends_a_silence_only_within_the_limit_of_the_alert_that_stands() -> None:
    """Charted 35 minutes late: it ended the silence, which began anew with the next tick."""
    ward = Ward()
    for minute in range(0, 61, 15):
        ward.chart(minute - 35, ILL, received=minute)
    assert "no-observations" in ward.monitor._patients[PATIENT].alerts
    assert ward.chart(40, WELL, received=75)[1] == []
    assert steps(ward.chart(55, WELL, received=90)[1]) == [("news2", "resolved", "high")]
    assert steps(of(ward.wait(91), "no-observations")) == [("no-observations", "resolved", "medium")]


def test_a_late_set_that_is_not_the_newest_leaves_the_silence_limit() -> None:
    ward = Ward()
    ward.chart(60, WELL)
    ward.chart(0, ILL, received=125)
    assert of(ward.wait(180), "no-observations") == []


def test_charting_that_is_always_late_is_one_silence_until_a_set_is_within_the_limit() -> None:
    """A high score charted every quarter of an hour, 35 minutes late, raised and resolved a new alert each time."""
    ward, told = Ward(), []
    for minute in range(0, 6 * 60, 15):
        _, found = ward.chart(minute - 35, ILL, received=minute)
        told += of([*ward.meanwhile, *found], "no-observations")
    assert [one.state for one in told][:3] == ["raised", "escalated", "escalated"]
    assert {one.state for one in told[3:]} == {"escalated"}
    ended = only(of(ward.chart(6 * 60 - 20, ILL, received=6 * 60)[1], "no-observations"))
    assert (ended.state, ended.alert_id) == ("resolved", told[0].alert_id)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_silence_that_stands_gets_graver_with_the_newest_word(restarted: bool) -> None:
    ward = Ward()
    ward.chart(0, WELL)
    silent = only(of(ward.wait(13 * 60), "no-observations"))
    assert silent.severity == "information"
    ward.chart(13 * 60 - 65, ILL, received=13 * 60)
    if restarted:
        ward = restored(ward)
    graver = only(of(ward.wait(13 * 60 + 1), "no-observations"))
    assert (graver.alert_id, graver.state, graver.severity) == (silent.alert_id, "updated", "medium")
    assert graver.reason == "nothing within 30 min"
    assert [one.state for one in of(ward.wait(13 * 60 + 31), "no-observations")] == ["escalated", "escalated"]


# ---------------------------------------------------------------------------------------------------- nothing ever was observed


@pytest.mark.parametrize("restarted", [False, True])
def test_whoever_is_admitted_and_never_observed_is_told(restarted: bool) -> None:
    ward = Ward()
    assert ward.wait(5) == []
    if restarted:
        ward = restored(ward)
    assert of(ward.wait(12.5 * 60 + 1), "no-observations") == []
    silent = only(of(ward.wait(12.5 * 60 + 2), "no-observations"))
    assert (silent.state, silent.severity, silent.reason) == (
        "raised",
        "information",
        "nothing within 12 h 30 min of the admission",
    )
    assert (silent.title, silent.observed_at) == ("No observations for 12 h 31 min", at(1))
    assert of(ward.wait(72 * 60), "no-observations") == [], "told once"
    ended = only(of(ward.chart(72 * 60 + 1, WELL)[1], "no-observations"))
    assert (ended.state, ended.alert_id) == ("resolved", silent.alert_id)


def test_whoever_is_observed_and_never_usably_is_told() -> None:
    ward = Ward()
    said = []
    for minute in range(0, 13 * 60 + 1, 60):
        score, found = ward.chart(minute, observations=[observation("temp", 41.5, unit="banana")])
        assert score.news2 is None
        said += of([*ward.meanwhile, *found], "no-observations")
    assert [one.state for one in said] == ["raised"]


def test_an_admission_in_a_snapshot_of_before_is_waited_for_from_the_restart_on() -> None:
    before = Ward()
    assert b'"awaited"' not in (before.monitor.dump(PATIENT) or b"")
    ward = restored(before)
    assert of(ward.wait(13 * 60), "no-observations")[0].state == "raised"


@pytest.mark.parametrize(
    "known", [{"encounter_status": "unknown"}, {"encounter_status": "planned"}, {"encounter_class": "outpatient"}]
)
def test_nothing_is_waited_for_of_whoever_is_not_in_hospital(known: dict[str, Any]) -> None:
    """An outpatient's visit is often never closed."""
    ward = Ward(**known)
    assert ward.wait(48 * 60) == []
    ward = restored(ward)
    assert ward.wait(72 * 60) == []


def test_whoever_is_discharged_unobserved_is_not_waited_for() -> None:
    ward = Ward()
    ward.wait(60)
    ward.say(context(61, encounter_status="finished"))
    assert ward.wait(20 * 60) == []
    ward.say(context(20 * 60, encounter_id="e2"))
    assert of(ward.wait(32 * 60), "no-observations") == []
    assert only(ward.wait(33 * 60)).kind == "no-observations"


# ------------------------------------------------------------------------------------------- recorded as gone, and still observed

GONE: list[tuple[dict[str, Any], str]] = [
    ({"encounter_status": "finished"}, "discharged"),
    ({"deceased": True}, "recorded as deceased"),
]


@pytest.mark.parametrize(("record", "ended"), GONE)
@pytest.mark.parametrize("restarted", [False, True])
def test_whoever_is_recorded_as_gone_and_goes_on_being_observed_is_told_once(
    record: dict[str, Any], ended: str, restarted: bool
) -> None:
    """A discharge in error: NEWS2 19 for 30 hours, and nobody was told."""
    ward, said = Ward(), []
    ward.wait(1)
    ward.say(context(1, **record))
    for minute in range(15, 30 * 60, 15):
        score, found = ward.chart(minute, WELL if minute < 60 else ILL)
        said += [*ward.meanwhile, *found]
        if restarted and minute % 60 == 0:
            ward = restored(ward)
    assert score.flags == ("not-watched",)
    first, graver, *climbed = of(said, "observed-after-end")
    assert (first.state, first.severity, first.observed_at, first.reason) == ("raised", "information", at(45), ended)
    assert first.title == f"Observed 44 min after the watch ended ({ended}): NEWS2 0"
    assert first.detail.startswith(f"Recorded at 2026-11-23 08:01 UTC: {ended}. Observations go on, and no score")
    assert (graver.state, graver.severity, graver.alert_id) == ("updated", "medium", first.alert_id)
    assert (graver.observed_at, graver.title[-9:]) == (at(60), ": NEWS2 8")
    assert [(one.state, one.route) for one in climbed[:2]] == [("escalated", "nurse-in-charge"), ("escalated", "ward-doctor")]
    assert {(one.state, one.route) for one in climbed[2:]} == {("escalated", "ward-doctor")}, "the last link again"
    assert [one for one in said if one.kind == "news2"] == []


def test_a_new_admission_ends_it_and_the_next_stay_may_tell_it_anew() -> None:
    ward = Ward()
    ward.say(context(1, encounter_status="finished"))
    told = only(of(ward.chart(40, ILL)[1], "observed-after-end"))
    ward.say(context(41, encounter_status="finished", ward="B"))  # an update of the same record changes nothing
    assert [one.alert_id for one in of(ward.wait(56), "observed-after-end")] == [told.alert_id]
    ended, raised = alerts(ward.say(context(57, encounter_id="e2")))
    assert (raised.kind, raised.severity) == ("news2", "high")
    assert (ended.alert_id, ended.state, ended.reason) == (told.alert_id, "resolved", "watched again")
    ward.say(context(59, encounter_id="e2", encounter_status="finished"))
    assert only(of(ward.chart(90, ILL)[1], "observed-after-end")).alert_id != told.alert_id


def test_the_last_sets_of_a_stay_and_old_ones_are_nothing_to_tell() -> None:
    ward = Ward()
    ward.wait(10)
    ward.say(context(10, encounter_status="finished"))
    for observed, received in ((9, 11), (20, 20), (39, 50), (30, 120)):
        assert ward.chart(observed, ILL, received=received)[1] == []
    assert only(ward.chart(121, ILL)[1]).kind == "observed-after-end"


def test_declined_it_is_told_again_only_where_it_is_graver() -> None:
    ward = Ward()
    ward.say(context(1, encounter_status="finished"))
    told = only(ward.chart(40, WELL)[1])
    ward.say(answer(told.alert_id, 41, "alert-declined"))
    for minute in range(45, 300, 30):
        assert ward.chart(minute, WELL)[1] == []
    assert steps(ward.chart(301, ILL)[1]) == [("observed-after-end", "raised", "medium")]


@pytest.mark.parametrize("restarted", [False, True])
def test_whoever_comes_back_after_days_is_no_stranger(restarted: bool) -> None:
    """Their readmission was lost, or repeated what registration had said: the age was forgotten with the rest."""
    ward = Ward()
    ward.chart(0, ILL)
    ward.say(context(1, encounter_status="finished"))
    ward.wait(24 * 60 + 1)
    state = ward.monitor.dump(PATIENT)
    assert state is not None
    assert b'"entries":{}' in state
    assert len(state) < 500
    ward.monitor.clean()
    for hour in range(25, 80):
        ward.wait(60 * hour)
    assert PATIENT not in ward.monitor.dirty(), "forgotten once"
    if restarted:
        ward = restored(ward)
    score, found = ward.chart(80 * 60, ILL)
    assert (score.news2_reason, score.flags) == ("", ("not-watched",))
    assert steps(found) == [("observed-after-end", "raised", "medium")]
    assert "(discharged): NEWS2 8" in only(found).title
    assert steps(ward.chart(80 * 60 + 1, {**ILL, "hr": 72}, encounter="e2")[1]) == [("news2", "raised", "high")]
    assert steps(of(ward.wait(80 * 60 + 2), "observed-after-end")) == [("observed-after-end", "resolved", "medium")]


def test_what_stands_is_closed_when_observations_end() -> None:
    ward = Ward()
    ward.say(context(1, encounter_status="finished"))
    ward.chart(40, WELL)
    assert of(ward.wait(24 * 60 + 39), "observed-after-end") == []
    ended = only(of(ward.wait(24 * 60 + 40), "observed-after-end"))
    assert (ended.state, ended.reason) == ("resolved", "not observed any more")


# ---------------------------------------------------------------------------------------------------- clocks that run ahead


@pytest.mark.parametrize("ahead", [0.5, 3, 4])
def test_a_gateway_whose_clock_runs_ahead_does_not_outvote_what_is_charted(ahead: float) -> None:
    """Benign values of each minute, stamped 4 minutes ahead, made history of what the nurse charted."""
    ward, well = Ward(), {"rr": 16, "spo2": 98, "hr": 70}
    for minute in range(20):
        score, _ = ward.chart(minute + ahead, well, received=minute, peer="gateway")
        assert (score.observed_at, score.flags, score.late) == (at(minute + ahead), (), False)
    score, found = ward.chart(19, {"rr": 30, "spo2": 85, "hr": 140})
    assert (score.late, steps(found)) == (False, [("news2", "raised", "high")])
    assert only(found).observed_at == at(19)
    score, _ = ward.chart(20 + ahead, well, received=20, peer="gateway")
    assert score.news2 is not None
    assert score.news2.total == 0


@pytest.mark.parametrize("ahead", [0.2, 3, 30, 600])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("restarted", [False, True])
def test_what_a_fast_clock_stamped_is_taken_back_and_corrected_by_its_stamp(ahead: float, own: bool, restarted: bool) -> None:
    """A set of the wrong patient, stamped half an hour ahead: its retraction found nothing, and its alert went on climbing."""

    def set_of(values: dict[str, Any], received: float, status: str = "final") -> tuple[ScoreEvent, list[AlertEvent]]:
        if not own:
            return ward.chart(ahead, values, status=status, received=received)
        made = [observation(name, value, status=status, when=at(ahead)) for name, value in values.items()]
        return ward.chart(0, observations=made, received=received)

    def again() -> Ward:
        return restored(ward) if restarted else ward

    ward = Ward()
    raised = only(set_of(ILL, 0)[1])
    assert raised.observed_at == at(0)
    ward = again()
    gone = only(set_of(ILL, 2, "entered-in-error")[1])
    assert (gone.alert_id, gone.state) == (raised.alert_id, "withdrawn")
    assert of(ward.wait(6), "news2") == []

    ward = Ward()
    raised = only(set_of(ILL, 0)[1])
    ward = again()
    ward.chart(4, {"temp": 36.7})
    score, found = set_of(WELL, 5, "corrected")
    assert (only(found).alert_id, only(found).state) == (raised.alert_id, "withdrawn")
    assert score.news2 is not None
    assert score.news2.total == 0
    assert total_of(ward, 6) == 0


def total_of(ward: Ward, minute: float) -> int:
    score, _ = ward.chart(minute, {"temp": 36.9})
    assert score.news2 is not None
    return score.news2.total


def test_an_observation_of_a_fast_clock_through_two_feeds_is_one() -> None:
    ward = Ward()
    assert only(ward.chart(2, ILL, received=0, peer="gateway")[1]).state == "raised"
    for minute, later in ((10, 1), (12, 5)):  # the copy comes while the stamp is still ahead, and after
        assert ward.chart(minute + 2, WELL, received=minute, peer="gateway")[1] == []
        assert ward.chart(minute + 2, WELL, received=minute + later, peer="ehr")[1] == []
    assert len(ward.monitor._patients[PATIENT].history.entries["spo2"]) == 3


def test_sets_of_a_clock_that_stands_still_far_ahead_are_each_one_of_its_own() -> None:
    ward = Ward()
    assert ward.chart(600, WELL, received=0)[0].flags == ("future-stamp",)
    assert steps(ward.chart(600, ILL, received=20)[1]) == [("news2", "raised", "high")]
    assert ward.chart(600, WELL, received=40)[1] == []
    assert steps(ward.chart(600, WELL, received=60)[1]) == [("news2", "resolved", "high")]


def test_the_stamps_of_a_fast_clock_are_kept_as_long_as_its_values_and_bounded() -> None:
    ward = Ward()
    for second in range(0, 3600 * 30, 300):
        ward.chart(second / 60 + 0.05, {**WELL, "hr": 70 + second % 7}, received=second / 60, id=f"{second:036d}")
    patient = ward.monitor._patients[PATIENT]
    assert len(patient.stamps) <= 128
    oldest = min(patient.history.times())
    assert oldest in {used for all_used in patient.stamps.values() for used in all_used}
    assert len(patient.dump()) < 8000


# -------------------------------------------------------------------------------------------------- backlogs and queues

MEANWHILE = [(minute, ILL if 12 <= minute < 20 else WELL) for minute in range(1, 41)]  # ill for a while, and well since


@pytest.mark.parametrize("restarted", [False, True])
def test_a_backlog_that_takes_long_to_read_is_waited_for(restarted: bool) -> None:
    """Read for 20 minutes: after five it was "caught up", and a state of half an hour ago alerted and climbed."""
    ward, said = Ward(), []
    ward.chart(0, WELL)
    ward.sleep(40)
    for place, (minute, values) in enumerate(MEANWHILE):
        said += ward.wait(40 + place / 2)
        said += alerts(ward.say(vitals(minute - 0.5, values)))
        if restarted and place % 7 == 3:
            ward = restored(ward)
    assert said == []
    said = ward.wait(64.4)
    assert said == []
    end = only(of(ward.wait(65), "monitoring-blind"))
    assert (end.reason, end.decided_at) == ("caught up; 0 older sets went to history", at(65))


def test_a_backlog_that_never_ends_is_given_up_and_the_notice_says_so() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    ward.sleep(40)
    said = []
    for minute in range(1, 36):
        said += ward.wait(40 + minute)
        said += alerts(ward.say(vitals(20 + minute / 2, ILL)))
    blind = only(of(said, "monitoring-blind"))
    assert (blind.state, blind.decided_at) == ("resolved", at(70))
    assert (
        blind.reason == "not caught up: given up after 30 min, while sets of before it still come; 0 older sets went to history"
    )
    assert next((one.state, one.decided_at) for one in of(said, "news2")) == ("raised", at(70))


@pytest.mark.parametrize("every", [0, 0.25])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_senders_queue_that_drains_alerts_with_the_current_state_only(every: float, restarted: bool) -> None:
    """The connectors were down and the lane was not: what a patient was half an hour ago alerted, climbed, and fell silent."""
    ward, said = Ward(), []
    ward.chart(0, WELL)
    said += [one for one in ward.wait(40) if one.kind != "feed-stopped"]
    for place, (minute, values) in enumerate(MEANWHILE):
        score, found = ward.chart(minute, values, received=40 + place * every)
        said += [one for one in [*ward.meanwhile, *found] if one.kind != "feed-stopped"]
        late = 40 + place * every - minute > 10
        assert score.flags == (("catching-up",) if late else ())
        if restarted and place % 9 == 4:
            ward = restored(ward)
    assert said == []
    assert [one for one in ward.wait(60) if one.kind != "feed-stopped"] == []


@pytest.mark.parametrize("restarted", [False, True])
def test_what_a_drained_queue_comes_to_alerts_a_minute_later(restarted: bool) -> None:
    ward = Ward()
    ward.chart(0, WELL)
    for minute in (10, 15, 20):
        assert ward.chart(minute, ILL, received=40)[1] == []
    if restarted:
        ward = restored(ward)
    assert of(ward.wait(40.9), "news2") == []
    raised = only(of(ward.wait(41), "news2"))
    assert (raised.severity, raised.observed_at, raised.decided_at) == ("high", at(20), at(41))
    assert steps(of(ward.wait(46), "news2")) == [("news2", "escalated", "high")]


@pytest.mark.parametrize("pace", [2.2, 3, 8])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_queue_holds_a_patients_alerts_back_for_five_minutes_at_most(pace: float, restarted: bool) -> None:
    """Away for an hour, drained at 2.2 times the pace of the day: NEWS2 8 was told 41 minutes after its first set came."""
    ward, said = Ward(), []
    ward.chart(0, WELL)
    minute = 1.0
    while (received := 60 + (minute - 1) / pace) <= 66:
        score, found = ward.chart(minute, ILL, received=received)
        assert "catching-up" in score.flags
        said += of([*ward.meanwhile, *found], "news2")
        if restarted:
            ward = restored(ward)
        minute += 1
    raised = only([one for one in said if one.state == "raised"])
    assert at(65) <= raised.decided_at <= at(65.5)
    assert raised.severity == "high"


def test_what_a_queue_brings_after_the_first_five_minutes_waits_for_as_long_at_most() -> None:
    ward, said = Ward(), []
    ward.chart(0, WELL)
    for second in range(0, 12 * 60, 30):  # three times the pace of the day; ill from the seventh minute on
        _, found = ward.chart(1 + second / 20, ILL if second >= 420 else WELL, received=60 + second / 60)
        said += of([*ward.meanwhile, *found], "news2")
    raised = only([one for one in said if one.state == "raised"])
    assert at(67) < raised.decided_at <= at(71)


def test_a_wait_in_a_snapshot_of_before_is_bounded_from_the_restart_on() -> None:
    before = Ward()
    before.chart(0, WELL)
    before.chart(1, ILL, received=60)
    state = orjson.loads(before.monitor.dump(PATIENT) or b"")
    del state["settle_by"]
    ward = restored(before)
    ward.monitor.load(PATIENT, orjson.dumps(state))
    assert [ward.chart(minute, ILL, received=60.5)[1] for minute in (20, 30)] == [[], []]
    assert of(ward.wait(61.4), "news2") == []
    assert steps(of(ward.wait(61.5), "news2")) == [("news2", "raised", "high")]


def test_late_charting_waits_a_minute_once_and_never_for_longer_than_it_may_alert() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    assert ward.chart(5, WELL, received=30)[1] == []
    for hour in (1, 2, 3):  # as late as the last one: it is how they chart, or what the clock shows
        assert ward.chart(60 * hour + 5, WELL, received=60 * hour + 30)[0].flags == ()
    assert steps(ward.chart(245, ILL, received=270)[1]) == [("news2", "raised", "high")]
    assert steps(Ward().chart(0, ILL, received=59.5)[1]) == [("news2", "raised", "high")]
    ward = Ward()
    assert ward.chart(0, ILL, received=58)[1] == []
    assert steps(of(ward.wait(59), "news2")) == [("news2", "raised", "high")]


def test_a_set_on_time_does_not_wait_for_the_old_one_before_it() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    ward.chart(10, {**WELL, "rr": 26}, received=40)
    assert steps(ward.chart(40.1, ILL)[1]) == [("news2", "raised", "high")]


def test_a_correction_out_of_a_queue_withdraws_at_once() -> None:
    ward = Ward()
    ward.chart(0, {**WELL, "rr": 61})
    said = ward.chart(0, observations=[observation("rr", 16, status="corrected")], received=40)[1]
    assert steps(of(said, "news2")) == [("news2", "withdrawn", "low-medium")]


# ---------------------------------------------------------------------------------------------- a feed that is always too late


@pytest.mark.parametrize("restarted", [False, True])
def test_a_feed_whose_sets_are_always_too_old_to_alert_is_told(restarted: bool) -> None:
    """A clock an hour and a minute slow, NEWS2 8 all day, a set every quarter of an hour: no alert, no sign anywhere."""
    ward, said = Ward(), []
    for minute in range(0, 12 * 60, 15):
        score, found = ward.chart(minute - 61, ILL, received=minute, peer="monitors")
        assert score.late
        said += [*ward.meanwhile, *found]
        ward.chart(minute, WELL, peer="ehr", patient="another")
        if restarted and minute % 60 == 30:
            ward = restored(ward, PATIENT, "another", ward.monitor.id)
    late = only(of(said, "feed-late"))
    assert (late.state, late.severity, late.decided_at, late.patient_id) == ("raised", "information", at(71), ward.monitor.id)
    assert late.title == "Feed monitors: sets come 1 h 1 min after their own time"
    assert "its patients are not watched" in late.detail
    assert late.reason == "sets older than 1 h 0 min are history"
    assert ward.monitor.behind == {"monitors": 3660.0, "ehr": 0.0}

    assert steps(ward.say(answer(late.alert_id, 720, patient=ward.monitor.id))) == [
        ("feed-late", "acknowledged", "information")
    ]
    said = []
    for minute in range(12 * 60, 16 * 60, 15):  # the clock is set right
        ward.chart(minute, ILL, peer="monitors")
        said += ward.meanwhile
    back = only(of(said, "feed-late"))
    assert (back.alert_id, back.state, back.reason) == (late.alert_id, "resolved", "its sets come in time again")
    assert ward.monitor.behind["monitors"] == 0.0


def test_a_feed_whose_long_queue_has_drained_is_not_told_as_late() -> None:
    ward = Ward()
    ward.wait(200)
    for minute in range(0, 120, 10):
        ward.chart(minute, WELL, received=200, peer="monitors")
    assert ward.monitor.behind["monitors"] > 3600
    said = []
    for minute in range(201, 400, 15):
        ward.chart(minute, WELL, peer="monitors")
        said += ward.meanwhile
        assert ward.monitor.behind["monitors"] == 0.0
    assert of(said, "feed-late") == []


def test_what_corrects_old_sets_and_what_moved_does_not_make_a_feed_late() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    for minute in range(100, 130):
        ward.chart(0, {"hr": minute}, status="corrected", received=minute)
        ward.say(vitals(0, WELL, received=minute).model_copy(update={"moved_from": ("old",)}))
    assert "ehr" not in ward.monitor.behind
    assert of(ward.wait(150), "feed-late") == []


def test_feeds_in_a_snapshot_of_before_go_on() -> None:
    before = Ward()
    before.chart(0, WELL)
    state = orjson.loads(before.monitor.dump(before.monitor.id) or b"")
    assert len(state["feeds"]["ehr"]) == 6
    state["feeds"]["ehr"] = state["feeds"]["ehr"][:4]
    ward = restored(before)
    ward.monitor.load(ward.monitor.id, orjson.dumps(state))
    assert steps(of(ward.wait(31), "feed-stopped")) == [("feed-stopped", "raised", "information")]
