"""What an answer covers and for how long, what a single 3 and a swinging patient lead to: no alert is hushed by an older one."""

from collections import Counter
from datetime import timedelta
from typing import Any

import orjson
import pytest

from processors.events import AlertEvent, Location, PatientEvent
from processors.monitor import MonitorRules
from processors.rules import AcknowledgedFor, CeilingPolicy, RepeatLast
from tests.bedside import ILL, PATIENT, WELL, Ward, alerts, answer, at, context, steps

RED: dict[str, Any] = {**WELL, "rr": 26}  # 3
OTHER: dict[str, Any] = {**WELL, "acvpu": "U"}  # 3 too, by another organ
FIVE: dict[str, Any] = {**WELL, "flow": 2, "hr": 111, "temp": 38.5}  # 2 + 2 + 1
SEVEN: dict[str, Any] = {**WELL, "rr": 26, "spo2": 91, "hr": 100}  # 3 + 3 + 1
DYING: dict[str, Any] = {"rr": 28, "spo2": 88, "flow": 4, "sbp": 85, "hr": 135, "acvpu": "V", "temp": 39.5}  # 19


def of(found: list[AlertEvent], kind: str = "news2") -> list[AlertEvent]:
    return [one for one in found if one.kind == kind]


def only(found: list[AlertEvent]) -> AlertEvent:
    assert len(found) == 1, steps(found)
    return found[0]


def restored(before: Ward, rules: MonitorRules | None = None) -> Ward:
    """Return a ward with a monitor that was loaded from the other's snapshots."""
    ward = Ward(rules, admit=False)
    for name in (PATIENT, before.monitor.id):
        ward.monitor.load(name, before.monitor.dump(name))
    return ward


def edited(before: Ward, change: Any) -> Ward:
    """Return a ward restored from a snapshot that lacks what older ones lack."""
    state = orjson.loads(before.monitor.dump(PATIENT) or b"")
    change(state)
    ward = restored(before)
    ward.monitor.load(PATIENT, orjson.dumps(state))
    return ward


def charted(ward: Ward, since: int, until: int, values: dict[str, Any], every: int = 10) -> list[AlertEvent]:
    """Chart the same set again and again: what was told of NEWS2."""
    found = []
    for minute in range(since, until + 1, every):
        now = ward.chart(minute, values)[1]
        found += [*ward.meanwhile, *now]
    return of(found)


def told(found: list[AlertEvent]) -> list[tuple[str, Any, str]]:
    return [(one.state, round((one.decided_at - at(0)).total_seconds() / 60), one.route) for one in found]


# -------------------------------------------------------------------------------------------- an answer, to what it answers


@pytest.mark.parametrize("kind", ["alert-acknowledged", "alert-declined"])
@pytest.mark.parametrize("restarted", [False, True])
def test_an_answer_to_the_milder_step_does_not_stop_the_graver_one(kind: str, restarted: bool) -> None:
    """A single 3 was acknowledged a minute before the patient came to 19; the answer came after. Nobody was called again."""
    ward = Ward()
    raised = only(ward.chart(0, RED)[1])
    worse = only(ward.chart(2, DYING)[1])
    assert (worse.alert_id, worse.state, worse.severity) == (raised.alert_id, "updated", "high")
    if restarted:
        ward = restored(ward)
    noted = only(alerts(ward.say(answer(raised.alert_id, 3, kind, given=1, reason="seen"))))
    assert (noted.state, noted.severity, noted.sequence, noted.by) == ("updated", "high", 2, "nurse-7")
    assert noted.reason == f"noted, answers what was told before; {kind.removeprefix('alert-')}: seen"
    assert told(of(ward.wait(13))) == [("escalated", 5, "nurse-in-charge"), ("escalated", 10, "rapid-response")]
    late = only(alerts(ward.say(answer(raised.alert_id, 14, kind, given=1))))
    assert (late.state, late.route) == ("escalated", "rapid-response")
    assert only(alerts(ward.say(answer(raised.alert_id, 15)))).state == "acknowledged"
    assert of(ward.wait(60)) == []


def test_an_answer_that_names_its_step_is_judged_by_it() -> None:
    """The old step stood on the nurse's screen when it was answered, whatever the clocks say."""
    ward = Ward()
    raised = only(ward.chart(0, RED)[1])
    ward.chart(2, DYING)
    assert only(alerts(ward.say(answer(raised.alert_id, 3, sequence=0)))).state == "updated"
    assert only(alerts(ward.say(answer(raised.alert_id, 4, given=-60, sequence=1)))).state == "acknowledged"


