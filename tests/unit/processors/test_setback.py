"""Logged time that ran ahead, or runs behind: set back, it silences nobody, and everything goes on from there."""

from datetime import timedelta
from itertools import count
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.events import AlertEvent, HeartbeatEvent, ScoreEvent, VitalsEvent
from processors.monitor import Monitor, MonitorRules
from processors.patients import ms
from tests.bedside import ILL, PATIENT, SOURCE, WELL, Ward, alerts, answer, at, context, steps, vitals
from tests.unit.processors.test_monitor_properties import Driver, Tick, plain, stream

HALF_HOUR, TWO_HOURS, TEN_DAYS = 30, 120, 10 * 24 * 60
AHEAD = [HALF_HOUR, TWO_HOURS, TEN_DAYS]
PAGES = ("news2", "no-observations")


def of(found: list[AlertEvent], kind: str) -> list[AlertEvent]:
    return [one for one in found if one.kind == kind]


def said(ward: Ward, until: int, values: dict[str, Any] | None, since: int = 0) -> list[tuple[int, AlertEvent]]:
    """Chart a set every minute, with a tick after each, from `since` on: what was said, and in which minute."""
    found: list[tuple[int, AlertEvent]] = []
    for minute in range(since, until):
        if values is not None:
            found += [(minute, one) for one in alerts(ward.say(vitals(minute, values)))]
        found += [(minute, one) for one in alerts(ward.monitor.tick(at(minute + 0.1), SOURCE))]
    return found


# ------------------------------------------------------------------------------------------------------ ahead, and put right


@pytest.mark.parametrize("jump", AHEAD)
def test_a_tick_that_ran_ahead_silences_nobody(jump: int) -> None:
    ward = Ward()
    assert steps(ward.sleep(jump)) == [("monitoring-blind", "raised", "information")]
    found = said(ward, 20, ILL, since=1)
    news2 = [(minute, one.state) for minute, one in found if one.kind == "news2"]
    assert news2 == [(1, "raised"), (6, "escalated"), (11, "escalated")]
    blind = [(minute, one) for minute, one in found if one.kind == "monitoring-blind"]
    assert [(minute, one.state) for minute, one in blind] == [(1, "resolved")]
    assert "logged time was set back by" in blind[0][1].reason


@pytest.mark.parametrize("jump", AHEAD)
@pytest.mark.parametrize("stays", [1, 4, 20])
def test_hours_ahead_from_the_start_end_when_the_clock_is_put_right(jump: int, stays: int) -> None:
    """A worker began with a wrong clock; its sets were history, and the patient fell ill meanwhile."""
    ward = Ward()
    ward.sleep(jump)
    found: list[AlertEvent] = []
    for minute in range(1, stays + 1):
        found += alerts(ward.say(vitals(minute, ILL)))
        found += alerts(ward.monitor.tick(at(jump + minute), SOURCE))
    found += alerts(ward.monitor.tick(at(stays + 0.5), SOURCE))
    assert [one.state for one in of(found, "news2")][:1] == ["raised"]  # by the last set at the latest: no other was waited for
    found += [one for _, one in said(ward, stays + 20, ILL, since=stays + 1)]
    assert [one.state for one in of(found, "news2")][:3] == ["raised", "escalated", "escalated"]


@pytest.mark.parametrize("jump", AHEAD)
def test_an_unanswered_alert_climbs_on_as_if_the_clock_had_never_been_wrong(jump: int) -> None:
    ward = Ward()
    ward.chart(0, ILL)
    ward.wait(3)
    ward.sleep(3 + jump)
    found = said(ward, 20, ILL, since=4)
    assert [(minute, one.state) for minute, one in found if one.kind == "news2"] == [(5, "escalated"), (10, "escalated")]


