"""What Vigil leans on in librdkafka's mock cluster, and what it knows not to lean on (streams/broker.py lists both)."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from models.errors import Fatal, Permanent
from streams.broker import CLIENT_SETTINGS, EmbeddedBroker
from tests.kafka import Kafka

MEMBER = """
import asyncio, sys
from aiokafka import AIOKafkaConsumer
async def main():
    consumer = AIOKafkaConsumer(sys.argv[2], bootstrap_servers=sys.argv[1], group_id=sys.argv[3], **eval(sys.argv[4]))
    await consumer.start()
    print(len(consumer.assignment()), flush=True)
    while True:
        await consumer.getmany(timeout_ms=100)
asyncio.run(main())
"""

PARENT = """
import time
from streams.broker import EmbeddedBroker
broker = EmbeddedBroker()
broker.start()
print(broker._child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def broker() -> Iterator[Kafka]:
    embedded = EmbeddedBroker()
    with embedded as address:
        yield Kafka("embedded", address, embedded=embedded)


def consumer(broker: Kafka, *topics: str, group: str | None = None, **settings: object) -> AIOKafkaConsumer:
    given = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "isolation_level": "read_committed"}
    given |= dict(CLIENT_SETTINGS) | settings
    return AIOKafkaConsumer(*topics, bootstrap_servers=broker.bootstrap, group_id=group, **given)


async def write(broker: Kafka, topic: str, *values: bytes, partition: int | None = None) -> None:
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all", enable_idempotence=True) as producer:
        for number, value in enumerate(values):
            await producer.send_and_wait(topic, value, key=b"%d" % number, partition=partition, headers=[("n", b"%d" % number)])


async def test_records_come_back_with_keys_and_headers(broker: Kafka) -> None:
    topic = broker.topic("plain", partitions=3)
    await write(broker, topic, *[b"%d" % number for number in range(50)])
    records = await asyncio.to_thread(broker.read, topic)
    assert sorted(int(record.value or b"-1") for record in records) == list(range(50))
    assert all(record.key == record.value and dict(record.headers) == {"n": record.value} for record in records)
    assert {record.partition for record in records} == {0, 1, 2}


async def test_partitions_are_as_created_and_four_by_default(broker: Kafka) -> None:
    seven = broker.topic("seven", partitions=7)
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
        assert len(await producer.partitions_for(seven)) == 7
        assert len(await producer.partitions_for(broker.name("never-created"))) == 4
    with pytest.raises(Permanent, match="exists"):
        broker.create(seven, 2)
    with pytest.raises(Permanent, match="at least one partition"):
        broker.create("none", 0)


async def test_a_group_goes_on_from_what_it_committed(broker: Kafka) -> None:
    topic, group = broker.topic(partitions=1), broker.name("group")
    await write(broker, topic, b"a", b"b", b"c")
    first = consumer(broker, topic, group=group)
    await first.start()
    assert (await first.getone()).value == b"a"
    await first.commit({TopicPartition(topic, 0): 1})
    await first.stop()
    assert await asyncio.to_thread(broker.committed, group, topic) == {0: 1}
    second = consumer(broker, topic, group=group)
    async with second:
        assert [(await second.getone()).value for _ in range(2)] == [b"b", b"c"]


async def test_a_record_is_seen_soon_with_the_client_settings(broker: Kafka) -> None:
    topic = broker.topic(partitions=1)
    reader = consumer(broker, topic)
    async with reader, AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
        took = []
        for _ in range(20):
            waiting = asyncio.create_task(reader.getone())
            await asyncio.sleep(0.033)  # a fetch is out and finds nothing
            began = time.perf_counter()
            await producer.send_and_wait(topic, b"x")
            await waiting
            took.append(time.perf_counter() - began)
    assert sorted(took)[10] < 0.1, took  # aiokafka's own fetch_max_wait_ms gives 0.47


def killed_member(broker: Kafka, topic: str, group: str) -> None:
    """Let another process join the group, and kill it."""
    arguments = [broker.bootstrap, topic, group, repr(dict(CLIENT_SETTINGS))]
    with subprocess.Popen([sys.executable, "-c", MEMBER, *arguments], stdout=subprocess.PIPE) as member:
        assert member.stdout is not None
        assert member.stdout.readline() == b"4\n"
        member.kill()


async def test_a_killed_member_is_replaced_within_twice_the_session(broker: Kafka) -> None:
    topic, group = broker.topic(partitions=4), broker.name("group")
    await asyncio.to_thread(killed_member, broker, topic, group)
    began = time.monotonic()
    async with consumer(broker, topic, group=group) as successor:
        took = time.monotonic() - began
        assert len(successor.assignment()) == 4
    limit = 2 * CLIENT_SETTINGS["session_timeout_ms"] / 1000
    assert took < limit + 5, "slower than streams/broker.py says"


async def second_member_joins(broker: Kafka) -> bool:
    topic, group = broker.topic(partitions=4), broker.name("group")
    async with consumer(broker, topic, group=group) as first:
        second = consumer(broker, topic, group=group)
        joined = asyncio.create_task(second.start())
        while not joined.done():
            await first.getmany(timeout_ms=50)
        await second.stop()
        return joined.exception() is None


async def test_two_members_of_a_group_do_not_work(broker: Kafka) -> None:
    """The day this fails, librdkafka's mock has learnt it: lift the limit of one worker per lane."""
    for _ in range(5):  # it is a race, which the follower wins now and then
        if not await second_member_joins(broker):
            return
    pytest.fail("a second member joined five times of five")


async def test_what_does_not_fit_goes(broker: Kafka) -> None:
    topic = broker.topic(partitions=1)
    await write(broker, topic, *[bytes(500_000) for _ in range(15)], partition=0)
    kept = await asyncio.to_thread(broker.read, topic)
    assert 8 <= len(kept) <= 11  # about 5 MB
    assert kept[-1].offset == 14


async def test_nothing_is_found_by_time(broker: Kafka) -> None:
    topic = broker.topic(partitions=1)
    await write(broker, topic, b"a")
    async with consumer(broker) as reader:
        tp = TopicPartition(topic, 0)
        assert await reader.offsets_for_times({tp: 0}) == {tp: None}


def test_it_ends_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists() or sys.platform != "linux"
        parent.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if "State:\tZ" in Path(f"/proc/{child}/status").read_text():
            return  # dead; nobody here reaps orphans
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the broker outlived its parent")


def test_it_says_when_it_does_not_run() -> None:
    broker = EmbeddedBroker()
    with pytest.raises(Fatal):
        _ = broker.bootstrap
    with pytest.raises(Fatal):
        broker.create_topic("t")
    assert broker.start() == broker.start()
    broker.stop()
    broker.stop()
    assert not broker.alive


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_by_hand_it_writes_its_address_and_stops_when_told(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "address"
    command = [sys.executable, "-m", "streams.broker", "--topic", "notes=2", "--address-file", str(file)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip()
        assert file.read_text() == address
        assert Kafka("embedded", address).read("notes") == []
        process.send_signal(number)
        assert process.wait(5) == 0
