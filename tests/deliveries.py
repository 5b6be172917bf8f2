"""Deliveries for tests: alerts as the vitals lane writes them, a delivery in this process."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from aiokafka import AIOKafkaProducer

from processors.events import AlertEvent, Event, HeartbeatEvent, Location, Source
from processors.identity import natural_id
from streams.clock import real_clock
from streams.delivering import DeliveryJob, lane_name
from streams.engine import Engine
from streams.outbox import partition_of
from streams.settings import EngineSettings, KafkaSettings, LaneSettings, Settings, WorkerSettings
from streams.wire import encode
from streams.worker import build
from tests.kafka import Kafka

TOPICS = (
    "clinical.notes",
    "clinical.alerts",
    "clinical.scores",
    "clinical.feedback",
    "clinical.audit",
    "clinical.dead-letters",
    "clinical.patients",
)
PARTITIONS = 4


def alert(patient: str, number: int = 0, *, sequence: int = 0, at: datetime | None = None, **fields: Any) -> AlertEvent:
    """One step of an alert; the same arguments give the same ids."""
    at = at or real_clock()
    alert_id = natural_id("test-alert", patient, number)
    given: dict[str, Any] = {
        "kind": "news2",
        "state": "raised" if sequence == 0 else "updated",
        "severity": "high",
        "title": "NEWS2 7: respirations 26/min (3)",
        "detail": "Emergency threshold.",
        "location": Location(ward="W1", room="2", bed="3"),
    }
    return AlertEvent(
        id=natural_id(alert_id, sequence),
        patient_id=patient,
        source=Source(topic="clinical.vitals", partition=0, offset=number, event_id=natural_id("set", patient, number)),
        alert_id=alert_id,
        sequence=sequence,
        observed_at=at,
        received_at=at,
        decided_at=at,
        **(given | fields),
    )


def heartbeat(partition: int, *, age: float = 0.0) -> HeartbeatEvent:
    """A heartbeat of the vitals lane that was decided `age` seconds ago."""
    at = real_clock() - timedelta(seconds=age)
    return HeartbeatEvent(id=natural_id("beat", partition, at.isoformat()), lane="vitals", partition=partition, decided_at=at)


def site(kafka: Kafka, deliver: dict[str, Any], *, without: tuple[str, ...] = (), **more: Any) -> Settings:
    """Settings with topics of this test's own, but for those `without`."""
    prefix = kafka.name("d") + "."
    for topic in (topic for topic in TOPICS if topic not in without):
        kafka.create(prefix + topic, PARTITIONS)
    quick = {"backoff_first": 0.05, "backoff_most": 0.3, "timeout": 5.0}
    return Settings(
        kafka=KafkaSettings(bootstrap=kafka.bootstrap, topic_prefix=prefix, embedded=kafka.kind == "embedded"),
        engine=EngineSettings(session_timeout=6.0, heartbeat_interval=1.0, backoff_most=0.5),
        worker=WorkerSettings(host="test"),
        deliver={name: quick | own for name, own in deliver.items()},
        **more,
    )


async def write(settings: Settings, events: Sequence[Event], partition: int | None = None) -> None:
    """Write events as the outbox would."""
    async with AIOKafkaProducer(
        bootstrap_servers=settings.kafka.bootstrap, acks="all", enable_idempotence=True, linger_ms=5
    ) as producer:
        for event in events:
            message = encode(event, source="/test")
            number = message.partition if partition is None else partition
            if number is None:
                number = partition_of(message.key, PARTITIONS)
            await producer.send(
                settings.kafka.topic_prefix + message.topic,
                message.value,
                key=message.key,
                headers=message.headers,
                partition=number,
            )
        await producer.flush()


def offset_group(settings: Settings, name: str) -> str:
    """The consumer group of a delivery."""
    return f"{settings.kafka.topic_prefix}vigil.{lane_name(name)}"


@contextlib.asynccontextmanager
async def delivering(settings: Settings, name: str) -> AsyncIterator[Engine]:
    """Run a delivery in this process and event loop."""
    app, engine = build(settings, lane_name(name), lambda *given: DeliveryJob(name, *given), LaneSettings())
    await app.start()
    try:
        yield engine
    finally:
        await app.stop()
