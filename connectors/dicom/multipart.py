"""Reads a multipart/related body (RFC 2387) part by part as it arrives, holding one part at a time."""

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from email.message import Message
from typing import Final

_HEADER_BYTES: Final = 16 * 1024  # of one part's headers


class Malformed(ValueError):
    """The body does not keep to the form."""


class TooLong(ValueError):
    """A part is longer than allowed."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its content type in lower case without parameters, and its bytes."""

    media_type: str
    data: bytes


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that a Content-Type header names. Raises `Malformed`."""
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= 200:
        raise Malformed("no boundary")
    return boundary.encode("latin-1", "replace")


async def parts(chunks: AsyncIterable[bytes], boundary: bytes, largest: int) -> AsyncIterator[Part]:
    """Yield the parts. Raises `Malformed` where the body ends early or has no parts' form, `TooLong` beyond `largest` bytes."""
    mark = b"\r\n--" + boundary
    buffer = bytearray(b"\r\n")  # so that the first boundary looks like the others
    begun = ended = False
    searched = 0
    async for chunk in chunks:
        buffer += chunk
        while not ended:
            place = buffer.find(mark, searched)
            if place < 0:
                searched = max(0, len(buffer) - len(mark))
                if len(buffer) > largest + _HEADER_BYTES:
                    raise TooLong
                break
            after = place + len(mark)
            if len(buffer) < after + 2:  # what follows decides whether it was the last one
                searched = place
                break
            if begun:
                yield _part(bytes(buffer[:place]), largest)
            begun = True
            ended = buffer[after : after + 2] == b"--"
            del buffer[:after]
            searched = 0
        if ended:
            buffer.clear()  # an epilogue means nothing
    if not ended:
        raise Malformed("the body ends before its last boundary")


def _part(raw: bytes, largest: int) -> Part:
    """Split a part: the rest of the boundary's line, headers, an empty line, content."""
    line, _, rest = raw.partition(b"\r\n")
    if line.strip():
        raise Malformed("something stands behind a boundary")
    if rest.startswith(b"\r\n"):
        head, content = b"", rest[2:]
    else:
        head, found, content = rest.partition(b"\r\n\r\n")
        if not found or len(head) > _HEADER_BYTES:
            raise Malformed("a part without an end of its headers")
    if len(content) > largest:
        raise TooLong
    kind = ""
    for header in head.split(b"\r\n"):
        name, _, value = header.partition(b":")
        if name.strip().lower() == b"content-type":
            kind = value.decode("latin-1").partition(";")[0].strip().lower()
    return Part(kind, content)
