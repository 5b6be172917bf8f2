"""A record that its topic took stops no lane: what comes of it, its letter included, always fits somewhere."""

from base64 import b64decode
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from models.errors import Poison
from processors.events import DeadLetterEvent
from streams import topics
from streams.clock import real_clock
from streams.outbox import Outbox
from streams.publisher import KafkaPublisher
from streams.redriving import CUT, DeadLetters, Which
from streams.settings import TopicSettings, VitalsStateSettings
from streams.tracing import Tracing
from tests.bedside import ILL
from tests.clinic import PARTITIONS, Clinic, note
from tests.integration.test_lanes_vitals import charted, context
from tests.kafka import Kafka
from tests.lanes import until

pytestmark = [pytest.mark.kafka, pytest.mark.real_kafka, pytest.mark.timeout(300)]

LARGEST = 200_000
TOPICS = TopicSettings(partitions=PARTITIONS, replication=1, largest_message_bytes=LARGEST)
STATE = VitalsStateSettings(tick_seconds=0.2, snapshot_seconds=0.3)

HEADERS = (b"patient", b"{not json", [("a", b"")] * 30_000)  # a letter's JSON says each in eight times its bytes
KEY = (b"k" * 150_000, b"{not json", [])
VALUE = (b"patient", b"x" * (LARGEST - 5_000), [("h" * 1000, b"v" * 1000)])


async def _site(kafka: Kafka, folder: Path) -> Clinic:
    site = Clinic(kafka, folder, topics=TOPICS, state=STATE)
    await topics.create(site.settings)  # the sizes of the topics that are there
    return site


def _produce(site: Clinic, topic: str, records: Sequence[tuple[bytes, bytes, list[tuple[str, bytes]]]]) -> None:
    failed: list[Any] = []
    producer = Producer({"bootstrap.servers": site.kafka.bootstrap, "message.max.bytes": 10 * LARGEST, "batch.num.messages": 1})
    for key, value, headers in records:
        producer.produce(
            site.prefix + topic, value, key, headers=headers, partition=0,
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )  # fmt: skip
    assert producer.flush(30) == 0 and not failed
    site.written[topic] += len(records)


