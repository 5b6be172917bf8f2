"""Encryption at rest: AES-256-GCM, each object under a nonce of its own.

Layout: magic "VGL1", the key's id (4 bytes of its SHA-256), the nonce (12 random bytes), ciphertext with its tag (16 bytes). The
plaintext's SHA-256 is authenticated with it, so an object cannot be passed off as another. Random nonces are safe for 2**32
objects under one key (NIST SP 800-38D, 8.3).
"""

import os
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from models.errors import Fatal, Poison

_MAGIC: Final = b"VGL1"
_ID_BYTES: Final = 4
_NONCE_BYTES: Final = 12
_HEAD: Final = len(_MAGIC) + _ID_BYTES + _NONCE_BYTES
OVERHEAD: Final = _HEAD + 16


class Sealing:
    """Encrypts with the first key and decrypts with any."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers = {sha256(key).digest()[:_ID_BYTES]: AESGCM(key) for key in reversed(keys)}
        self._newest = sha256(keys[0]).digest()[:_ID_BYTES] if keys else b""

    def __bool__(self) -> bool:
        return bool(self._newest)

    def seal(self, data: bytes, digest: str) -> bytes:
        """Return `data` encrypted and bound to its SHA-256 (hex)."""
        nonce = os.urandom(_NONCE_BYTES)
        return _MAGIC + self._newest + nonce + self._ciphers[self._newest].encrypt(nonce, data, digest.encode())

    def open(self, sealed: bytes, digest: str) -> bytes:
        """Return the plaintext. Raises `Fatal` where the key is not configured, `Poison` (stage "fetch") for altered bytes."""
        if len(sealed) < OVERHEAD or not sealed.startswith(_MAGIC):
            raise Poison("an encrypted object does not have its form", stage="fetch")
        key_id, nonce = sealed[len(_MAGIC) : len(_MAGIC) + _ID_BYTES], sealed[_HEAD - _NONCE_BYTES : _HEAD]
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            hint = "put it into `objects.encryption_key`, or into `objects.previous_keys` after a change"
            raise Fatal(f"an object is encrypted under the key {key_id.hex()}, which is not configured", hint=hint)
        try:
            return cipher.decrypt(nonce, sealed[_HEAD:], digest.encode())
        except InvalidTag as error:
            raise Poison("an encrypted object was altered", stage="fetch") from error
