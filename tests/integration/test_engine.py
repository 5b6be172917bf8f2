"""The engine's promises on a broker: outputs confirmed, then commit; dead letters; holding; rebalances; stop."""

import asyncio
from base64 import b64decode
from collections import Counter

import pytest

from streams.settings import EngineSettings, KafkaSettings, Settings, WorkerSettings
from tests.kafka import Kafka
from tests.lanes import bodies, note, produce, running, until, wire

pytestmark = pytest.mark.kafka
TOPICS = ("clinical.notes", "clinical.entities", "clinical.audit", "clinical.dead-letters")
PARTITIONS = 4


def site(kafka: Kafka, *, slot: int = 0, **engine: float) -> Settings:
    """Settings with topics of this test's own."""
    prefix = kafka.name("t") + "."
    for topic in TOPICS:
        kafka.create(prefix + topic, PARTITIONS)
    return Settings(
        kafka=KafkaSettings(bootstrap=kafka.bootstrap, topic_prefix=prefix, embedded=kafka.kind == "embedded"),
        engine=EngineSettings(**{"session_timeout": 6.0, "heartbeat_interval": 1.0, "backoff_most": 0.5, **engine}),
        worker=WorkerSettings(host="test", slot=slot),
    )


async def outputs(kafka: Kafka, settings: Settings, topic: str) -> list[dict]:
    return bodies(await asyncio.to_thread(kafka.read, settings.kafka.topic_prefix + topic))


def group(settings: Settings) -> str:
    return f"{settings.kafka.topic_prefix}vigil.echo"


async def committed(kafka: Kafka, settings: Settings) -> int:
    offsets = await asyncio.to_thread(kafka.committed, group(settings), settings.kafka.topic_prefix + "clinical.notes")
    return sum(offsets.values())


async def test_every_input_has_one_output_one_audit_entry_and_a_commit(kafka: Kafka) -> None:
    settings = site(kafka)
    topic = settings.kafka.topic_prefix + "clinical.notes"
    await produce(kafka.bootstrap, topic, [wire(note(i)) for i in range(1000)], PARTITIONS)
    async with running(settings) as (_, engine, _lane):

        async def done() -> bool:
            return await committed(kafka, settings) == 1000

        await until(done, what="everything committed")
        assert engine.unready() == ""
    entities = await outputs(kafka, settings, "clinical.entities")
    assert Counter(e["note_id"] for e in entities) == Counter(f"note-{i}" for i in range(1000))
    audit = await outputs(kafka, settings, "clinical.audit")
    assert {entry["event_id"] for a in audit for entry in a["entries"]} == {e["id"] for e in entities}


async def test_what_cannot_be_processed_goes_whole_to_the_dead_letters_and_the_lane_goes_on(kafka: Kafka) -> None:
    settings = site(kafka)
    topic = settings.kafka.topic_prefix + "clinical.notes"
    garbage = (b"patient-1", b"{not json, Mr. Smith")
    records = [wire(note(0)), garbage, wire(note(1, text="poison")), wire(note(2, text="bug")), (b"p", None), wire(note(3))]
    await produce(kafka.bootstrap, topic, records, PARTITIONS)
    async with running(settings):

        async def done() -> bool:
            return await committed(kafka, settings) == len(records)

        await until(done, what="everything committed")
    letters = await outputs(kafka, settings, "clinical.dead-letters")
    assert Counter(letter["stage"] for letter in letters) == {"decode": 2, "model": 1, "process": 1}
    assert not any("Smith" in letter["message"] for letter in letters)
    whole = next(letter for letter in letters if letter["original_value"] and b64decode(letter["original_value"]) == garbage[1])
    assert b64decode(whole["original_key"]) == garbage[0]
    assert {e["note_id"] for e in await outputs(kafka, settings, "clinical.entities")} == {"note-0", "note-3"}


async def test_transient_trouble_holds_its_partition_alone_and_loses_nothing(kafka: Kafka) -> None:
    settings = site(kafka)
    topic = settings.kafka.topic_prefix + "clinical.notes"
    held = note(0, patient="held", text="transient")
    others = [note(i) for i in range(1, 200)]
    await produce(kafka.bootstrap, topic, [wire(held), *map(wire, others)], PARTITIONS)
    async with running(settings) as (_, engine, lane):
        await until(lambda: "held" in engine.unready(), what="the lane says that it holds")
        free = await until(lambda: len(lane.seen) > 100 and lane.seen, what="the other partitions go on")
        assert "note-0" not in free
        assert await committed(kafka, settings) < 200
        lane.healed.set()

        async def done() -> bool:
            return await committed(kafka, settings) == 200

        await until(done, what="everything committed")
        assert engine.unready() == ""
    entities = await outputs(kafka, settings, "clinical.entities")
    assert Counter(e["note_id"] for e in entities) == Counter(f"note-{i}" for i in range(200))
    assert not await outputs(kafka, settings, "clinical.dead-letters")


async def test_a_stop_abandons_what_is_not_done_and_the_next_start_does_it(kafka: Kafka) -> None:
    settings = site(kafka, grace=1.0)
    topic = settings.kafka.topic_prefix + "clinical.notes"
    stuck = note(0, patient="stuck", text="slow")
    await produce(kafka.bootstrap, topic, [wire(note(i, patient="stuck")) for i in range(1, 5)], PARTITIONS)
    async with running(settings) as (_, _engine, lane):
        await until(lambda: len(lane.seen) == 4)
        await produce(kafka.bootstrap, topic, [wire(stuck)], PARTITIONS)
        await until(lambda: lane.started == 5)
    assert await committed(kafka, settings) == 4
    assert len(await outputs(kafka, settings, "clinical.entities")) == 4


@pytest.mark.real_kafka
async def test_a_second_worker_takes_over_half_and_gives_it_back_without_a_repeat(kafka: Kafka) -> None:
    first = site(kafka)
    second = first.model_copy(update={"worker": WorkerSettings(host="test", slot=1)})
    topic = first.kafka.topic_prefix + "clinical.notes"
    async with running(first) as (_, one, _lane):
        await produce(kafka.bootstrap, topic, [wire(note(i)) for i in range(500)], PARTITIONS)
        async with running(second) as (_, two, _lane2):
            await until(lambda: len(two.intake.ledgers) == 2 and len(one.intake.ledgers) == 2, what="two partitions each")
            await produce(kafka.bootstrap, topic, [wire(note(i)) for i in range(500, 1000)], PARTITIONS)

            async def done() -> bool:
                return await committed(kafka, first) == 1000

            await until(done, what="everything committed")
    entities = await outputs(kafka, first, "clinical.entities")
    assert Counter(e["note_id"] for e in entities) == Counter(f"note-{i}" for i in range(1000))
