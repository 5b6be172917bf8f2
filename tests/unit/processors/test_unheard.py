"""What was taken back, as another patient's sets are, is no word of the patient: silence goes by what is left."""

from typing import Any

import pytest

from processors.events import AlertEvent
from processors.monitor import Monitor
from tests.bedside import WELL, Ward, alerts, at, context, observation, vitals

MEDIUM: dict[str, Any] = {**WELL, "rr": 26, "spo2": 93}  # 3 + 2: 90 minutes
ERROR = "entered-in-error"


def silences(found: list[AlertEvent]) -> list[tuple[str, int]]:
    """(state, minute) of what was told of silence."""
    return [(one.state, round((one.decided_at - at(0)).total_seconds() / 60)) for one in found if one.kind == "no-observations"]


def restart(ward: Ward) -> None:
    fresh = Monitor(ward.monitor.rules)
    for name in (*ward.monitor._patients, ward.monitor.id):
        fresh.load(name, ward.monitor.dump(name))
    ward.monitor = fresh


@pytest.mark.parametrize("restarted", [False, True])
def test_silence_goes_by_the_patients_own_last_set(restarted: bool) -> None:
    ward = Ward()
    ward.chart(1, MEDIUM)
    ward.chart(85, MEDIUM)
    ward.wait(88)
    ward.say(vitals(85, MEDIUM, received=88, status=ERROR))
    if restarted:
        restart(ward)
    (told,) = [one for one in ward.wait(95) if one.kind == "no-observations"]
    assert (told.state, told.title, told.decided_at) == ("raised", "No observations for 1 h 31 min", at(92))
    assert told.detail.startswith("No observation that counts came within 1 h 30 min after 2026-11-23 08:01 UTC.")


def test_what_is_long_overdue_is_told_at_once() -> None:
    ward = Ward()
    ward.chart(1, WELL)
    ward.chart(720, WELL)
    ward.wait(800)
    ward.say(vitals(720, WELL, received=800, status=ERROR))
    assert silences(ward.wait(802)) == [("raised", 801)]


def test_a_silence_that_ended_by_what_was_taken_back_is_told_anew_at_once() -> None:
    ward = Ward()
    ward.chart(1, MEDIUM)
    ward.wait(95)
    ward.chart(96, MEDIUM)
    ward.say(vitals(96, MEDIUM, received=96, status=ERROR))
    assert silences(ward.wait(98)) == [("raised", 97)]


def test_a_part_of_a_set_that_is_taken_back_leaves_the_rest_as_a_word() -> None:
    ward = Ward()
    ward.chart(1, MEDIUM)
    ward.chart(80, MEDIUM)
    ward.say(vitals(80, observations=[observation("rr", 26, status=ERROR)], received=81))
    assert silences(ward.wait(165)) == []


def test_a_correction_leaves_it_as_a_word() -> None:
    ward = Ward()
    ward.chart(1, MEDIUM)
    ward.chart(80, MEDIUM)
    ward.say(vitals(80, {**MEDIUM, "rr": 27}, received=81, status="corrected"))
    assert silences(ward.wait(165)) == []


@pytest.mark.parametrize("order", ["before", "after"])
def test_the_same_set_that_comes_again_after_it_was_taken_back_is_no_word(order: str) -> None:
    ward = Ward()
    ward.chart(1, MEDIUM)
    ward.wait(85)
    original, wrong = vitals(85, MEDIUM), vitals(85, MEDIUM, status=ERROR)
    for event in (wrong, original) if order == "before" else (original, wrong, vitals(85, MEDIUM)):
        ward.say(event)
    assert silences(ward.wait(95)) == [("raised", 92)]


@pytest.mark.parametrize("restarted", [False, True])
def test_where_nothing_is_left_the_admission_counts(restarted: bool) -> None:
    ward = Ward()
    ward.wait(60)
    ward.chart(600, WELL)
    ward.wait(620)
    ward.say(vitals(600, WELL, received=620, status=ERROR))
    if restarted:
        restart(ward)
    (told,) = [one for one in ward.wait(760) if one.kind == "no-observations"]
    assert (told.reason, told.decided_at) == ("nothing within 12 h 30 min of the admission", at(752))


def test_where_nobody_waits_for_a_first_set_nothing_changes() -> None:
    ward = Ward(encounter_status="unknown", encounter_id=None)
    ward.chart(1, WELL)
    ward.say(vitals(1, WELL, received=2, status=ERROR))
    assert silences(ward.wait(760)) == [("raised", 752)]


def test_whoever_is_gone_is_not_missed_by_what_is_taken_back() -> None:
    ward = Ward()
    ward.chart(1, MEDIUM)
    ward.chart(85, MEDIUM)
    ward.say(context(86, encounter_status="finished"))
    assert alerts(ward.say(vitals(85, MEDIUM, received=88, status=ERROR))) == []
    assert silences(ward.wait(200)) == []