@pytest.mark.parametrize("kind", ["alert-acknowledged", "alert-declined", "alert-answer-retracted"])
def test_an_answer_that_names_a_step_which_was_not_told_fits_none(kind: str) -> None:
    ward = Ward()
    raised = only(ward.chart(0, ILL)[1])
    if kind == "alert-answer-retracted":
        ward.say(answer(raised.alert_id, 1))
    told = raised.sequence + (kind == "alert-answer-retracted")
    assert ward.say(answer(raised.alert_id, 2, kind, sequence=told + 1)) == []
    assert ward.say(answer(raised.alert_id, 2, kind, sequence=99)) == []
    assert ward.monitor.counts["unmatched_feedback"] == 2
    assert len(ward.say(answer(raised.alert_id, 3, kind, sequence=told))) == 1


def test_a_receivers_slow_clock_does_not_undo_its_first_answer() -> None:
    ward = Ward()
    raised = only(ward.chart(0, RED)[1])
    assert only(alerts(ward.say(answer(raised.alert_id, 1, given=-30)))).state == "acknowledged"


def test_an_answer_stands_though_the_alert_sinks_meanwhile() -> None:
    ward = Ward(MonitorRules(resolve_after=timedelta()))
    raised = only(ward.chart(0, ILL)[1])
    ward.chart(1, FIVE)
    assert steps(ward.chart(2, FIVE)[1]) == [("news2", "updated", "medium")]
    assert only(alerts(ward.say(answer(raised.alert_id, 3, given=1)))).state == "acknowledged"


# ----------------------------------------------------------------------------------------------- declined, resolved, and worse


def test_a_decline_holds_back_no_marked_rise() -> None:
    """NEWS2 7 was declined; three minutes later 19, and for 57 minutes nothing."""
    ward = Ward(MonitorRules(escalation={}))
    raised = only(ward.chart(0, SEVEN)[1])
    assert only(alerts(ward.say(answer(raised.alert_id, 1, "alert-declined")))).state == "declined"
    assert ward.chart(2, SEVEN)[1] == []
    assert ward.chart(3, {**SEVEN, "hr": 111})[1] == []  # 8: not a marked one
    again = only(ward.chart(4, DYING)[1])
    assert (again.state, again.severity) == ("raised", "high")


def test_a_decline_of_a_single_3_holds_back_no_other_organ() -> None:
    ward = Ward()
    raised = only(ward.chart(0, RED)[1])
    ward.say(answer(raised.alert_id, 1, "alert-declined"))
    assert ward.chart(2, RED)[1] == []
    ward = restored(ward)
    assert only(ward.chart(3, OTHER)[1]).state == "raised"


def test_after_a_resolve_an_emergency_is_told_at_once() -> None:
    ward = Ward()
    ward.chart(0, DYING)
    ward.chart(10, WELL)
    assert only(ward.chart(26, WELL)[1]).state == "resolved"
    ward = restored(ward)
    assert only(ward.chart(27, DYING)[1]).state == "raised"


def test_after_a_resolve_the_same_single_3_waits_and_another_does_not() -> None:
    def resolved() -> Ward:
        ward = Ward()
        ward.chart(0, RED)
        ward.chart(10, WELL)
        assert only(ward.chart(26, WELL)[1]).state == "resolved"
        return ward

    assert resolved().chart(30, RED)[1] == []
    assert only(resolved().chart(30, OTHER)[1]).state == "raised"


def test_what_an_older_snapshot_closed_holds_back_no_rise() -> None:
    """It knows neither total nor parameters: rather one alert too many."""
    ward = Ward()
    raised = only(ward.chart(0, RED)[1])
    ward.say(answer(raised.alert_id, 1, "alert-declined"))

    def older(state: dict[str, Any]) -> None:
        assert state["closed"]["news2"][:2] == ["low-medium", state["closed"]["news2"][1]]
        del state["closed"]["news2"][2:]

    assert only(edited(ward, older).chart(2, RED)[1]).state == "raised"


def test_one_who_declines_an_emergency_passes_it_on() -> None:
    """A decline ends a milder alert for everybody; of an unanswered emergency it calls the next link, at once."""
    ward = Ward()
    raised = only(ward.chart(0, ILL)[1])
    ward.wait(1)
    found = [
        only(alerts(ward.say(answer(raised.alert_id, 1, "alert-declined", reason="off shift")))),
        only(alerts(ward.say(answer(raised.alert_id, 1, "alert-declined")))),
    ]
    assert told(found) == [("escalated", 1, "nurse-in-charge"), ("escalated", 1, "rapid-response")]
    assert [one.reason for one in found] == ["passed on; declined: off shift", "passed on; declined"]
    assert only(alerts(ward.say(answer(raised.alert_id, 2, "alert-declined")))).state == "declined"

    ward = Ward()
    raised = only(ward.chart(0, ILL)[1])
    ward.say(answer(raised.alert_id, 1))
    assert only(alerts(ward.say(answer(raised.alert_id, 2, "alert-declined")))).state == "declined"  # somebody had come
    ward = Ward()
    raised = only(ward.chart(0, FIVE)[1])
    assert only(alerts(ward.say(answer(raised.alert_id, 1, "alert-declined")))).state == "declined"


