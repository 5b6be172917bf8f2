"""STOW-RS: DICOM objects over HTTP (PS3.18 10.5), by the same code and with the same promise as C-STORE.

| what happened | status |
|---|---|
| every object stored (kept as dead letter or ignored too) | 200 |
| some refused or not confirmed, or the multipart broke off behind what is stored | 202, with FailedSOPSequence |
| none stored, all refused | 409, with FailedSOPSequence |
| none confirmed, or the disk is nearly full, or too many requests at once | 503 with Retry-After |
| not multipart/related of application/dicom | 415 |
| multipart that breaks off or has no form, and nothing stored | 400 |
| none stored, all longer than the limit | 413, with FailedSOPSequence |
| no token, or one that is not known | 401 |

The answer is DICOM JSON (PS3.18 Annex F): ReferencedSOPSequence (0008,1199), FailedSOPSequence (0008,1198) with the C-STORE status
as FailureReason (0008,1197). What is too long is passed over, and a part without form likewise: what comes behind it is taken. A
failed item without UIDs is of a part, or of the rest of a body, that does not say what it is.
"""

import asyncio
import hmac
import logging
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from time import monotonic
from typing import Any, Final, Self

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from connectors.contexts import Contexts
from connectors.dicom.acknowledgement import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, SUCCESS, TOO_LONG
from connectors.dicom.mapping import Context, Outcome, handle, named
from connectors.dicom.multipart import Malformed, Part, boundary_of, parts
from connectors.dicom.publishing import Publishing
from connectors.dicom.settings import DicomPeer, DicomSettings, StowSettings
from connectors.identity import Identities
from connectors.publisher import Publisher, Store
from connectors.serving import HttpServer, application, paced, server_context

log = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/dicom+json"
_DICOM: Final = "application/dicom"
_BYTES_PER_SECOND: Final = 16_384  # the least speed, as of MLLP and FHIR: an object of 1 MB then takes a minute
Observer = Callable[[Outcome, int, float], None]


