"""The monitor, scenario by scenario: what clinical safety asks for, each as a story on one ward."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest

from models.errors import Fatal, Poison
from models.tasks import ModelIdentity
from processors.deterioration import deterioration_of
from processors.events import AlertEvent, HeartbeatEvent, Location, News2, Observation, PatientEvent, ScoreEvent, Source
from processors.monitor import Monitor, MonitorRules
from processors.patients import Context
from processors.rules import CeilingPolicy, FeedSilence
from tests.bedside import ILL, PATIENT, SOURCE, START, WELL, Ward, alerts, answer, at, context, observation, steps, vitals

IDENTITY = ModelIdentity("lstm", "1", "d" * 64)


def only(found: list[AlertEvent]) -> AlertEvent:
    assert len(found) == 1, steps(found)
    return found[0]


def of(found: list[AlertEvent], kind: str = "news2") -> list[AlertEvent]:
    return [one for one in found if one.kind == kind]


def total(score: ScoreEvent) -> int:
    assert score.news2 is not None, score.news2_reason
    return score.news2.total


def restored(before: Ward) -> Ward:
    """Return a ward with a monitor that was loaded from the other's snapshots."""
    ward = Ward(admit=False)
    for name in (PATIENT, before.monitor.id):
        ward.monitor.load(name, before.monitor.dump(name))
    return ward


# ------------------------------------------------------------------------------------------------------------ a whole life


def test_an_alerts_whole_life() -> None:
    ward = Ward()
    _, none = ward.chart(0, {**WELL, "hr": 112, "temp": 38.5, "sbp": 108})  # 2 + 1 + 1
    assert none == []
    score, found = ward.chart(60, ILL)
    raised = only(found)
    assert (raised.kind, raised.state, raised.severity, raised.sequence) == ("news2", "raised", "high", 0)
    assert raised.title == "NEWS2 8 (was 4): respirations 26/min (3), SpO2 91% (3), on oxygen (2)"
    assert "RCP asks" in raised.detail
    assert "diagnos" not in (raised.title + raised.detail).casefold()
    assert raised.reason == "total reached 8"
    assert raised.score_id == score.id
    assert raised.news2 == score.news2
    assert (raised.observed_at, raised.received_at, raised.decided_at) == (at(60), at(60), at(60))
    assert (raised.location.ward, raised.encounter_id, raised.route) == ("A", "e1", "default")

    climbed = of(ward.wait(71))
    assert [(one.state, one.route, one.decided_at) for one in climbed] == [
        ("escalated", "nurse-in-charge", at(65)),
        ("escalated", "rapid-response", at(70)),
    ]
    answered = only(alerts(ward.say(answer(raised.alert_id, 72, reason="on my way"))))
    assert (answered.state, answered.by, answered.reason, answered.title) == (
        "acknowledged",
        "nurse-7",
        "on my way",
        raised.title.replace(" (was 4)", " as of 09:00 UTC"),
    )
    assert ward.wait(89) == []

    _, found = ward.chart(90, {**ILL, "hr": 131})  # 11: marked rise, somebody must answer anew
    worse = only(found)
    assert (worse.state, worse.severity, worse.reason) == ("updated", "high", "3 points more than last told")
    assert (worse.route, worse.routes) == ("default", ("default", "nurse-in-charge", "rapid-response"))
    assert only(ward.wait(95)).state == "escalated"
    assert only(alerts(ward.say(answer(raised.alert_id, 96)))).state == "acknowledged"

    assert ward.chart(120, {**WELL, "flow": 2})[1] == []  # 2: calm, but once is not enough
    _, found = ward.chart(150, {**WELL, "flow": 2})
    resolved = only(found)
    assert (resolved.state, resolved.reason, resolved.title) == (
        "resolved",
        "below the threshold for 2 sets",
        "NEWS2 2: on oxygen (2)",
    )
    life = [raised, *climbed, answered, worse, resolved]
    assert {one.alert_id for one in life} == {raised.alert_id}
    assert resolved.sequence == 7
    assert (resolved.route, resolved.routes) == ("nurse-in-charge", worse.routes), "whoever was told hears the end"
    assert len({one.id for one in life}) == len(life)


def test_what_is_over_orders_nobody_to_come() -> None:
    """A resolved alert, NEWS2 0, asked for the emergency team as when it was raised."""
    asks, assistive = "RCP asks", "Supports clinical judgement"

    def told(*later: Any, state: str, ward: Ward | None = None) -> AlertEvent:
        ward = ward or Ward()
        raised = only(ward.chart(0, ILL)[1])
        assert asks in raised.detail
        for do in later:
            last = do(ward, raised)
        assert (last.alert_id, last.state) == (raised.alert_id, state)
        assert assistive in last.detail
        return last

    def well(minute: float) -> Any:
        return lambda ward, _: next(iter(of(ward.chart(minute, WELL)[1])), None)

    def answered(kind: str) -> Any:
        return lambda ward, raised: only(alerts(ward.say(answer(raised.alert_id, 11, kind))))

    resolved = told(well(10), well(30), state="resolved")
    assert resolved.detail.startswith("This alert is over. The score is below every threshold that alerts. As of ")
    withdrawn = told(lambda ward, _: only(ward.chart(0, WELL, status="corrected", received=5)[1]), state="withdrawn")
    assert withdrawn.detail.startswith("This alert is taken back. The score is below every threshold that alerts. As of ")
    declined = told(lambda ward, _: ward.wait(10), answered("alert-declined"), state="declined")
    assert declined.detail.startswith("This alert is over: somebody declined it. The score stands at the emergency threshold. ")
    discharged = told(
        lambda ward, _: only(alerts(ward.say(context(5, encounter_status="finished")))),
        state="resolved",
    )
    assert discharged.detail.startswith("This alert is over. Last told: NEWS2 8 at 08:00 UTC. ")
    assert not any(asks in one.detail for one in (resolved, withdrawn, declined, discharged))

    acknowledged = told(answered("alert-acknowledged"), state="acknowledged")
    assert acknowledged.detail.startswith(
        "Somebody has answered; nobody else is called unless it gets graver or goes on for long. E"
    )
    escalated = told(well(4), lambda ward, _: only(ward.wait(5)), state="escalated")
    assert asks in escalated.detail
    assert "That is below the alert's threshold; the alert stands until it has lasted." in escalated.detail


def test_a_page_about_what_was_worse_says_what_it_was_and_when() -> None:
    """One well set, and the emergency team was called to "NEWS2 0"."""
    ward = Ward()
    ward.chart(0, ILL)
    ward.chart(4, {**WELL, "hr": 95})
    paged = ward.wait(10)[-1]
    assert (paged.route, paged.title) == ("rapid-response", "NEWS2 8 at 08:00 UTC, then 1 at 08:04 UTC: pulse 95/min (1)")
    assert " Last told: NEWS2 8 at 08:00 UTC. As of 08:04 UTC. That is below the alert's threshold; " in paged.detail
    ward = restored(ward)
    again = only(alerts(ward.say(context(11).model_copy(update={"location": Location(ward="A", bed="2")}))))
    assert again.title == paged.title
    assert only(of(ward.chart(20, {**WELL, "hr": 95})[1])).title == "NEWS2 1: pulse 95/min (1)"


def test_a_page_about_a_single_3_that_is_left_names_it() -> None:
    ward = Ward()
    ward.chart(0, {**WELL, "rr": 26})
    ward.chart(50, {**WELL, "hr": 112, "temp": 38.5, "sbp": 108})  # 4, and no 3
    (paged,) = of(ward.wait(60))
    assert paged.title.startswith("NEWS2 3 (respirations at 3) at 08:00 UTC, then 4 at 08:50 UTC: pulse 112/min (2), ")


def test_what_is_not_of_now_says_of_when_it_is() -> None:
    """Three hours later the title read as if the patient breathed 26 times a minute now."""
    ward = Ward()
    raised = only(ward.chart(0, ILL)[1])
    assert raised.title.startswith("NEWS2 8: respirations")
    assert " As of 08:00 UTC. Also: " in raised.detail
    later = [one for one in ward.wait(26 * 60) if one.kind == "news2"]
    assert [one.title[:24] for one in later[:2]] == ["NEWS2 8 as of 08:00 UTC:"] * 2
    assert later[-1].title.startswith("NEWS2 8 as of 2026-11-23 08:00 UTC: respirations")
    assert " As of 2026-11-23 08:00 UTC. " in later[-1].detail
    late = Ward()
    assert only(late.chart(0, ILL, received=59.5)[1]).title.startswith("NEWS2 8 as of 08:00 UTC: respirations")


def test_ids_are_the_same_on_every_run() -> None:
    def run() -> list[Any]:
        ward = Ward()
        out: list[Any] = []
        for minute in range(0, 200, 20):
            score, found = ward.chart(minute, ILL if minute < 100 else WELL, id=f"same-{minute}")
            out += [score, *found, *ward.wait(minute + 19)]
        return out

    assert run() == run()


def test_a_repeated_event_leaves_no_output() -> None:
    ward = Ward()
    event = vitals(0, ILL)
    assert len(ward.say(event)) == 2
    assert ward.say(event) == []
    assert ward.monitor.counts["repeats"] == 1


@pytest.mark.parametrize("restarted", [False, True])
def test_a_set_that_comes_again_within_the_hour_is_a_repeat_whatever_came_between(restarted: bool) -> None:
    """NEWS2 8; its SpO2 was corrected, 18 sets followed, and it came again: 5 and late, under the same id."""
    ward, first = Ward(), vitals(0, ILL)
    ward.say(first)
    ward.chart(0, {"spo2": 97}, status="corrected", received=1)
    between = [vitals(minute, {**WELL, "hr": 70 + minute % 3}) for minute in range(2, 61)]
    for event in between:
        ward.wait((event.received_at - START).total_seconds() / 60)
        ward.say(event)
        if restarted:
            ward = restored(ward)
    assert [ward.say(event) for event in (first, *between)] == [[]] * 60
    assert ward.say(vitals(61, WELL)) != []
    ward.wait(150)
    for minute in range(150, 170):
        ward.chart(minute, WELL)
    (again,) = ward.say(first)
    assert isinstance(again, ScoreEvent)
    assert again.late


def test_what_is_remembered_of_a_monitors_sets_stays_small() -> None:
    ward = Ward()
    for second in range(0, 4 * 3600, 10):
        ward.monitor.tick(START + timedelta(seconds=second), SOURCE)
        ward.say(vitals(second / 60, {"hr": 70}, id=f"{second:036d}"))
    patient = ward.monitor._patients[PATIENT]
    assert len(patient.lately) == 128
    assert len(patient.dump()) < 8000
    ward.chart(6 * 60, WELL)
    assert len(patient.lately) == 1


def test_a_set_too_old_to_alert_is_not_remembered_by_time_so_that_it_may_be_redriven() -> None:
    ward, event = Ward(), vitals(0, ILL, received=61)
    ward.wait(61)
    assert len(ward.say(event)) == 1
    for minute in range(62, 82):
        ward.chart(minute, WELL)
    assert len(ward.say(event)) == 1


