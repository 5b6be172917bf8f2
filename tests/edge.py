"""What connector tests stand on instead of Kafka and the object store: real implementations of the contracts, in memory."""

import asyncio
import os
import subprocess
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from pydantic import SecretStr

from connectors.identity import Identities, IdentitySettings
from models.errors import Transient
from processors.events import Event, ObjectReference

# conformance corpora: not part of the project; a test that wants one skips where it is absent
DATA = Path(os.environ.get("VIGIL_DATA") or Path(__file__).parents[2] / "shared" / "data")


def certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A self-signed certificate and its key, made by the openssl command."""
    crt, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1", "-keyout", key, "-out", crt],
        check=True, capture_output=True,
    )  # fmt: skip
    return crt, key


class RecordingPublisher:
    """Confirms and keeps, in order; `trouble` makes the next publishes fail, `delay` makes them slow."""

    def __init__(self) -> None:
        self.calls: list[tuple[Event, ...]] = []
        self.trouble: Exception | None = None
        self.delay = 0.0

    @property
    def events(self) -> list[Event]:
        return [event for call in self.calls for event in call]

    async def publish(self, events: Sequence[Event], *, timeout: float | None = None) -> None:
        if self.delay:
            try:
                async with asyncio.timeout(timeout):
                    await asyncio.sleep(self.delay)
            except TimeoutError as error:
                raise Transient("not confirmed in time") from error
        if self.trouble is not None:
            raise self.trouble
        self.calls.append(tuple(events))


class MemoryStore:
    """A content-addressed object store in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.trouble: Exception | None = None

    async def put(self, data: bytes, media_type: str, suffix: str) -> ObjectReference:
        if self.trouble is not None:
            raise self.trouble
        digest = sha256(data).hexdigest()
        uri = f"{digest[:2]}/{digest}{suffix}"
        self.objects[uri] = data
        return ObjectReference(uri=uri, sha256=digest, media_type=media_type, bytes=len(data))

    async def get(self, reference: ObjectReference) -> bytes:
        return self.objects[reference.uri]


def identities(*authorities: str, **aliases: str) -> Identities:
    return Identities(IdentitySettings(site_secret=SecretStr("tests: not a secret"), authorities=authorities, aliases=aliases))
