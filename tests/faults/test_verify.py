"""The verifier finds what it is there for: a lost input, two outputs of one, an output beside a dead letter, a name in a log."""

import json
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.faults.inputs import PHI, Accepted
from tests.faults.verify import Judge
from tests.kafka import Kafka

pytestmark = pytest.mark.kafka


def _output(source: str, output: str, entities: str = "") -> dict[str, Any]:
    return {"id": output, "source": {"event_id": source}, "entities": entities}


def _letter(offset: int, prefix: str) -> dict[str, Any]:
    place = {"original_topic": prefix + "clinical.notes", "original_partition": 0, "original_offset": offset}
    return {"id": f"letter-{offset}", "lane": "notes-entities", **place}


def test_the_verifier_finds_what_breaks_the_promise(kafka: Kafka) -> None:
    prefix = kafka.name("v") + "."
    written: dict[str, list[dict[str, Any]]] = {
        "clinical.entities": [
            _output("good", "o-good"),
            _output("good", "o-good"),  # a repeat: allowed
            _output("twice", "o-1"),
            _output("twice", "o-2"),
            _output("both", "o-both"),
            _output("says-otherwise", "o-s", "fever"),
            _output("says-otherwise", "o-s", "no fever"),
        ],
        "clinical.dead-letters": [_letter(2, prefix), _letter(5, prefix)],
        "clinical.audit": [
            {
                "id": "a",
                "action": "predict",
                "agent": "notes-entities@test",
                "entries": [{"input_id": one, "outcome": "ok"} for one in ("good", "twice", "both", "says-otherwise")],
            }
        ],
    }
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for topic, bodies in written.items():
        kafka.create(prefix + topic, 1)
        for body in bodies:
            producer.produce(prefix + topic, json.dumps(body).encode(), b"k")
    assert producer.flush(30) == 0
    names = ("good", "twice", "both", "says-otherwise", "lost", "dead")
    accepted = Accepted({("clinical.notes", 0, offset): name for offset, name in enumerate(names)})
    verdict = Judge("notes-entities", kafka.bootstrap, prefix, accepted, None).judge(f"INFO of Mr {PHI}")
    assert (verdict.accepted, verdict.lost, verdict.duplicated, verdict.dead_letters) == (6, 1, 3, 2)
    wrong = "\n".join(verdict.wrong)
    for words in (
        "neither output nor dead letter nor ignored: 1, e.g. [('clinical.notes', 0, 4)]",
        "several logical outputs: 1, e.g. ['twice']",
        "both output and dead letter: 1",
        "a repeat says something else: 1, e.g. ['o-s']",
        "without an audit entry: 1, e.g. ['lost']",
        "a log tells of a patient",
    ):
        assert words in wrong
