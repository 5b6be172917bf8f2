"""A small MLLP sender, for the demo, the tests and site checks: sends, waits for the answer, sends again until it is stored.

`python -m connectors.hl7.sender localhost:2575 [FILE ...]` sends what the files (else standard input) hold and prints each answer.
"""

import argparse
import asyncio
import random
import re
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from connectors.hl7.errors import Unreadable
from connectors.hl7.framing import Framer, Oversize, frame
from connectors.hl7.message import parse
from models.errors import Permanent, Transient

ANSWER_BYTES: Final = 1024 * 1024
POSITIVE: Final = frozenset({"AA", "CA"})
RESENT: Final = frozenset({"AE", "AR", "CE"})  # a refusal in enhanced mode (CR) is final


@dataclass(frozen=True, slots=True)
class Ack:
    """An answer: MSA-1, MSA-2, MSA-3 and how many times the message was sent for it."""

    code: str
    control_id: str
    text: str = ""
    attempts: int = 1

    @property
    def stored(self) -> bool:
        """The receiver has taken over responsibility."""
        return self.code in POSITIVE


def read_ack(raw: bytes) -> Ack | None:
    """Read an answer; None for what is none."""
    try:
        msa = parse(raw).first("MSA")
    except Unreadable:
        return None
    return Ack(msa.get(1).upper(), msa.get(2), msa.get(3)) if msa else None


class MllpSender:
    """Sends one message at a time over one connection, which it opens when needed and again when it is lost.

    `timeout`: seconds to wait for an answer. `attempts`: how often a message is sent before giving up (None: for ever), with a
    pause that doubles from `pause` to `longest_pause` seconds, with jitter. A negative answer or silence is a reason to send again.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        timeout: float = 30.0,
        attempts: int | None = None,
        pause: float = 0.1,
        longest_pause: float = 10.0,
        tls: ssl.SSLContext | None = None,
        jitter: random.Random | None = None,
    ) -> None:
        self._address = (host, port)
        self._timeout = timeout
        self._attempts = attempts
        self._pauses = (pause, longest_pause)
        self._tls = tls
        self._jitter = jitter or random.Random()
        self._lock = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._framer = Framer(ANSWER_BYTES)
        self._answers: list[Ack] = []

    async def __aenter__(self) -> "MllpSender":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def send(self, message: bytes | str) -> Ack:
        """Send until the message is stored. Returns the answer.

        Raises `Permanent` for a final refusal (CR), `Transient` when the attempts are used up.
        """
        raw = message.encode() if isinstance(message, str) else message
        control_id = parse(raw).header.get(10)
        async with self._lock:
            attempt = 0
            while True:
                attempt += 1
                ack = await self._once(raw, control_id)
                if ack and ack.stored:
                    return Ack(ack.code, ack.control_id, ack.text, attempt)
                if ack and ack.code not in RESENT:
                    raise Permanent(f"the receiver refused the message for good: {ack.code}")
                if self._attempts is not None and attempt >= self._attempts:
                    raise Transient(f"not stored after {attempt} attempts: {ack.code if ack else 'no answer'}")
                await asyncio.sleep(self._pause(attempt))

    async def once(self, message: bytes) -> Ack | None:
        """Send once. Returns the answer, whatever it is; None for silence, a lost connection or no connection."""
        control_id = parse(message).header.get(10)
        async with self._lock:
            return await self._once(message, control_id)

    async def close(self) -> None:
        """Close the connection."""
        streams, self._streams = self._streams, None
        self._framer = Framer(ANSWER_BYTES)
        self._answers.clear()
        if streams:
            streams[1].close()
            try:
                await streams[1].wait_closed()
            except (OSError, ssl.SSLError):
                pass

    def _pause(self, attempt: int) -> float:
        first, longest = self._pauses
        return min(longest, first * 2.0 ** min(attempt - 1, 30)) * self._jitter.uniform(0.5, 1.0)

    async def _once(self, raw: bytes, control_id: str) -> Ack | None:
        """Send once. Returns the answer, None for silence, a lost connection or no connection."""
        try:
            async with asyncio.timeout(self._timeout):
                reader, writer = await self._connect()
                writer.write(frame(raw))
                await writer.drain()
                return await self._answer(reader, control_id)
        except (OSError, ssl.SSLError, TimeoutError, EOFError):
            await self.close()
            return None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            host, port = self._address
            self._streams = await asyncio.open_connection(host, port, ssl=self._tls)
        return self._streams

    async def _answer(self, reader: asyncio.StreamReader, control_id: str) -> Ack:
        """Wait for the answer to this message; application acknowledgements of earlier ones pass by."""
        while True:
            while self._answers:
                ack = self._answers.pop(0)
                if ack.control_id == control_id:
                    return ack
            data = await reader.read(65536)
            if not data:
                raise EOFError
            for one in self._framer.feed(data):
                if not isinstance(one, Oversize) and (found := read_ack(one)):
                    self._answers.append(found)


def messages(text: bytes) -> list[bytes]:
    """Return the messages of a file as people keep them: a segment a line, however lines end, MLLP framed or not."""
    lines = [line for line in re.split(rb"[\r\n\x0b\x1c]+", text) if line.strip()]
    starts = [n for n, line in enumerate(lines) if line.startswith(b"MSH")]
    return [b"\r".join(lines[begin:end]) + b"\r" for begin, end in pairwise([*starts, len(lines)])]


async def _send(host: str, port: int, found: Sequence[bytes]) -> bool:
    stored = True
    sender = MllpSender(host, port)
    try:
        for message in found:
            ack = await sender.once(message)
            stored &= ack is not None and ack.stored
            print(f"{ack.code} {ack.control_id} {ack.text}".rstrip() if ack else "no answer")  # noqa: T201 - a command
    finally:
        await sender.close()
    return stored


def main(arguments: Sequence[str] | None = None) -> int:
    """Send messages; 0 when every one was stored."""
    parser = argparse.ArgumentParser(prog="python -m connectors.hl7.sender", description="Send HL7 v2 messages over MLLP.")
    parser.add_argument("address", help="host:port of the MLLP server")
    parser.add_argument("files", nargs="*", type=Path, help="files with messages; none: standard input")
    given = parser.parse_args(arguments)
    host, _, port = given.address.rpartition(":")
    if not host or not port.isdecimal():
        parser.error(f"{given.address!r} is no host:port")
    try:
        texts = [file.read_bytes() for file in given.files] or [sys.stdin.buffer.read()]
        found = [message for text in texts for message in messages(text)]
        if not found:
            parser.error("no messages: each begins with MSH")
        return 0 if asyncio.run(_send(host, int(port), found)) else 1
    except (OSError, Unreadable) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201 - a command
        return 1


if __name__ == "__main__":
    sys.exit(main())
