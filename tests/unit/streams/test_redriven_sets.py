"""What comes a second time, by a redrive or a replay: late data, whatever its time and whoever let it through."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from processors.events import Event, ScoreEvent, VitalsEvent
from processors.monitor import Monitor, MonitorRules
from streams.deadletters import ATTEMPTS, SOURCE
from streams.machine import Machine
from streams.wire import encode
from tests.bedside import ILL, START, WELL, Ward, alerts, answer, context, vitals
from tests.bedside import SOURCE as SAID

REDRIVEN = [(SOURCE, b"0/3"), (ATTEMPTS, b"1")]


@dataclass
class Record:
    value: bytes
    headers: list[tuple[str, bytes]]
    partition: int = 0
    offset: int = 7


def taken(machine: Machine, event: VitalsEvent, *, again: bool) -> list[Event]:
    message = encode(event, source="/test")
    record: Any = Record(message.value or b"", [*message.headers, *(REDRIVEN if again else [])])
    return machine.monitor.decide(machine.observe(record), None)


@pytest.fixture
def machine() -> Machine:
    """Take over the partition of a patient who is admitted and well."""
    made = Machine(Monitor(MonitorRules(staleness=timedelta(hours=2))), 0)
    made.monitor.tick(START, SAID)
    made.monitor.patient(context(), SAID)
    taken(made, vitals(0, WELL), again=False)
    return made


def test_a_redriven_set_never_alerts_live(machine: Machine) -> None:
    """It was 65 minutes old, the lane takes two hours as live, and whoever redrove it thought that it takes one."""
    made = taken(machine, vitals(1, ILL), again=True)
    assert [type(one) for one in made] == [ScoreEvent]
    score = made[0]
    assert isinstance(score, ScoreEvent)
    assert score.late
    assert score.news2 is not None
    assert score.news2.total >= 7
    [raised] = alerts(taken(machine, vitals(2, ILL), again=False))  # the next one that comes does
    assert raised.state == "raised"


def test_nor_does_it_where_the_record_was_merged_away(machine: Machine) -> None:
    machine.monitor.patient(context(1, merged_into="survivor", id="a40"), SAID)
    score, moved = taken(machine, vitals(2, ILL), again=True)
    assert isinstance(score, ScoreEvent)
    assert isinstance(moved, VitalsEvent)
    assert (moved.patient_id, moved.history) == ("survivor", True)
    survivor = Machine(Monitor(MonitorRules()), 1)
    survivor.monitor.tick(START, SAID)
    survivor.monitor.patient(context(patient="survivor"), SAID)
    assert [type(one) for one in taken(survivor, moved, again=False)] == [ScoreEvent]
    live = taken(machine, vitals(3, ILL), again=False)[1]
    assert isinstance(live, VitalsEvent)
    assert not live.history
    assert alerts(taken(survivor, live, again=False))


@pytest.mark.parametrize("kind", ["alert-acknowledged", "alert-declined"])
def test_a_redriven_answer_holds_from_when_it_was_given(kind: str) -> None:
    """A night's letters: the acknowledgement of one hour ago made an emergency that climbs again quiet from now on."""
    ward = Ward()
    [raised] = ward.chart(0, ILL)[1]
    assert [one.state for one in ward.wait(90)].count("escalated") >= 2
    for minute in (30, 60, 90):
        ward.chart(90 + minute, ILL)
    [noted] = alerts(ward.say(answer(raised.alert_id, 2, kind)))  # received at 2, and now it is 180
    assert noted.reason.startswith("noted, ")
    assert (noted.state, noted.answering is not None) == ("escalated", True)


def test_an_answer_that_still_holds_runs_out_when_it_would_have() -> None:
    ward = Ward()
    [raised] = ward.chart(0, ILL)[1]
    for minute in (20, 40):
        ward.chart(minute, ILL)
    [step] = alerts(ward.say(answer(raised.alert_id, 2)))
    assert step.state == "acknowledged"
    ward.chart(60, ILL)
    assert ward.meanwhile == []
    assert ward.wait(62)[0].reason == "acknowledged 1 h 0 min ago, and it goes on"
