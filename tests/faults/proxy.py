"""Proxies of the tests: one that cuts, blocks and slows what passes and knows no protocol; one before Qdrant that refuses."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any

import httpx

PIECE = 64 * 1024


class Proxy:
    """Listens on one port of 127.0.0.1 and passes on to another, from a thread of its own. Use as a context manager."""

    def __init__(self, listen: int, target: int) -> None:
        self.port, self._target = listen, target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._pipes: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._open = asyncio.Event()  # clear: nothing passes, and connections stay as they are
        self._delay = 0.0
        self._rate = 0.0

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(self, *exc: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def block(self) -> None:
        """Let nothing through and close nothing, as a cut cable does."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def heal(self) -> None:
        """Let everything through again at full speed."""
        self.slow(0.0, 0.0)
        self._loop.call_soon_threadsafe(self._open.set)

    def slow(self, delay: float, rate: float) -> None:
        """Hold each piece for `delay` seconds and pass at most `rate` bytes a second of each direction of a connection."""
        self._delay, self._rate = delay, rate

    def reset(self) -> None:
        """Break all connections; new ones are taken."""
        self._do(self._cut())

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _start(self) -> None:
        self._open.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _end(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._cut()

    async def _cut(self) -> None:
        pipes = list(self._pipes)
        for pipe in pipes:
            pipe.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # for the type checker: this is a coroutine, so a task runs it
        self._pipes.add(task)
        there: asyncio.StreamWriter | None = None
        try:
            back, there = await asyncio.open_connection("127.0.0.1", self._target)
            ways = [asyncio.ensure_future(self._pass(reader, there)), asyncio.ensure_future(self._pass(back, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the connection is over, whichever side ended it
        finally:
            self._pipes.discard(task)
            for end in filter(None, (writer, there)):
                with contextlib.suppress(OSError):
                    end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(PIECE):
            await self._open.wait()
            if self._delay or self._rate:
                await asyncio.sleep(self._delay + (len(piece) / self._rate if self._rate else 0.0))
            writer.write(piece)
            await writer.drain()


class Refuser(Proxy):
    """Speaks HTTP before Qdrant. While `refusing`, every other write gets a 503: of those, each second one was carried out."""

    def __init__(self, listen: int, target: int) -> None:
        super().__init__(listen, target)
        self.refusing = False
        self.refused = 0
        self._writes = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # for the type checker: this is a coroutine, so a task runs it
        self._pipes.add(task)
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self._target}", timeout=30.0) as client:
                while head := await _head(reader):
                    method, path, kept, length = head
                    body = await reader.readexactly(length)
                    status, content = await self._answer(client, method, path, kept, body)
                    told = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
                    writer.write(told.encode() + content)
                    await writer.drain()
        except (OSError, httpx.HTTPError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the connection is over, whichever side ended it
        finally:
            self._pipes.discard(task)
            writer.transport.abort()

    async def _answer(
        self, client: httpx.AsyncClient, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes]:
        write = method == "PUT" or (method == "POST" and path.partition("?")[0].endswith(("/points/batch", "/points/delete")))
        turn = 0
        if self.refusing and write and "/points" in path:
            self._writes += 1
            turn = self._writes % 4
        if turn != 1:
            found = await client.request(method, path, content=body, headers=headers)
            if turn != 3:
                return found.status_code, found.content
        self.refused += 1
        return 503, b'{"status":{"error":"refused by the test"}}'


async def _head(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], int] | None:
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, path, _ = lines[0].split(" ", 2)
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    kept: dict[str, str] = {name: fields[name] for name in ("content-type", "api-key") if name in fields}
    return method, path, kept, int(fields.get("content-length", "0"))
