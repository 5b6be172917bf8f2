"""How fast something goes from one topic to another: measured by the broker's timestamps of the outputs, start-up left out."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic


@dataclass(frozen=True, slots=True)
class Rate:
    """`n` outputs, `seconds` from the first to the last."""

    n: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.n / self.seconds if self.seconds else float("inf")


def create(bootstrap: str, names: Iterable[str], partitions: int) -> None:
    """Create topics."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(name, partitions, 1) for name in names], operation_timeout=30).values():
        future.result()


def fill(bootstrap: str, topic: str, events: Iterable[Any]) -> int:
    """Write events keyed by patient, as the connectors' partitioner would; returns how many."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "linger.ms": 50,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 200_000,
        }
    )
    count = 0
    for event in events:
        value, key = event.model_dump_json().encode(), event.patient_id.encode()
        while True:
            try:
                producer.produce(topic, value, key)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
        count += 1
    producer.flush()
    return count


class Tail:
    """Follows a topic's outputs and their timestamps."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": f"bench-{time.time_ns()}", "enable.auto.commit": False}
        )
        numbers = self._consumer.list_topics(topic, timeout=30).topics[topic].partitions
        self._consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in numbers])

    def until(self, count: int, *, within: float, alive: Sequence["subprocess.Popen[bytes]"] = ()) -> Rate:
        """Wait for `count` records; fails when a process ends or it takes too long."""
        first = last = 0
        seen, deadline = 0, time.monotonic() + within
        while seen < count:
            for message in self._consumer.consume(10_000, timeout=1.0):
                if message.error():
                    raise RuntimeError(str(message.error()))
                stamp = message.timestamp()[1]
                first = min(first, stamp) if seen else stamp
                last = max(last, stamp)
                seen += 1
            dead = [process.args for process in alive if process.poll() is not None]
            if dead:
                raise RuntimeError(f"ended before its work was done: {dead}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{seen} of {count} outputs within {within:.0f} s")
        self._consumer.close()
        return Rate(seen, max(1, last - first) / 1000)


def measured(
    bootstrap: str, output: str, count: int, commands: Sequence[Sequence[str]], env: dict[str, str], *, within: float, log: Path
) -> Rate:
    """Run the commands (workers) until `count` outputs stand on the topic."""
    with ExitStack() as stack:
        out = stack.enter_context(log.open("ab"))
        running = []
        for i, command in enumerate(commands):
            own = {**os.environ, **env, "VIGIL_WORKER__SLOT": str(i), "BENCH_SLOT": str(i), "PYTHONPATH": str(Path.cwd())}
            process = subprocess.Popen([sys.executable, *command], env=own, stdout=out, stderr=out, start_new_session=True)
            stack.callback(_end, process)
            running.append(process)
        return Tail(bootstrap, output).until(count, within=within, alive=running)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
