"""HTTP for the connectors: uvicorn inside our own event loop, with the limits that an open port needs.

Read in uvicorn 0.54; each hole is named where it is closed.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from models.errors import Fatal

_HEADER_BYTES = 64 * 1024  # of one request's line and headers; tokens and proxies' additions stay far below


def application(routes: Sequence[Route], **more: Any) -> Starlette:
    """Return the application of some routes, to which a slash at the end of a path is nothing.

    Starlette would answer it with a redirect, whose Location is absolute: behind a proxy that ends TLS a client that follows it
    sends the patient's data on in plain HTTP.
    """
    slashed = [Route(f"{one.path}/", one.endpoint, methods=one.methods) for one in routes if not one.path.endswith("/")]
    made = Starlette(routes=[*routes, *slashed], **more)
    made.router.redirect_slashes = False
    return made


class BoundedProtocol(H11Protocol):
    """Closes what does not finish its headers in time, and what is one connection too many.

    uvicorn's own limits are its keep-alive time-out, which starts with the first answer, and a count of requests.
    """

    header_timeout = 10.0
    most_connections = 2048
    most_of_one = 2048  # address
    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections or self._of_one > self.most_of_one:
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
    def _of_one(self) -> int:
        """The connections from this one's address."""
        own = self._address
        return sum(isinstance(one, BoundedProtocol) and one._address == own for one in self.connections)

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

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


class HttpServer:
    """An ASGI app on this event loop, with limits. `start` and `stop`; the address is known once it has started."""

    def __init__(
        self,
        app: Any,
        *,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        connections: int,
        connections_of_one: int | None = None,
        header_timeout: float,
        idle_timeout: float,
    ) -> None:
        """`port` 0: any free one; times in seconds; `connections_of_one`: of one address, else as many as in all."""
        self.host, self.port = host, port
        limits = {
            "header_timeout": header_timeout,
            "most_connections": connections,
            "most_of_one": connections if connections_of_one is None else connections_of_one,
        }
        protocol = type("Protocol", (BoundedProtocol,), limits)
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,  # a URL may hold a record number
            server_header=False,
            timeout_keep_alive=int(idle_timeout),
            timeout_graceful_shutdown=5,
            h11_max_incomplete_event_size=_HEADER_BYTES,
            proxy_headers=False,
        )
        config.load()
        config.ssl = tls
        self._server = QuietServer(config)
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> tuple[str, int]:
        """Listen, and return the address. Raises `Fatal` when it cannot be had."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        # The protocol is named, since asyncio sets TCP_NODELAY only where it is: without, an answer's body waits 40 ms behind its
        # head (Nagle's algorithm against the sender's delayed acknowledgement).
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((self.host, self.port))
        except OSError as error:
            listening.close()
            raise Fatal(f"HTTP cannot listen on {self.host}:{self.port}: {error}") from error
        self.port = int(listening.getsockname()[1])
        self._running = asyncio.create_task(self._server.serve(sockets=[listening]))
        while not self._server.started and not self._running.done():  # noqa: ASYNC110  uvicorn offers no event
            await asyncio.sleep(0.005)
        if self._running.done():
            await self._running
        return self.host, self.port

    async def stop(self) -> None:
        """Accept no more; requests under way are answered first, for a few seconds."""
        if self._running is not None:
            self._server.should_exit = True
            await self._running
            self._running = None


async def paced(body: AsyncIterable[bytes], seconds: float, bytes_per_second: float) -> AsyncIterator[bytes]:
    """Yield a body's chunks. Raises `TimeoutError` where it is too slow.

    Within each `seconds` of waiting it must end, or bring what the rate makes of them: a fast start is no credit for a slow end.
    Only time that is waited for the sender counts.
    """
    loop, chunks = asyncio.get_running_loop(), aiter(body)
    left, due = seconds, seconds * bytes_per_second
    while True:
        since = loop.time()
        try:
            async with asyncio.timeout(left):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        left, due = left - (loop.time() - since), due - len(chunk)
        if due <= 0:
            left, due = seconds, seconds * bytes_per_second
        yield chunk


def server_context(certificate_file: Path, key_file: Path, ca_file: Path | None) -> ssl.SSLContext:
    """Return a TLS context: TLS 1.2 or newer (BCP 195), client certificates where authorities are given.

    Raises `Fatal` when the files cannot be used.
    """
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(certificate_file, key_file)
    except (OSError, ValueError) as error:
        raise Fatal(f"the TLS files cannot be used: {error}") from error
    if ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
