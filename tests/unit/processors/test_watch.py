"""Who is watched, and that whoever is not is told: late words, silence, the end of the watch, queues, clocks that are wrong."""

from typing import Any

import pytest

from processors.events import AlertEvent, ScoreEvent
from tests.bedside import ILL, PATIENT, WELL, Ward, at, context, observation, steps, vitals


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
    assert [one.state for one in told] == ["raised", "escalated", "escalated"]
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
