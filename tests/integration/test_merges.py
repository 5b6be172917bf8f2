"""A merge of two records: the vectors follow."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from connectors.qdrant.embedded import EmbeddedQdrant
from connectors.qdrant.settings import NOTES, QdrantSettings
from connectors.qdrant.store import Point, VectorStore, Where
from processors.events import PatientEvent
from processors.identity import natural_id
from streams.lanes.merges import PatientsToVectors
from streams.settings import KafkaSettings, Settings
from tests.kafka import Kafka
from tests.lanes import produce, running, until
from tests.vitals import patient

pytestmark = pytest.mark.kafka
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def merged(old: int, new: int) -> PatientEvent:
    return patient(old, NOW).model_copy(update={"merged_into": f"patient-{new:04d}", "id": natural_id("merge", old, new)})


async def test_a_chain_of_merges_ends_at_the_last_and_others_stay(kafka: Kafka, tmp_path: Path) -> None:
    prefix = kafka.name("m") + "."
    for topic in ("clinical.patients", "clinical.audit", "clinical.dead-letters"):
        kafka.create(prefix + topic, 2)
    with EmbeddedQdrant(tmp_path / "vectors", sync=False) as embedded:
        vectors = QdrantSettings(url=embedded.url)
        settings = Settings(
            kafka=KafkaSettings(bootstrap=kafka.bootstrap, topic_prefix=prefix, embedded=kafka.kind == "embedded"),
            vectors=vectors,
        )
        async with VectorStore(vectors) as store:
            await store.ensure([NOTES])
            row = np.eye(1, NOTES.dimensions, dtype=np.float32)[0]
            await store.upsert(
                NOTES, [Point(natural_id("p", n), row, {"patient_id": f"patient-{n:04d}"}) for n in (1, 2, 3, 4)]
            )
            events = [patient(1, NOW), merged(1, 2), merged(2, 3)]
            wire = [(b"same-partition", event.model_dump_json().encode()) for event in events]
            await produce(kafka.bootstrap, prefix + "clinical.patients", wire, 2)
            async with running(settings, PatientsToVectors):

                async def done() -> bool:
                    offsets = await asyncio.to_thread(kafka.committed, f"{prefix}vigil.merges", prefix + "clinical.patients")
                    return sum(offsets.values()) == len(events)

                await until(done, what="the merges are committed")
            counts = {n: await store.count(NOTES, Where(patient_ids=(f"patient-{n:04d}",))) for n in (1, 2, 3, 4)}
    assert counts == {1: 0, 2: 0, 3: 3, 4: 1}