# ------------------------------------------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize(
    ("values", "severity"),
    [
        (WELL, None),
        ({**WELL, "flow": 2, "hr": 111}, None),  # 4
        ({**WELL, "rr": 25}, "low-medium"),  # a single 3
        ({**WELL, "acvpu": "C"}, "low-medium"),
        ({**WELL, "flow": 2, "hr": 111, "temp": 38.5}, "medium"),  # 5
        ({**WELL, "flow": 2, "hr": 111, "temp": 39.1}, "medium"),  # 6
        ({**WELL, "flow": 2, "hr": 111, "temp": 39.1, "sbp": 105}, "high"),  # 7
    ],
)
def test_what_alerts(values: dict[str, Any], severity: str | None) -> None:
    _, found = Ward().chart(0, values)
    assert [one.severity for one in found] == ([severity] if severity else [])


@pytest.mark.parametrize(
    ("values", "of_interest"),
    [
        (WELL, False),
        ({**WELL, "flow": 2, "hr": 91}, False),  # 3
        ({**WELL, "flow": 2, "hr": 111}, True),  # 4: an alert of 5 holds
        ({**WELL, "rr": 25}, True),
        (ILL, True),
    ],
)
def test_where_somebody_may_ask_what_drove_the_score(values: dict[str, Any], of_interest: bool) -> None:
    assert Ward().monitor.observe(vitals(0, values), SOURCE).of_interest is of_interest


def test_confusion_of_which_nobody_says_that_it_is_usual_is_taken_as_new_and_the_alert_says_so() -> None:
    ward = Ward()
    score, (alert,) = ward.chart(5, {**WELL, "acvpu": "Confused"})
    assert score.news2 is not None and score.news2.total == 3
    assert alert.title == "NEWS2 3: confusion taken as new (3)"
    other, _ = Ward().chart(5, {**WELL, "acvpu": "Chronic confusion"})
    assert other.news2 is not None and other.news2.missing == ("consciousness",)


def test_a_site_may_leave_single_threes_to_the_ward() -> None:
    ward = Ward(MonitorRules(minimum_severity="medium"))
    assert ward.chart(0, {**WELL, "rr": 25})[1] == []
    assert only(ward.chart(60, ILL)[1]).severity == "high"


def test_a_partial_set_says_at_least_and_what_is_missing() -> None:
    score, found = Ward().chart(0, {"hr": 135, "rr": 26})
    assert score.news2 is not None
    assert (score.news2.total, score.news2.at_least) == (6, True)
    assert only(found).title == "NEWS2 at least 6: respirations 26/min (3), pulse 135/min (3)"
    assert (
        "Missing, true total may be higher: SpO2, air or oxygen, systolic BP, consciousness, temperature." in only(found).detail
    )


def test_values_are_carried_forward_each_for_its_time() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    score, _ = ward.chart(5 * 60, {"hr": 115})
    assert (total(score), score.news2 and score.news2.missing) == (2, ())
    score, found = ward.chart(6 * 60 + 1, {"hr": 115})
    assert score.news2 is not None
    assert score.news2.missing == ("respiratory_rate", "spo2", "systolic")
    score, _ = ward.chart(12 * 60 + 1, {"hr": 115})
    assert score.news2 is not None
    assert score.news2.missing == ("respiratory_rate", "spo2", "oxygen", "systolic", "consciousness", "temperature")
    assert found == []


def test_the_detail_names_what_is_carried_forward() -> None:
    ward = Ward()
    ward.chart(0, {"temp": 38.5, "flow": 2})
    _, found = ward.chart(45, {"hr": 115})
    assert "Carried forward: on" not in only(found).detail
    assert "Carried forward: air or oxygen from 08:00 UTC, temperature from 08:00 UTC." in only(found).detail


# ----------------------------------------------------------------------------------------------------------- eligibility


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        ({"birth_date": None}, "age unknown"),
        ({"birth_date": "not a date"}, "age unknown"),
        ({"birth_date": "2010-11-24"}, "under 16 years"),
        ({"birth_date": "2010-11-23"}, ""),
        ({"birth_date": "2010"}, "under 16 years"),  # may be born on the last day of the year
        ({"birth_date": "2009"}, ""),
        ({"birth_date": "2010-11"}, "under 16 years"),
        ({"pregnant": True}, "pregnancy recorded"),
        ({"pregnant": None}, ""),  # unknown silences nobody
        ({"pregnant": False}, ""),
    ],
)
def test_news2_is_for_adults_who_are_not_pregnant(known: dict[str, Any], reason: str) -> None:
    score, found = Ward(**known).chart(0, ILL)
    assert score.news2_reason == reason
    assert (score.news2 is None) == bool(reason)
    assert len(found) == (0 if reason else 1)


def test_nothing_known_of_the_patient_no_alert_and_the_reason_published() -> None:
    score, found = Ward(admit=False).chart(0, ILL)
    assert (score.news2, score.news2_reason, found) == (None, "age unknown", [])


@pytest.mark.parametrize("birth_date", ["9999-12-31", "9999", "9990-06", "2990-01-01", "0001-01-01"])
def test_a_placeholder_is_no_birth_date(birth_date: str) -> None:
    assert Ward(birth_date=birth_date).chart(0, ILL)[0].news2_reason == "age unknown"


@pytest.mark.parametrize(
    "moment",
    [
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-14))),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
    ],
)
def test_an_impossible_time_stops_nobody_elses_monitoring(moment: datetime) -> None:
    ward = Ward()
    for name in ("observed_at", "received_at"):
        event = vitals(0, ILL).model_copy(update={name: moment})
        with pytest.raises(Poison, match="outside the years 1800 to 2999"):
            ward.say(event)
    with pytest.raises(Poison, match="outside the years"):
        ward.say(vitals(0, observations=[observation("rr", 30, when=moment)]))
    assert ward.wait(2) == []
    assert only(ward.chart(3, ILL)[1]).state == "raised"