def _limit(site: Clinic, topic: str, largest: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(largest), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, site.prefix + topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": site.kafka.bootstrap})  # held until the answer
    admin.incremental_alter_configs([resource])[resource].result(30)


@pytest.mark.parametrize(("lane", "topic"), [("vitals", "clinical.vitals"), ("notes-entities", "clinical.notes")])
async def test_the_letter_of_whatever_a_topic_took_fits(kafka: Kafka, tmp_path: Path, lane: str, topic: str) -> None:
    site = await _site(kafka, tmp_path)
    _produce(site, topic, [HEADERS, KEY, VALUE])
    async with site.running(lane):
        await site.until_done(lane, topic)
    letters = {
        letter.original_offset: letter
        for letter in map(DeadLetterEvent.model_validate, await site.read("clinical.dead-letters"))
    }
    assert sorted(letters) == [0, 1, 2]
    many, key, value = letters[0], letters[1], letters[2]
    assert many.cut is not None and many.cut.headers == 30_000 > len(many.original_headers) > 1000
    assert b64decode(many.original_value or "") == b"{not json" and "30000 headers" in many.message
    assert key.cut is not None and key.cut.key_bytes == 150_000
    assert KEY[0].startswith(b64decode(key.original_key or "")) and len(key.original_key or "") > 1000
    assert value.cut is None and b64decode(value.original_value or "") == VALUE[1]  # what can be whole is whole
    async with DeadLetters(site.settings) as desk:
        plan = await desk.plan(await desk.find(Which(), whole=True))
    assert {letter.event.original_offset for letter in plan.held[CUT]} == {0, 1}


async def test_a_set_with_giant_ids_stops_nobody_elses_monitoring(kafka: Kafka, tmp_path: Path) -> None:
    site, now = await _site(kafka, tmp_path), datetime.now(UTC)
    giants = [
        charted("adult", now, ILL).model_copy(update={field: "x" * (LARGEST - 5_000)})
        for field in ("id", "encounter_id", "device")
    ]
    _produce(site, "clinical.vitals", [(b"adult", giant.model_dump_json().encode(), []) for giant in giants])
    async with site.running("vitals"):
        await site.write(context("adult", now), charted("adult", now, ILL))
        await site.until_done("vitals", "clinical.vitals")
    assert {score["patient_id"] for score in await site.read("clinical.scores")} == {"adult"}
    letters = await site.read("clinical.dead-letters")
    assert [letter["stage"] for letter in letters] == ["decode"] * 3
    assert sha256(b64decode(letters[0]["original_value"])).digest() == sha256(giants[0].model_dump_json().encode()).digest()


async def test_an_output_that_fits_no_topic_makes_a_letter_and_what_fits_goes_out(kafka: Kafka, tmp_path: Path) -> None:
    site, now = await _site(kafka, tmp_path), datetime.now(UTC)
    async with site.running("vitals"):
        await site.write(context("adult", now), context("other", now))
        await site.until_done("vitals", "clinical.patients")
        await site.write(charted("other", now, ILL))
        await site.until_done("vitals", "clinical.vitals")
        (score,) = await site.records("clinical.scores")
        _limit(site, "clinical.scores", len(score.value or b"") + 900)
        long = charted("adult", now, ILL).model_copy(update={"id": "i" * 512, "encounter_id": "e" * 512})
        await site.write(long, charted("other", now, ILL, number=2))
        await site.until_done("vitals", "clinical.vitals")
    assert [score["patient_id"] for score in await site.read("clinical.scores")] == ["other", "other"]
    alerts = [alert for alert in await site.read("clinical.alerts") if "alert_id" in alert]
    assert {alert["patient_id"] for alert in alerts if alert["state"] == "raised"} == {"adult", "other"}
    (letter,) = await site.read("clinical.dead-letters")
    assert (letter["stage"], letter["lane"]) == ("produce", "vitals")
    assert b64decode(letter["original_value"]) == long.model_dump_json().encode()


@pytest.mark.parametrize("letters", [LARGEST, 2 * LARGEST])  # too large for its topic; for any
async def test_of_a_message_of_which_a_part_fits_no_topic_nothing_is_written(
    kafka: Kafka, tmp_path: Path, letters: int
) -> None:
    """A FHIR transaction is all or nothing, and what its sender is refused must not alert."""
    site = await _site(kafka, tmp_path)
    outbox = Outbox(site.settings, source="/test")
    await outbox.start()
    now = datetime.now(UTC)
    publisher = KafkaPublisher(outbox, real_clock, Tracing(site.settings.tracing, "test"), timeout=20.0)
    try:
        with pytest.raises(Poison):
            await publisher.publish([context("p", now), charted("p", now, ILL), note("patient", "letter", "x" * letters)])
        await publisher.publish([charted("q", now, ILL)])
    finally:
        await outbox.stop()
    assert not await site.records("clinical.patients") and not await site.records("clinical.notes")
    assert len(await site.records("clinical.vitals")) == 1


async def test_a_state_that_the_journal_does_not_take_costs_the_snapshot_and_not_the_lane(
    kafka: Kafka, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site, now = await _site(kafka, tmp_path), datetime.now(UTC)
    _limit(site, "vigil.vitals.journal", 600)
    async with site.running("vitals") as engine:
        await site.write(context("adult", now), charted("adult", now, ILL))
        await site.until_done("vitals", "clinical.vitals")

        async def tried() -> bool:
            return "too large for the journal" in caplog.text

        await until(tried, what="a snapshot is tried")
        await site.write(charted("adult", now, ILL, number=2))
        await site.until_done("vitals", "clinical.vitals")
        assert engine.failure is None
    async with site.running("vitals"):  # what no snapshot holds is replayed
        await site.write(charted("adult", now, ILL, number=3))
        await site.until_done("vitals", "clinical.vitals")
    states = [alert["state"] for alert in await site.read("clinical.alerts") if "alert_id" in alert]
    assert states.count("raised") == 1
