"""The FHIR R4 endpoint: create, update, delete, batch, transaction, $process-message, and a place for rest-hook subscriptions.

A positive answer only for what Kafka has confirmed. Requests are read within limits of size and speed, published (`publishing`),
and then answered; of those that are too many at once the surplus is asked to come again.

A request is one of `in_flight` from when its body is whole: one that sends slowly takes nobody's turn. What bodies may hold before
that is bounded by the connections (in all and of one address), by their speed, and by `bodies.Room`.

Starlette without FastAPI around it: nothing here is declared by types, and FastAPI's telemetry puts URLs, which may hold record
numbers, into traces.
"""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from time import monotonic
from typing import Self

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from connectors.contexts import Contexts
from connectors.documents import Former
from connectors.fhir import acknowledgement, xml
from connectors.fhir.acknowledgement import (
    MEDIA_TYPE,
    NOT_ALLOWED,
    NOT_FOUND,
    OK,
    TIMED_OUT,
    TOO_LARGE,
    UNAUTHORIZED,
    UNAVAILABLE,
    UNPROCESSABLE,
    UNSUPPORTED_MEDIA_TYPE,
    Answer,
    refusal,
    unconfirmed,
)
from connectors.fhir.bodies import Body, Room
from connectors.fhir.capability import capability_statement
from connectors.fhir.fetching import fetchers
from connectors.fhir.handling import Door, FhirMapper, Outcome
from connectors.fhir.handling import Request as Asked
from connectors.fhir.publishing import Publishing
from connectors.fhir.settings import FhirSettings
from connectors.fhir.subscriptions import Counts, Fetcher, Lost
from connectors.identity import Identities
from connectors.publisher import Publisher, Store
from connectors.serving import HttpServer, application, paced, server_context
from models.errors import Transient, VigilError

log = logging.getLogger(__name__)

_JSON_TYPES = frozenset({"application/fhir+json", "application/json", "text/json", "application/json+fhir"})
_XML_TYPES = frozenset({"application/fhir+xml", "application/xml", "text/xml", "application/xml+fhir"})

Observer = Callable[[str, Outcome, Answer, float], None]  # peer, outcome, the answer that was given, seconds


