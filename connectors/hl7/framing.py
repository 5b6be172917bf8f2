"""MLLP framing: 0x0B, the message, 0x1C 0x0D (HL7 v2 transport specification, MLLP release 1).

`Framer` is a push parser without sockets or clock: bytes in, frames out, bounded memory whatever comes in. What real senders
do and what becomes of it:

| on the wire                                         | here |
|-----------------------------------------------------|------|
| many frames in one TCP segment, one over many       | as if each had come alone |
| bytes between frames                                | dropped and counted in `garbage` (CR, LF and NUL are not even counted) |
| 0x1C without the 0x0D                               | ends the frame before 0x0B or LF, or in silence (`end_of_silence`) |
| 0x1C inside a message, followed by anything else    | part of the message |
| 0x0B inside a message (pasted text has it)          | part of the message, unless `MSH`, `FHS` or `BHS` follow: then a new frame |
| a frame that never ended before the next began      | dropped, counted in `broken`; the sender had no answer and sends again |
| a frame above the size limit                        | `Oversize` with its head, for an answer; the rest is dropped |
"""

from dataclasses import dataclass
from typing import Final

START: Final = b"\x0b"
END: Final = b"\x1c"
CR: Final = b"\r"
HEAD_BYTES: Final = 2048  # of an oversized message: enough for any MSH, so that the refusal can name it
_OPENERS: Final = (b"MSH", b"FHS", b"BHS", b"\xef\xbb\xbf")  # what a frame begins with; the last is a UTF-8 byte order mark
_QUIET: Final = b"\r\n\x00"


def frame(message: bytes) -> bytes:
    """Wrap a message for the wire."""
    return START + message + END + CR


@dataclass(frozen=True, slots=True)
class Oversize:
    """A message above the limit: how it began (at most `HEAD_BYTES`). Its content was not kept."""

    head: bytes


class Framer:
    """Cuts a stream of bytes into messages. One per connection.

    `buffered` is what is held for the frame being read, in bytes: never above `limit` plus one read.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._head = min(HEAD_BYTES, limit)  # what is kept of a message above the limit, however it was cut
        self._buffer = bytearray()
        self._inside = False
        self._dropping = False  # inside a frame that is too large
        self._scanned = 0  # up to here the buffer holds no end, so that a slow large frame is not searched again from its start
        self.garbage = 0  # bytes outside of frames
        self.broken = 0  # frames that never ended

    @property
    def inside(self) -> bool:
        """A frame has begun and not ended: its sender owes us the rest soon."""
        return self._inside

    @property
    def ending(self) -> bool:
        """The last byte was 0x1C: whether the frame ends there shows in the next byte, or in silence."""
        return self._inside and self._buffer.endswith(END)

    @property
    def buffered(self) -> int:
        """Bytes held."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes | Oversize]:
        """Take what came in; return the messages that it completes, in order."""
        self._buffer += data
        found: list[bytes | Oversize] = []
        while self._buffer:
            if not self._inside and not self._find_start():
                break
            complete = self._find_end()
            if complete is None:
                break
            found.extend(complete)
        return found

    def end_of_silence(self) -> list[bytes | Oversize]:
        """Nothing followed a 0x1C: its sender leaves out the 0x0D and waits for an answer. Return the message."""
        return self._finish(len(self._buffer) - 1, len(self._buffer)) if self.ending else []

    def close(self) -> None:
        """The connection ended: a half frame is broken."""
        self.broken += self._inside
        self._reset()

    def _reset(self) -> None:
        self._buffer.clear()
        self._inside = self._dropping = False
        self._scanned = 0

    def _find_start(self) -> bool:
        start = self._buffer.find(START)
        outside = bytes(self._buffer if start < 0 else self._buffer[:start])
        self.garbage += len(outside.translate(None, _QUIET))
        if start < 0:
            self._buffer.clear()
            return False
        del self._buffer[: start + 1]
        self._inside, self._scanned = True, 0
        return True

    def _find_end(self) -> list[bytes | Oversize] | None:
        """Return the message at the head of the buffer, nothing when it was broken off, or None when more must come."""
        position = self._next_mark(self._scanned)
        while position is not None:
            follower = bytes(self._buffer[position + 1 : position + 2])
            if self._buffer[position] == END[0]:
                if not follower:
                    self._bound(position)
                    return None
                if follower in (CR, b"\n", START):
                    return self._finish(position, position + (1 if follower == START else 2))
            else:  # a start mark inside a frame
                opener = bytes(self._buffer[position + 1 : position + 4])
                if len(opener) < 3 and any(full.startswith(opener) for full in _OPENERS):
                    self._bound(position)
                    return None
                if opener in _OPENERS:
                    self.broken += 1
                    self._dropping = False
                    del self._buffer[: position + 1]
                    self._scanned = 0
                    return []
            position = self._next_mark(position + 1)
        self._bound(len(self._buffer))
        return None

    def _next_mark(self, position: int) -> int | None:
        ends, starts = self._buffer.find(END, position), self._buffer.find(START, position)
        if ends < 0 or starts < 0:
            return max(ends, starts) if max(ends, starts) >= 0 else None
        return min(ends, starts)

    def _finish(self, length: int, consumed: int) -> list[bytes | Oversize]:
        too_large = self._dropping or length > self._limit
        content = bytes(self._buffer[: min(length, self._head) if too_large else length])
        del self._buffer[:consumed]
        self._inside = self._dropping = False
        self._scanned = 0
        return [Oversize(content)] if too_large else [content]

    def _bound(self, searched: int) -> None:
        """Search on from there. Of a frame that is too large keep the head, and the mark behind which more must come."""
        if searched > self._limit or self._dropping:
            self._dropping = True
            del self._buffer[self._head : searched]
            searched = min(self._head, searched)
        self._scanned = searched
