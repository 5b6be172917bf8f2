"""Time travel for vitals: a patient's past run again gives the scores of then; what is no longer there is said."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from models.errors import Permanent
from processors.events import FeedbackEvent, PatientEvent, VitalsEvent
from processors.identity import natural_id
from processors.rules import MonitorRules
from streams.outbox import Outbox, partition_of
from streams.settings import ModelSettings, VitalsStateSettings
from streams.timetravel import Asked, TimeTravel, Travel
from tests.bedside import ILL, WELL, observation
from tests.clinic import ORIGIN, PARTITIONS, Clinic
from tests.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

STATE = VitalsStateSettings(tick_seconds=0.2, snapshot_seconds=1.0)
PATIENT, OTHERS = "patient-a", ("patient-b", "patient-c", "patient-d")
HYPERCAPNIC = {**WELL, "spo2": 89, "flow": 0}  # scale 1: three points; scale 2: none
INPUTS: tuple[type[Any], ...] = (VitalsEvent, PatientEvent, FeedbackEvent)


def context(patient: str, at: datetime, number: int = 0, **fields: Any) -> PatientEvent:
    return PatientEvent(
        **{
            "id": natural_id("context", patient, number),
            "patient_id": patient,
            "birth_date": "1950-01-01",
            "encounter_status": "in-progress",
            "effective_at": at,
            "received_at": at,
            "origin": ORIGIN,
            **fields,
        }
    )


def charted(patient: str, at: datetime, values: dict[str, Any], number: int) -> VitalsEvent:
    return VitalsEvent(
        id=natural_id("set", patient, number),
        patient_id=patient,
        observed_at=at,
        received_at=datetime.now(UTC),
        observations=tuple(observation(name, value) for name, value in values.items()),
        origin=ORIGIN,
    )


def site_of(kafka: Kafka, folder: Path) -> Clinic:
    # A score that was late in one run and not in the other could not be compared.
    return Clinic(kafka, folder, state=STATE, models=ModelSettings(vitals_deadline=60))


async def day(site: Clinic, start: datetime) -> None:
    """The patient is put on SpO2 scale 2 in the middle of it; some values are charted alone, one set long after the rest."""
    number = 0

    async def chart(values: dict[str, Any], *, minutes: int, patients: Sequence[str] = (PATIENT, *OTHERS)) -> None:
        nonlocal number
        number += 1
        await site.write(*(charted(one, start + timedelta(minutes=minutes), values, number) for one in patients))
        await site.until_done("vitals", VitalsEvent.topic)

    async with site.running("vitals"):
        await site.write(*(context(one, start) for one in (PATIENT, *OTHERS)))
        await site.until_done("vitals", PatientEvent.topic)
        await chart(WELL, minutes=1)
        await chart(HYPERCAPNIC, minutes=6)
        await site.write(context(PATIENT, start, 1, spo2_scale=2, spo2_scale_decided_by="dr-7"))
        await site.until_done("vitals", PatientEvent.topic)
        await chart(HYPERCAPNIC, minutes=11)
        await chart({"hr": 140}, minutes=16)  # the rest is carried forward
        await chart(ILL, minutes=21)
        await chart(WELL, minutes=-300, patients=(PATIENT,))
    async with site.running("vitals"):  # restored from its snapshots
        await chart({"hr": 90}, minutes=26)


async def travelled(site: Clinic, start: datetime, patient: str = PATIENT, *, hours: float = 1.0) -> Travel:
    outbox = Outbox(site.settings, source="/test")
    await outbox.start()
    try:
        asked = Asked(patient, start, start + timedelta(hours=hours), "a complaint")
        return await TimeTravel(site.settings, outbox, user="ops-7").go(asked)
    finally:
        await outbox.stop()


async def test_a_day_gives_the_scores_of_that_day(kafka: Kafka, tmp_path: Path) -> None:
    site = site_of(kafka, tmp_path)
    start = datetime.now(UTC) - timedelta(minutes=30)
    await day(site, start)
    before = len(await site.read("clinical.scores")), len(await site.read("clinical.alerts"))
    found = await travelled(site, start)
    assert [(row.equal, row.differs) for row in found.rows] == [(True, ())] * 6
    assert found.notes == []
    totals = [row.score.news2.total if row.score.news2 else None for row in found.rows]
    assert totals[1] == 3 and totals[2] == 0  # scale 1, then scale 2: the state as it was
    assert all(row.score.deterioration is not None for row in found.rows)
    assert (len(await site.read("clinical.scores")), len(await site.read("clinical.alerts"))) == before
    (late,) = (await travelled(site, start - timedelta(hours=6), hours=2)).rows
    assert (late.equal, late.score.late) == (True, True)
    assert (await travelled(site, start, "nobody")).rows == []
    audit = [one for one in await site.read("clinical.audit") if one["action"] == "access"]
    assert [(one["agent"], one["subject"], one["entries"][0]["patient_id"]) for one in audit] == [
        ("ops-7", VitalsEvent.topic, PATIENT), ("ops-7", VitalsEvent.topic, PATIENT), ("ops-7", VitalsEvent.topic, "nobody"),
    ]  # fmt: skip
    assert audit[0]["reason"].endswith("; a complaint")
    with pytest.raises(Permanent, match="from when until when"):
        Asked(PATIENT, start, start)


async def test_other_rules_and_scores_that_are_gone_are_told(kafka: Kafka, tmp_path: Path) -> None:
    site = site_of(kafka, tmp_path)
    start = datetime.now(UTC) - timedelta(minutes=30)
    await day(site, start)
    site.settings = site.settings.model_copy(update={"monitor": MonitorRules(staleness=timedelta(minutes=2))})
    found = await travelled(site, start)
    assert {row.differs[0] for row in found.rows if not row.equal} == {"late"}
    assert {row.why for row in found.rows if not row.equal} == {("rules or code have changed since",)}
    await site.write(charted(PATIENT, start + timedelta(minutes=40), WELL, 99))  # no lane runs that would score it
    assert (await travelled(site, start)).rows[-1].differs == ("missing",)


async def test_without_the_journal_the_order_of_writing_is_taken_and_told(kafka: Kafka, tmp_path: Path) -> None:
    site, copy = site_of(kafka, tmp_path), site_of(kafka, tmp_path)
    start = datetime.now(UTC) - timedelta(minutes=30)
    await day(site, start)
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)
    await producer.start()
    for topic in ("clinical.vitals", "clinical.patients", "clinical.scores"):
        for one in await site.records(topic):
            await producer.send_and_wait(
                copy.prefix + topic, one.value, one.key, one.partition, one.timestamp, headers=list(one.headers)
            )
    await producer.stop()
    found = await travelled(copy, start)
    assert [row.equal for row in found.rows] == [True] * 6
    (note,) = found.notes
    assert note.startswith("the journal no longer holds the order of what happened")


@pytest.mark.real_kafka
async def test_what_retention_has_taken_is_told(kafka: Kafka, tmp_path: Path) -> None:
    site = site_of(kafka, tmp_path)
    start = datetime.now(UTC) - timedelta(minutes=30)
    await day(site, start)
    number = partition_of(PATIENT.encode(), PARTITIONS)
    mine = [one for one in await site.records("clinical.vitals") if one.key == PATIENT.encode()]
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    # All up to the set of which the next one carries the values forward.
    cut = TopicPartition(site.prefix + "clinical.vitals", number, mine[3].offset)
    for done in (await asyncio.to_thread(admin.delete_records, [cut])).values():
        await asyncio.to_thread(done.result)
    found = await travelled(site, start)
    assert [note for note in found.notes if note.startswith(f"retention has taken the first {mine[3].offset} vitals")]
    carried = found.rows[0]
    assert len(found.rows) == 3 and "news2" in carried.differs
    assert any(why.startswith("retention") for why in carried.why)


async def test_the_command_line(kafka: Kafka, tmp_path: Path) -> None:
    site = site_of(kafka, tmp_path)
    start = datetime.now(UTC) - timedelta(minutes=30)
    await day(site, start)
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")},
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "VIGIL_KAFKA__BOOTSTRAP": kafka.bootstrap,
        "VIGIL_KAFKA__TOPIC_PREFIX": site.prefix,
        "VIGIL_KAFKA__EMBEDDED": str(kafka.kind == "embedded").lower(),
        "TZ": "UTC",
    }

    def vigil(code: int, *words: str) -> str:
        command = [sys.executable, "-m", "streams.cli", "replay", "vitals", *words]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stdout + done.stderr
        return done.stdout if code < 2 else done.stderr

    def work() -> None:
        times = [f"{at:%Y-%m-%dT%H:%M:%S}" for at in (start, start + timedelta(hours=1))]
        asked = ("--from", times[0], "--until", times[1])
        told, *rows = (json.loads(line) for line in vigil(0, "--patient", PATIENT, *asked, "--json").splitlines())
        assert (told["scores"], told["equal"], len(rows)) == (6, 6, 6)
        assert all(row["score"]["id"] == row["published"]["id"] for row in rows)
        assert "6 of 6 equal what was published" in vigil(0, "--patient", PATIENT, *asked, "--reason", "a complaint")
        assert "0 of 0 equal" in vigil(1, "--patient", "nobody", *asked)
        assert "from when until when" in vigil(2, "--patient", PATIENT, "--from", times[1], "--until", times[0])

    await asyncio.to_thread(work)
