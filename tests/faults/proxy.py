"""A TCP proxy between the workers and the broker: it cuts, blocks and slows what passes, and knows nothing of Kafka."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any

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
        assert task is not None
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
