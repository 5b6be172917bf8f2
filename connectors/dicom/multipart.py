"""Reads a multipart/related body (RFC 2387) part by part as it arrives, holding one part at a time."""

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from email.message import Message
from typing import Final, Literal

_HEADER_BYTES: Final = 16 * 1024  # of one part's headers; and what is kept of a part that is too long, to tell which it was


class Malformed(ValueError):
    """The body does not keep to the form."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its content type in lower case without parameters, and its bytes.

    `flaw`: "long" for one above the limit, of which `data` is the beginning; "form" for one without an end of its headers.
    """

    media_type: str
    data: bytes
    flaw: Literal["", "long", "form"] = ""


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that a Content-Type header names. Raises `Malformed`."""
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= 200:
        raise Malformed("no boundary")
    return boundary.encode("latin-1", "replace")


async def parts(chunks: AsyncIterable[bytes], boundary: bytes, largest: int) -> AsyncIterator[Part]:
    """Yield the parts, also those with a flaw (such as more than `largest` bytes, which are passed over): others may follow.

    Raises `Malformed` where the body ends before its last boundary.
    """
    mark = b"\r\n--" + boundary
    buffer = bytearray(b"\r\n")  # so that the first boundary looks like the others
    begun = ended = False
    beginning: bytes | None = None  # of a part that is too long
    searched = 0
    async for chunk in chunks:
        buffer += chunk
        while not ended:
            place = buffer.find(mark, searched)
            if place < 0:
                searched = max(0, len(buffer) - len(mark))
                if beginning is not None or len(buffer) > largest + _HEADER_BYTES:
                    beginning = bytes(buffer[: 2 * _HEADER_BYTES]) if beginning is None else beginning
                    del buffer[: -len(mark)]
                    searched = 0
                break
            after = place + len(mark)
            if len(buffer) < after + 2:  # what follows decides whether it was the last one
                searched = place
                break
            if begun:
                yield _part(bytes(buffer[:place]) if beginning is None else beginning, largest, whole=beginning is None)
            begun, beginning = True, None
            ended = buffer[after : after + 2] == b"--"
            del buffer[:after]
            searched = 0
        if ended:
            buffer.clear()  # an epilogue means nothing
    if not ended:
        raise Malformed("the body ends before its last boundary")


def _part(raw: bytes, largest: int, *, whole: bool) -> Part:
    """Split a part: the rest of the boundary's line, headers, an empty line, content. `whole`: else it is the beginning of one."""
    line, _, rest = raw.partition(b"\r\n")
    if line.strip():  # something stands behind a boundary
        return Part("", b"", "form")
    if rest.startswith(b"\r\n"):
        head, content = b"", rest[2:]
    else:
        head, found, content = rest.partition(b"\r\n\r\n")
        if not found or len(head) > _HEADER_BYTES:
            return Part("", b"", "form")
    kind = ""
    for header in head.split(b"\r\n"):
        name, _, value = header.partition(b":")
        if name.strip().lower() == b"content-type":
            kind = value.decode("latin-1").partition(";")[0].strip().lower()
    if not whole or len(content) > largest:
        return Part(kind, content[:_HEADER_BYTES], "long")
    return Part(kind, content)
