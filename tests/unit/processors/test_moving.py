"""A record that is merged away: its patient goes on being watched under the surviving id, whose partition is another one."""

from typing import Any

import pytest

from processors.events import AlertEvent, Event, ScoreEvent, VitalsEvent
from processors.monitor import Monitor, MonitorRules
from tests.bedside import ILL, WELL, Ward, alerts, at, context, observation, steps, vitals

OLD, NEW = "old", "new"


class Hospital:
    """Two partitions: the old id's and the surviving one's. What the first passes on comes to the second, as by the topic."""

    def __init__(self) -> None:
        self.wards = {name: Ward(admit=False) for name in (OLD, NEW)}
        self.out: list[Event] = []

    def say(self, event: Any) -> list[AlertEvent]:
        """Feed an event, and what follows from it; return the alerts' steps."""
        found = self.wards[event.patient_id].say(event)
        self.out += found
        steps = alerts(found)
        for one in found:
            if isinstance(one, VitalsEvent):
                steps += self.say(one)
        return steps

    def wait(self, minutes: float) -> list[AlertEvent]:
        return [one for ward in self.wards.values() for one in ward.wait(minutes)]

    def score(self, patient: str) -> ScoreEvent:
        return [one for one in self.out if isinstance(one, ScoreEvent) and one.patient_id == patient][-1]

    def merge(self, minutes: float, *, admit: bool = True, **known: Any) -> list[AlertEvent]:
        """A40: the survivor's context first, as the connector writes it."""
        found = self.say(context(minutes, patient=NEW, **known)) if admit else []
        return found + self.say(context(minutes, patient=OLD, id="a40", merged_into=NEW))


def admitted() -> Hospital:
    hospital = Hospital()
    hospital.say(context(0, patient=OLD))
    return hospital


def test_the_alert_goes_on_under_the_surviving_id() -> None:
    hospital = admitted()
    (raised,) = hospital.say(vitals(1, ILL, patient=OLD))
    hospital.wait(5)
    gone, again = hospital.merge(5)
    assert (gone.alert_id, gone.state, gone.reason) == (
        raised.alert_id,
        "withdrawn",
        "merged into new: watched there from now on",
    )
    assert (again.patient_id, again.state, again.severity, again.observed_at) == (NEW, "raised", "high", at(1))
    assert hospital.score(NEW).news2 == hospital.score(OLD).news2


def test_a_device_that_keeps_the_old_number_is_watched_under_the_surviving_id() -> None:
    hospital = admitted()
    hospital.say(vitals(1, WELL, patient=OLD))
    hospital.wait(5)
    assert hospital.merge(5) == []
    (raised,) = hospital.say(vitals(6, ILL, patient=OLD, peer="bedside", id="late-label"))
    assert (raised.patient_id, raised.state, raised.severity) == (NEW, "raised", "high")
    assert (hospital.score(OLD).flags, hospital.score(NEW).flags) == (("moved",), ())
    (moved,) = [one for one in hospital.out if isinstance(one, VitalsEvent)][1:]
    assert (moved.moved_from, moved.origin.peer, moved.observed_at) == ((OLD,), "bedside", at(6))
    assert hospital.wards[OLD].say(vitals(6, ILL, patient=OLD, id="late-label")) == []  # a repeat is passed on once


def test_the_survivor_is_missed_when_nothing_more_is_heard() -> None:
    hospital = admitted()
    hospital.say(vitals(1, WELL, patient=OLD))
    hospital.wait(5)
    hospital.merge(5)
    assert {(one.patient_id, one.kind) for one in hospital.wait(60 * 14) if one.kind != "feed-stopped"} == {
        (NEW, "no-observations")
    }


