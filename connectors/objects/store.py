"""`ObjectStore`: bytes named by the SHA-256 of their content, so a repeat stores nothing and what is read is what was stored.

An object's path is `ab/cd/<sha256><suffix>`, with `.enc` behind it when it is encrypted. A reference whose object is not there
is `Poison` once the store itself answers (an event is published only after its object was stored, and no store that is
supported forgets); a store that does not answer, or is not the one it was, is `Transient`.
"""

import asyncio
import re
from hashlib import sha256
from typing import Final

from connectors.objects.places import place_of
from connectors.objects.sealing import OVERHEAD, Sealing
from connectors.objects.settings import ObjectSettings, key_bytes
from models.errors import Fatal, Permanent, Poison
from processors.events import ObjectReference

_SUFFIX: Final = re.compile(r"\.[a-z0-9]{1,10}")
_PATH: Final = re.compile(r"([0-9a-f]{2})/([0-9a-f]{2})/([0-9a-f]{64})(\.[a-z0-9]{1,10})?")
_ENCRYPTED: Final = ".enc"


class ObjectStore:
    """The object store that the settings describe. Methods may be called from any event loop or, `*_now`, any thread."""

    def __init__(self, settings: ObjectSettings) -> None:
        self._largest = settings.largest_bytes
        keys = [settings.encryption_key] if settings.encryption_key is not None else []
        self._sealing = Sealing([key_bytes(key) for key in keys])
        self._opening = Sealing([key_bytes(key) for key in (*keys, *settings.previous_keys)])
        self._place = place_of(settings)

    async def put(self, data: bytes, media_type: str, suffix: str = "") -> ObjectReference:
        """Store `data` durably and return its reference; `suffix` such as ".png" is for people who look into the folder.

        Raises `Transient` when the store cannot confirm (disk full, no answer), `Poison` (stage "store") over the size limit.
        """
        return await asyncio.to_thread(self.put_now, data, media_type, suffix)

    def put_now(self, data: bytes, media_type: str, suffix: str = "") -> ObjectReference:
        """As `put`, blocking."""
        if len(data) > self._largest:
            raise Poison(f"an object of {len(data)} bytes is over the limit of {self._largest}", stage="store")
        if suffix and (not _SUFFIX.fullmatch(suffix) or suffix == _ENCRYPTED):
            raise Permanent(f"the suffix {suffix!r} is not of the form .png")
        digest = sha256(data).hexdigest()
        path = f"{digest[:2]}/{digest[2:4]}/{digest}{suffix}"
        size = len(data)
        if self._sealing:
            path, size = path + _ENCRYPTED, size + OVERHEAD
        if self._place.size(path) == size:
            self._place.settle(path)
        else:  # not there, or damaged since
            self._place.write(path, self._sealing.seal(data, digest) if self._sealing else data)
        return ObjectReference(uri=path, sha256=digest, media_type=media_type, bytes=len(data))

    async def get(self, reference: ObjectReference) -> bytes:
        """Return the bytes, checked against the reference.

        Raises `Poison` (stage "fetch") for an object that is missing, altered, over the limit or outside the store, `Transient`
        when the store does not answer, `Fatal` for an encryption key that is not configured.
        """
        return await asyncio.to_thread(self.get_now, reference)

    def get_now(self, reference: ObjectReference) -> bytes:
        """As `get`, blocking."""
        path, encrypted = self._path_of(reference)
        size = self._place.size(path)
        if size is not None and size > self._largest + OVERHEAD:
            raise Poison(f"an object of {size} bytes is over the limit of {self._largest}", stage="fetch")
        data = self._place.read(path)
        if data is None:
            raise Poison(f"the object {reference.sha256} is not in the store", stage="fetch")
        if encrypted:
            if not self._opening:
                raise Fatal("an object is encrypted and no key is configured", hint="set `objects.encryption_key`")
            data = self._opening.open(data, reference.sha256)
        if sha256(data).hexdigest() != reference.sha256:
            raise Poison(f"the object {reference.sha256} has other content than its digest says", stage="fetch")
        return data

    @staticmethod
    def _path_of(reference: ObjectReference) -> tuple[str, bool]:
        """Check that a reference, which came over the wire, names an object of the store and nothing else on the machine."""
        encrypted = reference.uri.endswith(_ENCRYPTED)
        found = _PATH.fullmatch(reference.uri.removesuffix(_ENCRYPTED))
        digest = reference.sha256
        if found is None or found.group(1, 2, 3) != (digest[:2], digest[2:4], digest):
            raise Poison("an object reference does not name an object of this store", stage="fetch")
        return reference.uri, encrypted

    def free_bytes(self) -> int | None:
        """Return the bytes free for new objects, None for a remote store, which does not say."""
        return self._place.free_bytes()
