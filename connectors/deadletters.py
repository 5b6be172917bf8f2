"""Dead letters of the edge: what a sender handed over that cannot be used, kept whole so that it can be looked at and redriven.

A lane's dead letter names the Kafka record it came from; a connector's has none yet, so `original_topic` names the connector
(`connector.hl7`, `connector.fhir`, `connector.dicom`), partition and offset are -1, and a redrive hands the original to that
connector again. The original stands in the letter itself where it fits a Kafka record; where it does not (DICOM objects), the
letter holds a reference into the object store instead, as JSON, and says so in its `content-type` header.
"""

from base64 import b64encode
from datetime import datetime

from processors.events import DeadLetterEvent, Header, ObjectReference
from processors.identity import content_hash, natural_id

REFERENCE_TYPE = "application/vnd.vigil.object-reference+json"  # the letter's value is an ObjectReference, not the bytes
NOWHERE = -1  # partition and offset of what never was a Kafka record


def dead_letter(
    original: bytes | ObjectReference,
    *,
    connector: str,
    stage: str,
    message: str,
    failed_at: datetime,
    media_type: str = "application/octet-stream",
    key: str | None = None,
    error: str = "Poison",
    identity: tuple[str | int, ...] = (),
    peer: str = "",
    message_type: str = "",
) -> DeadLetterEvent:
    """Make a dead letter at the edge. `message` must carry no patient text; `key` is the patient id where it is known.

    `peer` is the sender's configured name, `message_type` a word of the standard and not the sender's: operators are shown both.

    The id derives from connector, stage, `identity` (what identifies the message, its position in it) and the content, so a
    resend gives the same letter.
    """
    if isinstance(original, ObjectReference):
        value, media_type, digest = original.model_dump_json().encode(), REFERENCE_TYPE, original.sha256
    else:
        value, digest = original, content_hash(original)
    return DeadLetterEvent(
        id=natural_id("dead-letter", connector, stage, *identity, digest),
        lane=f"connector.{connector}",
        stage=stage,
        error_class="Poison",
        error=error,
        message=message,
        attempts=1,
        peer=peer,
        message_type=message_type,
        original_topic=f"connector.{connector}",
        original_partition=NOWHERE,
        original_offset=NOWHERE,
        original_key=None if key is None else b64encode(key.encode()).decode(),
        original_value=b64encode(value).decode(),
        original_headers=(Header(name="content-type", value=b64encode(media_type.encode()).decode()),),
        failed_at=failed_at,
    )