class StowServer:
    """The STOW-RS endpoint on this event loop. Use as an async context manager, or `start` and `stop`."""

    def __init__(
        self,
        settings: StowSettings,
        objects: DicomSettings,
        *,
        publisher: Publisher,
        store: Store,
        identities: Identities,
        now: Callable[[], datetime],
        contexts: Contexts | None = None,
        under_pressure: Callable[[], bool] = lambda: False,
        observe: Observer = lambda outcome, status, seconds: None,
    ) -> None:
        """`objects` says how objects are read: limits, frame, time zone, authority (the Storage SCP's settings)."""
        self.settings = settings
        self._objects = objects
        self._publishing = Publishing(publisher, store, seconds=objects.confirm_timeout)
        self._identities = identities
        self._now = now
        self._contexts = contexts
        self._under_pressure = under_pressure
        self._observe = observe
        self._decoders = asyncio.Semaphore(objects.decoders)
        self._in_flight: Counter[str] = Counter()  # by address
        self._server: HttpServer | None = None
        self.port = settings.port
        path = settings.path
        self.app = application(
            [
                Route(f"{path}/studies", self._stow, methods=["POST"]),
                Route(f"{path}/studies/{{study}}", self._stow, methods=["POST"]),
            ]
        )

    async def start(self) -> tuple[str, int]:
        """Listen, and return the address. Raises `Fatal` when the address cannot be had or the TLS files cannot be used."""
        own = self.settings
        self._server = HttpServer(
            self.app,
            host=own.host,
            port=own.port,
            tls=server_context(own.tls.certificate_file, own.tls.key_file, own.tls.ca_file) if own.tls else None,
            connections=own.connections,
            header_timeout=own.header_timeout,
            idle_timeout=own.idle_timeout,
        )
        host, self.port = await self._server.start()
        return host, self.port

    async def stop(self) -> None:
        """Accept no more; requests under way are answered first, for a few seconds."""
        if self._server is not None:
            await self._server.stop()
            self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _stow(self, request: Request) -> Response:
        address = request.client.host if request.client else ""
        if self._is_busy(address):
            return self._busy()
        self._in_flight[address] += 1  # before the first await, else more are let in while the disk is looked at
        try:
            if await asyncio.to_thread(self._under_pressure):
                return self._busy()
            return await self._taken(request)
        except (Malformed, ClientDisconnect, TimeoutError):
            return _answer(400)
        except Exception as error:  # further out it would be logged with its words, which may quote an object
            log.error("STOW-RS: unforeseen %s", type(error).__name__)
            return self._busy()
        finally:
            self._in_flight[address] -= 1
            self._in_flight = +self._in_flight  # forgets addresses without any

    def _is_busy(self, address: str) -> bool:
        """Whether all turns are taken, or an address has its half: each is held while a body arrives, however slowly."""
        most = self.settings.in_flight
        return self._in_flight.total() >= most or self._in_flight[address] >= max(1, most // 2)

    async def _taken(self, request: Request) -> Response:
        peer = self._peer(request)
        if peer is None:
            return _answer(401, headers={"WWW-Authenticate": 'Bearer realm="vigil"'})
        kind = request.headers.get("content-type", "")
        if not kind.lower().startswith("multipart/related"):
            return _answer(415)
        boundary = boundary_of(kind)
        results: list[tuple[Outcome, int]] = []
        chunks = paced(request.stream(), self.settings.silence, _BYTES_PER_SECOND)  # read as they are wanted, not ahead
        try:
            async for part in parts(chunks, boundary, self._objects.largest_object):
                results.append(await self._store(part, peer, request.path_params.get("study", "")))
        except Exception as error:
            if not any(status == SUCCESS for _, status in results):
                raise
            cut = isinstance(error, (Malformed, ClientDisconnect, TimeoutError))
            log.warning("STOW-RS: a request of peer %s ended early (%s)", peer.name, type(error).__name__)
            status = CANNOT_UNDERSTAND if cut else OUT_OF_RESOURCES
            results.append((Outcome("refused", status, "the rest of the body"), status))
        return self._response(results)

    async def _store(self, part: Part, peer: DicomPeer, study: str) -> tuple[Outcome, int]:
        started = monotonic()
        if part.flaw == "form":
            outcome = Outcome("refused", CANNOT_UNDERSTAND, "a part without an end of its headers")
        elif part.media_type != _DICOM:
            outcome = Outcome("refused", CANNOT_UNDERSTAND, "a part is no application/dicom")
        elif part.flaw:
            reason = f"longer than the {self._objects.largest_object} bytes that are taken"
            outcome = Outcome("refused", TOO_LONG, reason, subject=named(part.data))
        else:
            context = Context(self._objects, self._identities, peer, self._now(), study=study, contexts=self._contexts)
            async with self._decoders:
                outcome = await asyncio.to_thread(handle, part.data, context)
        status = await self._publishing.answer(outcome)
        if status != SUCCESS or outcome.verdict == "dead-letter":
            log.warning(
                "STOW-RS: %s with %04X, peer %s: %s", outcome.verdict, status, peer.name, outcome.reason or "not confirmed"
            )
        self._observe(outcome, status, monotonic() - started)
        return outcome, status

    def _peer(self, request: Request) -> DicomPeer | None:
        shown = request.headers.get("authorization", "")
        scheme, _, token = shown.partition(" ")
        found = None if any(peer.token for peer in self.settings.peers.values()) else next(iter(self.settings.peers))
        for name, peer in self.settings.peers.items():
            if peer.token and scheme.lower() == "bearer":
                same = hmac.compare_digest(token.strip().encode(), peer.token.get_secret_value().encode())
                found = name if same else found
        if found is None:
            return None
        own = self.settings.peers[found]
        return DicomPeer(ae_title="STOW-RS", name=found, authority=own.authority, zone=own.zone, processing=own.processing)

    def _response(self, results: list[tuple[Outcome, int]]) -> Response:
        stored = [outcome for outcome, status in results if status == SUCCESS]
        failed = [(outcome, status) for outcome, status in results if status != SUCCESS]
        body: dict[str, Any] = {}
        if stored:
            body["00081199"] = {"vr": "SQ", "Value": [_reference(outcome) for outcome in stored]}
        if failed:
            reasons = [_reference(outcome) | {"00081197": {"vr": "US", "Value": [status]}} for outcome, status in failed]
            body["00081198"] = {"vr": "SQ", "Value": reasons}
        if not results:
            return _answer(400)
        if stored:
            return _answer(200 if not failed else 202, body)
        if all(status == OUT_OF_RESOURCES for _, status in failed):
            return _answer(503, body, {"Retry-After": str(self.settings.retry_after)})
        return _answer(413 if all(status == TOO_LONG for _, status in failed) else 409, body)

    def _busy(self) -> Response:
        return _answer(503, headers={"Retry-After": str(self.settings.retry_after)})


def _reference(outcome: Outcome) -> dict[str, Any]:
    said = (("00081150", outcome.subject.sop_class), ("00081155", outcome.subject.instance_uid))
    return {tag: {"vr": "UI", "Value": [value]} for tag, value in said if value}


def _answer(status: int, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None) -> Response:
    return Response(
        orjson.dumps(body or {}),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store"} | (headers or {}),
    )
