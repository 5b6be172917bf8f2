"""Dead letters: what could not be processed, whole, so that nothing is lost and it can be redriven byte for byte."""

from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

from models.batching import describe
from models.errors import Permanent, Poison, VigilError
from processors.events import DeadLetterEvent, Header
from processors.identity import natural_id


def dead_letter(
    record: Any, error: BaseException, *, lane: str, failed_at: datetime, attempts: int = 1, model_digest: str = ""
) -> DeadLetterEvent:
    """Make the dead letter of a Kafka record. The same record, lane and stage give the same id, however often it is read."""
    stage = error.stage if isinstance(error, Poison) else "process"
    # An unforeseen exception's words may quote the input: only its kind and place are kept.
    message = str(error) if isinstance(error, VigilError) else describe(error)
    return DeadLetterEvent(
        id=natural_id("dead-letter", lane, record.topic, record.partition, record.offset),
        lane=lane,
        stage=stage,
        error_class="Permanent" if isinstance(error, Permanent) else "Poison",
        error=type(error).__name__,
        message=message,
        attempts=attempts,
        model_digest=model_digest,
        original_topic=record.topic,
        original_partition=record.partition,
        original_offset=record.offset,
        original_timestamp=datetime.fromtimestamp(record.timestamp / 1000, UTC) if record.timestamp >= 0 else None,
        original_key=_base64(record.key),
        original_value=_base64(record.value),
        original_headers=tuple(Header(name=name, value=_base64(value)) for name, value in record.headers),
        failed_at=failed_at,
    )


def _base64(data: bytes | None) -> str | None:
    return None if data is None else b64encode(data).decode()
