"""The ward's feed through the HL7 mapper and the monitor: the courses must raise what they are there to raise, and nothing else."""

import json
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from connectors.contexts import MemoryContexts
from connectors.hl7.handling import Hl7Mapper
from connectors.hl7.settings import MllpSettings, Peer
from connectors.identity import Identities, IdentitySettings
from processors.events import AlertEvent, Event, Identifier, PatientEvent, Source, VitalsEvent
from processors.monitor import Monitor, MonitorRules
from streams.demo.people import AUTHORITY, Patient, people
from streams.demo.ward import SETTINGS, ward

EPOCH = datetime(2026, 1, 5, 7, tzinfo=UTC)
Alerts = dict[int, list[AlertEvent]]  # by the patient's number


@pytest.fixture(scope="module")
def alerts() -> Alerts:
    identities = Identities(IdentitySettings(site_secret=SecretStr("x" * 32)))
    settings = MllpSettings(context_codes=json.loads(SETTINGS["VIGIL_CONNECTORS__MLLP__CONTEXT_CODES"]))
    contexts, monitor = MemoryContexts(), Monitor(MonitorRules())
    mapper, peer = Hl7Mapper(settings, identities, contexts), Peer("loopback", settings.peers["loopback"])
    numbers = {identities.patient(Identifier(authority=AUTHORITY, value=one.mrn)): one.number for one in people(7, 26)}
    found: Alerts = defaultdict(list)
    offset = 0

    def source(topic: str, event_id: str) -> Source:
        nonlocal offset
        offset += 1
        return Source(topic=topic, partition=0, offset=offset, event_id=event_id)

    def keep(events: list[Event]) -> None:
        for event in events:
            if isinstance(event, AlertEvent):
                found[numbers[event.patient_id]].append(event)

    now = EPOCH
    keep(monitor.tick(now, source("time", "0")))
    for message in ward(7, 6.0, 26, epoch=EPOCH):
        while now + timedelta(minutes=1) <= EPOCH + message.at:
            now += timedelta(minutes=1)
            keep(monitor.tick(now, source("time", now.isoformat())))
        if message.channel != "mllp":
            continue
        outcome = mapper.handle(message.payload, peer, EPOCH + message.at)
        for context in outcome.contexts:
            contexts.remember(context)
        for event in outcome.events:
            if isinstance(event, PatientEvent):
                keep(monitor.patient(event, source(event.topic, event.id)))
            elif isinstance(event, VitalsEvent):
                keep(monitor.decide(monitor.observe(event, source(event.topic, event.id)), None, "no model"))
    return found


def states(alerts: Alerts, patient: Patient, kind: str = "news2") -> list[str]:
    return [alert.state for alert in alerts[patient.number] if alert.kind == kind]


def of(course: str = "", quirk: str = "") -> list[Patient]:
    return [one for one in people(7, 26) if one.feed == "mllp" and (one.course == course or quirk in one.quirks)]


@pytest.mark.parametrize("course", ["sepsis-early", "sepsis-treated", "copd-worse", "bleeding", "opioid"])
def test_who_deteriorates_raises_a_high_alert(alerts: Alerts, course: str) -> None:
    for patient in of(course):
        assert states(alerts, patient).count("raised") == 1
        assert "high" in {alert.severity for alert in alerts[patient.number]}


def test_who_gets_better_is_resolved(alerts: Alerts) -> None:
    assert states(alerts, of("sepsis-treated")[0])[-1] == "resolved"


@pytest.mark.parametrize("course", ["child", "pregnant"])
def test_who_is_not_eligible_never_alerts(alerts: Alerts, course: str) -> None:
    assert of(course) and all(states(alerts, patient) == [] for patient in of(course))


def test_what_was_wrong_is_withdrawn(alerts: Alerts) -> None:
    for patient in (*of(quirk="corrected"), *of(quirk="wrong-patient")):
        assert states(alerts, patient)[0] == "raised"
        assert states(alerts, patient)[-1] == "withdrawn"


def test_the_stable_do_not_alert_and_impossible_values_do_not_count(alerts: Alerts) -> None:
    loud = {"artefact", "corrected", "wrong-patient"}
    quiet = [one for one in of("stable") if not one.quirks & loud]
    assert len(quiet) >= 7
    assert [one.number for one in quiet if states(alerts, one)] == []


def test_a_device_that_falls_silent_is_told_and_its_late_batch_ends_that(alerts: Alerts) -> None:
    (patient,) = of(quirk="late")
    assert states(alerts, patient, "no-observations")[:2] == ["raised", "resolved"]