def test_where_a_ceiling_calls_nobody_a_decline_does_not_either() -> None:
    ward = Ward(MonitorRules(ceilings={"ward based": CeilingPolicy(route="palliative")}), ceiling_of_care="ward based")
    raised = only(ward.chart(0, ILL)[1])
    assert only(alerts(ward.say(answer(raised.alert_id, 1, "alert-declined")))).state == "declined"


# ------------------------------------------------------------------------------------------------------------ another organ


@pytest.mark.parametrize("restarted", [False, True])
def test_another_single_3_under_an_answered_alert_is_told_and_waits_anew(restarted: bool) -> None:
    """Respirations of 26 were acknowledged; then they were normal and the patient unresponsive: nothing, ever."""
    ward = Ward()
    raised = only(ward.chart(0, RED)[1])
    ward.say(answer(raised.alert_id, 1))
    if restarted:
        ward = restored(ward)
    worse = only(ward.chart(10, OTHER)[1])
    assert (worse.alert_id, worse.state, worse.severity) == (raised.alert_id, "updated", "low-medium")
    assert worse.reason == "consciousness at 3, not so when last told"
    assert told(charted(ward, 20, 70, OTHER)) == [("escalated", 70, "nurse-in-charge")]


def test_another_single_3_at_a_total_like_before() -> None:
    """Medium 5, acknowledged; then 6 by saturation and consciousness alone."""
    ward = Ward()
    raised = only(ward.chart(0, {**WELL, "rr": 26, "flow": 2})[1])
    ward.say(answer(raised.alert_id, 1))
    worse = only(ward.chart(10, {**WELL, "spo2": 80, "acvpu": "U"})[1])
    assert (worse.state, worse.severity, worse.reason) == (
        "updated",
        "medium",
        "SpO2, consciousness at 3, not so when last told",
    )
    assert told(of(ward.wait(25))) == [("escalated", 25, "nurse-in-charge")]


def test_a_3_that_swings_by_a_point_is_told_once() -> None:
    """Respirations 25 and 24, saturation 91 and 92, each 3 and 2 in turn: one update for the second organ, not one a set."""
    ward = Ward()
    one, two = {**WELL, "rr": 26, "spo2": 92}, {**WELL, "rr": 24, "spo2": 91}
    found = [step for i in range(12) for step in of(ward.chart(5 * i, one if i % 2 == 0 else two)[1])]
    assert [step.state for step in found] == ["raised", "updated"]


def test_where_single_3s_are_the_wards_a_new_one_updates_nothing() -> None:
    ward = Ward(MonitorRules(single_three=False))
    ward.chart(0, {**WELL, "rr": 26, "flow": 2})
    assert of(ward.chart(10, {**WELL, "acvpu": "U", "flow": 2})[1]) == []


def test_a_correction_that_swaps_the_organ_is_told() -> None:
    ward = Ward()
    ward.chart(0, RED)
    swapped = only(ward.chart(0, {"rr": 16, "acvpu": "U"}, status="corrected", received=5)[1])
    assert (swapped.state, swapped.severity) == ("updated", "low-medium")


def test_an_alert_of_an_older_snapshot_is_told_of_what_scored_nothing_before() -> None:
    ward = Ward()
    ward.chart(0, RED)
    older = edited(ward, lambda state: state["alerts"]["news2"].pop("threes"))
    assert older.chart(10, RED)[1] == []
    assert only(older.chart(20, OTHER)[1]).state == "updated"


# -------------------------------------------------------------------------------------------- unanswered, and answered long ago


def test_the_last_link_is_told_again_while_nobody_answers() -> None:
    """NEWS2 19 was charted every ten minutes for a day: told three times within ten minutes, and never again."""
    ward = Ward()
    found = charted(ward, 0, 100, DYING)
    first = [("raised", 0, "default"), ("escalated", 5, "nurse-in-charge"), ("escalated", 10, "rapid-response")]
    again = [("escalated", minute, "rapid-response") for minute in range(25, 101, 15)]
    assert told(found) == first + again
    assert found[-1].routes == ("default", "nurse-in-charge", "rapid-response")
    ward = restored(ward)
    assert told(charted(ward, 110, 130, DYING)) == [("escalated", 115, "rapid-response"), ("escalated", 130, "rapid-response")]
    ward.say(answer(found[0].alert_id, 131))
    assert charted(ward, 140, 180, DYING) == []


