"""The published contract, made from the code: a JSON Schema and an example for each event, an AsyncAPI 3 document of the topics,
and an OpenAPI 3.1 document of the FHIR endpoint.

`vigil schemas --out infra/schemas` writes them; a test fails when what lies there differs from what the code says.
AsyncAPI 3.0: https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from connectors.fhir import openapi
from processors.events import (
    EVENTS,
    TOPICS,
    AuditEvent,
    DeadLetterEvent,
    DeadLetterMarkEvent,
    Event,
    FeedbackEvent,
    HeartbeatEvent,
)
from processors.examples import EXAMPLES
from streams.wire import TRACEPARENT

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
# What each topic holds and who writes it, for a reader of the document.
_CHANNELS = {
    "clinical.notes": "clinical notes, written by the connectors",
    "clinical.images": "images' metadata and references to their pixels, and what takes images back, written by the connectors",
    "clinical.vitals": "sets of observations, written by the connectors",
    "clinical.patients": "patients' context, compacted, written by the connectors",
    "clinical.entities": "entities of a note, written by the lane notes-entities",
    "clinical.findings": "findings of an image, or that they are withdrawn, written by the lane images",
    "clinical.scores": "NEWS2 and deterioration score after a set of vitals, written by the lane vitals",
    "clinical.alerts": "an alert's life, and heartbeats, written by the lane vitals",
    "clinical.feedback": "what people answered, written by receivers of alerts",
    "clinical.shadow": "what a challenger answered beside the champion: for comparison only, nothing may act on it",
    "clinical.audit": "who did what, written by every lane",
    "clinical.dead-letters": "what could not be processed, whole, written by lanes and connectors, and what operators did about it",
}
_PATIENT_KEY = {
    "type": "string",
    "description": "`patient_id`; partitioned as Kafka's default partitioner does (murmur2): one patient's records stay in order, "
    "and topics that meet in a lane meet in the same partition",
}
# What a record's key is (`streams.wire.key_of`), where it is not the patient.
_KEYS: dict[type[Event], dict[str, Any]] = {
    HeartbeatEvent: {"type": "null", "description": "none; the partition is the lane's `partition`, counted round"},
    FeedbackEvent: {
        "type": "string",
        "description": f"{_PATIENT_KEY['description']}. An answer to an alert of the lane's own (`partition-N`): to partition N",
    },
    AuditEvent: {"type": "string", "description": "`subject`"},
    DeadLetterEvent: {"type": ["string", "null"], "description": "the original's key, byte for byte; none where it had none"},
    DeadLetterMarkEvent: {"type": "null", "description": "none; the partition is the letter's"},
}
_TIME = "when it was written by the clock of who wrote it; a reader without it takes the record's timestamp"


def schema(kind: type[Event]) -> dict[str, Any]:
    """Return an event's JSON Schema; readers are to tolerate fields that it does not name."""
    body = kind.model_json_schema(mode="serialization", ref_template="#/$defs/{model}")
    return {"$schema": _DIALECT, "$id": f"urn:vigil:{kind.type}", **body}


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI document of all topics."""
    messages = {kind.type: _message(kind) for kind in EVENTS}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Vigil",
            "version": version("vigil-stream"),
            "description": "Events of a real-time clinical AI stream processor. Assists, never diagnoses. "
            "Operations are those of a site's own systems: what they may read, and what they write.",
        },
        "defaultContentType": "application/json",
        "channels": {topic: _channel(topic) for topic in TOPICS},
        "operations": {
            **{f"read-{topic}": {"action": "receive", "channel": {"$ref": f"#/channels/{topic}"}} for topic in TOPICS},
            "answer": {
                "action": "send",
                "channel": {"$ref": f"#/channels/{FeedbackEvent.topic}"},
                "messages": [{"$ref": f"#/channels/{FeedbackEvent.topic}/messages/{FeedbackEvent.type}"}],
                "summary": "What a receiver of alerts writes: who acknowledged or declined which alert, and why.",
                "description": "The key must be the alert's `patient_id`. The same `id` again is the same answer. "
                "Without Kafka: the signed call-back, ORA^R41 or a FHIR Communication (CONFORMANCE.md).",
            },
        },
        "components": {"messages": messages},
    }


def _channel(topic: str) -> dict[str, Any]:
    kinds = [kind.type for kind in EVENTS if kind.topic == topic]
    return {
        "address": topic,
        "description": _CHANNELS[topic],
        "messages": {kind: {"$ref": f"#/components/messages/{kind}"} for kind in kinds},
    }


def _message(kind: type[Event]) -> dict[str, Any]:
    return {
        "name": kind.type,
        "summary": (kind.__doc__ or "").split("\n")[0],
        "contentType": "application/json",
        "bindings": {"kafka": {"key": _KEYS.get(kind, _PATIENT_KEY), "bindingVersion": "0.5.0"}},
        "headers": {
            "type": "object",
            "description": "CloudEvents 1.0, Kafka binding (binary), and W3C trace context",
            "required": ["ce_specversion", "ce_type", "ce_source", "ce_id", "content-type"],
            "properties": {
                "ce_specversion": {"type": "string", "const": "1.0", "description": "CloudEvents' version"},
                "ce_type": {
                    "type": "string",
                    "const": kind.type,
                    "description": "the event's type; a changed meaning has another",
                },
                "ce_source": {"type": "string", "format": "uri-reference", "description": "who wrote it: /vigil/SITE/WHO"},
                "ce_id": {"type": "string", "description": "the event's `id`"},
                "ce_time": {"type": "string", "format": "date-time", "description": _TIME},
                "content-type": {"type": "string", "const": "application/json", "description": "of the value"},
                "traceparent": {
                    "type": "string",
                    "pattern": f"^{TRACEPARENT.pattern.decode()}$",
                    "description": "W3C Trace Context: the trace of the message that it comes of; none where it comes of the time",
                },
            },
        },
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-2020-12",
            "schema": {"$ref": f"{kind.type}.schema.json"},
        },
    }


def files() -> dict[str, bytes]:
    """Return every published file by name."""
    published = {f"{kind.type}.schema.json": _dump(schema(kind)) for kind in EVENTS}
    published |= {f"examples/{event.type}.json": _dump(orjson.loads(event.model_dump_json())) for event in EXAMPLES}
    endpoint = openapi.document(software_version=version("vigil-stream"))
    return {**published, "asyncapi.json": _dump(asyncapi()), "fhir.openapi.json": _dump(endpoint)}


def write(folder: Path) -> list[str]:
    """Write the files; returns the names of those that changed."""
    changed = []
    for name, content in files().items():
        file = folder / name
        if not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            changed.append(name)
    return changed


def _dump(body: Any) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
