r"""The bytes of ED values (encapsulated data, chapter 2A): base64, hexadecimal or plain; what they say: `connectors.texts`.

As senders write OBX-5 (each repetition is a piece):

| OBX-5 | |
|---|---|
| `^application^pdf^Base64^...` | as the standard has it: source application, type, subtype, encoding, data |
| `application^pdf^Base64^...` | without the empty first component: an encoding stands third, and nothing fifth |
| `...` alone | goes on with what began before, else it is base64 of a PDF or RTF, or nothing that says what it is |
| text (TX, FT, ST) that is base64 (a document's first letters, or 60 characters) | what it holds; further such OBX go on with it |
| text that begins as RTF, HTML, CDA or a MIME package | that document (`Lines`); further lines of it go on with it, to its end |

A document may be cut over several OBX or repetitions. Neighbours may be pieces of one where OBX-3, OBX-4, OBX-11, type and encoding
agree, or a later one leaves type and encoding out. Whether they are, the data show, since a second document often has all that in
common too:

| so far | the next piece | |
|---|---|---|
| anything | without type and encoding | goes on |
| ends inside a unit of the encoding (4 characters of base64, 2 of hex) | anything | goes on |
| ends with padding (`=`), or with the end of a PDF, HTML or CDA document | anything | is another document |
| else | begins as one (`%PDF`, `{\rtf`, `<?xml`, `<!doctype`, `<html`, `<ClinicalDocument`, `MIME-Version`) | is another document |
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
from dataclasses import dataclass, field, replace
from typing import Final

from connectors import texts
from connectors.hl7.message import Segment

_UNITS: Final = {"base64": 4, "hex": 2}  # characters that stand for whole bytes
_SEEN: Final = 1368  # characters of a beginning or an end that are looked at: whole units of both encodings
_BEGINNINGS: Final = (b"%pdf", b"{\\rtf", b"<?xml", b"<!doctype", b"<html", b"<clinicaldocument", b"mime-version:")
_ENDS: Final = (b"%%eof", b"</html>", b"</clinicaldocument>")

_ENCODINGS: Final = frozenset({"base64", "hex", "a"})  # table 0299
_BASE64: Final = re.compile(r"[A-Za-z0-9+/][A-Za-z0-9+/\r\n]*={0,2}")
_MAGIC: Final = (  # base64 of `%PDF-`, `{\rt`, `<?xm`, `<ClinicalDocum`, `<htm`, `<HTM`, `<Htm`, `<!DOCT`, `<!doct`, `MIME-Vers`
    "JVBERi0", "e1xydG", "PD94bW", "PENsaW5pY2FsRG9jdW", "PGh0bW", "PEhUTU", "PEh0bW", "PCFET0NU", "PCFkb2N0", "TUlNRS1WZXJz"
)  # fmt: skip
_NO_WORD: Final = 60  # characters of base64 without a blank that are no word of a report

_XML_END: Final = re.compile(r"</(?:\w{1,40}:)?(?:html|clinicaldocument)>\s{0,40}\Z", re.I)
_RTF_ESCAPED: Final = re.compile(r"\\.", re.S)

_STOP: Final = re.compile(rb"(?:[\r\n]|[^0-9][.!?])[ \t]*\Z")  # not the point of a number; a line break there does no harm


Kind = tuple[str, str, str]  # type, subtype, encoding, in lower case


@dataclass(frozen=True, slots=True)
class Piece:
    """What may be a piece of a document. `kind` is empty where it does not say: a later piece need not."""

    obx: Segment
    kind: Kind
    content: str
    bare: bool = False  # a value without components


@dataclass(slots=True)
class _Document:
    """The pieces of one document, in order."""

    pieces: list[Piece] = field(default_factory=list)
    length: int = 0
    begins: bool = False  # as documents of its kind do
    tail: str = ""

    def take(self, piece: Piece, head: bytes) -> None:
        if not self.pieces:
            self.begins = _begins(head)
        self.pieces.append(piece)
        self.length += len(piece.content)
        self.tail = (self.tail + piece.content)[-_SEEN:]


class Lines:
    """A document that stands in text fields as it is, from the OBX that it begins in on."""

    def __init__(self, obx: Segment) -> None:
        self.obx = obx
        self._lines = [obx.whole(5)]
        self._open = _groups(self._lines[0])

    def take(self, obx: Segment) -> bool:
        """Take a line; False where it is none of this document: of another place, beyond its end, or the beginning of another."""
        line = obx.whole(5)
        if self._ended() or not _one_place(self.obx, obx) or texts.begins_document(line):
            return False
        self._lines.append(line)
        self._open += _groups(line)
        return True

    def _ended(self) -> bool:
        if self._lines[0].lstrip("\ufeff \t\n").startswith("{"):
            return self._open <= 0
        return bool(_XML_END.search(self._lines[-1]))

    def whole(self) -> str:
        """Return the document, its lines under each other."""
        return "\n".join(self._lines)


def _groups(rtf: str) -> int:
    """Return how many groups of RTF are opened more than closed."""
    bare = _RTF_ESCAPED.sub("", rtf)
    return bare.count("{") - bare.count("}")


def pieces_of(obx: Segment, before: Sequence[Piece]) -> list[Piece]:
    """Return what of an OBX may be pieces of a document; nothing for plain text. `before`: the pieces of the one that is open."""
    if obx.get(2).upper() == "ED":
        return [_piece(obx, n) for n in range(1, max(1, obx.count(5)) + 1)]
    value = obx.whole(5).strip()
    if not _BASE64.fullmatch(value):
        return []
    content = "".join(value.split())
    goes_on = bool(before) and before[0].bare and _one_place(before[0].obx, obx)
    if is_document(content) or texts.is_base64(value) or (goes_on and (len(content) >= _NO_WORD or _unfinished(before))):
        return [Piece(obx, ("", "", ""), content, bare=True)]
    return []


def _piece(obx: Segment, repetition: int) -> Piece:
    source, *kind, content = (obx.get(5, n, repetition=repetition) for n in range(1, 6))
    if source and not any((*kind, content)):
        return Piece(obx, ("", "", ""), source, bare=True)
    if source and kind[2] and not content and kind[1].lower() in _ENCODINGS:
        source, kind, content = "", [source, kind[0], kind[1]], kind[2]
    return Piece(obx, (kind[0].lower(), kind[1].lower(), kind[2].lower()), content)


def same_run(first: Piece, piece: Piece) -> bool:
    """Whether a piece may go on with the document that the first one began."""
    if not _one_place(first.obx, piece.obx):
        return False
    return not any(piece.kind) or piece.kind == first.kind


def _one_place(first: Segment, obx: Segment) -> bool:
    embedded = first.get(2).upper() == "ED"  # lines of text have numbers of their own in OBX-4
    return all(obx.raw(n) == first.raw(n) for n in ((2, 3, 4, 11) if embedded else (2, 3, 11)))


def texts_of(run: Sequence[Piece], codec: str) -> Iterator[tuple[Segment, str | ValueError]]:
    """Yield the text of each document in pieces that go together by `same_run`, with the OBX that it begins in.

    In place of a text stands the reason, not the content, why there is none.
    """
    first = run[0]
    encoding = first.kind[2]
    if not encoding and (is_document(first.content) or (first.obx.get(2).upper() != "ED" and texts.is_base64(first.content))):
        encoding = "base64"
    elif first.bare:
        for one in run:
            yield one.obx, ValueError("embedded data that says neither its type nor its encoding")
        return
    words = " ".join(first.kind[:2])
    for document in _documents(run, encoding):
        yield from _read(document, encoding, words, codec)


def _read(document: _Document, encoding: str, words: str, codec: str) -> Iterator[tuple[Segment, str | ValueError]]:
    pieces = document.pieces
    try:
        data = _decoded("".join(one.content for one in pieces), encoding)
    except ValueError as error:
        if len(pieces) == 1:
            yield pieces[0].obx, error
        else:
            for piece in pieces:
                alone = _Document()
                alone.take(piece, b"")
                yield from _read(alone, encoding, words, codec)
        return
    try:
        yield pieces[0].obx, texts.text_of(data, words, codec)
    except ValueError as error:
        yield pieces[0].obx, error


def _documents(run: Sequence[Piece], encoding: str) -> Iterator[_Document]:
    unit = _UNITS.get(encoding, 0)
    current = _Document()
    for one in run:
        piece = replace(one, content="".join(one.content.split())) if unit else one
        head = _peek(piece.content[:_SEEN], encoding) if unit else b""
        if current.pieces and not (unit and _goes_on(current, piece, head, encoding)):
            yield current
            current = _Document()
        current.take(piece, head)
    yield current


def _goes_on(current: _Document, piece: Piece, head: bytes, encoding: str) -> bool:
    unit = _UNITS[encoding]
    if not (any(piece.kind) or is_document(piece.content)) or current.length % unit:
        return True
    tail = _peek(current.tail[-(len(current.tail) // unit * unit) :], encoding)
    if current.tail.endswith("=") or tail.lower().rstrip(b"\x00 \t\r\n").endswith(_ENDS) or _begins(head):
        return False
    if current.begins or len(piece.content) % unit:
        return True
    return not _STOP.search(tail) and (bool(piece.obx.get(4)) or _inside_a_character(tail, head))


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


def is_document(content: str) -> bool:
    """Whether base64 that nobody declared is a document's: by its first letters, which no word of a report begins with."""
    return content.startswith(_MAGIC) and bool(_BASE64.fullmatch(content))


def _unfinished(run: Sequence[Piece]) -> bool:
    """Whether the base64 so far ends before its document does."""
    last = run[-1].content
    if sum(len(one.content) for one in run) % _UNITS["base64"]:
        return True
    tail = _peek(last[len(last) % _UNITS["base64"] :][-_SEEN:], "base64")
    return not last.endswith("=") and not tail.lower().rstrip().endswith((b"%%eof", b"}"))


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
