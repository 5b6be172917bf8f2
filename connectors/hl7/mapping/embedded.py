r"""The bytes of ED values (encapsulated data, chapter 2A): base64, hexadecimal or plain; what they say: `connectors.texts`.

A document may be cut over several OBX. Neighbours may be pieces of one where OBX-3, OBX-4, OBX-11, type and encoding agree, or a
later one leaves type and encoding out. Whether they are, the data show, since a second document often has all that in common too:

| so far | the next piece | |
|---|---|---|
| anything | without type and encoding | goes on |
| ends inside a unit of the encoding (4 characters of base64, 2 of hex) | anything | goes on |
| ends with padding (`=`), or with the end of a PDF, HTML or CDA document | anything | is another document |
| else | begins as one (`%PDF`, `{\rtf`, `<?xml`, `<!doctype`, `<html`, `<ClinicalDocument`) | is another document |
| began as one | does not | goes on |
| text, which has no such beginning | ends inside a unit | goes on |
| text that ends a line or a sentence | is whole | is another document |
| text | with a number in OBX-4, or so that a UTF-8 character was cut | goes on |
| text | without a number in OBX-4 | is another document |

Pieces are joined before they are decoded, with nothing between them. What cannot be decoded joined is decoded piece by piece.
Documents of one note stand under each other.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from connectors import texts
from connectors.hl7.message import Segment

_UNITS: Final = {"base64": 4, "hex": 2}  # characters that stand for whole bytes
_SEEN: Final = 1368  # characters of a beginning or an end that are looked at: whole units of both encodings
_BEGINNINGS: Final = (b"%pdf", b"{\\rtf", b"<?xml", b"<!doctype", b"<html", b"<clinicaldocument")
_ENDS: Final = (b"%%eof", b"</html>", b"</clinicaldocument>")

_STOP: Final = re.compile(rb"(?:[\r\n]|[^0-9][.!?])[ \t]*\Z")  # not the point of a number; a line break there does no harm


@dataclass(slots=True)
class _Document:
    """The pieces of one document, in order."""

    pieces: list[Segment] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)
    length: int = 0
    begins: bool = False  # as documents of its kind do
    tail: str = ""

    def take(self, obx: Segment, content: str, head: bytes) -> None:
        if not self.pieces:
            self.begins = _begins(head)
        self.pieces.append(obx)
        self.contents.append(content)
        self.length += len(content)
        self.tail = (self.tail + content)[-_SEEN:]


def same_run(first: Segment, obx: Segment) -> bool:
    """Whether an OBX may hold a further piece of what an ED value before it began."""
    if obx.get(2).upper() != "ED" or any(obx.raw(n) != first.raw(n) for n in (3, 4, 11)):
        return False
    return not any(_kind(obx)) or _kind(obx) == _kind(first)


def texts_of(run: Sequence[Segment], codec: str) -> Iterator[tuple[Segment, str | ValueError]]:
    """Yield the text of each document in OBX that go together by `same_run`, with the OBX that it begins in.

    In place of a text stands the reason, not the content, why there is none.
    """
    encoding = _encoding(run[0])
    words = " ".join(run[0].get(5, n) for n in (2, 3))
    for document in _documents(run, encoding):
        yield from _read(document, encoding, words, codec)


def _read(document: _Document, encoding: str, words: str, codec: str) -> Iterator[tuple[Segment, str | ValueError]]:
    pieces = document.pieces
    try:
        data = _decoded("".join(document.contents), encoding)
    except ValueError as error:
        if len(pieces) == 1:
            yield pieces[0], error
        else:
            for obx, content in zip(pieces, document.contents, strict=True):
                alone = _Document()
                alone.take(obx, content, b"")
                yield from _read(alone, encoding, words, codec)
        return
    try:
        yield pieces[0], texts.text_of(data, words, codec)
    except ValueError as error:
        yield pieces[0], error


def _documents(run: Sequence[Segment], encoding: str) -> Iterator[_Document]:
    unit = _UNITS.get(encoding, 0)
    current = _Document()
    for obx in run:
        content = obx.get(5, 5)
        if unit:
            content = "".join(content.split())
        head = _peek(content[:_SEEN], encoding) if unit else b""
        if current.pieces and not (unit and _goes_on(current, obx, content, head, encoding)):
            yield current
            current = _Document()
        current.take(obx, content, head)
    yield current


def _goes_on(current: _Document, obx: Segment, content: str, head: bytes, encoding: str) -> bool:
    unit = _UNITS[encoding]
    if not any(_kind(obx)) or current.length % unit:
        return True
    tail = _peek(current.tail[-(len(current.tail) // unit * unit) :], encoding)
    if current.tail.endswith("=") or tail.lower().rstrip(b"\x00 \t\r\n").endswith(_ENDS) or _begins(head):
        return False
    if current.begins or len(content) % unit:
        return True
    return not _STOP.search(tail) and (bool(obx.get(4)) or _inside_a_character(tail, head))


def _begins(head: bytes) -> bool:
    start = head.lower().lstrip(b"\xef\xbb\xbf\x00 \t\r\n")
    return start.startswith(_BEGINNINGS) or b"%PDF-" in head


def _inside_a_character(tail: bytes, head: bytes) -> bool:
    """Whether UTF-8 is cut between its bytes: both sides must look like it, or it is the last letter of another encoding."""
    try:
        tail[-3:].lstrip(bytes(range(0x80, 0xC0))).decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data" and 0x80 <= head[0] < 0xC0 if head else False
    return False


def _kind(obx: Segment) -> tuple[str, str, str]:
    return obx.get(5, 2).lower(), obx.get(5, 3).lower(), obx.get(5, 4).lower()


def _encoding(obx: Segment) -> str:
    return obx.get(5, 4).lower()


def _peek(content: str, encoding: str) -> bytes:
    """Decode a beginning or an end, as far as it can be; nothing where it cannot."""
    unit = _UNITS[encoding]
    try:
        return _decoded(content[: len(content) // unit * unit], encoding)
    except ValueError:
        return b""


def _decoded(content: str, encoding: str) -> bytes:
    if not content:
        raise ValueError("embedded data is empty")
    try:
        if encoding == "base64":
            return b64decode("".join(content.split()), validate=True)
        if encoding == "hex":
            return bytes.fromhex(content)
    except (binascii.Error, ValueError):
        raise ValueError(f"embedded data is not {encoding}") from None
    if encoding in ("a", ""):
        return content.encode()
    raise ValueError("embedded data in an unknown encoding")
