"""uvicorn inside our own event loop, with the limits that an open port needs (read in 0.54; each hole named where it is closed)."""

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from connectors.fhir.settings import FhirSettings, FhirTls

_HEADER_BYTES = 64 * 1024  # of one request's line and headers; tokens and proxies' additions stay far below


class BoundedProtocol(H11Protocol):
    """Closes what does not finish its headers in time, and what is one connection too many.

    uvicorn's own limits are its keep-alive time-out, which starts with the first answer, and a count of requests.
    """

    header_timeout = 10.0
    most_connections = 2048
    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.abort()
        else:
            self._start()

    def data_received(self, data: bytes) -> None:
        """Stop the clock when a request's headers are complete; start it when the next request begins."""
        if self._clock is None and self._idle:
            self._start()
        super().data_received(data)
        if not self._idle:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the clock."""
        self._stop()
        super().connection_lost(exc)

    @property
    def _idle(self) -> bool:
        cycle: Any = self.cycle  # None before the first request, whatever its annotation says
        return cycle is None or bool(cycle.response_complete)

    def _start(self) -> None:
        self._clock = self.loop.call_later(self.header_timeout, self._expired)

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _expired(self) -> None:
        self._clock = None
        if self._idle and not self.transport.is_closing():
            self.transport.abort()


class QuietServer(uvicorn.Server):
    """Leaves signals to the process: it is one part of it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield


def server_of(app: Any, settings: FhirSettings) -> QuietServer:
    """Return the configured server of an ASGI app."""
    protocol = type(
        "Protocol",
        (BoundedProtocol,),
        {"header_timeout": settings.header_timeout, "most_connections": settings.connections},
    )
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,  # a URL may hold a record number
        server_header=False,
        timeout_keep_alive=int(settings.idle_timeout),
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        proxy_headers=False,
    )
    if settings.tls:
        config.load()
        config.ssl = server_context(settings.tls)
    return QuietServer(config)


def server_context(tls: FhirTls) -> ssl.SSLContext:
    """Return the TLS context: TLS 1.2 or newer (BCP 195), client certificates where authorities are given."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate_file, tls.key_file)
    if tls.ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
