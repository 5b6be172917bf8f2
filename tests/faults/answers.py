"""People who answer alerts while a row of the vitals lane runs: they read clinical.alerts, and what they say is clinical.feedback.

One patient's are acknowledged and another's declined, each step that asks for an answer; the other patients' are left to climb the
chain. Every second answer goes out twice, as a system sends again that was not answered.
"""

import json
import threading
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from processors.events import FeedbackEvent, Origin
from processors.identity import natural_id
from tests.faults.inputs import Sender, sent

ANSWERS = {"patient-0003": "alert-acknowledged", "patient-0009": "alert-declined"}  # of `tests.vitals` every third gets worse
AFTER = 3.0  # seconds
CHAIN = {"high": [{"after": AFTER, "route": "rapid-response"}]}
"""The site's chain of escalation: short enough that who is not answered for is escalated within the row."""


class Answers:
    """Answers in a thread of its own, from `start` to `stop`."""

    def __init__(self, bootstrap: str, prefix: str, partitions: int, sender: Sender) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "answers", "enable.auto.commit": False, "log_level": 0}
            | {"auto.offset.reset": "earliest", "reconnect.backoff.max.ms": 500, "fetch.wait.max.ms": 50}
        )
        self._places = [TopicPartition(f"{prefix}clinical.alerts", number, OFFSET_BEGINNING) for number in range(partitions)]
        self._sender = sender
        self._answered: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._consumer.assign(self._places)
        self._thread.start()

    def stop(self) -> None:
        """Say nothing further; what was said is confirmed."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(60)
            self._sender.flush()
        self._consumer.close()

    def _run(self) -> None:
        while not self._over.is_set():
            message = self._consumer.poll(0.1)
            if message is not None and not message.error():
                self._hear(json.loads(message.value()))

    def _hear(self, step: dict[str, Any]) -> None:
        said = ANSWERS.get(step.get("patient_id", ""))
        asks = step.get("kind") == "news2" and step["state"] in ("raised", "updated") and not step.get("by")
        if said is None or not asks or step["id"] in self._answered:
            return
        self._answered.add(step["id"])
        now = datetime.now(UTC)
        answer = FeedbackEvent(
            id=natural_id("faults-answer", step["id"]),
            patient_id=step["patient_id"],
            kind=said,
            target_id=step["alert_id"],
            sequence=step["sequence"],
            by="nurse-7",
            given_at=now,
            received_at=now,
            origin=Origin(protocol="file", peer="nurse-call"),
        )
        for _ in range(1 + len(self._answered) % 2):
            self._sender.say(sent(answer))
