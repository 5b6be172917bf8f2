"""Lanes for tests of the engine: a lane in this process, whose work is small and can be made to fail on purpose."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer

from models.errors import Poison, Transient
from models.tasks import ModelIdentity
from processors.events import Coding, EntitiesEvent, ModelRef, NoteEvent, Origin
from processors.identity import natural_id
from streams.clock import real_clock
from streams.engine import Engine, LaneApp
from streams.lane import Input, Lane, Outcome
from streams.metrics import LaneMetrics
from streams.outbox import Outbox, partition_of
from streams.partition import StatelessJob
from streams.settings import LaneSettings, Settings
from streams.worker import build

MODEL = ModelIdentity("echo", "1", "0" * 64)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def note(number: int, *, patient: str = "", text: str = "") -> NoteEvent:
    """A small note; the same number gives the same ids."""
    return NoteEvent(
        id=natural_id("test-note", number),
        patient_id=patient or f"patient-{number % 97}",
        note_id=f"note-{number}",
        note_type=Coding(code="11506-3"),
        text=text or f"note number {number}",
        authored_at=NOON,
        received_at=NOON,
        origin=Origin(protocol="file"),
    )


class Echo(Lane[NoteEvent]):
    """One output per note; texts steer what goes wrong: `poison`, `bug`, `transient` (see `heal`), `slow`."""

    name = "echo"
    kind = NoteEvent

    def __init__(self, settings: Settings, metrics: LaneMetrics) -> None:
        super().__init__(settings, metrics)
        self.healed = asyncio.Event()
        self.seen: list[str] = []
        self.started = 0

    @property
    def config(self) -> LaneSettings:
        return LaneSettings(batch_records=64, nice=0)

    @property
    def model(self) -> ModelIdentity | None:
        return MODEL

    async def process(self, inputs: Sequence[Input[NoteEvent]]) -> list[Outcome]:
        self.started += len(inputs)
        outcomes = []
        for one in inputs:
            text = one.event.text
            if text == "bug":
                raise ValueError("Mr. Smith's words")
            if text == "transient" and not self.healed.is_set():
                raise Transient("the store is away")
            if text == "slow":
                await asyncio.sleep(3600)
            outcomes.append(Outcome(error=Poison("cannot", stage="model")) if text == "poison" else Outcome([echo(one)]))
        self.seen += [one.event.note_id for one in inputs]
        return outcomes


def echo(one: Input[NoteEvent]) -> EntitiesEvent:
    return EntitiesEvent(
        id=natural_id(one.event.id, "echo"),
        patient_id=one.event.patient_id,
        source=one.source,
        note_id=one.event.note_id,
        note_status=one.event.status,
        authored_at=one.event.authored_at,
        entities=(),
        model=ModelRef(name=MODEL.name, version=MODEL.version, digest=MODEL.digest),
    )


@contextlib.asynccontextmanager
async def running(
    settings: Settings,
    lane: type[Lane[Any]] = Echo,
    *,
    before_start: Callable[[LaneApp], None] = lambda app: None,
) -> AsyncIterator[tuple[LaneApp, Engine, Any]]:
    """Run a lane in this process and event loop."""
    made: list[Lane[Any]] = []

    def make(settings: Settings, outbox: Outbox, metrics: LaneMetrics) -> StatelessJob:
        made.append(lane(settings, metrics))
        return StatelessJob(made[0], outbox, settings, real_clock)

    app, engine = build(settings, lane.name, make, LaneSettings())
    before_start(app)
    await app.start()
    try:
        yield app, engine, made[0]
    finally:
        await app.stop()


async def produce(bootstrap: str, topic: str, values: Sequence[tuple[bytes | None, bytes | None]], partitions: int) -> None:
    """Write records as the connectors' partitioner would."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        sent = [
            await producer.send(topic, key=key, value=value, partition=partition_of(key, partitions)) for key, value in values
        ]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


def wire(event: NoteEvent) -> tuple[bytes, bytes]:
    return event.patient_id.encode(), event.model_dump_json().encode()


async def until(condition: Callable[[], Any], *, within: float = 30.0, what: str = "the condition") -> Any:
    """Wait for something to come true; fails with its name."""
    end = asyncio.get_running_loop().time() + within
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return result
        if asyncio.get_running_loop().time() > end:
            raise AssertionError(f"{what} did not come true within {within} s")
        await asyncio.sleep(0.1)


def bodies(records: Sequence[Any]) -> list[dict[str, Any]]:
    return [orjson.loads(record.value) for record in records]