@pytest.mark.parametrize("jump", AHEAD)
def test_what_was_waited_for_in_the_wrong_time_counts(jump: int) -> None:
    """Raised in the wrong time, four of five minutes waited: the fifth comes a minute after time was set back."""
    ward = Ward(MonitorRules(staleness=timedelta(days=30), catch_up=timedelta(), queue_age=timedelta(days=30)))
    ward.sleep(jump)
    ward.wait(jump + 1)
    ward.say(vitals(1, ILL))  # is current by these rules
    ward.wait(jump + 5)
    assert of(alerts(ward.monitor.tick(at(5), SOURCE)), "news2") == []
    assert [one.state for one in of(ward.wait(6), "news2")] == ["escalated"]


@pytest.mark.parametrize("jump", AHEAD)
def test_a_silence_and_a_stopped_feed_are_told_in_time(jump: int) -> None:
    ward = Ward()
    ward.chart(0, ILL)
    ward.sleep(jump)
    found = said(ward, 50, None, since=1)
    told = {one.kind: minute for minute, one in found if one.state == "raised"}
    assert told == {"feed-stopped": 30, "no-observations": 30}


def test_what_was_said_of_silence_in_the_wrong_time_is_taken_back() -> None:
    ward = Ward()
    ward.chart(0, ILL)
    ward.sleep(TWO_HOURS)
    raised = {one.kind for one in ward.wait(TWO_HOURS + 10) if one.state == "raised"}
    assert raised == {"feed-stopped", "no-observations"}
    ended = alerts(ward.monitor.tick(at(11), SOURCE))
    assert {(one.kind, one.state) for one in ended} == {("feed-stopped", "resolved"), ("no-observations", "resolved")}


@pytest.mark.parametrize("jump", AHEAD)
def test_no_suppression_outlasts_its_rule(jump: int) -> None:
    ward = Ward()
    ward.sleep(jump)
    ward.wait(jump + 6)
    five = {**WELL, "flow": 2, "hr": 111, "temp": 38.5}
    raised = of(alerts(ward.say(vitals(jump + 6, five))), "news2")[0]
    ward.say(answer(raised.alert_id, jump + 6, "alert-declined"))
    ward.monitor.tick(at(7), SOURCE)
    found = said(ward, 70, five, since=8)
    assert min(minute for minute, one in found if one.kind == "news2" and one.state == "raised") <= 67


def test_a_wards_budget_is_not_used_up_for_days() -> None:
    mild = {**WELL, "rr": 26}
    ward = Ward(MonitorRules(ward_budget=1, declined_suppression=timedelta()))
    ward.sleep(TEN_DAYS)
    ward.wait(TEN_DAYS + 6)
    raised = of(alerts(ward.say(vitals(TEN_DAYS + 6, mild))), "news2")[0]
    ward.say(answer(raised.alert_id, TEN_DAYS + 6, "alert-declined"))
    assert of(alerts(ward.monitor.tick(at(7), SOURCE)), "news2")[0].route == "worklist"  # the same day's budget
    ward.say(context(9, encounter_status="finished"))
    ward.wait(26 * 60)
    ward.say(context(26 * 60, encounter_id="e2"))
    assert of(ward.chart(26 * 60 + 1, mild)[1], "news2")[0].route == "default"


# --------------------------------------------------------------------------------------------------------------- behind


@pytest.mark.parametrize("back", [2, HALF_HOUR, 60, TEN_DAYS])
def test_an_unanswered_alert_climbs_though_the_clock_went_back(back: int) -> None:
    ward = Ward()
    ward.wait(1)
    ward.chart(2, ILL)
    ward.wait(5)
    found: list[tuple[int, str]] = []
    for minute in range(6, 20):
        ticked = alerts(ward.monitor.tick(at(minute - back), SOURCE))
        found += [(minute, one.state) for one in of(ticked, "news2")]
    assert [state for _, state in found] == ["escalated", "escalated"]
    assert found[0][0] <= 9  # of five minutes three had passed, of which at most one is lost
    assert found[1][0] - found[0][0] <= 5


