"""Signatures of webhooks, as Standard Webhooks 1.0 has them (https://www.standardwebhooks.com).

    webhook-id         of the message; the same at every attempt
    webhook-timestamp  of the attempt, in whole seconds since 1970
    webhook-signature  one or more of `v1,` base64(HMAC-SHA256(key, id "." timestamp "." body)), separated by blanks

The key is what follows `whsec_`, base64; a secret without that prefix is taken as it stands. Several signatures, so that a secret
can be exchanged without a gap.
"""

import binascii
import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final

ID: Final = "webhook-id"
TIMESTAMP: Final = "webhook-timestamp"
SIGNATURE: Final = "webhook-signature"
_PREFIX: Final = "whsec_"
_SHORTEST: Final = 16  # bytes; the specification asks for 24 to 64, a shorter one could be guessed


def key_of(secret: str) -> bytes:
    """Return the key of a secret. Raises `ValueError` (that does not show it) when it is too short or no base64."""
    try:
        key = b64decode(secret.removeprefix(_PREFIX), validate=True) if secret.startswith(_PREFIX) else secret.encode()
    except binascii.Error:
        raise ValueError("what follows whsec_ is not base64") from None
    if len(key) < _SHORTEST:
        raise ValueError(f"shorter than {_SHORTEST} bytes: `openssl rand -base64 32` makes a good one")
    return key


def _signature(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    return "v1," + b64encode(hmac.new(key, signed, sha256).digest()).decode()


def sign(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the three headers."""
    made = " ".join(_signature(key, message_id, str(timestamp), body) for key in keys)
    return {ID: message_id, TIMESTAMP: str(timestamp), SIGNATURE: made}


def verified(keys: Sequence[bytes], headers: Mapping[str, str], body: bytes, *, now: float, tolerance: float) -> str:
    """Return why a message is not believed, in words; empty when it is.

    `headers` with lower-case names; `now` in seconds since 1970. Every signature is compared in constant time.
    """
    message_id, timestamp, given = (headers.get(name, "") for name in (ID, TIMESTAMP, SIGNATURE))
    if not message_id or not timestamp or not given:
        return "a signature header is missing"
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return "the timestamp is no number"
    expected = [_signature(key, message_id, timestamp, body).encode() for key in keys]
    offered = [one.encode() for one in given.split(" ")[:8]]
    if not any(hmac.compare_digest(one, other) for one in expected for other in offered):
        return "no signature is right"
    if abs(now - int(timestamp)) > tolerance:
        return "the timestamp is outside the window"
    return ""
