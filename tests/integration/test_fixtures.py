"""The shared fixtures do what tests/conftest.py says, whichever broker this run has."""

import json
import urllib.request
from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from tests.kafka import Kafka
from tests.qdrant import QdrantServer


@pytest.mark.kafka
def test_topics_of_a_test_are_its_own(make_topic: Callable[..., str], kafka: Kafka) -> None:
    first, second = make_topic(partitions=2), make_topic("in", partitions=1)
    assert first != second
    assert first.startswith("test-topics-of-a-test-are-its-own.")
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(first, b"x", key=b"k", headers=[("h", b"1")])
    assert producer.flush(30) == 0
    (record,) = kafka.read(first)
    assert (record.topic, record.offset, record.key, record.value, record.headers) == (first, 0, b"k", b"x", (("h", b"1"),))
    assert kafka.read(second) == []
    assert kafka.committed(kafka.name("nobody"), first) == {}


def test_a_real_qdrant_answers(qdrant_server: QdrantServer) -> None:
    with urllib.request.urlopen(f"{qdrant_server.url}/collections", timeout=5) as answer:
        assert "collections" in json.load(answer)["result"]
