"""What both vitals peers do for one set: the lane's own processors, one event at a time, as both guides teach.

The peers are spared what would slow them down and is not theirs: the patients' contexts are read before the work begins instead
of joined, nothing is journalled or snapshot, and the model takes single rows. (The lane's ONNX graph is cut for blocks of exactly
64 rows, so that a score does not depend on its batch; a peer that scores one set at a time would pay for 64. So the same graph
with the same weights is opened here to any number of rows: input and output get a free dimension, and the initial states, zeros
for 64 rows, are left out, which means zeros. tests/unit/bench holds both against each other.)
"""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import onnx
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
from streams.scoring import NOTEWORTHY


class SingleRows:
    """The deterioration model without blocks: scores and attributions of one window."""

    def __init__(self) -> None:
        weights = Registry.load().weights("deterioration")
        graph: Any = onnx.load(str(weights.path("model.onnx")))
        graph.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "rows"
        graph.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "rows"
        for node in graph.graph.node:
            if node.op_type == "LSTM":
                del node.input[5:]  # initial_h, initial_c; what made them is dead and must not run
        wanted, kept = {"probability"}, []
        for node in reversed(graph.graph.node):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                kept.append(node)
        del graph.graph.node[:]
        graph.graph.node.extend(reversed(kept))
        self._session = ort.InferenceSession(graph.SerializeToString(), options(1), providers=["CPUExecutionProvider"])
        self._scaling = Scaling.from_json(weights.path("scaling.json").read_text())
        self.identity = weights.identity
        self.horizon_hours = self._scaling.horizon_hours

    def score(self, windows: Floats) -> Floats:
        """Score [n, hours, features]: [n]."""
        feeds: Mapping[str, Any] = {"x": encode(windows, self._scaling)}
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
            drivers = model.attribute(made.window, probability) if probability >= NOTEWORTHY else None
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
