"""Reads a topic as a paging system would and notes when each record could be read: `watcher TOPIC FILE`.

A line of FILE: microseconds since 1970 when `poll` gave the record, patient id, observed time, state (heartbeats are left out).
"""

import os
import signal
import sys
import time
from pathlib import Path

import orjson
from confluent_kafka import OFFSET_END, Consumer, TopicPartition


def main() -> None:
    topic, file = sys.argv[1], Path(sys.argv[2])
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ["BENCH_BOOTSTRAP"],
            "group.id": f"watcher-{os.getpid()}",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 50,
            "log_level": 2,
        }
    )
    numbers = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, OFFSET_END) for number in numbers])
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    consumer.poll(1.0)
    with file.open("wb", buffering=0) as out:
        out.write(b"ready\n")
        while not stopping:
            message = consumer.poll(0.2)
            if message is None or message.error():
                continue
            at = time.time_ns() // 1000
            body = orjson.loads(message.value())
            if "observed_at" in body:
                out.write(f"{at} {body['patient_id']} {body['observed_at']} {body['state']}\n".encode())
    consumer.close()


if __name__ == "__main__":
    main()