@pytest.mark.parametrize("back", [HALF_HOUR, 60, TEN_DAYS])
def test_sets_alert_though_the_clock_went_back_and_is_behind_them(back: int) -> None:
    ward = Ward()
    ward.chart(0, WELL)
    ward.wait(5)
    ward.monitor.tick(at(6 - back), SOURCE)
    assert [one.state for one in alerts(ward.say(vitals(7, ILL)))] == ["raised"]


def test_a_silence_is_told_by_a_clock_that_is_behind() -> None:
    ward = Ward()
    ward.chart(2, ILL)
    ward.monitor.tick(at(3 - 60), SOURCE)
    found: list[AlertEvent] = []
    for minute in range(4, 40):
        found += alerts(ward.monitor.tick(at(minute - 60), SOURCE))
    assert {one.kind for one in found if one.state == "raised"} == {"no-observations", "feed-stopped"}


def test_a_heartbeat_says_at_once_by_how_much() -> None:
    ward = Ward()
    ward.wait(10)
    said = ward.monitor.tick(at(5), SOURCE)
    assert [one.set_back_seconds for one in said if isinstance(one, HeartbeatEvent)] == [300.0]
    assert ward.monitor.now == at(5)
    later = ward.monitor.tick(at(6), SOURCE)
    assert [one.set_back_seconds for one in later if isinstance(one, HeartbeatEvent)] == [0.0]


# ------------------------------------------------------------------------------------- what a wrong clock stamped the sets with


@pytest.mark.parametrize("jump", AHEAD)
def test_sets_that_a_wrong_clock_stamped_do_not_make_history_of_all_later_ones(jump: int) -> None:
    ward = Ward()
    ward.chart(0, WELL)
    ward.say(vitals(jump + 1, {"rr": 17, "hr": 72}))  # observed and received by the wrong clock; logged time is right
    ward.wait(1)
    score, raised = ward.chart(2, ILL)
    assert not score.late
    assert [one.state for one in raised] == ["raised"]
    resolved = [minute for minute, one in said(ward, 40, WELL, since=3) if (one.kind, one.state) == ("news2", "resolved")]
    assert resolved == [18]


def test_calm_that_began_in_a_wrong_time_counts_anew() -> None:
    ward = Ward()
    ward.chart(0, ILL)
    ward.say(vitals(TEN_DAYS, WELL))
    resolved = [minute for minute, one in said(ward, 40, WELL, since=1) if (one.kind, one.state) == ("news2", "resolved")]
    assert len(resolved) == 1
    assert resolved[0] <= 17


def test_a_silence_begins_when_it_does_and_not_when_a_wrong_stamp_says() -> None:
    ward = Ward()
    ward.say(vitals(TEN_DAYS, ILL))
    told = {one.kind: minute for minute, one in said(ward, 50, None) if one.state == "raised"}
    assert set(told) == {"no-observations", "feed-stopped"}
    assert max(told.values()) <= 31


def test_a_late_set_proves_no_wrong_clock() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    ward.say(vitals(TWO_HOURS, WELL))
    before = ward.monitor._patients[PATIENT].newest
    late = ward.say(vitals(-90, {"temp": 37.0}, received=0))[0]
    assert isinstance(late, ScoreEvent)
    assert late.late
    assert ward.monitor._patients[PATIENT].newest == before


# ------------------------------------------------------------------------------------------------------------- every stream


def disturbed(inputs: list[Any], places: dict[int, float]) -> list[Any]:
    """The stream with ticks between its inputs that a wrong clock gave."""
    out: list[Any] = []
    now = 0.0
    for place, one in enumerate(inputs):
        now = one.minutes if isinstance(one, Tick) else now
        out.append(one)
        if place in places:
            out.append(Tick(now + places[place]))
    return out


