"""Whom the monitor is shown and cannot alert on: counted in the heartbeat, by reason."""

from processors.events import HeartbeatEvent
from tests.bedside import ILL, PATIENT, SOURCE, WELL, Ward, at, context, vitals


def beat(ward: Ward, minutes: float) -> HeartbeatEvent:
    (found,) = (one for one in ward.monitor.tick(at(minutes), SOURCE) if isinstance(one, HeartbeatEvent))
    return found


def test_whoever_can_alert_is_observed_and_nothing_else() -> None:
    ward = Ward()
    assert beat(ward, 1).observed == 0
    ward.chart(2, WELL)
    said = beat(ward, 3)
    assert (said.observed, said.cannot_alert) == (1, {})


def test_each_reason_is_counted() -> None:
    ward = Ward()
    ward.chart(0, ILL, patient="stranger")
    ward.say(context(0, patient="child", birth_date="2020-01-01"))
    ward.chart(0, WELL, patient="child")
    ward.say(context(0, patient="unusable"))
    ward.chart(0, {"spo2": 0}, patient="unusable")
    ward.say(context(0, patient="slow"))
    ward.chart(-70, WELL, patient="slow", received=0)
    ward.chart(0, WELL)
    said = beat(ward, 1)
    assert said.observed == 5
    assert said.cannot_alert == {"age-unknown": 1, "not-applicable": 1, "nothing-counts": 1, "late": 1}
    assert (ward.monitor.observed, ward.monitor.cannot_alert) == (said.observed, said.cannot_alert)


def test_one_who_is_recorded_as_gone_is_counted_if_observed_after_it() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    ward.say(context(1, encounter_status="finished"))
    said = beat(ward, 2)
    assert (said.observed, said.cannot_alert) == (0, {})
    ward.chart(10, WELL)  # the device comes off
    assert beat(ward, 11).observed == 0
    ward.chart(40, WELL)
    said = beat(ward, 41)
    assert (said.observed, said.cannot_alert) == (1, {"not-watched": 1})


def test_one_who_was_merged_is_counted_under_the_surviving_record_alone() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    ward.say(context(1, merged_into="survivor"))
    ward.chart(60, WELL)
    assert beat(ward, 61).observed == 0


def test_whose_sets_came_long_ago_is_not_counted() -> None:
    ward = Ward(admit=False)
    ward.chart(0, ILL)
    assert beat(ward, 1).cannot_alert == {"age-unknown": 1}
    ward.wait(12 * 60 + 29)
    assert beat(ward, 12 * 60 + 30).observed == 1
    assert beat(ward, 12 * 60 + 31).observed == 0


def test_the_count_is_the_same_from_a_snapshot() -> None:
    ward, other = Ward(admit=False), Ward(admit=False)
    ward.say(vitals(0, ILL))
    for name in (PATIENT, ward.monitor.id):
        other.monitor.load(name, ward.monitor.dump(name))
    assert beat(other, 1) == beat(ward, 1)
