"""Natural, deterministic ids: the same input gives the same id on every machine and every rerun, so a repeat overwrites.

An id is the first 128 bits of a SHA-256, written as a UUID (version 8, RFC 9562: "vendor specific"), because Qdrant takes only
UUIDs and integers as point ids and because people can read and paste a UUID.
"""

import hmac
from hashlib import sha256

_SEPARATOR = "\x1f"  # the ASCII unit separator: cannot stand in an identifier, so ("a", "bc") and ("ab", "c") differ


def natural_id(*parts: str | int) -> str:
    """Derive the id of a thing from what identifies it, as a UUID string.

    Used for event ids (source message identity, event type, position in the message), output ids (input id, stage, model
    digest), alert ids (patient, kind, the set that raised it) and Qdrant point ids (note id, chunk span, model digest).
    """
    text = sha256(_SEPARATOR.join(map(str, parts)).encode()).hexdigest()
    variant = "89ab"[int(text[16], 16) & 3]
    return f"{text[:8]}-{text[8:12]}-8{text[13:16]}-{variant}{text[17:20]}-{text[20:32]}"


def content_hash(content: bytes) -> str:
    """Return the SHA-256 of a message's bytes, hex: what tells a resend from a control id used twice."""
    return sha256(content).hexdigest()


def patient_id(secret: bytes, authority: str, identifier: str) -> str:
    """Derive Vigil's own patient id: HMAC-SHA-256 of assigning authority and identifier under the site secret, 32 hex digits.

    Keys, tools and logs show this and never a record number. Without the secret it can be neither computed nor reversed by
    trying all record numbers. Authority and identifier are compared without surrounding blanks; the authority without case.
    """
    if not identifier.strip():
        raise ValueError("a patient identifier must not be empty")
    message = _SEPARATOR.join((authority.strip().upper(), identifier.strip())).encode()
    return hmac.digest(secret, message, "sha256").hex()[:32]