SEEDS, LENGTHS = st.integers(0, 10**9), st.integers(4, 70)
WRONG = st.dictionaries(st.integers(0, 70), st.sampled_from([-60.0, -2.0, -0.5, 30.0, 120.0, 14400.0]), max_size=4)
QUICK = settings(max_examples=40, deadline=None)


@QUICK
@given(SEEDS, LENGTHS, WRONG, st.sets(st.integers(0, 74)))
def test_batches_and_crashes_change_nothing_of_a_stream_with_a_wrong_clock(
    seed: int, length: int, wrong: dict[int, float], places: set[int]
) -> None:
    inputs = disturbed(stream(seed, length), wrong)
    undisturbed = plain(Driver().run(inputs))
    assert plain(Driver(cut=lambda place: place in places).run(inputs)) == undisturbed
    assert plain(Driver(crash=lambda place: place in places).run(inputs)) == undisturbed


@QUICK
@given(SEEDS, LENGTHS, WRONG)
def test_no_id_is_given_twice_and_every_alert_begins_once(seed: int, length: int, wrong: dict[int, float]) -> None:
    out = Driver().run(disturbed(stream(seed, length), wrong))
    # An input that comes again after its id was let go of is scored, and passed on after a merge, again: under the same ids.
    out = [one for one in out if not isinstance(one, ScoreEvent | VitalsEvent)]
    assert len({one.id for one in out}) == len(out)
    raised = [one.alert_id for one in out if isinstance(one, AlertEvent) and one.state == "raised"]
    assert len(raised) == len(set(raised))


@QUICK
@given(SEEDS, LENGTHS, WRONG)
def test_whatever_the_clock_did_a_patient_who_falls_ill_alerts(seed: int, length: int, wrong: dict[int, float]) -> None:
    """After any stream with any wrong ticks, right time comes and a new patient and all old ones are charted as ill."""
    driver = Driver()
    inputs = disturbed(stream(seed, length), wrong)
    driver.run(inputs)
    right = max((one.minutes for one in stream(seed, length) if isinstance(one, Tick)), default=0.0)
    monitor, serial = driver.monitor, count()
    monitor.patient(context(right, patient="new", id="new-context"), SOURCE)
    names = ["new", *(one.id for one in monitor._patients.values() if one.context.known and not one.ended)]
    watched = [name for name in dict.fromkeys(names) if not monitor._patients[name].context.not_applicable(ms(at(0)))]
    for minute in range(1, 26):
        now = right + minute
        for name in watched:
            event = vitals(now, ILL, patient=name, id=f"last-{next(serial)}", peer="ehr")
            monitor.decide(monitor.observe(event, SOURCE), None, "none")
        monitor.tick(at(now + 0.1), SOURCE)
    for name in watched:
        patient = monitor._patients[name]
        assert "news2" in patient.alerts or "news2" in patient.closed, name


def test_a_snapshot_that_is_being_taken_stands_for_its_moment() -> None:
    ward = Ward()
    ward.chart(0, ILL)
    ward.wait(5)
    expected = ward.monitor.dump(PATIENT)
    ward.monitor.begin_snapshot()
    ward.monitor.tick(at(-60), SOURCE)
    found = ward.monitor.snapshot(1000)
    assert found is not None
    assert found[PATIENT] == expected
    assert ward.monitor.dump(PATIENT) != expected
    assert PATIENT in ward.monitor.dirty()


def test_snapshots_of_before_are_loaded() -> None:
    ward = Ward()
    ward.chart(0, ILL)
    ward.wait(TWO_HOURS)
    old = orjson.loads(ward.monitor.dump(ward.monitor.id) or b"")
    assert old.pop("set_backs") == 0
    loaded = Monitor(MonitorRules())
    loaded.load(ward.monitor.id, orjson.dumps(old))
    loaded.load(PATIENT, ward.monitor.dump(PATIENT))
    again = loaded.tick(at(1), SOURCE)
    assert plain(again) == plain(ward.monitor.tick(at(1), SOURCE))