def test_what_moves_is_the_whole_of_what_is_known_and_only_what_it_comes_to_alerts() -> None:
    hospital = admitted()
    minutes = [0, 10, 20, 30, 40]
    for minute, values in zip(minutes, [ILL, ILL, WELL, WELL, WELL], strict=True):
        hospital.wait(minute)
        hospital.say(vitals(minute, values, patient=OLD))
    hospital.say(vitals(30, observations=[observation("hr", 77, status="corrected")], patient=OLD, received=41))
    hospital.wait(45)
    assert hospital.merge(45) == []  # it was ill, and is well
    before, after = (hospital.wards[name].monitor._patients[name].history for name in (OLD, NEW))
    assert [(at, value) for at, value, _ in after.entries["spo2"]] == [(at, value) for at, value, _ in before.entries["spo2"]]
    assert len(after.entries["spo2"]) == 5
    assert after.entries.keys() == before.entries.keys()
    assert after.entries["oxygen"][0][1] == "oxygen"
    assert [one for one in after.entries["heart_rate"] if one[2] < 0] == [
        one for one in before.entries["heart_rate"] if one[2] < 0
    ]
    assert "" not in hospital.wards[NEW].monitor._partition.feeds  # what moved is no feed that could stop


def test_a_rerun_moves_the_same_things_under_the_same_ids() -> None:
    def run() -> list[str]:
        hospital = admitted()
        hospital.say(vitals(1, ILL, patient=OLD, id="one"))
        hospital.wait(5)
        hospital.merge(5)
        hospital.say(vitals(6, ILL, patient=OLD, id="two"))
        return [one.model_dump_json() for one in hospital.out if isinstance(one, VitalsEvent)]

    assert run() == run()
    assert len(run()) == 2


def test_the_same_merge_told_again_moves_nothing_anew() -> None:
    hospital = admitted()
    hospital.say(vitals(1, ILL, patient=OLD))
    hospital.wait(5)
    hospital.merge(5)
    assert hospital.wards[OLD].say(context(6, patient=OLD, merged_into=NEW)) == []


def test_a_correction_under_the_old_number_reaches_the_survivor() -> None:
    hospital = admitted()
    hospital.say(vitals(1, {**WELL, "rr": 61}, patient=OLD))
    hospital.wait(5)
    _, raised = hospital.merge(5)
    wrong = [observation("rr", 61, status="entered-in-error")]
    (gone,) = hospital.say(vitals(1, observations=wrong, patient=OLD, received=6))
    assert (gone.alert_id, gone.state) == (raised.alert_id, "withdrawn")


@pytest.mark.parametrize("restarted", [False, True])
def test_a_context_that_comes_after_what_moved_lets_it_alert(restarted: bool) -> None:
    hospital = admitted()
    hospital.say(vitals(1, ILL, patient=OLD))
    hospital.wait(5)
    (gone,) = hospital.merge(5, admit=False)
    assert gone.state == "withdrawn"
    if restarted:
        for name, ward in hospital.wards.items():
            fresh = Monitor(MonitorRules())
            for one in (name, ward.monitor.id):
                fresh.load(one, ward.monitor.dump(one))
            ward.monitor = fresh
    assert steps(hospital.say(context(6, patient=NEW))) == [("news2", "raised", "high")]
    assert steps(hospital.say(vitals(7, {**ILL, "hr": 135}, patient=OLD))) == [("news2", "updated", "high")]


def test_records_merged_in_a_circle_pass_nothing_round_for_ever() -> None:
    hospital = admitted()
    hospital.say(context(0, patient=NEW, merged_into=OLD))
    hospital.say(context(1, patient=OLD, merged_into=NEW))
    hospital.say(vitals(2, ILL, patient=OLD))
    assert [(one.patient_id, one.moved_from) for one in hospital.out if isinstance(one, VitalsEvent)] == [(NEW, (OLD,))]


def test_test_traffic_moves_nowhere() -> None:
    hospital = admitted()
    hospital.merge(1)
    hospital.say(vitals(2, ILL, patient=OLD, processing="training"))
    assert not [one for one in hospital.out if isinstance(one, VitalsEvent)]


def test_the_old_record_is_remembered_whenever_something_is_heard_under_it() -> None:
    ward = Ward()
    ward.say(context(0, merged_into=NEW))
    for hour in (1, 20, 40, 60):
        ward.wait(60 * hour)
        _, moved = ward.say(vitals(60 * hour, WELL))
        assert isinstance(moved, VitalsEvent)
    ward.wait(60 * 150)
    assert b'"entries":{}' in (ward.monitor.dump("patient-a") or b"")
    _, moved = ward.say(vitals(60 * 150, WELL))
    assert isinstance(moved, VitalsEvent), "a device that kept the old number for days is no stranger"
