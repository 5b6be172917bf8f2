"""Events on the wire: a Kafka record with a JSON value and CloudEvents attributes in its headers (binary content mode).

CloudEvents 1.0, Kafka protocol binding: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
W3C trace context: https://www.w3.org/TR/trace-context/
"""

import re
from base64 import b64decode
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError

from models.errors import Poison
from processors.events import AuditEvent, DeadLetterEvent, Event, FeedbackEvent, HeartbeatEvent, to_json
from processors.partition import number_of

E = TypeVar("E", bound=Event)
Headers = list[tuple[str, bytes]]

TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(slots=True)
class Message:
    """A record to be written: `topic` without the site's prefix; the key chooses the partition unless one is given.

    A given one counts round where the topic has fewer (`streams.outbox`).
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = field(default_factory=list)
    partition: int | None = None


@lru_cache(maxsize=256)
def _constant_headers(kind: type[Event], source: str) -> tuple[tuple[str, bytes], ...]:
    return (
        ("ce_specversion", b"1.0"),
        ("ce_type", kind.type.encode()),
        ("ce_source", source.encode()),
        ("content-type", b"application/json"),
    )


def encode(event: Event, *, source: str, time: bytes = b"", traceparent: bytes | None = None) -> Message:
    """Return the record of an event. `source` is the CloudEvents source (an URI reference), `time` ISO 8601 in UTC."""
    headers: Headers = [*_constant_headers(type(event), source), ("ce_id", event.id.encode())]
    if time:
        headers.append(("ce_time", time))
    if traceparent:
        headers.append(("traceparent", traceparent))
    return Message(event.topic, key_of(event), to_json(event), headers, _partition_of(event))


def _partition_of(event: Event) -> int | None:
    """Return the partition that an event belongs in whatever its key; None where the key chooses.

    A heartbeat lies beside the alerts of the patients that it speaks for, so that whoever holds some partitions of
    `clinical.alerts` hears of those, and of each. An answer to an alert of the lane's own (`partition-N`) goes to who raised it.
    """
    if isinstance(event, HeartbeatEvent):
        return event.partition
    return number_of(event.patient_id) if isinstance(event, FeedbackEvent) else None


def key_of(event: Event) -> bytes | None:
    """Return the record's key: the patient; the subject of an audit event; the original key of a dead letter."""
    if isinstance(event, AuditEvent):
        return event.subject.encode()
    if isinstance(event, DeadLetterEvent):
        return b64decode(event.original_key) if event.original_key is not None else None
    patient: str | None = getattr(event, "patient_id", None)
    return patient.encode() if patient else None


def decode(kind: type[E], record: Any) -> E:
    """Read an event from a Kafka record; raises `Poison` that names fields and reasons and never shows their content."""
    if record.value is None:
        raise Poison(f"{kind.__name__}: the record has no value", stage="decode")
    named = header(record, "ce_type")
    if named is not None and named != kind.type.encode():  # a changed meaning has a new version in the type's name
        raise Poison(f"{kind.__name__}: the record says that it is of another type or version (ce_type)", stage="decode")
    try:
        return kind.model_validate_json(record.value)
    except ValidationError as error:
        places = [f"{'.'.join(map(str, e['loc'])) or 'the record'}: {e['type']}" for e in error.errors(include_input=False)]
        more = f" and {len(places) - 5} more" if len(places) > 5 else ""
        raise Poison(f"not a {kind.__name__}: {'; '.join(places[:5])}{more}", stage="decode") from None


def body_of(value: bytes | None) -> dict[str, Any]:
    """Return a JSON object as far as it is one: what no lane can read may still say what it is."""
    try:
        body = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}


def header(record: Any, name: str) -> bytes | None:
    """Return the first header of that name."""
    return next((value for key, value in record.headers if key == name), None)


def traceparent_of(record: Any) -> bytes | None:
    """Return the record's `traceparent` if it is well formed."""
    value = header(record, "traceparent")
    return value if value is not None and TRACEPARENT.fullmatch(value) else None


def iso(time: datetime) -> bytes:
    """Return ISO 8601 for a header."""
    return time.isoformat(timespec="milliseconds").encode()
