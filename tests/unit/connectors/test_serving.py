"""The HTTP server of the connectors: what an open port needs besides limits."""

import asyncio
import socket
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connectors.serving import HttpServer, application, paced


async def test_an_answers_body_does_not_wait_behind_its_head() -> None:
    """TCP_NODELAY on accepted sockets: without it each answer took 40 ms more than its work, on every keep-alive connection."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    server = HttpServer(app, host="127.0.0.1", port=0, tls=None, connections=4, header_timeout=5, idle_timeout=5)
    address = await server.start()
    try:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        accepted = [one.transport.get_extra_info("socket") for one in server._server.server_state.connections]
        assert [one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0 for one in accepted] == [True]
        writer.close()
    finally:
        await server.stop()


async def test_a_pace_counts_the_senders_time_alone() -> None:
    async def sender(*pauses: float) -> Any:
        for pause in pauses:
            await asyncio.sleep(pause)
            yield b"12345"

    async def taken(body: Any, busy: float = 0.0) -> int:
        size = 0
        async for chunk in paced(body, 0.5, 10):  # 5 bytes in half a second
            size += len(chunk)
            await asyncio.sleep(busy)
        return size

    assert await taken(sender(0.1, 0.1, 0.1), busy=0.4) == 15
    assert await taken(sender()) == 0
    with pytest.raises(TimeoutError):
        await taken(sender(0, 0, 0, 5))


@pytest.mark.parametrize(
    ("path", "status"), [("/a", 204), ("/a/", 204), ("/a/7", 204), ("/a/7/", 204), ("/b/", 404), ("/", 404)]
)
async def test_a_slash_at_the_end_is_nothing_and_never_redirected(path: str, status: int) -> None:
    """A redirect names this server's own scheme: behind a proxy that ends TLS the body would go on in plain HTTP."""

    async def taken(request: Request) -> Response:
        return Response(status_code=204)

    app = application([Route("/a", taken, methods=["POST"]), Route("/a/{id}", taken, methods=["POST"])])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
        answer = await client.post(path)
        assert (answer.status_code, answer.headers.get("location")) == (status, None)
        assert (await client.put("/a/")).status_code == 405
