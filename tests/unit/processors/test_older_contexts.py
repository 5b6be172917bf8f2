"""A context that is older than the last one taken changes nothing: a copy that was replayed, a word that was overtaken."""

from datetime import timedelta
from typing import Any

import orjson
import pytest

from processors.events import UNDATED, PatientEvent
from processors.monitor import Monitor, MonitorRules
from tests.bedside import ILL, PATIENT, SOURCE, Ward, alerts, at, context, steps, vitals

MISTAKES: list[dict[str, Any]] = [{"encounter_status": "finished"}, {"deceased": True}, {"merged_into": "b"}, {"deleted": True}]


def copy(event: PatientEvent) -> PatientEvent:
    """Return a record as a replay writes it again: known by its id for so many events only."""
    return event.model_copy(update={"id": f"{event.id}-again"})


def restart(ward: Ward, change: Any = None) -> None:
    fresh = Monitor(ward.monitor.rules)
    for name in (PATIENT, ward.monitor.id):
        state = orjson.loads(ward.monitor.dump(name) or b"")
        if change and name == PATIENT:
            change(state)
        fresh.load(name, orjson.dumps(state))
    ward.monitor = fresh


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_replayed_copy_of_a_mistake_that_was_corrected_ends_no_watch(mistake: dict[str, Any], restarted: bool) -> None:
    ward = Ward()
    wrong = context(10, **mistake)
    ward.say(wrong)
    ward.wait(12)
    ward.say(context(12))
    (raised,) = ward.chart(13, ILL)[1]
    if restarted:
        restart(ward)
    before = ward.monitor._patients[PATIENT].context.dump()
    assert ward.say(copy(wrong)) == []
    assert ward.monitor._patients[PATIENT].context.dump() == before
    assert ward.monitor.counts["older_contexts"] == 1
    (updated,) = ward.chart(15, {**ILL, "sbp": 80})[1]
    assert (updated.alert_id, updated.state) == (raised.alert_id, "updated")


def test_by_the_same_time_the_one_that_was_received_last_counts() -> None:
    ward = Ward()
    ward.wait(12)
    first = context(10, ward="B").model_copy(update={"received_at": at(11)})
    second = context(10, ward="C").model_copy(update={"received_at": at(12)})
    for event in (second, first):
        ward.say(event)
    assert ward.monitor._patients[PATIENT].context.location.ward == "C"
    ward.say(copy(second).model_copy(update={"pregnant": True}))  # the same twice is no older one
    assert ward.monitor._patients[PATIENT].context.pregnant


def test_what_a_late_message_fills_in_is_taken() -> None:
    """Connectors stamp it as of what they knew: it says more, and nothing older."""
    ward = Ward(birth_date=None)
    ward.chart(1, ILL)
    filled = context(0).model_copy(update={"received_at": at(5)})
    assert steps(ward.say(filled)) == [("news2", "raised", "high")]


@pytest.mark.parametrize("stamped", [{"effective_at": at(600)}, {"effective_at": at(600), "received_at": at(600)}])
def test_a_wrong_clock_holds_no_later_word_up(stamped: dict[str, Any]) -> None:
    ward = Ward()
    ward.wait(10)
    ward.say(context(10, ward="B").model_copy(update=stamped))
    ward.wait(20)
    ward.say(context(20, ward="C"))
    assert ward.monitor._patients[PATIENT].context.location.ward == "C"


def test_logged_time_that_is_set_back_holds_no_later_word_up() -> None:
    ward = Ward()
    ward.sleep(600)  # the clocks ran ahead
    ward.say(context(600, ward="B"))
    ward.sleep(20)
    ward.say(context(21, ward="C").model_copy(update={"received_at": at(26)}))
    assert ward.monitor._patients[PATIENT].context.location.ward == "C"


def test_a_word_that_dates_nothing_fills_in_and_replaces_nothing_that_registration_said() -> None:
    ward = Ward(encounter_id=None, encounter_status="unknown", merged_into="b", birth_date=None)
    passing = context(5, encounter_id=None, encounter_status="unknown").model_copy(update={"effective_at": UNDATED})
    ward.say(passing)
    known = ward.monitor._patients[PATIENT].context
    assert known.merged_into == "b"
    assert known.adult_from is not None


def test_of_words_that_date_nothing_the_last_counts_until_registration_speaks() -> None:
    ward = Ward(admit=False)
    said: dict[str, Any] = {"encounter_id": None, "encounter_status": "unknown"}
    for minute, name in ((1, "A"), (2, "B")):
        ward.say(context(minute, ward=name, **said).model_copy(update={"effective_at": UNDATED}))
    assert ward.monitor._patients[PATIENT].context.location.ward == "B"
    ward.say(context(-900, ward="C"))  # however old
    assert ward.monitor._patients[PATIENT].context.location.ward == "C"


def test_a_snapshot_of_before_takes_the_next_context_whatever_its_time() -> None:
    ward = Ward()
    ward.say(context(20, ward="B"))
    restart(ward, lambda state: state.pop("context_at"))
    ward.say(context(10, ward="C"))
    assert ward.monitor._patients[PATIENT].context.location.ward == "C"


def test_the_time_is_kept_as_long_as_the_context_is() -> None:
    ward = Ward(MonitorRules(forget_after=timedelta(hours=1)))
    ward.chart(1, ILL)
    ward.say(context(10, encounter_status="finished", ward="B"))
    ward.wait(200)
    assert ward.monitor._patients[PATIENT].newest is None
    ward.say(context(5, ward="C"))
    assert ward.monitor._patients[PATIENT].context.location.ward == "B"


def test_a_time_far_from_any_is_compared_all_the_same() -> None:
    ward = Ward()
    assert ward.say(context(5).model_copy(update={"effective_at": at(0).replace(year=1)})) == []
    ward.say(context(6, ward="B").model_copy(update={"effective_at": at(0).replace(year=9999)}))
    assert ward.monitor._patients[PATIENT].context.location.ward == "B"
    assert alerts(ward.monitor.decide(ward.monitor.observe(vitals(7, ILL), SOURCE), None))[0].state == "raised"