def test_nobody_is_told_again_of_what_is_calm_until_it_is_not() -> None:
    ward = Ward()
    ward.chart(0, DYING)
    ward.chart(20, WELL)
    assert told(of(ward.wait(30))) == []
    ward.chart(31, DYING)
    assert told(of(ward.wait(32))) == [("escalated", 32, "rapid-response")]


@pytest.mark.parametrize(
    ("values", "rules", "minutes"),
    [
        (FIVE, MonitorRules(), [15, 30, 90, 150]),
        (RED, MonitorRules(), [60]),
        (DYING, MonitorRules(repeat_last=RepeatLast(high=timedelta())), [5, 10]),
        (DYING, MonitorRules(escalation={}), []),
    ],
)
def test_how_often_by_severity(values: dict[str, Any], rules: MonitorRules, minutes: list[int]) -> None:
    found = charted(Ward(rules), 0, 180, values)
    assert [step[1] for step in told(found)[1:]] == minutes


def test_an_alert_of_an_older_snapshot_goes_on_to_be_repeated() -> None:
    ward = Ward()
    ward.chart(0, DYING)
    ward.wait(12)
    older = edited(ward, lambda state: state["alerts"]["news2"].pop("escalated_at"))
    assert told(of(older.wait(30))) == [("escalated", 25, "rapid-response")]


WORSE: list[dict[str, Any]] = [  # 7, 9, 11, 13, 15, 19
    {**WELL, "rr": 26, "spo2": 93, "flow": 2},
    {**WELL, "rr": 26, "spo2": 91, "flow": 2, "hr": 95},
    {**WELL, "rr": 26, "spo2": 91, "flow": 2, "hr": 112, "sbp": 105},
    {**WELL, "rr": 26, "spo2": 91, "flow": 2, "hr": 135, "sbp": 95},
    {**WELL, "rr": 26, "spo2": 91, "flow": 2, "hr": 135, "sbp": 85, "temp": 38.5},
    {**WELL, "rr": 26, "spo2": 91, "flow": 2, "hr": 135, "sbp": 85, "temp": 39.5, "acvpu": "V"},
]


@pytest.mark.parametrize("restarted", [False, True])
def test_to_get_worse_puts_no_link_of_the_chain_off(restarted: bool) -> None:
    """Each rise sent the alert back to the ward: the emergency team was told at minute 55 instead of 10."""
    ward, found = Ward(), []
    for place, values in enumerate(WORSE):
        now = ward.chart(9 * place, values)[1]
        found += of([*ward.meanwhile, *now])
        if restarted:
            ward = restored(ward)
    assert told(found) == [
        ("raised", 0, "default"),
        ("escalated", 5, "nurse-in-charge"),
        ("updated", 9, "nurse-in-charge"),  # who was told hears of the rise, as does, by `routes`, the ward
        ("escalated", 10, "rapid-response"),
        ("updated", 18, "rapid-response"),
        ("escalated", 25, "rapid-response"),
        ("updated", 27, "rapid-response"),
        ("updated", 36, "rapid-response"),
        ("escalated", 40, "rapid-response"),
        ("updated", 45, "rapid-response"),
    ]
    assert {one.routes for one in found[3:]} == {("default", "nurse-in-charge", "rapid-response")}
    raised = found[0].alert_id
    noted = only(alerts(ward.say(answer(raised, 46, given=44))))
    assert (noted.state, noted.reason) == ("updated", "noted, answers what was told before; acknowledged")
    assert only(alerts(ward.say(answer(raised, 47)))).state == "acknowledged"
    assert told(ward.chart(48, {**DYING, "temp": 34.0})[1]) == [("updated", 48, "default")], (
        "answered: asked anew, from the first step"
    )
    assert told(of(ward.wait(53))) == [("escalated", 53, "nurse-in-charge")]


def test_another_single_3_every_50_minutes_is_escalated_within_the_hour() -> None:
    ward, found = Ward(), []
    for place in range(6):
        now = ward.chart(50 * place, {**WELL, **({"rr": 8}, {"hr": 135}, {"sbp": 85})[place % 3]})[1]
        found += of([*ward.meanwhile, *now])
    assert [step for step in told(found) if step[0] == "escalated"] == [("escalated", 60, "nurse-in-charge")]


