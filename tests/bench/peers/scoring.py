"""What both peers do for one set of vitals: the same processors as the lane, one event at a time, as both guides teach."""

from datetime import UTC, datetime

import numpy as np
import orjson

from models.registry import Registry
from processors.deterioration import deterioration_of
from processors.events import Source, VitalsEvent
from processors.monitor import Monitor
from processors.rules import MonitorRules

_model = Registry.load().open("deterioration")
_monitor = Monitor(MonitorRules(), model=_model.identity)
_monitor.tick(datetime.now(UTC), Source(topic="bench", partition=0, offset=0, event_id="start"))


def score(value: bytes, partition: int, offset: int) -> tuple[bytes, bytes, list[bytes]]:
    """Return (score, audit record, alerts), each as JSON."""
    event = VitalsEvent.model_validate_json(value)
    source = Source(topic=event.topic, partition=partition, offset=offset, event_id=event.id)
    made = _monitor.observe(event, source)
    deterioration = None
    if made.window is not None:
        probability = float(_model.score(made.window[np.newaxis])[0])
        deterioration = deterioration_of(probability, (), _model.identity, _model.horizon_hours)
    first, *alerts = _monitor.decide(made, deterioration)
    audit = orjson.dumps({"action": "predict", "event_id": first.id, "input_id": event.id, "model": _model.identity.digest})
    return first.model_dump_json().encode(), audit, [alert.model_dump_json().encode() for alert in alerts]
