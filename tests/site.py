"""A site for the engine's tests: topics of one test's own, the Echo lane's settings on them, and what became of everything."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from confluent_kafka.admin import AdminClient

from processors.events import NoteEvent
from streams.settings import EngineSettings, KafkaSettings, Settings, WorkerSettings
from tests.kafka import Kafka, delete_records
from tests.lanes import bodies, produce, until, wire

TOPICS = ("clinical.notes", "clinical.entities", "clinical.audit", "clinical.dead-letters")
FAST = {"session_timeout": 6.0, "heartbeat_interval": 1.0, "backoff_most": 0.5}


class Site:
    """Topics under a prefix of their own. `engine` are settings of the engine; `config` of topics, by name."""

    def __init__(
        self, kafka: Kafka, *, partitions: int = 1, config: dict[str, dict[str, str]] | None = None, **engine: float
    ) -> None:
        self.kafka = kafka
        self.partitions = partitions
        self.prefix = kafka.name("s") + "."
        self.engine = {**FAST, **engine}
        for topic in TOPICS:
            kafka.create(self.prefix + topic, partitions, **(config or {}).get(topic, {}))

    @property
    def notes(self) -> str:
        """The topic that the lane reads."""
        return self.prefix + "clinical.notes"

    @property
    def group(self) -> str:
        """The Echo lane's group."""
        return f"{self.prefix}vigil.echo"

    def settings(self, *, slot: int = 0, **engine: float) -> Settings:
        """The settings of one worker."""
        kafka = self.kafka
        return Settings(
            kafka=KafkaSettings(bootstrap=kafka.bootstrap, topic_prefix=self.prefix, embedded=kafka.kind == "embedded"),
            engine=EngineSettings(**{**self.engine, **engine}),
            worker=WorkerSettings(host="test", slot=slot),
        )

    def env(self, *, slot: int = 0, **engine: float) -> dict[str, str]:
        """The same settings as a process gets them."""
        return {
            "VIGIL_KAFKA__BOOTSTRAP": self.kafka.bootstrap,
            "VIGIL_KAFKA__TOPIC_PREFIX": self.prefix,
            "VIGIL_WORKER__HOST": "test",
            "VIGIL_WORKER__SLOT": str(slot),
            **{f"VIGIL_ENGINE__{name.upper()}": str(value) for name, value in {**self.engine, **engine}.items()},
        }

    async def write(self, *notes: NoteEvent | tuple[bytes | None, bytes | None]) -> None:
        """Write notes, or records as they are."""
        records = [note if isinstance(note, tuple) else wire(note) for note in notes]
        await produce(self.kafka.bootstrap, self.notes, records, self.partitions)

    async def records(self, topic: str) -> list[Any]:
        """Everything on a topic, as Kafka has it."""
        return await asyncio.to_thread(self.kafka.read, self.prefix + topic)

    async def outputs(self, topic: str = "clinical.entities") -> list[dict[str, Any]]:
        """Everything on a topic, decoded."""
        return bodies(await self.records(topic))

    async def echoed(self) -> Counter[str]:
        """How often each note came out."""
        return Counter(body["note_id"] for body in await self.outputs())

    async def offsets(self) -> dict[int, int]:
        """What the group has committed, by partition."""
        return await asyncio.to_thread(self.kafka.committed, self.group, self.notes)

    async def committed(self) -> int:
        """The sum of what the group has committed."""
        return sum((await self.offsets()).values())

    async def until_committed(self, records: int, *, within: float = 40.0) -> None:
        """Wait until the group has committed so many records."""

        async def done() -> bool:
            return await self.committed() >= records

        await until(done, within=within, what=f"{records} records committed")

    async def stays(self, committed: int, *, seconds: float = 2.0) -> None:
        """Look for a while, several commits long, that nothing further is committed."""
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            found = await self.committed()
            assert found == committed, f"{found} committed, {committed} are settled"
            await asyncio.sleep(0.2)

    async def delete(self, topic: str) -> None:
        """Delete a topic: whatever is written to it is not confirmed until `create` makes it anew."""
        await asyncio.to_thread(self._delete, self.prefix + topic)

    def _delete(self, name: str) -> None:
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap, "log_level": 2})
        admin.delete_topics([name], operation_timeout=30)[name].result()

    async def create(self, topic: str) -> None:
        """Create a topic that was deleted."""
        await asyncio.to_thread(self.kafka.create, self.prefix + topic, self.partitions)

    async def delete_records(self, before: dict[int, int]) -> None:
        """Take records from the start of the notes, as retention does: those below the offset given for each partition."""
        await delete_records(self.kafka.bootstrap, self.notes, before)


def numbered(notes: Sequence[int]) -> Counter[str]:
    """What `Site.echoed` gives when each of these notes came out once."""
    return Counter(f"note-{number}" for number in notes)