class _Refusal(Exception):
    """A request that ends before it is mapped."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class FhirServer:
    """The endpoint on this event loop. Use as an async context manager, or `start` and `stop`."""

    def __init__(
        self,
        settings: FhirSettings,
        *,
        publisher: Publisher,
        store: Store,
        identities: Identities,
        now: Callable[[], datetime],
        contexts: Contexts | None = None,
        former: Former | None = None,
        observe: Observer = lambda peer, outcome, answer, seconds: None,
    ) -> None:
        """Prepare; nothing listens yet.

        `store` is where pictures go; `now` gives aware times; `contexts` is what is known of patients, `former` which notes were
        filed before. `observe` is called after each answer that is not a 503.
        """
        self.settings = settings
        self.mapper = FhirMapper(settings, identities, contexts, former)
        self.counts = Counts()
        self._publishing = Publishing(self.mapper, publisher, store, now=now, seconds=settings.confirm_timeout)
        self._now = now
        self._fetchers: Mapping[str, Fetcher] = {}
        self._open = AsyncExitStack()
        self._observe = observe
        self._in_flight = 0
        self._room = Room(settings.buffered_bytes)
        self._tokens = {name: peer.token.get_secret_value() for name, peer in settings.peers.items() if peer.token}
        self._server: HttpServer | None = None
        self.port = settings.port
        self.app = self._app()

    # ------------------------------------------------------------------------------------------------------------ running

    async def start(self) -> tuple[str, int]:
        """Listen, and return the address. Raises `Fatal` when the address cannot be had or the TLS files cannot be used."""
        own = self.settings
        self._fetchers = await self._open.enter_async_context(fetchers(own, self._publishing, self._now))
        self._server = HttpServer(
            self.app,
            host=own.host,
            port=own.port,
            tls=server_context(own.tls.certificate_file, own.tls.key_file, own.tls.ca_file) if own.tls else None,
            connections=own.connections,
            connections_of_one=own.connections_of_one,
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
        await self._open.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # ------------------------------------------------------------------------------------------------------------- routes

    def _app(self) -> Starlette:
        base, hook = self.settings.path, self.settings.hook

        async def metadata(request: Request) -> Response:
            url = str(request.base_url).rstrip("/") + base
            return _response(Answer(OK, capability_statement(url=url, date=self._now(), software_version=_version())), request)

        def door(name: Door) -> Callable[[Request], Awaitable[Response]]:
            async def endpoint(request: Request) -> Response:
                parts = request.path_params
                asked = Asked(name, parts.get("kind", ""), parts.get("id", ""), deletes=request.method == "DELETE")
                try:
                    answer = await self._answer(request, asked)
                except Exception as error:  # further out it would be logged with its words, which may quote the request
                    log.error("FHIR: unforeseen %s while answering", type(error).__name__)
                    answer = unconfirmed(self.settings.retry_after)
                return _response(answer, request)

            return endpoint

        return application(
            [
                Route(f"{base}/metadata", metadata, methods=["GET"]),
                Route(f"{base}/$process-message", door("message"), methods=["POST"]),
                Route(base or "/", door("bundle"), methods=["POST"]),
                Route(f"{base}/{{kind}}", door("create"), methods=["POST"]),
                Route(f"{base}/{{kind}}/{{id}}", door("update"), methods=["PUT", "DELETE"]),
                Route(hook, door("hook"), methods=["POST", "PUT"]),
                Route(f"{hook}/{{kind}}/{{id}}", door("hook"), methods=["PUT", "DELETE"]),
            ],
            exception_handlers={HTTPException: self._no_route},
        )

    async def _no_route(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else UNAVAILABLE
        where = (
            f"the FHIR interface is at {self.settings.path or '/'}, notifications of subscriptions go to {self.settings.hook}"
        )
        words = {NOT_FOUND: f"there is nothing here: {where}", NOT_ALLOWED: "this interaction is not supported"}
        headers = tuple((getattr(error, "headers", None) or {}).items())  # Allow
        return _response(replace(refusal(status, "not-supported", words.get(status, "refused")), headers=headers), request)

    async def _answer(self, request: Request, asked: Asked) -> Answer:
        if self._is_busy():  # before the body is read: whoever comes again need not send it twice
            return self._busy()
        try:
            peer = self._peer(request)
            _check_types(request)
            with self._room.body(request.client.host if request.client else "") as body:
                await self._read(request, body)
                if self._is_busy():
                    return self._busy()
                self._in_flight += 1
                try:
                    return await self._handled(bytes(body.data), peer, asked)
                finally:
                    self._in_flight -= 1
        except _Refusal as error:
            return error.answer

    def _is_busy(self) -> bool:
        return self._in_flight >= self.settings.in_flight

    def _busy(self) -> Answer:
        return refusal(UNAVAILABLE, "throttled", "too many requests at once", retry_after=self.settings.retry_after)

    def _peer(self, request: Request) -> str:
        """Return the name of the peer that a request comes from, by its bearer token."""
        if not self._tokens:
            return next(iter(self.settings.peers))
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        found = ""
        for name, token in self._tokens.items():  # all of them, so that time does not tell which one was nearly right
            if hmac.compare_digest(shown.strip().encode(), token.encode()) and scheme.lower() == "bearer":
                found = name
        if not found:
            raise _Refusal(refusal(UNAUTHORIZED, "login", "a bearer token that is known here is needed"))
        return found

    async def _read(self, request: Request, body: Body) -> None:
        settings = self.settings
        too_long = refusal(TOO_LARGE, "too-long", f"longer than {settings.largest_body} bytes")
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > settings.largest_body:
            raise _Refusal(too_long)
        try:
            async for chunk in paced(request.stream(), settings.body_timeout, settings.body_bytes_per_second):
                has_room = body.add(chunk)
                if len(body.data) > settings.largest_body:
                    raise _Refusal(too_long)
                if not has_room:
                    raise _Refusal(unconfirmed(settings.retry_after))
        except TimeoutError:
            raise _Refusal(refusal(TIMED_OUT, "timeout", "the request was not complete in time")) from None
        except ClientDisconnect:
            raise _Refusal(refusal(TIMED_OUT, "timeout", "the request ended early")) from None

    # ------------------------------------------------------------------------------------------------- taking and fetching

    async def _handled(self, body: bytes, peer: str, asked: Asked) -> Answer:
        started = monotonic()
        if asked.door == "hook" and not asked.deletes and not body.strip():
            return await self._fetched(peer, lambda fetcher: fetcher.latest(peer))
        try:
            outcome = await self._publishing.take(body, peer, asked)
            answer = await self._notified(outcome, peer) if outcome.notification else outcome.answer
        except Transient as error:
            log.warning("FHIR: not confirmed, peer %s (%s)", peer, error)
            return unconfirmed(self.settings.retry_after)
        if outcome.verdict in ("refused", "dead-letter"):
            log.warning("FHIR: %s with %d, peer %s: %s", outcome.verdict, answer.status, peer, outcome.reason)
        self._observe(peer, outcome, answer, monotonic() - started)
        return answer

    async def _notified(self, outcome: Outcome, peer: str) -> Answer:
        """Answer a notification: what it names and does not carry is fetched first, and so is what was lost before it."""
        status, answer = outcome.notification, outcome.answer
        assert status is not None
        if outcome.announced:
            answer = await self._fetched(peer, lambda fetcher: fetcher.resources(peer, outcome.announced))
        own = self._fetchers.get(peer)
        if answer.status == OK and (lost := self.counts.lost(peer, status, own)) is not None:
            self.counts.gaps += 1
            log.warning("FHIR: notifications %s of a subscription of peer %s may be lost", lost, peer)
            if own is not None:  # without one the loss stands in the log and the count: refusing would lose more
                answer = await self._fetched(peer, lambda fetcher: _caught_up(fetcher, peer, status.subscription, lost))
        if answer.status == OK:
            self.counts.confirmed(peer, status, own)
        return answer

    async def _fetched(self, peer: str, work: Callable[[Fetcher], Awaitable[None]]) -> Answer:
        if (fetcher := self._fetchers.get(peer)) is None:
            words = "a notification without the resource announces what nobody here fetches: let it carry the resource"
            return refusal(UNPROCESSABLE, "not-supported", words)
        try:
            async with asyncio.timeout(self.settings.confirm_timeout):
                await work(fetcher)
        except Exception as error:
            words = error.advice if isinstance(error, VigilError) else type(error).__name__
            log.warning("FHIR: fetching what a notification announced failed: %s", words)
            return unconfirmed(self.settings.retry_after)
        return Answer(OK, acknowledgement.operation_outcome(()))


async def _caught_up(fetcher: Fetcher, peer: str, subscription: str, lost: Lost) -> None:
    if lost.first is None or lost.last is None:
        await fetcher.latest(peer)
    else:
        await fetcher.missed(peer, subscription, lost.first, lost.last)


def _wants_xml(request: Request) -> bool:
    """Tell whether to answer in XML: as `Accept` says, else as was sent."""
    accepted = request.headers.get("accept", "").lower()
    if "xml" in accepted or "json" in accepted:
        return "xml" in accepted and "json" not in accepted
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() in _XML_TYPES


def _check_types(request: Request) -> None:
    """Refuse what is neither JSON nor XML by its content type, and what is compressed (a small body may be a huge one)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind not in _JSON_TYPES | _XML_TYPES:
        raise _Refusal(refusal(UNSUPPORTED_MEDIA_TYPE, "not-supported", f"not a content type that is taken; send {MEDIA_TYPE}"))
    if request.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        raise _Refusal(refusal(UNSUPPORTED_MEDIA_TYPE, "not-supported", "compressed bodies are not taken"))


def _response(answer: Answer, request: Request) -> Response:
    headers = dict(answer.headers) | {"Cache-Control": "no-store"}
    if _wants_xml(request):
        return Response(xml.of_json(answer.body), status_code=answer.status, headers=headers, media_type=xml.MEDIA_TYPE)
    return Response(orjson.dumps(answer.body), status_code=answer.status, headers=headers, media_type=MEDIA_TYPE)


def _version() -> str:
    try:
        return version("vigil-stream")
    except PackageNotFoundError:
        return "0"
