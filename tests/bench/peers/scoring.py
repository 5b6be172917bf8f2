"""What both vitals peers do for one set: the lane's own processors, one event at a time, as both guides teach.

The peers are spared what would slow them down and is not theirs: the patients' contexts are read before the work begins instead
of joined, nothing is journalled or snapshot, and the model takes single rows. (The lane runs its ONNX graph over blocks of rows, so
that a score does not depend on its batch; a peer that scores one set at a time would pay for whole blocks. So the same graph is run
here over the one row there is. tests/unit/bench holds both against each other.)
"""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from models.registry import Registry
from models.runtimes.deterioration import Scaling, encode
from models.runtimes.onnx import options
from models.tasks import Floats
from processors.deterioration import deterioration_of
from processors.events import PatientEvent, Source, VitalsEvent
from processors.monitor import Monitor
from processors.rules import MonitorRules
from streams.settings import ModelSettings

_DRIVERS_FROM = ModelSettings().drivers_from


class SingleRows:
    """The deterioration model without blocks: scores and attributions of one window."""

    def __init__(self) -> None:
        weights = Registry.load().weights("deterioration")
        path = str(weights.path("model.onnx"))
        self._session = ort.InferenceSession(path, options(1), providers=["CPUExecutionProvider"])
        self._width: int = self._session.get_outputs()[1].shape[-1]
        self._scaling = Scaling.from_json(weights.path("scaling.json").read_text())
        self.identity = weights.identity
        self.horizon_hours = self._scaling.horizon_hours

    def score(self, windows: Floats) -> Floats:
        """Score [n, hours, features]: [n]."""
        zero = np.zeros((1, len(windows), self._width), np.float32)
        feeds: Mapping[str, Any] = {"x": encode(windows, self._scaling), "hidden": zero, "cell": zero}
        (answer,) = self._session.run(["probability"], feeds)
        return np.asarray(answer, np.float32)

    def attribute(self, window: Floats, score: float) -> list[float]:
        """Say what drove the score of [hours, features], as `OnnxDeterioration.attribute` does: [features]."""
        present = np.flatnonzero(~np.isnan(window).all(axis=0))
        without = np.repeat(window[np.newaxis], len(present), axis=0)
        for row, feature in enumerate(present):
            without[row, :, feature] = np.nan
        effects = np.zeros(window.shape[1], np.float32)
        effects[present] = score - self.score(without)
        return [float(effect) for effect in effects]


class Scorer:
    """One monitor for a process, as both guides would hold state in a plain object."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self._model = SingleRows()
        self._monitor = Monitor(MonitorRules(), model=self._model.identity)
        source = Source(topic=PatientEvent.topic, partition=0, offset=0, event_id="start")
        for value in whole(bootstrap, prefix + PatientEvent.topic):
            self._monitor.patient(PatientEvent.model_validate_json(value), source)
        self._monitor.tick(datetime.now(UTC), source)

    def score(self, value: bytes, partition: int, offset: int) -> tuple[bytes, bytes, list[bytes]]:
        """Return (score, audit record, alerts), each as JSON."""
        event = VitalsEvent.model_validate_json(value)
        source = Source(topic=event.topic, partition=partition, offset=offset, event_id=event.id)
        model, made = self._model, self._monitor.observe(event, source)
        deterioration = None
        if made.window is not None:
            probability = float(model.score(made.window[np.newaxis])[0])
            of_interest = made.of_interest or probability >= _DRIVERS_FROM
            drivers = model.attribute(made.window, probability) if of_interest else None
            deterioration = deterioration_of(probability, drivers, model.identity, model.horizon_hours)
        first, *alerts = self._monitor.decide(made, deterioration)
        audit = orjson.dumps({"action": "predict", "event_id": first.id, "input_id": event.id, "model": model.identity.digest})
        return first.model_dump_json().encode(), audit, [alert.model_dump_json().encode() for alert in alerts]


def whole(bootstrap: str, topic: str) -> list[bytes]:
    """Read a topic from its start to its present end."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"bench-{os.getpid()}", "enable.auto.commit": False})
    try:
        partitions = [
            TopicPartition(topic, n, OFFSET_BEGINNING) for n in consumer.list_topics(topic, timeout=30).topics[topic].partitions
        ]
        left = sum(consumer.get_watermark_offsets(tp, timeout=30)[1] for tp in partitions)
        consumer.assign(partitions)
        values: list[bytes] = []
        while len(values) < left:
            for message in consumer.consume(1000, timeout=5):
                if message.error():
                    raise RuntimeError(str(message.error()))
                values.append(message.value())
        return values
    finally:
        consumer.close()
