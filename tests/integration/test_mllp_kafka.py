"""MLLP into Kafka through the connectors' own process: what was acknowledged is there, whatever happened to the broker."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from connectors.hl7.sender import MllpSender
from connectors.hl7.settings import MllpSettings
from processors.events import DeadLetterEvent, NoteEvent, PatientEvent, VitalsEvent
from streams.edge import running
from streams.settings import ConnectorSettings, KafkaSettings, Settings
from streams.wire import decode
from tests.hl7_messages import PULSE, vitals
from tests.kafka import Kafka

STARTER = ThreadPoolExecutor(1)  # lives as long as the process: the broker dies with the thread that started it
CONNECTIONS = 20
MESSAGES = int(os.environ.get("VIGIL_TEST_MLLP_MESSAGES", "1000"))  # by hand: 10,000


def settings_for(kafka: Kafka, prefix: str) -> Settings:
    mllp = MllpSettings.model_validate({"port": 0, "publish_seconds": 3, "stop_seconds": 5})
    return Settings(
        kafka=KafkaSettings(bootstrap=kafka.bootstrap, embedded=kafka.kind == "embedded", topic_prefix=prefix),
        connectors=ConnectorSettings(mllp=mllp, enabled=("mllp",)),
    )


def make_topics(kafka: Kafka) -> str:
    prefix = f"{kafka.name('mllp')}."
    for kind in (VitalsEvent, PatientEvent, NoteEvent, DeadLetterEvent):
        kafka.create(prefix + kind.topic, 4)
    return prefix


def of(connection: int, n: int) -> bytes:
    return vitals(PULSE, pid=f"PID|1||C{connection}^^^HOSP^MR", control_id=f"{connection}-{n}")


async def ward(address: tuple[str, int], connection: int, messages: int, acknowledged: list[str]) -> int:
    attempts = 0
    async with MllpSender(*address, timeout=10, pause=0.05, longest_pause=1) as sender:
        for n in range(messages):
            ack = await sender.send(of(connection, n))
            attempts += ack.attempts
            acknowledged.append(ack.control_id)
    return attempts


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_every_acknowledged_message_is_in_the_topic_once_by_id(kafka: Kafka) -> None:
    prefix, each = make_topics(kafka), MESSAGES // CONNECTIONS
    acknowledged: list[str] = []
    broken = kafka.local is not None  # a broker that can be killed

    async def trouble() -> None:
        assert kafka.local is not None
        for share in (0.2, 0.6):
            while len(acknowledged) < share * MESSAGES:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await asyncio.to_thread(kafka.local.kill)
            seen = len(acknowledged)
            await asyncio.sleep(4)  # longer than the publisher waits
            assert len(acknowledged) - seen <= CONNECTIONS  # what was confirmed just before
            await asyncio.get_running_loop().run_in_executor(STARTER, kafka.local.start)

    began = time.monotonic()
    async with running(settings_for(kafka, prefix)) as addresses, asyncio.TaskGroup() as group:
        wards = [group.create_task(ward(addresses["mllp"], c, each, acknowledged)) for c in range(CONNECTIONS)]
        if broken:
            group.create_task(trouble())
    seconds = time.monotonic() - began
    attempts = sum(one.result() for one in wards)
    records = await asyncio.to_thread(kafka.read, prefix + VitalsEvent.topic)
    by_control_id: dict[str, set[str]] = {}
    for record in records:
        event = decode(VitalsEvent, record)  # type: ignore[arg-type]  # has what the wire needs
        by_control_id.setdefault(event.origin.message_id, set()).add(event.id)
    print(f"\n{len(acknowledged)} acknowledged, {attempts} sent, {len(records)} records, {seconds:.1f} s")
    assert len(acknowledged) == len(set(acknowledged)) == each * CONNECTIONS
    assert set(by_control_id) >= set(acknowledged)  # nothing that was acknowledged is missing
    assert all(len(ids) == 1 for ids in by_control_id.values())  # nothing is doubled
    assert len({event_id for ids in by_control_id.values() for event_id in ids}) == len(by_control_id)
    if broken:
        assert attempts > len(acknowledged)
