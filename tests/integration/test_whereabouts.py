"""Who must be telephoned: alerts that stand and patients of dead letters, with the bed and the hospital's own number, audited."""

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from connectors.identity import Identities
from models.errors import Poison
from processors.events import DeadLetterEvent, Identifier, Location, Origin, PatientEvent
from processors.identity import natural_id
from streams.deadletters import dead_letter
from streams.outbox import Outbox
from streams.wire import iso
from tests.clinic import Clinic
from tests.deliveries import alert, heartbeat
from tests.integration.test_lag import command
from tests.kafka import Kafka, Record

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def number(value: str) -> Identifier:
    return Identifier(authority="HOSP", value=value, kind="MR")


def context(patient_id: str, bed: str, *identifiers: Identifier, **fields: Any) -> PatientEvent:
    return PatientEvent(
        **{
            "id": natural_id("test-context", patient_id, bed),
            "patient_id": patient_id,
            "identifiers": identifiers,
            "location": Location(ward="5W", room="2", bed=bed),
            "effective_at": NOON,
            "received_at": NOON,
            "origin": Origin(protocol="hl7v2", peer="adt"),
            **fields,
        }
    )


@dataclass(frozen=True)
class Ward:
    site: Clinic
    first: str  # the patient in bed 4


@pytest.fixture
async def ward(kafka: Kafka, tmp_path: Path) -> Ward:
    """Three patients: one in bed 4, one whose record was merged into the one in bed 7, one of whom nothing is known."""
    site = Clinic(kafka, tmp_path)
    identities = Identities(site.settings.identity)
    first, old, survivor = (identities.patient(number(value)) for value in ("4711", "88", "99"))
    await site.write(
        context(first, "4", number("4711")),
        context(old, "1", number("88"), merged_into=survivor),
        context(survivor, "7", number("99")),
        heartbeat(0),
        alert(first, at=NOON, severity="high", location=Location(ward="5W", room="2", bed="4")),
        alert(
            first, sequence=1, at=NOON, severity="high", location=Location(ward="5W", room="2", bed="4"), routes=("ward", "rrt")
        ),
        alert(first, 1, at=NOON, title="over"),
        alert(first, 1, sequence=1, at=NOON, state="resolved", title="over"),
        alert(old, at=NOON, severity="medium", location=Location()),
        alert("stranger", at=NOON, severity="low-medium", location=Location(ward="ICU")),
    )
    return Ward(site, first)


def rows(said: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines()]


async def test_alerts_that_stand_are_listed_with_bed_and_number_and_that_is_audited(ward: Ward) -> None:
    site = ward.site
    done = await asyncio.to_thread(command, site, "alerts", "open", "--reason", "the pagers are down", "--json")
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert [(one["severity"], one["place"], one["number"], one["told"]) for one in found] == [
        ("high", "5W 2 4", "4711 (HOSP)", "ward, rrt"),
        ("medium", "5W 2 7", "99 (HOSP)", "default"),
        ("low-medium", "ICU", "", "default"),
    ]
    assert (found[0]["sequence"], found[0]["since"]) == (1, NOON.isoformat(timespec="seconds"))
    (audit,) = await site.read("clinical.audit")
    assert (audit["action"], audit["reason"], len(audit["entries"])) == ("access", "the pagers are down", 3)

    shown = await asyncio.to_thread(command, site, "alerts", "open", "--ward", "ICU", "--reason", "why")
    assert "1 alerts stand" in shown.stdout and "4711" not in shown.stdout
    refused = await asyncio.to_thread(command, site, "alerts", "open")
    assert (refused.returncode, "a reason is needed" in refused.stderr) == (2, True)


async def test_patients_of_dead_letters_are_named_and_the_alert_that_was_not_told(ward: Ward) -> None:
    site = ward.site
    untold = alert(ward.first, 2, at=NOON, title="NEWS2 13", location=Location(ward="5W", room="2", bed="5"))
    unreadable = {"origin": {"protocol": "hl7v2", "peer": "monitors", "message_type": "ORU^R01"}, "observations": "none"}

    def letter(lane: str, topic: str, offset: int, value: bytes) -> DeadLetterEvent:
        record = Record(topic, 0, offset, ward.first.encode(), value, (), 0)
        return dead_letter(record, Poison("not what it should be", stage="decode"), lane=lane, failed_at=NOON)

    outbox = Outbox(site.settings, source="/test")
    await outbox.start()
    try:
        letters = [
            letter("vitals", "clinical.vitals", 1, json.dumps(unreadable).encode()),
            letter("deliver-nurses", "clinical.alerts", 2, untold.model_dump_json().encode()),
        ]
        await outbox.send([outbox.encode(one, time=iso(NOON)) for one in letters])
    finally:
        await outbox.stop()

    async def asked(*words: str) -> list[dict[str, Any]]:
        done = await asyncio.to_thread(command, site, "dead-letters", "patients", "--reason", "telephone", "--json", *words)
        assert done.returncode == 0, done.stderr
        return rows(done.stdout)

    (all_of_one,) = await asked()
    assert (all_of_one["number"], all_of_one["letters"]) == ("4711 (HOSP)", 2)
    assert [(one["place"], one["what"]) for one in await asked("--lane", "deliver-nurses")] == [("5W 2 5", "high: NEWS2 13")]
    assert [(one["place"], one["what"]) for one in await asked("--lane", "vitals")] == [("5W 2 4", "not what it should be")]
    assert len(await site.read("clinical.audit")) == 3
    listed = await asyncio.to_thread(command, site, "dead-letters", "list")
    assert "monitors" in listed.stdout and "ORU^R01" in listed.stdout and "4711" not in listed.stdout