@pytest.mark.parametrize(
    ("first", "then", "minute", "links"),
    [
        (
            RED,
            DYING,
            50,
            [(51, "nurse-in-charge"), (51, "rapid-response")],
        ),  # nobody came in 50 minutes, and it is an emergency
        (RED, DYING, 70, [(60, "nurse-in-charge"), (71, "rapid-response")]),
        (FIVE, DYING, 20, [(15, "nurse-in-charge"), (21, "rapid-response")]),
        (FIVE, DYING, 40, [(15, "nurse-in-charge"), (30, "ward-doctor"), (41, "rapid-response")]),
        (RED, FIVE, 2, [(15, "nurse-in-charge"), (30, "ward-doctor")]),
    ],
)
def test_a_graver_chain_is_joined_where_the_milder_one_was_left(
    first: dict[str, Any], then: dict[str, Any], minute: int, links: list[tuple[int, str]]
) -> None:
    """Of its links those that were told are not told again, and those that are due are told at once."""
    ward = Ward()
    ward.chart(0, first)
    ward.chart(minute, then)
    found = of([*ward.meanwhile, *ward.wait(35 if minute < 30 else minute + 5)])
    assert [(when, route) for _, when, route in told(found)][: len(links)] == links


def test_a_site_whose_milder_severity_has_no_chain_waits_for_the_graver_one_from_the_rise_on() -> None:
    chain = {"high": MonitorRules().escalation["high"]}
    ward = Ward(MonitorRules(escalation=chain))
    ward.chart(0, FIVE)
    ward.chart(60, DYING)
    assert told(of(ward.wait(71))) == [("escalated", 65, "nurse-in-charge"), ("escalated", 70, "rapid-response")]


def test_a_correction_of_a_mild_value_restarts_no_clock() -> None:
    """NEWS2 9, and 8 by the correction of a temperature: the emergency team was told at minute 20."""
    ward = Ward()
    ward.chart(0, {**ILL, "temp": 38.5})
    ward.wait(9)
    corrected = ward.chart(0, {"temp": 37.5}, status="corrected", received=9.5)[1]
    assert told(corrected) == [("updated", 10, "nurse-in-charge")]
    assert told(of(ward.wait(10))) == [("escalated", 10, "rapid-response")]


# --------------------------------------------------------------------------------------------- another bed, ward, ceiling of care


def move(minute: float, ward: str = "A", bed: str = "") -> PatientEvent:
    return context(minute).model_copy(update={"location": Location(ward=ward, bed=bed)})


