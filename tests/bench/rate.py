"""How fast something goes from one topic to another, by the broker's own timestamps of the outputs (LogAppendTime).

Timestamps of the producer will not do: Quix Streams hands on those of its inputs. The rate is that of the steady state: from when
the whole backlog stands and every output partition is being written, until the first of them runs dry. So start-up, joining the
group, loading models and an uneven share of the last records are left out, for everybody alike.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.bench.programs import Program

Wire = Sequence[tuple[bytes, bytes]]  # key, value


@dataclass(frozen=True, slots=True)
class Rate:
    """`n` outputs in `seconds`; CPU microseconds of the workers for each, start-up left out."""

    n: int
    seconds: float
    cpu_us: float = 0.0

    @property
    def per_second(self) -> float:
        return self.n / self.seconds


def one(_: bytes) -> int:
    """A record stands for one output."""
    return 1


def entries(value: bytes) -> int:
    """An audit record stands for as many outputs as it has entries."""
    return len(orjson.loads(value)["entries"])


def create(bootstrap: str, names: Iterable[str], partitions: int) -> None:
    """Create topics whose timestamps are the broker's."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    config = {"message.timestamp.type": "LogAppendTime"}
    topics = [NewTopic(name, partitions, 1, config=config) for name in names]
    for future in admin.create_topics(topics, operation_timeout=30).values():
        future.result()


def encoded(events: Iterable[Any]) -> list[tuple[bytes, bytes]]:
    """Return events as they stand on the wire, keyed by patient."""
    return [(event.patient_id.encode(), event.model_dump_json().encode()) for event in events]


def fill(bootstrap: str, topic: str, records: Wire) -> None:
    """Write records with the connectors' partitioner; returns when all are confirmed."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "linger.ms": 50,
            "batch.size": 500_000,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 100_000,
            "log_level": 2,
        }
    )
    failed: list[Any] = []

    def confirmed(error: Any, _: Any) -> None:
        if error is not None:
            failed.append(error)

    for key, value in records:
        while True:
            try:
                producer.produce(topic, value, key, on_delivery=confirmed)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()
    if failed:
        raise RuntimeError(f"{len(failed)} records were not written: {failed[0]}")


class Tail:
    """What stands on a topic: how much (cheaply, while others work), and when each record was written (afterwards)."""

    def __init__(self, bootstrap: str, topic: str, weigh: Callable[[bytes], int] = one) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": f"bench-{time.time_ns()}", "enable.auto.commit": False, "log_level": 2}
        )
        numbers = self._consumer.list_topics(topic, timeout=30).topics[topic].partitions
        self._partitions = [TopicPartition(topic, number, OFFSET_BEGINNING) for number in numbers]
        self._consumer.assign(self._partitions)
        self._weigh = weigh
        self._seen: list[tuple[int, int, int]] = []  # partition, timestamp in ms, outputs

    def count(self) -> int:
        """Return the outputs so far."""
        if self._weigh is one:
            return sum(self._consumer.get_watermark_offsets(tp, timeout=10)[1] for tp in self._partitions)
        self._read(0.2)
        return sum(outputs for _, _, outputs in self._seen)

    def _read(self, timeout: float) -> int:
        messages = self._consumer.consume(10_000, timeout=timeout)
        for message in messages:
            if message.error():
                raise RuntimeError(str(message.error()))
            self._seen.append((message.partition(), message.timestamp()[1], self._weigh(message.value())))
        return len(messages)

    def until(self, count: int, *, within: float, alive: Sequence[Program] = ()) -> None:
        """Wait for `count` outputs. Fails when a program ends, or when it takes too long."""
        deadline = time.monotonic() + within
        while (seen := self.count()) < count:
            for program in alive:
                program.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{seen} of {count} outputs within {within:.0f} s")
            time.sleep(0.2)

    def steady(self, count: int, after: float, *, skip: int = 0) -> Rate:
        """Return the rate of the steady state among the first `count` outputs. `after`: a time; `skip`: the warm-up's."""
        while sum(outputs for _, _, outputs in self._seen) < count:
            self._read(5.0)
        return steady(self._seen, after, skip=skip)

    def close(self) -> None:
        self._consumer.close()


def steady(seen: Sequence[tuple[int, int, int]], after: float, *, skip: int = 0) -> Rate:
    """Return the rate from (partition, timestamp in ms, outputs): from `after` until the first partition runs dry.

    A batch has one timestamp, so the window opens with a batch (which is not counted) and closes with one (which is). A load too
    small for that window is measured whole, without its first `skip` outputs.
    """
    ordered = sorted(seen, key=lambda record: record[1])
    dry: dict[int, int] = {}
    for partition, stamp, _ in ordered:
        dry[partition] = stamp
    opens = next((stamp for _, stamp, _ in ordered if stamp >= after * 1000), ordered[-1][1])
    closes = min(dry.values())
    inside = [record for record in ordered if opens < record[1] <= closes]
    if sum(record[2] for record in inside) >= 0.3 * sum(record[2] for record in ordered):
        return Rate(sum(record[2] for record in inside), (inside[-1][1] - opens) / 1000)
    total, start = 0, 0
    while total < skip:
        total += ordered[start][2]
        start += 1
    rest = ordered[start:] or ordered
    return Rate(sum(record[2] for record in rest), max(1, rest[-1][1] - ordered[max(0, start - 1)][1]) / 1000)
