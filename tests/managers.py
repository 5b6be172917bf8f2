"""Alert Managers for tests: a real MLLP listener in this event loop that says what it is told to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from connectors.hl7.framing import Framer, Oversize, frame
from connectors.hl7.message import Message, parse


@dataclass
class AlertManager:
    """Answers each message with the next of `codes`, then with AA; empty: says nothing."""

    codes: list[str] = field(default_factory=list)
    taken: list[Message] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        framer = Framer(1_000_000)
        while data := await reader.read(65536):
            for raw in framer.feed(data):
                assert not isinstance(raw, Oversize)
                message = parse(raw)
                code = self.codes.pop(0) if self.codes else "CA"
                self.seen.append(code)
                if code in ("AA", "CA"):
                    self.taken.append(message)
                else:
                    self.refused.append(raw.decode())
                if code:
                    answer = f"MSH|^~\\&|M||VIGIL||20260101||ACK^R40^ACK|1|P|2.6\rMSA|{code}|{message.header.raw(10)}\r"
                    writer.write(frame(answer.encode()))
        writer.close()


@contextlib.asynccontextmanager
async def listening(one: AlertManager) -> AsyncIterator[AlertManager]:
    """Let it listen on a port of its own."""
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    yield one
    server.close()