@pytest.mark.parametrize("places", [[("A", "1"), ("A", "2")], [("A", ""), ("", "")]])
def test_two_devices_that_name_two_beds_in_turn_do_not_put_the_emergency_team_off(places: list[tuple[str, str]]) -> None:
    """An hour of NEWS2 8 with the bed flipping every five minutes, and the emergency team was never told."""
    ward, found = Ward(), []
    ward.chart(0, ILL)
    for minute in range(4, 60, 4):
        found += of(ward.wait(minute))
        found += of(alerts(ward.say(move(minute, *places[minute // 4 % 2]))))
    assert [step for step in told(found) if step[0] == "escalated"][:3] == [
        ("escalated", 5, "nurse-in-charge"),
        ("escalated", 10, "rapid-response"),
        ("escalated", 25, "rapid-response"),
    ]
    moved = [one.route for one in found if one.state == "updated"]
    assert moved == ["default"] + ["nurse-in-charge"] + ["rapid-response"] * (len(moved) - 2)


def test_another_ward_is_asked_from_its_own_first_step() -> None:
    ward = Ward(MonitorRules(ward_routes={"A": "phones-a", "B": "phones-b"}))
    raised = only(ward.chart(0, ILL)[1])
    ward.wait(11)
    assert told(alerts(ward.say(move(11, "B")))) == [("updated", 11, "phones-b")]
    assert told(of(ward.wait(21))) == [("escalated", 16, "nurse-in-charge"), ("escalated", 21, "rapid-response")]
    ward.say(answer(raised.alert_id, 21))
    assert told(alerts(ward.say(move(21, "A")))) == [("updated", 21, "phones-a")]
    assert told(of(ward.wait(27))) == [("escalated", 26, "nurse-in-charge")], "whatever another ward has answered"


@pytest.mark.parametrize("restarted", [False, True])
def test_what_another_ward_answered_asks_the_new_one_all_the_same(restarted: bool) -> None:
    rules = MonitorRules(ward_routes={"A": "phones-a", "B": "phones-b"})
    ward = Ward(rules)
    raised = only(ward.chart(0, ILL)[1])
    ward.say(answer(raised.alert_id, 1))
    ward.wait(3)
    moved = only(alerts(ward.say(move(3, "B"))))
    assert (moved.state, moved.route, moved.reason) == ("updated", "phones-b", "transferred")
    assert moved.answering is not None
    assert (moved.answering.waiting_since, moved.answering.acknowledged_at) == (at(3), None)
    if restarted:
        ward = restored(ward, rules)
    noted = only(alerts(ward.say(answer(raised.alert_id, 4, given=2))))  # on its way while the patient was
    assert (noted.state, noted.reason) == ("updated", "noted, answers what was told before; acknowledged")
    assert told(of(ward.wait(8))) == [("escalated", 8, "nurse-in-charge")]
    assert only(alerts(ward.say(answer(raised.alert_id, 8)))).state == "acknowledged"
    turned = only(alerts(ward.say(move(9, "B", bed="2"))))
    assert turned.answering is not None and turned.answering.acknowledged_at == at(8)
    assert of(ward.wait(60)) == []


def test_an_alert_that_gets_graver_goes_to_the_route_that_the_settings_name_now() -> None:
    ward = Ward(MonitorRules(default_route="old-pager"))
    assert only(ward.chart(1, RED)[1]).route == "old-pager"
    ward = restored(ward, MonitorRules(default_route="new-pager"))
    graver = only(ward.chart(3, ILL)[1])
    assert (graver.route, graver.routes) == ("new-pager", ("old-pager", "new-pager"))
    assert told(of(ward.wait(6))) == [("escalated", 6, "nurse-in-charge")]
    ward = restored(ward, MonitorRules(default_route="newest-pager"))
    assert only(ward.chart(7, DYING)[1]).route == "nurse-in-charge"  # who was told last hears of it


def test_a_ceiling_of_care_that_the_settings_name_now_is_asked_and_does_not_climb() -> None:
    ward = Ward(ceiling_of_care="ward")
    ward.chart(1, RED)
    ward = restored(ward, MonitorRules(ceilings={"ward": CeilingPolicy(route="palliative")}))
    assert only(ward.chart(3, ILL)[1]).route == "palliative"
    assert of(ward.wait(30)) == []


def test_an_alert_about_a_feed_goes_on_to_the_route_of_now() -> None:
    ward = Ward(MonitorRules(default_route="old-pager"))
    ward.chart(1, WELL)
    assert [one.route for one in of(ward.wait(32), "feed-stopped")] == ["old-pager"]
    ward = restored(ward, MonitorRules(default_route="new-pager"))
    ward.chart(33, WELL)
    assert [one.routes for one in of(ward.wait(34), "feed-stopped")] == [("old-pager", "new-pager")]


LIFTED = MonitorRules(ceilings={"comfort care": CeilingPolicy(route="palliative")})


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("under", [False, True])
def test_a_ceiling_that_is_lifted_lets_an_unanswered_emergency_climb(under: bool, restarted: bool) -> None:
    """Recorded in error at minute 1 and lifted at 2, or raised under it: nobody was waited for, and nothing more was said."""
    ward = Ward(LIFTED, ceiling_of_care="comfort care" if under else "")
    ward.chart(0, ILL)
    if not under:
        assert told(alerts(ward.say(context(1, ceiling_of_care="comfort care")))) == [("updated", 0, "palliative")]
    if restarted:
        ward = restored(ward, LIFTED)
    ward.wait(2)
    lifted = only(alerts(ward.say(context(2))))
    assert (lifted.route, lifted.reason) == ("default", "ceiling of care lifted")
    assert lifted.answering is not None
    assert lifted.answering.waiting_since == at(2)
    assert told(charted(ward, 4, 14, ILL)) == [("escalated", 7, "nurse-in-charge"), ("escalated", 12, "rapid-response")]


def test_a_ceiling_that_is_lifted_asks_nobody_who_has_answered() -> None:
    ward = Ward(LIFTED, ceiling_of_care="comfort care")
    raised = only(ward.chart(0, ILL)[1])
    ward.say(answer(raised.alert_id, 1))
    assert told(alerts(ward.say(context(2)))) == [("updated", 0, "default")]
    assert charted(ward, 4, 54, ILL) == []


def test_a_ceiling_that_escalates_tells_its_people_and_puts_no_link_off() -> None:
    rules = MonitorRules(ceilings={"ward based": CeilingPolicy(route="ward-team", escalates=True)})
    ward = Ward(rules)
    ward.chart(0, ILL)
    ward.wait(6)
    assert told(alerts(ward.say(context(6, ceiling_of_care="ward based")))) == [("updated", 6, "ward-team")]
    assert told(alerts(ward.say(context(7, ceiling_of_care="none that is listed")))) == [("updated", 6, "default")]
    assert told(of(ward.wait(10))) == [("escalated", 10, "rapid-response")]


@pytest.mark.parametrize("restarted", [False, True])
def test_an_acknowledgement_holds_for_an_hour_of_an_emergency(restarted: bool) -> None:
    """Acknowledged once, then 19 for a day: nothing more."""
    ward = Ward()
    raised = only(ward.chart(0, DYING)[1])
    ward.say(answer(raised.alert_id, 0))
    assert charted(ward, 10, 50, DYING) == []
    if restarted:
        ward = restored(ward)
    found = charted(ward, 59, 79, DYING)
    assert told(found) == [
        ("updated", 60, "default"),
        ("escalated", 65, "nurse-in-charge"),
        ("escalated", 70, "rapid-response"),
    ]
    assert found[0].reason == "acknowledged 1 h 0 min ago, and it goes on"
    assert (found[0].severity, found[0].observed_at) == ("high", at(59))
    assert only(alerts(ward.say(answer(raised.alert_id, 79, given=59)))).state == "escalated"  # of before: noted
    ward.say(answer(raised.alert_id, 79))
    assert charted(ward, 89, 129, DYING) == []


def test_an_acknowledgement_runs_out_only_of_what_goes_on() -> None:
    ward = Ward()
    raised = only(ward.chart(0, FIVE)[1])
    ward.say(answer(raised.alert_id, 0))
    assert told(charted(ward, 30, 245, FIVE, every=5)) == [("updated", 240, "default")]

    ward = Ward()
    raised = only(ward.chart(0, ILL)[1])
    ward.say(answer(raised.alert_id, 0))
    ward.chart(58, WELL)  # calm, but not for long enough yet
    assert of(ward.wait(69)) == []
    assert ward.chart(70, ILL)[1] == []
    assert [one.state for one in of(ward.wait(71))] == ["updated"]  # it does go on

    ward = Ward(MonitorRules(acknowledged_for=AcknowledgedFor(high=timedelta())))
    raised = only(ward.chart(0, DYING)[1])
    ward.say(answer(raised.alert_id, 0))
    assert charted(ward, 10, 300, DYING) == []

    ward = Ward(MonitorRules(ceilings={"ward based": CeilingPolicy(route="palliative")}), ceiling_of_care="ward based")
    raised = only(ward.chart(0, DYING)[1])
    ward.say(answer(raised.alert_id, 0))
    assert charted(ward, 10, 300, DYING) == []


def test_an_old_score_asks_nobody_again_and_its_silence_does() -> None:
    ward = Ward()
    raised = only(ward.chart(0, DYING)[1])
    ward.wait(4)
    ward.say(answer(raised.alert_id, 4))
    silent = only(of(ward.wait(40), "no-observations"))
    ward.say(answer(silent.alert_id, 40))
    found = ward.wait(300)
    assert of(found) == []
    assert [(one.state, one.decided_at) for one in of(found, "no-observations")][:1] == [("updated", at(280))]


def test_an_alert_that_an_older_snapshot_says_is_answered_waits_anew_in_time() -> None:
    ward = Ward()
    raised = only(ward.chart(0, DYING)[1])
    ward.say(answer(raised.alert_id, 5))
    older = edited(ward, lambda state: state["alerts"]["news2"].pop("acknowledged_at"))
    found = charted(older, 10, 60, DYING)
    assert told(found) == [("updated", 60, "default")]


# ------------------------------------------------------------------------------------------------ silence, charted late


def test_late_charting_is_one_silence_and_not_one_a_set() -> None:
    """Charted every quarter of an hour, 35 minutes late, at 19: 23 alerts raised and 23 resolved in six hours."""
    ward = Ward()
    found: list[AlertEvent] = []
    for minute in range(0, 6 * 60, 15):
        now = ward.chart(minute - 35, DYING, received=minute)[1]
        found += of([*ward.meanwhile, *now], "no-observations")
    assert Counter(one.state for one in found)["raised"] == 1
    assert not [one for one in found if one.state == "resolved"]
    assert [one.state for one in of(ward.chart(360, DYING)[1], "no-observations")] == ["resolved"]


def test_a_set_that_is_history_ends_a_silence_that_it_falls_into() -> None:
    """Two hours old, it alerts no more; but "no observations for 12 h 31 min" is not true any longer."""
    ward = Ward()
    ward.chart(0, WELL)
    assert [one.state for one in of(ward.wait(760), "no-observations")] == ["raised"]
    score, found = ward.chart(641, WELL, received=761)
    assert (score.late, found) == (True, [])
    assert [one.state for one in of(ward.wait(762), "no-observations")] == ["resolved"]


def test_a_silence_that_ended_holds_the_next_back_like_any_alert() -> None:
    """A set of 25 minutes ago ended it, the limit is 30: it was told anew six minutes later."""
    ward = Ward()
    ward.chart(0, ILL)
    assert [one.state for one in of(ward.wait(32), "no-observations")] == ["raised"]
    ended, again = of([*ward.chart(15, ILL, received=40)[1], *ward.wait(60)], "no-observations")
    assert (ended.state, again.state) == ("resolved", "raised")
    assert again.decided_at - ended.decided_at == timedelta(minutes=15)


# ------------------------------------------------------------------------------------------------ fatigue, and the others


def test_a_single_3_that_swings_is_one_alert() -> None:
    """Respirations 25, 25, then 24 for half an hour, again and again: nine alerts in six hours."""
    ward = Ward()
    found: list[AlertEvent] = []
    for place in range(72):
        now = ward.chart(5 * place, {**WELL, "rr": 25 if place % 8 < 2 else 24})[1]
        found += of([*ward.meanwhile, *now])
    assert Counter(one.state for one in found)["raised"] == 1
    assert not [one for one in found if one.state == "resolved"]
    calm = [step for minute in (360, 380) for step in of(ward.chart(minute, {**WELL, "rr": 20})[1])]
    assert [one.state for one in calm] == ["resolved"]


def test_an_emergency_that_is_over_does_not_stand_on_for_two_points() -> None:
    ward = Ward()
    ward.chart(0, SEVEN)
    assert [one.state for minute in (10, 30) for one in ward.chart(minute, {**WELL, "rr": 24})[1]] == ["resolved"]


def test_a_site_without_margin_lets_a_single_3_go_at_2() -> None:
    ward = Ward(MonitorRules(hysteresis=0))
    ward.chart(0, RED)
    assert [one.state for minute in (10, 30) for one in ward.chart(minute, {**WELL, "rr": 24})[1]] == ["resolved"]


@pytest.mark.parametrize("restarted", [False, True])
def test_one_patient_does_not_use_up_the_wards_budget(restarted: bool) -> None:
    """Twenty alerts of one patient, and the next one, found unresponsive, went to the worklist and to nobody."""
    rules = MonitorRules(ward_budget=20, declined_suppression=timedelta(minutes=1))
    ward = Ward(rules)
    ward.say(context(patient="next"))
    ward.say(context(patient="third"))
    routes = []
    for place in range(30):
        found = of([*ward.chart(10 * place, RED)[1], *ward.meanwhile])
        raised = only([one for one in found if one.state == "raised"])
        routes.append(raised.route)
        ward.say(answer(raised.alert_id, 10 * place, "alert-declined"))
        ward.chart(10 * place + 0.5, WELL)
    assert routes == ["default"] * 5 + ["worklist"] * 25
    if restarted:
        whole = {name: ward.monitor.dump(name) for name in ("next", "third")}
        ward = restored(ward, rules)
        for name, state in whole.items():
            ward.monitor.load(name, state)
    for number in range(3):  # five are used, and these use six more: none is a first
        raised = only(ward.chart(301 + 10 * number, RED, patient="third")[1])
        assert raised.route == "default"
        ward.say(answer(raised.alert_id, 301 + 10 * number, "alert-declined", patient="third"))
        ward.chart(301.5 + 10 * number, WELL, patient="third")
    found = only(ward.chart(340, OTHER, patient="next")[1])
    assert found.route == "default"
    assert only([one for one in ward.wait(400) if one.patient_id == "next" and one.kind == "news2"]).state == "escalated"


def test_beyond_every_budget_another_organ_of_the_same_patient_pages() -> None:
    ward = Ward(MonitorRules(ward_budget=1, declined_suppression=timedelta(minutes=1)))
    for minute, route in ((0, "default"), (10, "worklist")):
        raised = only(ward.chart(minute, RED)[1])
        assert raised.route == route
        if route == "default":
            ward.say(answer(raised.alert_id, minute, "alert-declined"))
            ward.chart(minute + 0.5, WELL)
    worse = only(ward.chart(20, OTHER)[1])
    assert (worse.state, worse.route) == ("updated", "default")
    assert told(of(ward.wait(80))) == [("escalated", 80, "nurse-in-charge")]