@pytest.mark.parametrize("step", ["chart", "score"])
def test_a_set_that_became_a_dead_letter_is_no_repeat_when_it_is_redriven(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    ward = Ward()
    broken = {"chart": (ward.monitor._charting, "chart"), "score": (ward.monitor, "_score")}[step]

    def fails(*_: object) -> None:
        raise ValueError(PATIENT)

    with monkeypatch.context() as patched, pytest.raises(Poison, match="unforeseen ValueError") as told:
        patched.setattr(*broken, fails)
        ward.chart(0, ILL)
    assert PATIENT not in str(told.value)
    score, found = ward.chart(0, ILL)
    assert total(score) == 8
    assert len(found) == (step == "chart"), "what was charted before is no news: it is scored alone"


def test_the_sixteenth_birthday_counts_at_the_observed_date() -> None:
    ward = Ward(birth_date="2010-11-24")  # START is the day before
    assert ward.chart(0, ILL)[0].news2_reason == "under 16 years"
    assert ward.chart(16 * 60 - 1, ILL)[0].news2_reason == "under 16 years"
    assert only(ward.chart(16 * 60, ILL)[1]).state == "raised"


def test_age_learned_later_lets_the_current_state_alert() -> None:
    ward = Ward(birth_date=None)
    assert ward.chart(0, ILL)[1] == []
    assert steps(ward.say(context(1))) == [("news2", "raised", "high")]


def test_age_learned_later_scores_the_newest_set_anew_and_the_alert_rests_on_that() -> None:
    ward = Ward(admit=False)
    first, _ = ward.chart(5, ILL)
    assert first.news2 is None and first.news2_reason == "age unknown"
    known = context(5, id="context")
    source = Source(topic="clinical.patients", partition=0, offset=7, event_id="context")
    anew, alert = ward.monitor.patient(known, source)
    assert isinstance(anew, ScoreEvent) and isinstance(alert, AlertEvent)
    assert anew.news2 is not None and anew.news2.total == 8 and anew.flags == ("age-learned",)
    assert (anew.source, anew.observed_at, anew.received_at) == (source, first.observed_at, first.received_at)
    assert alert.score_id == anew.id != first.id
    assert ward.say(context(6)) == []


def test_a_child_learned_of_later_is_said_to_be_one() -> None:
    ward = Ward(admit=False)
    ward.chart(5, ILL)
    (anew,) = ward.say(context(5, birth_date="2020-01-01"))
    assert isinstance(anew, ScoreEvent) and anew.news2 is None and anew.news2_reason == "under 16 years"


def test_age_learned_when_nothing_is_current_scores_nothing_anew() -> None:
    ward = Ward(admit=False)
    assert ward.say(context(0, birth_date=None)) == [] and ward.say(context(1)) == []
    ward = Ward(admit=False)
    ward.chart(5, ILL)
    ward.wait(70)
    assert ward.say(context(70)) == []


def test_a_score_anew_is_the_same_from_a_snapshot() -> None:
    ward = Ward(admit=False)
    ward.chart(5, ILL)
    again, known = restored(ward), context(5, id="context")
    assert again.say(known) == ward.say(known) != []


def test_pregnancy_recorded_later_withdraws() -> None:
    ward = Ward()
    ward.chart(0, ILL)
    gone = only(alerts(ward.say(context(1, pregnant=True))))
    assert (gone.state, gone.reason) == ("withdrawn", "NEWS2 does not apply: pregnancy recorded")


# -------------------------------------------------------------------------------------------------------- SpO2, oxygen


def test_scale_2_only_by_a_recorded_decision() -> None:
    low = {**WELL, "spo2": 90}
    assert total(Ward().chart(0, low)[0]) == 3
    score, _ = Ward(spo2_scale=2).chart(0, low)
    assert (total(score), score.flags) == (3, ("scale-2-without-decision",))
    score, found = Ward(spo2_scale=2, spo2_scale_decided_by="dr-1").chart(0, low)
    assert (total(score), found, score.flags) == (0, [], ())
    assert score.news2 is not None
    assert score.news2.scale == 2


def test_a_scale_recorded_later_rescores_at_once() -> None:
    ward = Ward()
    raised = only(ward.chart(0, {**WELL, "spo2": 90})[1])
    changed = only(alerts(ward.say(context(1, spo2_scale=2, spo2_scale_decided_by="dr-1"))))
    assert (changed.alert_id, changed.state, changed.reason) == (raised.alert_id, "resolved", "SpO2 scale 2 recorded")


@pytest.mark.parametrize(
    ("oxygen", "points"),
    [
        ({"flow": 2}, 2),
        ({"flow": 0}, 0),
        ({"fio2": 21}, 0),
        ({"fio2": 28}, 2),
        ({"fio2": 21, "flow": 2}, 2),
        ({"flow": 0, "fio2": 40}, 2),
    ],
)
def test_on_oxygen_if_either_says_so(oxygen: dict[str, Any], points: int) -> None:
    values = {name: value for name, value in WELL.items() if name != "flow"} | oxygen
    assert total(Ward().chart(0, values)[0]) == points


# -------------------------------------------------------------------------------------------------- what cannot be used


def test_unusable_values_are_refused_with_reasons_and_the_rest_is_used() -> None:
    observations = [
        observation("hr", 135),
        observation("rr", 900),
        observation("temp", 98.6),
        observation("spo2", 60),  # extreme, and kept
        observation("sbp", 90, unit="furlong"),
        observation("acvpu", "grumpy"),
    ]
    score, found = Ward().chart(0, observations=observations)
    assert total(score) == 6
    assert "SpO2 60% (3)" in only(found).title
    assert [one.code for one in score.rejected] == ["9279-1", "8310-5", "8480-6", "67775-7"]
    assert all(one.reason for one in score.rejected)


def test_swapped_pressures_are_both_refused() -> None:
    score, found = Ward().chart(0, {**WELL, "sbp": 70, "dbp": 120})
    assert {one.code for one in score.rejected} == {"8480-6", "8462-4"}
    assert score.news2 is not None
    assert score.news2.missing == ("systolic",)
    assert found == []


def test_a_set_of_garbage_still_gives_one_score() -> None:
    score, found = Ward().chart(0, observations=[observation("hr", None), observation("rr", "x")])
    assert (score.news2, score.news2_reason, len(score.rejected), found) == (None, "no vital sign known", 2, [])


# ----------------------------------------------------------------------------------------- late, duplicate, out of order


def test_a_great_deal_of_garbage_gives_a_score_that_fits_into_a_record() -> None:
    garbage = [Observation(code="9279-1", value=16, unit=f"unit-{n}-" + "x" * 100) for n in range(1000)]
    score, _ = Ward().chart(0, observations=[*garbage, *(Observation(code="8867-4" + "9" * n, value=70) for n in range(250))])
    assert len(score.model_dump_json()) < 100_000
    assert score.rejected[-1].reason.startswith("and ")


def test_an_older_set_is_history() -> None:
    ward = Ward()
    ward.chart(60, WELL)
    score, found = ward.chart(30, ILL, received=61)
    assert (score.late, total(score), found) == (True, 8, [])
    score, found = ward.chart(62, {"hr": 71})
    assert (score.late, total(score), found) == (False, 0, [])


def test_an_older_set_that_knows_a_parameter_best_is_current() -> None:
    """A monitor's pulse a minute after the nurse's round must not make the round history."""
    ward = Ward()
    ward.chart(60, {"hr": 80})
    score, found = ward.chart(58, {**ILL, "hr": 70}, received=62)
    assert (score.late, total(score)) == (False, 8)
    assert only(found).severity == "high"


def test_a_late_set_is_scored_as_of_its_own_time() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    ward.chart(60, {"hr": 135, "rr": 26})
    score, _ = ward.chart(30, {"hr": 100}, received=61)
    assert (score.late, total(score)) == (True, 1)


def test_too_old_to_alert() -> None:
    ward = Ward()
    score, found = ward.chart(0, ILL, received=61)
    assert (score.late, total(score), found) == (True, 8, [])
    score, found = Ward().chart(0, ILL, received=60)
    assert (score.late, len(found)) == (False, 1)


def test_the_same_observation_through_two_feeds_is_one() -> None:
    ward = Ward()
    assert only(ward.chart(0, ILL, peer="gateway")[1]).state == "raised"
    score, found = ward.chart(0, ILL, peer="ehr", received=1)
    assert (score.late, total(score), found) == (False, 8, [])
    ward.chart(10, WELL, peer="gateway")
    assert ward.chart(10, WELL, peer="ehr", received=11)[1] == []  # one calm set, not two
    assert ward.chart(26, WELL, peer="gateway")[1] != []


def test_precedence_where_two_feeds_differ() -> None:
    rules = MonitorRules(sources=("ehr", "gateway"))
    ward = Ward(rules)
    ward.chart(0, {**WELL, "rr": 16}, peer="ehr")
    score, found = ward.chart(0, {**WELL, "rr": 30}, peer="gateway", received=1)
    assert (total(score), found) == (0, [])
    assert [one.code for one in score.rejected] == ["9279-1"]
    ward = Ward(rules)
    ward.chart(0, {**WELL, "rr": 30}, peer="gateway")
    score, found = ward.chart(0, {**WELL, "rr": 16}, peer="ehr", received=1)
    assert (total(score), found) == (0, [])  # what it rested on was measured all the same: nothing is withdrawn
    ward.chart(10, WELL, peer="ehr")
    assert steps(ward.chart(26, WELL, peer="ehr")[1]) == [("news2", "resolved", "low-medium")]


@pytest.mark.parametrize("restarted", [False, True])
def test_another_feeds_value_for_the_same_minute_is_no_correction(restarted: bool) -> None:
    ward = Ward()
    raised = only(ward.chart(0, {**WELL, "spo2": 80, "rr": 22}, peer="bedside")[1])
    score, found = ward.chart(0, WELL, peer="ehr", received=1)
    assert (total(score), found) == (5, [])
    assert {one.reason for one in score.rejected} == {"two values for one time, neither a correction: the graver counts"}
    if restarted:
        ward = restored(ward)
    assert ward.chart(1, {"temp": 36.8}, peer="ehr")[1] == []
    taken = only(
        ward.chart(0, observations=[observation("spo2", 80, status="entered-in-error")], peer="bedside", received=2)[1]
    )
    assert (taken.alert_id, taken.state) == (raised.alert_id, "withdrawn")  # 97 stands in for it; respirations stay
    assert taken.news2 is not None
    assert [(one.name, one.value) for one in taken.news2.parameters if one.name == "spo2"] == [("spo2", 97.0)]


def test_the_graver_of_two_feeds_counts_whichever_comes_first() -> None:
    ward = Ward()
    assert ward.chart(0, WELL, peer="ehr")[1] == []
    score, found = ward.chart(0, {**WELL, "spo2": 80, "rr": 22}, peer="bedside", received=1)
    assert (total(score), steps(found)) == (5, [("news2", "raised", "medium")])
    score, found = ward.chart(0, {"spo2": 60}, peer="third", received=2)  # as many points, and graver
    assert score.news2 is not None
    assert ([one.value for one in score.news2.parameters if one.name == "spo2"], found) == ([60.0], [])


def test_to_take_back_the_milder_value_leaves_the_graver_and_its_alert() -> None:
    ward = Ward()
    ward.chart(0, {**WELL, "spo2": 80, "rr": 22}, peer="bedside")
    ward.chart(0, WELL, peer="ehr", received=1)
    wrong = [observation("spo2", 97, status="entered-in-error")]
    score, found = ward.chart(0, observations=wrong, peer="ehr", received=2)
    assert (total(score), found) == (5, [])


def test_the_same_minute_told_twice_is_one_set_towards_calm() -> None:
    ward = Ward(MonitorRules(resolve_after=timedelta(0)))
    ward.chart(0, ILL, peer="bedside")
    assert ward.chart(10, WELL, peer="bedside")[1] == []
    assert ward.chart(10, {**WELL, "hr": 72, "temp": 36.9}, peer="ehr", received=11)[1] == []
    assert steps(ward.chart(20, WELL, peer="bedside")[1]) == [("news2", "resolved", "high")]


def test_a_corrected_value_counts_whatever_the_feeds_measured() -> None:
    ward = Ward()
    ward.chart(0, {**WELL, "spo2": 80, "rr": 22}, peer="bedside")
    ward.chart(0, WELL, peer="ehr", received=1)
    gone = only(ward.chart(0, observations=[observation("spo2", 96, status="corrected")], received=2)[1])
    assert (gone.state, gone.reason) == ("withdrawn", "corrected or taken back: SpO2")
    assert ward.monitor._patients[PATIENT].history.rivals.keys() == {"respiratory_rate"}


def test_within_one_set_too_the_graver_of_two_values_counts() -> None:
    score, found = Ward().chart(0, observations=[observation("spo2", 80), observation("spo2", 97)])
    assert (total(score), steps(found)) == (3, [("news2", "raised", "low-medium")])
    assert len(score.rejected) == 1


def test_a_future_stamp_is_flagged_and_does_not_make_later_sets_old() -> None:
    ward = Ward()
    score, found = ward.chart(65, ILL, received=5)  # a zone wrong by an hour
    assert (score.flags, score.late, len(found)) == (("future-stamp",), False, 1)
    assert found[0].observed_at == at(5)
    score, _ = ward.chart(10, WELL)
    assert (score.late, total(score), score.flags) == (False, 0, ())


# ------------------------------------------------------------------------------------------------------------ corrections


@pytest.mark.parametrize("status", ["corrected", "amended"])
def test_a_corrected_value_withdraws_a_wrong_alert(status: str) -> None:
    ward = Ward()
    raised = only(ward.chart(0, {**WELL, "rr": 61})[1])
    gone = only(ward.chart(0, observations=[observation("rr", 16, status=status)], received=5)[1])
    assert (gone.alert_id, gone.state, gone.reason) == (raised.alert_id, "withdrawn", "corrected or taken back: respirations")


@pytest.mark.parametrize("status", ["entered-in-error", "cancelled"])
@pytest.mark.parametrize("told", [True, False])
def test_a_value_taken_back_withdraws(status: str, told: bool) -> None:
    ward = Ward()
    ward.chart(-60, WELL, received=-59)
    only(ward.chart(0, {**WELL, "rr": 61})[1])
    score, found = ward.chart(0, observations=[observation("rr", 61 if told else None, status=status)], received=5)
    assert only(found).state == "withdrawn"
    assert total(score) == 0  # the respirations of an hour before stand again


def test_a_whole_set_of_the_wrong_patient_is_taken_back_hours_later() -> None:
    ward = Ward()
    ward.chart(0, ILL)
    _, found = ward.chart(0, ILL, status="entered-in-error", received=180)
    assert only(found).state == "withdrawn"
    assert [one for one in ward.wait(200) if one.kind == "news2"] == []


SECOND = 1 / 60


def _alerted(minutes: float) -> Ward:
    ward = Ward()
    ward.chart(-60, WELL, received=-59)
    only(ward.chart(minutes, {**WELL, "rr": 61}, received=2)[1])
    return ward


@pytest.mark.parametrize(
    ("said", "taken_back", "span"),
    [
        (25 * SECOND, 0, 60),  # to the second, taken back to the minute
        (25 * SECOND, 25 * SECOND, 60),
        (25.123 * SECOND, 25 * SECOND, 1),  # with fractions, and without
        (0, 25 * SECOND, 1),  # to the minute, and to the second
        (25 * SECOND, 25.123 * SECOND, 0),
        (25 * SECOND, -35, 3600),  # to the hour
    ],
)
@pytest.mark.parametrize("told", [True, False])
def test_what_takes_back_finds_a_value_whose_time_is_written_otherwise(
    said: float, taken_back: float, span: int, told: bool
) -> None:
    ward = _alerted(said)
    gone = observation("rr", 61 if told else None, status="entered-in-error", span=span)
    score, found = ward.chart(taken_back, observations=[gone], received=5)
    finer = taken_back > said  # then it is known by its value alone
    if finer and not told:
        assert found == []
        assert ward.monitor.counts["unmatched_retractions"] == 1
        return
    assert only(found).state == "withdrawn"
    assert total(score) == 0
    assert [one.reason for one in score.rejected] == ["entered in error"]
    again, _ = ward.chart(taken_back, observations=[gone], received=6)  # another feed's word of it
    assert [one.reason for one in again.rejected] == ["entered in error"]
    assert ward.monitor.counts["unmatched_retractions"] == 0
    assert total(ward.chart(said, {"rr": 61}, received=7)[0]) == 0  # nor does the original come back


def test_a_correction_finds_the_value_whose_time_is_written_otherwise() -> None:
    ward = _alerted(25 * SECOND)
    _, found = ward.chart(0, observations=[observation("rr", 16, status="corrected", span=60)], received=5)
    assert only(found).state == "withdrawn"


def test_of_several_values_within_a_time_as_written_the_one_that_is_told_is_taken_back() -> None:
    ward = _alerted(25 * SECOND)
    ward.chart(40 * SECOND, {"rr": 60}, received=3)
    _, found = ward.chart(0, observations=[observation("rr", None, status="entered-in-error", span=60)], received=5)
    assert found == []  # which is meant nobody can tell
    assert ward.monitor.counts["unmatched_retractions"] == 1
    score, found = ward.chart(0, observations=[observation("rr", 60, status="entered-in-error", span=60)], received=6)
    assert (total(score), found) == (3, [])
    score, found = ward.chart(0, observations=[observation("rr", 61, status="entered-in-error", span=60)], received=7)
    assert (total(score), only(found).state) == (0, "withdrawn")


def test_a_retraction_that_fits_nothing_is_counted_and_the_score_says_so() -> None:
    ward = _alerted(0)
    for minutes, value, status in ((-3, 61, "entered-in-error"), (-3, None, "entered-in-error"), (-4, 61, "cancelled")):
        before = ward.monitor.counts["unmatched_retractions"]
        score, found = ward.chart(minutes, observations=[observation("rr", value, status=status)], received=5)
        assert found == []
        repeated = (minutes, value) == (-3, None)  # what it means was taken back already
        assert ward.monitor.counts["unmatched_retractions"] == before + (not repeated)
        assert [one.reason.endswith("nothing is taken back") for one in score.rejected] == [not repeated]
    score, _ = ward.chart(
        4, observations=[observation("rr", None, status="cancelled")], received=5
    )  # none can be had: no claim
    assert [one.reason for one in score.rejected] == ["cannot be obtained"]
    assert ward.monitor.counts["unmatched_retractions"] == 2


def test_a_retraction_of_what_was_let_go_of_or_merged_away_or_outranked_is_none_that_fits_nothing() -> None:
    ward = Ward(MonitorRules(sources=("ehr", "bedside")))
    ward.chart(0, WELL)
    ward.chart(0, {"hr": 80}, peer="bedside", received=1)  # another stands for that time
    ward.chart(0, {"hr": 80}, peer="bedside", status="entered-in-error", received=2)
    for minute in range(10, 60, 10):
        ward.chart(minute, WELL)
    ward.chart(5, {"hr": 99}, status="entered-in-error", received=60)  # as if it had been thinned out
    ward.say(context(61, merged_into="patient-b"))
    ward.chart(62, {"hr": 99}, status="entered-in-error")  # goes on to the survivor
    assert ward.monitor.counts["unmatched_retractions"] == 0


def test_a_correction_that_leaves_an_alert_leaves_it_as_grave_as_the_rest() -> None:
    ward = Ward()
    ward.chart(0, ILL)  # respirations 3, SpO2 3, oxygen 2
    changed = only(ward.chart(0, observations=[observation("rr", 16, status="corrected")], received=5)[1])
    assert (changed.state, changed.severity, changed.news2 and changed.news2.total) == ("updated", "medium", 5)


def test_the_original_that_comes_again_does_not_undo_its_correction() -> None:
    ward = Ward()
    event = vitals(0, {**WELL, "rr": 61}, id="first")
    ward.say(event)
    ward.chart(0, observations=[observation("rr", 16, status="corrected")], received=5)
    for minute in range(6, 62):  # more sets than ids are remembered, and too old to alert
        ward.chart(minute, {"temp": 36.6})
    score, *found = ward.say(event.model_copy(update={"received_at": at(62)}))
    assert isinstance(score, ScoreEvent)
    assert alerts(found) == []
    assert score.news2 is None or total(score) == 0
    assert total(ward.chart(63, {"temp": 36.6})[0]) == 0


@pytest.mark.parametrize("restarted", [False, True])
def test_what_was_taken_back_stays_away_when_it_comes_again(restarted: bool) -> None:
    ward = Ward()
    ward.chart(-60, WELL, received=-59)
    event = vitals(0, {**WELL, "rr": 61}, id="first")
    ward.say(event)
    ward.chart(0, observations=[observation("rr", 61, status="entered-in-error")], received=5)
    for minute in range(6, 36):
        ward.chart(minute, {"temp": 36.6})
    if restarted:
        ward = restored(ward)
    score, *found = ward.say(event.model_copy(update={"received_at": at(36), "id": "by another feed"}))
    assert isinstance(score, ScoreEvent)
    assert alerts(found) == []
    assert total(ward.chart(37, {"temp": 36.6})[0]) == 0


def test_a_correction_may_be_corrected() -> None:
    ward = Ward()
    ward.chart(0, {**WELL, "rr": 61})
    ward.chart(0, observations=[observation("rr", 16, status="corrected")], received=5)
    assert steps(ward.chart(0, observations=[observation("rr", 26, status="corrected")], received=6)[1]) == [
        ("news2", "raised", "low-medium")
    ]


def test_a_correction_upwards_raises() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    assert steps(ward.chart(0, observations=[observation("rr", 26, status="corrected")], received=5)[1]) == [
        ("news2", "raised", "low-medium")
    ]


def test_correcting_something_else_does_not_withdraw() -> None:
    ward = Ward()
    ward.chart(0, {**WELL, "rr": 26})
    assert ward.chart(0, observations=[observation("temp", 37.0, status="corrected")], received=5)[1] == []


def test_preliminary_is_no_charted_value_until_final() -> None:
    ward = Ward()
    score, found = ward.chart(0, ILL, status="preliminary")
    assert (score.news2, found) == (None, [])
    assert "not persistent yet" in score.rejected[0].reason
    finals = [observation(name, None) for name in ILL]  # HL7 U: final now, values not sent again
    score, found = ward.chart(0, observations=finals, received=3)
    assert total(score) == 8
    assert only(found).state == "raised"


def test_registered_is_no_result() -> None:
    score, found = Ward().chart(0, ILL, status="registered")
    assert (score.news2, found, len(score.rejected)) == (None, [], 7)


# ----------------------------------------------------------------------------------------------- unvalidated streams


def test_a_stream_needs_persistence_and_an_outlier_is_told_but_not_counted() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    spo2 = {1: 97, 2: 96, 3: 97, 4: 60, 5: 97, 6: 97}
    for minute, value in spo2.items():
        score, found = ward.chart(minute, {"spo2": value}, charted=False)
        assert found == []
        if value == 60:
            assert score.rejected[0].reason == "unvalidated and not persistent: 60.0, the middle of the last samples is 96.0"
    found = [one for minute in (7, 8) for one in ward.chart(minute, {"spo2": 85}, charted=False)[1]]
    assert only(found).title == "NEWS2 3 (was 0): SpO2 85% (3)"


@pytest.mark.parametrize(
    ("parameter", "samples", "persistent"),
    [
        ("spo2", (97, 60, 96), 96),
        ("spo2", (60, 60, 97), 60),
        ("rr", (9, 30, 31), 30),
        ("acvpu", ("A", "V", "V"), "V"),
        ("acvpu", ("A", "V", "U"), "U"),
        ("acvpu", ("A", "A", "U"), "A"),
        # two: the milder
        ("spo2", (97, 60), 97),
        ("spo2", (60, 97), 97),
        ("rr", (30, 14), 14),
        ("rr", (4, 14), 14),
        ("rr", (26, 30), 26),
        ("acvpu", ("U", "A"), "A"),
        ("dbp", (150, 80), 150),  # scores nothing: the older
    ],
)
def test_the_middle_of_a_streams_samples_counts(parameter: str, samples: tuple[Any, ...], persistent: Any) -> None:
    ward = Ward()
    for number, value in enumerate(samples):
        ward.chart(10 * number, {parameter: value}, charted=False)
    name = {"spo2": "spo2", "rr": "respiratory_rate", "acvpu": "consciousness", "dbp": "diastolic"}[parameter]
    ((_, value, _), *_) = reversed(ward.monitor._patients[PATIENT].history.entries[name])
    assert value == persistent


@pytest.mark.parametrize("every", [1, 5, 8, 10, 15, 30, 60])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_stream_of_any_pace_is_scored_and_alerts_and_an_artefact_does_neither(every: int, restarted: bool) -> None:
    """Device values that nobody validates, every 8 minutes or rarer, were never scored: a dying patient alerted nobody."""
    ward, ill = Ward(), {**WELL, "rr": 30, "spo2": 80, "hr": 140}
    said = []
    for number in range(6):
        score, found = ward.chart(number * every, {**ill, "spo2": 60} if number % 3 == 1 else ill, charted=False)
        said += [*ward.meanwhile, *found]
        assert (score.news2 is None) == (number < (2 if every == 1 else 1)), number
        if restarted:
            ward = restored(ward)
    raised = next(one for one in of(said) if one.state == "raised")
    assert (raised.severity, raised.observed_at) == ("high", at(max(2, every)))
    assert "SpO2 80% (3)" in raised.title

    ward = Ward()
    for number in range(24):
        odd = {"spo2": 60, "rr": 40} if number % 4 == 0 else {}
        _, found = ward.chart(number * every, {**WELL, **odd}, charted=False)
        assert of(found) == [], number


def test_one_good_sample_of_a_slow_stream_resolves_nothing() -> None:
    ward = Ward()
    spo2 = [97, 80, 80, 80, 97, 80, 80, 97, 97, 97]
    found = [one for n, value in enumerate(spo2) for one in ward.chart(20 * n, {"spo2": value}, charted=False)[1]]
    assert [(one.state, one.observed_at) for one in of(found)] == [("raised", at(40)), ("resolved", at(180))]


def test_a_charted_value_answers_for_the_samples_before_it() -> None:
    """Samples of hours ago must not outvote what a nurse has charted and the stream confirms."""
    ward = Ward()
    for minute in (0, 2, 4):
        ward.chart(minute, WELL, charted=False)
    assert only(of(ward.chart(200, {"spo2": 80})[1])).state == "raised"
    score, found = ward.chart(210, {"spo2": 80}, charted=False)
    assert (total(score), of(found)) == (3, [])


def test_a_stream_too_sparse_to_count_is_told_as_no_observations() -> None:
    ward = Ward()
    said = []
    for hours in (0, 7, 14):
        score, found = ward.chart(60 * hours, WELL, charted=False)
        said += [*ward.meanwhile, *found]
        assert score.news2 is None
    silent = only(of(said, "no-observations"))
    assert (silent.state, silent.decided_at) == ("raised", at(12.5 * 60 + 1))
    assert silent.reason == "nothing within 12 h 30 min but single samples of an unvalidated stream, the last at 15:00 UTC"
    assert of(ward.chart(14 * 60 + 1, WELL, charted=False)[1], "no-observations") == []
    assert only(of(ward.chart(14 * 60 + 2, WELL, charted=False)[1], "no-observations")).state == "resolved"


def test_for_one_time_the_charted_value_takes_precedence_over_the_stream() -> None:
    ward = Ward()
    for minute in (1, 2, 3):
        ward.chart(minute, {**WELL, "spo2": 97}, charted=False)
    assert only(ward.chart(3, {"spo2": 85}, received=4)[1]).state == "raised"
    score, found = ward.chart(3, {"spo2": 97}, charted=False, received=5)
    assert (total(score), found) == (3, [])


def test_an_observation_through_two_feeds_has_the_better_ones_precedence() -> None:
    ward = Ward(MonitorRules(sources=("ehr", "gateway", "other")))
    ward.chart(0, {"rr": 26}, peer="gateway")
    ward.chart(0, {"rr": 26}, peer="ehr", received=1)
    score, _ = ward.chart(0, {"rr": 16}, peer="gateway", received=2)
    assert (total(score), len(score.rejected)) == (3, 1)


def test_samples_within_a_minute_count_as_one() -> None:
    ward = Ward()
    for second in range(50):
        assert ward.chart(second / 60, {"spo2": 70}, charted=False)[1] == []


def test_a_stream_of_a_sample_in_five_minutes_persists_too() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    assert [len(ward.chart(minute, {"spo2": 85}, charted=False)[1]) for minute in (1, 6, 11)] == [0, 1, 0]


# --------------------------------------------------------------------------------------------------------- fatigue


def test_hysteresis_and_no_flapping() -> None:
    ward = Ward()
    five = {**WELL, "flow": 2, "hr": 111, "temp": 38.5}
    four = {**WELL, "flow": 2, "hr": 111}
    found = [one for i in range(12) for one in ward.chart(60 * i, five if i % 2 == 0 else four)[1]]
    assert steps(found) == [("news2", "raised", "medium")]


def test_resolving_takes_sets_and_time() -> None:
    ward = Ward()
    ward.chart(0, ILL)
    assert [ward.chart(minute, WELL)[1] for minute in (1, 2, 3, 15)] == [[], [], [], []]
    assert only(ward.chart(16, WELL)[1]).state == "resolved"


def test_resolving_takes_as_many_sets_as_the_site_says() -> None:
    ward = Ward(MonitorRules(resolve_sets=3))
    ward.chart(0, ILL)
    assert [len(ward.chart(minute, WELL)[1]) for minute in (20, 40, 60)] == [0, 0, 1]


def test_one_bad_set_between_calm_ones_starts_the_count_anew() -> None:
    ward = Ward()
    ward.chart(0, ILL)
    assert [len(of(ward.chart(60 * i, values)[1])) for i, values in enumerate([WELL, ILL, WELL, WELL], start=1)] == [0, 0, 0, 1]


def test_severity_sinks_in_steps() -> None:
    ward = Ward()
    ward.chart(0, ILL)  # 8
    five = {**WELL, "flow": 2, "hr": 111, "temp": 38.5}
    found = [one for i in (1, 2, 3) for one in of(ward.chart(60 * i, five)[1])]
    assert [(one.state, one.severity) for one in found] == [("updated", "medium")]
    assert "below the threshold" in found[0].reason


def test_an_unanswered_alert_that_sinks_waits_by_the_milder_chain() -> None:
    ward = Ward(MonitorRules(resolve_after=timedelta(0)))
    ward.chart(0, ILL)
    five = {**WELL, "flow": 2, "hr": 111, "temp": 38.5}
    ward.chart(1, five)
    assert steps(ward.chart(2, five)[1]) == [("news2", "updated", "medium")]
    climbed = of(ward.wait(32))
    assert [(one.route, one.decided_at) for one in climbed] == [("nurse-in-charge", at(15)), ("ward-doctor", at(30))]


def test_an_answered_alert_that_sinks_stays_answered() -> None:
    ward = Ward(MonitorRules(resolve_after=timedelta(0)))
    raised = only(ward.chart(0, ILL)[1])
    ward.say(answer(raised.alert_id, 0))
    five = {**WELL, "flow": 2, "hr": 111, "temp": 38.5}
    ward.chart(1, five)
    assert steps(ward.chart(2, five)[1]) == [("news2", "updated", "medium")]
    assert of(ward.wait(60)) == []


def test_missing_data_never_resolves() -> None:
    ward = Ward()
    ward.chart(0, {**WELL, "rr": 26})
    no_rr = {name: value for name, value in WELL.items() if name != "rr"}
    for hour in range(7, 20):  # the respirations are carried no longer, and nobody counted them again
        score, found = ward.chart(60 * hour, no_rr)
        assert score.news2 is not None
        assert (score.news2.total, score.news2.missing, of(found)) == (0, ("respiratory_rate",), [])
    assert of(ward.chart(60 * 20, WELL)[1]) == []
    assert only(of(ward.chart(60 * 21, WELL)[1])).state == "resolved"


def test_suppression_after_resolving_holds_the_same_back_but_not_the_graver() -> None:
    rules = MonitorRules(suppression=timedelta(minutes=30))
    three = {**WELL, "rr": 26}

    def resolved() -> Ward:
        ward = Ward(rules)
        ward.chart(0, three)
        ward.chart(10, WELL)
        assert only(ward.chart(30, WELL)[1]).state == "resolved"
        return ward

    ward = resolved()
    assert ward.chart(40, three)[1] == []
    again = only(ward.wait(61))  # it still holds when the window ends
    assert (again.state, again.decided_at, again.sequence) == ("raised", at(60), 0)
    ward = resolved()
    assert ward.chart(40, three)[1] == []
    assert ward.chart(50, WELL)[1] == []
    assert ward.wait(70) == []
    ward = resolved()
    assert only(ward.chart(40, ILL)[1]).state == "raised"


def test_declined_ends_and_keeps_quiet_for_an_hour_unless_graver() -> None:
    ward = Ward()
    raised = only(ward.chart(0, {**WELL, "rr": 26})[1])
    declined = only(alerts(ward.say(answer(raised.alert_id, 1, "alert-declined", reason="chronic"))))
    assert (declined.state, declined.by, declined.reason) == ("declined", "nurse-7", "chronic")
    assert ward.chart(20, {**WELL, "rr": 26})[1] == []
    again = only(ward.chart(30, ILL)[1])
    assert again.alert_id != raised.alert_id
    ward = Ward()
    raised = only(ward.chart(0, {**WELL, "rr": 26})[1])
    ward.say(answer(raised.alert_id, 1, "alert-declined"))
    ward.chart(50, {**WELL, "rr": 26})
    assert steps(of(ward.wait(61))) == [("news2", "raised", "low-medium")]


def test_beyond_the_wards_budget_the_mildest_go_to_the_quiet_route_visibly() -> None:
    ward = Ward(MonitorRules(ward_budget=2, declined_suppression=timedelta()))
    for number in range(4):
        ward.say(context(patient=f"p{number}"))
    found = [ward.chart(number, {**WELL, "rr": 26}, patient=f"p{number}")[1][0] for number in range(3)]
    assert [one.route for one in found] == ["default"] * 3  # a patient's first always pages
    ward.say(answer(found[2].alert_id, 3, "alert-declined", patient="p2"))
    found += of(ward.wait(4))
    assert found[3].route == "worklist"
    assert "budget" in found[3].detail
    assert only(ward.chart(5, ILL, patient="p3")[1]).route == "default"  # a grave one always pages
    quiet = found[3].alert_id
    assert not [one for one in ward.wait(70) if one.alert_id == quiet]
    ward.sleep(79)
    for minute in range(80, 24 * 60 + 80, 5):
        ward.sleep(minute)
    ward.say(context(24 * 60, patient="p9"))
    assert only(ward.chart(24 * 60 + 80, {**WELL, "rr": 26}, patient="p9")[1]).route == "default"


def test_the_heartbeat_tells_alerts_per_100_patient_days() -> None:
    ward = Ward()
    ward.chart(0, ILL)
    beats = [
        event
        for minute in range(1, 121)
        for event in ward.monitor.tick(at(minute), SOURCE)
        if isinstance(event, HeartbeatEvent)
    ]
    assert len(beats) == 120
    assert beats[-1].patients == 1
    assert beats[-1].active_alerts == 3  # the NEWS2 alert, nothing heard since, and the feed stopped
    assert beats[-1].newest_observed_at == START
    assert beats[-1].alerts_per_100_patient_days == pytest.approx(100 / (2 / 24), rel=0.02)
    assert len({beat.id for beat in beats}) == 120


# --------------------------------------------------------------------------------------------------- people and feedback


def test_an_acknowledgement_that_is_taken_back_lets_the_alert_climb_anew() -> None:
    ward = Ward()
    raised = only(ward.chart(0, ILL)[1])
    early = answer(raised.alert_id, 1, "alert-answer-retracted")
    assert ward.say(early) == []  # nobody has answered
    assert ward.monitor.counts["unmatched_feedback"] == 1
    ward.say(answer(raised.alert_id, 2))
    assert ward.wait(30) == []
    ward.chart(31, ILL)  # the same: an answered alert stays answered
    back = only(alerts(ward.say(answer(raised.alert_id, 32, "alert-answer-retracted", reason="wrong patient"))))
    assert (back.state, back.by, back.reason) == ("updated", "nurse-7", "the answer was taken back: wrong patient")
    climbed = restored(ward).wait(43)
    assert [(one.state, one.route) for one in of(climbed)] == [
        ("escalated", "nurse-in-charge"),
        ("escalated", "rapid-response"),
    ]
    ward.say(answer(raised.alert_id, 33, "alert-declined"))
    assert ward.say(answer(raised.alert_id, 34, "alert-answer-retracted")) == []  # what was declined is over


def test_unknown_feedback_is_counted_and_leaves_nothing() -> None:
    ward = Ward()
    raised = only(ward.chart(0, ILL)[1])
    assert ward.say(answer("no such alert", 1)) == []
    assert ward.say(answer(raised.alert_id, 1, patient="nobody")) == []
    assert ward.monitor.counts["unmatched_feedback"] == 2
    acknowledged = answer(raised.alert_id, 2)
    assert len(ward.say(acknowledged)) == 1
    assert ward.say(acknowledged) == []
    assert ward.monitor.counts["repeats"] == 1
    assert ward.say(answer(raised.alert_id, 3)) == []  # a second nurse: known already
    assert ward.monitor.counts["unmatched_feedback"] == 3
    assert ward.say(answer(raised.alert_id, 3, "finding-confirmed")) == []
    assert ward.monitor.counts["unmatched_feedback"] == 3


# -------------------------------------------------------------------------------------------------------------- context


@pytest.mark.parametrize(
    ("change", "state", "reason"),
    [
        ({"encounter_status": "finished"}, "resolved", "discharged"),
        ({"encounter_status": "cancelled"}, "resolved", "encounter cancelled"),
        ({"deceased": True}, "resolved", "recorded as deceased"),
    ],
)
def test_what_ends_the_watch(change: dict[str, Any], state: str, reason: str) -> None:
    ward = Ward()
    ward.chart(0, ILL)
    closed = only(alerts(ward.say(context(1, **change))))
    assert (closed.state, closed.reason) == (state, reason)
    score, found = ward.chart(2, {**ILL, "hr": 140})
    assert (total(score), score.flags, found) == (11, ("not-watched",), [])
    assert [one for one in ward.wait(60 * 12) if one.kind != "feed-stopped"] == []


def test_a_discharge_without_an_encounters_id_ends_the_watch_too() -> None:
    ward = Ward()
    ward.chart(0, ILL, encounter="e1")
    closed = only(alerts(ward.say(context(1, encounter_status="finished", encounter_id=None))))
    assert (closed.state, closed.reason) == ("resolved", "discharged")
    assert ward.chart(2, ILL, encounter="e1")[1] == []


def test_another_encounter_than_the_finished_one_is_watched() -> None:
    ward = Ward()
    ward.say(context(1, encounter_status="finished"))
    assert only(ward.chart(2, ILL, encounter="e2")[1]).state == "raised"


def test_a_late_set_of_the_encounter_that_is_over_does_not_end_the_watch() -> None:
    ward = Ward()
    ward.say(context(1, encounter_status="finished"))
    ward.chart(2, ILL, encounter="e2")
    score, _ = ward.chart(-30, WELL, encounter="e1", received=3)
    assert score.late
    assert of(ward.wait(8))[0].state == "escalated"


def test_within_a_batch_each_set_is_judged_by_the_encounter_of_its_moment() -> None:
    ward = Ward()
    ward.say(context(1, encounter_status="finished"))
    sets = [vitals(2, ILL), vitals(3, ILL, encounter="e2")]
    made = [ward.monitor.observe(event, SOURCE) for event in sets]
    assert [len(ward.monitor.decide(one, None)) for one in made] == [1, 2]


def test_a_cancelled_discharge_brings_the_alert_back() -> None:
    ward = Ward()
    first = only(ward.chart(0, ILL)[1])
    ward.say(context(1, encounter_status="finished"))
    again = only(alerts(ward.say(context(2))))
    assert again.state == "raised"
    assert again.alert_id != first.alert_id


def test_an_alert_that_a_cancelled_discharge_brings_rests_on_the_sets_of_the_meantime() -> None:
    ward = Ward()
    ward.say(context(1, encounter_status="finished"))
    score, _ = ward.chart(2, ILL)
    raised = only(alerts(ward.say(context(3))))
    assert (raised.score_id, raised.observed_at, raised.received_at) == (score.id, at(2), score.received_at)


OTHER = {"encounter_id": "e0", "ward": "OLD"}


@pytest.mark.parametrize("status", ["finished", "cancelled", "planned"])
@pytest.mark.parametrize("known", ["in-progress", "unknown"])
def test_another_stay_that_is_not_here_touches_neither_the_watch_nor_the_route(status: str, known: str) -> None:
    """Written by a second connector, or by an older version: the lane is the last that can tell."""
    ward = Ward(encounter_status=known)
    raised = only(ward.chart(0, ILL)[1])
    assert ward.say(context(1, encounter_status=status, **OTHER)) == []
    score, found = ward.chart(2, {**ILL, "hr": 140})
    assert score.flags == ()
    (told,) = found
    assert (told.alert_id, told.location.ward, told.encounter_id) == (raised.alert_id, "A", "e1")
    closed = only(alerts(ward.say(context(3, encounter_status="finished"))))
    assert (closed.state, closed.reason, closed.alert_id) == ("resolved", "discharged", raised.alert_id)


def test_what_a_context_about_another_stay_says_of_the_patient_counts_all_the_same() -> None:
    ward = Ward()
    ward.chart(0, ILL)
    (told,) = alerts(ward.say(context(1, encounter_status="finished", ceiling_of_care="ward based", **OTHER)))
    assert (told.reason, told.location.ward) == ("ceiling of care recorded: ward based", "A")
    closed = only(alerts(ward.say(context(2, encounter_status="finished", deceased=True, **OTHER))))
    assert closed.reason == "recorded as deceased"


def test_the_end_of_the_old_stay_told_again_does_not_end_the_one_that_the_sets_name() -> None:
    ward = Ward()
    ward.say(context(1, encounter_status="finished"))
    raised = only(ward.chart(2, ILL, encounter="e2")[1])
    assert ward.say(context(3, encounter_status="finished")) == []
    assert ward.say(context(4, encounter_status="cancelled", **OTHER)) == []
    assert of(ward.wait(12))[0].alert_id == raised.alert_id


def test_the_end_of_the_stay_in_progress_ends_the_watch_whatever_number_a_device_still_sends() -> None:
    ward = Ward()
    ward.chart(0, ILL, encounter="old-number")
    assert only(alerts(ward.say(context(1, encounter_status="finished")))).reason == "discharged"


def test_the_end_of_another_stay_does_not_bring_back_a_watch_that_is_over() -> None:
    ward = Ward()
    ward.chart(0, ILL)
    ward.say(context(1, encounter_status="finished"))
    assert ward.say(context(2, encounter_status="finished", **OTHER)) == []
    assert ward.chart(3, ILL)[1] == []


def test_a_new_stay_in_progress_takes_the_watch_over() -> None:
    ward = Ward()
    ward.chart(0, ILL)
    assert only(alerts(ward.say(context(1, encounter_id="e2", ward="B")))).reason == "transferred"
    assert ward.say(context(2, encounter_status="finished")) == []  # the old one's end, late
    assert only(alerts(ward.say(context(3, encounter_id="e2", ward="B", encounter_status="finished")))).reason == "discharged"


def test_a_watch_that_another_stay_left_alone_goes_on_from_a_snapshot() -> None:
    ward = Ward()
    ward.chart(0, ILL)
    ward.say(context(1, encounter_status="finished", **OTHER))
    again = restored(ward)
    assert again.chart(2, {**ILL, "hr": 140})[1][0].location.ward == "A"
    assert only(alerts(again.say(context(3, encounter_status="finished")))).reason == "discharged"


def test_transfer_re_routes() -> None:
    ward = Ward(MonitorRules(ward_routes={"A": "phones-a", "B": "phones-b"}))
    raised = only(ward.chart(0, ILL)[1])
    moved = only(alerts(ward.say(context(1, ward="B"))))
    assert (raised.route, moved.route, moved.state, moved.reason, moved.location.ward) == (
        "phones-a",
        "phones-b",
        "updated",
        "transferred",
        "B",
    )
    assert only(ward.wait(6)).route == "nurse-in-charge"


def test_wards_of_two_hospitals_with_one_name_are_two() -> None:
    """Each with its budget and route; that a sender begins to say the hospital, or leaves it out, moves nobody."""
    rules = MonitorRules(ward_routes={"A": "phones-a", "NORTH|A": "phones-north"}, ward_budget=1)

    def placed(minutes: float, patient: str, facility: str, bed: str = "") -> PatientEvent:
        place = Location(ward="A", bed=bed, facility=facility)
        return context(minutes, patient=patient).model_copy(update={"location": place})

    ward = Ward(rules, admit=False)
    for patient, facility in (("p1", "NORTH"), ("p2", "SOUTH"), ("p3", "")):
        ward.say(placed(0, patient, facility))
    raised = [only(ward.chart(1, ILL, patient=patient)[1]) for patient in ("p1", "p2", "p3")]
    assert [(one.route, one.location.facility) for one in raised] == [
        ("phones-north", "NORTH"),
        ("phones-a", "SOUTH"),
        ("phones-a", ""),
    ]
    assert [ward.monitor._partition.alerts_of(name) for name in ("NORTH|A", "SOUTH|A", "A")] == [1, 1, 1]
    assert ward.say(placed(2, "p1", "")) == []
    assert ward.say(placed(2, "p3", "SOUTH")) == []
    assert only(alerts(ward.say(placed(3, "p3", "SOUTH", bed="2")))).reason == "moved"
    assert only(alerts(ward.say(placed(3, "p2", "NORTH")))).reason == "transferred"
    for facility in ("NORTH", ""):  # a snapshot of before, and one of without, has none
        kept = Context.load(Context.of(placed(0, "p", facility, bed="1")).dump())
        assert kept.location == Location(ward="A", bed="1", facility=facility)


def test_a_deleted_record_is_not_watched_and_a_snapshot_says_so() -> None:
    ward = Ward()
    ward.chart(0, ILL)
    assert [one.reason for one in alerts(ward.say(context(1, deleted=True)))] == ["record deleted by registration"]
    made = Context.load(Context.of(context(deleted=True)).dump())
    assert made.deleted
    old = Context.of(context()).dump()  # as every snapshot of before had it
    assert len(old) == 11
    assert not Context.load(old).deleted


def test_a_ceiling_of_care_re_routes_visibly_and_does_not_call_the_emergency_team() -> None:
    ward = Ward(MonitorRules(ceilings={"comfort care": CeilingPolicy(route="palliative-team")}))
    ward.chart(0, ILL)
    moved = only(alerts(ward.say(context(1, ceiling_of_care="comfort care"))))
    assert (moved.route, moved.reason) == ("palliative-team", "ceiling of care recorded: comfort care")
    assert "Ceiling of care recorded: comfort care." in moved.detail
    assert [one for one in ward.wait(28) if one.kind == "news2"] == []
    lifted = only(alerts(ward.say(context(29))))
    assert (lifted.route, lifted.reason) == ("default", "ceiling of care lifted")


def test_a_ceiling_that_no_policy_names_is_shown_and_routes_nothing() -> None:
    _, found = Ward(ceiling_of_care="ward based").chart(0, ILL)
    assert (only(found).route, "Ceiling of care recorded: ward based." in only(found).detail) == ("default", True)


def test_test_traffic_is_scored_alone_and_touches_nobody() -> None:
    ward = Ward()
    score, found = ward.chart(0, ILL, processing="training")
    assert (total(score), score.processing, score.flags, found) == (8, "training", ("test-traffic",), [])
    score, found = ward.chart(1, {"hr": 70})
    assert score.news2 is not None
    assert (score.news2.total, len(score.news2.missing), found) == (0, 6, [])
    assert ward.say(vitals(1, ILL, processing="debugging", patient="stranger"))[0].flags == ("test-traffic",)  # type: ignore[attr-defined]
    assert ward.monitor.dump("stranger") is None


def test_a_record_that_registration_deleted_is_forgotten_and_tombstoned() -> None:
    ward = Ward()
    ward.chart(0, ILL)
    ward.say(context(1, deleted=True))
    ward.monitor.clean()
    ward.wait(24 * 60 - 1)
    assert ward.monitor.dump(PATIENT) is not None
    ward.wait(24 * 60 + 1)
    assert PATIENT in ward.monitor.dirty()
    assert ward.monitor.dump(PATIENT) is None


def test_those_without_encounter_of_whom_nothing_is_heard_are_forgotten_and_say_so() -> None:
    ward = Ward(encounter_status="unknown")
    ward.chart(0, ILL)
    for day in range(1, 15):
        last = [one for hour in range(0, 24 * 60, 5) for one in ward.sleep(day * 24 * 60 + hour)]
    assert steps(last[-2:]) == [("news2", "withdrawn", "high"), ("no-observations", "withdrawn", "medium")]
    state = ward.monitor.dump(PATIENT)
    assert state is not None
    assert b'"entries":{}' in state
    assert only(ward.chart(15 * 24 * 60, ILL)[1]).state == "raised"  # the context is known still


def test_a_stranger_of_whom_nothing_is_heard_is_forgotten() -> None:
    ward = Ward(admit=False)
    ward.chart(0, ILL)
    ward.monitor.clean()
    for day in range(1, 16):
        for hour in range(0, 24 * 60, 5):
            ward.sleep(day * 24 * 60 + hour)
    assert ward.monitor.dump(PATIENT) is None
    assert PATIENT in ward.monitor.dirty()


# --------------------------------------------------------------------------------------------------------------- silence


@pytest.mark.parametrize(
    ("values", "minutes", "severity"),
    [
        (WELL, 12.5 * 60, "information"),
        ({**WELL, "hr": 100}, 6.5 * 60, "information"),
        ({**WELL, "rr": 26}, 90, "low-medium"),
        ({**WELL, "flow": 2, "hr": 111, "temp": 38.5}, 90, "low-medium"),
        (ILL, 30, "medium"),
    ],
)
def test_no_observations_for_this_patient(values: dict[str, Any], minutes: int, severity: str) -> None:
    ward = Ward()
    ward.chart(0, values)
    silent = [one for one in ward.wait(minutes) if one.kind == "no-observations"]
    assert silent == []
    silent = [one for one in ward.wait(minutes + 1) if one.kind == "no-observations"]
    assert [(one.state, one.severity) for one in silent] == [("raised", severity)]
    assert silent[0].title.startswith("No observations for ")
    ended = only([one for one in ward.chart(minutes + 2, values)[1] if one.kind == "no-observations"])
    assert (ended.state, ended.reason) == ("resolved", "observations resumed")
    assert ended.title.startswith("Observed again after ")
    assert ended.detail.startswith("This alert is over. ")


def test_an_alert_from_a_snapshot_that_lists_no_routes_goes_on() -> None:
    before = Ward()
    before.chart(0, ILL)
    before.wait(5)
    state = orjson.loads(before.monitor.dump(PATIENT) or b"")
    assert state["alerts"]["news2"].pop("routes") == ["default", "nurse-in-charge"]
    ward = restored(before)
    ward.monitor.load(PATIENT, orjson.dumps(state))
    assert only(ward.wait(10)).routes == ("nurse-in-charge", "rapid-response")


@pytest.mark.parametrize("restarted", [False, True])
def test_the_silence_of_a_grave_patient_climbs_until_somebody_answers(restarted: bool) -> None:
    """NEWS2 9, acknowledged, and then the monitor is silent: one notice was all, whether anybody read it or not."""
    ward = Ward()
    raised = only(ward.chart(0, ILL)[1])
    ward.say(answer(raised.alert_id, 1))
    if restarted:
        ward = restored(ward)
    silent, *climbed = of(ward.wait(61), "no-observations")
    assert (silent.severity, silent.decided_at) == ("medium", at(31))
    assert [(one.state, one.route, one.decided_at) for one in climbed] == [
        ("escalated", "nurse-in-charge", at(46)),
        ("escalated", "ward-doctor", at(61)),
    ]
    assert only(alerts(ward.say(answer(silent.alert_id, 62)))).detail.startswith("Somebody has answered; ")
    ended = only(of(ward.chart(63, ILL)[1], "no-observations"))
    assert (ended.state, ended.routes) == ("resolved", ("default", "nurse-in-charge", "ward-doctor"))


def test_a_silence_that_nobody_need_answer_does_not_climb() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    assert len(of(ward.wait(24 * 60), "no-observations")) == 1


def test_a_late_set_does_not_change_how_soon_silence_is_noticed() -> None:
    ward = Ward()
    ward.chart(0, ILL)
    ward.chart(-30, WELL, received=10)
    assert steps(of(ward.wait(31), "no-observations")) == [("no-observations", "raised", "medium")]


def test_silence_resolves_no_alert_and_a_late_set_ends_no_silence() -> None:
    ward = Ward()
    raised = only(ward.chart(0, ILL)[1])
    said = ward.wait(24 * 60)
    assert {one.state for one in said if one.alert_id == raised.alert_id} == {"escalated"}
    assert {one.state for one in said[1:] if one.kind == "no-observations"} == {"raised", "escalated"}
    assert ward.chart(24 * 60 - 120, {"hr": 70}, received=24 * 60)[1] == []


def test_a_feed_that_stopped_and_came_back() -> None:
    ward = Ward()
    for minute in range(0, 60, 5):
        ward.chart(minute, WELL, peer="gateway")
    assert [one for one in ward.wait(85) if one.kind == "feed-stopped"] == []
    stopped = only([one for one in ward.wait(86) if one.kind == "feed-stopped"])
    assert (stopped.state, stopped.severity, stopped.patient_id) == ("raised", "information", ward.monitor.id)
    assert "gateway" in stopped.title
    ward.chart(90, WELL, peer="gateway")
    back = only([one for one in ward.wait(91) if one.kind == "feed-stopped"])
    assert (back.alert_id, back.state, back.reason) == (stopped.alert_id, "resolved", "receiving again")


@pytest.mark.parametrize("before", ["told", "declined", "in a snapshot of before"])
def test_a_feed_that_was_renamed_or_taken_out_of_service_is_forgotten_in_time(before: str) -> None:
    rules = MonitorRules(feed_silence=FeedSilence(out_of_service=timedelta(hours=20)))
    ward = Ward(rules)
    ward.chart(0, WELL, peer="old-name")
    stopped = only([one for one in ward.wait(31) if one.kind == "feed-stopped"])
    assert stopped.detail.endswith(
        "Still silent 20 h 0 min after this was told, it is taken for out of service until it is heard again."
    )
    if before == "declined":
        ward.say(answer(stopped.alert_id, 32, "alert-declined", patient=ward.monitor.id))
    if before == "in a snapshot of before":
        state = orjson.loads(ward.monitor.dump(ward.monitor.id) or b"")
        del state["alerts"]["feed-stopped:old-name"]["until"]
        fresh = Monitor(rules)
        fresh.load(PATIENT, ward.monitor.dump(PATIENT))
        fresh.load(ward.monitor.id, orjson.dumps(state))
        ward.monitor = fresh
    gone = only([one for one in ward.wait(31 + 20 * 60) if one.kind == "feed-stopped"])
    assert (gone.alert_id, gone.state) == (stopped.alert_id, "resolved")
    assert (gone.reason, gone.peer) == ("taken for out of service until it is heard again", "old-name")
    assert gone.detail.endswith("It is taken for out of service until it is heard again.")
    assert ward.monitor._partition.feeds == {}
    ward.chart(1_300, WELL, peer="old-name")  # it is new
    assert [one.state for one in ward.wait(1_331) if one.kind == "feed-stopped"] == ["raised"]


def test_a_feed_that_an_outage_hid_is_told_before_it_is_forgotten() -> None:
    ward = Ward(MonitorRules(feed_silence=FeedSilence(out_of_service=timedelta(hours=2))))
    ward.chart(0, WELL, peer="gateway")
    ward.sleep(60 * 24)
    assert [one.state for one in ward.wait(60 * 24 + 10) if one.kind == "feed-stopped"] == ["raised"]
    assert [one.state for one in ward.wait(60 * 24 + 150) if one.kind == "feed-stopped"] == ["resolved"]


def test_a_late_feed_that_is_forgotten_is_not_late_for_good() -> None:
    ward = Ward(MonitorRules(feed_silence=FeedSilence(out_of_service=timedelta(hours=2))))
    for minute in range(20):
        ward.chart(minute - 90, WELL, received=minute)
    found = [one for one in ward.wait(300) if one.kind.startswith("feed-")]
    assert [(one.kind, one.state) for one in found] == [
        ("feed-stopped", "raised"),
        ("feed-stopped", "resolved"),
        ("feed-late", "resolved"),
    ]
    assert "taken for out of service" in found[-1].detail


def test_a_declined_alert_of_the_partition_does_not_count_as_standing() -> None:
    ward = Ward(admit=False)
    ward.chart(0, WELL)
    stopped = only([one for one in ward.wait(31) if one.kind == "feed-stopped"])

    def beat(minute: int) -> int:
        found = [one for one in ward.monitor.tick(at(minute), SOURCE) if isinstance(one, HeartbeatEvent)]
        return found[-1].active_alerts

    assert beat(32) == 1
    ward.say(answer(stopped.alert_id, 32, "alert-declined", patient=ward.monitor.id))
    assert beat(33) == 0


def test_a_feed_that_charts_hourly_is_learned() -> None:
    ward = Ward()
    said = []
    for hour in range(12):
        said += ward.wait(60 * hour)
        ward.chart(60 * hour, WELL)
    feeds = [one for one in said if one.kind == "feed-stopped"]
    assert len([one for one in feeds if one.state == "raised"]) == 1  # only before the pauses were known


def test_a_peers_own_limit() -> None:
    ward = Ward(MonitorRules(feed_silence=FeedSilence(peers={"ehr": timedelta(hours=3)})))
    ward.chart(0, WELL)
    assert [one for one in ward.wait(180) if one.kind == "feed-stopped"] == []
    assert steps([one for one in ward.wait(181) if one.kind == "feed-stopped"]) == [("feed-stopped", "raised", "information")]


def test_an_answer_to_the_partitions_own_alert() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    stopped = only([one for one in ward.wait(31) if one.kind == "feed-stopped"])
    assert ward.say(answer(stopped.alert_id, 32, patient=ward.monitor.id, sequence=1)) == []  # no such step was told
    assert ward.monitor.counts["unmatched_feedback"] == 1
    said = ward.say(answer(stopped.alert_id, 32, patient=ward.monitor.id, sequence=0))
    assert steps(said) == [("feed-stopped", "acknowledged", "information")]
    back = [answer(stopped.alert_id, minute, "alert-answer-retracted", patient=ward.monitor.id) for minute in (33, 34)]
    assert steps(ward.say(back[0])) == [("feed-stopped", "updated", "information")]
    assert ward.say(back[1]) == []
    assert ward.say(answer("no such", 32, patient=ward.monitor.id)) == []
    assert [one for one in ward.wait(60) if one.kind == "feed-stopped"] == []


@pytest.mark.parametrize("restarted", [False, True])
def test_an_answer_to_the_partitions_own_alert_that_comes_again_is_none(restarted: bool) -> None:
    """Acknowledged, declined, and both again: it went back and forth with every repeat."""
    ward = Ward()
    ward.chart(0, WELL)
    stopped = only([one for one in ward.wait(31) if one.kind == "feed-stopped"])
    said = [answer(stopped.alert_id, 32, kind, patient=ward.monitor.id) for kind in ("alert-acknowledged", "alert-declined")]
    assert [one.state for event in said for one in alerts(ward.say(event))] == ["acknowledged", "declined"]
    if restarted:
        ward = restored(ward)
    assert [ward.say(event) for event in said] == [[], []]
    assert ward.monitor.counts["repeats"] == 2


# -------------------------------------------------------------------------------------------------------------- catch-up


def test_after_an_outage_only_the_current_state_alerts_and_one_notice_tells_from_when_to_when() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    ward.wait(5)
    blind = only(ward.sleep(65))
    assert (blind.kind, blind.state, blind.severity, blind.patient_id) == (
        "monitoring-blind",
        "raised",
        "information",
        ward.monitor.id,
    )
    assert "2026-11-23 08:05 to 2026-11-23 09:05 UTC" in blind.detail
    # the backlog: he was very ill for a while, and is better since
    said: list[Any] = []
    for minute, values in [(10, WELL), (20, ILL), (40, {**ILL, "hr": 140}), (60, {**WELL, "flow": 2, "hr": 111, "temp": 38.5})]:
        score, *rest = ward.say(vitals(minute, values))
        said += rest
        assert score.flags == ("catching-up",)  # type: ignore[attr-defined]
        assert not score.late  # type: ignore[attr-defined]
    assert said == []
    ward.say(vitals(66, {**WELL, "flow": 2, "hr": 111, "temp": 38.5}, patient="other"))  # live again
    settled = ward.wait(66)
    assert steps(settled) == [("monitoring-blind", "resolved", "information"), ("news2", "raised", "medium")]
    assert settled[1].observed_at == at(60)
    assert settled[0].reason == "caught up; 0 older sets went to history"


def test_what_is_too_old_after_an_outage_does_not_alert_and_is_counted() -> None:
    ward = Ward()
    ward.wait(1)
    ward.sleep(300)
    score, *rest = ward.say(vitals(20, ILL))
    assert (score.late, rest) == (True, [])  # type: ignore[attr-defined]
    end = ward.wait(306)
    assert [one.reason for one in end if one.kind == "monitoring-blind"] == ["caught up; 1 older sets went to history"]
    assert [one for one in end if one.kind == "news2"] == []


def test_an_alert_from_before_the_outage_is_not_resolved_by_the_backlog_but_by_what_it_comes_to() -> None:
    ward = Ward()
    raised = only(ward.chart(0, ILL)[1])
    ward.say(answer(raised.alert_id, 1))
    ward.sleep(120)
    for minute in (30, 60, 90, 100):
        assert len(ward.say(vitals(minute, WELL))) == 1
    assert [one for one in ward.wait(126) if one.kind == "news2"] == []  # calm is counted in live sets
    assert ward.chart(130, WELL)[1] == []
    assert steps(ward.chart(150, WELL)[1]) == [("news2", "resolved", "high")]


def test_a_short_gap_is_no_outage() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    assert ward.sleep(10) == []
    assert len(ward.say(vitals(5, ILL))) == 2


def test_escalation_and_silence_wait_for_the_backlog() -> None:
    ward = Ward()
    raised = only(ward.chart(0, ILL)[1])
    assert steps(ward.sleep(60)) == [("monitoring-blind", "raised", "information")]
    assert ward.wait(64) == []
    ward.say(answer(raised.alert_id, 10))  # it lay in the backlog, and holds for an hour
    later = ward.wait(66)
    assert [one.kind for one in later if one.state == "escalated"] == []
    assert [one.kind for one in later if one.state == "raised"] == ["feed-stopped", "no-observations"]


def test_a_context_from_the_backlog_alerts_with_the_rest_of_it() -> None:
    ward = Ward(birth_date=None)
    ward.chart(0, ILL)
    ward.sleep(40)
    (anew,) = ward.say(context(2))
    assert isinstance(anew, ScoreEvent) and anew.flags == ("age-learned", "catching-up")
    assert ward.say(vitals(30, {**WELL, "rr": 26}))[1:] == []
    assert steps(of(ward.wait(46))) == [("news2", "raised", "low-medium")]


def test_a_correction_in_the_backlog_withdraws_at_once() -> None:
    ward = Ward()
    ward.chart(0, {**WELL, "rr": 61})
    ward.sleep(60)
    said = ward.say(vitals(0, observations=[observation("rr", 16, status="corrected")], received=2))
    assert steps(said) == [("news2", "withdrawn", "low-medium")]


def test_time_stands_still_while_a_clock_is_a_little_behind() -> None:
    ward = Ward()
    ward.wait(10)
    assert ward.monitor.tick(at(9), SOURCE) == []
    assert ward.monitor.now == at(10)


# ------------------------------------------------------------------------------------------------------------- the model


def deteriorating(probability: float) -> Any:
    return deterioration_of(probability, [0.2, -0.1, 0.3] + [0.0] * 6, IDENTITY, 24)


def test_the_model_does_not_page_by_itself() -> None:
    ward = Ward()
    said = ward.say(vitals(0, WELL), deteriorating(0.99))
    assert len(said) == 1
    score = said[0]
    assert isinstance(score, ScoreEvent)
    assert score.deterioration is not None
    assert (score.deterioration.probability, [one.name for one in score.deterioration.drivers]) == (
        0.99,
        ["spo2", "heart_rate", "respiratory_rate"],
    )
    assert total(score) == 0


def test_where_the_site_turned_it_on_it_pages_and_resolves() -> None:
    ward = Ward(MonitorRules(model_pages=True, model_threshold=0.3))
    raised = only(alerts(ward.say(vitals(0, WELL), deteriorating(0.31))))
    assert (raised.kind, raised.severity) == ("deterioration", "medium")
    assert raised.title == "Deterioration score 0.31 (threshold 0.30): mostly SpO2, pulse"  # respirations lowered it
    assert "within 24 hours" in raised.detail
    ward.monitor.tick(at(1), SOURCE)
    assert ward.say(vitals(1, {"hr": 71}), deteriorating(0.25))[1:] == []  # within its hysteresis
    ward.say(vitals(2, {"hr": 72}), deteriorating(0.1))
    assert steps(ward.say(vitals(20, {"hr": 70}), deteriorating(0.1))) == [("deterioration", "resolved", "medium")]
    assert steps(Ward(MonitorRules(model_pages=True), birth_date=None).say(vitals(0, WELL), deteriorating(0.9))) == []


@pytest.mark.parametrize("awake", [True, False])
def test_paging_by_the_model_that_is_turned_off_ends_its_alerts(awake: bool) -> None:
    ward = Ward(MonitorRules(model_pages=True))
    (raised,) = alerts(ward.say(vitals(0, WELL), deteriorating(0.9)))
    fresh = Monitor(MonitorRules())
    for name in (PATIENT, ward.monitor.id):
        fresh.load(name, ward.monitor.dump(name))
    ward.monitor = fresh
    found = [one for one in (ward.wait(1) if awake else ward.sleep(60)) if one.kind == "deterioration"]
    assert [(one.alert_id, one.state, one.reason) for one in found] == [
        (raised.alert_id, "withdrawn", "the site has turned paging by the model off")
    ]
    assert not [one for one in ward.wait(100) if one.kind == "deterioration"]


def test_without_the_model_the_score_says_so() -> None:
    score, _ = Ward().chart(0, WELL)
    assert (score.deterioration, score.deterioration_reason) == (None, "no model in this test")
    score, _ = Ward(birth_date="2020-01-01").chart(0, WELL)
    assert "adults" in score.deterioration_reason


def test_the_models_digest_is_part_of_the_scores_id() -> None:
    event = vitals(0, WELL)
    ids = set()
    for model in (None, IDENTITY):
        monitor = Monitor(MonitorRules(), model=model)
        ids.add(monitor.decide(monitor.observe(event, SOURCE), None)[0].id)
    assert len(ids) == 2


# -------------------------------------------------------------------------------------------------------- the contract


def test_order_is_kept_or_refused() -> None:
    monitor = Monitor(MonitorRules())
    first, second = (monitor.observe(vitals(minute, WELL), SOURCE) for minute in (0, 1))
    for between in (
        lambda: monitor.tick(at(1), SOURCE),
        lambda: monitor.patient(context(), SOURCE),
        lambda: monitor.feedback(answer("x", 1), SOURCE),
        lambda: monitor.dump(PATIENT),
    ):
        with pytest.raises(RuntimeError, match="2 sets are observed and not decided"):
            between()
    with pytest.raises(RuntimeError, match="decide set 2"):
        monitor.decide(second, None)
    monitor = Monitor(MonitorRules())
    first = monitor.observe(vitals(0, WELL), SOURCE)
    assert len(monitor.decide(first, None)) == 1


@pytest.mark.parametrize("state", [b"", b"{}", b"[]", b'{"v":99}', b"\xff"])
def test_half_a_snapshot_is_refused(state: bytes) -> None:
    with pytest.raises(Fatal):
        Monitor(MonitorRules()).load(PATIENT, state)
    with pytest.raises(Fatal):
        Monitor(MonitorRules()).load("partition-0", state)


def test_a_typical_snapshot_is_small() -> None:
    ward = Ward()
    for hour in range(48):
        ward.chart(60 * hour, {**WELL, "dbp": 70, "hr": 70 + hour % 5}, id=f"{hour:036d}")
    hourly = ward.monitor.dump(PATIENT)
    ward = Ward()
    for hour in range(0, 48, 4):
        ward.chart(60 * hour, {**WELL, "dbp": 70}, id=f"{hour:036d}")
    four_hourly = ward.monitor.dump(PATIENT)
    assert hourly is not None
    assert four_hourly is not None
    assert len(four_hourly) < 2000, len(four_hourly)
    assert len(hourly) < 4000, len(hourly)


def test_no_names_no_identifiers_in_the_wording() -> None:
    ward = Ward(identifiers=({"authority": "H", "value": "MRN-4711", "kind": "MR"},))
    for one in [*ward.chart(0, ILL)[1], *ward.wait(120)]:
        assert "4711" not in one.model_dump_json()


def test_news2_models_are_whole() -> None:
    score, found = Ward().chart(0, ILL)
    for one in (score, *found):
        assert type(one).model_validate_json(one.model_dump_json()) == one
    assert isinstance(score.news2, News2)
