"""Plays the ward: every message at its time, through the sockets that a hospital's systems would use."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import httpx
import orjson
from pydicom import dcmread
from pynetdicom import AE

from connectors.fhir.structure import canonical
from connectors.hl7.sender import MllpSender
from models.errors import VigilError
from processors.identity import content_hash
from streams.clock import Clock
from streams.demo.ward import Sendable

log = logging.getLogger("vigil.demo")


@dataclass(slots=True)
class Sent:
    """What was sent and what was answered. `keys`: how its events may name it (digests, or SOP Instance UID)."""

    channel: str
    what: str
    keys: frozenset[str]
    accepted: bool
    answer: str
    quiet: bool = False  # the connector is meant to count it as ignored: accepted, and no event comes of it


@dataclass
class Player:
    """Senders to the connectors' sockets; one connection per channel keeps the order that a feed has."""

    addresses: dict[str, tuple[str, int]]
    sent: list[Sent] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)

    async def play(self, messages: Iterable[Sendable], now: Clock, start: Any) -> None:
        """Send each message when the ward's clock says so; a channel that is slow delays only itself.

        When cancelled, it sends nothing more, and ends when what is under way was answered.
        """
        queues: dict[str, asyncio.Queue[Sendable | None]] = {name: asyncio.Queue(1000) for name in ("mllp", "fhir", "dicom")}
        workers = [asyncio.create_task(self._channel(name, queue)) for name, queue in queues.items()]
        try:
            for message in messages:
                while now() < start + message.at:  # noqa: ASYNC110 - the ward's clock is not the loop's
                    await asyncio.sleep(0.02)
                await queues[message.channel].put(message)
            for queue in queues.values():
                await queue.put(None)
            await asyncio.shield(asyncio.gather(*workers))
        except asyncio.CancelledError:
            for queue in queues.values():
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(None)
            await asyncio.gather(*workers, return_exceptions=True)
            raise

    async def _channel(self, name: str, queue: "asyncio.Queue[Sendable | None]") -> None:
        opened: dict[str, Callable[[], Any]] = {"mllp": self._mllp, "fhir": self._fhir, "dicom": self._dicom}
        async with opened[name]() as send:
            while (message := await queue.get()) is not None:
                accepted, answer, *keys = await send(message)
                self.answers[f"{name} {answer}"] += 1
                self.sent.append(Sent(name, message.what, frozenset(keys), accepted, answer, message.expect == "ignored"))

    def _mllp(self) -> "_Mllp":
        return _Mllp(*self.addresses["mllp"])

    def _fhir(self) -> "_Fhir":
        return _Fhir(*self.addresses["fhir"])

    def _dicom(self) -> "_Dicom":
        return _Dicom(*self.addresses["dicom"])


Send = Callable[[Sendable], Awaitable[tuple[bool, str, *tuple[str, ...]]]]


class _Mllp:
    def __init__(self, host: str, port: int) -> None:
        # One attempt: the ward sends garbage too, which is refused however often it is sent.
        self._sender = MllpSender(host, port, timeout=30.0, attempts=1)

    async def __aenter__(self) -> Send:
        return self._send

    async def __aexit__(self, *exc: object) -> None:
        await self._sender.close()

    async def _send(self, message: Sendable) -> tuple[bool, str, str]:
        key = content_hash(message.payload)
        try:
            ack = await self._sender.send(message.payload)
        except VigilError as error:
            return False, str(error).rpartition(": ")[2], key
        return True, ack.code, key


class _Fhir:
    def __init__(self, host: str, port: int) -> None:
        self._client = httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=30.0, trust_env=False)

    async def __aenter__(self) -> Send:
        return self._send

    async def __aexit__(self, *exc: object) -> None:
        await self._client.aclose()

    async def _send(self, message: Sendable) -> tuple[bool, str, *tuple[str, ...]]:
        answer = await self._client.post(
            message.path, content=message.payload, headers={"Content-Type": "application/fhir+json"}
        )
        return answer.is_success, str(answer.status_code), *_digests(message.payload)


def _digests(payload: bytes) -> list[str]:
    """Return by which digests events may name a resource, a Bundle's resources, or the set that its observations make."""
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return []
    if body.get("resourceType") != "Bundle":
        return [content_hash(canonical(body))]
    each = [content_hash(canonical(entry["resource"])) for entry in body.get("entry", ())]
    return [*each, content_hash("".join(each).encode())]


class _Dicom:
    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)

    async def __aenter__(self) -> Send:
        return self._send

    async def __aexit__(self, *exc: object) -> None:
        return

    async def _send(self, message: Sendable) -> tuple[bool, str, str]:
        status, uid = await asyncio.to_thread(self._store, message.payload)
        return status == 0, f"{status:04X}", uid

    def _store(self, payload: bytes) -> tuple[int, str]:
        dataset = dcmread(BytesIO(payload), force=True)
        entity = AE(ae_title="DEMOCR")
        entity.add_requested_context(dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.TransferSyntaxUID)
        association = entity.associate(*self._address)
        if not association.is_established:
            return 0xA700, str(dataset.file_meta.MediaStorageSOPInstanceUID)
        answer = association.send_c_store(dataset)
        association.release()
        return int(answer.get("Status", 0xA700)), str(dataset.file_meta.MediaStorageSOPInstanceUID)
