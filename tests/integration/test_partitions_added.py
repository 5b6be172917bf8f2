"""Somebody adds partitions to topics in use: patients stay where they are, and settings that would move them are refused."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from connectors.contexts import MemoryContexts
from models.errors import Fatal, Permanent
from processors.events import Origin, VitalsEvent
from processors.identity import natural_id
from streams import topics
from streams.checks import run_checks
from streams.edge import read_contexts
from streams.settings import Settings, TopicSettings
from streams.topic_options import MEET
from tests.bedside import ILL, WELL, observation
from tests.clinic import Clinic
from tests.kafka import Kafka
from tests.lanes import until
from tests.vitals import patient

pytestmark = [pytest.mark.kafka, pytest.mark.real_kafka, pytest.mark.timeout(300)]
PATIENTS = 12


def grow(kafka: Kafka, prefix: str, partitions: int) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 2})
    for topic in (*MEET, "clinical.alerts", "clinical.scores"):
        admin.create_partitions([NewPartitions(prefix + topic, partitions)])[prefix + topic].result()


def sets(step: str, values: dict[str, Any]) -> list[VitalsEvent]:
    now = datetime.now(UTC)
    return [
        VitalsEvent(
            id=natural_id("grown", step, number),
            patient_id=f"patient-{number:04d}",
            encounter_id=f"encounter-{number}",
            observed_at=now,
            received_at=now,
            observations=tuple(observation(name, value) for name, value in values.items()),
            origin=Origin(protocol="hl7v2", peer="test"),
        )
        for number in range(PATIENTS)
    ]


def over(settings: Settings, partitions: int) -> Settings:
    return settings.model_copy(update={"topics": TopicSettings(partitions=partitions, replication=1)})


async def test_patients_stay_where_they_are(kafka: Kafka, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = Clinic(kafka, tmp_path, topics=TopicSettings(partitions=2, replication=1))
    now = datetime.now(UTC)
    await site.write(*[patient(number, now - timedelta(hours=1)) for number in range(PATIENTS)])
    with caplog.at_level(logging.ERROR):
        async with site.running("vitals") as engine:
            await site.write(*sets("before", WELL))
            await site.until_done("vitals", "clinical.vitals")
            await asyncio.to_thread(grow, kafka, site.prefix, 4)
            await until(lambda: len(engine.intake.ledgers) == 12, within=90, what="the new partitions are assigned")
            assert "beyond those in use" in engine.unready()
            await site.write(*sets("while", WELL))
            await site.until_done("vitals", "clinical.vitals")
            assert not engine.failure
    assert "partitions [2, 3] were added" in caplog.text
    async with site.running("vitals"):
        await site.write(*sets("ill", ILL))
        await site.until_done("vitals", "clinical.vitals")
    raised = {one["patient_id"] for one in await site.read("clinical.alerts") if one.get("state") == "raised"}
    assert raised == {f"patient-{number:04d}" for number in range(PATIENTS)}
    assert {record.partition for record in await site.records("vigil.vitals.journal")} == {0, 1}


async def test_settings_that_would_move_them_are_refused(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path, topics=TopicSettings(partitions=2, replication=1))
    now = datetime.now(UTC)
    await site.write(*[patient(number, now - timedelta(hours=1)) for number in range(PATIENTS)])
    async with site.running("vitals"):
        await site.write(*sets("before", WELL))
        await site.until_done("vitals", "clinical.vitals")
    await asyncio.to_thread(grow, kafka, site.prefix, 4)
    kept, site.settings = site.settings, over(site.settings, 4)
    with pytest.raises(Fatal, match="lie in 2 partitions, and the settings spread them over 4"):
        await read_contexts(site.settings, MemoryContexts())
    wrong = [check for check in await run_checks(site.settings) if check.verdict == "wrong" and " partitions" in check.found]
    assert any("topics.partitions to 2" in check.mend for check in wrong), wrong
    async with site.running("vitals") as engine:
        await until(lambda: engine.failure, what="the lane refuses")
        assert "lie in 2 partitions" in str(engine.failure)
    site.settings = kept
    assert await read_contexts(site.settings, MemoryContexts()) == PATIENTS
    assert not [check for check in await run_checks(site.settings) if check.verdict == "wrong" and " partitions" in check.found]
    async with site.running("vitals"):
        await site.write(*sets("ill", ILL))
        await site.until_done("vitals", "clinical.vitals")
    assert len([one for one in await site.read("clinical.alerts") if one.get("state") == "raised"]) == PATIENTS


async def test_topics_that_meet_are_not_made_beside_one_that_has_fewer(kafka: Kafka) -> None:
    prefix = kafka.name("odd") + "."
    kafka.create(prefix + "clinical.vitals", 3)
    settings = Settings(
        kafka={"bootstrap": kafka.bootstrap, "topic_prefix": prefix}, topics=TopicSettings(partitions=4, replication=1)
    )
    with pytest.raises(Permanent, match=r"nothing was created: clinical\.vitals has 3 partitions") as refused:
        await topics.create(settings)
    assert "topics.partitions to 3" in (refused.value.hint or "")
    assert set(await topics.partition_counts(settings)) == {"clinical.vitals"}
    await topics.create(over(settings, 3))
    assert set((await topics.partition_counts(settings)).values()) == {3}
    # Of more there is no harm: the further ones stay empty.
    assert "differs" not in {change.done for change in await topics.create(over(settings, 2))}
