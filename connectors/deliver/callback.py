"""Answers of webhook receivers: `POST /deliver/NAME/feedback`, signed as what they get (`signing`), with the receiver's own secret.

    {"type": "vigil.feedback", "data": {"alert_id": ..., "patient_id": ..., "answer": "acknowledged" | "declined" | "retracted",
                                        "by": who, "reason": why, "given_at": time, "sequence": step}}

or what a person says of an image's finding, from which `vigil retrain images` learns:

    {"type": "vigil.feedback", "data": {"finding_id": ..., "patient_id": ..., "answer": "confirmed" | "corrected",
                                        "label": what it is, "by": who, "reason": why, "given_at": time}}

finding_id is the id of the event on clinical.findings. `label` is one of the model's; a confirmation without one is of the label
that scored highest, a correction needs one. Of several answers about a finding the newest by `given_at` stands.

retracted takes an acknowledgement back that was given in error: the alert waits for an answer anew; what was declined is over.
alert_id, patient_id and sequence are those of the alert's `data`. Give the sequence of the step that was on the screen, or at least
`given_at`: an answer to what was told before the alert got graver is noted and stops nothing. `by` is the person's id in the site's
directory, for which the receiver vouches. 204 says that the answer is stored, not that its alert still stands: that only the vitals
lane knows, which counts and logs an answer that fits none. The webhook-id is the answer's: another answer needs another.

| what happened                                                            | status |
|--------------------------------------------------------------------------|--------|
| stored on clinical.feedback, confirmed; or a repetition, byte for byte   | 204    |
| no webhook receiver of that name                                         | 404    |
| signature missing or wrong, or outside the replay window                 | 401    |
| slower than 10 s for each 10 KiB                                         | 408    |
| longer than the limit                                                    | 413    |
| not an answer as above; another body under a webhook-id that was taken   | 422    |
| not confirmed in time                                                    | 503 with Retry-After: the same call again |
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from time import monotonic
from typing import Annotated, Final, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connectors.deliver.settings import CallbackSettings
from connectors.deliver.signing import ID, verified
from connectors.publisher import Publisher
from connectors.serving import HttpServer, application, paced, server_context
from models.errors import Poison, Transient
from processors.events import FeedbackEvent, FeedbackKind, Origin
from processors.identity import content_hash, natural_id

log = logging.getLogger(__name__)

_REMEMBERED: Final = 50_000  # calls within the replay window
_RETRY_AFTER: Final = "2"
_SLOWEST: Final = 10.0  # seconds
_BYTES_PER_SECOND: Final = 1024
_KINDS: Final[Mapping[str, FeedbackKind]] = {
    "acknowledged": "alert-acknowledged",
    "declined": "alert-declined",
    "retracted": "alert-answer-retracted",
    "confirmed": "finding-confirmed",
    "corrected": "finding-corrected",
}


class _Said(BaseModel):
    model_config = ConfigDict(extra="ignore")

    patient_id: str = Field(min_length=1, max_length=200)
    by: str = Field(min_length=1, max_length=200)
    reason: str = Field("", max_length=2000)
    given_at: AwareDatetime | None = None


class _OfAlert(_Said):
    alert_id: UUID  # as every event of ours has
    answer: Literal["acknowledged", "declined", "retracted"]
    sequence: int | None = Field(None, ge=0, lt=2**31)


class _OfFinding(_Said):
    finding_id: UUID
    answer: Literal["confirmed", "corrected"]
    label: str = Field("", max_length=200)

    @model_validator(mode="after")
    def _corrects(self) -> Self:
        if self.answer == "corrected" and not self.label.strip():
            raise ValueError("a correction names the label that is right")
        return self


def _about(data: object) -> str:
    return "finding" if isinstance(data, dict) and "finding_id" in data else "alert"


class _Call(BaseModel):
    model_config = ConfigDict(extra="ignore")

    type: Literal["vigil.feedback"]
    data: Annotated[Annotated[_OfAlert, Tag("alert")] | Annotated[_OfFinding, Tag("finding")], Discriminator(_about)]


def feedback(body: bytes, receiver: str, call_id: str, received_at: datetime) -> FeedbackEvent:
    """Return the event of a call that is believed; the same call gives the same event. Raises `ValidationError`."""
    said, digest = _Call.model_validate_json(body).data, content_hash(body)
    return FeedbackEvent(
        id=natural_id("webhook", receiver, call_id, digest, FeedbackEvent.type),
        patient_id=said.patient_id,
        kind=_KINDS[said.answer],
        target_id=str(said.alert_id if isinstance(said, _OfAlert) else said.finding_id),
        sequence=said.sequence if isinstance(said, _OfAlert) else None,
        by=said.by,
        reason=said.reason,
        label="" if isinstance(said, _OfAlert) else said.label,
        given_at=said.given_at or received_at,
        received_at=received_at,
        origin=Origin(protocol="vigil", peer=receiver, message_id=call_id, message_type="vigil.feedback", digest=digest),
    )


class CallbackServer:
    """The endpoint on this event loop: `start` and `stop`."""

    def __init__(
        self,
        settings: CallbackSettings,
        keys: Mapping[str, tuple[bytes, ...]],
        *,
        publisher: Publisher,
        now: Callable[[], datetime],
        observe: Callable[[str, int, float], None] = lambda receiver, status, seconds: None,
    ) -> None:
        """`keys`: per webhook receiver. `observe` is told the receiver's name (empty: unknown), the status and the seconds."""
        self.settings = settings
        self.app = self._app()
        self._keys = keys
        self._publisher = publisher
        self._now = now
        self._observe = observe
        self._seen: OrderedDict[tuple[str, str], str] = OrderedDict()  # receiver, webhook-id -> digest of what was stored
        self._server: HttpServer | None = None

    async def start(self) -> tuple[str, int]:
        """Listen, and return the address. Raises `Fatal` when it cannot be had."""
        own = self.settings
        tls = server_context(own.certificate_file, own.key_file, None) if own.certificate_file and own.key_file else None
        self._server = HttpServer(
            self.app, host=own.host, port=own.port, tls=tls, connections=own.connections, header_timeout=10, idle_timeout=60
        )
        return await self._server.start()

    async def stop(self) -> None:
        """Accept no more; calls under way are answered first."""
        if self._server is not None:
            await self._server.stop()
            self._server = None

    def _app(self) -> Starlette:
        async def endpoint(request: Request) -> Response:
            began, name = monotonic(), request.path_params["name"]
            try:
                body = await self._body(request)
                status = 413 if body is None else await self._call(name, request.headers, body)
            except TimeoutError:
                status = 408
            except Exception as error:  # further out it would be logged with its words, which may quote the call
                log.error("call-back: unforeseen %s", type(error).__name__)
                status = 503
            self._observe(name if name in self._keys else "", status, monotonic() - began)
            return Response(status_code=status, headers={"retry-after": _RETRY_AFTER} if status == 503 else None)

        return application([Route("/deliver/{name}/feedback", endpoint, methods=["POST"])])

    async def _body(self, request: Request) -> bytes | None:
        body = bytearray()
        async for piece in paced(request.stream(), _SLOWEST, _BYTES_PER_SECOND):
            body += piece
            if len(body) > self.settings.body_bytes:
                return None
        return bytes(body)

    async def _call(self, name: str, headers: Mapping[str, str], body: bytes) -> int:
        keys = self._keys.get(name)
        if keys is None:
            return 404
        now = self._now()
        why = verified(keys, headers, body, now=now.timestamp(), tolerance=self.settings.tolerance)
        if why:
            log.warning("call-back of %s refused: %s", name, why)
            return 401
        call_id = headers[ID]
        if before := self._seen.get((name, call_id)):
            if before != content_hash(body):
                log.warning("call-back of %s refused: another answer under a webhook-id that was taken", name)
                return 422
            return 204  # a repetition, or a replay: it was stored, and must not answer an alert anew
        try:
            event = feedback(body, name, call_id, now)
        except ValidationError as error:
            places = ", ".join(".".join(map(str, one["loc"])) or "body" for one in error.errors(include_input=False)[:5])
            log.warning("call-back of %s is no answer: %s", name, places)
            return 422
        try:
            await self._publisher.publish([event], timeout=self.settings.publish_seconds)
        except Transient:
            return 503
        except Poison:
            return 413
        self._seen[name, call_id] = event.origin.digest
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return 204
