"""A site for tests of the lanes themselves: topics of one test's own, the shipped models, a vector store, and what came out."""

import asyncio
import contextlib
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from connectors.objects.settings import ObjectSettings
from connectors.qdrant.embedded import EmbeddedQdrant
from connectors.qdrant.settings import CollectionSpec, QdrantSettings
from connectors.qdrant.store import Point, VectorStore, Where
from infra.kafka.host import free_ports
from models.registry import WEIGHTS, Registry
from processors.events import TOPICS, Coding, Event, NoteEvent, Origin
from processors.identity import natural_id
from streams.engine import Engine
from streams.journal import TOPIC as JOURNAL
from streams.lanes import LANES
from streams.settings import EngineSettings, KafkaSettings, LaneSettings, ModelSettings, Settings, WorkerSettings
from streams.worker import build
from tests.kafka import Kafka, Record
from tests.lanes import bodies, produce, until
from tests.qdrant import QdrantServer

NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing answers
PARTITIONS = 2
ORIGIN = Origin(protocol="file", peer="test")


class Clinic:
    """Topics under a prefix of their own; `sections` are further sections of the settings.

    `partitions_of`: of topics that do not have `PARTITIONS`, as all others have.
    """

    def __init__(
        self,
        kafka: Kafka,
        folder: Path,
        *,
        vectors: str = NOWHERE,
        partitions_of: Mapping[str, int] | None = None,
        **sections: Any,
    ) -> None:
        self.kafka = kafka
        self.prefix = kafka.name("c") + "."
        for topic in (*TOPICS, JOURNAL):
            kafka.create(self.prefix + topic, (partitions_of or {}).get(topic, PARTITIONS))
        chosen: dict[str, Any] = {
            "kafka": KafkaSettings(
                bootstrap=kafka.bootstrap, topic_prefix=self.prefix, embedded=kafka.kind == "embedded", client_id="test"
            ),
            "engine": EngineSettings(session_timeout=6.0, heartbeat_interval=1.0, backoff_most=0.5, commit_every=0.1),
            "vectors": QdrantSettings(url=vectors, timeout=5.0),
            "objects": ObjectSettings(url=str(folder / "objects")),
            "worker": WorkerSettings(host="test", slot=0),
        }
        self.settings = Settings(**{**chosen, **sections})
        self.written: Counter[str] = Counter()
        self._engines: list[Engine] = []

    @contextlib.asynccontextmanager
    async def running(self, name: str) -> AsyncIterator[Engine]:
        """Run one of Vigil's lanes in this process."""
        app, engine = build(self.settings, name, LANES[name], LaneSettings())
        await app.start()
        self._engines.append(engine)
        try:
            yield engine
        finally:
            self._engines.remove(engine)
            await app.stop()

    async def write(self, *events: Event) -> None:
        """Write events to their topics, in order."""
        by_topic: dict[str, list[tuple[bytes | None, bytes | None]]] = {}
        for event in events:
            key = getattr(event, "patient_id", "").encode()
            by_topic.setdefault(event.topic, []).append((key, event.model_dump_json().encode()))
        for topic, records in by_topic.items():
            await produce(self.kafka.bootstrap, self.prefix + topic, records, PARTITIONS)
            self.written[topic] += len(records)

    async def records(self, topic: str) -> list[Record]:
        """Everything on a topic, as Kafka has it."""
        return await asyncio.to_thread(self.kafka.read, self.prefix + topic)

    async def read(self, topic: str) -> list[dict[str, Any]]:
        """Everything on a topic, decoded."""
        return bodies(await self.records(topic))

    async def committed(self, lane: str, topic: str) -> int:
        """The sum of what a lane has committed of a topic."""
        offsets = await asyncio.to_thread(self.kafka.committed, f"{self.prefix}vigil.{lane}", self.prefix + topic)
        return sum(offsets.values())

    async def until_done(self, lane: str, topic: str, *, within: float = 60.0) -> None:
        """Wait until a lane has committed all that was written to a topic."""

        async def done() -> bool:
            for engine in self._engines:
                if engine.failure is not None:
                    raise engine.failure
            return await self.committed(lane, topic) >= self.written[topic]

        await until(done, within=within, what=f"{lane} commits all of {topic}")


def note(patient: str, name: str, text: str, *, version: int = 1, **fields: Any) -> NoteEvent:
    """A version of a patient's note; the same arguments give the same ids."""
    written = datetime(2026, 5, 4, 12, tzinfo=UTC)
    return NoteEvent(
        **{
            "id": natural_id(patient, name, version),
            "patient_id": patient,
            "note_id": note_id(patient, name),
            "note_type": Coding(system="http://loinc.org", code="11506-3", display="Progress note"),
            "text": text,
            "authored_at": written,
            "received_at": written,
            "origin": ORIGIN,
            **fields,
        }
    )


def note_id(patient: str, name: str) -> str:
    """A note's id, the same over its versions."""
    return natural_id(patient, name)


async def points(settings: Settings, collection: CollectionSpec, patients: Sequence[str]) -> list[Point]:
    """What the vector store holds of these patients."""
    async with VectorStore(settings.vectors) as store:
        return [point async for point in store.scan(collection, Where(patient_ids=patients))]


def audited(audit: Sequence[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Each entry of the audit: the id of what it is about, the entry, its record."""
    for record in audit:
        for entry in record["entries"]:
            yield entry["event_id"], entry, record


class Store(Protocol):
    """A vector store of one test's own, that can be killed and started again with its data."""

    url: str

    def kill(self) -> None:
        """SIGKILL it."""
        ...

    def start(self) -> object:
        """Start it where it was."""
        ...


@contextlib.contextmanager
def killable_store(folder: Path, program: Path | None) -> Iterator[Store]:
    """Run a vector store of one's own: the embedded one, or the Qdrant server that `program` is."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = free_ports(2)
    store: Any = QdrantServer(program, folder, ports[0], ports[1]) if program else EmbeddedQdrant(folder, port=ports[0])
    try:
        store.start()
        yield store
    finally:
        store.stop()


def site_registry(folder: Path, *, champions: dict[str, str] | None = None, models: Sequence[dict[str, Any]] = ()) -> Path:
    """Write a site's registry file, laid over the packaged one."""
    lines = [f"[tasks.{task}]\nchampion = {json.dumps(name)}\n" for task, name in (champions or {}).items()]
    for model in models:
        lines.append("[[model]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in model.items() if value is not None))
    path = folder / "registry.toml"
    path.write_text("\n".join(lines))
    return path


def damaged_model(folder: Path, task: str) -> ModelSettings:
    """A site's registry whose model of one task has one bit that differs."""
    entry = Registry.load().entry(task)
    shutil.copytree(WEIGHTS / entry.location, folder / "damaged")
    file = folder / "damaged" / "model.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    described = {**entry.model_dump(), "location": str(folder / "damaged")}
    return ModelSettings(registry=site_registry(folder, models=[described]))


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return json.dumps(value)
